"""Mitchell's products fast: `refimpl.mitchell.matmul` and `multiply`, the same bits, by blocks and in place.

    pattern(P(x, y)) = pattern(x) + pattern(y) - pattern(1.0)      modulo 2^32 (2^64), the signs included                         (1)
    C_ij <- C_ij + P(a_ik, b_kj)      for k = 0, 1, ... in this order, beginning with C_ij = -0                                   (2)

(1) holds wherever x, y and P(x, y) are normal numbers (claim MITCHELL-4): the sum of the sign bits is their exclusive or, since nothing
is carried into or out of them. A product is then one addition of whole numbers, and a step k of (2) two additions of a block that stays in
the cache: no array of n · k · m products is ever made. -0 is the number to begin with, because -0 + x = x for every x, -0 too; sums in another
order, or of several k before they are added to C, would be rounded differently, so there are none.

Where (1) does not hold is decided from the smallest and the largest pattern of the operands, of some steps, then of each, in a block. If their
sums are in the range, all are. If not, the rows or the columns that can leave it are computed again, whichever are fewer:

* where an operand is 0, infinite or NaN (in the dialect "flush", also subnormal), P(x, y) is IEEE 754's product xy. For zeros that is the sign
  of 1.0 y, kept by a mask;
* subnormal operands, answers below and beyond the range: float32 is widened to float64, in whose range (1) holds, and rounded back, once; all
  else is computed by the definition.

The dialects "pam" and "semimul" are computed by the definition wherever their thresholds could matter, zeros included. float16 and bfloat16 are
widened to float32 once, and rounded once at the end; whole numbers of 8 and 16 bits are exact in float32 and float64, as are sums of 256 and
2^21 of their products, which are added up in 64 bits.

The corrected form is P(x, y) + P(u, v), with the rests u = x - 2^e, v = y - 2^h, or u = 2^(e+1) - x, v = 2^(h+1) - y after a carry (equation
(4) of `refimpl.mitchell`). P is monotone, and f + g < 1 says f < 1 - g and g < 1 - f: so the second product is the smaller of the two, and
three additions of patterns, a minimum and two additions of floats make a step.

NaN has many patterns: where the definition's answer is NaN so is the one here, but its sign and payload may differ. Floating-point warnings
are not given.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import mitchell
from refimpl.bits import FORMATS, check_arrays
from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.inference import mitchell_cupy
from refimpl.number_system import Array, namespace, rounded_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["matmul", "multiply"]

PRODUCTS, COLUMNS = 262144, 1024  # of a block, at most; and of its columns
STEPS = 64  # the k for which operands are prepared at a time
GROUP = 65536  # products of several steps of a small block that are formed at a time
PIECE = 16384  # products that are computed again at a time
NARROW = 256  # with fewer columns than this, and than rows, C is computed as the transpose of B^T A^T
_REST = {"float32": 26, "float64": 55}  # the rest 0 of 2^e is taken for 2^(e-26): beside a product it is rounded away


@dataclass(frozen=True)
class _Form:
    """One dialect in one dtype: the ranges of |x| and of |x| + |y|, as patterns, in which (1) holds."""

    name: str
    dialect: str
    corrected: bool
    dtype: Any
    signed: Any  # the type of whole numbers that patterns are added in
    unsigned: Any
    sign: Any  # the sign bit, of the unsigned type as all below
    one: Any  # the pattern of 1.0
    infinity: Any
    least: Any  # least <= |x|, least <= |y|
    low: Any  # low <= |x| + |y| < high
    high: Any
    zero: Any  # an operand below this is a zero; 0 leaves zeros, infinities and NaN to the definition

    def sizes(self, x: Array) -> Array:
        """The patterns of |x|."""
        return x.view(self.unsigned) & self.unsigned(np.iinfo(self.signed).max)

    def special(self, sizes: Array) -> Array:
        """Whether an operand's products are those of IEEE 754: zeros, infinities and NaN."""
        return ((sizes < self.zero) | (sizes >= self.infinity)) & bool(self.zero)

    def flushed(self, x: Array) -> Array:
        """`x`, but signed zeros for subnormal numbers, where they count as such."""
        return np.where(self.sizes(x) < self.zero, np.copysign(self.dtype(0), x), x) if self.zero > 1 else x

    def inside(self, smallest: Array, largest: Array, low: Array, high: Array) -> Array:
        """Whether (1) holds for all ordinary operands between `smallest` and `largest`, and between `low` and `high`."""
        held = (smallest >= self.least) & (low >= self.least) & (largest < self.infinity) & (high < self.infinity)
        return held & (smallest + low >= self.low) & (largest + high < self.high)


