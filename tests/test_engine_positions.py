"""Hierarchical and relative positions, and UniLM's mask: properties first, on every number system; then the words of refusals."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Any

import array_api_compat
import flint
import ml_dtypes
import models
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from models import TINY
from systems import ALL_DTYPES, NUMPY, System, unchanged

import refimpl
from refimpl import attention, errors, gpt2, positions
from refimpl.attention import scaled_dot_product_attention, unilm_mask
from refimpl.positions import extend, hierarchical_bases, hierarchical_positions, relative_positions
from validation import tolerance, truth

SMALLEST = {name: float(ml_dtypes.finfo(tolerance.DTYPES[name]).smallest_subnormal) for name in ALL_DTYPES}
ALPHAS = st.one_of(
    st.floats(-4, 4).filter(lambda a: all(abs(a - b) > 2**-10 for b in (0, 0.5, 1))),
    st.fractions(-3, 3, max_denominator=9).filter(lambda a: a not in (0, Fraction(1, 2), 1)),
)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _table(system: System, dtype: str, n: int = 4, d: int = 3) -> Any:
    return system.floats(np.random.default_rng(1).normal(size=(n, d)), dtype)


# --- hierarchical positions -------------------------------------------------------------------------------------------------


def test_the_first_rows_are_the_table_bit_for_bit(system: System) -> None:
    for dtype in system.dtypes:
        table = system.floats([[0.1, -0.0, 3.0], [1e-7, 60000.0, -1.0], [0.0, 1e-3, 2.0]], dtype)
        at = system.to(np.arange(3))
        assert unchanged(system.back(table), system.back(hierarchical_positions(table, at)))


def test_dtype_shape_device_and_namespace_are_those_of_the_table(system: System) -> None:
    for dtype in system.dtypes:
        table = _table(system, dtype)
        for at in (np.arange(16), np.zeros((2, 3), np.int32), np.array(7), np.zeros((0, 2), np.int64)):
            made = hierarchical_positions(table, system.to(at))
            assert made.shape == (*at.shape, 3)
            assert made.dtype == table.dtype
            assert array_api_compat.device(made) == system.device


@given(seed=st.integers(0, 999), n=st.integers(1, 6), d=st.integers(1, 4), alpha=ALPHAS)
def test_the_formula_of_all_rows_is_enclosed(seed: int, n: int, d: int, alpha: Any) -> None:
    """Balls against rational arithmetic: q_{in+j} = α u_i + (1-α) u_j."""
    table = np.random.default_rng(seed).integers(-64, 64, (n, d)) / 8
    exact = [[Fraction(value) for value in row] for row in table.tolist()]
    a = Fraction(alpha)
    u = [[(p - a * first) / (1 - a) for p, first in zip(row, exact[0], strict=True)] for row in exact]
    made = hierarchical_positions(truth.balls(table), np.arange(n * n), alpha)
    bases = hierarchical_bases(truth.balls(table), alpha)
    for t in range(n * n):
        for c in range(d):
            value = a * u[t // n][c] + (1 - a) * u[t % n][c]
            assert (made[t, c] * value.denominator - value.numerator).contains(0)
            assert made[t, c].rad() < 1e-8
    for i in range(n):
        assert all((ball * x.denominator - x.numerator).contains(0) for ball, x in zip(bases[i], u[i], strict=True))


@given(seed=st.integers(0, 999), n=st.integers(2, 9), alpha=ALPHAS, dtype=st.sampled_from(["float32", "float64"]))
def test_floats_are_within_the_proved_budget(seed: int, n: int, alpha: Any, dtype: str) -> None:
    table = np.random.default_rng(seed).normal(size=(n, 3)).astype(dtype)
    at = np.arange(n * n).tolist()

    def definition(table: Any) -> Any:
        return hierarchical_positions(table, at, alpha)

    verdict = tolerance.judge(
        definition(table),
        truth.enclose(definition, table, target=1e-18),
        tolerance.proved_budget(definition, table, dtype=dtype),
        dtype,
    )
    assert verdict.passed, verdict


@given(n=st.integers(2, 8), alpha=ALPHAS)
def test_independent_rows_give_distinct_positions(n: int, alpha: Any) -> None:
    """Rows 0, e_1, .., e_{n-1} are affinely independent; n² rows, no two alike (HIERPOS-2)."""
    made = hierarchical_positions(np.eye(n)[:, 1:] if n > 1 else np.zeros((1, 1)), np.arange(n * n), alpha)
    assume(min(abs(2 * float(alpha) - 1), abs(float(alpha)), abs(1 - float(alpha))) > 1e-3)
    assert len({row.tobytes() for row in np.round(made, 9) + 0.0}) == n * n


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (0, "every row would repeat"),
        (0.0, "every row would repeat"),
        (0.5, "(i, j) and (j, i)"),
        (Fraction(1, 2), "(i, j) and (j, i)"),
        (1, "divide by 1 - alpha"),
        (float("nan"), "no finite number"),
        (float("inf"), "no finite number"),
        (True, "no finite number"),
        ("0.4", "no finite number"),
        (None, "no finite number"),
    ],
)
def test_alphas_that_do_not_do_are_refused_with_the_reason(alpha: Any, words: str, system: System) -> None:
    table = _table(system, system.dtypes[-1])
    for call in (lambda: hierarchical_bases(table, alpha), lambda: hierarchical_positions(table, [0], alpha)):
        with _refused(errors.ConfigError, f"alpha = {alpha!r} does not do", words, "other than 0, 1/2 and 1", "0.4"):
            call()


TOLD_FROM_NONE = [  # α, and from which excluded value float32 cannot tell it: there β is 0, 1, -1 or above all numbers
    (1e-46, "0: every row would repeat"),
    (Fraction(-1, 2**160), "0: every row would repeat"),
    (0.5 + 2.0**-27, "1/2: positions (i, j) and (j, i)"),
    (Fraction(1, 2) - Fraction(1, 2**60), "1/2: positions (i, j) and (j, i)"),
    (1e9, "infinity: positions (i, i) would be p_1 for every i"),
    (-(2.0**900), "infinity: positions (i, i) would be p_1 for every i"),
    (1 + Fraction(1, 10**400), "1: the bases divide by 1 - alpha"),
]


@pytest.mark.parametrize(("alpha", "words"), TOLD_FROM_NONE)
def test_alphas_that_the_dtype_cannot_tell_from_those_are_refused(alpha: Any, words: str, system: System) -> None:
    for dtype in {"float16", "bfloat16", "float32"} & set(system.dtypes):  # 16 bits are computed in float32
        table = _table(system, dtype)
        for call in (
            lambda t=table: hierarchical_bases(t, alpha),
            lambda t=table: hierarchical_positions(t, [5], alpha),
        ):
            with _refused(
                errors.ConfigError, f"alpha = {alpha!r} does not do: in float32 it cannot be told from {words}"
            ):
                call()
    if system.is_ball:  # which do not round: the row is as good as its bits
        assert hierarchical_positions(_table(system, "float64"), [5], alpha).shape == (1, 3)


@pytest.mark.parametrize("alpha", [1e-37, -1e-37, 0.5 + 2.0**-25, 0.5 - 2.0**-26, 2.0**24, -(2.0**24), 1 + 2.0**-52])
def test_alphas_that_the_dtype_can_tell_from_those_are_accepted(alpha: float) -> None:
    for dtype in ("float32", "float64"):
        assert np.all(np.isfinite(hierarchical_positions(_table(NUMPY, dtype), np.arange(16), alpha)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_coarse_index_is_not_lost_to_cancellation(dtype: str) -> None:
    """At α = 2^20 the published form loses 2^20 u of p_1; this one errs by u|q| + 5.1 u |β (p_i - p_1)|."""
    rng, u = np.random.default_rng(4), tolerance.roundoff(dtype)
    table = (100 + rng.normal(size=(6, 4))).astype(dtype)
    made = hierarchical_positions(table, np.arange(36), 2.0**20)
    wide = table.astype(np.float64)
    added = 2.0**20 / (1 - 2.0**20) * (wide[:, None] - wide[0])
    expected = (wide[None, :] + added).reshape(36, 4)
    allowed = u * np.abs(expected) + 5.1 * u * np.abs(np.repeat(added[:, 0], 6, axis=0)) + 4 * 2.0**-53 * 200
    assert np.all(np.abs(made - expected) <= allowed)


def test_positions_that_do_not_exist_are_refused(system: System) -> None:
    table = _table(system, system.dtypes[-1])
    assert hierarchical_positions(table, [15]).shape == (1, 3)
    for at in ([[3, 16]], system.to(np.array([16, 2]))):
        with _refused(errors.TokenError, "a table of 4 rows gives 16 positions", "4² = 16", "up to 16", "shorten"):
            hierarchical_positions(table, at)
    for at in ([-1], system.to(np.array([[3], [-1]]))):
        with _refused(errors.TokenError, "a position is negative", "positions from 0", "-1"):
            hierarchical_positions(table, at)
    with _refused(errors.TokenError, "positions must be whole numbers", "integer dtype", "bool"):
        hierarchical_positions(table, system.to(np.array([True])))
    with _refused(errors.ShapeError, "positions is not a rectangular array"):
        hierarchical_positions(table, [[1], [2, 3]])


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3), (3, 0)])
def test_what_is_no_table_is_refused(shape: tuple[int, ...], floating_system: System) -> None:
    table = floating_system.floats(np.zeros(shape), floating_system.dtypes[-1])
    with _refused(errors.ShapeError, "two axes, neither empty", "(n, d)", str(shape)):
        hierarchical_bases(table)
    with _refused(errors.DtypeError, "table must be real floating point", "int64"):
        hierarchical_positions(np.zeros((2, 2), np.int64), [0])


# --- extend -----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Anything with a position table."""

    position_embedding: Any

    def _replace(self, **changed: Any) -> _Weights:
        return dataclasses.replace(self, **changed)


