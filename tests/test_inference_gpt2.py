"""The fast session beside the definition: golden vectors, every convention, states that are continued twice, float16 weights, threads."""

from __future__ import annotations

import copy
import dataclasses
import mmap
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, UNTIED, weights
from systems import NUMPY, unchanged

import refimpl
import validation
import weights_io
from refimpl import decoding, gpt2
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError
from refimpl.inference import gpt2 as fast
from refimpl.inference.gpt2 import Session
from refimpl.inference.threads import blas_threads
from refimpl.trees import leaves, mapped
from validation import components
from weights_io.conversion import convert

CPM = Path(validation.__file__).parent / "recorded" / "cpm_megatron" / "mp2"
needs_threads = pytest.mark.skipif(blas_threads() is None, reason="NumPy's products are not OpenBLAS's")
SMALL = gpt2.GPT2Config(vocab_size=37, n_positions=40, n_embd=12, n_layer=3, n_head=3)
CONFIGS = {"tied-tanh": SMALL, "untied-erf": dataclasses.replace(UNTIED, n_positions=40)}
IDS = np.array([[0, 0, 3, 0, 7, 10], [1, 1, 9, 0, 5, 4]])
MASK = np.array([[False, False, True, True, True, True], [True] * 6])
NEXT = [[[0], [2]], [[5], [0]], [[8], [1]]]


