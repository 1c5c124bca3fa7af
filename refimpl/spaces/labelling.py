"""The labels of a whole file of documents: several processes, the order kept, no document lost, and going on after a stop.

For each document in the random order of `refimpl.spaces.data`: its sentences, the places of those that `refimpl.spaces.labels` matched with the
sentences of its summary, and the main metric of these beside the summary. The mean of that is the ceiling of what an extractor is taught.

What is done stands in NAME.part, a line each, failures too; once all is, the labelled documents become NAME, and NAME.json says of what they are, how
they were made, and what failed.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError, RefimplError
from refimpl.files import replace_file
from refimpl.number_system import whole_number
from refimpl.spaces.data import Document, Failure, Labelled, digest, read_documents, shuffled, write_lines
from refimpl.spaces.labels import extractive_labels
from refimpl.spaces.resuming import Begun
from refimpl.text.rouge import DIALECT
from refimpl.text.segmentation import segmenter
from refimpl.text.sentences import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from refimpl.spaces.labels import Extraction
    from refimpl.text.segmentation import Segmenter

__all__ = ["LabelOptions", "Labels", "label_document", "label_file"]


@dataclass(frozen=True)
class LabelOptions:
    """How documents are cut and matched: arguments of `refimpl.spaces.labels.extractive_labels`.

    The published program has the unit "word", with a dictionary of its own; sentences are matched by characters in either case.
    """

    limit: int = LIMIT  # sentences at most, the last ones
    dialect: str = DIALECT
    unit: str = "character"  # in which the score is counted
    dictionary: tuple[str, ...] = ()  # lines of a user dictionary, for words


class Labels(NamedTuple):
    """What came of a file."""

    documents: int  # that have labels
    score: float  # their mean score; NaN where there is none
    failures: list[Failure]  # in the order of their lines


def _labels(text: str, summary: str, options: LabelOptions) -> Extraction:
    cut = _segmenter(options.dictionary) if options.unit == "word" else None
    given: dict[str, Any] = {"limit": options.limit, "dialect": options.dialect, "unit": options.unit, "segmenter": cut}
    return extractive_labels(text, summary, **given)


def label_document(document: Document, options: LabelOptions) -> Labelled | Failure:
    """The labels of one document, or why it has none."""
    try:
        found = _labels(document.text, document.summary, options)
    except (RefimplError, RecursionError) as error:
        return Failure(document.line, str(error))
    return Labelled(document.id, found.texts, found.labels, document.summary, found.score)


@functools.lru_cache(maxsize=1)
def _segmenter(dictionary: tuple[str, ...]) -> Segmenter:
    """jieba's words and those of the dictionary, read once in a process."""
    return segmenter().with_words(dictionary) if dictionary else segmenter()


def _settings(source: Path, seed: int, options: LabelOptions) -> dict[str, Any]:
    """What the labels depend on; of texts their SHA-256."""
    words = hashlib.sha256("\n".join(options.dictionary).encode()).hexdigest() if options.dictionary else None
    return {"source_sha256": digest(source), "seed": seed, **asdict(options), "dictionary": words}


def label_file(
    source: Path,
    out: Path,
    options: LabelOptions | None = None,
    *,
    seed: int = 0,
    jobs: int = 1,
    resume: bool = False,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Labels:
    """Label the documents of `source` in a random order into `out`; what cannot be labelled is left out, and reported.

    Parameters
    ----------
    source : as `refimpl.spaces.data.read_documents`
    out : for the labelled documents; `out`.part and `out`.json stand beside it
    options : how
    seed : of the order
    jobs : processes
    resume : go on with `out`.part
    advance : called with the number of documents done and their number in all

    Raises
    ------
    TextError, ConfigError, TokenizerError
        if the file cannot be read or has no document, `out` is there or cannot be written, there is nothing to resume or it was begun with other
        settings, options make no sense, or a process was killed.
    """
    options = LabelOptions() if options is None else options
    if (whole_number(jobs) or 0) < 1:
        raise ConfigError("too few processes", where="jobs", expected="1 or more", got=repr(jobs))
    if out.exists():
        raise ConfigError("the labels are there already", where=out, remedy="name another file")
    _labels("a", "a", options)  # options that would fail every document are raised
    settings = _settings(source, seed, options)
    documents, unread = read_documents(source)
    planned = [documents[i] for i in shuffled(len(documents), seed)]
    part = out.with_name(out.name + ".part")
    with Begun(part, settings, resume=resume) as begun:
        found = [*begun.done]
        _check_order(part, found, planned)
        advance(len(found), len(planned))
        for result in _each(planned[len(found) :], options, jobs):
            found.append({"line": planned[len(found)].line, **result._asdict()})
            begun.add(found[-1])
            advance(len(found), len(planned))
    labels = _finished(out, source, settings, found, unread)
    part.unlink()
    return labels


def _check_order(part: Path, found: list[Any], planned: list[Document]) -> None:
    """Raise ConfigError unless the results are of the first documents planned."""
    lines = [record.get("line") if isinstance(record, dict) else None for record in found]
    if lines != [document.line for document in planned[: len(found)]]:
        expected = "results in the order of the seed"
        raise ConfigError("this file is not one that was begun here", where=part, expected=expected)


def _finished(out: Path, source: Path, settings: dict[str, Any], found: list[Any], unread: list[Failure]) -> Labels:
    """The two files, the record first."""
    records = [Labelled(*(each[name] for name in Labelled._fields)) for each in found if "error" not in each]
    failures = sorted([*unread, *(Failure(each["line"], each["error"]) for each in found if "error" in each)])
    score = math.fsum(each.score for each in records) / len(records) if records else math.nan
    said = {"source": str(source), **settings, "documents": len(records), "score": score if records else None}
    said["failures"] = [each._asdict() for each in failures]
    data = (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode()
    try:
        replace_file(out.with_name(out.name + ".json"), lambda file: file.write(data))
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the labels cannot be written", where=out, got=got) from None
    write_lines(out, records)
    return Labels(len(records), score, failures)


# --- processes ------------------------------------------------------------------------------------------------------------------


def _each(documents: Iterable[Document], options: LabelOptions, jobs: int) -> Iterator[Labelled | Failure]:
    """The results in the order of the documents, at most a few a process ahead of those that were taken."""
    if jobs == 1:
        yield from (label_document(document, options) for document in documents)
        return
    spawn, waiting = multiprocessing.get_context("spawn"), deque[Any]()
    with concurrent.futures.ProcessPoolExecutor(jobs, spawn) as pool:
        try:
            left = iter(documents)
            for document in itertools.islice(left, 4 * jobs):
                waiting.append(pool.submit(label_document, document, options))
            while waiting:
                yield waiting.popleft().result()
                for document in itertools.islice(left, 1):
                    waiting.append(pool.submit(label_document, document, options))
        except BrokenProcessPool:
            remedy = "go on with --resume and fewer --jobs: it may have been killed for want of memory"
            raise ConfigError("a process ended before its work", where="jobs", got=jobs, remedy=remedy) from None
        finally:
            pool.shutdown(cancel_futures=True)
