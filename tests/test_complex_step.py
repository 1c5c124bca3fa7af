"""Complex steps: derivatives of every operation, branches on the real part, values bit for bit, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import array_api_compat
import flint
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import (
    activation,
    attention,
    decoding,
    errors,
    favor,
    gpt2,
    mitchell,
    normalization,
    softmax,
    special,
    taylor,
)
from refimpl.complex_step import ComplexArray, jvp, plain
from refimpl.number_system import namespace
from validation import truth
from validation.gradients import cases_of

if TYPE_CHECKING:
    from collections.abc import Callable

GRID = np.concatenate([np.linspace(-30, 30, 601), [1e-8, -1e-8, 300.0, -300.0, 1e5, -1e5]])


def _slope(function: Callable[[Any], Any], x: Any) -> Any:
    """f'(x) of a function of one number."""
    return jvp(function, (x,), (np.ones_like(x),))[1]


def _known(slope: Callable[[Any], Any], x: Any) -> Any:
    """A slope in 300-bit balls."""
    with truth.precision(300):
        return np.array([float(slope(flint.arb(value)).mid()) for value in x])


def _named(name: str) -> Callable[[Any], Any]:
    return lambda x: getattr(namespace(x), name)(x)


def _bell(sign: int) -> Callable[[Any], Any]:
    return lambda x: sign * 2 / flint.arb.pi().sqrt() * (-x * x).exp()


@pytest.mark.parametrize(
    ("function", "slope", "x"),
    [
        pytest.param(function, slope, x, id=name)
        for name, function, slope, x in (
            ("exp", _named("exp"), lambda x: x.exp(), GRID[np.abs(GRID) < 700]),
            ("expm1", _named("expm1"), lambda x: x.exp(), GRID[np.abs(GRID) < 700]),
            ("sin", _named("sin"), lambda x: x.cos(), GRID),
            ("cos", _named("cos"), lambda x: -x.sin(), GRID[np.abs(GRID) > 1e-3]),
            ("sinh", _named("sinh"), lambda x: x.cosh(), GRID[np.abs(GRID) < 700]),
            ("cosh", _named("cosh"), lambda x: x.sinh(), GRID[(np.abs(GRID) < 700) & (np.abs(GRID) > 1e-3)]),
            ("tanh", _named("tanh"), lambda x: x.sech() ** 2, GRID),
            ("log", _named("log"), lambda x: 1 / x, np.array([1e-300, 1e-9, 0.3, 1.0, 7.0, 1e300])),
            (
                "log1p",
                _named("log1p"),
                lambda x: 1 / (1 + x),
                np.array([-0.999, -0.3, -1e-9, 0, 1e-300, 0.3, 7.0, 1e300]),
            ),
            ("sqrt", _named("sqrt"), lambda x: 1 / (2 * x.sqrt()), np.array([1e-290, 1e-9, 0.3, 1.0, 7.0, 1e300])),
            ("square", _named("square"), lambda x: 2 * x, GRID),
            ("pow 3", lambda x: x**3, lambda x: 3 * x * x, GRID),
            ("pow -2", lambda x: x**-2, lambda x: -2 / (x * x * x), GRID[GRID != 0]),
            ("pow 1.5", lambda x: x**1.5, lambda x: flint.arb(1.5) * x.sqrt(), GRID[GRID > 0]),
            ("pow 0", lambda x: x**0, lambda x: x * 0, GRID[GRID != 0]),
            ("reciprocal", lambda x: 1 / x, lambda x: -1 / (x * x), GRID[GRID != 0]),
            ("erf", special.erf, _bell(1), GRID[np.abs(GRID) < 26]),
            ("erfc", special.erfc, _bell(-1), GRID[np.abs(GRID) < 26]),
        )
    ],
)
def test_slopes_of_functions_of_one_number(function: Any, slope: Any, x: Any) -> None:
    """Within 8 u: the function and one or two products, as documented of current libraries."""
    found, known = _slope(function, x), _known(slope, x)
    assert np.all(np.abs(found - known) <= 8 * 2.0**-53 * np.abs(known) + 1e-300)


