"""`python -m training.spaces`: from texts with summaries to a summarizer, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import refimpl
from refimpl.errors import ConfigError, RefimplError
from refimpl.spaces import extractor as definitions
from refimpl.spaces import folder as folders
from refimpl.spaces.assembling import assemble, embedder
from refimpl.spaces.data import read_labelled, read_pairs
from refimpl.spaces.extractor_file import load_extractor
from refimpl.spaces.finetuning import from_folder
from refimpl.spaces.words import WordTokenizer
from refimpl.text.framing import SPECIAL

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "spaces"
ANSWERS = ROOT.parent / "shared" / "fixtures" / "spaces" / "matching_rouge1.0.1.json"
ENV = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
LETTERS = "甲乙丙丁戊己庚辛子丑，。"
SMALL = ["--length", 40, "--rows", 2, "--rate", 1e-2, "--momentum", 0.5, "--folds", 6, "--seed", 1]
FOLDS = ["--folds", 2, "--epochs", 2, "--rows", 4, "--hidden", 4, "--keep", "average", "--threshold", 0.4]


def _commands() -> Any:
    """training/spaces/__main__.py, which is in no package that is installed."""
    spec = importlib.util.spec_from_file_location("training_spaces", ROOT / "training" / "spaces" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = _commands().app


def run(*arguments: object, fails: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments)], env=ENV)
    if isinstance(result.exception, RefimplError):
        return result
    assert result.exit_code == fails, result.output + repr(result.exception)
    return result


def refused(words: str, *arguments: object) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, RefimplError), result.output
    assert words in str(result.exception)


def texts() -> list[dict[str, str]]:
    """Twelve documents of five clauses, whose summaries are two of them and a word more."""
    rng, found = np.random.default_rng(6), []
    for _ in range(12):
        clauses = ["".join(LETTERS[int(i)] for i in rng.integers(0, 10, 4)) for _ in range(5)]
        a, b = sorted(rng.permutation(5)[:2].tolist())
        found.append({"text": "，".join(clauses) + "。", "summary": f"{clauses[a]}，{clauses[b]}甲。"})
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A folder in which everything was done once: labels, a generator, extractors with its vectors, pairs."""
    folder: Path = tmp_path_factory.mktemp("training")
    lines = [json.dumps(each, ensure_ascii=False) for each in texts()]
    (folder / "data.jsonl").write_text("\n".join(lines), "utf-8")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    tokens = WordTokenizer({token: number for number, token in enumerate([*SPECIAL, *LETTERS])})
    tokens.save(folder / "tokens")
    run("labels", folder / "data.jsonl", "--out", folder / "labels.jsonl", "--seed", 4)
    begin = ["--new", folder / "sizes.json", "--vocabulary", folder / "tokens", "--steps", 3]
    run("seq2seq", folder / "labels.jsonl", "--out", folder / "generator", *begin, *SMALL)
    encoder = ["--encoder", folder / "generator" / "model", "--whole", *FOLDS]
    result = run("extractor", folder / "labels.jsonl", "--out", folder / "extractor", *encoder)
    assert result.stdout.count("main metric of the sentences") == 2
    return folder


# --- labels -----------------------------------------------------------------------------------------------------------------------


def test_a_corrupt_line_is_reported_and_the_rest_labelled(tmp_path: Path) -> None:
    lines = [json.dumps(each) for each in texts()]
    lines[4] = lines[4][:-1]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    result = run("labels", tmp_path / "data.jsonl", "--out", tmp_path / "labels.jsonl", fails=1)
    assert "data.jsonl, line 5: JSONDecodeError" in result.stderr
    assert "1 lines could not be used" in result.stderr
    assert "11 documents, main metric of the labelled sentences 0." in result.stdout
    assert len(read_labelled(tmp_path / "labels.jsonl")) == 11
    refused("there already", "labels", tmp_path / "data.jsonl", "--out", tmp_path / "labels.jsonl")
    refused("dictionary cannot be read", "labels", "x", "--out", "y", "--words", tmp_path / "absent")


