"""CPM-LM's 2.6 billion parameters on a small machine: shards of random numbers written, loaded, converted and used; time and memory.

    python benchmarks/cpm_true_size.py FOLDER [--rounds 5] [--threads 2] [--json] [--keep]

Two float16 shards of the true shape (32 layers, width 2,560, 32 heads, 30,000 tokens, 1,024 positions; 5.2 GB) are written to FOLDER, which needs
11 GB, and removed at the end unless --keep. Then, each step in a process of its own whose peak of resident memory is VmHWM, mapped pages of files
included:

* load: `refimpl.load` to float32, in turn with its bound: reading the bytes of both files into memory that was touched before, and widening as many
  float16 numbers into float32 in memory that was touched before, on as many threads. Checksums and checks for NaN are the load's alone. As much
  memory as the model takes is touched before the load begins, and the allocator told to keep it (MALLOC_...), so that the load too writes
  to touched memory; the time of the first touch is reported apart: in a virtual machine it waits for the host, a second or more for each gigabyte,
  and memory that is given back is lost to the host again. The files are in the page cache, if it holds them;
* convert: to one safetensors file under Hugging Face's names;
* decode: two processes, float32 and low memory, in turn: a few tokens after a prompt of 16, and, in the float32 process, the time of reading the same
  matrices once, the less of two ways: by one matrix-vector product each, and by sums on as many Python threads;
* prompt: 1,000 tokens to the first token's logits, in both.

Ratios are medians of the ratios within a round. Other sizes (--layers, ...) are for trying the program out.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
SHARDS, CONVERTED = "shards", "converted"
BUFFER = 1 << 28  # bytes of the touched memory that is read into, and half of what is widened into
# glibc: what is freed stays with the process
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 36), "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_ARENA_MAX": "1"}
PROMPT, SHORT, TOKENS = 1000, 16, 3


def status(field: str) -> float:
    """GiB of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def config(given: argparse.Namespace) -> Any:
    from refimpl import gpt2

    return gpt2.GPT2Config(given.vocab, given.positions, given.width, given.layers, given.heads)


# --- steps, each in a process of its own --------------------------------------------------------------------------------------------


def write(given: argparse.Namespace) -> dict[str, Any]:
    """Shards of normal numbers of deviation 0.02 (scales: 1 more), which repeat after 2²⁴: a tensor begins at a place of its own."""
    from refimpl import gpt2
    from weights_io import megatron
    from weights_io.checkpoint import TensorInfo
    from weights_io.schemes import SCHEMES, from_canonical
    from weights_io.schemes.scheme import view

    pool = (np.random.default_rng(0).standard_normal(1 << 24, np.float32) * 0.02).astype(np.float16)

    def made(name: str, shape: tuple[int, ...], begin: int) -> Any:
        array = np.empty(shape, np.float16)
        flat, done = array.reshape(-1), 0
        while done < flat.size:
            piece = pool[(begin + done) % pool.size :][: flat.size - done]
            flat[done : done + piece.size] = piece
            done += piece.size
        return array + np.float16(1) if name.endswith("scale") else array

    tensors, half = {}, np.dtype(np.float16)
    for number, (name, shape) in enumerate(gpt2.GPT2Weights.shapes(config(given)).items()):
        info = TensorInfo(name, half, shape, Path("memory"), 0, 2 * int(np.prod(shape)))
        tensors[name] = info, functools.partial(made, name, shape, 7919 * number)
    began = time.perf_counter()
    megatron.save_ranks(
        given.folder / SHARDS,
        from_canonical(view("memory", tensors), SCHEMES["megatron-cpm"]),
        2,
        heads=given.heads,
        iteration=80000,
    )
    files = sorted((given.folder / SHARDS).rglob("*.pt"))
    return {"seconds": time.perf_counter() - began, "bytes": [file.stat().st_size for file in files]}


