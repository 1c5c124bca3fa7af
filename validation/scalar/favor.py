"""FAVOR+: the feature maps vector by vector, and attention through its n x m products of features, dialect by dialect.

With x' = x or x d^-1/4, u = W x' and h = |x'|²/2, for m rows of W and a constant c that a dialect subtracts:

    positive       (exp(u_f - h - c) + ε)/√m                             c a maximum of u
    trigonometric  exp(h - c)/√m times sin u_f, then cos u_f             c a maximum of h
    hyperbolic     1/√2m times exp(u_f - h - c), then exp(-u_f - h - c)  c a maximum of |u|, or of |x'|² ("norm")
    relu           (max(u_f, 0) + ε)/√m,  max(u_f/√m, 0) + ε,  or  max(u_f, 0) + ε

Reference: K. Choromanski et al., "Rethinking attention with Performers", arXiv 2009.14794, section 2.2, eqs. (4) and (5), and lemma 1.

Attention is o_i = Σ_j φ(q_i)·φ(k_j) v_j / D_i over the keys j that query i sees: those that the mask lets take part and, where causal, those up
to its own position. The conventions are written down here a second time, from what the programs themselves do:

    paper              nothing subtracted nor added; its relu has ε = 1e-3 and x' = x
    performer-pytorch  1.1.4: softmax_kernel, generalized_kernel, linear_attention, causal_linear_attention_noncuda
    google-jax         google-research performer: nonnegative and sin-cos softmax kernels, general kernel with relu, denominators guarded
    google-tf          google-research performer: softmax_kernel_transformation, relu_kernel_transformation, favor_attention
    fast-transformers  feature_maps/fourier_features.py: Favor, and GeneralizedRandomFeatures with relu; (causal) linear attention
    tf-models          2.20.0, kernel_attention.py: _generalized_kernel with "exp" and "relu"

Most of them let masked keys into their maxima; here, as in the reference, a masked key has no part in anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf

from validation.scalar.numbers import depth, dot, scalar, visible

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["favor_attention", "hyperbolic_features", "positive_features", "relu_features", "trigonometric_features"]

Vector = list[Any]
Matrix = list[Vector]
Heads = list[Matrix]  # of one batch entry: head, position, width


# --- one vector ---------------------------------------------------------------------------------------------------------------


def _shrunk(x: Vector) -> Vector:
    """The vector times d^-1/4."""
    root = mp.root(len(x), 4)
    return [value / root for value in x]


def _projected(x: Vector, w: Matrix) -> Vector:
    return [dot(row, x) for row in w]


def _half(x: Vector) -> Any:
    return dot(x, x) / 2


def _positive(x: Vector, w: Matrix, c: Any = 0, eps: Any = 0) -> Vector:
    h, root = _half(x), mp.sqrt(len(w))
    return [(mp.exp(u - h - c) + eps) / root for u in _projected(x, w)]


def _trigonometric(x: Vector, w: Matrix, c: Any = 0) -> Vector:
    angles, size = _projected(x, w), mp.exp(_half(x) - c) / mp.sqrt(len(w))
    return [size * mp.sin(u) for u in angles] + [size * mp.cos(u) for u in angles]


def _hyperbolic(x: Vector, w: Matrix, c: Any = 0) -> Vector:
    exponents, offset, root = _projected(x, w), _half(x) + c, mp.sqrt(2 * len(w))
    return [mp.exp(sign * u - offset) / root for sign in (1, -1) for u in exponents]


def _rectified(u: Vector, eps: Any) -> Vector:
    return [max(value, mpf(0)) + eps for value in u]


def _divided(x: Vector) -> Vector:
    return [value / mp.sqrt(len(x)) for value in x]


# --- the feature maps ---------------------------------------------------------------------------------------------------------

_AXES = {"none": 1, "row": 1, "head": 2, "norm": 2, "sequence": 3}  # how many of the last axes share a maximum


def _vectors(x: Any) -> Matrix:
    return [x] if depth(x) == 1 else [vector for part in x for vector in _vectors(part)]


def _each(x: Any, one: Callable[[Vector], Vector]) -> Any:
    return one(x) if depth(x) == 1 else [_each(part, one) for part in x]


def _features(
    x: Any, shift: str, scaled: bool, measure: Callable[[Vector], Any], one: Callable[[Vector, Any], Vector]
) -> Any:
    """`one(vector, c)` of every vector, c the largest measure of those that share it."""

    def shared(x: Any) -> Any:
        if depth(x) > _AXES[shift]:
            return [shared(part) for part in x]
        largest = mpf(0) if shift == "none" else max(measure(vector) for vector in _vectors(x))
        return _each(x, lambda vector: one(vector, largest))

    return shared(_each(x, _shrunk) if scaled else x)


@scalar
def positive_features(x: Any, projection: Any, scaled: bool, shift: str, epsilon: Any, normalized: bool) -> Any:
    """φ_pos of every vector."""

    def one(vector: Vector, c: Any) -> Vector:
        factor = 1 if normalized else mp.sqrt(len(projection))
        return [factor * value for value in _positive(vector, projection, c, epsilon)]

    return _features(x, shift, scaled, lambda vector: max(_projected(vector, projection)), one)


@scalar
def trigonometric_features(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool) -> Any:
    """φ_trig of every vector."""

    def one(vector: Vector, c: Any) -> Vector:
        factor = 1 if normalized else mp.sqrt(len(projection))
        return [factor * value for value in _trigonometric(vector, projection, c)]

    return _features(x, shift, scaled, _half, one)


@scalar
def hyperbolic_features(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool) -> Any:
    """φ_hyp of every vector."""

    def one(vector: Vector, c: Any) -> Vector:
        factor = 1 if normalized else mp.sqrt(2 * len(projection))
        return [factor * value for value in _hyperbolic(vector, projection, c)]

    def measure(vector: Vector) -> Any:
        return dot(vector, vector) if shift == "norm" else max(abs(u) for u in _projected(vector, projection))

    return _features(x, shift, scaled, measure, one)


@scalar
def relu_features(x: Any, projection: Any, scaled: bool, epsilon: Any, normalized: bool | str) -> Any:
    """φ_relu of every vector; without a projection u is the vector itself, which Google's TensorFlow code ("inside") does not divide."""

    def one(vector: Vector) -> Vector:
        u = _shrunk(vector) if scaled else vector
        u = u if projection is None else _projected(u, projection)
        if normalized == "inside":
            return _rectified(u if projection is None else _divided(u), epsilon)
        return _divided(_rectified(u, epsilon)) if normalized else _rectified(u, epsilon)

    return _each(x, one)


