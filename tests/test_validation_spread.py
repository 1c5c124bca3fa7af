"""Legal evaluations are what they say, every tolerance contains them all, and what is not legal is outside."""

from __future__ import annotations

import functools
import json
import math
from fractions import Fraction
from typing import Any

import flint
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from refimpl import errors, normalization, softmax, taylor
from refimpl.vectors_cli import app
from validation import components, legal, spread, tolerance, vectors

SMALL = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "gelu",
    "layer_norm",
)  # evaluated in every dtype; what takes longer, in two
LARGE = (
    "residual_attention.vjp",
    "relative_attention.vjp",
    "taylor_attention.vjp",
    "favor_attention.vjp",
    "gpt2_block.vjp",
    "bert_block.vjp",
)  # recorded only
CHOSEN = [
    (n, d)
    for n, component in components.COMPONENTS.items()
    for d in tolerance.DTYPES
    if not component.exact and n not in (*components.MODELS, *LARGE) and (n in SMALL or d == "float32")
]


# --- containment ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), CHOSEN)
def test_every_legal_evaluation_is_inside_the_tolerance(name: str, dtype: str) -> None:
    """With a margin: half of the tolerance is not used, but by exp(x - log Σ exp), and where the answer is one rounding: of epsilon, of e + f."""
    found = spread.spread(name, dtype)
    assert len(found.rows) >= (14 if name in components.MODELS else 15)
    assert found.contained, str(found)
    recorded = legal.recorded(name, dtype)
    assert recorded is not None
    assert [row.name for row in recorded.rows] == [row.name for row in found.rows]
    widest, then = found.widest.multiple, recorded.widest.multiple
    assert then / 2 < widest < 2 * then or max(then, widest) < 0.01  # other libraries' last bits
    assert found.widest.multiple < (
        0.85 if name in ("softmax", "relu_features", "mitchell_log2", "mitchell_power") else 0.5
    ), str(found.widest)


def _horner(x: Any, order: int) -> Any:
    total = np.ones_like(x)
    for k in range(order, 0, -1):
        total = 1 + x / k * total
    return total


def _one_pass(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    variance = (x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + x.dtype.type(eps)) * scale + bias


@pytest.mark.parametrize(("name", "form"), [("exp_taylor", _horner), ("layer_norm", _one_pass)])
def test_what_is_not_legal_is_outside(name: str, form: Any) -> None:
    """Horner's scheme cancels left of 0, the mean of squares minus the square of the mean beside a large mean: no tolerance grants that."""
    cases = vectors.load(name).select("float32")
    measured = spread._measured("not legal", spread._once_rounded(form), cases, "float32")
    assert measured.multiple > 1, measured


def test_exact_answers_have_no_spread() -> None:
    with pytest.raises(
        errors.ConfigError, match=r"no evaluation differs(.|\n)*tolerance(.|\n)*copy_step: exact answers"
    ):
        spread.spread("copy_step")


def test_the_range_of_float16_is_not_granted() -> None:
    """Squares of 10⁻⁶ are 0 in float16, and eps too: with float16 throughout, layer norm answers something that is not a number."""

    def narrow(x: Any, scale: Any, bias: Any, eps: float, kind: Any) -> Any:
        return _half_norm(x, scale, bias, eps)

    cases = vectors.load("layer_norm").select("float16")
    assert spread._measured("float16 throughout", narrow, cases, "float16").multiple > 1


def _half_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    n = np.float16(x.shape[-1])
    centred = x - x.sum(-1, keepdims=True, dtype=np.float16) / n
    root = np.sqrt((centred * centred).sum(-1, keepdims=True, dtype=np.float16) / n + np.float16(eps))
    return centred / root * scale + bias


# --- the arithmetics ------------------------------------------------------------------------------------------------------------------


def _nearest(exact: Fraction, dtype: Any) -> float:
    """The float32 or float64 nearest to a rational number, ties to even."""
    if dtype is np.float64:
        return float(exact) if exact else 0.0
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    distance = [abs(Fraction(float(each)) - exact) for each in around]
    best = [each for each, gap in zip(around, distance, strict=True) if gap == min(distance)]
    return float(next((each for each in best if each.view(np.int32) % 2 == 0), best[0]) if len(best) > 1 else best[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=300)
@given(data=st.data())
def test_a_fused_multiply_add_is_rounded_once(dtype: Any, data: Any) -> None:
    number = st.builds(lambda m, e: math.ldexp(m, e), st.integers(-(2**24) + 1, 2**24 - 1), st.integers(-30, 6))
    a, b = (dtype(data.draw(number)) for _ in range(2))
    near = (
        float(a)
        * float(b)
        * data.draw(st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-8, -1e8, 2.0**-24, -(2.0**24), 2.0**-52]))
    )
    c = dtype(data.draw(st.one_of(number, st.just(near), st.just(-near))))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    assert float(spread.fused_multiply_add(*(np.array([each]) for each in (a, b, c)))[0]) == _nearest(exact, dtype)