def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, blocks and panels so small that there are several of each."""
    for name, size in {
        "TOKENS": 4,
        "SCORES": 40,
        "HIDDEN": 50,
        "ROOM": 1,
        "PANEL": 60,
        "LARGE": 100,
        "COLUMNS": 5,
    }.items():
        monkeypatch.setattr(fast, name, size)


def _told(decoder: Any) -> list[Any]:
    """Logits of left-padded prompts, of three steps, and of two more after rows were selected: all that decoding asks."""
    logits, state = decoder.start(IDS, MASK)
    found = [logits]
    for number, ids in enumerate(NEXT):
        logits, state = decoder.advance(ids, state)
        found.append(logits)
        if number == 1:
            state = decoder.select(state, [1, 1])
    state = decoder.select(state, [1, 0, 1])
    found.append(decoder.advance([[3], [0], [2]], state)[0])
    return found


def _apart(ours: Any, meant: Any) -> float:
    """The largest difference, as a part of the largest logit."""
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(ours, meant, strict=True))


@pytest.mark.parametrize("threads", [None, pytest.param(2, marks=needs_threads)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_session_passes_the_golden_vectors(dtype: str, threads: int | None) -> None:
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    model = gpt2.GPT2Weights.from_named({name: a.astype(dtype) for name, a in arrays.items()}, config)
    session = Session(model, config, threads=threads)
    validation.assert_conforms(lambda ids, mask: session.logits(ids, mask) * mask[..., None], "gpt2", dtype=dtype)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "cpm", "bert4keras"])
@pytest.mark.parametrize("config", CONFIGS)
def test_decoding_is_the_definitions(config: str, dialect: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 within 1e-13 of the largest logit (3 layers of some 60 roundings of 2^-53 each are 2e-14); in float32 no further from the
    definition in float64 than four times the definition in float32 is, and one roundoff."""
    if small:
        _pieces(monkeypatch)
    sizes = CONFIGS[config]
    exact = weights(sizes, NUMPY, "float64")
    assert _apart(_told(Session(exact, sizes, dialect)), _told(gpt2.CachedDecoder(exact, sizes, dialect))) <= 1e-13
    narrow = mapped(lambda a: a.astype(np.float32), exact)
    wide = mapped(lambda a: a.astype(np.float64), narrow)
    meant = _told(gpt2.CachedDecoder(wide, sizes, dialect))
    found, theirs = _told(Session(narrow, sizes, dialect)), _told(gpt2.CachedDecoder(narrow, sizes, dialect))
    assert _apart(found, meant) <= 4 * _apart(theirs, meant) + 2.0**-24
    assert {a.dtype for a in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("threads", [None, pytest.param(2, marks=needs_threads)])
@pytest.mark.parametrize("small", [False, True])
def test_float16_weights_are_those_numbers_in_float32(
    small: bool, threads: int | None, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers widened beforehand: the definition in float32 is allowed four times its own distance from float64, and one roundoff."""
    if small:
        _pieces(monkeypatch)
    half = mapped(lambda a: np.array(a, np.float16, order=order), weights(SMALL, NUMPY, "float64"))
    before = [a.copy() for a in leaves(half)]
    single, double = (mapped(lambda a, dtype=dtype: a.astype(dtype), half) for dtype in (np.float32, np.float64))
    session = Session(half, SMALL, threads=threads)
    found, meant = _told(session), _told(gpt2.CachedDecoder(double, SMALL))
    assert _apart(found, meant) <= 4 * _apart(_told(gpt2.CachedDecoder(single, SMALL)), meant) + 2.0**-24
    whole = session.logits(IDS, MASK)
    assert whole.dtype == np.float32
    assert _apart([whole[MASK]], [gpt2.logits(double, SMALL, IDS, mask=MASK)[MASK]]) <= 2.0**-18
    assert all(unchanged(a, b) for a, b in zip(before, leaves(half), strict=True))


@pytest.mark.parametrize("dialect", ["openai", "bert4keras"])
def test_all_logits_are_the_definitions_padding_apart(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = weights(SMALL, NUMPY, "float64")
    meant = gpt2.logits(model, SMALL, IDS[:, ::-1], mask=MASK[:, ::-1], dialect=dialect)  # padding on the right
    for _ in range(2):
        found = Session(model, SMALL, dialect).logits(IDS[:, ::-1], MASK[:, ::-1])
        assert _apart([found[MASK[:, ::-1]]], [meant[MASK[:, ::-1]]]) <= 1e-13
        assert np.isfinite(found).all()
        _pieces(monkeypatch)


def test_a_state_can_be_continued_more_than_once() -> None:
    """What one continuation writes no other sees: bit for bit what a fresh session answers."""
    model = weights(SMALL, NUMPY, "float64")
    session = Session(model, SMALL)
    _, state = session.start(IDS, MASK)
    _, kept = session.advance(NEXT[0], state)
    assert kept.cache is state.cache
    first = session.advance(NEXT[1], kept)
    again = session.advance(NEXT[1], kept)
    selected = session.advance(NEXT[1], session.select(kept, [0, 1]))
    other = session.advance(NEXT[2], kept)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[0], selected[0])
    assert not np.array_equal(first[0], other[0])
    ends = [session.advance(NEXT[0], after)[0] for _, after in (first, again, selected)]
    _, state = (fresh := Session(model, SMALL)).start(IDS, MASK)
    for ids in (NEXT[0], NEXT[1], NEXT[0]):
        alone, state = fresh.advance(ids, state)
    assert all(np.array_equal(end, alone) for end in ends)


def test_padding_may_be_longer_than_the_position_table() -> None:
    """Positions count real tokens: rows of such a state can be selected and continued, before and behind what they share."""
    model, told = weights(TINY, NUMPY, "float64"), []
    for decoder in (Session(model, TINY), gpt2.CachedDecoder(model, TINY)):
        _, state = decoder.start(
            [[0] * 14 + [3, 4], [0] * 13 + [1, 2, 5]], [[False] * 14 + [True] * 2, [False] * 13 + [True] * 3]
        )
        first, _ = decoder.advance([[1], [2]], decoder.select(state, [1, 0]))
        _, state = decoder.start([[3, 4]])
        _, state = decoder.read([[0] * 12] * 2, decoder.select(state, [0, 0]), [[False] * 12] * 2)
        told.append([first, decoder.advance([[1], [2]], decoder.select(state, [1, 0]))[0]])
    assert _apart(*told) <= 1e-13


def test_beams_share_their_prompt_and_find_what_the_definition_finds() -> None:
    model = weights(SMALL, NUMPY, "float64")
    session, prompt = Session(model, SMALL), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    _, state = session.start([prompt])
    beams = session.select(state, [0, 0, 0])
    assert beams.shared is state.cache
    assert session.select(beams, [2, 0, 0]).shared is state.cache
    for n in (1, 5, 12):
        found = decoding.beam_search(session, prompt, beams=3, max_new_tokens=n)
        meant = decoding.beam_search(gpt2.CachedDecoder(model, SMALL), prompt, beams=3, max_new_tokens=n)
        assert [each.ids for each in found] == [each.ids for each in meant]
        assert np.allclose([each.score for each in found], [each.score for each in meant], rtol=1e-12, atol=0)


def test_a_text_may_fill_the_position_table_and_no_more() -> None:
    model, session = weights(TINY, NUMPY, "float64"), Session(weights(TINY, NUMPY, "float64"), TINY)
    steps = list(decoding.generate(session, [[1, 2], [3]], temperature=0))
    assert steps == list(decoding.generate(gpt2.CachedDecoder(model, TINY), [[1, 2], [3]], temperature=0))
    assert len(steps) == session.context - 2
    _, state = session.start([[1] * 8])
    with pytest.raises(TokenError, match="runs past the position table"):
        session.advance([[1]], state)


@needs_threads
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_bits_are_the_same_at_every_run_with_as_many_threads(dtype: str) -> None:
    """Matrices of 300 x 900 numbers, beyond which OpenBLAS cuts its products up; and the number of threads of products stays what it was."""
    config = gpt2.GPT2Config(vocab_size=1100, n_positions=32, n_embd=300, n_layer=2, n_head=4)
    model = mapped(lambda a: a.astype(dtype), weights(config, NUMPY, "float64"))
    before = blas_threads()
    for threads in (1, 2):
        told = [_told(Session(model, config, threads=threads)) for _ in range(3)]
        assert all(np.array_equal(a, b) for each in told[1:] for a, b in zip(told[0], each, strict=True))
    assert blas_threads() == before


@needs_threads
def test_the_number_of_threads_may_be_any_whole_number() -> None:
    session = Session(weights(SMALL, NUMPY, "float64"), SMALL, threads=np.int64(3))  # type: ignore[arg-type]
    assert np.array_equal(session.start(IDS)[0], Session(session.weights, SMALL, threads=3).start(IDS)[0])


@needs_threads
def test_products_have_the_threads_of_the_session_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With panels each of Python's threads makes its own products on one thread."""
    seen: list[int | None] = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *args, **options: seen.append(blas_threads()) or matmul(*args, **options))
    for dtype, counts in (("float32", {3}), ("float16", {1})):
        model = mapped(lambda a, dtype=dtype: a.astype(dtype), weights(SMALL, NUMPY, "float64"))
        seen.clear()
        Session(model, SMALL, threads=3).start(IDS)
        assert set(seen) == counts


@needs_threads
def test_a_panel_that_fails_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception leaves no thread behind that writes to the memory of the next call; and the session answers as before."""
    half = mapped(lambda a: a.astype(np.float16), weights(SMALL, NUMPY, "float64"))
    session, meant, done = Session(half, SMALL, threads=2), Session(half, SMALL, threads=2).start(IDS)[0], []

    def failing(x: Any, weight: Any, out: Any, begin: int, end: int, name: str) -> None:
        if begin == 0:
            raise RuntimeError
        time.sleep(0.05)
        done.append(begin)

    with monkeypatch.context() as patched:
        patched.setattr(session, "_widened", failing)
        with pytest.raises(RuntimeError):
            session.start(IDS)
        assert len(done) == 1
    assert np.array_equal(session.start(IDS)[0], meant)


def test_a_large_activation_overflows_to_what_the_definition_has() -> None:
    """GELU of -1e4 and of 1e4, where exp(-2z) is beyond float32: 0 and x, without a warning."""
    model = weights(SMALL, NUMPY, "float32")
    bias = np.where(np.arange(48) % 2, 1e4, -1e4).astype(np.float32)
    loud = model._replace(
        blocks=tuple(b._replace(feed_forward_in=b.feed_forward_in._replace(bias=bias)) for b in model.blocks)
    )
    assert _apart([Session(loud, SMALL).logits(IDS)], [gpt2.logits(loud, SMALL, IDS)]) <= 2.0**-18


def test_what_a_session_cannot_do_is_refused() -> None:
    import array_api_strict as strict

    model = weights(SMALL, NUMPY, "float64")
    with pytest.raises(ConfigError, match="a session computes on NumPy"):
        Session(mapped(strict.asarray, model), SMALL)
    with pytest.raises(DtypeError, match="float16, float64"):
        Session(model._replace(token_embedding=model.token_embedding.astype(np.float16)), SMALL)
    with pytest.raises(ConfigError, match="whole number from 1"):
        Session(model, SMALL, threads=0)
    with pytest.raises(DtypeError, match="foreign byte order"):
        Session(mapped(lambda a: a.astype(a.dtype.newbyteorder()), model), SMALL)
    with pytest.raises(ConfigError, match="unknown dialect"):
        Session(model, SMALL, "latin")
    session = Session(model, SMALL)
    with pytest.raises(ShapeError, match="ends in padding"):
        session.start(IDS, MASK[:, ::-1])
    with pytest.raises(TokenError, match="out of range"):
        session.start([[37]])
    _, state = session.start(IDS, MASK)
    with pytest.raises(ShapeError, match="another batch"):
        session.advance([[1]], state)


# --- loading ----------------------------------------------------------------------------------------------------------------


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return isinstance(array, memoryview | mmap.mmap)


def test_shards_in_low_memory_are_cpm_in_float32(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of CPM's own code, of float16 weights computed with in float64: within 2^-16, some 300 roundings of float32."""
    answers = recorded("cpm_megatron")
    monkeypatch.setattr("weights_io.pytorch.SMALL", 0)  # what is larger is mapped, not read
    model = refimpl.load(CPM, low_memory=True, heads=4)
    assert {array.dtype for array in leaves(model.weights)} == {np.dtype(np.float16)}
    assert not any(_is_mapped(array) for array in leaves(model.weights))
    assert "float16 widened to float32" in repr(model)
    found = model.logits(answers["ids"])
    assert found.dtype == np.float32
    assert _apart([found], [answers["logits_mp1"]]) <= 2.0**-16
    ordinary = refimpl.load(CPM, backend="numpy", heads=4)
    ids = {"max_new_tokens": 8, "temperature": 0}
    assert model.generate_ids([[5, 6, 7], [8]], **ids) == ordinary.generate_ids([[5, 6, 7], [8]], **ids)
    exact = refimpl.load(CPM, backend="numpy", heads=4, dtype="float64")
    assert (
        _apart([Session(exact.weights, exact.config, "cpm").logits(answers["ids"])], [answers["logits_mp1"]]) <= 1e-12
    )


def test_low_memory_maps_what_its_file_has_whole(tmp_path: Path, recorded_folder: Any) -> None:
    path = recorded_folder("gpt2_tiny")
    for dtype in ("float16", "float32"):
        (tmp_path / dtype).mkdir()
        with weights_io.open(path) as checkpoint:
            convert(checkpoint, tmp_path / dtype / "model.safetensors", dtype=dtype)
        shutil.copy(path / "config.json", tmp_path / dtype)
    model = refimpl.load(tmp_path / "float16", low_memory=True)
    assert all(_is_mapped(array) for array in leaves(model.weights))
    whole = refimpl.load(tmp_path / "float16", backend="numpy")
    assert not any(_is_mapped(array) for array in leaves(whole.weights))
    assert _apart([model.logits(IDS)], [whole.logits(IDS)]) <= 2.0**-18
    ids, longer = np.arange(40)[None] % 7, model.config.n_positions + 8
    low, wide = (
        refimpl.load(tmp_path / "float16", backend="numpy", low_memory=b, positions=longer) for b in (True, False)
    )
    assert (
        _apart([low.logits(ids)], [wide.logits(ids)]) <= 2.0**-18
    )  # positions that are made are not rounded to float16
    with pytest.raises(ConfigError, match=r"(?s)for float16 files.*got: +float32.*--dtype float16"):
        refimpl.load(tmp_path / "float32", low_memory=True)
    with weights_io.open(tmp_path / "float16") as checkpoint:
        tensors = {name: checkpoint[name].copy() for name in checkpoint}
    name = next(name for name in tensors if name.endswith("c_fc.weight"))
    tensors[name][3, 5] = np.nan
    weights_io.save(tmp_path / "float16" / "model.safetensors", tensors)
    for low in (False, True):
        with pytest.raises(ConfigError, match=f"(?s)1 problems.*not finite: {name}"):
            refimpl.load(tmp_path / "float16", backend="numpy", low_memory=low)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, r"got: +float64"),
        ({"dtype": "float16"}, r"got: +float16"),
        ({"arithmetic": "mitchell"}, r"got: +mitchell"),
    ],
)
def test_low_memory_goes_with_nothing_that_it_would_have_to_ignore(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)computes in float32.*{words}"):
        refimpl.load(CPM, low_memory=True, heads=4, **options)
    with pytest.raises(ConfigError, match="low memory has one arithmetic"):
        refimpl.load(CPM, low_memory=True, heads=4).with_arithmetic("mitchell")


