"""Worker processes, and a Dask scheduler with its workers: for `refimpl summarize --workers | --dask` and `python -m validation.exhaustion`."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from typing import Any

from refimpl.errors import ConfigError

__all__ = ["connected", "end_with_the_parent"]

PATIENCE = "5s"  # for a scheduler to answer


def connected(address: str, option: str) -> tuple[Any, int]:
    """A client of the scheduler at an address (tcp://host:port), and how many threads its workers have together.

    Raises ConfigError where dask.distributed is not installed (`option` is what asked for it), nobody answers, or there are no workers.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigError(
            "running on a scheduler's workers needs a package that is not installed",
            where=option,
            expected="dask.distributed",
            got=f"{type(error).__name__}: {error}",
            remedy='pip install "refimpl[dask]", here and on every worker',
        ) from None
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("no scheduler answers", where=address, expected="tcp://host:port", got=got) from None
    threads = sum(client.nthreads().values())
    if not threads:
        client.close()
        raise ConfigError("the scheduler has no workers", where=address, remedy=f"dask worker {address}")
    return client, threads


def end_with_the_parent() -> None:
    """Of a worker process: ignore the keyboard, which the parent answers, and end when the parent is gone, however that came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
