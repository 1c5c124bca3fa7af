"""Texts into encoders: special tokens, what is too long, pooling, the command; and all-MiniLM-L6-v2 against transformers, where it is installed."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from systems import rounded
from typer.testing import CliRunner

import refimpl
import weights_io
from refimpl import bert, cli, encoder, errors
from refimpl.pooling import mean_pooling, unit_length
from refimpl.sentence_transformers import POOLINGS, SentencePooling, read_pooling
from refimpl.text import LibraryTokenizer
from validation import installed, perturbed, tolerance, truth

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", "##x", "##y", "the", "cafe"]
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "REFIMPL_BACKEND": "numpy"}


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recorded BERT (24 positions, 60 ids) with a WordPiece vocabulary beside it."""
    path = tmp_path / "model"
    shutil.copytree(RECORDED / "hugging_face_bert" / "model", path)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return path


def _load(path: Path, **options: Any) -> Any:
    return refimpl.load(path, **({"backend": "numpy", "dtype": "float64"} | options))


def _sentence_files(path: Path, *kinds: str, **fields: Any) -> Path:
    names = ["", "1_Pooling", "2_Normalize", "3_Dense"]
    modules = [
        {"idx": i, "path": names[i], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(fields))
    return path


# --- tokens -----------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_read_as_bert_reads_it(folder: Path) -> None:
    model = _load(folder)
    (one, pair) = model.framed(["The Café x, ax", ("a b", "c")])
    words = [WORDS[i] for i in one.ids]
    assert words == ["[CLS]", "the", "cafe", "x", "[UNK]", "a", "##x", "[SEP]"]
    assert [WORDS[i] for i in pair.ids] == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert pair.segments == [0, 0, 0, 0, 1, 1]
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert [WORDS[i] for i in _load(folder).framed(["The the"])[0].ids] == ["[CLS]", "[UNK]", "the", "[SEP]"]


def test_truncation_and_padding_in_the_file_are_switched_off(folder: Path) -> None:
    """tokenizer.json files of sentence-transformers cut at 128 tokens and fill up to 128."""
    made = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"))
    made.enable_truncation(4)
    made.enable_padding(length=8)
    made.save(str(folder / "tokenizer.json"))
    model = _load(folder)
    assert len(model.framed(["a b c d e f"])[0].ids) == 8
    assert len(model.framed(["a"])[0].ids) == 3
    assert model.tokenizer.encode("a b c d e f") == [WORDS.index(each) for each in "abcdef"]


def test_a_tokenizer_without_a_frame_gets_the_one_of_its_vocabulary(folder: Path) -> None:
    def made(*special: str) -> LibraryTokenizer:
        vocabulary = {word: i for i, word in enumerate([*special, "a", "b", "?"])}
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        return LibraryTokenizer(plain)

    assert made("[CLS]", "[SEP]").framed("a", "b").ids == [0, 2, 1, 3, 1]
    assert made("<s>", "</s>").framed("a", "b").ids == [0, 2, 1, 1, 3, 1]
    assert made("<s>", "</s>").framed("a", "b").segments == [0] * 6
    with _refused(errors.TokenizerError, "how a text begins and ends", "[CLS] and [SEP] or <s> and </s>", "token ids"):
        made().framed("a")


@given(st.integers(0, 12), st.integers(0, 12), st.integers(4, 24))
def test_a_pair_is_cut_where_it_is_longer(first: int, second: int, longest: int) -> None:
    """Against the library's own truncation, longest first."""
    words = {"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "?": 4}
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    theirs.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    ours = LibraryTokenizer(tokenizers.Tokenizer.from_str(theirs.to_str()))
    theirs.enable_truncation(longest, strategy="longest_first")
    pair = ("a " * first, "b " * second)
    found, expected = ours.framed(*pair, longest=longest), theirs.encode(*pair)
    assert (found.ids, found.segments) == (expected.ids, expected.type_ids)
    assert found.whole == first + second + 3


# --- what is too long, or no text ---------------------------------------------------------------------------------------------


def test_nothing_is_cut_silently(folder: Path) -> None:
    model, text = _load(folder), "a " * 23
    assert len(model.framed(["a " * 22])[0].ids) == 24
    with _refused(
        errors.TextError,
        "longer than the position table",
        "texts[1]",
        "at most 24",
        "25 tokens",
        "truncate=True",
        "positions=25",
    ):
        model.embed(["a", text], pooling="mean")
    cut = model.framed([text], truncate=True)[0]
    assert (len(cut.ids), cut.whole, WORDS[cut.ids[-1]]) == (24, 25, "[SEP]")
    assert len(model.framed([text], truncate=9)[0].ids) == 9
    assert len(model.framed([text], truncate=99)[0].ids) == 24
    longer = _load(folder, positions=25)
    assert longer.embed([text], pooling="none")[0].shape == (25, 32)


def test_bad_calls_have_their_own_messages(folder: Path) -> None:
    model = _load(folder)
    for texts, words in [("a", ("one text where a list", "pass [text]")), ([], ("there is no text",))]:
        with _refused(errors.TextError, *words):
            model.embed(texts, pooling="mean")
    with _refused(errors.TextError, "not a text", "texts[1]", "a pair", "3"):
        model.embed(["a", (3,)], pooling="mean")
    with _refused(errors.ConfigError, "truncate must be", "0"):
        model.embed(["a"], pooling="mean", truncate=0)
    with _refused(errors.TokenizerError, "no room is left", "2 special tokens", "2"):
        model.embed(["a b"], pooling="mean", truncate=2)
    with _refused(errors.ConfigError, "unknown pooling", "mean, cls, pooler, none", "'max'"):
        model.embed(["a"], pooling="max")
    with _refused(errors.ConfigError, "does not say how", "modules.json", "--pooling"):
        model.embed(["a"])
    (folder / "vocab.txt").unlink()
    with _refused(errors.TokenizerError, "came without a tokenizer", "vocab.txt"):
        _load(folder).embed(["a"], pooling="mean")
    with _refused(errors.ConfigError, "the model is no encoder", "<GPT-2"):
        refimpl.load("tang", backend="numpy").embed(["a"])


# --- pooling ----------------------------------------------------------------------------------------------------------------


def test_embeddings_are_the_pooled_definition(folder: Path) -> None:
    model, text = _load(folder), "a b c"
    ids = [[2, 4, 5, 6, 3]]
    hidden = bert.encode(model.weights, model.config, ids)[0]
    expected = {
        "mean": hidden.mean(0),
        "cls": hidden[0],
        "pooler": np.tanh(hidden[0] @ model.weights.pooler.weight + model.weights.pooler.bias),
    }
    for pooling, vector in expected.items():
        assert _relative(model.embed([text], pooling=pooling)[0], vector) <= 1e-14
        unit = vector / np.linalg.norm(vector)
        assert _relative(model.embed([text], pooling=pooling, normalize=True)[0], unit) <= 1e-14
    assert np.array_equal(model.embed([text], pooling="none")[0], hidden)
    assert set(expected) | {"none"} == set(POOLINGS)


def test_padding_and_batches_change_no_vector(folder: Path, monkeypatch: Any) -> None:
    """Rounding apart: a row of zeros in a sum is exact, but the order of the sums may change."""
    model, texts = _load(folder), ["a b c d e f", "g", "the cafe", ("h i", "j"), "k l m"]
    for pooling in POOLINGS:
        alone = [model.embed([text], pooling=pooling)[0] for text in texts]
        for scores in (1, 1 << 21):
            monkeypatch.setattr(encoder, "SCORES", scores)
            for found, expected in zip(model.embed(texts, pooling=pooling), alone, strict=True):
                assert found.shape == expected.shape
                assert _relative(found, expected) <= 1e-14


def test_the_files_of_sentence_transformers_are_followed(folder: Path) -> None:
    mean = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    cls = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    model = _load(folder)
    assert model.pooling is None
    for fields, how in ((mean, "mean"), (cls, "cls"), ({"pooling_mode": "mean"}, "mean")):
        for kinds in (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize")):
            _sentence_files(folder, *kinds, **fields)
            assert model.pooling == SentencePooling(how, len(kinds) == 3)
            assert np.array_equal(model.embed(["a b"]), model.embed(["a b"], pooling=how, normalize=len(kinds) == 3))
    assert abs(np.linalg.norm(model.embed(["a b"])) - 1) < 1e-15
    assert abs(np.linalg.norm(model.embed(["a b"], normalize=False)) - 1) > 1e-3


@pytest.mark.parametrize(
    ("kinds", "fields", "words"),
    [
        (("Transformer", "Pooling", "Dense"), {}, ("modules that are not implemented", "Transformer, Pooling, Dense")),
        (("Transformer",), {}, ("modules that are not implemented", "got:      Transformer")),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_max_tokens": True},
            ("pooling that is not implemented", "pooling_mode_max_tokens", "pooling="),
        ),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            ("pooling that is not implemented", "mean, cls"),
        ),
        (("Transformer", "Pooling"), {}, ("pooling that is not implemented", "got:      none")),
    ],
)
def test_what_is_not_implemented_is_refused_but_can_be_overruled(
    kinds: Any, fields: Any, words: Any, folder: Path
) -> None:
    model = _load(_sentence_files(folder, *kinds, **fields))
    with _refused(errors.ConfigError, *words):
        model.embed(["a"])
    assert model.embed(["a"], pooling="cls").shape == (1, 32)


def test_damaged_files_are_named(folder: Path) -> None:
    (folder / "modules.json").write_text("{}")
    with _refused(errors.ConfigError, "modules that are not implemented", "no list of modules"):
        read_pooling(folder)
    (folder / "modules.json").write_text("[")
    with _refused(errors.ConfigError, "cannot be read", "modules.json", "JSONDecodeError"):
        read_pooling(folder)
    _sentence_files(folder, "Transformer", "Pooling")
    (folder / "1_Pooling" / "config.json").write_text("[]")
    with _refused(errors.ConfigError, "is no object", "1_Pooling"):
        read_pooling(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    with _refused(errors.TokenizerError, "is no object", "tokenizer_config.json"):
        _load(folder)


HIDDEN = np.random.default_rng(7).normal(size=(2, 5, 4))
MASK = np.array([[True, True, False, True, False], [False, False, True, False, False]])


def test_pooling_on_every_number_system(system: Any) -> None:
    """Floats are within the proved budget of balls, and what stands at padding, NaN included, plays no part."""
    for dtype in system.dtypes:
        values = rounded(HIDDEN, dtype)
        with truth.precision(128):
            exact = mean_pooling(truth.balls(values), MASK)
            unit = unit_length(exact)
        assert max(truth.radii(exact).max(), truth.radii(unit).max()) < 1e-20
        x, mask = system.floats(HIDDEN, dtype), system.to(MASK)
        found = mean_pooling(x, mask)
        if system.is_ball:
            continue
        budget = tolerance.proved_budget(mean_pooling, values, MASK, dtype=dtype)
        verdict = tolerance.judge(system.back(found), exact, budget, dtype)
        assert verdict.passed, verdict
        given_means = system.back(found)
        budget = tolerance.proved_budget(unit_length, given_means, dtype=dtype)
        verdict = tolerance.judge(system.back(unit_length(found)), unit_length(truth.balls(given_means)), budget, dtype)
        assert verdict.passed, verdict
        spoiled = np.array(values)
        spoiled[~MASK] = np.nan
        assert np.array_equal(system.back(mean_pooling(system.to(spoiled), mask)), system.back(found))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squares_neither_overflow_nor_vanish(dtype: str) -> None:
    """At both ends of the range: x·2^e has the direction of x, bit for bit while nothing is subnormal."""
    info, x = np.finfo(dtype), (1 + np.random.default_rng(3).random((4, 6))).astype(dtype)
    expected = unit_length(x)
    for exponent in (info.maxexp - 1, info.minexp):
        found = unit_length(np.ldexp(x / 2, exponent + 1).astype(dtype) if exponent < 0 else np.ldexp(x, exponent - 1))
        assert np.array_equal(found, expected)
    assert np.array_equal(unit_length(np.full((1, 4), info.smallest_subnormal, dtype)), np.full((1, 4), 0.5, dtype))
    with np.errstate(invalid="ignore"):
        assert np.all(np.isnan(unit_length(np.zeros((1, 3), dtype))))


def test_pooling_refuses_what_it_cannot_pool() -> None:
    with _refused(errors.TokenError, "a row without tokens has no mean"):
        mean_pooling(HIDDEN, MASK & np.array([[True], [False]]))
    with _refused(errors.ShapeError, "three axes", "(5, 4)"):
        mean_pooling(HIDDEN[0], MASK)
    for call in (lambda x: mean_pooling(x, MASK), unit_length):
        with _refused(errors.DtypeError, "floating point"):
            call(HIDDEN.astype(np.int64))


# --- the command ------------------------------------------------------------------------------------------------------------


def _invoke(*arguments: Any, text: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, ["encode", *(str(each) for each in arguments)], input=text, env=PLAIN)


def test_the_command_prints_and_writes_what_the_library_answers(folder: Path, tmp_path: Path) -> None:
    model, file = _load(folder, dtype="float32"), tmp_path / "texts.txt"
    file.write_text("a b\n\nc\n", "utf-8")
    expected = model.embed(["x", "a b", "c"], pooling="mean")
    rows = json.loads(_invoke(folder, "x", "--file", file, "--pooling", "mean", "--json").stdout)
    assert [(row["text"], row["tokens"], row["cut"]) for row in rows] == [("x", 3, 0), ("a b", 4, 0), ("c", 3, 0)]
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    table = _invoke(folder, "x", "--file", file, "--pooling", "mean", "--output", tmp_path / "v.npy")
    assert np.array_equal(np.load(tmp_path / "v.npy"), expected)
    assert re.search(r"4 +0 +32 .* a b", table.stdout)
    _invoke(
        folder, "--file", "-", "--whole", "--pooling", "none", "--output", tmp_path / "v.safetensors", text="a b\n\nc"
    )
    written = dict(weights_io.open(tmp_path / "v.safetensors"))
    assert np.array_equal(written["embeddings"], model.embed(["a b\n\nc"], pooling="none")[0])
    _invoke(folder, "a", "b c", "--pooling", "none", "--output", tmp_path / "w.safetensors")
    assert {name: a.shape for name, a in weights_io.open(tmp_path / "w.safetensors").items()} == {
        "embeddings.0": (3, 32),
        "embeddings.1": (4, 32),
    }


def test_the_command_cuts_extends_and_refuses(folder: Path, tmp_path: Path) -> None:
    text, mean = "a " * 30, ("--pooling", "mean")
    assert isinstance(_invoke(folder, text, *mean).exception, errors.TextError)
    (row,) = json.loads(_invoke(folder, text, *mean, "--truncate", "--json").stdout)
    assert (row["tokens"], row["cut"]) == (24, 8)
    (row,) = json.loads(_invoke(folder, text, *mean, "--positions", 100, "--normalize", "--json").stdout)
    assert (row["tokens"], row["cut"]) == (32, 0)
    expected = _load(folder, dtype="float32", positions=100).embed([text], pooling="mean", normalize=True)[0]
    assert np.array_equal(np.array(row["embedding"], np.float32), expected)
    (row,) = json.loads(_invoke(folder, "a b", *mean, "--residual-attention", "sum", "--json").stdout)
    expected = _load(folder, dtype="float32", residual_attention=True).embed(["a b"], pooling="mean")[0]
    assert np.array_equal(np.array(row["embedding"], np.float32), expected)
    assert not np.array_equal(expected, _load(folder, dtype="float32").embed(["a b"], pooling="mean")[0])
    for arguments, words in [
        ((folder, "a", "--residual-attention", "twice"), "unknown residual attention"),
        ((folder,), "there is no text"),
        ((folder, "a", *mean, "--output", tmp_path / "v.npz"), "ends in .npy or .safetensors"),
        ((folder, "a", "b c", "--pooling", "none", "--output", tmp_path / "v.npy"), "different lengths"),
        ((folder, "a", *mean, "--output", tmp_path / "no" / "v.npy"), "cannot be written"),
        (("tang", "a"), "the model is no encoder"),
    ]:
        error = _invoke(*arguments).exception
        assert isinstance(error, errors.ConfigError | errors.TextError), (arguments, error)
        assert words in str(error)


# --- all-MiniLM-L6-v2 -------------------------------------------------------------------------------------------------------


@functools.cache
def _minilm() -> Path:
    folder = installed.minilm()
    if folder is None:
        pytest.skip(f"the package {installed.MINILM} is not installed: {installed.INSTALL}")
    return folder


@functools.cache
def _loaded(dtype: str, positions: int | None = None) -> Any:
    return _load(_minilm(), dtype=dtype, positions=positions)


@pytest.fixture
def texts() -> Any:
    return json.loads((RECORDED / "minilm" / "texts.json").read_text("utf-8"))


def test_minilm_reads_texts_as_transformers_does(texts: Any, recorded: Any, tmp_path: Path) -> None:
    answers, model = recorded("minilm"), _loaded("float64")
    padded = model.padded(model.framed(texts["texts"]))
    assert padded.ids == answers["ids"].tolist()
    assert np.array_equal(padded.mask, answers["mask"] == 1)
    (pair,) = model.framed([tuple(texts["pair"])])
    assert [pair.ids, pair.segments] == [answers["pair_ids"][0].tolist(), answers["pair_segments"][0].tolist()]
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(_minilm() / name, tmp_path)
    older = LibraryTokenizer.open(tmp_path)
    every = [*texts["texts"], texts["long"]]
    assert [older.framed(text) for text in every] == [model.tokenizer.framed(text) for text in every]


def test_minilm_embeds_as_transformers_does(texts: Any, recorded: Any) -> None:
    """To 1e-12 of the largest magnitude, in float64."""
    answers, model = recorded("minilm"), _loaded("float64")
    assert model.pooling == SentencePooling("mean", True)
    assert _relative(model.embed(texts["texts"]), answers["embeddings"]) <= 1e-12
    assert _relative(model.embed(texts["texts"], pooling="pooler"), answers["pooled"]) <= 1e-12
    assert _relative(model.embed([texts["texts"][2]], pooling="none")[0], answers["hidden_2"]) <= 1e-12
    assert _relative(model.embed([tuple(texts["pair"])]), answers["pair_embedding"]) <= 1e-12
    assert _relative(model.embed([texts["long"]], truncate=True), answers["truncated_embedding"]) <= 1e-12


def test_minilm_with_more_positions_embeds_as_transformers_with_that_table_does(texts: Any, recorded: Any) -> None:
    answers, model = recorded("minilm"), _loaded("float64", 700)
    assert [row.ids for row in model.framed([texts["long"]], truncate=True)] == answers["long_ids"].tolist()
    assert _relative(model.embed([texts["long"]], truncate=True), answers["hierarchical_embedding"]) <= 1e-12
    short = texts["texts"]
    assert np.array_equal(model.embed(short), _loaded("float64").embed(short))


def test_minilm_in_float32_is_within_the_sampled_budget(texts: Any, recorded: Any) -> None:
    """Rounding alone: deviations of perturbed arithmetic on the same inputs, for the largest of all errors together; theirs are within it too."""
    answers, model = recorded("minilm"), _loaded("float64")
    chosen = [0, 4, 5]
    rows = model.padded(model.framed([texts["texts"][i] for i in chosen]))

    def run(wrap: Any) -> Any:
        arrays = {name: wrap(array) for name, array in model.weights.named().items()}
        kept = bert.BertWeights.from_named(arrays, model.config)
        hidden = bert.encode(kept, model.config, *map(np.array, rows[:2]), mask=np.array(rows.mask))
        return unit_length(mean_pooling(hidden, wrap(np.array(rows.mask))))

    deviation = perturbed.sampled_deviation(run, roundoff=tolerance.roundoff("float32"))
    budget = perturbed.sigmas(deviation.size) * deviation
    assert budget.max() < 1e-5
    expected = answers["embeddings"][chosen]
    ours = _loaded("float32").embed([texts["texts"][i] for i in chosen])
    assert ours.dtype == np.float32
    for found in (ours, answers["embeddings_float32"][chosen]):
        assert np.all(np.abs(found - expected) <= budget), np.max(np.abs(found - expected) / budget)
