"""The components written out once more, to be run in float32 by three libraries: NumPy, torch and JAX.

    python -m validation.targets.routes numpy         # or torch, jax

A right implementation must pass everything, whichever way its library sums, fuses and rounds. The NumPy route is the right implementation beside
which the planted bugs stand (`validation.mutants.TWINS`). The functions here are another: plain array operations, in forms that differ from those
where there is a choice (prefix sums instead of weights for linear attention, one product for q, k and v in place of three); torch runs them
operation by operation, JAX compiles each as a whole. Those that answer with whole numbers or truth values are in `whole_number_routes`; they need
int64, for which JAX has to be told, as for float64 (`jax_enable_x64`). Those that read texts are in `text_routes`, and run on the host.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from refimpl.console import err, out
from refimpl.errors import ConfigError, RefimplError
from validation import backwards, components, conformance, mutants, vectors
from validation.targets import beam_routes, pattern_routes, text_routes
from validation.targets import whole_number_routes as whole

if TYPE_CHECKING:
    from collections.abc import Callable

Differentiated = (
    Any  # Callable: a function, its arguments, the cotangent of its result -> the cotangents of the arguments
)
__all__ = ["ROUTES", "jax_route", "numpy_route", "torch_route", "written_out"]

_INSTALL = {
    "torch": "pip install -r validation/oracles/requirements-transformers.txt",
    "jax": "pip install -r validation/oracles/requirements-keras3.txt",
}


# --- softmax and its relatives --------------------------------------------------------------------------------------------------


def _swap(x: Any, xp: Any) -> Any:
    return xp.swapaxes(x, -1, -2) if hasattr(xp, "swapaxes") else xp.matrix_transpose(x)


def _logsumexp(x: Any, *, xp: Any) -> Any:
    c = xp.max(x, axis=-1, keepdims=True)
    return (c + xp.log(xp.sum(xp.exp(x - c), axis=-1, keepdims=True)))[..., 0]


def _softmax(x: Any, *, xp: Any) -> Any:
    return xp.exp(_log_softmax_stable(x, xp))


def _log_softmax_stable(x: Any, xp: Any) -> Any:
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _log_softmax(x: Any, *, xp: Any) -> Any:
    return _log_softmax_stable(x, xp)


def _ranked(x: Any, k: int, xp: Any) -> Any:
    """The k largest by a stable sort of -x, and their places; a lower index goes first."""
    places = xp.argsort(-x, axis=-1, stable=True)[..., :k]
    return xp.take_along_axis(x, places, axis=-1), places


def _sparse_softmax(x: Any, k: int, *, xp: Any) -> Any:
    largest, places = _ranked(x, k, xp)
    e = xp.exp(largest - largest[..., :1])
    weights = e / xp.sum(e, axis=-1, keepdims=True)
    here = places[..., None, :] == xp.arange(x.shape[-1])[:, None]
    return xp.sum(xp.where(here, weights[..., None, :], xp.zeros_like(weights)[..., None, :]), axis=-1)


def _sparse_loss(logits: Any, targets: Any, k: int, *, xp: Any) -> Any:
    target = xp.take_along_axis(logits, targets[..., None], axis=-1)
    return _logsumexp(_ranked(logits, k, xp)[0] - target, xp=xp)


# --- pointwise ------------------------------------------------------------------------------------------------------------------


def _gelu(x: Any, approximate: str, *, xp: Any) -> Any:
    if approximate == "none":
        return x * xp.erfc(-x / math.sqrt(2)) / 2
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    # not beyond, where exp overflows: the quotient is 0 as it should be, but its derivative ∞ · 0
    return x / (1 + xp.exp(-2 * xp.clip(inner, -40.0, 40.0)))


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float, *, xp: Any) -> Any:
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps) * scale + bias


def _mean_pooling(hidden: Any, mask: Any, *, xp: Any) -> Any:
    seen = mask[..., None]
    return xp.sum(xp.where(seen, hidden, xp.zeros_like(hidden)), axis=-2) / xp.sum(
        xp.astype(seen, hidden.dtype), axis=-2
    )


def _extend_embedding(table: Any, kept: Any, pieces: Any, *, xp: Any) -> Any:
    stay, seen = table[kept], (pieces >= 0)[..., None]
    rows = stay[xp.where(pieces >= 0, pieces, xp.zeros_like(pieces))]
    total = xp.sum(xp.where(seen, rows, xp.zeros_like(rows)), axis=1)
    return xp.concat([stay, total / xp.sum(xp.astype(seen, table.dtype), axis=1)])


def _unit_length(x: Any, *, xp: Any) -> Any:
    small = x / xp.max(xp.abs(x), axis=-1, keepdims=True)
    return small / xp.sqrt(xp.sum(small * small, axis=-1, keepdims=True))


# --- Mitchell's arithmetic, and the loss of tags ----------------------------------------------------------------------------------


def _binade(x: Any, xp: Any) -> tuple[Any, Any]:
    """(e, f) with |x| = 2^e (1 + f), 0 <= f < 1."""
    half, exponent = xp.frexp(xp.abs(x))
    return exponent - 1, 2 * half - 1


def _times_power(x: Any, exponent: Any, xp: Any) -> Any:
    """x 2^exponent, in four steps: a power of two need not be in range for its product to be."""
    quarter = exponent // 4
    for part in (quarter, quarter, quarter, exponent - 3 * quarter):
        x = x * xp.ldexp(xp.ones_like(x), part)
    return x


def _with_sign(a: Any, b: Any, size: Any, exact: Any, dialect: str, xp: Any) -> Any:
    """The size with the sign of the product; 0 where an operand is 0, and where "pam" flushes the exact result."""
    gone = (exact == 0) | ((xp.abs(exact) < 1e-37) if dialect == "pam" else (exact == 0))
    return xp.where(gone, xp.zeros_like(size), xp.where((a < 0) == (b < 0), size, -size))


def _mitchell_multiply(a: Any, b: Any, dialect: str, *, xp: Any) -> Any:
    (e, f), (h, g) = _binade(a, xp), _binade(b, xp)
    carry = f + g >= 1
    size = _times_power(
        xp.where(carry, f + g, 1 + (f + g)), e + h + xp.where(carry, xp.ones_like(e), xp.zeros_like(e)), xp
    )
    return _with_sign(a, b, size, xp.astype(a, xp.float64) * xp.astype(b, xp.float64), dialect, xp)


def _mitchell_divide(a: Any, b: Any, dialect: str, *, xp: Any) -> Any:
    (e, f), (h, g) = _binade(a, xp), _binade(b, xp)
    borrow = f < g
    size = _times_power(
        xp.where(borrow, 2 + (f - g), 1 + (f - g)), e - h - xp.where(borrow, xp.ones_like(e), xp.zeros_like(e)), xp
    )
    return _with_sign(a, b, size, xp.astype(a, xp.float64) / xp.astype(b, xp.float64), dialect, xp)


def _mitchell_corrected(a: Any, b: Any, *, xp: Any) -> Any:
    """The product, and that of what it leaves out, in the units of the first."""
    (e, f), (h, g) = _binade(a, xp), _binade(b, xp)
    carry = f + g >= 1
    one = xp.where(carry, xp.ones_like(f), xp.zeros_like(f))
    first, second = xp.abs(one - f), xp.abs(one - g)
    rest = _mitchell_multiply(first, second, "ieee", xp=xp)
    size = _times_power(1 + f + g + one * (f + g - 1) + rest, e + h, xp)
    return _with_sign(a, b, size, xp.astype(a, xp.float64) * xp.astype(b, xp.float64), "ieee", xp)


def _mitchell_power(x: Any, y: Any, product: str, *, xp: Any) -> Any:
    e, f = _binade(x, xp)
    parts = [xp.astype(e, x.dtype), f]
    first, second = (y * part if product == "exact" else _mitchell_multiply(y, part, "ieee", xp=xp) for part in parts)
    whole = xp.floor(first)
    return _times_power(_mitchell_exp2((first - whole) + second, xp=xp), xp.astype(whole, xp.int32), xp)


def _mitchell_matmul(a: Any, b: Any, dialect: str, *, xp: Any) -> Any:
    return xp.sum(_mitchell_multiply(a[:, :, None], b[None, :, :], dialect, xp=xp), axis=1)


def _mitchell_square_root(x: Any, *, xp: Any) -> Any:
    e, f = _binade(x, xp)
    half = e // 2
    odd = xp.astype(e - 2 * half, x.dtype)
    return xp.where(x == 0, xp.zeros_like(x), _times_power(1 + (odd + f) / 2, half, xp))


def _mitchell_log2(x: Any, *, xp: Any) -> Any:
    e, f = _binade(x, xp)
    return xp.astype(e, x.dtype) + f


def _mitchell_exp2(x: Any, *, xp: Any) -> Any:
    whole = xp.floor(x)
    return _times_power(1 + (x - whole), xp.astype(whole, xp.int32), xp)


def _copy_loss(tag_logits: Any, labels: Any, segment_ids: Any, *, xp: Any) -> Any:
    said = xp.take_along_axis(_log_softmax_stable(tag_logits, xp)[:, :-1], labels[..., None], axis=-1)[..., 0]
    later = xp.sum(segment_ids, axis=-1)[..., None] - xp.cumulative_sum(segment_ids, axis=-1)
    trained = later[:, :-1] > 0
    total = xp.sum(xp.where(trained, said, xp.zeros_like(said)))
    return xp.reshape(-total / xp.sum(xp.astype(trained, said.dtype)), (1,))


# --- attention ------------------------------------------------------------------------------------------------------------------


def _attend(scores: Any, v: Any, mask: Any, xp: Any) -> Any:
    """Weights exp(s - c), one division by their sum behind the product with v, 0 where nothing may be seen; the weights too."""
    seen = xp.ones_like(scores, dtype=xp.bool) if mask is None else xp.broadcast_to(mask, scores.shape)
    low = xp.full_like(scores, -math.inf)
    c = xp.max(xp.where(seen, scores, low), axis=-1, keepdims=True)
    c = xp.where(c > -math.inf, c, xp.zeros_like(c))
    e = xp.where(seen, xp.exp(xp.where(seen, scores - c, xp.zeros_like(scores))), xp.zeros_like(scores))
    total = xp.sum(e, axis=-1, keepdims=True)
    total = xp.where(total > 0, total, xp.ones_like(total))
    return e @ v / total, e / total


def _attention(q: Any, k: Any, v: Any, mask: Any, *, xp: Any) -> Any:
    return _attend((q / math.sqrt(q.shape[-1])) @ _swap(k, xp), v, mask, xp)[0]


def _residual(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int, *, xp: Any) -> Any:
    scores = q @ _swap(k, xp) / math.sqrt(q.shape[-1]) + previous_scores
    return _attend(scores / mean_over, v, mask, xp)[0]


def _relative(q: Any, k: Any, v: Any, relative: Any, mask: Any, *, xp: Any) -> Any:
    by_place = xp.sum(q[..., None, :] * relative, axis=-1)
    out, weights = _attend((q @ _swap(k, xp) + by_place) / math.sqrt(q.shape[-1]), v, mask, xp)
    return out + xp.sum(weights[..., None] * relative, axis=-2)


def _hierarchical(table: Any, positions: Any, alpha: float, *, xp: Any) -> Any:
    i, j = positions // table.shape[0], positions % table.shape[0]
    return table[j] + alpha / (1 - alpha) * (table[i] - table[:1][xp.zeros_like(i)])


# --- Taylor ---------------------------------------------------------------------------------------------------------------------


def _exp_taylor(x: Any, order: int, *, xp: Any) -> Any:
    """The same quadrature as everybody's who wants no cancellation, by the nodes of NumPy."""
    nodes, weights = np.polynomial.laguerre.laggauss(order // 2 + 1)
    total = xp.zeros_like(x)
    for s, w in zip(nodes.tolist(), weights.tolist(), strict=True):
        total = total + ((x + s) * (w / math.factorial(order)) ** (1 / order)) ** order
    return total


def _taylor_softmax(x: Any, order: int, *, xp: Any) -> Any:
    weights = _exp_taylor(x, order, xp=xp)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def _lower(n: int, m: int, xp: Any) -> Any:
    return xp.arange(m)[None, :] <= xp.arange(n)[:, None] + (m - n)


def _taylor_attention(q: Any, k: Any, v: Any, causal: bool, *, xp: Any) -> Any:
    """1 + s + s²/2 as (1 + (1 + s)²)/2."""
    one_more = 1 + q @ _swap(k, xp) / math.sqrt(q.shape[-1])
    weights = (1 + one_more * one_more) / 2
    if causal:
        weights = xp.where(_lower(*weights.shape[-2:], xp), weights, xp.zeros_like(weights))
    return weights @ v / xp.sum(weights, axis=-1, keepdims=True)


# --- random features ------------------------------------------------------------------------------------------------------------

_AXES: dict[str, tuple[int, ...]] = {"row": (-1,), "head": (-2, -1), "norm": (-2, -1)}


def _scaled(x: Any, scaled: bool) -> Any:
    return x * x.shape[-1] ** -0.25 if scaled else x


def _halved(x: Any, xp: Any) -> Any:
    return xp.sum(x * x, axis=-1, keepdims=True) / 2


def _highest(of: Any, shift: str, xp: Any) -> Any:
    return xp.max(of, axis=_AXES[shift], keepdims=True) if shift != "none" else 0


def _positive(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool, epsilon: float, *, xp: Any) -> Any:
    x = _scaled(x, scaled)
    u = x @ projection.T
    return (xp.exp(u - _highest(u, shift, xp) - _halved(x, xp)) + epsilon) * projection.shape[0] ** -0.5


def _trigonometric(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool, *, xp: Any) -> Any:
    x = _scaled(x, scaled)
    u, h = x @ projection.T, _halved(x, xp)
    size = xp.exp(h - _highest(h, shift, xp)) * projection.shape[0] ** -0.5
    return xp.concat([size * xp.sin(u), size * xp.cos(u)], axis=-1)


def _hyperbolic(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool, *, xp: Any) -> Any:
    x = _scaled(x, scaled)
    u, h = x @ projection.T, _halved(x, xp)
    offset = h + (2 * _highest(h, shift, xp) if shift == "norm" else _highest(xp.abs(u), shift, xp))
    return xp.exp(xp.concat([u, -u], axis=-1) - offset) * (2 * projection.shape[0]) ** -0.5


def _relu(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: Any, *, xp: Any) -> Any:
    root = math.sqrt(projection.shape[0])
    u = _scaled(x, scaled) @ projection.T
    u = xp.where(u > 0, u, xp.zeros_like(u))
    return u / root + epsilon if normalized == "inside" else (u + epsilon) / (root if normalized else 1.0)


# --- FAVOR+ ---------------------------------------------------------------------------------------------------------------------

# dialect -> maximum of queries, of keys, epsilon of features, rule of the denominator, causal rule
_CONVENTIONS: dict[str, tuple[Any, Any, float, str, str]] = {
    "paper": ((-1,), (-2, -1), 0.0, "bare", "bare"),
    "performer-pytorch": ((-1,), (-2, -1), 1e-4, "bare", "keys"),
    "google-jax": ((-1,), (-2, -1), 1e-6, "guarded", "guarded"),
    "google-tf": ((-1,), (-2, -1), 1e-6, "bare", "bare"),
    "fast-transformers": (None, None, 0.0, "added", "added"),
    "tf-models": ((-3, -2, -1), (-3, -2, -1), 0.0, "added", "added"),
}
_SMALL = 1e-6


def _favor_features(x: Any, projection: Any, axes: Any, epsilon: float, dialect: str, seen: Any, xp: Any) -> Any:
    x = _scaled(x, True)
    u, h, m = x @ projection.T, _halved(x, xp), projection.shape[0]
    if dialect == "fast-transformers":
        return xp.exp(xp.concat([u, -u], axis=-1) - h) * (2 * m) ** -0.5
    exponent = u - h
    measure = exponent if dialect == "paper" else u
    if seen is not None:
        measure = xp.where(seen, measure, xp.full_like(measure, -math.inf))
    c = xp.max(measure, axis=axes, keepdims=True)
    exponent = exponent - c
    if seen is not None:  # what is hidden must not overflow
        exponent = xp.where(seen, exponent, xp.zeros_like(exponent))
    return (xp.exp(exponent) + epsilon) * m**-0.5


def _favor(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str, *, xp: Any) -> Any:
    query_axes, key_axes, epsilon, rule, causal_rule = _CONVENTIONS[dialect]
    seen = None if mask is None else mask[..., None]
    f = _favor_features(q, projection, query_axes, epsilon, dialect, None, xp)
    g = _favor_features(k, projection, key_axes, epsilon, dialect, seen, xp)
    if seen is not None:
        g = xp.where(seen, g, xp.zeros_like(g))
    if causal:
        first = k.shape[-2] - q.shape[-2]
        sums = xp.cumulative_sum(g[..., :, None] * v[..., None, :], axis=-3)[..., first:, :, :]
        counts = xp.cumulative_sum(g, axis=-2)[..., first:, :]
        numerator, rule = xp.sum(f[..., None] * sums, axis=-2), causal_rule
        denominator = xp.sum(f * (counts + (_SMALL if rule == "keys" else 0)), axis=-1, keepdims=True)
    else:
        numerator = f @ (_swap(g, xp) @ v)
        denominator = f @ xp.sum(g, axis=-2)[..., None]
    if rule == "added":
        denominator = denominator + _SMALL
    if rule == "guarded":
        denominator = xp.where(xp.abs(denominator) <= _SMALL, denominator + 2 * _SMALL, denominator)
    return numerator / denominator


# --- whole models ---------------------------------------------------------------------------------------------------------------


def _heads(x: Any, heads: int, xp: Any) -> Any:  # (b, n, d) -> (b, h, n, w)
    return xp.permute_dims(xp.reshape(x, (*x.shape[:2], heads, -1)), (0, 2, 1, 3))


def _joined(x: Any, xp: Any) -> Any:  # (b, h, n, w) -> (b, n, d)
    b, h, n, w = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (b, n, h * w))


