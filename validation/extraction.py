"""Components of extraction: scores of two texts, sentences, which sentence goes with which, and rows for words that are new.

Texts are arrays of Unicode code points, their units characters; lists of texts are padded with -1 behind. A score is a quotient of counts. The one
real number that enters is ε, which is therefore an argument: `epsilon`, an array of one number, holds what the dialect has, 10⁻⁸ or 0, rounded to
float32, and its dtype is that of the answer. Against 10⁻⁸ itself, 6·10⁻¹⁷ away, that moves f by at most 3·10⁻¹⁷, as 2 p r <= (p + r)²/2: a program
with an ε of its own conforms.
In 16 bits, in which nobody computes ROUGE, there is only the dialect whose ε is 0: a vector for them serves float64 too, where another ε would show.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.number_system import device_of, exact, namespace, rounded_once
from refimpl.spaces import labels, words
from refimpl.text import rouge, sentences
from validation.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EXACTLY",
    "are_decided",
    "codes",
    "epsilon_of",
    "extend_embedding",
    "extend_embedding_cases",
    "match_sentences",
    "match_sentences_cases",
    "padded",
    "rouge_cases",
    "rouge_dialects",
    "rouge_scores",
    "rouge_scores_by_reciprocals",
    "split_sentences",
    "split_sentences_cases",
]

PADDING = -1
EXACTLY = "rouge-score"  # its ε is 0
_SHORT = ("float16", "bfloat16")


def codes(text: str) -> Any:  # -> int64 (n,)
    """A text as its code points."""
    return np.array([ord(character) for character in text], np.int64)


def padded(texts: list[str]) -> Any:  # -> int64 (s, longest)
    """Texts as rows of code points."""
    longest = max(map(len, texts))
    return np.array([[*map(ord, text), *[PADDING] * (longest - len(text))] for text in texts], np.int64)


def _text(given: Any) -> str:  # int (n,)
    return "".join(chr(code) for code in _numbers(given) if code != PADDING)


def _numbers(given: Any) -> list[int]:  # int (n,)
    return [int(given[place]) for place in range(given.shape[0])]


def _rows(given: Any) -> list[list[int]]:  # int (r, n)
    return [[int(given[row, place]) for place in range(given.shape[1])] for row in range(given.shape[0])]


def _texts(given: Any) -> list[str]:  # int (s, n)
    return ["".join(chr(code) for code in row if code != PADDING) for row in _rows(given)]


# --- ROUGE ----------------------------------------------------------------------------------------------------------------------------


def rouge_scores(hypothesis: Any, reference: Any, epsilon: Any, dialect: str) -> Any:  # (n,), (m,), (1,) -> (3, 3)
    """p = k / n(hypothesis), r = k / n(reference), f = 2 p r / (p + r + ε), for the overlaps k of ROUGE-1, -2 and -L."""
    return _scored(epsilon, hypothesis, reference, dialect, lambda k, n: k / n)


def rouge_scores_by_reciprocals(hypothesis: Any, reference: Any, epsilon: Any, dialect: str) -> Any:
    """The same with k · (1/n): no quotient is exact because both counts are small."""
    return _scored(epsilon, hypothesis, reference, dialect, lambda k, n: k * (1 / n))


@rounded_once
def _scored(
    epsilon: Any, hypothesis: Any, reference: Any, dialect: str, quotient: Callable[[Any, Any], Any]
) -> Any:  # (1,), (n,), (m,) -> (3, 3)
    counted = (rouge.count(_text(each), dialect=dialect) for each in (hypothesis, reference))
    rows = [
        _score(*(epsilon * 0 + count for count in counts), counts[0], epsilon, number == 2, dialect, quotient)
        for number, counts in enumerate(rouge.overlaps(*counted))
    ]
    return namespace(epsilon).stack([namespace(epsilon).concat(row) for row in rows])


def _score(
    k: Any, n: Any, m: Any, found: int, epsilon: Any, longest: bool, dialect: str, quotient: Callable[[Any, Any], Any]
) -> list[Any]:  # (1,) three times -> precision, recall, f
    if not found:
        return [epsilon * 0] * 3
    p, r = quotient(k, n), quotient(k, m)
    if longest and dialect == "rouge-0.3.2":
        least = exact(Fraction(1, 10**12), epsilon)
        beta = quotient(p, r + least)
        return [p, r, quotient((1 + beta * beta) * r * p, r + beta * beta * p + least)]
    return [p, r, quotient(2 * (p * r), p + r + epsilon)]


def epsilon_of(dialect: str) -> Any:  # -> float64 (1,)
    """What the argument `epsilon` is in a dialect."""
    return np.array([0.0 if dialect == EXACTLY else float(np.float32(1e-8))])


def rouge_dialects(dtype: str) -> tuple[str, ...]:
    """The dialects that there are calls of in a dtype."""
    return (EXACTLY,) if dtype in _SHORT else rouge.dialects


def rouge_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """In 16 bits those of one dialect."""

    def case(name: str, hard: str, hypothesis: str, reference: str, dialect: str) -> Case:
        arrays = codes(hypothesis), codes(reference), epsilon_of(dialect)
        return Case(f"{name}-{dialect}", hard, arrays, {"dialect": dialect})

    drawn = ["".join(rng.choice(list("天地人"), size)) for size in (5, 18)]
    cases = [
        case(
            "repeated",
            "n-grams that occur several times; U+20001 is not U+0001",
            "abcabab\U00020001",
            "ababcb\x01",
            EXACTLY,
        ),
        case("nothing", "an empty hypothesis: every score is 0", "", "a", EXACTLY),
        case("drawn", "three characters, many longest common subsequences", *drawn, EXACTLY),
    ]
    if rouge_dialects(dtype) == (EXACTLY,):
        return cases
    hypothesis, reference = "天地3.5 天玄天地。. .宙", "地天玄3.5黄宇。天.宙地天宙"
    why = (
        "four sentences: '.' ends one in a number too, one is blank; ties; n-grams several times, and across sentences"
    )
    cases += [case("sentences", why, hypothesis, reference, each) for each in rouge.dialects if each != EXACTLY]
    long, one = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳", "午巳"
    return [*cases, case("longer", "a hypothesis of 16 units, of which one is common", long, one, rouge.DIALECT)]


# --- rows for new words -----------------------------------------------------------------------------------------------------------------


def extend_embedding(table: Any, kept: Any, pieces: Any) -> Any:  # (v, d), int (k,), int (w, p) -> (k + w, d)
    """The rows kept, and the mean of its pieces' for every word."""
    consists = [[row for row in rows if row != PADDING] for rows in _rows(pieces)]
    return words.extend_embedding(table, _numbers(kept), consists)


