"""Scores of two texts, sentences, their matching, and rows of new words, from their descriptions, by recursion and by going through lists.

Reference: C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), and what the packages `rouge` and SPACES say that they do.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpmath import mp, mpf

from validation.scalar.copying import _longest, _pairs
from validation.scalar.numbers import scalar

__all__ = ["extend_embedding", "match_sentences", "rouge", "split_sentences"]

POINT, MARKS = ord("."), "\n。；：，"


# --- ROUGE ----------------------------------------------------------------------------------------------------------------------------


def _blank(code: int) -> bool:
    return chr(code).isspace()


def _sentences(text: list[int], dialect: str) -> list[tuple[int, ...]]:
    """Units by sentence. Between two points is one always, for the packages put spaces between units; a blank one has one unit, no character."""
    if dialect == "rouge-score":
        return [tuple(text)]
    ends = [place for place, code in enumerate(text) if code == POINT]
    parts, found = list(zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)), []
    for number, (begin, end) in enumerate(parts):
        if end > begin or 0 < number < len(parts) - 1:
            found.append(tuple(code for code in text[begin:end] if not _blank(code)) or (-1,))
    return found


def _occurrences(units: list[int], n: int, once: bool) -> set[Any]:
    """N-grams, numbered where each counts."""
    seen: dict[Any, int] = {}
    for place in range(len(units) - n + 1):
        gram = tuple(units[place : place + n])
        seen[gram] = seen.get(gram, 0) + 1
    return {(gram, k) for gram, times in seen.items() for k in range(1 if once else times)}


def _counts(x: list[int], y: list[int], dialect: str) -> list[tuple[int, int, int]]:
    """The overlap, and how much there is in each, of ROUGE-1, -2 and -L."""
    parts = [_sentences(text, dialect) for text in (x, y)]
    units = [[unit for sentence in sentences for unit in sentence] for sentences in parts]
    once = dialect in ("rouge-1.0.1", "rouge-0.3.2")
    found = []
    for n in (1, 2):
        a, b = (_occurrences(each, n, once) for each in units)
        found.append((len(a & b), len(a), len(b)))
    if dialect == "rouge-score":
        return [*found, (_longest(tuple(x), tuple(y)), len(x), len(y))]
    common = {a[i] for b in parts[1] for a in parts[0] for i, _ in _pairs(a, b)}
    return [*found, (len(common), len(set(units[0])), len(set(units[1])))]


def _row(k: int, n: int, m: int, epsilon: Any, weighed: bool) -> list[Any]:
    """Precision, recall, f."""
    if k == 0:
        return [mpf(0)] * 3
    p, r, least = mpf(k) / n, mpf(k) / m, mpf(10) ** -12
    if not weighed:
        return [p, r, 2 / (1 / p + 1 / r + epsilon / (p * r))]
    square = (p / (r + least)) ** 2
    return [p, r, (1 + square) * r * p / (r + square * p + least)]


@scalar
def rouge(hypothesis: Any, reference: Any, epsilon: Any, dialect: str) -> Any:
    """Three rows of three."""
    one, two, longest = _counts(hypothesis, reference, dialect)
    rows = [_row(*counts, epsilon[0], False) for counts in (one, two)]
    return [*rows, _row(*longest, epsilon[0], dialect == "rouge-0.3.2")]


# --- rows of new words ------------------------------------------------------------------------------------------------------------------


@scalar
def extend_embedding(table: Any, kept: Any, pieces: Any) -> Any:
    """The rows that stay, and a mean for every word."""
    rows = [table[place] for place in kept]
    consists = [[rows[piece] for piece in word if piece >= 0] for word in pieces]
    return rows + [[mp.fsum(column) / len(own) for column in zip(*own, strict=True)] for own in consists]


# --- matching and sentences ---------------------------------------------------------------------------------------------------------------


def _main(x: list[int], y: list[int], dialect: str) -> Fraction:
    """0.2 f of ROUGE-1, 0.4 of -2 and -L, exactly; ε is 10^-8 or 0."""
    epsilon, total = Fraction(0 if dialect == "rouge-score" else 1, 10**8), Fraction(0)
    for place, (k, n, m) in enumerate(_counts(x, y, dialect)):
        if k:
            p, r, least = Fraction(k, n), Fraction(k, m), Fraction(1, 10**12)
            f = 2 * p * r / (p + r + epsilon)
            if place == 2 and dialect == "rouge-0.3.2":
                square = (p / (r + least)) ** 2
                f = (1 + square) * r * p / (r + square * p + least)
            total += Fraction(1 if place == 0 else 2, 5) * f
    return total


def _matched(x: list[Any], y: list[Any], dialect: str) -> list[tuple[int, int]]:
    """(place in y, place in x)."""
    if not x or not y:
        return []
    i = min(range(len(y)), key=lambda k: -len(y[k]))
    j = min(range(len(x)), key=lambda k: -_main(x[k], y[i], dialect))
    behind = _matched(x[j:], y[i + 1 :], dialect)
    return [*_matched(x[: j + 1], y[:i], dialect), (i, j), *((i + 1 + a, j + b) for a, b in behind)]


@scalar
def match_sentences(texts: Any, summaries: Any, dialect: str) -> Any:
    """Pairs, in order."""
    x, y = ([[code for code in row if code >= 0] for row in rows] for rows in (texts, summaries))
    return [[mpf(i), mpf(j)] for i, j in _matched(x, y, dialect)]


def _cut(text: list[int], begin: int, end: int, marks: str) -> list[tuple[int, int]]:
    """Where the pieces of a part of a text begin and end."""
    while begin < end and _blank(text[begin]):
        begin += 1
    while begin < end and _blank(text[end - 1]):
        end -= 1
    if end - begin < 2 or not marks:
        return [(begin, end)]
    mark, starts = ord(marks[0]), [begin]
    for place in range(begin + 1, end):
        if text[place - 1] == mark and text[place] != mark:
            starts.append(place)
    pairs = zip(starts, [*starts[1:], end], strict=True)
    return [piece for first, after in pairs for piece in _cut(text, first, after, marks[1:])]


@scalar
def split_sentences(text: Any) -> Any:
    """The number of the piece of every character, -1 for those of none."""
    numbers = [mpf(-1)] * len(text)
    for number, (begin, end) in enumerate(_cut(text, 0, len(text), MARKS)):
        numbers[begin:end] = [mpf(number)] * (end - begin)
    return numbers