def _layer(
    x: Any, mask: Any, scores: Any, parameters: tuple[Any, ...], heads: int, eps: float, *, pre: bool, xp: Any
) -> Any:
    """One layer of GPT-2 (norms first, causal, tanh) or of BERT (norms behind, previous scores, erf); 0 at padding."""
    norm_1, norm_2 = parameters[:2], parameters[6:8]
    (w_qkv, b_qkv, w_out, b_out), (w_in, b_in, w_back, b_back) = parameters[2:6], parameters[8:]

    def attention(y: Any) -> Any:
        qkv = _heads(y @ w_qkv + b_qkv, 3 * heads, xp)
        q, k, v = (qkv[:, j * heads : (j + 1) * heads] for j in range(3))
        seen = mask[:, None, None, :]
        seen = seen & _lower(y.shape[1], y.shape[1], xp) if pre else seen
        raw = (q / math.sqrt(q.shape[-1])) @ _swap(k, xp)
        return _joined(_attend(raw if scores is None else raw + scores, v, seen, xp)[0], xp) @ w_out + b_out

    def feed_forward(y: Any) -> Any:
        return _gelu(y @ w_in + b_in, "tanh" if pre else "none", xp=xp) @ w_back + b_back

    for parts, sublayer in ((norm_1, attention), (norm_2, feed_forward)):
        norm = functools.partial(_layer_norm, scale=parts[0], bias=parts[1], eps=eps, xp=xp)
        x = x + sublayer(norm(x)) if pre else norm(x + sublayer(x))
    return xp.where(mask[..., None], x, xp.zeros_like(x))


