"""Communicators: how the ranks of `refimpl.parallel` exchange arrays, as threads of one process, over MPI, and between GPUs.

    all_reduce(x) = ((x₀ + x₁) + x₂) + ..        all_gather(x) = [x₀, x₁, ..]

Every communicator here adds in the order of the ranks, element by element, so that the answer does not depend on the transport, the number of
elements, or chance: it has the same bits on every rank and in every run. A library's own all-reduce promises less (its order depends on the
algorithm that it picks), so only *gather* and *swap* are asked of a transport, and the additions are made here, in one of two ways which give the
same bits:

* gathered: every rank receives all R arrays of n numbers and adds them up: (R-1) n received, one exchange;
* in parts: rank r receives the r-th part of all arrays, adds those up, and all receive the sums: 2 (R-1)/R n received, two exchanges. That is what a
  ring takes, the least possible.

The first is taken for two ranks, where both receive n, and for few numbers, where an exchange costs more than what it moves.

`Threads` serves every number system (balls too). `MPI` moves the bytes of NumPy arrays of any dtype; of CuPy arrays, where MPI is CUDA-aware, or
through the host. `NCCL` moves those of CuPy arrays between GPUs through `cupyx.distributed`. *What needs GPUs has not been run on any yet*: it has
been run against a stand-in with the interface of `cupyx.distributed.NCCLBackend`.

References: MPI Forum, "MPI: a message-passing interface standard", version 4.1, chapter 6; R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of
collective communication operations in MPICH" (2005), section 4 (reduce-scatter and all-gather).
"""

from __future__ import annotations

import contextvars
import math
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from refimpl.errors import DtypeError, RefimplError
from refimpl.number_system import Array, device_of, is_ball, namespace
from refimpl.parallel import summed

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.parallel import Communicator

__all__ = ["MPI", "NCCL", "Exchange", "RankLostError", "Threads", "is_gathered", "run_ranks"]

Answer = TypeVar("Answer")
FEW = 4096  # numbers up to which an all-reduce is gathered, whatever the number of ranks


class RankLostError(RefimplError, RuntimeError):
    """Another rank has ended, so that what was to be exchanged with it never comes."""


def is_gathered(count: int, ranks: int) -> bool:
    """Whether a sum of so many numbers is gathered, in one exchange, rather than made in parts, in two."""
    return ranks <= 2 or count <= FEW


