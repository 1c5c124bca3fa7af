"""Which texts moved a prediction: the shares of the texts of a stage, and the command that shows them."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from models import TINY, weights
from systems import HOST
from typer.testing import CliRunner

import refimpl
from refimpl import backend, explaining, gpt2
from refimpl.cli import app
from refimpl.errors import ConfigError, TextError
from refimpl.explaining import Stage, explain, read_stage, replay
from refimpl.model import EMBEDDED, Model
from refimpl.text import CharacterTokenizer
from refimpl.trees import leaves

NAMES = ("<|endoftext|>", "<unk>", *"abcdefghi")
CONFIG = dataclasses.replace(TINY, bos_token_id=0, eos_token_id=0)
TEXTS = ("abcd", "fe", "ghia", "zbc", "aa", "never used")


def model(dtype: str = "float64", seed: int = 7) -> Model:
    vocabulary = {name: number for number, name in enumerate(NAMES)}
    tokenizer = CharacterTokenizer(vocabulary, ("<|endoftext|>", "<unk>"), "<unk>")
    return Model(weights(CONFIG, HOST[0], dtype, seed), CONFIG, backend.get("numpy"), tokenizer)


def stage(rate: float = 0.01, batches: Any = ((0, 1), (2, 3), (4, 1)), like: Model | None = None) -> Stage:
    """A stage as it is recorded: the losses are those of the steps as they are taken."""
    one, blank = like or model(), Stage(TEXTS, batches, rate, (0.0,) * (len(batches) + 1))
    steps = list(replay(one, blank, recorded=False))
    return blank._replace(
        losses=(*(s.loss for s in steps), explaining.batch_loss(steps[-1].after, one, blank, len(steps)))
    )


# --- the shares ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_the_shares_add_up_to_the_change_of_the_logit(rate: float) -> None:
    """At ten nodes the rule errs by (step length)^20: what is left is rounding, at most 1e-12 of what is added up, with room."""
    found = explain(model(), "abc", stage(rate), nodes=10)
    size = sum(map(abs, found.contributions)) + abs(found.initial) + abs(found.final)
    assert abs(found.residual) <= 1e-12 * size
    assert found.change != 0
    assert math.fsum((found.initial, *found.contributions, found.residual)) == pytest.approx(found.final, rel=1e-15)


def test_a_text_that_was_not_used_has_no_share_and_one_used_twice_both() -> None:
    found, first = explain(model(), "ab", stage()), explain(model(), "ab", stage(), steps=1)
    assert found.contributions[5] == 0
    assert [c != 0 for c in first.contributions] == [True, True, False, False, False, False]
    assert found.contributions[0] == first.contributions[0]
    assert found.contributions[1] != first.contributions[1]


def test_a_share_is_what_leaving_the_text_out_takes_away() -> None:
    """d/dη of the change without the text is the change with it less its share; what differs is O(η²), so a tenth of η leaves a hundredth."""
    gaps = []
    for rate in (1e-3, 1e-4):
        whole = stage(rate, ((0, 1, 2),))
        rows = [[0, *model().tokenizer.encode(TEXTS[n]), 0] for n in (0, 1, 2)]  # type: ignore[union-attr]
        share = (len(rows[0]) - 1 + len(rows[1]) - 1) / sum(len(row) - 1 for row in rows)
        without = stage(
            rate * share, ((0, 1),)
        )  # a mean over fewer tokens, so that the two texts weigh what they weighed
        found, less = explain(model(), "abc", whole, nodes=6), explain(model(), "abc", without, nodes=6)
        gaps.append(abs(found.change - found.contributions[2] - less.change))
    assert gaps[0] > 0
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.1)


def test_unknown_characters_are_no_targets() -> None:
    """The text "zbc" begins with one: its loss is that of the other three targets, and of the end."""
    one = model()
    ids = [0, *one.tokenizer.encode("zbc"), 0]  # type: ignore[union-attr]
    assert ids == [0, 1, 3, 4, 0]
    loss, _ = explaining.text_gradient(one.weights, one, ids, 3)
    logits = gpt2.logits(one.weights, CONFIG, [ids[:-1]])
    log_p = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    assert float(loss) == pytest.approx(-(log_p[0, 1, 3] + log_p[0, 2, 4] + log_p[0, 3, 0]) / 3, rel=1e-13)


def test_a_step_is_plain_gradient_descent() -> None:
    (step,) = replay(model(), stage(0.25), 1)
    for before, after, *parts in zip(
        leaves(step.before), leaves(step.after), *map(leaves, step.gradients), strict=True
    ):
        assert np.array_equal(after, before - 0.25 * (parts[0] + parts[1]))


def test_another_character_can_be_explained() -> None:
    predicted, other = explain(model(), "ab", stage()), explain(model(), "ab", stage(), character="i")
    assert (predicted.token, other.token) == (predicted.predicted[0], 10)
    assert other.contributions != predicted.contributions


# --- refusals -----------------------------------------------------------------------------------------------------------------


def test_a_path_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"not the stage that was recorded\n  where:    after 0 of 3 steps\n(.|\n)*very model"
    ):
        list(replay(model(seed=8), stage()))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_is_checked_too(steps: int) -> None:
    """Its effect shows in the next batch's loss; that of the first batch, where there is no next one."""
    other = stage()._replace(rate=0.02)
    with pytest.raises(
        ConfigError, match=rf"not the stage that was recorded\n  where:    after {min(steps, 1)} of 3 steps"
    ):
        list(replay(model(), other, steps))
    changed = stage()._replace(losses=(*stage().losses[:steps], math.nan, *stage().losses[steps + 1 :]))
    with pytest.raises(ConfigError, match=rf"where:    after {steps} of 3 steps"):
        list(replay(model(), changed, steps))


