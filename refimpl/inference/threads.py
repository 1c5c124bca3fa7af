"""How many threads NumPy's products run on: found, set for a while, and put back.

NumPy's wheels carry OpenBLAS, which has its number of threads for the whole process. With another library of products, whose number this module
cannot read, `blas_threads` says None and nothing is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["blas_threads", "products_on", "usual_threads"]

NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads",
)

_running = threading.RLock()  # held while a block has its number
_changing = threading.Lock()  # held while the number is set
_put_back: list[int] = []  # what it was, outermost block first


@functools.cache
def _functions() -> tuple[Any, Any] | None:
    """What reads and what sets the number of threads of the OpenBLAS that NumPy is linked to; None for another library."""
    import numpy as np  # noqa: F401 - the module below is loaded by it

    module = sys.modules.get("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(getattr(module, "__file__", None) or "")
    except OSError:
        return None
    for name in NAMES:
        found = [getattr(library, name.format(verb), None) for verb in ("get", "set")]
        if all(found):
            return found[0], found[1]
    return None


def blas_threads() -> int | None:
    """The number of threads of NumPy's products; None where it cannot be known."""
    functions = _functions()
    return None if functions is None else int(functions[0]())


def usual_threads() -> int | None:
    """The number that products have where no block of `products_on` runs, in this thread or another; None where it cannot be known."""
    with _changing:
        return _put_back[0] if _put_back else blas_threads()


@contextlib.contextmanager
def products_on(threads: int | None) -> Iterator[None]:
    """While the block runs, NumPy's products have so many threads, in the whole process; None changes nothing.

    Blocks of several threads run one after the other: none changes the number under another, or puts back what another had set.

    Raises
    ------
    ConfigError
        where the number cannot be set.
    """
    functions = _functions()
    if threads is None:
        yield
        return
    if functions is None:
        remedy = "leave threads out, and set the number as that library wants it"
        raise ConfigError("NumPy's products are not OpenBLAS's", where="threads", got=threads, remedy=remedy)
    with _running:
        with _changing:
            _put_back.append(int(functions[0]()))
            if threads != _put_back[-1]:
                functions[1](threads)
        try:
            yield
        finally:
            with _changing:
                before = _put_back.pop()
                if threads != before:
                    functions[1](before)