def extend_embedding_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Rows that stay in another order, pieces by their new numbers."""

    def case(
        name: str, hard: str, shape: tuple[int, int], kept: list[int], pieces: list[list[int]], by: float = 1.0
    ) -> Case:
        return Case(name, hard, (by * rng.normal(size=shape), np.array(kept), np.array(pieces)))

    return [
        case(
            "words",
            "of three, two and one piece, one twice; rows left out; another order",
            (6, 3),
            [4, 0, 5, 2],
            [[3, 0, 1], [1, 1, 2], [2, 0, -1], [3, -1, -1]],
        ),
        case(
            "wide", "seven pieces", (9, 2), [8, 1, 2, 3, 7, 6, 0], [[0, 1, 2, 3, 4, 5, 6], [6, 4, -1, -1, -1, -1, -1]]
        ),
    ]


# --- which sentence goes with which -----------------------------------------------------------------------------------------------------


def match_sentences(texts: Any, summaries: Any, dialect: str) -> Any:  # int (s, n), int (r, m) -> int64 (r, 2)
    """(i, j) for every sentence i of the summary."""
    xp = namespace(texts)
    found = labels.match(_texts(texts), _texts(summaries), dialect=dialect)
    return xp.asarray([list(pair) for pair in found], dtype=xp.int64, device=device_of(texts))


def are_decided(texts: Any, summaries: Any, dialect: str) -> bool:  # int (s, n), int (r, m)
    """Whether rounding decides nothing: metrics of two sentences beside one are equal because their scores are, or 10⁻⁹ apart."""
    for y in _texts(summaries):
        scores = sorted({_scores_and_main(x, y, dialect) for x in _texts(texts)}, key=lambda each: each[1])
        if any(after[1] - before[1] < 1e-9 for before, after in itertools.pairwise(scores)):
            return False
    return True


def _scores_and_main(x: str, y: str, dialect: str) -> tuple[tuple[float, ...], float]:
    found = rouge.rouge(x, y, dialect=dialect)
    return tuple(score.f for score in found), found.main


def match_sentences_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Every dialect."""

    def case(name: str, hard: str, texts: list[str], summaries: list[str], dialect: str = rouge.DIALECT) -> Case:
        return Case(f"{name}-{dialect}", hard, (padded(texts), padded(summaries)), {"dialect": dialect})

    first = (
        ["黄地地栩", "天天地黄栩地", "栩.", "栩黄", "天天黄栩地", "栩栩栩."],
        ["黄黄黄地天", "黄地", "黄.", "栩天.地天", "黄天栩天"],
    )
    often = (
        ["天.黄地栩栩", "天地黄天.栩", "栩天黄黄栩黄", "天栩", "地栩.地", "地栩"],
        ["天栩", "天栩", "地.天天", ".栩", ".地.栩", "栩黄"],
    )
    early = (
        ["地栩黄", ".天黄地天天", "栩黄栩黄地", "黄黄", "天栩栩栩天", ".黄栩"],
        ["黄地栩..", "天天", ".", "黄栩", "天地", "地."],
    )
    plain = (
        ["玄玄宇黄地天", "黄宇宇黄", "地宇地宇宇天", "地宇天地地", "黄宇天"],
        ["玄", "宇宇黄天宇", "地", "玄天", "宇", "宇天天黄"],
    )
    cases = [
        case("weighed", "sentences of five characters; metrics that are near each other", *first),
        case(
            "repeated",
            "n-grams several times; U+5929 is not U+6829; of equal sentences the first",
            *often,
            "rouge-1.0.0",
        ),
        case("early", "the longest comes first: the others are matched with what is left", *early, "rouge-0.3.2"),
        case("plain", "units several times", *plain, "rouge-score"),
    ]
    return [
        *cases,
        case("nothing", "nothing in common: the first sentence that is left", ["甲", "乙"], ["丙", "丁戊", "己庚"]),
    ]


