"""The plots, by matplotlib, as SVG that stands in a page: colours are the page's CSS variables, so that they follow light and dark.

Marks differ by shape as well as by colour; every mark has a title that says its numbers, and every plot a text alternative. Numbers that
a logarithmic axis has no place for stand in a lane of their own: 0 before its beginning, what is infinite or no number beyond its end.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from validation.report.text import figure as readable
from validation.report.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Mark", "bars", "growth", "rows", "strip"]

# colours that stand for the page's variables until the SVG is written
INK, MUTED, GRID, GOOD, BAD = "#010101", "#010102", "#010103", "#010104", "#010105"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", GOOD: "--good", BAD: "--bad"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "refimpl",
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": mpl.cycler(color=[INK]),
}
WIDTH = 5.5  # inches of 72 points: a phone shows it whole, with letters that can be read


@dataclass(frozen=True)
class Mark:
    """One number in a plot, what it belongs to, and whether it passed."""

    label: str
    value: float
    passed: bool
    title: str


def _drawn(name: str, title: str, height: float, draw: Callable[[Any, dict[str, str]], str]) -> str:
    """SVG of what `draw(axes, titles)` draws; it returns the text alternative and puts titles of marks, by identifier, into `titles`."""
    titles: dict[str, str] = {}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height))
        canvas = FigureCanvasSVG(figure)
        said = draw(figure.add_subplot(), titles)
        out = io.StringIO()
        canvas.print_svg(out)
    return _for_page(out.getvalue(), name, title, said, titles)


# ------------------------------------------------------------------------------------------------------------- into the page


def _for_page(svg: str, name: str, title: str, said: str, titles: dict[str, str]) -> str:
    """An SVG as part of an HTML page: no prolog, namespaces nor date, identifiers of its own, the page's colours and font, texts for readers."""
    root = ET.fromstring(svg)
    for element in list(root.iter()):
        for child in [c for c in element if c.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib = {key: _attribute(key, value, name) for key, value in attributes.items()}
        known = titles.get(element.get("id", "").removeprefix(f"{name}-"))
        if known is not None:
            element.insert(0, _text("title", known))
    box = root.get("viewBox", "")
    root.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title {name}-said"}
    root.insert(0, _text("desc", said, f"{name}-said"))
    root.insert(0, _text("title", title, f"{name}-title"))
    return ET.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    value = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value)
    value = re.sub("#01010[1-5]", lambda found: f"var({VARIABLES[found.group()]})", value)
    value = re.sub("font-family: [^;]*", "font-family: var(--font)", value)
    if value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return value


def _text(tag: str, text: str, identifier: str | None = None) -> ET.Element:
    element = ET.Element(tag, {} if identifier is None else {"id": identifier})
    element.text = visible(text)
    return element


