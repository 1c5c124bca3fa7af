"""Where the divergence of a network without multiplications comes from: products that are too small, quotients and roots that are too large.

    python benchmarks/mitchell_network.py [--texts 8] [--json]          # half a minute on one core

The embedded GPT-2 on the first texts of examples/later_poems.txt: the mean KL divergence from exact arithmetic, in nats a token, as it is and with
quotients, or roots too, made exactly. Beside that, what scaling the exact logits by the mean of a product does alone. The figure of
docs/mitchell.md is made by

    refimpl score examples/later_poems.txt --arithmetic mitchell --arithmetic mitchell-centred --arithmetic mitchell-corrected \\
        --arithmetic mitchell-refined --by-kind --report DIR
"""

from __future__ import annotations

import argparse
import json
import operator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np

import refimpl
from refimpl import arithmetic, comparison
from refimpl.arithmetic import named_arithmetic

POEMS = Path(__file__).parent.parent / "examples" / "later_poems.txt"
MEAN = 1 - 0.03848799  # of a product over the exact one, MITCHELL-6
CASES = {"as it is": (), "exact quotients": ("quotients",), "exact quotients and roots": ("quotients", "roots")}
VARIANTS = {
    "mitchell": named_arithmetic("mitchell"),
    "mitchell-corrected": named_arithmetic("mitchell-corrected"),
    "mitchell-refined": named_arithmetic("mitchell-refined"),
    "mitchell, attention alone": named_arithmetic("mitchell", ["attention"]),
    "mitchell-corrected, attention alone": named_arithmetic("mitchell-corrected", ["attention"]),
}


def divergences(model: refimpl.Model, texts: list[str], exactly: tuple[str, ...]) -> dict[str, float]:
    """The mean divergence of each variant, with some operations exact."""
    with ExitStack() as stack:
        if "quotients" in exactly:
            stack.enter_context(patch.object(arithmetic, "_quotient", lambda a, b, form: operator.truediv(a, b)))
        if "roots" in exactly:
            stack.enter_context(patch.object(arithmetic, "_root", lambda x, form: np.sqrt(x)))
        found = comparison.compare(model, texts, list(VARIANTS.values()))
    return {name: comparison.together(parts).mean for name, parts in zip(VARIANTS, found, strict=True)}


def scaled(model: refimpl.Model, texts: list[str]) -> float:
    """The mean divergence of softmax(MEAN z) from softmax(z), z the exact logits."""
    values = []
    for text in texts:
        for window, first in model.windows(text):
            logits = np.asarray(model.logits([window[:-1]]), np.float64)[0, first - 1 :]
            p, q = (z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True)) for z in (logits, MEAN * logits))
            values += np.sum(np.exp(p) * (p - q), axis=-1).tolist()
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = refimpl.load("tang", backend="numpy")
    texts = [part.strip("\n") for part in POEMS.read_text("utf-8").split("\n\n")][: options.texts]
    found = {case: divergences(model, texts, exactly) for case, exactly in CASES.items()}
    scale = scaled(model, texts)
    if options.json:
        print(json.dumps({"cases": found, "scaled_logits": scale}, indent=1))
        return
    print(f"{'':<36}", *(f"{case:>26}" for case in CASES))
    for name in VARIANTS:
        print(f"{name:<36}", *(f"{found[case][name]:>26.5f}" for case in CASES))
    print(f"\nexact logits times {MEAN:.4f}: {scale:.5f}")


if __name__ == "__main__":
    main()
