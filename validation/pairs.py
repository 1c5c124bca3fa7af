"""Mitchell's arithmetic on all pairs of operands of 8, 12 or 16 bits: what is asked of the answers, and what they sum to.

    MITCHELL-1          multiply            xy - xy/9 <= product <= xy; where it is xy, and where it is short by xy/9
    MITCHELL-2.integer  divide              ⌊x/y⌋ <= quotient <= ⌊9x/(8y)⌋
    MITCHELL-4          multiply, float16   addition of patterns gives the bits of the arithmetic form
    MITCHELL-4.float32  multiply, float32   the same: pair (i, j) stands for two patterns, see below
    MITCHELL-7          corrected_multiply  xy - xy/121 <= product <= xy; where it is short by xy/121

Everything is compared in whole numbers of 32 bits. With x, y < 2^16, xy < 2^32. The error xy - answer is below 2^32 where the answer does not
exceed xy, which is checked beside it; n error <= xy is decided as error <= ⌊xy/n⌋, and where that holds n error <= xy < 2^32 too. 9x < 2^20 and
8y < 2^19. Relative errors are summed as ⌊2^35 error/(xy)⌋, where error <= xy/9 < 2^29 and 2^35 error < 2^64: so their mean is known to 2^-35.

When all pairs are done, counts and sums are compared with those that follow from theory, without going through pairs:

* the errors of products of x in [2^e, 2^(e+1)) and y in [2^h, 2^(h+1)), e >= h, sum to 4^e (4^h - 1)/12. With p, q the numerators of f and g, or
  after a carry of 1 - f and 1 - g, the sum is that of 2pq over p/2^e + q/2^h < 1 and of pq where it is 1; for each q that is q (2^(e-h) (2^h - q))²;
* the errors of corrected products are those of the products of p and q, over the same pairs;
* ⌊quotient⌋ is the largest n with P(n, y) <= x, P being `multiply`: the approximate logarithm is monotone, and 2^z its inverse. So quotients sum to
  Σ (2^b - P(n, y)) over all n, y >= 1 with P(n, y) < 2^b, and the floors of x/y to Σ (2^b - n y) over n y < 2^b;
* the classes of float16 products (NaN, infinity, zero, normal) follow from counting the sums of two patterns.

All 2^64 pairs of float32 are too many. There the pair of 16-bit numbers i and j stands for the patterns h(n) and h(n + 2^31), n = 2^16 i + j, of a
bijection h of 32 bits that mixes them (murmur3's last steps). So all pairs go through each float32 pattern once as the first operand and once as
the second, beside one that has nothing to do with it, and with 12 bits through 2^24 of them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import mitchell
from refimpl.bits import FORMATS
from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.bits import Format

__all__ = [
    "BITS",
    "RECORDED",
    "SCALE",
    "SIDE",
    "SUBJECTS",
    "Counterexample",
    "Subject",
    "Tally",
    "added",
    "definition",
    "recorded",
    "subject",
    "tally",
]

BITS = (8, 12, 16)
# Of a block: 2^16 pairs, whose arrays of 32-bit words (256 KiB each) a processor's second cache holds. A call costs 0.3 to 0.6 ms whatever its size.
# Measured with 512 KiB of cache, ns a pair of MITCHELL-1, -2.integer, -7 and -4, checks and sums included, for sides of
# 64: 90, 88, 248, 337; 128: 28, 31, 78, 143; 256: 18, 17, 28, 110; 512: 20, 15, 32, 108; 1024: 22, 19, 31, 95.
SIDE = 256
SCALE = 35
RECORDED = Path(__file__).parent / "recorded" / "exhaustion"

Tally = dict[str, int]


@dataclass(frozen=True)
class Counterexample:
    """A pair of operands of which the statement is false."""

    x: str
    y: str
    answer: str
    expected: str

    def __str__(self) -> str:
        return f"x = {self.x}, y = {self.y}: the answer is {self.answer}; expected {self.expected}"


@dataclass(frozen=True)
class Block:
    """What was found on a block of pairs: which are right, counts and sums of those that are, and what to show of one that is not."""

    right: Any
    counts: Callable[[], Tally]
    shown: Callable[[int, int], Counterexample]


@dataclass(frozen=True)
class Subject:
    """A statement about all pairs."""

    claim: str
    statement: str
    functions: tuple[str, ...]  # of refimpl.mitchell, that answer
    operands: Callable[[int], tuple[Any, Any]]  # of so many bits
    block: Callable[..., Block]  # of operands x, y and the functions
    theory: Callable[[int], Tally]  # what all pairs of so many bits come to


def added(one: Tally, other: Tally) -> Tally:
    """The sum of two tallies."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def tally(
    chosen: Subject, bits: int, start: int, stop: int, functions: tuple[Callable[..., Any], ...] | None = None
) -> tuple[Tally, Counterexample | None]:
    """Counts and sums of the pairs of operands x[start:stop] and all y, or the first pair that is wrong.

    Parameters
    ----------
    chosen, bits : one of SUBJECTS, one of BITS
    start, stop : of the first operands
    functions : in place of those of `refimpl.mitchell`; they get and return NumPy arrays
    """
    called = functions or tuple(getattr(mitchell, name) for name in chosen.functions)
    x, y = chosen.operands(bits)
    wide = SIDE**2 // min(stop - start, SIDE)  # blocks are as large where there are fewer rows
    total: Tally = {"pairs": 0}
    with np.errstate(all="ignore"):
        for first in range(start, stop, SIDE):
            rows = x[first : min(first + SIDE, stop)]
            for second in range(0, len(y), wide):
                columns = y[second : second + wide]
                block = chosen.block(rows, columns, *called)
                if not block.right.all():
                    i, j = (int(k[0]) for k in np.nonzero(~block.right))
                    return total, block.shown(i, j)
                total = added(total, {"pairs": block.right.size, **block.counts()})
    return total, None


