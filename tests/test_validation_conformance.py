"""`validation.check`: definitions conform, realistic bugs and null answers do not, and reports say why."""

import re

import numpy as np
import pytest
import scipy.special

import validation
from refimpl import activation, attention, errors, gpt2, normalization, positions, softmax, taylor
from validation import components, conformance, tolerance, truth

ELEMENTARY = [name for name in components.COMPONENTS if name != "gpt2"]


def _softmax_like(x, *, shift=True, axis=-1):
    e = np.exp(x - (x.max(axis, keepdims=True) if shift else 0))
    return (e / e.sum(axis, keepdims=True)).astype(x.dtype)


def _layer_norm(x, scale, bias, eps, *, inside=True, ddof=0, wrong_eps=None):
    eps = eps if wrong_eps is None else wrong_eps
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True, ddof=ddof)
    root = np.sqrt(variance + np.asarray(eps, x.dtype)) if inside else np.sqrt(variance) + np.asarray(eps, x.dtype)
    return ((x - mean) / root * scale + bias).astype(x.dtype)


def _attention(q, k, v, mask, *, scaled=True, shifted=0, transposed=False, additive=False):
    scores = q @ np.swapaxes(k, -1, -2) / (np.sqrt(q.shape[-1]).astype(q.dtype) if scaled else 1)
    if mask is not None:
        seen = np.roll(mask, shifted, axis=-1) if shifted else mask
        scores = scores + np.where(seen, 0, -1e4).astype(q.dtype) if additive else np.where(seen, scores, -np.inf)
    weights = scipy.special.softmax(scores, axis=-2 if transposed else -1)
    return (np.nan_to_num(weights) @ v).astype(q.dtype)


def _bfloat16(x):
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _tiny_gpt2(dtype, **replaced):
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    weights = gpt2.GPT2Weights.from_named({name: a.astype(dtype) for name, a in arrays.items()}, config)
    settings = {"dialect": "openai", "config": config, "ignore_mask": False} | replaced

    def function(token_ids, mask):
        seen = None if settings["ignore_mask"] else mask
        return (
            gpt2.logits(weights, settings["config"], token_ids, mask=seen, dialect=settings["dialect"])
            * mask[..., None]
        )

    return function


def _tiny_config(**changes):
    config = components.recorded_gpt2("gpt2_tiny")[0]
    return gpt2.GPT2Config(**{**config.__dict__, **changes})


def _residual(q, k, v, previous, mask, mean_over):
    options = {"mask": mask, "previous_scores": previous, "mean_over": mean_over}
    return attention.scaled_dot_product_attention(q, k, v, **options)[0]


def _relative_attention(q, k, v, relative, mask):
    return attention.scaled_dot_product_attention(q, k, v, mask=mask, relative=relative)


