"""Backward passes as components: derived from the rule of a definition (`refimpl.gradients`) and from the forward component.

    f.vjp(the arrays of f, cotangent, the parameters of f) = the cotangents of the arguments that the rule names, in its order

The cotangent has the shape of f's answer. One cotangent that comes out is an array of the shape of its argument; several are *joined*: each in C
order, one after the other, in one axis. `validation.check` joins them for functions that return a tuple.

Nothing but the cases is written here: the definition is the rule itself (so that the truth is its pullback run on balls), the forward component gives
signature, inputs and dialects, `validation.scalar.differences` differentiates the forward component's second program, and `validation.targets.routes`
asks torch and JAX for the derivative of the forward component's routes. What is hard about a case is its forward input, or its cotangent.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl import (
    activation,
    attention,
    copying,
    favor,
    gradients,
    normalization,
    pooling,
    positions,
    softmax,
    special,
    taylor,
)
from refimpl.number_system import exact, namespace, pi, square_root
from validation import layers
from validation.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BACKWARDS", "Backward", "Trial", "cases", "definition", "joined", "place", "separate", "wrong_part"]

SUFFIX = ".vjp"


@dataclass(frozen=True)
class Trial:
    """A case of the forward component, made small, and the cotangent that comes with it."""

    name: str
    hard: str  # "" leaves what the forward case says
    of: str  # the forward case
    cotangent: Callable[[np.random.Generator, tuple[int, ...]], Any]
    cut: Callable[..., tuple[Any, ...]] | None = None  # the arrays, made small
    mask: Callable[[Any], Any] | None = None  # the mask, made small
    kink: bool = False  # equal numbers compete: there is a stated subgradient, and no difference quotient


@dataclass(frozen=True)
class Backward:
    """The backward pass of a component."""

    forward: str  # the component
    rule: Callable[..., Any]  # the rule `..._vjp` of its definition
    names: tuple[str, ...]  # of the call: the arrays, then the parameters
    arguments: tuple[str, ...]  # those of the arrays that get a cotangent, in the rule's order
    trials: tuple[Trial, ...]
    shape: Callable[..., tuple[int, ...]]  # the shape of the forward answer, from the arrays of the call
    call: Callable[..., Any] | None = None  # how the rule is called with the forward component's arguments; None: alike
    label: str = ""  # what it is the backward pass of, if that is not the component itself
    dialects: tuple[str, ...] | None = None  # None: those of the forward component
    forms: tuple[Callable[..., Any], ...] = ()
    chosen: Callable[..., tuple[Callable[..., Any], ...]] | None = None
    fixed: Callable[..., dict[str, Any]] = (
        lambda *arrays: {}
    )  # parameters of the forward component that the call does not have
    families: tuple[str, ...] = ("bfloat16", "float64")  # dtypes for which vectors are drawn
    arrays: int = 0  # how many of `names` are arrays; 0: as many as get a cotangent

    @property
    def name(self) -> str:
        """What the component is called."""
        return (self.label or self.forward) + SUFFIX

    @property
    def kinks(self) -> tuple[str, ...]:
        """The trials at which there is no derivative."""
        return tuple(trial.name for trial in self.trials if trial.kink)

    @property
    def given(self) -> tuple[str, ...]:
        """The arrays of the forward call."""
        return self.names[: self.arrays or len(self.arguments)]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The arguments of the backward call, in order."""
        return (*self.given, "cotangent", *self.names[len(self.given) :])

    @property
    def signature(self) -> str:
        """What the call looks like, and what it answers."""
        answer = f"the cotangent of {self.arguments[0]}, in its shape"
        if len(self.arguments) > 1:
            answer = f"the cotangents of {', '.join(self.arguments)}, flattened and joined in this order"
        return f"f({', '.join(self.parameters)})        cotangent: of the forward answer, in its shape -> {answer}"


# --- the definition, and what it answers ------------------------------------------------------------------------------------------


def joined(parts: Iterable[Any]) -> Any:  # (...), ... -> (...) or (n,)
    """One array as it is; several in C order, one after the other."""
    given = list(parts)
    if len(given) == 1:
        return given[0]
    xp = namespace(*given)
    return xp.concat([xp.reshape(part, (-1,)) for part in given])


def definition(each: Backward) -> Callable[..., Any]:
    """The rule as a function of the component's arguments: its pullback's answers, joined."""
    signature = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in each.parameters]
    )

    def function(*arrays: Any, **params: Any) -> Any:
        given = signature.bind(*arrays, **params).arguments
        cotangent = given.pop("cotangent")
        _, pullback = (each.call or _alike)(each.rule, **given)
        return joined(bar for bar in pullback(cotangent) if bar is not None)

    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = each.name
    return function


def _alike(rule: Callable[..., Any], **given: Any) -> Any:
    return rule(**given)


def separate(each: Backward, answer: Any, arrays: dict[str, Any]) -> dict[str, Any]:  # (n,) -> name -> (...)
    """The cotangents of a joined answer by name, in the shapes of their arguments."""
    if len(each.arguments) == 1:
        return {each.arguments[0]: answer}
    sizes = [arrays[name].size for name in each.arguments]
    parts = np.split(answer, np.cumsum(sizes)[:-1])
    return {name: part.reshape(arrays[name].shape) for name, part in zip(each.arguments, parts, strict=True)}


