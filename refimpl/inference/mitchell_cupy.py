"""Mitchell's matrix product on a GPU: one kernel, whose answers are those of `refimpl.mitchell.matmul` bit for bit.

    C_ij <- C_ij + P(a_ik, b_kj)      for k = 0, 1, ... in this order, beginning with C_ij = -0                                   (1)

A block of 256 threads computes 64 by 64 elements of C, each thread 4 by 4 of them, from 64 by 16 and 16 by 64 numbers of A and B in shared
memory. An element is added up by one thread, in order, by `__fadd_rn`, which the compiler neither joins with other operations nor moves; so no
answer depends on the size of the tiles. Where all 16 products of a thread and step are products of normal numbers in the normal range, they are
sums of bit patterns; if not, each is computed by the rules of the dialect ("ieee" or "flush") in whole numbers, with the rounding of subnormal
answers written out.

The kernel is plain C but for the words that CUDA adds, so that a test can compile `SOURCE` for the host, where threads are coroutines, and compare it
with NumPy where there is no GPU. float16 and bfloat16 are widened to float32 before it and rounded once after it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from refimpl.errors import ConfigError, DtypeError
from refimpl.number_system import Array, rounded_once

__all__ = ["SOURCE", "matmul"]

TILE, THREADS = 64, 16  # rows and columns of C of a block of threads; threads along each of the two
PAIRS = 65535  # of matrices in one launch, the largest third length of a grid

SOURCE = r"""
#define TILE 64
#define STEPS 16
#define LINES 4  /* TILE / 16: rows, and columns, of a thread */
#define ONE 0x3f800000u
#define NORMAL 0x00800000u
#define INFINITY_ 0x7f800000u
#define SIGN 0x80000000u
#define QUIET 0x7fc00000u

/* Exponent and fraction of |x| > 0 as one number, (e << 23) + f: the pattern, continued below the normal numbers. */
__device__ static long long logarithm(unsigned int x)
{
    int e = 1;
    if (x >= NORMAL) return (long long)x;
    while (x < NORMAL) { x <<= 1; e -= 1; }
    return (long long)e * 8388608 + (long long)(x - NORMAL);
}

/* The subnormal number nearest to the one that has this logarithm, below that of the smallest normal number; ties to even. */
__device__ static unsigned int gradual(long long total)
{
    long long e = total >> 23;  /* rounds down, to at most 0 */
    unsigned int m = (unsigned int)(total - e * 8388608) | NORMAL, shift, q, rest, half;
    if (e < -24) return 0;
    shift = (unsigned int)(1 - e);
    q = m >> shift;
    rest = m & ((1u << shift) - 1u);
    half = 1u << (shift - 1u);
    return q + (rest > half || (rest == half && (q & 1u)));
}

/* P(a, b) for any two patterns: "flush" takes subnormal operands and answers for zeros. */
__device__ __noinline__ static unsigned int product(unsigned int a, unsigned int b, int flush)
{
    unsigned int sign = (a ^ b) & SIGN, x = a & ~SIGN, y = b & ~SIGN, least = flush ? NORMAL : 1u;
    int zero = x < least || y < least, infinite = x == INFINITY_ || y == INFINITY_;
    long long total;
    if (x > INFINITY_ || y > INFINITY_ || (zero && infinite)) return QUIET;
    if (zero) return sign;
    if (infinite) return sign | INFINITY_;
    total = logarithm(x) + logarithm(y) - (long long)ONE;
    if (total >= (long long)INFINITY_) return sign | INFINITY_;
    if (total >= (long long)NORMAL) return sign | (unsigned int)total;
    return flush ? sign : sign | gradual(total);
}

