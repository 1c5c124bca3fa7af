"""Claims ROUGE-1 to ROUGE-6, CUT-1 and MATCH-1, MATCH-2: overlaps of texts, clauses of a text, and sentences matched with a summary.

All of them depend only on which units are equal, so that all sequences up to a length over a small alphabet are a proof for those lengths. What
is compared with is written here a second time: counts by going through places, longest common subsequences by enumeration, the matching as the
recursion that defines it.
"""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from typing import TYPE_CHECKING

from refimpl.spaces import labels
from refimpl.text import rouge, sentences
from validation.claims.copying import _walked
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LIN = (
    'C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), section 3; the packages rouge 1.0.1, 1.0.0 and 0.3.2, and '
    "rouge-score 0.1.2"
)
SPACES = "github.com/bojone/SPACES at a545db3, extract_convert.py; text_segmentate of bert4keras"
Units = tuple[str, ...]
LETTERS, LONGEST = "ab.", 4  # "." ends a sentence in three of the dialects
SEQUENCES = [s for n in range(LONGEST + 1) for s in itertools.product(LETTERS, repeat=n)]
PAIRS = len(SEQUENCES) ** 2
UNIT = Fraction(1, 2**53)
ONCE = ("rouge-1.0.1", "rouge-0.3.2")  # in these an N-gram counts once


# --- ROUGE, a second time ---------------------------------------------------------------------------------------------------------------


def _sentences(units: Units) -> list[Units]:
    """What is before the first mark, between marks and behind the last; the first and the last only if there is something.

    Units are joined by spaces: two marks have at least a space between them, which is a sentence of one empty unit.
    """
    marks = [place for place, unit in enumerate(units) if unit == "."]
    if not marks:
        return [units] if units else []
    ends = [
        units[: marks[0]],
        *(units[a + 1 : b] or ("",) for a, b in itertools.pairwise(marks)),
        units[marks[-1] + 1 :],
    ]
    return [part for part in ends if part]


def _overlap(x: Sequence[object], y: Sequence[object], once: bool) -> int:
    """How many of x are in y, each counted once, or as often as in both."""
    if once:
        return sum(each in y for place, each in enumerate(x) if each not in x[:place])
    rest = list(y)
    return sum(each in rest and rest.remove(each) is None for each in x)


@functools.cache
def _subsequence(h: Units, y: Units) -> Units:
    """The units of the longest common subsequence that the walk of COPY-1 finds."""
    letters = dict(zip(dict.fromkeys(h + y), itertools.count()))
    pairs = _walked(tuple(letters[unit] for unit in h), tuple(letters[unit] for unit in y))
    return tuple(h[i] for i, _ in pairs)


@functools.cache
def _parts(units: Units, dialect: str) -> tuple[list[Units], list[list[Units]], list[int]]:
    """The sentences, the N-grams of N = 1 and 2, and how much of ROUGE-1, -2 and -L there is."""
    parts = [units] if dialect == "rouge-score" else _sentences(units)
    flat = tuple(unit for part in parts for unit in part)
    grams = [[flat[k : k + n] for k in range(len(flat) - n + 1)] for n in (1, 2)]
    sizes = [len(set(each)) if dialect in ONCE else len(each) for each in grams]
    return parts, grams, [*sizes, len(flat) if dialect == "rouge-score" else len(set(flat))]


def _counted(h: Units, y: Units, dialect: str) -> list[tuple[int, int, int]]:
    """(overlap, of the hypothesis, of the reference) of ROUGE-1, -2 and -L, or nothing where a text has no sentence."""
    (hypothesis, h_grams, n), (reference, y_grams, m) = _parts(h, dialect), _parts(y, dialect)
    if not hypothesis or not reference:
        return []
    found = [_overlap(a, b, dialect in ONCE) for a, b in zip(h_grams, y_grams, strict=True)]
    common = [_subsequence(a, b) for b in reference for a in hypothesis]
    longest = len(common[0]) if dialect == "rouge-score" else len({unit for each in common for unit in each})
    return list(zip([*found, longest], n, m, strict=True))


