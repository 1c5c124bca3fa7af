"""Mitchell's arithmetic on bit patterns: equal to that on floats, in every format and dialect, and to whole numbers' own laws."""

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import mitchell, mitchell_patterns
from refimpl.bits import FORMATS
from refimpl.errors import ConfigError, DtypeError, ShapeError

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
OF = [("multiply", dialect) for dialect in mitchell_patterns.dialects] + [("divide", "ieee"), ("divide", "flush")]


def _floats(patterns, name):
    kind = np.dtype(KINDS[name])
    return patterns.astype(f"uint{8 * kind.itemsize}").view(kind)


def _patterns(floats):
    words = floats.view(f"uint{8 * floats.dtype.itemsize}").astype(np.int64)
    fmt = FORMATS[str(floats.dtype)]
    quiet = ((2 * fmt.highest + 1) << (fmt.digits - 1)) | (1 << (fmt.digits - 2))
    return np.where(np.isnan(floats.astype(np.float64)), quiet, words)


def _some(rng, name, count):
    """Patterns of all kinds, and those beside every boundary."""
    fmt = FORMATS[name]
    width, shift, top = fmt.width, fmt.digits - 1, 2 * fmt.highest + 1
    words = rng.integers(0, 2**64, count, dtype=np.uint64) >> np.uint64(64 - width)
    at = [0, 1 << shift, fmt.highest << shift, (top - 1) << shift, top << shift]
    near = np.array([x + d for x in at for d in (0, 1, 2, (1 << shift) - 2, (1 << shift) - 1)], np.uint64)
    near = near[near < 2 ** (width - 1)]
    every = np.concatenate([near, near | np.uint64(1 << (width - 1)), words])
    return every.astype(np.int64)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("operation", "dialect"), OF)
def test_patterns_are_those_of_the_answers_of_floats(operation, dialect, name):
    rng = np.random.default_rng(1962)
    a = _some(rng, name, 20_000)
    b = rng.permutation(_some(rng, name, 20_000))
    edges = a[:50]
    a, b = np.concatenate([a, np.repeat(edges, 50)]), np.concatenate([b, np.tile(edges, 50)])
    with np.errstate(all="ignore"):
        expected = getattr(mitchell, operation)(_floats(a, name), _floats(b, name), dialect=dialect)
    got = getattr(mitchell_patterns, operation)(a, b, format=name, dialect=dialect)
    assert got.dtype == np.int64
    wrong = np.flatnonzero(got != _patterns(expected))
    assert not wrong.size, [(hex(a[i]), hex(b[i]), hex(got[i])) for i in wrong[:3]]


@pytest.mark.parametrize("dialect", mitchell_patterns.dialects)
def test_every_product_of_eight_binades_of_bfloat16_is_the_sum_of_patterns(dialect):
    a, b = np.meshgrid(np.arange(123 << 7, 131 << 7), np.arange(123 << 7, 131 << 7))
    assert np.array_equal(mitchell_patterns.multiply(a, b, format="bfloat16", dialect=dialect), a + b - (127 << 7))


@given(st.sampled_from(tuple(FORMATS)), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from(OF))
def test_signs_and_order_of_operands(name, x, y, of):
    operation, dialect = of
    width = FORMATS[name].width
    a, b = (np.array([n >> (64 - width)], np.uint64).astype(np.int64) for n in (x, y))
    sign = np.array([1 << (width - 1)], np.uint64).astype(np.int64)
    function = getattr(mitchell_patterns, operation)
    answer = function(a, b, format=name, dialect=dialect)
    if operation == "multiply":
        assert answer == function(b, a, format=name, dialect=dialect)
    assert answer == function(a ^ sign, b ^ sign, format=name, dialect=dialect)


