"""SPACES' vocabulary of words, and its tokenizer: a word of the vocabulary is one token, everything else comes in pieces.

    V' = special tokens, then the tokens of V that BERT's code can produce                  `simplified_vocabulary`
    V'' = V' and words, w -> the tokens p(w) that it consists of under V'                   `extend_vocabulary`
    E''[w] = mean of E'[p] over p in p(w),  E' = E[V']                                      `extend_embedding`
    encode(x) = for every word w of x: w where w is in V'', else the pieces of w            `WordTokenizer`

A token of V is redundant where it has more than one character, and one of them, ## aside, is punctuation or Han: the code cuts there. The words
of x are jieba's, by dictionary alone (`HMM=False`), with those of a user dictionary; they are cut by `refimpl.text.segmentation`, which keeps
nothing outside the tokenizer: two tokenizers with different user dictionaries do not see each other.

The bias of the masked-LM head, one number a token, is extended as the embedding is: bert4keras does both by one function. A word's first probability
is thus not that of its pieces: its logit is the mean of theirs.

The library `tokenizers` does the second half (BertNormalizer, BertPreTokenizer, WordPiece), but not words first, nor an unknown token for a single
character: its WordPiece makes the whole word unknown. Its custom pre-tokenizers run in Python, and cannot be saved. Hence code of our own, which is
held to bert4keras' ids, and to the library's where the two do the same (`tests/test_spaces_words.py`).

Two dialects differ in what is unknown: `"bert4keras-0.9.7"`, the version that SPACES was run with, where each character without a piece is one
[UNK], and `"bert4keras-0.9.9"`, and later, where the word is, also one of more than 200 characters.

Reference: bojone/SPACES at a545db3, `seq2seq_model.py`, `snippets.py`; bert4keras 0.9.7, `tokenizers.py`, and `models.py`: `load_embeddings`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refimpl.errors import ConfigError, ShapeError, TokenError, TokenizerError
from refimpl.number_system import Array, check_floating, device_of, namespace, rounded_once, whole_number
from refimpl.text.framing import (
    CONFIG,
    FORMAT,
    SPECIAL,
    Encoded,
    FramingTokenizer,
    as_lines,
    read_config,
    read_lines,
    write_texts,
)
from refimpl.text.segmentation import Segmenter, segmenter
from refimpl.text.wordpiece import is_han, is_punctuation, is_special, joined, normalized, pieces, stem, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from refimpl.bert import BertWeights

__all__ = [
    "Dialect",
    "WordTokenizer",
    "dictionary_words",
    "extend_embedding",
    "extend_vocabulary",
    "extend_weights",
    "is_redundant",
    "read_vocabulary",
    "simplified_vocabulary",
]

Dialect = Literal["bert4keras-0.9.7", "bert4keras-0.9.9"]
DIALECTS = ("bert4keras-0.9.7", "bert4keras-0.9.9")
LONGEST_WORD = 200  # of the later dialect
VOCABULARY, DICTIONARY = "vocab.txt", "user_dict.txt"
KIND = "words"


# --- the vocabulary -------------------------------------------------------------------------------------------------------------------


def read_vocabulary(path: Path) -> dict[str, int]:
    """The tokens of a `vocab.txt` -> their lines, counted from 0; raises TokenizerError where one is there twice, or nothing can be read.

    A token ends at the first white space of its line, as in bert4keras; Google's vocabularies have none inside.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(read_lines(path)):
        token = (line.split() or [""])[0]
        if token in found:
            where, got = f"{path}, line {number + 1}", f"{token!r}, also in line {found[token] + 1}"
            raise TokenizerError("a token is there twice", where=where, expected="every token once", got=got)
        found[token] = number
    return found


def is_redundant(token: str) -> bool:
    """Whether no text is cut to this token: it has more characters than one, and one of them is punctuation or Han."""
    return len(token) > 1 and any(is_han(character) or is_punctuation(character) for character in stem(token))