def test_slopes_where_there_is_none() -> None:
    """Infinite at 0, NaN outside, and 0 for what does not depend on anything."""
    x, moving = np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 1.0])
    for function in (_named("sqrt"), _named("log")):
        assert str(jvp(function, (x,), (moving,))[1].tolist()) == "[inf, 0.0, nan]"
    assert str(jvp(_named("log1p"), (x - 1,), (moving,))[1].tolist()) == "[inf, 0.0, nan]"
    assert _slope(_named("exp"), np.array([-800.0, -np.inf])).tolist() == [0, 0]
    assert _slope(special.erf, np.array([40.0, -np.inf, np.inf])).tolist() == [0, 0, 0]


finite = st.fractions(-4, 4, max_denominator=64).filter(lambda x: abs(x) > Fraction(1, 8))


@given(*[finite] * 4)
def test_products_and_quotients_are_those_of_rational_numbers(x: Any, dx: Any, y: Any, dy: Any) -> None:
    """(x y)/(x + 5 - y/8) and its derivative in exact arithmetic; seven operations, none of which cancels."""
    given_, moved = (tuple(np.float64(float(part)) for part in pair) for pair in ((x, y), (dx, dy)))
    x, y, dx, dy = (Fraction(float(part)) for part in (x, y, dx, dy))
    value, tangent = jvp(lambda a, b: a * b / (a + 5 - b / 8), given_, moved)
    below, slope = x + 5 - y / 8, dx * y + x * dy
    exact = (slope * below - x * y * (dx - dy / 8)) / below**2
    size = (abs(dx * y) + abs(x * dy)) / abs(below) + abs(x * y) * (abs(dx) + abs(dy)) / below**2
    assert abs(Fraction(float(value)) - x * y / below) <= abs(x * y / below) * Fraction(1, 2**49)
    assert abs(Fraction(float(tangent)) - exact) <= size * Fraction(1, 2**48)


def test_extreme_magnitudes_do_not_overflow() -> None:
    """A step of 1e-200 would: here the tangent is as large as the derivative, and no larger."""
    x = np.array([1e200, 1e-200])
    value, tangent = jvp(lambda x: x * 1e-100, (x,), (np.array([1e150, 1e-150]),))
    assert value.tolist() == [1e200 * 1e-100, 1e-200 * 1e-100]
    assert tangent.tolist() == [1e150 * 1e-100, 1e-150 * 1e-100]
    assert jvp(lambda x: x * x, (np.zeros(1),), (np.ones(1),)) == (np.zeros(1), np.zeros(1))


# --- branches -------------------------------------------------------------------------------------------------------------------------


