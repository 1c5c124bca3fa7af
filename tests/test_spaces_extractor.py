"""The network that chooses sentences: against loops, the recorded one, its reach, padding, neighbours; its loss, choice, first weights and files."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import weights_io
from refimpl import bert, errors, pooling
from refimpl.gradients import vjp
from refimpl.softmax import cross_entropy
from refimpl.spaces import extractor
from refimpl.spaces.extractor import ExtractorConfig, ExtractorWeights
from refimpl.spaces.extractor_file import load_extractor, save_extractor
from refimpl.trees import leaves, mapped
from validation import perturbed, tolerance, truth
from weights_io import schemes

if TYPE_CHECKING:
    from pathlib import Path

    from systems import System

SMALL = ExtractorConfig(3, 4, dilations=(1, 2))


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _model(config: ExtractorConfig, seed: int = 0, spread: float = 0.5) -> ExtractorWeights:
    """Parameters of ordinary size, scales near 1."""
    rng = np.random.default_rng(seed)
    shapes = ExtractorWeights.shapes(config)
    arrays = {name: rng.normal(float(name.endswith("scale")), spread, shape) for name, shape in shapes.items()}
    return ExtractorWeights.from_named(arrays, config)


def _vectors(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def _written_out(weights: ExtractorWeights, config: ExtractorConfig, vectors: Any) -> Any:
    """The equations, a sentence and a tap at a time."""
    x = [v @ weights.projection for v in vectors]
    for layer, r in zip(weights.blocks, config.dilations, strict=True):
        made = []
        for t in range(len(x)):
            found = layer.bias.copy()
            for i in range(config.kernel_size):
                s = t + i * r - (config.kernel_size - 1) * r // 2
                found = found + (x[s] @ layer.kernel[i] if 0 <= s < len(x) else 0)
            a, g = np.split(found, 2)
            gated = a / (1 + np.exp(-g))
            normed = (gated - gated.mean()) / np.sqrt(gated.var() + config.layer_norm_eps)
            made.append(x[t] + layer.alpha * (normed * layer.norm.scale + layer.norm.bias))
        x = made
    return np.array([float(s @ weights.head.weight[:, 0] + weights.head.bias[0]) for s in x])


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        ExtractorConfig(5, 3, 2, (3, 1), 1e-3),  # an even number of taps: one zero more behind
        ExtractorConfig(2, 2, 1, (1,)),
        ExtractorConfig(4, 4, 5, (1, 2, 1), 1e-7),
    ],
)
def test_logits_are_the_equations_written_out(config: ExtractorConfig) -> None:
    weights = _model(config)
    for n in (1, 2, 9):
        vectors = _vectors(n, n, config.input_size)
        known = _written_out(weights, config, vectors)
        found = extractor.sentence_logits(weights, config, vectors)
        assert found.shape == (n,)
        np.testing.assert_allclose(found, known, rtol=0, atol=1e-12 * max(1, abs(known).max()))


def _of_arrays(config: ExtractorConfig, probabilities: bool) -> Any:
    """The definition as a function of vectors and parameters, for the budget."""
    names = list(ExtractorWeights.shapes(config))
    function = extractor.sentence_probabilities if probabilities else extractor.sentence_logits

    def definition(vectors: Any, *arrays: Any, mask: Any) -> Any:
        weights = ExtractorWeights.from_named(dict(zip(names, arrays, strict=True)), config)
        return function(weights, config, vectors, mask)

    return definition


@pytest.mark.parametrize("probabilities", [False, True])
def test_each_number_system_has_its_budget(probabilities: bool, system: System) -> None:
    config = ExtractorConfig(3, 4, dilations=(2,))
    mask = np.array([[True] * 4, [True, True, False, False]])
    definition = _of_arrays(config, probabilities)
    arrays = [_vectors(1, 2, 4, 3), *_model(config, spread=0.3).named().values()]
    for dtype in system.dtypes:
        given_ = [system.floats(a, dtype) for a in arrays]
        answer = np.asarray(system.back(definition(*given_, mask=system.to(mask))))
        assert answer.dtype == tolerance.DTYPES[dtype] or system.is_ball
        wide = [np.asarray(system.back(a), np.float64) for a in given_]
        with truth.precision(256):
            known = definition(*map(truth.balls, wide), mask=mask)
        if dtype in ("float16", "bfloat16"):  # every layer rounds once
            assert np.abs(answer.astype(float) - truth.midpoints(known)).max() < 32 * tolerance.roundoff(dtype)
            continue
        budget = tolerance.proved_budget(definition, *wide, dtype=dtype, mask=mask)
        verdict = tolerance.judge(answer.astype(tolerance.DTYPES[dtype]), known, budget, dtype)
        assert verdict.passed, (dtype, verdict)
        assert not np.any(answer[~mask])


# --- what has no influence --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.integers(0, 3), st.sampled_from([np.nan, np.inf, 1e308]))
def test_padding_and_neighbours_have_no_influence(lengths: list[int], more: int, junk: float) -> None:
    """Bit for bit what padding and other documents hold; to rounding, how much padding there is."""
    n = max(lengths) + more
    mask = np.arange(n) < np.array(lengths)[:, None]
    vectors, weights = _vectors(3, len(lengths), n, 3), _model(SMALL)
    clean, dirty = np.where(mask[..., None], vectors, 0.0), np.where(mask[..., None], vectors, junk)
    z, p = (f(weights, SMALL, dirty, mask) for f in (extractor.sentence_logits, extractor.sentence_probabilities))
    assert np.array_equal(z, extractor.sentence_logits(weights, SMALL, clean, mask))
    assert not np.any(z[~mask])
    assert not np.any(p[~mask])
    for row, length in enumerate(lengths):
        others = np.where((np.arange(len(lengths)) == row)[:, None, None], clean, 7.0)
        assert np.array_equal(extractor.sentence_logits(weights, SMALL, others, mask)[row], z[row])
        alone = extractor.sentence_logits(weights, SMALL, vectors[row, :length])
        np.testing.assert_allclose(z[row, :length], alone, rtol=0, atol=1e-13)


@example(ExtractorConfig(2, 4))
@given(
    st.builds(
        ExtractorConfig, st.just(2), st.just(4), st.integers(1, 4), st.lists(st.integers(1, 5), max_size=4).map(tuple)
    )
)
def test_the_reach_is_exact(config: ExtractorConfig) -> None:
    """A sentence at a distance within reach changes the logit, one beyond it not a bit; the published network reaches 17 to each side."""
    before, behind = config.reach
    spans = [(config.kernel_size - 1) * r for r in config.dilations]
    assert (before, behind) == (sum(s // 2 for s in spans), sum(s - s // 2 for s in spans))
    assert ExtractorConfig().reach == (17, 17)
    at = before + behind + 2
    vectors, weights = _vectors(5, 2 * at + 1, 2), _model(config)
    changed = vectors.copy()
    changed[at] += 1.0
    z, other = (extractor.sentence_logits(weights, config, v) for v in (vectors, changed))
    moved = np.nonzero(z != other)[0]
    assert (moved.min(), moved.max()) == (at - behind, at + before)


def test_with_alpha_0_the_network_is_linear() -> None:
    weights = _model(SMALL)
    weights = weights._replace(blocks=tuple(layer._replace(alpha=np.zeros(1)) for layer in weights.blocks))
    vectors = _vectors(2, 2, 5, 3)
    known = (vectors @ weights.projection) @ weights.head.weight + weights.head.bias
    assert np.array_equal(extractor.sentence_logits(weights, SMALL, vectors), known[..., 0])


def test_dropout_multiplies_in_its_places(system: System) -> None:
    """At the vectors, at x_0, behind every layer: with α = 0 the product of all factors."""
    dtype = system.dtypes[-1]
    config = ExtractorConfig(2, 1, 1, (1, 1))
    ones = {name: np.ones(shape) for name, shape in ExtractorWeights.shapes(config).items()}
    arrays = ones | {"blocks.0.alpha": np.zeros(1), "blocks.1.alpha": np.zeros(1), "head.bias": np.zeros(1)}
    weights = mapped(lambda a: system.floats(a, dtype), ExtractorWeights.from_named(arrays, config))
    factors = [np.array([[2.0, 3.0]]), np.array([[5.0]]), np.array([[7.0]]), np.array([[11.0]])]
    given_ = [system.floats(f, dtype) for f in factors]
    vectors = system.floats(np.array([[1.0, 10.0]]), dtype)
    z = extractor.sentence_logits(weights, config, vectors, dropout=given_)
    assert np.asarray(system.back(z), float).tolist() == [(2 + 30) * 5 * 7 * 11]
    left_out = extractor.sentence_logits(weights, config, vectors, dropout=[None, given_[1], None, None])
    assert np.asarray(system.back(left_out), float).tolist() == [55]


def test_cotangents_of_padding_are_zero() -> None:
    mask = np.array([[True, True, False], [False] * 3])
    _, back = vjp(extractor.sentence_logits, _model(SMALL), SMALL, _vectors(1, 2, 3, 3), mask)
    weights_bar, vectors_bar = back(np.array([[0.0, 0, 5], [7, 8, 9]]))
    assert not any(np.any(leaf) for leaf in [*leaves(weights_bar), vectors_bar])
    assert np.any(back(np.array([[1.0, 0, 0], [0, 0, 0]]))[1][0, :2])


# --- the recorded network ---------------------------------------------------------------------------------------------------------------


def test_the_recorded_network_of_spaces(shared: Any) -> None:
    """TensorFlow's float64 answers, the weights from Keras' file, with both epsilons: within twice the sampled budget, which is below 1e-13."""
    recorded = np.load(shared("spaces") / "dgcnn.npz")
    file = shared("spaces") / "dgcnn_weights.h5"
    vectors = np.asarray(recorded["x"], np.float64)
    mask = extractor.real_sentences(vectors)
    assert mask.sum(axis=1).tolist() == [25, 18, 4]
    weights, config = load_extractor(file, dtype="float64")
    assert config == ExtractorConfig(16, 12)

    def run(wrap: Any) -> Any:
        return extractor.sentence_probabilities(mapped(wrap, weights), config, wrap(vectors), wrap(mask))

    deviation = perturbed.sampled_deviation(run, roundoff=tolerance.roundoff("float64"))
    budget = perturbed.sigmas(deviation.size) * deviation + tolerance.roundoff("float64")
    assert np.max(budget) < 1e-13
    for key, eps in (("y", 1e-12), ("y0115", 1e-7)):
        _, config = load_extractor(file, layer_norm_eps=eps)
        found = extractor.sentence_probabilities(weights, config, vectors, mask)
        assert np.all((abs(found - recorded[key][..., 0]) <= 2 * budget)[mask])
    assert abs(recorded["y"] - recorded["y0115"]).max() > 1e-7


# --- the loss ---------------------------------------------------------------------------------------------------------------------------


def test_the_loss_on_each_number_system(system: System) -> None:
    z, labels = _vectors(1, 2, 4) * 3, np.array([[True, False, True, True], [False, False, True, False]])
    mask = np.array([[True] * 4, [True, False, True, False]])
    for dtype in system.dtypes:
        for dialect in extractor.dialects:
            logits = system.floats(z, dtype)
            loss = extractor.extractor_loss(logits, system.to(labels), system.to(mask), dialect=dialect)
            wide = np.asarray(system.back(logits), np.float64)
            options = {"labels": labels, "mask": mask, "dialect": dialect}
            budget = tolerance.proved_budget(extractor.extractor_loss, wide, dtype=dtype, **options)
            with truth.precision(256):
                known = extractor.extractor_loss(truth.balls(wide), **options)
            answer = np.asarray(system.back(loss)).astype(tolerance.DTYPES[dtype])
            verdict = tolerance.judge(answer, known, budget, dtype)
            assert verdict.passed, (dtype, dialect, verdict)


@pytest.mark.parametrize("z", [0.0, 1e-30, 1.0, -3.0, 17.0, 40.0, -40.0, 700.0, -700.0, 1e4])
def test_no_loss_cancels(z: float) -> None:
    """Each within 4 u of itself, be it 1e-304 or 10,000."""
    for label in (True, False):
        found = extractor.extractor_loss(np.array([z]), np.array([label]))
        with truth.precision(2000):
            known = (1 + flint.arb(-z if label else z).exp()).log()
            assert abs(truth.balls(found[None])[0] - known) <= 4 * 2.0**-53 * known + 1e-323, label


def test_losses_are_the_cross_entropy_of_two_classes_and_their_means() -> None:
    z, labels = _vectors(4, 3, 5), _vectors(5, 3, 5) > 0
    mask = np.arange(5) < np.array([5, 2, 4])[:, None]
    each = cross_entropy(np.stack([np.zeros_like(z), z], axis=-1), labels.astype(int))
    total = each[mask].sum()
    junk = np.where(mask, z, np.nan)
    np.testing.assert_allclose(extractor.extractor_loss(junk, labels, mask), total / 11, rtol=1e-14)
    np.testing.assert_allclose(
        extractor.extractor_loss(junk, labels, mask, dialect="published"), total / 15, rtol=1e-14
    )
    np.testing.assert_allclose(extractor.extractor_loss(junk, labels, mask, total=100), total / 100, rtol=1e-14)
    np.testing.assert_allclose(extractor.extractor_loss(z, labels), each.mean(), rtol=1e-14)
    _, back = vjp(extractor.extractor_loss, junk, labels, mask)
    (bar,) = back(np.ones(()))
    assert not np.any(bar[~mask])
    assert np.array_equal(bar[mask] < 0, labels[mask])


# --- choosing ---------------------------------------------------------------------------------------------------------------------------

chances = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), max_size=6)


@example([], 0.2)
@example([0.1, 0.2, 0.2], 0.2)
@given(chances, st.sampled_from([0.0, 0.2, 0.5]))
def test_what_is_above_the_threshold_is_chosen_or_the_best(p: list[float], threshold: float) -> None:
    above = [i for i, each in enumerate(p) if each > threshold]
    given_ = np.array(p)
    assert extractor.choose(given_, threshold, otherwise="none") == above
    assert extractor.choose(given_, threshold) == (above or [p.index(max(p))] if p else [])


def test_choices_on_each_number_system(system: System) -> None:
    p = system.floats(np.array([0.25, 0.125, 0.5, 0.25]), system.dtypes[-1])
    assert extractor.choose(p, 0.25) == [2]
    assert extractor.choose(p) == [0, 2, 3]
    assert extractor.choose(p, 0.5) == [2]
    assert extractor.choose(p, 0.5, otherwise="none") == []


def test_balls_that_do_not_decide_are_undecided() -> None:
    p = np.array([flint.arb("0.2", 1e-9), flint.arb("0.1", 1e-9)])
    with pytest.raises(errors.UndecidedError):
        extractor.choose(p, 0.2)
    assert extractor.choose(p, 0.15) == [0]


def test_what_is_no_choice_is_refused_in_words() -> None:
    p = np.array([0.1, 0.9])
    for wrong in (np.array([0.1, np.nan]), np.array([1.5]), np.array([-0.1])):
        with _refused(errors.ConfigError, "no probabilities", "from 0 to 1"):
            extractor.choose(wrong)
    with _refused(errors.ShapeError, "one axis", "(1, 2)"):
        extractor.choose(p[None])
    for threshold in (1.0, -0.1, math.nan, True, "0.2"):
        with _refused(errors.ConfigError, "no threshold", "0 <= threshold < 1", repr(threshold)):
            extractor.choose(p, threshold)  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "unknown choice", '"best" or "none"', "'all'"):
        extractor.choose(p, otherwise="all")
    with _refused(errors.DtypeError, "probabilities must be real floating point"):
        extractor.choose(np.array([0, 1]))


# --- vectors and first weights ----------------------------------------------------------------------------------------------------------


def test_a_sentence_vector_is_the_mean_over_its_tokens() -> None:
    """[CLS] and [SEP] among them; the next sentence's length does not matter."""
    config = bert.BertConfig(7, 4, 1, 2, 6, max_position_embeddings=6)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape) for name, shape in bert.BertWeights.shapes(config, ()).items()}
    weights = bert.BertWeights.from_named(arrays, config)
    ids, mask = np.array([[5, 1, 2, 6], [5, 6, 0, 0]]), np.array([[True] * 4, [True, True, False, False]])
    found = extractor.sentence_vectors(weights, config, ids, mask=mask)
    for row, length in enumerate((4, 2)):
        alone = bert.encode(weights, config, ids[row : row + 1, :length])[0].mean(axis=0)
        np.testing.assert_allclose(found[row], alone, rtol=0, atol=1e-14)
    assert np.array_equal(found, pooling.mean_pooling(bert.encode(weights, config, ids, mask=mask), mask))
    other = extractor.sentence_vectors(weights, config, np.where(mask, ids, 3), mask=mask, dialect="bert4keras")
    np.testing.assert_allclose(other, found, rtol=0, atol=1e-14)
    with _refused(errors.TokenError, "without a token"):
        extractor.sentence_vectors(weights, config, ids, mask=np.zeros_like(mask))


