"""The plot of a comparison of arithmetics, as one SVG that needs nothing else: a row a set of kinds, a mark an arithmetic.

x = mean KL(exact || approximate), in nats a token, on a logarithmic axis; a line from each mark to the largest of a token
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.comparison import Divergence, Variant

__all__ = ["svg"]

ROW, LEFT, WIDTH, TOP, COLUMN = 30, 170, 420, 96, 84  # pixels: height of a row, labels, axis, head, a column of figures
MARKS = {
    "mitchell": ("a", "circle"),
    "mitchell-centred": ("c", "triangle"),
    "mitchell-corrected": ("b", "square"),
    "mitchell-refined": ("d", "diamond"),
}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: var(--ink) } .muted { fill: var(--muted) } .head { font-weight: 600 }
.line { stroke: var(--grid); stroke-width: 1 } .a { --mark: #0b62a8 } .b { --mark: #b3440b } .c { --mark: #2f7d32 } .d { --mark: #7a3b9e }
.mark { fill: var(--mark) } .reach { stroke: var(--mark); stroke-width: 1.5; opacity: .45 } .paper { fill: var(--paper) }
:root, svg { --ink: #1b1b1b; --muted: #5c5c5c; --grid: #dcdcdc; --paper: #ffffff }
@media (prefers-color-scheme: dark) { :root, svg { --ink: #ececec; --muted: #a8a8a8; --grid: #444; --paper: #161616 }
.a { --mark: #6db3f2 } .b { --mark: #f0935b } .c { --mark: #7cc47f } .d { --mark: #c58be6 } }
"""


def _text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'


def _mark(shape: str, x: float, y: float) -> str:
    if shape == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if shape == "square":
        return f'<rect class="mark" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    outline = "l5 5l-5 5l-5 -5z" if shape == "diamond" else "l5 9h-10z"
    return f'<path class="mark" d="M{x:.1f} {y - 5:.1f}{outline}"/>'


class _Axis:
    """A logarithmic axis over whole decades that hold every number above 0; what is 0 stands at its beginning, what is infinite at its end."""

    def __init__(self, values: Sequence[float]) -> None:
        shown = [value for value in values if 0 < value < math.inf] or [1e-3, 1.0]
        self.low = max(math.floor(math.log10(min(shown))), -9)
        self.high = max(math.ceil(math.log10(max(shown))), self.low + 1)

    def at(self, value: float) -> float:
        place = self.low if value <= 0 else self.high if value == math.inf else math.log10(value)
        return LEFT + WIDTH * (min(max(place, self.low), self.high) - self.low) / (self.high - self.low)


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "no number"


def _entry(variant: Variant, found: Divergence, axis: _Axis, y: float) -> str:
    """A mark at the mean, a line to the largest, and a title that says the numbers."""
    form = variant.arithmetic.form
    kind, shape = MARKS.get(form, ("a", "circle"))
    said = f"{form}, {variant.label}: mean {_figure(found.mean)}, largest {_figure(found.largest)} nats; "
    said += f"perplexity {_figure(found.perplexity)}; same best token {found.agreeing / found.tokens:.1%}"
    x, end = axis.at(found.mean), axis.at(found.largest)
    line = f'<line class="reach" x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'<g class="{kind}"><title>{escape(said)}</title>{line}{_mark(shape, x, y)}</g>'


def _grid(axis: _Axis, bottom: float) -> list[str]:
    lines = []
    for power in range(axis.low, axis.high + 1):
        x = axis.at(10.0**power)
        lines.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 14}" y2="{bottom:.1f}"/>')
        lines.append(_text(x, bottom + 18, f"{10.0**power:g}", "muted", "middle"))
    return lines


def _legend(forms: Sequence[str]) -> list[str]:
    lines = []
    for number, form in enumerate(forms):
        kind, shape = MARKS.get(form, ("a", "circle"))
        x = LEFT + 108 * number
        lines += [f'<g class="{kind}">{_mark(shape, x, 52)}</g>', _text(x + 10, 56, form.removeprefix("mitchell-"))]
    return lines


def svg(variants: Sequence[Variant], found: Sequence[Divergence]) -> str:
    """One SVG of all variants: rows in the order in which their labels first appear, the perplexities in columns at the right.

    Parameters
    ----------
    variants : the arithmetics and their labels
    found : what each did to all texts together
    """
    pairs = list(zip(variants, found, strict=True))
    labels = list(dict.fromkeys(variant.label for variant in variants))
    forms = list(dict.fromkeys(variant.arithmetic.form for variant in variants))
    axis = _Axis([value for each in found for value in (each.mean, each.largest)])
    height, right = TOP + ROW * len(labels), LEFT + WIDTH + 24
    parts = [_text(0, 18, "KL divergence from exact arithmetic, nats a token: mean, and line to the largest", "head")]
    parts += _grid(axis, height) + _legend(forms)
    parts.append(_text(right, TOP - 40, f"perplexity (exact: {found[0].exact_perplexity:.2f})", "muted"))
    for place, form in enumerate(forms):
        parts.append(_text(right + COLUMN * place, TOP - 22, form.removeprefix("mitchell-"), "muted"))
    for number, label in enumerate(labels):
        y = TOP + ROW * (number + 0.5) - 8
        parts.append(_text(LEFT - 14, y + 4, label, "", "end"))
        for variant, each in (pair for pair in pairs if pair[0].label == label):
            place = forms.index(variant.arithmetic.form)
            parts.append(_entry(variant, each, axis, y + 6.5 * (place - (len(forms) - 1) / 2)))
            parts.append(_text(right + COLUMN * place, y + 4, _perplexity(each.perplexity)))
    wide, high = right + max(COLUMN * len(forms), 150), height + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img">'
    said = "Divergence of a language model in approximate arithmetic from the same model in exact arithmetic"
    paper = f'<rect class="paper" width="{wide}" height="{high}"/>'
    return "\n".join([head, f"<title>{said}</title>", f"<style>{STYLE}</style>", paper, *parts, "</svg>\n"])


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1e6 else f"{value:.1e}"
