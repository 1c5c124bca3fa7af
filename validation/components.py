"""What can be checked: each component's definition, and the hard places on which an implementation of it is tried.

A component is called as `f(*arrays, **params)` with NumPy arrays of the dtype that is checked, and returns one array. Inputs are rounded to
that dtype before the truth is computed, so that the implementation and the truth see the same numbers.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

import refimpl
import weights_io
from refimpl import (
    activation,
    attention,
    bert,
    copying,
    favor,
    gpt2,
    mitchell,
    mitchell_patterns,
    normalization,
    pooling,
    positions,
    softmax,
    special,
    taylor,
)
from refimpl.errors import ConfigError
from refimpl.number_system import device_of, exact, namespace, pi, square_root
from refimpl.spaces import extractor, labels, seq2seq, words
from refimpl.text import rouge, sentences
from validation import backwards, beams, extraction, layers, logarithmic, perturbed, summarizing, tolerance, truth
from validation.case import Case
from weights_io.schemes import hugging_face_gpt2 as scheme

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COMPONENTS",
    "ENCODERS",
    "MODELS",
    "RECORDED",
    "Case",
    "Component",
    "component",
    "encoder_logits",
    "model_logits",
    "parameter_rounding",
    "recorded_bert",
    "recorded_gpt2",
    "recorded_model",
    "unit_budget",
]

RECORDED = Path(__file__).parent / "recorded"
ENCODERS = {"bert": "hugging_face_bert/model", "nezha": "bert4keras/nezha/model.ckpt"}  # component -> what it is of
MODELS = ("gpt2", *ENCODERS)  # components whose parameters are those of a recorded model


@dataclass(frozen=True)
class Component:
    """A function that implementations are measured against."""

    name: str
    signature: str
    definition: Callable[..., Any]
    cases: Callable[[np.random.Generator, str], list[Case]]
    dialects: tuple[str, ...] = ()
    forms: tuple[Callable[..., Any], ...] = ()  # other published ways to evaluate it: their rounding is legal too
    # for a definition that chooses between entries: its forms with the choice that the exact inputs make, since rounded balls that tie have none
    chosen: Callable[..., tuple[Callable[..., Any], ...]] | None = None
    documented: Callable[..., Any] | None = None  # where the equation is, if not in the definition's docstring
    sampled: Callable[..., Any] | None = None  # the amplification of a layer or a network is sampled; None: proved
    exact: str | None = (
        None  # "int64" or "bool": the dtype of answers that have no tolerance; None: the dtype that is checked
    )
    backward: backwards.Backward | None = None  # of a backward pass: of what
    families: tuple[str, ...] = ("bfloat16", "float16", "float32", "float64")  # dtypes for which vectors are drawn

    @property
    def word(self) -> str:
        """What an answer within the budget is called."""
        return "exact" if self.exact else "within sample" if self.sampled else "within proof"

    def answer_dtype(self, dtype: str) -> str:
        """The dtype of an answer to floating arguments of `dtype`."""
        return self.exact or dtype

    @property
    def equation(self) -> str:
        """What it computes: the first line of the docstring."""
        return (inspect.getdoc(self.documented or self.definition) or "").partition("\n")[0]

    def amplification(self, *arrays: Any, dtype: str, lengthened: int = 0, **params: Any) -> Any:  # -> float64 (...)
        """The error allowed besides the last rounding, in units of u: sampled, or the largest of all forms' proved ones; 0 for exact answers."""
        if self.exact:
            return np.zeros(())
        if self.sampled:
            return self.sampled(*arrays, **params)
        forms = self.chosen(*arrays, **params) if self.chosen else (self.definition, *self.forms)
        proved = [
            tolerance.amplification(form, *arrays, dtype=dtype, lengthened=lengthened, **params) for form in forms
        ]
        return np.max(np.stack(np.broadcast_arrays(*proved)), axis=0)

    def budget(self, *arrays: Any, dtype: str, **params: Any) -> Any:  # -> float64 (...)
        """The error allowed besides the last rounding; a proved one allows for underflow too."""
        allowance = 0.0 if self.sampled or self.exact else tolerance.underflow(*arrays)
        return tolerance.budget(self.amplification(*arrays, dtype=dtype, **params), allowance, dtype)

    def trials(self, dtype: str, seed: int, dialect: str | None) -> list[Case]:
        """The cases, floating arrays rounded to `dtype`; a dialect keeps those whose parameters name it."""
        if dialect is not None and dialect not in self.dialects:
            known = ", ".join(self.dialects) or "none"
            raise ConfigError(f"{self.name} has no such dialect", expected=known, got=repr(dialect))
        kept = [
            case
            for case in self.cases(np.random.default_rng(seed), dtype)
            if dialect is None or any(isinstance(value, str) and value == dialect for value in case.params.values())
        ]
        return [Case(case.id, case.hard, tuple(_rounded(a, dtype) for a in case.arrays), case.params) for case in kept]


def _rounded(array: Any, dtype: str) -> Any:
    return array.astype(tolerance.DTYPES[dtype]) if array.dtype.kind == "f" else array


def _resolved(size: float, dtype: str) -> float:
    """`size`, or in a 16-bit dtype the smaller size at which one rounding of the input still leaves the answer recognisable: 1/(16 u)."""
    return min(size, 1 / (16 * tolerance.roundoff(dtype)))


# in each dtype, what exp overflows at, and underflows at twice as far below: in float32 where 16 bits are computed in it; inputs resolve it
_BEYOND_EXP = {"float16": 100.0, "bfloat16": 92.0, "float32": 300.0, "float64": 720.0}


def _rows(rng: np.random.Generator, dtype: str) -> dict[str, tuple[str, Any]]:
    """Rows on which exponentials go wrong."""
    large, offset, long = (_resolved(size, dtype) for size in (1e4, 300, 1500))
    far = _BEYOND_EXP[dtype]
    return {
        "ordinary": ("unit normal", rng.normal(size=(4, 16))),
        "wide": ("spread over 40: all but a few weights are tiny", 20 * rng.normal(size=(3, 32))),
        "large": (f"magnitudes of {large:g}: exp overflows unless shifted", large * rng.uniform(-1, 1, (3, 9))),
        "offset": (f"a common offset of {offset:g}, which must drop out", offset + rng.normal(size=(2, 12))),
        "ties": ("all equal, and two equal maxima", np.stack([np.full(7, 2.5), np.array([1, 3, 3, -1, 0, -2, 2.0])])),
        "single": ("one element: the answer is 1, its logarithm 0", rng.normal(size=(5, 1))),
        "long": (f"{long:g} elements: sums accumulate rounding", rng.normal(size=(1, int(long)))),
        "minute": ("differences near the last bit", 1 + 1e-3 * rng.normal(size=(2, 8))),
        "apart": (
            f"a row near {far:g} with one entry at -{far:g}, and a row there: each needs its own maximum",
            np.array([[far, far - 1, far - 3, -far], [-far, -far - 1, -far - 3, -far - 6]]),
        ),
    }


def _along_rows(rng: np.random.Generator, dtype: str) -> list[Case]:
    return [Case(name, hard, (x,)) for name, (hard, x) in _rows(rng, dtype).items()]


def _logsumexp_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """The rows, and in float32 one so long that its tolerance is a thousandth."""
    rows = _along_rows(rng, dtype)
    huge = Case("huge", "16384 elements: sums in fewer bits stand still", (rng.normal(size=(1, 16384)),))
    return [*rows, huge] if dtype == "float32" else rows


def _gelu_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    grids = {
        "ordinary": ("unit normal", rng.normal(size=64)),
        "grid": ("-6 to 6: the bend and the left tail", np.linspace(-6, 6, 97)),
        "tails": ("0, signed zeros, tiny and large", np.array([0.0, -0.0, 1e-4, -1e-4, 8, -8, 30, -30, 250, -250])),
    }
    return [
        Case(f"{name}-{form}", hard, (x,), {"approximate": form})
        for form in ("tanh", "none")
        for name, (hard, x) in grids.items()
    ]


