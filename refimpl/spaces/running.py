"""Many documents: here, in processes, or on the workers of a Dask scheduler; results in the order of the documents, failures among them.

A document that fails is a result with an error: the text cannot be read or summarized, something unforeseen was raised, or the process ended while
it had it. The others go on. What makes every document fail (a model that does not load) is raised instead.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.connection
import platform
import signal
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from refimpl.errors import BackendError, ConfigError, RefimplError, explain
from refimpl.inference.threads import blas_threads, products_on
from refimpl.scheduler import connected, end_with_the_parent
from refimpl.spaces.documents import Document
from refimpl.spaces.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Factory", "Here", "OnDask", "Processes", "Result", "Summarize", "Workers", "run"]

Summarize = Callable[[str], Summary]
Factory = Callable[[], Summarize]  # makes it, once in each process; what can be pickled, and on Dask hashed
AHEAD = 4  # documents that are read and not yet answered, for each that is under way


class Result(NamedTuple):
    """What became of one document."""

    document: Document
    summary: Summary | None
    error: str | None = None
    known: bool = False  # from an earlier run


class Workers(Protocol):
    """What summarizes documents; at most `window` of them are submitted and not finished."""

    window: int

    def submit(self, document: Document) -> None:
        """Take a document."""

    def finished(self) -> list[Result]:
        """Results that are there, at least one, in any order; waits for it."""

    def close(self) -> None:
        """End what was started; what is not finished is given up."""


def run(
    documents: Iterable[Document], workers: Workers, known: Callable[[Document], Result | None] = lambda document: None
) -> Iterator[Result]:
    """The result of every document, in their order.

    Parameters
    ----------
    documents : read as far ahead as the workers have room, and no further
    workers : closed by the caller
    known : the result that a document has already, or None
    """
    order, found = deque[int](), dict[int, Result]()
    for document in documents:
        order.append(document.index)
        ready = Result(document, None, document.error) if document.text is None else None
        ready = known(document) or ready
        if ready is None:
            workers.submit(document)
        else:
            found[document.index] = ready
        yield from _first(order, found)
        while len(order) >= workers.window:
            found |= {result.document.index: result for result in workers.finished()}
            yield from _first(order, found)
    while order:
        found |= {result.document.index: result for result in workers.finished()}
        yield from _first(order, found)


def _first(order: deque[int], found: dict[int, Result]) -> Iterator[Result]:
    """The results that no earlier document is waited for."""
    while order and order[0] in found:
        yield found.pop(order.popleft())


def _answered(summarize: Summarize, document: Document) -> Result:
    """The summary of a document, or what was raised; the keyboard's interruption goes through."""
    try:
        return Result(document, summarize(document.text or ""))
    except RefimplError as error:
        return Result(document, None, str(error))
    except Exception as error:  # a document must not take the others with it
        got = f"{type(error).__name__}: {error}"
        return Result(document, None, explain("the document could not be summarized", where=document.name, got=got))


class Here:
    """One document after the other, in this process."""

    window = 1

    def __init__(self, summarize: Summarize) -> None:
        self._summarize, self._waiting = summarize, deque[Document]()

    def submit(self, document: Document) -> None:
        """Take a document."""
        self._waiting.append(document)

    def finished(self) -> list[Result]:
        """The result of the first document."""
        return [_answered(self._summarize, self._waiting.popleft())]

    def close(self) -> None:
        """Nothing was started."""


# --- processes ------------------------------------------------------------------------------------------------------------------------


def _serve(connection: Any, factory: Factory, threads: int) -> None:
    """What a process does: None once it can begin, or the error; then a result for each document."""
    end_with_the_parent()
    before = blas_threads()
    with products_on(None if before is None else min(before, threads)):
        try:
            summarize = factory()
        except RefimplError as error:
            connection.send(error)
            return
        connection.send(None)
        with contextlib.suppress(EOFError):  # the parent closed its end
            while True:
                connection.send(_answered(summarize, connection.recv()))


