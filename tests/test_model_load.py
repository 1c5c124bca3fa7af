"""`refimpl.load` and the Model it gives: folders, files, shards, dtypes, defaults; scoring and windows; streaming text."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
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
        errors.NotBuiltYetError,
        "architecture is not read yet",
        "refimpl.load(architecture=...)",
        "gpt2, bert",
        "got:      gpt",
    ):
        _load(folder, architecture="gpt")
    rows = _load(folder).config.n_positions
    for wrong in (rows - 1, rows**2 + 1, 2.5 * rows):
        with _refused(
            errors.ConfigError, f"can be extended to {rows**2}", "positions", f"{rows} to {rows}²", repr(wrong)
        ):
            _load(folder, positions=wrong)
    with _refused(errors.BackendError, "unknown backend", "numpy | cupy | auto", "'torch'"):
        refimpl.load(folder, backend="torch")
    with _refused(errors.ConfigError, "no such model", "refimpl.load(path)", "tang", str(tmp_path / "absent")):
        _load(tmp_path / "absent")
    assert _load(folder, architecture="gpt2").config.n_embd == 8


def test_an_unknown_dialect_is_refused_by_load(make: Any) -> None:
    with pytest.raises(errors.ConfigError):
        _load(make(), dialect="gpt3")


# --- every format, every scheme ---------------------------------------------------------------------------------------------

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
CPM, BERT4KERAS = RECORDED / "cpm_megatron", RECORDED / "bert4keras"


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def _same_weights(a: refimpl.Model, b: refimpl.Model) -> bool:
    left, right = a.weights.named(), b.weights.named()
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pt", "npz", "ckpt"])
@pytest.mark.parametrize(
    "name", [name for name, scheme in SCHEMES.items() if scheme.architecture == "gpt2" and name != "hugging-face-gpt2"]
)
def test_any_format_under_any_names_is_the_same_model(name: str, suffix: str, make: Any, tmp_path: Path) -> None:
    folder = make()
    expected = _load(folder)
    (folder / "model.safetensors").unlink()
    theirs = from_canonical(expected.weights.named(), SCHEMES[name])
    weights_io.save(folder / f"model.{suffix}", theirs)
    if suffix == "ckpt":  # a folder of its own
        for name in ("config.json", "tokenizer.json"):
            (folder / name).rename(folder / "model.ckpt" / name)
    model = _load(folder / f"model.{suffix}")
    assert _same_weights(model, expected)
    assert model.config == expected.config
    assert model.prompt_ids("春") == expected.prompt_ids("春")


def test_pytorch_files_of_a_folder_are_found_whole_and_sharded(make: Any) -> None:
    folder = make()
    expected = _load(folder)
    (folder / "model.safetensors").unlink()
    tensors = _hugging_face(CONFIG)
    weights_io.save(folder / "pytorch_model.bin", tensors)
    assert _same_weights(_load(folder), expected)
    assert _same_weights(_load(folder / "pytorch_model.bin"), expected)
    (folder / "pytorch_model.bin").unlink()
    halves = [dict(list(tensors.items())[k::2]) for k in range(2)]
    files = [f"pytorch_model-0000{k + 1}-of-00002.bin" for k in range(2)]
    for half, file in zip(halves, files, strict=True):
        weights_io.save(folder / file, half)
    weight_map = {name: file for half, file in zip(halves, files, strict=True) for name in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert _same_weights(_load(folder), expected)


def test_the_shared_hugging_face_file_of_pytorch_gives_the_recorded_logits(shared: Any) -> None:
    folder = shared("hf_gpt2")
    model = _load(folder / "pytorch_model_f16.bin", dtype="float64")
    with np.load(folder / "io.npz") as io:
        assert _relative(model.logits(io["ids"]), io["logits64_f16"]) <= 1e-12


@pytest.mark.parametrize(
    "path",
    ["", "model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"],
    ids=["folder", "prefix", "index", "data"],
)
def test_a_bert4keras_folder_gives_the_logits_of_bert4keras(path: str, recorded: Any) -> None:
    """Its dialect comes with the names: erf, and id 0 is masked as a key."""
    model = _load(BERT4KERAS / "gpt2" / path, dtype="float64")
    answers = recorded("bert4keras/gpt2")
    assert model.dialect == "bert4keras"
    assert _relative(model.logits(answers["ids"]), answers["logits"]) <= 1e-12
    other = _load(BERT4KERAS / "gpt2" / path, dtype="float64", dialect="openai")
    assert _relative(other.logits(answers["ids"]), answers["logits"]) > 1e-3
    assert model.config.n_inner == 24


def test_the_shared_bert4keras_fixture_gives_its_logits(shared: Any) -> None:
    folder = shared("b4k_gpt2")
    with np.load(folder / "io.npz") as io:
        assert _relative(_load(folder, dtype="float64").logits(io["ids"]), io["logits"]) <= 1e-12


@pytest.fixture
def bert4keras(tmp_path: Path) -> Any:
    """bert4keras(config changes) -> the recorded folder with another config.json; a value of None takes the field out."""

    def build(changes: dict[str, Any]) -> Path:
        shutil.copytree(BERT4KERAS / "gpt2", tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(
            json.dumps({name: value for name, value in config.items() if value is not None})
        )
        return tmp_path

    return build


def test_a_bert4keras_configuration_may_ask_for_tanh(bert4keras: Any, recorded: Any) -> None:
    answers = recorded("bert4keras/gpt2")
    for activation, expected in (("gelu_tanh", "logits_gelu_tanh"), ("gelu_erf", "logits"), ("gelu", "logits")):
        model = _load(bert4keras({"hidden_act": activation}), dtype="float64")
        assert _relative(model.logits(answers["ids"]), answers[expected]) <= 1e-12, activation
    assert _relative(answers["logits_gelu_tanh"], answers["logits"]) > 1e-5


def test_sizes_of_a_bert4keras_configuration(bert4keras: Any) -> None:
    model = _load(
        bert4keras({"max_position": 16, "max_position_embeddings": 99, "eos_token_id": 7, "embedding_size": 16})
    )
    assert (model.config.n_positions, model.config.eos_token_id, model.config.bos_token_id) == (16, 7, None)
    expected = gpt2.GPT2Config(60, 16, 16, 2, 2, n_inner=24, activation="none")
    assert _load(bert4keras({"model_type": "gpt2"})).config == expected
    with _refused(errors.ConfigError, "wrong shape: gpt/embeddings/position_embeddings", "(512, 16), got (16, 16)"):
        _load(bert4keras({"max_position": None, "max_position_embeddings": None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, ("unknown hidden_act", "gelu, gelu_erf, gelu_tanh", "relu")),
        ({"hidden_act": ["gelu"]}, ("unknown hidden_act",)),
        ({"embedding_size": 8}, ("not implemented", "embedding_size = 8")),
        ({"attention_key_size": 4}, ("not implemented", "attention_key_size = 4")),
        ({"num_hidden_layers": None, "vocab_size": None}, ("lacks sizes", "without vocab_size, num_hidden_layers")),
        ({"num_attention_heads": 3}, ("does not divide", "n_embd = 16, n_head = 3")),
        ({"hidden_size": "16"}, ("not a positive whole number", "n_embd = '16'")),
        ({"model_type": "bert"}, ("not a GPT-2", "bert")),
    ],
)
def test_bert4keras_configurations_that_are_not_implemented_are_refused(
    changes: Any, words: Any, bert4keras: Any
) -> None:
    with _refused(errors.ConfigError, *words):
        _load(bert4keras(changes))


@pytest.mark.parametrize("name", ["mp1", "mp2", "mp4", "mp1_mp2", "mp2_legacy"])
def test_cpm_shards_of_any_number_of_ranks_give_the_logits_of_cpm(name: str, recorded: Any) -> None:
    """float16 weights widened to float64; the logits of CPM's own code, and the same bits whatever the number of ranks."""
    answers = recorded("cpm_megatron")
    model = _load(CPM / name, dtype="float64", heads=4)
    assert model.dialect == "cpm"
    logits = model.logits(answers["ids"])
    for ranks in (1, 2):
        assert _relative(logits, answers[f"logits_mp{ranks}"]) <= 1e-12
    one = _load(CPM / "mp1", dtype="float64", heads=4)
    assert _same_weights(model, one)
    assert logits.tobytes() == one.logits(answers["ids"]).tobytes()