BUGS = {
    "softmax": {
        "un-shifted": lambda x: _softmax_like(x, shift=False),
        "wrong axis": lambda x: _softmax_like(x, axis=0),
        "denominator + 1e-6": lambda x: (
            np.exp(x - x.max(-1, keepdims=True))
            / (np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True) + np.float32(1e-6))
        ),
        "bfloat16 sums": lambda x: (
            np.exp(x - x.max(-1, keepdims=True))
            / _bfloat16(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        ),
        "constant": lambda x: np.full_like(x, 1 / x.shape[-1]),
        "not normalized": lambda x: np.exp(x - x.max(-1, keepdims=True)),
    },
    "log_softmax": {
        "log of softmax": lambda x: np.log(_softmax_like(x)),
        "un-shifted": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    },
    "logsumexp": {
        "un-shifted": lambda x: np.log(np.exp(x).sum(-1)),
        "max": lambda x: x.max(-1),
        "keeps the axis": lambda x: softmax.logsumexp(x)[..., None],
    },
    "gelu": {
        "tanh for erf": lambda x, approximate: activation.gelu(x, "tanh"),
        "erf for tanh": lambda x, approximate: activation.gelu(x, "none"),
        "quick": lambda x, approximate: x / (1 + np.exp(-np.float32(1.702) * x)),
        "0.0447": lambda x, approximate: (
            x / 2 * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.0447) * x**3)))
            if approximate == "tanh"
            else activation.gelu(x, approximate)
        ),
    },
    "layer_norm": {
        "eps outside the root": lambda x, scale, bias, eps: _layer_norm(x, scale, bias, eps, inside=False),
        "unbiased variance": lambda x, scale, bias, eps: _layer_norm(x, scale, bias, eps, ddof=1),
        "eps 1e-6": lambda x, scale, bias, eps: _layer_norm(x, scale, bias, eps, wrong_eps=1e-6),
        "eps 1e-5 for 1e-12": lambda x, scale, bias, eps: _layer_norm(x, scale, bias, 1e-5),
        "no bias": lambda x, scale, bias, eps: _layer_norm(x, scale, 0 * bias, eps),
        "mean of squares": lambda x, scale, bias, eps: (
            (x - x.mean(-1, keepdims=True)) / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * scale + bias
        ),
    },
    "attention": {
        "missing 1/sqrt d": lambda q, k, v, mask: _attention(q, k, v, mask, scaled=False),
        "mask off by one": lambda q, k, v, mask: _attention(q, k, v, mask, shifted=1),
        "no mask": lambda q, k, v, mask: _attention(q, k, v, None),
        "softmax over queries": lambda q, k, v, mask: _attention(q, k, v, mask, transposed=True),
        "additive mask": lambda q, k, v, mask: _attention(q, k, v, mask, additive=True),
    },
    "residual_attention": {
        "previous scores forgotten": lambda q, k, v, s, mask, mean_over: _residual(q, k, v, 0 * s, mask, mean_over),
        "added before 1/sqrt d": lambda q, k, v, s, mask, mean_over: _residual(
            q, k, v, s / np.sqrt(np.float32(q.shape[-1])), mask, mean_over
        ),
        "sum for mean": lambda q, k, v, s, mask, mean_over: _residual(q, k, v, s, mask, 1),
        "mean of one layer's scores": lambda q, k, v, s, mask, mean_over: _residual(q / mean_over, k, v, s, mask, 1),
        "no mask": lambda q, k, v, s, mask, mean_over: _residual(q, k, v, s, None, mean_over),
    },
    "relative_attention": {
        "not in the values": lambda q, k, v, relative, mask: np.matmul(
            softmax.masked_softmax(_relative_attention(q, k, v, relative, mask)[1], mask), v
        ),
        "not at all": lambda q, k, v, relative, mask: _relative_attention(q, k, v, None, mask)[0],
        "distances negated": lambda q, k, v, relative, mask: _relative_attention(
            q, k, v, np.ascontiguousarray(relative[::-1, ::-1]), mask
        )[0],
    },
    "hierarchical_positions": {
        "i and j exchanged": lambda table, at, alpha: positions.hierarchical_positions(
            table, at % len(table) * len(table) + at // len(table), alpha
        ),
        "the table repeated": lambda table, at, alpha: table[at % len(table)],
        "alpha 0.4 throughout": lambda table, at, alpha: positions.hierarchical_positions(table, at),
        "off by one": lambda table, at, alpha: positions.hierarchical_positions(
            table, np.minimum(at + 1, len(table) ** 2 - 1), alpha
        ),
        "bases not divided": lambda table, at, alpha: (
            np.float32(alpha) * (table - np.float32(alpha) * table[:1])[at // len(table)]
            + np.float32(1 - alpha) * (table - np.float32(alpha) * table[:1])[at % len(table)]
        ),
    },
    "exp_taylor": {
        "exp": lambda x, order: np.exp(x),
        "one order less": lambda x, order: taylor.exp_taylor(x, order - 1),
    },
    "taylor_softmax": {
        "softmax": lambda x, order: _softmax_like(x),
        "order 2": lambda x, order: taylor.taylor_softmax(x, 2),
    },
    "gpt2": {
        "erf GELU": _tiny_gpt2(np.float32, dialect="bert4keras"),
        "mask ignored": _tiny_gpt2(np.float32, ignore_mask=True),
        "eps 1e-6": _tiny_gpt2(np.float32, config=_tiny_config(layer_norm_epsilon=1e-6)),
        "one head": _tiny_gpt2(np.float32, config=_tiny_config(n_head=1)),
    },
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTARY)
def test_the_definition_conforms_in_every_dtype(name, dtype):
    validation.assert_conforms(components.component(name).definition, name, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_definition_of_gpt2_conforms(dtype):
    validation.assert_conforms(_tiny_gpt2(dtype), "gpt2", dtype=dtype)


@pytest.mark.parametrize(("name", "bug"), [(name, bug) for name, bugs in BUGS.items() for bug in bugs])
def test_realistic_bugs_are_caught(name, bug):
    assert not validation.check(BUGS[name][bug], name, dtype="float32").passed


NULLS = {
    "zeros": lambda truth, *arrays: np.zeros_like(truth),
    "a constant": lambda truth, *arrays: np.full_like(truth, 12345.0),
    "the mean": lambda truth, *arrays: np.full_like(truth, truth.astype(np.float64).mean()),
    "the input": lambda truth, *arrays: np.resize(arrays[0], truth.shape),
    "NaN": lambda truth, *arrays: np.full_like(truth, np.nan),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTARY)
def test_null_answers_fail_on_every_single_case(name, dtype):
    """A null answer passes a case only where it differs from the truth by no more than two of the dtype's own roundings."""
    component = components.component(name)
    for case in component.trials(dtype, 0, None):
        wide = tuple(a.astype(np.float64) if a.dtype.kind not in "biu" else a for a in case.arrays)
        enclosure = truth.enclose(component.definition, *wide, target=1e-25, **case.params)
        budget = component.budget(*wide, dtype=dtype, **case.params)
        with np.errstate(over="ignore", invalid="ignore"):
            right = truth.midpoints(enclosure).astype(tolerance.DTYPES[dtype])
            for null, answer in NULLS.items():
                given = answer(right, *case.arrays).astype(right.dtype)
                gap = np.abs(given.astype(float) - right.astype(float))
                near = ~(gap > 4 * tolerance.roundoff(dtype) * np.abs(right.astype(float)))  # inf is near inf
                verdict = tolerance.judge(given, enclosure, budget, dtype)
                assert not verdict.passed or np.all(near), (
                    case.id,
                    null,
                    verdict,
                )


def test_null_answers_fail_for_a_whole_model():
    for null in (0.0, 1.0, np.nan):
        report = validation.check(lambda ids, mask, null=null: np.full((*ids.shape, 61), null, np.float32), "gpt2")
        assert not any(row.verdict.passed for row in report.rows)


def test_a_function_that_raises_is_a_failing_row():
    report = validation.check(lambda x: x[99], "softmax")
    assert not report.passed
    assert {row.verdict.word for row in report.rows} == {"raised"}
    assert "IndexError" in str(report)


def test_a_function_cannot_change_its_neighbours_inputs():
    def greedy(x):
        answer = softmax.softmax(x)
        x[...] = np.nan
        return answer

    validation.assert_conforms(greedy, "softmax")


def test_the_report_names_the_case_the_place_and_the_numbers():
    text = str(validation.check(BUGS["softmax"]["un-shifted"], "softmax"))
    assert "softmax, float32: DOES NOT CONFORM" in text
    assert re.search(r"softmax-\d+ large +non-finite", text)
    assert "a common offset of 300, which must drop out" in text
    assert re.search(r"expected 0\.\d+ \(0x1\.[0-9a-f]+p-\d+\), got nan, where x = \d+\.\d+ \(0x1", text)


def test_assert_conforms_raises_the_report():
    with pytest.raises(AssertionError, match=r"layer_norm, float64: DOES NOT CONFORM(.|\n)*narrow"):
        validation.assert_conforms(BUGS["layer_norm"]["unbiased variance"], "layer_norm", dtype="float64")


def test_a_dialect_keeps_its_cases_only():
    assert validation.check(lambda x, approximate: activation.gelu(x, "none"), "gelu", dialect="none").passed
    assert not validation.check(lambda x, approximate: activation.gelu(x, "none"), "gelu", dialect="tanh").passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "sofmax"}, r"unknown component(.|\n)*softmax, log_softmax(.|\n)*'sofmax'"),
        ({"component": "softmax", "dtype": "float8"}, r"unknown dtype(.|\n)*float16, bfloat16(.|\n)*'float8'"),
        ({"component": "gelu", "dialect": "erf"}, r"no such dialect(.|\n)*tanh, none(.|\n)*'erf'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(errors.ConfigError, match=message):
        validation.check(softmax.softmax, **arguments)


def test_a_report_of_too_few_rows_has_not_passed():
    row = validation.check(softmax.softmax, "softmax").rows[0]
    assert conformance.Report("softmax", None, "float32", 1, (row,)).passed
    assert not conformance.Report("softmax", None, "float32", 2, (row,)).passed
    assert not conformance.Report("softmax", None, "float32", 0, ()).passed


def test_every_published_form_of_gelu_is_legal():
    """Relative accuracy in the left tail is not asked of x/2 · (1 + erf(x/√2)), whose absolute error is of the size of u."""

    def published(x, approximate):
        if approximate == "tanh":
            return activation.gelu(x, "tanh")
        return x / 2 * (1 + scipy.special.erf(x / np.asarray(2**0.5, x.dtype)))

    validation.assert_conforms(published, "gelu", dtype="float64")


@pytest.mark.parametrize("name", ELEMENTARY)
def test_enclosures_are_independent_of_the_precision_they_started_from(name):
    for case in components.component(name).trials("float64", 0, None)[:3]:
        arrays = list(case.arrays)
        definition = components.component(name).definition
        low, high = (truth.enclose(definition, *arrays, bits=bits, target=1e-25, **case.params) for bits in (128, 512))
        assert all(a.overlaps(b) for a, b in zip(low.ravel(), high.ravel(), strict=True))


def test_conventions_of_components_match_the_engine():
    assert (
        components.component("attention").definition is not attention.scaled_dot_product_attention
    )  # it returns one array
    assert components.component("layer_norm").definition is normalization.layer_norm
    assert tolerance.BITS.keys() == tolerance.DTYPES.keys()


LOG2E = 1.4426950408889634


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_legitimate_softmaxes_raise_no_alarm(dtype):
    """Powers of two for exponentials, scaled before or after the shift, a sequential sum, the online form: 40 seeds each."""
    kind = tolerance.DTYPES[dtype]

    def scaled_after(x):
        e = np.exp2(((x - x.max(-1, keepdims=True)) * kind.type(LOG2E)).astype(kind))
        return (e / e.sum(-1, keepdims=True)).astype(kind)

    def scaled_before(x):
        scaled = (x * kind.type(LOG2E)).astype(kind)
        e = np.exp2((scaled - scaled.max(-1, keepdims=True)).astype(kind))
        return (e / e.sum(-1, keepdims=True)).astype(kind)

    def sequential(x):
        e = np.exp((x - x.max(-1, keepdims=True)).astype(kind)).astype(kind)
        total = np.zeros_like(e[..., :1])
        for i in range(e.shape[-1]):
            total = (total + e[..., i : i + 1]).astype(kind)
        return (e * (kind.type(1) / total).astype(kind)).astype(kind)

    for seed in range(40):
        for form in (scaled_after, scaled_before, sequential):
            report = validation.check(form, "softmax", dtype=dtype, seed=seed)
            assert report.passed, (form.__name__, seed, str(report))