# --- the dialects: features of the queries and of the keys of one batch entry ---------------------------------------------------

Pair = tuple[Heads, Heads]
Seen = list[list[int]]  # by head, the keys that take part


def _alike(q: Heads, k: Heads, one: Callable[[Vector], Vector]) -> Pair:
    return _each(q, one), _each(k, one)


def _largest(k: Heads, w: Matrix, seen: Seen, heads: list[int]) -> Any:
    """The largest u of the keys that take part in those heads."""
    return max([max(_projected(k[h][j], w)) for h in heads for j in seen[h]], default=mpf(0))


def _stabilised(q: Heads, k: Heads, w: Matrix, seen: Seen, eps: float) -> Pair:
    """Softmax features as Google wrote them: queries less their own largest u, keys less that of their head, plus ε before 1/√m."""
    q, k = _each(q, _shrunk), _each(k, _shrunk)
    top_k = [_largest(k, w, seen, [h]) for h in range(len(k))]
    return (
        [[_positive(x, w, max(_projected(x, w)), mpf(eps)) for x in head] for head in q],
        [[_positive(x, w, top_k[h], mpf(eps)) for x in head] for h, head in enumerate(k)],
    )


def _paper(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _divided(_rectified(_projected(x, w), mpf(1e-3))))
    one = {"softmax": _positive, "hyperbolic": _hyperbolic, "trigonometric": _trigonometric}[kernel]
    return _alike(q, k, lambda x: one(_shrunk(x), w))


def _performer_pytorch(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _rectified(_projected(_shrunk(x), w), mpf(1e-3)))
    return _stabilised(q, k, w, seen, 1e-4)