def test_an_extended_model_answers_as_before_up_to_n_bit_for_bit(system: System) -> None:
    for dtype in system.dtypes:
        model = models.weights(TINY, system, dtype)
        longer = extend(model, to=40)
        assert longer.position_embedding.shape == (40, 6)
        config = dataclasses.replace(TINY, n_positions=40)
        ids = system.to(np.random.default_rng(0).integers(0, 11, (2, 8)))
        before, after = gpt2.logits(model, TINY, ids), gpt2.logits(longer, config, ids)
        assert np.array_equal(system.back(before), system.back(after))
        if not system.is_ball:
            beyond = gpt2.logits(longer, config, system.to(np.zeros((1, 40), np.int64)))
            assert beyond.shape == (1, 40, 11)


def test_the_rows_before_position_0_stay_where_they_are(system: System) -> None:
    """RoBERTa's table: two rows, then n positions."""
    table = _table(system, system.dtypes[-1], n=6)
    longer = extend(_Weights(table), to=16, offset=2).position_embedding
    assert longer.shape == (18, 3)
    assert np.array_equal(system.back(longer)[:6], system.back(table))
    own = hierarchical_positions(table[2:, :], system.to(np.arange(16)))
    assert np.array_equal(system.back(longer)[2:], system.back(own))


@pytest.mark.parametrize("to", [3, 17, 4.0, True, "16", None])
def test_a_number_of_positions_that_cannot_be_is_refused(to: Any) -> None:
    with _refused(
        errors.ConfigError, "a table of 4 positions can be extended to 16", "positions", "from 4 to 4²", repr(to)
    ):
        extend(_Weights(_table(NUMPY, "float64")), to=to)
    assert extend(_Weights(_table(NUMPY, "float64")), to=4).position_embedding.shape == (4, 3)


