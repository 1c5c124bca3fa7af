"""What the ranks of tests/test_parallel_mpi.py do, started by mpiexec: python ranks.py TASK. Rank 0 prints; what is wrong ends with an error."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from refimpl import parallel, parallel_job, parallel_model
from refimpl.parallel_communicators import FEW, MPI

CPM = Path(__file__).parent.parent / "validation" / "recorded" / "cpm_megatron"


def say(*values: object) -> None:
    sys.stdout.write(" ".join(map(str, values)) + "\n")


def sums(ranks: MPI) -> None:
    """Sums, gathered and in parts, of numbers that every order adds up differently: the bits of the order of the ranks, on every rank."""
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        for shape in ((1,), (3, 7), (2, 3, FEW)):
            made = [
                np.random.default_rng(r).normal(size=shape) * 10.0 ** np.arange(-4, 4)[r] for r in range(ranks.size)
            ]
            parts = [part.astype(dtype) for part in made]
            expected = parallel.summed(parts)
            found = [ranks.all_reduce(parts[ranks.rank]), ranks.reduced_in_parts(parts[ranks.rank])]
            for each in (*found, *ranks.exchange(found[0])):
                assert (each.dtype, each.shape, each.tobytes()) == (expected.dtype, shape, expected.tobytes())
            joined = ranks.all_gather(parts[ranks.rank].T, 0)  # not contiguous
            assert joined.tobytes() == np.concatenate([part.T for part in parts], axis=0).tobytes()
    assert ranks.exchange(ranks.rank) == list(range(ranks.size))
    assert ranks.broadcast([ranks.rank + 7]) == [7]


def cpm(ranks: MPI, answers: dict[str, Any]) -> float:
    """How far the logits of CPM's shards are from those of its own code, relative to the largest; and a text of tokens."""
    farthest = 0.0
    for name in ("mp2", "mp4", "mp1"):
        model = parallel_model.load(CPM / name, ranks, dtype="float64", heads=4)
        if ranks.rank:
            model.follow()
            continue
        with model:
            logits = model.logits(answers["ids"])
            for known in ("logits_mp1", "logits_mp2"):
                farthest = max(
                    farthest, float(np.max(np.abs(logits - answers[known])) / np.max(np.abs(answers[known])))
                )
            (continued,) = model.generate_ids([[1, 2, 3]], max_new_tokens=8, temperature=0)
            say(name, *continued)
    return farthest


def die(how: str) -> None:
    """Open the embedded model, and have a rank go wrong at its second step, when others wait for it."""
    rank, forward, calls = parallel_job.world().Get_rank(), parallel.forward, []

    def failing(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and rank == (0 if how == "lead" else 1):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("planted")
        return forward(*given, **options)

    parallel.forward = failing
    with parallel_job.opened("tang", backend="numpy") as model:
        say(model.generate("春眠不觉晓，", max_new_tokens=9))


def main() -> None:
    task = sys.argv[1]
    if task != "check":
        die(task)
        return
    import weights_io

    ranks = MPI(parallel_job.world())
    sums(ranks)
    farthest = cpm(ranks, dict(weights_io.open(CPM / "answers.safetensors")))
    if ranks.rank == 0:
        say(farthest)


if __name__ == "__main__":
    main()