def test_an_encoder_has_no_low_memory(recorded_folder: Any) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no low memory.*a GPT-2"):
        refimpl.load(recorded_folder("hugging_face_bert"), low_memory=True)


def test_on_numpy_a_session_reads_texts_unless_there_is_an_arithmetic() -> None:
    model = refimpl.load("tang", backend="numpy")
    assert isinstance(model._decoder(), Session)
    assert not isinstance(model.with_arithmetic("exact")._decoder(), Session)
    assert refimpl.load("tang", backend="numpy", dtype="float16").make_decoder is None


def test_a_model_reads_with_the_weights_configuration_and_dialect_it_has() -> None:
    """Not with those it was loaded with; and in low memory without being told how to decode."""
    model = refimpl.load("tang", backend="numpy", dtype="float64")
    model.weights = mapped(lambda a: a * 1.5, model.weights)
    model.dialect = "bert4keras"
    for same in (model, copy.copy(model)):
        found = same._decoder().start([[5, 0, 7]])[0]
        assert _apart([found], [same.logits([[5, 0, 7]])[:, -1]]) <= 1e-13
    half = mapped(lambda a: a.astype(np.float16), model.weights)
    low = refimpl.Model(half, model.config, model.backend, low_memory=True)
    assert np.array_equal(low._decoder().start([[5, 7]])[0], Session(half, model.config).start([[5, 7]])[0])
    with pytest.raises(ConfigError, match="low memory has one arithmetic"):
        refimpl.Model(half, model.config, model.backend, low_memory=True, arithmetic="mitchell")


@pytest.mark.parametrize("rows", [[], [2], [-1], [0, 7]])
@pytest.mark.parametrize("made", [Session, gpt2.CachedDecoder])
def test_rows_that_there_are_not_are_refused(made: Any, rows: list[int]) -> None:
    """NumPy would count -1 from the end, and a GPU take any row."""
    decoder = made(weights(SMALL, NUMPY, "float64"), SMALL)
    _, state = decoder.start(IDS, MASK)
    with pytest.raises(TokenError, match=r"(?s)there is no such row.*0 <= row < 2"):
        decoder.select(state, rows)
