"""Checksums of files that were published with one, and whether the files at hand are those.

    for name, found in published("CPM").items():       # name: 80000/mp_rank_00_model_states.pt, ...
        print(name, found.verdict)                     # verified, other or missing

CPM-LM's README gives the SHA-1 and MD5 of its two shards; the sums of its vocabulary files were taken from the files of its repository, at the two
commits where they differ: the first, 2422770 (2020-11-13), and e3afd70 (2020-11-22), after which they never changed.

Reference: TsinghuaAI/CPM-1-Generate, README.md, and `bpe_3w_new/` at these commits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from weights_io.errors import WeightsError
from weights_io.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CPM", "EDITIONS", "ESSENTIAL", "VOCABULARY", "Published", "edition", "published", "size"]

# name below the folder of the model -> SHA-1 -> which edition it is
CPM: dict[str, dict[str, str]] = {
    "80000/mp_rank_00_model_states.pt": {"71d6b6ad4f47b46724eb82c05da8fb9175e62a7d": "2020-11-13"},
    "80000/mp_rank_01_model_states.pt": {"42aa247a262e2011fa5e276f1a8389fad6d80edc": "2020-11-13"},
    "bpe_3w_new/chinese_vocab.model": {
        "b8d1a162f5d46a1e6e751d6806372359d3663578": "2020-11-22",
        "443a596604e1b1e48daa87549355b58d3f8679d6": "2020-11-13",
    },
    "bpe_3w_new/chinese_vocab.vocab": {
        "854d8bd31c78c4f85dbd8c0f600b14c0b26e6350": "2020-11-22",
        "d5bb6418b8c869f73b4b7f203fd9301d391ce60c": "2020-11-13",
    },
    "bpe_3w_new/vocab.json": {"f93ee3510284a7ed239bd9760b550858dc9b3209": "2020-11-13"},
}
VOCABULARY = "bpe_3w_new/chinese_vocab.model"
EDITIONS = CPM[VOCABULARY]
ESSENTIAL = (*(name for name in CPM if name.startswith("80000/")), VOCABULARY)  # what a model needs
CHUNK = 1 << 22  # bytes between two reports of progress


class Published(NamedTuple):
    """What a file turned out to be."""

    path: str | None  # where it is, or None
    sha1: str | None  # of the file at hand
    expected: tuple[str, ...]  # the published sums, newest edition first
    edition: str | None  # whose sum it has: the day of its first commit
    really: str | None  # the other file whose sum it has, if two were exchanged
    verdict: str  # verified; other: there, with no published sum; missing


def edition(data: bytes) -> str | None:
    """The edition of CPM's SentencePiece model that these bytes are, or None."""
    return EDITIONS.get(hashlib.sha1(data, usedforsecurity=False).hexdigest())


def published(folder: str | Path, advance: Callable[[int], object] = lambda _: None) -> dict[str, Published]:
    """SHA-1 of every file that CPM-LM consists of, beside the published one.

    Parameters
    ----------
    folder : the folder of the model (that of `80000/`), `80000/` itself, or `bpe_3w_new/`
    advance : called with every number of bytes that were read

    Raises
    ------
    WeightsError
        if none of the files is there, or one cannot be read.
    """
    found = {name: _place(Path(folder), name) for name in CPM}
    if not any(found.values()):
        raise WeightsError(
            "none of the published files is here",
            where=folder,
            expected=", ".join(CPM),
            remedy="name the folder that holds 80000 and bpe_3w_new",
        )
    return {name: _compared(path, name, advance) for name, path in found.items()}


def size(folder: str | Path) -> int:
    """How many bytes `published` will read."""
    return sum(path.stat().st_size for name in CPM if (path := _place(Path(folder), name)))


def _place(folder: Path, name: str) -> Path | None:
    """Where a file is: in its own subfolder, in the folder itself, or, for one of the two subfolders, in the other."""
    inner, _, file = name.partition("/")
    places = [folder / inner / file]
    if folder.name in (inner, *{other.partition("/")[0] for other in CPM}):
        places.append(folder.parent / inner / file)
    places.append(folder / file)
    return next((place for place in places if place.is_file()), None)


def _compared(path: Path | None, name: str, advance: Callable[[int], object]) -> Published:
    sums = CPM[name]
    if path is None:
        return Published(None, None, tuple(sums), None, None, "missing")
    source, digest, position = Source(path), hashlib.sha1(usedforsecurity=False), 0
    try:
        while position < source.size:
            block = source.read(position, min(CHUNK, source.size - position))
            digest.update(block)
            position += len(block)
            advance(len(block))
    finally:
        source.close()
    sha1 = digest.hexdigest()
    really = next((other for other in CPM if other != name and sha1 in CPM[other]), None)
    return Published(str(path), sha1, tuple(sums), sums.get(sha1), really, "verified" if sha1 in sums else "other")
