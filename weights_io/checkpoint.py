"""The read-only mapping that every opened checkpoint is, whatever its format."""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.errors import MissingTensorError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from weights_io.source import Source

__all__ = ["Checkpoint", "TensorInfo"]

SEARCHED, LONGEST = 300, 100  # names that a suggestion is looked for among, and their characters


class TensorInfo(NamedTuple):
    """What is known of a tensor before its bytes are read."""

    name: str
    dtype: Any  # numpy.dtype; bfloat16 and float8 are those of ml_dtypes
    shape: tuple[int, ...]
    file: Path
    offset: int  # of the first byte, from the start of the file
    nbytes: int  # shape * itemsize: what the array takes in memory
    layout: str = (
        "contiguous"  # or "strided", "compressed", "chunked", "partitioned", "merged": how the bytes lie in the file
    )


@contextlib.contextmanager
def _enough_memory(info: TensorInfo) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        what, expected = "there is not enough memory for the tensor", f"{info.nbytes} bytes"
        raise WeightsError(what, where=info.file, field=repr(info.name), expected=expected) from None


class Checkpoint(Mapping[str, Any]):
    """Names to NumPy arrays, read when asked for, never writable.

    A checkpoint keeps its files open until it is closed, by `close()`, by leaving a `with` block, or when nothing refers to it any more.
    Arrays that were read stay valid.

    Attributes
    ----------
    format : the name of the file format, for instance "safetensors"
    metadata : what the file says about itself besides the tensors
    """

    def __init__(
        self,
        form: str,
        metadata: Mapping[str, Any],
        infos: Mapping[str, TensorInfo],
        read: Callable[[TensorInfo], Any],
        sources: Iterable[Source] = (),
        into: Callable[[TensorInfo, Any, Callable[[Any, Any], object]], None] | None = None,
    ) -> None:
        self.format = form
        self.metadata = dict(metadata)
        self._infos = dict(infos)
        self._read, self._into = read, into
        self._sources = list(sources)

    def __getitem__(self, name: str) -> Any:
        info = self.info(name)
        with _enough_memory(info):
            return self._read(info)

    def read_into(self, name: str, out: Any, put: Callable[[Any, Any], object] = np.copyto) -> None:
        """Write a tensor to `out`, an array of its shape, part by part as the parts lie in their files: nothing is joined or turned before.

        `put(part of out, array)` writes each part, which makes it the place for another dtype or order; every element is written once. The same
        is checked as on reading the tensor; WeightsError for an array of another shape.
        """
        info = self.info(name)
        if tuple(out.shape) != tuple(info.shape):
            what, where = "the array has another shape than the tensor", "read_into(out)"
            raise WeightsError(what, where=where, field=repr(name), expected=info.shape, got=out.shape)
        with _enough_memory(info):
            if self._into is None:
                put(out, self._read(info))
            else:
                self._into(info, out, put)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.format}: {len(self)} tensors>"

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; nothing more can be read, arrays that were read stay valid."""
        for source in self._sources:
            source.close()

    def info(self, name: str) -> TensorInfo:
        """The dtype, shape and place of a tensor, without reading it."""
        try:
            return self._infos[name]
        except KeyError:
            some = list(itertools.islice(self._infos, SEARCHED))
            near = difflib.get_close_matches(str(name)[:LONGEST], [each for each in some if len(each) <= LONGEST], n=3)
            names = near or some[:3]
            raise MissingTensorError(
                "no tensor of that name",
                where=self,
                expected=f"one of {len(self)} names, for instance {', '.join(names)}"
                if names
                else "a checkpoint with tensors",
                got=repr(name),
            ) from None

    def shared(self) -> list[list[str]]:
        """Groups of names that are stored once: the same bytes of the same file, as for a head tied to its embedding."""
        groups: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
        for info in self._infos.values():
            if info.nbytes:
                groups[info.file, info.offset].append(info.name)
        return [names for names in groups.values() if len(names) > 1]
