"""What a file may cost before and while it is read. Every budget grows with the bytes that exist, so no real checkpoint is near one.

* Opening allocates at most 4 bytes for each byte of the file, plus 32 MB. Readers keep to it by counting what they are about to build, in
  bytes of Python objects, against `heap(size)`; `objects` is what does not grow with the file.
* All tensors of a file together may declare at most `expansion` times the file's bytes, plus `spare`: compressed zeros, broadcast views and
  fill values are what needs more than 1. A file that asks for more is refused; `weights_io.open(path, limits=Limits(expansion=...))` allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from weights_io.errors import FormatError

__all__ = ["DEFAULT", "OWN", "RULES", "Limits"]

RULES = {
    "budget.expansion": "All tensors together declare at most 128 times the bytes of the file, plus 64 MiB, unless limits= says otherwise.",
    "budget.heap": "What a file makes a reader build before any tensor is read is bounded by its size.",
}
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Budgets for reading one checkpoint; see the module."""

    expansion: int = 128
    spare: int = 64 * MIB
    objects: int = 24 * MIB

    def heap(self, size: int) -> int:
        """Bytes of Python objects that opening a file of `size` bytes may build: less than 4 size + 32 MB, for what is not counted."""
        return 3 * size + self.objects

    def check_expansion(self, declared: int, size: int, where: object, field: object = None) -> None:
        """Raise FormatError (budget.expansion) if `declared` bytes of tensors are too many for a file of `size` bytes."""
        allowed = self.expansion * size + self.spare
        if declared > allowed:
            raise FormatError(
                "the tensors are far larger than the file",
                rule="budget.expansion",
                where=where,
                field=field,
                expected=f"at most {allowed} bytes declared for {size} bytes of file",
                got=f"{declared} bytes",
                remedy="if the file is trusted, open it with limits=weights_io.Limits(expansion=...)",
            )

    def check_heap(self, cost: int, size: int, where: object, field: object = None) -> None:
        """Raise FormatError (budget.heap) if building `cost` bytes of objects is too much for a file of `size` bytes."""
        if cost > self.heap(size):
            raise FormatError(
                "the file describes more than its size allows",
                rule="budget.heap",
                where=where,
                field=field,
                expected=f"at most {self.heap(size)} bytes of names, shapes and other objects",
                got=f"{cost} or more",
                remedy="if the file is trusted, open it with limits=weights_io.Limits(objects=...)",
            )


DEFAULT = Limits()
OWN = Limits(expansion=2**40, objects=2**50)  # for reading back what was just written
