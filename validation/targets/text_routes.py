"""Scores of texts, sentences and their matching once more, with regular expressions, lists and a stack, on the host.

What such functions do depends on every character that they read, so that torch and JAX have nothing to compile; common
subsequences alone are array operations, those of `whole_number_routes`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from validation.targets import whole_number_routes as whole

__all__ = ["ON_HOST", "match_sentences", "rouge", "split_sentences"]

ON_HOST = ("copy_beam_search", "rouge", "match_sentences", "split_sentences")  # not to be compiled


def _string(codes: Any) -> str:
    return "".join(chr(int(code)) for code in codes if int(code) >= 0)


# --- ROUGE ----------------------------------------------------------------------------------------------------------------------------


def _sentences(text: str, dialect: str) -> list[str]:
    """Characters of each sentence; U+0000 stands for the unit of a blank one."""
    if dialect == "rouge-score":
        return [text]
    parts = re.findall(r"[^.]+", ".".join(" " + part + " " for part in text.split(".")))
    ends = [part == "  " and number in (0, len(parts) - 1) for number, part in enumerate(parts)]
    return [re.sub(r"\s", "", part) or "\0" for part, nothing in zip(parts, ends, strict=True) if not nothing]


def _overlap(x: list[str], y: list[str], once: bool) -> tuple[int, int, int]:
    a, b = (Counter(dict.fromkeys(each, 1)) if once else Counter(each) for each in (x, y))
    return sum(min(times, b[gram]) for gram, times in a.items()), a.total(), b.total()


def _common(x: str, y: str) -> str:
    """The characters of a longest common subsequence."""
    if not (x and y):
        return ""
    at = whole.pairs(*(np.array([ord(each) for each in text]) for text in (x, y)), np)
    return "".join(each for each, place in zip(x, at, strict=True) if place >= 0)


def _rows(hypothesis: str, reference: str, epsilon: float, dialect: str) -> list[list[float]]:
    x, y = (_sentences(text, dialect) for text in (hypothesis, reference))
    once, joined = dialect in ("rouge-1.0.1", "rouge-0.3.2"), ("".join(x), "".join(y))
    counts = [_overlap(*([text[i : i + n] for i in range(len(text) - n + 1)] for text in joined), once) for n in (1, 2)]
    if dialect == "rouge-score":
        counts.append((len(_common(*joined)), len(joined[0]), len(joined[1])))
    else:
        common = {unit for a in x for b in y for unit in _common(a, b)}
        counts.append((len(common), len(set(joined[0])), len(set(joined[1]))))
    rows = []
    for number, (k, n, m) in enumerate(counts):
        if number == 2 and dialect == "rouge-0.3.2" and k:
            square = (m / n / (1 + 1e-12 * m / k)) ** 2
            rows.append([k / n, k / m, (1 + square) * (k / n) * (k / m) / (k / m + square * (k / n) + 1e-12)])
        else:  # f = 2 k / (n + m + ε n m / k)
            rows.append([k / n, k / m, 2 * k / (n + m + epsilon * n * m / k)] if k else [0.0, 0.0, 0.0])
    return rows


def rouge(hypothesis: Any, reference: Any, epsilon: Any, dialect: str, *, xp: Any) -> Any:  # (n,), (m,), (1,) -> (3, 3)
    """Precision, recall and f of ROUGE-1, -2 and -L."""
    rows = _rows(_string(hypothesis), _string(reference), float(epsilon[0]), dialect)
    return xp.asarray(rows, dtype=epsilon.dtype)


# --- matching and sentences ---------------------------------------------------------------------------------------------------------------


def match_sentences(texts: Any, summaries: Any, dialect: str, *, xp: Any) -> Any:  # (s, n), (r, m) -> int64 (r, 2)
    """The longest sentence of a range, the sentence beside it, and the two ranges that are left, on a stack."""
    x, y = ([_string(row) for row in rows] for rows in (texts, summaries))
    epsilon = 0.0 if dialect == "rouge-score" else 1e-8

    def main(j: int, i: int) -> float:
        one, two, longest = (row[2] for row in _rows(x[j], y[i], epsilon, dialect))
        return one / 5 + 2 * (two + longest) / 5

    found, ranges = {}, [(0, len(x), 0, len(y))]
    while ranges:
        first, end, low, high = ranges.pop()
        if low < high:
            i = sorted(range(low, high), key=lambda k: (-len(y[k]), k))[0]
            scores = [main(j, i) for j in range(first, end)]
            found[i] = first + next(place for place, score in enumerate(scores) if score > max(scores) - 1e-10)
            ranges += [(first, found[i] + 1, low, i), (found[i], end, i + 1, high)]
    return xp.asarray(sorted([i, j] for i, j in found.items()), dtype=xp.int64)


def split_sentences(text: Any, *, xp: Any) -> Any:  # (n,) -> int64 (n,)
    """Every mark in turn: runs that end in it, without the white space at their ends."""
    whole_text = _string(text)
    pieces = [_bare(whole_text, 0, len(whole_text))]
    for mark in "\n。；：，":
        runs = re.compile(f"{mark}+(?=[^{mark}])|[^{mark}]+{mark}*|{mark}+$")
        cut = []
        for begin, end in pieces:
            whole_piece = end - begin < 2
            spans = [(0, end - begin)] if whole_piece else [run.span() for run in runs.finditer(whole_text[begin:end])]
            cut += [_bare(whole_text, begin + first, begin + after) for first, after in spans]
        pieces = cut
    numbers = np.full(len(whole_text), -1, np.int64)
    for number, (begin, end) in enumerate(pieces):
        numbers[begin:end] = number
    return xp.asarray(numbers.tolist(), dtype=xp.int64)


def _bare(text: str, begin: int, end: int) -> tuple[int, int]:
    part = text[begin:end]
    begin = begin + len(part) - len(part.lstrip())
    return begin, begin + len(part.strip())