def test_branches_are_decided_on_the_real_part() -> None:
    x, t = np.array([[3.0, -1.0, 2.0], [0.5, 0.5, -0.0]]), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y, s = np.array([2.0, 0.5, 3.0]), np.array([10.0, 20.0, 30.0])
    expected: dict[str, tuple[Callable[..., Any], Any]] = {
        "maximum": (lambda xp, x, y: xp.maximum(x, y), [[1, 20, 30], [10, 5, 30]]),
        "minimum": (lambda xp, x, y: xp.minimum(x, y), [[10, 2, 3], [4, 5, 6]]),
        "of equals the first": (lambda xp, x, y: xp.maximum(x, x[:, ::-1] * 0 + x), [[1, 2, 3], [4, 5, 6]]),
        "clip": (lambda xp, x, y: xp.clip(x, 0.0, 2.5), [[0, 0, 3], [4, 5, 6]]),
        "abs": (lambda xp, x, y: abs(x), [[1, -2, 3], [4, 5, 6]]),
        "sign": (lambda xp, x, y: xp.sign(x), [[0] * 3] * 2),
        "floor": (lambda xp, x, y: xp.floor(x) + x, [[1, 2, 3], [4, 5, 6]]),
        "max": (lambda xp, x, y: xp.max(x, axis=1), [1, 4]),
        "min": (lambda xp, x, y: xp.min(x, axis=0, keepdims=True), [[4, 2, 6]]),
        "max of all": (lambda xp, x, y: xp.max(x), 1),
        "max of axes": (lambda xp, x, y: xp.max(x[None], axis=(0, 2), keepdims=True), [[[1], [4]]]),
        "sort": (lambda xp, x, y: xp.sort(x, axis=1), [[2, 3, 1], [6, 4, 5]]),
        "sort down": (lambda xp, x, y: xp.sort(x, axis=-1, descending=True), [[1, 3, 2], [4, 5, 6]]),
        "argsort": (lambda xp, x, y: xp.take_along_axis(x, xp.argsort(x, axis=1), axis=1), [[2, 3, 1], [6, 4, 5]]),
        "argmax": (lambda xp, x, y: xp.take(x, xp.argmax(y, axis=0)[None], axis=1), [[3], [6]]),
        "where": (lambda xp, x, y: xp.where(x > y, x, y), [[1, 20, 30], [10, 20, 30]]),
        "comparisons": (lambda xp, x, y: xp.where((x >= y) & ~(x == y) | (x != x), x, 0.0), [[1, 0, 0], [0, 0, 0]]),
        "mask": (lambda xp, x, y: x * xp.astype(x > 0, x.dtype), [[1, 0, 3], [4, 5, 0]]),
        "clipped below": (lambda xp, x, y: xp.clip(x, min=0.6), [[1, 0, 3], [0, 0, 0]]),
    }
    for name, (function, slopes) in expected.items():
        value, tangent = jvp(lambda x, y, f=function: f(namespace(x), x, y), (x, y), (t, s))
        real = function(array_api_compat.array_namespace(x), x, y)
        assert np.array_equal(value, real), name
        assert tangent.tolist() == slopes, name


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x: xp.reshape(x, (3, 2)),
        lambda xp, x: xp.permute_dims(x, (1, 0)),
        lambda xp, x: xp.matrix_transpose(x),
        lambda xp, x: xp.flip(x, axis=0),
        lambda xp, x: xp.roll(x, 1, axis=1),
        lambda xp, x: xp.concat([x, x[:1, ::-1]], axis=0),
        lambda xp, x: xp.stack([x, -x], axis=-1),
        lambda xp, x: xp.expand_dims(x, axis=1) + xp.zeros((2, 2, 3), dtype=x.dtype),
        lambda xp, x: xp.broadcast_to(x[0], (4, 3)),
        lambda xp, x: xp.squeeze(x[:1], axis=0),
        lambda xp, x: xp.take(x, xp.asarray([0, 2, 0]), axis=1),
        lambda xp, x: xp.sum(x, axis=0),
        lambda xp, x: xp.sum(x) - xp.mean(x, axis=(0, 1)),
        lambda xp, x: xp.mean(x, axis=-1, keepdims=True),
        lambda xp, x: xp.cumulative_sum(x, axis=1),
        lambda xp, x: 3 - 2 * x + x / 4 + xp.ones_like(x) - xp.full_like(x, 2.0),
        lambda xp, x: xp.matmul(x, xp.matrix_transpose(xp.asarray([[1.0, 2.0, 3.0]]))),
        lambda xp, x: xp.asarray(x, dtype=x.dtype) + xp.astype(xp.arange(3), x.dtype),
    ],
)
def test_linear_functions_do_to_tangents_what_they_do_to_numbers(function: Any) -> None:
    x, t = np.random.default_rng(1).normal(size=(2, 2, 3))
    xp = array_api_compat.array_namespace(x)
    value, tangent = jvp(lambda x: function(namespace(x), x), (x,), (t,))
    assert np.array_equal(value, function(xp, x))
    np.testing.assert_allclose(tangent, function(xp, t) - function(xp, 0 * t), rtol=1e-14, atol=1e-14)


