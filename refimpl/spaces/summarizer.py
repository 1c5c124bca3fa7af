"""A text to its summary: sentences, their probabilities, the source that is extracted, and a generated text that copies from it.

    s_1, .., s_n = the last n pieces of the text                           `refimpl.text.sentences.split_document`
    p = σ(extractor(v)),  v_i = mean over the tokens of s_i                `refimpl.spaces.extractor`
    x = s_i s_j ..,  p_i > threshold                                       the source; where no p is, the most probable sentence alone
    y = argmax Σ log p(y_t | x, y_<t) / n^α,  copied where the tags say    `refimpl.spaces.seq2seq.generate`

A source of more tokens than the model has positions is read with hierarchical positions (`refimpl.positions`), up to `source_tokens`. Beyond that the
chosen sentences are taken in the order of their probability, each that still fits ("drop"), or the end of the source is left out ("cut", as
published). What of this happened is in the summary's notes.

Reference: J. Su, "SPACES: extract-generate long text summarization", Scientific Spaces 8046 (2021).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from array_api_compat import is_numpy_array

from refimpl.copying import INSIDE
from refimpl.errors import ConfigError, TextError
from refimpl.inference.unilm import Session
from refimpl.number_system import device_of, namespace
from refimpl.parameters import is_positive
from refimpl.positions import extend
from refimpl.spaces import extractor, seq2seq
from refimpl.spaces.summary import Sentence, SourceMap, Summary, Token, located, spans_of
from refimpl.text.sentences import SEPARATORS, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from refimpl.encoder import Encoder
    from refimpl.number_system import Array
    from refimpl.spaces.summary import Place

__all__ = ["OPTIONS", "Settings", "Summarizer"]

OPTIONS = (
    "threshold",
    "beams",
    "max_new_tokens",
    "copy",
    "length_penalty",
    "sentences",
    "source_tokens",
)  # of each summary
TOGETHER = 4096  # tokens of sentences that are read at once, padding included
STEP = 512  # position tables are extended to multiples of it
TAGS = "OBI"
OVERLONG = ("drop", "cut")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a summarizer goes about it: what spaces.json holds, under these names."""

    threshold: float = extractor.THRESHOLD  # 0 <= threshold < 1
    separators: str = SEPARATORS  # where sentences end: `refimpl.text.sentences.split`
    longest: int = 1
    strips: str | None = None
    blanks: bool = (
        False  # whether the generator reads a sentence with the white space behind it; SPACES joins them without
    )
    sentences: int = 256  # the last so many are looked at
    sentence_tokens: int = 512  # of a sentence for its vector, special ones included
    source_tokens: int = 4096  # of the source, special ones included
    overlong: str = "drop"
    beams: int = 3
    max_new_tokens: int = 256
    length_penalty: float | None = None  # None: 1, and in the published dialect none
    k: int | None = 10  # of `refimpl.spaces.seq2seq.generate`
    copy: bool = True
    dialect: str = "corrected"
    rouge: str = "rouge-1.0.1"  # with which the labels of the training were made
    encoder: str = (
        "seq2seq"  # what makes the vectors: the generator's own layers, or the model in the sub-folder of that name
    )

    def __post_init__(self) -> None:
        counts = ("longest", "sentences", "sentence_tokens", "source_tokens", "beams", "max_new_tokens")
        wrong = [f"{name} = {getattr(self, name)!r}" for name in counts if not is_positive(getattr(self, name))]
        wrong += [f"k = {self.k!r}"] if not (self.k is None or is_positive(self.k)) else []
        switches = {"copy": self.copy, "blanks": self.blanks}
        wrong += [f"{name} = {value!r}" for name, value in switches.items() if not isinstance(value, bool)]
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        wrong += [] if number and 0 <= self.threshold < 1 else [f"threshold = {self.threshold!r}"]
        wrong += [] if _is_penalty(self.length_penalty) else [f"length_penalty = {self.length_penalty!r}"]
        for name, known in (("overlong", OVERLONG), ("dialect", seq2seq.dialects)):
            wrong += [] if getattr(self, name) in known else [f"{name} = {getattr(self, name)!r}"]
        for name in ("separators", "rouge", "encoder"):
            wrong += [] if isinstance(getattr(self, name), str) else [f"{name} = {getattr(self, name)!r}"]
        wrong += [] if self.strips is None or isinstance(self.strips, str) else [f"strips = {self.strips!r}"]
        if wrong:
            expected = "counts from 1, 0 <= threshold < 1, overlong drop or cut, dialect corrected or published"
            raise ConfigError("a setting is out of range", where="Settings", expected=expected, got=", ".join(wrong))
        if self.dialect == "published" and (self.k, self.copy, self.length_penalty) != (10, True, None):
            expected = "k = 10, copy = true, no length_penalty"
            got = f"k = {self.k}, copy = {self.copy}, length_penalty = {self.length_penalty}"
            raise ConfigError("the published decoding has no such option", where="Settings", expected=expected, got=got)

    def options(self, **given: Any) -> dict[str, Any]:
        """The options of a summary: those given that are not None, and these settings for the others. Raises ConfigError as they do."""
        unknown = sorted(set(given) - set(OPTIONS))
        if unknown:
            got = ", ".join(unknown)
            raise ConfigError("unknown options", where="summarize", expected=", ".join(OPTIONS), got=got)
        chosen = {name: value for name, value in given.items() if value is not None}
        full = dataclasses.replace(self, **chosen)
        return {name: getattr(full, name) for name in OPTIONS}


