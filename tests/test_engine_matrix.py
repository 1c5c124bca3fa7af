"""Every definition on every number system: runs, keeps dtype, shape, device and namespace, mutates nothing, tells the truth.

The truth is the ball enclosure of the same source at 1e-20 or better. The budget of each float answer is *proved*: the radius of the
definition in p-bit balls (validation.tolerance). On balls the claim is containment: the answer's enclosure meets the truth's.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
import pytest
from systems import ALL_DTYPES, HOST, NUMPY, System, rounded, unchanged

from refimpl import (
    activation,
    attention,
    blocks,
    linear_attention,
    mitchell,
    normalization,
    parameters,
    positions,
    softmax,
    special,
    taylor,
)
from validation import tolerance, truth


class Case(NamedTuple):
    name: str
    definition: Any
    inputs: tuple[
        Any, ...
    ]  # float64 arrays are rounded to the dtype under test; booleans and whole numbers are moved as they are
    # whose radius in p-bit balls is the budget: erf is one operation to a ball, and forty to a strict array, so there it is the
    # array-API formula's. (SciPy's own erfc is not correctly rounded either: 1.4 times the one-operation budget at x = 0.87.)
    budgeted: Any = None


def _attention(part: int, *names: str) -> Any:
    """The output (0) or the scores (1), of positional arguments q, k, v and those named."""

    def definition(q: Any, k: Any, v: Any, *rest: Any) -> Any:
        return attention.scaled_dot_product_attention(q, k, v, **dict(zip(names, rest, strict=True)))[part]

    return definition


def _linear(part: int, **options: Any) -> Any:
    """The numerators (0) or the denominators (1), of positional arguments q, k, v and the key mask, if there is one."""

    def definition(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return linear_attention.linear_attention(q, k, v, mask=mask, **options)[part]

    return definition


def _taylor_attention(**options: Any) -> Any:
    def definition(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        return taylor.taylor_attention(q, k, v, mask=mask, **options)

    return definition


def _sparse_cases(mask: Any) -> list[Case]:
    """No ties, in any dtype: rounded balls have no order where they meet. Ties are in tests/test_engine_sparse.py."""
    rng = np.random.default_rng(20260102)
    apart = 0.3 * rng.permutation(np.arange(-15.0, 15.0)).reshape(2, 3, 5)
    targets, allowed = rng.integers(0, 5, (2, 3)), np.argmax(mask, axis=-1)

    def loss(k: int) -> Any:
        return lambda x, t, mask=None: softmax.sparse_softmax_cross_entropy(x, t, k, mask=mask)

    return [
        Case("sparse_softmax", functools.partial(softmax.sparse_softmax, k=2), (apart,)),
        Case("sparse_softmax-axis1", functools.partial(softmax.sparse_softmax, k=2, axis=1), (apart,)),
        Case("sparse_softmax-one", functools.partial(softmax.sparse_softmax, k=1, axis=0), (apart,)),
        Case("sparse_softmax-all", functools.partial(softmax.sparse_softmax, k=7), (apart,)),
        Case("sparse_softmax-mask", lambda x, m: softmax.sparse_softmax(x, 2, mask=m), (apart, mask)),
        Case("sparse_loss", loss(2), (apart, targets)),
        Case("sparse_loss-all", loss(5), (apart, targets)),
        Case("sparse_loss-mask", loss(2), (apart, allowed, mask)),
        Case("sparse_loss-positions", loss(3), (apart, targets, mask[:, :, :1])),
    ]


def _linear_cases() -> list[Case]:
    rng = np.random.default_rng(20260103)
    q, k, v = rng.normal(0, 1, (2, 2, 4, 3)), rng.normal(0, 1, (2, 2, 5, 3)), rng.normal(0, 1, (2, 2, 5, 2))
    keys = np.array([[[False, False, True, True, False]], [[True, False, True, True, True]]])
    taylors: dict[str, dict[str, Any]] = {
        "taylor_attention": {},
        "taylor_attention-scale": {"scale": Fraction(1, 3)},
        "taylor_attention-causal": {"causal": True},
        "taylor_attention-chunks": {"causal": True, "chunk": 3},
    }
    linears: dict[str, tuple[int, dict[str, Any]]] = {
        "linear_attention": (0, {"chunk": 2}),
        "linear_attention-denominators": (1, {"chunk": 2}),
        "linear_attention-causal": (0, {"causal": True, "chunk": 3}),
        "linear_attention-causal-denominators": (1, {"causal": True, "chunk": 1}),
        "linear_attention-maps": (0, {"q_map": softmax.softmax, "k_map": softmax.softmax, "causal": True}),
    }
    return [
        *(Case(name, _taylor_attention(**options), (q, k, v)) for name, options in taylors.items()),
        *(Case(f"{name}-mask", _taylor_attention(**options), (q, k, v, keys)) for name, options in taylors.items()),
        *(Case(name, _linear(part, **options), (q, k, v)) for name, (part, options) in linears.items()),
        *(Case(f"{name}-mask", _linear(part, **options), (q, k, v, keys)) for name, (part, options) in linears.items()),
    ]


def _attention_mean(q: Any, k: Any, v: Any, mask: Any, previous: Any) -> Any:
    return attention.scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=previous, mean_over=3)[0]


def _layer(kind: str, names: list[str], heads: int, **options: Any) -> Any:
    """One layer of `refimpl.blocks` as a function of x, its twelve parameters, and the arrays that `options` name by position after them."""

    def definition(x: Any, *arrays: Any) -> Any:
        layer = parameters.Block.from_named(dict(zip(names, arrays, strict=False)), "")
        rest = {name: arrays[len(names) + i] for i, name in enumerate(options)}
        return getattr(blocks, kind)(layer, x, blocks.Form(heads, 1e-5, "tanh"), **rest)[0]

    return definition


def _layer_cases() -> list[Case]:
    rng = np.random.default_rng(20260102)
    shapes = parameters.Block.shapes(4, 6)
    arrays = [rng.normal(float(name.endswith("scale")), 0.2, shape) for name, shape in shapes.items()]
    x, mask, previous = rng.normal(size=(2, 3, 4)), np.tri(3, dtype=bool), rng.normal(size=(2, 2, 3, 3))
    inputs, names = (x, *arrays), list(shapes)
    return [
        Case("pre_ln", _layer("pre_ln", names, 2, mask=0), (*inputs, mask)),
        Case("post_ln", _layer("post_ln", names, 2, mask=0), (*inputs, mask)),
        Case("realformer", _layer("realformer", names, 2, mask=0, previous_scores=1), (*inputs, mask, previous)),
    ]


def _mitchell_cases() -> list[Case]:
    """No number near a power of two and no f + g or f - g near a whole number, in any dtype: rounded balls are undecided there."""
    k = np.arange(1.0, 16.0, 2)
    a, b = (
        (16 + k) / 16 * 2.0 ** np.array([0, 3, -2, 5, 1, -4, 2, 0]),
        (33 + 2 * k[::-1]) / 32 * np.array([1, -1, 4, -0.5] * 2),
    )
    pairs = (a.reshape(2, 4), b.reshape(2, 4))
    return [
        Case("mitchell-multiply", mitchell.multiply, pairs),
        Case("mitchell-multiply-broadcast", lambda x, y: mitchell.multiply(x[:, None, :], y[:, :, None]), pairs),
        Case("mitchell-multiply-pam", functools.partial(mitchell.multiply, dialect="pam"), pairs),
        Case("mitchell-multiply-semimul", functools.partial(mitchell.multiply, dialect="semimul"), pairs),
        Case(
            "mitchell-corrected",
            mitchell.corrected_multiply,
            (np.array([19.0, -21, 23, 25, 27, 29]) / 16, np.array([39, 43, 45, 51, -53, 57]) / 8.0),
        ),
        Case("mitchell-divide", mitchell.divide, pairs),
        Case("mitchell-divide-flush", functools.partial(mitchell.divide, dialect="flush"), pairs),
        Case("mitchell-log2", mitchell.log2_approx, (a,)),
        Case("mitchell-square-root", mitchell.square_root, (a,)),
        Case("mitchell-exp2", mitchell.exp2_approx, ((2 * np.arange(-8, 8.0) + 0.75) / 4,)),
        Case("mitchell-dot", mitchell.dot, pairs),
        Case("mitchell-matmul", lambda x, y: mitchell.matmul(x, y.T), pairs),
        Case("mitchell-cube", lambda x: mitchell.power(x, 3), ((16 + k) / 16,)),
        Case(
            "mitchell-power",
            functools.partial(mitchell.power, product="exact"),
            ((16 + k) / 16, (33 + 2 * k[::-1]) / 32),
        ),
        Case("mitchell-einsum", functools.partial(mitchell.einsum, "ij,kj->ki"), pairs),
    ]


def _position_cases() -> list[Case]:
    rng = np.random.default_rng(20260103)
    table, at = rng.normal(size=(4, 6)), np.array([[0, 3, 4], [15, 9, 2]])
    hierarchical = positions.hierarchical_positions

    def relative(table: Any) -> Any:
        return positions.relative_positions(3, 5, 4, like=table, clip=3)

    return [
        Case("hierarchical_bases", positions.hierarchical_bases, (table,)),
        Case("hierarchical_positions", lambda table: hierarchical(table, at.tolist()), (table,)),
        Case("hierarchical_positions-alpha", lambda table: hierarchical(table, at.tolist(), Fraction(-1, 3)), (table,)),
        Case("relative_positions", relative, (table,)),
    ]


def _cases() -> list[Case]:
    rng = np.random.default_rng(20260101)
    wave = rng.normal(0, 2, (2, 3, 5))
    mask = rng.random((2, 3, 5)) < 0.6
    mask[0, 0], mask[1, 2] = False, True
    q, k, v = rng.normal(0, 1, (2, 2, 4, 6)), rng.normal(0, 1, (2, 2, 5, 6)), rng.normal(0, 1, (2, 2, 5, 3))
    seen = rng.random((2, 1, 4, 5)) < 0.5
    seen[0, 0, 1] = False
    previous, relative = rng.normal(0, 1, (2, 2, 4, 5)), rng.normal(0, 1, (4, 5, 6))
    scale, bias = rng.normal(1, 0.2, 5), rng.normal(0, 0.2, 5)
    elementwise = np.concatenate([wave.ravel(), [0.0, -0.0, 1e-3, -1e-3, 5.5, -5.5, 7.0, -7.0, 9.5]])
    taylor_cases = [
        Case(f"exp_taylor-{n}", functools.partial(taylor.exp_taylor, order=n), (wave,)) for n in (0, 1, 2, 3, 4, 6, 9)
    ]
    activations: dict[str, Any] = {
        "relu": activation.relu,
        "sigmoid": activation.sigmoid,
        "tanh": activation.tanh,
        "gelu-tanh": functools.partial(activation.gelu, approximate="tanh"),
        "gelu-none": functools.partial(activation.gelu, approximate="none"),
    }
    softmaxes: dict[str, Any] = {
        "softmax": softmax.softmax,
        "softmax-axis0": functools.partial(softmax.softmax, axis=0),
        "softmax-axis1": functools.partial(softmax.softmax, axis=1),
        "log_softmax": softmax.log_softmax,
        "log_softmax-axis1": functools.partial(softmax.log_softmax, axis=1),
        "logsumexp": softmax.logsumexp,
        "logsumexp-axis0": functools.partial(softmax.logsumexp, axis=0),
        "taylor_softmax": taylor.taylor_softmax,
        "taylor_softmax-4-axis1": functools.partial(taylor.taylor_softmax, order=4, axis=1),
        "taylor_features": taylor.taylor_features,
        "masked_softmax-None": functools.partial(softmax.masked_softmax, mask=None),
    }
    qkv = (q, k, v)
    return [
        *taylor_cases,
        *(Case(name, function, (elementwise,)) for name, function in activations.items()),
        Case("erf", special.erf, (elementwise,), special.erf_midpoint),
        Case("erfc", special.erfc, (elementwise,), special.erfc_midpoint),
        *(Case(name, function, (wave,)) for name, function in softmaxes.items()),
        Case("masked_softmax", softmax.masked_softmax, (wave, mask)),
        Case("masked_softmax-axis0", functools.partial(softmax.masked_softmax, axis=0), (wave, mask)),
        Case("masked_softmax-broadcast", softmax.masked_softmax, (wave, mask[:, :1, :])),
        Case("layer_norm", functools.partial(normalization.layer_norm, eps=1e-5), (wave, scale, bias)),
        Case("layer_norm-eps0", functools.partial(normalization.layer_norm, eps=0.0), (wave, scale, bias)),
        Case("attention", _attention(0), qkv),
        Case("attention-scores", _attention(1), qkv),
        Case("attention-mask", _attention(0, "mask"), (*qkv, seen)),
        Case("attention-mask-scores", _attention(1, "mask"), (*qkv, seen)),
        Case("attention-previous", _attention(0, "previous_scores"), (*qkv, previous)),
        Case("attention-previous-scores", _attention(1, "previous_scores"), (*qkv, previous)),
        Case("attention-relative", _attention(0, "mask", "relative"), (q, k, k + 1, seen, relative)),
        Case("attention-relative-scores", _attention(1, "mask", "relative"), (q, k, k + 1, seen, relative)),
        Case("attention-mean", _attention_mean, (*qkv, seen, previous)),
        *_layer_cases(),
        *_position_cases(),
        *_mitchell_cases(),
        Case("attention-both", _attention(0, "mask", "previous_scores"), (*qkv, seen, previous)),
        *_sparse_cases(mask),
        *_linear_cases(),
    ]


CASES = _cases()
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def _inputs(case: Case, dtype: str) -> tuple[Any, ...]:
    return tuple(rounded(array, dtype) if array.dtype.kind == "f" else array for array in case.inputs)


@functools.cache
def _truth(name: str, dtype: str) -> tuple[Any, Any]:
    """The enclosure of the exact answer for the rounded inputs, and the proved budget of the dtype."""
    case = next(case for case in CASES if case.name == name)
    arrays = _inputs(case, dtype)
    return (
        truth.enclose(case.definition, *arrays),
        tolerance.proved_budget(case.budgeted or case.definition, *arrays, dtype=dtype),
    )


def _overlap(a: Any, b: Any) -> bool:
    return all(x.overlaps(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))


@every_case
def test_answer_is_within_the_proved_budget_of_the_enclosure(case: Case, system: System) -> None:
    for dtype in system.dtypes:
        enclosure, budget = _truth(case.name, dtype)
        answer = case.definition(*map(system.to, _inputs(case, dtype)))
        if system.is_ball:
            assert answer.shape == enclosure.shape
            assert _overlap(answer, enclosure)
            # inclusion is monotone: exact inputs give no wider balls than inputs known to 53 bits, and those are narrow
            known = [a if a.dtype.kind in "bi" else truth.balls(a, 2.0**-53) for a in _inputs(case, dtype)]
            wide = truth.radii(case.definition(*known))
            assert np.all(truth.radii(answer) <= wide)
            assert np.all(wide < 1e-12)
        else:
            verdict = tolerance.judge(system.back(answer), enclosure, budget, dtype)
            assert verdict.passed, (dtype, verdict)


@every_case
def test_dtype_namespace_and_device_are_kept(case: Case, system: System) -> None:
    for dtype in system.dtypes:
        answer = case.definition(*map(system.to, _inputs(case, dtype)))
        assert str(answer.dtype).rpartition(".")[2] == ("object" if system.is_ball else dtype)
        assert array_api_compat.array_namespace(answer) is system.xp
        assert array_api_compat.device(answer) == system.device


@every_case
def test_inputs_are_not_mutated(case: Case, system: System) -> None:
    for dtype in system.dtypes:
        moved = [system.to(array) for array in _inputs(case, dtype)]
        look = (lambda a: a.copy()) if system.is_ball else (lambda a: system.back(a).copy())
        before = [look(array) for array in moved]
        case.definition(*moved)
        for old, array in zip(before, moved, strict=True):
            assert unchanged(old, look(array))


@every_case
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_memory_layout_does_not_change_the_answer_beyond_the_budget_twice(case: Case, dtype: str) -> None:
    """Any two answers within the budget differ by at most twice the budget; elementwise definitions give the same bits."""
    arrays = _inputs(case, dtype)
    plain = case.definition(*arrays)
    enclosure, budget = _truth(case.name, dtype)
    last = tolerance.roundoff(dtype) * np.abs(truth.midpoints(enclosure)) + tolerance.smallest_normal(dtype)
    for system in HOST[1:4]:
        other = case.definition(*map(system.to, arrays))
        difference = np.abs(np.asarray(other, np.float64) - np.asarray(plain, np.float64))
        assert np.all(difference <= 2 * (budget + last)), system.name


def test_causal_mask_lets_a_query_see_its_own_position_and_those_before(system: System) -> None:
    for n_query, n_key in [(1, 1), (3, 3), (2, 5), (1, 4)]:
        mask = attention.causal_mask(n_query, n_key, xp=system.xp, device=system.device)
        assert array_api_compat.array_namespace(mask) is system.xp
        assert array_api_compat.device(mask) == system.device
        assert "bool" in str(mask.dtype)
        first = n_key - n_query  # the queries are the last positions
        expected = [[key <= first + query for key in range(n_key)] for query in range(n_query)]
        assert system.back(mask).tolist() == expected


def test_the_empty_rows_of_a_mask_are_exactly_zero_on_balls_too() -> None:
    x = truth.balls(np.array([[1.0, 2.0]]))
    weights = softmax.masked_softmax(x, np.array([[False, False]]))
    assert [ball.is_zero() for ball in weights.ravel()] == [True, True]


def test_the_matrix_holds_what_it_says() -> None:
    """A matrix whose layouts were all the plain one would prove nothing."""
    array = np.arange(6.0).reshape(2, 3)
    by_name = {system.name: system.to(array) for system in HOST[:6]}
    assert by_name["numpy"].flags.c_contiguous
    assert not by_name["numpy-read-only"].flags.writeable
    assert by_name["numpy-fortran"].flags.f_contiguous
    assert not by_name["numpy-fortran"].flags.c_contiguous
    assert not by_name["numpy-strided"].flags.contiguous
    with pytest.raises((RuntimeError, ValueError, TypeError, BufferError), match="device"):
        np.asarray(by_name["strict-device1"])
    with pytest.raises(ValueError, match="float64"):
        HOST[6].to(array)
    assert NUMPY.back(by_name["numpy"]).tolist() == array.tolist()
