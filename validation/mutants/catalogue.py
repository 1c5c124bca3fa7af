"""What a mutant is, the classes of bugs, and how mutants are made of a right implementation: by one change.

Every component has a *twin*: a right implementation in plain NumPy, whose steps are keyword arguments. A mutant is the twin with one step
replaced, so that what kills it is that change and nothing else; the twin itself conforms in every dtype.

Twins and mutants compute 16-bit floats in float32 and round their answer once, as `wide` says.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = [
    "EVERY",
    "FLAGS",
    "LONG",
    "Flag",
    "Mutant",
    "family",
    "in_bfloat16",
    "in_float32",
    "leaking",
    "tf32",
    "wide",
]

EVERY = ("float16", "bfloat16", "float32", "float64")
LONG = ("float32", "float64")  # for bugs that are smaller than what the rounding of 16-bit inputs does


@dataclass(frozen=True)
class Flag:
    """A class of bugs."""

    name: str
    description: str  # what the implementer did
    effect: str  # what the user sees


@dataclass(frozen=True)
class Mutant:
    """One realistic bug of one component."""

    component: str  # a name in `validation.components.COMPONENTS`
    name: str  # unique within the component
    flag: str  # a name in `FLAGS`
    function: Callable[..., Any]  # called as the component is; returns an array of the dtype it was given
    dtypes: tuple[str, ...] = EVERY  # those in which an answer can show it
    seen: Callable[[Case], bool] | None = None  # false for a case that cannot show it; None: any may


_FLAGS = (
    # exponentials and sums
    Flag("unshifted-exp", "exponentials are taken without subtracting the maximum", "overflow: NaN or infinity"),
    Flag("wrong-shift", "another number than the row's maximum is subtracted", "overflow, underflow, or other weights"),
    Flag("not-rescaled", "a running sum is not rescaled when the running maximum grows", "rows weigh their beginning"),
    Flag("ragged-tail", "what is left after the last whole block is dropped", "right for some lengths only"),
    Flag("not-normalised", "weights are not divided by their sum", "weights that do not sum to one"),
    Flag("eps-in-denominator", "a small number is added to a sum, or not added where the form has one", "a small bias"),
    Flag("log-of-softmax", "the logarithm is taken of the rounded softmax", "-inf or noise for unlikely entries"),
    Flag("wrong-base", "powers or logarithms of another base", "weights too flat or too steep"),
    Flag("clipped", "inputs are clipped to a range instead of shifted", "large entries become equal"),
    Flag("sign", "a sign is exchanged", "the opposite answer"),
    Flag("missing-term", "a term of a sum is left out", "plausible answers that are wrong everywhere"),
    Flag("wrong-count", "divided by another count than that of the terms", "right for one length or depth only"),
    Flag("cancellation", "a formula that subtracts nearly equal numbers", "digits lost, negative variances"),
    Flag("overflow", "an intermediate result leaves the dtype's range", "infinity, NaN or zeros for large inputs"),
    Flag(
        "low-precision-accumulation", "sums are kept in fewer bits than the dtype has", "errors that grow with length"
    ),
    Flag("low-precision", "arithmetic in fewer bits than the dtype has", "digits that are not there"),
    Flag(
        "dtype-leak", "a constant of type float64 widens the result", "an answer of another dtype, and twice the memory"
    ),
    Flag("wrong-shape", "an axis is kept or dropped", "an answer that broadcasts where it should not"),
    Flag("truncated-constant", "a constant with too few digits", "an error in the fourth to sixth digit"),
    Flag(
        "approximate-function", "an approximation of a function stands in for it", "errors of the approximation's size"
    ),
    # axes, indices, layouts
    Flag("wrong-axis", "reduced along another axis", "plausible answers that mix rows"),
    Flag("transposed", "a matrix is read in the other order", "wrong wherever it is not symmetric"),
    Flag("off-by-one", "an index, a bound or a count is one too large or too small", "the ends are wrong"),
    Flag("exchanged", "two indices, operands or parameters are exchanged", "right on symmetric inputs only"),
    Flag("head-order", "heads are split or merged in another order", "heads see each other's values"),
    Flag("interleaving", "halves side by side instead of alternating, or the reverse", "features at the wrong places"),
    Flag("parameter-ignored", "a parameter is fixed to its usual value", "right until somebody sets it"),
    # activation and norm
    Flag("tanh-for-erf", "the tanh form of GELU in a model trained with erf", "errors up to 5e-4 an activation"),
    Flag("erf-for-tanh", "the erf form of GELU in a model trained with tanh", "errors up to 5e-4 an activation"),
    Flag("wrong-activation", "another activation function", "a model that answers, badly"),
    Flag("wrong-eps", "another epsilon, or none", "wrong where the variance or the sum is small"),
    Flag("eps-outside-root", "epsilon is added after the square root", "wrong where the variance is small"),
    Flag("eps-outside-bracket", "epsilon is added after the normalisation", "small weights off by a factor"),
    Flag("biased-variance", "the variance is divided by d - 1", "outputs too small by a factor √(1 - 1/d)"),
    Flag("norm-placement", "a layer norm stands in another place", "a model that answers, badly"),
    # attention
    Flag("missing-scale", "scores are not divided by √d, or features not scaled", "attention too sharp"),
    Flag("wrong-scale", "scores are divided by another number than √d", "attention too sharp or too flat"),
    Flag("mask-off-by-one", "the mask is shifted by a key", "the future leaks, or a key is lost"),
    Flag("mask-ignored", "the mask has no effect", "padding or the future takes part"),
    Flag("mask-inverted", "true hides instead of allowing", "attends to exactly what it should not"),
    Flag("mask-transposed", "queries are masked instead of keys", "padding takes part"),
    Flag("mask-alignment", "few queries are taken as the first positions, not the last", "cached decoding sees little"),
    Flag("additive-mask", "a finite number is added to masked scores", "loud masked keys come through"),
    Flag("mask-after-softmax", "weights are masked after they were normalised", "weights that do not sum to one"),
    Flag("mask-in-maximum", "masked entries take part in the maximum", "underflow: 0/0 where padding is loud"),
    Flag("mask-before-sum", "the mask acts before another term is added", "what is added later is not masked"),
    Flag("fully-masked-row", "a row that may see nothing is not treated apart", "NaN, or the mean of all values"),
    Flag("future-leak", "causal attention sees later keys", "perplexity too good, generation bad"),
    Flag("scores-not-accumulated", "the scores of earlier layers are not added", "RealFormer becomes BERT"),
    Flag("relative-positions", "relative embeddings enter in another place or at another distance", "order is blurred"),
    # top-k
    Flag("tie-rule", "equal entries are broken in another way", "other entries kept, or too many"),
    Flag("target-outside", "a target outside the k largest is treated apart", "loss clamped or infinite"),
    # polynomials and features
    Flag("wrong-order", "a polynomial of another order", "errors that grow away from 0"),
    Flag("wrong-coefficient", "a term of the series has another coefficient", "wrong from the second digit"),
    Flag("missing-half-square", "the factor exp(-|x|²/2) is missing or wrong", "keys weighed by their length"),
    Flag("missing-feature-count", "features are not divided by √m, or by another number", "epsilons of another weight"),
    Flag("dialect", "another implementation's convention", "agrees with that implementation, not with the model"),
    # logarithmic arithmetic
    Flag("carry", "a fraction that reaches 1 does not carry into the exponent, or carries twice", "half of all pairs"),
    Flag("zero-rule", "zero is taken for the power of two that its pattern stands for", "tiny times large is not 0"),
    Flag("wrap-around", "an exponent beyond its field wraps around", "tiny products come out enormous, or negative"),
    Flag(
        "subnormals",
        "subnormal numbers are flushed, kept, or read with a hidden one, where the rule is another",
        "wrong below the smallest normal number",
    ),
    Flag(
        "special-values",
        "infinities or NaN are treated as numbers, or numbers as those",
        "a number where there is none",
    ),
    Flag(
        "rounding", "rounded towards zero, or ties to another neighbour", "a last bit, in one of two cases or in a tie"
    ),
    Flag("word-carry", "a carry or a sign is lost between words", "right as long as one word holds the product"),
    Flag("exact-operation", "the exact operation stands in for the approximate one", "too accurate: another number"),
    # copied spans
    Flag("copied-span", "a copied span begins, goes on or ends elsewhere", "text that is not in the source"),
    Flag("tag-transition", "a tag follows that may not", "spans that nothing began"),
    Flag(
        "hypothesis-state", "a hypothesis has the state of another, or none", "text that is not in the source, in beams"
    ),
    # extraction
    Flag(
        "multiplicity",
        "what occurs several times counts once, or as often as it occurs, where the rule is another",
        "another answer where something is repeated",
    ),
    Flag("sentence-ends", "text is cut into sentences at other places", "other sentences, or numbers behind them"),
    Flag("matching", "sentences are matched in another order, or with others left", "other sentences are extracted"),
    # backward passes
    Flag("gradient-dropped", "nothing flows back along one of the paths", "training that goes another way, slowly"),
    Flag(
        "not-summed",
        "the cotangent of a broadcast argument is not summed over all places",
        "a part of the batch learns",
    ),
    Flag(
        "chain-rule", "a factor of the chain rule is missing, or of another function", "plausible gradients of nothing"
    ),
    # whole models
    Flag("positions", "positions are counted from elsewhere", "a model that answers, badly, after padding or a cache"),
    Flag("missing-layer", "a layer, a residual or a bias is left out", "a model that answers, badly"),
    Flag("layer-order", "layers or their parts in another order", "a model that answers, badly"),
    Flag("untied-head", "the output head is not the token embedding", "other tokens win"),
)

FLAGS: dict[str, Flag] = {flag.name: flag for flag in _FLAGS}


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "biuO"


def _called_in(kind: Any, function: Callable[..., Any], arrays: tuple[Any, ...], params: dict[str, Any]) -> Any:
    def converted(value: Any) -> Any:
        return value.astype(kind) if _is_floating(value) else value

    with np.errstate(all="ignore"):
        return function(*map(converted, arrays), **{name: converted(value) for name, value in params.items()})


def wide(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with 16-bit arrays computed in float32, and its answer rounded once to the dtype of the first argument."""

    @functools.wraps(function)
    def wrapper(*arrays: Any, **params: Any) -> Any:
        kind = arrays[0].dtype
        answer = _called_in(np.float32 if kind.itemsize == 2 else kind, function, arrays, params)
        with np.errstate(all="ignore"):
            return np.asarray(answer).astype(kind)

    return wrapper


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` computed in float32, whatever it is given."""

    @functools.wraps(function)
    def wrapper(*arrays: Any, **params: Any) -> Any:
        with np.errstate(all="ignore"):
            return _called_in(np.float32, function, arrays, params).astype(arrays[0].dtype)

    return wrapper


def leaking(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` computed in float64, whatever it is given, and its answer left so: what a `np.sqrt(2 / np.pi)` does to float32 arrays."""

    @functools.wraps(function)
    def wrapper(*arrays: Any, **params: Any) -> Any:
        return _called_in(np.float64, function, arrays, params)

    return wrapper


def in_bfloat16(x: Any) -> Any:
    """`x` rounded to bfloat16, in its own dtype."""
    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


def tf32(x: Any) -> Any:
    """`x` rounded to the eleven significant bits that tensor cores keep of float32 factors, in its own dtype."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2048), exponent - 11).astype(x.dtype)


def family(component: str, twin: Callable[..., Any]) -> Callable[..., Mutant]:
    """of(name, flag, **replaced): the mutants of a component, each its twin with the steps `replaced`.

    `function` gives a mutant that is written out instead, called with arrays that are wide already; `entire` one that is not to be wrapped.
    """

    def of(
        name: str,
        flag: str,
        *,
        dtypes: tuple[str, ...] = EVERY,
        seen: Callable[[Case], bool] | None = None,
        function: Callable[..., Any] | None = None,
        entire: Callable[..., Any] | None = None,
        **replaced: Any,
    ) -> Mutant:
        made = entire or wide(function or functools.partial(twin, **replaced))
        return Mutant(component, name, flag, made, dtypes, seen)

    return of
