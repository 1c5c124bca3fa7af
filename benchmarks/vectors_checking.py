"""How long it takes to check an implementation: this project's own engine on the golden vectors.

    python benchmarks/vectors_checking.py [--dtype float32] [--repeat 3] [--json]

`end to end` is a process that starts, checks one component in one dtype, and ends: what a developer waits for. The median of the repeats is told;
each round goes through all components, so that a slow moment of the machine falls on all of them. `all` is one process that checks every component in
all dtypes. Processor seconds are told beside those of the clock, in which whatever else the machine does counts too. Set OPENBLAS_NUM_THREADS=1.
Beyond the limits, 2 s and 60 s by the clock, it exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

ONE, ALL = 2.0, 60.0  # seconds
DTYPES = ("float16", "bfloat16", "float32", "float64")


def own_engine(name: str, dtype: str) -> Any:
    """The engine's function of a component, on NumPy arrays of `dtype`; whole models with weights of it."""
    import numpy as np

    from refimpl import gpt2
    from validation import components, tolerance

    if name in getattr(components, "ENCODERS", ()):
        encoder, named = components.recorded_bert(name)
        weights = {key: a.astype(tolerance.DTYPES[dtype]) for key, a in named.items()}
        return lambda token_ids, segment_ids, mask, application: (
            components.encoder_logits(encoder, weights, token_ids, segment_ids, mask, application)
            * mask[..., None].astype(tolerance.DTYPES[dtype])
        )
    if name != "gpt2":
        return components.component(name).definition
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    model = gpt2.GPT2Weights.from_named(
        {key: np.asarray(a).astype(tolerance.DTYPES[dtype]) for key, a in arrays.items()}, config
    )
    return lambda token_ids, mask: (
        gpt2.logits(model, config, token_ids, mask=mask) * mask[..., None].astype(tolerance.DTYPES[dtype])
    )


def checked(name: str, dtype: str) -> Any:
    import validation

    return validation.check(own_engine(name, dtype), name, dtype=dtype)


def in_a_process(*given: str) -> tuple[float, float]:
    """Seconds of this script in a new process, by the clock and of processors; it must find that all conform."""
    began, used = time.perf_counter(), processors()
    done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(given)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, processors() - used


def processors() -> float:
    """Processor seconds of all processes that this one has started and seen end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one(name: str, dtype: str) -> int:
    report = checked(name, dtype)
    print(report)
    return 0 if report.passed else 1


def everything() -> int:
    from validation import vectors

    failed = [f"{name} in {dtype}" for name in vectors.names() for dtype in DTYPES if not checked(name, dtype).passed]
    print("; ".join(failed))
    return 1 if failed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--one", metavar="COMPONENT", help="check one component in this process, and say nothing of time"
    )
    parser.add_argument("--all", action="store_true", help="check all in this process, and say nothing of time")
    given = parser.parse_args()
    if given.one or given.all:
        raise SystemExit(one(given.one, given.dtype) if given.one else everything())
    from validation import vectors

    rounds = [
        {name: in_a_process("--one", name, "--dtype", given.dtype) for name in vectors.names()}
        for _ in range(given.repeat)
    ]
    medians = {name: median([each[name] for each in rounds]) for name in rounds[0]}
    whole = median([in_a_process("--all") for _ in range(given.repeat)])
    slowest = max(medians.values())
    result = {"dtype": given.dtype, "clock and processor seconds": medians, "all": whole, "limits": [ONE, ALL]}
    if given.json:
        print(json.dumps(result | {"cpus": os.cpu_count()}, indent=1))
    else:
        for name, (clock, used) in sorted(medians.items(), key=lambda item: -item[1][0]):
            print(f"{name:<32}{clock:6.2f} s end to end, {used:.2f} s of a processor")
        print(f"slowest {slowest[0]:.2f} s, {slowest[1]:.2f} s of a processor (limit {ONE:.0f} s)")
        print(f"all components in all dtypes {whole[0]:.1f} s, {whole[1]:.1f} s of a processor (limit {ALL:.0f} s)")
    raise SystemExit(0 if slowest[0] < ONE and whole[0] < ALL else 1)


def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Of each of the two."""
    return statistics.median(clock for clock, _ in pairs), statistics.median(used for _, used in pairs)


if __name__ == "__main__":
    main()
