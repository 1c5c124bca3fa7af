"""ROUGE-1, -2 and -L of two texts as sequences of units, as four programs count them.

Each of the three is a precision p, a recall r and a number f between them, from an overlap k of the hypothesis h and the reference y, and from
how much there is in each:

    p = k / n(h),   r = k / n(y),   0 where nothing is                                                                          (1)
    f = 2 p r / (p + r + ε)                                                                                                     (2)

ROUGE-N. G_N(x) are the N units side by side, at every place of x; the k-th time that one occurs in x is something of its own where times are
counted, and the same where each counts once:

    n(x) = |G_N(x)|,   k = |G_N(h) ∩ G_N(y)|                                                                                    (3)

ROUGE-L of "rouge-score", where l(h, y) is the length of a longest common subsequence, and of the other dialects, where L(h, y) is the set of the
units of one, and h₁ h₂ ..., y₁ y₂ ... are sentences:

    n(x) = |x|,             k = l(h, y)                                                                                         (4)
    n(x) = |G_1(x)| as sets,  k = |∪ᵢⱼ L(hᵢ, yⱼ)|                                                                               (5)

Of several longest common subsequences, (5) takes that of `refimpl.copying.longest_common_subsequence` (which units it has, depends on that).
The main metric of SPACES is

    main = 0.2 f_1 + 0.4 f_2 + 0.4 f_L                                                                                          (6)

| dialect | in (3) each counts | ROUGE-L | ε | f of ROUGE-L |
|---|---|---|---|---|
| "rouge-1.0.1", the default | once | (5) | 10⁻⁸ | (2) |
| "rouge-1.0.0" | as often as it occurs | (5) | 10⁻⁸ | (2) |
| "rouge-0.3.2" | once | (5) | 10⁻⁸ | (1 + β²) r p / (r + β² p + 10⁻¹²), β = p / (r + 10⁻¹²) |
| "rouge-score" | as often as it occurs | (4) | 0 | (2), 0 if p + r = 0 |

The first three read text: units are joined by spaces, cut into sentences at every ".", also within a unit ("3.5" is a 3 that ends a sentence), and
into units again at white space, so that a unit of white space is none. Between two "." with only white space between them is a sentence of one
unit, the empty one. N-grams go across the ends of sentences. Where h or y has no sentence, those programs raise ValueError; SPACES counts 0, and
so do all dialects here. "rouge-score" is the definition of Lin for one sequence, and takes units as they are.

For every dialect 0 <= p, r, f <= 1, and p and r change places with h and y, but for (5), where of two longest common subsequences the other
may be taken then. f of a text with itself is 1 in "rouge-score" where there is an N-gram, and 1 / (1 + ε/2) in (2).

References: C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004); the packages rouge 1.0.1, 1.0.0 and 0.3.2
and rouge-score 0.1.2. (5) is computed from the bits of H. Hyyrö, "Bit-parallel LCS-length computation revisited" (2004).
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from refimpl.errors import ConfigError, TextError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from refimpl.text.segmentation import Segmenter

__all__ = [
    "DIALECT",
    "UNITS",
    "Counted",
    "Rouge",
    "Score",
    "at_most",
    "compare",
    "count",
    "dialects",
    "main_metric",
    "overlaps",
    "rouge",
    "units",
]

UNITS = ("character", "word")
DIALECT = "rouge-1.0.1"


class _Dialect(NamedTuple):
    once: bool  # whether an n-gram counts once, however often it occurs
    sentences: bool  # whether text is cut at ".", and ROUGE-L is (5)
    epsilon: float
    weighed: bool = False  # whether f of ROUGE-L has β


_DIALECTS = {
    "rouge-1.0.1": _Dialect(True, True, 1e-8),
    "rouge-1.0.0": _Dialect(False, True, 1e-8),
    "rouge-0.3.2": _Dialect(True, True, 1e-8, True),
    "rouge-score": _Dialect(False, False, 0.0),
}
dialects = tuple(_DIALECTS)


class Score(NamedTuple):
    """How much of the hypothesis the reference has, how much of the reference the hypothesis has, and a number between the two."""

    precision: float
    recall: float
    f: float


class Rouge(NamedTuple):
    """ROUGE-1, ROUGE-2 and ROUGE-L."""

    rouge_1: Score
    rouge_2: Score
    rouge_l: Score

    @property
    def main(self) -> float:
        """main = 0.2 f_1 + 0.4 f_2 + 0.4 f_L."""
        return self.rouge_1.f * 0.2 + self.rouge_2.f * 0.4 + self.rouge_l.f * 0.4


class Counted(NamedTuple):
    """What is counted of one text in one dialect: `compare` takes two of them, and a text that is compared often is counted once."""

    dialect: str
    sentences: tuple[tuple[str, ...], ...]
    grams: tuple[
        frozenset[Hashable], frozenset[Hashable]
    ]  # G_1, G_2; the k-th of several equal ones is (gram, k) where times are counted
    kinds: frozenset[Hashable]  # what of ROUGE-L can be common at most: the units, as sets for (5)
    length: int  # n of ROUGE-L


def units(text: str, unit: str = "character", segmenter: Segmenter | None = None) -> list[str]:
    """The characters of a text, or its words: those of jieba without its hidden Markov model.

    Parameters
    ----------
    text : str
    unit : "character" or "word"
    segmenter : with which dictionary words are found; None for jieba's own. With words of one's own:
        `refimpl.text.segmentation.segmenter().with_words(lines)`

    Returns
    -------
    list of str, which join to the text

    Raises
    ------
    ConfigError
        for another unit.
    TokenizerError
        for words without the package jieba (the extra "text").
    """
    if unit not in UNITS:
        raise ConfigError("no such unit", where="rouge", expected=" or ".join(UNITS), got=repr(unit))
    if unit == "character":
        return list(text)
    if segmenter is None:
        from refimpl.text import segmentation

        segmenter = segmentation.segmenter()
    return list(segmenter.cut(text, hidden=False))


def rouge(hypothesis: Sequence[str], reference: Sequence[str], *, dialect: str = DIALECT) -> Rouge:
    """p = k / n(hypothesis), r = k / n(reference), f = 2 p r / (p + r + ε), for the overlaps k of ROUGE-1, -2 and -L.

    Parameters
    ----------
    hypothesis, reference : sequences of units, for instance by `units`; a str is the sequence of its characters
    dialect : one of `dialects`, the table above

    Returns
    -------
    Rouge of three Scores (precision, recall, f); all are 0 where one of the two is empty

    Raises
    ------
    ConfigError
        for another dialect.
    TextError
        for units that are not strings.
    """
    return compare(count(hypothesis, dialect=dialect), count(reference, dialect=dialect))


def main_metric(
    hypothesis: str,
    reference: str,
    unit: str = "character",
    dialect: str = DIALECT,
    segmenter: Segmenter | None = None,
) -> float:
    """main = 0.2 f_1 + 0.4 f_2 + 0.4 f_L.

    Parameters
    ----------
    hypothesis, reference : str
    unit, segmenter : as `units`
    dialect : as `rouge`

    Returns
    -------
    float, 0 to 1

    Raises
    ------
    ConfigError, TokenizerError
        as `units` and `rouge`.
    """
    return rouge(units(hypothesis, unit, segmenter), units(reference, unit, segmenter), dialect=dialect).main


def count(sequence: Sequence[str], *, dialect: str = DIALECT) -> Counted:
    """G_1, G_2, the sentences and n of ROUGE-L of one sequence of units; ConfigError for another dialect, TextError for other units."""
    wrong = [] if isinstance(sequence, str) else [unit for unit in sequence if not isinstance(unit, str)]
    if wrong:
        raise TextError("units must be strings", where="rouge", expected="a sequence of str", got=repr(wrong[0]))
    if dialect not in _DIALECTS:
        raise ConfigError("unknown dialect", where="rouge", expected=", ".join(dialects), got=repr(dialect))
    once, by_sentence = _DIALECTS[dialect].once, _DIALECTS[dialect].sentences
    sentences = _sentences(sequence) if by_sentence else (tuple(sequence),)
    every = [unit for sentence in sentences for unit in sentence]
    grams = _numbered(every, once), _numbered(itertools.pairwise(every), once)
    kinds: frozenset[Hashable] = frozenset(every) if by_sentence else grams[0]
    return Counted(dialect, sentences, grams, kinds, len(kinds))


def _sentences(sequence: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Sentences as the packages `rouge` read them in units joined by spaces; a blank one is one empty unit, one of no character is none."""
    return tuple(tuple(sentence.split()) or ("",) for sentence in " ".join(sequence).split(".") if sentence)