def test_vectors_of_zeros_are_padding_to_the_published_program() -> None:
    vectors = np.array([[[0.0, -1], [0, 0], [-0.0, 0], [np.nan, 0]]])
    assert extractor.real_sentences(vectors).tolist() == [[True, False, False, True]]
    with _refused(errors.DtypeError, "balls do not show"):
        extractor.real_sentences(truth.balls(np.zeros((1, 2))))


def test_first_weights_are_uniform_and_the_gated_parts_shut() -> None:
    config = ExtractorConfig(48, 32)
    weights = extractor.initial_extractor(config, seed=3)
    limits = {"projection": 6 / 80, "head.weight": 6 / 33, "kernel": 6 / (3 * 32 + 3 * 64)}
    for name, array in weights.named().items():
        limit = limits.get(name, limits.get(name.rpartition(".")[2]))
        if limit is None:
            assert np.array_equal(array, np.full(array.shape, float(name.endswith("scale")))), name
        else:
            assert abs(array).max() <= np.float32(math.sqrt(limit))
            assert abs(array).max() > 0.9 * math.sqrt(limit)
            assert abs(array.mean()) < 6 * math.sqrt(limit / 3 / array.size)
        assert array.dtype == np.float32
    again, other = (extractor.initial_extractor(config, seed, "float64") for seed in (3, 4))
    assert np.array_equal(again.projection.astype("float32"), weights.projection)
    assert not np.array_equal(other.projection, again.projection)
    for dtype in ("float16", "int64"):
        with _refused(errors.ConfigError, "cannot learn in that dtype", repr(dtype)):
            extractor.initial_extractor(config, dtype=dtype)