def wrong_part(each: Backward, parts: list[Any], arrays: dict[str, Any]) -> str:
    """Which of the cotangents that a function returned do not fit their arguments, in words; empty if all do."""
    if len(parts) != len(each.arguments):
        return f"{len(parts)} cotangents for {len(each.arguments)} arguments: {', '.join(each.arguments)}"
    told = [
        f"{name}: {part.dtype} {part.shape}, not {arrays[name].dtype} {arrays[name].shape}"
        for name, part in zip(each.arguments, parts, strict=True)
        if (part.dtype, part.shape) != (arrays[name].dtype, arrays[name].shape)
    ]
    return "; ".join(told)


def place(each: Backward, where: tuple[int, ...], arrays: dict[str, Any]) -> str:
    """A place of an answer in words: of which argument's cotangent, and where in it."""
    if len(each.arguments) == 1 or not where:
        return ""
    at = where[0]
    for name in each.arguments:
        if at < arrays[name].size:
            index = np.unravel_index(at, arrays[name].shape)
            return f"cotangent of {name} at [{', '.join(str(int(i)) for i in index)}]"
        at -= arrays[name].size
    return ""


def cases(each: Backward, forward: Any, rng: np.random.Generator, dtype: str) -> list[Case]:
    """The trials: each a case of the forward component, cut, with a cotangent of the shape of its answer."""
    own = rng.spawn(len(each.trials))
    drawn = {case.id: case for case in forward.cases(rng, dtype)}
    found = []
    for trial, cotangents in zip(each.trials, own, strict=True):
        if trial.of not in drawn:
            continue  # the forward component has it in wider dtypes only
        case = drawn[trial.of]
        arrays = trial.cut(*case.arrays) if trial.cut else case.arrays
        bar = trial.cotangent(cotangents, each.shape(*arrays))
        params = {key: value for key, value in case.params.items() if key in each.names}
        params |= {"mask": trial.mask(params["mask"])} if trial.mask else {}
        found.append(Case(trial.name, trial.hard or case.hard, (*arrays, bar), params))
    return found


# --- cotangents -----------------------------------------------------------------------------------------------------------------


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.normal(size=shape)


