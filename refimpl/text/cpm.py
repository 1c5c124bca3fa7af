"""CPM-LM's tokenizer: words by jieba, a space and a line feed as the visible characters U+2582 and U+2583, then SentencePiece; and back.

    encode(x) = SentencePiece(" ".join(e(w) for w in words(x)))    e: U+0020 -> U+2582, U+000A -> U+2583
    decode(i) = d(SentencePiece⁻¹(i) without U+0020)               d: U+2582 -> U+0020, U+2583 -> U+000A

What survives. Let N be SentencePiece's normalization, which is in the model file: compatibility characters become their ordinary ones (NFKC:
full-width letters and digits, ligatures, circled numbers), tab, carriage return and all other white space become U+0020, most control and format
characters vanish. Where no piece is <unk>,

    decode(encode(x)) = d(N(" ".join(e(w) for w in words(x))) without U+0020 and U+2581)

so a text of ordinary characters, spaces and line feeds comes back as it was, leading, trailing and repeated ones included. Lost are the form of
compatibility characters; white space other than space and line feed; control characters; U+2581, which SentencePiece uses for itself; and every
character outside the vocabulary: a run of them within a word becomes one <unk>, which decodes to U+2047 (⁇). U+2582 and U+2583 in a text come back
as space and line feed. `decode` joins: decode(a + b) = decode(a) + decode(b). No text encodes to <s>, </s>, <sep>, <pad>, <mask> or <eod>: the
segmentation takes such a name apart.

Two files were published. That of 2020-11-13 has the unused <cls> as piece 3 and no U+2583, which its program looked up in `vocab.json` as 3; that
of 2020-11-22 has U+2583 there, for the same id, and <eod>, piece 7, as an ordinary piece, which decoding shows. The weights were published on the
first day; their line feed is 3 in both. The files differ in these two records, and nowhere else: the older is read with those of the newer, and is
it then, byte for byte. (A program that hands the older file to SentencePiece as it is gets <unk> for every line feed; so does one that hands the
newer to bert4keras with `token_translate` from U+2583 to <cls>, which its example for the older needs.)

Reference: TsinghuaAI/CPM-1-Generate, `data_utils/tokenization_gpt2.py` at 3f816d1, and at 2422770 for the older file; bojone/CPM_LM_bert4keras.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.errors import TokenizerError
from refimpl.text.framing import check_characters
from refimpl.text.segmentation import segmenter

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CPMTokenizer", "find_vocabulary", "is_cpm"]

SPACE, NEWLINE = "\u2582", "\u2583"
ESCAPED, PLAIN = str.maketrans({" ": SPACE, "\n": NEWLINE}), str.maketrans({SPACE: " ", NEWLINE: "\n", " ": None})
END = "<eod>"
FILE, CONVERTED = "chinese_vocab.model", "spiece.model"  # as published, and as Hugging Face's conversion calls it
FOLDER = "bpe_3w_new"
INSTALL = 'pip install sentencepiece "jieba>=0.42.1,<0.43"   (the extra "text")'

# Records of a SentencePiece model: field 1 of the model, which holds a piece's text, score and kind.
SPACE_PIECE = b"\n\x03" + SPACE.encode() + b"\x15"
NEWLINE_PIECE = b"\n\x03" + NEWLINE.encode() + b"\x15"
CLS_RECORD = b"\n\x0e\n\x05<cls>\x15\x00\x00\x00\x00\x18\x03"  # score 0, kind 3: control
NEWLINE_RECORD = b"\n\x0c" + NEWLINE_PIECE + b"\x00\x00\x00\xc0\x18\x01"  # score -2, kind 1: ordinary
END_CONTROL = b"\n\x0e\n\x05<eod>\x15\x00\x00\x00\x00\x18\x03"
END_ORDINARY = END_CONTROL[:-1] + b"\x01"


class CPMTokenizer:
    """The tokenizer of CPM-LM, and of models that prepare text in its way for another SentencePiece model.

    Thread-safe, and can be pickled. jieba's dictionary is read at the first `encode`: about a second, once in a process.

    Parameters
    ----------
    path : a SentencePiece model, or the folder that has it: as `chinese_vocab.model`, also in `bpe_3w_new/`, or as `spiece.model`

    Attributes
    ----------
    path : of the SentencePiece model
    edition : "2020-11-22" or "2020-11-13" for the published files, known by their SHA-1; None for any other
    size : how many ids there are
    unknown_id : of <unk>, which stands for what is outside the vocabulary
    end_id : of <eod>, with which a document ends; None where the vocabulary has no such piece
    newline_id : of a line feed

    Raises
    ------
    TokenizerError
        if there is no such file, it is no SentencePiece model, or the library `sentencepiece` is missing.
    """

    def __init__(self, path: str | Path) -> None:
        from weights_io.published import edition

        self.path = _model_file(Path(path))
        data = _content(self.path)
        self.edition = edition(data)
        self._pieces = _processor(data, self.path)
        self.size = int(self._pieces.get_piece_size())
        self.unknown_id = int(self._pieces.unk_id())
        self.end_id = self._known(END)

    def __repr__(self) -> str:
        which = "not a published vocabulary" if self.edition is None else f"published on {self.edition}"
        return f"<CPMTokenizer with {self.size} pieces, {which}>"

    def _known(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        found = int(self._pieces.piece_to_id(piece))
        return None if found == self.unknown_id else found

    @property
    def newline_id(self) -> int:
        """The id that a line feed becomes; raises TokenizerError where the vocabulary has no piece for it."""
        found = self._known(NEWLINE)
        if found is None:
            raise TokenizerError(
                "the vocabulary has no piece for a line feed",
                where=self.path,
                expected=f"U+2583 among the pieces, as in the files published with CPM-LM ({FILE})",
                got=f"{self.size} pieces; a line feed becomes {self._pieces.id_to_piece(self.unknown_id)}",
                remedy="use the model's own vocabulary file, or texts and stops without line feeds",
            )
        return found

    def encode(self, text: str) -> list[int]:  # str -> int (n)
        """SentencePiece(" ".join(e(w) for w in words(text))), without special tokens; raises TokenizerError for half a surrogate pair."""
        check_characters(text)
        return list(self._pieces.encode(" ".join(word.translate(ESCAPED) for word in segmenter().cut(text))))

    def decode(self, ids: Iterable[int]) -> str:  # int (n) -> str
        """d(SentencePiece⁻¹(ids) without U+0020). <unk> becomes ⁇ and <eod> its own name; other special tokens vanish.

        Raises TokenizerError for an id that is not in the vocabulary.
        """
        given = [operator.index(identity) for identity in ids]
        lost = [identity for identity in given if not 0 <= identity < self.size]
        if lost:
            raise TokenizerError("an id is not in the vocabulary", expected=f"0 <= id < {self.size}", got=lost[:5])
        return str(self._pieces.decode(given)).translate(PLAIN) if given else ""


def find_vocabulary(folder: Path) -> Path | None:
    """The SentencePiece model of a folder of weights, or None: published (also beside `80000/`, if that is the folder), or converted."""
    places = [folder / FOLDER / FILE, folder / FILE]
    if folder.name.isdecimal() or folder.name == "release":  # the folder of one iteration
        places += [folder.parent / FOLDER / FILE, folder.parent / FILE]
    return next((place for place in [*places, folder / CONVERTED] if place.is_file()), None)


def is_cpm(path: Path) -> bool:
    """Whether a SentencePiece model has a piece for the space as CPM writes it: what tells it from other models' files of that name."""
    return SPACE_PIECE in _content(path)


