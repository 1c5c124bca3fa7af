"""Record texts of SPACES' decoder on bert4keras' beam search: both unedited, on models that are a function of what has been generated.

    python -m venv oracle && oracle/bin/python -m pip install numpy==1.24.4 safetensors==0.8.0
    git clone https://github.com/bojone/SPACES && git -C SPACES checkout a545db3
    git clone https://github.com/bojone/bert4keras && git -C bert4keras checkout v0.9.7
    oracle/bin/python validation/oracles/spaces_decoding.py --source SPACES/seq2seq_model.py \\
        --snippets bert4keras/bert4keras/snippets.py --out validation/recorded

Writes `spaces_decoding/answers.safetensors`. bert4keras 0.9.7 is what the README of SPACES names. Its `beam_search` chooses rows by NumPy's
argpartition, and their order matters, which NumPy 2 makes depend on the processor: so this is recorded with a NumPy 1. (With NumPy 2 and
NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL" it is the same.) What `predict` calls of TensorFlow is one line, the model's scores. These are
whole numbers of a hash of the text so far (`scores`), divided by a power of two, so that no library of random numbers has a part in them.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from lifting import lifted
from tensorflow_recording import write_arrays, write_provenance

COMMAND = (
    "python validation/oracles/spaces_decoding.py --source SPACES/seq2seq_model.py --snippets bert4keras/bert4keras/snippets.py "
    "--out validation/recorded"
)
CASES, LONGEST, MOST = 320, 20, 14
WORD = (1 << 64) - 1
WHAT = {
    "source": "token ids, 255 behind them",
    "options": "vocabulary; beams; tokens generated at most; min_length, min_ends; 1 where tags favour copying, 0 where not. The start token is the "
    "vocabulary's last but one, the end token its last",
    "output": "what beam_search returns, its start token first, 255 behind it",
    "scores": "of case c (0, 1, ...) and a text: h = hash(.. hash(hash(c, first id), second id) ..), h' = hash(h, place) for places 0 .. "
    "vocabulary + 2, where hash(a, b) is splitmix64's mixing of (a * 0x9E3779B97F4A7C15 + b + 1) mod 2^64, and u = the upper 24 bits of h' / 2^24; "
    "logits 6 (u - 1/2), of the end token 1 less; tags 4 (u - 1/2), of I 1 more where copying is favoured, through softmax",
}


def mixed(a: int, b: int) -> int:
    z = (a * 0x9E3779B97F4A7C15 + b + 1) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def scores(case: int, text: list[int], vocabulary: int, favoured: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of tokens, and of tags, after a text."""
    h = case
    for token in text:
        h = mixed(h, token)
    u = np.array([mixed(h, place) >> 40 for place in range(vocabulary + 3)]) / 2.0**24
    logits, tags = 6 * (u[:vocabulary] - 0.5), 4 * (u[vocabulary:] - 0.5)
    logits[-1] -= 1
    tags[2] += favoured
    return logits, tags


class Model:
    """Stands for the network: `predict` has source and text side by side."""

    def __init__(self, case: int, length: int, vocabulary: int, favoured: int) -> None:
        self.case, self.length, self.sizes = case, length, (vocabulary, favoured)

    def predict(self, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = [scores(self.case, list(map(int, row[self.length :])), *self.sizes) for row in np.asarray(inputs[0])]
        logits, tags = (np.stack(part) for part in zip(*rows, strict=True))
        tags = np.exp(tags - tags.max(1, keepdims=True))
        return logits, tags / tags.sum(1, keepdims=True)


def case_of(number: int) -> tuple[list[int], list[int]]:
    """A source, and the options, all drawn by the hash."""

    def drawn(place: int, low: int, high: int) -> int:
        return low + mixed(1 << 32 | number, place) % (high - low + 1)

    vocabulary = drawn(0, 12, 40)
    letters = drawn(1, 2, vocabulary - 2)
    source = [drawn(10 + i, 0, letters - 1) for i in range(drawn(2, 3, LONGEST - 2))]
    minimum = drawn(3, 2, 6) if number % 5 == 1 else 1
    options = [vocabulary, 1 + number % 5, drawn(4, 3, MOST), minimum, 2 if number % 5 == 2 else 1, number % 2]
    return [vocabulary - 2, *source, vocabulary - 1], options


def searched(
    number: int, released: dict[str, Any], framework: dict[str, Any]
) -> tuple[list[int], list[int], list[int]]:
    """A source, the options, and the text that the released decoder finds; nothing where it fails, with no row left."""
    source, options = case_of(number)
    vocabulary, beams, most, minimum, ends, favoured = options
    members = {
        "start_id": vocabulary - 2,
        "end_id": vocabulary - 1,
        "maxlen": most,
        "minlen": minimum,
        "first_output_ids": np.array([[vocabulary - 2]]),
        "last_token": lambda self, _: Model(number, len(source), vocabulary, favoured),
        "get_ngram_set": released["get_ngram_set"],
        "predict": framework["wraps"](default_rtype="logits", use_states=True)(released["predict"]),
        "beam_search": framework["beam_search"],
    }
    decoder = type("Decoder", (), members)()
    try:
        found = decoder.beam_search([source, np.zeros(len(source), np.int64)], beams, min_ends=ends)
    except (ValueError, IndexError):
        return source, options, []
    return source, options, [int(token) for token in found]


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    return np.array([[*row, *[255] * (length - len(row))] for row in rows], dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="seq2seq_model.py of SPACES")
    parser.add_argument("--snippets", type=Path, required=True, help="snippets.py of bert4keras 0.9.7")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives spaces_decoding")
    given = parser.parse_args()
    framework = lifted(given.snippets, dict.fromkeys(("softmax", "wraps", "beam_search")))
    released = lifted(given.source, {"get_ngram_set": None, "predict": {"model": None, "k_sparse": 10}})
    found = [searched(number, released, framework) for number in range(CASES)]
    folder: Path = given.out / "spaces_decoding"
    folder.mkdir(parents=True, exist_ok=True)
    sources, options, outputs = ([each[part] for each in found] for part in range(3))
    arrays = {
        "source": padded(sources, LONGEST),
        "options": np.array(options, dtype=np.uint8),
        "output": padded(outputs, MOST + 1),
    }
    write_arrays(folder / "answers.safetensors", arrays)
    read = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (given.source, given.snippets)}
    facts = {
        "oracle": "bojone/SPACES a545db3 and bert4keras 0.9.7, functions taken out unedited",
        "read": read,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, ("safetensors", "numpy"))
    print(f"{sum(not output for output in outputs)} of {CASES} failed")  # noqa: T201


if __name__ == "__main__":
    main()
