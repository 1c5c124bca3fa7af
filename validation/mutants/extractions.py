"""Mutants of ROUGE, of sentences and their matching, and of the rows of new words."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTANTS", "TWINS"]

Text = tuple[str, ...]
_PACKAGES = ("rouge-1.0.1", "rouge-1.0.0", "rouge-0.3.2")


def _characters(codes: Any) -> Text:
    return tuple(chr(code) for code in codes)


# --- ROUGE ----------------------------------------------------------------------------------------------------------------------------


def _sentences(text: Text, blank: tuple[Text, ...] = (("",),), point: str = ".") -> list[Text]:
    """The sentences as the packages cut them; a blank one is `blank`."""
    found: list[Text] = []
    for part in " ".join(text).split(point) if point else [" ".join(text)]:
        found += [tuple(part.split())] if part.split() else blank if part else ()
    return found


def _grams(text: list[Any], n: int) -> list[Any]:
    return [tuple(text[place : place + n]) for place in range(len(text) - n + 1)]


def _across(sentences: list[Text], n: int) -> list[Any]:
    return _grams(list(itertools.chain(*sentences)), n)


def _within(sentences: list[Text], n: int) -> list[Any]:
    return [gram for sentence in sentences for gram in _grams(list(sentence), n)]


def _once(dialect: str) -> bool:
    return dialect in ("rouge-1.0.1", "rouge-0.3.2")


def _as_text(dialect: str) -> bool:
    return dialect in _PACKAGES


def _lengths(x: Text, y: Text) -> Any:  # -> int (n+1, m+1)
    table = np.zeros((len(x) + 1, len(y) + 1), int)
    for i, j in np.ndindex(len(x), len(y)):
        table[i + 1, j + 1] = table[i, j] + 1 if x[i] == y[j] else max(table[i, j + 1], table[i + 1, j])
    return table


def _subsequence(x: Text, y: Text, rather_x: bool = True) -> list[str]:
    """The units of a longest common subsequence; at a tie the end of x is dropped, or that of y."""
    table, i, j, found = _lengths(x, y), len(x), len(y), list[str]()
    while table[i, j]:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            found.append(x[i])
        elif table[i - 1, j] > table[i, j - 1] or (rather_x and table[i - 1, j] == table[i, j - 1]):
            i -= 1
        else:
            j -= 1
    return found


def _substring(x: Text, y: Text) -> list[str]:
    runs = (x[i : i + n] for n in range(len(x), 0, -1) for i in range(len(x) - n + 1))
    return list(next((run for run in runs if run in _grams(list(y), len(run))), ()))


def _units_in_common(x: Text, y: Text) -> list[str]:
    return list((Counter(x) & Counter(y)).elements())


def _union(found: list[list[str]]) -> int:
    return len(set().union(*found))


def _largest(found: list[list[str]]) -> int:
    return max((len(set(each)) for each in found), default=0)


def _f(p: float, r: float, epsilon: float) -> float:
    return 2 * (p * r / (p + r + epsilon))


def _weighed(p: float, r: float, epsilon: float) -> float:
    beta = p / (r + 1e-12)
    return (1 + beta**2) * r * p / (r + beta**2 * p + 1e-12)


def _rouge(
    hypothesis: Any,
    reference: Any,
    epsilon: Any,
    dialect: str,
    *,
    read: Callable[[Any], Text] = _characters,
    cut: Callable[[Text], list[Text]] = _sentences,
    as_text: Callable[[str], bool] = _as_text,
    once: Callable[[str], bool] = _once,
    places: Callable[[list[Text], int], list[Any]] = _across,
    sizes: tuple[int, int] = (1, 2),
    subsequence: Callable[[Text, Text], list[str]] = _subsequence,
    together: Callable[[list[list[str]]], int] = _union,
    of_units: Callable[[list[str]], int] = lambda units: len(set(units)),
    f: Callable[[float, float, float], float] = _f,
    weighed: Callable[[float, float, float], float] = _weighed,
    shares: Callable[[int, int, int], tuple[float, float]] = lambda k, n, m: (k / n, k / m),
    nothing: float = 0.0,
    told: Callable[[Any], Any] = lambda scores: scores,
) -> Any:
    texts = [cut(read(each)) if as_text(dialect) else [read(each)] for each in (hypothesis, reference)]
    counts = []
    for size in sizes:
        x, y = (Counter(places(each, size)) for each in texts)
        x, y = (Counter(set(each)) if once(dialect) else each for each in (x, y))
        counts.append(((x & y).total(), x.total(), y.total()))
    common = [subsequence(x, y) for y in texts[1] for x in texts[0]]
    flat = [list(itertools.chain(*each)) for each in texts]
    if as_text(dialect):
        counts.append((together(common), of_units(flat[0]), of_units(flat[1])))
    else:
        counts.append((len(common[0]), len(flat[0]), len(flat[1])))
    scores = []
    for number, (k, n, m) in enumerate(counts):
        p, r = shares(k, n, m) if k else (0.0, 0.0)
        formula = weighed if number == 2 and dialect == "rouge-0.3.2" else f
        scores.append((p, r, formula(p, r, float(epsilon[0])) if k else nothing))
    return np.asarray(told(np.array(scores))).astype(epsilon.dtype)


_of_rouge = family("rouge", _rouge)


def _of(name: str, flag: str, dtypes: tuple[str, ...] | None = None, **replaced: Any) -> Mutant:
    """A mutant of ROUGE: the answer is of the dtype of ε already."""
    given = {} if dtypes is None else {"dtypes": dtypes}
    return _of_rouge(name, flag, entire=functools.partial(_rouge, **replaced), **given)


_ROUGE = (
    _of("every n-gram counts once", "multiplicity", once=lambda dialect: True),
    _of("n-grams count as often as they occur", "multiplicity", LONG, once=lambda dialect: False),
    _of(
        "as often as they occur, but in the package's last version", "dialect", LONG, once=lambda d: d == "rouge-1.0.1"
    ),
    _of("ROUGE-L over units that count as often as they occur", "multiplicity", LONG, of_units=len),
    _of("bigrams within sentences", "sentence-ends", LONG, places=_within),
    _of("'.' ends no sentence", "sentence-ends", LONG, cut=functools.partial(_sentences, point="")),
    _of("'.' is a unit", "sentence-ends", LONG, as_text=lambda dialect: False),
    _of("'。' ends sentences", "sentence-ends", LONG, cut=functools.partial(_sentences, point="。")),
    _of("blank sentences dropped", "sentence-ends", LONG, cut=functools.partial(_sentences, blank=())),
    _of(
        "white space is a unit",
        "sentence-ends",
        LONG,
        cut=lambda text: [tuple(part) for part in "".join(text).split(".") if part],
    ),
    _of(
        "ROUGE of the package for one sequence",
        "dialect",
        ("float16", "bfloat16"),
        as_text=lambda dialect: True,
        once=lambda d: True,
    ),
    _of("precision and recall exchanged", "exchanged", shares=lambda k, n, m: (k / m, k / n)),
    _of("recall for all three", "missing-term", told=lambda scores: scores[:, [1, 1, 1]]),
    _of("f not of two times the product", "wrong-coefficient", f=lambda p, r, epsilon: p * r / (p + r + epsilon)),
    _of("the arithmetic mean", "wrong-coefficient", f=lambda p, r, epsilon: (p + r) / 2),
    _of("the geometric mean", "wrong-coefficient", f=lambda p, r, epsilon: (p * r) ** 0.5),
    _of(
        "β = 1.2",
        "wrong-coefficient",
        ("float16", *LONG),
        f=lambda p, r, epsilon: 2.44 * p * r / (r + 1.44 * p + epsilon),
    ),
    _of("without ε", "wrong-eps", ("float64",), f=lambda p, r, epsilon: 2 * p * r / (p + r)),
    _of("ε of 10⁻⁶", "wrong-eps", LONG, f=lambda p, r, epsilon: 2 * p * r / (p + r + 1e-6)),
    _of("ε in the quotients", "eps-in-denominator", LONG, shares=lambda k, n, m: (k / (n + 1e-5), k / (m + 1e-5))),
    _of("ROUGE-L without β", "dialect", LONG, weighed=_f),
    _of("β for β²", "wrong-coefficient", LONG, weighed=lambda p, r, epsilon: (1 + p / r) * r * p / (r + p / r * p)),
    _of("β in every version", "dialect", LONG, f=_weighed),
    _of("the largest of the sentences' subsequences", "missing-term", LONG, together=_largest),
    _of("the subsequences' lengths added", "multiplicity", LONG, together=lambda found: sum(map(len, found))),
    _of(
        "ties drop the reference's unit", "tie-rule", LONG, subsequence=functools.partial(_subsequence, rather_x=False)
    ),
    _of("the longest common substring", "approximate-function", subsequence=_substring),
    _of("units in common, in whatever order", "approximate-function", subsequence=_units_in_common),
    _of("trigrams for bigrams", "off-by-one", sizes=(1, 3)),
    _of("the last unit left out", "ragged-tail", read=lambda codes: _characters(codes[: max(1, len(codes) - 1)])),
    _of("code points of 16 bits", "overflow", read=lambda codes: _characters(codes & 0xFFFF)),
    _of("1 where nothing is in common", "zero-rule", nothing=1.0),
    _of("ROUGE-1, -L, -2", "exchanged", told=lambda scores: scores[[0, 2, 1]]),
    _of("f, precision, recall", "exchanged", told=lambda scores: scores[:, [2, 0, 1]]),
    _of("scores by row, ROUGEs by column", "transposed", told=np.transpose),
    _of("as percentages", "wrong-scale", told=lambda scores: 100 * scores),
    _of("rounded to four places", "low-precision", LONG, told=lambda scores: np.round(scores, 4)),
    _of_rouge(
        "in float32",
        "low-precision",
        dtypes=("float64",),
        entire=lambda *given, **params: _rouge(*given, **params).astype(np.float32).astype(given[2].dtype),
    ),
    _of_rouge(
        "answers in float64",
        "dtype-leak",
        dtypes=("float16", "bfloat16", "float32"),
        entire=lambda *given, **params: _rouge(*given, **params).astype(np.float64),
    ),
)


# --- rows of new words ------------------------------------------------------------------------------------------------------------------


def _mean(rows: Any, padding: int) -> Any:  # (p, d), how many are padding -> (d,)
    return rows.sum(0) / rows.dtype.type(len(rows))


def _own(pieces: Any, kept: Any) -> Any:
    return pieces[pieces >= 0]


def _in_sequence(rows: Any, padding: int) -> Any:
    total = np.zeros_like(rows[0])
    for row in rows:
        total = in_bfloat16(total + row)
    return total / rows.dtype.type(len(rows))


def _extended(
    table: Any,
    kept: Any,
    pieces: Any,
    *,
    rows: Callable[[Any, Any], Any] = lambda table, kept: table[kept],
    of: Callable[[Any, Any], Any] = lambda table, stay: stay,
    own: Callable[[Any, Any], Any] = _own,
    mean: Callable[[Any, int], Any] = _mean,
    joined: Callable[[Any, Any], Any] = lambda stay, new: np.concatenate([stay, new]),
) -> Any:
    stay = rows(table, kept)
    new = [mean(of(table, stay)[own(word, kept)], int((word < 0).sum())) for word in pieces]
    return joined(stay, np.stack(new))


_bug = family("extend_embedding", _extended)
_EXTENDED = (
    _bug("a sum", "not-normalised", mean=lambda rows, padding: rows.sum(0)),
    _bug(
        "padding counted", "wrong-count", mean=lambda rows, padding: rows.sum(0) / rows.dtype.type(len(rows) + padding)
    ),
    _bug("padding is the last row", "mask-ignored", own=lambda word, kept: word),
    _bug("the first piece alone", "parameter-ignored", mean=lambda rows, padding: rows[0]),
    _bug("the last piece alone", "parameter-ignored", mean=lambda rows, padding: rows[-1]),
    _bug("pieces by their old numbers", "exchanged", of=lambda table, stay: table),
    _bug(
        "pieces looked up twice",
        "exchanged",
        of=lambda table, stay: table,
        own=lambda word, kept: kept[kept[_own(word, kept)] % len(kept)],
    ),
    _bug("every piece once", "multiplicity", own=lambda word, kept: np.unique(_own(word, kept))),
    _bug("piece 0 is padding", "off-by-one", own=lambda word, kept: word[word > 0] if (word > 0).any() else word[:1]),
    _bug("the median", "approximate-function", mean=lambda rows, padding: np.median(rows, 0).astype(rows.dtype)),
    _bug("zeros for new words", "missing-term", mean=lambda rows, padding: 0 * rows[0]),
    _bug("the mean of all rows", "wrong-axis", own=lambda word, kept: np.arange(len(kept))),
    _bug(
        "divided by √ of the number",
        "wrong-scale",
        mean=lambda rows, padding: rows.sum(0) / np.sqrt(rows.dtype.type(len(rows))),
    ),
    _bug(
        "of unit length",
        "wrong-scale",
        mean=lambda rows, padding: _mean(rows, 0) / np.sqrt((_mean(rows, 0) ** 2).sum()),
    ),
    _bug("rows in their old order", "parameter-ignored", rows=lambda table, kept: table[np.sort(kept)]),
    _bug("the first rows kept", "parameter-ignored", rows=lambda table, kept: table[: len(kept)]),
    _bug("new words first", "exchanged", joined=lambda stay, new: np.concatenate([new, stay])),
    _bug("new words in reverse", "exchanged", joined=lambda stay, new: np.concatenate([stay, new[::-1]])),
    _bug("laid out flat", "wrong-shape", joined=lambda stay, new: np.concatenate([stay, new]).ravel()),
    _bug("summed in bfloat16", "low-precision-accumulation", dtypes=LONG, mean=_in_sequence),
    _bug("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_extended)),
    _bug("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_extended)),
)


# --- which sentence goes with which -----------------------------------------------------------------------------------------------------


def _main(
    x: Text, y: Text, dialect: str, weights: tuple[float, float, float] = (0.2, 0.4, 0.4), column: int = 2
) -> float:
    codes = [np.array([ord(character) for character in each], np.int64) for each in (x, y)]
    epsilon = np.array([0.0 if dialect == "rouge-score" else 1e-8])
    one, two, longest = _rouge(*codes, epsilon, dialect)[:, column]
    return float(one * weights[0] + two * weights[1] + longest * weights[2])


def _first_longest(sentences: list[Text]) -> int:
    return max(range(len(sentences)), key=lambda k: len(sentences[k]))


def _last(values: list[Any]) -> int:
    return max(range(len(values)), key=lambda k: (values[k], k))


def _best(scores: list[float]) -> int:
    return scores.index(max(scores))


def _pairs(
    x: list[Text],
    y: list[Text],
    dialect: str,
    longest: Callable[[list[Text]], int],
    main: Callable[[Text, Text, str], float],
    best: Callable[[list[float]], int],
    before: int,
    after: int,
) -> list[tuple[int, int]]:
    if not x or not y:
        return []
    i = longest(y)
    j = best([main(each, y[i], dialect) for each in x])
    given = (dialect, longest, main, best, before, after)
    left, right = x[: j + before] or x[:1], x[j + after :] or x[-1:]
    moved = min(j + after, len(x) - 1)
    behind = [(i + 1 + a, moved + b) for a, b in _pairs(right, y[i + 1 :], *given)]
    return [*_pairs(left, y[:i], *given), (i, j), *behind]


def _independent(x: list[Text], y: list[Text], dialect: str, *given: Any) -> list[tuple[int, int]]:
    return [(i, _best([_main(each, sentence, dialect) for each in x])) for i, sentence in enumerate(y)]


def _in_turn(x: list[Text], y: list[Text], dialect: str, *given: Any) -> list[tuple[int, int]]:
    """The sentences of the summary from the first on, each behind the one before."""
    found, begin = [], 0
    for i, sentence in enumerate(y):
        begin += _best([_main(each, sentence, dialect) for each in x[begin:]])
        found.append((i, begin))
    return found


def _matched(
    texts: Any,
    summaries: Any,
    dialect: str,
    *,
    read: Callable[[Any], Text] = lambda row: _characters(row[row >= 0]),
    longest: Callable[[list[Text]], int] = _first_longest,
    main: Callable[[Text, Text, str], float] = _main,
    best: Callable[[list[float]], int] = _best,
    before: int = 1,
    after: int = 0,
    pairs: Callable[..., list[tuple[int, int]]] = _pairs,
    of: Callable[[str], str] = lambda dialect: dialect,
    told: Callable[[Any], Any] = lambda found: found,
) -> Any:
    x, y = [read(row) for row in texts], [read(row) for row in summaries]
    return told(np.array(pairs(x, y, of(dialect), longest, main, best, before, after), np.int64).reshape(-1, 2))


def _wrong(name: str, flag: str, **replaced: Any) -> Mutant:
    return Mutant("match_sentences", name, flag, functools.partial(_matched, **replaced))


_MATCHED = (
    _wrong("of equally long ones the last", "tie-rule", longest=lambda y: _last([len(each) for each in y])),
    _wrong("of equally near ones the last", "tie-rule", best=_last),
    _wrong("the shortest first", "matching", longest=lambda y: min(range(len(y)), key=lambda k: len(y[k]))),
    _wrong("the last first", "matching", longest=lambda y: len(y) - 1),
    _wrong("the matched sentence not for those before", "matching", before=0),
    _wrong("the matched sentence not for those behind", "matching", after=1),
    _wrong("the matched sentence for nobody else", "matching", before=0, after=1),
    _wrong("one after the other", "matching", pairs=_in_turn),
    _wrong("each by itself", "matching", pairs=_independent),
    _wrong("a third of each ROUGE", "wrong-coefficient", main=functools.partial(_main, weights=(1 / 3, 1 / 3, 1 / 3))),
    _wrong("ROUGE-1 alone", "missing-term", main=functools.partial(_main, weights=(1.0, 0.0, 0.0))),
    _wrong("ROUGE-L alone", "missing-term", main=functools.partial(_main, weights=(0.0, 0.0, 1.0))),
    _wrong("without ROUGE-2", "missing-term", main=functools.partial(_main, weights=(0.2, 0.0, 0.4))),
    _wrong("by recall", "missing-term", main=functools.partial(_main, column=1)),
    _wrong("by precision", "missing-term", main=functools.partial(_main, column=0)),
    _wrong("the farthest", "sign", main=lambda x, y, dialect: -_main(x, y, dialect)),
    _wrong(
        "the shorter beside a reference", "exchanged", main=lambda x, y, dialect: -len(x) if set(x) & set(y) else -1e9
    ),
    _wrong("n-grams count as often as they occur", "dialect", of=lambda dialect: "rouge-score"),
    _wrong("every n-gram once", "dialect", of=lambda dialect: "rouge-1.0.1"),
    _wrong("padding read as characters", "mask-ignored", read=lambda row: _characters(np.where(row < 0, 0, row))),
    _wrong("the last character left out", "ragged-tail", read=lambda row: _characters(row[row >= 0][:-1])),
    _wrong("code points of 8 bits", "overflow", read=lambda row: _characters(row[row >= 0] & 0xFF)),
    _wrong("the text's number first", "exchanged", told=lambda found: found[:, ::-1]),
    _wrong("in the order in which they are found", "exchanged", told=lambda found: found[::-1]),
    _wrong("counted from 1", "off-by-one", told=lambda found: found + 1),
    _wrong("answers of 32 bits", "dtype-leak", told=lambda found: found.astype(np.int32)),
)


# --- sentences --------------------------------------------------------------------------------------------------------------------------


def _blank(character: str) -> bool:
    return character.isspace()


def _stripped(text: str, begin: int, end: int, blank: Callable[[str], bool]) -> tuple[int, int]:
    while begin < end and blank(text[begin]):
        begin += 1
    while begin < end and blank(text[end - 1]):
        end -= 1
    return begin, end


def _begins(text: str, place: int, mark: str) -> bool:
    return text[place - 1] == mark and text[place] != mark


def _at_the_mark(text: str, place: int, mark: str) -> bool:
    return text[place] == mark and text[place - 1] != mark


def _after_each(text: str, place: int, mark: str) -> bool:
    return text[place - 1] == mark


def _around(text: str, place: int, mark: str) -> bool:
    return _begins(text, place, mark) or _at_the_mark(text, place, mark)


def _cut(text: str, begin: int, end: int, marks: tuple[str, ...], blank: Any, begins: Any) -> list[tuple[int, int]]:
    begin, end = _stripped(text, begin, end, blank)
    if end - begin < 2 or not marks:
        return [(begin, end)]
    starts = [begin, *(place for place in range(begin + 1, end) if any(begins(text, place, each) for each in marks[0]))]
    parts = zip(starts, [*starts[1:], end], strict=True)
    return [piece for first, after in parts for piece in _cut(text, first, after, marks[1:], blank, begins)]


def _numbered(
    text: Any,
    *,
    marks: tuple[str, ...] = ("\n", "。", "；", "：", "，"),
    blank: Callable[[str], bool] = _blank,
    begins: Callable[[str, int, str], bool] = _begins,
    kept: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] = lambda pieces: pieces,
    told: Callable[[Any], Any] = lambda numbers: numbers,
    dropped: int = -1,
) -> Any:
    whole, numbers = "".join(_characters(text)), np.full(len(text), dropped, np.int64)
    for number, (begin, end) in enumerate(kept(_cut(whole, 0, len(whole), marks, blank, begins))):
        numbers[begin:end] = number
    return told(numbers)


def _off(name: str, flag: str, **replaced: Any) -> Mutant:
    return Mutant("split_sentences", name, flag, functools.partial(_numbered, **replaced))


def _without(mark: str) -> tuple[str, ...]:
    return tuple(each for each in ("\n", "。", "；", "：", "，") if each != mark)


_NUMBERED = (
    _off("a mark begins the next sentence", "sentence-ends", begins=_at_the_mark),
    _off("a mark is a sentence of its own", "sentence-ends", begins=_around),
    _off("each of several marks ends one", "sentence-ends", begins=_after_each),
    *(
        _off(f"{name} ends no sentence", "sentence-ends", marks=_without(mark))
        for name, mark in (("a line feed", "\n"), *((m, m) for m in "。；：，"))
    ),
    _off(
        "all marks at once",
        "sentence-ends",
        marks=("\n。；：，",),
        begins=lambda text, place, mark: text[place - 1] == mark and text[place] not in "\n。；：，",
    ),
    _off("',' ends one too", "sentence-ends", marks=("\n", "。", "；", "：", "，", ",")),
    _off("'.' ends one too", "sentence-ends", marks=("\n", "。", "；", "：", "，", ".")),
    _off("white space kept", "sentence-ends", blank=lambda character: False),
    _off("line feeds alone dropped", "sentence-ends", blank=lambda character: character == "\n"),
    _off("the space U+3000 kept", "sentence-ends", blank=lambda character: character in " \n"),
    _off(
        "empty sentences not counted", "off-by-one", kept=lambda pieces: [each for each in pieces if each[0] < each[1]]
    ),
    _off(
        "sentences of one character dropped",
        "off-by-one",
        kept=lambda pieces: [each for each in pieces if each[1] - each[0] != 1],
    ),
    _off("counted from 1", "off-by-one", told=lambda numbers: numbers + (numbers >= 0)),
    _off("counted from behind", "exchanged", told=lambda numbers: np.where(numbers < 0, -1, numbers.max() - numbers)),
    _off("0 for what is dropped", "mask-ignored", dropped=0),
    _off("what is dropped has the number before", "mask-ignored", told=lambda numbers: np.maximum.accumulate(numbers)),
    _off("answers of 32 bits", "dtype-leak", told=lambda numbers: numbers.astype(np.int32)),
)

MUTANTS: tuple[Mutant, ...] = _ROUGE + _EXTENDED + _MATCHED + _NUMBERED
TWINS = {
    "rouge": _rouge,
    "extend_embedding": wide(_extended),
    "match_sentences": _matched,
    "split_sentences": _numbered,
}
