"""Searching for a text that copies, as a component: `copy_beam_search`, whose model is a table of scores by step and last token.

Its answer is a choice between sums of logarithms, and not a number with an error. Calls are therefore limited to those that are *decided*: every
comparison that the search makes, of totals, of tags, or of a token with the last that is kept, is between numbers that are `MARGIN` apart, so that
arithmetic of 24 bits or more finds what exact arithmetic finds. Tokens that are not allowed are equal on purpose ("published"), in one row exactly.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from refimpl.bert import BertConfig
from refimpl.errors import TokenError, UndecidedError
from refimpl.number_system import device_of, is_ball, namespace
from refimpl.spaces import seq2seq
from refimpl.spaces.published import order_of_partition
from validation import truth
from validation.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARGIN", "Search", "copy_beam_search", "copy_beam_search_cases", "is_decided"]

MARGIN = 2.0**-9
KEPT = 10  # logits of what may be next
PADDING = -1


class _Table:
    """A `refimpl.copying.TaggedDecoder` whose scores are those of the step and the last token."""

    context = 1 << 20

    def __init__(self, scores: Any, tag_scores: Any) -> None:
        self._scores, self._tags = scores, tag_scores

    def _said(self, token_ids: Any, step: int) -> tuple[Any, int]:
        last, xp = [int(row[-1]) for row in token_ids], namespace(self._scores)
        rows = ([part[step, token, :] for token in last] for part in (self._scores, self._tags))
        return tuple(map(xp.stack, rows)), step

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Any, int]:
        return self._said(token_ids, 0)

    def advance(self, token_ids: Any, cache: int) -> tuple[Any, int]:
        return self._said(token_ids, cache + 1)

    def select(self, cache: int, rows: list[int]) -> int:
        return cache


def _on_host(table: Any) -> Any:  # (t, v, w) -> float64 (t, v, w)
    """Number by number, as every library hands them over: the published search is one of lists."""
    found = np.zeros(tuple(table.shape))
    for place in np.ndindex(found.shape):
        found[place] = float(table[place])
    return found


def copy_beam_search(
    scores: Any, tag_scores: Any, source: Any, start: int, end: int, beams: int, dialect: str
) -> Any:  # (t, v, v), (t, v, 3), int (n,) -> int (t,)
    """The best text of up to t tokens, with -1 behind its end; balls stand for their midpoints, where these decide."""
    if is_ball(scores):
        scores, tag_scores = map(truth.midpoints, (scores, tag_scores))
        if not is_decided(scores, tag_scores, source, start, end, beams, dialect):
            raise UndecidedError("undecided", expected=f"comparisons of numbers {MARGIN} apart", got="nearer ones")
    xp, device = namespace(scores, source), device_of(scores)
    if dialect == "published" and not isinstance(scores, np.ndarray):
        scores, tag_scores = map(_on_host, (scores, tag_scores))
    steps, vocabulary = int(scores.shape[0]), int(scores.shape[1])
    config = seq2seq.Seq2SeqConfig(BertConfig(vocabulary, 2, 1, 1), start, end)
    found = seq2seq.generate(
        cast("Any", None),  # the table answers
        config,
        [int(source[i]) for i in range(source.shape[0])],
        beams=beams,
        max_new_tokens=steps,
        dialect=dialect,
        decoder=_Table(scores, tag_scores),
    )
    ids = found[0].ids
    return xp.asarray([*ids, *[PADDING] * (steps - len(ids))], dtype=xp.int64, device=device)


# --- the same once more, in steps that mutants replace, and that say how near a choice was ------------------------------------------


def _tag(scores: Any, state: int) -> int:
    """O, B or I, the last only in a span."""
    return int(np.argmax(scores if state else scores[:2]))


def _places(x: list[int], span: list[int]) -> list[int]:
    """The places in the source behind the span."""
    return [i for i in range(len(span), len(x)) if x[i - len(span) : i] == span]


def _masked(z: Any, allowed: Any, k: int) -> Any:
    """-∞ but for the k largest of what is allowed."""
    z = np.where(allowed, z, -np.inf)
    return np.where(z >= np.sort(z)[-min(k, len(z))], z, -np.inf)


def _logs(z: Any) -> Any:
    """log softmax."""
    shifted = z - z.max()
    return shifted - np.log(np.exp(shifted).sum())


def _carried(states: list[int], origins: list[int]) -> list[int]:
    return [states[origin] for origin in origins]


def _kept_in_rows(states: list[int], origins: list[int]) -> list[int]:
    """Row r goes on with the state of whatever stood there."""
    return states if len(states) > 1 else states * len(origins)


@dataclass
class Search:
    """A search whose steps are fields; `smallest` is the smallest distance of two numbers that it compared."""

    tag: Callable[[Any, int], int] = _tag
    span: Callable[[list[int], int], list[int]] = lambda ids, state: ids[len(ids) - state :]
    places: Callable[[list[int], list[int]], list[int]] = _places
    lost: Callable[[list[int], list[int]], tuple[set[int] | None, int]] = lambda x, span: (set(x), 1)
    begun: Callable[[list[int]], set[int]] = set
    logs: Callable[[Any, Any], Any] = lambda z, allowed: _logs(_masked(z, allowed, KEPT))
    carried: Callable[[list[int], list[int]], list[int]] | None = None  # None: as the dialect does
    tiny: float = 1e-12
    order: Callable[[Any, int], list[int]] = lambda flat, beams: order_of_partition(flat, len(flat) - beams)[-beams:]
    penalty: float | None = None  # None: 1 where the dialect has one
    width: Callable[[int], int] = lambda beams: beams
    other: bool = False  # the other dialect
    shown: Callable[[list[int]], list[int]] = lambda ids: ids
    read: Callable[[list[int]], list[int]] = lambda source: source
    early: bool = False
    padding: int = PADDING
    at: Callable[[int], int] = lambda step: step  # of the tags
    kind: Any = np.int64
    smallest: float = field(default=math.inf, init=False)

    def __call__(
        self, scores: Any, tag_scores: Any, source: Any, start: int, end: int, beams: int, dialect: str
    ) -> Any:  # (t, v, v), (t, v, 3), int (n,) -> int (t,)
        """The best text, padded."""
        given = (np.asarray(scores, np.float64), np.asarray(tag_scores, np.float64))
        x, published = self.read([int(token) for token in source]), (dialect == "published") != self.other
        with np.errstate(all="ignore"):
            run = self._published if published else self._corrected
            ids = self.shown(run(*given, x, start, end, self.width(beams)))[: len(scores)]
        return np.array([*ids, *[self.padding] * (len(scores) - len(ids))], self.kind)

    def _compared(self, values: Any) -> None:
        """Note how near the nearest two of these are."""
        ordered = sorted(values)
        gaps = (b - a for a, b in itertools.pairwise(ordered))
        self.smallest = min([self.smallest, *gaps])

    def _row(self, z: Any, tags: Any, x: list[int], ids: list[int], state: int) -> tuple[Any, Any, int]:
        """The logarithms, what is allowed, and the new state, of one row."""
        considered = tags if state else tags[:2]
        self._compared(np.sort(considered)[-2:].tolist())
        tag, span = self.tag(tags, state), self.span(ids, state)
        tokens, new = (None, 0) if tag == 0 else (self.begun(x), 1)
        if tag == 2:
            follow = self.places(x, span)
            tokens, new = ({x[i] for i in follow}, state + 1) if follow else self.lost(x, span)
        allowed = np.array([tokens is None or token in tokens for token in range(len(z))])
        best = np.sort(z[allowed])[::-1]
        self._compared(best[KEPT - 1 : KEPT + 1].tolist())
        return self.logs(z, allowed), allowed, new

    def _corrected(
        self, scores: Any, tags: Any, x: list[int], start: int, end: int, beams: int
    ) -> list[int]:  # (t, v, v), (t, v, 3) -> ids
        open_, states, complete = [(0.0, list[int]())], [0], list[tuple[float, list[int]]]()
        alpha, steps = 1.0 if self.penalty is None else self.penalty, len(scores)
        for n in range(1, steps + 1):
            extended = []
            for r, (total, ids) in enumerate(open_):
                last, at = (ids or [start])[-1], self.at(n - 1)
                logs, _, states[r] = self._row(scores[n - 1, last], tags[at, last], x, ids, states[r])
                extended += [(total + each, r, token) for token, each in enumerate(logs) if each > -np.inf]
            extended.sort(key=lambda each: -each[0])
            self._compared([total for total, *_ in extended[: 2 * beams + 1]])
            ends = [n == steps or token == end for *_, token in extended]
            found = [(total, [*open_[r][1], token], r) for total, r, token in extended]
            complete += [(each[0] / n**alpha, each[1]) for each, last in zip(found[:beams], ends, strict=False) if last]
            kept = [each for each, last in zip(found, ends, strict=True) if not last][:beams]
            complete = sorted(complete, key=lambda each: -each[0])
            self._compared([score for score, _ in complete])
            complete = complete[:beams]
            if len(complete) == beams and kept:
                self._compared([kept[0][0] / n**alpha, complete[-1][0]])
            if not kept or (len(complete) == beams and (self.early or kept[0][0] / n**alpha <= complete[-1][0])):
                break
            states = (self.carried or _carried)(states, [r for *_, r in kept])
            states, open_ = [*states, *[0] * len(kept)][: len(kept)], [(total, ids) for total, ids, _ in kept]
        return complete[0][1] if complete else []

    def _published(
        self, scores: Any, tags: Any, x: list[int], start: int, end: int, beams: int
    ) -> list[int]:  # (t, v, v), (t, v, 3) -> ids
        rows, states, best = [(0.0, list[int]())], [0], 0
        for step in range(len(scores)):
            flat, distinct = list[float](), list[float]()
            for r, (total, ids) in enumerate(rows):
                last, at = (ids or [start])[-1], self.at(step)
                logs, _, states[r] = self._row(scores[step, last], tags[at, last], x, ids, states[r])
                totals = total + np.log(np.exp(logs) + self.tiny)
                flat += totals.tolist()
                distinct += [*totals[logs > -np.inf].tolist(), total + math.log(1e-12)]
            self._compared(distinct)
            chosen, v = self.order(flat, beams), scores.shape[1]
            origins = [index // v for index in chosen]
            rows = [(flat[index], [*rows[index // v][1], index % v]) for index in chosen]
            states = (self.carried or _kept_in_rows)(states, origins)
            alpha = 0.0 if self.penalty is None else self.penalty
            ranked = [total / (step + 1) ** alpha for total, _ in rows]
            best = ranked.index(max(ranked))
            if end in rows[best][1]:
                return rows[best][1]
            rows = [row for row in rows if end not in row[1]]
            beams = min(beams, len(rows))
            if not rows:
                raise TokenError("every row has ended")
            best = [total for total, _ in rows].index(max(total for total, _ in rows))
        return rows[best][1]


def is_decided(scores: Any, tag_scores: Any, *rest: Any) -> bool:  # (t, v, v), (t, v, 3)
    """Whether every comparison of the search is between numbers that are `MARGIN` apart, and it finds something."""
    search = Search()
    try:
        search(scores, tag_scores, *rest)
    except TokenError:
        return False
    return search.smallest >= MARGIN


# --- cases ------------------------------------------------------------------------------------------------------------------------


def _keeping(count: int) -> Search:
    return Search(logs=lambda z, allowed: _logs(_masked(z, allowed, count)))


def _before_the_mask(z: Any, allowed: Any) -> Any:
    """Of the ten largest those that are allowed."""
    kept = allowed & (z >= np.sort(z)[-min(KEPT, len(z))])
    return _logs(np.where(kept if np.any(kept) else allowed, z, -np.inf))


def _others(name: str, dialect: str) -> list[Search]:
    """Searches that are to find another text in the case of that name."""
    corrected = dialect == "corrected"
    other_way = Search(carried=_kept_in_rows if corrected else _carried)
    sorted_rows = Search(order=lambda flat, beams: sorted(range(len(flat)), key=lambda i: -flat[i])[:beams])
    return {
        "copying": [other_way] if corrected else [other_way, sorted_rows],
        "spans": [
            Search(span=lambda ids, state: ids[-1:]),
            Search(lost=lambda x, span: (set(x[:1]), 1)),
            Search(places=lambda x, span: _places(x, span)[:1]),
        ],
        "free": [Search(penalty=0.0), Search(penalty=2.0), Search(early=True)]
        if corrected
        else [Search(width=lambda beams: beams + 1)],
        "more": [Search(width=lambda beams: beams - 1)]
        + ([Search(width=lambda beams: beams + 1)] if corrected else []),
        "wide": [_keeping(1000)],
        "masked first": [Search(logs=_before_the_mask)],
        "narrow": [] if corrected else [Search(tiny=1e-3)],
    }.get(name, [])


def copy_beam_search_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Tables of numbers that every dtype has, drawn again until the search is decided, and others find another text."""
    drawn = rng.bit_generator.state["state"]
    cases = _drawn(drawn["state"], drawn["inc"])
    return [Case(case.id, case.hard, tuple(array.copy() for array in case.arrays), case.params) for case in cases]


