"""Whether two checkpoints hold the same: names, dtypes, shapes, and values bit for bit or within a tolerance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weights_io.checkpoint import Checkpoint

__all__ = ["Difference", "verify"]

BLOCK = 1 << 20  # values at a time


class Difference(NamedTuple):
    """One thing in which two checkpoints differ."""

    name: str
    kind: str  # "only in A", "only in B", "dtype", "shape", "values"
    detail: str


def verify(
    a: Checkpoint,
    b: Checkpoint,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    advance: Callable[[str, int], object] | None = None,
) -> list[Difference]:
    """Every difference between two checkpoints, one a name; an empty list if there is none.

    Without tolerances, values are compared bit for bit and dtypes must agree: -0.0 is not 0.0, and a NaN equals only a NaN of the same bits.
    With one, values x of `a` and y of `b` must satisfy |x - y| <= atol + rtol |y|, in float64; NaN equals NaN, infinities only themselves, and dtypes
    may differ.

    Raises
    ------
    WeightsError
        for a tolerance that is negative or NaN, or a tensor that cannot be read.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not 0 <= value < np.inf:
            raise WeightsError(
                "not a tolerance", where=f"verify({name}=...)", expected="0 <= value < infinity", got=value
            )
    exact = rtol is None and atol is None
    differences = [Difference(name, "only in A", _kind(a, name)) for name in a if name not in b]
    differences += [Difference(name, "only in B", _kind(b, name)) for name in b if name not in a]
    for name in (name for name in a if name in b):
        found = _difference(a, b, name, None if exact else (rtol or 0.0, atol or 0.0))
        differences += [found] if found else []
        if advance:
            advance(name, a.info(name).nbytes)
    return differences


def _kind(checkpoint: Checkpoint, name: str) -> str:
    info = checkpoint.info(name)
    return f"{info.dtype.name} {list(info.shape)}"


def _difference(a: Checkpoint, b: Checkpoint, name: str, tolerance: tuple[float, float] | None) -> Difference | None:
    left, right = a.info(name), b.info(name)
    if left.shape != right.shape:
        return Difference(name, "shape", f"{list(left.shape)} and {list(right.shape)}")
    if tolerance is None and left.dtype != right.dtype:
        return Difference(name, "dtype", f"{left.dtype.name} and {right.dtype.name}")
    x, y = (np.ascontiguousarray(array).reshape(-1) for array in (a[name], b[name]))
    detail = _bits(x, y) if tolerance is None else _values(x, y, *tolerance)
    return Difference(name, "values", detail) if detail else None


def _bits(x: Any, y: Any) -> str:  # (n,), (n,) of one dtype
    different, first = 0, -1
    for start in range(0, x.size, BLOCK):
        left, right = (part[start : start + BLOCK].view(np.uint8).reshape(-1, x.dtype.itemsize) for part in (x, y))
        unequal = (left != right).any(axis=1)
        different += int(unequal.sum())
        first = start + int(unequal.argmax()) if first < 0 and different else first
    return (
        f"{different} of {x.size} differ, the first at flat index {first}: {x[first]} and {y[first]}"
        if different
        else ""
    )


def _wide(array: Any) -> Any:
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _equal_integers(x: Any, y: Any) -> Any:  # (n,), (n,) -> bool (n,), or None where one of them holds no integers
    """Where two arrays of integers are equal, which float64 cannot tell beyond 2**53. Unequal integers are at least 1 apart."""
    if x.dtype.kind not in "iub" or y.dtype.kind not in "iub":
        return None
    same_sign = (x < 0) == (y < 0) if x.dtype.kind != "b" and y.dtype.kind != "b" else True
    return same_sign & (x.astype(np.uint64) == y.astype(np.uint64))


def _within(x: Any, y: Any, error: Any, rtol: float, atol: float) -> Any:  # float64 (n,) each -> bool (n,)
    """error <= atol + rtol |y| where all are finite; where one side overflows, a quarter of both is compared."""
    finite, bound = np.isfinite(x) & np.isfinite(y), atol + rtol * np.abs(y)
    quarter = np.abs(x / 4 - y / 4) <= atol / 4 + rtol * np.abs(y / 4)
    return finite & np.where(np.isfinite(error) & np.isfinite(bound), error <= bound, quarter)


def _values(x: Any, y: Any, rtol: float, atol: float) -> str:  # (n,), (n,)
    different, worst, place = 0, -1.0, -1
    for start in range(0, x.size, BLOCK):
        exact = _equal_integers(x[start : start + BLOCK], y[start : start + BLOCK])
        left, right = _wide(x[start : start + BLOCK]), _wide(y[start : start + BLOCK])
        with np.errstate(invalid="ignore", over="ignore"):
            same = (left == right) | (np.isnan(left) & np.isnan(right)) if exact is None else exact
            least = 0.0 if exact is None else 1.0  # unequal integers are at least 1 apart
            error = np.where(same, 0.0, np.maximum(np.abs(left - right), least))
            outside = ~same & ~_within(left, right, error, rtol, atol)
        different += int(outside.sum())
        shown = np.where(outside, np.where(np.isnan(error), np.inf, error), -1.0)
        if outside.any() and shown.max() > worst:
            worst, place = float(shown.max()), start + int(shown.argmax())
    return (
        f"{different} of {x.size} differ, the worst at flat index {place}: {x[place]} and {y[place]}"
        if different
        else ""
    )
