"""Record what two programs answer that multiply by adding bit patterns: piecewise affine multiplication, and semiMul.

    python -m pip install torch==2.13.0 safetensors==0.8.0 numpy        (torch for the provenance only); a C++ compiler
    git clone https://github.com/epfml/piecewise-affine-multiplication && git -C piecewise-affine-multiplication checkout c351e8c
    git clone https://github.com/ali10129/semiMul && git -C semiMul checkout 0c54eee
    python validation/oracles/mitchell_programs.py --pam piecewise-affine-multiplication/pam/cuda_kernels.cu --semimul semiMul/NN.py \
        --out validation/recorded

Writes `mitchell_programs/answers.safetensors`. The device functions `pam`, `pad` and `semiMul` are lifted from the files, unedited but for the
qualifiers of CUDA, which are defined away, and compiled for the host with wrapping integers. Patterns are recorded, NaN and all.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from recording import deterministic, sha256, write_answers, write_provenance

COMMAND = (
    "python validation/oracles/mitchell_programs.py --pam cuda_kernels.cu --semimul NN.py --out validation/recorded"
)
PACKAGES = ("torch", "safetensors", "numpy")
SEED, COUNT = 19620817, 1024
HEADS = {
    "pam": "inline __device__ float pam(",
    "pad": "inline __device__ float pad(",
    "semimul": "__inline__ __device__ float semiMul(",
}
RUN = """
extern "C" void run(int n, float* a, float* b, float* p, float* d, float* s) {
    for (int i = 0; i < n; i++) { p[i] = pam(a[i], b[i], 0); d[i] = pad(a[i], b[i], 0); s[i] = semiMul(a + i, b + i); }
}
"""
WHAT = {
    "a, b": "bit patterns of float32 operands: a quarter arbitrary, a quarter special, a quarter near 1e-37 and 1e37, a quarter ordinary",
    "pam, pad": "patterns that pam and pad (the quotient) of piecewise-affine-multiplication answer, offset 0",
    "semimul": "patterns that semiMul of NN.py answers",
}


def lifted(source: str, head: str) -> str:
    """The text of one function, to its last brace."""
    start = source.index(head)
    depth = 0
    for place in range(source.index("{", start), len(source)):
        depth += (source[place] == "{") - (source[place] == "}")
        if not depth:
            return source[start : place + 1]
    raise ValueError(f"{head} does not end")


def operands() -> tuple[np.ndarray, np.ndarray]:
    rng, quarter = np.random.default_rng(SEED), COUNT // 4
    arbitrary = rng.integers(0, 2**32, (2, quarter), dtype=np.uint64).astype(np.uint32).view(np.float32)
    values = [0.0, np.inf, np.nan, 1e-45, 1e-40, 1.1754944e-38, 1.0, 1.5, 1.25, 1e-37, 1e37, 3.4028235e38, 1e-20, 1e20]
    special = rng.choice(np.float32([*values, *(-value for value in values)]), (2, quarter))
    size = np.float32(10.0 ** rng.uniform(-30, 30, quarter))
    limit = rng.choice([1e-37, 1e37], quarter)
    near = np.clip(limit / size * (1 + 1e-7 * rng.standard_normal(quarter)), 1e-38, 3e38).astype(np.float32)
    ordinary = rng.standard_normal((2, quarter)).astype(np.float32) * np.float32(2.0) ** rng.integers(
        -9, 10, (2, quarter)
    ).astype(np.float32)
    return tuple(np.concatenate(parts) for parts in zip(arbitrary, special, (size, near), ordinary, strict=True))


def compiled(text: str, folder: Path) -> ctypes.CDLL:
    (folder / "programs.cpp").write_text(text)
    library = folder / "programs.so"
    options = ["-O1", "-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["c++", *options, str(folder / "programs.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--pam", "--semimul", "--out"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    deterministic()
    texts = {name: (given.semimul if name == "semimul" else given.pam).read_text("utf-8") for name in HEADS}
    functions = "\n".join(lifted(texts[name], head) for name, head in HEADS.items())
    a, b = (np.ascontiguousarray(x, dtype=np.float32) for x in operands())
    answers = {name: np.empty(COUNT, np.float32) for name in HEADS}
    with tempfile.TemporaryDirectory() as temporary:
        library = compiled(
            f"#include <cmath>\n#define __device__\n#define __inline__ inline\n{functions}\n{RUN}", Path(temporary)
        )
        library.run(COUNT, *(x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, *answers.values())))
    folder: Path = given.out / "mitchell_programs"
    arrays = {"a": a, "b": b, **answers}
    write_answers(folder, {name: x.view(np.uint32).astype(np.int64) for name, x in arrays.items()})
    sources = {"pam/cuda_kernels.cu": sha256(given.pam), "NN.py": sha256(given.semimul)}
    oracle = "piecewise-affine-multiplication c351e8c and semiMul 0c54eee, device functions compiled for the host"
    write_provenance(folder, COMMAND, {"oracle": oracle, "sources": sources, "seed": SEED, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
