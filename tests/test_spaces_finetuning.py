"""Training a generator on pairs: where it begins, what it reads, and a training that was stopped is the one that was not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trainings import assert_mean, recorded_steps

import refimpl
from refimpl.backend import Backend
from refimpl.bert import BertConfig
from refimpl.errors import ConfigError, TokenizerError
from refimpl.learning.seq2seq import fitted
from refimpl.learning.unilm_session import UniLMSession
from refimpl.spaces import finetuning, seq2seq
from refimpl.spaces.data import Pair
from refimpl.spaces.finetuning import (
    Generator,
    Seq2SeqOptions,
    encoded,
    from_bert,
    from_folder,
    from_nothing,
    train_generator,
)
from refimpl.spaces.words import WordTokenizer
from refimpl.text.framing import SPECIAL
from refimpl.trees import leaves, mapped

LETTERS = "甲乙丙丁戊己，。"
TOKENIZER = WordTokenizer({token: number for number, token in enumerate([*SPECIAL, *LETTERS])})
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
QUICK = Seq2SeqOptions(epochs=2, length=24, rows=2, rate=1e-2, momentum=0.9, k=4, seed=3)


def pairs(count: int = 7) -> list[Pair]:
    rng = np.random.default_rng(1)

    def text(length: int) -> str:
        return "".join(LETTERS[int(i)] for i in rng.integers(0, 8, length))

    return [Pair(str(i), text(9 - i), text(4 + i), text(3)) for i in range(count)]


def start(seed: int = 2) -> Generator:
    return from_nothing(SIZES, TOKENIZER, seed)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(each).tobytes() for each in leaves(tree)]


def _trained(folder: Path, options: Seq2SeqOptions = QUICK, begin: Generator | None = None, **more: Any) -> Generator:
    return train_generator(pairs(), begin or start(), folder, options, **{"folds": 7, "fold": 2} | more)


# --- what is read -----------------------------------------------------------------------------------------------------------------


@example(12, "both", ["甲", "乙丙", "甲乙丙丁戊己甲乙丙丁"])
@example(16, "both", ["甲乙丙丁戊己甲乙丙丁戊", "乙丙", "甲乙丙丁戊己甲乙丙丁"])
@given(
    st.integers(4, 40),
    st.sampled_from(["both", "chosen", "labelled"]),
    st.lists(st.text(LETTERS, max_size=12), min_size=3, max_size=3),
)
def test_pairs_fit_and_keep_their_ends_and_beginnings(length: int, which: str, texts: list[str]) -> None:
    """Whatever source is drawn, source and target have room; nothing is cut that fits; every part keeps its last token."""
    ((sources, target),), cut = encoded([Pair("a", *texts)], TOKENIZER, Seq2SeqOptions(length=length, sources=which))
    *whole, said = (TOKENIZER.framed(text).ids for text in texts)
    wanted = {"both": whole, "chosen": whole[:1], "labelled": whole[1:]}[which]
    assert len(sources) == len(wanted)
    assert cut == ([*sources, target] != [*wanted, said])
    assert max(map(len, sources)) + len(target) <= length or length < 4
    longest = max(map(len, wanted))
    assert max(map(len, sources)) + len(target) == min(length, longest + len(said))
    place = max(range(len(wanted)), key=lambda i: len(wanted[i]))
    assert (sources[place], target) == fitted(wanted[place], said, length)
    for found, meant in zip([*sources, target], [*wanted, said], strict=True):
        assert found == meant[: len(found) - 1] + meant[-1:]
        assert len(found) >= 2


def test_a_training_reads_the_sources_that_it_is_told_to(tmp_path: Path, monkeypatch: Any) -> None:
    ids = {name: [TOKENIZER.framed(getattr(each, name)).ids for each in pairs()] for name in Pair._fields[1:]}
    for which, names in (("chosen", {"source_1"}), ("labelled", {"source_2"}), ("both", {"source_1", "source_2"})):
        options = dataclasses.replace(QUICK, sources=which, masking=0.0, epochs=4)
        seen = set()

        def loss(self: Any, weights: Any, batches: Any, rng: Any = None, seen: Any = seen) -> Any:
            for batch in batches:
                for row, segments in zip(batch.ids, batch.segments, strict=True):
                    source, target = row[: int(np.argmax(segments))].tolist(), row[segments > 0].tolist()
                    number = ids["target"].index(target)
                    seen.update(name for name in ("source_1", "source_2") if ids[name][number] == source)
                    seen.add(number)
            return 1.0, mapped(np.zeros_like, weights)

        monkeypatch.setattr(UniLMSession, "__call__", loss)
        _trained(tmp_path / which, options)
        assert seen == names | ({0, 1, 3, 4, 5, 6})  # pair 2 is held out


# --- the training -----------------------------------------------------------------------------------------------------------------


def test_a_training_writes_a_folder_from_which_it_can_go_on(tmp_path: Path) -> None:
    losses: list[tuple[int, int, float]] = []
    (tmp_path / "losses.json").write_text("[7, 8, 9]")  # of a training that is gone
    done = _trained(tmp_path, advance=lambda *taken: losses.append(taken))
    assert [each[:2] for each in losses] == [(i, 6) for i in range(1, 7)]
    assert np.isfinite([each[2] for each in losses]).all()
    again = from_folder(tmp_path / "model")
    assert again.config == done.config
    assert bits(again.weights) == bits(done.weights) != bits(start().weights)
    assert again.tokenizer.vocabulary == TOKENIZER.vocabulary
    said = json.loads((tmp_path / "record.json").read_text())
    assert said["steps"] == 6
    assert len(said["losses"]) == 2
    assert said["training"]["optimizer"]["momentum"] == 0.9
    more = _trained(tmp_path / "more", begin=again, steps=1)
    assert bits(more.weights) != bits(done.weights)


def test_pairs_that_are_cut_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    _trained(tmp_path / "whole", steps=1, notify=told.append)
    assert told == []
    _trained(tmp_path / "cut", dataclasses.replace(QUICK, length=15), steps=1, notify=told.append)
    assert told == ["3 of 7 pairs are longer than 15 tokens, and cut"]


def test_a_stopped_training_is_the_one_that_was_not(tmp_path: Path) -> None:
    """Stopped after every step, while held-out pairs are measured, and while files are written."""
    straight = _trained(tmp_path / "straight")
    places = [f"refimpl.spaces.finetuning.{name}" for name in ("_loss", "_Run._say")]
    checkpoint, before, left = tmp_path / "stopped" / "training.safetensors", b"", list[str]()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for stops in range(40):  # noqa: B007 - used after it
        resume = checkpoint.exists()
        if resume and checkpoint.read_bytes() != before:
            before, left = checkpoint.read_bytes(), [*places]
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            if left:
                patch.setattr(left.pop(), stop)
            found = _trained(tmp_path / "stopped", every=1, advance=stop, resume=resume)
            break
    assert stops == 10
    assert bits(found.weights) == bits(straight.weights)
    for name in ("record.json", "losses.json", "model/model.safetensors", "model/config.json", "model/vocab.txt"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_the_weights_that_are_kept_are_the_average(tmp_path: Path) -> None:
    """Of momentum 0 the last ones; measured after each epoch are those that would be kept."""
    last = _trained(tmp_path / "last", dataclasses.replace(QUICK, momentum=0.0))
    with recorded_steps() as states:
        averaged = _trained(tmp_path / "averaged")
    assert bits(last.weights) == bits(states[-1])
    assert len(states) == 6
    assert_mean(averaged.weights, states, 0.9)
    held = finetuning._corpus([encoded(pairs(), TOKENIZER, QUICK)[0][2]], QUICK, rows=1).batches()
    session = UniLMSession(start().config, k=4)
    said = json.loads((tmp_path / "averaged" / "losses.json").read_text())
    assert said[-1] == session.loss(averaged.weights, held)


def test_the_two_gradients_measure_and_learn_alike(tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, dropout=0.0, rectangles=2, rows=1)
    more: dict[str, Any] = {"folds": 2, "fold": 0}  # four pairs are measured
    one, other = (_trained(tmp_path / kind, options, gradient=kind, **more) for kind in ("session", "definitions"))
    assert json.loads((tmp_path / "session" / "record.json").read_text())["steps"] == 2
    for a, b in zip(leaves(one.weights), leaves(other.weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    losses = [json.loads((tmp_path / kind / "losses.json").read_text()) for kind in ("session", "definitions")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_training_runs_where_the_backend_is(tmp_path: Path, monkeypatch: Any) -> None:
    """A device that refuses the host's arrays."""
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    for module in ("learning.checkpoints.on_host", "spaces.seq2seq_folder._on_host"):
        monkeypatch.setattr(f"refimpl.{module}", lambda a: a if isinstance(a, np.ndarray) else _on_host(a))
    options = dataclasses.replace(QUICK, dropout=0.0)
    more: dict[str, Any] = {"steps": 2, "gradient": "definitions"}
    found = _trained(tmp_path / "strict", options, backend=Backend("strict", strict, device), **more)
    meant = _trained(tmp_path / "numpy", options, **more)
    assert all(each.device == device for each in leaves(found.weights))
    for a, b in zip(leaves(found.weights), leaves(meant.weights), strict=True):
        np.testing.assert_allclose(_on_host(a), b, rtol=1e-3, atol=1e-5)


