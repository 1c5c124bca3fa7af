"""Mitchell's matrix product: time and memory of the fast form, beside NumPy's product, the obvious form and the definition.

    python benchmarks/mitchell_matmul.py [--repeat 5] [--threads 2] [--broadcast 1024] [--json]
    python benchmarks/mitchell_matmul.py --backend cupy [--repeat 20] [--json]

Every round goes through all ways in turn, so that a slow moment of the machine falls on all of them. Medians are told, the least and the largest,
by the clock and in seconds of a processor, in which what else the machine does counts less; ratios are medians of the rounds' own ratios.

`broadcast` is what one writes first: the patterns of A[:, :, None] and of B[None] added, and the sum over k. It needs n · k · m numbers, 4 GiB at
1024^3; so it is run up to --broadcast only (0: not at all), and only if twice that is free. Its sum is in NumPy's order, so its answer is near, not
equal; all others are compared bit for bit. The peak is what is allocated beside inputs and output, by tracemalloc, in a run of its own. Set
OPENBLAS_NUM_THREADS=1, which makes NumPy's product use one thread.

Held to, at 1024^3: five times faster than the broadcast form, with a twentieth of its memory; if not, it exits with 1. With --backend cupy the bits
are compared with NumPy's on ordinary, sparse and arbitrary patterns, and the kernel is timed beside a float32 product (cupy.matmul).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from refimpl import mitchell
from refimpl.inference import mitchell as fast

SHAPES = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (64, 1024, 1024), (1, 256, 1024))  # n, k, m
FASTER, SMALLER = 5, 20  # than the broadcast form, at 1024^3
ONE = np.int32(0x3F800000)


def inputs(shape: tuple[int, int, int]) -> tuple[Any, Any]:
    n, k, m = shape
    rng = np.random.default_rng(n + k + m)
    return rng.standard_normal((n, k), dtype=np.float32), rng.standard_normal((k, m), dtype=np.float32)


def broadcast(a: Any, b: Any) -> Any:
    """All products at once, and their sum over k, in NumPy's order."""
    terms = a.view(np.int32)[:, :, None] + (b.view(np.int32) - ONE)[None]
    with np.errstate(all="ignore"):  # what the addition makes of a 0 may be NaN
        return terms.view(np.float32).sum(axis=1)


def ways(given: argparse.Namespace) -> dict[str, tuple[Any, Any]]:
    """Each way's function, and for which shapes it is run."""
    return {
        "fast": (fast.matmul, lambda shape: True),
        f"fast, {given.threads} threads": (
            lambda a, b: fast.matmul(a, b, threads=given.threads),
            lambda shape: given.threads > 1,
        ),
        "fast, corrected": (lambda a, b: fast.matmul(a, b, corrected=True), lambda shape: True),
        "fast, half of a is 0": (lambda a, b: fast.matmul(np.maximum(a, 0), b), lambda shape: True),
        "numpy": (np.matmul, lambda shape: True),
        "broadcast": (broadcast, lambda shape: max(shape) <= given.broadcast and enough(4 * int(np.prod(shape)))),
        "definition": (mitchell.matmul, lambda shape: np.prod(shape) <= 2**24),
    }


