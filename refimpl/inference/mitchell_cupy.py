"""Mitchell's matrix product on a GPU: one kernel, whose answers are those of `refimpl.mitchell.matmul` bit for bit.

    C_ij <- C_ij + P(a_ik, b_kj)      for k = 0, 1, ... in this order, beginning with C_ij = -0                                   (1)

A block of 256 threads computes 64 by 64 elements of C, each thread 4 by 4 of them, from 64 by 16 and 16 by 64 numbers of A and B in shared
memory. An element is added up by one thread, in order, by `__fadd_rn`, which the compiler neither joins with other operations nor moves; so no
answer depends on the size of the tiles. Where all 16 products of a thread and step are products of normal numbers in the normal range, they are
sums of bit patterns, and corrections as `refimpl.inference.mitchell` has them; if not, each is computed by the rules of the dialect ("ieee" or
"flush") in whole numbers, with the rounding of subnormal answers written out.

The kernel is plain C but for the words that CUDA adds, so that a test can compile `SOURCE` for the host, where threads are coroutines, and compare it
with NumPy where there is no GPU. float16 and bfloat16 are widened to float32 before it and rounded once after it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError, DtypeError
from refimpl.number_system import Array, rounded_once

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SOURCE", "matmul"]

TILE, THREADS = 64, 16  # rows and columns of C of a block of threads; threads along each of the two
FORMS = ("ieee", "flush", "corrected")  # as the kernel numbers them
PAIRS = 65535  # of matrices in one launch, the largest third length of a grid
TILES = 65535  # of rows of tiles in one launch, the largest second length

SOURCE = r"""
#define TILE 64
#define STEPS 16
#define LINES 4  /* TILE / 16: rows, and columns, of a thread */
#define ONE 0x3f800000u
#define NORMAL 0x00800000u
#define INFINITY_ 0x7f800000u
#define SIGN 0x80000000u
#define QUIET 0x7fc00000u
#define FRACTION 0x007fffffLL
#define REST (26u << 23)  /* from 2^e to the rest of 2^e that is taken for 0 */
#define FLUSH 1
#define CORRECTED 2

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

__device__ static float number(unsigned int bits)
{
    union { unsigned int bits; float number; } x;
    x.bits = bits;
    return x.number;
}

__device__ static unsigned int pattern(float number)
{
    union { unsigned int bits; float number; } x;
    x.number = number;
    return x.bits;
}

/* The patterns of x - 2^e and 2^(e+1) - x, with the sign of x; 2^(e-26), which adds nothing, for 0. */
__device__ static void rests(unsigned int x, unsigned int *above, unsigned int *below)
{
    unsigned int power = x & (SIGN | INFINITY_);
    float rest = __fsub_rn(number(x), number(power));
    *below = pattern(__fsub_rn(number(power), rest));
    *above = rest == 0.0f ? power - REST : pattern(rest);
}

/* The corrected product of numbers whose rests have normal products. */
__device__ static float corrected(unsigned int x, unsigned int u, unsigned int v, unsigned int y, unsigned int other_u, unsigned int other_v)
{
    unsigned int above = u + other_u - ONE, below = v + other_v - ONE;
    return __fadd_rn(number(x + y - ONE), number(above < below ? above : below));
}

/* P(a, b), or the corrected product, for any two patterns; FLUSH takes subnormal operands and answers for zeros. */
__device__ __noinline__ static unsigned int product(unsigned int a, unsigned int b, int form)
{
    unsigned int sign = (a ^ b) & SIGN, x = a & ~SIGN, y = b & ~SIGN, least = form == FLUSH ? NORMAL : 1u;
    int zero = x < least || y < least, infinite = x == INFINITY_ || y == INFINITY_;
    long long total;
    if (x > INFINITY_ || y > INFINITY_ || (zero && infinite)) return QUIET;
    if (zero) return sign;
    if (infinite) return sign | INFINITY_;
    total = logarithm(x) + logarithm(y) - (long long)ONE;
    if (form == CORRECTED) {  /* of 1 + f and 1 + g, moved to e + h */
        unsigned int one = ONE | (unsigned int)(logarithm(x) & FRACTION), other = ONE | (unsigned int)(logarithm(y) & FRACTION);
        unsigned int u, v, other_u, other_v;
        total -= (long long)(one + other - ONE);
        rests(one, &u, &v);
        rests(other, &other_u, &other_v);
        total += (long long)pattern(corrected(one, u, v, other, other_u, other_v));
    }
    if (total >= (long long)INFINITY_) return sign | INFINITY_;
    if (total >= (long long)NORMAL) return sign | (unsigned int)total;
    return form == FLUSH ? sign : sign | gradual(total);
}