def _is_penalty(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and -100 <= value <= 100)


class _Source(NamedTuple):
    """What is read by the generator."""

    text: str
    ids: list[int]  # with special tokens
    offsets: list[Place]  # of each token that is not special, in the text
    chosen: list[int]  # numbers of the sentences in it
    notes: list[str]

    def origin(self, token: int) -> Place | None:
        """Where a token's characters are; None for a special token, and for a space that the text has not."""
        start, end = self.offsets[token - 1] if 0 < token < len(self.ids) - 1 else (0, 0)
        return (start, end) if start < end else None


class _Generator(NamedTuple):
    """What generates, for so many positions."""

    weights: seq2seq.Seq2SeqWeights
    config: seq2seq.Seq2SeqConfig
    session: Session | None  # what reads fast; None: the definition reads


class Summarizer:
    """An extractor and a generator that work together.

    Parameters
    ----------
    weights, config : of the generator
    tokenizer : with `encoded`, `decode`, `start_id`, `end_id`: `refimpl.spaces.words.WordTokenizer` or `refimpl.text.pieces.PieceTokenizer`
    extractor_weights, extractor_config : of the extractor
    settings : the rest
    encoder : what makes the vectors of sentences; None: the generator's layers

    Raises
    ------
    ConfigError
        if the parts do not fit together.
    """

    def __init__(
        self,
        weights: seq2seq.Seq2SeqWeights,
        config: seq2seq.Seq2SeqConfig,
        tokenizer: Any,
        extractor_weights: extractor.ExtractorWeights,
        extractor_config: extractor.ExtractorConfig,
        settings: Settings = Settings(),
        encoder: Encoder | None = None,
    ) -> None:
        self.weights, self.config, self.tokenizer = weights, config, tokenizer
        self.extractor_weights, self.extractor_config = extractor_weights, extractor_config
        self.settings, self.encoder = settings, encoder
        self._check()
        self._ready = functools.lru_cache(maxsize=4)(self._with_positions)

    def _check(self) -> None:
        tokenizer, config = self.tokenizer, self.config
        pairs: list[tuple[str, int, int]] = [
            ("tokens of the vocabulary", tokenizer.size, config.bert.vocab_size),
            ("the token that begins", tokenizer.start_id, config.start_token_id),
            ("the token that ends", tokenizer.end_id, config.end_token_id),
        ]
        width = config.bert.hidden_size if self.encoder is None else self.encoder.config.hidden_size
        pairs.append(("width of a sentence vector", width, self.extractor_config.input_size))
        for what, found, wanted in pairs:
            if found != wanted:
                remedy = "take tokenizer, weights and configuration of one training"
                raise ConfigError(
                    f"the parts do not fit: {what}", where="Summarizer", expected=wanted, got=found, remedy=remedy
                )
        if (self.settings.encoder == "seq2seq") != (self.encoder is None):
            expected = 'an encoder where the settings name one, none for "seq2seq"'
            got = f"{self.settings.encoder!r}, {self.encoder!r}"
            raise ConfigError("the settings and the encoder disagree", where="Summarizer", expected=expected, got=got)

    # --- the parts ----------------------------------------------------------------------------------------------------------------------

    def vectors(self, sentences: Sequence[str]) -> Array:  # -> (n, d)
        """The vector of each sentence: the mean over its tokens, special ones included, of which it keeps the first `sentence_tokens`."""
        if self.encoder is not None:
            return self.encoder.embed(
                sentences, pooling="mean", normalize=False, truncate=self.settings.sentence_tokens
            )
        rows = [self._framed(sentence) for sentence in sentences]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))  # little padding
        found: dict[int, Array] = {}
        for batch in _batches([len(rows[number]) for number in order]):
            numbers = [order[place] for place in batch]
            made = self._pooled([rows[number] for number in numbers])
            found |= {number: made[place, :] for place, number in enumerate(numbers)}
        return namespace(found[0]).stack([found[number] for number in range(len(rows))])

    def _framed(self, sentence: str) -> list[int]:
        limit = min(self.settings.sentence_tokens, self.config.context)
        ids = self.tokenizer.encode(sentence)[: max(limit - 2, 0)]
        return [self.config.start_token_id, *ids, self.config.end_token_id]

    def _pooled(self, rows: list[list[int]]) -> Array:  # -> (b, d)
        longest = max(map(len, rows))
        ids = [row + [0] * (longest - len(row)) for row in rows]
        mask = [[True] * len(row) + [False] * (longest - len(row)) for row in rows]
        dialect = self.config.bert_dialect
        return extractor.sentence_vectors(self.weights.bert, self.config.bert, ids, mask=mask, dialect=dialect)

    def probabilities(self, sentences: Sequence[str]) -> Array:  # -> (n,)
        """p = σ(extractor(v)) of all sentences of one text."""
        weights, config = self.extractor_weights, self.extractor_config
        return extractor.sentence_probabilities(weights, config, self.vectors(sentences))

    def _with_positions(self, positions: int) -> _Generator:
        """The generator with a position table of at least so many rows: its own, or extended."""
        weights, config = self.weights, self.config
        if positions > config.context:
            offset = config.bert.position_offset
            weights = weights._replace(bert=extend(weights.bert, to=positions, offset=offset))
            bert = dataclasses.replace(config.bert, max_position_embeddings=positions + offset)
            config = dataclasses.replace(config, bert=bert)
        table = weights.tags.weight
        fast = is_numpy_array(table) and table.dtype.name in ("float32", "float64")
        return _Generator(weights, config, Session(weights, config) if fast else None)

    def _generator(self, positions: int, notes: list[str]) -> _Generator:
        """The generator for so many positions."""
        have = self.config.context
        if positions <= have:
            return self._ready(0)
        notes.append(f"the {have} positions were extended hierarchically: {positions} are needed")
        return self._ready(min(-(-positions // STEP) * STEP, have * have))

    def _room(self, options: dict[str, Any]) -> int:
        """How many tokens a source may have."""
        rows = self.config.bert.max_position_embeddings
        most = self.config.context if rows is None else self.config.context**2
        room: int = min(options["source_tokens"], most - options["max_new_tokens"] - 1)
        if room < 3:
            expected = f"room for a source beside the new tokens: there are {most} positions, extended hierarchically"
            got = ", ".join(f"{name} = {options[name]}" for name in ("source_tokens", "max_new_tokens"))
            raise ConfigError("the source has no room", where="summarize", expected=expected, got=got)
        return room

    def _source(self, sentences: Sequence[str], kept: list[int], room: int) -> _Source:
        """The sentences that were kept, joined, as tokens that fit."""
        text, notes = "".join(sentences[number] for number in kept).rstrip(), list[str]()
        ids, offsets = self.tokenizer.encoded(text)
        if len(ids) + 2 > room:
            notes.append(f"the source was cut after {room - 2} of its {len(ids)} tokens")
            ids, offsets = ids[: room - 2], offsets[: room - 2]
            text = text[: offsets[-1][1]]
            starts = itertools.accumulate((len(sentences[number]) for number in kept), initial=0)
            kept = [number for number, start in zip(kept, starts, strict=False) if start < len(text)]
        framed = [self.config.start_token_id, *ids, self.config.end_token_id]
        return _Source(text, framed, list(offsets), kept, notes)

    def _fitting(self, sentences: Sequence[str], p: Sequence[float], chosen: list[int], room: int) -> list[int]:
        """Those of the chosen sentences that there is room for: the most probable one, then every next one that fits beside them."""
        if self.settings.overlong == "cut" or self._long("".join(sentences[number] for number in chosen)) <= room:
            return chosen
        lengths = {number: self._long(sentences[number]) - 2 for number in chosen}
        first, *others = sorted(chosen, key=lambda number: -p[number])
        kept, left = [first], room - 2 - lengths[first]
        for number in others:
            if lengths[number] <= left:
                kept.append(number)
                left -= lengths[number]
        while len(kept) > 1 and self._long("".join(sentences[number] for number in sorted(kept))) > room:
            kept.pop()  # joined they may have more tokens than one by one
        return sorted(kept)

    def _long(self, text: str) -> int:
        """Tokens of a source, special ones included."""
        return len(self.tokenizer.encode(text.rstrip())) + 2

    # --- all of it ------------------------------------------------------------------------------------------------------------------------

    def summarize(
        self,
        text: str,
        *,
        threshold: float | None = None,
        beams: int | None = None,
        max_new_tokens: int | None = None,
        copy: bool | None = None,
        length_penalty: float | None = None,
        sentences: int | None = None,
        source_tokens: int | None = None,
    ) -> Summary:
        """The summary of a text, and how it came about. What is None is as in the settings.

        Parameters
        ----------
        text : str
        threshold : sentences of a larger probability are chosen; where there is none, the most probable one
        beams, max_new_tokens, length_penalty : of the search, `refimpl.decoding.beam_search`
        copy : whether the tags decide what may come next; False: generated without them
        sentences : how many sentences are looked at, the last ones
        source_tokens : the most tokens that the source may have

        Returns
        -------
        Summary

        Raises
        ------
        TextError
            for a text without characters, or without any that the model knows.
        ConfigError
            for options out of range.
        """
        given: dict[str, Any] = {"threshold": threshold, "beams": beams, "max_new_tokens": max_new_tokens, "copy": copy}
        given |= {"length_penalty": length_penalty, "sentences": sentences, "source_tokens": source_tokens}
        options = self.settings.options(**given)
        if not text.strip():
            raise TextError("the text is empty", where="summarize", expected="characters other than white space")
        room, notes = self._room(options), list[str]()
        texts, places = self._sentences(text, options["sentences"], notes)
        lengths = [len(self.tokenizer.encode(sentence)) for sentence in texts]
        if not any(lengths):
            expected = "characters that the vocabulary has tokens for"
            raise TextError("the text has no token", where="summarize", expected=expected, got=ascii(text[:40]))
        found = self.probabilities(texts)
        p = [float(found[number]) for number in range(len(texts))]
        chosen = self._chosen(found, lengths, options["threshold"], notes)
        read = _up_to_next(places) if self.settings.blanks else places
        joined = [text[slice(*place)] for place in read]
        kept = self._fitting(joined, p, chosen, room)
        if len(kept) < len(chosen):
            told = f"{len(chosen) - len(kept)} of {len(chosen)} chosen sentences were left out, the most probable that fit were kept"
            notes.append(f"{told}: the source may have {room} tokens")
        source = self._source(joined, kept, room)
        notes += source.notes
        generator = self._generator(len(source.ids) + 1 + options["max_new_tokens"], notes)
        best = self._generated(generator, source.ids, options)
        said = [
            Sentence(sentence, place, probability, number in source.chosen)
            for number, (sentence, place, probability) in enumerate(zip(texts, places, p, strict=True))
        ]
        ended = "stop" if best.ids and best.ids[-1] == self.config.end_token_id else "length"
        tokens = self._tokens(best, source)
        spans = spans_of(tokens, SourceMap([read[number] for number in source.chosen]))
        whole = "".join(token.text for token in tokens)
        notes += [] if whole else ["the summary is empty: the model ended at once"]
        return Summary(whole, source.text, tuple(said), tokens, spans, float(best.score), ended, tuple(notes))

    def _generated(self, generator: _Generator, ids: list[int], options: dict[str, Any]) -> seq2seq.Generated:
        """The best target of a source."""
        searched = {name: options[name] for name in ("beams", "max_new_tokens", "copy", "length_penalty")}
        searched |= {"k": self.settings.k, "dialect": self.settings.dialect}
        weights, config, session = generator
        decoder = None if session is None else session.reading(ids)
        return seq2seq.generate(weights, config, ids, decoder=decoder, **searched)[0]

    def _sentences(self, text: str, limit: int, notes: list[str]) -> tuple[list[str], list[Place]]:
        """The last sentences, and where they are."""
        settings = self.settings
        every = split(text, settings.longest, settings.separators, settings.strips)
        if len(every) > limit:
            notes.append(f"of {len(every)} sentences the last {limit} were looked at")
        places = located(text, every)
        return every[-limit:], places[-limit:]

    def _chosen(
        self, p: Array, lengths: Sequence[int], threshold: float, notes: list[str]
    ) -> list[int]:  # (n,) -> numbers
        """The sentences above the threshold; the most probable one where there is none. None without a token is chosen."""
        xp = namespace(p)
        something = xp.asarray([length > 0 for length in lengths], device=device_of(p))
        p = xp.where(something, p, xp.zeros_like(p))
        chosen = extractor.choose(p, threshold, otherwise="none")
        if not chosen:
            chosen = extractor.choose(p, threshold, otherwise="best")
            told = f"no sentence has a probability above {threshold}"
            notes.append(f"{told}: the most probable one, {float(p[chosen[0]]):.3g}, was taken")
        return chosen

    def _tokens(self, generated: seq2seq.Generated, source: _Source) -> tuple[Token, ...]:
        """The tokens with what each adds to the text; what was copied as it stands in the source."""
        origins = [None if place is None else source.origin(place) for place in generated.places]
        published = self.settings.dialect == "published"
        written = [None if place is None or published else source.text[slice(*place)] or None for place in origins]
        texts = self._added(generated.ids, written)
        for number in range(1, 0 if published else len(texts)):
            before, here, own = origins[number - 1], origins[number], texts[number].lstrip()
            if own and before and here and generated.tags[number] == INSIDE and here[0] >= before[1]:
                texts[number] = source.text[before[1] : here[0]] + own  # with the spaces of the source
        for number, place in enumerate(origins):
            if place and not texts[number] and source.text[slice(*place)].isspace():
                origins[number] = None  # a space at the beginning, which is not written
        return tuple(
            Token(text, TAGS[tag] if place is not None else "O", place)
            for text, tag, place in zip(texts, generated.tags, origins, strict=True)
        )

    def _added(self, ids: list[int], written: list[str | None]) -> list[str]:
        """What each token adds to the decoded text: from where it agrees with what the tokens before decode to, to where it agrees with its own."""
        whole = self.tokenizer.decode(ids, written)
        ends = [0]
        for count in range(1, len(ids)):
            begun = self.tokenizer.decode(ids[:count], written[:count])
            ends.append(max(ends[-1], _agreeing(whole, begun)))
        return [whole[start:end] for start, end in itertools.pairwise([*ends, len(whole)])] if ids else []


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """Consecutive rows of nearly one length, so that little is padding; the lengths are ascending."""
    first = 0
    for last, length in enumerate(lengths):
        if last > first and (length * (last + 1 - first) > TOGETHER or length > 1.2 * lengths[first] + 2):
            yield range(first, last)
            first = last
    yield range(first, len(lengths))


def _up_to_next(places: Sequence[Place]) -> list[Place]:
    """Each place up to the beginning of the next."""
    ends = [begin for begin, _ in places[1:]] + [end for _, end in places[-1:]]
    return [(begin, end) for (begin, _), end in zip(places, ends, strict=True)]


def _agreeing(x: str, y: str) -> int:
    """How many characters x and y have in common at the beginning."""
    return next((place for place, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
