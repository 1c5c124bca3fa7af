"""The components that answer with whole numbers or truth values, written out for torch and JAX: array operations on int64, no loop over numbers.

In other forms than the definitions and the NumPy route: exponents are counted (how many powers of two are not above), products and quotients are
sums of shifted whole numbers, a longest common subsequence is found row by row with running maxima, spans are compared at all places at once.
"""

from __future__ import annotations

from typing import Any

__all__ = ["copy_labels", "copy_states", "copy_step", "divide", "multiply", "pairs"]

_OUTSIDE, _BEGIN, _INSIDE = 0, 1, 2


# --- Mitchell's products and quotients -------------------------------------------------------------------------------------------


def _counted(condition: Any, axis: int, xp: Any) -> Any:
    return xp.sum(xp.astype(condition, xp.int64), axis=axis)


def _split(x: Any, xp: Any) -> tuple[Any, Any, Any]:
    """(e, 2^e, r) with |x| = 2^e + r, r < 2^e; (0, 1, -1) for 0."""
    size, powers = xp.abs(x), 2 ** xp.arange(63, dtype=xp.int64)
    exponent = _counted(size[..., None] >= powers[1:], -1, xp)
    one = powers[exponent]
    return exponent, one, size - one


def multiply(a: Any, b: Any, kind: str, *, xp: Any) -> Any:  # int64 (n,) twice -> int64 (n,)
    """2^(e+h) + r 2^h + s 2^e, or 2 (r 2^h + s 2^e) where that sum reaches 2^(e+h), with the sign of the product."""
    (_, p, r), (_, q, s) = _split(a, xp), _split(b, xp)
    rest = r * q + s * p
    size = xp.where(rest >= p * q, 2 * rest, p * q + rest)
    return xp.where((a == 0) | (b == 0), xp.zeros_like(size), xp.where((a < 0) == (b < 0), size, -size))


def divide(a: Any, b: Any, kind: str, *, xp: Any) -> Any:  # int64 (n,) twice -> int64 (n,)
    """The floor of ±(2^(e+h) + r 2^h - s 2^e) / 2^2h, where that fraction is below 1 of ±(2^(e+h+1) + r 2^h - s 2^e) / 2^(2h+1)."""
    (_, p, r), (h, q, s) = _split(a, xp), _split(b, xp)
    rest = r * q - s * p
    borrow = rest < 0
    size = p * q + rest + xp.where(borrow, p * q, xp.zeros_like(rest))
    signed = xp.where((a < 0) == (b < 0), size, -size)
    signed = xp.where(a == 0, xp.zeros_like(signed), signed)
    return signed >> (2 * h + xp.where(borrow, xp.ones_like(h), xp.zeros_like(h)))


# --- copied spans ----------------------------------------------------------------------------------------------------------------


def _running(values: Any, xp: Any) -> Any:  # int64 (m,) -> int64 (m,)
    """The largest of all values up to each."""
    places = xp.arange(values.shape[0])
    return xp.max(xp.where(places[None, :] <= places[:, None], values[None, :], values[:, None]), axis=1)


def pairs(source: Any, target: Any, xp: Any) -> Any:  # int64 (n,), (m,) -> int64 (n,)
    """For each token of the source the place in the target that it is paired with, -1 for none."""
    n, m = source.shape[0], target.shape[0]
    none = xp.zeros_like(target[:1])  # 0
    rows = [xp.concat([none, xp.zeros_like(target)])]
    for i in range(n):
        above = rows[-1]
        met = xp.where(target == source[i], above[:-1] + 1, above[1:])
        rows.append(xp.concat([none, _running(met, xp)]))
    places, at, found = xp.arange(m + 1, dtype=xp.int64), none + m, []
    for i in range(n, 0, -1):
        equal = xp.concat([none > 0, target == source[i - 1]])
        left = xp.concat([none > 0, rows[i][:-1] > rows[i - 1][1:]])
        stops = equal | ~left  # where a walk to the left along this row ends
        at = xp.max(xp.where(stops & (places <= at), places, xp.zeros_like(places)), axis=0, keepdims=True)
        paired = equal[at]
        at = xp.where(paired, at - 1, at)
        found.append(xp.where(paired, at, -xp.ones_like(at)))
    return xp.concat(found[::-1])


def copy_labels(source: Any, target: Any, *, xp: Any) -> Any:  # int64 (n,), (m,) -> int64 (n+m,)
    """O where a token is in no pair, I where the pair before it is next to it, else B: of the source, then of the target."""
    if not (source.shape[0] and target.shape[0]):
        return xp.zeros_like(xp.concat([source, target]))
    at = pairs(source, target, xp)
    before = xp.concat([-2 * xp.ones_like(at[:1]), at[:-1]])
    inside = (at > 0) & (before == at - 1)
    of_source = xp.where(at < 0, xp.zeros_like(at), xp.where(inside, _INSIDE + 0 * at, _BEGIN + 0 * at))
    here = at[:, None] == xp.arange(target.shape[0])[None, :]
    of_target = xp.max(xp.where(here, of_source[:, None], xp.zeros_like(of_source)[:, None]), axis=0)
    return xp.concat([of_source, of_target])


def _tags(scores: Any, states: Any, dialect: str, xp: Any) -> Any:  # (r, 3), int64 (r,) -> int64 (r,)
    """The tag of the largest score, of equal ones the first; in state 0 not I, or by its negated score."""
    o, b, i = scores[:, 0], scores[:, 1], scores[:, 2]
    start = states == 0
    i = xp.where(start, -i, i)
    last = (i > o) & (i > b)
    last = last & ~start if dialect == "corrected" else last
    zero = xp.zeros_like(states)
    return xp.where(last, zero + _INSIDE, xp.where(b > o, zero + _BEGIN, zero + _OUTSIDE))


def _step(scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str, xp: Any) -> Any:
    tags, n, t = _tags(scores, states, dialect, xp), source.shape[0], emitted.shape[1]
    lengths = xp.where(tags == _INSIDE, states, xp.zeros_like(states))
    back = xp.arange(1, t + 1)
    there = xp.arange(n)[:, None] - back[None, :]  # (n, t): the place that many tokens before
    token = xp.where(there >= 0, source[xp.where(there >= 0, there, xp.zeros_like(there))], -xp.ones_like(there))
    same = token[None, :, :] == xp.flip(emitted, axis=1)[:, None, :]
    follows = xp.all(same | (back[None, None, :] > lengths[:, None, None]), axis=2)
    lost = ~xp.any(follows, axis=1)
    follows = follows | lost[:, None]
    here = source[:, None] == xp.arange(vocab_size)[None, :]
    allowed = xp.any(follows[:, :, None] & here[None, :, :], axis=1) | (tags == _OUTSIDE)[:, None]
    new = xp.where((tags == _INSIDE) & ~lost, lengths + 1, xp.where(tags == _OUTSIDE, tags, xp.ones_like(tags)))
    return allowed, new


def copy_step(
    tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str, *, xp: Any
) -> Any:  # (r, 3), int64 (r,), (n,), (r, t) -> bool (r, vocab_size)
    """Which tokens may be next."""
    return _step(tag_scores, states, source, emitted, vocab_size, dialect, xp)[0]


def copy_states(
    tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str, *, xp: Any
) -> Any:  # (r, 3), int64 (r,), (n,), (r, t) -> int64 (r,)
    """The new states."""
    return _step(tag_scores, states, source, emitted, vocab_size, dialect, xp)[1]