def test_matrix_products_of_two_moving_factors() -> None:
    a, da, b, db = np.random.default_rng(1).normal(size=(4, 2, 3, 3))
    value, tangent = jvp(lambda a, b: a @ b, (a, b), (da, db))
    assert np.array_equal(value, a @ b)
    assert np.array_equal(tangent, da @ b + a @ db)


# --- definitions ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    ["softmax.log_softmax", "normalization.layer_norm", "activation.gelu", "favor.favor_attention", "gpt2.logits"],
)
def test_values_are_those_of_float64_bit_for_bit(rule: str) -> None:
    from refimpl.gradients import RULES

    for case in cases_of(rule):
        value = RULES[rule].definition(**case.arguments)
        names = list(case.arguments)
        given_, none = tuple(case.arguments.values()), (None,) * len(names)

        def definition(*parts: Any, names: Any = names) -> Any:
            return RULES[rule].definition(**dict(zip(names, parts, strict=True)))

        found, tangent = jvp(definition, given_, none)
        assert np.asarray(found).tobytes() == np.asarray(value).tobytes()
        assert not np.any(tangent)


def test_bare_complex_numbers_agree_at_a_step_of_1e_200() -> None:
    """The textbook's complex step, in NumPy's own complex arithmetic, on formulas without branches."""
    rng, h = np.random.default_rng(5), 1e-200
    x, t = rng.normal(size=(2, 3, 5))
    scale, bias = rng.normal(size=(2, 5))
    z = x + 1j * h * t
    shifted = np.exp(z - x.max(-1, keepdims=True))
    p = shifted / shifted.sum(-1, keepdims=True)
    centred = z - z.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * scale + bias
    gelu = z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    for bare, definition, others in (
        (p, softmax.softmax, ()),
        (np.log(p), softmax.log_softmax, ()),
        (y, lambda *given: normalization.layer_norm(*given, eps=1e-5), (scale, bias)),
        (gelu, activation.gelu, ()),
    ):
        value, tangent = jvp(definition, (x, *others), (t, *(None for _ in others)))
        np.testing.assert_allclose(value, bare.real, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(tangent, bare.imag / h, rtol=1e-13, atol=1e-15)


def test_piecewise_linear_products_have_their_own_derivative() -> None:
    """Mitchell's product is a·b + ...: within a cell linear in each factor, with slope 2^e of the other."""
    value, tangent = jvp(mitchell.multiply, (np.array([1.25]), np.array([1.5])), (np.ones(1), np.zeros(1)))
    assert (value.tolist(), tangent.tolist()) == ([1.75], [1.0])


def test_trees_and_options_go_through() -> None:
    config = gpt2.GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=2, n_inner=4)
    rng = np.random.default_rng(2)
    arrays = {name: rng.normal(size=shape) for name, shape in gpt2.GPT2Weights.shapes(config).items()}
    weights = gpt2.GPT2Weights.from_named(arrays, config)
    moved = {name: rng.normal(size=a.shape) for name, a in arrays.items()}
    ids, mask = np.array([[0, 3, 1]]), np.array([[False, True, True]])
    along = gpt2.GPT2Weights.from_named(moved, config)
    value, tangent = jvp(gpt2.logits, (weights, config, ids), (along, None, None), mask=mask)
    assert np.array_equal(value, gpt2.logits(weights, config, ids, mask=mask))
    h = 1e-6
    ends = [
        gpt2.logits(
            gpt2.GPT2Weights.from_named({name: a + side * h * moved[name] for name, a in arrays.items()}, config),
            config,
            ids,
            mask=mask,
        )
        for side in (1, -1)
    ]
    np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-6)
    partial = along._replace(blocks=None, token_embedding=None)
    assert np.any(jvp(gpt2.logits, (weights, config, ids), (partial, None, None))[1] != 0)


