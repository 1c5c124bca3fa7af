"""GPT-2: agreement with recorded answers, the dialects, and the invariances that make caching and padding correct.

Two kinds of statement. On balls an invariance is exact: enclosures of both sides overlap and are tiny (radius < 1e-20). In floats the two
sides may differ by rounding; the budget is the sampled one of perturbed arithmetic (validation.perturbed), for each side.
"""

from __future__ import annotations

import functools
from typing import Any

import array_api_compat
import ml_dtypes
import models
import numpy as np
import pytest
from models import TINY, UNTIED
from systems import ALL_DTYPES, BALLS, HOST, NUMPY, System, rounded

import weights_io
from refimpl import blocks, gpt2
from validation import perturbed, tolerance, truth
from weights_io.schemes import SCHEMES, to_canonical
from weights_io.schemes.config import read_gpt2

IDS = np.array([[3, 0, 7, 10, 0, 2], [1, 1, 9, 0, 5, 4]])
MASK = np.array([[False, False, True, True, True, True], [True, True, True, True, True, True]])
CONFIGS = {"tied-tanh": TINY, "untied-erf": UNTIED}


@pytest.fixture(autouse=True)
def _bits() -> Any:
    with truth.precision(256):
        yield


@functools.cache
def _sampled(config: str, dtype: str, dialect: str, masked: bool) -> tuple[Any, Any]:
    """The enclosure of the exact logits for the rounded weights, and the sampled budget of the dtype."""
    mask, sizes = (MASK if masked else None), CONFIGS[config]
    arrays = {name: rounded(a, dtype) for name, a in models.random_arrays(sizes).items()}

    def run(wrap: Any) -> Any:
        model = gpt2.GPT2Weights.from_named({name: truth.balls(a) for name, a in arrays.items()}, sizes)
        noisy = models.mapped(lambda a: wrap(truth.midpoints(a)), model, sizes)
        return gpt2.logits(noisy, sizes, wrap(IDS), mask=None if mask is None else wrap(mask), dialect=dialect)

    exact = gpt2.GPT2Weights.from_named({name: truth.balls(a) for name, a in arrays.items()}, sizes)
    with truth.precision(256):
        enclosure = gpt2.logits(exact, sizes, IDS, mask=mask, dialect=dialect)
    deviation = perturbed.sampled_deviation(run, roundoff=tolerance.roundoff(dtype))
    return enclosure, perturbed.sigmas(deviation.size) * deviation


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "cpm", "bert4keras"])
@pytest.mark.parametrize("config", CONFIGS)
def test_logits_are_within_the_sampled_budget_of_the_enclosure(
    config: str, dialect: str, masked: bool, system: System
) -> None:
    for dtype in system.dtypes:
        if dtype == "bfloat16":
            continue  # see test_bfloat16_weights_give_bfloat16_logits
        enclosure, budget = _sampled(config, dtype, dialect, masked)
        model = models.weights(CONFIGS[config], system, dtype)
        answer = gpt2.logits(
            model, CONFIGS[config], system.to(IDS), mask=system.to(MASK) if masked else None, dialect=dialect
        )
        real = MASK if masked else np.ones_like(MASK)  # the logits at padding mean nothing
        if system.is_ball:
            assert all(a.overlaps(b) for a, b in zip(answer[real].ravel(), enclosure[real].ravel(), strict=True))
            assert np.max(truth.radii(answer)) < 1e-20
            continue
        verdict = tolerance.judge(system.back(answer)[real], enclosure[real], budget[real], dtype, word="within sample")
        assert verdict.passed, (dtype, verdict)