# --- what is refused --------------------------------------------------------------------------------------------------------------------


def test_configurations_refuse_in_words() -> None:
    for wrong in ({"input_size": 0}, {"hidden_size": 1.5}, {"kernel_size": True}, {"dilations": (1, 0)}):
        name = next(iter(wrong))
        with _refused(errors.ConfigError, "not a positive whole number", name):
            ExtractorConfig(**wrong)
    with _refused(errors.ConfigError, "not a positive whole number", "dilations"):
        ExtractorConfig(dilations=8)  # type: ignore[arg-type]
    for eps in (-1e-12, math.nan, math.inf, "1e-12", None, True):
        with _refused(errors.ConfigError, "layer_norm_eps is no bound", repr(eps)):
            ExtractorConfig(layer_norm_eps=eps)  # type: ignore[arg-type]
    config = ExtractorConfig(np.int64(4), 4, dilations=[np.int32(2)])  # type: ignore[arg-type]
    assert config == ExtractorConfig(4, 4, dilations=(2,))
    assert json.loads(json.dumps(dataclasses.asdict(config)))["dilations"] == [2]


def test_weights_refuse_in_words() -> None:
    arrays = _model(SMALL).named()
    assert list(arrays) == list(ExtractorWeights.shapes(SMALL))
    wrong = {name: a for name, a in arrays.items() if name != "blocks.1.alpha"} | {"extra": np.zeros(2)}
    with _refused(errors.ConfigError, "2 problems", "missing: blocks.1.alpha (1,)", "unexpected: extra", "dilations"):
        ExtractorWeights.from_named(wrong, SMALL)
    with _refused(errors.ConfigError, "not finite: x/y (head.bias)"):
        ExtractorWeights.from_named(arrays | {"head.bias": np.array([np.nan])}, SMALL, source={"head.bias": "x/y"})


