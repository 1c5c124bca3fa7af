"""How well trigonometric and positive random features estimate softmax attention: the figures of the Performer paper (FAVOR-5).

    python benchmarks/favor_mse.py --plot docs/favor_mse.svg            # a minute on one core; the plot needs the package matplotlib

The upper row is exact: it evaluates the mean squared errors of claims FAVOR-2 and FAVOR-3, in which nothing is drawn at random. Points with
bars (two standard errors) are seeded Monte Carlo estimates from the features of `refimpl.favor` themselves, beside the curves as a check. The
lower row can only be sampled.

1. r = MSE trig / MSE pos for |x| = |y| = l at an angle φ, for φ in [-π, π] and l in [-2, 2]: the paper's figure 2, left.
2. m MSE of both, and r, at l = 1: the paper's figure 2, right and upper right.
3. m MSE of both as SM = exp(x·y) -> 0, along three paths: |x+y| = 1; |x| = |y| at 120°; x = -e, y = t e. Not in the paper, which
   says that MSE pos -> 0: it does on the first path, tends to 1 on the second and grows without bound on the third.
4. The mean squared error of the output of attention, bidirectional, 4,096 positions of width 16, for independent and orthogonal
   draws, the mean over 15 draws of inputs and projection and one standard deviation upwards: the paper's figure 4. Of the paper's inputs only
   "appropriately normalized" is known, and everything depends on it. Here queries and keys are normal with standard deviation s = 1/2, 3/4 and 1, so
   that |x'|² = |q|²/√d is 1, 2.25 and 4 on average, and values are standard normal. Trigonometric features of m draws are 2m numbers,
   positive ones m. Computed in float32, whose own error is far below.

References: K. Choromanski et al., "Rethinking attention with Performers", arXiv 2009.14794, figures 2 and 4.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import favor
from refimpl.attention import scaled_dot_product_attention
from validation.claims.favor import SOURCES, STATED
from validation.exponentials import value

if TYPE_CHECKING:
    from collections.abc import Callable

MAPS = ("trigonometric", "positive")
LEVELS = (-4, -2, -1, 0, 1, 2, 4, 8)  # of log10 r
DRAWS = 500_000
ANGLES = tuple(math.radians(degrees) for degrees in (75, 90, 105, 120, 135, 150, 165))
PATHS: dict[str, Callable[[float], tuple[float, float, float]]] = {  # -log SM -> |x|², x·y, |y|²
    "|x+y| = 1": lambda t: (t + 0.5, -t, t + 0.5),
    "|x| = |y|, 120°": lambda t: (2 * t, -t, 2 * t),
    "x = -e, y = t e": lambda t: (1.0, -t, t * t),
}
LENGTH, WIDTH, REPEATS = 4096, 16, 15
SCALES = (0.5, 0.75, 1.0)
COUNTS = (8, 16, 32, 64, 128, 256)
PROJECTIONS = {"independent": favor.gaussian, "orthogonal": favor.orthogonal_gaussian}
KERNELS = {"trigonometric": "trigonometric", "positive": "softmax"}


def equal_norms(length: float, angle: float) -> tuple[float, float, float]:
    """|x|², x·y, |y|² of two vectors of one length at an angle."""
    square = length * length
    return square, square * math.cos(angle), square


def error(name: str, squares: tuple[float, float, float]) -> float:
    """M MSE, from the sum of exponentials that the claims compare with the source."""
    return float(value(STATED[name], *squares))


def ratio(length: float, angle: float) -> float:
    """R = MSE trig / MSE pos; not a number at l = 0, infinite at φ = π, where both squares or the second are 0."""
    square, inner, _ = equal_norms(length, angle)
    apart, together = -math.expm1(2 * inner - 2 * square), -math.expm1(-2 * inner - 2 * square)  # no cancellation
    return math.exp(-4 * inner) * apart**2 / together / 2 if together else math.inf


def sampled(name: str, squares: tuple[float, float, float], seed: int) -> tuple[float, float]:
    """M MSE of one draw by Monte Carlo from the features of the source, and its standard error."""
    xx, xy, yy = squares
    x = np.array([math.sqrt(xx), 0.0])
    y = np.array([xy / x[0], math.sqrt(max(yy - (xy / x[0]) ** 2, 0.0))])
    projection = favor.gaussian(np.random.default_rng(seed), DRAWS, 2)
    products = SOURCES[name](x[None], projection)[0] * SOURCES[name](y[None], projection)[0]
    each = DRAWS * products.reshape(-1, DRAWS).sum(axis=0)  # one draw's estimate: the features have 1/√m
    squared = (each - math.exp(xy)) ** 2
    return float(squared.mean()), float(squared.std() / math.sqrt(DRAWS))


def attention_errors() -> dict[tuple[float, str, str], Any]:
    """(scale, projection, features) -> float64 (repeats, counts): mean squared differences from exact attention."""
    found = {key: np.empty((REPEATS, len(COUNTS))) for key in itertools.product(SCALES, PROJECTIONS, MAPS)}
    for repeat in range(REPEATS):
        rng = np.random.default_rng(repeat)
        normal = [rng.standard_normal((1, 1, LENGTH, WIDTH)).astype(np.float32) for _ in range(3)]
        drawn = {(how, m): d(rng, m, WIDTH).astype(np.float32) for how, d in PROJECTIONS.items() for m in COUNTS}
        for scale in SCALES:
            q, k, v = np.float32(scale) * normal[0], np.float32(scale) * normal[1], normal[2]
            exact, _ = scaled_dot_product_attention(q, k, v)
            for how, name, (column, count) in itertools.product(PROJECTIONS, MAPS, enumerate(COUNTS)):
                estimate = favor.favor_attention(q, k, v, drawn[how, count], kernel=KERNELS[name])
                found[scale, how, name][repeat, column] = np.mean((estimate - exact).astype(np.float64) ** 2)
    return found


def report(checks: dict[str, list[tuple[float, float]]], errors: dict[tuple[float, str, str], Any]) -> None:
    print("| m MSE at l = 1 | " + " | ".join(f"{math.degrees(angle):.0f}°" for angle in ANGLES) + " |")
    print("|---" * (1 + len(ANGLES)) + "|")
    worst = 0.0
    for name in MAPS:
        exact = [error(name, equal_norms(1.0, angle)) for angle in ANGLES]
        print(f"| {name} | " + " | ".join(f"{each:.3g}" for each in exact) + " |")
        worst = max(worst, *(abs(m - e) / s for (m, s), e in zip(checks[name], exact, strict=True)))
    print(f"\n{2 * len(ANGLES)} sampled points, {DRAWS:,} draws each: at most {worst:.1f} standard errors off\n")
    print("| MSE of attention | " + " | ".join(f"m = {count}" for count in COUNTS) + " |")
    print("|---" * (1 + len(COUNTS)) + "|")
    for (scale, how, name), each in errors.items():
        print(f"| s = {scale}, {how}, {name} | " + " | ".join(f"{mean:.2g}" for mean in each.mean(axis=0)) + " |")


def _draw_ratio(figure: Any, axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    angles, lengths = np.linspace(-math.pi, math.pi, 91), np.linspace(-2, 2, 60)  # neither 0 nor a zero of r: no 0/0
    logs = [[math.log10(max(ratio(length, angle), 1e-12)) for angle in angles] for length in lengths]
    logs = np.clip(logs, LEVELS[0] - 1, LEVELS[-1] + 4)
    filled = axes.contourf(angles, lengths, logs, levels=LEVELS, cmap="PuOr_r", extend="both")
    filled.set_clim(-8, 8)
    axes.contour(angles, lengths, logs, levels=[0], colors="black", linewidths=1)
    bar = figure.colorbar(filled, ax=axes, ticks=LEVELS)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda level, _: f"$10^{{{level:.0f}}}$"))
    axes.set_title("r = MSE trig / MSE pos, $|x| = |y| = l$")
    axes.set_xlabel("angle φ")
    axes.set_ylabel("length l")
    axes.set_xticks([-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi], ["-π", "-π/2", "0", "π/2", "π"])


def _draw_slice(axes: Any, checks: dict[str, list[tuple[float, float]]]) -> None:
    angles = np.linspace(0, math.pi, 200)[1:-1]
    for name, style in zip(MAPS, ("-", "--"), strict=True):
        curve = [error(name, equal_norms(1.0, angle)) for angle in angles]
        (line,) = axes.plot(angles, curve, style, label=f"m MSE, {name}")
        means, bars = (list(column) for column in zip(*checks[name], strict=True))
        axes.errorbar(ANGLES, means, [2 * each for each in bars], fmt="o", ms=3, color=line.get_color())
    axes.plot(angles, [ratio(1.0, angle) for angle in angles], ":", color="black", label="r")
    axes.set_title("l = 1")
    axes.set_xlabel("angle φ")
    axes.set_xticks([0, math.pi / 2, 2 * math.pi / 3, math.pi], ["0", "π/2", "2π/3", "π"])
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1e5)


def _draw_paths(axes: Any) -> None:
    for (path, squares), shade in zip(PATHS.items(), ("C2", "C3", "C4"), strict=True):
        exponents = np.linspace(1.25, 10, 71)
        small = np.exp(-exponents)
        for name, style in zip(MAPS, ("-", "--"), strict=True):
            axes.plot(
                small,
                [error(name, squares(t)) for t in exponents],
                style,
                color=shade,
                label=f"{name}, {path}" if name == "positive" else None,
            )
    axes.plot([], [], "-", color="grey", label="trigonometric, the same")
    axes.set_title("SM → 0")
    axes.set_xlabel("SM = exp(x·y), falling")
    axes.set_ylabel("m MSE")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(math.exp(-1.25), math.exp(-10))
    axes.set_ylim(1e-20, 1e15)


def _draw_attention(axes: Any, scale: float, errors: dict[tuple[float, str, str], Any]) -> None:
    for how, name in itertools.product(PROJECTIONS, MAPS):
        each = errors[scale, how, name]
        axes.errorbar(
            COUNTS,
            each.mean(axis=0),
            [np.zeros(len(COUNTS)), each.std(axis=0)],
            fmt={"independent": "o", "orthogonal": "s"}[how] + {"trigonometric": "-", "positive": "--"}[name],
            color={"trigonometric": "C0", "positive": "C1"}[name],
            mfc="white" if how == "independent" else None,
            ms=4,
            lw=1,
            label=f"{how}, {name}",
        )
    axes.set_title(f"attention, s = {scale:g}")
    axes.set_xlabel("draws m")
    axes.set_xscale("log", base=2)
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes.set_yscale("log")


def draw(checks: dict[str, list[tuple[float, float]]], errors: dict[tuple[float, str, str], Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refimpl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 7.2), layout="constrained")
    _draw_ratio(figure, axes[0, 0])
    _draw_slice(axes[0, 1], checks)
    _draw_paths(axes[0, 2])
    for below, scale in zip(axes[1], SCALES, strict=True):
        _draw_attention(below, scale, errors)
        below.set_ylim(3e-7, 1e6)
        below.minorticks_off()
    axes[1, 0].set_ylabel("MSE of the output")
    for each in axes.flat[1:]:
        each.grid(alpha=0.3)
    for each, place in ((axes[0, 1], "upper left"), (axes[0, 2], "lower left"), (axes[1, 0], "upper right")):
        each.legend(fontsize="small", loc=place)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    checks = {
        name: [sampled(name, equal_norms(1.0, angle), seed) for seed, angle in enumerate(ANGLES)] for name in MAPS
    }
    errors = attention_errors()
    report(checks, errors)
    if options.plot:
        draw(checks, errors, options.plot)


if __name__ == "__main__":
    main()