# --- sentences --------------------------------------------------------------------------------------------------------------------------


def split_sentences(text: Any) -> Any:  # int (n,) -> int64 (n,)
    """The number of the sentence that each character is in, -1 where it is in none."""
    xp, whole, found, at = namespace(text), _text(text), list[int](), 0
    for number, piece in enumerate(sentences.split(whole)):
        begin = (
            whole.index(piece[0], at) if piece else at
        )  # what is before it is white space, which no piece begins with
        found += [PADDING] * (begin - at) + [number] * len(piece)
        at = begin + len(piece)
    found += [PADDING] * (len(whole) - at)
    return xp.asarray(found, dtype=xp.int64, device=device_of(text))


def split_sentences_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Marks, white space, neither."""

    def case(name: str, hard: str, text: str) -> Case:
        return Case(name, hard, (codes(text),))

    return [
        case(
            "marks",
            "every mark, in the order in which they are tried; a half-width comma and a full stop are none",
            " 天，地；玄：黄。\n宇,宙.；，洪\u3000荒，。日",
        ),
        case(
            "dropped",
            "white space at the ends of sentences, a line of white space, which is an empty sentence",
            "\u3000天 地， 玄\n \n黄。。 ，宇\n\n",
        ),
        case("without marks", "one sentence with a space in it", "a 天"),
    ]
