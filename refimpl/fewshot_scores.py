r"""How likely a model finds given answers: exact log-probabilities, what rows have in common read once.

    log p(answer | prompt) = Σ_i log p(a_i | prompt, a_1..a_{i-1})

The tokens of an answer depend on where the text is cut. `boundary="separate"` encodes prompt and answer each for itself and puts the ids
together: so do CPM's own scripts (zero-shot-cls.py: `prompt_tokens + tokenized_sentence`), and so does whoever generates after a prompt.
`boundary="joint"` encodes the text as a whole, whose tokens may reach across the boundary; then all choices are scored from the first token
in which any of them differs from the prompt's own ids, so that all are given the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl import decoding
from refimpl.errors import ConfigError, TextError, TokenError
from refimpl.number_system import device_of, namespace
from refimpl.softmax import log_softmax

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from refimpl.model import Model
    from refimpl.number_system import Array

__all__ = ["Choice", "Chosen", "Row", "choose", "log_probabilities"]

POSITIONS = 2048  # positions that are held at once, at most, but for one row alone: their logits, and the keys and values of all rows


class Row(NamedTuple):
    """Token ids, and the index from which they are scored."""

    ids: tuple[int, ...]
    first: int


class Choice(NamedTuple):
    """An answer and how likely it is."""

    text: str
    ids: list[int]  # those that are scored
    log_probabilities: list[float]  # of each, given all before it

    @property
    def log_probability(self) -> float:
        """Σ log p."""
        return math.fsum(self.log_probabilities)

    @property
    def mean(self) -> float:
        """Σ log p / tokens: minus the mean cross-entropy."""
        return self.log_probability / len(self.ids)


class Chosen(NamedTuple):
    """Choices and their order."""

    choices: list[Choice]  # as they were given
    scores: list[float]  # Σ log p, or its mean a token
    order: list[int]  # best first; equals in the order in which they were given

    @property
    def best(self) -> Choice:
        """The first of the best."""
        return self.choices[self.order[0]]

    @property
    def ties(self) -> list[int]:
        """The indices of all whose score is exactly that of the best."""
        return [index for index in self.order if self.scores[index] == self.scores[self.order[0]]]


def choose(
    model: Model,
    prompt: str,
    choices: Sequence[str],
    *,
    normalize: str = "sum",
    boundary: str = "separate",
    end: str = "",
) -> Chosen:
    r"""score(c) = Σ log p(c_i | prompt, c_1..c_{i-1}), or its mean over the tokens: the order of the choices.

    Parameters
    ----------
    model : a loaded GPT-2 with a tokenizer
    prompt : text; at least one token, the start token included
    choices : texts, at least one; equal ones get equal scores
    normalize : "sum" or "mean"
    boundary : "separate" or "joint": see the module
    end : put after every choice, so that an answer is scored with its end: "\n", where answers end with the line

    Returns
    -------
    Chosen

    Raises
    ------
    ConfigError, TextError, TokenError, TokenizerError
        for no choice, one without a token, too long a text, unknown words.
    """
    for name, value, known in (
        ("normalize", normalize, ("sum", "mean")),
        ("boundary", boundary, ("separate", "joint")),
    ):
        if value not in known:
            expected = " or ".join(map(repr, known))
            raise ConfigError(f"unknown {name}", where="fewshot.choose", expected=expected, got=repr(value))
    if not choices:
        raise TextError("there is nothing to choose from", where="fewshot.choose", expected="at least one choice")
    rows = _rows(model, prompt, [choice + end for choice in choices], boundary)
    for number, (choice, row) in enumerate(zip(choices, rows, strict=True)):
        if row.first >= len(row.ids):
            got = f"choices[{number}] = {choice!r}"
            raise TextError(
                "a choice has no token of its own", where="fewshot.choose", expected="text after the prompt", got=got
            )
    values = log_probabilities(model, rows)
    found = [Choice(c, list(r.ids[r.first :]), v) for c, r, v in zip(choices, rows, values, strict=True)]
    scores = [each.log_probability if normalize == "sum" else each.mean for each in found]
    return Chosen(found, scores, sorted(range(len(scores)), key=lambda index: -scores[index]))


def _rows(model: Model, prompt: str, answers: Sequence[str], boundary: str) -> list[Row]:
    start = model.prompt_ids(prompt)
    if boundary == "separate":
        encode = model._tokenizer().encode
        return [Row((*start, *encode(answer)), len(start)) for answer in answers]
    whole = [model.prompt_ids(prompt + answer) for answer in answers]
    first = min(decoding.common_prefix([start, ids]) for ids in whole)
    return [Row(tuple(ids), first) for ids in whole]


def log_probabilities(model: Model, rows: Sequence[Row]) -> list[list[float]]:
    """log p(id_j | id_0..id_{j-1}) for j from `first` on, of each row: float64 log-softmax of the model's logits, -∞ where a token is ruled out.

    What all rows have in common is read once, and equal rows are. Raises TokenError for a row whose first token would be scored, which
    nothing precedes, or that is longer than the position table, and for logits that are not numbers.
    """
    decoder = model._decoder()
    _check(rows, decoder.context)
    if not rows:
        return []
    different = list(dict.fromkeys(rows))
    shared = min(decoding.common_prefix([row.ids[:-1] for row in different]), min(row.first for row in different))
    logits, state = decoder.start([list(different[0].ids[:shared])])
    head = log_softmax(decoding.wide(logits[:1, :]))
    found: dict[Row, list[float]] = {row: [] for row in different}
    for row in different:
        if row.first == shared:
            found[row] += _picked(model, head, [row.ids[shared]])
    for group in _groups(different, shared):
        chosen = decoder.select(state, [0] * len(group))
        rests = [row.ids[shared:-1] for row in group]
        for place, scores in enumerate(_columns(decoder, chosen, rests), shared + 1):
            wanted = [row.first <= place < len(row.ids) for row in group]
            if any(wanted):
                targets = [row.ids[place] if want else 0 for row, want in zip(group, wanted, strict=True)]
                values = _picked(model, log_softmax(decoding.wide(scores)), targets)
                for row, want, value in zip(group, wanted, values, strict=True):
                    found[row] += [value] if want else []
    if any(math.isnan(value) for values in found.values() for value in values):
        remedy = "check the model's weights for NaN, or compute in a wider dtype"
        raise TokenError("log-probabilities are not numbers", where="fewshot", expected="finite logits", remedy=remedy)
    return [list(found[row]) for row in rows]


def _check(rows: Sequence[Row], context: int) -> None:
    for number, row in enumerate(rows):
        if row.first < 1:
            raise TokenError(
                "nothing precedes the first token that is scored",
                where=f"row {number}",
                expected="a prompt of at least one token, or a model with a start token (bos_token_id)",
            )
        if len(row.ids) - 1 > context:
            raise TokenError(
                "the sequence runs past the position table",
                where=f"row {number}",
                expected=f"at most {context} tokens before the last (n_positions = {context})",
                got=f"{len(row.ids)} tokens",
                remedy="shorten the prompt, or load the model with more positions (refimpl.load(positions=...))",
            )


def _groups(rows: Sequence[Row], shared: int) -> Iterator[list[Row]]:
    """The rows of which more than the shared ids is to be read, those of like length together, so many at a time as `POSITIONS` allows."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if len(row.ids) - 1 == shared:  # its one token is scored already
            continue
        if group and (len(group) + 1) * len(row.ids) > POSITIONS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _columns(decoder: Any, state: Any, rows: Sequence[Sequence[int]]) -> Iterator[Array]:
    """The logits (rows, vocab) after each row's first token, after its second, ..; those after a row's end mean nothing."""
    longest = max(map(len, rows))
    padded = [[*row, *([0] * (longest - len(row)))] for row in rows]
    if not hasattr(decoder, "read"):  # one token at a time, as any decoder can
        for place in range(longest):
            logits, state = decoder.advance([[row[place]] for row in padded], state)
            yield logits
        return
    scores, _ = decoder.read(padded, state, [[place < len(row) for place in range(longest)] for row in rows])
    for place in range(longest):
        yield scores[:, place, :]


def _picked(model: Model, log_p: Array, targets: Sequence[int]) -> list[float]:  # (rows, vocab) -> one number a row
    xp = namespace(log_p)
    index = xp.asarray(list(targets), device=device_of(log_p))
    picked = xp.take_along_axis(log_p, index[:, None], axis=-1)
    return [float(value) for value in model.backend.to_numpy(picked)[:, 0]]