def _gpt2_block(x: Any, mask: Any, *parameters: Any, heads: int, eps: float, xp: Any) -> Any:
    return _layer(x, mask, None, parameters, heads, eps, pre=True, xp=xp)


def _bert_block(x: Any, mask: Any, previous_scores: Any, *parameters: Any, heads: int, eps: float, xp: Any) -> Any:
    return _layer(x, mask, previous_scores, parameters, heads, eps, pre=False, xp=xp)


def _dgcnn(vectors: Any, mask: Any, projection: Any, *parameters: Any, eps: float, xp: Any) -> Any:
    """All taps of a layer side by side, and one product for them; 0 at padding."""
    kernels, biases, scales, shifts, alphas, head, offset = parameters
    real, (taps, w), n = mask[..., None], kernels.shape[1:3], mask.shape[1]
    x = xp.where(real, vectors, xp.zeros_like(vectors)) @ projection
    for layer, distance in enumerate((1, 2, 4, 8, 1, 1)):
        x = xp.where(real, x, xp.zeros_like(x))
        first = -((taps - 1) * distance // 2)
        there = xp.arange(n)[:, None] + xp.arange(first, first + (taps - 1) * distance + 1, distance)[None, :]
        inside = (there >= 0) & (there < n)
        seen = x[:, xp.where(inside, there, xp.zeros_like(there)), :]
        seen = xp.where(inside[None, :, :, None], seen, xp.zeros_like(seen))
        both = (
            xp.reshape(seen, (x.shape[0], n, taps * w)) @ xp.reshape(kernels[layer], (taps * w, 2 * w)) + biases[layer]
        )
        gated = both[..., :w] / (1 + xp.exp(-both[..., w:]))
        x = x + alphas[layer] * _layer_norm(gated, scales[layer], shifts[layer], eps, xp=xp)
    z = (x @ head + offset)[..., 0]
    return xp.where(mask, z, xp.zeros_like(z))


def _gpt2(token_ids: Any, mask: Any, *, xp: Any, move: Any) -> Any:
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    w = {name: move(np.asarray(a, np.float32)) for name, a in arrays.items()}
    counted = xp.cumulative_sum(xp.astype(mask, xp.int64), axis=-1) - 1
    x = (
        w["token_embedding"][token_ids]
        + w["position_embedding"][xp.where(counted < 0, xp.zeros_like(counted), counted)]
    )
    seen = _lower(mask.shape[1], mask.shape[1], xp) & mask[:, None, None, :]

    def norm(name: str, x: Any) -> Any:
        return _layer_norm(x, w[f"{name}.scale"], w[f"{name}.bias"], config.layer_norm_epsilon, xp=xp)

    def linear(name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    for i in range(config.n_layer):
        block = f"blocks.{i}"
        qkv = linear(f"{block}.query_key_value", norm(f"{block}.attention_norm", x))
        d = x.shape[-1]
        q, k, v = (_heads(qkv[..., j * d : (j + 1) * d], config.n_head, xp) for j in range(3))
        x = x + linear(f"{block}.attention_output", _joined(_attention(q, k, v, seen, xp=xp), xp))
        inner = _gelu(linear(f"{block}.feed_forward_in", norm(f"{block}.feed_forward_norm", x)), "tanh", xp=xp)
        x = x + linear(f"{block}.feed_forward_out", inner)
    return norm("final_norm", x) @ w["token_embedding"].T * xp.astype(mask, x.dtype)[..., None]


def _encoder(token_ids: Any, segment_ids: Any, mask: Any, application: str, *, xp: Any, move: Any, name: str) -> Any:
    config, arrays = components.recorded_bert(name)
    w = {key: move(np.asarray(a, np.float32)) for key, a in arrays.items()}
    n, heads = token_ids.shape[1], config.num_attention_heads

    def norm(layer: str, x: Any) -> Any:
        return _layer_norm(x, w[f"{layer}.scale"], w[f"{layer}.bias"], 1e-12, xp=xp)

    def linear(layer: str, x: Any) -> Any:
        return x @ w[f"{layer}.weight"] + w[f"{layer}.bias"]

    x = w["token_embedding"][token_ids] + w["segment_embedding"][segment_ids]
    if name == "bert":
        x, attend = x + w["position_embedding"][:n], functools.partial(_attention, xp=xp)
    else:
        relative = move(_sinusoid(n, config.hidden_size // heads))
        attend = functools.partial(_relative, relative=relative, xp=xp)
    x, seen = norm("embedding_norm", x), mask[:, None, None, :]
    if application == "lm":
        seen = seen & _lower(n, n, xp)
    elif application == "unilm":
        sentence = xp.cumulative_sum(segment_ids, axis=-1)[:, None, :]
        seen = seen & (sentence <= _swap(sentence, xp))[:, None]
    for i in range(config.num_hidden_layers):
        block = f"blocks.{i}"
        qkv = _heads(linear(f"{block}.query_key_value", x), 3 * heads, xp)
        q, k, v = (qkv[:, j * heads : (j + 1) * heads] for j in range(3))
        mixed = _joined(attend(q, k, v, mask=seen), xp)
        x = norm(f"{block}.attention_norm", x + linear(f"{block}.attention_output", mixed))
        inner = _gelu(linear(f"{block}.feed_forward_in", x), "none", xp=xp)
        x = norm(f"{block}.feed_forward_norm", x + linear(f"{block}.feed_forward_out", inner))
    x = norm("masked_lm.norm", _gelu(linear("masked_lm.transform", x), "none", xp=xp))
    return (x @ w["token_embedding"].T + w["masked_lm.bias"]) * xp.astype(mask, x.dtype)[..., None]


def _sinusoid(n: int, width: int) -> Any:  # -> float32 (n, n, width)
    """NEZHA's fixed embeddings of distances, clipped at 64, made on the host in double precision."""
    row = 64 + np.clip(np.arange(n)[None, :] - np.arange(n)[:, None], -64, 64)
    angle = row[..., None] * 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    return np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


_WRITTEN: dict[str, Callable[..., Any]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "residual_attention": _residual,
    "relative_attention": _relative,
    "hierarchical_positions": _hierarchical,
    "mean_pooling": _mean_pooling,
    "unit_length": _unit_length,
    "mitchell_multiply": _mitchell_multiply,
    "mitchell_divide": _mitchell_divide,
    "mitchell_log2": _mitchell_log2,
    "mitchell_corrected": _mitchell_corrected,
    "mitchell_matmul": _mitchell_matmul,
    "mitchell_power": _mitchell_power,
    "mitchell_square_root": _mitchell_square_root,
    "mitchell_multiply_patterns": pattern_routes.multiply,
    "mitchell_divide_patterns": pattern_routes.divide,
    "mitchell_multiply_words": pattern_routes.multiply_words,
    "mitchell_exp2": _mitchell_exp2,
    "mitchell_multiply_integer": whole.multiply,
    "mitchell_divide_integer": whole.divide,
    "copy_labels": whole.copy_labels,
    "copy_step": whole.copy_step,
    "copy_states": whole.copy_states,
    "copy_loss": _copy_loss,
    "copy_beam_search": beam_routes.copy_beam_search,
    "rouge": text_routes.rouge,
    "match_sentences": text_routes.match_sentences,
    "split_sentences": text_routes.split_sentences,
    "extend_embedding": _extend_embedding,
    "exp_taylor": _exp_taylor,
    "taylor_softmax": _taylor_softmax,
    "taylor_attention": _taylor_attention,
    "sparse_softmax": _sparse_softmax,
    "sparse_softmax_cross_entropy": _sparse_loss,
    "positive_features": _positive,
    "trigonometric_features": _trigonometric,
    "hyperbolic_features": _hyperbolic,
    "relu_features": _relu,
    "favor_attention": _favor,
    "gpt2_block": _gpt2_block,
    "bert_block": _bert_block,
    "dgcnn": _dgcnn,
    "gpt2": _gpt2,
    "bert": functools.partial(_encoder, name="bert"),
    "nezha": functools.partial(_encoder, name="nezha"),
}
_WHOLE = ("gpt2", "bert", "nezha")


def written_out(
    xp: Any, move: Callable[[Any], Any], differentiated: Differentiated | None = None
) -> dict[str, Callable[..., Any]]:
    """The components as functions of arrays of the namespace `xp`; `move` makes such an array of a NumPy one.

    Backward passes are what `differentiated` makes of the forward functions: the library's own differentiation. NumPy has none.
    """
    forward = {
        name: functools.partial(function, xp=xp, **({"move": move} if name in _WHOLE else {}))
        for name, function in _WRITTEN.items()
    }
    return forward | {
        each.name: functools.partial(_backward, forward[each.forward], each, differentiated or _not_differentiated)
        for each in backwards.BACKWARDS
    }


def _backward(
    function: Callable[..., Any], each: backwards.Backward, differentiated: Differentiated, *arrays: Any, **params: Any
) -> tuple[Any, ...]:
    """The cotangents of the arguments, by the library's differentiation of the forward function."""
    *given, cotangent = arrays
    places = [each.given.index(name) for name in each.arguments]

    def of(*chosen: Any) -> Any:
        every = list(given)
        for place, value in zip(places, chosen, strict=True):
            every[place] = value
        return function(*every, **params, **each.fixed(*given))

    return differentiated(of, tuple(given[place] for place in places), cotangent)


def _not_differentiated(function: Callable[..., Any], arguments: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
    raise ConfigError("a library without differentiation has no backward route", expected="torch or JAX", got="NumPy")


def numpy_route() -> tuple[dict[str, Callable[..., Any]], Callable[[Any], Any]]:
    """The components, and how arrays are made: NumPy."""
    return dict(mutants.TWINS), lambda array: array


def torch_route() -> tuple[dict[str, Callable[..., Any]], Callable[[Any], Any]]:
    """The components, and how arrays are made: torch, operation by operation."""
    torch, namespace = importlib.import_module("torch"), importlib.import_module("array_api_compat.torch")
    move = importlib.import_module("validation.targets.torch_arrays").tensor
    namespace.erfc = torch.special.erfc

    def differentiated(function: Callable[..., Any], arguments: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        leaves = tuple(a.detach().clone().requires_grad_() for a in arguments)
        with torch.enable_grad():
            return tuple(torch.autograd.grad(function(*leaves), leaves, cotangent))

    return written_out(namespace, move, differentiated), move


def jax_route() -> tuple[dict[str, Callable[..., Any]], Callable[[Any], Any]]:
    """The components, and how arrays are made: JAX, each function compiled as a whole for its parameters."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    xp = importlib.import_module("jax.numpy")
    xp.erfc = jax.scipy.special.erfc

    def differentiated(function: Callable[..., Any], arguments: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        return tuple(jax.vjp(function, *arguments)[1](cotangent))

    return {
        name: f if name in text_routes.ON_HOST else functools.partial(_compiled, jax, f)
        for name, f in written_out(xp, xp.asarray, differentiated).items()
    }, xp.asarray


def _compiled(jax: Any, function: Callable[..., Any], *arrays: Any, **params: Any) -> Any:
    """Parameters that are no arrays are constants of the program."""
    fixed = {name: value for name, value in params.items() if not hasattr(value, "shape")}
    return jax.jit(functools.partial(function, **fixed))(*arrays, **{n: v for n, v in params.items() if n not in fixed})


ROUTES: dict[str, Callable[[], tuple[dict[str, Callable[..., Any]], Callable[[Any], Any]]]] = {
    "numpy": numpy_route,
    "torch": torch_route,
    "jax": jax_route,
}


def _main(
    route: Annotated[str, typer.Argument(help="numpy, torch or jax.")],
    component: Annotated[str | None, typer.Option(help="Only this component.")] = None,
) -> None:
    """Try a route on every vector in float32. Exits with 1 if anything is outside, 2 if the library is missing."""
    try:
        functions, move = _opened(route)
    except RefimplError as error:
        err.print(str(error), highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    good = True
    for name in vectors.names():
        if component not in (None, name):
            continue
        report = conformance.check(functions[name], name, convert=move)
        good = good and report.passed
        words = "passes" if report.passed else "FAILS"
        worst = report.worst
        out.print(
            f"{name:<32} {words} {report.announced:>4}  {worst.verdict.multiple:9.3f}  {worst.case}", highlight=False
        )
        if not report.passed:
            out.print(str(report), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if good else 1)


def _opened(route: str) -> tuple[dict[str, Callable[..., Any]], Callable[[Any], Any]]:
    """The functions of a route; raises ConfigError for an unknown one, or one whose library is missing."""
    if route not in ROUTES:
        raise ConfigError("unknown route", expected=", ".join(ROUTES), got=repr(route))
    try:
        return ROUTES[route]()
    except ModuleNotFoundError as error:
        if error.name != route:
            raise
        raise ConfigError(
            f"the route {route} needs a package that is not installed",
            expected=route,
            got=f"no module named {error.name}",
            remedy=_INSTALL[route],
        ) from None


if __name__ == "__main__":
    typer.run(_main)