def enough(needed: int) -> bool:
    """Whether twice these bytes are free."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return not free or free[0] > 2 * needed


def timed(function: Any, arrays: tuple[Any, Any]) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    began, used = time.perf_counter(), time.process_time()
    function(*arrays)
    return time.perf_counter() - began, time.process_time() - used


def peak(function: Any, arrays: tuple[Any, Any]) -> int:
    """Bytes allocated beside inputs and output."""
    tracemalloc.start()
    output = function(*arrays)
    found = tracemalloc.get_traced_memory()[1] - output.nbytes
    tracemalloc.stop()
    return int(found)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def measured(shape: tuple[int, int, int], given: argparse.Namespace) -> dict[str, Any]:
    arrays = inputs(shape)
    chosen = {name: function for name, (function, wanted) in ways(given).items() if wanted(shape)}
    if "definition" in chosen and not equal(chosen["fast"](*arrays), chosen["definition"](*arrays)):
        raise SystemExit(f"{shape}: the fast form is not the definition")
    if not equal(fast.matmul(*arrays), fast.matmul(*arrays, threads=2)):
        raise SystemExit(f"{shape}: two threads give other bits")
    rounds = [{name: timed(function, arrays) for name, function in chosen.items()} for _ in range(given.repeat)]
    found: dict[str, Any] = {"shape": shape}
    for at, clock in enumerate(("clock", "processor")):
        found[f"seconds, {clock}"] = {name: spread([each[name][at] for each in rounds]) for name in chosen}
        found[f"times fast, {clock}"] = {
            name: spread([each[name][at] / each["fast"][at] for each in rounds]) for name in chosen
        }
    found["peak_bytes"] = {name: peak(function, arrays) for name, function in chosen.items() if name != "definition"}
    return found


def equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


def printed(row: dict[str, Any]) -> None:
    products = int(np.prod(row["shape"]))
    print(" x ".join(map(str, row["shape"])))
    for name, seconds in row["seconds, clock"].items():
        used, taken = row["seconds, processor"][name]["median"], row["peak_bytes"].get(name)
        ratios = [row[f"times fast, {clock}"][name]["median"] for clock in ("clock", "processor")]
        print(
            f"  {name:<22}{seconds['median'] * 1e3:9.2f} ms ({seconds['least'] * 1e3:.2f} to {seconds['largest'] * 1e3:.2f}),"
            f" processor {used * 1e3:.2f} ms, {used / products * 1e9:.3f} ns/product;"
            f" {ratios[0]:.3f}, processor {ratios[1]:.3f} times fast"
            + (f"; {taken / 2**20:.1f} MiB" if taken is not None else "")
        )


def on_the_host(given: argparse.Namespace) -> int:
    rows = []
    for shape in SHAPES:
        rows.append(measured(shape, given))
        if not given.json:
            printed(rows[-1])
    whole = next(row for row in rows if row["shape"] == (1024, 1024, 1024))
    met = None
    if "broadcast" in whole["peak_bytes"]:
        taken = whole["peak_bytes"]
        met = (
            whole["times fast, clock"]["broadcast"]["median"] >= FASTER
            and taken["broadcast"] >= SMALLER * taken["fast"]
        )
    said = {None: "not compared with the broadcast form", True: "met", False: "NOT MET"}[met]
    if given.json:
        print(json.dumps({"numpy": np.__version__, "cpus": os.cpu_count(), "rows": rows, "limits": said}, indent=1))
    else:
        print(
            f"NumPy {np.__version__}, {os.cpu_count()} processors; {FASTER} times faster, 1/{SMALLER} of the memory: {said}"
        )
    return 1 if met is False else 0


# --- on a GPU ------------------------------------------------------------------------------------------------------------------------


def kinds(shape: tuple[int, int, int]) -> dict[str, tuple[Any, Any]]:
    """Ordinary numbers; half zeros; any patterns, in a hundredth and everywhere."""
    rng = np.random.default_rng(1)
    a, b = inputs(shape)
    wild = [rng.integers(0, 2**32, x.shape, dtype=np.uint32).view(np.float32) for x in (a, b)]
    some = [np.where(rng.random(x.shape) < 0.01, w, x) for x, w in zip((a, b), wild, strict=True)]
    return {"ordinary": (a, b), "half zeros": (np.maximum(a, 0), b), "some": tuple(some), "any": tuple(wild)}


def same(a: Any, b: Any) -> bool:
    """Equal bits; NaN equals every NaN."""
    return bool(np.all((np.isnan(a) & np.isnan(b)) | (a.view(np.uint32) == b.view(np.uint32))))


def on_a_gpu(given: argparse.Namespace) -> int:
    import cupy

    wrong, rows = [], []
    for shape in ((130, 70, 67), (256, 256, 256), (1, 300, 1000)):
        for kind, arrays in kinds(shape).items():
            for dialect in ("ieee", "flush"):
                there = cupy.asnumpy(fast.matmul(*map(cupy.asarray, arrays), dialect=dialect))
                if not same(there, fast.matmul(*arrays, dialect=dialect)):
                    wrong.append(f"{shape}, {kind}, {dialect}")
    half = [x.astype(np.float16) for x in inputs((65, 66, 67))]
    if not np.array_equal(cupy.asnumpy(fast.matmul(*map(cupy.asarray, half))), fast.matmul(*half)):
        wrong.append("float16")
    for shape in (*SHAPES, (4096, 4096, 4096)):
        arrays = tuple(map(cupy.asarray, inputs(shape)))
        functions = {"fast": fast.matmul, "float32": cupy.matmul}
        rounds = [{name: seconds_there(f, arrays) for name, f in functions.items()} for _ in range(given.repeat + 1)][
            1:
        ]
        times = {name: spread([each[name] for each in rounds]) for name in functions}
        rows.append({"shape": shape, "seconds": times, "slower": spread([e["fast"] / e["float32"] for e in rounds])})
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    if given.json:
        print(json.dumps({"cupy": cupy.__version__, "device": device, "wrong": wrong, "rows": rows}, indent=1))
        return 1 if wrong else 0
    for row in rows:
        taken = "   ".join(f"{name} {each['median'] * 1e3:.3f} ms" for name, each in row["seconds"].items())
        print(f"{' x '.join(map(str, row['shape'])):<22}{taken}   {row['slower']['median']:.2f} times float32")
    print(
        f"CuPy {cupy.__version__} on {device}; "
        + ("the bits differ: " + "; ".join(wrong) if wrong else "all bits are NumPy's")
    )
    return 1 if wrong else 0


def seconds_there(function: Any, arrays: tuple[Any, Any]) -> float:
    """By the device's clock."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    function(*arrays)
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="for the second line")
    parser.add_argument(
        "--broadcast", type=int, default=1024, help="the longest side for which the broadcast form is run"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    raise SystemExit(on_a_gpu(given) if given.backend == "cupy" else on_the_host(given))


if __name__ == "__main__":
    main()
