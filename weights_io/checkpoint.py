"""The read-only mapping that every opened checkpoint is, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Checkpoint", "TensorInfo"]


class TensorInfo(NamedTuple):
    """What is known of a tensor before its bytes are read."""

    name: str
    dtype: Any  # numpy.dtype; bfloat16 and float8 are those of ml_dtypes
    shape: tuple[int, ...]
    file: Path
    offset: int  # of the first byte, from the start of the file
    nbytes: int


class Checkpoint(Mapping[str, Any]):
    """Names to NumPy arrays, read when asked for, never writable.

    Attributes
    ----------
    format : the name of the file format, for instance "safetensors"
    metadata : what the file says about itself besides the tensors
    """

    def __init__(
        self, form: str, metadata: Mapping[str, Any], infos: Mapping[str, TensorInfo], read: Callable[[TensorInfo], Any]
    ) -> None:
        self.format = form
        self.metadata = dict(metadata)
        self._infos = dict(infos)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        return self._read(self._infos[name])

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.format}: {len(self)} tensors>"

    def info(self, name: str) -> TensorInfo:
        """The dtype, shape and place of a tensor, without reading it."""
        return self._infos[name]