def _on_host(a: Any) -> Any:
    return np.asarray(a.to_device(type(a.device)("CPU_DEVICE")))


def test_a_training_goes_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    """Of the first epoch, beside the files of the last."""
    kept, checkpoint = list[bytes](), tmp_path / "training.safetensors"
    straight = _trained(tmp_path, advance=lambda step, *_: kept.append(checkpoint.read_bytes()) if step == 3 else None)
    record = (tmp_path / "record.json").read_bytes()
    checkpoint.write_bytes(kept[0])
    assert bits(_trained(tmp_path, resume=True).weights) == bits(straight.weights)
    assert (tmp_path / "record.json").read_bytes() == record


def test_a_training_is_as_it_is_told(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"shape": "linear", "warm_up": 1, "floor": 0.5, "form": "sorted"}
    told = {"clip": 0.25, "decay": 0.1, "copy_weight": 3.0, "momentum": 0.0, "dropout": 0.2, "masking": 0.3}
    _trained(
        tmp_path, Seq2SeqOptions(length=24, rows=2, rectangles=3, k=5, seed=6, **told, **shape), steps=2, threads=2
    )
    said = json.loads((tmp_path / "record.json").read_text())["training"]
    about = {"k": 5, "copy_weight": 3.0, "dropout": 0.2, "threads": 2, "backend": "numpy", "gradient": "session"}
    assert {name: said["about"][name] for name in about} == about
    assert (said["optimizer"]["kind"], said["optimizer"]["decay"]) == ("AdamW", 0.1)
    schedule = {"peak": 2e-5, "shape": "linear", "steps": 2, "warm_up": 1, "floor": 0.5}
    assert (said["clip"], said["seed"], said["schedule"]) == (0.25, 6, schedule)
    corpus = {"rows": 2, "rectangles": 3, "masking": 0.3, "form": "sorted", "dialect": "corrected", "seed": 6}
    assert {name: said["corpus"][name] for name in corpus} == corpus


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"dropout": 0.1}, {"gradient": "definitions"}, "the rules have no dropout"),
        ({"dialect": "published"}, {}, "a fast session does not compute that"),
        ({}, {"gradient": "other"}, "unknown gradient"),
        ({}, {"resume": True}, "there is no training to resume"),
        ({}, {"folds": 8}, "no such fold"),
        ({"length": 3}, {}, "no pair is that short"),
        ({"length": 25}, {}, "longer than the model"),
        ({"rows": 9}, {}, "too few for a step"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: Any, more: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        _trained(tmp_path / "new", dataclasses.replace(QUICK, **options), **more)
    assert not (tmp_path / "new").exists()


def test_a_training_is_not_begun_over_another_nor_gone_on_with_as_another(tmp_path: Path) -> None:
    _trained(tmp_path, steps=1)
    assert json.loads((tmp_path / "record.json").read_text())["steps"] == 1
    with pytest.raises(ConfigError, match=r"already[\s\S]*--resume"):
        _trained(tmp_path)
    with pytest.raises(ConfigError, match=r"corpus.masking: 0.15 in the checkpoint, 0.2 here"):
        _trained(tmp_path, dataclasses.replace(QUICK, masking=0.2), resume=True)
    assert bits(_trained(tmp_path, resume=True).weights) == bits(_trained(tmp_path / "straight").weights)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        _trained(tmp_path / "file" / "new")
    for wrong in ({"epochs": 0}, {"sources": "none"}):
        with pytest.raises(ConfigError, match="options out of range"):
            Seq2SeqOptions(**wrong)  # type: ignore[arg-type]


# --- where it begins --------------------------------------------------------------------------------------------------------------


def test_a_model_is_drawn_for_a_tokenizer() -> None:
    made = start(5)
    assert made.config.bert == BertConfig(12, **SIZES, intermediate_size=32, activation="tanh")  # type: ignore[arg-type]
    assert (made.config.start_token_id, made.config.end_token_id) == (TOKENIZER.start_id, TOKENIZER.end_id)
    assert bits(made.weights) == bits(start(5).weights) != bits(start(6).weights)
    for sizes, words in (({"hidden": 8}, "unknown sizes[\\s\\S]*'hidden'"), ({"hidden_size": 8}, "is missing")):
        with pytest.raises(ConfigError, match=words):
            from_nothing(sizes, TOKENIZER)


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path, steps=1)
    WordTokenizer({token: number for number, token in enumerate([*SPECIAL, "甲"])}).save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"do not fit[\s\S]*\(12, 2, 3\)[\s\S]*\(5, 2, 3\)"):
        from_folder(tmp_path / "model")
    (tmp_path / "model" / "words.json").unlink()
    (tmp_path / "model" / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match="no tokenizer of a generator"):
        from_folder(tmp_path / "model")