def simplified_vocabulary(
    vocabulary: dict[str, int], first: Sequence[str] = SPECIAL
) -> tuple[dict[str, int], list[int]]:
    """V' = `first`, then what is not redundant in V, in V's order; and for every id of V' the one it had in V.

    Parameters
    ----------
    vocabulary : tokens -> ids
    first : the tokens with which V' begins; of those in brackets, the only ones kept

    Returns
    -------
    the new vocabulary, and the kept ids in its order: E' = E[kept]

    Raises
    ------
    TokenizerError
        if a token of `first` is not in the vocabulary, or is there twice.
    """
    missing = [token for token in first if token not in vocabulary]
    if missing or len(set(first)) < len(first):
        got = f"without {missing}" if missing else "a token twice"
        raise TokenizerError(
            "these tokens cannot come first", where="first", expected="tokens of the vocabulary", got=got
        )
    chosen = set(first)
    others = (token for token in sorted(vocabulary, key=lambda token: vocabulary[token]) if token not in chosen)
    kept = [*first, *(token for token in others if not is_redundant(token))]
    return {token: number for number, token in enumerate(kept)}, [vocabulary[token] for token in kept]


def dictionary_words(lines: Iterable[str]) -> list[str]:
    """The words of a user dictionary: what stands before the first white space of every line that is not empty."""
    return [line.split()[0].lstrip("\ufeff") for line in lines if line.strip()]


def extend_vocabulary(
    vocabulary: dict[str, int], words: Iterable[str], tokenizer: WordTokenizer | None = None
) -> tuple[dict[str, int], list[list[int]]]:
    """V'' = V' and the words it lacks, in their order; and for each new word the ids of V' that it consists of.

    Parameters
    ----------
    vocabulary : tokens -> ids, 0 to n - 1
    words : words to be added; those that are tokens already, or came before, are passed over
    tokenizer : cuts a word into tokens of `vocabulary`; None: a `WordTokenizer` of it that looks for no words

    Raises
    ------
    TokenizerError
        if a word has no tokens, for instance because it is white space: nothing can be averaged.
    ConfigError
        if the tokenizer has another vocabulary.
    """
    cutting = WordTokenizer(vocabulary) if tokenizer is None else tokenizer
    if cutting.vocabulary != vocabulary:
        expected, got = "a tokenizer of the vocabulary that is extended", repr(cutting)
        raise ConfigError("the pieces would be others", where="tokenizer", expected=expected, got=got)
    extended, consists = dict(vocabulary), []
    for word in words:
        if word in extended:
            continue
        ids = cutting.encode(word)
        if not ids:
            raise TokenizerError("a word consists of no tokens", where="words", expected="letters", got=ascii(word))
        extended[word] = len(extended)
        consists.append(ids)
    return extended, consists


# --- the weights ----------------------------------------------------------------------------------------------------------------------


@rounded_once
def extend_embedding(
    table: Array, kept: Sequence[int], consists: Sequence[Sequence[int]]
) -> Array:  # (v, ...), v' ids, w lists of ids -> (v' + w, ...)
    """E''[k] = E[kept[k]];  E''[v' + k] = mean of E''[p] over p in consists[k].

    Parameters
    ----------
    table : array, (v, ...), floating or balls: an embedding, or a bias with one number a token
    kept : the rows that stay, in the new order
    consists : for every new row the rows, of those that stay, whose mean it is; a row that is named twice counts twice

    Returns
    -------
    array, (v' + w, ...), the dtype of `table`

    Raises
    ------
    DtypeError, ShapeError, TokenError
        if `table` is not floating or has no axis, a row is not there, or a new one consists of none.
    """
    check_floating("table", table)
    if table.ndim < 1:
        raise ShapeError("an embedding has a row for each token", where="table", expected="(v, ...)", got=())
    _check_rows("kept", [kept], table.shape[0])
    _check_rows("consists", consists, len(kept))
    xp, device = namespace(table), device_of(table)
    rows = xp.take(table, xp.asarray(list(kept), dtype=xp.int64, device=device), axis=0)
    means = [
        xp.mean(xp.take(rows, xp.asarray(list(ids), dtype=xp.int64, device=device), axis=0), axis=0, keepdims=True)
        for ids in consists
    ]
    return xp.concat([rows, *means], axis=0)


