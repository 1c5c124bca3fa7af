"""CPM-LM as it is published, converted and damaged: what `refimpl.load` finds beside the weights, and what it says of files that do not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pytest
from typer.testing import CliRunner

import refimpl
import weights_io
from refimpl import cli, errors, gpt2, parallel_decoder, parallel_model
from refimpl.parallel_communicators import run_ranks
from refimpl.text import CPMTokenizer
from weights_io import published
from weights_io.conversion import convert
from weights_io.megatron import save_ranks
from weights_io.schemes import SCHEMES
from weights_io.schemes.config import gpt2_from_shapes

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
SHARDS, BERT4KERAS = RECORDED / "cpm_megatron", RECORDED / "bert4keras" / "gpt2"
SIZES = {"vocab_size": 64, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4}
KERAS = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "hidden_act": "gelu",
}


def _load(path: Path, **options: Any) -> refimpl.Model:
    return refimpl.load(path, backend="numpy", dtype="float64", **options)


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def _refused(*words: str, kind: type[Exception] = errors.RefimplError) -> Any:
    """pytest.raises whose message holds all the words."""
    return pytest.raises(kind, match="".join(f"(?=[\\s\\S]*{re.escape(word)})" for word in words))


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return pieces.trained(64)


@pytest.fixture
def model(tmp_path: Path, vocabulary: bytes) -> Path:
    """The folder of a small CPM-LM: latest_checkpointed_iteration.txt, 80000/ with two shards, bpe_3w_new/."""
    folder = tmp_path / "CPM"
    shutil.copytree(SHARDS / "mp2", folder)
    (folder / "bpe_3w_new").mkdir()
    (folder / "bpe_3w_new" / "chinese_vocab.model").write_bytes(vocabulary)
    return folder


# --- what is found ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "80000", "80000/mp_rank_01_model_states.pt"])
def test_the_published_layout_reads_and_writes_text(below: str, model: Path, recorded: Any) -> None:
    loaded = _load(model / below, heads=4)
    answers = recorded("cpm_megatron")
    assert _relative(loaded.logits(answers["ids"]), answers["logits_mp2"]) <= 1e-12
    assert isinstance(loaded.tokenizer, CPMTokenizer)
    assert (loaded.dialect, loaded.unknown_id) == ("cpm", 0)
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (None, 7)  # <eod>
    prompt = "今天 天气\n"
    ids = loaded.tokenizer.encode(prompt)
    assert loaded.prompt_ids(prompt) == ids
    new = loaded.generate_ids([ids], max_new_tokens=6, temperature=0)[0]
    assert loaded.generate(prompt, max_new_tokens=6, temperature=0) == prompt + loaded.tokenizer.decode(new)
    assert "".join(loaded.stream(prompt, max_new_tokens=6, temperature=0)) == loaded.tokenizer.decode(new)
    score = loaded.score("天气鯕不错")
    assert score.unknown == loaded.tokenizer.encode("天气鯕不错")[1:].count(0) > 0


def test_the_checkpoint_of_bert4keras_with_its_vocabulary_beside_it(
    model: Path, tmp_path: Path, vocabulary: bytes, recorded: Any
) -> None:
    """The weights of the shards under TensorFlow's names; erf and the masking of id 0 come with config.json, tanh if it says so."""
    folder = tmp_path / "CPM_TF.ckpt"
    with weights_io.open(model) as shards:
        convert(shards, folder, scheme="tensorflow-gpt2")
    (folder / "config.json").write_text(json.dumps(KERAS))
    (folder / "chinese_vocab.model").write_bytes(vocabulary)
    loaded, shards_too = _load(folder), _load(model, heads=4, dialect="bert4keras")
    assert isinstance(loaded.tokenizer, CPMTokenizer)
    assert (loaded.dialect, loaded.config.eos_token_id, loaded.unknown_id) == ("bert4keras", 7, 0)
    answers = recorded("cpm_megatron")
    assert np.array_equal(loaded.logits(answers["ids"]), shards_too.logits(answers["ids"]))
    assert _relative(loaded.logits(answers["ids"]), answers["logits_mp2"]) > 1e-6
    as_cpm = _load(folder, dialect="cpm")
    assert _relative(as_cpm.logits(answers["ids"]), answers["logits_mp2"]) <= 1e-12


