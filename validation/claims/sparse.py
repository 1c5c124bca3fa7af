"""Claims SPARSE-1 to SPARSE-4: softmax over the k largest entries, and its cross-entropy.

p_i = exp(s_i) / Σ_{j in T} exp(s_j) for i in T, 0 elsewhere;  loss = log Σ_{j in T} exp(s_j) - s_t;  T the k largest, lower index first among equals.

Which entries are kept depends on the order of the entries alone, equal ones included. There are 1, 3, 13, 75, 541 such *weak orders* of 1 to 5
entries, so a statement about T can be checked for all vectors of up to five entries. Everything else in these claims is a rational identity or
inequality in the positive numbers w_i = exp(s_i), and is checked in exact fractions.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

import weights_io
from refimpl import softmax
from validation import components, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "J. Su, Scientific Spaces 8046 (2021), SPACES, section on sparse softmax; github.com/bojone/SPACES"
LONGEST = 5
ORDERS = (1, 3, 13, 75, 541)  # weak orders of 1..5 entries (the Fubini numbers): checked below, not assumed


@functools.cache
def _weak_orders(n: int) -> Any:  # -> float64 (orders, n)
    """Every weak order of n entries once, as the ranks 0, 1, ... of its entries without gaps."""
    ranks = [row for row in itertools.product(range(n), repeat=n) if set(row) == set(range(max(row) + 1))]
    return np.array(ranks, dtype=np.float64)


def _largest(row: Any, k: int) -> list[int]:
    """The k largest entries of a row by sorting pairs (value, index), the lower index first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


def _on_balls(rows: Any) -> Any:
    return truth.balls(np.asarray(rows, dtype=np.float64))


def _close(left: Any, right: Any, below: float = 1e-60) -> bool:
    """Whether every pair of balls meets, and their difference is known to `below`."""
    gaps = np.ravel(left - right)
    return all(gap.contains(0) and bool(gap.abs_upper() < below) for gap in gaps)


def _sorts_as_promised(setting: Setting, rows: Any) -> bool:
    """Whether the library's descending argsort is a stable order of each row, and an argsort of that its inverse."""
    xp = setting.backend.xp
    order = xp.argsort(setting.backend.asarray(rows), axis=-1, descending=True, stable=True)
    order, back = (setting.backend.to_numpy(each) for each in (order, xp.argsort(order, axis=-1, stable=True)))
    values, places = np.take_along_axis(rows, order, axis=-1), np.broadcast_to(np.arange(rows.shape[-1]), rows.shape)
    falls = values[:, :-1] > values[:, 1:]
    stable = (values[:, :-1] == values[:, 1:]) & (order[:, :-1] < order[:, 1:])
    permutes = np.array_equal(np.sort(order, axis=-1), places)
    return (
        bool(np.all(falls | stable)) and permutes and np.array_equal(np.take_along_axis(order, back, axis=-1), places)
    )


