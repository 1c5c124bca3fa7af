"""Which texts moved a prediction: the last stage of a model's training, taken again, and every text's share in what it did to one logit.

    θ_{t+1} = θ_t - η Σ_i ∇ℓ_i(θ_t),    ℓ_i = (1/n_t) Σ -log p(next token)              i the texts of step t, n_t their tokens     (1)

    y(θ_T) - y(θ_0) = Σ_i c_i + residual,   c_i = -Σ_t η <∫_0^1 ∇y(θ_t + s (θ_{t+1} - θ_t)) ds, ∇ℓ_i(θ_t)>                           (2)

y is the logit of one token after a prompt. (2) is the exact form of the path kernel (`refimpl.path_kernel`, equation (5)), in which each text's loss
is one number: the residual is rounding and quadrature. A text with c_i > 0 made the token more likely to be written, compared with e^0; one with
c_i < 0 less. What the training before the stage did, (2) does not say.

A *stage* is a file: texts as they were trained on, which of them each step used, η, and the mean loss of every step as it was when the stage was
recorded. It begins with the weights of the model beside it. Taking it again follows the same path, to the last bit on the same machine and
libraries, and to rounding on others. The losses before each step, and that of the next batch after the last one, must be the recorded ones.

References: B. Bell et al., "An exact kernel equivalence for finite classification models", arXiv 2308.00824, section 3; P. Domingos, "Every
model learned by gradient descent is approximately a kernel machine", arXiv 2012.00152.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl import gpt2
from refimpl.errors import ConfigError, TextError
from refimpl.learning.models import gpt2_loss_vjp
from refimpl.number_system import SIXTEEN_BITS, Array, device_of, exact, namespace, whole_number
from refimpl.path_kernel import averaged_gradients, inner_products
from refimpl.trees import Tree, mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from refimpl.gradients import Pullback
    from refimpl.model import Model

__all__ = [
    "Explanation",
    "Stage",
    "StageStep",
    "batch_loss",
    "explain",
    "read_stage",
    "replay",
    "text_gradient",
    "text_ids",
]

# Nats a token. In float32 all losses of the embedded model's stage were within 4e-7 of the recorded ones, of float64. A step left
# out, of the first 40, moved the next loss by 2.6e-5 at least and 2.5e-4 in the middle; a rate 1.1 times as large does a tenth of that.
AGREEMENT = 2e-6


class Stage(NamedTuple):
    """A recorded stage of training: plain gradient descent, a batch of texts a step."""

    texts: tuple[str, ...]
    batches: tuple[tuple[int, ...], ...]  # for each step the numbers of its texts
    rate: float  # η
    losses: tuple[
        float, ...
    ]  # in nats a token: of each step's batch before the step, and of the first batch after all of them


class StageStep(NamedTuple):
    """One step of a stage: after = before - rate · Σ gradients."""

    before: Tree
    after: Tree
    texts: tuple[int, ...]
    gradients: tuple[Tree, ...]  # ∇ℓ_i, one for each of the texts
    loss: float


class Explanation(NamedTuple):
    """A logit's change over a stage as a sum over texts: final = initial + Σ contributions + residual."""

    token: int
    initial: float  # the logit before the stage
    final: float  # and after it
    contributions: tuple[float, ...]  # of each text of the stage, signed
    residual: float
    predicted: tuple[int, int]  # the most probable token before and after the stage

    @property
    def change(self) -> float:
        """final - initial."""
        return self.final - self.initial


