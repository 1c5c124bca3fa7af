"""refimpl.load of BERT, RoBERTa and NEZHA: recorded answers, configurations, what an encoder refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
import weights_io
from refimpl import bert, errors
from refimpl.encoder import Encoder
from weights_io.schemes import SCHEMES, from_canonical

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
BERT4KERAS, HUGGING_FACE = RECORDED / "bert4keras", RECORDED / "hugging_face_bert"


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _load(path: Path, **options: Any) -> Any:
    return refimpl.load(path, **({"backend": "numpy", "dtype": "float64"} | options))


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("folder", ["model", "model_bin", "model_bin_old"])
def test_a_folder_of_transformers_gives_its_answers(folder: str, recorded: Any) -> None:
    answers, model = recorded("hugging_face_bert"), _load(HUGGING_FACE / folder)
    assert isinstance(model, Encoder)
    assert model.dialect == "huggingface"
    assert model.weights.output_embedding is None
    real = answers["mask"] == 1
    given = (answers["ids"], answers["segments"], answers["mask"])
    assert _relative(model.encode(*given)[real], answers["hidden"][real]) <= 1e-12
    assert _relative(model.pooled(*given), answers["pooled"]) <= 1e-12
    ids = answers["ids"]
    expected = bert.masked_lm_logits(model.weights, model.config, model.encode(ids))
    assert np.array_equal(model.logits(ids), expected)


@pytest.mark.parametrize("kind", ["bert", "nezha"])
@pytest.mark.parametrize("file", ["", "model.ckpt"])
def test_a_checkpoint_of_bert4keras_gives_its_answers(kind: str, file: str, recorded: Any) -> None:
    answers, model = recorded(f"bert4keras/{kind}"), _load(BERT4KERAS / kind / file)
    assert model.dialect == "bert4keras"
    assert (model.config.max_position_embeddings is None) == (kind == "nezha")
    assert _relative(model.encode(answers["ids"], answers["segments"]), answers["encoder"]) <= 1e-12
    assert repr(model).startswith(f"<{kind.upper()} with ")
    assert _load(BERT4KERAS / kind, architecture=kind).config == model.config


def test_a_configuration_without_segments_is_completed_from_the_shapes(shared: Any) -> None:
    model = _load(shared("b4k_realformer"))
    assert (model.config.type_vocab_size, model.config.max_position_embeddings) == (2, 64)


RESIDUAL = RECORDED / "bert4keras_attention"


@pytest.mark.parametrize(("version", "dialect"), [("0.9.8", "bert4keras-0.9"), ("0.11.5", "bert4keras")])
@pytest.mark.parametrize("choice", [True, "sum"])
def test_a_realformer_is_loaded_where_the_caller_says_so(
    version: str, dialect: str, choice: Any, recorded: Any
) -> None:
    given, expected = (dict(weights_io.open(RESIDUAL / f"answers_{v}.safetensors")) for v in ("0.11.5", version))
    ids, real = given["ids"], given["ids"] != 0
    model = _load(RESIDUAL, dialect=dialect, residual_attention=choice)
    assert model.config.residual_attention == "sum"
    assert _relative(model.encode(ids, given["segments"])[real], expected["residual"][real]) <= 1e-12
    for other in ("none", False, "mean", None):
        apart = _load(RESIDUAL, dialect=dialect, residual_attention=other).encode(ids, given["segments"])
        assert _relative(apart[real], expected["residual"][real]) > 1e-3


def test_the_running_mean_is_that_of_the_definition() -> None:
    model, ids = _load(HUGGING_FACE / "model", residual_attention="mean"), [[3, 4, 5]]
    assert model.config.residual_attention == "mean"
    assert np.array_equal(model.encode(ids), bert.encode(model.weights, model.config, ids))
    assert np.abs(model.encode(ids) - _load(HUGGING_FACE / "model").encode(ids)).max() > 1e-6
    nezha = _load(BERT4KERAS / "nezha", residual_attention="mean")
    assert (nezha.config.residual_attention, nezha.config.max_position_embeddings) == ("mean", None)


def test_what_config_json_says_of_residual_attention_holds(tmp_path: Path) -> None:
    folders = {}
    for says in (True, False, "cumulative"):
        (tmp_path / str(says)).mkdir()
        folders[says] = _changed(tmp_path / str(says), {"residual_attention_scores": says})
    for says, word in ((True, "sum"), (False, "none")):
        for asked in (None, word, says):
            assert _load(folders[says], residual_attention=asked).config.residual_attention == word
        with _refused(
            errors.ConfigError, "disagree about residual attention", f'"{word}"', "config.json", "'mean'", "mend"
        ):
            _load(folders[says], residual_attention="mean")
    with _refused(errors.ConfigError, "disagree about residual attention", "'none'"):
        _load(folders[True], residual_attention=False)
    with _refused(errors.ConfigError, "residual_attention_scores", "true or false", "'cumulative'"):
        _load(folders["cumulative"])


def test_residual_attention_that_cannot_be_is_refused() -> None:
    for wrong in ("previous", "", 1, 2.0):
        with _refused(errors.ConfigError, "unknown residual attention", "none, sum, mean", repr(wrong)):
            _load(HUGGING_FACE / "model", residual_attention=wrong)
    for asked in (True, "mean"):
        with _refused(errors.ConfigError, "a GPT-2 has no residual attention", "a BERT", repr(asked)):
            refimpl.load("tang", backend="numpy", residual_attention=asked)
    refimpl.load("tang", backend="numpy", residual_attention=False)


def _changed(tmp_path: Path, changes: dict[str, Any], source: Path = HUGGING_FACE / "model") -> Path:
    shutil.copytree(source, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_attention_heads": None},
            ("config.json lacks sizes", "num_attention_heads", "without num_attention_heads"),
        ),
        ({"hidden_act": "relu"}, ("unknown hidden_act", "gelu", "relu")),
        ({"position_embedding_type": "relative_key"}, ("variant that is not implemented", "relative_key")),
        ({"is_decoder": True}, ("variant that is not implemented", "is_decoder = True")),
        ({"embedding_size": 16}, ("variant that is not implemented", "embedding_size = 16")),
        ({"vocab_size": 61}, ("wrong shape", "token_embedding", "(61, 32)", "(60, 32)")),
        ({"num_hidden_layers": 3}, ("missing: blocks.2.",)),
        ({"max_position_embeddings": 9}, ("wrong shape", "position_embedding", "(9, 32)", "(24, 32)")),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes: Any, words: Any, tmp_path: Path) -> None:
    with _refused(errors.ConfigError, *words):
        _load(_changed(tmp_path, changes))


def test_without_a_configuration_there_is_no_number_of_heads(tmp_path: Path) -> None:
    shutil.copy(HUGGING_FACE / "model" / "model.safetensors", tmp_path)
    with _refused(errors.ConfigError, "config.json cannot be read"):
        _load(tmp_path)


def test_the_activation_and_eps_of_the_configuration_are_used(tmp_path: Path, recorded: Any) -> None:
    ids = recorded("hugging_face_bert")["ids"]
    plain = _load(HUGGING_FACE / "model").encode(ids)
    for number, changes in enumerate(({"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-3})):
        (tmp_path / str(number)).mkdir()
        assert np.abs(_load(_changed(tmp_path / str(number), changes)).encode(ids) - plain).max() > 1e-6


def test_a_roberta_counts_from_its_padding(tmp_path: Path) -> None:
    """Written under Hugging Face's names for RoBERTa, with a head of its own."""
    config = bert.BertConfig(11, 8, 2, 2, 12, 10, type_vocab_size=1, position_offset=2, pad_token_id=1)
    groups = ("masked_lm", "output_embedding")
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=s).astype(np.float32) for name, s in bert.BertWeights.shapes(config, groups).items()
    }
    weights_io.save(tmp_path / "model.safetensors", from_canonical(arrays, SCHEMES["hugging-face-roberta"]))
    fields = {
        "model_type": "roberta",
        "vocab_size": 11,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    fields |= {"intermediate_size": 12, "max_position_embeddings": 10, "type_vocab_size": 1, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    model = _load(tmp_path)
    assert model.config == config
    ids = np.array([[3, 4, 5, 1, 1]])
    mask = ids != 1
    doubles = {name: a.astype(np.float64) for name, a in arrays.items()}
    weights = bert.BertWeights.from_named(doubles, config)
    assert np.array_equal(model.encode(ids, mask=mask), bert.encode(weights, config, ids, mask=mask))
    assert np.array_equal(model.weights.output_embedding, doubles["output_embedding"])
    longer = _load(tmp_path, positions=60)
    assert longer.config.max_position_embeddings == 62
    assert np.array_equal(longer.encode(ids, mask=mask), model.encode(ids, mask=mask))
    assert longer.encode(np.full((1, 60), 4)).shape == (1, 60, 8)


def test_an_extended_encoder_answers_as_before(recorded: Any) -> None:
    """HIERPOS-4 for an encoder: bit for bit up to n, finite beyond."""
    answers = recorded("hugging_face_bert")
    for dtype in ("float32", "float64"):
        plain, longer = (_load(HUGGING_FACE / "model", dtype=dtype, positions=n) for n in (None, 24 * 24))
        assert longer.config.max_position_embeddings == 576
        assert plain.encode(answers["ids"]).tobytes() == longer.encode(answers["ids"]).tobytes()
        assert np.all(np.isfinite(longer.encode(np.full((1, 200), 7))))
    with _refused(errors.ConfigError, "no learned position table"):
        _load(BERT4KERAS / "nezha", positions=40)


def test_an_encoder_does_not_continue_texts_and_a_gpt2_does_not_encode() -> None:
    model = _load(HUGGING_FACE / "model")
    calls = [lambda: model.stream("a"), lambda: model.score("a b"), lambda: model.generate_ids([[1]])]
    for call in [
        *calls,
        lambda: model.generate_batch(["a"]),
        lambda: model.beam_search("a"),
        lambda: model.generate("a"),
    ]:
        with _refused(errors.ConfigError, "an encoder does not continue texts", "<BERT with", "load a GPT-2"):
            call()
    with _refused(errors.ConfigError, "the model is no encoder", "Model.encode", "<GPT-2 with", "load a BERT"):
        refimpl.load("tang", backend="numpy").encode([[1]])


def test_dialects_of_an_encoder_are_its_own() -> None:
    with _refused(errors.ConfigError, "unknown dialect", "huggingface, bert4keras", "'openai'"):
        _load(HUGGING_FACE / "model", dialect="openai")
    ids = [[3, 0, 5]]
    plain, keras = (_load(HUGGING_FACE / "model", dialect=name).encode(ids) for name in ("huggingface", "bert4keras"))
    assert np.abs(plain - keras).max() > 1e-3