def test_the_exact_sum_of_a_rounding_is_a_tie_to_even():
    """Products half-way between subnormal numbers of float32: 2^-149 times 1/2, 3/2, 5/2."""
    a, half = np.array([1, 3, 5, 1], np.int64), np.array([0x3F000000] * 3 + [0x3F000001])
    assert mitchell_patterns.multiply(a, half, format="float32").tolist() == [0, 2, 2, 1]
    assert mitchell_patterns.multiply(a, half, format="float32", dialect="flush").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("operation", ["multiply", "divide"])
def test_bad_arguments_are_told(operation):
    function, one = getattr(mitchell_patterns, operation), np.ones(1, np.int64)
    with pytest.raises(DtypeError, match=rf"patterns are given as int64(.|\n)*{operation}\(b\)(.|\n)*uint32"):
        function(one, one.astype(np.uint32), format="float32")
    with pytest.raises(ConfigError, match=r"unknown floating-point format(.|\n)*bfloat16(.|\n)*'half'"):
        function(one, one, format="half")
    with pytest.raises(ConfigError, match=r"no such dialect on patterns(.|\n)*ieee, flush(.|\n)*'pam'"):
        function(one, one, format="float32", dialect="pam")


@pytest.mark.parametrize("operation", ["multiply", "divide"])
@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
def test_numbers_beyond_the_width_are_no_patterns(operation, xp):
    function = getattr(mitchell_patterns, operation)
    for name, fmt in FORMATS.items():
        ends = [0, 2**fmt.width - 1] if fmt.width < 64 else [-(2**63), -1, 2**63 - 1]
        good = xp.asarray([ends[0], ends[-1]], dtype=xp.int64)
        assert function(good, good, format=name).shape == (2,)
        for wrong in (-1, -(2**63), 2**fmt.width, 2**63 - 1) if fmt.width < 64 else ():
            bad = xp.asarray([1, wrong], dtype=xp.int64)
            for pair, which in (((bad, good), "a"), ((good, bad), "b")):
                words = (
                    f"no pattern of {name}\n",
                    rf"{operation}\({which}\)",
                    rf"< 2\^{fmt.width} = {1 << fmt.width}\n",
                )
                message = "(.|\n)*".join((*words, f"got: *{wrong}\n", f"uint{fmt.width}"))
                with pytest.raises(ConfigError, match=message):
                    function(*pair, format=name)
    with pytest.raises(ConfigError, match=r"float16(.|\n)*got: *80896\n"):
        function(xp.asarray(0x13C00), xp.asarray(1), format="float16")
    empty = xp.zeros((0,), dtype=xp.int64)
    assert function(empty, empty, format="float16").shape == (0,)


def test_the_program_without_a_quotient_has_none():
    one = np.ones(1, np.int64)
    with pytest.raises(ConfigError, match=r"no such dialect on patterns(.|\n)*ieee, flush\n(.|\n)*'semimul'"):
        mitchell_patterns.divide(one, one, format="float32", dialect="semimul")


@pytest.mark.parametrize("operation", ["multiply", "divide"])
def test_what_is_no_array_of_patterns_is_refused_in_words(operation):
    function, one = getattr(mitchell_patterns, operation), np.ones((2, 3), np.int64)
    where = f"refimpl.mitchell_patterns.{operation}"
    for other in (1, [1], None):
        words = (
            "b is no array\n",
            rf"{where}\(b\)\n",
            "int64\n",
            f"got: *{type(other).__name__}\n",
            r"xp.asarray\(b\)",
        )
        with pytest.raises(DtypeError, match="(.|\n)*".join(words)):
            function(one, other, format="float32")
    for other in (one.astype(np.float32), one.astype(np.uint64), one > 0):
        words = ("given as int64\n", rf"{where}\(a\)\n", f"got: *{other.dtype}\n", "x.view")
        with pytest.raises(DtypeError, match="(.|\n)*".join(words)):
            function(other, one, format="float32")
    words = ("do not broadcast\n", where, "equal or 1\n", r"\(2, 3\), \(3, 2\)\n", "axes of length 1")
    with pytest.raises(ShapeError, match="(.|\n)*".join(words)):
        function(one, one.T, format="float32")
