"""Which sentences of a long text to keep: the gated convolutions (DGCNN) of SPACES over sentence vectors.

    v_s = mean over the tokens of sentence s of the encoder's last layer                                   [CLS] and [SEP] included       (1)
    x_0 = v P                                                                                              no bias                        (2)
    x_l = x_{l-1} + α_l LN(GLU(conv_{r_l}(x_{l-1})))          l = 1 .. 6,  r = 1, 2, 4, 8, 1, 1,  3 taps     `refimpl.convolution`          (3)
    z = x_6 w + b,   p = σ(z)                                                                                                             (4)
    L = 1/N Σ_s ℓ_s,   ℓ_s = log(1 + exp(-z_s)) where sentence s is to be kept, log(1 + exp(z_s)) where not                                 (5)

(3) sees (k-1) Σ r/2 = 17 sentences on either side, and no further. N is the number of sentences; padding has no influence on anything. In training
x is multiplied by dropout's zeros and 1/(1-rate) in L + 2 places: the vectors, x_0, and every x_l.

In the dialect "published" of (5), N is the number of all places, padding included, as the released program trains with Keras 2.3.1: the mask makes
ℓ 0 at padding, and the mean is over everything, so that a batch of shorter texts weighs less. Nothing is clipped: TensorFlow 1.14, which Keras
hands σ(z), goes back to z. The program takes vectors that are all zeros for padding (`real_sentences`); here the mask says what is padding.

References: J. Su, "SPACES: extract-generate long text summarization" (in Chinese), Scientific Spaces 8046 (2021), and extract_model.py and
extract_vectorize.py of github.com/bojone/SPACES at a545db3; Keras 2.3.1, engine/training.py and utils/losses_utils.py; TensorFlow 1.14,
`keras.backend.binary_crossentropy`; X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010),
equation (16).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl import bert
from refimpl.activation import sigmoid, sigmoid_vjp
from refimpl.backend import generator
from refimpl.bits import below
from refimpl.convolution import gated_convolution, gated_convolution_vjp
from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.gradients import Pullback, vjp_of
from refimpl.inputs import check_mask, check_token_ids
from refimpl.number_system import (
    Array,
    check_boolean,
    check_floating,
    device_of,
    exact,
    is_ball,
    namespace,
    rounded_once,
    whole_number,
)
from refimpl.parameters import Linear, Norm, affine_vjp, check_weights, is_positive, product, product_vjp
from refimpl.pooling import mean_pooling, mean_pooling_vjp
from refimpl.softmax import counted_mean, top_k_selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ExtractorConfig",
    "ExtractorWeights",
    "GatedLayer",
    "check_dialect",
    "choose",
    "dialects",
    "extractor_loss",
    "extractor_loss_vjp",
    "initial_extractor",
    "real_sentences",
    "sentence_logits",
    "sentence_logits_vjp",
    "sentence_probabilities",
    "sentence_probabilities_vjp",
    "sentence_vectors",
    "sentence_vectors_vjp",
]

dialects = ("corrected", "published")
THRESHOLD = 0.2  # of the published program


@dataclass(frozen=True)
class ExtractorConfig:
    """The sizes and constants of an extractor. None but the first three sizes shows in the weights."""

    input_size: int = 768  # width of a sentence vector
    hidden_size: int = 384
    kernel_size: int = 3  # taps of every convolution
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 1)  # of the layers, one each
    layer_norm_eps: float = 1e-12  # of bert4keras 0.9, with which SPACES was published; 1e-7 in 0.11.5

    def __post_init__(self) -> None:
        dilations = tuple(self.dilations) if isinstance(self.dilations, tuple | list) else (None,)
        sizes = {name: getattr(self, name) for name in ("input_size", "hidden_size", "kernel_size")}
        given = sizes | {f"dilations[{i}]": dilation for i, dilation in enumerate(dilations)}
        wrong = [f"{name} = {size!r}" for name, size in given.items() if not is_positive(size)]
        if wrong:
            raise ConfigError("a size is not a positive whole number", where="ExtractorConfig", got=", ".join(wrong))
        for name, size in sizes.items():
            object.__setattr__(self, name, whole_number(size))
        object.__setattr__(self, "dilations", tuple(whole_number(dilation) for dilation in dilations))
        eps = self.layer_norm_eps
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
            expected, got = "a number from 0", repr(eps)
            raise ConfigError("layer_norm_eps is no bound", where="ExtractorConfig", expected=expected, got=got)

    @property
    def reach(self) -> tuple[int, int]:
        """How many sentences before and behind it a sentence's logit depends on: Σ ⌊(k-1) r/2⌋, and what is left of Σ (k-1) r."""
        spans = [(self.kernel_size - 1) * dilation for dilation in self.dilations]
        before = sum(span // 2 for span in spans)
        return before, sum(spans) - before


class GatedLayer(NamedTuple):
    """The parameters of one gated convolution, `refimpl.convolution.gated_convolution`."""

    kernel: Array  # (k, w, 2w): the last w columns are the gates
    bias: Array  # (2w,)
    norm: Norm
    alpha: Array  # (1,)


class ExtractorWeights(NamedTuple):
    """All parameters of an extractor."""

    projection: Array  # (in, w)
    blocks: tuple[GatedLayer, ...]
    head: Linear  # (w, 1)

    @staticmethod
    def shapes(config: ExtractorConfig) -> dict[str, tuple[int, ...]]:
        """Every parameter's dotted name and shape."""
        w, k = config.hidden_size, config.kernel_size
        layer: dict[str, tuple[int, ...]] = {
            "kernel": (k, w, 2 * w),
            "bias": (2 * w,),
            "norm.scale": (w,),
            "norm.bias": (w,),
            "alpha": (1,),
        }
        shapes: dict[str, tuple[int, ...]] = {"projection": (config.input_size, w)}
        shapes |= {f"blocks.{i}.{name}": s for i in range(len(config.dilations)) for name, s in layer.items()}
        return shapes | {"head.weight": (w, 1), "head.bias": (1,)}

    @classmethod
    def from_named(
        cls, arrays: Mapping[str, Array], config: ExtractorConfig, *, source: Mapping[str, str] | None = None
    ) -> ExtractorWeights:
        """Put named arrays (names as in `shapes`) in their places.

        Raises ConfigError that lists *all* missing, extra, misshaped and non-finite arrays at once; `source` gives the names that
        the arrays had in their file, for that message.
        """
        remedy = (
            "check that the configuration belongs to these weights (input_size, hidden_size, kernel_size, dilations)"
        )
        check_weights(arrays, cls.shapes(config), source or {}, remedy=remedy)

        def layer(at: str) -> GatedLayer:
            norm = Norm.from_named(arrays, f"{at}norm.")
            return GatedLayer(arrays[f"{at}kernel"], arrays[f"{at}bias"], norm, arrays[f"{at}alpha"])

        layers = tuple(layer(f"blocks.{i}.") for i in range(len(config.dilations)))
        return cls(arrays["projection"], layers, Linear.from_named(arrays, "head."))

    def named(self) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        found = {"projection": self.projection}
        for i, layer in enumerate(self.blocks):
            norm = {f"norm.{field}": array for field, array in layer.norm._asdict().items()}
            parts = {"kernel": layer.kernel, "bias": layer.bias, **norm, "alpha": layer.alpha}
            found |= {f"blocks.{i}.{name}": array for name, array in parts.items()}
        return found | {f"head.{field}": array for field, array in self.head._asdict().items()}


def initial_extractor(config: ExtractorConfig, seed: int = 0, dtype: str = "float32") -> ExtractorWeights:
    """Matrices and kernels uniform within √(6/(fan in + fan out)), α, biases 0, scales 1: Keras' defaults, and the published layer's α.

    The fans of a kernel are k times its widths. With α = 0 the model is linear, p = σ(v P w + b), and the gated parts learn nothing before α has
    moved. Drawn by NumPy's default generator in float64, in the order of `ExtractorWeights.shapes`, and rounded to `dtype`.

    Raises ConfigError unless the dtype is float32 or float64.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError("parameters cannot learn in that dtype", expected="float32 or float64", got=repr(dtype))
    rng, arrays = generator(seed), {}
    for name, shape in ExtractorWeights.shapes(config).items():
        limit = math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:]))) if len(shape) > 1 else 0.0
        middle = float(name.endswith("scale"))
        arrays[name] = rng.uniform(middle - limit, middle + limit, shape).astype(dtype)
    return ExtractorWeights.from_named(arrays, config)


# --- sentences --------------------------------------------------------------------------------------------------------------------------


def sentence_vectors(
    weights: bert.BertWeights,
    config: bert.BertConfig,
    token_ids: Any,
    *,
    mask: Any = None,
    dialect: str | bert.Dialect = "huggingface",
) -> Array:  # int (b, n) -> (b, d)
    """v_s = Σ_t mask[s, t] encode(s)_t / Σ_t mask[s, t], [CLS] and [SEP] included.

    Parameters
    ----------
    weights, config : of a BERT or NEZHA
    token_ids : integers, (batch, n): a sentence a row, with its [CLS] and [SEP], padded on the right
    mask : bool, (batch, n), true at tokens and false at padding; None: there is none
    dialect : as `refimpl.bert.encode`

    Returns
    -------
    array, (batch, d), the dtype of the weights

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        as `refimpl.bert.encode` and `refimpl.pooling.mean_pooling`.
    """
    real = check_mask(mask, check_token_ids(token_ids, config.vocab_size, weights.token_embedding))
    return mean_pooling(bert.encode(weights, config, token_ids, mask=real, dialect=dialect), real)


def real_sentences(vectors: Array) -> Array:  # (..., n, in) -> bool (..., n)
    """True where any number of a vector is not 0: the mask that the published program makes of padded vectors. Not for balls."""
    check_floating("vectors", vectors)
    if is_ball(vectors):
        raise DtypeError("balls do not show what is padding", where="real_sentences", expected="floats", got="balls")
    return namespace(vectors).any(vectors != 0, axis=-1)


class _Given(NamedTuple):
    """What an extractor reads, checked."""

    vectors: Array  # (..., n, in), 0 at padding
    mask: Array | None  # bool (..., n)
    dropout: tuple[Array | None, ...]  # num_layers + 2 factors


def _given(
    weights: ExtractorWeights, config: ExtractorConfig, vectors: Array, mask: Array | None, dropout: Any
) -> _Given:
    """The vectors with 0 at padding; raises where they, the mask or dropout's factors do not fit the model."""
    where = "sentence_logits"
    check_floating("vectors", vectors, where)
    if vectors.ndim < 2 or vectors.shape[-1] != config.input_size:
        expected, got = f"(..., n, {config.input_size})", tuple(vectors.shape)
        raise ShapeError("the vectors do not fit the extractor", where=where, expected=expected, got=got)
    if len(weights.blocks) != len(config.dilations):
        what, layers = "the weights do not fit the configuration", f"{len(config.dilations)} layers"
        raise ConfigError(what, where=f"{where}(weights)", expected=layers, got=len(weights.blocks))
    if mask is not None:
        check_boolean(f"{where}(mask)", mask)
        if tuple(mask.shape) != tuple(vectors.shape[:-1]):
            what, got = "the mask has one entry for each sentence", tuple(mask.shape)
            raise ShapeError(what, where=where, expected=tuple(vectors.shape[:-1]), got=got)
    places = len(config.dilations) + 2
    factors = (None,) * places if dropout is None else tuple(dropout)
    if len(factors) != places:
        what = "dropout has its places"
        raise ShapeError(what, where=f"{where}(dropout)", expected=f"{places} arrays or None", got=len(factors))
    for place, factor in enumerate(factors):
        shape = (*vectors.shape[:-1], config.hidden_size if place else config.input_size)
        if factor is not None and tuple(factor.shape) != shape:
            what, got = "a factor of dropout has the shape of what it multiplies", tuple(factor.shape)
            raise ShapeError(what, where=f"{where}(dropout[{place}])", expected=shape, got=got)
    return _Given(_real(vectors, mask), mask, factors)


@rounded_once
def _real(x: Array, mask: Array | None) -> Array:  # (..., n, d), bool (..., n) -> (..., n, d)
    """x, 0 at padding."""
    return x if mask is None else namespace(x, mask).where(mask[..., None], x, exact(0, x))


@rounded_once
def _scaled(x: Array, factor: Array | None) -> Array:  # (..., n, d), (..., n, d) -> (..., n, d)
    return x if factor is None else x * factor


def sentence_logits(
    weights: ExtractorWeights,
    config: ExtractorConfig,
    vectors: Array,
    mask: Array | None = None,
    *,
    dropout: Sequence[Array | None] | None = None,
) -> Array:  # (..., n, in), bool (..., n) -> (..., n)
    """z = x_L w + b, x_l = x_{l-1} + α_l LN(GLU(conv_l(x_{l-1}))), x_0 = v P.

    Parameters
    ----------
    weights, config : of the extractor
    vectors : array, (..., n, in), floating or balls, the dtype of the weights: a document's sentences in order
    mask : boolean array, (..., n), true at sentences and false at padding, or None: all are real. Padding has no influence, whatever it holds
    dropout : for training: num_layers + 2 factors, each of the shape of what it multiplies (the vectors, x_0, .., x_L), or None for none

    Returns
    -------
    array, (..., n), the dtype of `vectors`; exactly 0 at padding

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the vectors are not floating, the mask not boolean, shapes do not fit, or weights and configuration are of two models.
    """
    given = _given(weights, config, vectors, mask, dropout)
    x = _scaled(product(_scaled(given.vectors, given.dropout[0]), weights.projection), given.dropout[1])
    for layer, dilation, factor in zip(weights.blocks, config.dilations, given.dropout[2:], strict=True):
        options: dict[str, Any] = {"dilation": dilation, "mask": mask, "eps": config.layer_norm_eps}
        x = _scaled(gated_convolution(x, layer.kernel, layer.bias, *layer.norm, layer.alpha, **options), factor)
    return _real(weights.head(x), mask)[..., 0]


def sentence_probabilities(
    weights: ExtractorWeights, config: ExtractorConfig, vectors: Array, mask: Array | None = None
) -> Array:  # (..., n, in), bool (..., n) -> (..., n)
    """p = σ(z); exactly 0 at padding. Arguments and errors as `sentence_logits`."""
    return _real(sigmoid(sentence_logits(weights, config, vectors, mask))[..., None], mask)[..., 0]


def choose(
    probabilities: Array, threshold: float = THRESHOLD, *, otherwise: str = "best"
) -> list[int]:  # (n,) -> indices
    """{s : p_s > threshold}, in order; where that is empty, {argmax p} or nothing.

    Parameters
    ----------
    probabilities : array, (n,), floating or balls, from 0 to 1; padding, whose probability is 0, is not chosen
    threshold : 0 <= threshold < 1; a sentence with just that probability is not chosen
    otherwise : what is chosen where no probability is above the threshold: "best", the first sentence of the largest probability, so that a summary
        has a source; or "none", as the published program, which then generates from an empty text

    Returns
    -------
    list of indices, rising; empty for no sentences

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        if probabilities are not floating, of one axis and within 0 and 1, or options make no sense; on balls that do not decide.
    """
    p, xp = probabilities, namespace(probabilities)
    _check_choice(p, threshold, otherwise)
    if not p.shape[0]:
        return []
    passed = below(-p, -threshold)
    chosen = passed if otherwise == "none" or bool(xp.any(passed)) else top_k_selection(p, 1)
    return [int(i) for i in xp.nonzero(chosen)[0]]


def _check_choice(p: Array, threshold: Any, otherwise: Any) -> None:
    where = "choose"
    if p.ndim != 1:
        expected, got = "(n,): those of one document", tuple(p.shape)
        raise ShapeError("probabilities have one axis", where=where, expected=expected, got=got)
    if p.shape[0]:
        check_floating("probabilities", p, where)
    if not is_ball(p) and not bool(namespace(p).all((p >= 0) & (p <= 1))):
        raise ConfigError("those are no probabilities", where=where, expected="numbers from 0 to 1", got=str(p))
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 1:
        raise ConfigError("that is no threshold", where=where, expected="0 <= threshold < 1", got=repr(threshold))
    if otherwise not in ("best", "none"):
        known = '"best" or "none"'
        raise ConfigError("unknown choice", where=f"{where}(otherwise=...)", expected=known, got=repr(otherwise))


# --- the loss ---------------------------------------------------------------------------------------------------------------------------


def check_dialect(dialect: object) -> None:
    """Raise ConfigError unless it is one of `dialects`."""
    if dialect not in dialects:
        known = ", ".join(dialects)
        raise ConfigError("unknown dialect", where="extractor_loss", expected=known, got=repr(dialect))


def _counted(logits: Array, labels: Array, mask: Array | None, dialect: Any, total: Any) -> tuple[Array, int]:
    """Which places count, bool (...), and N; raises what `extractor_loss` raises."""
    check_floating("logits", logits, "extractor_loss")
    shape, xp = tuple(logits.shape), namespace(logits, labels)
    for name, given in (("labels", labels), ("mask", mask)):
        if given is not None:
            check_boolean(f"extractor_loss({name})", given)
        if given is not None and tuple(given.shape) != shape:
            what, got = f"the {name} must have the shape of the logits", tuple(given.shape)
            raise ShapeError(what, where=f"extractor_loss({name})", expected=shape, got=got)
    check_dialect(dialect)
    counted = xp.ones(shape, dtype=xp.bool, device=device_of(logits)) if mask is None else mask
    places = math.prod(shape) if dialect == "published" else int(xp.sum(xp.astype(counted, xp.int64)))
    return counted, _total(places if total is None else total)


def _total(total: Any) -> int:
    n = whole_number(total)
    if n is None:
        where, expected = "extractor_loss(total)", "a whole number of sentences, or None"
        raise ConfigError("a mean is over a number of sentences", where=where, expected=expected, got=repr(total))
    if n < 1:
        raise ShapeError("no sentence counts", where="extractor_loss", expected="at least one", got=n)
    return n


def _losses(logits: Array, labels: Array) -> Array:  # (...), bool (...) -> (...)
    """log(1 + exp(-m)), m = z where a label is true and -z elsewhere; on floats max(-m, 0) + log(1 + exp(-|m|)): nothing cancels or overflows."""
    xp = namespace(logits, labels)
    against = xp.where(labels, -logits, logits)
    if is_ball(logits):
        return xp.log1p(xp.exp(against))
    return xp.maximum(against, xp.zeros_like(against)) + xp.log1p(xp.exp(-xp.abs(against)))


@rounded_once
def extractor_loss(
    logits: Array, labels: Array, mask: Array | None = None, *, dialect: str = "corrected", total: int | None = None
) -> Array:  # (...), bool (...), bool (...) -> ()
    """L = 1/N Σ_s log(1 + exp(-m_s)), m_s = z_s for sentences to be kept, -z_s for others: the mean binary cross-entropy of σ(z).

    Parameters
    ----------
    logits : array, (...), floating or balls
    labels : boolean array, (...), true at sentences that are to be kept
    mask : boolean array, (...), true at sentences and false at padding, whose logits and labels are not looked at; None: all are real
    dialect : "corrected": N is the number of sentences; "published": of all places, padding included, as Keras 2.3.1 counts
    total : N instead, where a batch is computed in pieces

    Returns
    -------
    array, (), the dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the logits are not floating or labels and mask not boolean, shapes differ, no sentence counts, or options make no sense.
    """
    counted, n = _counted(logits, labels, mask, dialect, total)
    return counted_mean(_losses(logits, labels), counted, n)


# --- backwards --------------------------------------------------------------------------------------------------------------------------


@vjp_of(sentence_vectors, "weights")
def sentence_vectors_vjp(
    weights: bert.BertWeights,
    config: bert.BertConfig,
    token_ids: Any,
    *,
    mask: Any = None,
    dialect: str | bert.Dialect = "huggingface",
) -> tuple[Array, Pullback]:  # int (b, n) -> (b, d), pullback
    """`refimpl.pooling.mean_pooling_vjp`, then `refimpl.bert.encode_vjp`. Arguments and errors as `sentence_vectors`."""
    real = check_mask(mask, check_token_ids(token_ids, config.vocab_size, weights.token_embedding))
    hidden, back_of_encoder = bert.encode_vjp(weights, config, token_ids, mask=real, dialect=dialect)
    vectors, back_of_mean = mean_pooling_vjp(hidden, real)
    return vectors, lambda vectors_bar: back_of_encoder(*back_of_mean(vectors_bar))


@vjp_of(sentence_logits, "weights", "vectors")
def sentence_logits_vjp(
    weights: ExtractorWeights,
    config: ExtractorConfig,
    vectors: Array,
    mask: Array | None = None,
    *,
    dropout: Sequence[Array | None] | None = None,
) -> tuple[Array, Pullback]:  # (..., n, in), bool (..., n) -> (..., n), pullback
    """x̄_L = z̄ wᵀ, back through every `gated_convolution_vjp`, v̄ = x̄_0 Pᵀ, each times its factor of dropout; 0 at padding. Arguments as the logits."""
    given = _given(weights, config, vectors, mask, dropout)
    x, back_of_projection = product_vjp(_scaled(given.vectors, given.dropout[0]), weights.projection)
    x = _scaled(x, given.dropout[1])
    backs: list[tuple[Pullback, Array | None]] = []
    for layer, dilation, factor in zip(weights.blocks, config.dilations, given.dropout[2:], strict=True):
        options: dict[str, Any] = {"dilation": dilation, "mask": mask, "eps": config.layer_norm_eps}
        x, back = gated_convolution_vjp(x, layer.kernel, layer.bias, *layer.norm, layer.alpha, **options)
        x = _scaled(x, factor)
        backs.append((back, factor))
    z, back_of_head = affine_vjp(x, *weights.head)

    def pullback(z_bar: Array) -> tuple[ExtractorWeights, Array]:  # (..., n) -> weights, (..., n, in)
        x_bar, *head = back_of_head(_real(z_bar[..., None], mask))
        layers: list[GatedLayer] = []
        for back, factor in reversed(backs):
            x_bar, kernel, bias, scale, shift, alpha, _ = back(_scaled(x_bar, factor))
            layers.insert(0, GatedLayer(kernel, bias, Norm(scale, shift), alpha))
        v_bar, projection = back_of_projection(_scaled(x_bar, given.dropout[1]))
        weights_bar = ExtractorWeights(projection, tuple(layers), Linear(*head))
        return weights_bar, _scaled(v_bar, given.dropout[0])

    return _real(z, mask)[..., 0], pullback


@vjp_of(sentence_probabilities, "weights", "vectors")
def sentence_probabilities_vjp(
    weights: ExtractorWeights, config: ExtractorConfig, vectors: Array, mask: Array | None = None
) -> tuple[Array, Pullback]:  # (..., n, in), bool (..., n) -> (..., n), pullback
    """z̄ = σ(z) σ(-z) p̄, back through `sentence_logits_vjp`. Arguments and errors as `sentence_logits`."""
    z, back = sentence_logits_vjp(weights, config, vectors, mask)
    p, back_of_sigmoid = sigmoid_vjp(z)
    return _real(p[..., None], mask)[..., 0], lambda p_bar: back(*back_of_sigmoid(p_bar))


@vjp_of(extractor_loss, "logits")
def extractor_loss_vjp(
    logits: Array, labels: Array, mask: Array | None = None, *, dialect: str = "corrected", total: int | None = None
) -> tuple[Array, Pullback]:  # (...), bool (...), bool (...) -> (), pullback
    """z̄_s = -σ(-z_s) L̄/N for sentences to be kept, σ(z_s) L̄/N for others; exactly 0 at padding. Arguments and errors as `extractor_loss`."""
    counted, n = _counted(logits, labels, mask, dialect, total)

    def pullback(loss_bar: Array) -> tuple[Array]:  # () -> (...)
        xp = namespace(logits, counted)
        slopes = xp.where(labels, -sigmoid(-logits), sigmoid(logits)) / exact(n, logits)
        return (xp.where(counted, slopes * loss_bar, exact(0, logits)),)

    return counted_mean(_losses(logits, labels), counted, n), pullback