@functools.cache
def _exact(k: int, n: int, m: int, dialect: str, longest: bool) -> tuple[float, float, Fraction]:
    """P and r, correctly rounded, and f, exactly."""
    p, r = Fraction(k, n or 1), Fraction(k, m or 1)
    f = Fraction(0)
    if k and dialect == "rouge-0.3.2" and longest:
        beta = (p / (r + Fraction(1e-12))) ** 2
        f = (1 + beta) * p * r / (r + beta * p + Fraction(1e-12))
    elif k:
        f = 2 * p * r / (p + r + (0 if dialect == "rouge-score" else Fraction(1e-8)))
    return float(p), float(r), f


@functools.cache
def _wrong_score(score: rouge.Score, counts: tuple[int, int, int], dialect: str, longest: bool) -> str:
    """What is wrong with one of the three scores, or nothing."""
    p, r, f = _exact(*counts, dialect, longest)
    if (score.precision, score.recall) != (p, r):
        return f"p, r = {score[:2]}, and {counts[0]} of {counts[1:]} are common"
    if not abs(Fraction(score.f) - f) <= 16 * UNIT * f:
        return f"f = {score.f!r}, and exactly {float(f)!r}"
    return "" if all(0 <= number <= 1 for number in score) else f"{score} is not between 0 and 1"


def _wrong(h: Units, y: Units, dialect: str, found: rouge.Rouge) -> str:
    """What is wrong with an answer, or nothing."""
    expected = _counted(h, y, dialect) or [(0, 1, 1)] * 3
    return "".join(_wrong_score(score, expected[k], dialect, k == 2) for k, score in enumerate(found))


@functools.cache
def _all_counted(dialect: str) -> dict[Units, rouge.Counted]:
    return {units: rouge.count(units, dialect=dialect) for units in SEQUENCES}


def _every(dialects: Sequence[str] = rouge.dialects) -> Iterator[tuple[str, Units, Units, rouge.Rouge]]:
    """Every dialect, hypothesis and reference, with the answer."""
    for dialect in dialects:
        counted = _all_counted(dialect)
        for h, y in itertools.product(SEQUENCES, repeat=2):
            yield dialect, h, y, rouge.compare(counted[h], counted[y])


def _joined(units: Units) -> str:
    return repr(" ".join(units))


def _first_wrong(wrong: Callable[[str, Units, Units, rouge.Rouge], str], good: str) -> Outcome:
    cases = 0
    for dialect, h, y, found in _every():
        cases += 1
        said = wrong(dialect, h, y, found)
        if said:
            return Outcome("refuted", cases, f"{dialect}, {_joined(h)} against {_joined(y)}: {said}")
    return Outcome("proved", cases, good)


METHOD = f"all pairs of sequences of 0 to {LONGEST} units a, b and the mark that ends a sentence, in each of the four dialects"


@claim(
    "ROUGE-1",
    "p = k / n(h), r = k / n(y) and f = 2 p r / (p + r + ε) (with β in rouge-0.3.2), with the counts that each dialect is said to have; "
    "0 <= p, r, f <= 1; all are 0 where a text has no sentence",
    source=LIN,
    method=f"{METHOD}: counts by going through places, longest common subsequences by enumeration; p and r correctly rounded, f within 16 u of "
    "what it is exactly",
    expected="proved",
    cases=4 * PAIRS,
)
def _definitions(setting: Setting) -> Outcome:
    return _first_wrong(lambda dialect, h, y, found: _wrong(h, y, dialect, found), "p, r and f of ROUGE-1, -2 and -L")


def _exchanged(a: rouge.Score, b: rouge.Score) -> bool:
    return (a.precision, a.recall) == (b.recall, b.precision) and a.f == b.f


@claim(
    "ROUGE-2",
    "with hypothesis and reference exchanged, p and r are, and f stays: of ROUGE-1 and -2 in every dialect, and of ROUGE-L in rouge-score",
    source=LIN,
    method=METHOD,
    expected="proved",
    cases=4 * PAIRS,
)
def _symmetric(setting: Setting) -> Outcome:
    def wrong(dialect: str, h: Units, y: Units, found: rouge.Rouge) -> str:
        counted = _all_counted(dialect)
        other = rouge.compare(counted[y], counted[h])
        checked = zip(found, other, strict=True) if dialect == "rouge-score" else zip(found[:2], other[:2], strict=True)
        return "" if all(itertools.starmap(_exchanged, checked)) else f"{found} and {other}"

    return _first_wrong(wrong, "p and r exchanged, f equal")