def _converted(model: Path, folder: Path, vocabulary: bytes, **config: Any) -> Path:
    """The files of Hugging Face's conversion: config.json, pytorch_model.bin, tf_model.h5, spiece.model, tokenizer.json."""
    folder.mkdir()
    with weights_io.open(model) as shards:
        convert(shards, folder / "pytorch_model.bin", scheme="hugging-face-gpt2")
    (folder / "tf_model.h5").write_bytes(b"not opened")
    (folder / "spiece.model").write_bytes(vocabulary)
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "Unigram", "vocab": [["<unk>", 0]], "unk_id": 0}})
    )
    fields = {"model_type": "gpt2", "activation_function": "gelu_new", **SIZES, **config}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    "ends", [{}, {"bos_token_id": 50256, "eos_token_id": 50256}, {"bos_token_id": 1, "eos_token_id": 7}]
)
def test_the_conversion_of_hugging_face(
    ends: Any, model: Path, tmp_path: Path, vocabulary: bytes, recorded: Any
) -> None:
    """Its tokenizer.json knows nothing of words and is passed over; ids outside the vocabulary, which it inherits from GPT-2, too."""
    loaded = _load(_converted(model, tmp_path / "hf", vocabulary, **ends))
    answers = recorded("cpm_megatron")
    assert _relative(loaded.logits(answers["ids"]), answers["logits_mp1"]) <= 1e-12
    assert isinstance(loaded.tokenizer, CPMTokenizer)
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (None, 7)
    assert loaded.prompt_ids("今天 天气") == loaded.tokenizer.encode("今天 天气")
    assert loaded.generate("今天", max_new_tokens=3, temperature=0).startswith("今天")


def test_two_ranks_read_text_as_one(model: Path) -> None:
    """Rank 0 has the tokenizer, stops at <eod>, and refuses a vocabulary of another size for both."""

    def one(communicator: Any) -> Any:
        loaded = parallel_model.load(model, communicator, dtype="float64", heads=4)
        if communicator.rank:
            return parallel_decoder.follow(loaded.share)
        with loaded:
            return loaded.config, loaded.generate("今天 天气\n", max_new_tokens=5, temperature=0)

    alone = _load(model, heads=4)
    expected = alone.generate("今天 天气\n", max_new_tokens=5, temperature=0)
    assert run_ranks(2, one)[0] == (alone.config, expected)
    (model / "bpe_3w_new" / "chinese_vocab.model").write_bytes(pieces.trained(63))
    with _refused("does not match the embedding", "63 pieces"):
        run_ranks(2, one)


def test_an_end_token_of_the_configuration_is_kept(model: Path, tmp_path: Path, vocabulary: bytes) -> None:
    assert _load(_converted(model, tmp_path / "hf", vocabulary, eos_token_id=4)).config.eos_token_id == 4


@pytest.mark.parametrize(
    ("width", "layers", "heads", "millions"), [(768, 12, 12, 109), (1024, 24, 16, 334), (2560, 32, 32, 2597)]
)
def test_the_sizes_of_the_released_models_show_in_their_shards(
    width: int, layers: int, heads: int, millions: int
) -> None:
    """The distilled model has 109 million parameters, the others are those of the paper (table 1: 109M, 334M, 2.6B)."""
    config = gpt2.GPT2Config(30000, 1024, width, layers, heads, n_inner=4 * width)
    shapes = gpt2.GPT2Weights.shapes(config)
    assert gpt2_from_shapes(shapes, SCHEMES["megatron-cpm"], None, "shards") == config
    assert round(sum(map(math.prod, shapes.values())) / 1e6) == millions


# --- parity -----------------------------------------------------------------------------------------------------------------


def _token_by_token(loaded: refimpl.Model, ids: Any, prefix: int) -> Any:
    """The logits that the cached decoder gives from the last token of the prefix on."""
    decoder = loaded._decoder()
    logits, cache = decoder.start(ids[:, :prefix], np.ones((len(ids), prefix), bool))
    rows = [logits]
    for place in range(prefix, ids.shape[1]):
        logits, cache = decoder.advance(ids[:, place : place + 1], cache)
        rows.append(logits)
    return np.stack([np.reshape(row, (len(ids), -1)) for row in rows], axis=1)


@pytest.mark.parametrize("name", ["mp1", "mp2"])
@pytest.mark.parametrize("prefix", [1, 5, 32])
def test_cached_decoding_gives_the_logits_of_cpm(name: str, prefix: int, recorded: Any) -> None:
    """CPM's own cached decoding is within 1e-12 of the recorded logits (provenance), and so is ours, from the shards of 1 and 2 ranks."""
    answers = recorded("cpm_megatron")
    found = _token_by_token(_load(SHARDS / name, heads=4), answers["ids"], prefix)
    for ranks in (1, 2):
        assert _relative(found, answers[f"logits_mp{ranks}"][:, prefix - 1 :]) <= 1e-12


