"""A beam search that copies, hypothesis by hypothesis, from its description and from the steps of the released program.

"corrected": every step extends each open text by each token; what may be next follows from the tags, and of that the ten largest logits are compared.
Texts that end among the first `beams` are complete, and ranked by Σ log p / n. The state of a text is found by going through it from its beginning.
"published": Σ log(p + 10⁻¹²); states belong to rows, and rows stand where `argpartition` of NumPy 1 (introselect, of the places) leaves them.

References: J. Su, Scientific Spaces 8046 (2021), with `AutoSummary` of its program; bert4keras 0.9.7, `beam_search`; D. Musser, "Introspective
sorting and selection algorithms" (1997), as in NumPy's `npysort/selection`.
"""

from __future__ import annotations

from typing import Any

from mpmath import inf, mp, mpf

from validation.scalar.numbers import scalar

__all__ = ["copy_beam_search"]

Text = tuple[int, ...]


def _next(tags: Any, state: int, source: list[int], text: Text) -> tuple[set[int] | None, int]:
    """The tokens that may be next (None: all), and the state behind them."""
    o, b, i = tags
    if state and i > max(o, b):
        span = list(text[len(text) - state :])
        follow = {source[p] for p in range(state, len(source)) if source[p - state : p] == span}
        return (follow, state + 1) if follow else (set(source), 1)
    return (set(source), 1) if b > o else (None, 0)


def _probabilities(logits: Any, tokens: set[int] | None) -> dict[int, Any]:
    """Of the ten largest of what may be next."""
    allowed = sorted(range(len(logits)) if tokens is None else tokens, key=lambda token: -logits[token])[:10]
    total = mp.fsum(mp.exp(logits[token]) for token in allowed)
    return {token: mp.exp(logits[token]) / total for token in allowed}


def _corrected(scores: Any, tags: Any, source: list[int], start: int, end: int, beams: int) -> Text:
    def state_of(text: Text) -> int:
        state = 0
        for n in range(len(text)):
            state = _next(tags[n][text[n - 1] if n else start], state, source, text[:n])[1]
        return state

    open_: list[tuple[Any, Text]] = [(mpf(0), ())]
    complete: list[tuple[Any, Text]] = []
    for n, (logits, said) in enumerate(zip(scores, tags, strict=True), start=1):
        extended = []
        for total, text in open_:
            last = text[-1] if text else start
            tokens, _ = _next(said[last], state_of(text), source, text)
            extended += [(total + mp.log(p), (*text, t)) for t, p in _probabilities(logits[last], tokens).items()]
        extended.sort(key=lambda each: -each[0])
        ended = [n == len(scores) or text[-1] == end for _, text in extended]
        complete += [(each[0] / n, each[1]) for each, over in zip(extended[:beams], ended, strict=False) if over]
        complete = sorted(complete, key=lambda each: -each[0])[:beams]
        open_ = [each for each, over in zip(extended, ended, strict=True) if not over][:beams]
        if not open_ or (len(complete) == beams and open_[0][0] / n <= complete[-1][0]):
            break
    return complete[0][1]


def _partitioned(v: list[Any], kth: int) -> list[int]:
    """The places of the values, as introselect leaves them; no pivot by medians of fives, which values in this order do not need."""
    at, low, high = list(range(len(v))), 0, len(v) - 1

    def swap(a: int, b: int) -> None:
        at[a], at[b] = at[b], at[a]

    if kth < 3:
        for place in range(kth + 1):
            swap(place, min(range(place, high + 1), key=lambda p: (v[at[p]], p)))
        return at
    if kth == high:
        swap(kth, max(range(high + 1), key=lambda p: (v[at[p]], p)))
        return at
    rounds = 2 * (len(v).bit_length() - 1)
    while low + 1 < high:
        rounds -= 1
        if rounds < 0:
            raise NotImplementedError("medians of fives")
        mid = low + (high - low) // 2
        for a, b in ((mid, high), (low, high), (mid, low)):
            if v[at[b]] < v[at[a]]:
                swap(a, b)
        swap(mid, low + 1)
        pivot, left, right = v[at[low]], low + 1, high
        while True:
            left = next(p for p in range(left + 1, len(v)) if v[at[p]] >= pivot)
            right = next(p for p in range(right - 1, -1, -1) if v[at[p]] <= pivot)
            if right < left:
                break
            swap(left, right)
        swap(low, right)
        low, high = (left if right <= kth else low), (right - 1 if right >= kth else high)
    if high == low + 1 and v[at[high]] < v[at[low]]:
        swap(high, low)
    return at


def _published(scores: Any, tags: Any, source: list[int], start: int, end: int, beams: int) -> Text:
    rows: list[tuple[Any, Text]] = [(mpf(0), ())]
    states, tiny, best = [0], mpf(10) ** -12, (-inf, ())
    for logits, said in zip(scores, tags, strict=True):
        totals: list[Any] = []
        for row, (total, text) in enumerate(rows):
            last = text[-1] if text else start
            tokens, states[row] = _next(said[last], states[row], source, text)
            p = _probabilities(logits[last], tokens)
            totals += [total + mp.log(p.get(token, 0) + tiny) for token in range(len(logits[last]))]
        chosen = _partitioned(totals, len(totals) - beams)[len(totals) - beams :]
        rows = [(totals[c], (*rows[c // len(logits)][1], c % len(logits))) for c in chosen]
        states = states * len(rows) if len(states) == 1 else states
        best = max(rows, key=lambda each: each[0])
        if end in best[1]:
            break
        rows = [each for each in rows if end not in each[1]]
        beams = min(beams, len(rows))
        best = max(rows, key=lambda each: each[0])
    return best[1]


@scalar
def copy_beam_search(scores: Any, tag_scores: Any, source: Any, start: int, end: int, beams: int, dialect: str) -> Any:
    """The best text, and -1 behind it."""
    search = _corrected if dialect == "corrected" else _published
    text = search(scores, tag_scores, source, start, end, beams)
    return [mpf(token) for token in text] + [mpf(-1)] * (len(scores) - len(text))
