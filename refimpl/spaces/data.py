"""The files of a training of SPACES: documents, labelled sentences, pairs; their order, and their folds. Each is JSON, an object a line.

    documents   {"text": "...", "summary": "..."}, or as CAIL 2020 gave them: {"text": [{"sentence": "..."}, ...], "summary": "..."};
                "id" is kept where there is one, and is the number of the line where there is none
    labelled    {"id", "sentences": [...], "labels": [places in sentences], "summary", "score"}
    pairs       {"id", "source_1": chosen by an extractor, "source_2": by the labels, "target": the summary}

The documents of a file are put in a random order once, by a recorded seed; the i-th of n in that order is held out in fold i mod K, and trains in
the others.                                                                                                                          (1)

Reference: J. Su, "SPACES: extract-generate long text summarization", Scientific Spaces 8046 (2021), and github.com/bojone/SPACES at a545db3,
extract_convert.py (order, written to a file), snippets.py (folds; K = 15), seq2seq_convert.py (pairs).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.backend import generator
from refimpl.errors import ConfigError, TextError
from refimpl.files import replace_file
from refimpl.number_system import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Document",
    "Failure",
    "Labelled",
    "Pair",
    "check_folds",
    "digest",
    "held_out",
    "pair_of",
    "read_documents",
    "read_labelled",
    "read_pairs",
    "shuffled",
    "trained_on",
    "write_lines",
]

SHOWN = 5  # problems of a file that are listed in one error; the rest are counted


class Document(NamedTuple):
    """A text and its summary."""

    line: int  # of the file, from 1
    id: str
    text: str
    summary: str


class Failure(NamedTuple):
    """A line that could not be used."""

    line: int
    error: str


class Labelled(NamedTuple):
    """A document in sentences, and those that its summary was matched with."""

    id: str
    sentences: list[str]
    labels: list[int]  # places in `sentences`, rising
    summary: str
    score: float  # the main metric of the labelled sentences beside the summary


class Pair(NamedTuple):
    """What a generator reads, in two forms, and what it is to write."""

    id: str
    source_1: str  # of the sentences that an extractor chose, which was not trained on this document
    source_2: str  # of the labelled sentences
    target: str


# --- order and folds ------------------------------------------------------------------------------------------------------------


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers 0 .. count - 1 in the order of `seed`."""
    return [int(i) for i in generator(seed).permutation(count)]


def check_folds(folds: Any, fold: Any, count: int) -> None:
    """Raise ConfigError unless 2 <= folds <= count and 0 <= fold < folds; a fold of None is that which holds nothing out."""
    number, which = whole_number(folds), 0 if fold is None else whole_number(fold)
    if number is None or which is None or not 2 <= number <= count or not 0 <= which < number:
        raise ConfigError(
            "there is no such fold",
            where="folds",
            expected=f"2 to {count} folds, which is the number of documents, and a fold from 0 below their number",
            got=f"folds = {folds!r}, fold = {fold!r}",
        )


def held_out(count: int, folds: int, fold: int | None) -> list[int]:
    """Equation (1): the documents i with i mod folds = fold; none for a fold of None."""
    check_folds(folds, fold, count)
    return [] if fold is None else list(range(fold, count, folds))


def trained_on(count: int, folds: int, fold: int | None) -> list[int]:
    """Equation (1): the documents i with i mod folds ≠ fold; all for a fold of None."""
    check_folds(folds, fold, count)
    return [i for i in range(count) if fold is None or i % folds != fold]


# --- files ----------------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError("the file cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None