def test_cpm_in_another_dialect_is_another_function(recorded: Any) -> None:
    """The recorded logits see the other GELU, and the masking of id 0."""
    answers = recorded("cpm_megatron")
    for dialect in ("bert4keras", gpt2.Dialect("none")):
        other = _load(CPM / "mp2", dtype="float64", heads=4, dialect=dialect).logits(answers["ids"])
        assert _relative(other, answers["logits_mp1"]) > 1e-6


def test_cpm_hidden_states_agree_layer_by_layer(recorded: Any) -> None:
    answers = recorded("cpm_megatron")
    model = _load(CPM / "mp4", dtype="float64", heads=4)
    states = gpt2.hidden_states(model.weights, model.config, answers["ids"], dialect="cpm")
    for name, state in zip(["hidden_0", "hidden_1", "hidden_2", "hidden_final"], states, strict=True):
        expected = answers[name]
        assert _relative(np.reshape(state, expected.shape), expected) <= 1e-12, name


def test_one_shard_opens_them_all_and_float16_stays_as_it_was() -> None:
    folder = _load(CPM / "mp2" / "80000", heads=4, dtype="float16")
    shard = _load(CPM / "mp2" / "80000" / "mp_rank_01_model_states.pt", heads=4, dtype="float16")
    assert _same_weights(folder, shard)
    assert _same_weights(folder, _load(CPM / "mp2", heads=4, dtype="float16"))
    with weights_io.open(CPM / "mp2") as checkpoint:
        assert folder.weights.token_embedding.tobytes() == checkpoint["word_embeddings.weight"].tobytes()
    assert folder.config == gpt2.GPT2Config(64, 32, 24, 2, 4, n_inner=96)