def test_results_of_every_kind() -> None:
    def function(x: Any, name: str, pair: Any, table: Any) -> Any:
        return {
            "moved": x * pair[0],
            "name": name,
            "places": namespace(x).argmax(x, axis=0),
            "pair": (pair, table["b"]),
        }

    x = np.array([1.0, 4.0])
    value, tangent = jvp(function, (x, "a", [x, None], {"b": x}), (x, None, None, {"b": 2 * x}))
    assert value["name"] == "a"
    assert tangent["name"] is None
    assert int(value["places"]) == 1
    assert tangent["places"] is None
    assert tangent["moved"].tolist() == [1, 16]
    assert tangent["pair"][0][0].tolist() == [0, 0]
    assert tangent["pair"][1].tolist() == [2, 8]


# --- what is refused --------------------------------------------------------------------------------------------------------------------

ONE = ComplexArray(np.array([1.0 + 2.0j]))


@pytest.mark.parametrize(
    ("kind", "told", "function"),
    [
        (errors.DtypeError, r"float64(.|\n)*float32", lambda: jvp(abs, (np.ones(2, np.float32),), (None,))),
        (errors.DtypeError, "float64", lambda: jvp(softmax.softmax, (np.ones(2, np.float16),), (None,))),
        (errors.NotBuiltYetError, "logaddexp has no form", lambda: namespace(ONE).logaddexp(ONE, ONE)),
        (errors.NotBuiltYetError, "a float has no derivative", lambda: float(ONE[0])),
        (errors.NotBuiltYetError, "no such power", lambda: ONE**ONE),
        (errors.NotBuiltYetError, "remainder of floats", lambda: ONE % 2),
        (errors.NotBuiltYetError, "floor_divide of floats", lambda: ONE // ONE),
        (errors.ShapeError, r"tangents(.|\n)*expected: 1 tangents(.|\n)*got: +2", lambda: jvp(abs, (1,), (1, 2))),
        (errors.ShapeError, "shape of its argument", lambda: jvp(abs, (np.ones(2),), (np.ones(3),))),
        (errors.ShapeError, "None for an argument of int64", lambda: jvp(abs, (np.arange(2),), (np.ones(2),))),
        (errors.ShapeError, "2 parts(.|\n)*1 parts", lambda: jvp(abs, ([np.ones(2), None],), ([None],))),
        (TypeError, "does not support ufuncs", lambda: ONE + np.ones(1)),
        (TypeError, "Multiple namespaces", lambda: namespace(ONE, np.ones(1))),
    ],
)
def test_what_is_refused(kind: type[Exception], told: str, function: Any) -> None:
    with pytest.raises(kind, match=told):
        function()


def test_numbers_and_truth_values_of_the_real_part() -> None:
    one = ComplexArray(np.array(3.0 + 0j))
    assert (float(one), int(one), bool(one)) == (3.0, 3, True)
    assert int(ComplexArray(np.array(3.5 + 1j))) == 3
    assert "tangent array([2.])" in repr(ONE)
    assert repr(ComplexArray(np.array([1, 2]))) == "array([1, 2])"
    assert plain([ONE, 3])[0].dtype == np.complex128
    assert (ONE.dtype, ONE.shape, ONE.ndim, ONE.size) == (np.dtype("float64"), (1,), 1, 1)
    assert namespace(ONE).result_type(ONE, ONE) == np.dtype("float64")


def test_other_definitions_run() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2, 4, 3)), rng.normal(size=(4, 3))
    for definition, given_ in (
        (attention.scaled_dot_product_attention, (x, x, x)),
        (taylor.taylor_attention, (x, x, x)),
        (favor.positive_features, (x, w)),
        (decoding.sampling_probabilities, (x[0],)),
    ):
        value, tangent = jvp(definition, given_, tuple(map(np.ones_like, given_)))
        pairs = zip(value, tangent, strict=True) if isinstance(value, tuple) else [(value, tangent)]
        assert all(np.shape(a) == np.shape(b) for a, b in pairs)
