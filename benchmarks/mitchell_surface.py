"""The relative errors of Mitchell's product, corrected product and quotient over the fractions f and g (docs/mitchell.md).

    python benchmarks/mitchell_surface.py [--plot docs/mitchell_surface.svg]            seconds; the plot needs the package matplotlib

They are those of the source's own float64 answers for x = 1 + f and y = 1 + g, f and g in steps of 1/192: exponents do not matter. The table gives
the largest on the grid and where it is, beside the bounds of claims MITCHELL-1, MITCHELL-7 and MITCHELL-2, which those places attain. At f = 1 or
g = 1 the logarithm goes on into the next power of two, and the errors are those of f = 0 and g = 0: they have no jumps.

The picture has its own colours for dark screens, in a style sheet that asks for the reader's preference.
"""

from __future__ import annotations

import argparse
import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl import mitchell
from refimpl.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 192
PAPER, INK, FAINT = "#fefefe", "#1c1c1e", "#6e6e73"  # and what they are in the dark
DARK = {PAPER: "#161618", INK: "#ececee", FAINT: "#a1a1a6"}


class Surface(NamedTuple):
    """A function, the relative error of its answers, the bound, the place that attains it, and the line on which its two pieces meet."""

    title: str
    function: Callable[[Any, Any], Any]
    error: Callable[[Any, Any, Any], Any]
    bound: Fraction
    place: tuple[Fraction, Fraction]
    seam: str


def short(x: Any, y: Any, answer: Any) -> Any:
    return 1 - answer / (x * y)


def above(x: Any, y: Any, answer: Any) -> Any:
    return answer * y / x - 1


SURFACES = (
    Surface(
        "product: too small by", mitchell.multiply, short, Fraction(1, 9), (Fraction(1, 2), Fraction(1, 2)), "f + g = 1"
    ),
    Surface(
        "corrected product: too small by",
        mitchell.corrected_multiply,
        short,
        Fraction(1, 121),
        (Fraction(3, 8), Fraction(3, 8)),
        "f + g = 1",
    ),
    Surface(
        "quotient x/y: too large by", mitchell.divide, above, Fraction(1, 8), (Fraction(0), Fraction(1, 2)), "f = g"
    ),
)


def surface(each: Surface) -> Any:
    """float64 (STEPS + 1, STEPS + 1): the error at f = j/STEPS (columns) and g = i/STEPS (rows)."""
    x = 1 + np.arange(STEPS + 1)[None, :] / STEPS
    y = 1 + np.arange(STEPS + 1)[:, None] / STEPS
    return each.error(x, y, each.function(*np.broadcast_arrays(x, y)))


def report() -> None:
    print("| | largest on the grid | at f, g | bound | mean on the grid |\n|---|---|---|---|---|")
    for each in SURFACES:
        errors = surface(each)
        i, j = np.unravel_index(np.argmax(errors), errors.shape)
        place = f"{Fraction(int(j), STEPS)}, {Fraction(int(i), STEPS)}"
        name = each.title.partition(":")[0]
        print(
            f"| {name} | {errors.max():.6f} | {place} | {each.bound} = {float(each.bound):.6f} | {errors.mean():.6f} |"
        )


def _draw(axes: Any, each: Surface, figure: Any) -> None:
    ticks = np.linspace(0, 1, STEPS + 1)
    levels = np.linspace(0, float(each.bound), 9)
    errors = np.clip(surface(each), 0, float(each.bound))
    filled = axes.contourf(ticks, ticks, errors, levels=levels, cmap="viridis", zorder=-2)
    axes.contour(ticks, ticks, errors, levels=levels[1:-1], colors="white", linewidths=0.4, alpha=0.7, zorder=-1)
    axes.set_rasterization_zorder(0)  # one image for both; the rest stays vectors
    axes.plot([0, 1], [1, 0] if "+" in each.seam else [0, 1], "--", color="white", lw=0.9)
    f, g = map(float, each.place)
    axes.plot(
        [f, 1] if f == 0 else [f],
        [g, g] if f == 0 else [g],
        "o",
        ms=7,
        ls="none",
        mfc="#ff453a",
        mec="white",
        mew=1.2,
        clip_on=False,
        zorder=5,
    )
    text = f"{each.bound} at f = {each.place[0]}, g = {each.place[1]}"
    behind = {"boxstyle": "round,pad=0.25", "facecolor": "#101012", "edgecolor": "none", "alpha": 0.55}
    across = 0.05 if f == 0 else 0.0
    axes.text(
        f + across,
        g + 0.055,
        text,
        color="white",
        ha="left" if across else "center",
        fontsize=9,
        bbox=behind,
        zorder=6,
    )
    end = (0.86, 0.16) if "+" in each.seam else (0.88, 0.84)
    axes.text(*end, each.seam, color="white", ha="center", fontsize=8, bbox=behind)
    axes.set_title(each.title, color=INK, fontsize=10.5)
    axes.set_xlabel("f", color=INK)
    axes.set_ylabel("g", color=INK, rotation=0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "1/4", "1/2", "3/4", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "1/4", "1/2", "3/4", "1"])
    axes.set_aspect("equal")
    bar = figure.colorbar(filled, ax=axes, orientation="horizontal", pad=0.02, shrink=0.92, ticks=levels[::2])
    bar.ax.set_xticklabels([f"{100 * level:.3g} %" for level in levels[::2]])
    for one in (axes, bar.ax):
        one.tick_params(colors=INK, labelsize=8.5)
        for spine in one.spines.values():
            spine.set_edgecolor(FAINT)
    bar.outline.set_edgecolor(FAINT)


def _with_dark_colours(svg: str) -> str:
    """The picture with a style sheet that gives ink and paper other colours where the reader prefers dark ones."""
    rules = [
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    sheet = "<style>@media (prefers-color-scheme: dark) { " + " ".join(rules) + " }</style>"
    return svg.replace("<defs>", f"<defs>{sheet}", 1)


def draw(path: Path | None, png: Path | None) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refimpl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4.9), layout="constrained", facecolor=PAPER)
    for each, place in zip(SURFACES, axes, strict=True):
        _draw(place, each, figure)
    if png is not None:
        figure.savefig(png, dpi=110)
    if path is not None:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=100, metadata={"Date": None})
        text = "\n".join(line.rstrip() for line in _with_dark_colours(buffer.getvalue()).splitlines()) + "\n"
        replace_file(path, lambda file: file.write(text.encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--png", type=Path, help="the same, to look at")
    options = parser.parse_args()
    report()
    if options.plot or options.png:
        draw(options.plot, options.png)


if __name__ == "__main__":
    main()