def test_cpm_shards_generate_directly(tmp_path: Path) -> None:
    """Ids without a tokenizer; text with one beside the tracker file."""
    model = _load(CPM / "mp2", dtype="float64", heads=4)
    ids = model.generate_ids([[5, 6, 7], [8]], max_new_tokens=4, temperature=0)
    assert [len(row) for row in ids] == [4, 4]
    row = [5, 6, 7]
    for token in ids[0]:
        assert token == int(np.argmax(model.logits([row])[0, -1]))
        row.append(token)
    assert model.generate_ids([[5, 6, 7]], max_new_tokens=4, temperature=0, stop=[ids[0][2]]) == [
        ids[0][: ids[0].index(ids[0][2])]
    ]
    assert model.generate_ids([[5]], seed=1) == model.generate_ids([[5]], seed=1)
    shutil.copytree(CPM / "mp2", tmp_path / "cpm")
    vocabulary = {chr(0x4E00 + k): k for k in range(64)} | {"<unk>": 64}
    tokenizer = _tokenizer() | {"added_tokens": []}
    tokenizer["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    (tmp_path / "cpm" / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    with_text = _load(tmp_path / "cpm", dtype="float64", heads=4)
    prompt = "".join(chr(0x4E00 + k) for k in (5, 6, 7))
    expected = prompt + "".join(chr(0x4E00 + k) for k in ids[0])
    assert with_text.generate(prompt, max_new_tokens=4, temperature=0) == expected


def test_heads_are_asked_for_where_nothing_shows_them(make: Any, tmp_path: Path) -> None:
    with _refused(
        errors.ConfigError,
        "no config.json, and the number of attention heads does not show",
        "768: 12, 1024: 16, 2560: 32",
        "width 24",
        "pass heads=",
    ):
        _load(CPM / "mp2")
    for heads in (0, -1, True, 2.0, "4"):
        with _refused(errors.ConfigError, "heads must be a whole number from 1", repr(heads)):
            _load(CPM / "mp2", heads=heads)
    with _refused(errors.ConfigError, "does not divide into the heads", "n_embd = 24, n_head = 5"):
        _load(CPM / "mp2", heads=5)
    folder = make()
    assert _load(folder, heads=2).config.n_head == 2
    with _refused(errors.ConfigError, "another number of heads", "2, as in", "config.json", "4"):
        _load(folder, heads=4)
    expected = _load(folder)
    (folder / "config.json").unlink()
    with _refused(errors.ConfigError, "no config.json", "config.json beside the weights", "width 8", "pass heads="):
        _load(folder)
    bare = _load(folder, heads=2)
    assert _same_weights(bare, expected)
    assert bare.config == gpt2.GPT2Config(len(CHARACTERS), POSITIONS, 8, 2, 2, n_inner=32)
    assert np.array_equal(bare.logits([[3, 4]]), expected.logits([[3, 4]]))


def test_an_untied_head_without_a_configuration_is_the_head(make: Any) -> None:
    folder = make({"tie_word_embeddings": False})
    expected = _load(folder)
    (folder / "config.json").unlink()
    model = _load(folder, heads=2)
    assert not model.config.tie_word_embeddings
    assert _same_weights(model, expected)


def test_heads_of_released_models_are_known_by_their_width(tmp_path: Path) -> None:
    config = gpt2.GPT2Config(3, 2, 768, 1, 12, n_inner=4)
    arrays = {name: np.zeros(shape, np.float16) for name, shape in gpt2.GPT2Weights.shapes(config).items()}
    weights_io.save(tmp_path / "cpm.npz", from_canonical(arrays, SCHEMES["megatron-cpm"]))
    assert _load(tmp_path / "cpm.npz").config == config
    weights_io.save(tmp_path / "b4k.npz", from_canonical(arrays, SCHEMES["tensorflow-gpt2"]))
    assert _load(tmp_path / "b4k.npz", heads=12).config == gpt2.GPT2Config(
        3, 2, 768, 1, 12, n_inner=4, activation="none"
    )


def test_a_configuration_beside_shards_is_used(tmp_path: Path, recorded: Any) -> None:
    shutil.copytree(CPM / "mp2", tmp_path / "cpm")
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4, "eos_token_id": 7}
    (tmp_path / "cpm" / "config.json").write_text(json.dumps(sizes))
    model = _load(tmp_path / "cpm", dtype="float64")
    assert model.config.eos_token_id == 7
    answers = recorded("cpm_megatron")
    assert _relative(model.logits(answers["ids"]), answers["logits_mp1"]) <= 1e-12
    (tmp_path / "cpm" / "config.json").write_text(json.dumps(sizes | {"vocab_size": 60}))
    with _refused(
        errors.ConfigError, "wrong shape: word_embeddings.weight (token_embedding) expected (60, 24), got (64, 24)"
    ):
        _load(tmp_path / "cpm")