def reference(given: argparse.Namespace) -> dict[str, Any]:
    """Reading the shards into touched memory, widening as many numbers into touched memory; and touching as much memory as the model takes."""
    from refimpl.inference.widening import convert

    files = sorted((given.folder / SHARDS).rglob("*.pt"))
    count = sum(file.stat().st_size for file in files)
    half = np.full(BUFFER // 2, 0.01, np.float16)
    single = np.ones(half.size, np.float32)
    start, began = time.process_time(), time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as source:
            while source.readinto(memoryview(half).cast("B")):  # type: ignore[attr-defined]
                pass
    middle = time.perf_counter()
    half[:] = 0.01
    begun = time.perf_counter()
    for done in range(0, count // 2, half.size):
        part = min(half.size, count // 2 - done)
        convert(half[:part], single[:part], given.threads)
    found = {"read": middle - began, "widen": time.perf_counter() - begun, "cpu": time.process_time() - start}
    return found | {"touch": _touched(2 * count)}


def _touched(nbytes: int) -> float:
    """Seconds that it takes to write to every page of so much memory, which is freed again: by KEEPING to the process."""
    began = time.perf_counter()
    np.empty(nbytes, np.uint8)[::4096] = 1
    return time.perf_counter() - began


def load(given: argparse.Namespace) -> dict[str, Any]:
    import refimpl
    from refimpl import gpt2

    _touched(4 * sum(int(np.prod(shape)) for shape in gpt2.GPT2Weights.shapes(config(given)).values()))
    began, cpu = time.perf_counter(), time.process_time()
    model = refimpl.load(given.folder / SHARDS, backend="numpy", heads=given.heads)
    found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    return found | {"peak": status("VmHWM"), "resident": status("VmRSS"), "model": repr(model)}


def convert(given: argparse.Namespace) -> dict[str, Any]:
    import weights_io
    from weights_io.conversion import convert as converted

    (given.folder / CONVERTED).mkdir(exist_ok=True)
    began = time.perf_counter()
    with weights_io.open(given.folder / SHARDS) as checkpoint:
        done = converted(checkpoint, given.folder / CONVERTED / "model.safetensors", scheme="hugging-face-gpt2")
    return {
        "seconds": time.perf_counter() - began,
        "peak": status("VmHWM"),
        "anonymous": status("RssAnon"),
        "bytes": done.nbytes,
    }


STEPS = {"write": write, "reference": reference, "load": load, "convert": convert}


# --- processes that decode ----------------------------------------------------------------------------------------------------------


class Decoding:
    """A loaded model, and what it is asked to do."""

    def __init__(self, given: argparse.Namespace) -> None:
        import refimpl

        self.given, self.rng = given, np.random.default_rng(1)
        folder, low = (given.folder / SHARDS), given.serve == "low"
        began, cpu = time.perf_counter(), time.process_time()
        self.model = refimpl.load(folder, backend="numpy", heads=given.heads, low_memory=low)
        self.loaded = {"load": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        assert self.model.make_decoder is not None
        self.session: Any = self.model._decoder()
        self.pool = ThreadPoolExecutor(given.threads)
        weights = self.model.weights
        self.matrices = [
            a for layer in weights.blocks for a in (layer.query_key_value.weight, layer.attention_output.weight)
        ]
        self.matrices += [
            a for layer in weights.blocks for a in (layer.feed_forward_in.weight, layer.feed_forward_out.weight)
        ]
        self.matrices.append(weights.token_embedding.T)
        self.state: Any = None

    def ids(self, n: int) -> list[int]:
        return [int(i) for i in self.rng.integers(0, self.given.vocab, n)]

    def ready(self) -> dict[str, Any]:
        return self.loaded | {"bytes": sum(a.nbytes for a in self.matrices)} | self.memory()

    def memory(self) -> dict[str, float]:
        return {"peak": status("VmHWM"), "anonymous": status("RssAnon"), "mapped": status("RssFile")}

    def short(self) -> dict[str, Any]:
        _, self.state = self.session.start([self.ids(SHORT)])
        return {}

    def prompt(self) -> dict[str, Any]:
        began, cpu = time.perf_counter(), time.process_time()
        logits, self.state = self.session.start([self.ids(min(PROMPT, self.given.positions - 2 * TOKENS))])
        found = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        return found | {"finite": bool(np.isfinite(logits).all())} | self.memory()

    def tokens(self) -> dict[str, Any]:
        """Seconds a token, greedy."""
        began, cpu, (token,) = time.perf_counter(), time.process_time(), self.ids(1)
        state = self.state
        for _ in range(TOKENS):
            logits, state = self.session.advance([[token]], state)
            token = int(np.argmax(logits))
        return {
            "seconds": (time.perf_counter() - began) / TOKENS,
            "cpu": (time.process_time() - cpu) / TOKENS,
        } | self.memory()

    def products(self) -> dict[str, Any]:
        """One matrix-vector product with each matrix."""
        ones = np.ones((1, max(max(a.shape) for a in self.matrices)), np.float32)
        out = np.empty_like(ones)
        began, cpu = time.perf_counter(), time.process_time()
        for a in self.matrices:
            np.matmul(ones[:, : a.shape[0]], a, out=out[:, : a.shape[1]])
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}

    def sums(self) -> dict[str, Any]:
        """The sum of each matrix, on as many threads, each a part of every matrix."""
        flat = [a.reshape(-1, order="A") for a in self.matrices]
        threads = self.given.threads

        def part(k: int) -> float:
            return sum(float(np.add.reduce(a[a.size * k // threads : a.size * (k + 1) // threads])) for a in flat)

        began, cpu = time.perf_counter(), time.process_time()
        list(self.pool.map(part, range(threads)))
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def serve(given: argparse.Namespace) -> None:
    decoding = Decoding(given)
    print(json.dumps(decoding.ready()), flush=True)
    for line in sys.stdin:
        print(json.dumps(getattr(decoding, line.strip())()), flush=True)


# --- the rounds ---------------------------------------------------------------------------------------------------------------------


def command(given: argparse.Namespace, kind: str) -> list[str]:
    sizes = [
        word
        for name in ("layers", "width", "heads", "vocab", "positions", "threads")
        for word in (f"--{name}", str(getattr(given, name)))
    ]
    return [sys.executable, __file__, str(given.folder), "--serve", kind, *sizes]


def environment(given: argparse.Namespace) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": str(given.threads)}


def step(given: argparse.Namespace, kind: str) -> dict[str, Any]:
    kept = environment(given) | KEEPING
    done = subprocess.run(command(given, kind), check=True, stdout=subprocess.PIPE, text=True, env=kept)
    found: dict[str, Any] = json.loads(done.stdout)
    print(kind, found, file=sys.stderr, flush=True)
    return found


class Server:
    """A process that decodes, told what to do."""

    def __init__(self, given: argparse.Namespace, kind: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.kind = kind
        self.process: Any = subprocess.Popen(command(given, kind), text=True, env=environment(given), **pipes)  # type: ignore[call-overload]
        self.ready = self.answer("ready")

    def answer(self, what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        print(self.kind, what, found, file=sys.stderr, flush=True)
        return found

    def __call__(self, what: str) -> dict[str, Any]:
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.answer(what)

    def end(self) -> None:
        self.process.communicate()


def loads(given: argparse.Namespace) -> dict[str, Any]:
    rounds = [(step(given, "reference"), step(given, "load")) for _ in range(given.rounds)]
    bounds = [bound["read"] + bound["widen"] for bound, _ in rounds]
    return {
        "seconds": [found["seconds"] for _, found in rounds],
        "read": [bound["read"] for bound, _ in rounds],
        "widen": [bound["widen"] for bound, _ in rounds],
        "touch": [bound["touch"] for bound, _ in rounds],
        "cpu": [(found["cpu"], bound["cpu"]) for bound, found in rounds],
        "ratio": statistics.median(found["seconds"] / bound for (_, found), bound in zip(rounds, bounds, strict=True)),
        "peak": max(found["peak"] for _, found in rounds),
    }


def decodes(given: argparse.Namespace) -> dict[str, Any]:
    servers = {kind: Server(given, kind) for kind in ("float32", "low")}
    for server in servers.values():
        server("short")
    rounds = []
    for _ in range(given.rounds):
        found = {kind: server("tokens")["seconds"] for kind, server in servers.items()}
        found["bound"] = min(servers["float32"](way)["seconds"] for way in ("products", "sums"))
        rounds.append(found)
    prompts = {kind: [server("prompt")] for kind, server in servers.items()}
    after = {kind: server("tokens") for kind, server in servers.items()}
    for server in servers.values():
        server.end()
    size = servers["float32"].ready["bytes"]
    return {
        "rounds": rounds,
        "bytes": size,
        "bound / float32": statistics.median(each["bound"] / each["float32"] for each in rounds),
        "low / float32": statistics.median(each["low"] / each["float32"] for each in rounds),
        "bandwidth": size / min(each["bound"] for each in rounds),
        "prompt": {kind: min(each["seconds"] for each in found) for kind, found in prompts.items()},
        "peak": {kind: found["peak"] for kind, found in after.items()},
        "memory": after,
        "ready": {kind: server.ready for kind, server in servers.items()},
    }


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    blas: Any = np.show_config(mode="dicts")
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    found = blas["Build Dependencies"]["blas"]
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "GiB": round(memory, 1),
        **versions,
        "blas": f"{found['name']} {found['version']}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    for name, size in {"layers": 32, "width": 2560, "heads": 32, "vocab": 30000, "positions": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument(
        "--only", choices=("load", "convert", "decode"), action="append", help="these steps alone; may be repeated"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve in STEPS:
        print(json.dumps(STEPS[given.serve](given)))
        return
    if given.serve:
        serve(given)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "threads": given.threads, "shape": vars(config(given))}
    if not (given.folder / SHARDS).exists():
        result["write"] = step(given, "write")
    actions = {"load": loads, "convert": lambda given: step(given, "convert"), "decode": decodes}
    for name, action in actions.items():
        if given.only is None or name in given.only:
            result[name] = action(given)
    shutil.rmtree(given.folder / CONVERTED, ignore_errors=True)
    if not given.keep:
        shutil.rmtree(given.folder / SHARDS)
    print(json.dumps(result, indent=1) if given.json else told(result))


def told(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}, {result['threads']} threads"]
    if "load" in result:
        each = result["load"]
        best = ", ".join(f"{name} {min(each[name]):.1f} s" for name in ("seconds", "read", "widen", "touch"))
        lines.append(f"load: {best}; {each['ratio']:.2f} x (read + widen); peak {each['peak']:.2f} GiB")
    if "convert" in result:
        lines.append(f"convert: {result['convert']['seconds']:.0f} s, peak {result['convert']['peak']:.2f} GiB")
    if "decode" in result:
        each = result["decode"]
        best = {name: min(row[name] for row in each["rounds"]) for name in ("float32", "low", "bound")}
        lines.append(
            f"a token: float32 {best['float32']:.3f} s, low memory {best['low']:.3f} s, {each['low / float32']:.2f} x"
        )
        lines.append(
            f"bound {best['bound']:.3f} s ({each['bandwidth'] / 1e9:.1f} GB/s): {each['bound / float32']:.2f} of it reached"
        )
        for kind in ("float32", "low"):
            lines.append(
                f"{kind}: prompt of {PROMPT} in {each['prompt'][kind]:.1f} s, peak {each['peak'][kind]:.2f} GiB"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