def test_texts_are_taken_as_they_were_trained_on() -> None:
    """Preparing a text a second time may change it: OpenCC turns one of the 1,600 poems, which are its own answers, into another."""
    one = model()
    one.tokenizer = CharacterTokenizer(one.tokenizer.vocabulary, NAMES[:2], NAMES[1], lambda text: text.upper())  # type: ignore[union-attr]
    assert explaining.text_ids(one, "abc") == [0, 2, 3, 4, 0]
    assert one.prompt_ids("abc") == [0, 1, 1, 1]


@pytest.mark.parametrize("steps", [0, 4, 1.5, True])
def test_steps_that_there_are_not(steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"not so many steps\n  where:    steps\n  expected: 1 to 3"):
        list(replay(model(), stage(), steps))


def test_sixteen_bits() -> None:
    with pytest.raises(
        ConfigError, match=r"32 or 64 bits(.|\n)*got:      float16\n  to do:    load the model with dtype"
    ):
        list(replay(model("float16"), stage()))


def test_two_characters_and_no_prompt() -> None:
    with pytest.raises(TextError, match=r"one token is explained at a time(.|\n)*'ab': 2 tokens"):
        explain(model(), "a", stage(), character="ab")
    without_start = model()
    without_start.config = dataclasses.replace(CONFIG, bos_token_id=None)
    with pytest.raises(TextError, match="there is nothing to read"):
        explain(without_start, "", stage())


@pytest.mark.parametrize(
    "change",
    [
        {"batches": [[0, 9], [1], [2]]},
        {"batches": [[], [1], [2]]},
        {"batches": [[0]]},
        {"batches": [], "losses": [1.0]},
        {"losses": [1.0, 1.0, 1.0]},
        {"rate": 0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"texts": ["a", 3, "b"]},
        {"texts": ["a", "", "b"]},
        {"batches": [[0.5], [1], [2]]},
    ],
)
def test_stages_that_do_not_fit_together(tmp_path: Any, change: Any) -> None:
    good = {"texts": ["a", "b", "c"], "batches": [[0], [1], [2]], "rate": 0.1, "losses": [1.0, 1.0, 1.0, 1.0]}
    (tmp_path / "stage.json").write_text(json.dumps(good))
    assert read_stage(tmp_path) == Stage(("a", "b", "c"), ((0,), (1,), (2,)), 0.1, (1.0, 1.0, 1.0, 1.0))
    (tmp_path / "stage.json").write_text(json.dumps(good | change))
    with pytest.raises(ConfigError, match=r"the stage does not fit together\n  where:    .*stage.json"):
        read_stage(tmp_path)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"texts": []}', '{"texts": 1, "batches": [], "rate": 1, "losses": []}']
)
def test_files_that_are_no_stage(tmp_path: Any, content: str | None) -> None:
    if content is not None:
        (tmp_path / "stage.json").write_text(content)
    with pytest.raises(ConfigError, match=r"no recorded stage\n  where:    .*stage.json(.|\n)*tang has one"):
        read_stage(tmp_path)


# --- the stage that ships ---------------------------------------------------------------------------------------------------------


def test_the_stage_of_the_embedded_model_is_whole() -> None:
    shipped = read_stage(EMBEDDED["tang"])
    assert [len(batch) for batch in shipped.batches] == [8] * 200
    assert sorted(n for batch in shipped.batches for n in batch) == list(range(1600))
    assert len(set(shipped.texts)) == 1600
    about = json.loads((EMBEDDED["tang"] / "stage.json").read_text("utf-8"))["about"]
    assert about["held_out_nats_after"] < about["held_out_nats_before"]


def test_its_first_step_is_explained_by_its_eight_poems() -> None:
    """In float64; three nodes leave an error of the sixth power of the step's length, far below 1e-9 of what is added up."""
    found = explain(
        refimpl.load("tang", backend="numpy", dtype="float64"), "春眠不觉晓，", read_stage(EMBEDDED["tang"]), steps=1
    )
    size = sum(map(abs, found.contributions))
    assert sum(c != 0 for c in found.contributions) == 8
    assert abs(found.residual) <= 1e-9 * size


def test_the_command_shows_weights_that_add_up() -> None:
    done = CliRunner().invoke(app, ["explain", "春眠不觉晓，", "--steps", "1", "--backend", "numpy", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["steps"] == 1
    assert [abs(row["weight"]) for row in found["texts"]] == sorted(
        (abs(row["weight"]) for row in found["texts"]), reverse=True
    )
    assert found["sum_of_weights"] + found["residual"] == pytest.approx(found["logit"]["change"], abs=1e-12)
    shown = CliRunner().invoke(app, ["explain", "春眠不觉晓，", "--steps", "1", "--backend", "numpy", "--top", "3"])
    assert shown.exit_code == 0, shown.output
    assert "8 texts: sum" in shown.stdout
    assert len([line for line in shown.stdout.splitlines() if "%" in line]) == 3