def _gelu_published(x: Any, approximate: str) -> Any:
    """Both forms as published, x/2 · (1 + erf) and x/2 · (1 + tanh), for the budget: on balls, the function errs by two units in the last place.

    Near -1 a ball of erf or tanh is narrower than any rounding, since its midpoint is exact; a library's answer may be the next float or the
    one after it. Run for p bits at a precision of p - 2 + K bits, two units of a p-bit number below 1, times 2^-K, are 2^-(precision + 1).
    """
    if approximate == "none":
        saturating = special.erf(x / square_root(2, x))
    else:
        saturating = activation.tanh(square_root(2 / pi(x), x) * (x + exact(Fraction(44715, 1_000_000), x) * x * x * x))
    return x / 2 * (1 + saturating + flint.arb(0, 2.0 ** -(flint.ctx.prec + 1)))


def _layer_norm_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def case(name: str, hard: str, x: Any, eps: float) -> Case:
        return Case(name, hard, (x, 1 + 0.2 * rng.normal(size=x.shape[-1]), rng.normal(size=x.shape[-1])), {"eps": eps})

    still = _resolved(1e-5**-0.5, dtype) * 1e-5**0.5 / 4  # √eps divides what rounding leaves of a difference
    return [
        case("ordinary", "unit normal", rng.normal(size=(4, 24)), 1e-5),
        case(
            "flat",
            "variance below eps: eps decides, and must be inside the root",
            1e-3 * rng.normal(size=(3, 16)),
            1e-5,
        ),
        case("constant", "variance zero", still * np.repeat(np.array([[1.5], [-4.0]]), 8, axis=1), 1e-5),
        case("tiny eps", "eps of BERT, 1e-12, beside a variance as small", 2e-6 * rng.normal(size=(2, 32)), 1e-12),
        case(
            "outlier",
            "one element dominates: the biased variance shows",
            np.eye(3, 12) * 50 + rng.normal(size=(3, 12)),
            1e-5,
        ),
        case("narrow", "width 2: biased and unbiased variance differ by 2", rng.normal(size=(5, 2)), 1e-5),
        case(
            "offset",
            "the mean is far above the deviation: the mean of squares minus its square loses all digits",
            _resolved(3000, dtype) / 4 + rng.normal(size=(3, 16)),
            1e-5,
        ),
        case(
            "level",
            "variance equal to eps: the root is √2 of either",
            1e-5**0.5 * np.array([[1, -1, 1, -1, -1, 1.0]]),
            1e-5,
        ),
    ]


def _attention_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def qkv(n: int, m: int, d: int, spread: float = 1.0) -> tuple[Any, Any, Any]:
        return spread * rng.normal(size=(2, 2, n, d)), rng.normal(size=(2, 2, m, d)), rng.normal(size=(2, 2, m, d))

    causal, aligned = np.tril(np.ones((6, 6), bool)), np.tril(np.ones((3, 7), bool), 4)
    padding = np.arange(6) < np.array([6, 4])[:, None, None, None]
    nothing = causal & (np.arange(6) != 0)[:, None]
    spread, far = _resolved(60, dtype) / 3, _BEYOND_EXP[dtype]
    q, k, v = qkv(6, 6, 4)
    loud = (np.abs(q) + 0.5, np.where(np.swapaxes(padding, -1, -2), k, 6e3), v)
    other = np.random.default_rng(2048)
    huge = (other.normal(size=(1, 1, 1, 2)), *(other.normal(size=(1, 1, 2048, 2)) for _ in "kv"))
    return [
        Case("full", "no mask", qkv(5, 7, 8), {"mask": None}),
        Case("causal", "lower triangle; off by one leaks the future", qkv(6, 6, 8), {"mask": causal}),
        Case("cached", "three queries at the end of seven keys", qkv(3, 7, 8), {"mask": aligned}),
        Case("padding", "the second sequence has four real keys", qkv(6, 6, 4), {"mask": padding}),
        Case(
            "sharp", f"scores near {3 * spread:.0f}: one key takes almost all", qkv(6, 6, 8, spread), {"mask": causal}
        ),
        Case(
            "loud padding",
            "masked keys score 10⁴ above the visible ones: adding -10⁴ does not hide them",
            loud,
            {"mask": padding},
        ),
        Case("empty row", "a query that may see nothing gets zeros", qkv(6, 6, 4), {"mask": nothing}),
        Case("one key", "softmax over one key is 1", qkv(1, 1, 16), {"mask": None}),
        Case(
            "beyond exp",
            f"the last query's score with the first key is {far:g}: exp overflows unless shifted",
            _one_loud_query(*qkv(3, 5, 4), far),
            {"mask": None},
        ),
        Case(
            "wide",
            "two keys of width 32: √d is not the root of anything else",
            _one_loud_query(*qkv(3, 2, 32), 1.0),
            {"mask": None},
        ),
        *(
            [Case("huge", "2048 keys: sums in fewer bits stand still", huge, {"mask": None})]
            if dtype == "float32"
            else []
        ),
    ]


def _one_loud_query(q: Any, k: Any, v: Any, score: float) -> tuple[Any, Any, Any]:
    """The same, but for the last query, which is the first key as long as makes its score with it `score`."""
    first = k[..., :1, :]
    loud = score * q.shape[-1] ** 0.5 * first / np.sum(first * first, axis=-1, keepdims=True)
    return np.concatenate([q[..., :-1, :], loud], axis=-2), k, v


def _attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attention.scaled_dot_product_attention(q, k, v, mask=mask)[0]


def _residual_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def given(n: int, m: int, d: int, size: float = 1.0) -> tuple[Any, ...]:
        q, k, v = rng.normal(size=(2, 2, n, d)), rng.normal(size=(2, 2, m, d)), rng.normal(size=(2, 2, m, d))
        return q, k, v, size * rng.normal(size=(2, 2, n, m))

    causal, padding = np.tril(np.ones((6, 6), bool)), np.arange(6) < np.array([6, 4])[:, None, None, None]
    nothing = causal & (np.arange(6) != 0)[:, None]
    large, far = _resolved(40, dtype), _BEYOND_EXP[dtype]
    q, k, v, _ = given(6, 6, 4)
    return [
        Case("full", "previous scores like those of the layer", given(5, 7, 8), {"mask": None, "mean_over": 1}),
        Case("causal", "the mask acts on the sum", given(6, 6, 8), {"mask": causal, "mean_over": 1}),
        Case(
            "hidden",
            "previous scores are largest where the mask hides them",
            (q, k, v, np.where(padding, rng.normal(size=(2, 2, 6, 6)), large)),
            {"mask": padding, "mean_over": 1},
        ),
        Case(
            "deep",
            f"a sum of {large:g} times one layer's scores",
            given(6, 6, 4, large),
            {"mask": causal, "mean_over": 1},
        ),
        Case("mean", "a running mean over 36 layers", given(6, 6, 4, 6.0), {"mask": causal, "mean_over": 36}),
        Case(
            "first",
            "no layer before: previous scores 0",
            (q, k, v, np.zeros((2, 2, 6, 6))),
            {"mask": None, "mean_over": 1},
        ),
        Case(
            "loud hidden",
            "previous scores of 6·10⁴ where the mask hides them: a mask of -10⁴ that they are added to does not",
            (q, k, v, np.where(padding, rng.normal(size=(2, 2, 6, 6)), 6e4)),
            {"mask": padding, "mean_over": 1},
        ),
        Case("empty row", "a query that may see nothing gets zeros", given(6, 6, 4), {"mask": nothing, "mean_over": 1}),
        Case("mean of two", "one layer more or less shows", given(4, 6, 4, 2.0), {"mask": None, "mean_over": 2}),
        Case(
            "beyond exp",
            f"previous scores of the last query near {far:g}: exp overflows unless shifted",
            (q, k, v, rng.normal(size=(2, 2, 6, 6)) + far * (np.arange(6) == 5)[:, None]),
            {"mask": None, "mean_over": 1},
        ),
    ]


