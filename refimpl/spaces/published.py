"""The decoding of SPACES as it was published: beams that go on with the states of other hypotheses.

With s_r the state of row r (the length of its copied span), y_r its tokens, z and τ the model's logits and probabilities of tags for it, a step of
the released code is

    allowed_r, s'_r = the tag's (`refimpl.copying.copy_step`, the probability of I negated where s_r = 0)
    ẑ_r = z_r where allowed, and of that on the 10 largest; -1000 elsewhere
    score_rv = score_r + log(softmax(ẑ_r)_v + 10⁻¹²)                                                                            (1)
    rows' = the `beams` largest (r, v), in the order in which NumPy's argpartition leaves them

in which hypotheses take their places among the rows anew, and the states stay in theirs: row r' goes on with s'_{r'}, the state of whatever stood
there before. Where the best row has ended the search is over, and its tokens are the answer; others that have ended are dropped, their states are
not, and there is a beam less. A token that is not allowed has log 10⁻¹², not -∞: where fewer are allowed than there are beams, the search goes on
with some that are not, all equal, chosen by the partition. `order_of_partition` is that partition as it was in NumPy 1, step by step, so that a text
does not depend on the machine: NumPy 2 has others on processors with AVX2 or AVX-512, which leave another order.

References: `AutoSummary` of github.com/bojone/SPACES at a545db3, on `AutoRegressiveDecoder.beam_search` of bert4keras 0.9.7, which its README names;
D. Musser, "Introspective sorting and selection algorithms", Software: Practice and Experience 27 (1997), as in NumPy's `npysort/selection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl.copying import BEGIN, INSIDE, OUTSIDE, copy_step, masked_logits
from refimpl.errors import ConfigError, TokenError
from refimpl.parameters import is_positive
from refimpl.softmax import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.copying import TaggedDecoder

__all__ = ["Found", "order_of_partition", "published_search"]

DIALECT = "bert4keras-spaces"
TINY = 1e-12
FEW = 3  # places from a bound, within which the smallest are looked for one by one


# --- the partition ----------------------------------------------------------------------------------------------------------------------


def _smallest_first(v: Sequence[float], order: list[int], low: int, high: int, count: int) -> None:
    """Put the `count` smallest of places low .. high first, one by one."""
    for place in range(low, low + count):
        best = min(range(place, high + 1), key=lambda i: v[order[i]])
        order[place], order[best] = order[best], order[place]


def _median_first(v: Sequence[float], order: list[int], low: int, high: int) -> None:
    """Put the median of the first, middle and last at `low`, the smallest of the three after it, the largest last."""
    mid = low + (high - low) // 2
    if v[order[high]] < v[order[mid]]:
        order[high], order[mid] = order[mid], order[high]
    if v[order[high]] < v[order[low]]:
        order[high], order[low] = order[low], order[high]
    if v[order[low]] < v[order[mid]]:
        order[low], order[mid] = order[mid], order[low]
    order[mid], order[low + 1] = order[low + 1], order[mid]


def _median_of_five(v: Sequence[float], order: list[int], first: int) -> int:
    """The place of the median of five, some of which are exchanged to find it."""
    for a, b in ((0, 1), (3, 4), (0, 3), (1, 4), (1, 2)):
        if v[order[first + b]] < v[order[first + a]]:
            order[first + a], order[first + b] = order[first + b], order[first + a]
    if v[order[first + 3]] < v[order[first + 2]]:
        return first + 1 if v[order[first + 3]] < v[order[first + 1]] else first + 3
    return first + 2


def _median_of_medians(v: Sequence[float], order: list[int], low: int, high: int) -> int:
    """The place of the median of the medians of fives, which are gathered at the beginning."""
    fives = (high - low + 1) // 5
    for group in range(fives):
        middle = _median_of_five(v, order, low + 5 * group)
        order[low + group], order[middle] = order[middle], order[low + group]
    if fives > 2:
        _select(v, order, low, low + fives - 1, low + fives // 2)
    return low + fives // 2


def _divided(v: Sequence[float], order: list[int], low: int, ll: int, hh: int) -> tuple[int, int]:
    """Exchange what is larger than the one at `low` on the left for what is smaller on the right; where the two walks met."""
    pivot = v[order[low]]
    while True:
        ll += 1
        while v[order[ll]] < pivot:
            ll += 1
        hh -= 1
        while pivot < v[order[hh]]:
            hh -= 1
        if hh < ll:
            return ll, hh
        order[ll], order[hh] = order[hh], order[ll]


def _select(v: Sequence[float], order: list[int], low: int, high: int, kth: int) -> None:
    """Introselect: the element of rank `kth` at its place, none larger before it, none smaller after it."""
    if kth - low < FEW:
        _smallest_first(v, order, low, high, kth - low + 1)
        return
    if kth == high:
        best = max(range(low, high + 1), key=lambda i: (v[order[i]], i))
        order[kth], order[best] = order[best], order[kth]
        return
    depth = 2 * ((high - low + 1).bit_length() - 1)
    while low + 1 < high:
        ll, hh = low + 1, high
        if depth > 0 or hh - ll < 5:
            _median_first(v, order, low, high)
        else:
            mid = _median_of_medians(v, order, ll, hh - 1)
            order[mid], order[low] = order[low], order[mid]
            ll, hh = ll - 1, hh + 1
        depth -= 1
        ll, hh = _divided(v, order, low, ll, hh)
        order[low], order[hh] = order[hh], order[low]
        if hh >= kth:
            high = hh - 1
        if hh <= kth:
            low = ll
    if high == low + 1 and v[order[high]] < v[order[low]]:
        order[high], order[low] = order[low], order[high]


def order_of_partition(values: Sequence[float], kth: int) -> list[int]:
    """The places of all values as NumPy 1's argpartition (introselect) leaves them: no smaller one follows the kth, no larger one precedes it.

    Parameters
    ----------
    values : numbers, none of them NaN
    kth : int, 0 <= kth < len(values)

    Raises
    ------
    ConfigError
        for another rank.
    """
    if not 0 <= kth < len(values):
        expected = f"0 <= kth < {len(values)}"
        raise ConfigError("there is no such rank", where="order_of_partition", expected=expected, got=kth)
    order = list(range(len(values)))
    _select(values, order, 0, len(values) - 1, kth)
    return order


# --- the search -------------------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What the published search returns."""

    ids: list[int]  # without the start token; with the end token, where it ended
    score: float  # Σ log(p + 10⁻¹²)
    tags: list[int]  # the tag, 0 (O), 1 (B) or 2 (I), that said what each token could be: that of its row