class Exchange:
    """What a transport's `gather` and `swap` make: all-reduce and all-gather. `rank` and `size` are set by the transport."""

    rank: int
    size: int

    def gather(self, array: Array) -> list[Array]:  # (...) -> size times (...)
        """Every rank's array, in the order of the ranks; all have one shape and dtype."""
        raise NotImplementedError

    def swap(self, parts: list[Array]) -> list[Array]:  # size times (n,) -> size times (n,)
        """What every rank has for this one, in the order of the ranks: `parts[r]` goes to rank r."""
        raise NotImplementedError

    def all_reduce(self, array: Array) -> Array:  # (...) -> (...)
        """((x₀ + x₁) + x₂) + .., on every rank."""
        if self.size == 1:
            return array
        if is_gathered(math.prod(array.shape), self.size):
            return summed(self.gather(array))
        return self.reduced_in_parts(array)

    def reduced_in_parts(self, array: Array) -> Array:  # (...) -> (...)
        """The same bits as `summed(gather(array))`: each rank adds up one part, and all join the parts."""
        xp, count = namespace(array), math.prod(array.shape)
        each = -(-count // self.size)
        padding = xp.zeros((each * self.size - count,), dtype=array.dtype, device=device_of(array))
        flat = xp.concat([xp.reshape(array, (-1,)), padding])
        own = summed(self.swap([flat[r * each : (r + 1) * each] for r in range(self.size)]))
        return xp.reshape(xp.concat(self.gather(own))[:count], array.shape)

    def all_gather(self, array: Array, axis: int) -> Array:  # (..., n, ...) -> (..., size n, ...)
        """[x₀, x₁, ..] along `axis`."""
        return array if self.size == 1 else namespace(array).concat(self.gather(array), axis=axis)


# --- threads --------------------------------------------------------------------------------------------------------------------------


class Threads(Exchange):
    """One of `size` ranks that are threads of this process; made by `run_ranks`."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier = slots, barrier

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's value."""
        try:
            self._slots[self.rank] = value
            self._barrier.wait()
            found = list(self._slots)
            self._barrier.wait()  # nobody puts the next value before all have read
        except threading.BrokenBarrierError:
            what = "another rank has ended"
            raise RankLostError(what, where=f"rank {self.rank} of {self.size}", expected="an exchange") from None
        return found

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return self.exchange(value)[0]

    def gather(self, array: Array) -> list[Array]:
        """Every rank's array."""
        return self.exchange(array)

    def swap(self, parts: list[Array]) -> list[Array]:
        """Every rank's part for this one."""
        return [theirs[self.rank] for theirs in self.exchange(parts)]


def run_ranks(ranks: int, work: Callable[[Communicator], Answer]) -> list[Answer]:
    """What `work(communicator)` returns on each of `ranks` ranks, as threads; an error of one ends all, and is raised."""
    slots, barrier = [None] * ranks, threading.Barrier(ranks)
    answers: list[Any] = [None] * ranks
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            answers[rank] = work(Threads(rank, slots, barrier))
        except BaseException as error:
            errors.append(error)  # before the barrier lets others have errors that come of it
            barrier.abort()

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(one, rank), name=f"rank {rank}")
        for rank in range(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers


# --- bytes between processes ----------------------------------------------------------------------------------------------------------


def _bytes(array: Array) -> Array:  # (...) -> uint8 (n,)
    """The bytes of a contiguous NumPy or CuPy array, as they lie."""
    return array.reshape(-1).view("uint8")


class MPI(Exchange):
    """The ranks of an MPI communicator, `mpi4py.MPI.COMM_WORLD` for instance, which exchange NumPy or CuPy arrays as bytes.

    Parameters
    ----------
    communicator : of mpi4py
    staged : whether CuPy arrays go through the host; otherwise MPI must be CUDA-aware, and is given their addresses on the device once all work on
        them has ended
    """

    def __init__(self, communicator: Any, *, staged: bool = False) -> None:
        self.communicator, self.staged = communicator, staged
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's value."""
        found: list[Any] = self.communicator.allgather(value)
        return found

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return self.communicator.bcast(value, root=0)

    def gather(self, array: Array) -> list[Array]:
        """Every rank's array."""
        return list(self._moved("Allgather", array, (self.size, *array.shape)))

    def swap(self, parts: list[Array]) -> list[Array]:
        """Every rank's part for this one."""
        sent = namespace(*parts).stack(parts)
        return list(self._moved("Alltoall", sent, tuple(sent.shape)))

    def _moved(self, call: str, array: Array, shape: tuple[int, ...]) -> Array:
        """What `call` receives: an array of that shape beside `array`."""
        if is_ball(array) or not hasattr(array, "view"):
            expected = "a NumPy or CuPy array of floating-point numbers"
            remedy = "run the ranks as threads: refimpl.parallel_communicators.run_ranks"
            raise DtypeError("MPI moves bytes", where="MPI", expected=expected, got=array.dtype, remedy=remedy)
        host = _fetched(array) if self.staged else array
        sent = namespace(host).asarray(host, order="C")
        received = namespace(sent).empty(shape, dtype=sent.dtype)
        _finished(sent)
        getattr(self.communicator, call)(_bytes(sent), _bytes(received))
        return namespace(array).asarray(received) if self.staged else received


def _fetched(array: Array) -> Array:
    """A CuPy array on the host."""
    import cupy

    return cupy.asnumpy(array)


def _finished(array: Array) -> None:
    """Wait until the device has made the array: MPI reads it at once, whatever is still to come on the stream."""
    if hasattr(array, "__cuda_array_interface__"):
        import cupy

        cupy.cuda.get_current_stream().synchronize()


class NCCL(MPI):
    """GPUs, one a process: arrays move from device to device through NCCL, what is on the host through MPI.

    Parameters
    ----------
    backend : `cupyx.distributed.init_process_group(size, rank, use_mpi=True)`, or what has its `all_gather` and `all_to_all`
    communicator : of mpi4py, with the same ranks

    NCCL's calls are put on CuPy's current stream, behind the products that they need and before the sums that need them: nothing waits on the host.
    Its own all-reduce is not used, since it adds in an order of its own.
    """

    def __init__(self, backend: Any, communicator: Any) -> None:
        super().__init__(communicator)
        self.backend = backend

    def _moved(self, call: str, array: Array, shape: tuple[int, ...]) -> Array:
        xp = namespace(array)
        sent = xp.asarray(array, order="C")
        received = xp.empty(shape, dtype=sent.dtype)
        if call == "Allgather":
            self.backend.all_gather(sent, received, sent.size)
        else:
            self.backend.all_to_all(sent, received)
        return received
