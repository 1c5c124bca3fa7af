"""Claims HIERPOS-1 to HIERPOS-5: more positions from a trained table, by hierarchical decomposition.

u_i = (p_i - α p_1)/(1 - α),    q_{(i-1)n+j} = α u_i + (1-α) u_j;    here i and j are counted from 0

HIERPOS-2.minilm, HIERPOS-4.minilm and HIERPOS-5 need all-MiniLM-L6-v2, and are not run where its package is not installed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import operator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

import refimpl
from refimpl import bert, positions
from refimpl.errors import ConfigError
from refimpl.parameters import Norm
from refimpl.pooling import mean_pooling, unit_length
from validation import components, dependence, installed, truth
from validation.claims.registry import Outcome, Setting, claim

SOURCE = "Su Jianlin, Hierarchical decomposition of position embeddings, kexue.fm/archives/7947 (2020)"
ALPHAS = [Fraction(2, 5), Fraction(0.4), Fraction(1, 3), Fraction(-3, 2), Fraction(7, 4)]
EMBEDDED = "tang"
RELATIVE = 1e-12  # of the largest magnitude: what answers in float64 are held to, here as in `validation.peers`
DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64))
Row = tuple[Fraction, ...]


def _exact_row(table: list[Row], i: int, j: int, alpha: Fraction) -> Row:
    """q_{in+j} in rational arithmetic, by the formula."""
    first, u = (
        table[0],
        {k: [(p - alpha * p1) / (1 - alpha) for p, p1 in zip(table[k], table[0], strict=True)] for k in (i, j)},
    )
    return tuple(alpha * u[i][c] + (1 - alpha) * u[j][c] for c in range(len(first)))


def _rational(table: Any) -> list[Row]:
    return [tuple(Fraction(float(value)) for value in row) for row in table]


def _embedded_table() -> Any:
    return refimpl.load(EMBEDDED, backend="numpy", dtype="float32").weights.position_embedding


def _minilm(setting: Setting, dtype: str) -> Any:
    folder = installed.minilm()
    return None if folder is None else refimpl.load(folder, backend=setting.backend.name, dtype=dtype)


NOT_INSTALLED = Outcome("not run", 0, f"the package {installed.MINILM} is not installed: {installed.INSTALL}")


def _awkward_table(dtype: Any) -> Any:
    """Rows of ordinary numbers, signed zeros, the smallest and the largest numbers of a dtype."""
    info = ml_dtypes.finfo(dtype)
    edges = [0.0, -0.0, float(info.smallest_subnormal), float(info.smallest_normal), float(info.max) / 4, 1.0]
    rows = np.random.default_rng(0).normal(size=(10, len(edges)))
    return np.concatenate([rows, [edges, edges[::-1]]]).astype(dtype)


@claim(
    "HIERPOS-1",
    "q_j = p_j for j <= n; and the first n rows that are computed are bitwise the table",
    source=SOURCE,
    method="every table and α: u_1 = p_1, so q_j = α p_1 + (p_j - α p_1); both sides are linear in the p and (times 1-α) quadratic in α, so that "
    "unit vectors p_1, p_j (or p_1 alone, j = 1) and three α decide it, exactly; definition on balls around the rationals; bitwise in four dtypes",
    expected="proved",
    cases=2 * 5 + 5 * 49 + 4 * 12 + 128,
)
def _first_rows(setting: Setting) -> Outcome:
    cases, units = 0, [(Fraction(1), Fraction(0)), (Fraction(0), Fraction(1))]
    for alpha, j in itertools.product(ALPHAS, range(2)):
        cases += 1
        if _exact_row(units, 0, j, alpha) != units[j]:
            return Outcome("refuted", cases, f"α = {alpha}, j = {j}")
    table, widest = np.random.default_rng(setting.seed).integers(-99, 99, (7, 3)) / 16, 0.0
    with truth.precision(256):
        for alpha in ALPHAS:
            made = positions.hierarchical_positions(truth.balls(table), np.arange(49), alpha)
            for t, row in enumerate(made):
                cases += 1
                exact = _exact_row(_rational(table), t // 7, t % 7, alpha)
                gaps = [ball * value.denominator - value.numerator for ball, value in zip(row, exact, strict=True)]
                widest = max(widest, *(float(gap.abs_upper()) for gap in gaps))
                if not all(gap.contains(0) for gap in gaps) or not widest < 1e-40:
                    return Outcome("refuted", cases, f"α = {alpha}, position {t}: {row} is not {exact}")
    tables = [_awkward_table(dtype) for dtype in DTYPES if setting.backend.name == "numpy" or dtype != DTYPES[1]]
    for given in [*tables, _embedded_table()]:
        kept = setting.backend.asarray(given)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # rows that are not looked at, of tables up to the largest number
            made = setting.backend.to_numpy(
                positions.hierarchical_positions(kept, setting.backend.xp.arange(len(given)))
            )
        cases += len(given)
        if made.tobytes() != given.tobytes():
            return Outcome("refuted", cases, f"{given.dtype}: a bit of the first {len(given)} rows differs")
    cases += 12 * (len(DTYPES) + 1 - len([*tables, None]))  # bfloat16, where the backend has it
    return Outcome("proved", cases, f"balls agree with rationals to {widest:.0e}; no bit of any table differs")


@claim(
    "HIERPOS-1.formula",
    "evaluated in floating point, the formula gives back the first n rows bit for bit",
    source="implied by the published code, which computes them",
    method="the embedded model's table in float32 and float64, α = 0.4: α u_1 + (1-α) u_j compared with p_j",
    expected="refuted",
    cases=2 * 128 * 192,
)
def _formula_rounds(setting: Setting) -> Outcome:
    shown, cases = [], 0
    for dtype in (np.float32, np.float64):
        table, alpha = _embedded_table().astype(dtype), 0.4
        u = (table - alpha * table[:1]) / (1 - alpha)
        differ = alpha * u[:1] + (1 - alpha) * u != table
        cases += table.size
        if not differ.any():
            return Outcome("not refuted", cases, f"{np.dtype(dtype)}")
        shown.append(f"{np.dtype(dtype)}: {int(differ.sum())} of {table.size} numbers differ in their last bits")
    return Outcome("refuted", cases, "; ".join(shown))


def _difference(a: tuple[int, int], b: tuple[int, int]) -> list[tuple[int, int]]:
    """Barycentric coordinates of α u_i + (1-α) u_j minus α u_k + (1-α) u_l over u_0 .. u_3, each as c + e α."""
    (i, j), (k, m) = a, b
    return [((j == r) - (m == r), (i == r) - (j == r) - (k == r) + (m == r)) for r in range(4)]


def _common_roots(lines: list[tuple[int, int]]) -> set[Fraction] | None:
    """All α at which every c + e α is 0; None where that is every α."""
    roots = [None if (c, e) == (0, 0) else set() if e == 0 else {Fraction(-c, e)} for c, e in lines]
    some = [each for each in roots if each is not None]
    return set.intersection(*some) if some else None


@claim(
    "HIERPOS-2",
    "n vectors yield n² positions: all distinct, if the u are affinely independent (possible only for n <= d + 1) and α is not 0, 1/2 or 1",
    source=SOURCE,
    method="affinely independent vectors have unique barycentric coordinates, and two pairs (i, j), (k, l) involve at most four of them: for "
    "all 120 pairs of pairs out of four, the α at which the coordinates agree are computed exactly, and lie in {0, 1/2, 1}; n <= d + 1 since n - 1 "
    "differences are independent in d dimensions",
    expected="proved",
    cases=120,
)
def _distinct(setting: Setting) -> Outcome:
    cases, found = 0, set()
    for a, b in itertools.combinations(list(itertools.product(range(4), repeat=2)), 2):
        roots, cases = _common_roots(_difference(a, b)), cases + 1
        if roots is None or not roots <= {0, Fraction(1, 2), 1}:
            return Outcome("refuted", cases, f"positions {a} and {b} coincide for α in {roots}")
        found |= roots
    return Outcome("proved", cases, f"the excluded α that do make rows coincide: {', '.join(map(str, sorted(found)))}")


def _as_integers(table: Any) -> list[list[int]]:
    """The table times a power of two: whole numbers, exactly."""
    rows = _rational(table)
    scale = max(value.denominator for row in rows for value in row)  # denominators of floats are powers of two
    return [[int(value * scale) for value in row] for row in rows]


def _distinct_rows(table: Any, alpha: Fraction, most: int) -> int:
    """How many of the n² rows α u_i + (1-α) u_j differ, exactly: as many as a p_i + (b-a) p_j, α = a/b, by an invertible affine map.

    Rows that differ in their first columns differ: more columns are looked at until `most` rows, which cannot be exceeded, are told apart.
    """
    a, b, whole, columns, found = alpha.numerator, alpha.denominator, _as_integers(table), 1, 0
    while found < most and columns < 4 * table.shape[1]:
        parts = [([a * x for x in row[:columns]], [(b - a) * x for x in row[:columns]]) for row in whole]
        found = len({tuple(map(operator.add, p, q)) for p, _ in parts for _, q in parts})
        columns *= 4
    return found


def _distinct_values(rows: Any) -> int:
    """How many rows of a floating table differ as numbers: 0.0 and -0.0 are one, and a row that is not finite is none."""
    return len({tuple(row) for row in rows[np.isfinite(rows).all(axis=-1)].tolist()})


def _rank_at_least(rows: Any, prime: int = 2**31 - 1) -> int:
    """The rank of whole numbers modulo a prime, which their rank over the rationals cannot be below."""
    left, rank = np.array([[value % prime for value in row] for row in rows], dtype=np.int64), 0
    for column in range(left.shape[1]):
        pivots = np.nonzero(left[rank:, column])[0]
        if len(pivots):
            left[[rank, rank + pivots[0]]] = left[[rank + pivots[0], rank]]
            scaled = left[rank] * pow(int(left[rank, column]), -1, prime) % prime
            left[rank + 1 :] = (left[rank + 1 :] - left[rank + 1 :, column : column + 1] * scaled % prime) % prime
            rank += 1
    return rank


@claim(
    "HIERPOS-2.embedded",
    "all n² positions of the embedded model's table are distinct, at every α but 0, 1/2 and 1; and so are those that float32 computes at 0.4",
    source="this project: the position table of the embedded model, n = 128",
    method="the 127 differences to the first row have rank 127 modulo a prime, hence over the rationals: HIERPOS-2 applies; independently, all "
    "128² rows in whole numbers (the table times a power of two) at α = 0.4 (the double) and 2/5, counted; all float32 rows as numbers (0.0 is -0.0)",
    expected="proved",
    cases=3 * 128**2 + 128,
)
def _distinct_in_a_real_table(setting: Setting) -> Outcome:
    table = _embedded_table()
    n = len(table)
    for alpha in (Fraction(0.4), Fraction(2, 5)):
        found = _distinct_rows(table, alpha, n * n)
        if found != n * n:
            return Outcome("refuted", n * n, f"α = {alpha}: {found} of {n * n} rows are distinct")
    made = positions.hierarchical_positions(setting.backend.asarray(table), setting.backend.xp.arange(n * n))
    found = _distinct_values(setting.backend.to_numpy(made))
    whole = _as_integers(table)
    rank = _rank_at_least([[x - first for x, first in zip(row, whole[0], strict=True)] for row in whole[1:]])
    verdict = "proved" if found == n * n and rank == n - 1 else "refuted"
    return Outcome(
        verdict,
        3 * n * n + n,
        f"{found} distinct float32 rows; n = {n}, d = {table.shape[1]}, differences of rank {rank}",
    )


@claim(
    "HIERPOS-2.minilm",
    "where HIERPOS-2 does not apply, n > d + 1, too: all 512² positions of the table of all-MiniLM-L6-v2, d = 384, are distinct at α = 0.4, and so "
    "are those that float32 computes",
    source="this project: a trained encoder",
    method="all rows in whole numbers (the table times a power of two) at α = 0.4 (the double) and 2/5, counted; all float32 rows as numbers, by "
    "their first four columns, since rows that differ there differ",
    expected="proved",
    cases=3 * 512**2,
    needs=f"the package {installed.MINILM}",
)
def _distinct_beyond_independence(setting: Setting) -> Outcome:
    plain = _minilm(setting, "float32")
    if plain is None:
        return NOT_INSTALLED
    table = setting.backend.to_numpy(plain.weights.position_embedding)
    n, d = table.shape
    counts = [_distinct_rows(table, alpha, n * n) for alpha in (Fraction(0.4), Fraction(2, 5))]
    columns = setting.backend.asarray(np.ascontiguousarray(table[:, :4]))
    made = positions.hierarchical_positions(columns, setting.backend.xp.arange(n * n))
    counts.append(_distinct_values(setting.backend.to_numpy(made)))
    verdict = "proved" if n > d + 1 and counts == 3 * [n * n] else "refuted"
    return Outcome(
        verdict,
        3 * n * n,
        f"distinct rows: {counts[0]} at the double, {counts[1]} at 2/5, {counts[2]} in float32; n = {n}, d = {d}",
    )


@claim(
    "HIERPOS-2.any",
    "α = 0.4 gives n² distinct positions whatever the table, as long as its own rows are distinct",
    source="implied wherever it is used without a condition",
    method="exact counterexample at α = 2/5 with n = 4 > d + 1 = 2: p = 0, 1, 2, 3",
    expected="refuted",
    cases=16,
)
def _dependent_bases(setting: Setting) -> Outcome:
    table = [(Fraction(k),) for k in range(4)]
    seen: dict[Row, tuple[int, int]] = {}
    for i, j in itertools.product(range(4), repeat=2):
        row = _exact_row(table, i, j, Fraction(2, 5))
        if row in seen:
            return Outcome("refuted", 16, f"p = 0, 1, 2, 3: positions {seen[row]} and {(i, j)} are both {row[0]}")
        seen[row] = (i, j)
    return Outcome("not refuted", 16, "no two rows agree")


EXTREME = [Fraction(2) ** -40, 2.0**-20, Fraction(2, 5), 0.5 + 2.0**-20, 1 - 2.0**-20, 1 + 2.0**-40, -1e4, 2.0**20]


@claim(
    "HIERPOS-2.error",
    "computed as p_j + β (p_i - p_1), β = α/(1-α), each number is within u|q| + ((1+u)⁵ - 1) |β (p_i - p_1)| of q_{(i-1)n+j}, where nothing "
    "under- or overflows: rows in which two numbers are further apart than their two bounds stay distinct; and row (i, j) is p_j where the "
    "numbers that are added are at most u/2 of p_j",
    source="this project",
    method="every table and α: q = p_j + β (p_i - p_1) in exact algebra (unit vectors, as HIERPOS-1); β is rounded to a double and to the dtype, "
    "then the difference and the product, (1+u)⁴ in all, then the sum: u|q| and (1+u) times what it is given; u/2 of a number is at most half "
    "the distance to its neighbours, and a tie goes to the power of two; the source in float32 and float64 against rationals, eight α from "
    "2^-40 to 2^20",
    expected="proved",
    cases=3 * 5 + 2 * 8 * (49 - 7) * 3,
)
def _rounding_of_a_row(setting: Setting) -> Outcome:
    cases, tightest, shown = 0, Fraction(0), ""
    units = [tuple(Fraction(i == j) for j in range(3)) for i in range(3)]  # p_1, p_i, p_j
    for alpha, (i, j) in itertools.product(ALPHAS, ((1, 2), (0, 2), (1, 1))):
        beta, cases = alpha / (1 - alpha), cases + 1
        formula = tuple(x + beta * (y - z) for x, y, z in zip(units[j], units[i], units[0], strict=True))
        if _exact_row(units, i, j, alpha) != formula:
            return Outcome("refuted", cases, f"α = {alpha}: {formula}")
    for dtype, alpha in itertools.product((np.float32, np.float64), EXTREME):
        u, n, beta = Fraction(float(np.finfo(dtype).eps)) / 2, 7, Fraction(alpha) / (1 - Fraction(alpha))
        given = np.random.default_rng(setting.seed).normal(size=(n, 3)).astype(dtype)
        made = positions.hierarchical_positions(setting.backend.asarray(given), list(range(n * n)), alpha)
        table, found = _rational(given), _rational(setting.backend.to_numpy(made))
        for t, c in itertools.product(range(n, n * n), range(3)):
            own, added = table[t % n][c], beta * (table[t // n][c] - table[0][c])
            error = abs(found[t][c] - own - added) / (u * abs(own + added) + ((1 + u) ** 5 - 1) * abs(added))
            kept = abs(added) * (1 + u) ** 4 > u / 2 * abs(own) or found[t][c] == own
            cases += 1
            if error > tightest:
                tightest, shown = error, f"{np.dtype(dtype)}, α = {float(alpha):.7g}, row {t}"
            if not (error <= 1 and kept):
                return Outcome("refuted", cases, f"{np.dtype(dtype)}, α = {alpha}: {float(error):.3g} of the bound")
    return Outcome("proved", cases, shown, float(tightest))


@claim(
    "HIERPOS-2.rounded",
    "floating point keeps rows apart that are distinct, at every α that is accepted",
    source="HIERPOS-2 read as a statement on what is computed",
    method="the embedded table in float32, whose exact rows are distinct (HIERPOS-2.embedded): all rows are kept apart at 2^-24, 2^24, 1/2 + 2^-24 "
    "and 1 + 2^-24, and not at α = 2^-40, where the coarse index is lost, nor at 1 + 2^-40, where the fine one is; 2^-160, 1/2 + 2^-30, 2^30 and "
    "1 + 2^-160 are refused",
    expected="refuted",
    cases=6 * 128**2 + 4,
)
def _rows_lost_to_rounding(setting: Setting) -> Outcome:
    one, table = Fraction(1), setting.backend.asarray(_embedded_table())
    n = table.shape[0]
    accepted = [2**-24 * one, 2**24 * one, one / 2 + one / 2**24, 1 + one / 2**24, one / 2**40, 1 + one / 2**40]
    found, refused = [], 0
    for alpha in accepted:
        made = positions.hierarchical_positions(table, setting.backend.xp.arange(n * n), alpha)
        found.append(_distinct_values(setting.backend.to_numpy(made)))
    for alpha in (one / 2**160, one / 2 + one / 2**30, 2**30 * one, 1 + one / 2**160):
        try:
            positions.hierarchical_positions(table, [0], alpha)
        except ConfigError as error:
            refused += "cannot be told from" in str(error)
    lost = found[:4] == 4 * [n * n] and max(found[4:]) < n * n / 8 and refused == 4
    shown = f"{found[4]} of {n * n} rows at 2^-40, {found[5]} at 1 + 2^-40; all of them at 2^-24, 2^24, 1/2 + 2^-24, 1 + 2^-24"
    return Outcome("refuted" if lost else "not refuted", 6 * n * n + 4, shown)


@claim(
    "HIERPOS-3",
    "α = 1/2 makes positions (i, j) and (j, i) collide, in every table",
    source=SOURCE,
    method="α u_i + (1-α) u_j - α u_j - (1-α) u_i = (2α-1)(u_i - u_j): its coordinates over independent vectors are 0 at α = 1/2, exactly",
    expected="proved",
    cases=12,
)
def _half_collides(setting: Setting) -> Outcome:
    pairs = list(itertools.permutations(range(4), 2))
    for i, j in pairs:
        if _common_roots(_difference((i, j), (j, i))) != {Fraction(1, 2)}:
            return Outcome("refuted", len(pairs), f"{(i, j)}")
    return Outcome("proved", len(pairs), "and at no other α, if the vectors are independent")


@claim(
    "HIERPOS-3.half",
    "α = 1/2 serves as well as any other: n² distinct positions",
    source="the formula, which does not exclude it",
    method="exact counterexample on two independent vectors; on the embedded table, counted exactly; and the definition refuses α = 1/2",
    expected="refuted",
    cases=4 + 128**2,
)
def _half_refused(setting: Setting) -> Outcome:
    units = [(Fraction(1), Fraction(0)), (Fraction(0), Fraction(1))]
    one, other = _exact_row(units, 0, 1, Fraction(1, 2)), _exact_row(units, 1, 0, Fraction(1, 2))
    table = _embedded_table()
    n = len(table)
    found = _distinct_rows(table, Fraction(1, 2), n * (n + 1) // 2)
    try:
        positions.hierarchical_bases(setting.backend.asarray(table), 0.5)
    except ConfigError:
        refused = True
    else:
        refused = False
    if one != other or found != n * (n + 1) // 2 or not refused:
        return Outcome("not refuted", 4 + n * n, f"{one}, {other}; {found} rows; refused: {refused}")
    shown = ", ".join(map(str, one))
    return Outcome(
        "refuted",
        4 + n * n,
        f"p = (1, 0), (0, 1): positions 2 and 3 are both ({shown}); {found} = n(n+1)/2 of {n * n} embedded rows differ",
    )


def _extended(weights: Any, config: bert.BertConfig, to: int) -> tuple[bert.BertWeights, bert.BertConfig]:
    return positions.extend(weights, to=to), dataclasses.replace(config, max_position_embeddings=to)


NEW, TOKENS = np.uint64(1), np.uint64(2)  # tags of the rows from n on, and of the token ids


def _reads_new_rows(config: bert.BertConfig, arrays: dict[str, Any], ids: Any, length: int) -> tuple[int, bool]:
    """How many numbers the extended encoder answers with; whether one of them, or a branch, may depend on a row of the table from n on.

    Ids are tagged too, so that what is found holds for all of them: a branch on ids has to be a refusal that did not happen, one on new rows must
    not be there.
    """
    n = len(arrays["position_embedding"])
    longer, sizes = _extended(bert.BertWeights.from_named(arrays, config), config, n * n)
    new = np.where(np.arange(n * n) >= n, NEW, 0)[:, None]
    tagged = {
        name: dependence.traced(a, new if name == "position_embedding" else 0) for name, a in longer.named().items()
    }
    weights = bert.BertWeights.from_named(tagged, sizes)
    dependence.tagged_branches.clear()  # until here: the refusal of parameters that are not finite
    found = bert.encode(weights, sizes, dependence.traced(ids[:, :length], TOKENS))
    looked = any(branch.taken or branch.tags & int(NEW) for branch in dependence.tagged_branches)
    return found.tags.size, bool(np.any(found.tags & NEW)) or looked


ENCODER = 24 * 25 // 2 * 32  # numbers in x_L for every length from 1 to 24


@claim(
    "HIERPOS-4",
    "an encoder given at most n tokens returns bitwise what it returned before the extension to n² positions",
    source=SOURCE,
    method="the first n rows are bitwise the table (HIERPOS-1). Dependence traced through the recorded BERT (n = 24), each length 1..n, for all ids: "
    "no number it returns depends on any other row, and no branch looks at one, while n + 1 tokens do depend on one; so the same operations meet the "
    "same numbers. That a longer table changes no operation, before and after, every length 1..n in float32 and float64, bit for bit",
    expected="proved",
    cases=3 * ENCODER,
)
def _encoder_unchanged(setting: Setting) -> Outcome:
    config, arrays = components.recorded_bert("bert")
    n, cases = len(arrays["position_embedding"]), 0
    ids = np.random.default_rng(setting.seed).integers(0, config.vocab_size, (1, n + 1))
    for length in range(1, n + 1):
        size, reads = _reads_new_rows(config, arrays, ids, length)
        cases += size
        if reads:
            return Outcome("refuted", cases, f"{length} tokens: rows from {n} on are read")
    if not _reads_new_rows(config, arrays, ids, n + 1)[1]:
        return Outcome("not refuted", cases, f"the trace does not see that {n + 1} tokens read row {n}")
    for dtype in ("float32", "float64"):
        kept = {name: setting.backend.asarray(a.astype(dtype)) for name, a in arrays.items()}
        plain = bert.BertWeights.from_named(kept, config), config
        longer = _extended(*plain, n * n)
        for length in range(1, n + 1):
            given = setting.backend.asarray(ids[:, :length])
            before, after = (setting.backend.to_numpy(bert.encode(*model, given)) for model in (plain, longer))
            cases += before.size
            if before.tobytes() != after.tobytes():
                apart = np.abs(before - after).max()
                return Outcome("refuted", cases, f"{dtype}, {length} tokens: differ by {apart:.1e}")
    return Outcome("proved", cases, f"lengths 1 to {n}: no bit differs")


WHOLE = (1, 2, 3, 100, 512)  # tokens read by all six layers


class _Watched:
    """A model's weights that note which of their fields are read, in order."""

    def __init__(self, weights: bert.BertWeights) -> None:
        self.weights, self.reads = weights, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.reads.append(name)
        return getattr(self.weights, name)