def test_definitions_refuse_in_words(system: System) -> None:
    dtype = system.dtypes[-1]
    weights = mapped(lambda a: system.floats(a, dtype), _model(SMALL))
    vectors, mask = system.floats(np.ones((1, 2, 3)), dtype), system.to(np.ones((1, 2), bool))
    logits, labels = system.floats(np.ones((1, 2)), dtype), mask

    def run(v: Any = vectors, m: Any = mask, w: Any = weights, **options: Any) -> Any:
        return extractor.sentence_logits(w, SMALL, v, m, **options)

    for shape in ((3,), (1, 2, 4)):
        with _refused(errors.ShapeError, "the vectors do not fit", "(..., n, 3)", str(shape)):
            run(system.floats(np.ones(shape), dtype), None)
    with _refused(errors.DtypeError, "vectors must be real floating point", "int64"):
        run(system.to(np.ones((1, 2, 3), np.int64)))
    with _refused(errors.DtypeError, "a mask must be boolean", "int64"):
        run(m=system.to(np.ones((1, 2), np.int64)))
    with _refused(errors.ShapeError, "one entry for each sentence", "(1, 2)", "(2,)"):
        run(m=system.to(np.ones(2, bool)))
    with _refused(errors.ConfigError, "do not fit the configuration", "2 layers", "1"):
        run(w=weights._replace(blocks=weights.blocks[:1]))
    with _refused(errors.ShapeError, "dropout has its places", "4 arrays or None", "1"):
        run(dropout=[None])
    for place, shape, width in ((0, (5, 1, 2, 3), 3), (3, (2, 4), 4), (1, (1, 2, 1), 4)):
        factors = [system.floats(np.ones(shape), dtype) if place == other else None for other in range(4)]
        with _refused(errors.ShapeError, "the shape of what it multiplies", f"dropout[{place}]", str((1, 2, width))):
            run(dropout=factors)
    for options in ({"labels": system.to(np.ones((1, 2), np.int64))}, {"labels": labels, "mask": logits}):
        with _refused(errors.DtypeError, "a mask must be boolean", "extractor_loss("):
            extractor.extractor_loss(logits, **options)
    with _refused(errors.ShapeError, "the labels must have the shape of the logits", "(1, 2)", "(2,)"):
        extractor.extractor_loss(logits, system.to(np.ones(2, bool)))
    with _refused(errors.ShapeError, "no sentence counts", "at least one", "0"):
        extractor.extractor_loss(logits, labels, system.to(np.zeros((1, 2), bool)))
    with _refused(errors.ConfigError, "over a number of sentences", "1.5"):
        extractor.extractor_loss(logits, labels, total=1.5)  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "unknown dialect", "corrected, published", "'keras'"):
        extractor.extractor_loss(logits, labels, dialect="keras")