def test_dialects_differ_so_that_the_agreement_above_means_something() -> None:
    model = models.weights(TINY, NUMPY, "float64")
    answers = {name: gpt2.logits(model, TINY, IDS, dialect=name) for name in gpt2.dialects}
    assert np.array_equal(answers["openai"], answers["cpm"])
    assert np.abs(answers["openai"] - answers["bert4keras"]).max() > 0.01
    erf = gpt2.logits(model, TINY, IDS, dialect=gpt2.Dialect("none"))
    assert np.abs(erf - answers["openai"]).max() > 1e-5
    assert np.abs(erf - answers["bert4keras"]).max() > 0.01
    untied = models.weights(UNTIED, NUMPY, "float64")  # this configuration says erf; "cpm" insists on tanh
    assert not np.array_equal(gpt2.logits(untied, UNTIED, IDS), gpt2.logits(untied, UNTIED, IDS, dialect="cpm"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_model_stays_in_its_dtype_everywhere(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, hidden states, keys, values, and every intermediate result of a block: NumPy promotes nothing to float64."""
    model = models.weights(TINY, NUMPY, dtype)
    seen: list[str] = []
    for name in ("gelu", "layer_norm"):
        original = getattr(blocks, name)
        monkeypatch.setattr(blocks, name, _spy(original, seen))
    monkeypatch.setattr(gpt2, "layer_norm", _spy(gpt2.layer_norm, seen))
    monkeypatch.setattr(blocks, "scaled_dot_product_attention", _spy(blocks.scaled_dot_product_attention, seen))
    logits, cache = gpt2.forward(model, TINY, IDS, mask=MASK)
    states = gpt2.hidden_states(model, TINY, IDS)
    found = {str(a.dtype) for a in (logits, *states, *cache.keys, *cache.values)} | set(seen)
    assert found == {dtype}
    assert len(seen) > 20


def _spy(function: Any, seen: list[str]) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        parts = [*args, *(result if isinstance(result, tuple) else (result,))]
        seen.extend(str(part.dtype) for part in parts if hasattr(part, "dtype"))
        return result

    return wrapped


def test_bfloat16_weights_give_bfloat16_logits() -> None:
    model = models.weights(TINY, NUMPY, "bfloat16")
    assert gpt2.logits(model, TINY, IDS).dtype == ml_dtypes.bfloat16


def test_namespace_and_device_are_kept_and_inputs_are_not_mutated(system: System) -> None:
    dtype = system.dtypes[-1]
    model = models.weights(TINY, system, dtype)
    before = {name: system.back(a).copy() for name, a in model.named().items()}
    ids, mask = system.to(IDS), system.to(MASK)
    logits, cache = gpt2.forward(model, TINY, ids, mask=mask)
    assert logits.shape == (2, 6, 11)
    kept = [system.back(a).copy() for a in (cache.keys[0], cache.values[1], cache.allowed, cache.read)]
    gpt2.forward(model, TINY, system.to(np.array([[1], [2]])), cache=cache)
    for array in (logits, *cache.keys, *cache.values, cache.allowed, cache.read):
        assert array_api_compat.array_namespace(array) is system.xp
        assert array_api_compat.device(array) == system.device
    assert np.array_equal(system.back(ids), IDS)
    assert np.array_equal(system.back(mask), MASK)
    assert all(np.array_equal(before[name], system.back(a)) for name, a in model.named().items())
    after = [system.back(a) for a in (cache.keys[0], cache.values[1], cache.allowed, cache.read)]
    assert all(np.array_equal(a, b) for a, b in zip(kept, after, strict=True))


def test_ids_and_masks_may_be_nested_lists(system: System) -> None:
    model = models.weights(TINY, system, system.dtypes[-1])
    arrays = gpt2.logits(model, TINY, system.to(IDS), mask=system.to(MASK))
    lists = gpt2.logits(model, TINY, IDS.tolist(), mask=MASK.tolist())
    assert np.array_equal(system.back(arrays), system.back(lists))


# --- invariances ------------------------------------------------------------------------------------------------------------


def _exact(model: Any = None, config: Any = TINY, **options: Any) -> Any:
    """Logits in balls, of a model of float32-sized weights."""
    model = models.weights(config, BALLS, "float32") if model is None else model
    return lambda ids, mask=None: gpt2.logits(model, config, ids, mask=mask, **options)


def _equal(a: Any, b: Any) -> bool:
    widest = max(float(np.max(truth.radii(a))), float(np.max(truth.radii(b))))
    return widest < 1e-20 and all(x.overlaps(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))


def test_logits_do_not_depend_on_later_tokens_bit_for_bit(system: System) -> None:
    model = models.weights(TINY, system, system.dtypes[0])
    later = IDS.copy()
    later[:, 4:] = [[9, 9], [8, 8]]
    first, second = (gpt2.logits(model, TINY, system.to(ids)) for ids in (IDS, later))
    if system.is_ball:
        assert _equal(first[:, :4], second[:, :4])
    else:
        assert np.array_equal(system.back(first)[:, :4], system.back(second)[:, :4])
    assert not np.array_equal(system.back(first)[:, 4:], system.back(second)[:, 4:])


@pytest.mark.parametrize("dialect", ["openai", "bert4keras"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5), (3,), (2, 5)])
def test_cached_decoding_is_one_pass(cuts: tuple[int, ...], masked: bool, dialect: str) -> None:
    model = models.weights(TINY, BALLS, "float32")
    mask = MASK if masked else np.ones_like(MASK)
    whole = gpt2.logits(model, TINY, IDS, mask=mask, dialect=dialect)
    pieces, cache = [], None
    for begin, end in zip((0, *cuts), (*cuts, 6), strict=True):
        part, cache = gpt2.forward(
            model, TINY, IDS[:, begin:end], mask=mask[:, begin:end], cache=cache, dialect=dialect
        )
        pieces.append(part)
    assert _equal(np.concatenate(pieces, axis=1)[mask], whole[mask])


def test_cached_decoding_in_floats_is_one_pass_within_both_budgets(floating_system: System) -> None:
    for dtype in set(floating_system.dtypes) - {"bfloat16"}:
        enclosure, budget = _sampled("tied-tanh", dtype, "openai", False)
        model = models.weights(TINY, floating_system, dtype)
        _, cache = gpt2.forward(model, TINY, floating_system.to(IDS[:, :3]))
        for step in (3, 4, 5):
            part, cache = gpt2.forward(model, TINY, floating_system.to(IDS[:, step : step + 1]), cache=cache)
            found = floating_system.back(part)
            verdict = tolerance.judge(
                found, enclosure[:, step : step + 1], budget[:, step : step + 1], dtype, word="within sample"
            )
            assert verdict.passed, (dtype, step, verdict)


@pytest.mark.parametrize("dialect", ["openai", "bert4keras"])
def test_padding_on_either_side_changes_nothing_whatever_its_ids(dialect: str) -> None:
    answer = _exact(dialect=dialect)
    row = [3, 7, 0, 2]
    alone = answer([row])[0]
    for junk in (0, 5):
        left = answer([[junk, junk, *row], [1, 2, 3, 4, 5, 6]], [[False] * 2 + [True] * 4, [True] * 6])
        right = answer([[*row, junk, junk], [1, 2, 3, 4, 5, 6]], [[True] * 4 + [False] * 2, [True] * 6])
        assert _equal(left[0, 2:], alone)
        assert _equal(right[0, :4], alone)


def test_padding_gives_no_nan_in_float16() -> None:
    model = models.weights(TINY, NUMPY, "float16")
    ids = np.zeros((2, 6), int)
    mask = np.array([[False] * 5 + [True], [True] + [False] * 5])
    assert np.all(np.isfinite(gpt2.logits(model, TINY, ids, mask=mask)))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    answer = _exact()
    together = answer(IDS)
    for row in range(2):
        assert _equal(together[row : row + 1], answer(IDS[row : row + 1]))
    assert _equal(together[::-1], answer(IDS[::-1]))


def test_given_positions_are_used_and_counted_positions_skip_padding() -> None:
    model = models.weights(TINY, BALLS, "float32")
    plain = gpt2.logits(model, TINY, IDS)
    assert _equal(plain, gpt2.logits(model, TINY, IDS, positions=np.arange(6)))
    assert _equal(plain, gpt2.logits(model, TINY, IDS, positions=np.arange(6)[None, :].tolist()))
    shifted = gpt2.logits(model, TINY, IDS, positions=np.arange(6) + 1)
    assert not any(a.overlaps(b) for a, b in zip(plain.ravel(), shifted.ravel(), strict=True))
    counted = np.array([[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    masked = gpt2.logits(model, TINY, IDS, mask=MASK)
    assert _equal(masked[MASK], gpt2.logits(model, TINY, IDS, mask=MASK, positions=counted)[MASK])


def test_cache_rows_can_be_selected_and_repeated(system: System) -> None:
    model = models.weights(TINY, system, system.dtypes[-1])
    _, cache = gpt2.forward(model, TINY, system.to(IDS), mask=system.to(MASK))
    chosen = gpt2.CachedDecoder(model, TINY).select(cache, [1, 0, 1])
    for whole, part in zip(
        (*cache.keys, *cache.values, cache.allowed, cache.read),
        (*chosen.keys, *chosen.values, chosen.allowed, chosen.read),
        strict=True,
    ):
        assert np.array_equal(system.back(whole)[[1, 0, 1]], system.back(part))
    assert cache.read.shape == (2, 1)
    assert [int(n) for n in system.back(cache.read).ravel()] == [4, 6]


def test_weights_go_to_names_and_back() -> None:
    for config in CONFIGS.values():
        model = models.weights(config, NUMPY, "float64")
        named = model.named()
        assert {name: a.shape for name, a in named.items()} == gpt2.GPT2Weights.shapes(config)
        again = gpt2.GPT2Weights.from_named(named, config)
        assert all(a is b for a, b in zip(named.values(), again.named().values(), strict=True))


# --- parity -----------------------------------------------------------------------------------------------------------------

PARITY = 1e-12  # relative to the largest logit: what the engine is held to against recorded float64 answers


def _relative(got: Any, expected: Any) -> float:
    return float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("name", ["gpt2_tiny", "gpt2_tiny_untied"])
def test_logits_agree_with_transformers(
    name: str, recorded: Any, recorded_folder: Any, floating_system: System
) -> None:
    if "float64" not in floating_system.dtypes:
        pytest.skip("the recorded answers are float64, this system has none")
    answers = recorded(name)
    model, config = models.folder(recorded_folder(name), floating_system)
    logits = gpt2.logits(model, config, floating_system.to(answers["ids"]))
    assert _relative(floating_system.back(logits), answers["logits"]) <= PARITY


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2_tiny", "gpt2_tiny_untied"])
def test_padded_logits_agree_with_transformers(name: str, side: str, recorded: Any, recorded_folder: Any) -> None:
    answers = recorded(name)
    model, config = models.folder(recorded_folder(name), NUMPY)
    real = answers[f"{side}_mask"] == 1
    logits = gpt2.logits(model, config, answers[f"{side}_ids"], mask=real)
    assert _relative(logits[real], answers[f"{side}_logits"][real]) <= PARITY
    if side == "left":
        given = gpt2.logits(model, config, answers["left_ids"], mask=real, positions=answers["left_positions"])
        assert np.array_equal(given[real], logits[real])


@pytest.mark.parametrize("name", ["gpt2_tiny", "gpt2_tiny_untied"])
def test_hidden_states_agree_with_transformers_layer_by_layer(name: str, recorded: Any, recorded_folder: Any) -> None:
    answers = recorded(name)
    model, config = models.folder(recorded_folder(name), NUMPY)
    states = gpt2.hidden_states(model, config, answers["ids"])
    assert len(states) == config.n_layer + 2
    for i, state in enumerate(states[:-1]):
        assert _relative(state[0], answers[f"hidden_{i}"]) <= PARITY, i
    assert _relative(states[-1][0], answers["hidden_final"]) <= PARITY


def test_recorded_answers_would_catch_a_wrong_epsilon(recorded: Any, recorded_folder: Any) -> None:
    """The parity test has the power to see eps = 1e-6 for 1e-5, or the other GELU: null answers for a tolerance of 1e-12."""
    import dataclasses

    answers = recorded("gpt2_tiny")
    model, config = models.folder(recorded_folder("gpt2_tiny"), NUMPY)
    for wrong in (dataclasses.replace(config, layer_norm_epsilon=1e-6), dataclasses.replace(config, activation="none")):
        assert _relative(gpt2.logits(model, wrong, answers["ids"]), answers["logits"]) > 1e3 * PARITY


@pytest.mark.parametrize(("file", "answer"), [("model_f32", "logits64_f32"), ("model_f16", "logits64_f16")])
def test_logits_agree_with_the_shared_hugging_face_fixture(file: str, answer: str, shared: Any) -> None:
    folder = shared("hf_gpt2")
    model, config = models.folder(folder / f"{file}.safetensors", NUMPY)
    with np.load(folder / "io.npz") as io:
        logits = gpt2.logits(model, config, io["ids"])
        assert _relative(logits, io[answer]) <= PARITY


def _bert4keras(folder: Any) -> tuple[gpt2.GPT2Weights, gpt2.GPT2Config]:
    """The model of a bert4keras folder in float64."""
    config = read_gpt2(folder / "config.json")
    with weights_io.open(folder / "model.ckpt") as checkpoint:
        ours = to_canonical(checkpoint, SCHEMES["tensorflow-gpt2"])
        return gpt2.GPT2Weights.from_named(
            {name: array.astype(np.float64) for name, array in ours.items()}, config
        ), config


def test_bert4keras_dialect_agrees_with_bert4keras_in_every_row(shared: Any) -> None:
    """Row 0 has no id 0, row 1 is padded with id 0, row 2 has id 0 in three places, the first among them."""
    folder = shared("b4k_gpt2")
    model, config = _bert4keras(folder)
    with np.load(folder / "io.npz") as io:
        logits = gpt2.logits(model, config, io["ids"], dialect="bert4keras")
        assert _relative(logits, io["logits"]) <= PARITY
        for row in range(3):
            assert _relative(logits[row], io["logits"][row]) <= PARITY
            assert (
                _relative(
                    gpt2.logits(model, config, io["ids"][row : row + 1], dialect="bert4keras")[0], io["logits"][row]
                )
                <= PARITY
            )
        openai = gpt2.logits(model, config, io["ids"], dialect=gpt2.Dialect("none"))
        assert _relative(openai[0], io["logits"][0]) <= PARITY
        assert _relative(openai[2], io["logits"][2]) > 0.01


def test_bert4keras_with_tanh_agrees_with_set_gelu(shared: Any) -> None:
    """The recorded probabilities are a float32 rounding of a float64 run: within 2^-24 of each number, relatively."""
    from refimpl.softmax import softmax

    folder = shared("b4k_gpt2")
    model, config = _bert4keras(folder)
    with np.load(folder / "io.npz") as io:
        tanh = softmax(gpt2.logits(model, config, io["ids"][:1], dialect=gpt2.Dialect("tanh", 0)))[0]
        erf = softmax(gpt2.logits(model, config, io["ids"][:1], dialect="bert4keras"))[0]
        expected = io["probs_gelu_tanh_row0"].astype(np.float64)
        rounding = tolerance.roundoff("float32") * expected
        assert np.all(np.abs(tanh - expected) <= rounding + PARITY)
        assert not np.all(np.abs(erf - expected) <= rounding + PARITY)
        assert _relative(erf, io["probs_row0"]) <= PARITY
        states = gpt2.hidden_states(model, config, io["ids"][:1], dialect="bert4keras")
        names = ["Embedding-Position", *(f"Transformer-{i}-FeedForward-Add" for i in range(3)), "Output-Norm"]
        for name, state in zip(names, states, strict=True):
            layer = io[f"layer_{name}_row0"].astype(np.float64)
            slack = tolerance.roundoff("float32") * np.abs(layer) + PARITY * np.max(np.abs(layer))
            assert np.all(np.abs(state[0] - layer) <= slack), name


def test_every_dtype_is_covered_by_the_matrix() -> None:
    assert set(ALL_DTYPES) == {d for system in HOST for d in system.dtypes}
