"""The model that ships in the package: its files, its provenance, its verse."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import refimpl
import weights_io
from refimpl.model import EMBEDDED

FOLDER = EMBEDDED["tang"]
RECIPE = Path(__file__).parent.parent / "training" / "tang"


@pytest.fixture(scope="module")
def model():
    return refimpl.load("tang", backend="numpy")


def test_it_is_small_half_precision_and_complete():
    checkpoint = weights_io.open(FOLDER)
    count = sum(int(np.prod(checkpoint.info(name).shape)) for name in checkpoint)
    assert 1_500_000 <= count <= 3_000_000
    assert {str(checkpoint.info(name).dtype) for name in checkpoint} == {"float16"}
    assert (FOLDER / "model.safetensors").stat().st_size <= 6_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_300_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "PROVENANCE.md"} <= {
        path.name for path in FOLDER.iterdir()
    }


def test_the_weights_are_the_ones_the_recipe_and_the_oracle_speak_of():
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    recorded = Path(weights_io.__file__).parent.parent / "validation" / "recorded" / "embedded_tang" / "provenance.json"
    assert digest in recorded.read_text("utf-8")
    assert digest in (FOLDER / "PROVENANCE.md").read_text("utf-8")
    assert digest in json.dumps(json.loads((RECIPE / "record.json").read_text("utf-8")))


def _lines(text):
    """Verse lines that ended: pieces followed by punctuation."""
    return [piece for piece in re.split(r"[，。！？；、\n]+", text)[:-1] if piece]


def test_four_fifths_of_the_lines_have_the_opening_lines_length(model):
    openings = [
        "春眠不觉晓，",
        "白日依山尽，",
        "床前看月光，",
        "千山鸟飞绝，",
        "红豆生南国，",
        "朝辞白帝彩云间，",
        "故人西辞黄鹤楼，",
        "月落乌啼霜满天，",
        "独在异乡为异客，",
        "葡萄美酒夜光杯，",
    ]
    texts = [text for start in range(8) for text in model.generate_batch(openings, seed=start)]
    assert len(texts) == 80
    right = total = 0
    for text, opening in zip(texts, openings * 8, strict=True):
        lengths = [len(line) for line in _lines(text)[1:]]
        right, total = right + lengths.count(len(opening) - 1), total + len(lengths)
    assert total >= 80 * 3
    assert right / total >= 0.8, f"{right} of {total}"


def test_verse_is_likelier_than_the_same_characters_in_disorder(model):
    verse = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
    shuffled = "".join(np.random.default_rng(0).permutation(list(verse)))
    assert model.score(verse).perplexity * 10 < model.score(shuffled).perplexity


def test_it_beats_both_baselines_on_held_out_poems():
    evaluation = json.loads((RECIPE / "record.json").read_text("utf-8"))["evaluation_of_the_float16_weights"]
    nats = evaluation["nats_per_target"]
    assert nats["model"] < nats["kneser_ney_3gram"] < nats["unigram_add_one"]
    assert evaluation["held_out_targets"] > 40_000


def test_the_prompt_is_simplified_as_the_corpus_was(model):
    assert model.prompt_ids("春眠不覺曉，") == model.prompt_ids("春眠不觉晓，")
    assert model.prompt_ids("")[0] == model.config.bos_token_id


def test_an_unknown_character_is_counted_not_hidden(model):
    assert model.score("春眠𠮷觉晓").unknown == 1
    assert model.score("春眠不觉晓").unknown == 0


def test_the_table_holds_the_poem_and_no_more(model):
    with pytest.raises(refimpl.errors.TokenError, match="runs past the position table"):
        model.generate("春" * model.config.n_positions)


def test_the_end_token_is_scored_where_there_is_one(model):
    text = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。"
    assert model.score(text, end=True).tokens == model.score(text).tokens + 1
    endless = refimpl.Model(
        model.weights, dataclasses.replace(model.config, eos_token_id=None), model.backend, model.tokenizer
    )
    with pytest.raises(refimpl.errors.TextError, match="no end token to score"):
        endless.score(text, end=True)


def test_streaming_yields_only_text(model):
    assert all(model.stream("春眠不觉晓，", seed=4, stop=[], max_new_tokens=60))