@pytest.mark.parametrize(
    ("path", "architecture", "scheme"),
    [
        (BERT4KERAS / "gpt" / "model.ckpt", "gpt", "tensorflow-gpt"),
        (BERT4KERAS / "gpt2_ml", "gpt2_ml", "tensorflow-gpt2-ml"),
    ],
)
def test_other_architectures_are_named_and_not_built_yet(path: Path, architecture: str, scheme: str) -> None:
    with _refused(
        errors.NotBuiltYetError,
        f"opened and converted, but the model {architecture} is not built yet",
        f"the names of {scheme}",
        "refimpl weights convert",
    ):
        _load(path)


def test_names_of_no_scheme_are_refused(make: Any) -> None:
    with _refused(weights_io.WeightsError, "those of no naming scheme [scheme.unknown]", "not in any scheme: x"):
        _load(make(tensors={"x": np.zeros(2, np.float32)}))
    with _refused(weights_io.WeightsError, "those of no naming scheme"):
        _load(BERT4KERAS / "bert", architecture="gpt2")


def test_parts_of_a_parameter_that_is_incomplete_are_listed(tmp_path: Path) -> None:
    with weights_io.open(BERT4KERAS / "gpt2") as checkpoint:
        tensors = dict(checkpoint)
    del tensors["gpt/transformer/layer_1/attention/self/key/bias"]
    weights_io.save(tmp_path / "model.npz", tensors)
    with _refused(
        errors.ConfigError,
        "(3 problems)",
        "missing: blocks.1.query_key_value.bias (48,)",
        "unexpected: gpt/transformer/layer_1/attention/self/query/bias",
        "unexpected: gpt/transformer/layer_1/attention/self/value/bias",
    ):
        _load(tmp_path / "model.npz", heads=2)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64])
def test_parameters_that_are_no_real_numbers_are_refused(dtype: Any, make: Any) -> None:
    tensors = _hugging_face(CONFIG)
    tensors["transformer.h.0.ln_1.bias"] = tensors["transformer.h.0.ln_1.bias"].astype(dtype)
    folder = make()
    (folder / "model.safetensors").unlink()
    weights_io.save(folder / "model.npz", tensors)
    with _refused(
        errors.ConfigError, "must hold floating-point numbers", "blocks.0.attention_norm.bias", np.dtype(dtype).name
    ):
        _load(folder / "model.npz")


def test_values_that_a_dtype_cannot_hold_are_listed_and_bfloat16_is_read(make: Any) -> None:
    tensors = _hugging_face(CONFIG)
    tensors["transformer.wte.weight"][3, 3] = 1e6
    with _refused(errors.ConfigError, "(1 problems)", "not finite: transformer.wte.weight (token_embedding)"):
        _load(make(tensors=tensors), dtype="float16")
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    model = _load(make(tensors=rounded))
    expected = rounded["transformer.ln_f.bias"].astype(np.float32)
    assert np.array_equal(model.weights.final_norm.bias, expected)


def test_what_has_no_place_is_not_read(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from weights_io.checkpoint import Checkpoint

    tensors = _hugging_face(CONFIG) | {"score.weight": np.ones((2, 2), np.float32)}
    tensors["transformer.wpe.weight"] = np.ones((99, 8), np.float32)
    folder, read = make(tensors=tensors), []
    for method in ("__getitem__", "read_into"):
        original = getattr(Checkpoint, method)
        monkeypatch.setattr(
            Checkpoint,
            method,
            lambda self, name, *rest, original=original: read.append(name) or original(self, name, *rest),
        )
    with _refused(
        errors.ConfigError, "unexpected: score.weight (score.weight) (2, 2)", "wrong shape: transformer.wpe.weight"
    ):
        _load(folder)
    assert "transformer.wte.weight" in read
    assert not {"score.weight", "transformer.wpe.weight"} & set(read)


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
    assert model.make_decoder is not None
    expected = decoding.beam_search(
        model._decoder(), [1, VOCABULARY["春"]], beams=3, max_new_tokens=4, length_penalty=0.5, stop=[2]
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
