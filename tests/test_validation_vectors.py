"""Golden vectors: what is published is proved, complete, the same on every machine, and refused where it was tampered with."""

import dataclasses
import json
import shutil
from fractions import Fraction

import flint
import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtr

from refimpl.errors import ConfigError, VectorError
from validation import components, conformance, mutants, nulls, perturbed, tolerance, truth, vectors
from validation.vectors import answers, files, freeze
from validation.vectors.__main__ import _again

OPS = files.names()
SMALL = "logsumexp"


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of one set."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(files.DATA / f"{SMALL}{suffix}", tmp_path)
    return tmp_path


def _edited(folder, change):
    path = folder / f"{SMALL}.json"
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")


# --- what is published --------------------------------------------------------------------------------------------------------


def test_every_component_has_vectors_and_every_set_is_of_a_component():
    assert sorted(components.COMPONENTS) == OPS


@pytest.mark.parametrize("op", OPS)
def test_manifests_keep_their_schema(op):
    schema = json.loads((files.DATA.parent / "schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((files.DATA / f"{op}.json").read_text("utf-8")), schema)


def test_all_of_it_is_below_eight_megabytes_and_backward_passes_below_another_million_and_a_half():
    backward = sum(path.stat().st_size for path in files.DATA.glob("*.vjp.*"))
    assert 0 < backward < 1.5e6
    assert sum(path.stat().st_size for path in files.DATA.iterdir()) - backward < 8e6


@pytest.mark.parametrize("op", OPS)
def test_answers_computed_again_are_the_published_ones_bit_for_bit(op, tmp_path):
    """All of them, but for sampled tolerances, which take seconds each: there the first and the last, in their places."""
    given = files.read(op)
    if components.COMPONENTS[op].sampled:
        first, *kept, last = given.vectors
        ends = answers.answered(first), answers.answered(last, kept[-1].expected.high)
        files.write(dataclasses.replace(given, vectors=(ends[0], *kept, ends[1])), tmp_path)
    else:
        files.write(_again(given), tmp_path)
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"{op}{suffix}").read_bytes() == (files.DATA / f"{op}{suffix}").read_bytes()


@pytest.mark.parametrize("op", OPS)
def test_freezing_again_adds_nothing_and_changes_nothing(op, tmp_path):
    files.write(freeze.frozen(op), tmp_path)
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"{op}{suffix}").read_bytes() == (files.DATA / f"{op}{suffix}").read_bytes()


@pytest.mark.parametrize("op", OPS)
def test_proved_radii_are_far_below_what_is_asked(op):
    """Half of 2^-53 ulp(high) is at most 2^-106 of the largest; asked for is 1e-17."""
    for entry in json.loads((files.DATA / f"{op}.json").read_text("utf-8"))["vectors"]:
        assert 0 < entry["expected"]["radius"] <= 2.0**-106 * entry["expected"]["largest"] + 2.0**-1074


@pytest.mark.parametrize("op", OPS)
def test_every_proved_radius_is_at_most_1e_17_of_the_largest_output(op):
    """On every vector, by its tensors and by its manifest. Where every output is 0, it is so exactly: balls of radius 0."""
    entries = json.loads((files.DATA / f"{op}.json").read_text("utf-8"))["vectors"]
    for vector, entry in zip(vectors.load(op).vectors, entries, strict=True):
        radius, largest = np.max(vector.expected.radii), np.max(np.abs(vector.expected.high))
        assert (vector.id, radius, largest) == (entry["id"], entry["expected"]["radius"], entry["expected"]["largest"])
        if largest > 0:
            assert radius <= 1e-17 * largest
        else:
            given_one = components.component(op).definition, *vector.positional("float64")
            balls = truth.enclose(*given_one, target=0.0, **vector.params("float64"))
            assert all(ball == 0 for ball in balls.ravel())


@pytest.mark.parametrize("op", OPS)
def test_stored_answers_lie_in_enclosures_found_another_way(op):
    """Balls of other precision, to 1e-40: each holds high + low, enlarged by the radius that is claimed."""
    subject = components.component(op)
    for vector in vectors.load(op).vectors[:: 3 if op in components.MODELS else 1]:
        balls = truth.enclose(
            subject.definition, *vector.positional("float64"), target=1e-40, bits=300, **vector.params("float64")
        )
        for ball, high, low, radius in zip(
            balls.ravel(),
            *(a.ravel() for a in (vector.expected.high, vector.expected.low, vector.expected.radii)),
            strict=True,
        ):
            assert (flint.arb(high) + flint.arb(low) + flint.arb(0, radius)).overlaps(ball)


