"""Few-shot prompts and their files, answers written, searched and scored, zero-shot classification as CPM's own script does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TINY
from systems import NUMPY
from typer.testing import CliRunner

import refimpl
import weights_io
from refimpl import cli, decoding, errors, fewshot, fewshot_classify, fewshot_scores, gpt2
from refimpl.fewshot_scores import log_probabilities
from refimpl.inference.gpt2 import Session
from refimpl.text.stopping import StopText
from validation import components, tolerance

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "validation" / "recorded"
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "REFIMPL_BACKEND": "numpy"}
NUMPY_BACKEND = refimpl.backend.get("numpy")


@pytest.fixture(scope="module")
def tang() -> refimpl.Model:
    return refimpl.load("tang", backend="numpy", dtype="float64")


class Modulo:
    """A tokenizer that knows every character: 10 + its code point modulo the vocabulary less 10; that of the recorded classification."""

    def __init__(self, vocabulary: int = 64) -> None:
        self.size = vocabulary - 10

    def encode(self, text: str) -> list[int]:
        return [10 + ord(character) % self.size for character in text]

    def decode(self, ids: Any) -> str:
        return "".join("\n" if token == 10 + 10 % self.size else chr(0x4E00 + token) for token in ids)


@pytest.fixture(scope="module")
def cpm() -> refimpl.Model:
    """The recorded model of CPM's own code."""
    model = refimpl.load(RECORDED / "cpm_megatron" / "mp1", backend="numpy", dtype="float64", heads=4)
    model.tokenizer = Modulo()
    return model


def _tiny(
    dtype: str = "float64", *, dialect: str = "openai", positions: int = 48, vocabulary: int = 64
) -> refimpl.Model:
    config = dataclasses.replace(TINY, vocab_size=vocabulary, n_positions=positions)
    return refimpl.Model(
        models.weights(config, NUMPY, dtype), config, NUMPY_BACKEND, Modulo(vocabulary), dialect=dialect
    )


def _refused(kind: Any, *words: Any) -> Any:
    return pytest.raises(kind, match="(.|\n)*".join(re.escape(str(word)) for word in words))


# --- the prompts that come with the package ----------------------------------------------------------------------------------------------

PUBLISHED = {  # SHA-256 of the texts in bert4keras's example, and of CPM-1-Generate's example.txt, without the outermost line ends
    "common_sense": ("be7ea5c1803cc7886ccb61530c41c35e66c666bb53f09b70823425ca8a440776", "北京"),
    "word_translation": ("aae6204439d013d000dafeec859c89a6be785741860293d7de4378cd11e1028e", "bird"),
    "subject_extraction": ("81869a1c676cf9b19cd3f8a94cfe3108ce9e584f107a119f8180990085f48883", "杨振宁"),
    "triple_extraction": ("082e3eeccb52e7d4b7ed940c7dac1b03a1a0acf615c4b8214865e450254b087e", "张红,体重,140斤"),
    "capitals": ("1599f86c98111cd68b9125ffde5719fbfeda657447f46046760aaca34d48cd6e", None),
}


def test_the_prompts_are_the_published_ones_to_the_character() -> None:
    assert [prompt.name for prompt in fewshot.prompts()] == sorted(PUBLISHED)
    for prompt in fewshot.prompts():
        digest, answer = PUBLISHED[prompt.name]
        ((query, published),) = prompt.published
        assert hashlib.sha256(prompt.text(query).encode()).hexdigest() == digest
        assert (published, prompt.stop) == (answer, ("\n",))
        assert "github.com/" in prompt.source
        assert prompt == fewshot.read(fewshot.PROMPTS / f"{prompt.name}.toml")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """write(stop="..", ..) -> a prompt file with these lines instead of the usual ones."""

    def file(**lines: str) -> Path:
        usual = {"name": '"n"', "title": '"t"', "source": '"s"', "prompt": '"a {query} b"'} | lines
        path = tmp_path / "prompt.toml"
        path.write_text("".join(f"{name} = {value}\n" for name, value in usual.items() if value), encoding="utf-8")
        return path

    return file


