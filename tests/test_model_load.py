"""`refimpl.load` and the Model it gives: folders, files, shards, dtypes, defaults; scoring and windows; streaming text."""

from __future__ import annotations

import json
import math
import re
import shutil
from typing import TYPE_CHECKING, Any

import models
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import refimpl
import weights_io
from refimpl import decoding, errors, gpt2
from refimpl import model as module
from refimpl.softmax import log_softmax
from refimpl.text import open_tokenizer
from weights_io.schemes import SCHEMES, from_canonical

if TYPE_CHECKING:
    from pathlib import Path

CHARACTERS = ["<unk>", "<s>", "</s>", *"春眠不觉晓，处闻啼鸟。夜来风雨声花落知多少\nabcdefgh"]
VOCABULARY = {token: i for i, token in enumerate(CHARACTERS)}
POSITIONS = 12
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": len(CHARACTERS),
    "n_positions": POSITIONS,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _hugging_face(config: dict[str, Any], seed: int = 3) -> dict[str, Any]:
    """Random float32 weights under Hugging Face's names."""
    sizes = {key: config[key] for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    ours = gpt2.GPT2Config(**sizes, tie_word_embeddings=config.get("tie_word_embeddings", True))
    arrays = {name: array.astype(np.float32) for name, array in models.random_arrays(ours, seed).items()}
    return {name: array.copy() for name, array in from_canonical(arrays, SCHEMES["hugging-face-gpt2"]).items()}


def _tokenizer() -> dict[str, Any]:
    special = [{"id": i, "content": CHARACTERS[i], "special": True} for i in range(3)]
    splitter = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<unk>"}
    return {"added_tokens": special, "normalizer": None, "pre_tokenizer": splitter, "model": model}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """make(config changes) -> a folder with config.json, model.safetensors and a character tokenizer."""

    def build(changes: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> Path:
        config = CONFIG | (changes or {})
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "tokenizer.json").write_text(json.dumps(_tokenizer()))
        weights_io.save(
            tmp_path / "model.safetensors", _hugging_face(CONFIG | (changes or {})) if tensors is None else tensors
        )
        return tmp_path

    return build


def _load(path: Any, **options: Any) -> refimpl.Model:
    return refimpl.load(path, backend="numpy", **options)


# --- opening ----------------------------------------------------------------------------------------------------------------


def test_folder_file_and_shards_give_the_same_logits(recorded_folder: Any, recorded: Any) -> None:
    ids = recorded("gpt2_tiny")["ids"]
    whole, shards = recorded_folder("gpt2_tiny"), recorded_folder("gpt2_tiny_sharded")
    paths = [whole, str(whole), whole / "model.safetensors", shards, shards / "model.safetensors.index.json"]
    answers = [_load(path, dtype="float64").logits(ids) for path in paths]
    assert all(np.array_equal(answers[0], other) for other in answers[1:])
    expected = recorded("gpt2_tiny")["logits"]
    assert np.max(np.abs(answers[0] - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_an_untied_head_is_read(recorded_folder: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny_untied")
    model = _load(recorded_folder("gpt2_tiny_untied"), dtype="float64")
    assert np.max(np.abs(model.logits(answers["ids"]) - answers["logits"])) <= 1e-12 * np.max(np.abs(answers["logits"]))
    real = answers["left_mask"] == 1
    padded = model.logits(answers["left_ids"], mask=answers["left_mask"])
    difference = np.abs(padded - answers["left_logits"])[real]
    assert np.max(difference) <= 1e-12 * np.max(np.abs(answers["left_logits"][real]))


@pytest.mark.parametrize("dtype", [None, "float16", "float32", "float64"])
def test_weights_and_logits_have_the_dtype_asked_for(dtype: Any, make: Any) -> None:
    model = _load(make(), dtype=dtype)
    expected = dtype or "float32"
    assert {str(array.dtype) for array in model.weights.named().values()} == {expected}
    assert model.logits([[1, 2, 3]]).dtype == expected
    assert expected in repr(model)
    assert "backend numpy" in repr(model)
    count = sum(math.prod(array.shape) for array in _hugging_face(CONFIG).values())
    assert f"{count:,} parameters" in repr(model)


def test_names_with_and_without_the_prefix_are_read_and_buffers_left_out(make: Any) -> None:
    plain = _hugging_face(CONFIG)
    expected = _load(make()).logits([[3, 4, 5]])
    bare = {name.removeprefix("transformer."): array for name, array in plain.items()}
    buffers = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.1.attn.masked_bias": np.array(-1e4, np.float32)}
    assert np.array_equal(_load(make(tensors=bare | buffers)).logits([[3, 4, 5]]), expected)
    with _refused(errors.ConfigError, "two tensors claim one parameter", "token_embedding", "wte.weight"):
        _load(make(tensors=plain | {"wte.weight": plain["transformer.wte.weight"]}))


def test_a_tied_head_may_be_repeated_in_the_file_but_not_differ(make: Any) -> None:
    plain = _hugging_face(CONFIG)
    table = plain["transformer.wte.weight"]
    expected = _load(make()).logits([[3, 4, 5]])
    assert np.array_equal(_load(make(tensors=plain | {"lm_head.weight": table})).logits([[3, 4, 5]]), expected)
    other = table.copy()
    other[0, 0] += 1
    for head in (other, table[:-1]):
        with _refused(
            errors.ConfigError,
            "says the head is tied",
            "no lm_head.weight, or one equal",
            "differs",
            '"tie_word_embeddings": false',
        ):
            _load(make(tensors=plain | {"lm_head.weight": head}))
    untied = _load(make({"tie_word_embeddings": False}, plain | {"lm_head.weight": other}))
    assert not np.array_equal(untied.logits([[3, 4, 5]]), expected)
    with _refused(errors.ConfigError, "missing: output_embedding"):
        _load(make({"tie_word_embeddings": False}, plain))


def test_every_problem_of_a_file_is_listed_at_once_under_its_own_names(make: Any) -> None:
    tensors = _hugging_face(CONFIG)
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    tensors["transformer.h.2.ln_1.bias"] = np.ones(8, np.float32)
    tensors["score.weight"] = np.ones((2, 2), np.float32)
    tensors["transformer.wpe.weight"] = np.ones((POSITIONS + 1, 8), np.float32)
    tensors["transformer.ln_f.weight"][2] = np.nan
    with pytest.raises(errors.ConfigError) as caught:
        _load(make(tensors=tensors))
    for line in (
        "(5 problems)",
        "missing: blocks.1.feed_forward_in.bias (32,)",
        "unexpected: transformer.h.2.ln_1.bias (blocks.2.attention_norm.bias) (8,)",
        "unexpected: score.weight (score.weight) (2, 2)",
        f"wrong shape: transformer.wpe.weight (position_embedding) expected ({POSITIONS}, 8), got ({POSITIONS + 1}, 8)",
        "not finite: transformer.ln_f.weight (final_norm.scale)",
    ):
        assert line in str(caught.value)


CONFIGS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"model_type": "llama"}, ("not a GPT-2", 'model_type "gpt2"', "llama")),
    ({"activation_function": "relu"}, ("unknown activation_function", "gelu_new, gelu_pytorch_tanh, gelu", "relu")),
    ({"scale_attn_by_inverse_layer_idx": True}, ("not implemented", "scale_attn_by_inverse_layer_idx = True")),
    ({"scale_attn_weights": False}, ("not implemented", "scale_attn_weights = False")),
    ({"add_cross_attention": True}, ("not implemented", "add_cross_attention = True")),
    ({"n_head": 3}, ("does not divide", "n_embd = 8, n_head = 3")),
    ({"n_layer": 0}, ("not a positive whole number", "n_layer = 0")),
]


@pytest.mark.parametrize(("changes", "words"), CONFIGS)
def test_configurations_that_are_not_implemented_are_refused(changes: dict[str, Any], words: Any, make: Any) -> None:
    folder = make()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    with _refused(errors.ConfigError, *words):
        _load(folder)


def test_a_configuration_that_lacks_sizes_names_them_and_one_that_is_no_json_is_refused(make: Any) -> None:
    folder = make()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8, "n_head": 2}))
    with _refused(
        errors.ConfigError,
        "lacks sizes",
        "config.json",
        "vocab_size, n_positions",
        "without vocab_size, n_positions, n_layer",
    ):
        _load(folder)
    (folder / "config.json").write_text("{")
    with _refused(errors.ConfigError, "config.json cannot be read", "JSONDecodeError"):
        _load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", json.dumps(CONFIG | {"activation_function": []})),
        ("config.json", json.dumps(CONFIG | {"layer_norm_epsilon": "1e-5"})),
        ("config.json", json.dumps(CONFIG | {"eos_token_id": "x"})),
        ("config.json", json.dumps(CONFIG | {"bos_token_id": True})),
        pytest.param("config.json", "[" * 100_000, id="deep"),
        ("generation_config.json", "{"),
        ("generation_config.json", "[]"),
    ],
)
def test_damaged_configurations_are_config_errors(name: str, content: str, make: Any) -> None:
    folder = make()
    (folder / name).write_text(content)
    with pytest.raises(errors.ConfigError):
        _load(folder)