@pytest.mark.parametrize("op", OPS)
def test_every_dtype_has_its_inputs_exactly(op):
    for vector in vectors.load(op).vectors:
        for dtype in vector.dtypes:
            for given_one, exact in zip(vector.positional(dtype), vector.positional("float64"), strict=True):
                assert np.array_equal(given_one.astype(exact.dtype), exact)


@pytest.mark.parametrize("dtype", tolerance.DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_null_answers_fail_on_every_vector(op, dtype):
    """All of them, unless the right answer is itself one (to within two roundings): softmax over one element is 1 everywhere."""
    previous = None
    for vector in vectors.load(op).vectors:
        right = vector.expected.high
        if dtype in vector.dtypes:
            kind = vector.exact or dtype
            given_answers = nulls.null_answers(right, vector.positional(dtype), previous, kind)
            judged = {name: vector.judge(answer, dtype) for name, answer in given_answers.items()}
            found = vector.null_margins[dtype]
            assert judged["NaN"].word == ("wrong shape or dtype" if vector.exact else "non-finite")
            assert {name: min(float(f"{judged[name].multiple:.3g}"), nulls.LARGEST) for name in found} == found
            assert all(not judged[name].passed for name in found)
            for name in set(judged) - set(found) - {"NaN"}:
                gap = np.abs(np.asarray(given_answers[name], float) - right)
                near = gap <= 5 * tolerance.roundoff(kind) * np.abs(right) + float(np.finfo(np.float32).tiny)
                assert np.all(near) or not np.isfinite(judged[name].multiple)
        previous = right


@pytest.mark.parametrize("op", OPS)
def test_every_null_answer_fails_every_set(op):
    """As a whole, in every dtype that the set has vectors for, no set is passed by any null answer."""
    for dtype in tolerance.DTYPES:
        chosen = vectors.load(op).select(dtype)
        for name in nulls.NULLS if chosen else ():
            missing = all(name not in vector.null_margins[dtype] for vector in chosen)
            single = name == "the mean" and all(
                vector.expected.high.size == 1 for vector in chosen
            )  # that is the answer
            excused = name == "NaN" or single or (name == "the input" and op in components.MODELS)
            assert excused or not missing, (op, dtype, name)


@pytest.mark.parametrize("op", OPS)
def test_flags_are_explained_and_the_right_twin_passes(op):
    given_set = vectors.load(op)
    assert set(given_set.flags) == {flag for vector in given_set.vectors for flag in vector.flags}
    for name, told in given_set.flags.items():
        assert told == {"description": mutants.FLAGS[name].description, "effect": mutants.FLAGS[name].effect}
    for dtype in ("float32",) if op in components.MODELS else tolerance.DTYPES:
        assert all(
            v.judge(mutants.TWINS[op](*v.positional(dtype), **v.params(dtype)), dtype).passed
            for v in given_set.select(dtype)
        )


# --- what the dtypes and the truth are --------------------------------------------------------------------------------------------


@given(st.fractions(), st.integers(-1100, 900))
def test_the_nearest_float64_is_the_nearest(mantissa, exponent):
    value = mantissa * Fraction(2) ** exponent
    try:
        expected = value.numerator / value.denominator
    except OverflowError:
        return
    assert truth._nearest(value, value, None, settle=False) == expected


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), st.floats(-0.5, 0.5))
def test_double_doubles_are_within_their_radius(high, part):
    with truth.precision(4000):
        exact = flint.arb(high) + flint.arb(part) * flint.arb(np.spacing(abs(high)))
    pair = truth.rounded(np.array([exact], dtype=object))
    error = abs(truth._fraction(exact) - Fraction(pair.high[0]) - Fraction(pair.low[0]))
    assert error <= Fraction(pair.radii[0])


def test_a_ball_too_wide_to_round_is_in_doubt_and_a_tie_goes_to_the_even_neighbour():
    with truth.precision(300):
        doubtful = flint.arb(1) + flint.arb(2.0**-53) + flint.arb(0, 2.0**-200)
    wide = np.array([doubtful], dtype=object)
    assert truth.rounded(wide) is None
    assert truth.rounded(wide, settle=True).high[0] == 1.0
    assert truth.rounded(np.array([flint.arb(0, 1)], dtype=object), settle=True) is None


def test_exact_zeros_that_balls_do_not_show_are_found():
    """(1/3 + 1/3 + 1/3) - 1 is 0, but no ball of it has radius 0."""
    known = truth.double_double(lambda x: x / 3 + x / 3 + x / 3 - x, np.array([1.0, 7.0]))
    assert known.high.tolist() == known.low.tolist() == [0.0, 0.0]