def test_models_without_a_table_and_offsets_without_positions_are_refused() -> None:
    with _refused(errors.ConfigError, "no learned position table", "extend", "position_embedding", "_Weights"):
        extend(_Weights(None), to=9)
    for offset in (4, 9, -1):
        with _refused(errors.ConfigError, "offset leaves no positions", "extend(offset=...)", str(offset)):
            extend(_Weights(_table(NUMPY, "float64")), to=9, offset=offset)


def test_the_embedded_model_reads_past_its_table() -> None:
    plain, longer = (refimpl.load("tang", backend="numpy", positions=n) for n in (None, 200))
    assert (plain.config.n_positions, longer.config.n_positions) == (128, 200)
    ids = np.random.default_rng(3).integers(0, 4800, (1, 20))
    assert plain.logits(ids).tobytes() == longer.logits(ids).tobytes()
    assert np.all(np.isfinite(longer.logits(np.zeros((1, 140), np.int64))))
    with _refused(errors.TokenError, "position table"):
        plain.logits(np.zeros((1, 140), np.int64))


# --- relative positions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 6, 64, 96])
def test_relative_positions_are_the_sinusoid_of_the_clipped_distance(width: int, system: System) -> None:
    """The angle is known to 40 digits; sine and cosine err by less than a unit in the last place in current libraries, the correction by half a
    unit when it is added, and by 2^-90; in other dtypes there is one rounding after these 1.5 units of a double, which are 3 roundoffs.
    """
    ends = np.array([[0], [69]])  # the first query sees distances from 0 to 69, the last from -69 to 0
    distance = np.clip(np.arange(70)[None, :] - ends, -64, 64) + 64
    assert set(distance.ravel()) == set(range(129))
    with truth.precision(128):
        angles = [
            [flint.arb(t) / flint.arb(10_000) ** (flint.arb(2 * k) / width) for k in range(width // 2)]
            for t in range(129)
        ]
        table = np.array([[wave for angle in row for wave in (angle.sin(), angle.cos())] for row in angles])
    for dtype in system.dtypes:
        whole = relative_positions(70, 70, width, like=_table(system, dtype))
        assert whole.shape == (70, 70, width)
        if system.is_ball:
            pairs = zip(whole[ends[:, 0]].ravel(), table[distance].ravel(), strict=True)
            assert all(ball.overlaps(true) for ball, true in pairs)
            continue
        found = system.back(whole)[ends[:, 0]]
        assert found.dtype == tolerance.DTYPES[dtype]
        firsts = {int(t): found[i, j].astype(np.float64) for (i, j), t in np.ndenumerate(distance)}
        for t, row in firsts.items():
            units = 2.0**-53 * np.abs(truth.midpoints(table[t]))  # a unit in the last place is at most 2u of the number
            once = (
                0 if dtype == "float64" else tolerance.roundoff(dtype) * np.abs(row) * (1 + 2.0**-7) + SMALLEST[dtype]
            )
            assert np.all(truth.upper_distance(table[t], row) <= 3.0001 * units + once)


@given(n=st.integers(1, 12), extra=st.integers(0, 9), clip=st.integers(1, 12), width=st.sampled_from([2, 4, 6]))
def test_relative_positions_depend_on_the_distance_alone(n: int, extra: int, clip: int, width: int) -> None:
    like = np.zeros(1)
    table = relative_positions(n, n + extra, width, like=like, clip=clip)
    for i in range(n):
        for j in range(n + extra):
            d = max(-clip, min(clip, j - i - extra))
            for other in range(n + extra):
                same = max(-clip, min(clip, other - i - extra)) == d
                assert np.array_equal(table[i, j], table[i, other]) == same
    longer = relative_positions(n + 1, n + extra + 1, width, like=like, clip=clip)
    assert np.array_equal(longer[1:, 1:], table)


def test_relative_positions_refuse_what_they_cannot_mean(system: System) -> None:
    like = _table(system, system.dtypes[-1])
    for width in (3, 1, 0):
        with _refused(errors.ShapeError, "the head width must be even", str(width)):
            relative_positions(2, 2, width, like=like)
    with _refused(errors.ShapeError, "more queries than keys", "relative_positions", "<= 2", "3"):
        relative_positions(3, 2, 4, like=like)
    for clip in (0, -1, 2.5, True):
        with _refused(errors.ConfigError, "clip must be a distance", repr(clip)):
            relative_positions(2, 2, 4, like=like, clip=clip)
    with _refused(errors.DtypeError, "like must be real floating point"):
        relative_positions(2, 2, 4, like=np.zeros(1, np.int64))


def test_relative_positions_enter_scores_and_values(system: System) -> None:
    """With R_ij added to keys and values by hand, one query at a time."""
    rng, dtype = np.random.default_rng(0), system.dtypes[-1]
    arrays = [rng.normal(size=(1, 2, 3, 4)), rng.normal(size=(1, 2, 5, 4)), rng.normal(size=(1, 2, 5, 4))]
    q, k, v = (system.floats(a, dtype) for a in arrays)
    relative = relative_positions(3, 5, 4, like=q)
    output, scores = scaled_dot_product_attention(q, k, v, relative=relative)
    for i in range(3):
        shifted = [part + relative[None, None, i, :, :] for part in (k, v)]
        one, row = scaled_dot_product_attention(q[:, :, i : i + 1, :], *shifted)
        for found, expected in ((output[:, :, i : i + 1, :], one), (scores[:, :, i : i + 1, :], row)):
            gap = np.abs(system.back(found).astype(np.float64) - system.back(expected).astype(np.float64))
            # 4 products and 5 weights, each rounded a few times, of numbers below 10
            assert np.all(gap <= 400 * tolerance.roundoff(dtype))


def test_attention_refuses_relative_positions_and_means_that_do_not_fit(system: System) -> None:
    q = k = v = system.floats(np.ones((1, 1, 2, 4)), system.dtypes[-1])
    narrow = system.floats(np.ones((1, 1, 2, 3)), system.dtypes[-1])
    for shape in ((2, 3, 4), (2, 2, 3), (1, 2, 2, 4)):
        relative = system.floats(np.ones(shape), system.dtypes[-1])
        with _refused(errors.ShapeError, "relative positions must fit", "(n, m, d) = (2, 2, 4)", str(shape)):
            scaled_dot_product_attention(q, k, v, relative=relative)
    with _refused(errors.ShapeError, "relative positions must fit", "values of width 4", "v (1, 1, 2, 3)"):
        scaled_dot_product_attention(q, k, narrow, relative=system.floats(np.ones((2, 2, 4)), system.dtypes[-1]))
    for wrong in (0, -1, 1.5, True):
        with _refused(errors.ConfigError, "mean_over counts layers", repr(wrong)):
            scaled_dot_product_attention(q, k, v, mean_over=wrong)


# --- UniLM's mask -----------------------------------------------------------------------------------------------------------


@given(source=st.integers(0, 5), target=st.integers(0, 5), further=st.integers(0, 3))
def test_the_source_sees_itself_and_the_target_what_came_before(source: int, target: int, further: int) -> None:
    segments = np.array([[0] * source + [1] * target + [2] * further])
    assume(segments.size)
    mask = unilm_mask(segments)
    n = segments.size
    expected = [[(j < source) or (i >= source and j <= i) for j in range(n)] for i in range(n)]
    assert mask.shape == (1, 1, n, n)
    assert mask[0, 0].tolist() == expected


def test_unilm_mask_is_made_where_the_segments_are(system: System) -> None:
    rows = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    for dtype in ("int64", "int8", "uint8"):
        mask = unilm_mask(system.to(rows.astype(dtype)))
        assert mask.shape == (2, 1, 4, 4)
        assert "bool" in str(mask.dtype)
        assert array_api_compat.device(mask) == system.device
        assert system.back(mask)[1, 0].tolist() == np.tri(4, dtype=bool).tolist()
        assert system.back(mask)[0, 0].tolist() == [[True, True, False, False]] * 2 + np.tri(4, dtype=bool)[2:].tolist()


def test_a_narrow_dtype_holds_any_number_of_targets() -> None:
    mask = unilm_mask(np.ones((1, 300), np.uint8))
    assert np.array_equal(mask[0, 0], np.tri(300, dtype=bool))


def test_unilm_mask_refuses_what_are_no_segments(system: System) -> None:
    with _refused(errors.DtypeError, "segment ids must be whole numbers", "integer dtype", "0 for the source"):
        unilm_mask(system.to(np.zeros((1, 2), bool)))
    with _refused(errors.ShapeError, "segment_ids must have two axes", "(batch, n)", "(2,)"):
        unilm_mask(system.to(np.zeros(2, np.int64)))
    with _refused(errors.ConfigError, "a segment id is negative", "unilm_mask", "-1"):
        unilm_mask(system.to(np.array([[0, -1]])))


def test_the_definitions_are_those_that_are_published() -> None:
    definitions = {name for name in positions.__all__ if not name.endswith("_vjp")}
    assert definitions == {"extend", "hierarchical_bases", "hierarchical_positions", "relative_positions"}
    assert "unilm_mask" in attention.__all__
