"""A command on many ranks: joining the job that mpiexec started, and ending it whatever happens on any of them.

    mpiexec -n 2 refimpl generate --parallel "..."

Three things may go wrong, and none may leave a rank waiting for ever:

* what all ranks come to know together (`refimpl.parallel_model.together`): rank 0 prints it, all exit with 2;
* what rank 0 finds before or after a step (a prompt that is too long): it lets the others go, prints it and exits with 2;
* anything else, on any rank, between or within exchanges: that rank prints it and aborts the job (MPI_Abort), which ends all the others. mpiexec
  drops what a rank has printed and it has not passed on when the job is aborted, so the rank waits a second before it does.

A rank that is killed, or dies of a signal, cannot say anything: mpiexec notices, ends the others, says which signal it was, and exits with its
number.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from refimpl import backend as backends
from refimpl import parallel_communicators as communicators
from refimpl import parallel_model
from refimpl.errors import BackendError, ConfigError, RefimplError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from refimpl.parallel_model import ParallelModel

__all__ = ["TRANSPORTS", "opened", "world"]

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # where MPICH's and Open MPI's mpiexec say how many ranks they started
STARTED = (*SIZES, "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")  # what a started rank has one of
PATIENCE = 1.0  # seconds for mpiexec to pass on what was printed
TRANSPORTS = {
    "host": "through the hosts' memory; on GPUs, arrays are copied there and back",
    "cuda-aware": "MPI is given addresses on GPUs: it must have been built for that",
    "nccl": "from GPU to GPU, through cupyx.distributed",
}


def _mpi() -> Any:
    """mpi4py's MPI, initialized."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the second: there is no MPI library
        raise ConfigError(
            "mpi4py cannot be used",
            where="--parallel",
            expected="mpi4py, and the MPI whose mpiexec started this process",
            got=f"{type(error).__name__}: {error}",
            remedy='pip install "refimpl[mpi]", which brings both',
        ) from None
    return MPI


def world() -> Any:
    """The communicator of mpi4py that joins all ranks that mpiexec started, this process among them.

    Raises ConfigError where no mpiexec started it, where mpi4py is missing, and where mpiexec is another MPI's, so that every rank is alone.
    """
    if not any(name in os.environ for name in STARTED):
        raise ConfigError(
            "--parallel needs mpiexec, which starts the ranks",
            where="--parallel",
            expected="mpiexec -n 2 refimpl ... --parallel",
            got="a process that no mpiexec started",
            remedy='start it so; pip install "refimpl[mpi]" brings an mpiexec',
        )
    joined = _mpi().COMM_WORLD
    told = next((os.environ[name] for name in SIZES if name in os.environ), None)
    if told is not None and told != str(joined.Get_size()):
        raise ConfigError(
            "mpiexec and mpi4py are those of different MPIs",
            where="--parallel",
            expected=f"{told} ranks, as mpiexec started",
            got=f"{joined.Get_size()}",
            remedy="start it with the mpiexec of the MPI that mpi4py uses: the one beside this python, where it was installed with it",
        )
    return joined


def _check(arithmetic: Any, transport: str, low_memory: bool) -> None:
    if arithmetic is not None:
        got, remedy = str(arithmetic), "leave out --arithmetic, or --parallel"
        raise ConfigError("on many ranks there is no other arithmetic", where="--parallel", got=got, remedy=remedy)
    if low_memory:
        remedy = "start more ranks: each keeps its part of the weights; or --dtype float16"
        raise ConfigError("low memory is for one process", where="--parallel", got="--low-memory", remedy=remedy)
    if transport not in TRANSPORTS:
        expected = ", ".join(TRANSPORTS)
        raise ConfigError("unknown transport", where="--transport", expected=expected, got=repr(transport))


def _without_device(name: str, transport: str) -> backends.Backend:
    """The backend, before it has a device."""
    chosen = backends.get(name)
    if chosen.name != "cupy" and transport != "host":
        expected, remedy = "--transport host", "--backend cupy"
        raise ConfigError("this transport is between GPUs", where="--transport", expected=expected, remedy=remedy)
    return chosen