def test_activation_and_epsilon_of_the_configuration_are_used(make: Any) -> None:
    ids = [[3, 4, 5]]
    tanh = _load(make(), dtype="float64")
    assert (tanh.config.activation, tanh.config.layer_norm_epsilon) == ("tanh", 1e-5)
    erf = _load(make({"activation_function": "gelu"}), dtype="float64")
    assert erf.config.activation == "none"
    eps = _load(make({"layer_norm_epsilon": 1e-3}), dtype="float64")
    assert eps.config.layer_norm_epsilon == 1e-3
    answers = [model.logits(ids) for model in (tanh, erf, eps)]
    assert not np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])
    same = _load(make({"activation_function": "gelu_pytorch_tanh"}), dtype="float64")
    assert np.array_equal(same.logits(ids), answers[0])


def test_the_dialect_is_used(make: Any) -> None:
    folder, ids = make(), [[3, 0, 5]]
    plain = _load(folder).logits(ids)
    assert not np.array_equal(_load(folder, dialect="bert4keras").logits(ids), plain)
    assert not np.array_equal(_load(folder, dialect=gpt2.Dialect("none")).logits(ids), plain)
    assert np.array_equal(_load(folder, dialect="openai").logits(ids), plain)


def test_choices_that_do_not_exist_are_refused_in_words(make: Any, tmp_path: Path) -> None:
    folder = make()
    with _refused(
        errors.ConfigError, "unknown dtype", "refimpl.load(dtype=...)", "float16, float32, float64", "'bfloat16'"
    ):
        _load(folder, dtype="bfloat16")
    with _refused(
        errors.NotBuiltYetError, "architecture is not read yet", "refimpl.load(architecture=...)", "gpt2", "bert"
    ):
        _load(folder, architecture="bert")
    with _refused(errors.NotBuiltYetError, "position table is not built yet", "refimpl.load(positions=...)"):
        _load(folder, positions=2048)
    with _refused(errors.BackendError, "unknown backend", "numpy | cupy | auto", "'torch'"):
        refimpl.load(folder, backend="torch")
    with _refused(errors.ConfigError, "no such model", "refimpl.load(path)", "tang", str(tmp_path / "absent")):
        _load(tmp_path / "absent")
    assert _load(folder, architecture="gpt2").config.n_embd == 8