def test_a_published_bert_becomes_a_generator_of_words(recorded_folder: Any, tmp_path: Path) -> None:
    """Rows that stay are the model's, those of words the means of their pieces'; and it says what the BERT says."""
    folder = recorded_folder("hugging_face_bert")
    theirs = refimpl.load(folder, backend="numpy")
    size = theirs.config.vocab_size
    tokens = [*SPECIAL, "甲", "乙", "ab", "##c", *(f"[unused{i}]" for i in range(size - 8))]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    made = from_bert(folder, tmp_path / "vocab.txt", ["甲乙 5 n", "abc", "甲"], seed=4)
    assert list(made.tokenizer.vocabulary) == [*SPECIAL, "甲", "乙", "ab", "##c", "甲乙", "abc"]
    table = theirs.weights.token_embedding
    np.testing.assert_array_equal(made.weights.bert.token_embedding[:8], table[:8])
    np.testing.assert_allclose(made.weights.bert.token_embedding[8], (table[4] + table[5]) / 2, rtol=1e-6)
    np.testing.assert_allclose(made.weights.bert.token_embedding[9], (table[6] + table[7]) / 2, rtol=1e-6)
    assert made.weights.bert.pooler is None
    ids = [[2, 4, 6, 3]]
    logits, tags = seq2seq.logits(made.weights, made.config, ids, [[0, 0, 0, 0]])
    np.testing.assert_allclose(logits[..., :8], theirs.logits(ids)[..., :8], rtol=1e-5, atol=1e-6)
    assert tags.shape == (1, 4, 3)
    assert 0.005 < np.std(made.weights.tags.weight) < 0.05
    with pytest.raises(TokenizerError, match="not the model's"):
        (tmp_path / "short.txt").write_text("".join(f"{token}\n" for token in tokens[:9]), "utf-8")
        from_bert(folder, tmp_path / "short.txt")
    with pytest.raises(ConfigError, match="says no tokens"):
        from_bert(Path(refimpl.__file__).parent / "embedded" / "tang", tmp_path / "vocab.txt")


def test_a_nezha_is_trained_by_the_definitions(recorded_folder: Any, tmp_path: Path) -> None:
    """Which the fast session refuses; it has no end of positions, and keeps its dialect."""
    folder = recorded_folder("bert4keras").parent / "nezha"
    tokens = [*SPECIAL, *LETTERS, *(f"x{i}" for i in range(48))]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    made, options = from_bert(folder, tmp_path / "vocab.txt"), dataclasses.replace(QUICK, dropout=0.0, length=500)
    with pytest.raises(ConfigError, match="fast session"):
        _trained(tmp_path / "session", options, made)
    done = _trained(tmp_path / "definitions", options, made, gradient="definitions", steps=1)
    again = from_folder(tmp_path / "definitions" / "model")
    assert again.config == done.config
    assert (again.config.bert_dialect, again.config.bert.max_position_embeddings) == ("bert4keras", None)
    assert bits(again.weights) == bits(done.weights) != bits(made.weights)