def _numbered(grams: Iterable[Hashable], once: bool) -> frozenset[Hashable]:
    """The grams; or (gram, 0), (gram, 1), ..., as often as it occurs: the intersection of two such sets is that of the multisets."""
    if once:
        return frozenset(grams)
    return frozenset((gram, k) for gram, times in Counter(grams).items() for k in range(times))


def compare(hypothesis: Counted, reference: Counted) -> Rouge:
    """p = k / n(hypothesis), r = k / n(reference), f = 2 p r / (p + r + ε), of what `count` has counted; raises ConfigError for two dialects."""
    return _compared(hypothesis, reference, _common(hypothesis, reference))


def at_most(hypothesis: Counted, reference: Counted) -> float:
    """A number that `compare(hypothesis, reference).main` is not above, but for rounding: with |kinds(h) ∩ kinds(y)| for k in ROUGE-L."""
    return _compared(hypothesis, reference, len(hypothesis.kinds & reference.kinds)).main


def overlaps(hypothesis: Counted, reference: Counted) -> tuple[tuple[int, int, int], ...]:
    """(k, n(hypothesis), n(reference)) of ROUGE-1, -2 and -L, of what `count` has counted; raises ConfigError for two dialects."""
    _check_one_dialect(hypothesis, reference)
    return _overlaps(hypothesis, reference, _common(hypothesis, reference))