@claim(
    "ROUGE-2.published",
    "the same of ROUGE-L in the packages rouge, of one sentence",
    source=LIN,
    method="they count the different units of one longest common subsequence: with the texts exchanged it may be another, of more different units; "
    "all pairs of sequences of up to 5 units a and b",
    expected="refuted",
    cases=1,
)
def _not_symmetric(setting: Setting) -> Outcome:
    cases, every = 0, [s for n in range(1, 6) for s in itertools.product("ab", repeat=n)]
    for h, y in itertools.product(every, repeat=2):
        cases += 1
        one, other = rouge.rouge(h, y).rouge_l, rouge.rouge(y, h).rouge_l
        if not _exchanged(one, other):
            return Outcome(
                "refuted", cases, f"{_joined(h)} against {_joined(y)}: f = {one.f:.4f}, exchanged {other.f:.4f}"
            )
    return Outcome("proved", cases, "")


def _is_subsequence(part: Units, whole: Units) -> bool:
    rest = iter(whole)
    return all(unit in rest for unit in part)


@claim(
    "ROUGE-3",
    "ROUGE-L of a subsequence of the reference has precision 1, where there is one sentence",
    source=LIN,
    method=f"{METHOD}; in rouge-score the mark is a unit as others are",
    expected="proved",
    cases=4 * PAIRS,
)
def _subsequences(setting: Setting) -> Outcome:
    def wrong(dialect: str, h: Units, y: Units, found: rouge.Rouge) -> str:
        one = dialect == "rouge-score" or "." not in h + y
        meant = one and h and _is_subsequence(h, y)
        return f"precision {found.rouge_l.precision}" if meant and found.rouge_l.precision != 1 else ""

    return _first_wrong(wrong, "precision 1")


@claim(
    "ROUGE-3.sentences",
    "the same of a reference of several sentences, in the packages rouge",
    source=LIN,
    method="a sentence of each is compared at a time; all pairs of up to 2 units a, b, c and 5 with one mark among them",
    expected="refuted",
    cases=1,
)
def _across_sentences(setting: Setting) -> Outcome:
    cases = 0
    for h in (s for n in (1, 2) for s in itertools.product("abc", repeat=n)):
        for y in itertools.product("abc", repeat=4):
            for place, last in itertools.product(range(1, 4), "abc"):
                whole = (*y[:place], ".", *y[place:], last)
                cases += 1
                found = rouge.rouge(h, whole).rouge_l.precision
                if _is_subsequence(h, whole) and found != 1:
                    return Outcome("refuted", cases, f"{_joined(h)} against {_joined(whole)}: precision {found:.4f}")
    return Outcome("proved", cases, "")


@claim(
    "ROUGE-4",
    "a unit more at the end of the hypothesis does not lower the recall of ROUGE-1, -2 and -L in rouge-score, nor, if it is not the mark, that of "
    "ROUGE-1 and -2 elsewhere",
    source=LIN,
    method=f"{METHOD}, those of up to {LONGEST - 1} units with each of the three more",
    expected="proved",
    cases=4 * sum(3**n for n in range(LONGEST)) * len(SEQUENCES),
)
def _monotone(setting: Setting) -> Outcome:
    cases = 0
    for dialect in rouge.dialects:
        counted, checked = _all_counted(dialect), 3 if dialect == "rouge-score" else 2
        for h, y in itertools.product(SEQUENCES, repeat=2):
            if len(h) == LONGEST:
                continue
            cases, recall = cases + 1, [score.recall for score in rouge.compare(counted[h], counted[y])]
            for letter in "ab" if dialect != "rouge-score" else LETTERS:
                more = [score.recall for score in rouge.compare(counted[(*h, letter)], counted[y])]
                if any(b < a for a, b in zip(recall[:checked], more[:checked], strict=True)):
                    return Outcome(
                        "refuted", cases, f"{dialect}, {_joined(h)} and {letter} against {_joined(y)}: {recall}, {more}"
                    )
    return Outcome("proved", cases, "no recall falls")


