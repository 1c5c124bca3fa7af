"""Which sentences of a text to extract so that they are close to a summary: greedy matching, longest sentence of the summary first.

With x_1, ..., x_n the sentences of the text, y_1, ..., y_m those of the summary and main the metric of `refimpl.text.rouge`, by characters,

    match(x, y) = []                                                                      if n = 0 or m = 0                     (1)
                = match(x_1..x_j, y_1..y_{i-1}) + [(i, j)] + match(x_j..x_n, y_{i+1}..y_m)   else, where
    i = argmax |y_i|,   j = argmax main(x_j, y_i),   of equal ones the first                                                    (2)

x_j stays on both sides, so that several sentences of the summary can be matched with it. Every i occurs once, the j do not fall. The labels are the
j, each once; the score is main of x_j joined and the whole summary.

(1) is worked off from a list, not by recursion. A main in (2) is computed only where a bound on it (`refimpl.text.rouge.at_most`, which needs no
longest common subsequence) is not below the best so far.

Reference: github.com/bojone/SPACES at a545db3, `extract_convert.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from refimpl.text import rouge
from refimpl.text.sentences import LIMIT, SEPARATORS, split, split_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.text.segmentation import Segmenter

__all__ = ["Extraction", "extractive_labels", "match"]

_ROUNDING = 1e-12  # more than a bound of at most 1 can be off by


class Extraction(NamedTuple):
    """What is extracted of a text for a summary."""

    texts: list[str]  # the sentences of the text
    labels: list[int]  # which of them are extracted, rising
    mapping: list[tuple[int, int]]  # (i, j): sentence i of the summary is matched with sentence j of the text
    score: float  # main of the extracted sentences and the summary

    @property
    def extracted(self) -> str:
        """The extracted sentences, joined."""
        return "".join(self.texts[j] for j in self.labels)


def match(
    texts: Sequence[str],
    summaries: Sequence[str],
    *,
    unit: str = "character",
    dialect: str = rouge.DIALECT,
    segmenter: Segmenter | None = None,
) -> list[tuple[int, int]]:
    """(i, j): the longest y_i, the x_j with the largest main(x_j, y_i); then y before i with x up to j, and y after i with x from j on.

    Parameters
    ----------
    texts, summaries : sentences
    unit, segmenter : as `refimpl.text.rouge.units`; SPACES matches by characters
    dialect : as `refimpl.text.rouge.rouge`

    Returns
    -------
    list of (i, j), one for every sentence of the summary in their order, the j not falling; empty where there are no texts

    Raises
    ------
    ConfigError, TokenizerError
        as `refimpl.text.rouge.units` and `rouge`.
    """
    x, y = (
        [rouge.count(rouge.units(sentence, unit, segmenter), dialect=dialect) for sentence in given]
        for given in (texts, summaries)
    )
    found: list[tuple[int, int]] = []
    open_ranges = [(0, len(x), 0, len(y))]
    while open_ranges:
        first, end, low, high = open_ranges.pop()
        if first < end and low < high:
            i = max(range(low, high), key=lambda k: len(summaries[k]))
            j = _closest(x, range(first, end), y[i])
            found.append((i, j))
            open_ranges += [(first, j + 1, low, i), (j, end, i + 1, high)]
    return sorted(found)


def _closest(x: list[rouge.Counted], where: range, y: rouge.Counted) -> int:
    """The first j with the largest main(x_j, y)."""
    bounds = {j: rouge.at_most(x[j], y) for j in where}
    best, chosen = -1.0, where.start
    for j in sorted(where, key=lambda j: -bounds[j]):
        if bounds[j] < best - _ROUNDING:
            break
        score = rouge.compare(x[j], y).main
        if score > best or (score == best and j < chosen):
            best, chosen = score, j
    return chosen


def extractive_labels(
    text: str,
    summary: str,
    *,
    unit: str = "character",
    dialect: str = rouge.DIALECT,
    segmenter: Segmenter | None = None,
    limit: int = LIMIT,
    longest: int = 1,
    separators: str = SEPARATORS,
) -> Extraction:
    """labels = {j : (i, j) in match(sentences of text, sentences of summary)}, score = main(the x_j joined, summary).

    Parameters
    ----------
    text, summary : str, cut into sentences by `refimpl.text.sentences`: of the text the last `limit`, of the summary all
    unit, segmenter : of the score, as `refimpl.text.rouge.units`. SPACES has "word", with its dictionary; sentences are matched by characters always
    dialect : as `refimpl.text.rouge.rouge`, of the matching and of the score
    limit, longest, separators : as `refimpl.text.sentences.split_document`

    Returns
    -------
    Extraction (texts, labels, mapping, score)

    Raises
    ------
    ConfigError, TokenizerError
        as `refimpl.text.rouge.units`, `rouge` and `refimpl.text.sentences.split_document`.
    """
    texts = split_document(text, limit, longest=longest, separators=separators)
    mapping = match(texts, split(summary, longest, separators), dialect=dialect)
    labels = sorted({j for _, j in mapping})
    extracted = "".join(texts[j] for j in labels)
    return Extraction(texts, labels, mapping, rouge.main_metric(extracted, summary, unit, dialect, segmenter))