def read_stage(path: str | Path) -> Stage:
    """The stage in a JSON file, or in stage.json in the folder of a model; raises ConfigError for what is none."""
    file = Path(path)
    file = file / "stage.json" if file.is_dir() else file
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        texts, batches = tuple(found["texts"]), tuple(map(tuple, found["batches"]))
        stage = Stage(texts, batches, float(found["rate"]), tuple(map(float, found["losses"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "a JSON file with texts, batches, rate and losses"
        remedy = "a stage is recorded while a model is trained; of the embedded models, tang has one"
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("no recorded stage", where=file, expected=expected, got=got, remedy=remedy) from None
    wrong = [n for batch in batches for n in batch if whole_number(n) is None or not 0 <= n < len(texts)]
    whole = batches and all(batches) and len(stage.losses) == len(batches) + 1 and all(map(_is_text, texts))
    if wrong or not whole or not 0 < stage.rate < math.inf:
        expected = f"texts, batches of numbers below {len(texts)}, one loss more than batches, a rate above 0"
        got = f"{len(batches)} batches, {len(stage.losses)} losses, rate {stage.rate}, wrong numbers: {wrong[:3]}"
        raise ConfigError("the stage does not fit together", where=file, expected=expected, got=got)
    return stage


def _is_text(text: object) -> bool:
    return isinstance(text, str) and bool(text)


def text_ids(model: Model, text: str) -> list[int]:
    """The text, as it was trained on, between the model's start and end tokens."""
    tokenizer: Any = model._tokenizer()
    tokenizer = getattr(tokenizer, "without_preparation", lambda: tokenizer)()
    start, end = model.config.bos_token_id, model.config.eos_token_id
    return [*(() if start is None else (start,)), *tokenizer.encode(text), *(() if end is None else (end,))]


def _rows(model: Model, stage: Stage, batch: tuple[int, ...]) -> tuple[list[list[int]], int]:
    """The texts of a batch, and how many targets they have: unknown characters are none."""
    rows, unknown = [text_ids(model, stage.texts[number]) for number in batch], model.unknown_id
    return rows, sum(token != unknown for ids in rows for token in ids[1:])


def _text_loss(weights: gpt2.GPT2Weights, model: Model, ids: Sequence[int], count: int) -> tuple[Array, Pullback]:
    """ℓ of `text_gradient`, and its pullback to the weights."""
    table, unknown = weights.token_embedding, model.unknown_id
    xp = namespace(table)
    row = xp.asarray([list(ids)], dtype=xp.int64, device=device_of(table))
    targets = row[:, 1:]
    counted = xp.ones_like(targets, dtype=xp.bool) if unknown is None else targets != unknown
    return gpt2_loss_vjp(weights, model.config, row[:, :-1], targets, counted, count, dialect=model.dialect)


def text_gradient(
    weights: gpt2.GPT2Weights, model: Model, ids: Sequence[int], count: int
) -> tuple[Array, gpt2.GPT2Weights]:  # -> (), gradient
    """ℓ = (1/count) Σ_t -log p(id_{t+1} | id_0 .. id_t) over the targets that are known characters, and ∇ℓ."""
    loss, pullback = _text_loss(weights, model, ids, count)
    return loss, pullback(namespace(loss).ones_like(loss))[0]


def replay(model: Model, stage: Stage, steps: int | None = None, *, recorded: bool = True) -> Iterator[StageStep]:
    """Equation (1), step by step, beginning with the model's weights.

    Parameters
    ----------
    model : a GPT-2 in float32 or float64
    stage : what is taken again
    steps : how many of its steps; None: all
    recorded : whether the loss of every step, and of the next batch after the last one, must be the recorded one, within 2e-6 nats; False: losses are
        not looked at, as when a stage is recorded

    Raises
    ------
    ConfigError
        if the weights have 16 bits, there are not so many steps, or a loss is not the recorded one.
    """
    dtype = str(model.weights.token_embedding.dtype)
    if dtype in SIXTEEN_BITS:
        remedy = 'load the model with dtype="float32"'
        raise ConfigError("a stage is taken in 32 or 64 bits", where="explain", got=dtype, remedy=remedy)
    count = len(stage.batches) if steps is None else whole_number(steps)
    if count is None or not 1 <= count <= len(stage.batches):
        expected = f"1 to {len(stage.batches)}"
        raise ConfigError("the stage has not so many steps", where="steps", expected=expected, got=repr(steps))
    weights = model.weights
    for t, batch in enumerate(stage.batches[:count]):
        step = _taken(weights, model, stage, batch)
        if recorded:
            _check_loss(stage, t, step.loss)
            if t == count - 1:
                _check_loss(stage, count, batch_loss(step.after, model, stage, count))
        yield step
        weights = step.after


def _check_loss(stage: Stage, t: int, loss: float) -> None:
    if not abs(loss - stage.losses[t]) <= AGREEMENT:
        raise ConfigError(
            "this is not the stage that was recorded",
            where=f"after {t} of {len(stage.batches)} steps",
            expected=f"a mean loss of {stage.losses[t]:.6f}, within {AGREEMENT}",
            got=f"{loss:.6f}",
            remedy="use the stage with the very model that it came with",
        )


def batch_loss(weights: gpt2.GPT2Weights, model: Model, stage: Stage, t: int) -> float:
    """The mean loss of the batch of step t, from 0, in nats a token; of the first batch after the last one."""
    rows, count = _rows(model, stage, stage.batches[t % len(stage.batches)])
    return math.fsum(float(_text_loss(weights, model, ids, count)[0]) for ids in rows)


def _taken(weights: gpt2.GPT2Weights, model: Model, stage: Stage, batch: tuple[int, ...]) -> StageStep:
    """One step on the texts of one batch."""
    rows, count = _rows(model, stage, batch)
    losses, gradients = zip(*(text_gradient(weights, model, ids, count) for ids in rows), strict=True)
    rate = exact(stage.rate, weights.token_embedding)
    after = mapped(lambda leaf, *parts: leaf - rate * sum(parts[1:], start=parts[0]), weights, *gradients)
    return StageStep(weights, after, batch, gradients, math.fsum(float(loss) for loss in losses))


def _last_logits(weights: gpt2.GPT2Weights, model: Model, ids: Sequence[int]) -> Array:  # -> (vocab,)
    return gpt2.logits(weights, model.config, [list(ids)], dialect=model.dialect)[0, -1, :]


def _logit_of(model: Model, token: int) -> Callable[[Tree, Array], tuple[Array, Callable[[Array], Tree]]]:
    """The logit of a token after rows of ids, as a model in the sense of `refimpl.path_kernel`."""

    def observed(weights: gpt2.GPT2Weights, ids: Array) -> tuple[Array, Callable[[Array], Tree]]:
        logits, pullback = gpt2.logits_vjp(weights, model.config, ids, dialect=model.dialect)
        xp = namespace(logits)
        last = xp.arange(logits.shape[1], device=device_of(logits))[:, None] == logits.shape[1] - 1
        chosen = last & (xp.arange(logits.shape[2], device=device_of(logits))[None, :] == token)

        def back(y_bar: Array) -> Tree:  # (rows,) -> weights
            return pullback(xp.where(chosen[None, ...], y_bar[:, None, None], exact(0, logits)))[0]

        return logits[:, -1, token], back

    return observed


def _token(model: Model, character: str) -> int:
    ids = model._tokenizer().encode(character)
    if len(ids) != 1:
        got = f"{character!r}: {len(ids)} tokens"
        raise TextError("one token is explained at a time", where="character", expected="a single token", got=got)
    return ids[0]


def explain(
    model: Model,
    prompt: str,
    stage: Stage,
    *,
    character: str | None = None,
    steps: int | None = None,
    nodes: int = 2,
    advance: Callable[[], object] = lambda: None,
) -> Explanation:
    """y(θ_T) - y(θ_0) = Σ_i c_i + residual: what each text of the stage did to the logit y of one token after the prompt, equation (2).

    Parameters
    ----------
    model : a GPT-2 in float32 or float64, with its tokenizer: θ_0
    prompt : what the model reads; empty is what it makes of the start token
    stage : of `read_stage`
    character : what is explained, one token; None: the most probable one before the stage
    steps : of the stage; None: all of them, which takes some minutes for the embedded model
    nodes : of the integral over a step
    advance : called after each step

    Returns
    -------
    Explanation. The weights of two steps, a gradient for each text of a step and one of the logit are held at once

    Raises
    ------
    ConfigError, TextError, TokenizerError
        as `replay`, and if the character is not one token, or there is neither a prompt nor a start token.
    """
    ids = model.prompt_ids(prompt)
    if not ids:
        raise TextError("there is nothing to read", where="prompt", expected="a text", got=repr(prompt))
    before = _last_logits(model.weights, model, ids)
    xp = namespace(before)
    token = int(xp.argmax(before)) if character is None else _token(model, character)
    rows = xp.asarray([ids], dtype=xp.int64, device=device_of(before))
    observed, contributions, weights = _logit_of(model, token), [0.0] * len(stage.texts), model.weights
    for step in replay(model, stage, steps):
        along = averaged_gradients(observed, step.before, step.after, rows, nodes)
        for number, gradient in zip(step.texts, step.gradients, strict=True):
            contributions[number] -= stage.rate * float(inner_products(along, gradient, 1, 1)[0, 0])
        weights = step.after
        advance()
    after = _last_logits(weights, model, ids)
    initial, final = float(before[token]), float(after[token])
    residual = final - initial - math.fsum(contributions)
    predicted = int(xp.argmax(before)), int(xp.argmax(after))
    return Explanation(token, initial, final, tuple(contributions), residual, predicted)
