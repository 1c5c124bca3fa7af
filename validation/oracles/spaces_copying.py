"""Record the copy labels and the decoding steps of SPACES: its own functions, unedited, on random tokens and scores.

    python -m pip install -r validation/oracles/requirements-attention.txt
    git clone https://github.com/bojone/SPACES && git -C SPACES checkout a545db3
    python -m pip download --no-deps --no-binary :all: bert4keras==0.11.5 && tar xf bert4keras-0.11.5.tar.gz
    python validation/oracles/spaces_copying.py --source SPACES/seq2seq_model.py \\
        --snippets bert4keras-0.11.5/bert4keras/snippets.py --out validation/recorded

Writes `spaces/answers.safetensors`. The module itself loads a model as it is imported, so that its functions are taken out of its syntax tree:
`generate_copy_labels`, and `get_ngram_set` and `predict` of its decoder without their decorator; what they call of TensorFlow is one line, the
model's scores, which are given here. `longest_common_subsequence` is the same in bert4keras 0.9.8 and 0.11.5.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import types
from pathlib import Path
from typing import Any

import numpy as np
from recording import deterministic, write_answers, write_provenance

COMMAND = (
    "python validation/oracles/spaces_copying.py --source SPACES/seq2seq_model.py --snippets bert4keras-0.11.5/bert4keras/snippets.py "
    "--out validation/recorded"
)
PACKAGES = ("safetensors", "numpy")
SEED = 20210101
PAIRS, LONGEST = 400, (24, 14)
STEPS, ROWS, SOURCE, VOCABULARY = 60, 5, 18, 16
WHAT = {
    "source, target": "token ids, rows of different lengths, -1 behind them; a third of the targets are pieces of the source",
    "source_labels, target_labels": "generate_copy_labels of them, -1 behind them",
    "step_source, step_output, step_states": "a source, what five hypotheses consist of (its first token is that of the start), their states",
    "step_bio, step_logits": "the model's scores: probabilities of the three tags, logits of 16 tokens",
    "step_masked, step_after": "what predict returns, before its decorator takes softmax: masked logits, and states",
}


def lifted(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    """The functions called `names`, of a module or of its classes, with those globals; decorators are left out."""
    tree = ast.parse(path.read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list = []
    space: dict[str, Any] = {"np": np, **{k: v for given in names.values() for k, v in (given or {}).items()}}
    exec(compile(ast.Module(found, []), path.name, "exec"), space)
    return space


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    return np.array([[*row, *[-1] * (length - len(row))] for row in rows], dtype=np.int64)


def pairs(rng: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
    sources, targets = [], []
    for index in range(PAIRS):
        letters = int(rng.integers(2, 12))
        source = rng.integers(0, letters, int(rng.integers(1, LONGEST[0] + 1))).tolist()
        target = rng.integers(0, letters, int(rng.integers(1, LONGEST[1] + 1))).tolist()
        if index % 3 == 0:
            ends = rng.integers(0, len(source), 2)
            target = [*source[ends[0] : ends[0] + 5], *target[:3], *source[ends[1] : ends[1] + 5]]
        sources, targets = [*sources, source], [*targets, target]
    return sources, targets


def hypotheses(rng: np.random.Generator, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of one length, most of which end in a piece of the source, and states up to that length."""
    length = int(rng.integers(1, 8))
    output = rng.integers(0, VOCABULARY, (ROWS, length + 1))
    states = rng.integers(0, length + 1, ROWS)
    for row in range(ROWS - 1):
        begin = int(rng.integers(0, len(source) - states[row] + 1))
        output[row, length + 1 - states[row] :] = source[begin : begin + states[row]]
    return output, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="seq2seq_model.py of SPACES")
    parser.add_argument("--snippets", type=Path, required=True, help="snippets.py of bert4keras")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives spaces")
    given = parser.parse_args()
    deterministic()
    rng = np.random.default_rng(SEED)
    from collections import defaultdict

    common = lifted(given.snippets, {"longest_common_subsequence": {"defaultdict": defaultdict}})
    shared = {"longest_common_subsequence": common["longest_common_subsequence"], "model": None, "k_sparse": 10}
    released = lifted(given.source, {"generate_copy_labels": shared, "get_ngram_set": None, "predict": None})

    sources, targets = pairs(rng)
    labels = [released["generate_copy_labels"](s, t) for s, t in zip(sources, targets, strict=True)]
    longest = max(map(len, targets))
    arrays = {
        "source": padded(sources, LONGEST[0]),
        "target": padded(targets, longest),
        "source_labels": padded([each[0] for each in labels], LONGEST[0]),
        "target_labels": padded([each[1] for each in labels], longest),
    }
    steps: dict[str, list[np.ndarray]] = {
        name: [] for name in ("source", "output", "states", "bio", "logits", "masked", "after")
    }
    for _ in range(STEPS):
        source = rng.integers(0, int(rng.integers(2, VOCABULARY + 1)), SOURCE)
        output, states = hypotheses(rng, source)
        tags, logits = rng.normal(size=(ROWS, 3)) + np.array([0.0, 0.0, 0.7]), rng.normal(size=(ROWS, VOCABULARY))
        bio = np.exp(tags) / np.exp(tags).sum(-1, keepdims=True)
        said = types.SimpleNamespace(predict=lambda tokens, logits=logits, bio=bio: (logits.copy(), bio.copy()))
        decoder = types.SimpleNamespace(last_token=lambda model, said=said: said)
        decoder.get_ngram_set = lambda x, n, decoder=decoder: released["get_ngram_set"](decoder, x, n)
        inputs = [np.repeat(source[None], ROWS, axis=0), np.zeros((ROWS, SOURCE), np.int64)]
        masked, after = released["predict"](decoder, inputs, output, states.tolist())
        wide = np.concatenate([output, np.full((ROWS, 8 - output.shape[1]), -1)], axis=1)
        for name, array in zip(steps, (source, wide, states, bio, logits, masked, np.array(after)), strict=True):
            steps[name].append(array)
    arrays |= {f"step_{name}": np.ascontiguousarray(np.stack(found)) for name, found in steps.items()}
    folder: Path = given.out / "spaces"
    write_answers(folder, arrays)
    read = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (given.source, given.snippets)}
    facts = {
        "oracle": "bojone/SPACES a545db3 and bert4keras 0.11.5, functions taken out unedited",
        "read": read,
        "seed": SEED,
    }
    write_provenance(folder, COMMAND, {**facts, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
