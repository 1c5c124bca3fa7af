"""The search for a text that copies, once more: steps and logarithms are the library's, of all rows together, the ranking is that of lists.

How many rows there are depends on the scores, so that JAX has nothing to compile.
"""

from __future__ import annotations

from typing import Any

from refimpl.spaces.published import order_of_partition
from validation.targets import whole_number_routes as whole

__all__ = ["copy_beam_search"]


def _listed(array: Any) -> list[Any]:
    return list(array.tolist())


def _step(
    scores: Any, tags: Any, source: Any, texts: list[list[int]], states: list[int], start: int, xp: Any
) -> tuple[Any, list[int]]:  # (v, v), (v, 3), (n,) -> (r, v), states
    """The probabilities of all rows, and their new states."""
    last = xp.asarray([(text or [start])[-1] for text in texts])
    emitted = xp.asarray([[-1, *text] for text in texts])
    allowed, new = whole._step(tags[last], xp.asarray(states), source, emitted, scores.shape[0], "corrected", xp)
    hidden = xp.where(allowed, scores[last], xp.zeros_like(scores[last]) - float("inf"))
    rank = xp.sum(hidden[:, None, :] > hidden[:, :, None], axis=-1)
    e = xp.where(allowed & (rank < 10), xp.exp(hidden - xp.amax(hidden, axis=-1)[:, None]), xp.zeros_like(hidden))
    return e / xp.sum(e, axis=-1)[:, None], _listed(new)


def _corrected(scores: Any, tags: Any, source: Any, start: int, end: int, beams: int, xp: Any) -> list[int]:
    texts, totals, states, complete = [list[int]()], [0.0], [0], list[Any]()
    for n in range(1, scores.shape[0] + 1):
        p, after = _step(scores[n - 1], tags[n - 1], source, texts, states, start, xp)
        logs = _listed(xp.log(p))
        ranked = sorted(
            ((totals[r] + log, r, token) for r, row in enumerate(logs) for token, log in enumerate(row)),
            key=lambda each: -each[0],
        )
        ranked = [each for each in ranked if each[0] > -float("inf")]
        over = [n == scores.shape[0] or token == end for *_, token in ranked]
        complete += [(t / n, [*texts[r], k]) for (t, r, k), o in zip(ranked[:beams], over, strict=False) if o]
        complete = sorted(complete, key=lambda each: -each[0])[:beams]
        kept = [each for each, o in zip(ranked, over, strict=True) if not o][:beams]
        if not kept or (len(complete) == beams and kept[0][0] / n <= complete[-1][0]):
            break
        texts, states = [[*texts[r], k] for _, r, k in kept], [after[r] for _, r, _ in kept]
        totals = [total for total, *_ in kept]
    return list(complete[0][1])


def _published(scores: Any, tags: Any, source: Any, start: int, end: int, beams: int, xp: Any) -> list[int]:
    texts, totals, states = [list[int]()], [0.0], [0]
    for n in range(scores.shape[0]):
        p, after = _step(scores[n], tags[n], source, texts, states[: len(texts)], start, xp)
        states[: len(texts)] = after
        logs, v = _listed(xp.log(p + 1e-12)), scores.shape[1]
        flat = [total + log for total, row in zip(totals, logs, strict=True) for log in row]
        chosen = order_of_partition(flat, len(flat) - beams)[len(flat) - beams :]
        rows = [(flat[c], [*texts[c // v], c % v]) for c in chosen]
        states = states * len(rows) if len(states) == 1 else states
        best = max(rows, key=lambda each: each[0])[1]
        if end in best:
            return best
        rows = [row for row in rows if end not in row[1]]
        beams, totals, texts = min(beams, len(rows)), [total for total, _ in rows], [text for _, text in rows]
    return texts[totals.index(max(totals))]


def copy_beam_search(
    scores: Any, tag_scores: Any, source: Any, start: int, end: int, beams: int, dialect: str, *, xp: Any
) -> Any:  # (t, v, v), (t, v, 3), (n,) -> int64 (t,)
    """The best text, and -1 behind it."""
    search = _corrected if dialect == "corrected" else _published
    wide = (array if array.dtype == xp.float64 else xp.astype(array, xp.float32) for array in (scores, tag_scores))
    ids = search(*wide, source, start, end, beams, xp)
    return xp.asarray([*ids, *[-1] * (scores.shape[0] - len(ids))])