# --- files ------------------------------------------------------------------------------------------------------------------------------


def test_an_extractor_comes_back_from_its_file(tmp_path: Path) -> None:
    path, config = tmp_path / "extractor.safetensors", ExtractorConfig(3, 4, 2, (1, 3, 2), 1e-7)
    for dtype in ("float16", "float32", "float64"):
        weights = mapped(lambda a, dtype=dtype: a.astype(dtype), _model(config))
        save_extractor(path, weights, config)
        found, said = load_extractor(path, dilations=[1, 3, 2], layer_norm_eps=1e-7)
        assert said == config
        assert all(
            np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(leaves(found), leaves(weights), strict=True)
        )
    assert load_extractor(path, dtype="float32")[0].projection.dtype == np.float32


@pytest.mark.parametrize("name", ["keras-extractor", "tf-keras-extractor"])
def test_names_of_keras_are_read(name: str, tmp_path: Path) -> None:
    """Both ways of counting; in whole models under a prefix."""
    config = ExtractorConfig(3, 4)
    theirs = schemes.from_canonical(_model(config).named(), schemes.named(name))
    first = {"keras-extractor": "_1", "tf-keras-extractor": ""}[name]
    layer = f"residual_gated_conv1d{first}/residual_gated_conv1d{first}"
    assert f"{layer}/conv1d{first}/kernel:0" in theirs
    for prefix in ("", "model_weights/"):
        weights_io.save(tmp_path / "w.safetensors", {prefix + each: theirs[each] for each in theirs})
        found, said = load_extractor(tmp_path / "w.safetensors")
        assert said == config
        assert all(map(np.array_equal, leaves(found), leaves(_model(config))))