@claim(
    "ROUGE-4.published",
    "the same of ROUGE-L in the packages rouge, of one sentence",
    source=LIN,
    method="a longer common subsequence may have fewer different units; all of up to 3 units a, b, c with one more, against up to 4",
    expected="refuted",
    cases=1,
)
def _not_monotone(setting: Setting) -> Outcome:
    cases = 0
    for n in range(2, 5):
        for h, y in itertools.product(itertools.product("abc", repeat=n - 1), itertools.product("abc", repeat=n)):
            before = rouge.rouge(h, y).rouge_l.recall
            for letter in "abc":
                cases, after = cases + 1, rouge.rouge((*h, letter), y).rouge_l.recall
                if after < before:
                    said = (
                        f"{_joined(h)} against {_joined(y)}: recall {before:.4f}, with {letter} behind it {after:.4f}"
                    )
                    return Outcome("refuted", cases, said)
    return Outcome("proved", cases, "")


@claim(
    "ROUGE-5",
    "of a text with itself, p = r = 1 and f = 1 to within ε, of every N-gram that it has; f = 1 in rouge-score",
    source=LIN,
    method=METHOD,
    expected="proved",
    cases=4 * len(SEQUENCES),
)
def _identity(setting: Setting) -> Outcome:
    cases = 0
    for dialect in rouge.dialects:
        for units, counted in _all_counted(dialect).items():
            cases, found = cases + 1, rouge.compare(counted, counted)
            there = [bool(counted.grams[0]), bool(counted.grams[1]), bool(counted.grams[0])]
            least = 1.0 if dialect == "rouge-score" else 1 - 1e-8
            for score, some in zip(found, there, strict=True):
                if (score[:2] != (1, 1) or not least <= score.f <= 1) if some else score != (0, 0, 0):
                    return Outcome("refuted", cases, f"{dialect}, {_joined(units)}: {score}")
    return Outcome("proved", cases, "1, and 0 where there is nothing")


@claim(
    "ROUGE-6",
    "the bound on the main metric by which a matching passes over pairs of sentences is one",
    source="refimpl.text.rouge.at_most",
    method=METHOD,
    expected="proved",
    cases=4 * PAIRS,
)
def _bound(setting: Setting) -> Outcome:
    def wrong(dialect: str, h: Units, y: Units, found: rouge.Rouge) -> str:
        counted = _all_counted(dialect)
        bound = rouge.at_most(counted[h], counted[y])
        return f"{found.main!r} is above {bound!r}" if found.main > bound else ""

    return _first_wrong(wrong, "no metric above its bound")


# --- clauses ------------------------------------------------------------------------------------------------------------------------------

CHARACTERS, MARKS, MOST = "a，。 \n", "\n。，", 6
TEXTS = sum(len(CHARACTERS) ** n for n in range(MOST + 1))


def _gaps(text: str, pieces: list[str]) -> list[str]:
    """What is before, between and behind the pieces, in their order, as found from the left."""
    gaps = []
    for piece in pieces:
        before, found, text = text.partition(piece) if piece else ("", "", text)
        gaps.append(before if found == piece else "lost")
    return [*gaps, text]


def _cannot_be_cut(piece: str) -> bool:
    return all(sum(map(bool, piece.split(mark))) <= 1 for mark in MARKS)


@claim(
    "CUT-1",
    "the pieces, with white space between them, are the text; a piece is at most as long as asked for, without the marks at its end, or has at "
    "most one part that is not empty between its marks of any one kind; with the length 1 every piece is of the second sort",
    source=SPACES,
    method=f"all texts of 0 to {MOST} characters of a, two marks, a space and a line feed; lengths 1, 2, 3 and 5",
    expected="proved",
    cases=4 * TEXTS,
)
def _pieces(setting: Setting) -> Outcome:
    cases = 0
    for text in ("".join(s) for n in range(MOST + 1) for s in itertools.product(CHARACTERS, repeat=n)):
        for longest in (1, 2, 3, 5):
            cases, pieces = cases + 1, sentences.split(text, longest, MARKS)
            whole = all(not gap.strip() for gap in _gaps(text, pieces))
            cut = all(len(p.rstrip(MARKS)) <= longest or _cannot_be_cut(p) for p in pieces)
            if longest == 1:
                cut = cut and all(map(_cannot_be_cut, pieces))
            if not (whole and cut and all(piece == piece.strip() for piece in pieces)):
                return Outcome("refuted", cases, f"{text!r} with {longest}: {pieces}")
    return Outcome("proved", cases, "nothing lost but white space, nothing left uncut")