@given(st.integers(0, 2**32), st.floats(-3, 3))
def test_distances_to_pairs_bound_the_distance_from_above(seed, offset):
    rng = np.random.default_rng(seed)
    high = rng.normal(size=4) * 2.0 ** rng.integers(-60, 60, 4)
    low = np.spacing(np.abs(high)) * rng.uniform(-0.5, 0.5, 4)
    pair, values = truth.DoubleDouble(high, low), high + offset * np.spacing(np.abs(high)) * 2.0 ** rng.integers(0, 40)
    for bound, value, h, rest in zip(truth.upper_distance(pair, values), values, high, low, strict=True):
        exact = abs(Fraction(value) - Fraction(h) - Fraction(rest))
        assert exact <= Fraction(bound) <= exact * (1 + Fraction(1, 2**40)) + Fraction(np.spacing(abs(h))) / 2**50


def test_judging_by_pairs_and_by_balls_is_the_same():
    subject = components.component("softmax")
    for case in subject.trials("float32", 3, None):
        (x,) = case.arrays
        wide = x.astype(np.float64)
        budget = subject.budget(wide, dtype="float32")
        for answer in (subject.definition(x), np.float32(1.001) * subject.definition(x), np.zeros_like(x)):
            by_balls = tolerance.judge(answer, truth.enclose(subject.definition, wide, target=1e-40), budget, "float32")
            by_pairs = tolerance.judge(answer, truth.double_double(subject.definition, wide), budget, "float32")
            assert by_balls.word == by_pairs.word
            assert by_pairs.multiple == pytest.approx(by_balls.multiple, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("op", ["softmax", "gelu", "attention", "sparse_softmax_cross_entropy", "favor_attention"])
def test_stored_amplifications_cover_those_of_every_dtype(op):
    """They are first-order, so nearly the same at every precision; the largest is kept, rounded up by less than 2^-7."""
    subject = components.component(op)
    for vector in vectors.load(op).vectors[::5]:
        found = [
            subject.amplification(*vector.positional("float64"), dtype=d, **vector.params("float64"))
            for d in vector.dtypes
        ]
        assert np.all(vector.amplification >= np.max(found, axis=0))
        assert np.all(vector.amplification <= np.max(found, axis=0) * (1 + 2.0**-7))


# --- reading refuses --------------------------------------------------------------------------------------------------------------


def test_a_copy_reads(copied):
    assert len(files.read(SMALL, copied).vectors) == len(vectors.load(SMALL).vectors)


def test_a_missing_vector_is_refused(copied):
    _edited(copied, lambda manifest: manifest["vectors"].pop())
    with pytest.raises(VectorError, match=r"vectors are missing(.|\n)*expected: \d+ ids"):
        files.read(SMALL, copied)


def test_an_id_used_twice_is_refused(copied):
    def twice(manifest):
        manifest["vectors"][1]["id"] = manifest["vectors"][0]["id"]

    _edited(copied, twice)
    with pytest.raises(VectorError, match="an id is used twice"):
        files.read(SMALL, copied)


def test_another_format_is_refused(copied):
    _edited(copied, lambda manifest: manifest.update(format=2))
    with pytest.raises(VectorError, match=r"no manifest of vectors(.|\n)*format 1(.|\n)*format 2"):
        files.read(SMALL, copied)


def test_a_tensor_that_was_edited_is_refused(copied):
    path = copied / f"{SMALL}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        VectorError, match=r"not the one that was published(.|\n)*logsumexp-\d+(.|\n)*install the package again"
    ):
        files.read(SMALL, copied)


def test_tensors_that_nobody_names_are_refused(copied):
    _edited(copied, lambda manifest: manifest["vectors"][0]["sha256"].popitem())
    with pytest.raises(VectorError, match="do not belong together"):
        files.read(SMALL, copied)


def _looser(manifest):
    manifest["vectors"][0]["tolerance"]["underflow"] = 1e300


def _nothing_to_check(manifest):
    manifest["vectors"][0]["dtypes"] = []


def _another_amplification(manifest):
    first, second = (vector["tolerance"] for vector in manifest["vectors"][:2])
    first["amplification"] = second["amplification"]


@pytest.mark.parametrize("change", [_looser, _nothing_to_check, _another_amplification])
def test_a_manifest_that_was_edited_is_refused(copied, change):
    """Beside the tensors: what they are used for."""
    _edited(copied, change)
    with pytest.raises(VectorError, match=r"not the one that was published(.|\n)*sha256(.|\n)*never edited"):
        files.read(SMALL, copied)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"no vectors of this name(.|\n)*softmax(.|\n)*'sofmax'"):
        vectors.load("sofmax")
    with pytest.raises(ConfigError, match=r"unknown dtype(.|\n)*'float8'"):
        vectors.load("softmax").select("float8")
    with pytest.raises(ConfigError, match=r"no such dialect(.|\n)*tanh, none(.|\n)*'erf'"):
        vectors.load("gelu").select("float32", "erf")


