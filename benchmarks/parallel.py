"""Tokens per second of a GPT-2 of random weights on one rank and on two, side by side on one machine.

    python benchmarks/parallel.py [--width 1024] [--layers 12] [--heads 16] [--vocabulary 30000] [--tokens 16] [--rounds 5] [--dtype float32]
    [--json]

Three jobs, in turn, `--rounds` times, so that a slow moment of the machine falls on all of them: one rank with one thread of OpenBLAS, one rank
with two, two ranks with one thread each. A job reads a prompt of 16 tokens and then decodes `--tokens` tokens of one sequence with
`refimpl.parallel` (the definition: on one rank it exchanges nothing), greedily, and gives the median of its steps. Reported are medians over the
rounds, beside the least time that reading the weights and the cache takes: the ranks measure with which bandwidth all of them together, at the same
time, sum 256 MB each (`numpy.sum` of float32, which does little but read, with one thread a rank).

Needs the extra "mpi". No other program should run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
JOBS = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}
PROMPT = 16


def configuration(given: argparse.Namespace) -> Any:
    from refimpl import gpt2

    return gpt2.GPT2Config(given.vocabulary, PROMPT + given.tokens, given.width, given.layers, given.heads)


def share(config: Any, rank: int, ranks: int, dtype: str) -> Any:
    """A rank's part of random weights, the same model for every number of ranks; one whole matrix at a time."""
    from refimpl import gpt2, parallel

    named = {}
    for number, (name, shape) in enumerate(gpt2.GPT2Weights.shapes(config).items()):
        made = np.random.default_rng(number).standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        made += np.float32(name.endswith("scale"))
        named[name] = np.ascontiguousarray(parallel.cut(name, made, rank, ranks)).astype(dtype)
    return gpt2.GPT2Weights.placed(named, config)


def bandwidth(ranks: Any) -> float:
    """Bytes a second that all ranks together read, at the same time."""
    array, seconds = np.ones(1 << 26, np.float32), []
    for _ in range(5):
        ranks.exchange(None)
        began = time.perf_counter()
        array.sum()
        seconds.append(max(ranks.exchange(time.perf_counter() - began)))
    return ranks.size * array.nbytes / min(seconds)


def work(given: argparse.Namespace) -> None:
    """One rank of one job; rank 0 prints."""
    from refimpl import parallel, parallel_job
    from refimpl.parallel_communicators import MPI

    ranks, config = MPI(parallel_job.world()), configuration(given)
    weights = share(config, ranks.rank, ranks.size, given.dtype)
    options: dict[str, Any] = {"last": True}
    logits, cache = parallel.forward(weights, config, ranks, [list(range(PROMPT))], **options)
    steps, chosen = [], []
    for _ in range(given.tokens):
        chosen.append(int(np.argmax(logits[0, 0])))
        ranks.exchange(None)
        began = time.perf_counter()
        logits, cache = parallel.forward(weights, config, ranks, [[chosen[-1]]], cache=cache, **options)
        steps.append(time.perf_counter() - began)
    bytes_a_second = bandwidth(ranks)
    if ranks.rank == 0:
        print(json.dumps({"seconds": statistics.median(steps), "chosen": chosen, "bandwidth": bytes_a_second}))


def run(name: str, given: argparse.Namespace) -> Any:
    ranks, threads = JOBS[name]
    beside = Path(sys.executable).with_name("mpiexec")
    command = [
        str(beside) if beside.exists() else "mpiexec",
        "-n",
        str(ranks),
        sys.executable,
        str(Path(__file__).resolve()),
    ]
    command += ["--work", *(f"--{name}={getattr(given, name)}" for name in vars(given) if name not in ("work", "json"))]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "width": 1024,
        "layers": 12,
        "heads": 16,
        "vocabulary": 30000,
        "tokens": 16,
        "rounds": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given)
        return
    from refimpl.parallel_plan import plan

    rounds = [{name: run(name, given) for name in JOBS} for _ in range(given.rounds)]
    rows = {}
    for name, (ranks, _) in JOBS.items():
        need = plan(configuration(given), ranks, itemsize=np.dtype(given.dtype).itemsize, length=PROMPT + given.tokens)
        speed = statistics.median(each[name]["bandwidth"] for each in rounds)
        seconds = statistics.median(each[name]["seconds"] for each in rounds)
        least = ranks * need.read / speed
        rows[name] = {"tokens/s": 1 / seconds, "ms": 1e3 * seconds, "read GB/s": speed / 1e9, "reading ms": 1e3 * least}
    texts = {tuple(each[name]["chosen"]) for each in rounds for name in JOBS}
    found = {
        "parameters": plan(configuration(given), 1).parameters,
        "jobs": rows,
        "the same tokens in every job": len(texts) == 1,
    }
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['parameters']:,} parameters, {given.dtype}; the same tokens in every job: {len(texts) == 1}")
    for name, row in rows.items():
        print(f"{name:<24} " + "   ".join(f"{what} {value:.1f}" for what, value in row.items()))


if __name__ == "__main__":
    main()