def test_errors_are_printed_as_they_are(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.spaces",
        "labels",
        str(tmp_path / "absent"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the file cannot be read\n")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not (DATA.is_dir() and ANSWERS.is_file()), reason=f"the judgments are not here: {DATA}")
def test_real_judgments_get_the_recorded_labels_and_score(tmp_path: Path) -> None:
    """And the recorded scores, by words with the published dictionary."""
    words = ["--unit", "word", "--words", DATA / "user_dict.txt"]
    result = run("labels", DATA / "train.json", "--out", tmp_path / "labels.jsonl", *words)
    assert "20 documents, main metric of the labelled sentences 0.6116" in result.stdout
    answers = json.loads(ANSWERS.read_text("utf-8"))["results"]
    ids = [json.loads(line)["id"] for line in (DATA / "train.json").read_text("utf-8").splitlines()]
    found = {each.id: each for each in read_labelled(tmp_path / "labels.jsonl")}
    for name, answer in zip(ids, answers, strict=True):
        assert found[name].labels == answer["labels"]
        assert found[name].score == pytest.approx(answer["metrics"]["main"], abs=1e-12)


# --- extractor --------------------------------------------------------------------------------------------------------------------


def test_sources_are_those_of_the_extractor_that_held_the_document_out(trained: Path) -> None:
    """Its vectors made anew by the generator's encoder; float16 is what stands between."""
    made = embedder(trained / "generator" / "model")
    documents, pairs = read_labelled(trained / "labels.jsonl"), read_pairs(trained / "extractor" / "pairs.jsonl")
    assert [each.id for each in pairs] == [each.id for each in documents]
    for number, (document, pair) in enumerate(zip(documents, pairs, strict=True)):
        weights, config = load_extractor(trained / "extractor" / f"fold-{number % 2:02}" / "extractor.safetensors")
        vectors = made.embed(document.sentences).astype(np.float16).astype(np.float32)
        p = definitions.sentence_probabilities(weights, config, vectors[None])[0]
        assert pair.source_1 == "".join(document.sentences[i] for i in definitions.choose(p, 0.4))
        assert pair.source_2 == "".join(document.sentences[i] for i in document.labels)
        assert pair.target == document.summary


def test_folds_may_be_trained_one_by_one_and_a_run_goes_on(trained: Path, tmp_path: Path) -> None:
    encoder = ["--encoder", trained / "generator" / "model", *FOLDS]
    start = ["extractor", trained / "labels.jsonl", "--out", tmp_path / "run"]
    refused("nothing to resume", *start, *encoder, "--resume")
    for number in (1, 0):
        result = run(*start, *encoder, "--fold", number, *(["--resume"] if number == 0 else []))
        assert "is written where all folds are asked for" in result.stdout
    refused("something in the folder", *start, *encoder)
    assert not (tmp_path / "run" / "pairs.jsonl").exists()
    run(*start, *encoder, "--resume")
    for name in ("pairs.jsonl", "vectors.npy", "fold-00/extractor.safetensors", "fold-01/extractor.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / "extractor" / name).read_bytes()
    refused("about.options.rate: 0.001 in the checkpoint", *start, *encoder, "--resume", "--rate", 0.01)
    refused("tokens: 512 there, 5 here", *start, *encoder, "--resume", "--tokens", 5)
    refused("no such fold", *start, *encoder, "--fold", 2)
    refused("nothing is held out of all documents", *start, *encoder, "--whole", "--keep", "best")


# --- generator --------------------------------------------------------------------------------------------------------------------


def test_a_generator_goes_on_from_a_folder_and_after_a_stop(trained: Path, tmp_path: Path) -> None:
    pairs, begin = trained / "extractor" / "pairs.jsonl", ["--model", trained / "generator" / "model"]
    told = run("seq2seq", pairs, "--out", tmp_path / "straight", *begin, *SMALL, "--steps", 4).stdout
    assert "4 steps" in told
    run("seq2seq", pairs, "--out", tmp_path / "stopped", *begin, *SMALL, "--steps", 2)
    refused("already", "seq2seq", pairs, "--out", tmp_path / "stopped", *begin, *SMALL, "--steps", 4)
    run("seq2seq", pairs, "--out", tmp_path / "stopped", *begin, *SMALL, "--steps", 4, "--resume")
    one, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "stopped"))
    assert one == other != (trained / "generator" / "model" / "model.safetensors").read_bytes()
    result = run("seq2seq", pairs, "--out", tmp_path / "short", *begin, *SMALL, "--steps", 1, "--length", 12)
    assert "of 12 pairs are longer than 12 tokens, and cut" in result.stderr


def test_what_a_generator_cannot_begin_with_is_refused(trained: Path, tmp_path: Path) -> None:
    start = ["seq2seq", trained / "labels.jsonl", "--out", tmp_path / "out"]
    refused("one of --model, --bert and --new", *start)
    refused("got:      --model, --new", *start, "--model", "a", "--new", "b")
    (tmp_path / "list.json").write_text("[]")
    refused("the sizes cannot be read", *start, "--new", tmp_path / "list.json")
    refused("no tokenizer of a generator", *start, "--new", trained / "sizes.json", "--vocabulary", tmp_path)
    refused("--extractor beside it", *start, "--new", trained / "sizes.json", "--summarizer", tmp_path / "s")
    refused("no dropout", *start, "--model", trained / "generator" / "model", "--gradient", "definitions", *SMALL)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_is_made_of_the_pairs(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    begin = ["--new", trained / "sizes.json", "--size", 380, "--steps", 1, "--sources", "labelled", *SMALL]
    run("seq2seq", trained / "extractor" / "pairs.jsonl", "--out", tmp_path / "new", *begin)
    made = from_folder(tmp_path / "new" / "model")
    assert made.config.bert.vocab_size == made.tokenizer.size <= 380
    assert made.tokenizer.decode(made.tokenizer.encode("甲乙，")) == "甲乙，"


# --- summarizer -------------------------------------------------------------------------------------------------------------------


def test_what_was_trained_summarizes(trained: Path, tmp_path: Path) -> None:
    """With the generator whose vectors the extractor knows: one network; the probabilities are those of the training."""
    parts = ["--generator", trained / "generator" / "model", "--extractor", trained / "extractor"]
    told = run("assemble", tmp_path / "one", *parts, "--settings", '{"beams": 1, "max_new_tokens": 5}').stdout
    assert "refimpl summarize FILE --model" in told
    made = folders.load(tmp_path / "one", backend="numpy")
    assert (made.settings.encoder, made.settings.threshold, made.settings.beams) == ("seq2seq", 0.4, 1)
    assert made.settings.sentences == 256
    whole, _ = load_extractor(trained / "extractor" / "whole" / "extractor.safetensors")
    assert np.array_equal(made.extractor_weights.projection, whole.projection)
    document = read_labelled(trained / "labels.jsonl")[0]
    summary = made.summarize("".join(document.sentences))
    assert [each.text for each in summary.sentences] == document.sentences
    vectors = embedder(trained / "generator" / "model").embed(document.sentences)
    p = definitions.sentence_probabilities(whole, made.extractor_config, vectors[None])[0]
    assert [each.probability for each in summary.sentences] == pytest.approx(p.tolist(), rel=1e-5)
    short = embedder(trained / "generator" / "model", tokens=4)
    assert np.array_equal(short.embed(["甲乙丙丁"]), short.embed(["甲乙"]))
    run("assemble", tmp_path / "other", *parts, "--settings", '{"threshold": 0.9}')
    assert folders.read_settings(tmp_path / "other").threshold == 0.9
    refused("there already", "assemble", tmp_path / "one", *parts)
    refused("settings cannot be read", "assemble", tmp_path / "two", *parts, "--settings", "1")
    refused("unknown settings", "assemble", tmp_path / "two", *parts, "--settings", '{"beam": 1}')


def test_a_generator_that_was_trained_on_is_another_model(trained: Path, tmp_path: Path) -> None:
    begin = ["--model", trained / "generator" / "model", "--steps", 1, *SMALL]
    pairs, parts = trained / "extractor" / "pairs.jsonl", ["--summarizer", tmp_path / "s", "--extractor"]
    refused("another generator", "seq2seq", pairs, "--out", tmp_path / "a", *begin, *parts, trained / "extractor")
    assert not (tmp_path / "s").exists()
    run("extractor", trained / "labels.jsonl", "--out", tmp_path / "e", "--encoder", tmp_path / "a" / "model", *FOLDS)
    run("assemble", tmp_path / "s", "--generator", tmp_path / "a" / "model", "--extractor", tmp_path / "e", "--fold", 1)
    first, _ = load_extractor(tmp_path / "e" / "fold-01" / "extractor.safetensors")
    assert np.array_equal(folders.load(tmp_path / "s", backend="numpy").extractor_weights.projection, first.projection)


def test_an_encoder_of_its_own_goes_into_the_summarizer(trained: Path, recorded_folder: Any, tmp_path: Path) -> None:
    encoder = tmp_path / "bert"
    shutil.copytree(recorded_folder("hugging_face_bert"), encoder)
    size = json.loads((encoder / "config.json").read_text())["vocab_size"]
    names = [*SPECIAL, *LETTERS]
    names += [f"x{number}" for number in range(size - len(names))]
    WordTokenizer({token: number for number, token in enumerate(names)}).save(encoder)
    made, sentences = embedder(encoder, tokens=5), ["甲乙丙丁。戊己", "丙"]
    model: Any = refimpl.load(encoder, backend="numpy")
    assert np.array_equal(made.embed(sentences), model.embed(sentences, pooling="mean", truncate=5))
    run("extractor", trained / "labels.jsonl", "--out", tmp_path / "e", "--encoder", encoder, "--tokens", 5, *FOLDS)
    begin = ["--model", trained / "generator" / "model", "--steps", 1, *SMALL]
    parts = ["--summarizer", tmp_path / "s", "--extractor", tmp_path / "e"]
    run("seq2seq", tmp_path / "e" / "pairs.jsonl", "--out", tmp_path / "g", *begin, *parts)
    whole = folders.load(tmp_path / "s", backend="numpy")
    assert (whole.settings.encoder, whole.settings.sentence_tokens) == ("encoder", 5)
    assert np.array_equal(whole.vectors(sentences), made.embed(sentences))
    (encoder / "more").write_text("")
    with pytest.raises(ConfigError, match=r"not there[\s\S]*another model"):
        _assembled(tmp_path, trained)
    shutil.rmtree(encoder)
    with pytest.raises(ConfigError, match=r"not there[\s\S]*no folder"):
        _assembled(tmp_path, trained)


def _assembled(folder: Path, trained: Path) -> Any:
    file = folder / "e" / "fold-00" / "extractor.safetensors"
    return assemble(folder / "other", trained / "generator" / "model", file, folder / "e" / "record.json")


def test_what_makes_no_vectors_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        embedder(tmp_path / "absent")
    with pytest.raises(ConfigError, match="makes no vectors"):
        embedder(Path(refimpl.__file__).parent / "embedded" / "tang")
    with pytest.raises(ConfigError, match="no record"):
        assemble(tmp_path / "new", trained / "generator" / "model", tmp_path / "x", trained / "sizes.json")
