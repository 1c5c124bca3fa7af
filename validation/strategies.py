"""Hypothesis strategies of calls: for each component, tiny inputs of its own kinds, which shrink to simple ones.

`calls(component, dtype)` draws `components.Case`s whose floating arrays hold numbers of the dtype. The values are those on which
implementations go wrong: whole numbers and full significands, large magnitudes, common offsets with differences near the last bit, ties, signed
zeros, subnormals; the shapes have lengths from 1; masks hide single keys, padding, the future, or everything. Magnitudes are limited to what the
component is meant for, so that a right implementation, which may square or exponentiate, answers every one of them.

A component that has no strategy here draws trials of its own (`Component.trials`) with a drawn seed.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from refimpl import favor
from refimpl.bits import FORMATS
from validation import backwards, beams, components, extraction, logarithmic, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["calls"]

Draw = Any  # the function that @st.composite hands over
_LONG = ("float32", "float64")
COTANGENT = 64.0  # the largest number in a cotangent
_BEYOND_EXP = {"float16": 100.0, "bfloat16": 92.0, "float32": 1e4, "float64": 1e4}  # where exp overflows, resolved


def calls(component: str, dtype: str, dialect: str | None = None) -> st.SearchStrategy[components.Case]:
    """Calls of a component in a dtype; of one dialect, if one is given."""
    subject = components.component(component)
    drawn = _CALLS.get(subject.backward.forward if subject.backward else component)
    if drawn is None:
        return _trials(subject, dtype, dialect)
    return _rounded(_and_cotangent(drawn, subject.backward) if subject.backward else drawn, subject, dtype, dialect)


def _and_cotangent(drawn: Callable[..., Any], backward: backwards.Backward) -> Callable[..., Any]:
    """The arrays of the forward component, and a cotangent of the shape of its answer."""

    def both(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
        arrays, params = drawn(draw, subject, dtype, dialect)
        cotangent = _array(draw, dtype, COTANGENT, backward.shape(*arrays))
        return (*arrays, cotangent), {name: value for name, value in params.items() if name in backward.names}

    return both


@st.composite
def _rounded(draw: Draw, drawn: Any, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    """One call of the drawn arrays and parameters; floating arrays are numbers of the dtype already."""
    arrays, params = drawn(draw, subject, dtype, dialect)
    kind = tolerance.DTYPES[dtype]
    own = tuple(a.astype(kind) if a.dtype.kind == "f" else a for a in arrays)
    return components.Case("found", "found by search", own, params)


@st.composite
def _trials(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    """A trial of the component's own, with a drawn seed."""
    cases = subject.trials(dtype, draw(st.integers(0, 2**32 - 1)), dialect)
    return cases[draw(st.integers(0, len(cases) - 1))]


# --- numbers and arrays ---------------------------------------------------------------------------------------------------------


@functools.cache
def _numbers(dtype: str, size: float) -> st.SearchStrategy[float]:
    """Numbers of the dtype up to `size`: small whole ones, of full significand, large, next to 1, subnormal, zeros of both signs."""
    info, size = ml_dtypes.finfo(tolerance.DTYPES[dtype]), _round(size, dtype)
    hard = [-0.0, 1 + float(info.eps), 1 - float(info.eps) / 2, size, -size, 1e-3, 1e-6, 1e-9]
    hard += [float(info.smallest_subnormal), -float(info.smallest_subnormal), float(info.smallest_normal)]
    drawn = st.one_of(
        st.integers(-4, 4).map(float),
        _ordinary(dtype, size),
        st.floats(-size, size),
        st.floats(-size, size).map(lambda x: x / 8),
        st.sampled_from(hard),
    )
    return drawn.map(lambda x: _round(min(max(x, -size), size), dtype))


@functools.cache
def _ordinary(dtype: str, size: float) -> st.SearchStrategy[float]:
    """Numbers of the dtype as activations are: up to 2, of full significand."""
    return st.floats(-min(size, 2.0), min(size, 2.0)).map(lambda x: _round(x, dtype))


