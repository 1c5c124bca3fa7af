"""A loaded BERT, RoBERTa or NEZHA: what `refimpl.load` returns where the weights are an encoder's.

vectors = refimpl.load("folder").encode([[101, 2023, 102]])           token ids -> x_L
vectors = refimpl.load("folder").embed(["A text.", "Another."])       texts -> one vector each
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from refimpl import bert
from refimpl.arithmetic import plain
from refimpl.errors import ConfigError, TextError, TokenizerError
from refimpl.model import Model
from refimpl.number_system import device_of, namespace
from refimpl.parameters import is_positive
from refimpl.pooling import mean_pooling, unit_length
from refimpl.sentence_transformers import POOLINGS, SentencePooling, read_pooling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from refimpl.backend import Backend
    from refimpl.number_system import Array
    from refimpl.text import Framed, Tokenizer

__all__ = ["Encoder", "Padded"]

SCORES = (
    1 << 21
)  # of one attention head, in all rows of a batch together: memory stays near that of one text of 1,448 tokens, or of the longest


class Padded(NamedTuple):
    """Texts as rows of one length: int, int and bool (batch, n), nested lists; what `Encoder.encode` takes."""

    ids: list[list[int]]
    segments: list[list[int]]
    mask: list[list[bool]]


class Encoder(Model):
    """A loaded encoder: its numbers (`weights`, `config`), and what to do with them.

    Attributes
    ----------
    config : BertConfig
    weights : BertWeights, on the backend's device
    backend : Backend
    tokenizer : Tokenizer or None
    dialect : "huggingface", "bert4keras", "bert4keras-0.9" or a `bert.Dialect`
    folder : where the model came from, or None
    """

    def __init__(
        self,
        weights: bert.BertWeights,
        config: bert.BertConfig,
        backend: Backend,
        tokenizer: Tokenizer | None = None,
        *,
        dialect: str | bert.Dialect = "huggingface",
        folder: Path | None = None,
    ) -> None:
        self.weights: Any = weights
        self.config: Any = config
        self.backend = backend
        self.tokenizer = tokenizer
        self.dialect: Any = dialect
        self.defaults = {}
        self.folder = folder

    def __repr__(self) -> str:
        count = sum(math.prod(array.shape) for array in self.weights.named().values())
        kind = "NEZHA" if self.config.max_position_embeddings is None else "BERT"
        means = f"{self.weights.token_embedding.dtype}, backend {self.backend.name}{self._in_arithmetic()}"
        return f"<{kind} with {count:,} parameters, {means}>"

    def encode(self, token_ids: Any, segment_ids: Any = None, mask: Any = None) -> Array:
        """The definition's x_L, `refimpl.bert.encode`: int (batch, length) -> (batch, length, d), on this model's backend."""
        weights, ids, segments, mask = self._number((self.weights, token_ids, segment_ids, mask))
        return plain(bert.encode(weights, self.config, ids, segments, mask=mask, dialect=self.dialect))

    def pooled(self, token_ids: Any, segment_ids: Any = None, mask: Any = None) -> Array:
        """tanh(W x_L[0] + b), `refimpl.bert.pooled`: int (batch, length) -> (batch, d)."""
        return plain(bert.pooled(*self._number((self.weights, self.encode(token_ids, segment_ids, mask)))))

    def logits(self, token_ids: Any, mask: Any = None) -> Array:
        """The masked-LM head's scores, `refimpl.bert.masked_lm_logits`: int (batch, length) -> (batch, length, vocab)."""
        weights, hidden = self._number((self.weights, self.encode(token_ids, mask=mask)))
        return plain(bert.masked_lm_logits(weights, self.config, hidden, dialect=self.dialect))

    @property
    def pooling(self) -> SentencePooling | None:
        """What the folder says of pooling, if it is one of sentence-transformers; raises ConfigError for what is not implemented."""
        return None if self.folder is None else read_pooling(self.folder)

    @property
    def longest(self) -> int | None:
        """The most tokens, special ones included, that a text may have; None: NEZHA, which has no position table."""
        rows = self.config.max_position_embeddings
        return None if rows is None else rows - self.config.position_offset

    def _framed(self, text: Any, number: int, truncate: bool | int) -> Framed:
        """One text, or a pair, with its special tokens; refused where it is too long and `truncate` does not say otherwise."""
        tokenizer = self._tokenizer()
        if not hasattr(tokenizer, "framed"):
            expected = "one of the library `tokenizers`, with [CLS] and [SEP] or their like"
            raise TokenizerError("this tokenizer makes no input of an encoder", expected=expected, got=type(tokenizer))
        pair = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(pair) <= 2 or not all(isinstance(part, str) for part in pair):
            raise TextError("not a text", where=f"texts[{number}]", expected="a str, or a pair of them", got=repr(text))
        limit = self.longest
        if truncate is not False and truncate is not True:
            limit = truncate if limit is None else min(limit, truncate)
        framed: Framed = tokenizer.framed(*pair, longest=limit if truncate is not False else None)
        if limit is not None and len(framed.ids) > limit:
            raise TextError(
                "the text is longer than the position table",
                where=f"texts[{number}]",
                expected=f"at most {limit} tokens, special ones included",
                got=f"{framed.whole} tokens",
                remedy="cut it off (truncate=True, --truncate), or load the model with more positions "
                f"(positions={framed.whole}, --positions {framed.whole})",
            )
        return framed

    def framed(self, texts: Sequence[str | tuple[str, str]], *, truncate: bool | int = False) -> list[Framed]:
        """Token ids and segments of texts, or pairs of them, with the special tokens: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

        Parameters
        ----------
        texts : texts, or pairs (text, text)
        truncate : False: a text longer than the position table is refused; True: its end is cut off; a whole number: so many tokens, special
            ones included, are kept at most

        Raises
        ------
        TextError, TokenizerError, ConfigError
            if there is no text or no tokenizer, a text is too long, or the model has no special tokens.
        """
        if isinstance(texts, str):
            raise TextError("one text where a list was expected", where="texts", got=repr(texts), remedy="pass [text]")
        if not texts:
            raise TextError("there is no text", where="texts", expected="at least one")
        if not isinstance(truncate, bool) and not is_positive(truncate):
            raise ConfigError("truncate must be true, false or a number", where="truncate", got=repr(truncate))
        return [self._framed(text, number, truncate) for number, text in enumerate(texts)]

    def padded(self, rows: Sequence[Framed]) -> Padded:
        """Rows filled up on the right to the longest, with a mask that is true at what was there."""
        length = max(len(row.ids) for row in rows)
        known = getattr(self._tokenizer(), "padding_id", None)
        filler = next(each for each in (self.config.pad_token_id, known, 0) if each is not None)
        return Padded(
            [row.ids + [filler] * (length - len(row.ids)) for row in rows],
            [row.segments + [0] * (length - len(row.ids)) for row in rows],
            [[True] * len(row.ids) + [False] * (length - len(row.ids)) for row in rows],
        )

    def _choice(self, pooling: str | None, normalize: bool | None) -> SentencePooling:
        """The pooling asked for, or that of the folder."""
        if pooling not in (None, *POOLINGS):
            raise ConfigError("unknown pooling", where="pooling", expected=", ".join(POOLINGS), got=repr(pooling))
        chosen = self.pooling if pooling is None else SentencePooling(pooling, False)
        if chosen is None:
            raise ConfigError(
                "the model does not say how the vectors of a text become one",
                where="pooling",
                expected="modules.json and the pooling's config.json in the model's folder, as sentence-transformers writes them",
                remedy=f"choose one of {', '.join(POOLINGS)} (pooling=, --pooling)",
            )
        return chosen if normalize is None else SentencePooling(chosen.how, normalize)

    def embed(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        truncate: bool | int = False,
    ) -> Any:
        """One vector for each text: its tokens' last vectors pooled, and given unit length where that is asked for.

        Parameters
        ----------
        texts, truncate : as `framed`
        pooling : "mean" over the tokens, special ones included; "cls", the first token's vector; "pooler", `pooled`; "none", all vectors of the
            text; None: what the folder of the model says
        normalize : whether to divide by the length; None: what the folder says, where it also says how to pool; otherwise no

        Returns
        -------
        array, (texts, d), on the model's backend; for "none" a list of arrays (tokens, d)

        Raises
        ------
        ConfigError
            if the folder does not say how to pool and neither does the caller, the pooling is unknown, or the model has no pooler.
        TextError, TokenizerError
            as `framed`.
        """
        choice = self._choice(pooling, normalize)
        rows = self.framed(texts, truncate=truncate)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))  # little padding
        found: dict[int, Any] = {}
        for batch in _batches([len(rows[number].ids) for number in order]):
            numbers = [order[place] for place in batch]
            found |= zip(numbers, self._pooled([rows[number] for number in numbers], choice), strict=True)
        vectors = [found[number] for number in range(len(rows))]
        return vectors if choice.how == "none" else namespace(vectors[0]).stack(vectors)

    def _pooled(self, rows: Sequence[Framed], choice: SentencePooling) -> list[Array]:
        """The vectors of one batch of texts."""
        ids, segments, mask = self.padded(rows)
        hidden = self.encode(ids, segments, mask)
        if choice.how == "mean":
            xp = namespace(hidden)
            vectors = mean_pooling(hidden, xp.asarray(mask, device=device_of(hidden)))
        elif choice.how == "pooler":
            vectors = plain(bert.pooled(*self._number((self.weights, hidden))))
        else:
            vectors = hidden[:, 0, :] if choice.how == "cls" else hidden
        vectors = unit_length(vectors) if choice.normalize else vectors
        each = [vectors[number, ...] for number in range(len(rows))]
        return [one[: len(row.ids), :] for one, row in zip(each, rows, strict=True)] if choice.how == "none" else each

    def _decoder(self) -> NoReturn:
        remedy = "use encode, pooled or logits; to continue texts, load a GPT-2"
        raise ConfigError("an encoder does not continue texts", where="refimpl.load", got=repr(self), remedy=remedy)

    def _stop(self, stop: Any) -> NoReturn:
        self._decoder()

    def prompt_ids(self, text: str) -> NoReturn:
        """Refused: an encoder has no prompts."""
        self._decoder()

    def stream(self, prompt: str, **options: Any) -> NoReturn:
        """Refused: an encoder does not continue texts."""
        self._decoder()

    def score(self, text: str, *, end: bool = False) -> NoReturn:
        """Refused: an encoder's logits at a token are not of the next one."""
        self._decoder()


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """Consecutive rows whose attention scores stay within SCORES a head; one row at least. The lengths are ascending."""
    first = 0
    for last, length in enumerate(lengths):
        if last > first and (last + 1 - first) * length * length > SCORES:
            yield range(first, last)
            first = last
    yield range(first, len(lengths))
