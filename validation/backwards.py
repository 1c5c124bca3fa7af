"""Backward passes as components: derived from the rule of a definition (`refimpl.gradients`) and from the forward component.

    f.vjp(the arrays of f, cotangent, the parameters of f) = the cotangents of the arguments that the rule names, in its order

The cotangent has the shape of f's answer. One cotangent that comes out is an array of the shape of its argument; several are *joined*: each in C
order, one after the other, in one axis. `validation.check` joins them for functions that return a tuple.

Nothing but the cases is written here: the definition is the rule itself (so that the truth is its pullback run on balls), the forward component gives
signature, inputs and dialects, `validation.scalar.differences` differentiates the forward component's second program, and `validation.targets.routes`
asks torch and JAX for the derivative of the forward component's routes. What is hard about a case is its forward input, or its cotangent.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl import activation, gradients, normalization, softmax, special
from refimpl.number_system import exact, namespace, pi, square_root
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
    fixed: Callable[..., dict[str, Any]] = lambda *arrays: {}  # parameters of the forward component that the call does not have
    arrays: int = 0  # how many of `names` are arrays; 0: as many as get a cotangent

    @property
    def name(self) -> str:
        """What the component is called."""
        return (self.label or self.forward) + SUFFIX

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


def _softmax_by_products(x: Any, cotangent: Any) -> Any:
    """p ȳ - p Σ p ȳ, of a kernel that is handed p ȳ: what cancels here does not in p (ȳ - Σ p ȳ)."""
    p = softmax.softmax(x)
    products = p * cotangent
    return products - p * np.sum(products, axis=-1, keepdims=True)


def _gelu_published(x: Any, cotangent: Any, approximate: str) -> Any:
    """(1 + tanh z)/2 + x z' (1 - tanh² z)/2 and (1 + erf(x/√2))/2 + x φ(x), for the budget: on balls, the function errs by two units in the last place.

    Near -1 a library's tanh or erf may be the next float or the one after it (`components._gelu_published`).
    """
    last = flint.arb(0, 2.0 ** -(flint.ctx.prec + 1))
    if approximate == "none":
        bell = namespace(x).exp(-x * x / 2) / square_root(2 * pi(x), x)
        return ((1 + special.erf(x / square_root(2, x)) + last) / 2 + x * bell) * cotangent
    slope, cubic = square_root(2 / pi(x), x), exact(Fraction(44715, 1_000_000), x)
    t = activation.tanh(slope * (x + cubic * x * x * x)) + last
    return ((1 + t) / 2 + x * slope * (1 + 3 * cubic * x * x) * (1 - t * t) / 2) * cotangent


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
    Trial("any", "targets at random", "ordinary, any", _normal, _first(3, 16)),
    Trial("top", "the target is the largest: p - 1 is what the others have together", "wide, top", _normal, _first(2)),
    Trial("bottom", "the target is the smallest", "ordinary, bottom", _normal, _first(3)),
    Trial("cotangents", "cotangents 1, 0, -1000 and 1/8", "ordinary, any", _hard),
    Trial("large", "magnitudes of 10⁴, or what 16 bits resolve", "large, bottom", _normal, _first(2)),
    Trial("ties", "equal entries", "ties, bottom", _normal),
    Trial("single", "one class: the loss is 0 whatever the logit", "single, any", _normal, _first(3)),
    Trial("apart", "each row needs its own maximum", "apart, bottom", _normal),
)


def _whole_rows(*arrays: Any) -> tuple[int, ...]:
    return tuple(arrays[0].shape[:-1])


def _alike_first(*arrays: Any) -> tuple[int, ...]:
    return tuple(arrays[0].shape)


def _width(logits: Any) -> int:
    """The length of the last axis, of an array or of nested lists."""
    return int(logits.shape[-1]) if hasattr(logits, "shape") else _width(logits[0]) if isinstance(logits[0], list) else len(logits)


def _gelu_trials() -> Iterable[Trial]:
    for form in ("tanh", "none"):
        yield Trial(f"ordinary-{form}", "", f"ordinary-{form}", _normal, lambda x: (x[:16],))
        yield Trial(f"grid-{form}", "", f"grid-{form}", _normal, lambda x: (x[::6],))
        yield Trial(f"tails-{form}", "", f"tails-{form}", _normal)
        yield Trial(
            f"cotangents-{form}", "cotangents 1, 0, -1000 and 1/8", f"grid-{form}", _hard, lambda x: (x[1::8],)
        )


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
        forms=(_softmax_by_products,),
    ),
    _backward("log_softmax", softmax.log_softmax, names=("x",), trials=_ROWS, shape=_alike_first),
    _backward("logsumexp", softmax.logsumexp, names=("x",), trials=_ROWS, shape=_whole_rows),
    _backward(
        "sparse_softmax_cross_entropy",
        softmax.cross_entropy,
        names=("logits", "targets"),
        arrays=2,
        trials=_LOSS,
        shape=_whole_rows,
        label="cross_entropy",
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
)