@claim(
    "SPARSE-1",
    "sparse softmax sums to 1; min(k, n) entries are kept (the largest; equal ones by lower index), others are 0; k >= n is softmax, k = 1 one-hot",
    source=SOURCE,
    method="every n, no NaN or +inf: Σ_T w_i / Σ_T w_i = 1 for any T; a stable descending argsort is the one order in which i comes before j if "
    "x_i > x_j, or x_i = x_j and i < j (the array API standard's contract); T is its first k, put back by the sort of that permutation, its inverse; "
    "k >= n: every selection takes its first branch, which leaves softmax; k = 1: e⁰/e⁰. Floats: k - 1 additions that are not of 0, one division: "
    "(ku)/(1 - ku). Rests on the library's sort: contract and inverse checked for the 633 weak orders of up to 5 entries, and rows of 17 to 40,000 "
    "with many ties, where libraries change their algorithm. Besides, the source: its T for every k, balls, sums, bits",
    expected="proved",
    cases=sum(count * (n + 2) for n, count in enumerate(ORDERS)) * 3 + 3 * 4 * 20 + 633 + 4 * 5,
)
def _distribution(setting: Setting) -> Outcome:
    cases, worst, shown = 0, 0.0, ""
    ties = [
        np.random.default_rng(setting.seed).integers(0, 4, (5, n)).astype(np.float64) for n in (17, 64, 1000, 40_000)
    ]
    for rows in (*map(_weak_orders, range(1, LONGEST + 1)), *ties):
        cases += len(rows)
        if not _sorts_as_promised(setting, rows):
            return Outcome(
                "refuted", cases, f"the library's stable sort is not one of rows of {rows.shape[-1]} entries"
            )
    for n in range(1, LONGEST + 1):
        rows = _weak_orders(n)
        for k in range(1, n + 2):
            wanted = np.array([[i in _largest(row, k) for i in range(n)] for row in rows])
            with truth.precision(256):
                p = softmax.sparse_softmax(_on_balls(rows), k)
                whole = k < n or _close(p, softmax.softmax(_on_balls(rows)))
                right = _close(p.sum(axis=-1), np.full(len(rows), flint.arb(1))) and whole
                kept = np.array([[not ball.contains(0) for ball in row] for row in p])
                right &= all(ball.is_zero() for ball in p[~wanted])
            cases += len(rows)
            if not right or not np.array_equal(kept, wanted):
                return Outcome("refuted", cases, f"on balls, n = {n}, k = {k}")
            for dtype in ("float32", "float64"):
                x = setting.backend.asarray(rows.astype(dtype))
                q = setting.backend.to_numpy(softmax.sparse_softmax(x, k))
                same = k < n or np.array_equal(q, setting.backend.to_numpy(softmax.softmax(x)))
                if k == 1:
                    same &= np.array_equal(q, wanted)
                ku = min(k, n) * tolerance.roundoff(dtype)  # k - 1 additions that are not of a zero, and a division
                gap = max(abs(math.fsum(row) - 1) for row in q.astype(np.float64)) / (ku / (1 - ku))
                worst, shown = max(
                    (worst, shown), (gap, f"{dtype}, n = {n}, k = {k}: |Σp - 1| is {gap:.2g} of its bound")
                )
                cases += len(rows)
                if not (same and gap <= 1 and np.array_equal(q > 0, wanted)):
                    return Outcome("refuted", cases, f"{dtype}, n = {n}, k = {k}")
    rng = np.random.default_rng(setting.seed)
    for n in (17, 64, 1000):
        for k in (1, 2, n // 2, n - 1):
            rows = rng.integers(0, 4, (20, n)).astype(np.float64)
            wanted = np.array([[i in kept for i in range(n)] for kept in (_largest(row, k) for row in rows)])
            kept = setting.backend.to_numpy(softmax.top_k_selection(setting.backend.asarray(rows), k))
            cases += len(rows)
            if not np.array_equal(kept, wanted):
                return Outcome("refuted", cases, f"rows of {n} entries with ties, k = {k}")
    return Outcome("proved", cases, shown, worst)


def _all_that_reach(row: Any, k: int) -> list[int]:
    """A threshold instead of a choice: every entry that is no smaller than the k-th largest."""
    least = row[_largest(row, k)[-1]]
    return [i for i, value in enumerate(row) if value >= least]


def _over(row: Any, kept: list[int]) -> Any:  # -> float64 (n,)
    """exp(x_i) / Σ exp(x_j) over the kept entries, 0 elsewhere; enclosed, and rounded."""
    weights = {i: flint.arb(float(row[i])).exp() for i in kept}
    total = sum(weights.values(), flint.arb(0))
    return np.array([float(weights[i] / total) if i in weights else 0.0 for i in range(len(row))])


@claim(
    "SPARSE-1.x-transformers",
    "sparse softmax as x-transformers 2.31.10 has it (sparse_topk_attn) keeps k entries of every row",
    source="x-transformers 2.31.10, attend.py, sparse_topk_attn; its parameter is the number of entries to keep",
    method="its recorded answers, k = 3, 9 rows of 16: they are softmax over every entry that is no smaller than the k-th largest, to 1e-12 of 1 "
    "(enclosed); in 6 rows without ties these are the k largest, in rows of small whole numbers up to 7 entries tie with or exceed the third, and "
    "softmax over the k largest is something else",
    expected="refuted",
    cases=9 * 16,
)
def _ties_are_kept(setting: Setting) -> Outcome:
    recorded = dict(weights_io.open(components.RECORDED / "x_transformers" / "answers.safetensors"))
    rows, answers, counts, apart = recorded["topk_x"], recorded["topk_3"], list[int](), 0.0
    with truth.precision(128):
        for row, theirs in zip(rows, answers, strict=True):
            off = float(np.max(np.abs(theirs - _over(row, _all_that_reach(row, 3)))))
            counts.append(int(np.count_nonzero(theirs)))
            if not off <= 1e-12 or counts[-1] != len(_all_that_reach(row, 3)):
                return Outcome("not refuted", rows.size, f"row {len(counts)}: {off:.1e} from the rule of a threshold")
            ours = setting.backend.to_numpy(softmax.sparse_softmax(setting.backend.asarray(row), 3))
            apart = max(apart, float(np.max(np.abs(theirs - ours))))
    if counts[:6] != 6 * [3] or max(counts) <= 3 or not apart > 0.1:
        return Outcome("not refuted", rows.size, f"entries kept: {counts}; {apart:.1e} apart")
    tied = f"k = 3 keeps {', '.join(map(str, counts[6:]))} entries of three rows with ties"
    return Outcome("refuted", rows.size, f"{tied}; {apart:.2g} from softmax over the 3 largest")


def _rows_of_every_size(rng: np.random.Generator, count: int, n: int) -> Any:  # -> float64 (count, n)
    """Rows with ties, of every magnitude from 1e-4 to 1e4."""
    sizes = 10.0 ** rng.uniform(-4, 4, (count, 1))
    return sizes * np.where(rng.random((count, 1)) < 0.5, rng.normal(size=(count, n)), rng.integers(-2, 3, (count, n)))


@claim(
    "SPARSE-2",
    "the loss log Σ_{j in T} exp(s_j) - s_t is >= 0, also when the target is outside the k largest, also in floating point (no logit NaN or "
    "+inf, one of them finite)",
    source=SOURCE,
    method="exp(loss) = Σ_{j in T} exp(s_j - s_t) has a term exp(s_i - s_t) >= 1 if some i in T has s_i >= s_t: checked for all weak orders of up to "
    "5 entries, every k and t, with the source's own T; in floats the source adds log of a sum that is >= 1 and a difference "
    "c - s_t >= 0 (given a log that is not negative from 1 on); searched on 40,000 rows of sizes 1e-4 to 1e4 in two dtypes",
    expected="proved",
    cases=sum(count * (n + 1) * (n + 2) for n, count in enumerate(ORDERS)) + 80_000,
)
def _loss_is_not_negative(setting: Setting) -> Outcome:
    cases, least = 0, math.inf
    for n in range(1, LONGEST + 1):
        rows = _weak_orders(n)
        for k in range(1, n + 2):
            kept = setting.backend.to_numpy(softmax.top_k_selection(setting.backend.asarray(rows), k))
            for t in range(n):
                cases += len(rows)
                if not np.all(np.any(kept & (rows >= rows[:, t : t + 1]), axis=-1)):
                    return Outcome("refuted", cases, f"n = {n}, k = {k}: nothing kept reaches the target {t}")
    rng = np.random.default_rng(setting.seed)
    for n, dtype in itertools.product((2, 3, 8, 40), ("float32", "float64")):
        x = setting.backend.asarray(_rows_of_every_size(rng, 10_000, n).astype(dtype))
        t = setting.backend.asarray(rng.integers(0, n, 10_000))
        for part, k in enumerate((1, 2, 3, n, n + 1)):
            rows = slice(2_000 * part, 2_000 * (part + 1))
            loss = setting.backend.to_numpy(softmax.sparse_softmax_cross_entropy(x[rows], t[rows], k))
            cases, least = cases + loss.size, min(least, float(np.min(loss)))
            if not np.all(loss >= 0):
                row = int(np.argmin(loss >= 0))
                return Outcome(
                    "refuted", cases, f"{dtype}, k = {k}: loss {loss[row]} for {x[rows][row]}, target {t[rows][row]}"
                )
    return Outcome("proved", cases, f"smallest loss found: {least:.3g}")


def _weights(longest: int = 4) -> Iterator[tuple[int, ...]]:
    """All vectors w of 2 to `longest` whole numbers from 1 to 4."""
    for n in range(2, longest + 1):
        yield from itertools.product(range(1, 5), repeat=n)


@claim(
    "SPARSE-3",
    "the total variation ½ Σ |p_i - q_i| between sparse softmax p and softmax q is q's mass outside the k largest",
    source=SOURCE,
    method="p_i >= q_i in T, where p_i - q_i sums to 1 - q(T), and p_i = 0 outside; exact fractions p, q for all w in {1..4}^n, n = 2..4, every "
    "k; the source on balls, 60 rows",
    expected="proved",
    cases=sum(4**n * n for n in (2, 3, 4)) + 60,
)
def _total_variation(setting: Setting) -> Outcome:
    cases, half = 0, Fraction(1, 2)
    for w in _weights():
        for k in range(1, len(w) + 1):
            kept = np.asarray(softmax.top_k_selection(np.array(w, np.float64), k)).tolist()
            inside = sum(a for a, keep in zip(w, kept, strict=True) if keep)
            p = [Fraction(a, inside) if keep else Fraction(0) for a, keep in zip(w, kept, strict=True)]
            q = [Fraction(a, sum(w)) for a in w]
            variation = half * sum((abs(a - b) for a, b in zip(p, q, strict=True)), Fraction(0))
            cases += 1
            if variation != 1 - Fraction(inside, sum(w)):
                return Outcome("refuted", cases, f"exp(s) = {w}, k = {k}: {variation}")
    rng, widest = np.random.default_rng(setting.seed), 0.0
    with truth.precision(320):
        for n, k in itertools.product((2, 3, 5, 9, 17, 33), (1, 2, 3, 4, 10)):
            for row in _rows_of_every_size(rng, 2, n) / 100:
                x = _on_balls(row[None, :])
                p, q, kept = softmax.sparse_softmax(x, k), softmax.softmax(x), softmax.top_k_selection(x, k)
                gap = abs(p - q).sum() / 2 - (q * ~kept).sum()
                cases, widest = cases + 1, max(widest, float(gap.abs_upper()))
                if not gap.contains(0) or widest > 1e-60:
                    return Outcome("refuted", cases, f"s = {row.tolist()}, k = {k}: difference {gap}")
    return Outcome("proved", cases, f"on balls both sides agree to {widest:.1e}")


def _spread_forces(w: tuple[int, ...], k: int, t: int) -> tuple[bool, bool]:
    """Whether (k - 1) w_min/w_max <= exp(loss) - 1 for w = exp(s), min and max over T, and whether with equality.

    exp(loss) = Σ_{j in T} w_j/w_t. If t is in T, its own term is 1 and each of the others is at least w_min/w_max. If not, each term is at least 1.
    """
    kept = _largest(w, k)
    terms = [Fraction(w[j], w[t]) for j in kept if j != t]
    smallest = Fraction(min(w[j] for j in kept), max(w))
    argument = all(term >= (smallest if t in kept else 1) for term in terms)
    left, right = (len(kept) - 1) * smallest, sum(terms, Fraction(0)) - (t not in kept)
    return argument and left <= right, left == right


def _extremal(n: int, k: int, eps: Any) -> Any:  # -> object (n,)
    """The logits with equality: the target first, higher than all others by R = log(k - 1) - log(exp(eps) - 1), k - 1 equal ones, the rest below."""
    spread = flint.arb(k - 1).log() - (eps.exp() - 1).log()
    return np.array([spread] + [flint.arb(0)] * (k - 1) + [flint.arb(-1)] * (n - k), dtype=object)


EPSILONS = (Fraction(1, 2), Fraction(1, 10), Fraction(1, 1000), Fraction(1, 2**40))
SIZES = ((2, 2), (3, 2), (3, 3), (10, 3), (10, 10), (64, 10), (64, 64))


@claim(
    "SPARSE-4",
    "softmax cross-entropy <= eps forces s_max - s_min >= log(n-1) - log(e^eps - 1), n >= 2; top-k loss <= eps forces the same with k "
    "for n, among the k largest, 2 <= k <= n; both bounds are attained for every 0 < eps <= log n, or log k",
    source=SOURCE,
    method="termwise: e^loss - 1 >= (k-1) e^(s_min - s_max) over T, and log(e^eps - 1) increases; exact fractions for all w in {1..4}^n, n = 2..4, "
    "every k >= 2 (k = n is softmax) and t; equality exactly where t is the maximum and all others of T are equal; the source on "
    "balls at the constructed equality: loss = eps, for 7 pairs n, k and 4 eps",
    expected="proved",
    cases=sum(4**n * n * (n - 1) for n in (2, 3, 4)) + len(SIZES) * len(EPSILONS),
)
def _spread(setting: Setting) -> Outcome:
    cases, equalities, widest = 0, 0, 0.0
    for w in _weights():
        for k, t in itertools.product(range(2, len(w) + 1), range(len(w))):
            holds, equal = _spread_forces(w, k, t)
            others = {w[j] for j in _largest(w, k) if j != t}
            extremal = t in _largest(w, k) and w[t] == max(w) and len(others) == 1
            outside = (
                t not in _largest(w, k) and len({*others, w[t]}) == 1
            )  # a target equal to all of T is as good as in it
            cases, equalities = cases + 1, equalities + equal
            if not holds or equal != (extremal or outside):
                return Outcome("refuted", cases, f"exp(s) = {w}, k = {k}, target {t}")
    with truth.precision(512):
        for (n, k), fraction in itertools.product(SIZES, EPSILONS):
            eps, target = flint.arb(fraction.numerator) / fraction.denominator, np.array([0])
            logits = _extremal(n, k, eps)[None, :]
            gaps = [softmax.sparse_softmax_cross_entropy(logits, target, k)[0] - eps]
            gaps += [-softmax.log_softmax(logits)[0, 0] - eps] if k == n else []
            cases, widest = cases + 1, max(widest, *(float(gap.abs_upper()) for gap in gaps))
            if not all(gap.contains(0) for gap in gaps) or widest > 1e-60:
                return Outcome("refuted", cases, f"n = {n}, k = {k}, eps = {fraction}: loss - eps = {gaps}")
    return Outcome("proved", cases, f"attained in {equalities} of the exact cases; on balls to {widest:.1e}", 1.0)