/* C (batch, n, m), contiguous, from A and B of any strides, in numbers; where each matrix of A and B begins is in starts. */
extern "C" __global__ void mitchell_matmul(
    const unsigned int *a, const unsigned int *b, float *c, const long long *starts, int n, int m, int depth,
    long long a_row, long long a_step, long long b_step, long long b_column, int flush)
{
    __shared__ unsigned int rows[STEPS][TILE + 1];
    __shared__ unsigned int columns[STEPS][TILE + 1];
    union { unsigned int bits; float number; } term;
    float total[LINES][LINES];
    unsigned int x[LINES], y[LINES];
    const int across = (int)threadIdx.x, down = (int)threadIdx.y, thread = 16 * down + across;
    const int first_row = (int)blockIdx.y * TILE, first_column = (int)blockIdx.x * TILE;
    int i, j, k, first, at;
    a += starts[2 * (long long)blockIdx.z];
    b += starts[2 * (long long)blockIdx.z + 1];
    c += (long long)blockIdx.z * n * m;
#pragma unroll
    for (i = 0; i < LINES; i++)
#pragma unroll
        for (j = 0; j < LINES; j++) total[i][j] = -0.0f;
    for (first = 0; first < depth; first += STEPS) {
        for (at = thread; at < STEPS * TILE; at += 256) {  /* 1.0, an ordinary number, where there is nothing */
            int line = at / STEPS, step = at % STEPS;
            int inside = first_row + line < n && first + step < depth;
            rows[step][line] = inside ? a[(first_row + line) * a_row + (first + step) * a_step] : ONE;
            line = at % TILE;
            step = at / TILE;
            inside = first_column + line < m && first + step < depth;
            columns[step][line] = inside ? b[(first + step) * b_step + (first_column + line) * b_column] : ONE;
        }
        __syncthreads();
        for (k = 0; k < STEPS && first + k < depth; k++) {
            unsigned int low_x = SIGN, high_x = 0u, low_y = SIGN, high_y = 0u;
#pragma unroll
            for (i = 0; i < LINES; i++) {
                unsigned int size;
                x[i] = rows[k][down + 16 * i];
                y[i] = columns[k][across + 16 * i];
                size = x[i] & ~SIGN;
                low_x = size < low_x ? size : low_x;
                high_x = size > high_x ? size : high_x;
                size = y[i] & ~SIGN;
                low_y = size < low_y ? size : low_y;
                high_y = size > high_y ? size : high_y;
            }
            if (low_x >= NORMAL && low_y >= NORMAL && high_x < INFINITY_ && high_y < INFINITY_ && low_x + low_y >= ONE + NORMAL
                && high_x + high_y < ONE + INFINITY_) {
#pragma unroll
                for (i = 0; i < LINES; i++)
#pragma unroll
                    for (j = 0; j < LINES; j++) {
                        term.bits = x[i] + y[j] - ONE;
                        total[i][j] = __fadd_rn(total[i][j], term.number);
                    }
            } else {
#pragma unroll
                for (i = 0; i < LINES; i++)
#pragma unroll
                    for (j = 0; j < LINES; j++) {
                        term.bits = product(x[i], y[j], flush);
                        total[i][j] = __fadd_rn(total[i][j], term.number);
                    }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (i = 0; i < LINES; i++)
#pragma unroll
        for (j = 0; j < LINES; j++)
            if (first_row + down + 16 * i < n && first_column + across + 16 * j < m)
                c[(long long)(first_row + down + 16 * i) * m + first_column + across + 16 * j] = total[i][j];
}
"""


@functools.cache
def _kernel(device: int) -> Any:
    import cupy

    return cupy.RawKernel(SOURCE, "mitchell_matmul", options=("--fmad=false",))


def _beginnings(x: Array, stacks: tuple[int, ...]) -> Any:
    """Where each matrix of float32 in `x` begins, counted in numbers, once `x` is broadcast to these other axes: (pairs)."""
    steps = [0] * (len(stacks) - x.ndim + 2)
    steps += [0 if length == 1 else step // 4 for length, step in zip(x.shape[:-2], x.strides[:-2], strict=True)]
    at = np.zeros(stacks, np.int64)
    for step, index in zip(steps, np.indices(stacks), strict=True):
        at += step * index
    return at.reshape(-1)


def _launch(a: Array, b: Array, pairs: int, flush: bool) -> tuple[tuple[int, int, int], list[Any]]:
    """The blocks of threads; and the kernel's whole numbers: n, m, depth, strides in numbers, and whether subnormal numbers count as zeros."""
    (n, depth), m = a.shape[-2:], b.shape[-1]
    strides = [np.int64(step // 4) for step in (*a.strides[-2:], *b.strides[-2:])]
    return (-(-m // TILE), -(-n // TILE), pairs), [np.int32(n), np.int32(m), np.int32(depth), *strides, np.int32(flush)]


@rounded_once
def _product(a: Array, b: Array, stacks: tuple[int, ...], flush: bool) -> Array:
    import cupy

    starts = np.stack([_beginnings(x, stacks) for x in (a, b)], axis=1)
    c = cupy.empty((len(starts), a.shape[-2], b.shape[-1]), np.float32)
    for first in range(0, len(starts) if c.size else 0, PAIRS):
        some = c[first : first + PAIRS]
        grid, numbers = _launch(a, b, len(some), flush)
        where = cupy.asarray(starts[first : first + PAIRS])
        _kernel(c.device.id)(grid, (THREADS, THREADS, 1), (a, b, some, where, *numbers))
    return c.reshape(*stacks, *c.shape[1:])


def _check_kernel(a: Array, dialect: str, corrected: bool) -> None:
    """Raise DtypeError or ConfigError where there is no kernel."""
    remedy = "use refimpl.mitchell.matmul, the definition, which runs on a GPU too"
    dtypes = ("float16", "bfloat16", "float32")
    if str(a.dtype) not in dtypes:
        raise DtypeError(
            "no kernel for this dtype", where="matmul", expected=", ".join(dtypes), got=a.dtype, remedy=remedy
        )
    if corrected or dialect not in ("ieee", "flush"):
        got = "the corrected form" if corrected else repr(dialect)
        raise ConfigError(
            "no kernel for this form", where="matmul", expected='"ieee" or "flush"', got=got, remedy=remedy
        )


def matmul(
    a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False, out: Array | None = None
) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
    """C_ij = Σ_k P(a_ik, b_kj) of CuPy arrays: `refimpl.inference.mitchell.matmul` calls this, after it has checked the shapes.

    Parameters
    ----------
    a, b : CuPy arrays, (..., n, k) and (..., k, m), of one dtype: float16, bfloat16 or float32
    dialect : "ieee" or "flush"
    corrected : False: the corrected form has no kernel
    out : CuPy array, (..., n, m), of their dtype, to write the product to

    Returns
    -------
    CuPy array, (..., n, m), or `out`

    Raises
    ------
    DtypeError, ConfigError
        if this dtype, this dialect or the corrected form has no kernel.
    """
    _check_kernel(a, dialect, corrected)
    answer = _product(a, b, np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), dialect == "flush")
    if out is None:
        return answer
    out[...] = answer
    return out