def _google_jax(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _rectified(x if w is None else _projected(x, w), mpf(1e-3)))
    if kernel == "softmax":
        return _stabilised(q, k, w, seen, 1e-6)
    q, k = _each(q, _shrunk), _each(k, _shrunk)
    top_q = [max(_half(x) for x in head) for head in q]
    top_k = [max((_half(head[j]) for j in seen[h]), default=mpf(0)) for h, head in enumerate(k)]
    return (
        [[_trigonometric(x, w, top_q[h]) for x in head] for h, head in enumerate(q)],
        [[_trigonometric(x, w, top_k[h]) for x in head] for h, head in enumerate(k)],
    )


def _google_tf(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _rectified(_divided(_projected(x, w)), mpf(1e-3)))
    return _stabilised(q, k, w, seen, 1e-6)


def _fast_transformers(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _rectified(_projected(x, w), mpf(0)))
    q, k = _each(q, _shrunk), _each(k, _shrunk)
    if kernel == "softmax":
        return _alike(q, k, lambda x: _hyperbolic(x, w))
    longest_q = [max(dot(x, x) for x in head) for head in q]
    longest_k = [max((dot(head[j], head[j]) for j in seen[h]), default=mpf(0)) for h, head in enumerate(k)]
    return (
        [[_hyperbolic(x, w, longest_q[h]) for x in head] for h, head in enumerate(q)],
        [[_hyperbolic(x, w, longest_k[h]) for x in head] for h, head in enumerate(k)],
    )


def _tf_models(kernel: str, q: Heads, k: Heads, w: Matrix, seen: Seen) -> Pair:
    if kernel == "relu":
        return _alike(q, k, lambda x: _divided(_rectified(_projected(_shrunk(x), w), mpf(1e-3))))
    q, k = _each(q, _shrunk), _each(k, _shrunk)
    top_q = max(max(_projected(x, w)) for x in _vectors(q))
    top_k = _largest(k, w, seen, list(range(len(k))))
    return _each(q, lambda x: _positive(x, w, top_q)), _each(k, lambda x: _positive(x, w, top_k))


_DIALECTS: dict[str, Callable[[str, Heads, Heads, Matrix, Seen], Pair]] = {
    "paper": _paper,
    "performer-pytorch": _performer_pytorch,
    "google-jax": _google_jax,
    "google-tf": _google_tf,
    "fast-transformers": _fast_transformers,
    "tf-models": _tf_models,
}


def _denominator(dialect: str, causal: bool, query: Vector, keys: Matrix) -> Any:
    """What the weighted sum of values is divided by."""
    sums = [mp.fsum(column) for column in zip(*keys, strict=True)]
    if dialect == "performer-pytorch" and causal:
        return dot(query, [each + mpf(1e-6) for each in sums])
    total = dot(query, sums)
    if dialect == "google-jax":
        return total + 2 * mpf(1e-6) if abs(total) <= mpf(1e-6) else total
    return total + mpf(1e-6) if dialect in ("fast-transformers", "tf-models") else total


# --- attention ----------------------------------------------------------------------------------------------------------------


@scalar
def favor_attention(
    q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str, kernel: str = "softmax"
) -> Any:
    """FAVOR+ attention of arrays (batch, head, position, width); zeros for a query that sees no key."""

    def one(query: Vector, keys: Heads, values: Matrix, seen: list[int]) -> Vector:
        if not seen:
            return [mpf(0)] * len(values[0])
        weights = [dot(query, keys[j]) for j in seen]
        below = _denominator(dialect, causal, query, [keys[j] for j in seen])
        return [dot(weights, [values[j][e] for j in seen]) / below for e in range(len(values[0]))]

    answer = []
    for b in range(len(q)):
        n, m = len(q[b][0]), len(k[b][0])
        part = [[j for j in range(m) if visible(mask, b, h, j)] for h in range(len(k[b]))]
        queries, keys = _DIALECTS[dialect](kernel, q[b], k[b], projection, part)
        answer.append(
            [
                [
                    one(queries[h][i], keys[h], v[b][h], [j for j in part[h] if not causal or j <= i + m - n])
                    for i in range(n)
                ]
                for h in range(len(q[b]))
            ]
        )
    return answer