def _table_is_read_before_the_layers(weights: bert.BertWeights, config: bert.BertConfig, ids: Any) -> bool:
    """Whether the encoder asks for the position table, but not again once it has asked for the layers."""
    watched: Any = _Watched(weights)
    bert.encode(watched, config, ids)
    first, reads = watched.reads.index("blocks"), watched.reads
    return "position_embedding" in reads[:first] and set(reads[first:]) == {"blocks"}


def _traced_embedding(weights: bert.BertWeights, n: int, to_numpy: Any) -> bert.BertWeights:
    """What x₀ is made of, rows of the position table from n on tagged; no layers."""
    table = to_numpy(weights.position_embedding)
    return weights._replace(
        token_embedding=dependence.traced(to_numpy(weights.token_embedding)),
        position_embedding=dependence.traced(table, np.where(np.arange(len(table)) >= n, NEW, 0)[:, None]),
        segment_embedding=dependence.traced(to_numpy(weights.segment_embedding)),
        embedding_norm=Norm(*(dependence.traced(to_numpy(part)) for part in weights.embedding_norm)),
        blocks=(),
    )


def _embedding_reads(weights: bert.BertWeights, config: bert.BertConfig, ids: Any) -> bool:
    """Whether x₀ of a traced embedding, or a branch on the way, may depend on a new row; for all ids, as in `_reads_new_rows`."""
    dependence.tagged_branches.clear()
    found = bert.encode(weights, config, dependence.traced(ids, TOKENS))
    looked = any(branch.taken or branch.tags & int(NEW) for branch in dependence.tagged_branches)
    return bool(np.any(found.tags & NEW)) or looked


