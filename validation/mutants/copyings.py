"""Bugs of copied spans: of their labels, of the steps that decode them, and of the loss of the tags."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTANTS", "TWINS"]

Pairs = list[tuple[int, int]]


# --- labels -------------------------------------------------------------------------------------------------------------------------


def _table(x: Any, y: Any) -> Any:  # (n,), (m,) -> int (n+1, m+1)
    """c[i, j]: the length of a longest common subsequence of the first i and the first j."""
    c = np.zeros((len(x) + 1, len(y) + 1), dtype=np.int64)
    for i, j in np.ndindex(len(x), len(y)):
        c[i + 1, j + 1] = c[i, j] + 1 if x[i] == y[j] else max(c[i, j + 1], c[i + 1, j])
    return c


def _walk(x: Any, y: Any, left: Callable[[Any, Any], Any] = operator.gt, equal_first: bool = True) -> Pairs:
    """Pairs from the ends; the target's end is dropped where `left` says so of the lengths without it and without the source's."""
    c, i, j, pairs = _table(x, y), len(x), len(y), []
    while c[i, j]:
        apart = c[i - 1, j - 1] + 1 > max(c[i - 1, j], c[i, j - 1])
        if x[i - 1] == y[j - 1] and (equal_first or apart):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif left(c[i, j - 1], c[i - 1, j]):
            j -= 1
        else:
            i -= 1
    return pairs[::-1]


def _from_the_front(x: Any, y: Any) -> Pairs:
    n, m = len(x) - 1, len(y) - 1
    return [(n - i, m - j) for i, j in _walk(x[::-1], y[::-1])][::-1]


def _greedy(x: Any, y: Any) -> Pairs:
    """For each token of the target, the next equal one of the source."""
    pairs, i = [], 0
    for j, token in enumerate(y):
        later = np.flatnonzero(x[i:] == token)
        if later.size:
            pairs.append((i + int(later[0]), j))
            i += int(later[0]) + 1
    return pairs


def _substring(x: Any, y: Any) -> Pairs:
    """The longest common substring alone."""
    best: tuple[int, int, int] = (0, 0, 0)
    for i, j in np.ndindex(len(x), len(y)):
        size = 0
        while i + size < len(x) and j + size < len(y) and x[i + size] == y[j + size]:
            size += 1
        best = max(best, (size, i, j))
    return [(best[1] + k, best[2] + k) for k in range(best[0])]


def _anywhere(x: Any, y: Any) -> Pairs:
    """Every token of the target that the source has, at its first place there."""
    return [(int(np.flatnonzero(x == token)[0]), j) for j, token in enumerate(y) if np.any(x == token)]


def _continues(before: tuple[int, int], pair: tuple[int, int]) -> bool:
    return pair == (before[0] + 1, before[1] + 1)


def _labels(
    source: Any,
    target: Any,
    pairs: Callable[[Any, Any], Pairs] = _walk,
    continues: Callable[[tuple[int, int], tuple[int, int]], bool] = _continues,
    names: tuple[int, int] = (1, 2),
    joined: Callable[[Any, Any], Any] = lambda x, y: np.concatenate([x, y]),
) -> Any:
    x, y = np.zeros(len(source), np.int64), np.zeros(len(target), np.int64)
    before = (-2, -2)
    for pair in pairs(source, target):
        x[pair[0]] = y[pair[1]] = names[continues(before, pair)]
        before = pair
    return joined(x, y)


def _of_labels(name: str, flag: str, **replaced: Any) -> Mutant:
    return Mutant("copy_labels", name, flag, functools.partial(_labels, **replaced))


_LABELS = (
    _of_labels("ties drop the target's token", "tie-rule", pairs=functools.partial(_walk, left=operator.ge)),
    _of_labels("walked from the front", "tie-rule", pairs=_from_the_front),
    _of_labels(
        "equal ends are kept only if they must be", "tie-rule", pairs=functools.partial(_walk, equal_first=False)
    ),
    _of_labels("the next equal token", "approximate-function", pairs=_greedy),
    _of_labels("the longest common substring", "approximate-function", pairs=_substring),
    _of_labels("every token that the source has", "approximate-function", pairs=_anywhere),
    _of_labels("the last token of the source left out", "off-by-one", pairs=lambda x, y: _walk(x[:-1], y)),
    _of_labels(
        "the first token of the target left out",
        "off-by-one",
        pairs=lambda x, y: [(i, j + 1) for i, j in _walk(x, y[1:])],
    ),
    _of_labels("I wherever the target goes on", "copied-span", continues=lambda a, b: b[1] == a[1] + 1),
    _of_labels("I wherever the source goes on", "copied-span", continues=lambda a, b: b[0] == a[0] + 1),
    _of_labels("B for every token of a span", "copied-span", names=(1, 1)),
    _of_labels("I for every token of a span", "copied-span", names=(2, 2)),
    _of_labels(
        "a first token at the very beginning is I",
        "copied-span",
        continues=lambda a, b: _continues(a, b) or b == (0, 0),
    ),
    _of_labels("B and I exchanged", "exchanged", names=(2, 1)),
    _of_labels("the target first", "exchanged", joined=lambda x, y: np.concatenate([y, x])),
    _of_labels("no labels of the source", "missing-term", joined=lambda x, y: np.concatenate([0 * x, y])),
    _of_labels(
        "every position says the next token's",
        "off-by-one",
        joined=lambda x, y: np.append(np.concatenate([x, y])[1:], 0),
    ),
    _of_labels("token ids of 16 bits", "overflow", pairs=lambda x, y: _walk(x.astype(np.uint16), y.astype(np.uint16))),
    _of_labels("answers of 32 bits", "dtype-leak", joined=lambda x, y: np.concatenate([x, y]).astype(np.int32)),
)


# --- steps --------------------------------------------------------------------------------------------------------------------------


def _published(scores: Any, state: int, dialect: str) -> Any:
    """The scores that the tag is chosen by."""
    barred = -scores[2] if dialect == "bert4keras-spaces" else -np.inf
    return np.array([scores[0], scores[1], barred if state == 0 else scores[2]])


def _after(x: list[int], span: list[int]) -> list[int]:
    """The positions of the source that come after the span."""
    m = len(span)
    return [i for i in range(m, len(x)) if x[i - m : i] == span]


def _wrapped(x: list[int], span: list[int]) -> list[int]:
    return sorted({i % len(x) for i in _after(x + x, span)})


def _span(y: list[int], state: int) -> list[int]:
    return y[len(y) - state :]


def _step(
    tag_scores: Any,
    states: Any,
    source: Any,
    emitted: Any,
    vocab_size: int,
    dialect: str,
    scored: Callable[..., Any] = _published,
    chosen: Callable[[Any], Any] = np.argmax,
    span: Callable[[list[int], int], list[int]] = _span,
    after: Callable[[list[int], list[int]], list[int]] = _after,
    lost: Callable[[list[int], int], tuple[list[int], int]] = lambda x, state: (list(range(len(x))), 1),
    numbered: Callable[[int, int], int] = lambda tag, state: (0, 1, state + 1)[tag],
    outside: Callable[[Any, list[int]], Any] = lambda row, x: row | True,
    order: Callable[[Any], Any] = lambda states: states,
) -> tuple[Any, Any]:
    x, allowed, new = source.tolist(), np.zeros((len(states), vocab_size), bool), np.zeros(len(states), np.int64)
    for r, state in enumerate(map(int, order(states))):
        with np.errstate(all="ignore"):
            tag = int(chosen(scored(tag_scores[r].astype(np.float64), state, dialect)))
        places, new[r] = list(range(len(x))), numbered(tag, state)
        if tag == 2:
            places = after(x, span(emitted[r].tolist(), state))
            places, new[r] = (places, new[r]) if places else lost(x, state)
        allowed[r, [x[i] for i in places]] = True
        allowed[r] = outside(allowed[r], x) if tag == 0 else allowed[r]
    return allowed, new


def _last_of_equal(scores: Any) -> Any:
    return len(scores) - 1 - int(np.argmax(scores[::-1]))


def _only(source: Any) -> Callable[[Any, list[int]], Any]:
    """What O allows: all but the source, or the source alone."""

    def allowed(row: Any, x: list[int]) -> Any:
        inside = np.isin(np.arange(len(row)), x)
        return inside if source else ~inside

    return allowed


def _of_step(part: int, component: str) -> Callable[..., Mutant]:
    def of(
        name: str,
        flag: str,
        *,
        changed: Callable[[Any], Any] = lambda answer: answer,
        dtypes: tuple[str, ...] | None = None,
        **replaced: Any,
    ) -> Mutant:
        def function(*arrays: Any, **params: Any) -> Any:
            return changed(_step(*arrays, **params, **replaced)[part])

        return Mutant(component, name, flag, function, *(() if dtypes is None else (dtypes,)))

    return of


def _both(of: Callable[..., Mutant]) -> tuple[Mutant, ...]:
    """Bugs that show in what is allowed as well as in the states."""
    return (
        of("I after O", "tag-transition", scored=lambda z, state, dialect: z),
        of(
            "the score of I is always negated in state 0",
            "dialect",
            scored=lambda z, state, dialect: _published(z, state, "bert4keras-spaces"),
        ),
        of(
            "I is always barred in state 0",
            "dialect",
            scored=lambda z, state, dialect: _published(z, state, "corrected"),
        ),
        of(
            "I is barred in state 1 too",
            "off-by-one",
            scored=lambda z, state, dialect: _published(z, max(state - 1, 0), dialect),
        ),
        of("B and I exchanged", "exchanged", scored=lambda z, state, dialect: _published(z[[0, 2, 1]], state, dialect)),
        of("O and B exchanged", "exchanged", scored=lambda z, state, dialect: _published(z[[1, 0, 2]], state, dialect)),
        of("the last of equal scores", "tie-rule", chosen=_last_of_equal),
        of("the smallest score", "sign", chosen=np.argmin),
        of(
            "scores in bfloat16",
            "low-precision",
            dtypes=("float16", *LONG),
            scored=lambda z, s, d: _published(in_bfloat16(z), s, d),
        ),
        of("a span of one token less", "off-by-one", span=lambda y, state: _span(y, max(state - 1, 0))),
        of("a span of one token more", "off-by-one", span=lambda y, state: _span(y, min(state + 1, len(y)))),
        of("the first emitted tokens", "copied-span", span=lambda y, state: y[:state]),
        of("after the last token alone", "copied-span", span=lambda y, state: _span(y, min(state, 1))),
        of("the source is a ring", "copied-span", after=_wrapped),
        of("the state of another hypothesis", "hypothesis-state", order=lambda states: np.roll(states, 1)),
        of("states never kept", "hypothesis-state", order=lambda states: 0 * states),
    )


_of_allowed, _of_states = _of_step(0, "copy_step"), _of_step(1, "copy_states")
_STEP = (
    *_both(_of_allowed),
    _of_allowed("I allows any token of the source", "copied-span", after=lambda x, span: list(range(len(x)))),
    _of_allowed("the first continuation alone", "copied-span", after=lambda x, span: _after(x, span)[:1]),
    _of_allowed("the token before the next", "off-by-one", after=lambda x, span: [i - 1 for i in _after(x, span)]),
    _of_allowed("nothing where no continuation exists", "copied-span", lost=lambda x, state: ([], 1)),
    _of_allowed(
        "everything where no continuation exists",
        "copied-span",
        lost=lambda x, state: ([], 0),
        changed=lambda a: a | ~a.any(1, keepdims=True),
    ),
    _of_allowed("O allows the source alone", "mask-ignored", outside=_only(source=True)),
    _of_allowed("O allows all but the source", "mask-inverted", outside=_only(source=False)),
    _of_allowed("true hides", "mask-inverted", changed=operator.invert),
    _of_allowed("token ids shifted by one", "off-by-one", changed=lambda a: np.roll(a, 1, axis=1)),
    _of_allowed("the same for every hypothesis", "wrong-axis", changed=lambda a: np.repeat(a[:1], len(a), axis=0)),
    _of_allowed("the last token of the source left out", "ragged-tail", after=lambda x, span: _after(x[:-1], span)),
    _of_allowed("0 and 1 for truth values", "dtype-leak", changed=lambda a: a.astype(np.int64)),
)
_STATES = (
    *_both(_of_states),
    _of_states("not reset by O", "copied-span", numbered=lambda tag, state: (state, 1, state + 1)[tag]),
    _of_states("B goes on counting", "copied-span", numbered=lambda tag, state: (0, state + 1, state + 1)[tag]),
    _of_states("I does not count", "copied-span", numbered=lambda tag, state: (0, 1, max(state, 1))[tag]),
    _of_states("the tag for the state", "copied-span", numbered=lambda tag, state: tag),
    _of_states("counts on where no continuation exists", "copied-span", lost=lambda x, state: ([], state + 1)),
    _of_states("0 where no continuation exists", "copied-span", lost=lambda x, state: ([], 0)),
    _of_states("counted from 0", "off-by-one", changed=lambda s: np.maximum(s - 1, 0)),
    _of_states("answers of 32 bits", "dtype-leak", changed=lambda s: s.astype(np.int32)),
)


# --- loss ---------------------------------------------------------------------------------------------------------------------------


def _trained(segments: Any) -> Any:  # int (b, n) -> bool (b, n-1)
    """Whether a token of the target comes after a position."""
    return (np.cumsum(segments[:, ::-1], axis=1)[:, ::-1] > 0)[:, 1:]


def _log_softmax(z: Any) -> Any:
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _mean(losses: Any, trained: Any) -> Any:
    return np.sum(np.where(trained, losses, 0)) / losses.dtype.type(trained.sum())


def _loss(
    tag_logits: Any,
    labels: Any,
    segment_ids: Any,
    trained: Callable[[Any], Any] = _trained,
    said: Callable[[Any], Any] = lambda z: z[:, :-1],
    logs: Callable[[Any], Any] = _log_softmax,
    mean: Callable[[Any, Any], Any] = _mean,
    wanted: Callable[[Any], Any] = lambda labels: labels,
) -> Any:
    losses = -np.take_along_axis(logs(said(tag_logits)), wanted(labels)[..., None], axis=-1)[..., 0]
    return np.reshape(mean(losses, trained(segment_ids)), 1)


def _by_rows(losses: Any, trained: Any) -> Any:
    return np.mean(np.where(trained, losses, 0).sum(1) / trained.sum(1), dtype=losses.dtype)


_of_loss = family("copy_loss", _loss)
_LOSS = (
    _of_loss("positions behind the target trained", "mask-ignored", trained=lambda s: np.ones_like(s[:, 1:], bool)),
    _of_loss("the target alone trained", "missing-term", trained=lambda s: (s[:, 1:] > 0) & (s[:, :-1] > 0)),
    _of_loss("the source alone trained", "mask-inverted", trained=lambda s: s[:, :-1] == 0),
    _of_loss(
        "the mask not shifted",
        "mask-off-by-one",
        trained=lambda s: (np.cumsum(s[:, ::-1], axis=1)[:, ::-1] > 0)[:, :-1],
    ),
    _of_loss("summed from the front", "mask-transposed", trained=lambda s: (np.cumsum(s, axis=1) > 0)[:, 1:]),
    _of_loss("logits one position late", "off-by-one", said=lambda z: z[:, 1:]),
    _of_loss("the mean of the rows' means", "wrong-count", mean=_by_rows),
    _of_loss(
        "divided by all positions",
        "wrong-count",
        mean=lambda x, kept: np.sum(np.where(kept, x, 0)) / x.dtype.type(x.size),
    ),
    _of_loss("a sum, not a mean", "not-normalised", mean=lambda x, kept: np.sum(np.where(kept, x, 0))),
    _of_loss("twice the loss", "wrong-coefficient", mean=lambda x, kept: 2 * _mean(x, kept)),
    _of_loss("B and I exchanged", "exchanged", wanted=lambda y: np.array([0, 2, 1])[y]),
    _of_loss("without log Σ exp", "missing-term", logs=lambda z: z),
    _of_loss(
        "the logarithm of the rounded softmax",
        "log-of-softmax",
        dtypes=("float16", *LONG),
        logs=lambda z: np.log(np.exp(_log_softmax(z)) + z.dtype.type(1e-7)),
    ),
    _of_loss("powers of 2", "wrong-base", logs=lambda z: _log_softmax(z * z.dtype.type(np.log(2)))),
    _of_loss("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_loss)),
    _of_loss("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_loss)),
)

MUTANTS: tuple[Mutant, ...] = _LABELS + _STEP + _STATES + _LOSS
TWINS = {
    "copy_labels": _labels,
    "copy_step": lambda *arrays, **params: _step(*arrays, **params)[0],
    "copy_states": lambda *arrays, **params: _step(*arrays, **params)[1],
    "copy_loss": wide(_loss),
}