def _own_device(chosen: backends.Backend, local: int) -> backends.Backend:
    """The backend with the GPU of this rank, which is number `local` on its machine."""
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if local >= count:
        got, remedy = f"{count} GPUs, and a rank {local} on this machine", "start fewer ranks on this machine"
        raise BackendError("there are more ranks than GPUs", where="--parallel", got=got, remedy=remedy)
    device = cupy.cuda.Device(local)
    device.use()
    return dataclasses.replace(chosen, device=device)


def _on_device(name: str, joined: Any, transport: str) -> tuple[backends.Backend, Any]:
    """The backend with this rank's device, and the communicator of that transport. What concerns GPUs has not been run on any.

    What all ranks must do together is done between what one of them may refuse, never beside it: one that has refused would not come.
    """
    control = communicators.MPI(joined)
    chosen = parallel_model.together(control, lambda: _without_device(name, transport))
    if chosen.name != "cupy":
        return chosen, control
    local = joined.Split_type(_mpi().COMM_TYPE_SHARED).Get_rank()
    chosen = parallel_model.together(control, lambda: _own_device(chosen, local))
    if transport != "nccl":
        return chosen, communicators.MPI(joined, staged=transport == "host")
    from cupyx import distributed

    group = distributed.init_process_group(joined.Get_size(), joined.Get_rank(), backend="nccl", use_mpi=True)
    return chosen, communicators.NCCL(group, joined)


def _abort(joined: Any, error: BaseException) -> None:
    """Say what has happened on this rank, as far as anybody reads it, and end all of them."""
    try:
        with suppress(OSError, ValueError):  # nobody reads it any more, or it was closed
            sys.stdout.flush()
        shown = str(error) if isinstance(error, RefimplError) else "".join(traceback.format_exception(error)).rstrip()
        rank = f"rank {joined.Get_rank()} of {joined.Get_size()}"
        with suppress(OSError, ValueError):
            sys.stderr.write(f"error on {rank}, which ends the job: {shown}\n")
            sys.stderr.flush()
            time.sleep(PATIENCE)
    finally:
        joined.Abort(1)


def _loaded(
    path: str, joined: Any, backend: str, dtype: str, arithmetic: Any, transport: str, low_memory: bool
) -> ParallelModel:
    """The model on this rank; what any rank cannot do is raised on all."""
    control = communicators.MPI(joined)

    def name() -> str | None:
        _check(arithmetic, transport, low_memory)
        return backends.get(backend).name if control.rank == 0 else None  # "auto" says once what it chose

    chosen = control.broadcast(parallel_model.together(control, name))
    device, communicator = _on_device(chosen, joined, transport)
    return parallel_model.load(path, communicator, backend=device, dtype=dtype)


@contextmanager
def opened(
    path: str,
    *,
    backend: str = "auto",
    dtype: str = "float32",
    arithmetic: Any = None,
    transport: str = "host",
    low_memory: bool = False,
) -> Iterator[ParallelModel]:
    """The model on rank 0, for as long as the block lasts. On the other ranks the block is never entered: they follow, and the process ends.

    Parameters
    ----------
    path, backend, dtype : as `refimpl.load`
    arithmetic, low_memory : None and false; anything else is refused
    transport : of `TRANSPORTS`
    """
    joined = world()
    rank = joined.Get_rank()
    try:
        model = _loaded(path, joined, backend, dtype, arithmetic, transport, low_memory)
        if rank:
            model.follow()
    except parallel_model.RankError:
        if rank:
            raise SystemExit(2) from None
        raise
    except BaseException as error:
        _abort(joined, error)
        raise
    if rank:
        raise SystemExit(0)
    try:
        with model:
            yield model
    except BaseException as error:
        if not model.leader.stopped:
            _abort(joined, error)
        raise
    if not model.leader.stopped:  # an error on the way was passed over: the other ranks wait for the rest of that step
        _abort(joined, communicators.RankLostError("a step failed half-way, and the model was used no more"))