def test_an_unknown_dialect_is_refused_by_load(make: Any) -> None:
    with pytest.raises(errors.ConfigError):
        _load(make(), dialect="gpt3")


# --- defaults ---------------------------------------------------------------------------------------------------------------


def test_sampling_defaults_come_with_the_model_and_arguments_win(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    asked: list[dict[str, Any]] = []
    original = decoding.generate
    monkeypatch.setattr(decoding, "generate", lambda *a, **k: asked.append(k) or original(*a, **k))

    def options(**given: Any) -> tuple[Any, ...]:
        list(_load(folder).stream("春", max_new_tokens=1, **given))
        return tuple(asked[-1][name] for name in ("temperature", "top_k", "top_p"))

    assert options() == (1.0, None, None)
    generation = {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": None}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    assert options() == (0.5, 7, None)
    assert options(temperature=2.0, top_p=0.9) == (2.0, 7, 0.9)
    assert options(temperature=0) == (0, 7, None)
    _load(folder).generate_batch(["春"], max_new_tokens=1, top_k=3)
    assert (asked[-1]["temperature"], asked[-1]["top_k"]) == (0.5, 3)
    (folder / "generation_config.json").write_text(json.dumps(generation | {"do_sample": False}))
    assert options() == (1.0, None, None)


# --- text -------------------------------------------------------------------------------------------------------------------


def test_the_start_token_goes_before_a_prompt_if_there_is_one(make: Any) -> None:
    assert _load(make()).prompt_ids("春a") == [1, VOCABULARY["春"], VOCABULARY["a"]]
    folder = make({"bos_token_id": None})
    assert _load(folder).prompt_ids("春a") == [VOCABULARY["春"], VOCABULARY["a"]]
    with _refused(errors.TokenError, "the prompt is empty"):
        _load(folder).stream("")


def test_pieces_of_a_stream_join_to_what_generate_gives(make: Any) -> None:
    model = _load(make(), dtype="float64")
    for options in ({"seed": 1}, {"seed": 2, "top_k": 5}, {"temperature": 0}, {"seed": 3, "stop": []}):
        pieces = list(model.stream("春眠", **options))
        assert "春眠" + "".join(pieces) == model.generate("春眠", **options)
        assert len(pieces) <= POSITIONS - 3
    assert len(list(model.stream("春眠", seed=3, stop=[]))) <= POSITIONS - 3
    assert model.generate("春", seed=1) == model.generate("春", seed=1)
    assert len({model.generate("春", seed=seed) for seed in range(6)}) > 1


def test_a_stream_yields_before_the_next_token_is_computed_and_checks_at_the_call(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(make())
    steps: list[int] = []
    original = gpt2.CachedDecoder.advance
    monkeypatch.setattr(gpt2.CachedDecoder, "advance", lambda *a: steps.append(1) or original(*a))
    stream = model.stream("春", seed=1, stop=[])
    assert isinstance(next(stream), str)
    assert steps == []
    with _refused(errors.TokenError, "runs past the position table"):
        model.stream("春", max_new_tokens=POSITIONS)


def test_generation_ends_before_the_end_token_which_is_not_shown(make: Any) -> None:
    model = _load(make(), dtype="float64")
    first, second = (VOCABULARY[c] for c in model.generate("春", temperature=0, max_new_tokens=2, stop=[])[1:3])
    assert model.generate("春", temperature=0, stop=[second]) == "春" + CHARACTERS[first] * (first != second)
    assert model._stop(None) == [2]
    assert model._stop([5]) == [5]


def test_batches_agree_with_single_prompts_when_greedy(make: Any) -> None:
    model = _load(make(), dtype="float64")
    prompts = ["春", "眠不觉", "a\nb"]
    together = model.generate_batch(prompts, temperature=0, max_new_tokens=5)
    assert together == [model.generate(prompt, temperature=0, max_new_tokens=5) for prompt in prompts]
    assert all(answer.startswith(prompt) for answer, prompt in zip(together, prompts, strict=True))


def test_a_stop_token_is_left_out_of_the_text_of_a_batch_too(make: Any) -> None:
    """The second greedy token, an ordinary character, as the stop token: no tokenizer hides it."""
    model = _load(make(), dtype="float64")
    ids = [VOCABULARY[c] for c in model.generate("春", temperature=0, max_new_tokens=4, stop=[])[1:]]
    stop = next((token for token in ids if token != ids[0]), ids[0])
    expected = model.generate("春", temperature=0, stop=[stop])
    assert CHARACTERS[stop] not in expected[1:]
    assert model.generate_batch(["春"], temperature=0, stop=[stop]) == [expected]


def test_beam_search_is_that_of_decoding(make: Any) -> None:
    model = _load(make(), dtype="float64")
    found = model.beam_search("春", beams=3, max_new_tokens=4, length_penalty=0.5)
    decoder = gpt2.CachedDecoder(model.weights, model.config)
    expected = decoding.beam_search(
        decoder, [1, VOCABULARY["春"]], beams=3, max_new_tokens=4, length_penalty=0.5, stop=[2]
    )
    assert found == expected


def test_without_a_tokenizer_text_is_refused_and_ids_work(make: Any) -> None:
    folder = make()
    (folder / "tokenizer.json").unlink()
    model = _load(folder)
    assert model.logits([[1, 2]]).shape == (1, 2, len(CHARACTERS))
    for call in (model.generate, model.score, model.stream):
        with _refused(errors.TokenizerError, "came without a tokenizer", "tokenizer.json", "model.logits"):
            call("春")


class Bytes:
    """A tokenizer of UTF-8 bytes, as byte-level BPE is at its worst: one character is up to four tokens."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode(errors="replace")


def _pieces(tokens: list[int], tokenizer: Any, ends: frozenset[int] = frozenset()) -> list[str]:
    model = refimpl.Model.__new__(refimpl.Model)
    model.tokenizer = tokenizer
    return list(model._pieces(iter([[token] for token in tokens]), ends))


@given(st.text(max_size=12))
def test_pieces_are_whole_characters_and_join_to_the_text(written: str) -> None:
    pieces = _pieces(list(written.encode()), Bytes())
    assert "".join(pieces) == written
    assert all(piece == "\ufffd" or "\ufffd" not in piece for piece in pieces if "\ufffd" not in written)


def test_half_a_character_waits_for_the_rest_and_is_shown_at_the_end() -> None:
    whole = list("a晓".encode())
    assert _pieces(whole, Bytes()) == ["a", "晓"]
    assert _pieces(whole[:-1], Bytes()) == ["a", "\ufffd"]
    assert _pieces([*whole, 0, *whole], Bytes(), frozenset({0})) == ["a", "晓"]
    assert _pieces([], Bytes()) == []


def test_a_byte_level_library_tokenizer_streams_whole_characters(tmp_path: Path) -> None:
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(["ab"], vocab_size=256, show_progress=False)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path)
    ids = tokenizer.encode("春a眠")
    assert len(ids) == 7  # three bytes, one, three
    assert _pieces(ids, tokenizer) == ["春", "a", "眠"]


# --- scoring ----------------------------------------------------------------------------------------------------------------


def test_score_is_the_sum_of_log_softmax_by_hand(make: Any) -> None:
    model = _load(make(), dtype="float64")
    text = "春眠不x"
    ids = [1, *(VOCABULARY.get(c, 0) for c in text)]
    logarithms = log_softmax(gpt2.logits(model.weights, model.config, [ids]))
    expected = [float(logarithms[0, i, ids[i + 1]]) for i in range(len(ids) - 1)]
    score = model.score(text)
    assert score.tokens == 4
    assert score.unknown == 1
    # the last token is a target only, so the two passes have lengths 4 and 5 and may round differently: budget of the parity tests
    assert np.allclose(score.log_probabilities, expected, rtol=0, atol=1e-12 * float(np.max(np.abs(logarithms))))
    assert score.negative_log_likelihood == -math.fsum(score.log_probabilities)
    assert score.perplexity == math.exp(score.negative_log_likelihood / 4)
    ended = model.score(text, end=True)
    assert ended.tokens == 5
    assert np.allclose(ended.log_probabilities[4], float(logarithms[0, 4, 2]), rtol=0, atol=1e-12 * 10)


def test_score_without_a_start_token_leaves_out_the_first(make: Any) -> None:
    model = _load(make({"bos_token_id": None}), dtype="float64")
    assert model.score("春眠不").tokens == 2
    assert model.score("x春y").unknown == 1  # the first is not scored, so it is not counted
    for short in ("", "春"):
        with _refused(errors.TextError, "too short to score", "at least two tokens", f"got:      {len(short)}"):
            model.score(short)


def test_score_of_a_long_text_sees_half_a_table_of_context(make: Any) -> None:
    """Each token scored by hand, given exactly the context that its window has."""
    model = _load(make(), dtype="float64")
    text = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" * 2
    ids = model.prompt_ids(text)
    score = model.score(text)
    assert score.tokens == len(ids) - 1
    expected = []
    for window, first in module._windows(ids, POSITIONS):
        logarithms = log_softmax(model.logits([window[:-1]]))
        expected += [float(logarithms[0, i - 1, window[i]]) for i in range(first, len(window))]
    assert np.allclose(score.log_probabilities, expected, rtol=0, atol=1e-12 * 10)


@given(st.integers(1, 20), st.integers(2, 100))
def test_windows_score_every_token_once_with_at_least_half_a_table_of_context(size: int, length: int) -> None:
    ids = list(range(length))
    scored: list[int] = []
    for number, (window, first) in enumerate(module._windows(ids, size)):
        assert 2 <= len(window) <= size + 1
        assert window == list(range(window[0], window[0] + len(window)))
        scored += window[first:]
        assert first == 1 if number == 0 else first >= size / 2
    assert scored == ids[1:]


def test_the_embedded_model_is_found_by_its_name_and_simplifies_its_prompts(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make()
    monkeypatch.setitem(module.EMBEDDED, "other", folder)
    model = _load("other")
    assert model.prompt_ids("覺") == [1, VOCABULARY["觉"]]
    assert _load(folder).prompt_ids("覺") == [1, 0]
    shutil.copytree(folder, folder / "copy")
    assert np.array_equal(model.logits([[1, 3]]), _load(folder / "copy").logits([[1, 3]]))


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_several_start_or_end_tokens_are_refused_and_one_in_a_list_is_one(name: str, make: Any) -> None:
    for several in ([2, 3], []):
        with _refused(errors.ConfigError, "several start or end tokens", "one id or null", str(several), "stop="):
            _load(make({name: several}))
    assert getattr(_load(make({name: [5]})).config, name) == 5