def _check_rows(name: str, lists: Sequence[Sequence[int]], rows: int) -> None:
    """Raise TokenError for an empty list, ids that are not whole numbers, or a row that is not there."""
    for number, ids in enumerate(lists):
        if not len(ids):
            raise TokenError("a mean of no rows", where=f"{name}[{number}]", expected="at least one id")
        wrong = [index for index in ids if whole_number(index) is None]
        if wrong:
            got = repr(wrong[0])
            raise TokenError("rows are whole numbers", where=f"{name}[{number}]", expected="token ids", got=got)
        if not (min(ids) >= 0 and max(ids) < rows):
            got = f"from {min(ids)} to {max(ids)}"
            raise TokenError("row out of range", where=f"{name}[{number}]", expected=f"0 <= id < {rows}", got=got)


def extend_weights(weights: BertWeights, kept: Sequence[int], consists: Sequence[Sequence[int]]) -> BertWeights:
    """The weights for the extended vocabulary: the embedding, the masked-LM head's bias, and its table where it has one of its own.

    The configuration's `vocab_size` must follow: `dataclasses.replace(config, vocab_size=len(kept) + len(consists))`. Errors as `extend_embedding`.
    """
    head, output = weights.masked_lm, weights.output_embedding
    return weights._replace(
        token_embedding=extend_embedding(weights.token_embedding, kept, consists),
        masked_lm=None if head is None else head._replace(bias=extend_embedding(head.bias, kept, consists)),
        output_embedding=None if output is None else extend_embedding(output, kept, consists),
    )


# --- the tokenizer --------------------------------------------------------------------------------------------------------------------