/* C (batch, n, m), contiguous, from A and B of any strides, in numbers; where each matrix of A and B begins is in starts. */
extern "C" __global__ void mitchell_matmul(
    const unsigned int *a, const unsigned int *b, float *c, const long long *starts, int n, int m, int depth,
    long long a_row, long long a_step, long long b_step, long long b_column, int form)
{
    __shared__ unsigned int rows[STEPS][TILE + 1];
    __shared__ unsigned int columns[STEPS][TILE + 1];
    /* smallest and sum of two patterns, of numbers whose products are sums of patterns */
    const unsigned int least = form == CORRECTED ? NORMAL + REST : NORMAL;
    const unsigned int lowest = form == CORRECTED ? ONE + NORMAL + 2u * REST : ONE + NORMAL;
    const unsigned int beyond = form == CORRECTED ? ONE + INFINITY_ - NORMAL : ONE + INFINITY_;
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
            if (!(low_x >= least && low_y >= least && high_x < INFINITY_ && high_y < INFINITY_ && low_x + low_y >= lowest
                  && high_x + high_y < beyond)) {
#pragma unroll
                for (i = 0; i < LINES; i++)
#pragma unroll
                    for (j = 0; j < LINES; j++) total[i][j] = __fadd_rn(total[i][j], number(product(x[i], y[j], form)));
            } else if (form != CORRECTED) {
#pragma unroll
                for (i = 0; i < LINES; i++)
#pragma unroll
                    for (j = 0; j < LINES; j++) total[i][j] = __fadd_rn(total[i][j], number(x[i] + y[j] - ONE));
            } else {
                unsigned int u[LINES], v[LINES], other_u[LINES], other_v[LINES];
#pragma unroll
                for (i = 0; i < LINES; i++) {
                    rests(x[i], &u[i], &v[i]);
                    rests(y[i], &other_u[i], &other_v[i]);
                }
#pragma unroll
                for (i = 0; i < LINES; i++)
#pragma unroll
                    for (j = 0; j < LINES; j++)
                        total[i][j] = __fadd_rn(total[i][j], corrected(x[i], u[i], v[i], y[j], other_u[j], other_v[j]));
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
def _kernel() -> Any:
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


def _launch(a: Array, b: Array, pairs: int, form: str) -> tuple[tuple[int, int, int], list[Any]]:
    """The blocks of threads; and the kernel's whole numbers: n, m, depth, the strides in numbers, and the form."""
    (n, depth), m = a.shape[-2:], b.shape[-1]
    strides = [np.int64(step // 4) for step in (*a.strides[-2:], *b.strides[-2:])]
    return (-(-m // TILE), -(-n // TILE), pairs), [
        np.int32(n),
        np.int32(m),
        np.int32(depth),
        *strides,
        np.int32(FORMS.index(form)),
    ]


def _parts(pairs: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Which matrices, and which of their n rows, each launch computes: parts of the product that are contiguous."""
    rows = TILES * TILE
    step = PAIRS if n <= rows else 1
    for first in range(0, pairs, step):
        for row in range(0, n, rows):
            yield slice(first, first + step), slice(row, row + rows)


@rounded_once
def _product(a: Array, b: Array, stacks: tuple[int, ...], form: str) -> Array:
    import cupy

    starts = np.stack([_beginnings(x, stacks) for x in (a, b)], axis=1)
    c = cupy.empty((len(starts), a.shape[-2], b.shape[-1]), np.float32)
    for pairs, rows in _parts(len(starts), a.shape[-2]) if c.size else ():
        some, lines = c[pairs, rows], a[..., rows, :]  # views, whose strides are those of `c` and `a`
        grid, numbers = _launch(lines, b, len(some), form)
        _kernel()(grid, (THREADS, THREADS, 1), (lines, b, some, cupy.asarray(starts[pairs]), *numbers))
    return c.reshape(*stacks, *c.shape[1:])


def _check_kernel(a: Array, form: str) -> None:
    """Raise DtypeError or ConfigError where there is no kernel."""
    remedy = "use refimpl.mitchell.matmul, the definition, which runs on a GPU too"
    dtypes = ("float16", "bfloat16", "float32")
    if str(a.dtype) not in dtypes:
        expected = ", ".join(dtypes)
        raise DtypeError("no kernel for this dtype", where="matmul", expected=expected, got=a.dtype, remedy=remedy)
    if form not in FORMS:
        expected = ", ".join(FORMS)
        raise ConfigError(
            "no kernel for this dialect", where="matmul", expected=expected, got=repr(form), remedy=remedy
        )


def matmul(
    a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False, out: Array | None = None
) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
    """C_ij = Σ_k P(a_ik, b_kj) of CuPy arrays: `refimpl.inference.mitchell.matmul` calls this, after it has checked the shapes.

    Parameters
    ----------
    a, b : CuPy arrays, (..., n, k) and (..., k, m), of one dtype: float16, bfloat16 or float32
    dialect : "ieee" or "flush"
    corrected : whether P is `refimpl.mitchell.corrected_multiply`, which has the dialect "ieee" alone
    out : CuPy array, (..., n, m), of their dtype, to write the product to

    Returns
    -------
    CuPy array, (..., n, m), or `out`

    Raises
    ------
    DtypeError, ConfigError
        if this dtype or this dialect has no kernel.
    """
    form = "corrected" if corrected else dialect
    _check_kernel(a, form)
    answer = _product(a, b, np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), form)
    if out is None:
        return answer
    out[...] = answer
    return out