@pytest.mark.parametrize("prefix", [1, 4])
def test_cached_decoding_gives_the_logits_of_bert4keras(prefix: int, recorded: Any, shared: Any) -> None:
    """Also with id 0 in the prefix and after it, which is masked there."""
    answers = recorded("bert4keras/gpt2")
    found = _token_by_token(_load(BERT4KERAS), answers["ids"], prefix)
    assert _relative(found, answers["logits"][:, prefix - 1 :]) <= 1e-12
    folder = shared("b4k_gpt2")
    with np.load(folder / "io.npz") as io:
        ids, logits = io["ids"], io["logits"]
    assert (ids[2] == 0).sum() > 2
    assert _relative(_token_by_token(_load(folder), ids, prefix), logits[:, prefix - 1 :]) <= 1e-12


@pytest.mark.parametrize("path", ["bert4keras_cpm", "cpm_megatron/mp1", "cpm_megatron/mp2"])
def test_the_shards_converted_by_the_author_give_the_logits_of_bert4keras(path: str, recorded: Any) -> None:
    """Of his convert.py and his example (erf, id 0 masked as a key), from his checkpoint and from the shards; in full and token by token."""
    answers = recorded("bert4keras_cpm")
    loaded = _load(RECORDED / path, heads=4, dialect="bert4keras")
    assert (answers["ids"][1:, 1:] == 0).sum() > 4
    assert _relative(loaded.logits(answers["ids"]), answers["logits"]) <= 1e-12
    assert _relative(_token_by_token(loaded, answers["ids"], 4), answers["logits"][:, 3:]) <= 1e-12
    tanh = dataclasses.replace(gpt2.named_dialect("bert4keras"), activation="tanh")
    assert (
        _relative(_load(RECORDED / path, heads=4, dialect=tanh).logits(answers["ids"]), answers["logits_gelu_tanh"])
        <= 1e-12
    )
    as_cpm = _load(RECORDED / path, heads=4, dialect="cpm").logits(answers["ids"])
    assert _relative(as_cpm, answers["logits"]) > 1e-3
    seen = answers["ids"][:1]  # no <unk> after position 0: the two programs differ by GELU alone
    assert _relative(as_cpm[:1], answers["logits_gelu_tanh"][:1]) <= 1e-12
    assert (seen[:, 1:] != 0).all()


def test_the_checkpoint_of_the_author_is_ours_bit_for_bit(model: Path) -> None:
    """His rearrangement of [Q; K; V] and ours, float16 widened to float32."""
    theirs, ours = _load(RECORDED / "bert4keras_cpm"), _load(model, heads=4)
    for name, array in ours.weights.named().items():
        assert np.array_equal(theirs.weights.named()[name], array), name
    assert theirs.dialect == "bert4keras"


# --- what does not fit, each with its own message -----------------------------------------------------------------------------


def test_a_missing_shard(model: Path) -> None:
    (model / "80000" / "mp_rank_00_model_states.pt").rename(model / "elsewhere.pt")
    with _refused(
        "not those of ranks 0, 1, ... [megatron.ranks]", "mp_rank_01_model_states.pt", "fetch the missing shards"
    ):
        _load(model, heads=4)
    (model / "elsewhere.pt").rename(model / "80000" / "mp_rank_00_model_states.pt")
    (model / "80000" / "mp_rank_01_model_states.pt").unlink()
    with _refused("not all there are [megatron.ranks]", "2 files", "1 files", "fetch the missing shards"):
        _load(model, heads=4)


def test_the_wrong_number_of_ranks(model: Path) -> None:
    shutil.copy(SHARDS / "mp4" / "80000" / "mp_rank_02_model_states.pt", model / "80000")
    with _refused(
        "not all there are [megatron.ranks]", "mp_world_size", "2 files", "3 files", "remove those of another model"
    ):
        _load(model, heads=4)


def test_one_file_under_two_names(model: Path) -> None:
    shutil.copy(model / "80000" / "mp_rank_00_model_states.pt", model / "80000" / "mp_rank_01_model_states.pt")
    with _refused("the same rows of the token embedding [megatron.distinct]", "ranks 0 and 1", "each rank's own shard"):
        _load(model, heads=4)