def test_a_file_of_ones_own_is_read(write: Any) -> None:
    path = write(
        prompt="'''\n{1} {query}\n'''",
        stop='["\\n", "。"]',
        published='[{query = "x", answer = "y"}, {query = "z"}]',
        options="{top_k = 3, temperature = 1}",
    )
    prompt = fewshot.read(path)
    assert prompt.text("{query}") == "{1} {query}\n"  # what is put in is not looked at again, and other braces are text
    assert prompt.stop == ("\n", "。")
    assert prompt.published == (("x", "y"), ("z", None))
    assert prompt.options == {"top_k": 3, "temperature": 1}
    assert fewshot.read(write()).stop == ("\n",)
    path.write_text("\ufeff" + path.read_text("utf-8"), "utf-8")
    assert fewshot.read(path).name == "n"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            {"prompt": '"no place"'},
            ("a field of the file is wrong", "prompt", "{query} once", "0 times", "put {query}"),
        ),
        ({"prompt": '"{query}{query}"'}, ("{query} once", "2 times")),
        ({"prompt": "3"}, ("prompt.toml, prompt", "a string", "got:      3")),
        ({"name": "true"}, ("prompt.toml, name", "a string", "True")),
        ({"stop": '""'}, ("prompt.toml, stop", "none of them empty", "''")),
        ({"stop": "[]"}, ("prompt.toml, stop", "none of them empty")),
        ({"stop": '["a", 3]'}, ("prompt.toml, stop", "none of them empty", "['a', 3]")),
        ({"source": ""}, ("the file's fields", "name, title, source, prompt", "without source")),
        ({"promt": '"x"'}, ("the file's fields", "unknown promt")),
        ({"published": '["x"]'}, ("prompt.toml, published", "a string query", "'x'")),
        ({"published": '[{query = "", answer = "y"}]'}, ("prompt.toml, published", "a string query")),
        ({"published": '[{answer = "y"}]'}, ("prompt.toml, published", "a string query")),
        ({"options": "{beams = 3}"}, ("prompt.toml, options", "max_new_tokens, temperature, top_k, top_p", "beams")),
        ({"options": "{top_k = 0.5}"}, ("prompt.toml, options.top_k", "a whole number", "0.5")),
        ({"name": "unquoted"}, ("cannot be read as TOML", "prompt.toml", "TOML in UTF-8", "TOMLDecodeError")),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name_and_the_field(lines: Any, words: Any, write: Any) -> None:
    with _refused(errors.ConfigError, *words):
        fewshot.read(write(**lines))


def test_what_is_no_prompt_and_an_empty_query_are_refused(tmp_path: Path) -> None:
    with _refused(
        errors.ConfigError, "no such prompt", "capitals, common_sense", "a TOML file", "nowhere", "fewshot list"
    ):
        fewshot.read("nowhere")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with _refused(errors.ConfigError, "cannot be read as TOML", "bytes.toml", "UnicodeDecodeError"):
        fewshot.read(tmp_path / "bytes.toml")
    with _refused(errors.TextError, "the query is empty", "prompt capitals", "{query}"):
        fewshot.read("capitals").text("")
    with _refused(errors.TextError, "there is no query", "prompt capitals"):
        fewshot.texts(dataclasses.replace(fewshot.read("capitals"), published=()), [])


# --- answers -----------------------------------------------------------------------------------------------------------------------------


def test_each_sample_is_the_stream_of_its_seed_whatever_is_beside_it(tang: refimpl.Model) -> None:
    prompt, queries = fewshot.read("common_sense"), ["中国", "大唐"]
    found = list(fewshot.complete(tang, prompt, queries, samples=2, seed=5, max_new_tokens=6, temperature=1.5))
    assert [len(answers) for answers in found] == [2, 2]
    for query, answers in zip(queries, found, strict=True):
        for number, answer in enumerate(answers):
            options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.5, "top_p": 0.95, "seed": 5 + number}
            assert answer.text == "".join(tang.stream(prompt.text(query), stop_text="\n", **options))
            assert answer.ended == (
                "text" if len(answer.ids) < 6 or "\n" in tang.tokenizer.decode(answer.ids) else "length"
            )
    apart = list(fewshot.complete(tang, prompt, queries, samples=2, seed=5, rows=1, max_new_tokens=6, temperature=1.5))
    assert apart == found


def test_the_options_of_the_prompt_hold_where_no_others_are_given(tang: refimpl.Model, monkeypatch: Any) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(tang, "continuations", lambda texts, **options: asked.append(options) or [])
    prompt = fewshot.read("capitals")
    prompt = dataclasses.replace(prompt, options={"max_new_tokens": 3, "top_p": 0.5}, stop=("。",))
    list(fewshot.complete(tang, prompt))
    list(fewshot.complete(tang, prompt, temperature=0.0, top_p=0.9, max_new_tokens=None))
    assert [asked[0].get(name) for name in ("max_new_tokens", "top_p", "temperature")] == [3, 0.5, None]
    assert [asked[1].get(name) for name in ("max_new_tokens", "top_p", "temperature")] == [3, 0.9, 0.0]
    assert asked[1]["stop_text"] == ("。",)


def test_beams_of_a_prompt_are_those_of_the_model(tang: refimpl.Model) -> None:
    prompt = dataclasses.replace(fewshot.read("capitals"), stop=("，", "。"))
    found = fewshot.search(tang, prompt, "法国", beams=2, max_new_tokens=9, length_penalty=0.5)
    expected = tang.beam_search(
        prompt.text("法国"), beams=2, max_new_tokens=9, length_penalty=0.5, stop_text=["，", "。"]
    )
    assert [score for _, score in found] == [each.score for each in expected]
    for (answer, _), each in zip(found, expected, strict=True):
        assert answer.ids == [token for token in each.ids if token != tang.config.eos_token_id]
        assert answer.text == re.split("[，。]", tang.tokenizer.decode(each.ids))[0]


