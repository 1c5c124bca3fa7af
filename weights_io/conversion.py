"""From one format, dtype, naming scheme or number of shards to another, one tensor at a time.

At no time is more held in memory than one tensor and its converted form. What is written goes to a new name, is read back, compared bit
for bit with what was meant, and only then renamed: whatever happens, the old file or the new one is there.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from weights_io.errors import UnsupportedError, WeightsError
from weights_io.recognise import FORMATS
from weights_io.writing import Pending, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weights_io.checkpoint import Checkpoint

__all__ = ["DTYPES", "Conversion", "as_dtype", "convert"]

DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
LARGEST = {
    "float16": 65504.0,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}  # the largest finite value
BLOCK = 1 << 20  # values at a time
NATIVE = [np.dtype(name) for name in ("float16", "float32", "float64")]  # which NumPy itself rounds to


class Conversion(NamedTuple):
    """What a conversion did."""

    tensors: int
    nbytes: int
    left_behind: tuple[str, ...]  # metadata and tensors that have no place in what was written


def _is_float(dtype: Any) -> bool:
    return "float" in dtype.name


def _odd(array: Any) -> Any:  # float64 (...) -> float32 (...)
    """Rounded to odd: towards zero, and the last bit set if anything was lost.

    To round the result to a format of at most 22 bits and no more than float32's range is to round the float64 values once (S. Boldo and
    G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008, theorem 3).
    """
    narrow = array.astype(np.float32)
    narrow = np.where(np.abs(narrow.astype(np.float64)) > np.abs(array), np.nextafter(narrow, np.float32(0)), narrow)
    lost = np.isfinite(array) & (narrow.astype(np.float64) != array)
    return (narrow.view(np.uint32) | lost.astype(np.uint32)).view(np.float32)


def _narrowed(block: Any, dtype: Any) -> Any:  # float (n,) -> dtype (n,)
    """Rounded once to nearest, ties to even."""
    if block.dtype not in NATIVE:  # float32 holds all values of the dtypes of ml_dtypes
        block = block.astype(np.float32)
    twice = block.dtype == np.float64 and dtype not in NATIVE  # ml_dtypes goes by way of float32, and rounds twice
    return (_odd(block) if twice else block).astype(dtype)


def as_dtype(array: Any, dtype: Any, name: str) -> Any:  # float (...) -> dtype, the same shape, C order
    """The values in another floating-point dtype, rounded once; WeightsError if a value becomes infinite or NaN that was not."""
    flat, cast = np.ascontiguousarray(array).reshape(-1), np.empty(array.shape, dtype)
    out, lost, largest = cast.reshape(-1), 0, 0.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            out[start : start + BLOCK] = part = _narrowed(block, dtype)
            beyond = block[~np.isnan(block) & (np.isnan(part) | (np.isinf(part) & np.isfinite(block)))].astype(
                np.float64
            )
            lost, largest = lost + beyond.size, max(largest, float(np.abs(beyond).max(initial=0.0)))
    if lost:
        raise WeightsError(
            "values become infinite or NaN in the new dtype",
            field=repr(name),
            expected=f"values up to {LARGEST[dtype.name]} for {dtype}",
            got=f"{lost} values beyond, the largest {largest}",
            remedy="choose a wider dtype, for instance bfloat16 or float32",
        )
    return cast


def _cast(item: Pending, dtype: Any) -> Pending:
    """The item in another dtype, where it is floating point; integers and truth values stay."""
    if dtype is None or not _is_float(item.dtype) or item.dtype == dtype:
        return item
    return item._replace(dtype=dtype, get=lambda: as_dtype(item.get(), dtype, item.name))


def _told(item: Pending, advance: Callable[[str, int], object] | None) -> Pending:
    """The item, which says when it is read: once to be written, once to be compared."""
    if advance is None:
        return item

    def get() -> Any:
        array = item.get()
        advance(item.name, item.nbytes)
        return array

    return item._replace(get=get)


def _dtype(name: str | None) -> Any:
    if name is not None and name not in DTYPES:
        raise UnsupportedError(
            "no such floating-point dtype", where="convert(dtype=...)", expected=", ".join(DTYPES), got=name
        )
    return None if name is None else DTYPES[name]


def _named(checkpoint: Checkpoint, scheme: str | None, from_scheme: str | None) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint under the names of another scheme, and what the schemes leave out of it, with the reason."""
    from weights_io import schemes

    if scheme is None and from_scheme is None:
        return checkpoint, ()
    source = schemes.named(from_scheme) if from_scheme else schemes.detect(checkpoint)
    left = tuple(f"{name} ({why})" for name, why in schemes.explain(checkpoint, source).ignored.items())
    canonical = schemes.to_canonical(checkpoint, source)
    target = schemes.named(scheme) if scheme else source
    if target.first_position != source.first_position:
        raise WeightsError(
            "the two families count positions from different rows of the table",
            where="convert(scheme=...)",
            expected=f"a scheme that counts from {source.first_position}, as {source.name} does",
            got=f"{target.name}, which counts from {target.first_position}",
        )
    return (schemes.from_canonical(canonical, target) if scheme else canonical), left