# --- whole numbers ----------------------------------------------------------------------------------------------------------------


def _whole(bits: int) -> tuple[Any, Any]:
    n = np.arange(1 << bits, dtype=np.uint8 if bits == 8 else np.uint16)
    return n, n


def _divisors(bits: int) -> tuple[Any, Any]:
    return _whole(bits)[0], _whole(bits)[1][1:]


def _odd_part(n: Any) -> Any:
    """n without its factors of two; 0 for 0."""
    wide = n.astype(np.int64)
    return wide // np.maximum(wide & -wide, 1)


def _products(x: Any, y: Any, function: Callable[..., Any], *, share: int, odd: int, zeros: bool) -> Block:
    """Products short by at most 1/share, which occurs where both are odd · 2^k; exact, if `zeros` asks, just where one is 0 or a power of two."""
    answer = function(x[:, None], y[None, :]).astype(np.uint32, copy=False)
    exact = x.astype(np.uint32)[:, None] * y.astype(np.uint32)
    error, (left, other) = exact - answer, map(_odd_part, (x, y))
    right = (answer <= exact) & (error <= exact // share)
    extreme, none = (share * error == exact) & (exact != 0), error == 0
    right &= extreme == ((left == odd)[:, None] & (other == odd))
    if zeros:
        right &= none == ((left <= 1)[:, None] | (other <= 1))

    def counts() -> Tally:
        relative = (error.astype(np.uint64) << SCALE) // np.maximum(exact, 1)
        sums = {"products": exact, "errors": error, "relative": relative}
        counted = {"exact": int(np.count_nonzero(none)), "largest": int(np.count_nonzero(extreme))}
        return counted | {name: int(each.sum(dtype=np.uint64)) for name, each in sums.items()}

    def shown(i: int, j: int) -> Counterexample:
        bound = f"{exact[i, j]}, or less by at most 1/{share}, which occurs where both are {odd} times a power of two"
        exactly = ", and by nothing just where one is 0 or a power of two" if zeros else ""
        return Counterexample(str(x[i]), str(y[j]), str(answer[i, j]), bound + exactly)

    return Block(right, counts, shown)


def _quotients(x: Any, y: Any, function: Callable[..., Any]) -> Block:
    answer = function(x[:, None], y[None, :]).astype(np.uint32, copy=False)
    low = x.astype(np.uint32)[:, None] // y.astype(np.uint32)
    high = (9 * x.astype(np.uint32)[:, None]) // (8 * y.astype(np.uint32))

    def counts() -> Tally:
        above = answer > low
        counted = {"above": int(np.count_nonzero(above)), "largest": int(np.count_nonzero(above & (answer == high)))}
        sums = {"quotients": answer, "floors": low}
        return counted | {name: int(each.sum(dtype=np.uint64)) for name, each in sums.items()}

    def shown(i: int, j: int) -> Counterexample:
        return Counterexample(str(x[i]), str(y[j]), str(answer[i, j]), f"{low[i, j]} to {high[i, j]}")

    return Block((low <= answer) & (answer <= high), counts, shown)


def _theory_of_products(bits: int) -> Tally:
    every, simple = 1 << bits, bits + 1  # 0 and the powers of two
    pairs = [(max(e, h), min(e, h)) for e in range(bits) for h in range(bits)]
    return {
        "pairs": every**2,
        "exact": every**2 - (every - simple) ** 2,
        "largest": (bits - 1) ** 2,
        "products": (every * (every - 1) // 2) ** 2,
        "errors": sum(4**e * (4**h - 1) // 12 for e, h in pairs),
    }


def _errors_below(p: Any, count: Any) -> Any:
    """Σ of the product's errors at (p, q), 0 < q < count, for each p: octave by octave of q, up to the carry and after it."""
    i = np.frexp(p)[1].astype(np.int64) - 1
    top, total = np.int64(1) << i, np.zeros_like(p)
    for j in range(int(count.max()).bit_length()):
        many = np.clip(count - (1 << j), 0, 1 << j)
        carry = np.minimum(many, -(((p - 2 * top) << j) >> i))  # the first v with u/2^i + v/2^j >= 1, u = p - 2^i
        after = many - carry
        total += (p - top) * (carry * (carry - 1) // 2)
        total += (2 * top - p) * ((after << j) - (carry + many - 1) * after // 2)
    return total


def _theory_of_corrections(bits: int) -> Tally:
    every, errors = 1 << bits, 0
    for e in range(1, bits):
        p = np.arange(1, 1 << e, dtype=np.int64)
        for h in range(1, bits):
            room = ((1 << e) - p) << h  # 2^e q < room where p/2^e + q/2^h < 1
            errors += int((_errors_below(p, -(-room >> e)) + _errors_below(p, (room >> e) + 1)).sum())
    whole = {"pairs": every**2, "products": (every * (every - 1) // 2) ** 2}
    return whole | {"largest": max(0, bits - 3) ** 2, "errors": errors}


def _theory_of_quotients(bits: int) -> Tally:
    every = 1 << bits
    n = np.arange(1, every, dtype=np.int64)
    e = np.frexp(n)[1].astype(np.int64) - 1
    logarithm = (e << bits) + ((n - (1 << e)) << (bits - e))  # in units of 2^-bits
    many = np.minimum(every - 1, 9 * every // (8 * n))  # n y < (9/8) 2^b where P(n, y) < 2^b
    y = np.repeat(n, many)
    k = np.arange(1, len(y) + 1) - np.repeat(np.cumsum(many) - many, many)
    total = logarithm[k - 1] + logarithm[y - 1]
    product = ((every + (total & (every - 1))) << (total >> bits)) >> bits
    sums = {"quotients": product, "floors": k * y}
    below = {name: int(np.maximum(every - each, 0).sum()) for name, each in sums.items()}
    return {"pairs": every * (every - 1), **below}


# --- patterns of float16 and float32 ------------------------------------------------------------------------------------------------


def _patterns(bits: int) -> tuple[Any, Any]:
    """All patterns of float16; of fewer bits, those that end in zeros."""
    n = (np.arange(1 << bits) << (16 - bits)).astype(np.uint16)
    return n, n


def _halves(bits: int) -> tuple[Any, Any]:
    """The upper and the lower halves of the numbers that stand for pairs of patterns of float32."""
    n = np.arange(1 << bits, dtype=np.uint32)
    return n << np.uint32(bits), n


def _mixed(n: Any) -> Any:  # uint32 (...) -> uint32 (...), a bijection
    """murmur3's finalizer: shifts and odd factors, each of which can be undone."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        n = (n ^ (n >> np.uint32(shift))) * np.uint32(factor)
    return n ^ (n >> np.uint32(16))


def _pairs_of_patterns(x: Any, y: Any) -> tuple[Any, Any]:  # (rows,), (columns,) -> patterns that broadcast
    """Of float16, as they are; of float32, those that the numbers x + y stand for."""
    x, y = x[:, None], y[None, :]
    return (x, y) if x.dtype == np.uint16 else (_mixed(x | y), _mixed((x | y) ^ np.uint32(1 << 31)))


def _normal_products(x: Any, y: Any, at: Format) -> Any:
    """Where (2) is a normal number, by exponents and the carry of the fractions."""
    (e, h), (f, g) = ((n & (at.sign - 1)) >> at.shift for n in (x, y)), (n & (at.hidden - 1) for n in (x, y))
    k = e + h + (f + g >= at.hidden)  # with the bias twice
    bias, top = at.highest, 2 * at.highest + 1
    return (e > 0) & (h > 0) & (e < top) & (h < top) & (k > bias) & (k < bias + top)


def _additions(
    x: Any, y: Any, arithmetic: Callable[..., Any], by_patterns: Callable[..., Any], *, format: str
) -> Block:  # (rows,), (columns,)
    """Both forms with flushing: the same bits, or NaN both. Where the product is normal: without flushing too, and by the bare sum of patterns."""
    (x, y), at = _pairs_of_patterns(x, y), FORMATS[format]
    a, b = x.view(format), y.view(format)
    one, other = (each.view(x.dtype) for each in (arithmetic(a, b, dialect="flush"), by_patterns(a, b)))
    ieee = arithmetic(a, b).view(x.dtype)
    size, normal = one & (at.sign - 1), _normal_products(x, y, at)
    bare = ((x & (at.sign - 1)) + (y & (at.sign - 1)) - at.one) | ((x ^ y) & at.sign)  # modulo 2^width where not normal
    right = (one == other) | ((size > at.infinity) & ((other & (at.sign - 1)) > at.infinity))
    right &= ~normal | ((one == bare) & (ieee == bare))

    def counts() -> Tally:
        found = {"NaN": size > at.infinity, "infinite": size == at.infinity, "zero": size == 0, "normal": normal}
        return {name: int(np.count_nonzero(where)) for name, where in found.items()}

    def shown(i: int, j: int) -> Counterexample:
        patterns = (*np.broadcast_arrays(x, y), one, ieee, other, bare)
        left, right, *answers = (f"{each[i, j]:#0{2 + at.width // 4}x}" for each in patterns)
        with_rules = f"{answers[2]} by addition with rules" + f", {answers[3]} without" * bool(normal[i, j])
        return Counterexample(left, right, f"{answers[0]} flushed, {answers[1]} not", with_rules)

    return Block(right, counts, shown)


def _theory_of_additions(bits: int) -> Tally:
    at, sizes = FORMATS["float16"], np.arange(1 << (bits - 1), dtype=np.int64) << (16 - bits)
    normal = sizes[(sizes >= at.hidden) & (sizes < at.infinity)]
    below = int(np.searchsorted(normal, at.one + at.hidden - normal).sum())  # pairs whose sum of patterns is too small
    fit = int(np.searchsorted(normal, at.one + at.infinity - normal).sum()) - below
    small, nan = int((sizes < at.hidden).sum()), int((sizes > at.infinity).sum())
    whole, finite = len(sizes), len(sizes) - nan - 1  # one infinity
    counted = {
        "pairs": whole**2,
        "NaN": whole**2 - (whole - nan) ** 2 + 2 * small,
        "infinite": 2 * (finite - small) + 1 + len(normal) ** 2 - below - fit,
        "zero": finite**2 - (finite - small) ** 2 + below,
        "normal": fit,
    }
    return {name: 4 * count for name, count in counted.items()}  # signs


def _theory_of_mixed(bits: int) -> Tally:
    return {"pairs": 1 << (2 * bits)}


SUBJECTS = {
    each.claim: each
    for each in (
        Subject(
            "MITCHELL-1",
            "0 <= xy - product <= xy/9; 0 just where x or y is 0 or a power of two, xy/9 just where both are 3 · 2^k",
            ("multiply",),
            _whole,
            partial(_products, share=9, odd=3, zeros=True),
            _theory_of_products,
        ),
        Subject(
            "MITCHELL-2.integer",
            "⌊x/y⌋ <= quotient <= ⌊9x/(8y)⌋",
            ("divide",),
            _divisors,
            _quotients,
            _theory_of_quotients,
        ),
        Subject(
            "MITCHELL-4",
            "addition of float16 patterns gives the bits of the arithmetic form",
            ("multiply", "multiply_bits"),
            _patterns,
            partial(_additions, format="float16"),
            _theory_of_additions,
        ),
        Subject(
            "MITCHELL-4.float32",
            "addition of float32 patterns gives the bits of the arithmetic form, on pairs that a bijection picks",
            ("multiply", "multiply_bits"),
            _halves,
            partial(_additions, format="float32"),
            _theory_of_mixed,
        ),
        Subject(
            "MITCHELL-7",
            "0 <= xy - corrected product <= xy/121; xy/121 just where both are 11 · 2^k",
            ("corrected_multiply",),
            _whole,
            partial(_products, share=121, odd=11, zeros=False),
            _theory_of_corrections,
        ),
    )
}


def subject(claim: str, bits: int) -> Subject:
    """The subject of that name; raises ConfigError where there is none, or not with so many bits."""
    if claim not in SUBJECTS:
        raise ConfigError(
            "nothing to exhaust under this name", where="--claim", expected=", ".join(SUBJECTS), got=claim
        )
    if bits not in BITS:
        raise ConfigError("unknown width of operands", where="--bits", expected="8, 12 or 16", got=bits)
    return SUBJECTS[claim]


# --- which definition ---------------------------------------------------------------------------------------------------------------


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, those inside it too."""
    return set(code.co_names).union(*(_names(each) for each in code.co_consts if isinstance(each, CodeType)))


@cache
def _source(code: CodeType | type) -> str:
    return inspect.getsource(code)


def _is_of(value: Any, package: str) -> bool:
    return bool(value.__module__.partition(".")[0] == package)


def _parts(function: Any, found: dict[str, str]) -> None:
    """Put the source of a function into `found`, with that of every function and constant of its package that it uses by name."""
    if isinstance(getattr(function, "__wrapped__", None), FunctionType):
        _parts(function.__wrapped__, found)
    code, package = function.__code__, function.__module__.partition(".")[0]
    source, key = _source(code), f"{function.__module__}.{code.co_qualname}"
    if found.get(key) == source:
        return
    found[key] = source
    names, scope = sorted(_names(code)), function.__globals__
    modules = [scope[name] for name in names if isinstance(scope.get(name), ModuleType)]
    spaces = [scope, *(vars(each) for each in modules if each.__name__.partition(".")[0] == package)]
    for value, name in ((space[name], name) for space in spaces for name in names if name in space):
        if isinstance(value, FunctionType | type) and _is_of(value, package):
            if isinstance(value, type):
                found[f"{value.__module__}.{value.__qualname__}"] = _source(value)
            else:
                _parts(value, found)
        elif isinstance(value, int | float | str | tuple) or (name.isupper() or name == "dialects"):
            found[f"{function.__module__} {name}"] = repr(value)
            kinds = {type(each) for each in value.values()} if isinstance(value, dict) else set()
            found |= {
                f"{kind.__module__}.{kind.__qualname__}": _source(kind) for kind in kinds if _is_of(kind, package)
            }


def definition(chosen: Subject) -> str:
    """A checksum of the source of a subject's functions and of what it asks of them, with all functions and constants that these use."""
    found: dict[str, str] = {}
    for name in chosen.functions:
        _parts(getattr(mitchell, name), found)
    for check in (getattr(chosen.block, "func", chosen.block), chosen.operands, tally):
        _parts(check, found)
    found["asked"] = repr(getattr(chosen.block, "keywords", ""))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def recorded(claim: str) -> dict[str, Any]:
    """What a run over all pairs of 16 bits came to, by whichever definition its checksum names; {} where none was recorded."""
    path = RECORDED / f"{claim}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found