@functools.lru_cache(maxsize=4)  # thousands of searches; every dtype has the same cases
def _drawn(state: int, increment: int) -> tuple[Case, ...]:
    """The cases of a PCG64 in that state."""
    bits = np.random.PCG64()
    bits.state = bits.state | {"state": {"state": state, "inc": increment}}
    rng = np.random.Generator(bits)

    def case(
        name: str,
        hard: str,
        sizes: tuple[int, int],
        source: list[int],
        beams: int,
        favour: list[int],
        ending: float,
        size: float = 2.0,
    ) -> Case:
        steps, v = sizes
        params = {"start": v - 2, "end": v - 1, "beams": beams, "dialect": dialect}
        while True:
            scores, tags = size * rng.normal(size=(steps, v, v)), 2 * rng.normal(size=(steps, v, 3)) + favour
            scores += np.eye(v)[v - 1] * ending - 4 * np.eye(v)[v - 2]
            arrays = (*(np.clip(np.rint(32 * x), -255, 255) / 32 for x in (scores, tags)), np.array(source, np.int64))
            given = (*arrays, *params.values())
            if is_decided(*given) and all(_finds_another(each, given) for each in _others(name, dialect)):
                return Case(f"{name}-{dialect}", hard, arrays, params)

    found = []
    for dialect in seq2seq.dialects:
        found += [
            case("copying", "hypotheses change their rows", (5, 6), [0, 1, 2, 0, 3, 1, 5], 3, [0, 1, 2], -1),
            case("spans", "spans that go on, and one that cannot", (5, 6), [2, 0, 1, 5, 2, 3, 0], 2, [0, 1, 4], -2),
            case("free", "little is copied; several hypotheses end", (5, 6), [1, 3, 5], 3, [3, 0, 0], 2),
            case("more", "a hypothesis that comes from behind", (5, 6), [1, 0, 2, 5], 2, [1, 1, 1], 0),
            case("masked first", "ten of those that may be copied", (3, 13), [4, 9, 2, 7, 12], 2, [0, 1, 1], 0, 1)
            if dialect == "corrected"
            else case("wide", "13 tokens, of which ten are kept", (3, 13), [4, 9, 2, 7, 12], 2, [2, 1, 1], 0, 1),
            case("narrow", "more hypotheses than tokens that may be copied", (4, 6), [2, 1], 4, [0, 2, 2], 0),
        ]
    return tuple(found)


def _finds_another(search: Search, given: tuple[Any, ...]) -> bool:
    right = Search()(*given)
    try:
        return not np.array_equal(search(*given), right)
    except (TokenError, ValueError):  # nothing is left
        return True