@functools.cache
def _form(name: str, dialect: str, corrected: bool = False) -> _Form:
    fmt = FORMATS[name]
    low, high, rest = fmt.lowest, fmt.highest + 1, _REST[name]
    if dialect == "pam":  # the exact product is at most 9/8 of (1), and 2^-122 > 1e-37, 9/8 2^122 < 1e37
        low, high = max(low, -122), min(high, 122)
    elif dialect == "semimul":  # e + h is the exponent of (1), or one less
        low, high = low + 1, high - 1
    elif corrected:  # products of rests are normal, sums of two products finite
        low, high = low + 2 * rest, high - 1

    def at(e: int) -> int:
        return (e + fmt.highest) << fmt.shift

    unsigned = getattr(np, f"uint{fmt.width}")
    least = at(fmt.lowest + rest if corrected else fmt.lowest)
    zero = {"ieee": 1, "flush": fmt.hidden}.get(dialect, 0)
    sizes = (fmt.sign, fmt.one, fmt.infinity, least, fmt.one + at(low), fmt.one + at(high), zero)
    types = (getattr(np, name), getattr(np, f"int{fmt.width}"), unsigned)
    return _Form(name, dialect, corrected, *types, *map(unsigned, sizes))


# --- what (1) does not say -----------------------------------------------------------------------------------------------------------


def _widened(a: Array, b: Array, form: _Form) -> Array:
    """P of float32 numbers other than 0, infinity and NaN, by (1) in float64, whose range holds the product; rounded to float32 once."""
    x, y = a.astype(np.float64).view(np.int64), b.astype(np.float64).view(np.int64)
    total = (x - np.int64(_form("float64", "ieee").one) + y).view(np.float64)
    if form.dialect == "flush":
        total = np.where(np.abs(total) < float(np.finfo(np.float32).tiny), np.copysign(0.0, total), total)
    return total.astype(np.float32)


def _guarded(a: Array, b: Array, form: _Form) -> Array:
    """P of any operands that are not `special`."""
    if form.corrected:
        return mitchell.corrected_multiply(a, b)
    if form.name == "float32" and form.zero:
        return _widened(a, b, form)
    return mitchell.multiply(a, b, dialect=form.dialect)