def test_files_refuse_in_words(tmp_path: Path, recorded_folder: Any) -> None:
    path, plain = tmp_path / "extractor.safetensors", tmp_path / "plain.safetensors"
    save_extractor(path, _model(SMALL), SMALL)
    arrays = _model(SMALL).named()
    weights_io.save(plain, arrays)
    with _refused(errors.ConfigError, "dilations do not show", "six layers", "2 layers", "pass dilations=, 2 numbers"):
        load_extractor(plain)
    with _refused(errors.ConfigError, "dilations do not show", "2, one for each layer", "3", "pass dilations="):
        load_extractor(plain, dilations=(1, 2, 3))
    assert load_extractor(plain, dilations=(1, 2))[1] == SMALL
    for name, value in (("dilations", [2, 1]), ("layer_norm_eps", 1e-7)):
        with _refused(errors.ConfigError, f"disagree about {name}", "leave the argument out"):
            load_extractor(path, **{name: value})  # type: ignore[arg-type]
    said = json.loads(weights_io.open(path).metadata["refimpl.extractor"])
    for text, words in (
        ("{", "is no JSON"),
        ("[]", "no configuration of an extractor"),
        (json.dumps(said | {"version": 2}), "no configuration of an extractor"),
        (json.dumps({name: said[name] for name in said if name != "dilations"}), "no configuration of an extractor"),
        (json.dumps(said | {"hidden_size": 0}), "not a positive whole number"),
        (json.dumps(said | {"hidden_size": 5}), "do not fit the configuration"),
    ):
        weights_io.save(plain, arrays, {"refimpl.extractor": text})
        with _refused(errors.ConfigError, words):
            load_extractor(plain)
    with _refused(errors.ConfigError, "no extractor", "Hugging Face GPT-2"):
        load_extractor(recorded_folder("gpt2_tiny"))
    weights_io.save(plain, {name: a.astype(int) for name, a in arrays.items()})
    with _refused(errors.DtypeError, "weights must be real floating point", "int64"):
        load_extractor(plain, dilations=(1, 2))
    with _refused(errors.DtypeError, "weights must be real floating point", "int64"):
        load_extractor(plain, dilations=(1, 2), dtype="float64")
    with _refused(errors.DtypeError, "weights must be real floating point", "int64"):
        save_extractor(path, mapped(lambda a: a.astype(int), _model(SMALL)), SMALL)
    weights_io.save(plain, {name: 1e6 * np.ones_like(a) for name, a in arrays.items()})
    with _refused(errors.ConfigError, "not finite: projection"):
        load_extractor(plain, dilations=(1, 2), dtype="float16")
    weights_io.save(plain, {"a": np.zeros(2)})
    with _refused(weights_io.WeightsError, "no naming scheme"):
        load_extractor(plain)
    with _refused(errors.ConfigError, "unknown dtype", "float16, float32, float64", "'int8'"):
        load_extractor(path, dtype="int8")
    with _refused(errors.ConfigError, ".safetensors"):
        save_extractor(tmp_path / "e.h5", _model(SMALL), SMALL)
    with _refused(errors.ConfigError, "missing: blocks.2"):
        save_extractor(path, _model(SMALL), dataclasses.replace(SMALL, dilations=(1, 2, 3)))
