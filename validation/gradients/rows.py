"""Cases of functions of one number, and of rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.gradients.case import EVERY, Case, of

if TYPE_CHECKING:
    from collections.abc import Iterator


# --- elementwise ----------------------------------------------------------------------------------------------------------------------


@of("activation.sigmoid", "activation.tanh", "special.erf", "special.erfc")
def _elementwise(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ordinary", "both signs", {"x": rng.normal(size=(2, 5))}, dtypes=EVERY, terms=0.0)
    tails = {"x": np.array([0.0, -0.0, 1e-9, 5.5, -5.5, 24, -24])}
    yield Case("tails", "0, tiny, and where the slope vanishes", tails, terms=0.0)
    beyond = {"x": np.array([800.0, -800.0, 1e200, -1e200, 1.0])}
    yield Case("beyond", "where exp(2|x|) overflows", beyond, terms=0.0)


@of("activation.gelu")
def _gelu(rng: np.random.Generator) -> Iterator[Case]:
    for form in ("tanh", "none"):
        given = {"x": rng.normal(size=(2, 5)), "approximate": form}
        yield Case(f"{form}", "both signs", given, dtypes=EVERY, terms=_gelu_terms(**given))
        bend = np.array([0.0, -0.0, -0.75179, 1e-9, 3, -3, 6.5, -6.5, 30, -30.0])
        given = {"x": bend, "approximate": form}
        yield Case(f"{form}, tails", "0, where the slope is 0, far out", given, terms=_gelu_terms(**given))
        far = {"x": np.array([1e150, -1e150]), "approximate": form}
        yield Case(f"{form}, beyond", "where x³ overflows", far, steps_only="exp of 10^450 is no ball")


def _gelu_terms(x: Any, approximate: str) -> Any:
    """The sum of the sizes of the two terms of GELU'(x), roughly: Φ(x) and |x| φ(x), or σ(2z) and 2 |x| z' σ(2z) σ(-2z)."""
    if approximate == "none":
        below = np.vectorize(lambda each: math.erfc(-each / math.sqrt(2)) / 2)(x)
        return below + np.abs(x) * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    z, slope = (math.sqrt(2 / math.pi) * part for part in (x + 0.044715 * x**3, 1 + 3 * 0.044715 * x * x))
    return (1 + np.abs(x) * slope * (1 - np.tanh(z))) * (1 + np.tanh(z)) / 2


@of("activation.relu")
def _relu(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ordinary", "both signs", {"x": rng.normal(size=(2, 5))}, dtypes=EVERY, terms=0.0)
    near = {"x": np.array([1e-25, -1e-25, 1e200, -1e200])}
    yield Case("near 0", "small numbers of either sign", near, terms=0.0)
    kink = {"x": np.array([0.0, -0.0, 5e-324, -5e-324])}
    yield Case("kink", "0 itself, where the subgradient is 0", kink, slopes=np.array([0.0, 0.0, 1.0, 0.0]))


# --- rows -----------------------------------------------------------------------------------------------------------------------------


def hard_rows(rng: np.random.Generator) -> dict[str, tuple[str, Any]]:
    """Rows on which exponentials go wrong."""
    return {
        "ordinary": ("unit normal", rng.normal(size=(2, 5))),
        "offset": ("a common offset, which must drop out", 300 + rng.normal(size=(2, 4))),
        "large": ("exp overflows unless shifted", np.array([[1e4, 1e4 - 1, -1e4], [800.0, -800.0, 799.0]])),
        "ties": ("equal maxima, all equal", np.array([[1.0, 3, 3, -1], [2, 2, 2, 2]])),
        "single": ("one element", rng.normal(size=(3, 1))),
        "long": ("sums of many terms, along directions", rng.normal(size=(1, 48))),
    }


SURE: dict[str, Any] = {
    "complex_step": 2.0**-50 / math.exp(-40),
    "reason": "the definition's derivative is p_i (t_i - Σ p_j t_j), of terms of size 1, each rounded by u; the answer is about exp(-40)",
}


@of("softmax.softmax", "softmax.log_softmax", "softmax.logsumexp")
def _along_rows(rng: np.random.Generator) -> Iterator[Case]:
    for label, (hard, x) in hard_rows(rng).items():
        yield Case(label, hard, {"x": x}, dtypes=EVERY if label == "ordinary" else ())
    yield Case("sure", "one weight is nearly 1", {"x": np.array([40.0, 0, -1])}, **SURE)
    yield Case("first axis", "not the last axis", {"x": rng.normal(size=(3, 2, 2)), "axis": 0})
    yield Case("middle axis", "an axis counted from the end", {"x": rng.normal(size=(2, 3, 2)), "axis": -2})


@of("softmax.masked_softmax")
def _masked(rng: np.random.Generator) -> Iterator[Case]:
    x, mask = rng.normal(size=(3, 5)), np.ones((3, 5), bool)
    mask[0, 2:], mask[1] = False, False
    yield Case("masked", "a short row, one without entries", {"x": x, "mask": mask}, dtypes=EVERY, unseen=(~mask,))
    yield Case("no mask", "None", {"x": x, "mask": None})
    sure = {"x": np.array([40.0, 50, 0, -1]), "mask": np.array([True, False, True, True])}
    yield Case("sure", "one weight is nearly 1", sure, unseen=(~sure["mask"],), **SURE)
    loud = np.where(mask, x, 1e5)
    yield Case("loud", "masked entries above all others", {"x": loud, "mask": mask}, unseen=(~mask,))
    row = np.array([True, False, True, True, False])
    yield Case("one mask", "a mask of one row for all", {"x": x, "mask": row}, unseen=(np.broadcast_to(~row, x.shape),))
    yield Case("first axis", "rows along another axis", {"x": x, "mask": mask, "axis": 0}, unseen=(~mask,))


@of("softmax.sparse_softmax")
def _sparse(rng: np.random.Generator) -> Iterator[Case]:
    x, mask = rng.normal(size=(3, 6)), rng.random((3, 6)) < 0.7
    mask[1] = False
    for k in (2, 1, 6, 9):
        yield Case(f"k = {k}", "", {"x": x, "k": k}, dtypes=EVERY if k == 2 else ())
    yield Case("masked", "a row without entries", {"x": x, "k": 2, "mask": mask}, unseen=(~mask,))
    yield Case("sure", "one weight is nearly 1", {"x": np.array([-2, 40.0, 0, -1]), "k": 3}, **SURE)
    yield Case("first axis", "not the last axis", {"x": x, "k": 2, "axis": 0})
    ties = np.array([[1.0, 3, 3, 3, 0], [2, 2, 2, 2, 2]])
    yield Case(
        "ties", "of equal entries the first", {"x": ties, "k": 2}, steps_only="the last of the k largest is tied"
    )


@of("normalization.layer_norm")
def _norm(rng: np.random.Generator) -> Iterator[Case]:
    def case(label: str, hard: str, x: Any, eps: float = 1e-5, **more: Any) -> Case:
        scale, bias = rng.normal(size=(2, x.shape[-1]))
        return Case(label, hard, {"x": x, "scale": scale, "bias": bias, "eps": eps}, **more)

    yield case("ordinary", "unit normal", rng.normal(size=(3, 5)), dtypes=EVERY)
    yield case("batch", "scale and bias are summed over two axes", rng.normal(size=(2, 2, 4)))
    yield case("constant", "no variance: only ε keeps it finite", np.full((2, 4), 3.0))
    flat = "x - mean x is about 1e-6, and off by the rounding of numbers near 1 in the mean, 2u: z is off by 2e6 u, as one part of it"
    level = 1 + 1e-6 * rng.normal(size=(2, 4))
    yield case("flat", "variance far below ε", level, float64=8e6 * 2.0**-53, reason=flat)
    yield case("no eps", "ε = 0", rng.normal(size=(2, 4)), eps=0.0)
    yield case("outlier", "one large entry", np.array([[1e3, 0.1, -0.2, 0.3]]))
    yield case("large", "squares near the end of the range", 1e120 * rng.normal(size=(2, 4)))
    yield case("single", "width 1: the answer is the bias", rng.normal(size=(3, 1)))