def test_a_fused_multiply_add_differs_from_two_roundings() -> None:
    a = np.array([1 + 2.0**-12], np.float32)
    assert spread.fused_multiply_add(a, a, -(a * a))[0] == 2.0**-24
    assert (a * a - a * a)[0] == 0
    # a·b is halfway between two numbers, and c, lost beside it in twice the precision, decides
    for dtype, a, b, c in (
        (np.float32, 24929.0, 673 * 2.0**-24, 2.0**-60),
        (np.float64, 321.0, 28059810762433 * 2.0**-53, 2.0**-120),
    ):
        factors = [np.array([value], dtype) for value in (a, b, c)]
        assert spread.fused_multiply_add(*factors)[0] == 1 + np.finfo(dtype).eps
        assert spread.fused_multiply_add(*factors[:2], -factors[2])[0] == 1


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20))
def test_sixteen_bit_roundings_are_those_of_the_dtype(values: list[float]) -> None:
    x = np.array(values, np.float32).astype(np.float64)
    want = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    assert np.array_equal(spread._rounder("bfloat16")(x), want)
    inside = x[(np.abs(x) > 2.0**-14) & (np.abs(x) < 6e4)]
    assert np.array_equal(spread._rounder("float16")(inside), inside.astype(np.float16).astype(np.float64))


@pytest.mark.parametrize("order", ["forward", "backward", "pairs", "lanes", "random"])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 33])
def test_sums_add_every_term_once_in_their_own_order(order: str, n: int) -> None:
    terms = 2.0 ** np.arange(n)
    arithmetic = spread.Arithmetic(order)
    assert arithmetic.sum(arithmetic.wrap(terms)).array == 2.0**n - 1
    rough = np.random.default_rng(0).normal(size=(3, n)).astype(np.float32)
    total = arithmetic.sum(arithmetic.wrap(rough), axis=-1).array
    assert np.allclose(total, rough.sum(-1), rtol=1e-5, atol=1e-5)
    assert total.dtype == np.float32