def _residual_attention(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    options = {"mask": mask, "previous_scores": previous_scores, "mean_over": mean_over}
    return attention.scaled_dot_product_attention(q, k, v, **options)[0]


def _relative_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def given(n: int, m: int, d: int, size: float = 1.0) -> tuple[Any, ...]:
        table = positions.relative_positions(n, m, d, like=np.zeros(1), clip=3)
        return rng.normal(size=(1, 2, n, d)), rng.normal(size=(1, 2, m, d)), rng.normal(size=(1, 2, m, d)), size * table

    return [
        Case("square", "added to keys, before 1/√d, and to values", given(6, 6, 4), {"mask": None}),
        Case("causal", "distances on one side of 0", given(6, 6, 4), {"mask": np.tril(np.ones((6, 6), bool))}),
        Case(
            "cached",
            "two queries at the end of seven keys: distances are counted from the end",
            given(2, 7, 4),
            {"mask": None},
        ),
        Case("loud", "relative embeddings ten times the content", given(5, 5, 6, 10.0), {"mask": None}),
    ]


def _relative_attention(q: Any, k: Any, v: Any, relative: Any, mask: Any) -> Any:
    return attention.scaled_dot_product_attention(q, k, v, mask=mask, relative=relative)[0]


def _hierarchical_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def case(name: str, hard: str, table: Any, at: Any, alpha: float = 0.4) -> Case:
        return Case(name, hard, (table, np.asarray(at)), {"alpha": alpha})

    table = rng.normal(size=(5, 8))
    return [
        case("all", "every one of n² rows; i and j must not be exchanged", table, np.arange(25)),
        case("table", "the first n rows are the table", table, np.arange(5)),
        case("scattered", "positions in any order and shape", table, [[24, 0, 7], [7, 23, 5]]),
        case("last", "the last row, and the first beyond the table", table, [24, 5]),
        case("narrow", "one column", rng.normal(size=(9, 1)), np.arange(81)),
        case("alpha", "another alpha, beyond 1", table, np.arange(25), 1.5),
        case("near half", "alpha near 1/2: (i, j) and (j, i) are near", table, np.arange(25), 0.4375),
        case("single", "a table of one row", rng.normal(size=(1, 4)), [0, 0]),
    ]


def _hierarchical_throughout(table: Any, at: Any, alpha: float) -> Any:
    """All positions by the formula, those that are rows of the table too, as in the author's code."""
    bases = positions.hierarchical_bases(table, alpha)
    i, j = at // len(table), at % len(table)
    return exact(alpha, table) * bases[i] + exact(1 - Fraction(alpha), table) * bases[j]


def _mean_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def lengths(*counts: int, n: int) -> Any:
        return np.arange(n) < np.array(counts)[:, None]

    offset, long = _resolved(300, dtype), int(_resolved(1500, dtype))
    hidden, holes = rng.normal(size=(3, 6, 5)), rng.random((3, 6)) < 0.5
    holes[:, 3] = True
    loud = np.where(lengths(6, 3, 1, n=6)[..., None], hidden, 6e3)
    half = 1 + rng.random((2, 4, 5))
    return [
        Case("full", "no padding", (hidden, lengths(6, 6, 6, n=6))),
        Case("padding", "rows of 6, 3 and 1 tokens: all padding but one", (hidden, lengths(6, 3, 1, n=6))),
        Case("holes", "padding anywhere: the count is of what is seen, not the last place", (hidden, holes)),
        Case("loud padding", "what stands at padding is 6000", (loud, lengths(6, 3, 1, n=6))),
        Case("one token", "the mean of one vector is that vector", (hidden[:, :1], lengths(1, 1, 1, n=1))),
        Case(
            "cancellation",
            "vectors and their negatives, in another order: the mean is 0",
            (np.concatenate([half, -half[:, ::-1]], axis=1), lengths(8, 8, n=8)),
        ),
        Case(
            "offset",
            f"columns offset by {offset:g}, its half and its negative: sums lose what means keep",
            (offset * (np.array([1.0, 0.5, -1.0]) + rng.normal(size=(2, 7, 3)) / 8), lengths(7, 5, n=7)),
        ),
        Case(
            "long", f"{long} tokens: sums accumulate rounding", (rng.normal(size=(1, long, 2)), lengths(long, n=long))
        ),
    ]


def _unit_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    large, tiny = (1e4, 1e-6) if dtype == "float16" else (1e15, 1e-15)  # squares of float16 are not in its range
    return [
        Case("ordinary", "unit normal", (rng.normal(size=(4, 16)),)),
        Case("tiny norms", f"lengths near {tiny:g}: no eps is added to them", (tiny * rng.normal(size=(3, 5)),)),
        Case("large", f"numbers near {large:g}", (large * rng.uniform(0.5, 1, (3, 5)),)),
        Case("one axis", "one element decides", (np.eye(3, 8) * 50 + rng.normal(size=(3, 8)),)),
        Case("already", "of unit length but for rounding", (np.array([[0.6, -0.8], [-1.0, 0.0], [0.28, 0.96]]),)),
        Case("single", "one element: its sign", (np.array([[3.0], [-0.25], [1e-3]]),)),
        Case("long", "1500 elements: sums accumulate rounding", (rng.normal(size=(1, int(_resolved(1500, dtype)))),)),
    ]


def _taylor_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    grid = np.concatenate([np.linspace(-16, 8, 49), [0.0, 1e-4, -1e-4]])
    return [
        Case(
            f"order {order}",
            "where the terms cancel, and where they do not",
            (grid / (1 if order > 2 else 8),),
            {"order": order},
        )
        for order in (2, 4, 8, 16)
    ]


def _taylor_softmax_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    reversing = "left of the minimum the order reverses"
    return [
        *(Case(f"order {order}", reversing, (4 * rng.normal(size=(4, 9)),), {"order": order}) for order in (2, 4, 6)),
        Case("ascending", "the largest comes last", (np.linspace(0, 4, 5)[None, :],), {"order": 2}),
    ]


def _sparse_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    rows = _rows(rng, dtype)
    kept = {"ordinary": 4, "wide": 10, "large": 3, "offset": 5, "ties": 3, "single": 1, "long": 10, "minute": 3}
    steps = np.array([[1.0, 1, 2, 1, 2, 1], [-3, -3, -3, -3, -3, 5], [0.0, -0.0, 0, -1, -0.0, 0]])
    return [
        *(Case(name, f"{rows[name][0]}; k = {k}", (rows[name][1],), {"k": k}) for name, k in kept.items()),
        *(Case(f"last place {k}", "equal entries compete for the last place", (steps,), {"k": k}) for k in (1, 2, 3)),
        Case("all", "k = n is softmax", (rows["ordinary"][1],), {"k": 16}),
        Case("more", "k > n is softmax too", (rows["single"][1],), {"k": 10}),
        Case("apart", f"{rows['apart'][0]}; k = 2", (rows["apart"][1],), {"k": 2}),
    ]


def _sparse_softmax_chosen(x: Any, k: int) -> tuple[Callable[..., Any], ...]:
    kept = softmax.top_k_selection(x, k)
    return (lambda balls, k: softmax.masked_softmax(balls, kept),)


def _sparse_loss_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """The rows of sparse softmax, with targets at random, at the largest entry and at the smallest.

    In 16 bits the published difference leaves nothing of a loss that is small beside its logits: those cases need a wider dtype.
    """
    cases = []
    for case in _sparse_cases(rng, dtype):
        (x,) = case.arrays
        inside, outside = np.argmax(_rounded(x, dtype), -1), np.argmin(_rounded(x, dtype), -1)
        at_random = rng.integers(0, x.shape[-1], x.shape[:-1])
        cases += [
            Case(f"{case.id}, {where}", f"{case.hard}; {why}", (x, targets), case.params)
            for where, why, targets in (
                ("any", "targets at random", at_random),
                ("top", "the target is the largest: the loss is near 0", inside),
                ("bottom", "the target is the smallest, outside the k largest unless k >= n", outside),
            )
            if tolerance.BITS[dtype] > 16
            or (
                where != "top" and case.id not in ("large", "offset", "minute") and (case.id, where) != ("apart", "any")
            )
        ]
    return cases


def _sparse_loss_chosen(logits: Any, targets: Any, k: int) -> tuple[Callable[..., Any], ...]:
    """log Σ exp(s_j) - s_t as published, and log Σ exp(s_j - s_t), over the k largest: every row keeps as many, so they make an array."""
    kept = softmax.top_k_selection(logits, k)

    def parts(s: Any, ids: Any) -> tuple[Any, Any]:
        return s[kept].reshape(*s.shape[:-1], -1), np.take_along_axis(s, ids[..., None], axis=-1)

    def published(s: Any, ids: Any, k: int) -> Any:
        largest, target = parts(s, ids)
        return softmax.logsumexp(largest) - target[..., 0]

    def shifted(s: Any, ids: Any, k: int) -> Any:
        largest, target = parts(s, ids)
        return softmax.logsumexp(largest - target)

    return published, shifted


def _taylor_attention_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def qkv(n: int, m: int, d: int, size: float = 1.0) -> tuple[Any, Any, Any]:
        return size * rng.normal(size=(2, 2, n, d)), rng.normal(size=(2, 2, m, d)), rng.normal(size=(2, 2, m, 3))

    large, width = (
        _resolved(1e3, dtype),
        5 if tolerance.BITS[dtype] > 16 else 2,
    )  # d² terms are added up, and 8 bits do not bear many
    q, k, v = qkv(4, 6, 4)
    ones = np.ones((1, 1, 1, 4))
    few = (ones * np.array([[0.5], [1.0], [1.5]]), ones * np.array([[1.0], *5 * [[0.0]]]), np.eye(6, 3)[None, None])
    opposite = -q[..., :1, :] * np.sqrt(4) / np.sum(q[..., :1, :] ** 2, axis=-1, keepdims=True) + 0 * k
    return [
        Case(name, hard, arrays, {"causal": causal})
        for name, hard, arrays, causal in (
            ("full", "no mask", qkv(5, 7, 4), False),
            ("causal", "off by one leaks the future", qkv(6, 6, 4), True),
            ("cached", "three queries at the end of seven keys", qkv(3, 7, 4), True),
            ("one key", "the answer is the value", qkv(1, 1, width), False),
            ("one causal", "length 1", qkv(1, 1, width), True),
            ("width 1", "1/√d = 1", qkv(4, 5, 1), False),
            ("scale", "a missing 1/√d, or one too many, shows", qkv(4, 5, 2 * width - 1), False),
            ("large", f"scores near {large:g}: the square decides", qkv(4, 6, 4, large), False),
            ("large causal", f"scores near {large:g}", qkv(6, 6, 4, large), True),
            ("minimum", "scores of -1, where f_2 is smallest and its terms cancel", (q, opposite, v), False),
            ("long", "more positions than one chunk of 128", tuple(a[:1, :1] for a in qkv(133, 133, 2)), True),
            ("few", "one key of score 1, 2 or 3 beside five of score 0: every coefficient shows", few, False),
        )
    ]


def _taylor_attention_explicit(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """The same attention through its n x m weights f_2(s_ij)."""
    weights = taylor.exp_taylor(q @ np.swapaxes(k, -1, -2) / square_root(q.shape[-1], q), 2)
    if causal:
        weights = weights * np.tril(np.ones(weights.shape[-2:], bool), k.shape[-2] - q.shape[-2])
    return weights @ v / np.sum(weights, axis=-1, keepdims=True)


def _random_features_cases(options: dict[str, dict[str, Any]]) -> Callable[[np.random.Generator, str], list[Case]]:
    """Hard places of a feature map, for each of its named sets of conventions."""

    def cases(rng: np.random.Generator, dtype: str) -> list[Case]:
        large = (
            6.0 if tolerance.roundoff(dtype) < 2.0**-12 else 1.0
        )  # 16-bit answers below one rounding of 1 would pass as 0
        places = {
            "ordinary": ("unit normal, more features than a block", rng.normal(size=(2, 5, 4)), 6),
            "large": (f"magnitudes near {large:.2g}: |x|²/2 against W x", large / 2 * rng.normal(size=(1, 4, 4)), 8),
            "origin": ("the zero vector beside others: every exponent is 0 there", np.eye(5, 4, -1)[None], 4),
            "one feature": (
                "m = 1: the maximum over features is the feature",
                rng.normal(size=(2, 3, 2)),
                1,
            ),
        }
        drawn = [
            Case(f"{name}-{label}", hard, (x, favor.orthogonal_gaussian(rng, m, x.shape[-1])), params)
            for label, params in options.items()
            for name, (hard, x, m) in places.items()
        ]
        smallest = (
            tolerance.smallest_normal("float16") if dtype == "float16" else 0.0
        )  # epsilon must be a number of the dtype
        faint = [(label, params) for label, params in options.items() if params.get("shift", "none") != "none"]
        return drawn + [_faint(*each) for each in faint if each[1].get("epsilon", 0.0) > smallest]

    return cases


def _faint(label: str, params: dict[str, Any]) -> Case:
    """Two rows along (1, 1, 1, 1) which, scaled, have exp(-|x|²/2) = epsilon, and less."""
    lengths = np.sqrt(2 * np.log(1 / params["epsilon"]) * np.array([[1.0], [1.2]]))
    x, projection = lengths * np.full((1, 1, 4), np.sqrt(2) / 2), [[1.0, 0, 0, 0], [0, -1, 1, 0.5], [0, 0.5, 0, -2]]
    hard = "features no larger than epsilon: whether it is added, and where"
    return Case(f"faint-{label}", hard, (x, np.array(projection)), params)


_PLAIN: dict[str, Any] = {"scaled": False, "shift": "none", "normalized": True}
_FEATURE_MAPS: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "positive_features": (
        favor.positive_features,
        {
            "paper": {**_PLAIN, "epsilon": 0.0},
            "query": {"scaled": True, "shift": "row", "epsilon": 1e-4, "normalized": True},
            "key": {"scaled": True, "shift": "head", "epsilon": 1e-6, "normalized": True},
        },
    ),
    "trigonometric_features": (
        favor.trigonometric_features,
        {"paper": _PLAIN, "google": {"scaled": True, "shift": "head", "normalized": True}},
    ),
    "hyperbolic_features": (
        favor.hyperbolic_features,
        {"paper": _PLAIN, "norm": {"scaled": True, "shift": "norm", "normalized": True}},
    ),
    "relu_features": (
        favor.relu_features,
        {
            "paper": {"scaled": False, "epsilon": 1e-3, "normalized": True},
            "pytorch": {"scaled": True, "epsilon": 1e-3, "normalized": False},
            "inside": {"scaled": False, "epsilon": 1e-3, "normalized": "inside"},
        },
    ),
}


def _favor(
    q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str, kernel: str = "softmax"
) -> Any:
    return favor.favor_attention(q, k, v, projection, mask=mask, causal=causal, dialect=dialect, kernel=kernel)


def _favor_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    rough = (
        dtype == "bfloat16"
    )  # 8 bits of an exponent leave few of the weights: there the columns of V tell answers from nothing
    small, columns = (0.1, np.array([4.0, -8.0, 16.0, -2.0])) if rough else (1.0, np.zeros(4))

    def drawn(n: int, m: int, spread: float = small) -> tuple[Any, ...]:
        q, k = (spread * rng.normal(size=(2, 2, rows, 2 if rough else 4)) for rows in (n, m))
        v = columns + rng.normal(size=(2, 2, m, 4))
        return q, k, v, favor.orthogonal_gaussian(rng, 2 if rough else 8, q.shape[-1])

    def placed(keys: Any) -> tuple[Any, ...]:
        """Two queries and four keys of width 4, given as they are after scaling, and each key's weight as the answer."""
        q, k = np.sqrt(2) * np.array([[[[-1.0, 0, 0, 0], [0, 0, 0, 0]]]]), np.sqrt(2) * np.asarray(keys)[None, None]
        return q, k, np.eye(4)[None, None], np.array([[2.0, 0, 0, 0], [0, 1, 0.5, 0]])

    padding = np.arange(6) < np.array([6, 4])[:, None, None]
    q, k, v, projection = drawn(6, 6)
    loud = (q, np.where(padding[..., None], k, 20.0), v, projection)
    wide = 2.0 if tolerance.roundoff(dtype) < 2.0**-12 else small
    steep = [[0.0, 0, 0, 0], [0, 0, 0, 2], [-1, 0, 0, 0], [0, -1.5, 0, 0]]  # no exponent is above the first key's
    faint, fainter = (
        [[0, 0, 0, np.sqrt(2 * h)] for h in halves] for halves in ((9, 9.5, 10, 12), (13.5, 14, 14.5, 16))
    )
    cases = [
        Case(f"{name}-{dialect}", hard, arrays, {"mask": mask, "causal": causal, "dialect": dialect})
        for dialect in favor.dialects
        for name, hard, arrays, mask, causal in (
            ("full", "all keys; which epsilon, and where", drawn(5, 7), None, False),
            ("causal", "prefix sums; off by one leaks the future", drawn(6, 6), None, True),
            ("cached", "three queries at the end of seven keys", drawn(3, 7), None, True),
            ("loud padding", "masked keys must not enter sums nor maxima", loud, padding, False),
            ("wide", f"inputs of scale {wide:.2g}: the epsilons decide", drawn(4, 4, wide), None, True),
            ("steep", "across and along the projection: scale and |x|²/2 show in 8 bits", placed(steep), None, False),
            (
                "one hidden",
                "the key of the largest weight is masked",
                placed(steep),
                np.arange(4)[None, None] > 0,
                False,
            ),
            ("faint", "keys of features near 10⁻⁴: an epsilon as large shows", placed(faint), None, False),
            ("fainter", "keys of features near 10⁻⁶: an epsilon as large shows", placed(fainter), None, True),
        )
    ]
    return [
        case for case in cases if not (rough and case.id.startswith("faint"))
    ]  # 8 bits of such exponents leave nothing


def _copy_labels(source: Any, target: Any) -> Any:
    labels, xp = copying.copy_labels(source, target), namespace(source, target)
    return xp.asarray([*labels.source, *labels.target], dtype=xp.int64, device=device_of(source))


def _copy_labels_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def case(name: str, hard: str, source: Any, target: Any) -> Case:
        return Case(name, hard, (np.array(source, np.int64), np.array(target, np.int64)))

    long = rng.integers(0, 9, 150)
    return [
        case("summary", "two spans of a source, a word between them", [7, 1, 2, 3, 4, 5, 6], [2, 3, 9, 5, 6]),
        case("the same", "one span", [3, 1, 4, 1, 5], [3, 1, 4, 1, 5]),
        case(
            "adjacent in the target", "the second token begins a span: not adjacent in the source", [1, 8, 2], [1, 2, 9]
        ),
        case(
            "adjacent in the source", "the second token begins a span: not adjacent in the target", [1, 2, 9], [1, 8, 2]
        ),
        case("one of two", "equal lengths: the later token of the target is kept", [1, 2], [2, 1]),
        case("ties", "many longest common subsequences", [1, 2, 1, 3, 2, 1, 4], [2, 1, 2, 4, 1, 3]),
        case("twice in the source", "the last occurrence, as nothing follows it", [6, 1, 2, 6, 1], [6, 1]),
        case(
            "twice in the source, and more",
            "an occurrence that leaves room for what follows",
            [6, 1, 2, 6, 1],
            [6, 1, 2],
        ),
        case("twice in the target", "one of two equal tokens is copied", [4, 5, 6], [5, 5]),
        case(
            "walk", "the earlier of two equal tokens of the source, since the walk passes the other", [1, 3, 1], [1, 4]
        ),
        case("greedy", "taking the first common token loses two", [1, 2, 3, 4], [4, 1, 2, 3]),
        case("nearly nothing", "one common token", [1, 2, 3], [7, 8, 2, 9]),
        case("one token", "length 1", [5], [5]),
        case("large ids", "70001 and 4465 are equal to 16 bits", [4465, 7, 70002], [70001, 7, 70002]),
        case(
            "two kinds",
            "random, so that most subsequences are not unique",
            rng.integers(0, 2, 23),
            rng.integers(0, 2, 17),
        ),
        case("three kinds", "random", rng.integers(0, 3, 40), rng.integers(0, 3, 12)),
        case(
            "long",
            "pieces of a source of 150 tokens in their order",
            long,
            np.concatenate([long[20:33], long[31:60], long[90:94]]),
        ),
        case(
            "long, disordered",
            "pieces out of order: some are lost",
            long,
            np.concatenate([long[100:120], long[5:40], long[110:140]]),
        ),
    ]


def _copy_step(tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str) -> Any:
    return copying.copy_step(tag_scores, states, source, emitted, vocab_size=vocab_size, dialect=dialect)[0]


def _copy_states(tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str) -> Any:
    return copying.copy_step(tag_scores, states, source, emitted, vocab_size=vocab_size, dialect=dialect)[1]


_O, _B, _I = np.eye(3) / 2 + 0.25  # scores of a clear tag, in every dtype


def _copy_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def case(name: str, hard: str, source: Any, rows: Any, dialect: str = "corrected", vocab_size: int = 9) -> Case:
        scores, states, emitted = zip(*rows, strict=True)
        arrays = (
            np.stack(scores),
            np.array(states, np.int64),
            np.array(source, np.int64),
            np.array(emitted, np.int64).reshape(len(rows), -1),
        )
        return Case(f"{name}-{dialect}", hard, arrays, {"vocab_size": vocab_size, "dialect": dialect})

    def tags(*orders: Any) -> list[Any]:
        return [(np.array(order) / 8.0, state, [3, 1]) for order in orders for state in (0, 1)]

    source, ulp = [5, 1, 2, 3, 1, 2, 4, 6, 2, 3, 6], 2 * tolerance.roundoff(dtype)
    orders = tags((4, 2, 1), (4, 1, 2), (2, 4, 1), (1, 4, 2), (2, 1, 4), (1, 2, 4))
    equal = tags((3, 3, 2), (3, 2, 3), (2, 3, 3), (3, 3, 3), (0, 0, 8), (0, 0, 0))
    negative = tags((-1, -2, -5), (-5, -2, -1), (-2, -1, -6), (-4, -4, -4), (-8, -9, 2))
    near = [
        (1 + ulp * np.array(order), s, [1]) for order in ((0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 1, 1)) for s in (0, 1)
    ]
    spans = [
        (_I, 1, [8, 1, 2]),
        (_I, 2, [8, 1, 2]),
        (_I, 3, [5, 1, 2]),
        (_I, 3, [3, 1, 2]),
        (_I, 1, [1, 2, 3]),
        (_I, 2, [1, 2, 3]),
    ]
    ends = [
        (_I, 3, [2, 3, 6]),
        (_I, 2, [2, 3, 6]),
        (_I, 1, [2, 3, 6]),
        (_I, 1, [1, 2, 5]),
        (_I, 1, [1, 2, 7]),
        (_I, 3, [1, 1, 2]),
    ]
    long = rng.integers(0, 30, 120)
    copied = [
        (_I, m, np.concatenate([rng.integers(0, 30, 24 - m), long[i : i + m]]))
        for m, i in ((1, 3), (2, 50), (3, 7), (24, 80), (20, 100), (9, 60))
    ]
    return [
        each
        for dialect in copying.dialects
        for each in (
            case("orders", "every order of the three scores, in states 0 and 1", source, orders, dialect),
            case("equal scores", "of equal ones O comes before B, and B before I", source, equal, dialect),
            case("negative scores", "logits: barring I and negating its score differ", source, negative, dialect),
            case("near", "scores that differ in their last bit", source, near, dialect),
            case("first step", "nothing is emitted yet", source, [(tag, 0, []) for tag in (_O, _B, _I)], dialect),
            case(
                "spans",
                "one, two or three tokens have to be found in the source: each allows something else",
                source,
                spans,
                dialect,
            ),
            case("ends", "spans that end the source, or are not in it: begun anew", source, ends, dialect),
            case(
                "one token",
                "a source of one token: nothing continues it",
                [7],
                [(_I, 1, [7]), (_B, 1, [7]), (_O, 1, [7]), (_B, 0, [2])],
                dialect,
            ),
            case(
                "repeated",
                "the same token throughout: a span runs up to the source's length",
                [4] * 4,
                [(_I, s, [4] * 5) for s in range(6)],
                dialect,
            ),
            case(
                "beams",
                "one text in six states",
                source,
                [(_I, s, [2, 3, 5, 1, 2]) for s in range(5)] + [(_O, 2, [2, 3, 5, 1, 2])],
                dialect,
            ),
            case("long", "a source of 120 tokens, spans of up to 24", long, copied, dialect, 40),
        )
    ]


def _copy_loss(tag_logits: Any, labels: Any, segment_ids: Any) -> Any:
    return namespace(tag_logits).reshape(copying.copy_loss(tag_logits, labels, segment_ids), (1,))


def _copy_loss_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    def case(name: str, hard: str, n: int, spans: list[tuple[int, int]], logits: Any = None) -> Case:
        segments = np.array([[begin <= t < end for t in range(n)] for begin, end in spans]).astype(np.int64)
        drawn = 2 * rng.normal(size=(len(spans), n, 3)) if logits is None else logits
        return Case(name, hard, (drawn, rng.integers(0, 3, (len(spans), n - 1)), segments))

    large = _resolved(300, dtype)
    behind = np.arange(9)[:, None] >= np.array([6, 8])[:, None, None]
    return [
        case("full", "source and target, no padding: the last position alone is not trained", 7, [(4, 7)]),
        case(
            "padding",
            "rows of 9, 6 and 4 tokens: what is behind the target is not trained",
            9,
            [(5, 9), (3, 6), (2, 4)],
        ),
        case("uneven", "the mean is over tokens, not over rows", 12, [(8, 12), (1, 2)]),
        case("short", "a source and a target of one token", 2, [(1, 2), (1, 2)]),
        case(
            "loud padding",
            "logits of 200 behind the target",
            9,
            [(4, 6), (3, 8)],
            np.where(behind, 200.0 * np.array([1, -1, 0]), rng.normal(size=(2, 9, 3))),
        ),
        case(
            "large",
            f"logits near {large:g}: exp overflows unless shifted",
            6,
            [(3, 6)],
            large * rng.uniform(-1, 1, (1, 6, 3)),
        ),
        case(
            "offset",
            "a common offset of a token's logits drops out",
            8,
            [(4, 8)],
            rng.normal(size=(1, 8, 3)) + 4 * rng.integers(-3, 4, (1, 8, 1)),
        ),
        Case(
            "one trained",
            "a position too many is one that is badly wrong",
            (np.array([[[1.0, 0, 0], [4, 0, -1], [0, 0, 5]]]), np.array([[0, 1]]), np.array([[0, 1, 0]])),
        ),
    ]


def recorded_gpt2(name: str) -> tuple[gpt2.GPT2Config, dict[str, Any], dict[str, Any]]:
    """A recorded tiny model: its configuration, its parameters (float32, by our names) and the oracle's answers."""
    folder = RECORDED / name
    config = scheme.read_config(folder / "model" / "config.json")
    checkpoint = weights_io.open(folder / "model")
    arrays = {ours: checkpoint[theirs] for ours, theirs in scheme.file_names(checkpoint).items()}
    answers = folder / "answers.safetensors"
    return config, arrays, dict(weights_io.open(answers)) if answers.is_file() else {}


def model_logits(name: str, config: Any, arrays: dict[str, Any], *inputs: Any, **params: Any) -> Any:
    """What a component in `MODELS` computes, with these parameters, by the definition: logits, zero at padding."""
    mask = inputs[-1]
    if name in ENCODERS:
        return encoder_logits(config, arrays, *inputs, **params) * mask[..., None]
    weights = gpt2.GPT2Weights.from_named(arrays, config)
    return gpt2.logits(weights, config, inputs[0], mask=mask) * mask[..., None]


def _gpt2(token_ids: Any, mask: Any) -> Any:
    """Logits of the recorded tiny model on balls, zero at padding."""
    config, arrays = recorded_model("gpt2")
    return model_logits("gpt2", config, {name: truth.balls(a) for name, a in arrays.items()}, token_ids, mask)


def parameter_rounding(name: str, dtype: str, *inputs: Any, **params: Any) -> Any:  # -> float64 (batch, n, vocab)
    """How far the exact answer of a component in `MODELS` moves, in units of u, if its float32 parameters are rounded to `dtype` first.

    Everybody who rounds to nearest has the same parameters, so that this is one number for each element, and nothing that is sampled: the
    difference of two runs of the definition in float64, with errors within 2^-42 of the tolerance. It is 0 where the dtype has float32's numbers.
    """
    config, arrays = recorded_model(name)
    doubles = {key: np.asarray(a, np.float64) for key, a in arrays.items()}
    short = {key: a.astype(tolerance.DTYPES[dtype]).astype(np.float64) for key, a in doubles.items()}
    one, other = (np.asarray(model_logits(name, config, each, *inputs, **params)) for each in (doubles, short))
    return np.abs(other - one) / tolerance.roundoff(dtype)


def unit_budget(
    config: gpt2.GPT2Config, arrays: dict[str, Any], token_ids: Any, mask: Any = None, *, seed: int = 0
) -> Any:  # -> float64 (batch, length, vocab)
    """The sampled budget of a GPT-2's logits (`perturbed.sigmas` deviations), as a multiple of the unit roundoff."""
    doubles = {name: np.asarray(a, np.float64) for name, a in arrays.items()}
    given = np.ones(np.shape(token_ids), bool) if mask is None else np.asarray(mask)

    def run(wrap: Callable[[Any], Any]) -> Any:
        weights = gpt2.GPT2Weights.from_named({name: wrap(a) for name, a in doubles.items()}, config)
        return gpt2.logits(weights, config, wrap(np.asarray(token_ids)), mask=wrap(given))

    return _deviations(run, seed)


def _deviations(run: Callable[[Callable[[Any], Any]], Any], seed: int = 0) -> Any:
    deviation = perturbed.sampled_deviation(run, roundoff=1.0, seed=seed, noise=perturbed.ReproducibleNoise)
    return perturbed.sigmas(deviation.size) * deviation


def _layer_amplification(definition: Callable[..., Any]) -> Callable[..., Any]:
    def amplification(*arrays: Any, **params: Any) -> Any:
        return _deviations(lambda wrap: definition(*map(wrap, arrays), **params))

    return amplification


def _gpt2_amplification(token_ids: Any, mask: Any) -> Any:
    config, arrays, _ = recorded_gpt2("gpt2_tiny")
    return unit_budget(config, arrays, token_ids, mask) * mask[..., None]


def _gpt2_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    ids = rng.integers(0, 61, (3, 12))
    padded = np.arange(12) >= np.array([0, 5, 11])[:, None]
    return [
        Case("full", "twelve tokens, no padding; logits of every position", (ids[:2], np.ones((2, 12), bool))),
        Case("left padding", "rows of 12, 7 and 1 tokens; logits at padding must be set to 0", (ids, padded)),
        Case("one token", "a prompt of one token", (ids[:, :1], np.ones((3, 1), bool))),
    ]


def recorded_bert(name: str) -> tuple[bert.BertConfig, dict[str, Any]]:
    """A recorded tiny encoder, "bert" or "nezha": its configuration and its parameters (float32, by our names)."""
    model = refimpl.load(RECORDED / ENCODERS[name], backend="numpy", dtype="float32")
    return model.config, model.weights.named()


def recorded_model(name: str) -> tuple[Any, dict[str, Any]]:
    """The model that a component in `MODELS` is of: its configuration and its parameters (float32, by our names)."""
    if name in ENCODERS:
        return recorded_bert(name)
    config, arrays, _ = recorded_gpt2(f"{name}_tiny")
    return config, arrays


def encoder_logits(
    config: bert.BertConfig, arrays: dict[str, Any], token_ids: Any, segment_ids: Any, mask: Any, application: Any
) -> Any:  # -> (batch, n, vocab)
    """The masked-LM logits of an encoder with these parameters, by the definition."""
    weights = bert.BertWeights.from_named(arrays, config)
    hidden = bert.encode(weights, config, token_ids, segment_ids, mask=mask, application=application)
    return bert.masked_lm_logits(weights, config, hidden)


def _encoder(name: str) -> Callable[..., Any]:
    def definition(token_ids: Any, segment_ids: Any, mask: Any, application: str) -> Any:
        """Masked-LM logits of the recorded encoder on balls, zero at padding."""
        config, arrays = recorded_bert(name)
        exactly = {key: truth.balls(a) for key, a in arrays.items()}
        return model_logits(name, config, exactly, token_ids, segment_ids, mask, application=application)

    return definition


def _encoder_amplification(name: str) -> Callable[..., Any]:
    def amplification(token_ids: Any, segment_ids: Any, mask: Any, application: str) -> Any:
        config, arrays = recorded_bert(name)
        doubles = {key: a.astype(np.float64) for key, a in arrays.items()}

        def run(wrap: Callable[[Any], Any]) -> Any:
            inputs = map(wrap, (token_ids, segment_ids, mask))
            return encoder_logits(config, {key: wrap(a) for key, a in doubles.items()}, *inputs, application)

        return _deviations(run) * mask[..., None]

    return amplification


def _encoder_cases(name: str) -> Callable[[np.random.Generator, str], list[Case]]:
    def cases(rng: np.random.Generator, dtype: str) -> list[Case]:
        def case(
            label: str, hard: str, ids: Any, segments: Any, real: Any = None, application: str = "encoder"
        ) -> Case:
            mask = np.ones(ids.shape, bool) if real is None else np.arange(ids.shape[1]) < np.array(real)[:, None]
            parts = np.broadcast_to(segments, ids.shape).astype(np.int64)
            return Case(label, hard, (ids, parts, mask), {"application": application})

        ids = rng.integers(1, 60, (3, 8))  # id 0 is padding by convention, which here only the mask says
        halves = np.arange(8) >= np.array([3, 5, 2])[:, None]
        target = halves & (np.arange(8) < np.array([8, 7, 4])[:, None])  # what is behind the target has segment 0
        longest = 70 if name == "nezha" else 24
        reason = "distances beyond 64 are clipped" if name == "nezha" else "every row of the position table"
        return [
            case("full", "one segment, no padding", ids[:1], 0),
            case("padding", "rows of 8, 4 and 1 tokens; logits at padding must be set to 0", ids, 0, [8, 4, 1]),
            case("two segments", "segment 1 begins at tokens 3 and 5", ids[:2], halves[:2]),
            case("one token", "attention over one key", ids[:, :1], 0),
            case("one word", "the same token everywhere: positions alone tell places apart", np.full((1, 5), 7), 0),
            case("longest", reason, rng.integers(1, 60, (1, longest)), 0),
            case("lm", "each token sees those before it; padding behind", ids[1:], 0, [8, 3], "lm"),
            case("unilm", "source whole, target up to itself", ids[:2], halves[:2], None, "unilm"),
            case("unilm padding", "padding has the source's segment", ids[1:], target[1:], [7, 4], "unilm"),
        ]

    return cases


COMPONENTS: dict[str, Component] = {
    each.name: each
    for each in (
        Component("softmax", "f(x)                    (..., n) -> (..., n)", softmax.softmax, _along_rows),
        Component("log_softmax", "f(x)                    (..., n) -> (..., n)", softmax.log_softmax, _along_rows),
        Component("logsumexp", "f(x)                    (..., n) -> (...)", softmax.logsumexp, _logsumexp_cases),
        Component(
            "gelu",
            'f(x, approximate="tanh"|"none")',
            activation.gelu,
            _gelu_cases,
            ("tanh", "none"),
            (_gelu_published,),
        ),
        Component("layer_norm", "f(x, scale, bias, eps)", normalization.layer_norm, _layer_norm_cases),
        Component(
            "attention",
            "f(q, k, v, mask)        (b,h,n,d), (b,h,m,d) twice, bool or None",
            _attention,
            _attention_cases,
            documented=attention.scaled_dot_product_attention,
        ),
        Component(
            "residual_attention",
            "f(q, k, v, previous_scores, mask, mean_over)",
            _residual_attention,
            _residual_cases,
            documented=attention.scaled_dot_product_attention,
        ),
        Component(
            "relative_attention",
            "f(q, k, v, relative, mask)",
            _relative_attention,
            _relative_cases,
            documented=attention.scaled_dot_product_attention,
        ),
        Component(
            "hierarchical_positions",
            "f(table, positions, alpha)",
            positions.hierarchical_positions,
            _hierarchical_cases,
            forms=(_hierarchical_throughout,),
        ),
        Component(
            "mean_pooling",
            "f(hidden, mask)         (b,n,d), bool (b,n) with a true in every row -> (b,d)",
            pooling.mean_pooling,
            _mean_cases,
        ),
        Component("unit_length", "f(x)                    (..., d) -> (..., d)", pooling.unit_length, _unit_cases),
        Component("exp_taylor", "f(x, order)", taylor.exp_taylor, _taylor_cases),
        Component("taylor_softmax", "f(x, order)", taylor.taylor_softmax, _taylor_softmax_cases),
        Component(
            "taylor_attention",
            "f(q, k, v, causal)      (b,h,n,d), (b,h,m,d), (b,h,m,e); scores q.k/√d",
            taylor.taylor_attention,
            _taylor_attention_cases,
            forms=(_taylor_attention_explicit,),
        ),
        Component(
            "sparse_softmax",
            "f(x, k)                 (..., n) -> (..., n); ties: lower index first",
            softmax.sparse_softmax,
            _sparse_cases,
            chosen=_sparse_softmax_chosen,
        ),
        Component(
            "sparse_softmax_cross_entropy",
            "f(logits, targets, k)   (..., n), int (...) -> (...)",
            softmax.sparse_softmax_cross_entropy,
            _sparse_loss_cases,
            chosen=_sparse_loss_chosen,
        ),
        Component(
            "mitchell_multiply",
            "f(a, b, dialect)        (n,1), (n,1) or (1,m) -> what they broadcast to",
            logarithmic.multiply,
            logarithmic.multiply_cases,
            logarithmic.DIALECTS,
            chosen=logarithmic.multiply_chosen,
            documented=mitchell.multiply,
        ),
        Component(
            "mitchell_divide",
            "f(a, b, dialect)        (n,1) twice -> (n,1)",
            logarithmic.divide,
            logarithmic.divide_cases,
            logarithmic.DIALECTS,
            chosen=logarithmic.divide_chosen,
            documented=mitchell.divide,
        ),
        Component(
            "mitchell_log2",
            "f(x)                    (n,1) -> (n,1)",
            mitchell.log2_approx,
            logarithmic.log2_cases,
            chosen=logarithmic.log2_chosen,
        ),
        Component(
            "mitchell_exp2",
            "f(x)                    (n,1) -> (n,1)",
            mitchell.exp2_approx,
            logarithmic.exp2_cases,
            chosen=logarithmic.exp2_chosen,
        ),
        Component(
            "mitchell_corrected",
            "f(a, b)                 (n,1) twice -> (n,1)",
            mitchell.corrected_multiply,
            logarithmic.corrected_cases,
            chosen=logarithmic.corrected_chosen,
        ),
        Component(
            "mitchell_power",
            "f(x, y, product)        (n,1) twice -> (n,1); x > 0, product of y with both parts of the logarithm",
            logarithmic.power,
            logarithmic.power_cases,
            logarithmic.PRODUCTS,
            chosen=logarithmic.power_chosen,
            documented=mitchell.power,
        ),
        Component(
            "mitchell_matmul",
            "f(a, b, dialect)        (n,k), (k,m) -> (n,m)",
            logarithmic.matmul,
            logarithmic.matmul_cases,
            logarithmic.DIALECTS,
            chosen=logarithmic.matmul_chosen,
            documented=mitchell.matmul,
        ),
        Component(
            "mitchell_square_root",
            "f(x)                    (n,1) -> (n,1)",
            mitchell.square_root,
            logarithmic.square_root_cases,
            chosen=logarithmic.square_root_chosen,
        ),
        *(
            Component(
                f"mitchell_{name}_patterns",
                "f(a, b, format, dialect)        int64 (n,) twice, bit patterns of the format (of float64 as signed numbers) -> int64 (n,); "
                "every NaN is the positive quiet one without payload",
                definition,
                cases,
                known,
                documented=documented,
                exact="int64",
            )
            for name, definition, documented, cases, known in (
                (
                    "multiply",
                    logarithmic.multiply_patterns,
                    mitchell_patterns.multiply,
                    logarithmic.multiply_patterns_cases,
                    mitchell_patterns.dialects,
                ),
                (
                    "divide",
                    logarithmic.divide_patterns,
                    mitchell_patterns.divide,
                    logarithmic.divide_patterns_cases,
                    mitchell_patterns.dialects[:2],
                ),
            )
        ),
        Component(
            "mitchell_multiply_words",
            "f(a, b, kind)        int64 (n,) twice, the bits of uint64 or int64 numbers -> int64 (2,n), the bits of the high and the low words",
            logarithmic.multiply_words,
            logarithmic.multiply_words_cases,
            exact="int64",
        ),
        *(
            Component(
                f"mitchell_{name}_integer",
                "f(a, b, kind)        int64 (n,) twice, numbers of the dtype that kind names -> int64 (n,)",
                definition,
                cases,
                exact="int64",
            )
            for name, definition, cases in (
                ("multiply", logarithmic.multiply_whole, logarithmic.multiply_whole_cases),
                ("divide", logarithmic.divide_whole, logarithmic.divide_whole_cases),
            )
        ),
        Component(
            "copy_labels",
            "f(source, target)       ids (n,), ids (m,) -> int64 (n+m): 0 (O), 1 (B) or 2 (I) for every token of the source, then of the target",
            _copy_labels,
            _copy_labels_cases,
            documented=copying.copy_labels,
            exact="int64",
        ),
        Component(
            "copy_step",
            "f(tag_scores, states, source, emitted, vocab_size, dialect)        (r,3) of O, B, I; int (r,); ids (n,); ids (r,t) "
            "-> bool (r,vocab_size), true for tokens that may be next",
            _copy_step,
            _copy_cases,
            copying.dialects,
            documented=copying.copy_step,
            exact="bool",
        ),
        Component(
            "copy_states",
            "f(tag_scores, states, source, emitted, vocab_size, dialect)        as copy_step -> int64 (r,): the new states",
            _copy_states,
            _copy_cases,
            copying.dialects,
            documented=copying.copy_step,
            exact="int64",
        ),
        Component(
            "copy_loss",
            "f(tag_logits, labels, segment_ids)        (b,n,3), int (b,n-1), int (b,n) of 0 and 1 -> (1,)",
            _copy_loss,
            _copy_loss_cases,
            documented=copying.copy_loss,
        ),
        Component(
            "copy_beam_search",
            "f(scores, tag_scores, source, start, end, beams, dialect)        logits by step and last token (t,v,v), (t,v,3) of O, B, I; ids (n,) "
            "-> int64 (t,): the best text, -1 behind it",
            beams.copy_beam_search,
            beams.copy_beam_search_cases,
            seq2seq.dialects,
            documented=seq2seq.generate,
            exact="int64",
            families=("bfloat16",),
        ),
        Component(
            "rouge",
            "f(hypothesis, reference, epsilon, dialect)        code points (n,), (m,), units are characters; the dialect's ε (1,) "
            "-> (3,3): precision, recall, f of ROUGE-1, -2, -L",
            extraction.rouge_scores,
            extraction.rouge_cases,
            rouge.dialects,
            forms=(extraction.rouge_scores_by_reciprocals,),
            documented=rouge.rouge,
            families=("bfloat16", "float32"),
        ),
        Component(
            "split_sentences",
            "f(text)                 code points (n,) -> int64 (n,): the number of the sentence that a character is in, -1 for what is dropped",
            extraction.split_sentences,
            extraction.split_sentences_cases,
            documented=sentences.split,
            exact="int64",
        ),
        Component(
            "match_sentences",
            "f(texts, summaries, dialect)        code points (s,n), (r,m), -1 behind -> int64 (r,2): (i, j), sentence i of the summary goes with j",
            extraction.match_sentences,
            extraction.match_sentences_cases,
            rouge.dialects,
            documented=labels.match,
            exact="int64",
        ),
        Component(
            "extend_embedding",
            "f(table, kept, pieces)        (v,d), ids (k,), places among them (w,p), -1 behind -> (k+w,d): the rows kept, then means",
            extraction.extend_embedding,
            extraction.extend_embedding_cases,
            documented=words.extend_embedding,
            families=("bfloat16", "float64"),
        ),
        *(
            Component(
                name, f"f(x, projection, {', '.join(options['paper'])})", function, _random_features_cases(options)
            )
            for name, (function, options) in _FEATURE_MAPS.items()
        ),
        Component(
            "favor_attention",
            "f(q, k, v, projection, mask, causal, dialect)        (b,h,n,d), (b,h,m,d) twice, (r,d), bool (b,1,m) or None",
            _favor,
            _favor_cases,
            tuple(favor.dialects),
            documented=favor.favor_attention,
        ),
        Component(
            "gpt2_block",
            f"f(x, mask, {', '.join(layers.PARAMETERS)}, heads, eps)        (b,n,d), bool (b,n), parameters, weights (in,out) -> (b,n,d)",
            layers.gpt2_block,
            layers.gpt2_block_cases,
            sampled=_layer_amplification(layers.gpt2_block),
        ),
        Component(
            "bert_block",
            f"f(x, mask, previous_scores, {', '.join(layers.PARAMETERS)}, heads, eps)        (b,n,d), bool (b,n), (b,h,n,n), parameters -> (b,n,d)",
            layers.bert_block,
            layers.bert_block_cases,
            sampled=_layer_amplification(layers.bert_block),
        ),
        Component(
            "dgcnn",
            f"f(vectors, mask, {', '.join(summarizing.PARAMETERS)}, eps)        (b,n,in), bool (b,n), (in,w), (6,k,w,2w), (6,2w), (6,w) twice, (6,), "
            "(w,1), (1,) -> (b,n); dilations 1, 2, 4, 8, 1, 1",
            summarizing.dgcnn,
            summarizing.dgcnn_cases,
            documented=extractor.sentence_logits,
            sampled=_layer_amplification(summarizing.dgcnn),
            families=("bfloat16",),  # whose numbers serve all dtypes
        ),
        Component(
            "gpt2",
            "f(token_ids, mask)      logits of validation/recorded/gpt2_tiny/model",
            _gpt2,
            _gpt2_cases,
            documented=gpt2.logits,
            sampled=_gpt2_amplification,
        ),
        *(
            Component(
                name,
                f"f(token_ids, segment_ids, mask, application)        masked-LM logits of validation/recorded/{path}",
                _encoder(name),
                _encoder_cases(name),
                bert.APPLICATIONS,
                sampled=_encoder_amplification(name),
            )
            for name, path in ENCODERS.items()
        ),
    )
}


def _backward(each: backwards.Backward) -> Component:
    """The backward pass of a component: its inputs and a cotangent of its answer, to the cotangents of its arguments."""
    forward = COMPONENTS[each.forward]

    def cases(rng: np.random.Generator, dtype: str) -> list[Case]:
        return backwards.cases(each, forward, rng, dtype)

    return Component(
        each.name,
        each.signature,
        backwards.definition(each),
        cases,
        forward.dialects if each.dialects is None else each.dialects,
        forms=each.forms,
        chosen=each.chosen,
        documented=each.rule,
        sampled=_layer_amplification(each.forms[0]) if forward.sampled else None,  # the form that errs more
        backward=each,
        families=each.families,
    )


COMPONENTS |= {each.name: _backward(each) for each in backwards.BACKWARDS}


def component(name: str) -> Component:
    """The component called `name`; raises ConfigError that lists the names there are."""
    if name not in COMPONENTS:
        raise ConfigError("unknown component", expected=", ".join(COMPONENTS), got=repr(name))
    return COMPONENTS[name]
