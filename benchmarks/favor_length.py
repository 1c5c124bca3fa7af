"""How time and memory of FAVOR+ grow with the length, beside exact attention where that still fits.

    python benchmarks/favor_length.py [--features 256] [--width 64] [--repeat 5] [--backward] [--json]

One head, float32, causal, dialect "paper"; with --backward, the rule and its pullback: output and the cotangents of queries, keys, values and
projection. The exponent is the slope of log(time) over log(length), by least squares on the medians; each
round goes through all lengths in turn, so that a slow moment of the machine falls on all of them. The peak is what is allocated beside inputs
and output, by tracemalloc, in a run of its own. Set OPENBLAS_NUM_THREADS=1 on a machine that is not idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from typing import Any

import numpy as np

from refimpl import attention, favor

LENGTHS = (4096, 8192, 16384, 32768, 65536)
EXACT = 4096  # the longest for which the n x n scores are formed


def inputs(length: int, features: int, width: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(length)
    q, k, v = (rng.standard_normal((1, 1, length, width)).astype(np.float32) for _ in range(3))
    return q, k, v, favor.orthogonal_gaussian(np.random.default_rng(0), features, width).astype(np.float32)


def linear(q: Any, k: Any, v: Any, projection: Any) -> Any:
    return favor.favor_attention(q, k, v, projection, causal=True)


def backward(q: Any, k: Any, v: Any, projection: Any) -> tuple[Any, ...]:
    output, pullback = favor.favor_attention_vjp(q, k, v, projection, causal=True)
    return output, *pullback(v)


def exact(q: Any, k: Any, v: Any, projection: Any) -> Any:
    mask = attention.causal_mask(q.shape[-2], k.shape[-2], xp=np)
    return attention.scaled_dot_product_attention(q, k, v, mask=mask)[0]


def timed(function: Any, arrays: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    function(*arrays)
    return time.perf_counter() - began


def peak(function: Any, arrays: tuple[Any, ...]) -> int:
    """Bytes allocated beside inputs and output."""
    tracemalloc.start()
    output = function(*arrays)
    outputs = output if isinstance(output, tuple) else (output,)
    found = tracemalloc.get_traced_memory()[1] - sum(each.nbytes for each in outputs)
    tracemalloc.stop()
    return int(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    favor_pass = backward if given.backward else linear
    arrays = {length: inputs(length, given.features, given.width) for length in LENGTHS}
    rounds = [[timed(favor_pass, arrays[length]) for length in LENGTHS] for _ in range(given.repeat)]
    seconds = [statistics.median(column) for column in zip(*rounds, strict=True)]
    exponent = float(np.polyfit(np.log(LENGTHS), np.log(seconds), 1)[0])
    rows = [
        {"length": length, "seconds": found, "peak_bytes": peak(favor_pass, arrays[length])}
        for length, found in zip(LENGTHS, seconds, strict=True)
    ]
    quadratic = statistics.median(timed(exact, arrays[EXACT]) for _ in range(given.repeat))
    result = {
        "exponent": exponent,
        "rows": rows,
        "exact": {"length": EXACT, "seconds": quadratic},
        "cpus": os.cpu_count(),
    }
    if given.json:
        print(json.dumps(result, indent=1))
        return
    for row in rows:
        print(
            f"n = {row['length']:>6}  {row['seconds']:.3f} s  {row['peak_bytes'] / 1e6:.1f} MB beside inputs and output"
        )
    print(f"time ~ n^{exponent:.3f} (0.9 to 1.15 expected); exact attention at n = {EXACT}: {quadratic:.3f} s")


if __name__ == "__main__":
    main()