# ------------------------------------------------------------------------------------------------------------------- the axes


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from 10^low to 10^high, with a lane before it for 0 and one behind it for infinity and what is no number."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Sequence[float], *always: float) -> Scale:
        """The scale that has all finite values, and `always`."""
        logarithms = [math.log10(v) for v in (*values, *always) if 0 < v < math.inf]
        low, high = math.floor(min(logarithms)), math.ceil(max(logarithms))
        return cls(min(low, high - 1), high)

    @property
    def lane(self) -> float:
        """The distance of a lane from the axis."""
        return max(0.4, 0.07 * (self.high - self.low))

    def at(self, value: float) -> float:
        """Where a value stands."""
        if value == 0:
            return self.low - self.lane
        return math.log10(value) if 0 < value < math.inf else self.high + self.lane

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """Where the axis begins and ends, with the lanes that these values need."""
        places = [self.at(v) for v in values]
        return min([self.low, *places]) - self.lane / 2, max([self.high, *places]) + self.lane / 2

    def ticks(self, values: Sequence[float]) -> tuple[list[float], list[str]]:
        """Places and labels."""
        step = max(1, math.ceil((self.high - self.low) / 8))
        places: list[float] = list(range(self.high - step * ((self.high - self.low) // step), self.high + 1, step))
        labels = [_power(int(place)) for place in places]
        if any(v == 0 for v in values):
            places, labels = [self.at(0.0), *places], ["0", *labels]
        if any(not v < math.inf for v in values):
            places, labels = [*places, self.at(math.inf)], [*labels, "∞"]
        return places, labels


def _power(exponent: int) -> str:
    if exponent in (0, 1):
        return str(10**exponent)
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _mark(axes: Any, x: float, y: float, mark: Mark, name: str) -> None:
    shape: dict[str, Any] = {"marker": "o", "markersize": 5, "color": GOOD, "markeredgewidth": 0}
    if not mark.passed:
        shape = {"marker": "X", "markersize": 8, "color": BAD, "markeredgewidth": 0}
    axes.plot([x], [y], linestyle="none", gid=name, clip_on=False, zorder=3, **shape)


def _said(marks: Sequence[Mark]) -> str:
    """The text alternative of a plot of marks."""
    failed = [mark for mark in marks if not mark.passed]
    highest = max(marks, key=lambda mark: (not mark.passed, mark.value))
    head = f"{len(marks) - len(failed)} of {len(marks)} are within their limit of 1."
    return f"{head} Nearest to the limit, or farthest beyond: {highest.title}."


# ------------------------------------------------------------------------------------------------------------------ the plots


def strip(name: str, title: str, marks: Sequence[Mark]) -> str:
    """A mark a case, from left to right in order, by its error as a multiple of the tolerance."""
    values = [mark.value for mark in marks]
    scale = Scale.of(values, 1.0, 10.0)

    def draw(axes: Any, titles: dict[str, str]) -> str:
        low, high = scale.ends(values)
        axes.axhspan(0, high, facecolor=BAD, alpha=0.07, linewidth=0)
        axes.axhline(0, color=INK, linewidth=1)
        axes.annotate(
            "tolerance", (1, 0), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
        )
        for number, mark in enumerate(marks):
            titles[f"m{number}"] = mark.title
            _mark(axes, number + 1, scale.at(mark.value), mark, f"m{number}")
        axes.set_ylim(low, high)
        axes.set_yticks(*scale.ticks(values))
        axes.set_xlim(0, len(marks) + 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        axes.set_xlabel("case, in the order of the manifest")
        axes.set_ylabel("error ÷ tolerance")
        return _said(marks)

    return _drawn(name, title, 3.0, draw)


def rows(name: str, title: str, marks: Sequence[Mark], label: str) -> str:
    """A row a mark, named at the left; a line at 1."""
    values = [mark.value for mark in marks]
    scale = Scale.of(values, 1.0)

    def draw(axes: Any, titles: dict[str, str]) -> str:
        low, high = scale.ends(values)
        axes.axvline(0, color=INK, linewidth=1)
        for number, mark in enumerate(marks):
            titles[f"m{number}"] = mark.title
            axes.axhline(number, color=GRID, linewidth=0.8, zorder=0)
            _mark(axes, scale.at(mark.value), number, mark, f"m{number}")
        axes.set_xlim(low, high)
        axes.set_xticks(*scale.ticks(values))
        axes.set_yticks(range(len(marks)), [_cut(visible(mark.label)) for mark in marks])
        axes.set_ylim(len(marks) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        return _said(marks)

    return _drawn(name, title, 0.7 + 0.2 * len(marks), draw)


def bars(name: str, title: str, counts: dict[str, int]) -> str:
    """How many elements are off by how many units in the last place."""
    total, edges = sum(counts.values()), [edge.replace("<=", "≤") for edge in counts]

    def draw(axes: Any, titles: dict[str, str]) -> str:
        for number, (edge, count) in enumerate(zip(edges, counts.values(), strict=True)):
            share = f"{count:,} ({_percent(count / total)})" if count else "0"
            titles[f"m{number}"] = f"{edge} units: {share}"
            if count:
                axes.barh(number, count - 0.5, left=0.5, height=0.7, color=GOOD, linewidth=0, gid=f"m{number}")
            place = (max(count, 0.5), number)
            axes.annotate(share, place, (4, 0), textcoords="offset points", va="center")
        axes.set_xscale("log")
        highest = max(counts.values())
        axes.set_xlim(0.5, 12.0 * highest)
        axes.set_xticks([10**n for n in range(len(str(highest)))], [f"{10**n:,}" for n in range(len(str(highest)))])
        axes.minorticks_off()
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_yticks(range(len(counts)), edges)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("elements, logarithmic scale")
        axes.set_ylabel("units in the last place")
        return "; ".join(titles.values())

    return _drawn(name, title, 2.7, draw)


def _cut(label: str, longest: int = 34) -> str:
    """A label that leaves room for the plot; the mark's title has all of it."""
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def _percent(part: float) -> str:
    return "below 0.1%" if part < 0.001 else f"{part:.1%}"


def _short(layer: str) -> str:
    """A layer's number, or the last word of its name."""
    return layer.rpartition(" ")[2]


def growth(name: str, title: str, layers: Sequence[dict[str, Any]]) -> str:
    """Error and budget of every layer, as parts of the layer's largest magnitude."""
    errors = [layer["error"] / layer["largest"] for layer in layers]
    budgets = [layer["budget"] / layer["largest"] for layer in layers]
    scale = Scale.of([*errors, *budgets])

    def line(axes: Any, values: list[float], label: str, **style: Any) -> None:
        axes.plot([scale.at(v) for v in values], **style)
        axes.annotate(label, (len(values) - 1, scale.at(values[-1])), (8, 0), textcoords="offset points", va="center")

    def draw(axes: Any, titles: dict[str, str]) -> str:
        line(axes, budgets, "sampled budget", color=INK, linestyle="--", linewidth=1.2)
        line(axes, errors, "float32 error", color=GOOD, linewidth=1.5)
        for number, (layer, error) in enumerate(zip(layers, errors, strict=True)):
            said = f"error {readable(error)} of the largest magnitude, {readable(layer['multiple'])} of its budget"
            titles[f"m{number}"] = f"{layer['name']}: {said}"
            mark = Mark(layer["name"], error, not layer["multiple"] > 1, "")
            _mark(axes, number, scale.at(error), mark, f"m{number}")
        axes.set_xlim(-0.3, 1.32 * len(layers))
        step = math.ceil(len(layers) / 14)
        axes.set_xticks(range(0, len(layers), step), [_short(layer["name"]) for layer in layers[::step]])
        axes.set_xlabel("layer")
        axes.set_ylim(*scale.ends(errors))
        axes.set_yticks(*scale.ticks(errors))
        axes.grid(axis="y")
        axes.set_ylabel("÷ the layer's largest magnitude")
        return "; ".join(titles.values())

    return _drawn(name, title, 2.7, draw)
