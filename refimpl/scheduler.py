"""A Dask scheduler and its workers, for what runs on a cluster: `refimpl summarize --dask`, `python -m validation.exhaustion --scheduler`."""

from __future__ import annotations

import importlib
from typing import Any

from refimpl.errors import ConfigError

__all__ = ["connected"]

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