# --- matching -----------------------------------------------------------------------------------------------------------------------------

POOL = ("ab。", "ba，", "bbc.a")
LISTS = [s for n in range(4) for s in itertools.product(POOL, repeat=n)]


def _recursion(
    texts: Sequence[str], summaries: Sequence[str], main: Callable[[str, str], float]
) -> list[tuple[int, int]]:
    """Equation (1) of `refimpl.spaces.labels` as it stands."""
    if not texts or not summaries:
        return []
    lengths = [len(sentence) for sentence in summaries]
    i = lengths.index(max(lengths))
    metrics = [main(sentence, summaries[i]) for sentence in texts]
    j = metrics.index(max(metrics))
    left = _recursion(texts[: j + 1], summaries[:i], main)
    right = _recursion(texts[j:], summaries[i + 1 :], main)
    return [*left, (i, j), *((i + 1 + a, j + b) for a, b in right)]


def _mismatched(texts: Sequence[str], summaries: Sequence[str], found: list[tuple[int, int]]) -> str:
    """What is wrong with the order of a matching, or nothing."""
    if [i for i, _ in found] != (list(range(len(summaries))) if texts else []):
        return f"{found} does not have every sentence of the summary once"
    chosen = [j for _, j in found]
    return f"{found} goes back" if chosen != sorted(chosen) or any(j >= len(texts) for j in chosen) else ""


@claim(
    "MATCH-1",
    "the matching is that of the recursion which defines it; every sentence of the summary has one of the text, where there is one; with the "
    "sentences of the summary, those of the text do not fall",
    source=SPACES,
    method=f"all texts and summaries of 0 to 3 of {len(POOL)} sentences, in each of the four dialects: main_metric of every pair, recursion on "
    "slices",
    expected="proved",
    cases=4 * len(LISTS) ** 2,
)
def _matching(setting: Setting) -> Outcome:
    cases = 0
    for dialect in rouge.dialects:
        main = functools.cache(functools.partial(rouge.main_metric, dialect=dialect))
        for texts, summaries in itertools.product(LISTS, repeat=2):
            cases, found = cases + 1, labels.match(texts, summaries, dialect=dialect)
            wrong = _mismatched(texts, summaries, found)
            if wrong or found != _recursion(texts, summaries, main):
                return Outcome("refuted", cases, f"{dialect}, {texts} for {summaries}: {wrong or found}")
    return Outcome("proved", cases, "every pair of the recursion")


@claim(
    "MATCH-2",
    "no other choice of sentences has a higher main metric with the summary than the one that is matched",
    source=SPACES,
    method="what is matched is near to one sentence of the summary, whatever else is extracted: all choices from three sentences",
    expected="refuted",
    cases=1,
)
def _not_the_best(setting: Setting) -> Outcome:
    cases = 0
    for texts in (chosen for chosen in itertools.permutations(("甲乙丙，", "甲乙，", "丙丁，", "丁。"), 3)):
        for summary in ("甲乙丙丁。", "甲乙，丙丁。"):
            found = labels.extractive_labels("".join(texts), summary)
            for n in range(1, 4):
                for chosen in itertools.combinations(range(3), n):
                    cases, other = cases + 1, rouge.main_metric("".join(texts[j] for j in chosen), summary)
                    if other > found.score + 1e-9:
                        said = f"of {texts} for {summary!r} {found.labels} have {found.score:.4f}, {list(chosen)} {other:.4f}"
                        return Outcome("refuted", cases, said)
    return Outcome("proved", cases, "")