@pytest.mark.parametrize("name", ["samples", "rows"])
def test_counts_out_of_range_are_refused(name: str, tang: refimpl.Model) -> None:
    with _refused(errors.ConfigError, f"{name} must be a whole number from 1", "fewshot.complete", "got:      0"):
        next(fewshot.complete(tang, fewshot.read("capitals"), **{name: 0}))


def _random_sample_probabilities(p: Any, topk: int | None, topp: float | None) -> Any:
    """What bert4keras' random_sample draws from, one row: exactly k tokens, then the fewest whose mass reaches p, each renormalized."""
    kept = np.arange(len(p)) if topk is None else np.argsort(p)[-topk:]
    q = p[kept] / p[kept].sum()
    order = np.argsort(q)[::-1]
    if topp is not None:
        order = order[: int(np.argmax(np.cumsum(q[order]) >= topp)) + 1]
    out = np.zeros_like(p)
    out[kept[order]] = q[order] / q[order].sum()
    return out


@given(
    st.integers(0, 10_000),
    st.sampled_from([None, 1, 3, 7]),
    st.sampled_from([None, 0.3, 0.95]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_tokens_are_drawn_from_what_bert4keras_draws_from(seed: int, k: Any, p: Any, temperature: float) -> None:
    """The published example's decoding, where nothing is tied: the same distribution, from other random numbers."""
    logits = np.random.default_rng(seed).standard_normal(9)
    softmax = np.exp(logits) / np.exp(logits).sum()
    power = softmax ** (1 / temperature)
    expected = _random_sample_probabilities(power / power.sum(), k, p)
    found = decoding.sampling_probabilities(logits[None], temperature=temperature, top_k=k, top_p=p)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


# --- choices -----------------------------------------------------------------------------------------------------------------------------


def _by_definition(model: refimpl.Model, ids: list[int], first: int) -> float:
    """Σ log p of ids[first:], from the logits of the whole row."""
    z = np.asarray(model.logits([ids[:-1]]))[0].astype(np.float64)
    largest = z.max(-1, keepdims=True)
    log_p = z - largest - np.log(np.exp(z - largest).sum(-1, keepdims=True))
    return float(sum(log_p[place - 1, ids[place]] for place in range(first, len(ids))))


CHOICES = ["北京", "上海市", "北", "巴黎是法国的首都", "北京"]


@pytest.mark.parametrize("dialect", ["openai", "cpm", "bert4keras"])
@pytest.mark.parametrize("decoder", ["definition", "session", "stepwise"])
def test_choices_have_the_log_probability_of_the_definition(
    dialect: str, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is read once, padded, by the definition, by a session, and by a decoder that reads one token at a time: float64, 1e-12."""
    model, prompt = _tiny(dialect=dialect), "中国的首都是"
    if decoder == "session":
        model.make_decoder = Session
    if decoder == "stepwise":
        monkeypatch.delattr(gpt2.CachedDecoder, "read")
    for end in ("", "\n"):
        found = fewshot.choose(model, prompt, CHOICES, end=end)
        for choice, each, score in zip(CHOICES, found.choices, found.scores, strict=True):
            start, answer = model.prompt_ids(prompt), model.tokenizer.encode(choice + end)
            expected = _by_definition(model, start + answer, len(start))
            assert math.isclose(score, expected, rel_tol=1e-12)
            assert (each.text, each.ids, each.log_probability) == (choice, answer, score)
            assert math.isclose(each.mean, score / len(answer), rel_tol=1e-15)
        assert found.scores[0] == found.scores[4]
        assert [found.scores[index] for index in found.order] == sorted(found.scores, reverse=True)
        assert found.order.index(0) + 1 == found.order.index(4)  # equals in the order in which they are given


def test_no_rows_have_no_log_probabilities() -> None:
    assert log_probabilities(_tiny(), []) == []


def test_choices_in_float32_differ_by_what_rounding_allows() -> None:
    """Each way is within one sampled budget b of the true logits, so each log p within b_t + max b of the true one: 4 max b between them."""
    single, prompt = _tiny("float32"), "中国的首都是"
    arrays = {name: np.asarray(a) for name, a in single.weights.named().items()}
    found = fewshot.choose(single, prompt, CHOICES[1:3])
    for choice, score in zip(CHOICES[1:3], found.scores, strict=True):
        start = single.prompt_ids(prompt)
        ids = start + single.tokenizer.encode(choice)
        budget = components.unit_budget(single.config, arrays, [ids[:-1]])[0].max(-1) * tolerance.roundoff("float32")
        allowed = 4 * budget[len(start) - 1 :].sum()
        assert abs(score - _by_definition(single, ids, len(start))) <= allowed
        assert allowed < 1e-3


@pytest.mark.parametrize("make", ["tang", "arithmetic"])
def test_choices_on_the_embedded_model_and_in_another_arithmetic(make: str, tang: refimpl.Model) -> None:
    model = tang if make == "tang" else tang.with_arithmetic("exact")
    found = fewshot.choose(model, "床前明月", ["光，", "夜"], normalize="mean")
    for choice, score in zip(["光，", "夜"], found.scores, strict=True):
        start, answer = model.prompt_ids("床前明月"), model.tokenizer.encode(choice)
        assert math.isclose(score, _by_definition(tang, start + answer, len(start)) / len(answer), rel_tol=1e-12)
    assert (found.best, found.ties) == (found.choices[int(np.argmax(found.scores))], [int(np.argmax(found.scores))])


def test_the_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[tuple[str, int]] = []
    for name in ("start", "read", "advance"):
        original = getattr(gpt2.CachedDecoder, name)

        def counted(self: Any, ids: Any, *rest: Any, name: str = name, original: Any = original) -> Any:
            counts.append((name, sum(map(len, ids))))
            return original(self, ids, *rest)

        monkeypatch.setattr(gpt2.CachedDecoder, name, counted)
    fewshot.choose(_tiny(), "中国的首都是", CHOICES)
    assert counts == [
        ("start", 6),
        ("read", 3 * 7),
    ]  # of one token nothing more is read, of equal choices one, of eight tokens seven
    counts.clear()
    monkeypatch.setattr(fewshot_scores, "POSITIONS", 20)
    fewshot.choose(_tiny(), "中国的首都是", CHOICES)
    assert counts == [("start", 6), ("read", 2 * 2), ("read", 7)]  # 8 and 9 ids side by side, 14 apart


class Merging:
    """Character 'a' is 1, 'b' is 2, and 'ab' is 3, so that a text's tokens may reach across a cut."""

    def encode(self, text: str) -> list[int]:
        return [{"a": 1, "b": 2, "ab": 3}[part] for part in re.findall("ab|a|b", text)]

    def decode(self, ids: Any) -> str:
        return "".join(["", "a", "b", "ab"][token] for token in ids)


def test_tokens_across_the_boundary_are_made_only_where_that_is_asked_for() -> None:
    model = _tiny(vocabulary=11)
    model.tokenizer = Merging()
    apart = fewshot.choose(model, "ba", ["b", "a"])  # as CPM's scripts: [2, 1] + [2], [2, 1] + [1]
    assert [each.ids for each in apart.choices] == [[2], [1]]
    joint = fewshot.choose(model, "ba", ["b", "a"], boundary="joint")  # [2, 3], [2, 1, 1]: both from where one differs
    assert [each.ids for each in joint.choices] == [[3], [1, 1]]
    for found, ids in zip(joint.scores, ([2, 3], [2, 1, 1]), strict=True):
        assert math.isclose(found, _by_definition(model, ids, 1), rel_tol=1e-12)
    for found, ids in zip(apart.scores, ([2, 1, 2], [2, 1, 1]), strict=True):
        assert math.isclose(found, _by_definition(model, ids, 2), rel_tol=1e-12)


def test_choices_that_make_no_sense_are_refused() -> None:
    model = _tiny()
    for options, words in (
        ({"normalize": "max"}, ("unknown normalize", "'sum' or 'mean'", "'max'")),
        ({"boundary": "any"}, ("unknown boundary", "'separate' or 'joint'", "'any'")),
    ):
        with _refused(errors.ConfigError, *words):
            fewshot.choose(model, "a", ["b"], **options)
    with _refused(errors.TextError, "nothing to choose from", "at least one choice"):
        fewshot.choose(model, "a", [])
    with _refused(errors.TextError, "no token of its own", "choices[1] = ''"):
        fewshot.choose(model, "a", ["b", ""])
    with _refused(errors.TokenError, "nothing precedes the first token", "bos_token_id"):
        fewshot.choose(model, "", ["b"])
    with _refused(errors.TokenError, "past the position table", "row 1", "n_positions = 48", "50 tokens", "positions="):
        fewshot.choose(model, "a", ["b", "b" * 49])
    assert len(fewshot.choose(model, "a", ["b" * 48]).choices[0].ids) == 48  # the last token is not read
    model.weights.token_embedding[20, 0] = np.nan
    with _refused(errors.TokenError, "log-probabilities are not numbers", "weights for NaN"):
        fewshot.choose(model, "a", ["b"])


# --- classification ------------------------------------------------------------------------------------------------------------------------


def _answers() -> dict[str, Any]:
    return dict(weights_io.open(RECORDED / "cpm_zero_shot" / "answers.safetensors"))


def test_the_recorded_files_are_those_of_the_provenance() -> None:
    folder = RECORDED / "cpm_zero_shot"
    hashes = json.loads((folder / "provenance.json").read_text("utf-8"))["sha256"]
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*") if path.name != "provenance.json"
    }
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == hashes


@pytest.mark.parametrize("task", ["tnews", "iflytek"])
@pytest.mark.parametrize(("which", "candidates"), [("sampled", 4), ("all", None)])
def test_losses_and_candidates_are_those_of_cpms_own_script(
    task: str, which: str, candidates: int | None, cpm: refimpl.Model
) -> None:
    """The script draws with Python's generator and its seed: its four candidates are ours, in its order."""
    folder, answers = RECORDED / "cpm_zero_shot" / task, _answers()
    named = fewshot_classify.with_labels(fewshot_classify.read_task(task), folder / "labels.json")
    found = list(
        fewshot_classify.classify(cpm, named, fewshot_classify.examples(folder / "dev.json"), candidates=candidates)
    )
    np.testing.assert_allclose(
        np.concatenate([each.losses for each in found]), answers[f"{task}_{which}_losses"], rtol=1e-13
    )
    right, total = answers[f"{task}_{which}_printed"].tolist()
    assert (sum(each.correct is True for each in found), len(found)) == (right, total)
    rows = answers[f"{task}_{which}_tokens"].reshape(len(found), -1, 32)
    masks = answers[f"{task}_{which}_masks"].reshape(len(found), -1, 31)
    for example, each, theirs, mask in zip(
        fewshot_classify.examples(folder / "dev.json"), found, rows, masks, strict=True
    ):
        assert each.tokens == mask[0].sum()
        for label, row in zip(each.candidates, theirs, strict=True):
            prompt = cpm.prompt_ids(named.prompt(example, label.name))
            assert row[: len(prompt)].tolist() == prompt
    truths = [each.candidates.index(each.truth) for each in found]
    assert truths == answers[f"{task}_{which}_labels"].tolist()


def test_inference_between_sentences_is_that_of_cpms_own_script(cpm: refimpl.Model) -> None:
    answers = _answers()
    given = list(fewshot_classify.examples(RECORDED / "cpm_zero_shot" / "ocnli" / "dev.json"))
    found = list(fewshot_classify.classify(cpm, fewshot_classify.read_task("ocnli"), given))
    np.testing.assert_allclose([each.losses for each in found], answers["ocnli_losses"], rtol=1e-13)
    assert [each.candidates.index(each.truth) for each in found] == answers["ocnli_labels"].tolist()
    assert [sum(each.correct is True for each in found), len(found)] == answers["ocnli_printed"].tolist()
    assert len(given) - len(found) == 2  # without a label that annotators agreed on


def _script_losses(model: refimpl.Model, prompt: list[int], text: list[int], length: int) -> float:
    """The script's arithmetic in NumPy: a padded row, cross-entropy of every next token, the mean under its mask."""
    tokens, mask = prompt + text, [0.0] * (length - 1)
    for place in range(len(prompt) - 1, len(tokens) - 1):
        mask[place] = 1.0
    tokens = tokens + [5] * (length - len(tokens))
    z = np.asarray(gpt2.logits(model.weights, model.config, [tokens], dialect=model.dialect))[0, :-1]
    z = z - z.max(-1, keepdims=True)
    losses = np.log(np.exp(z).sum(-1)) - z[np.arange(length - 1), tokens[1:]]
    return float((losses * mask).sum() / np.sum(mask))


def test_losses_are_the_scripts_arithmetic_on_another_model() -> None:
    model, task = _tiny(dialect="cpm"), fewshot_classify.read_task("tnews")
    example = {"label": 108, "sentence": "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少" * 2}
    (found,) = fewshot_classify.classify(model, task, [example], names="chinese")
    assert len(found.losses) == 15
    assert found.tokens == 48 - 20
    text = model.tokenizer.encode(example["sentence"])[: 48 - 20]
    for label, loss in zip(found.candidates, found.losses, strict=True):
        expected = _script_losses(model, model.tokenizer.encode(f"这是关于{label.chinese}的文章："), text, 48)
        assert math.isclose(loss, expected, rel_tol=1e-12)
    assert found.predicted == found.candidates[int(np.argmin(found.losses))]
    assert (found.truth.value, found.tied) == ("108", False)


def test_labels_that_look_alike_to_the_model_are_tied_and_the_first_is_predicted() -> None:
    class Blind(Modulo):
        def encode(self, text: str) -> list[int]:
            return [20 if "a" <= character <= "z" else 10 + ord(character) % 54 for character in text]

    model, task = _tiny(), fewshot_classify.read_task("tnews")
    model.tokenizer = Blind()
    story, stock, tech = (
        next(each for each in task.labels if each.name == f"news_{n}") for n in ("story", "stock", "tech")
    )
    ((one, _), (two, _), (other, _)) = fewshot_classify.losses(model, task, {"sentence": "春"}, [story, stock, tech])
    assert one == two != other
    found = fewshot_classify.Prediction(stock, story, [story, stock], [one, two], 1)
    assert (found.tied, found.correct) == (True, False)


def test_the_names_are_those_of_clue() -> None:
    tnews, iflytek = fewshot_classify.read_task("tnews"), fewshot_classify.read_task("iflytek")
    assert [task.name for task in fewshot_classify.tasks()] == ["iflytek", "ocnli", "tnews"]
    assert [label.value for label in tnews.labels] == [str(n) for n in range(100, 117) if n not in (105, 111)]
    assert all(label.name.startswith("news_") and label.chinese for label in tnews.labels)
    assert [label.value for label in iflytek.labels] == [str(n) for n in range(119)]
    assert (iflytek.labels[61].name, len({label.name for label in iflytek.labels})) == ("语言(非英语)", 119)
    assert iflytek.truth({"label": "61", "label_des": "语言(非英语)"}) == iflytek.labels[61]


@pytest.mark.parametrize(
    ("example", "options", "words"),
    [
        ({"sentence": "春", "label": "999"}, {}, ("unknown label", "task tnews", "100, 101", "999")),
        ({"text": "春"}, {}, ("no such text", "task tnews", "'sentence'", "the fields text")),
        ({"sentence": ""}, {}, ("no such text", "sentence = ''")),
        ({"sentence": "春"}, {"candidates": 4}, ("is to be a candidate", "task tnews", "leave out candidates")),
        ({"sentence": "春"}, {"candidates": 16}, ("candidates must be", "2 <= candidates <= 15", "16")),
        ({"sentence": "春"}, {"names": "latin"}, ("unknown names", "'name' or 'chinese'", "'latin'")),
        ({"sentence": "春"}, {"length": 12}, ("does not fit", "fewer than 12 tokens", "of the prompt")),
    ],
)
def test_examples_and_options_that_make_no_sense_are_refused(example: Any, options: Any, words: Any) -> None:
    with _refused(errors.RefimplError, *words):
        list(fewshot_classify.classify(_tiny(), fewshot_classify.read_task("tnews"), [example], **options))
    nameless = {"sentence": "春", "label": ""}  # as the Chinese names of IFLYTEK's labels, which have none
    with _refused(errors.TextError, "unknown label", "task iflytek"):
        fewshot_classify.read_task("iflytek").truth(nameless)
    with _refused(errors.ConfigError, "the task has no such names", "task ocnli"):
        next(fewshot_classify.classify(_tiny(), fewshot_classify.read_task("ocnli"), [], names="chinese"))


def test_files_of_tasks_labels_and_examples_are_checked(tmp_path: Path) -> None:
    task = (fewshot.PROMPTS / "zero_shot" / "ocnli.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    for old, new, words in (
        ("{label}", "label", ("does not name the label", "mine.toml", "{label} once")),
        ('{ value = "neutral", name = "也许" }', '{ value = "neutral" }', ("not a label", "value and name")),
        ('value = "neutral"', 'value = "entailment"', ("labels that differ", "mine.toml, labels", "two or more")),
        ('otherwise = "neutral"', 'otherwise = "none"', ("unknown label", "otherwise", "'none'"[1:-1])),
        ("label_fields", "fields", ("the file's fields", "without label_fields", "unknown fields")),
    ):
        path.write_text(task.replace(old, new), "utf-8")
        with _refused(errors.ConfigError, *words):
            fewshot_classify.read_task(path)
    with _refused(errors.ConfigError, "no such task", "iflytek, ocnli, tnews", "nowhere"):
        fewshot_classify.read_task("nowhere")
    lines = tmp_path / "lines.json"
    lines.write_text('{"label": "1", "label_des": "x"}\n\n[1]\n', "utf-8")
    assert next(fewshot_classify.examples(lines)) == {"label": "1", "label_des": "x"}
    with _refused(errors.TextError, "no JSON object", "lines.json, line 3", "list"):
        list(fewshot_classify.examples(lines))
    lines.write_text('{"label": "1"}\n', "utf-8")
    with _refused(errors.TextError, "not a line of a labels.json", "line 1", "label_desc or label_des"):
        fewshot_classify.with_labels(fewshot_classify.read_task("tnews"), lines)
    for values in ([], ["1"], ["1", "1"]):
        lines.write_text("".join(f'{{"label": "{value}", "label_des": "x"}}\n' for value in values), "utf-8")
        with _refused(errors.ConfigError, "labels that differ", "lines.json", "two or more"):
            fewshot_classify.with_labels(fewshot_classify.read_task("tnews"), lines)
    lines.write_text('{"label": "1", "label_des": "x"}\n{"label": "2", "label_des": "y"}\n', "utf-8")
    with _refused(errors.ConfigError, "a label is missing", "lines.json", "neutral", "ocnli"):
        fewshot_classify.with_labels(fewshot_classify.read_task("ocnli"), lines)
    with _refused(errors.TextError, "the file cannot be read", "missing.json", "FileNotFoundError"):
        list(fewshot_classify.examples(tmp_path / "missing.json"))
    lines.write_bytes(b'{"sentence": "\xff"}\n')
    with _refused(errors.TextError, "the file cannot be read", "lines.json", "UnicodeDecodeError"):
        list(fewshot_classify.examples(lines))


# --- the commands -----------------------------------------------------------------------------------------------------------------------------


def _invoke(*arguments: Any, text: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, ["fewshot", *map(str, arguments)], input=text, env=PLAIN)


def test_list_and_show() -> None:
    listed = _invoke("list").stdout
    assert all(name in listed for name in [*PUBLISHED, "tnews", "iflytek", "ocnli"])
    names = {(each["kind"], each["name"]) for each in json.loads(_invoke("list", "--json").stdout)}
    assert names == {("prompt", name) for name in PUBLISHED} | {
        ("task", name) for name in ("tnews", "iflytek", "ocnli")
    }
    shown = _invoke("show", "word_translation").stdout
    assert all(
        part in shown for part in ("狗 dog\n猫 cat\n猪 pig\n{query} \n", "鸟 -> bird", r"stop:    '\n'", "top_p = 0.95")
    )
    prompt = json.loads(_invoke("show", "word_translation", "--json").stdout)
    assert prompt["published"] == [{"query": "鸟", "answer": "bird"}]


def test_run_answers_queries_of_arguments_files_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("法国\n\n大唐\n", "utf-8")
    common: tuple[Any, ...] = ("run", "common_sense", "--greedy", "--max-new-tokens", 4, "--dtype", "float64", "--json")
    found = json.loads(_invoke(*common, "中国", "--queries", tmp_path / "queries.txt").stdout)
    model, prompt = refimpl.load("tang", backend="numpy", dtype="float64"), fewshot.read("common_sense")
    assert [each["query"] for each in found["queries"]] == ["中国", "法国", "大唐"]
    assert found["queries"][0]["published"] == "北京"
    for each in found["queries"]:
        text = prompt.text(each["query"])
        expected = model.generate(text, temperature=0, max_new_tokens=4, stop_text="\n").removeprefix(text)
        assert each["answers"][0]["text"] == expected
    table = _invoke(*common[:-1], "--queries", "-", text="大唐\n").stdout
    assert table.split("\n")[1].split()[0] == "大唐"


def test_run_searches_samples_and_scores() -> None:
    found = json.loads(_invoke("run", "capitals", "--beams", 2, "--max-new-tokens", 2, "--json").stdout)
    scores = [answer["score"] for answer in found["queries"][0]["answers"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    command = (
        "run",
        "capitals",
        "法国",
        "--choice",
        "北京",
        "--choice",
        "巴黎",
        "--mean",
        "--dtype",
        "float64",
        "--json",
    )
    answers = json.loads(_invoke(*command).stdout)["queries"][0]["answers"]
    model = refimpl.load("tang", backend="numpy", dtype="float64")
    expected = fewshot.choose(
        model, fewshot.read("capitals").text("法国"), ["北京", "巴黎"], normalize="mean", end="\n"
    )
    assert [answer["score"] for answer in answers] == [expected.scores[index] for index in expected.order]
    shown = _invoke("run", "capitals", "--samples", 3, "--max-new-tokens", 2, "--low-memory", "--positions", 140).stdout
    assert len(shown.rstrip("\n").split("\n")) == 1 + 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--greedy", "--beams", 2), ("contradict each other", "--beams, --greedy")),
        (("--choice", "a", "--temperature", 1), ("contradict each other", "--choice, --temperature")),
        (("--samples", 2, "--greedy"), ("only sampling has several samples", "2 with --greedy", "leave out --samples")),
        (("--transport", "nccl"), ("nobody to exchange with", "--parallel")),
        (("--parallel", "--positions", 200), ("keeps its position table", "--positions", "200")),
        (("--queries", "nowhere.txt"), ("the file cannot be read", "nowhere.txt")),
        (("--model", "nowhere"), ("no such model", "nowhere")),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: Any, words: Any) -> None:
    result = _invoke("run", "capitals", *arguments)
    assert isinstance(result.exception, errors.RefimplError)
    assert re.search("(.|\n)*".join(map(re.escape, words)), str(result.exception))


def test_classify_prints_predictions_as_they_come_and_the_accuracy(tmp_path: Path) -> None:
    data = tmp_path / "dev.json"
    lines = [
        {"label": "108", "sentence": "春眠不觉晓"},
        {"label": 101, "sentence": "处处闻啼鸟"},
        {"sentence": "夜来风雨声"},
    ]
    data.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    *found, summary = map(json.loads, _invoke("classify", "tnews", data, "--chinese", "--json").stdout.splitlines())
    assert [each["label"] for each in found] == ["108", "101", None]
    assert all(each["predicted"] == min(each["losses"], key=each["losses"].get) for each in found)
    right = sum(each["predicted"] == each["label"] for each in found)
    assert summary == {
        "task": "tnews",
        "examples": 3,
        "labelled": 2,
        "correct": right,
        "ties": 0,
        "accuracy": right / 2,
    }
    told = _invoke("classify", "tnews", "-", "--chinese", text=json.dumps(lines[2])).stdout
    assert re.fullmatch(r"1  \d+ news_\w+  loss \d+\.\d{4}\n1 examples, none with a label\n", told)
    labels = tmp_path / "labels.json"
    labels.write_text("".join(f'{{"label": "{n}", "label_desc": "{n}"}}\n' for n in range(100, 110)), "utf-8")
    sampled = _invoke("classify", "tnews", data, "--labels", labels, "--candidates", 4)
    assert "leave out candidates" in str(sampled.exception)  # the third has no label
    assert [line[:2] for line in sampled.stdout.splitlines()] == ["1 ", "2 "]  # the first two were told before


def test_stop_texts_of_prompts_are_looked_for_in_the_answer_alone(tang: refimpl.Model) -> None:
    """The prompt has newlines; the answer of greedy decoding is what comes before its own first."""
    prompt = fewshot.read("capitals")
    ((answer,),) = fewshot.complete(tang, prompt, ["大唐"], max_new_tokens=40, temperature=0)
    whole = tang.generate(prompt.text("大唐"), temperature=0, max_new_tokens=40).removeprefix(prompt.text("大唐"))
    assert answer.text == StopText("\n").cut(whole).text
    assert answer.text


# --- CPM-LM's own tokenizer, on random weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared: Any) -> refimpl.Model:
    """The published vocabulary on a random GPT-2 of the recorded width, whose final norm leans towards the newline's row."""
    for library in ("sentencepiece", "jieba"):
        pytest.importorskip(library)
    cpm_text = pytest.importorskip("refimpl.text.cpm", reason="the tokenizer of CPM-LM is not here")
    tokenizer = cpm_text.CPMTokenizer(shared("../data/cpm"))
    config = gpt2.GPT2Config(vocab_size=30000, n_positions=512, n_embd=24, n_layer=2, n_head=4)
    arrays = models.random_arrays(config)
    row = arrays["token_embedding"][tokenizer.newline_id]
    row *= 5 / np.linalg.norm(row)
    arrays["final_norm.bias"] += 0.55 * row
    weights = gpt2.GPT2Weights.from_named({name: a.astype(np.float32) for name, a in arrays.items()}, config)
    return refimpl.Model(weights, config, NUMPY_BACKEND, tokenizer, dialect="cpm")


def test_published_prompts_stop_at_the_newline_of_cpms_vocabulary(real: refimpl.Model) -> None:
    """Only one piece holds its newline: stopping at the text is stopping at that id, as the published example does, but for the id itself."""
    newline, ended = real.tokenizer.newline_id, set()
    prompt = fewshot.read("word_translation")
    for number, answer in enumerate(next(fewshot.complete(real, prompt, samples=4, seed=1))):
        (by_id,) = real.continuations([prompt.text("鸟")], stop=[newline], seed=1 + number, **prompt.options)
        assert (answer.text, answer.ended == "text") == (by_id.text, by_id.ended == "token")
        assert "\n" not in answer.text
        assert answer.ids == [*by_id.ids, *([newline] if answer.ended == "text" else [])]
        ended.add((answer.ended, len(answer.ids)))
    assert len({count for how, count in ended if how == "text"}) > 1


def test_choices_in_cpms_vocabulary_are_encoded_apart(real: refimpl.Model) -> None:
    prompt, choices = "中国的首", ["都是北京", "都是上海"]  # a word across the boundary
    apart, joint = (fewshot.choose(real, prompt, choices, boundary=each) for each in ("separate", "joint"))
    encode = real.tokenizer.encode
    assert [each.ids for each in apart.choices] == [encode(choice) for choice in choices]
    assert encode(prompt) + encode(choices[0]) != encode(prompt + choices[0])
    whole = [encode(prompt + choice) for choice in choices]
    assert [each.ids for each in joint.choices] == [
        ids[-len(each.ids) :] for ids, each in zip(whole, joint.choices, strict=True)
    ]