class _Row(NamedTuple):
    ids: list[int]  # the start token first
    score: float
    tags: list[int]


def _host(array: Any) -> Any:
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _scores(said: tuple[Any, Any], states: list[int], source: list[int], rows: list[_Row]) -> tuple[Any, list[int]]:
    """log(p + 10⁻¹²) of every row and token, (rows, vocab), and the new states; 16-bit logits are widened, since 10⁻¹² is 0 in float16."""
    scores, tags = (each.astype(np.float32) if each.dtype.itemsize < 4 else each for each in map(_host, said))
    undefined = np.nonzero(np.isnan(scores) | (scores == np.inf))
    if undefined[0].size:
        row, token = (int(place[0]) for place in undefined)
        raise TokenError(
            "the next token cannot be chosen",
            where=f"logits of row {row}, token {token}",
            expected="finite logits",
            got=float(scores[row, token]),
            remedy="check the model's weights for NaN, or compute in a wider dtype",
        )
    emitted = [row.ids for row in rows]
    given = (softmax(tags), states[: len(rows)], source, emitted)
    allowed, after = copy_step(*given, vocab_size=scores.shape[1], dialect=DIALECT)
    masked = masked_logits(scores, allowed, dialect=DIALECT)
    return np.log(softmax(masked) + scores.dtype.type(TINY)), after.tolist()


def _tag(state: int) -> int:
    return OUTSIDE if state == 0 else BEGIN if state == 1 else INSIDE


def published_search(
    decoder: TaggedDecoder,
    source: Sequence[int],
    *,
    start: int,
    end: int,
    beams: int,
    max_new_tokens: int,
    min_length: int = 1,
    min_ends: int = 1,
    carried: bool = False,
) -> Found:
    """Equation (1) until the best row has ended, or `max_new_tokens` times; then the row of the largest score, the first of equal ones.

    Parameters
    ----------
    decoder : what reads; its tag scores are logits
    source : token ids, what may be copied
    start, end : token ids that begin a target, and end it
    beams : int >= 1
    max_new_tokens : int >= 1
    min_length : tokens, the start token included, before which no row ends
    min_ends : how many end tokens end a row
    carried : True: states go where their hypotheses go, which the released code does not do; all else as it does

    Raises
    ------
    ConfigError, TokenError
        for options out of range, more beams than there are tokens, and where rows that ended beside the best are all that is left.
    """
    numbers = {"beams": beams, "max_new_tokens": max_new_tokens, "min_length": min_length, "min_ends": min_ends}
    wrong = [f"{name} = {value!r}" for name, value in numbers.items() if not is_positive(value)]
    if wrong:
        raise ConfigError("options out of range", where="published_search", expected="from 1", got=", ".join(wrong))
    tokens, rows, states = [int(token) for token in source], [_Row([start], 0.0, [])], [0]
    said, cache = decoder.start([[start]])
    for step in range(max_new_tokens):
        states = states * len(rows) if len(states) == 1 else states
        scores, after = _scores(said, states, tokens, rows)
        states[: len(rows)] = after
        rows, origins = _best(scores, states, rows, beams)
        states = [states[origin] for origin in origins] if carried else states
        ends = [row.ids.count(end) for row in rows]
        best = max(range(len(rows)), key=lambda r: rows[r].score)
        if step + 2 >= min_length and ends[best] == min_ends:
            break
        if step + 2 >= min_length:
            kept = [r for r in range(len(rows)) if ends[r] < min_ends]
            rows, origins, beams = [rows[r] for r in kept], [origins[r] for r in kept], min(beams, len(kept))
            states = [states[r] for r in kept] if carried else states
            best = max(range(len(rows)), key=lambda r: rows[r].score, default=0)
        if not rows:
            remedy = "ask for fewer tokens before the end, min_length"
            raise TokenError("every row has ended, none of them in time", where="published_search", remedy=remedy)
        if step + 1 < max_new_tokens:
            said, cache = decoder.advance([[row.ids[-1]] for row in rows], decoder.select(cache, origins))
    found = rows[best]
    return Found(found.ids[1:], found.score, found.tags)


def _best(scores: Any, states: list[int], rows: list[_Row], beams: int) -> tuple[list[_Row], list[int]]:
    """The rows that go on, in the order of the partition, and the rows that they come from."""
    totals = np.array([row.score for row in rows])[:, None] + scores
    flat, vocabulary = totals.reshape(-1).tolist(), totals.shape[1]
    if beams > len(flat):
        raise ConfigError("more beams than tokens", where="published_search", expected=f"up to {len(flat)}", got=beams)
    chosen = order_of_partition(flat, len(flat) - beams)[len(flat) - beams :]
    found = []
    for index in chosen:
        row, token = divmod(index, vocabulary)
        found.append(_Row([*rows[row].ids, token], flat[index], [*rows[row].tags, _tag(states[row])]))
    return found, [index // vocabulary for index in chosen]