def test_a_vector_without_an_answer_is_not_written(tmp_path):
    bare = dataclasses.replace(vectors.load(SMALL).vectors[0], expected=None)
    with pytest.raises(ConfigError, match=r"without an answer(.|\n)*generate"):
        files.write(dataclasses.replace(vectors.load(SMALL), vectors=(bare,)), tmp_path)


# --- adding -----------------------------------------------------------------------------------------------------------------------


def test_new_cases_get_new_numbers_and_leave_the_others_alone(tmp_path):
    """Another seed draws other inputs: they come after the published ones, which stay bit for bit."""
    before = vectors.load(SMALL)
    added = freeze.frozen(SMALL, seed=1)
    files.write(added, tmp_path)
    after = files.read(SMALL, tmp_path)
    assert len(after.vectors) > len(before.vectors)
    assert [v.id for v in after.vectors[: len(before.vectors)]] == [v.id for v in before.vectors]
    assert len({v.id for v in after.vectors}) == len(after.vectors)
    old, new = (
        json.loads((folder / f"{SMALL}.json").read_text("utf-8"))["vectors"] for folder in (files.DATA, tmp_path)
    )
    assert new[: len(old)] == old


def test_callers_cannot_change_a_vector():
    vector = vectors.load("softmax").vectors[0]
    vector.positional("float64")[0][...] = np.nan
    assert np.isfinite(vector.positional("float64")[0]).all()


def test_amplifications_are_rounded_up_to_eight_bits():
    values = np.array([0.0, 1.0, 1.0 + 2.0**-30, 1e-300, 3.14159])
    up = answers._rounded_up(values)
    assert np.all(up >= values)
    assert np.all(up <= values * (1 + 2.0**-7))
    assert up.tolist()[:3] == [0.0, 1.0, 1.0 + 2.0**-7]


# --- parameters of models in 16 bits ------------------------------------------------------------------------------------------

WORST = (
    ("gpt2", "bfloat16"),
    ("bert", "bfloat16"),
    ("nezha", "float16"),
)  # of each model the dtype in which they matter most


@pytest.mark.parametrize(("op", "dtype"), WORST)
def test_rounding_a_models_parameters_takes_a_tenth_of_its_tolerances(op, dtype):
    """The bound and the probability that docs/vectors.md states: what is left is enough deviations, were errors Gaussian."""
    for vector in vectors.load(op).select(dtype):
        moved = components.parameter_rounding(op, dtype, *vector.positional("float64"), **vector.params("float64"))
        assert np.max(moved) > 0
        u = tolerance.roundoff(dtype)
        whole = tolerance.allowed(vector.expected.high, vector.budget(dtype), dtype)
        assert np.max(moved * u / whole) <= 0.091
        deviations = perturbed.sigmas(vector.expected.high.size)
        some = vector.amplification > 0
        left = (whole / u - moved)[some] / (vector.amplification[some] / deviations)
        assert 2 * np.sum(stdtr(perturbed.RUNS - 1, -left)) <= 1.5e-6


@pytest.mark.parametrize(("op", "dtype"), WORST)
def test_parameters_may_be_kept_or_rounded(op, dtype):
    """In float32 arithmetic, and where they are rounded in the dtype's own too."""
    config, arrays = components.recorded_model(op)
    kind = tolerance.DTYPES[dtype]
    kept = {name: np.asarray(a, np.float32) for name, a in arrays.items()}
    programs = [kept, {name: a.astype(kind).astype(np.float32) for name, a in kept.items()}]
    programs += [{name: a.astype(kind) for name, a in kept.items()}]
    said = []
    for each in programs:
        report = conformance.check(
            lambda *given, each=each, **params: components.model_logits(op, config, each, *given, **params).astype(
                kind
            ),
            op,
            dtype=dtype,
        )
        assert report.passed, str(report)
        said.append(report.worst.verdict.multiple)
    assert said[0] < said[1]


def test_new_vectors_of_models_have_room_for_rounded_parameters(monkeypatch):
    [vector] = [each for each in vectors.load("bert").vectors if each.name == "full" and "bfloat16" in each.dtypes]
    monkeypatch.setattr(answers, "truthful", lambda *_: vector)
    case = components.component("bert").trials("bfloat16", 0, None)[0]
    assert np.array_equal(answers.fresh("bert", case, "float32").amplification, vector.amplification)
    moved = components.parameter_rounding("bert", "bfloat16", *vector.positional("float64"), **vector.params("float64"))
    wider = answers.fresh("bert", case, "bfloat16").amplification
    assert np.all(wider >= vector.amplification + moved)
    assert np.all(wider <= (vector.amplification + moved) * (1 + 2**-7))