def _texts(metadata: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What of the metadata is text, and the names of what is not."""
    texts = {name: value for name, value in metadata.items() if isinstance(name, str) and isinstance(value, str)}
    return texts, tuple(str(name) for name in metadata if name not in texts)


def convert(
    checkpoint: Checkpoint,
    destination: str | Path,
    *,
    dtype: str | None = None,
    scheme: str | None = None,
    from_scheme: str | None = None,
    ranks: int | None = None,
    heads: int | None = None,
    format: str | None = None,
    advance: Callable[[str, int], object] | None = None,
) -> Conversion:
    """Write a checkpoint in another format, dtype, naming scheme or number of Megatron ranks.

    Parameters
    ----------
    checkpoint : Checkpoint
    destination : a file; a new folder for a TensorFlow bundle and for Megatron shards
    dtype : of the floating-point tensors, one of `DTYPES`; None keeps each as it is
    scheme : the names to write, see `refimpl weights schemes`; None keeps the names
    from_scheme : the names in the checkpoint; None detects them where `scheme` needs it
    ranks : write so many Megatron shards (the names must be, or become, those of megatron-cpm)
    heads : attention heads, which ranks cannot cut; None: known for released widths, otherwise not checked
    format : as in `weights_io.save`
    advance : called with the name and bytes of each tensor when it is written and when it is compared, for each rank anew

    Returns
    -------
    Conversion, which says what metadata the new format could not keep, and what the naming scheme has no place for

    Raises
    ------
    WeightsError
        if anything cannot be written as asked; nothing is left behind, and an old file stays as it was.
    """
    destination = Path(destination)
    wanted = _dtype(dtype)
    if ranks is not None:
        scheme = scheme or "megatron-cpm"
    renamed, left = _named(checkpoint, scheme, from_scheme)
    items = [_told(_cast(item, wanted), advance) for item in pending(renamed)]
    if ranks is not None:
        from weights_io import megatron

        megatron.save_ranks(destination, items, ranks, heads=heads)
        rest = tuple(map(str, checkpoint.metadata))
    else:
        rest = _write(destination, items, checkpoint.metadata, format)
    return Conversion(len(items), sum(item.nbytes for item in items), (*rest, *left))


def _write(path: Path, items: list[Pending], metadata: Mapping[str, Any], form: str | None) -> tuple[str, ...]:
    """Write the items in one of the formats of `save`; the names of the metadata that it cannot keep."""
    from weights_io import writer

    chosen = writer(path, form)
    texts, rest = _texts(metadata)
    module = importlib.import_module(FORMATS[chosen].module)
    if texts and not getattr(module, "KEEPS_METADATA", False):
        texts, rest = {}, (*texts, *rest)
    module.save_items(path, items, texts)
    return rest
