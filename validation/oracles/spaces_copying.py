"""Record the copy labels and the decoding steps of SPACES: its own functions, unedited, on random tokens and scores.

    python -m pip install -r validation/oracles/requirements-attention.txt
    git clone https://github.com/bojone/SPACES && git -C SPACES checkout a545db3
    python -m pip download --no-deps --no-binary :all: bert4keras==0.11.5 && tar xf bert4keras-0.11.5.tar.gz
    python validation/oracles/spaces_copying.py --source SPACES/seq2seq_model.py \\
        --snippets bert4keras-0.11.5/bert4keras/snippets.py --out validation/recorded

Writes `spaces/answers.safetensors`. The module itself loads a model as it is imported, so that its functions are taken out of its syntax tree:
`generate_copy_labels`, and `get_ngram_set` and `predict` of its decoder; what they call of TensorFlow is one line, the model's scores, which are
given here. Steps are recorded without the decorator of `predict`; searches with it, by bert4keras' own `beam_search`.
`longest_common_subsequence`, `softmax` and `wraps` are the same in bert4keras 0.9.8 and 0.11.5. The beam search differs in what it does with a
hypothesis that has ended before, and here none goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import types
from pathlib import Path
from typing import Any

import numpy as np
from lifting import lifted
from recording import deterministic, write_answers, write_provenance

COMMAND = (
    "python validation/oracles/spaces_copying.py --source SPACES/seq2seq_model.py --snippets bert4keras-0.11.5/bert4keras/snippets.py "
    "--out validation/recorded"
)
PACKAGES = ("safetensors", "numpy")
SEED = 20210101
PAIRS, LONGEST = 400, (24, 14)
STEPS, ROWS, SOURCE, VOCABULARY = 60, 5, 18, 16
SEARCHES, NEW, PERIOD, START, END = 60, 10, 3, 14, 15
WHAT = {
    "source, target": "token ids, rows of different lengths, -1 behind them; a third of the targets are pieces of the source",
    "source_labels, target_labels": "generate_copy_labels of them, -1 behind them",
    "step_source, step_output, step_states": "a source, what five hypotheses consist of (its first token is that of the start), their states",
    "step_bio, step_logits": "the model's scores: probabilities of the three tags, logits of 16 tokens",
    "beam_source, beam_width": "a source, and the number of beams of a search that begins with token 14 and ends with 15 or after 10 tokens",
    "beam_logits, beam_bio": "the model's scores by the number of tokens generated modulo 3 and by the last token: logits, probabilities of tags",
    "beam_output": "what beam_search returns, its start token first, -1 behind it",
    "step_masked, step_after": "what predict returns, before its decorator takes softmax: masked logits, and states",
}


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


def probabilities(tags: np.ndarray) -> np.ndarray:
    return np.exp(tags) / np.exp(tags).sum(-1, keepdims=True)


class Table:
    """A model whose scores follow from the number of tokens generated, modulo PERIOD, and from the last one."""

    def __init__(self, source: np.ndarray, logits: np.ndarray, bio: np.ndarray) -> None:
        self.length, self.logits, self.bio = len(source), logits, bio

    def predict(self, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.asarray(inputs[0])
        place = (tokens.shape[1] - self.length - 1) % PERIOD
        return self.logits[place, tokens[:, -1]].copy(), self.bio[place, tokens[:, -1]].copy()


def search(
    released: dict[str, Any], framework: dict[str, Any], source: np.ndarray, model: Table, width: int
) -> list[int]:
    """The text that the released decoder finds."""
    members = {
        "start_id": START,
        "end_id": END,
        "maxlen": NEW,
        "minlen": 1,
        "first_output_ids": np.array([[START]]),
        "last_token": lambda self, _: model,
        "get_ngram_set": released["get_ngram_set"],
        "predict": framework["wraps"](default_rtype="logits", use_states=True)(released["predict"]),
        "beam_search": framework["beam_search"],
    }
    found = type("Decoder", (), members)().beam_search([source, np.zeros(len(source), np.int64)], width)
    return [int(token) for token in found]


def searches(rng: np.random.Generator, released: dict[str, Any], framework: dict[str, Any]) -> dict[str, np.ndarray]:
    found: dict[str, list[Any]] = {name: [] for name in ("source", "width", "logits", "bio", "output")}
    for index in range(SEARCHES):
        source = np.append(rng.integers(0, int(rng.integers(3, START)), SOURCE - 1), END)
        logits = 2 * rng.normal(size=(PERIOD, VOCABULARY, VOCABULARY)) - 2 * (np.arange(VOCABULARY) == END)
        bio = probabilities(1.5 * rng.normal(size=(PERIOD, VOCABULARY, 3)) + np.array([0.0, 0.0, 1.0]))
        output = search(released, framework, source, Table(source, logits, bio), 1 + index % 4)
        row = [*output, *[-1] * (NEW + 1 - len(output))]
        for name, value in zip(found, (source, 1 + index % 4, logits, bio, row), strict=True):
            found[name].append(value)
    return {f"beam_{name}": np.ascontiguousarray(np.array(values)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="seq2seq_model.py of SPACES")
    parser.add_argument("--snippets", type=Path, required=True, help="snippets.py of bert4keras")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives spaces")
    given = parser.parse_args()
    deterministic()
    rng = np.random.default_rng(SEED)
    from collections import defaultdict

    names = ("longest_common_subsequence", "softmax", "wraps", "beam_search")
    common = lifted(given.snippets, dict.fromkeys(names, {"defaultdict": defaultdict}))
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
        bio = probabilities(tags)
        said = types.SimpleNamespace(predict=lambda tokens, logits=logits, bio=bio: (logits.copy(), bio.copy()))
        decoder = types.SimpleNamespace(last_token=lambda model, said=said: said)
        decoder.get_ngram_set = lambda x, n, decoder=decoder: released["get_ngram_set"](decoder, x, n)
        inputs = [np.repeat(source[None], ROWS, axis=0), np.zeros((ROWS, SOURCE), np.int64)]
        masked, after = released["predict"](decoder, inputs, output, states.tolist())
        wide = np.concatenate([output, np.full((ROWS, 8 - output.shape[1]), -1)], axis=1)
        for name, array in zip(steps, (source, wide, states, bio, logits, masked, np.array(after)), strict=True):
            steps[name].append(array)
    arrays |= {f"step_{name}": np.ascontiguousarray(np.stack(found)) for name, found in steps.items()}
    arrays |= searches(rng, released, common)
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