class _Process:
    """One process, what is written to it, and what it is at."""

    def __init__(self, factory: Factory, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, factory, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the file
        self.ready = False
        self.document: Document | None = None

    def give(self, document: Document) -> None:
        """Send a document."""
        self.document = document
        with contextlib.suppress(OSError):  # it has ended, as `take` will find
            self.connection.send(document)

    def take(self) -> Result | None:
        """What it sent; None for its being ready, and for its end before it had a document. Raises what it could not begin for."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return self._ended()
        if not self.ready:
            if answer is not None:
                raise answer
            self.ready = True
            return None
        self.document = None
        found: Result = answer
        return found

    def _ended(self) -> Result | None:
        self.process.join()
        code, document = self.process.exitcode, self.document
        how = f"exit status {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        if not self.ready:
            remedy = "give fewer --workers if memory ran out"
            raise BackendError("a process ended before it could begin", where="--workers", got=how, remedy=remedy)
        self.ready, self.document = False, None
        if document is None:
            return None
        remedy = "give fewer --workers if memory ran out"
        what = "the process that had the document ended"
        return Result(document, None, explain(what, where=document.name, got=how, remedy=remedy))

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class Processes:
    """So many processes, each with a summarizer of its own and its part of the cores; one that ends is replaced.

    Parameters
    ----------
    factory : what makes a summarizer in a process
    count : how many processes
    cores : how many cores they share: products of each run on cores/count threads, at least one

    Raises
    ------
    BackendError
        by `finished`, if a process ends before it could begin; and what the factory raised, for instance ConfigError.
    """

    def __init__(self, factory: Factory, count: int, cores: int) -> None:
        self.window = AHEAD * count
        self._make = functools.partial(_Process, factory, max(1, cores // count))
        self._waiting = deque[Document]()
        self._processes = [self._make() for _ in range(count)]

    def submit(self, document: Document) -> None:
        """Take a document; it waits for a process that is free."""
        self._waiting.append(document)
        self._give()

    def _give(self) -> None:
        for each in self._processes:
            if self._waiting and each.ready and each.document is None:
                each.give(self._waiting.popleft())

    def finished(self) -> list[Result]:
        """Results that are there; waits for one."""
        found = list[Result]()
        while not found:
            connections = {each.connection: number for number, each in enumerate(self._processes)}
            for connection in multiprocessing.connection.wait(list(connections)):
                found += self._taken(connections[connection])  # type: ignore[index]
            self._give()
        return found

    def _taken(self, number: int) -> list[Result]:
        each = self._processes[number]
        began = each.ready
        result = each.take()
        if began and not each.ready:
            each.close()
            self._processes[number] = self._make()
        return [] if result is None else [result]

    def close(self) -> None:
        """End all processes."""
        for each in self._processes:
            each.close()


# --- Dask -----------------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _made(factory: Factory) -> Summarize:
    """The summarizer of a worker, made once in its process."""
    return factory()


def _on_worker(factory: Factory, document: Document) -> Result:
    return _answered(_made(factory), document)


def _checked(factory: Factory) -> str:
    """What is wrong on a worker: nothing, or the error."""
    try:
        _made(factory)
    except RefimplError as error:
        return f"{platform.node()}: {error}"
    return ""


class OnDask:
    """The workers of a Dask scheduler. Each loads the model from its own file system; all are tried before the first document.

    A document whose worker ends is given to another one, up to the scheduler's `allowed-failures`; then it has failed.

    Parameters
    ----------
    factory : what makes a summarizer on a worker; hashable
    address : of the scheduler, tcp://host:port

    Raises
    ------
    ConfigError
        where there is no Dask, nobody at the address, no worker, or a worker that cannot begin.
    BackendError
        by `finished`, if the scheduler is lost.
    """

    def __init__(self, factory: Factory, address: str) -> None:
        self._factory, self._address = factory, address
        self._client, threads = connected(address, "--dask")
        self._futures: dict[Any, Document] = {}
        self.window = AHEAD * threads
        try:
            self._check()
        except BaseException:
            self._client.close()
            raise

    def _check(self) -> None:
        """Refuse a worker that cannot begin."""
        try:
            wrong = [told for told in self._client.run(_checked, self._factory).values() if told]
        except Exception as error:  # whatever stands between this version and the worker's
            got, remedy = f"{type(error).__name__}: {error}", "install the same version of refimpl on every worker"
            raise ConfigError("a worker cannot begin", where=self._address, got=got, remedy=remedy) from None
        if wrong:
            remedy = "put the same model at the same place on every worker"
            raise ConfigError("a worker cannot begin", where=self._address, got=wrong[0], remedy=remedy)

    def submit(self, document: Document) -> None:
        """Take a document."""
        self._futures[self._client.submit(_on_worker, self._factory, document, pure=False)] = document

    def finished(self) -> list[Result]:
        """Results that are there; waits for one."""
        wait: Any = importlib.import_module("distributed").wait
        try:
            done = wait(list(self._futures), return_when="FIRST_COMPLETED").done
        except Exception as error:  # of whatever kind, it is not of a document
            got = f"{type(error).__name__}: {error}"
            raise BackendError("the scheduler is lost", where=self._address, got=got) from None
        return [self._result(future, self._futures.pop(future)) for future in done]

    def _result(self, future: Any, document: Document) -> Result:
        if future.status == "cancelled" or future.status == "lost":
            raise BackendError("the scheduler is lost", where=self._address)
        if future.status == "finished":
            found: Result = future.result()
            return found
        error = future.exception()
        got = f"{type(error).__name__}: {error}"
        return Result(document, None, explain("the worker that had the document ended", where=document.name, got=got))

    def close(self) -> None:
        """Give up what is under way, and leave the scheduler."""
        with contextlib.suppress(Exception):  # it may be gone
            self._client.cancel(list(self._futures), force=True)
        self._client.close()