@claim(
    "HIERPOS-4.minilm",
    "so does all-MiniLM-L6-v2: n = 512, extended to 4,096 positions",
    source="this project: a trained encoder",
    method="as HIERPOS-4: dependence traced through the embedding, for all ids of every length 1..512, finds no row from 512 on, while 513 tokens do "
    "read one; the layers are the same objects after extension, and once they are asked for, the encoder reads nothing else of the weights. That a "
    "longer table changes no operation: the embedding of every length 1..512 bit for bit in float32, the last layer of 1, 2, 3, 100 and 512 tokens",
    expected="proved",
    cases=(2 * 512 * 513 // 2 + sum(WHOLE)) * 384,
    needs=f"the package {installed.MINILM}",
)
def _minilm_unchanged(setting: Setting) -> Outcome:
    plain, cases = _minilm(setting, "float32"), 0
    if plain is None:
        return NOT_INSTALLED
    n, place, to_numpy = plain.config.max_position_embeddings, setting.backend.asarray, setting.backend.to_numpy
    models = [(plain.weights, plain.config), _extended(plain.weights, plain.config, 8 * n)]
    bare = [(weights._replace(blocks=()), config) for weights, config in models]  # x₀ alone
    ids = np.random.default_rng(setting.seed).integers(0, plain.config.vocab_size, (1, n + 1))
    longer, config = models[1]
    if longer.blocks is not plain.weights.blocks or not _table_is_read_before_the_layers(
        longer, config, place(ids[:, :3])
    ):
        return Outcome("refuted", cases, "the layers, or what they read, are not what they were")
    traced = _traced_embedding(longer, n, to_numpy)
    for length in range(1, n + 1):
        cases += length * plain.config.hidden_size
        if _embedding_reads(traced, config, ids[:, :length]):
            return Outcome("refuted", cases, f"{length} tokens: rows from {n} on are read")
    if not _embedding_reads(traced, config, ids):
        return Outcome("not refuted", cases, f"the trace does not see that {n + 1} tokens read row {n}")
    for pair, lengths in ((bare, range(1, n + 1)), (models, WHOLE)):
        for length in lengths:
            before, after = (to_numpy(bert.encode(*model, place(ids[:, :length]))) for model in pair)
            cases += before.size
            if before.tobytes() != after.tobytes():
                return Outcome("refuted", cases, f"{length} tokens: differ by {np.abs(before - after).max():.1e}")
    return Outcome("proved", cases, f"lengths 1 to {n}: no bit differs, no new row is read")


@claim(
    "HIERPOS-4.embedded",
    "the embedded GPT-2 too, given at most n tokens, returns bitwise what it returned before; beyond n it answers with finite numbers",
    source=SOURCE,
    method="the embedded GPT-2 (n = 128) before and after extension to 128² positions: logits of 5 and 128 tokens in float32, of 5 in float64, bit "
    "for bit; 144 tokens",
    expected="not refuted",
    cases=(5 + 128 + 5) * 4800,
)
def _unchanged_below(setting: Setting) -> Outcome:
    cases, shown = 0, ""
    for dtype, lengths in (("float32", (5, 128)), ("float64", (5,))):
        plain = refimpl.load(EMBEDDED, backend=setting.backend.name, dtype=dtype)
        n = plain.config.n_positions
        longer = refimpl.load(EMBEDDED, backend=setting.backend.name, dtype=dtype, positions=n * n)
        ids = np.random.default_rng(setting.seed).integers(0, plain.config.vocab_size, (1, n + 16))
        for length in lengths:
            before, after = (setting.backend.to_numpy(model.logits(ids[:, :length])) for model in (plain, longer))
            cases += before.size
            if before.tobytes() != after.tobytes():
                return Outcome(
                    "refuted", cases, f"{dtype}, {length} tokens: differ by {np.abs(before - after).max():.1e}"
                )
        if n in lengths:
            beyond = setting.backend.to_numpy(longer.logits(ids))
            shown = (
                f"standard deviation {np.std(beyond[:, :n]):.2f} of logits below n, {np.std(beyond[:, n:]):.2f} above"
            )
            if not np.all(np.isfinite(beyond)):
                return Outcome("refuted", cases, f"{dtype}: {n + 16} tokens give numbers that are not finite")
    return Outcome("not refuted", cases, f"no bit differs; {shown}")


RECORD = components.RECORDED / "minilm"
WAYS = ("hierarchical", "repeated", "truncated")


def agreement(model: Any, content: list[int]) -> dict[str, list[float]]:
    """Way -> cosines of a text's vector with the mean of its parts' vectors, and with its last part's; `benchmarks/hierarchical_minilm.py` in brief.

    The parts are stretches of nearly equal length, each within the trained positions; vectors have unit length, and so has the mean.
    """
    (frame,) = model.framed(["x"])
    n, place = model.config.max_position_embeddings, model.backend.asarray
    trained = model.weights, model.config

    def vector(of: Any, tokens: list[int], at: Any = None) -> Any:
        ids = place(np.array([[frame.ids[0], *tokens, frame.ids[-1]]]))
        hidden = bert.encode(*of, ids, positions=None if at is None else place(at))
        return model.backend.to_numpy(unit_length(mean_pooling(hidden, None)))[0]

    count = -(-len(content) // (n - 2))
    edges = [len(content) * k // count for k in range(count + 1)]
    parts = np.stack([vector(trained, content[a:b]) for a, b in itertools.pairwise(edges)])
    mean = unit_length(np.mean(parts, axis=0))
    read = {
        "hierarchical": vector(_extended(*trained, len(content) + 2), content),
        "repeated": vector(trained, content, np.arange(len(content) + 2) % n),
        "truncated": vector(trained, content[: n - 2]),
    }
    return {way: [float(read[way] @ mean), float(read[way] @ parts[-1])] for way in WAYS}


@claim(
    "HIERPOS-5",
    "how an encoder that was trained with n positions reads beyond n, without retraining: figures, and nothing claimed beyond them",
    source=SOURCE,
    method="all-MiniLM-L6-v2 in float64 on the first 640 tokens of the recorded text: cosine of its vector with the mean of its parts' vectors, and "
    "with its last part's; read at hierarchical positions, at positions t mod 512 (a control), and cut off after 512. Measured again, each within "
    "2√384 · 1e-12 of the recorded figure: every vector, of unit length, is held to 1e-12 of its largest magnitude. Five texts of up to 4,096 "
    "tokens: docs/positions.md",
    expected="measured",
    cases=6,
    needs=f"the package {installed.MINILM}",
)
def _measured(setting: Setting) -> Outcome:
    plain = _minilm(setting, "float64")
    if plain is None:
        return NOT_INSTALLED
    text = json.loads((RECORD / "texts.json").read_text("utf-8"))["long"]
    recorded = json.loads((RECORD / "hierarchical.json").read_text("utf-8"))
    found = agreement(plain, plain.tokenizer.encode(text)[: recorded["tokens"] - 2])
    apart = np.array([found[way] for way in WAYS]) - np.array([recorded["cosines"][way] for way in WAYS])
    multiple = float(np.max(np.abs(apart))) / (2 * math.sqrt(384) * RELATIVE)
    shown = "; ".join(f"{way} {own:.3f}, {rest:.3f}" for way, (own, rest) in found.items())
    return Outcome(
        "measured" if multiple <= 1 else "refuted", apart.size, f"with the mean, with the last part: {shown}", multiple
    )