def test_orders_of_summation_differ() -> None:
    x = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    sums = {
        o: spread.Arithmetic(o).sum(spread.Arithmetic(o).wrap(x), axis=-1).array.tobytes()
        for o in ("forward", "backward", "pairs", "lanes", "random")
    }
    assert len(set(sums.values())) == 5
    wide = spread.Arithmetic(wide=True)
    exact = np.array([math.fsum(row) for row in x.astype(np.float64)]).astype(np.float32)
    assert np.array_equal(wide.sum(wide.wrap(x), axis=-1).array, exact)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrix_products_are_matrix_products(fused: bool, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 4, 5)).astype(dtype), rng.normal(size=(3, 5, 2)).astype(dtype)
    arithmetic = spread.Arithmetic("forward", fused=fused)
    got = arithmetic.matmul(arithmetic.wrap(a), arithmetic.wrap(b)).array
    assert got.shape == (2, 3, 4, 2)
    assert got.dtype == dtype
    assert np.allclose(got, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin", "cos"])
@pytest.mark.parametrize(("dtype", "grid"), [(np.float32, None), (np.float64, "bfloat16"), (np.float64, "float16")])
def test_functions_err_by_one_to_two_units(name: str, dtype: Any, grid: str | None) -> None:
    x = np.linspace(0.3, 5, 200).astype(np.float32)
    x = spread._rounder(grid)(x.astype(np.float64)) if grid else x
    bits = tolerance.BITS[grid or "float32"]
    for ulps in (1, -1):
        arithmetic = spread.Arithmetic(ulps=ulps, grid=grid)
        got = getattr(arithmetic, name)(arithmetic.wrap(x)).array
        for value, answer in zip(x, got, strict=True):
            truth = float(getattr(flint.arb(float(value)), name)())
            unit = 2.0 ** (math.frexp(truth)[1] - bits)
            away = ulps * (float(answer) - truth) / unit
            assert 0 <= away <= 2.01, (value, away)
            beside_power = abs(math.frexp(truth)[0]) > 1 - 2.0 ** (2 - bits) or abs(
                math.frexp(truth)[0]
            ) < 0.5 + 2.0 ** (2 - bits)
            assert away >= 0.99 or beside_power, (
                value,
                away,
            )  # past a power of two the next number is too far, before it half as far


def test_what_every_library_has_exact_stays_exact() -> None:
    arithmetic = spread.Arithmetic(ulps=1)
    assert arithmetic.exp(arithmetic.wrap(np.zeros(2))).array.tolist() == [1, 1]
    assert arithmetic.log(arithmetic.wrap(np.ones(2))).array.tolist() == [0, 0]
    assert arithmetic.tanh(arithmetic.wrap(np.zeros(2))).array.tolist() == [0, 0]


def test_reciprocals_and_flushing() -> None:
    x = np.arange(1, 200, dtype=np.float32)
    arithmetic = spread.Arithmetic(reciprocal=True)
    got = (arithmetic.wrap(x[::-1].copy()) / arithmetic.wrap(x)).array
    assert not np.array_equal(got, x[::-1] / x)
    assert np.allclose(got, x[::-1] / x, rtol=2.0**-22)
    flushed = spread.Arithmetic(flush=1e-30)
    assert (flushed.wrap(np.array([1e-20, 1.0])) * 1e-15).array.tolist() == [0, 1e-15]


def test_definitions_run_unchanged_under_an_arithmetic() -> None:
    x = np.random.default_rng(0).normal(size=(3, 8))
    plain = spread.Arithmetic()
    assert np.array_equal(softmax.softmax(plain.wrap(x)).array, softmax.softmax(x))
    assert np.array_equal(taylor.exp_taylor(plain.wrap(x), 4).array, taylor.exp_taylor(x, 4))
    given_ = (x, np.ones(8), np.zeros(8))
    assert np.array_equal(
        normalization.layer_norm(*map(plain.wrap, given_), 1e-5).array, normalization.layer_norm(*given_, 1e-5)
    )
    forward = functools.partial(softmax.softmax)(spread.Arithmetic("backward").wrap(x)).array
    assert not np.array_equal(forward, softmax.softmax(x))


# --- what it says -----------------------------------------------------------------------------------------------------------------


def test_a_spread_tells_its_widest_evaluation_and_where() -> None:
    found = spread.spread("softmax", "float32")
    assert found.widest.multiple == max(row.multiple for row in found.rows)
    assert found.widest.where.startswith("softmax-")
    assert found.widest.ulps is not None
    assert sum(found.widest.ulps.values()) == sum(
        v.expected.high.size for v in vectors.load("softmax").select("float32")
    )
    assert f"{found.widest.multiple:.3f} of its tolerance" in str(found)
    assert json.loads(json.dumps(found.as_json()))["contained"] is True


def test_unknown_components_are_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"unknown component(.|\n)*'sofmax'"):
        spread.spread("sofmax")
    with pytest.raises(errors.ConfigError, match=r"unknown dtype(.|\n)*'float8'"):
        spread.spread("softmax", "float8")


def test_the_command_prints_a_table_and_json() -> None:
    ran = CliRunner().invoke(app, ["spread", "gelu", "--dtype", "bfloat16"])
    assert ran.exit_code == 0, ran.output
    assert "gelu, bfloat16: 20 legal evaluations" in ran.output
    assert "8 bits throughout: FMA" in ran.output
    told = json.loads(CliRunner().invoke(app, ["spread", "gelu", "--json"]).output)
    assert told[0]["component"] == "gelu"
    assert {row["name"] for row in told[0]["rows"]} >= {"sums in pairs", "FMA", "products with reciprocals"}


def test_a_tolerance_that_is_too_tight_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        vectors.Vector, "budget", lambda self, dtype: tolerance.budget(self.amplification / 8, self.underflow, dtype)
    )
    found = spread.spread.__wrapped__("log_softmax", "float32")
    assert not found.contained
    monkeypatch.setattr(spread, "spread", lambda op, dtype: found)
    assert CliRunner().invoke(app, ["spread", "log_softmax"]).exit_code == 1