def _again(
    terms: Array, a: Array, b: Array, rows: Array, form: _Form
) -> None:  # (p, n, m), (p, n), (p, m), bool (p, n)
    """Write the products of these rows into `terms`, some at a time."""
    p, i = np.nonzero(rows)
    step = max(1, PIECE // terms.shape[-1])
    for part in (slice(start, start + step) for start in range(0, len(i), step)):
        terms[p[part], i[part]] = _guarded(a[p[part], i[part]][:, None], b[p[part]], form)


def _exceptional(a: Array, b: Array, form: _Form) -> Array:  # (p, n), (p, m) -> bool (p, n)
    """Which numbers in `a` have ordinary products with numbers in `b` for which (1) might not hold."""
    sizes, others = form.sizes(a), form.sizes(b)
    ordinary = others[~form.special(others)]
    if not ordinary.size:
        return np.zeros(a.shape, bool)
    return ~form.special(sizes) & ~form.inside(sizes, sizes, ordinary.min(), ordinary.max())


def _out_of_range(terms: Array, a: Array, b: Array, form: _Form) -> None:  # (p, n, m), (p, n), (p, m)
    """Write the products for which (1) does not hold into `terms`, by rows or by columns, whichever are fewer."""
    a, b = (np.broadcast_to(x, (len(terms), x.shape[1])) for x in (a, b))
    rows, columns = _exceptional(a, b, form), _exceptional(b, a, form)
    if rows.mean() <= columns.mean():
        _again(terms, a, b, rows, form)
    else:
        _again(terms.swapaxes(1, 2), b, a, columns, form)


def _of_ieee(terms: Array, a: Array, b: Array, special: Array | None, k: int) -> None:  # (p, n, m), (p, n), (p, m)
    """Write xy for zeros, infinities and NaN in `a`, which `special`, (k, p, n), tells, into `terms`."""
    if special is not None and special[k].any():
        p, i = np.nonzero(np.broadcast_to(special[k], terms.shape[:2]))
        terms[p, i] = a[p if len(a) > 1 else 0, i][:, None] * b[p if len(b) > 1 else 0]


# --- blocks ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One operand of some steps k: its numbers, (k, p, n), and their sizes, but 1.0 for zeros, infinities and NaN."""

    numbers: Array
    sizes: Array
    range: tuple[Array, Array]  # the least and the largest size
    special: Array | None = None  # which are zeros, infinities and NaN, bool (k, p, n); None if there are none
    finite: bool = True

    @classmethod
    def of(cls, x: Array, form: _Form) -> _Part:
        """Of these numbers, (k, p, n)."""
        sizes = form.sizes(x)
        low, high = sizes.min(), sizes.max()
        if not form.zero or (form.zero <= low and high < form.infinity):
            return cls(x, sizes, (low, high))
        special = form.special(sizes)
        sizes = np.where(special, form.one, sizes)
        return cls(form.flushed(x), sizes, (sizes.min(), sizes.max()), special, bool(high < form.infinity))

    def ranges(self) -> tuple[Array, Array]:
        """The same of each step."""
        return self.sizes.min(axis=(1, 2)), self.sizes.max(axis=(1, 2))

    def patterns(self, form: _Form) -> list[Array]:
        """What (1) adds: the patterns of the numbers, and in the corrected form those of both rests too."""
        numbers = self.numbers
        if self.special is not None:  # x in place of 1.0 x has the sign of 0 x
            numbers = np.where(self.special, np.copysign(form.dtype(1), numbers), numbers)
        if not form.corrected:
            return [numbers.view(form.signed)]
        power = (numbers.view(form.unsigned) & (form.infinity | form.sign)).view(form.dtype)
        above = numbers - power
        below = power - above
        above = np.where(above == 0, power * form.dtype(2.0 ** -_REST[form.name]), above)
        return [each.view(form.signed) for each in (numbers, above, below)]

    def kept(self, form: _Form) -> Array | None:
        """Which bits of the products by (1) to keep: of zeros' the sign; None for all of all."""
        if self.special is None:
            return None
        return np.where(self.special, form.sign, ~form.unsigned(0)).view(form.signed)


def _correct(terms: Array, rests: list[Array], form: _Form) -> None:
    """Add the smaller of the two corrections, which are patterns, to the products."""
    above, below = rests
    np.minimum(above.view(form.unsigned), below.view(form.unsigned), out=above.view(form.unsigned))
    np.add(terms, above.view(form.dtype), out=terms)


def _terms(a: _Part, b: _Part, space: list[Array], form: _Form) -> Iterator[tuple[int, Array]]:
    """The products of some steps at a time, by (1): the first k, and they, (k, p, n, m), in `space[0]`, behind a place for the total."""
    pairs = [(x - form.signed(form.one), y) for x, y in zip(a.patterns(form), b.patterns(form), strict=True)]
    pairs = [(x[:, :, :, None], y[:, :, None, :]) for x, y in pairs]
    kept = (a.kept(form), -1), (b.kept(form), -2)
    masks = [np.expand_dims(mask, axis) for mask, axis in kept if mask is not None]
    size = max(1, len(space[0]) - 1)
    if size == 1 and len(pairs) == 1 and not masks:  # the same, with less around it
        sums, terms = space[0][-1], space[0][-1:].view(form.dtype)
        for k, (x, y) in enumerate(zip(*pairs[0], strict=True)):
            np.add(x, y, sums)
            yield k, terms
        return
    for start in range(0, len(a.numbers), size):
        some = slice(start, start + size)
        places = slice(len(space[0]) - size, len(space[0]) - size + min(size, len(a.numbers) - start))
        sums, *rests = [np.add(x[some], y[some], t[places]) for (x, y), t in zip(pairs, space, strict=True)]
        if form.corrected:
            _correct(sums.view(form.dtype), rests, form)
        for mask in masks:
            np.bitwise_and(sums, mask[some], sums)
        yield start, sums.view(form.dtype)


def _plain(a: _Part, b: _Part, form: _Form) -> list[bool]:
    """For each step whether (1) holds for all its products but those of zeros, infinities and NaN."""
    if form.inside(*a.range, *b.range):
        return [True] * len(a.numbers)
    return [bool(held) for held in form.inside(*a.ranges(), *b.ranges())]


def _steps(total: Array, a: _Part, b: _Part, space: list[Array], form: _Form) -> None:
    """(2) for some steps: add their products to `total`, (p, n, m), in order."""
    plain = _plain(a, b, form)
    simple = all(plain) and a.finite and b.finite
    together = simple and len(space[0]) > 1 and total.size >= 16 and _sums_in_order()
    for start, terms in _terms(a, b, space, form):
        if together:
            before = space[0][: 1 + len(terms)].view(form.dtype)
            before[0] = total
            np.add.reduce(before, axis=0, out=total, initial=-0.0)
            continue
        for k, term in enumerate(terms, start):
            if not simple:
                _mended(term, a, b, k, plain[k], form)
            np.add(total, term, total)


def _mended(term: Array, a: _Part, b: _Part, k: int, plain: bool, form: _Form) -> None:
    """Write the products of step k for which (1) does not hold."""
    if not plain:
        _out_of_range(term, a.numbers[k], b.numbers[k], form)
    if not (plain and a.finite and b.finite):
        _of_ieee(term, a.numbers[k], b.numbers[k], a.special, k)
        _of_ieee(term.swapaxes(1, 2), b.numbers[k], a.numbers[k], b.special, k)


@functools.cache
def _sums_in_order() -> bool:
    """Whether NumPy's sum over the first axis, of rows that are contiguous, adds row by row: it always did, and does not promise to."""
    for shape in ((3, 16), (64, 17), (130, 100), (17, 2000)):
        rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        rows[:, 0] = -0.0
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        if np.add.reduce(rows, axis=0, initial=-0.0).tobytes() != total.tobytes():
            return False
    return True


def _pieces(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _side(x: Array, batch: slice, lines: slice) -> Array:
    """The rows or columns of one block, (p or 1, lines, k)."""
    return x[batch if len(x) > 1 else slice(None), lines]


def _prepared(x: Array, k: slice, form: _Form) -> _Part:
    """Some steps of an operand, (p, n, k), as a part, (k, p, n), whose lines are contiguous."""
    some = x[..., k].transpose(2, 0, 1)
    return _Part.of(some if some.strides[-1] == some.itemsize else np.ascontiguousarray(some), form)


def _stack(a: Array, b: Array, out: Array, form: _Form) -> None:  # (p or 1, n, k), (p or 1, m, k), (p, n, m)
    """Write the product of a and the transpose of b to `out`, block by block."""
    (p, n, m), products = out.shape, PRODUCTS // (2 if form.corrected else 1)
    m = min(m, COLUMNS)
    n = min(n, products // m)
    p = min(p, products // (m * n))
    steps = min(STEPS, max(1, GROUP // (m * n * p)), a.shape[-1])
    places = steps + (steps > 1)
    room = [np.empty(places * p * n * m, form.signed) for _ in range(3 if form.corrected else 1)]
    totals = np.empty(p * n * m, form.dtype)
    for batch, columns, rows in itertools.product(*map(_pieces, out.shape[::2], (p, m)), _pieces(out.shape[1], n)):
        target = out[batch, rows, columns]
        total = totals[: target.size].reshape(target.shape)
        total.fill(-0.0)
        space = [each[: places * target.size].reshape(places, *target.shape) for each in room]
        x, y = _side(a, batch, rows), _side(b, batch, columns)
        for k in _pieces(a.shape[-1], STEPS):
            _steps(total, _prepared(x, k, form), _prepared(y, k, form), space, form)
        target[...] = total


def _sequential(
    a: Array, b: Array, out: Array, form: _Form
) -> None:  # (..., n, k), (..., k, m), (..., n, m), of as many axes
    """Write the product to `out`, one stack of matrices after the other. NumPy's settings are those of this thread, and are restored."""
    if out.shape[-1] < min(NARROW, out.shape[-2]):
        a, b, out = (x.swapaxes(-1, -2) for x in (b, a, out))
    stacks, columns = out.shape[:-3], b.swapaxes(-1, -2)
    a, columns = (np.broadcast_to(x, (*stacks, *x.shape[-3:])) for x in (a, columns))
    size = np.getbufsize()
    with np.errstate(all="ignore"):
        try:
            np.setbufsize(
                16
            )  # rows shorter than half of this buffer are copied to it, which takes four times as long as adding them
            for index in np.ndindex(*stacks):
                _stack(a[index], columns[index], out[index], form)
        finally:
            np.setbufsize(size)


def _cut(x: Array, axis: int, piece: slice, summed: int) -> Array:
    """The part of an operand that gives `piece` of an axis of the product; `summed` is the operand's axis k."""
    return x if axis == summed or x.shape[axis] == 1 else x[(*[slice(None)] * (x.ndim + axis), piece)]


def _sums(a: Array, b: Array, out: Array, form: _Form, threads: int) -> None:  # (..., n, k), (..., k, m), (..., n, m)
    """Write the product to `out`, whose longest axis is cut into a piece for each thread."""
    a, b = (x.reshape(*[1] * (max(out.ndim, 3) - x.ndim), *x.shape) for x in (a, b))
    out = out[None] if out.ndim == 2 else out
    axis = int(np.argmax(out.shape)) - out.ndim
    pieces = _pieces(out.shape[axis], -(-out.shape[axis] // threads))
    parts = [(_cut(a, axis, piece, -1), _cut(b, axis, piece, -2), _cut(out, axis, piece, 0), form) for piece in pieces]
    if len(parts) == 1:
        _sequential(a, b, out, form)
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(_sequential, *part) for part in parts]:
            done.result()


# --- sums of products ------------------------------------------------------------------------------------------------------------------


def _is_numpy(x: Array) -> bool:
    return bool(namespace(x).__name__ == "array_api_compat.numpy") and str(x.dtype) != "object"


def _shape_of_product(a: Array, b: Array) -> tuple[int, ...]:
    mitchell._check_matrices(a, b)
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])


@functools.cache
def _check_rules(whole: bool, dialect: str, corrected: bool) -> None:
    """Raise ConfigError where the definition does."""
    mitchell._check_corrected(dialect, corrected)
    if whole:
        mitchell._check_whole(dialect, {})
    else:
        mitchell._edges(dialect, {})


def _check_out(out: Array | None, shape: tuple[int, ...], like: Array) -> None:
    if out is None:
        return
    check_arrays("matmul", "an array to write the product to, or None", out=out)
    if tuple(out.shape) != shape:
        raise ShapeError("the product has another shape", where="matmul(out=)", expected=shape, got=tuple(out.shape))
    dtype = _sum_dtype(like) if mitchell._is_whole(like) else like.dtype
    if out.dtype != dtype:
        raise DtypeError("the product has another dtype", where="matmul(out=)", expected=dtype, got=out.dtype)


def _sum_dtype(x: Array) -> Any:
    return np.dtype(np.uint64 if "uint" in str(x.dtype) else np.int64)


@rounded_once
def _float_product(a: Array, b: Array, out: Array | None, form: Callable[[str], _Form], threads: int) -> Array:
    if out is None:
        out = np.empty(_shape_of_product(a, b), a.dtype)
    if out.size:
        _sums(a, b, out, form(str(a.dtype)), threads)
    return out


def _whole_product(a: Array, b: Array, form: Callable[[str], _Form], threads: int) -> Array:
    """By floats that hold the sums of as many products as are added up at a time, exactly."""
    name, steps = ("float32", 2**8) if max(a.itemsize, b.itemsize) == 1 else ("float64", 2**21)
    total = np.zeros(_shape_of_product(a, b), _sum_dtype(a))
    for k in _pieces(a.shape[-1], steps):
        total += _float_product(a[..., k].astype(name), b[..., k, :].astype(name), None, form, threads).astype(
            total.dtype
        )
    return total


def matmul(
    a: Array,
    b: Array,
    *,
    dialect: str = "ieee",
    corrected: bool = False,
    out: Array | None = None,
    threads: int = 1,
) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
    """C_ij = Σ_k P(a_ik, b_kj), added up for k = 0, 1, ... in this order: the bits of `refimpl.mitchell.matmul`, fast.

    Parameters
    ----------
    a, b : NumPy arrays, (..., n, k) and (..., k, m), whose other axes broadcast: floats of one dtype, or whole numbers of 8 or 16 bits; of
        any strides (rows of `b` that are contiguous are fastest). Or CuPy arrays: float16, bfloat16 or float32, in the dialects "ieee" and "flush"
    dialect : as for `refimpl.mitchell.multiply`
    corrected : whether P is `refimpl.mitchell.corrected_multiply`, which has the dialect "ieee" alone
    out : array, (..., n, m), of the dtype of the product, to write it to
    threads : into how many parts the longest axis of the product is cut, each computed by a thread of its own; the answer is the same for any number.
        A GPU decides for itself

    Returns
    -------
    array, (..., n, m), or `out`: float16, bfloat16 and float32 are multiplied and added up in float32 and rounded once to their dtype, float64 in
    float64; whole numbers in int64 or uint64. About 3 MB are needed beside the operands and the product, for each thread; 16-bit floats and whole
    numbers are copied

    Raises
    ------
    DtypeError, ConfigError, ShapeError
        as the definition; ShapeError also for an `out` of another shape, DtypeError for other arrays and for dtypes that a GPU is not given.
    """
    mitchell._accumulable("matmul", a, b)
    shape = _shape_of_product(a, b)
    _check_rules(mitchell._is_whole(a), str(dialect), bool(corrected))
    _check_out(out, shape, a)
    if namespace(a, b).__name__ == "array_api_compat.cupy":
        return mitchell_cupy.matmul(a, b, dialect=dialect, corrected=corrected, out=out)
    _check_fast(a)
    form = functools.partial(_form, dialect="ieee" if mitchell._is_whole(a) else dialect, corrected=corrected)
    if mitchell._is_whole(a):
        return _delivered(_whole_product(a, b, form, _counted(threads)), out)
    direct = out is not None and out.itemsize > 2 and not any(np.may_share_memory(out, x) for x in (a, b))
    return _delivered(_float_product(a, b, out if direct else None, form, _counted(threads)), out)


def _delivered(answer: Array, out: Array | None) -> Array:
    if out is None or answer is out:
        return answer
    out[...] = answer
    return out


def _counted(threads: int) -> int:
    if not (isinstance(threads, int) and threads >= 1):
        raise ConfigError("threads are counted from 1", where="matmul(threads=)", expected=">= 1", got=repr(threads))
    return threads


def _check_fast(a: Array) -> None:
    if not _is_numpy(a):
        raise DtypeError(
            "fast products are of NumPy and CuPy arrays",
            where="refimpl.inference.mitchell",
            expected="an array of floats or whole numbers",
            got=f"{a.dtype} of {namespace(a).__name__}",
            remedy="use refimpl.mitchell.matmul, the definition, which runs on every array",
        )


# --- single products -------------------------------------------------------------------------------------------------------------------


def _flat_products(a: Array, b: Array, form: _Form) -> Array:  # (n), (n) -> (n)
    x, y = _Part.of(a, form), _Part.of(b, form)
    pairs = zip(x.patterns(form), y.patterns(form), strict=True)
    terms = [one + (other - form.signed(form.one)) for one, other in pairs]
    answer = terms[0].view(form.dtype)
    if form.corrected:
        _correct(answer, terms[1:], form)
    if not form.inside(*x.range, *y.range):
        outside = ~form.inside(x.sizes, x.sizes, y.sizes, y.sizes)
        answer[outside] = _guarded(a[outside], b[outside], form)
    for special in (part.special for part in (x, y) if part.special is not None):
        answer[special] = x.numbers[special] * y.numbers[special]
    return answer


def multiply(a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False) -> Array:  # (...), (...) -> (...)
    """xy ≈ P(x, y): the bits of `refimpl.mitchell.multiply`, or of `corrected_multiply`, by one addition of patterns where that is exact.

    Parameters
    ----------
    a, b : NumPy arrays of float32 or float64 that broadcast, for which it is fast; of any other array and dtype the definition is called
    dialect : as for `refimpl.mitchell.multiply`
    corrected : whether P is `refimpl.mitchell.corrected_multiply`, which has the dialect "ieee" alone

    Returns
    -------
    array, (...), as the definition returns it

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as the definition.
    """
    mitchell._check_pairs("multiply", a, b)
    _check_rules(mitchell._is_whole(a), str(dialect), bool(corrected))
    if str(a.dtype) not in _REST or not _is_numpy(a):
        return mitchell.corrected_multiply(a, b) if corrected else mitchell.multiply(a, b, dialect=dialect)
    form, (a, b) = _form(str(a.dtype), dialect, corrected), np.broadcast_arrays(a, b)
    out = np.empty(a.shape, a.dtype)
    if not out.size:
        return out
    a, b, flat = (np.atleast_1d(x) for x in (a, b, out))
    rows = max(1, GROUP // (out.size // len(flat)))
    with np.errstate(all="ignore"):
        for piece in _pieces(len(flat), rows):
            answer = _flat_products(np.ravel(a[piece]), np.ravel(b[piece]), form)
            flat[piece] = answer.reshape(flat[piece].shape)
    return out