def _hard(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Rows in turn one-hot, zeros, constant and large; of one axis, numbers 1, 0, -1000 and 1/8."""
    if len(shape) < 2:
        return np.resize(np.array([1.0, 0.0, -1000.0, 0.125]), shape)
    rows = rng.normal(size=(math.prod(shape[:-1]), shape[-1]))
    rows[::4] = np.arange(shape[-1]) == shape[-1] // 2
    rows[1::4] = 0
    rows[2::4] = 1.5
    rows[3::4] *= 1000
    return rows.reshape(shape)


def _hard_but_constant(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """The same without constant rows: nodes of Gauss and Laguerre are known to 10^-85 only, and a 0 that is theirs is not known to be one."""
    rows = _hard(rng, shape)
    rows[2::4] = rng.normal(size=rows[2::4].shape)
    return rows


def _offset(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return 64 + rng.normal(size=shape)


_HARD = "rows of the cotangent: one-hot, zeros, constant, large"
_OFFSET = "the cotangent has a common part of 64, which must drop out"


# --- the components -------------------------------------------------------------------------------------------------------------


def _first(rows: int, columns: int | None = None) -> Callable[..., tuple[Any, ...]]:
    """The first rows and columns of each array, the first rows of one axis of those that have no columns."""

    def cut(*arrays: Any) -> tuple[Any, ...]:
        return tuple(a[:rows, :columns] if a.ndim == 2 else a[:rows] for a in arrays)

    return cut


_ROWS = (
    Trial("ordinary", "", "ordinary", _normal, _first(3, 8)),
    Trial("cotangents", _HARD, "ordinary", _hard, _first(4, 8)),
    Trial("common part", _OFFSET, "ordinary", _offset, _first(2, 8)),
    Trial("wide", "", "wide", _normal, _first(2, 10)),
    Trial("large", "", "large", _normal, _first(2, 9)),
    Trial("ties", "", "ties", _normal),
    Trial("single", "one element", "single", _normal, _first(3)),
    Trial("apart", "", "apart", _normal),
    Trial("long", "96 elements: sums accumulate rounding", "long", _normal, _first(1, 96)),
)


def _centred(p: Any, cotangent: Any) -> Any:
    """p̄_i - Σ_j p_j p̄_j as published, which cancels where one weight is nearly 1."""
    return cotangent - np.sum(p * cotangent, axis=-1, keepdims=True)


def _softmax_published(x: Any, cotangent: Any) -> Any:
    p = softmax.softmax(x)
    return p * _centred(p, cotangent)


def _log_softmax_published(x: Any, cotangent: Any) -> Any:
    return cotangent - softmax.softmax(x) * np.sum(cotangent, axis=-1, keepdims=True)


def _taylor_softmax_published(x: Any, cotangent: Any, order: int) -> Any:
    p = taylor.taylor_softmax(x, order)
    total = np.sum(taylor.exp_taylor(x, order), axis=-1, keepdims=True)
    return taylor.exp_taylor(x, order - 1) / total * _centred(p, cotangent) if order else x * exact(0, x)


def _softmax_by_products(x: Any, cotangent: Any) -> Any:
    """p ȳ - p Σ p ȳ, of a kernel that is handed p ȳ: what cancels here does not in p (ȳ - Σ p ȳ)."""
    p = softmax.softmax(x)
    products = p * cotangent
    return products - p * np.sum(products, axis=-1, keepdims=True)


def _gelu_published(x: Any, cotangent: Any, approximate: str) -> Any:
    """(1 + tanh z)/2 + x z' (1 - tanh² z)/2 and (1 + erf(x/√2))/2 + x φ(x), for the budget: on balls, functions err by two units in the last place.

    Near -1 a library's tanh or erf may be the next float or the one after it (`components._gelu_published`).
    """
    last = flint.arb(0, 2.0 ** -(flint.ctx.prec + 1))
    if approximate == "none":
        bell = namespace(x).exp(-x * x / 2) / square_root(2 * pi(x), x)
        return ((1 + special.erf(x / square_root(2, x)) + last) / 2 + x * bell) * cotangent
    slope, cubic = square_root(2 / pi(x), x), exact(Fraction(44715, 1_000_000), x)
    t = activation.tanh(slope * (x + cubic * x * x * x)) + last
    return ((1 + t) / 2 + x * slope * (1 + 3 * cubic * x * x) * (1 - t * t) / 2) * cotangent


def _by_logarithm(x: Any) -> Any:
    """exp(log p), of kernels that keep the logarithm: the error of an exponential at p = 1, where exp 0 / Σ has none."""
    return namespace(x).exp(softmax.log_softmax(x))


def _log_softmax_by_logarithm(x: Any, cotangent: Any) -> Any:
    return cotangent - _by_logarithm(x) * np.sum(cotangent, axis=-1, keepdims=True)


def _logsumexp_by_logarithm(x: Any, cotangent: Any) -> Any:
    return _by_logarithm(x) * cotangent[..., None]


def _loss_by_logarithm(logits: Any, targets: Any, cotangent: Any) -> Any:
    one_hot = (np.arange(logits.shape[-1]) == targets[..., None]).astype(int)
    return (_by_logarithm(logits) - one_hot) * cotangent[..., None]


def _norm_cut(rows: int, columns: int) -> Callable[..., tuple[Any, ...]]:
    return lambda x, scale, bias: (x[:rows, :columns], scale[:columns], bias[:columns])


def _blocks(x: Any, scale: Any, bias: Any) -> tuple[Any, ...]:
    return x[:4, :6].reshape(2, 2, 6), scale[:6], bias[:6]


_NORM = (
    Trial("ordinary", "", "ordinary", _normal, _norm_cut(3, 8)),
    Trial("cotangents", _HARD, "ordinary", _hard, _norm_cut(4, 8)),
    Trial("batch", "three axes: scale and bias are summed over two", "ordinary", _normal, _blocks),
    Trial("common part", _OFFSET, "ordinary", _offset, _norm_cut(2, 8)),
    Trial("flat", "", "flat", _normal, _norm_cut(2, 8)),
    Trial("constant", "", "constant", _normal),
    Trial("tiny eps", "", "tiny eps", _normal, _norm_cut(2, 8)),
    Trial("outlier", "", "outlier", _normal, _norm_cut(2, 10)),
    Trial("narrow", "", "narrow", _normal),
    Trial("offset", "", "offset", _normal, _norm_cut(2, 8)),
    Trial("level", "", "level", _normal),
)


_LOSS = (
    Trial("any", "targets at random", "ordinary, any", _normal, _first(2)),
    Trial("top", "the target is the largest: p - 1 is what the others have together", "wide, top", _normal, _first(2)),
    Trial("bottom", "the target is the smallest", "ordinary, bottom", _normal, _first(3)),
    Trial("cotangents", "cotangents 1, 0, -1000 and 1/8", "ordinary, any", _hard),
    Trial("large", "magnitudes of 10⁴, or what 16 bits resolve", "large, bottom", _normal, _first(2)),
    Trial("ties", "equal entries", "ties, bottom", _normal),
    Trial("single", "one class: the loss is 0 whatever the logit", "single, any", _normal, _first(3)),
    Trial("apart", "each row needs its own maximum", "apart, bottom", _normal),
)


def _gelu_trials() -> Iterable[Trial]:
    for form in ("tanh", "none"):
        yield Trial(f"ordinary-{form}", "", f"ordinary-{form}", _normal, lambda x: (x[:16],))
        yield Trial(f"grid-{form}", "", f"grid-{form}", _normal, lambda x: (x[::6],))
        yield Trial(f"tails-{form}", "", f"tails-{form}", _normal)
        yield Trial(f"cotangents-{form}", "cotangents 1, 0, -1000 and 1/8", f"grid-{form}", _hard, lambda x: (x[1::8],))


# --- more components --------------------------------------------------------------------------------------------------------------

_SPARSE = (
    Trial("ordinary", "", "ordinary", _normal, _first(3, 8)),
    Trial("cotangents", _HARD, "ordinary", _hard, _first(4, 8)),
    Trial("common part", _OFFSET, "ordinary", _offset, _first(2, 8)),
    Trial("wide", "", "wide", _normal, _first(2, 14)),
    Trial("ties", "", "ties", _normal, kink=True),
    Trial("last place", "", "last place 2", _normal, kink=True),
    Trial("all", "", "all", _normal, _first(2)),
    Trial("single", "one element", "single", _normal, _first(3)),
    Trial("apart", "", "apart", _normal),
)
_SPARSE_LOSS = (
    Trial("any", "", "ordinary, any", _normal, _first(2)),
    Trial("bottom", "", "ordinary, bottom", _normal, _first(2)),
    Trial("cotangents", "cotangents 1, 0, -1000 and 1/8", "ordinary, any", _hard),
    Trial("wide", "", "wide, bottom", _normal, _first(1)),
    Trial("ties", "", "ties, bottom", _normal, kink=True),
    Trial("last place", "", "last place 2, bottom", _normal, kink=True),
    Trial("all", "", "all, bottom", _normal, _first(2)),
    Trial("apart", "", "apart, bottom", _normal),
)


def _heads(
    batch: slice = slice(0, 1), heads: int = 1, *, n: int | None = None, m: int | None = None, d: int | None = None
) -> Callable[..., tuple[Any, ...]]:
    """One batch, few heads, queries, keys and columns; of what follows q, k and v: scores, or relative positions."""

    def cut(q: Any, k: Any, v: Any, *rest: Any) -> tuple[Any, ...]:
        q, k, v = (a[batch, :heads, :rows, :d] for a, rows in ((q, n), (k, m), (v, m)))
        more = (a[batch, :heads, :n, :m] if a.ndim == 4 else a[:n, :m, :d] for a in rest)
        return q, k, v, *more

    return cut


def _corner(count: int) -> Callable[[Any], Any]:
    return lambda mask: mask[:count, :count]


def _of_second(mask: Any) -> Any:
    return mask[1:2]


_SECOND = slice(1, 2)
_EMPTY = "a query that may see nothing gets and gives nothing"
_SHARED = "relative positions are shared by heads: their cotangents are summed"
_ATTENTION = (
    Trial("full", "", "full", _normal, _heads(heads=2, n=2, m=3, d=5)),
    Trial("causal", "", "causal", _normal, _heads(n=4, m=4, d=3), _corner(4)),
    Trial("cotangents", _HARD, "causal", _hard, _heads(n=4, m=4, d=4), _corner(4)),
    Trial("common part", _OFFSET, "full", _offset, _heads(n=2, m=3, d=3)),
    Trial("cached", "", "cached", _normal, _heads(d=2)),
    Trial("padding", "two keys are padding", "padding", _normal, _heads(_SECOND, n=2, d=2), _of_second),
    Trial("sharp", "", "sharp", _normal, _heads(n=4, m=4, d=3), _corner(4)),
    Trial("loud padding", "", "loud padding", _normal, _heads(_SECOND, n=2, d=2), _of_second),
    Trial("empty row", _EMPTY, "empty row", _normal, _heads(n=4, m=4, d=3), _corner(4)),
    Trial("one key", "softmax over one key is 1: queries and keys get nothing", "one key", _normal, _heads(d=4)),
    Trial("beyond exp", "", "beyond exp", _normal, _heads()),
)
_RESIDUAL = (
    Trial("full", "", "full", _normal, _heads(heads=2, n=2, m=3, d=3)),
    Trial("causal", "", "causal", _normal, _heads(n=3, m=3, d=3), _corner(3)),
    Trial("hidden", "", "hidden", _normal, _heads(_SECOND, n=2, d=2), _of_second),
    Trial("deep", "", "deep", _normal, _heads(n=3, m=3, d=3), _corner(3)),
    Trial("mean", "", "mean", _normal, _heads(n=3, m=3, d=3), _corner(3)),
    Trial("loud hidden", "", "loud hidden", _normal, _heads(_SECOND, n=2, d=2), _of_second),
    Trial("empty row", _EMPTY, "empty row", _normal, _heads(n=3, m=3, d=3), _corner(3)),
    Trial("mean of two", "", "mean of two", _hard, _heads(n=4, m=4)),
    Trial("beyond exp", "", "beyond exp", _normal, _heads(d=4)),
)
_RELATIVE = (
    Trial("two heads", _SHARED, "square", _normal, _heads(heads=2, n=2, m=2, d=2)),
    Trial("causal", "", "causal", _normal, _heads(n=3, m=3, d=2), _corner(3)),
    Trial("cached", "", "cached", _normal, _heads(d=2)),
    Trial("loud", "", "loud", _normal, _heads(n=3, m=3, d=4)),
    Trial("cotangents", _HARD, "square", _hard, _heads(n=4, m=3, d=2)),
)


def _attention_by_outputs(
    q: Any, k: Any, v: Any, cotangent: Any, mask: Any = None, *, published: bool = False, **options: Any
) -> Any:
    """The pass of kernels that keep the output o: Σ_j P_ij P̄_ij = Σ_e ō_ie o_ie, which is summed over columns and not over keys.

    `published` is the usual one, with the sum over keys.
    """
    (output, scores), _ = attention.scaled_dot_product_attention_vjp(q, k, v, mask=mask, **options)
    relative, mean_over = options.get("relative"), options.get("mean_over", 1)
    weights = softmax.masked_softmax(scores / mean_over, mask)
    weights_bar = cotangent @ np.swapaxes(v, -1, -2)
    if relative is not None:
        weights_bar = weights_bar + np.sum(cotangent[..., :, None, :] * relative, axis=-1)
    common = weights * weights_bar if published else cotangent * output
    scores_bar = weights * (weights_bar - np.sum(common, axis=-1, keepdims=True)) / mean_over
    own_bar = scores_bar / square_root(q.shape[-1], q)
    bars = [own_bar @ k, np.swapaxes(own_bar, -1, -2) @ q, np.swapaxes(weights, -1, -2) @ cotangent]
    if relative is not None:
        bars[0] = bars[0] + np.sum(own_bar[..., None] * relative, axis=-2)
        both = own_bar[..., None] * q[..., :, None, :] + weights[..., None] * cotangent[..., :, None, :]
        bars.append(np.sum(both, axis=(0, 1)))
    return joined([*bars, scores_bar] if options.get("previous_scores") is not None else bars)


def _attention_by_outputs_after(
    q: Any, k: Any, v: Any, previous_scores: Any, cotangent: Any, mask: Any, mean_over: int, **form: bool
) -> Any:
    options = {"previous_scores": previous_scores, "mean_over": mean_over}
    return _attention_by_outputs(q, k, v, cotangent, mask, **options, **form)


def _attention_by_outputs_at(q: Any, k: Any, v: Any, relative: Any, cotangent: Any, mask: Any, **form: bool) -> Any:
    return _attention_by_outputs(q, k, v, cotangent, mask, relative=relative, **form)


def _called_with(rule: Callable[..., Any], *, detached: bool, **given: Any) -> Any:
    """FAVOR+ with the gradient of what is computed, whatever an implementation's own backward pass holds constant."""
    return rule(detached=detached, **given)


def _table_cut(table: Any, at: Any) -> tuple[Any, ...]:
    return table[:, :3], at


_HIERARCHICAL = (
    Trial("all", "", "all", _normal, _table_cut),
    Trial("table", "", "table", _normal, _table_cut),
    Trial("scattered", "a position that comes twice counts twice", "scattered", _hard, _table_cut),
    Trial("last", "", "last", _normal, _table_cut),
    Trial("alpha", "", "alpha", _normal, _table_cut),
    Trial("near half", "", "near half", _normal, _table_cut),
    Trial("single", "a table of one row", "single", _normal, _table_cut),
)
_TAYLOR_SOFTMAX = (
    Trial("order 2", "", "order 2", _normal, _first(2, 6)),
    Trial("order 4", "", "order 4", _normal, _first(2, 6)),
    Trial("order 6", "", "order 6", _normal, _first(2, 6)),
    Trial("cotangents", "rows of the cotangent: one-hot, zeros, large", "order 2", _hard_but_constant, _first(4, 6)),
    Trial("common part", _OFFSET, "order 4", _offset, _first(2, 6)),
    Trial("ascending", "", "ascending", _normal),
)
_TAYLOR_ATTENTION = (
    Trial("full", "", "full", _normal, _heads(n=2, m=3)),
    Trial("causal", "", "causal", _normal, _heads(n=3, m=3)),
    Trial("cached", "", "cached", _normal, _heads(d=2)),
    Trial("cotangents", _HARD, "causal", _hard, _heads(n=4, m=4, d=3)),
    Trial("one key", "the answer is the value: queries and keys get nothing", "one key", _normal, _heads(d=2)),
    Trial("minimum", "", "minimum", _normal, _heads(n=2, m=3)),
    Trial("large", "", "large", _normal, _heads(n=2, m=3)),
)


def _favor_cut(batch: slice, n: int = 2, m: int = 3) -> Callable[..., tuple[Any, ...]]:
    return lambda q, k, v, w: (q[batch, :1, :n], k[batch, :1, :m], v[batch, :1, :m, :2], w[:2])


def _untied(q: Any, k: Any, v: Any, w: Any) -> tuple[Any, ...]:
    """The same with unequal exponents: each maximum is attained once."""
    return q + np.array([0.25, 0.75, 0, 0]), k, v[..., :2], w + np.array([[0, 0, 0, 0.25], [0, 0, 0, -0.125]])


_FAVOR = (
    *(Trial(f"full-{dialect}", "", f"full-{dialect}", _normal, _favor_cut(slice(0, 1))) for dialect in favor.dialects),
    *(
        Trial(f"causal-{dialect}", "", f"causal-{dialect}", _normal, _favor_cut(slice(0, 1), 3, 3))
        for dialect in ("paper", "performer-pytorch")
    ),
    Trial("cotangents-paper", _HARD, "causal-paper", _hard, _favor_cut(slice(0, 1), 4, 4)),
    Trial("padding-paper", "", "loud padding-paper", _normal, _favor_cut(_SECOND, 2, 6), _of_second),
    Trial("faint-performer-pytorch", "", "faint-performer-pytorch", _normal, _untied),
    Trial("faint-google-jax", "", "fainter-google-jax", _normal, _untied),
    Trial("wide-google-jax", "", "wide-google-jax", _normal, _favor_cut(slice(0, 1), 3, 3)),
)
_FEATURES = (
    *(
        Trial(f"ordinary-{label}", "", f"ordinary-{label}", _normal, lambda x, w: (x[:1, :3], w[:4]))
        for label in ("paper", "query", "key")
    ),
    *(
        Trial(f"large-{label}", "", f"large-{label}", _normal, lambda x, w: (x[:, :3], w[:4]))
        for label in ("paper", "query", "key")
    ),
    Trial("cotangents-query", _HARD, "ordinary-query", _hard, lambda x, w: (x[:1, :4], w[:4])),
    Trial("origin-paper", "", "origin-paper", _normal, lambda x, w: (x[:, :3], w)),
    Trial("one feature-query", "", "one feature-query", _normal),
)
_POOLING = (
    Trial("padding", "", "padding", _normal, lambda x, mask: (x[..., :2], mask)),
    Trial("holes", "", "holes", _hard, lambda x, mask: (x[..., :2], mask)),
    Trial("loud padding", "", "loud padding", _normal, lambda x, mask: (x[..., :2], mask)),
    Trial("one token", "", "one token", _normal, lambda x, mask: (x[..., :3], mask)),
)
_UNIT = (
    Trial("ordinary", "", "ordinary", _normal, _first(2, 8)),
    Trial("cotangents", _HARD, "ordinary", _hard, _first(4, 8)),
    Trial("common part", _OFFSET, "ordinary", _offset, _first(2, 8)),
    Trial("tiny norms", "", "tiny norms", _normal),
    Trial("large", "", "large", _normal),
    Trial("one axis", "", "one axis", _normal, _first(2)),
    Trial("single", "one element: its sign, which does not change", "single", _normal),
)


def _few_rows(x: Any, projection: Any) -> tuple[Any, ...]:
    return x[:1, :3], projection[:4]


def _maps(*labels: str) -> tuple[Trial, ...]:
    """Of a feature map by its conventions, the first of which subtracts no maximum: four unit vectors beside the origin would tie for it."""
    return (
        *(Trial(f"ordinary-{label}", "", f"ordinary-{label}", _normal, _few_rows) for label in labels),
        *(Trial(f"large-{label}", "", f"large-{label}", _normal, _few_rows) for label in labels[:2]),
        Trial(f"cotangents-{labels[-1]}", _HARD, f"ordinary-{labels[-1]}", _hard, lambda x, w: (x[:1, :4], w[:2])),
        Trial(f"origin-{labels[0]}", "", f"origin-{labels[0]}", _normal, lambda x, w: (x[:, :3], w)),
        Trial(f"one feature-{labels[-1]}", "", f"one feature-{labels[-1]}", _normal),
    )


_RECTIFIED = tuple(
    dataclasses.replace(trial, kink=True, hard="u = 0 at the zero vector: its stated slope there is 0")
    if trial.of.startswith("origin")
    else trial
    for trial in _maps("paper", "pytorch", "inside")
)
_POLYNOMIAL = (
    *(Trial(f"order {n}", "", f"order {n}", _normal, lambda x: (x[1::4],)) for n in (2, 4, 8, 16)),
    Trial("cotangents", "cotangents 1, 0, -1000 and 1/8", "order 4", _hard, lambda x: (x[2::6],)),
    Trial("near 0", "0 and ±10⁻⁴: the slope is 1", "order 8", _normal, lambda x: (x[-6:],)),
)
_COPY_LOSS = (
    Trial("full", "", "full", _normal),
    Trial("padding", "", "padding", _normal),
    Trial("uneven", "", "uneven", _normal),
    Trial("cotangent", "the cotangent is -1000", "short", lambda rng, shape: np.full(shape, -1000.0)),
    Trial("loud padding", "", "loud padding", _normal),
    Trial("large", "", "large", _normal),
    Trial("one trained", "", "one trained", _normal),
)


def _small_layer(batch: slice, tokens: slice) -> Callable[..., tuple[Any, ...]]:
    """A layer of width 4, 6 inside, of one of width 8: few of its tokens, and of Q, K and V the first columns each."""

    def part(name: str, array: Any) -> Any:
        if name.startswith("query_key_value"):
            chosen = np.concatenate([np.split(array, 3, axis=-1)[i][..., :4] for i in range(3)], axis=-1)
            return chosen[:4] if array.ndim == 2 else chosen
        inner = {"feed_forward_in_weight": (4, 6), "feed_forward_in_bias": (6,), "feed_forward_out_weight": (6, 4)}
        return array[tuple(slice(n) for n in inner.get(name, (4,) * array.ndim))]

    def cut(x: Any, mask: Any, *rest: Any) -> tuple[Any, ...]:
        scores = tuple(each[batch, :, tokens, tokens] for each in rest if each.ndim == 4)
        kept = zip(layers.PARAMETERS, rest[len(scores) :], strict=True)
        return x[batch, tokens, :4], mask[batch, tokens], *scores, *(part(name, array) for name, array in kept)

    return cut


_TWO_ROWS, _ONE_ROW = _small_layer(slice(2), slice(2)), _small_layer(slice(1), slice(3))
_PADDED = _small_layer(_SECOND, slice(1, 4))
_LAYER = (
    Trial("full", "two sequences: parameters get the sum over both", "full", _normal, _TWO_ROWS),
    Trial("cotangents", _HARD, "full", _hard, _TWO_ROWS),
    Trial("loud padding", "", "loud padding", _normal, _PADDED),
    Trial("sharp", "", "sharp", _normal, _ONE_ROW),
    Trial("large eps", "", "large eps", _normal, _ONE_ROW),
)
_GPT2_LAYER = (*_LAYER, Trial("flat", "", "flat", _normal, _ONE_ROW))
_BERT_LAYER = (
    *_LAYER,
    Trial("residual scores", "", "residual scores", _normal, _ONE_ROW),
    Trial("deep", "", "deep", _normal, _PADDED),
)


def _exp_taylor_by_quadrature(x: Any, cotangent: Any, order: int) -> Any:
    """n Σ_i w_i s_i (s_i (x + node_i))^{n-1}, the derivative of each term of the quadrature for f_n, in place of that for f_{n-1}."""
    terms = [order * w * s * (s * (x + node)) ** (order - 1) for node, s, w in taylor.laguerre_rule(order, x)]
    return functools.reduce(operator.add, terms) * cotangent


def _copy_loss_by_logarithm(tag_logits: Any, labels: Any, segment_ids: Any, cotangent: Any) -> Any:
    """With exp(log p), each loss's share of the cotangent multiplied, not divided, by their number."""
    trained = np.flip(np.cumsum(np.flip(segment_ids, 1), axis=1), 1)[:, 1:] > 0
    share = exact(Fraction(1, int(np.sum(trained))), tag_logits) * cotangent
    one_hot = (np.arange(3) == labels[..., None]).astype(int)
    bars = (_by_logarithm(tag_logits[:, :-1]) - one_hot) * share
    bars = np.where(trained[..., None], bars, exact(0, tag_logits))
    return np.concatenate([bars, np.full_like(bars[:, :1], exact(0, tag_logits))], axis=1)


def _called_for_one(rule: Callable[..., Any], **given: Any) -> Any:
    """A loss without axes as an array of one number."""
    value, pullback = rule(**given)
    xp = namespace(value)
    return xp.reshape(value, (1,)), lambda bar: pullback(xp.reshape(bar, ()))


def _sparse_chosen(x: Any, cotangent: Any, k: int) -> tuple[Callable[..., Any], ...]:
    """With the entries that the exact inputs keep."""
    kept = softmax.top_k_selection(x, k)

    def form(balls: Any, cotangent: Any, k: int) -> Any:
        return softmax.masked_softmax_vjp(balls, kept)[1](cotangent)[0]

    def by_products(balls: Any, cotangent: Any, k: int) -> Any:
        p = softmax.masked_softmax(balls, kept)
        products = p * np.where(kept, cotangent, exact(0, p))
        return products - p * np.sum(products, axis=-1, keepdims=True)

    def published(balls: Any, cotangent: Any, k: int) -> Any:
        p, allowed = softmax.masked_softmax(balls, kept), np.where(kept, cotangent, exact(0, cotangent))
        return p * _centred(p, allowed)

    return form, by_products, published


def _sparse_loss_chosen(logits: Any, targets: Any, cotangent: Any, k: int) -> tuple[Callable[..., Any], ...]:
    """With the entries that the exact inputs keep."""
    kept = softmax.top_k_selection(logits, k)

    def form(balls: Any, targets: Any, cotangent: Any, k: int) -> Any:
        one_hot = (np.arange(balls.shape[-1]) == targets[..., None]).astype(int)
        return (softmax.masked_softmax(balls, kept) - one_hot) * cotangent[..., None]

    return (form,)


# --- shapes of the forward answers ------------------------------------------------------------------------------------------------


def _whole_rows(*arrays: Any) -> tuple[int, ...]:
    return tuple(arrays[0].shape[:-1])


def _alike_first(*arrays: Any) -> tuple[int, ...]:
    return tuple(arrays[0].shape)


def _width(logits: Any) -> int:
    """The length of the last axis, of an array or of nested lists."""
    return (
        int(logits.shape[-1])
        if hasattr(logits, "shape")
        else _width(logits[0])
        if isinstance(logits[0], list)
        else len(logits)
    )


def _of_values(q: Any, k: Any, v: Any, *_: Any) -> tuple[int, ...]:
    return (*q.shape[:-1], v.shape[-1])


def _backward(forward: str, of: Callable[..., Any], *, names: tuple[str, ...], **options: Any) -> Backward:
    """The backward pass by the rule of a definition, of those of its arguments that are among the arrays."""
    rule = gradients.rule_of(of)
    arguments = tuple(name for name in rule.arguments if name in names)
    return Backward(forward, rule.function, names, arguments, **options)


BACKWARDS: tuple[Backward, ...] = (
    _backward(
        "softmax",
        softmax.softmax,
        names=("x",),
        trials=_ROWS,
        shape=_alike_first,
        forms=(_softmax_by_products, _softmax_published),
    ),
    _backward(
        "log_softmax",
        softmax.log_softmax,
        names=("x",),
        trials=_ROWS,
        shape=_alike_first,
        forms=(_log_softmax_by_logarithm, _log_softmax_published),
    ),
    _backward(
        "logsumexp",
        softmax.logsumexp,
        names=("x",),
        trials=_ROWS,
        shape=_whole_rows,
        forms=(_logsumexp_by_logarithm,),
    ),
    _backward(
        "sparse_softmax_cross_entropy",
        softmax.cross_entropy,
        names=("logits", "targets"),
        arrays=2,
        trials=_LOSS,
        shape=_whole_rows,
        label="cross_entropy",
        forms=(_loss_by_logarithm,),
        fixed=lambda logits, targets: {"k": _width(logits)},
    ),
    _backward(
        "gelu",
        activation.gelu,
        names=("x", "approximate"),
        trials=tuple(_gelu_trials()),
        shape=_alike_first,
        forms=(_gelu_published,),
    ),
    _backward(
        "layer_norm",
        normalization.layer_norm,
        names=("x", "scale", "bias", "eps"),
        trials=_NORM,
        shape=_alike_first,
    ),
    _backward(
        "sparse_softmax",
        softmax.sparse_softmax,
        names=("x", "k"),
        trials=_SPARSE,
        shape=_alike_first,
        chosen=_sparse_chosen,
    ),
    _backward(
        "sparse_softmax_cross_entropy",
        softmax.sparse_softmax_cross_entropy,
        names=("logits", "targets", "k"),
        arrays=2,
        trials=_SPARSE_LOSS,
        shape=_whole_rows,
        chosen=_sparse_loss_chosen,
    ),
    _backward(
        "attention",
        attention.scaled_dot_product_attention,
        names=("q", "k", "v", "mask"),
        trials=_ATTENTION,
        shape=_of_values,
        forms=(_attention_by_outputs, functools.partial(_attention_by_outputs, published=True)),
    ),
    _backward(
        "residual_attention",
        attention.scaled_dot_product_attention,
        names=("q", "k", "v", "previous_scores", "mask", "mean_over"),
        trials=_RESIDUAL,
        shape=_of_values,
        forms=(_attention_by_outputs_after, functools.partial(_attention_by_outputs_after, published=True)),
    ),
    _backward(
        "relative_attention",
        attention.scaled_dot_product_attention,
        names=("q", "k", "v", "relative", "mask"),
        trials=_RELATIVE,
        shape=_of_values,
        forms=(_attention_by_outputs_at, functools.partial(_attention_by_outputs_at, published=True)),
    ),
    _backward(
        "hierarchical_positions",
        positions.hierarchical_positions,
        names=("table", "positions", "alpha"),
        arrays=2,
        trials=_HIERARCHICAL,
        shape=lambda table, at: (*at.shape, table.shape[-1]),
    ),
    _backward(
        "taylor_softmax",
        taylor.taylor_softmax,
        names=("x", "order"),
        trials=_TAYLOR_SOFTMAX,
        shape=_alike_first,
        forms=(_taylor_softmax_published,),
    ),
    _backward(
        "taylor_attention",
        taylor.taylor_attention,
        names=("q", "k", "v", "causal"),
        trials=_TAYLOR_ATTENTION,
        shape=_of_values,
    ),
    _backward(
        "positive_features",
        favor.positive_features,
        names=("x", "projection", "scaled", "shift", "epsilon", "normalized"),
        trials=_FEATURES,
        shape=lambda x, projection: (*x.shape[:-1], projection.shape[0]),
    ),
    _backward(
        "favor_attention",
        favor.favor_attention,
        names=("q", "k", "v", "projection", "mask", "causal", "dialect"),
        trials=_FAVOR,
        shape=_of_values,
        call=functools.partial(_called_with, detached=False),
        families=("bfloat16", "float32"),
    ),
    _backward(
        "mean_pooling",
        pooling.mean_pooling,
        names=("hidden", "mask"),
        arrays=2,
        trials=_POOLING,
        shape=lambda hidden, mask: (hidden.shape[0], hidden.shape[-1]),
    ),
    _backward("unit_length", pooling.unit_length, names=("x",), trials=_UNIT, shape=_alike_first),
    *(
        _backward(
            definition.__name__,
            definition,
            names=("x", "projection", "scaled", "shift", "normalized"),
            trials=trials,
            shape=lambda x, projection: (*x.shape[:-1], 2 * projection.shape[0]),
        )
        for definition, trials in (
            (favor.trigonometric_features, _maps("paper", "google")),
            (favor.hyperbolic_features, _maps("paper", "norm")),
        )
    ),
    _backward(
        "relu_features",
        favor.relu_features,
        names=("x", "projection", "scaled", "epsilon", "normalized"),
        trials=_RECTIFIED,
        shape=lambda x, projection: (*x.shape[:-1], projection.shape[0]),
    ),
    _backward(
        "exp_taylor",
        taylor.exp_taylor,
        names=("x", "order"),
        trials=_POLYNOMIAL,
        shape=_alike_first,
        forms=(_exp_taylor_by_quadrature,),
    ),
    _backward(
        "copy_loss",
        copying.copy_loss,
        names=("tag_logits", "labels", "segment_ids"),
        arrays=3,
        trials=_COPY_LOSS,
        shape=lambda *arrays: (1,),
        call=_called_for_one,
        forms=(_copy_loss_by_logarithm,),
        families=("bfloat16", "float32"),
    ),
    *(
        Backward(
            forward,
            rule,
            (*arrays, *layers.PARAMETERS, "heads", "eps"),
            (*(name for name in arrays if name != "mask"), *layers.PARAMETERS),
            trials,
            _alike_first,
            forms=(by_outputs,),
            families=("bfloat16",),
            arrays=len(arrays) + len(layers.PARAMETERS),
        )
        for forward, rule, by_outputs, arrays, trials in (
            ("gpt2_block", layers.gpt2_block_vjp, layers.gpt2_block_by_outputs, ("x", "mask"), _GPT2_LAYER),
            (
                "bert_block",
                layers.bert_block_vjp,
                layers.bert_block_by_outputs,
                ("x", "mask", "previous_scores"),
                _BERT_LAYER,
            ),
        )
    ),
)