def _overlaps(hypothesis: Counted, reference: Counted, common: int) -> tuple[tuple[int, int, int], ...]:
    """The same, with that overlap in ROUGE-L."""
    grams = ((len(g & h), len(g), len(h)) for g, h in zip(hypothesis.grams, reference.grams, strict=True))
    return (*grams, (common, hypothesis.length, reference.length))


def _compared(hypothesis: Counted, reference: Counted, common: int) -> Rouge:
    """The scores, with that overlap in ROUGE-L."""
    _check_one_dialect(hypothesis, reference)
    dialect = _DIALECTS[hypothesis.dialect]
    one, two, longest = _overlaps(hypothesis, reference, common)
    return Rouge(
        _score(*one, dialect.epsilon),
        _score(*two, dialect.epsilon),
        _score(*longest, dialect.epsilon, dialect.weighed),
    )


def _check_one_dialect(hypothesis: Counted, reference: Counted) -> None:
    if hypothesis.dialect != reference.dialect:
        got = f"{hypothesis.dialect}, {reference.dialect}"
        raise ConfigError("counted in two dialects", where="rouge.compare", expected="one", got=got)


def _score(overlap: int, of_hypothesis: int, of_reference: int, epsilon: float, weighed: bool = False) -> Score:
    p = overlap / of_hypothesis if of_hypothesis else 0.0
    r = overlap / of_reference if of_reference else 0.0
    if not overlap:
        return Score(p, r, 0.0)
    if weighed:
        beta = p / (r + 1e-12)
        return Score(p, r, (1 + beta**2) * r * p / (r + beta**2 * p + 1e-12))
    return Score(p, r, 2.0 * ((p * r) / (p + r + epsilon)) if epsilon else 2 * p * r / (p + r))


# --- longest common subsequences ------------------------------------------------------------------------------------------------------


def _common(hypothesis: Counted, reference: Counted) -> int:
    """k of ROUGE-L: (4) or (5)."""
    if _DIALECTS[hypothesis.dialect].sentences:
        pairs = ((h, y) for y in reference.sentences for h in hypothesis.sentences)
        return len(frozenset().union(*(_common_units(h, y) for h, y in pairs)))
    (h,), (y,) = hypothesis.sentences, reference.sentences
    (last,) = deque(_rows(h, y), maxlen=1)
    return len(h) - last.bit_count()


def _rows(hypothesis: Sequence[str], reference: Sequence[str]) -> Iterator[int]:
    """v_0, ..., v_m: bit j of v_i is 0 where c[i, j + 1] = c[i, j] + 1, with c of the first i of `reference` and the first j of `hypothesis`."""
    places: dict[str, int] = {}
    for j, unit in enumerate(hypothesis):
        places[unit] = places.get(unit, 0) | 1 << j
    v = full = (1 << len(hypothesis)) - 1
    yield v
    for unit in reference:
        found = v & places.get(unit, 0)
        v = ((v + found) | (v - found)) & full
        yield v


def _common_units(hypothesis: Sequence[str], reference: Sequence[str]) -> set[str]:
    """The units of the longest common subsequence that the walk of `refimpl.copying` finds.

    Where the last units differ, c[i, j] is the larger of c[i, j - 1] and c[i - 1, j]: the walk drops the last of `reference` where the second is
    larger than the first, which is where c[i, j] is, and else that of `hypothesis`.
    """
    rows, found = list(_rows(hypothesis, reference)), set()
    i, j = len(reference), len(hypothesis)
    while i and j:
        if reference[i - 1] == hypothesis[j - 1]:
            found.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return found