def test_a_shard_of_another_step(model: Path) -> None:
    """The files say at which step they were saved: seen before a tensor is read."""
    path = model / "80000" / "mp_rank_01_model_states.pt"
    with zipfile.ZipFile(path) as archive:
        content = {entry: archive.read(entry) for entry in archive.namelist()}
    names = [name for name in content if name.endswith("/data.pkl")]
    iteration = b"iteration" + content[names[0]].partition(b"iteration")[2][:10]
    assert iteration.count(struct.pack("<i", 80000)) == 1
    content[names[0]] = content[names[0]].replace(
        iteration, iteration.replace(struct.pack("<i", 80000), struct.pack("<i", 70000))
    )
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in content.items():
            archive.writestr(entry, data)
    with _refused(
        "different runs or steps [megatron.run]",
        str(path),
        "iteration",
        "80000, as in mp_rank_00_model_states.pt",
        "70000",
    ):
        weights_io.open(model)


def test_a_shard_of_another_run(model: Path, tmp_path: Path) -> None:
    """Files that say nothing, of models that started elsewhere: seen in the tensors that every rank holds."""
    with weights_io.open(model) as shards:
        other = {name: array + np.float16(0.5) for name, array in shards.items()}
        save_ranks(tmp_path / "other", other, 2, heads=4, iteration=80000)
    name = "mp_rank_01_model_states.pt"
    shutil.copy(tmp_path / "other" / "80000" / name, model / "80000" / name)
    with _refused("differs between them [megatron.replicated]", "ranks 0 and 1 differ", "of one run and one step"):
        _load(model, heads=4)


@pytest.mark.parametrize("name", ["mp2", "mp2_legacy"])
def test_a_truncated_shard(name: str, model: Path) -> None:
    """In torch's container of today, and in that of its time."""
    path = model / "80000" / "mp_rank_01_model_states.pt"
    for file in path.parent.iterdir():
        shutil.copy(SHARDS / name / "80000" / file.name, file)
    assert _load(model, heads=4).dialect == "cpm"
    whole = path.read_bytes()
    for size in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with _refused("mp_rank_01_model_states.pt", kind=weights_io.WeightsError) as caught:
            _load(model, heads=4)
        assert size < 1000 or "fetch it again" in str(caught.value) or "truncated" in str(caught.value), size


def test_a_vocabulary_that_does_not_match_the_embedding(model: Path) -> None:
    path = model / "bpe_3w_new" / "chinese_vocab.model"
    for size in (63, 70):
        path.write_bytes(pieces.trained(size))
        with _refused(
            "does not match the embedding",
            str(path),
            "64 pieces, one for each row",
            f"{size} pieces",
            kind=errors.ConfigError,
        ):
            _load(model, heads=4)
    path.unlink()
    assert _load(model, heads=4).tokenizer is None


def test_an_embedding_that_megatron_padded_is_none(model: Path, vocabulary: bytes, tmp_path: Path) -> None:
    from refimpl.model import _of_cpm

    tokenizer = CPMTokenizer(model)
    config = gpt2.GPT2Config(64, 32, 24, 2, 4)
    for rows, fits in ((128, True), (256, True), (512, True), (129, False), (384, False), (63, False)):
        if fits:
            assert _of_cpm(config, tokenizer, rows).eos_token_id == 7
        else:
            with _refused("does not match the embedding", f"{rows} pieces"):
                _of_cpm(config, tokenizer, rows)


def test_a_prompt_beyond_the_position_table_may_be_read_with_a_longer_one(model: Path) -> None:
    loaded, prompt = _load(model, heads=4), "今天 天气\n" * 8
    count = len(loaded.prompt_ids(prompt))
    assert count > 32
    words = (
        "runs past the position table",
        f"a prompt of {count} tokens (n_positions = 32)",
        "refimpl.load(..., positions=N)",
    )
    with _refused(*words, kind=errors.TokenError):
        loaded.generate(prompt)
    with _refused("runs past the position table", "n_positions = 32", "positions=N", kind=errors.TokenError):
        loaded.logits([loaded.prompt_ids(prompt)])
    longer = _load(model, heads=4, positions=count + 4)
    assert longer.generate(prompt, max_new_tokens=4, temperature=0).startswith(prompt)


# --- checksums --------------------------------------------------------------------------------------------------------------

RUNNER = CliRunner()
PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


