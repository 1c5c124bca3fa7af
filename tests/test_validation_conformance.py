"""`validation.check`: definitions conform, null answers do not, and reports say why."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.special

import validation
from refimpl import activation, attention, errors, gpt2, normalization, softmax
from validation import components, conformance, mutants, tolerance, truth, vectors

ELEMENTARY = [name for name in components.COMPONENTS if name not in components.MODELS]


def _tiny_gpt2(dtype):
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    weights = gpt2.GPT2Weights.from_named({name: a.astype(dtype) for name, a in arrays.items()}, config)
    return lambda token_ids, mask: gpt2.logits(weights, config, token_ids, mask=mask) * mask[..., None]


def _tiny_encoder(name, dtype=np.float32, *, zero=(), always=None, **changes):
    """A recorded encoder, parameters in `zero` left out, reading every text as the application `always`, its configuration changed."""
    config, arrays = components.recorded_bert(name)
    ignored = {key: changes.pop(key, False) for key in ("mask", "segments")}
    config = dataclasses.replace(config, **changes)
    kept = {key: (0 * a if key in zero else a).astype(dtype) for key, a in arrays.items()}

    def function(token_ids, segment_ids, mask, *, application):
        seen = None if ignored["mask"] else mask
        segments = 0 * segment_ids if ignored["segments"] else segment_ids
        return (
            components.encoder_logits(config, kept, token_ids, segments, seen, always or application) * mask[..., None]
        )

    return function


def _bug(component, name):
    return next(mutant.function for mutant in mutants.mutants(component) if mutant.name == name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTARY)
def test_the_definition_conforms_in_every_dtype(name, dtype):
    validation.assert_conforms(components.component(name).definition, name, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_definition_of_gpt2_conforms(dtype):
    validation.assert_conforms(_tiny_gpt2(dtype), "gpt2", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", components.ENCODERS)
def test_the_definitions_of_encoders_conform(name, dtype):
    validation.assert_conforms(_tiny_encoder(name, dtype), name, dtype=dtype)


def test_an_eps_of_bert4keras_shows_in_doubles():
    """1e-7 for 1e-12 moves NEZHA's logits by less than float32 rounding may; only an encoder's own cases can be asked for."""
    other = _tiny_encoder("nezha", np.float64, layer_norm_eps=1e-7)
    report = validation.check(other, "nezha", dtype="float64", dialect="lm")
    assert [row.case for row in report.rows] == ["lm"]
    assert not report.passed


@pytest.mark.parametrize("name", components.ENCODERS)
def test_only_the_cases_with_padding_catch_a_mask_that_is_ignored(name):
    report = validation.check(_tiny_encoder(name, mask=True), name)
    assert {row.case for row in report.rows if not row.verdict.passed} == {"padding", "unilm padding"}


@pytest.mark.parametrize("name", components.MODELS)
def test_null_answers_fail_for_every_vector_of_a_model(name):
    for vector in vectors.load(name).select("float32"):
        for null in (0.0, 1.0, np.nan):
            assert not vector.judge(np.full(vector.expected.shape, null, np.float32), "float32").passed


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


def test_a_function_may_answer_every_call_in_one_buffer():
    """As kernels do that are given room for their output once."""
    room = {}

    def kernel(x):
        answer = softmax.softmax(x)
        buffer = room.setdefault(answer.shape, np.empty_like(answer))
        buffer[...] = answer
        return buffer

    shapes = [vector.expected.shape for vector in vectors.load("softmax").select("float32")]
    assert len(set(shapes)) < len(shapes)
    assert validation.check(kernel, "softmax").passed


def test_histograms_have_the_unit_of_the_binade_below_a_power_of_two():
    """log2(1024 - 2^-43) is 10 in float64; an error of 3/4 of a unit there is 3/8 of the unit of 1024."""
    below = np.nextafter(1024.0, 0.0)
    known = truth.DoubleDouble(np.array([below]), np.array([2.0**-45]))
    verdict = tolerance.judge(np.array([1024.0]), known, 1e-9, "float64")
    assert dict(zip(tolerance.ULP_BINS, verdict.ulps, strict=True))["<= 1"] == 1


def test_the_report_names_the_case_the_place_and_the_numbers():
    text = str(validation.check(_bug("softmax", "un-shifted"), "softmax"))
    assert "softmax, float32: DOES NOT CONFORM" in text
    assert re.search(r"softmax-\d+ large +non-finite", text)
    assert "a common offset of 300, which must drop out" in text
    assert re.search(r"expected 0\.\d+ \(0x1\.[0-9a-f]+p-\d+\), got nan, where x = \d+\.\d+ \(0x1", text)


def test_the_report_of_an_exact_component_says_what_is_wrong():
    text = str(validation.check(_bug("copy_labels", "B for every token of a span"), "copy_labels"))
    assert re.search(r"copy_labels-2 the same +outside +inf +at \[1\] expected 2, got 1", text)
    assert re.search(r"copy_labels-5 one of two +exact +0\n", text)
    text = str(validation.check(_bug("copy_step", "true hides"), "copy_step", dtype="float16"))
    assert "expected True, got False" in text
    report = validation.check(_bug("copy_states", "answers of 32 bits"), "copy_states")
    assert {row.verdict.word for row in report.rows} == {"wrong shape or dtype"}
    assert "expected int64 (12,), got int32 (12,)" in str(report)
    assert report.as_json()["cases"][0]["multiple"] == "inf"


def test_assert_conforms_raises_the_report():
    with pytest.raises(AssertionError, match=r"layer_norm, float64: DOES NOT CONFORM(.|\n)*narrow"):
        validation.assert_conforms(_bug("layer_norm", "variance divided by d - 1"), "layer_norm", dtype="float64")


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


def test_a_report_with_a_case_twice_is_refused():
    rows = validation.check(softmax.softmax, "softmax").rows
    with pytest.raises(
        errors.ConfigError, match=r"a case comes twice(.|\n)*2 different cases(.|\n)*softmax-1, 2 times"
    ):
        conformance.Report("softmax", None, "float32", 2, (rows[0], rows[0]))
    unnamed = dataclasses.replace(rows[0], id="")
    with pytest.raises(errors.ConfigError, match="ordinary, 2 times"):
        conformance.Report("softmax", None, "float32", 2, (unnamed, unnamed))
    for component in components.COMPONENTS.values():  # drawn cases have no number, but different names
        names = [case.id for case in component.trials("float32", 0, None)]
        assert len(set(names)) == len(names)


def test_a_report_of_no_cases_has_no_worst_one():
    with pytest.raises(errors.ConfigError, match=r"a report of no cases has no worst one(.|\n)*softmax in float32"):
        _ = conformance.Report("softmax", None, "float32", 3, ()).worst


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_legitimate_poolings_raise_no_alarm(dtype):
    """Weights that sum to one, a product with the mask, the library's own norm; powers of two that scale before the squares."""
    kind = tolerance.DTYPES[dtype].type

    def weighted(hidden, mask):
        weights = (mask / mask.sum(1, keepdims=True)).astype(kind)
        return np.einsum("bn,bnd->bd", weights, hidden)

    def products(hidden, mask):
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True).astype(kind)

    def scaled(x):
        y = np.ldexp(x, -np.frexp(np.abs(x).max(-1, keepdims=True))[1])
        return (y / np.sqrt((y * y).sum(-1, keepdims=True))).astype(kind)

    for seed in range(4):
        for function, name in (
            (weighted, "mean_pooling"),
            (products, "mean_pooling"),
            (scaled, "unit_length"),
            (lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True), "unit_length"),
            (lambda x: x * (1 / np.sqrt((x * x).sum(-1, keepdims=True))), "unit_length"),
        ):
            validation.assert_conforms(function, name, dtype=dtype, seed=seed)


LOG2E = 1.4426950408889634


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_legitimate_softmaxes_raise_no_alarm(dtype):
    """Powers of two for exponentials, scaled before or after the shift, a sequential sum, the online form: 3 seeds each."""
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

    for seed in range(3):
        for form in (scaled_after, scaled_before, sequential):
            report = validation.check(form, "softmax", dtype=dtype, seed=seed)
            assert report.passed, (form.__name__, seed, str(report))
