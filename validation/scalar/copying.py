"""Copied spans from their description, by recursion and by comparing pieces of lists.

Labels: a longest common subsequence, found from the ends; B where a pair does not continue the one before, I where it does, O elsewhere.
A step: O allows all; B the source's tokens; I those that continue the last s tokens somewhere in the source, and as B where there are none.
Loss: the mean of -log p of the labels, over all positions that a token of the target comes after.

Reference: J. Su, Scientific Spaces 8046 (2021), section on BIO copy.
"""

from __future__ import annotations

import functools
from typing import Any

from mpmath import mp, mpf

from validation.scalar.numbers import scalar

__all__ = ["copy_labels", "copy_loss", "copy_states", "copy_step"]

Ids = tuple[int, ...]


@functools.cache
def _longest(x: Ids, y: Ids) -> int:
    """The length of a longest common subsequence."""
    if not x or not y:
        return 0
    if x[-1] == y[-1]:
        return 1 + _longest(x[:-1], y[:-1])
    return max(_longest(x[:-1], y), _longest(x, y[:-1]))


def _pairs(x: Ids, y: Ids) -> list[tuple[int, int]]:
    """Positions of a longest common subsequence: equal ends are a pair, else the end is dropped that costs less, rather the source's."""
    if not x or not y:
        return []
    if x[-1] == y[-1]:
        return [*_pairs(x[:-1], y[:-1]), (len(x) - 1, len(y) - 1)]
    shorter_source = _longest(x[:-1], y) >= _longest(x, y[:-1])
    return _pairs(x[:-1], y) if shorter_source else _pairs(x, y[:-1])


@scalar
def copy_labels(source: Any, target: Any) -> Any:
    """The label of every token of the source, then of the target."""
    pairs = set(_pairs(tuple(source), tuple(target)))
    label = {pair: 2 if (pair[0] - 1, pair[1] - 1) in pairs else 1 for pair in pairs}
    of_source, of_target = ({pair[side]: each for pair, each in label.items()} for side in (0, 1))
    found = [of_source.get(i, 0) for i in range(len(source))] + [of_target.get(j, 0) for j in range(len(target))]
    return [mpf(each) for each in found]


def _tag(o: Any, b: Any, i: Any, state: int, dialect: str) -> str:
    """The first of the largest scores; I begins nothing: it is out of the question, or its score is negated."""
    if state == 0 and dialect == "corrected":
        return "B" if b > o else "O"
    i = -i if state == 0 else i
    return "I" if i > max(o, b) else "B" if b > o else "O"


def _one(scores: Any, state: int, source: Any, emitted: Any, dialect: str) -> tuple[set[int] | None, int]:
    """The tokens that may be next (None: any), and the new state."""
    tag = _tag(*scores, state, dialect)
    if tag == "O":
        return None, 0
    if tag == "I":
        span = emitted[len(emitted) - state :]
        places = [i for i in range(state, len(source)) if source[i - state : i] == span]
        if places:
            return {source[i] for i in places}, state + 1
    return set(source), 1


@scalar
def copy_step(tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str) -> Any:
    """1 for every token that may be next, 0 for the others."""
    allowed = [_one(scores, s, source, y, dialect)[0] for scores, s, y in zip(tag_scores, states, emitted, strict=True)]
    return [[mpf(tokens is None or v in tokens) for v in range(vocab_size)] for tokens in allowed]


@scalar
def copy_states(tag_scores: Any, states: Any, source: Any, emitted: Any, vocab_size: int, dialect: str) -> Any:
    """The new states."""
    return [
        mpf(_one(scores, s, source, y, dialect)[1]) for scores, s, y in zip(tag_scores, states, emitted, strict=True)
    ]


@scalar
def copy_loss(tag_logits: Any, labels: Any, segment_ids: Any) -> Any:
    """The mean loss, as a list of one."""
    losses = []
    for logits, wanted, segments in zip(tag_logits, labels, segment_ids, strict=True):
        last = max((t for t, segment in enumerate(segments) if segment == 1), default=0)
        for one, label in zip(logits[:last], wanted[:last], strict=True):
            losses.append(-mp.log(mp.exp(one[label]) / mp.fsum(map(mp.exp, one))))
    return [mp.fsum(losses) / len(losses)]
