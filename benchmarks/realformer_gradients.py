"""Norms of gradients at initialisation in pre-LN, post-LN and RealFormer, against depth and width (REALFORMER-6).

    python benchmarks/realformer_gradients.py --plot docs/realformer_gradients.svg      # half a minute on one core; the plot needs matplotlib

Gaussian networks with branches of unit variance, as in the claim; pre-LN with a norm behind all layers. Four samples of eight tokens, every
token with a standard normal read-out of its own; eight networks. Plotted is √(mean |∂L/∂W_2|² per token)/d.

1. The last layer's, against the number of layers, widths 32 and 64: one token; beside it the expectation, which is enclosed.
2. Every layer's of networks of 24 layers, width 64, eight tokens: here the expectation is not known.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from refimpl import blocks
from refimpl.normalization import layer_norm_vjp
from validation import truth
from validation.claims.realformer import GRADIENT_WIDTHS, KINDS, TOP, _squared_gradient, _squares, _unit_block

NETWORKS, SAMPLES, TOKENS, WIDTH, DEPTH = 8, 4, 8, 64, 24


def _layers(rng: np.random.Generator, kind: str) -> tuple[Any, list[Any]]:
    """What the layers return, and their pullbacks."""
    form, scores, pullbacks = blocks.Form(4, 0.0), None, []
    x = rng.normal(size=(SAMPLES, TOKENS, WIDTH))
    x = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
    for _ in range(DEPTH):
        layer = _unit_block(rng, WIDTH)
        if kind == "pre-LN":
            (x, _), pullback = blocks.pre_ln_vjp(layer, x, form)
        else:
            (x, seen), pullback = blocks.realformer_vjp(layer, x, form, previous_scores=scores)
            scores = seen.scores if kind == "RealFormer" else None
        pullbacks.append(pullback)
    return x, pullbacks


def squares(number: int, kind: str) -> list[float]:
    """|∂L/∂W_2|² of every layer of one network, per token."""
    rng = np.random.default_rng([number, 1])
    x, pullbacks = _layers(rng, kind)
    bar, scores_bar, found = rng.normal(size=x.shape), None, []
    if kind == "pre-LN":
        bar = layer_norm_vjp(x, np.ones(WIDTH), np.zeros(WIDTH), 0.0)[1](bar)[0]
    for pullback in reversed(pullbacks):
        layer, bar, before, *_ = pullback(bar, blocks.Attended(scores_bar, None, None))
        scores_bar = before if kind == "RealFormer" else None
        found.insert(0, float(np.sum(layer.feed_forward_out.weight**2)) / (SAMPLES * TOKENS))
    return found


def inside() -> dict[str, Any]:  # -> by kind (DEPTH,)
    """√(mean |∂L/∂W_2|²)/d of every layer, over networks."""
    return {
        kind: np.sqrt(np.mean([squares(number, kind) for number in range(NETWORKS)], axis=0)) / WIDTH for kind in KINDS
    }


def report(inner: dict[str, Any]) -> None:
    print("| layer of 24 | " + " | ".join(map(str, (1, 2, 6, 12, 18, 24))) + " |")
    print("|---" * 7 + "|")
    for kind, values in inner.items():
        print(f"| {kind} | " + " | ".join(f"{values[i - 1]:.2g}" for i in (1, 2, 6, 12, 18, 24)) + " |")


def draw(inner: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refimpl"
    from matplotlib import pyplot

    figure, (top, layers) = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    depths = range(1, TOP + 1)
    for (kind, color), (d, mark) in itertools.product(
        zip(KINDS, ("C0", "C1", "C2"), strict=True), zip(GRADIENT_WIDTHS, "os", strict=True)
    ):
        values = np.sqrt(_squares(0, kind, d).mean(axis=0)) / d
        top.plot(
            depths,
            values,
            mark,
            mfc="white" if d == GRADIENT_WIDTHS[0] else None,
            color=color,
            label=f"{kind}, d = {d}",
        )
    with truth.precision(128):
        for count, style in ((True, "-"), (False, "--")):
            ends = [_squared_gradient(GRADIENT_WIDTHS[-1], layer if count else 0) for layer in depths]
            line = [math.sqrt(float(end.low)) / GRADIENT_WIDTHS[-1] for end in ends]
            top.plot(depths, line, style, color="black", lw=1, label=f"expectation, {'pre-LN' if count else 'post-LN'}")
    top.set(title="the last layer, one token read", xlabel="layers", ylabel="|∂L/∂W₂| / d", xscale="log", yscale="log")
    top.set_xticks(list(depths), [str(depth) for depth in depths])
    top.set_yticks([0.3, 0.4, 0.5, 0.7, 1.0], ["0.3", "0.4", "0.5", "0.7", "1"])
    for kind, values in inner.items():
        layers.plot(range(1, DEPTH + 1), values, "o-", ms=3, label=kind)
    layers.set(title=f"every layer of {DEPTH}, {TOKENS} tokens, d = {WIDTH}", xlabel="layer", yscale="log")
    layers.set_yticks([0.2, 0.3, 0.5, 1.0, 2.0], ["0.2", "0.3", "0.5", "1", "2"])
    for each in (top, layers):
        each.minorticks_off()
        each.grid(alpha=0.3)
        each.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    inner = inside()
    report(inner)
    if options.plot:
        draw(inner, options.plot)


if __name__ == "__main__":
    main()