class WordTokenizer(FramingTokenizer):
    """Words of the vocabulary first, then pieces: bert4keras' tokenizer behind jieba.

    Thread-safe, and can be pickled. jieba's dictionary is read at the first text: about a second, once in a process.

    Parameters
    ----------
    vocabulary : tokens -> ids, 0 to n - 1, with [PAD], [UNK], [CLS] and [SEP]
    dictionary : the lines of a user dictionary, as `Segmenter.with_words` reads them; () for jieba's own words; None: no words, pieces alone
    lower : whether text becomes lower case, and loses the marks on its letters
    dialect : what becomes of characters without a piece

    Raises
    ------
    TokenizerError, ConfigError
        if the vocabulary lacks a special token or its ids are not 0 to n - 1; if there is no such dialect.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        dictionary: Sequence[str] | None = None,
        *,
        lower: bool = True,
        dialect: Dialect = "bert4keras-0.9.7",
    ) -> None:
        super().__init__(vocabulary)
        if dialect not in DIALECTS:
            raise ConfigError("no such dialect", where="dialect", expected=" or ".join(DIALECTS), got=repr(dialect))
        self.dictionary = None if dictionary is None else tuple(line.rstrip("\r\n") for line in dictionary)
        self.lower = lower
        self.dialect = dialect
        self._longest = max(map(len, vocabulary))
        self._segmenter: Segmenter | None = None

    def __repr__(self) -> str:
        told = (
            "pieces alone" if self.dictionary is None else f"words first, {len(self.dictionary)} of a user dictionary"
        )
        return f"<WordTokenizer with {self.size} tokens, {told}, {self.dialect}>"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_segmenter": None}  # half a million words, which another process has or makes

    def encoded(self, text: str) -> Encoded:
        """The ids of `text`, without special tokens, and the characters of `text` that each was made from."""
        clean, origins = normalized(text, self.lower)
        ids, offsets = [], []
        for identity, begin, end in self._cut(clean):
            ids.append(identity)
            offsets.append((origins[begin], origins[end] + 1))
        return Encoded(ids, offsets)

    def _cut(self, text: str) -> Iterator[tuple[int, int, int]]:  # -> id, first and last place
        """Every word that is a token, and the pieces of the others."""
        if self.dictionary is None:
            yield from self._in_pieces(text, 0, len(text))
            return
        begin = 0
        for word in self._words().cut(text, hidden=False):
            end = begin + len(word)
            if word in self.vocabulary:
                yield self.vocabulary[word], begin, end - 1
            else:
                yield from self._in_pieces(text, begin, end)
            begin = end

    def _words(self) -> Segmenter:
        if self._segmenter is None:
            self._segmenter = segmenter().with_words(self.dictionary or ())
        return self._segmenter

    def _in_pieces(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The pieces of text[begin:end]."""
        for places in words(text, begin, end):
            word = "".join(text[place] for place in places)
            whole = self.dialect != "bert4keras-0.9.7"
            found = [] if whole and len(word) > LONGEST_WORD else list(pieces(word, self.vocabulary, self._longest))
            if whole and (not found or any(piece is None for piece, _, _ in found)):
                found = [(None, 0, len(word))]
            for piece, first, after in found:
                identity = self.unknown_id if piece is None else self.vocabulary[piece]
                yield identity, places[first], places[after - 1]

    def decode(self, ids: Iterable[int], written: Sequence[str | None] | None = None) -> str:
        """bert4keras' text of `ids`; tokens in brackets are left out.

        Parameters
        ----------
        ids : of tokens
        written : for each token the characters that are to stand in its place, for instance those of the source that it is a copy of, or None

        Raises
        ------
        TokenizerError
            if an id is not in the vocabulary, or `written` has another length.
        """
        tokens = self.tokens(ids)
        if written is None:
            return joined([token for token in tokens if not is_special(token)])
        if len(written) != len(tokens):
            what = "there must be characters, or None, for every token"
            raise TokenizerError(what, where="written", expected=len(tokens), got=len(written))
        put = [
            "##" * token.startswith("##") + given if given else token
            for token, given in zip(tokens, written, strict=True)
        ]
        return joined([text for text, given in zip(put, written, strict=True) if given or not is_special(text)])

    # --- files ------------------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write `vocab.txt`, `words.json` and, where words come first, `user_dict.txt`; raises TokenizerError for what has no line of its own."""
        config = {"format": FORMAT, "kind": KIND, "lower": self.lower, "dialect": self.dialect}
        config["words"] = self.dictionary is not None
        files = {VOCABULARY: _lines(self.tokens(range(self.size))), CONFIG: json.dumps(config, indent=2) + "\n"}
        if self.dictionary is not None:
            files[DICTIONARY] = as_lines("line of the user dictionary", self.dictionary)
        write_texts(Path(folder), files)

    @classmethod
    def load(cls, folder: Path | str) -> WordTokenizer:
        """The tokenizer that `save` wrote; raises TokenizerError for files that are missing or damaged."""
        place = Path(folder)
        config = read_config(place, KIND)
        lower, dialect, first = config.get("lower"), config.get("dialect"), config.get("words")
        if not isinstance(lower, bool) or not isinstance(first, bool) or dialect not in DIALECTS:
            expected = f"lower and words true or false, dialect one of {', '.join(DIALECTS)}"
            raise TokenizerError(f"{CONFIG} is damaged", where=place / CONFIG, expected=expected, got=config)
        dictionary = read_lines(place / DICTIONARY) if first else None
        return cls(read_vocabulary(place / VOCABULARY), dictionary, lower=lower, dialect=dialect)


def _lines(tokens: Sequence[str]) -> str:
    """A vocabulary as the lines of a file, which must be read back as they are."""
    for number, token in enumerate(tokens):
        if token.split() != [token] and token:
            expected = "no white space in a token"
            raise TokenizerError(
                "a token cannot be written", where=f"token {number}", expected=expected, got=ascii(token)
            )
    return as_lines("token", tokens)