def _round(value: float, dtype: str) -> float:
    return float(tolerance.DTYPES[dtype].type(value))


_KINDS = st.sampled_from(("free", "ordinary", "few", "offset"))
_PLACES = tuple(st.integers(0, last) for last in range(3))
_STEPS = st.integers(-6, 6)


def _array(draw: Draw, dtype: str, size: float, shape: tuple[int, ...]) -> Any:  # -> float64 (shape)
    """An array of free entries, of ordinary ones, of few different ones, or of a common offset and small differences."""
    every, kind, numbers = range(math.prod(shape)), draw(_KINDS), _numbers(dtype, size)
    if kind == "few":
        pool = [draw(numbers) for _ in range(draw(_PLACES[2]) + 1)]
        entries = [pool[draw(_PLACES[len(pool) - 1])] for _ in every]
    elif kind == "offset":
        base = draw(numbers)
        least = float(np.spacing(abs(tolerance.DTYPES[dtype].type(base))))
        step = (0.25, 1.0, least, 64 * least)[draw(st.integers(0, 3))]
        entries = [_round(min(max(base + step * draw(_STEPS), -size), size), dtype) for _ in every]
    else:
        each = numbers if kind == "free" else _ordinary(dtype, size)
        entries = [draw(each) for _ in every]
    return np.array(entries, dtype=np.float64).reshape(shape)


def _capped(dtype: str, size: float) -> float:
    """`size`, or what one rounding of an exponent leaves recognisable in 16 bits."""
    return min(size, 1 / (16 * tolerance.roundoff(dtype)))


# --- rows -----------------------------------------------------------------------------------------------------------------------


def _one_row_set(draw: Draw, dtype: str, size: float | None = None) -> Any:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7)))
    return _array(draw, dtype, _BEYOND_EXP[dtype] if size is None else size, shape)