def digest(path: Path) -> str:
    """The SHA-256 of a file; TextError where it cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def _lines(path: Path, made: Callable[[int, Any], Any]) -> Iterator[tuple[int, Any]]:
    """For each line that is not blank its number, and what `made` makes of its JSON, or the Failure."""
    for number, line in enumerate(_content(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, made(number, json.loads(line.decode("utf-8")))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            yield number, Failure(number, _said(error))


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return (
        f"{type(error).__name__}: {error}"
        if isinstance(error, UnicodeDecodeError | json.JSONDecodeError)
        else str(error)
    )


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"not a JSON object, but {type(value).__name__}")
    return value


def _text(fields: Mapping[str, Any], name: str, empty: bool = False) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is not a text, but {type(value).__name__}")
    if not value.strip() and not empty:
        raise ValueError(f"{name!r} is empty")
    value.encode("utf-8")  # refuses half a surrogate pair, which JSON can say and no file can hold
    return value


def _document(line: int, value: Any) -> Document:
    fields = dict(_object(value))
    if isinstance(fields.get("text"), list):
        fields["text"] = "\n".join(_text(_object(part), "sentence", empty=True) for part in fields["text"])
    return Document(line, str(fields.get("id", line)), _text(fields, "text"), _text(fields, "summary"))


def read_documents(path: Path) -> tuple[list[Document], list[Failure]]:
    """The documents of a file, in its order, and the lines that hold none.

    Parameters
    ----------
    path : a UTF-8 file with a JSON object a line, of one of the two forms; blank lines are passed over

    Raises
    ------
    TextError
        if the file cannot be read, or has no line.
    """
    found = [made for _, made in _lines(path, _document)]
    if not found:
        raise TextError("there is no document", where=path, expected='a line {"text": ..., "summary": ...} for each')
    return [each for each in found if isinstance(each, Document)], [each for each in found if isinstance(each, Failure)]


def _labelled(line: int, value: Any) -> Labelled:
    fields = _object(value)
    sentences, labels, score = fields["sentences"], fields["labels"], fields.get("score", 0.0)
    if not isinstance(sentences, list) or not sentences or not all(isinstance(each, str) for each in sentences):
        raise TypeError("'sentences' are not texts, one at least")
    places = [whole_number(each) for each in labels] if isinstance(labels, list) else [None]
    rising = [each for each in places if each is not None and 0 <= each < len(sentences)]
    if len(rising) < len(places) or rising != sorted(set(rising)):
        raise ValueError(f"'labels' are not rising places in {len(sentences)} sentences: {labels!r}")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise TypeError(f"'score' is not a number, but {score!r}")
    return Labelled(str(fields.get("id", line)), sentences, rising, _text(fields, "summary"), float(score))


def _pair(line: int, value: Any) -> Pair:
    fields = _object(value)
    if "sentences" in fields:
        return pair_of(_labelled(line, value))
    texts = (_text(fields, name, empty=name != "target") for name in Pair._fields[1:])
    return Pair(str(fields.get("id", line)), *texts)


def pair_of(document: Labelled, chosen: str | None = None) -> Pair:
    """The pair of a labelled document; without what an extractor chose, the labelled sentences are both sources."""
    labelled = "".join(document.sentences[i] for i in document.labels)
    return Pair(document.id, labelled if chosen is None else chosen, labelled, document.summary)


def _all(path: Path, made: Callable[[int, Any], Any], expected: str) -> list[Any]:
    """What `made` makes of every line; TextError that lists the lines of which it makes nothing."""
    found = [each for _, each in _lines(path, made)]
    wrong = [each for each in found if isinstance(each, Failure)]
    if wrong or not found:
        lines = [f"\n    line {each.line}: {each.error}" for each in wrong[:SHOWN]]
        lines += [f"\n    and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        got = "".join(lines) or "no line"
        raise TextError("the file is of another form", where=path, expected=expected, got=got)
    return found


def read_labelled(path: Path) -> list[Labelled]:
    """All labelled documents of a file, in its order; TextError that lists the lines that are none."""
    return _all(path, _labelled, '{"sentences": [...], "labels": [...], "summary": ...} in each line')


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a file, in its order; of labelled documents, their `pair_of`. TextError that lists the lines that are neither."""
    return _all(path, _pair, '{"source_1": ..., "source_2": ..., "target": ...} in each line')


def write_lines(path: Path, records: Iterable[NamedTuple] | Sequence[NamedTuple]) -> None:
    """Write records a line each; the file is whole or not there. Raises ConfigError where it cannot be written."""
    try:
        replace_file(
            path,
            lambda file: file.writelines(
                (json.dumps(each._asdict(), ensure_ascii=False) + "\n").encode() for each in records
            ),
        )
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the file cannot be written", where=path, got=got) from None