def _verify(*arguments: Any, code: int = 0) -> str:
    result = RUNNER.invoke(cli.app, ["weights", "verify", *map(str, arguments)], env=PLAIN)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def as_published(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small model, as if its files were the published ones."""
    sums = {
        name: {hashlib.sha1((model / name).read_bytes()).hexdigest(): "2020-11-13"}
        if (model / name).exists()
        else {"0" * 40: "2020-11-13"}
        for name in published.CPM
    }
    for name in published.CPM:
        monkeypatch.setitem(published.CPM, name, sums[name])
    return model


def test_the_published_sums_are_those_of_the_readme_and_of_the_files(shared: Any) -> None:
    """The two shards' as the README has them, by rank; the others from the files of the repository."""
    sums = [list(published.CPM[f"80000/mp_rank_0{rank}_model_states.pt"]) for rank in (0, 1)]
    assert sums == [["71d6b6ad4f47b46724eb82c05da8fb9175e62a7d"], ["42aa247a262e2011fa5e276f1a8389fad6d80edc"]]
    folder = shared("../data/cpm")
    found = published.published(folder)
    assert [each.verdict for each in found.values()] == ["missing", "missing", "verified", "verified", "verified"]
    assert [each.edition for each in found.values()] == [None, None, "2020-11-22", "2020-11-22", "2020-11-13"]
    older = (folder / "chinese_vocab_2020-11-20.model").read_bytes()
    assert published.edition(older) == "2020-11-13"
    assert published.edition(older[:-1]) is None


def test_published_files_are_verified(as_published: Path) -> None:
    for folder in (as_published, as_published / "80000", as_published / "bpe_3w_new"):
        text = _verify(folder, "--published")
        assert text.count("verified ") == 3
        assert text.count("missing   bpe_3w_new") == 2  # the vocabulary in two other forms, which nothing needs
        assert "3 of 5 files are as published" in text
    found = json.loads(_verify(as_published, "--published", "--json"))
    assert found["published"] is True
    shard = found["files"]["80000/mp_rank_01_model_states.pt"]
    assert (shard["verdict"], shard["edition"], [shard["sha1"]]) == ("verified", "2020-11-13", shard["expected"])
    read: list[int] = []
    published.published(as_published, read.append)
    assert sum(read) == published.size(as_published) > 0


def test_files_that_are_not_as_published_are_named(as_published: Path) -> None:
    first, second = (as_published / "80000" / f"mp_rank_0{rank}_model_states.pt" for rank in (0, 1))
    whole = [path.read_bytes() for path in (first, second)]
    sums = [hashlib.sha1(data).hexdigest() for data in whole]
    first.rename(as_published / "a")
    second.rename(first)
    (as_published / "a").rename(second)
    text = _verify(as_published, "--published", code=1)
    assert f"expected {sums[0]} (2020-11-13)" in text
    assert f"got      {sums[1]}: that is 80000/mp_rank_01_model_states.pt" in text
    assert "1 of 5 files are as published" in text
    second.write_bytes(second.read_bytes()[:-1])
    found = json.loads(_verify(as_published, "--published", "--json", code=1))
    assert found["published"] is False
    assert found["files"]["80000/mp_rank_01_model_states.pt"] | {"sha1": None, "path": None} == {
        **dict.fromkeys(("path", "sha1", "edition", "really")),
        "expected": [sums[1]],
        "verdict": "other",
    }
    second.rename(first)
    first.write_bytes(whole[0])
    assert "missing   80000/mp_rank_01_model_states.pt" in _verify(as_published, "--published", code=1)
    second.write_bytes(whole[1])
    assert "3 of 5 files are as published" in _verify(as_published, "--published")
    (as_published / "bpe_3w_new" / "vocab.json").write_text("{}")  # nothing needs it, and it is not what it should be
    assert "other     bpe_3w_new/vocab.json" in _verify(as_published, "--published", code=1)


def test_verify_wants_two_checkpoints_or_one_folder(tmp_path: Path) -> None:
    for arguments in ([tmp_path], [tmp_path, tmp_path, "--published"], [tmp_path, "--published", "--rtol", "1"]):
        result = RUNNER.invoke(cli.app, ["weights", "verify", *map(str, arguments)], env=PLAIN)
        assert isinstance(result.exception, errors.ConfigError)
        assert "A B, or --published FOLDER" in str(result.exception)
    result = RUNNER.invoke(cli.app, ["weights", "verify", str(tmp_path), "--published"], env=PLAIN)
    assert isinstance(result.exception, weights_io.WeightsError)
    assert "none of the published files is here" in str(result.exception)