def _rows(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (_one_row_set(draw, dtype),), {}


def _sparse(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    x = _one_row_set(draw, dtype)
    return (x,), {"k": draw(st.integers(1, x.shape[-1] + 1))}


def _sparse_loss(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    (x,), params = _sparse(draw, subject, dtype, dialect)
    count = x.shape[0]
    targets = draw(st.lists(st.integers(0, x.shape[-1] - 1), min_size=count, max_size=count))
    return (x, np.array(targets)), params


def _gelu(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    size = draw(st.sampled_from((6.0, 250.0)))
    x = _array(draw, dtype, size, (draw(st.integers(1, 5)),))
    return (x,), {"approximate": dialect or draw(st.sampled_from(subject.dialects))}


def _layer_norm(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    size = draw(st.sampled_from((1e-2, 4.0, _capped(dtype, 3000.0))))
    x, (scale, bias) = _array(draw, dtype, size, shape), (_array(draw, dtype, 4.0, shape[1:]) for _ in range(2))
    return (x, scale, bias), {"eps": draw(st.sampled_from((1e-5, 1e-12)))}


def _taylor(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    x = _array(draw, dtype, 16.0, (draw(st.integers(1, 5)),))
    return (x,), {"order": draw(st.sampled_from((2, 4, 8, 16)))}


def _taylor_softmax(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (_one_row_set(draw, dtype, 16.0),), {"order": draw(st.sampled_from((2, 4, 6)))}


def _hierarchical(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    rows, columns = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    at = draw(st.lists(st.integers(0, rows * rows - 1), min_size=1, max_size=4))
    alpha = draw(st.sampled_from((0.4, 1.5, 0.4375, 0.25)))
    return (_array(draw, dtype, 100.0, (rows, columns)), np.array(at)), {"alpha": alpha}


# --- attention ------------------------------------------------------------------------------------------------------------------


def _lengths(draw: Draw, widest: int = 4) -> tuple[int, int, int, int, int]:
    """(batch, heads, n, m, d) with n <= m."""
    batch, heads = draw(_PAIRS)
    n, extra, d = draw(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(1, widest)))
    return batch, heads, n, n + extra, d


_PAIRS = st.sampled_from(((1, 1), (1, 2), (2, 1)))


def _mask(draw: Draw, batch: int, n: int, m: int) -> Any:
    """No mask, the lower triangle, padding of each sequence, a query that sees nothing, or any mask at all."""
    kind = draw(st.sampled_from(("none", "causal", "padding", "blind", "any")))
    if kind == "none":
        return None
    if kind == "causal":
        return np.tril(np.ones((n, m), bool), m - n)
    if kind == "blind":
        return np.tril(np.ones((n, m), bool), m - n) & (np.arange(n) != draw(st.integers(0, n - 1)))[:, None]
    if kind == "padding":
        kept = draw(st.lists(st.integers(1, m), min_size=batch, max_size=batch))
        return np.arange(m) < np.array(kept)[:, None, None, None]
    return np.array(draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))).reshape(n, m)


def _hidden(mask: Any, n: int, m: int) -> Any:
    """Which keys no query may see, of every sequence: bool (batch or 1, 1, m, 1)."""
    wide = np.broadcast_to(mask, (*(mask.shape[:-2] or (1, 1)), n, m))
    return ~np.swapaxes(wide.any(-2, keepdims=True), -1, -2)


def _qkv(draw: Draw, dtype: str, lengths: tuple[int, ...]) -> tuple[Any, Any, Any]:
    batch, heads, n, m, d = lengths
    size = draw(st.sampled_from((2.0, 8.0 if dtype == "bfloat16" else 16.0, _capped(dtype, 100.0))))
    q = _array(draw, dtype, size, (batch, heads, n, d))
    k, v = (_array(draw, dtype, each, (batch, heads, m, d)) for each in (min(size, 16.0), 8.0))
    return q, k, v


def _attention(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, _, n, m, _ = lengths = _lengths(draw)
    (q, k, v), mask = _qkv(draw, dtype, lengths), _mask(draw, batch, n, m)
    if mask is not None and draw(st.booleans()):
        k = np.where(_hidden(mask, n, m), 6e3, k)  # padding may hold anything, and must not count
    return (q, k, v), {"mask": mask}


def _residual(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, heads, n, m, _ = lengths = _lengths(draw)
    (q, k, v), mask = _qkv(draw, dtype, lengths), _mask(draw, batch, n, m)
    previous = _array(draw, dtype, draw(st.sampled_from((2.0, _capped(dtype, 300.0)))), (batch, heads, n, m))
    if mask is not None and draw(st.booleans()):
        previous = np.where(mask, previous, 6e4)
    return (q, k, v, previous), {"mask": mask, "mean_over": draw(st.sampled_from((1, 2, 36)))}


def _relative(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, heads, n, m, _ = _lengths(draw)
    lengths = (batch, heads, n, m, draw(st.sampled_from((2, 4))))  # sines and cosines come in pairs
    relative = _array(draw, dtype, 4.0, (n, m, lengths[-1]))
    return (*_qkv(draw, dtype, lengths), relative), {"mask": _mask(draw, batch, n, m)}


def _taylor_attention(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    lengths = _lengths(draw, 4 if dtype in _LONG else 2)
    return _qkv(draw, dtype, lengths), {"causal": draw(st.booleans())}


# --- random features --------------------------------------------------------------------------------------------------------------


@functools.cache
def _named(component: str, dtype: str) -> tuple[dict[str, Any], ...]:
    """The sets of parameters that the component's own trials have."""
    found: list[dict[str, Any]] = []
    for case in components.component(component).trials(dtype, 0, None):
        found += [] if case.params in found else [case.params]
    return tuple(found)


def _features(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    named = _named(subject.name, dtype)
    batch, n, m, d = draw(st.tuples(st.integers(1, 2), *(st.integers(1, 4) for _ in range(3))))
    size = 3.0 if dtype in _LONG else 1.5
    x, projection = _array(draw, dtype, size, (batch, n, d)), _array(draw, dtype, 2.0, (m, d))
    return (x, projection), dict(draw(st.sampled_from(named)))


def _favor(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, heads, n, m, d = _lengths(draw)
    size = 3.0 if dtype in _LONG else 1.0
    q, k, v = (_array(draw, dtype, each, (batch, heads, rows, d)) for each, rows in ((size, n), (size, m), (8.0, m)))
    projection = _array(draw, dtype, 2.0, (draw(st.integers(1, 4)), d))
    masks = st.lists(st.booleans(), min_size=batch * m, max_size=batch * m).map(
        lambda bits: np.array(bits).reshape(batch, 1, m)
    )
    mask, causal = draw(st.none() | masks), draw(st.booleans())
    if mask is not None and draw(st.booleans()):
        k = np.where(mask[..., None], k, 20.0)
    chosen = dialect or draw(st.sampled_from(tuple(favor.dialects)))
    return (q, k, v, projection), {"mask": mask, "causal": causal, "dialect": chosen}


# --- pooling ----------------------------------------------------------------------------------------------------------------------


def _pooled(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, n, d = draw(st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 3)))
    hidden = _array(draw, dtype, draw(st.sampled_from((2.0, _capped(dtype, 3000.0)))), (batch, n, d))
    rows = st.lists(st.booleans(), min_size=n, max_size=n).filter(any)
    mask = np.array([draw(rows) for _ in range(batch)])
    return (np.where(mask[..., None], hidden, 6e3) if draw(st.booleans()) else hidden, mask), {}


def _unit(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    x = _one_row_set(draw, dtype, draw(st.sampled_from((4.0, 1e-3, 1e3))))
    x[:, 0] = np.where(np.any(np.abs(x) > 1e-4, axis=1), x[:, 0], 1.0)  # a row of zeros has no direction
    return (x,), {}


# --- Mitchell's arithmetic --------------------------------------------------------------------------------------------------------


def _scattered(draw: Draw, dtype: str, count: int) -> Any:  # -> float64 (count, 1)
    """Numbers of both signs over many binades, fractions often few bits, all zeros or all ones."""
    reach, last = (
        (6, 2 ** (tolerance.BITS[dtype] - 1)) if dtype == "float16" else (40, 2 ** (tolerance.BITS[dtype] - 1))
    )
    fractions = st.one_of(st.integers(0, 8).map(lambda k: k / 8), st.integers(0, last).map(lambda k: k / last))
    entries = []
    for _ in range(count):
        sign, exponent, fraction = draw(st.tuples(st.sampled_from((1, -1)), st.integers(-reach, reach), fractions))
        entries.append([sign * (1 + fraction) * 2.0**exponent])
    return np.array(entries)


def _mitchell_pair(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    count = draw(st.integers(1, 4))
    a, b = _scattered(draw, dtype, count), _scattered(draw, dtype, count)
    if draw(st.booleans()):  # fractions that add up to 1, or are equal
        f = np.abs(a) / np.exp2(np.floor(np.log2(np.abs(a)))) - 1
        b = np.where(draw(st.booleans()), 2 - f, 1 + f)
    if subject.name == "mitchell_multiply" and draw(st.booleans()):
        a[0] = 0.0
    return (a, b), {"dialect": dialect or draw(st.sampled_from(subject.dialects or ("",)))}


def _mitchell_whole(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    kind, count = draw(st.sampled_from(logarithmic.WHOLE)), draw(st.integers(1, 4))
    info = np.iinfo(kind)
    top = min(info.max, 2**26 - 1)
    whole = st.lists(st.integers(-top if info.min else 0, top), min_size=count, max_size=count)
    a, b = np.array(draw(whole), np.int64), np.array(draw(whole), np.int64)
    return (a, b if subject.name == "mitchell_multiply_integer" else np.where(b == 0, 1, b)), {"kind": kind}


def _mitchell_corrected(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return _mitchell_pair(draw, subject, dtype, "")[0], {}


def _mitchell_matrices(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    n, k, m = draw(st.tuples(*(st.integers(1, 3) for _ in "nkm")))
    a, b = _array(draw, dtype, 8.0, (n, k)), _array(draw, dtype, 8.0, (k, m))
    return (a, b), {"dialect": dialect or draw(st.sampled_from(subject.dialects))}


def _mitchell_raised(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    count = draw(st.integers(1, 4))
    x = np.abs(_array(draw, dtype, 4.0, (count, 1)))
    x = np.where(x < 2.0**-4, 1.5, x)
    return (x, _array(draw, dtype, 3.0, (count, 1))), {"product": dialect or draw(st.sampled_from(subject.dialects))}


def _mitchell_patterns(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    name, chosen = draw(st.sampled_from(tuple(FORMATS))), dialect or draw(st.sampled_from(subject.dialects))
    fmt, count = FORMATS[name], draw(st.integers(1, 4))
    top, last = 2 * fmt.highest + 1, (1 << (fmt.digits - 1)) - 1
    fields = st.one_of(st.sampled_from((0, 1, fmt.highest, top - 1, top)), st.integers(0, top))
    fractions = st.one_of(st.sampled_from((0, 1, last // 2 + 1, last)), st.integers(0, last))
    words = st.tuples(st.booleans(), fields, fractions).map(
        lambda parts: (parts[0] << (fmt.width - 1)) | (parts[1] << (fmt.digits - 1)) | parts[2]
    )
    a, b = (np.array(draw(st.lists(words, min_size=count, max_size=count)), np.uint64).astype(np.int64) for _ in "ab")
    return (a, b), {"format": name, "dialect": chosen}


def _mitchell_words(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    count = draw(st.integers(1, 4))
    whole = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count)
    a, b = (np.array(draw(whole), np.int64) for _ in "ab")
    return (a, b), {"kind": draw(st.sampled_from(logarithmic.WORDS))}


def _mitchell_log(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (np.abs(_scattered(draw, dtype, draw(st.integers(1, 4)))),), {}


def _mitchell_power(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (_array(draw, dtype, 8.0, (draw(st.integers(1, 4)), 1)),), {}


# --- copied spans -----------------------------------------------------------------------------------------------------------------


def _ids(draw: Draw, most: int, least: int = 1) -> Any:
    return np.array(draw(st.lists(st.integers(0, 4), min_size=least, max_size=most)), np.int64)


def _labels(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (_ids(draw, 8), _ids(draw, 8)), {}


def _step(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    rows, told = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    scores = _array(draw, dtype, 2.0, (rows, 3))
    states = np.array(draw(st.lists(st.integers(0, told), min_size=rows, max_size=rows)), np.int64)
    emitted = np.stack([_ids(draw, told, told) for _ in range(rows)])
    chosen = dialect or draw(st.sampled_from(tuple(subject.dialects)))
    return (scores, states, _ids(draw, 8), emitted), {"vocab_size": 5, "dialect": chosen}


def _tag_loss(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    batch, n = draw(st.tuples(st.integers(1, 2), st.integers(2, 5)))
    logits = _array(draw, dtype, draw(st.sampled_from((4.0, _capped(dtype, 300.0)))), (batch, n, 3))
    labels = np.array(draw(st.lists(st.integers(0, 2), min_size=batch * (n - 1), max_size=batch * (n - 1))), np.int64)
    ends = [draw(st.tuples(st.integers(1, n - 1), st.integers(1, n))) for _ in range(batch)]
    segments = np.array([[begin <= t < max(end, begin + 1) for t in range(n)] for begin, end in ends]).astype(np.int64)
    return (logits, labels.reshape(batch, n - 1), segments), {}


# --- texts ------------------------------------------------------------------------------------------------------------------------


def _text(draw: Draw, letters: str, least: int, most: int) -> str:
    return "".join(draw(st.lists(st.sampled_from(letters), min_size=least, max_size=most)))


def _two_texts(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    chosen, letters = dialect or draw(st.sampled_from(extraction.rouge_dialects(dtype))), "ab. c\U00020061"
    hypothesis, reference = (extraction.codes(_text(draw, letters, 0, 9)) for _ in range(2))
    return (hypothesis, reference, extraction.epsilon_of(chosen)), {"dialect": chosen}


def _new_rows(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    rows, columns = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    kept = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=rows, unique=True))
    words = draw(st.lists(st.lists(st.integers(0, len(kept) - 1), min_size=1, max_size=3), min_size=1, max_size=3))
    longest = max(map(len, words))
    pieces = np.array([[*word, *[-1] * (longest - len(word))] for word in words], np.int64)
    size = draw(st.sampled_from((2.0, _capped(dtype, 3000.0))))
    return (_array(draw, dtype, size, (rows, columns)), np.array(kept, np.int64), pieces), {}


def _two_lists(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    chosen = dialect or draw(st.sampled_from(subject.dialects))
    texts, summaries = (
        extraction.padded([_text(draw, "abcš.", 1, 5) for _ in range(draw(st.integers(1, 4)))]) for _ in range(2)
    )
    if not extraction.are_decided(texts, summaries, chosen):
        texts = texts[:1]
    return (texts, summaries), {"dialect": chosen}


def _one_text(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    return (extraction.codes(_text(draw, "a，。\n\n  b；：\u3000,.", 1, 10)),), {}


def _search(draw: Draw, subject: components.Component, dtype: str, dialect: str | None) -> Any:
    vocabulary = draw(st.integers(2, 4))
    steps, favour = draw(st.integers(1, min(8, 72 // vocabulary**2))), draw(st.sampled_from((0, 48)))
    source = np.array(draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=6)), np.int64)
    params = {
        "start": draw(st.integers(0, vocabulary - 1)),
        "end": 0,
        "beams": draw(st.integers(1, vocabulary)),
        "dialect": dialect or draw(st.sampled_from(subject.dialects)),
    }
    params["end"] = (params["start"] + draw(st.integers(1, vocabulary - 1))) % vocabulary
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    while True:  # most are decided at once
        shapes = (steps, vocabulary, vocabulary), (steps, vocabulary, 3)
        drawn = (np.rint(64 * rng.normal(size=shape)) for shape in shapes)
        moved = zip(drawn, (0, favour * np.arange(3)), strict=True)
        scores, tags = (np.clip(table + more, -255, 255) / 32 for table, more in moved)
        if beams.is_decided(scores, tags, source, *params.values()):
            return (scores, tags, source), params


_CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), _rows),
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "residual_attention": _residual,
    "relative_attention": _relative,
    "hierarchical_positions": _hierarchical,
    "exp_taylor": _taylor,
    "taylor_softmax": _taylor_softmax,
    "taylor_attention": _taylor_attention,
    "sparse_softmax": _sparse,
    "sparse_softmax_cross_entropy": _sparse_loss,
    **dict.fromkeys(("positive_features", "trigonometric_features", "hyperbolic_features", "relu_features"), _features),
    "favor_attention": _favor,
    "mean_pooling": _pooled,
    "unit_length": _unit,
    **dict.fromkeys(("mitchell_multiply", "mitchell_divide"), _mitchell_pair),
    **dict.fromkeys(("mitchell_multiply_integer", "mitchell_divide_integer"), _mitchell_whole),
    "mitchell_log2": _mitchell_log,
    "mitchell_exp2": _mitchell_power,
    "mitchell_corrected": _mitchell_corrected,
    "mitchell_power": _mitchell_raised,
    "mitchell_matmul": _mitchell_matrices,
    "mitchell_square_root": _mitchell_log,
    **dict.fromkeys(("mitchell_multiply_patterns", "mitchell_divide_patterns"), _mitchell_patterns),
    "mitchell_multiply_words": _mitchell_words,
    "copy_labels": _labels,
    **dict.fromkeys(("copy_step", "copy_states"), _step),
    "copy_beam_search": _search,
    "copy_loss": _tag_loss,
    "rouge": _two_texts,
    "extend_embedding": _new_rows,
    "match_sentences": _two_lists,
    "split_sentences": _one_text,
}