def _model_file(path: Path) -> Path:
    found = find_vocabulary(path) if path.is_dir() else path
    if found is None or not found.is_file():
        raise TokenizerError(
            "there is no SentencePiece model",
            where=path,
            expected=f"{FOLDER}/{FILE}, {FILE} or {CONVERTED} in the folder, or a file",
            remedy="fetch bpe_3w_new from CPM-LM's repository: it does not come with the weights",
        )
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            "the SentencePiece model cannot be read", where=path, got=f"{type(error).__name__}: {error}"
        ) from None


def _as_newer(data: bytes) -> bytes:
    """CPM's older model as the newer one; any other as it is."""
    if SPACE_PIECE not in data or NEWLINE_PIECE in data or data.count(CLS_RECORD) != 1:
        return data
    return data.replace(CLS_RECORD, NEWLINE_RECORD).replace(END_CONTROL, END_ORDINARY)


def _processor(data: bytes, path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise TokenizerError("CPM's tokenizer needs the library `sentencepiece`", where=path, remedy=INSTALL) from None
    made = sentencepiece.SentencePieceProcessor()
    try:
        made.LoadFromSerializedProto(_as_newer(data))
        if not made.get_piece_size():
            raise RuntimeError("no pieces")
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            "not a SentencePiece model",
            where=path,
            expected="a file that SentencePiece wrote, whole",
            got=f"{len(data)} bytes: {error}".partition("\n")[0],
        ) from None
    return made
