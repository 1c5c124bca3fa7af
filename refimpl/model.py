"""`refimpl.load`: open a checkpoint and use it, with one object for the whole of inference.

    model = refimpl.load("tang")
    for piece in model.stream("春眠不觉晓，", seed=1):
        print(piece, end="")

`path` is the name of an embedded model, or whatever `weights_io.open` opens, with names that a scheme of `weights_io.schemes` explains: a
Hugging Face GPT-2 folder, a TensorFlow checkpoint of bert4keras, the shards of CPM-LM, or the same parameters in any other format. The scheme brings
the dialect with it. config.json gives the sizes; where files come without one, as CPM's do, the weights show all of them but the number of heads.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from refimpl import backend as backends
from refimpl import bert, decoding, gpt2
from refimpl.arithmetic import Arithmetic, named_arithmetic, plain
from refimpl.errors import ConfigError, NotBuiltYetError, TextError, TokenizerError
from refimpl.inference.gpt2 import Session
from refimpl.inference.threads import blas_threads
from refimpl.inference.widening import convert, is_finite
from refimpl.number_system import device_of, namespace
from refimpl.parameters import is_positive
from refimpl.positions import extend
from refimpl.softmax import log_softmax
from refimpl.text.cpm import CPMTokenizer
from refimpl.text.stopping import StopText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from refimpl.number_system import Array
    from refimpl.text import Tokenizer
    from weights_io.checkpoint import Checkpoint, TensorInfo
    from weights_io.schemes import Explanation, Scheme

__all__ = ["EMBEDDED", "Continuation", "Model", "PlainDecoder", "Score", "load"]

EMBEDDED: dict[str, Path] = {"tang": Path(__file__).parent / "embedded" / "tang"}
DTYPES = ("float16", "float32", "float64")
BUILT = ("gpt2", "bert", "nezha")
AHEAD = 16  # parameters that are read and wait: more than a layer of GPT-2 has, of which four are large, so that threads do not wait for these
MEGATRON_MULTIPLES = tuple(128 * ranks for ranks in (1, 2, 4, 8, 16))  # of rows of an embedding that was padded


class Score(NamedTuple):
    """How likely a model finds a text."""

    tokens: int  # scored: all but the first, or all where a start token was put before them
    unknown: int  # of these, tokens that stand for characters outside the vocabulary: scored like any other
    negative_log_likelihood: float  # total, in nats
    log_probabilities: list[float]  # one a scored token

    @property
    def perplexity(self) -> float:
        """exp(negative log-likelihood / tokens)."""
        return math.exp(self.negative_log_likelihood / self.tokens)


class Continuation(NamedTuple):
    """What a model wrote after a prompt."""

    text: str  # up to where it stopped; without the stop text, or the stop token
    ids: list[int]  # all that were generated, but the stop token
    ended: str  # "text": by a stop text; "token": by a stop token; "length": it has as many tokens as it may


class Model:
    """A loaded language model: its numbers (`weights`, `config`), its tokenizer, and what to do with them.

    Attributes
    ----------
    config : GPT2Config
    weights : GPT2Weights, on the backend's device
    backend : Backend
    tokenizer : Tokenizer or None
    defaults : sampling options that came with the model
    arithmetic : Arithmetic in which `logits`, `stream`, `generate` and `score` run the network, or None: the array library's own. The weights are
        plain arrays in either case, and so are the logits: what is done with them is exact
    make_decoder : what makes, of the model's weights, config and dialect, the decoder that reads texts where there is no arithmetic, such as
        `refimpl.inference.gpt2.Session`; None: the definition's, `refimpl.gpt2.CachedDecoder`
    low_memory : whether the weights are float16 and all that is computed with them float32: `logits` too are those of a session
    """

    arithmetic: Arithmetic | None = None
    make_decoder: Callable[[Any, Any, Any], decoding.Decoder] | None = None
    low_memory: bool = False

    def __init__(
        self,
        weights: gpt2.GPT2Weights,
        config: gpt2.GPT2Config,
        backend: backends.Backend,
        tokenizer: Tokenizer | None = None,
        *,
        dialect: str | gpt2.Dialect = "openai",
        defaults: dict[str, Any] | None = None,
        arithmetic: str | Arithmetic | None = None,
        make_decoder: Callable[[Any, Any, Any], decoding.Decoder] | None = None,
        low_memory: bool = False,
    ) -> None:
        self.weights: Any = weights  # of another type in an `refimpl.encoder.Encoder`
        self.config: Any = config
        self.backend = backend
        self.tokenizer = tokenizer
        self.dialect: Any = dialect
        self.defaults = defaults or {}
        self.arithmetic = None if arithmetic is None else named_arithmetic(arithmetic)
        _check_one_arithmetic(low_memory, arithmetic, "Model(low_memory=True)")
        self.make_decoder, self.low_memory = make_decoder or (Session if low_memory else None), low_memory

    def __repr__(self) -> str:
        count = sum(math.prod(array.shape) for array in self.weights.named().values())
        widened = " widened to float32" if self.low_memory else ""
        means = f"{self.weights.token_embedding.dtype}{widened}, backend {self.backend.name}{self._in_arithmetic()}"
        return f"<GPT-2 with {count:,} parameters, {means}>"

    def _in_arithmetic(self) -> str:
        return "" if self.arithmetic is None else f", arithmetic {self.arithmetic}"

    def with_arithmetic(self, arithmetic: str | Arithmetic | None, kinds: Iterable[str] | None = None) -> Self:
        """The same model, its weights shared, computing in another arithmetic.

        Parameters
        ----------
        arithmetic : one of `refimpl.arithmetic.FORMS`, such as "mitchell", or an `Arithmetic`; or None, the array library's own
        kinds : of `refimpl.arithmetic.KINDS`, the kinds of layer whose products are replaced; None: those of the arithmetic, all products

        Raises
        ------
        ConfigError
            for an unknown name of an arithmetic or a kind.
        """
        _check_one_arithmetic(self.low_memory, arithmetic, "with_arithmetic")
        other = copy.copy(self)
        other.arithmetic = None if arithmetic is None else named_arithmetic(arithmetic, kinds)
        return other

    def _number(self, x: Any) -> Any:
        """Weights, or what a caller gave, in this model's arithmetic."""
        return x if self.arithmetic is None else self.arithmetic.wrap(x)

    def logits(self, token_ids: Any, mask: Any = None) -> Array:  # int (batch, length) -> (batch, length, vocab)
        """The definition's logits, `refimpl.gpt2.logits`, on this model's backend; with low memory those of a session."""
        if self.low_memory:
            return Session(self.weights, self.config, self.dialect).logits(token_ids, mask)
        weights, ids, mask = self._number((self.weights, token_ids, mask))
        return plain(gpt2.logits(weights, self.config, ids, mask=mask, dialect=self.dialect))

    def encode(self, token_ids: Any, segment_ids: Any = None, mask: Any = None) -> Array:  # -> (batch, length, d)
        """The last layer's vectors, of an encoder (`refimpl.encoder.Encoder`). Raises ConfigError: a GPT-2 is none."""
        remedy = "use refimpl.gpt2.hidden_states, or load a BERT or NEZHA"
        raise ConfigError("the model is no encoder", where="Model.encode", got=repr(self), remedy=remedy)

    def embed(
        self, texts: Any, *, pooling: str | None = None, normalize: bool | None = None, truncate: bool | int = False
    ) -> Any:
        """One vector for each text, of an encoder (`refimpl.encoder.Encoder`). Raises ConfigError: a GPT-2 is none."""
        return self.encode(texts)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the model came without a tokenizer",
                expected="tokenizer.json, vocab.json and merges.txt, or vocab.txt, in its folder; CPM-LM's bpe_3w_new in it or beside 80000",
                remedy="put one there, or use model.logits, model.generate_ids, model.encode or refimpl.decoding with token ids",
            )
        return self.tokenizer

    @property
    def unknown_id(self) -> int | None:
        """The id of characters outside the vocabulary; None where the tokenizer has no such token."""
        return getattr(self.tokenizer, "unknown_id", None)

    def prompt_ids(self, text: str) -> list[int]:
        """The ids that a text begins with: the start token where the model has one, then the text's own."""
        start = [] if self.config.bos_token_id is None else [self.config.bos_token_id]
        return start + self._tokenizer().encode(text)

    def _decoder(self) -> decoding.Decoder:
        if self.arithmetic is None and self.make_decoder is not None:
            return self.make_decoder(self.weights, self.config, self.dialect)
        decoder = gpt2.CachedDecoder(self._number(self.weights), self.config, self.dialect)
        return decoder if self.arithmetic is None else PlainDecoder(decoder)

    def _options(self, **asked: Any) -> dict[str, Any]:
        options = {"temperature": 1.0, "top_k": None, "top_p": None} | self.defaults
        return options | {name: value for name, value in asked.items() if value is not None}

    def _stop(self, stop: Iterable[int] | None) -> list[int]:
        if stop is not None:
            return list(stop)
        return [] if self.config.eos_token_id is None else [self.config.eos_token_id]

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: Iterable[int] | None = None,
        stop_text: str | Iterable[str] | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Yield the continuation of `prompt`, piece by piece, as it is generated.

        Parameters
        ----------
        prompt : text; it must not be empty unless the model has a start token
        max_new_tokens : int, or None: until a stop token, or the end of the position table
        temperature, top_k, top_p : see `refimpl.decoding.generate`; None takes the model's own default. temperature=0 is greedy
        stop : token ids that end the text; None: the configuration's eos_token_id
        stop_text : a string, or several, at the first of which the text ends, whatever tokens it comes in (`refimpl.text.stopping`). Nothing of it is
            yielded, and text that may be its beginning waits; what the prompt holds does not count. None: none
        seed : of NumPy's default generator

        Raises
        ------
        TokenError, ConfigError, TokenizerError
            for a prompt that is empty or too long, options out of range, no tokenizer: at the call.
        """
        ids, ends, rule = self.prompt_ids(prompt), self._stop(stop), StopText(stop_text)
        chosen = self._options(temperature=temperature, top_k=top_k, top_p=top_p)
        rng = backends.generator(seed)
        steps = decoding.generate(self._decoder(), [ids], max_new_tokens=max_new_tokens, stop=ends, rng=rng, **chosen)
        return self._pieces(steps, frozenset(ends), rule)

    def _pieces(
        self, steps: Iterator[list[int | None]], ends: frozenset[int], rule: StopText | None = None
    ) -> Iterator[str]:
        """Text as soon as it is final: half a character waits for the rest, and so does what may begin a stop text."""
        rule = rule or StopText()
        tokenizer, ids, shown = self._tokenizer(), [], ""
        for (token,) in steps:
            if token is None or token in ends:
                break
            ids.append(token)
            kept = rule.cut(tokenizer.decode(ids))
            final = kept.text if kept.stopped else rule.settled(kept.text)
            if len(final) > len(shown):
                yield final[len(shown) :]
                shown = final
            if kept.stopped:
                return
        rest = tokenizer.decode(ids)[len(shown) :] if ids else ""
        if rest:
            yield rest

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: Iterable[int] | None = None,
        stop_text: str | Iterable[str] | None = None,
        seed: int = 0,
    ) -> str:
        """The prompt and its continuation as one text; arguments and errors as `stream`."""
        pieces = self.stream(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=stop,
            stop_text=stop_text,
            seed=seed,
        )
        return prompt + "".join(pieces)

    def generate_batch(
        self, prompts: list[str], *, max_new_tokens: int | None = None, seed: int = 0, **options: Any
    ) -> list[str]:
        """Continue many prompts at once (one batch, left-padded); options as `stream`. Rows draw from one generator, in order."""
        found = self.continuations(prompts, max_new_tokens=max_new_tokens, seed=seed, **options)
        return [prompt + each.text for prompt, each in zip(prompts, found, strict=True)]

    def continuations(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int | None = None,
        seed: int = 0,
        rng: Any = None,
        **options: Any,
    ) -> list[Continuation]:
        """What is written after each of many prompts, which are read together; each row ends for itself, by its own stop token or stop text.

        What prompts have in common is read once. Options as `stream`; `rng`, where it is given, stands for NumPy's default generator of that seed:
        its `random(n)` is asked for one uniform number a row and step.
        """
        ends, rule = self._stop(options.pop("stop", None)), StopText(options.pop("stop_text", None))
        ids, tokenizer = [self.prompt_ids(prompt) for prompt in prompts], self._tokenizer()
        drawn = backends.generator(seed) if rng is None else rng
        rows = self._rows(decoding.ReadOnce(self._decoder()), ids, max_new_tokens, drawn, ends, rule, options)
        return [_continuation(row, ends, rule, tokenizer) for row in rows]

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int | None = None, seed: int = 0, **options: Any
    ) -> list[list[int]]:
        """Continue many prompts of token ids: each one's new ids, without the stop token. Options as `stream`.

        No tokenizer is needed but for `stop_text`, of which nothing is in the text of the ids: a token that holds the last characters before it and
        its first is left out whole.
        """
        ends, rule = self._stop(options.pop("stop", None)), StopText(options.pop("stop_text", None))
        drawn, given = backends.generator(seed), [list(prompt) for prompt in prompts]
        rows = self._rows(self._decoder(), given, max_new_tokens, drawn, ends, rule, options)
        kept = [row[:-1] if row[-1] in ends else row for row in rows]
        return [rule.before(self._tokenizer(), row) for row in kept] if rule else kept

    def _rows(
        self,
        decoder: decoding.Decoder,
        prompts: list[list[int]],
        max_new_tokens: int | None,
        rng: Any,
        ends: list[int],
        rule: StopText,
        options: dict[str, Any],
    ) -> list[list[int]]:
        """The new ids of each prompt, those that ended it included."""
        ended, rows = self._ended(ends, rule), [list[int]() for _ in prompts]
        chosen = self._options(**options)
        for tokens in decoding.generate(decoder, prompts, max_new_tokens=max_new_tokens, stop=ended, rng=rng, **chosen):
            for row, token in zip(rows, tokens, strict=True):
                row.extend([] if token is None else [token])
        return rows

    def _ended(self, ends: list[int], rule: StopText) -> decoding.Stop:
        """The stop rule of `refimpl.decoding`: one of the stop tokens, or a stop text in the text of the new ids."""
        if not rule:
            return ends
        tokenizer = self._tokenizer()
        return lambda ids: ids[-1] in ends or rule.stops(tokenizer, ids)

    def beam_search(
        self,
        prompt: str,
        *,
        beams: int = 4,
        max_new_tokens: int | None = None,
        length_penalty: float = 1.0,
        stop: Iterable[int] | None = None,
        stop_text: str | Iterable[str] | None = None,
        early_stopping: bool = False,
    ) -> list[decoding.Hypothesis]:
        """The `beams` best continuations by `refimpl.decoding.beam_search`, best first, as token ids and scores.

        A hypothesis is complete with a stop token, or with the token that completes a stop text; either is among its ids, and counted in its score.
        `hypothesis_text` gives the text before it.
        """
        return decoding.beam_search(
            self._decoder(),
            self.prompt_ids(prompt),
            beams=beams,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            stop=self._ended(self._stop(stop), StopText(stop_text)),
            early_stopping=early_stopping,
        )

    def hypothesis_text(
        self,
        hypothesis: decoding.Hypothesis,
        *,
        stop: Iterable[int] | None = None,
        stop_text: str | Iterable[str] | None = None,
    ) -> Continuation:
        """The text of a hypothesis that `beam_search` found with the same `stop` and `stop_text`, and what ended it."""
        return _continuation(hypothesis.ids, self._stop(stop), StopText(stop_text), self._tokenizer())

    def score(self, text: str, *, end: bool = False) -> Score:
        """Score(Σ -log p(tokenᵢ | tokens before)) of a text, every token but the first (all, if the model has a start token).

        Texts longer than the position table are read in windows that overlap by half, so that every scored token but those of the
        first window sees at least half a table of context.

        Parameters
        ----------
        text : text of at least one scored token
        end : whether the end token is scored too

        Raises
        ------
        TextError, TokenizerError
            if nothing is left to score, there is no end token to score, or there is no tokenizer.
        """
        ids = self._scorable(text, end)
        values = [
            value for window, first in _windows(ids, self.config.n_positions) for value in self._scored(window, first)
        ]
        unknown = self.unknown_id
        return Score(len(values), sum(identity == unknown for identity in ids[1:]), -math.fsum(values), values)

    def windows(self, text: str, *, end: bool = False) -> list[tuple[list[int], int]]:
        """Token ids of a text in the windows that `score` reads, and the index in each from which tokens are scored. Errors as `score`."""
        return _windows(self._scorable(text, end), self.config.n_positions)

    def _scorable(self, text: str, end: bool) -> list[int]:
        """The ids of a text, all but the first to be scored."""
        ids = self.prompt_ids(text)
        if end and self.config.eos_token_id is None:
            raise TextError(
                "the model has no end token to score",
                where="Model.score(end=True)",
                expected="eos_token_id in config.json",
            )
        if end:
            ids = [*ids, *self._stop(None)]
        if len(ids) < 2:
            raise TextError("the text is too short to score", expected="at least two tokens", got=len(ids))
        return ids

    def _scored(self, window: list[int], first: int) -> list[float]:
        """log p of window[first:], each given what precedes it in the window."""
        logits = self.logits([window[:-1]])
        xp = namespace(logits)
        probabilities = log_softmax(logits[0, first - 1 :, :])
        targets = xp.asarray(window[first:], device=device_of(logits))
        picked = xp.take_along_axis(probabilities, targets[:, None], axis=-1)
        return [float(value) for value in self.backend.to_numpy(picked)[:, 0]]


def _check_one_arithmetic(low_memory: bool, arithmetic: str | Arithmetic | None, where: str) -> None:
    if low_memory and arithmetic is not None:
        remedy = "load without low_memory"
        raise ConfigError("low memory has one arithmetic", where=where, got=arithmetic, remedy=remedy)


def _continuation(ids: list[int], ends: list[int], rule: StopText, tokenizer: Tokenizer) -> Continuation:
    """The text of new ids up to the stop text, or the stop token, which may be the last of them."""
    by_token = bool(ids) and ids[-1] in ends
    kept = ids[:-1] if by_token else ids
    text, by_text = rule.cut(tokenizer.decode(kept))
    return Continuation(text, kept, "text" if by_text else "token" if by_token else "length")


@dataclasses.dataclass(frozen=True)
class PlainDecoder:
    """A decoder in some `Arithmetic`, whose logits are handed on as plain arrays: choosing tokens is no part of the network."""

    decoder: decoding.Decoder

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self.decoder.context

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, Any]:
        """Read left-padded prompts (batch, length); the plain logits of each row's next token, and the state."""
        logits, state = self.decoder.start(token_ids, mask)
        return plain(logits), state

    def advance(self, token_ids: Any, cache: Any) -> tuple[Array, Any]:
        """Read one more token a row (batch, 1); the plain logits of the next, and the state."""
        logits, state = self.decoder.advance(token_ids, cache)
        return plain(logits), state

    def read(self, token_ids: Any, cache: Any, mask: Any = None) -> tuple[Array, Any]:
        """Read more tokens a row (batch, n), padding where the mask is false; the plain logits after each, and the state."""
        logits, state = self.decoder.read(token_ids, cache, mask)  # type: ignore[attr-defined]
        return plain(logits), state

    def select(self, cache: Any, rows: list[int]) -> Any:
        """The state of the given rows."""
        return self.decoder.select(cache, rows)


def _windows(ids: list[int], size: int) -> list[tuple[list[int], int]]:
    """Windows of at most size + 1 ids (the last one is only a target), and the index in each from which tokens are scored."""
    if len(ids) <= size + 1:
        return [(ids, 1)]
    windows, scored = [(ids[: size + 1], 1)], size + 1
    while scored < len(ids):
        end = min(scored + size - size // 2, len(ids))
        begin = max(0, end - size - 1)
        windows.append((ids[begin:end], scored - begin))
        scored = end
    return windows


def _resolve(path: str | Path) -> tuple[Path, Path]:
    """The folder of a model, and what of it `weights_io.open` is to open."""
    from weights_io import megatron

    if str(path) in EMBEDDED:
        return EMBEDDED[str(path)], EMBEDDED[str(path)]
    given = Path(path)
    if given.is_dir():
        return given, given
    if (
        not given.exists() and not given.with_name(f"{given.name}.index").exists()
    ):  # the prefix of a TensorFlow checkpoint
        raise ConfigError(
            "no such model",
            where="refimpl.load(path)",
            expected=f"a folder, a file, or the name of an embedded model ({', '.join(EMBEDDED)})",
            got=str(path),
        )
    return given.parent, given.parent if megatron.FILE.fullmatch(given.name) else given  # one shard: all of them


def _check_choices(dtype: str | None, architecture: str | None) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError("unknown dtype", where="refimpl.load(dtype=...)", expected=", ".join(DTYPES), got=repr(dtype))
    if architecture not in (None, *BUILT):
        raise NotBuiltYetError(
            "this architecture is not read yet",
            where="refimpl.load(architecture=...)",
            expected=", ".join(BUILT),
            got=architecture,
        )


def _residual_choice(asked: bool | str | None) -> str | None:
    """The word of `bert.BertConfig.residual_attention`: "sum" for true, "none" for false; None stays."""
    chosen = {True: "sum", False: "none"}[asked] if isinstance(asked, bool) else asked
    if chosen is not None and chosen not in bert.RESIDUALS:
        expected = f"{', '.join(bert.RESIDUALS)}; True for sum, False for none"
        where = "refimpl.load(residual_attention=...)"
        raise ConfigError("unknown residual attention", where=where, expected=expected, got=repr(asked))
    return chosen


def _scheme(checkpoint: Checkpoint, architecture: str | None) -> Scheme:
    """The naming scheme of a checkpoint; NotBuiltYetError for an architecture that is only read and converted."""
    from weights_io.schemes import SCHEMES, detect

    candidates = [scheme for scheme in SCHEMES.values() if architecture in (None, scheme.architecture)]
    scheme = detect(checkpoint, candidates)
    if scheme.architecture not in BUILT:
        raise NotBuiltYetError(
            f"the weights can be opened and converted, but the model {scheme.architecture} is not built yet",
            where=checkpoint,
            expected="a GPT-2, BERT or NEZHA",
            got=f"the names of {scheme.name}",
            remedy="use weights_io.open, weights_io.schemes.to_canonical or `refimpl weights convert`",
        )
    return scheme


def _config(
    folder: Path, ours: Checkpoint, scheme: Scheme, heads: int | None, dialect: str | gpt2.Dialect | None
) -> gpt2.GPT2Config:
    """The configuration in the folder; without one, what the weights show."""
    from weights_io.schemes import config as configurations

    if heads is not None and not is_positive(heads):
        raise ConfigError("heads must be a whole number from 1", where="refimpl.load(heads=...)", got=repr(heads))
    path = folder / "config.json"
    if not path.exists():
        shapes = {name: ours.info(name).shape for name in ours}
        return configurations.gpt2_from_shapes(shapes, scheme, heads, folder, dialect)
    config = configurations.read_gpt2(path)
    if heads not in (None, config.n_head):
        raise ConfigError(
            "config.json gives another number of heads",
            where="refimpl.load(heads=...)",
            expected=f"{config.n_head}, as in {path}",
            got=heads,
        )
    return config


def _dialect(
    asked: str | gpt2.Dialect | None, scheme: Scheme, config: gpt2.GPT2Config, folder: Path
) -> str | gpt2.Dialect:
    """The dialect asked for, or the scheme's; bert4keras's where config.json is its own, and there with the GELU that it names."""
    from weights_io.schemes import config as configurations

    path = folder / "config.json"
    keras = path.exists() and configurations.is_bert4keras(path)
    chosen = asked if asked is not None else "bert4keras" if keras else scheme.dialect
    if chosen == "bert4keras" and keras and config.activation == "tanh":
        return dataclasses.replace(gpt2.named_dialect("bert4keras"), activation="tanh")
    return chosen


def _of_cpm(config: gpt2.GPT2Config, tokenizer: Tokenizer | None, rows: int) -> gpt2.GPT2Config:
    """The configuration of a model that reads text as CPM-LM does: no start token, and <eod> ends a document unless another token does.

    Its embedding must have a row for every id: as many, or as many as Megatron makes of them, which rounds up to a multiple of 128 for each rank.
    With another tokenizer, or none, the configuration is as it was.
    """
    if not isinstance(tokenizer, CPMTokenizer):
        return config
    if rows != tokenizer.size and not any(rows == -(-tokenizer.size // step) * step for step in MEGATRON_MULTIPLES):
        raise ConfigError(
            "the vocabulary does not match the embedding",
            where=tokenizer.path,
            expected=f"{rows} pieces, one for each row of the token embedding",
            got=f"{tokenizer.size} pieces",
            remedy="put the vocabulary file of this very model in its place, or none to use token ids alone",
        )
    end = config.eos_token_id
    end = end if end is not None and 0 <= end < rows else tokenizer.end_id
    return dataclasses.replace(config, bos_token_id=None, eos_token_id=end)


def _is_real(dtype: Any) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)  # the second: bfloat16 and float8


def _array(ours: Checkpoint, name: str, dtype: str) -> tuple[Any, bool]:
    """One parameter, rounded to `dtype` once, in the memory order of its file, and whether it is finite; what does not fit becomes infinite."""
    info = ours.info(name)
    if not _is_real(info.dtype):
        raise ConfigError("a parameter must hold floating-point numbers", where=f"{info.file}, {name}", got=info.dtype)
    out = np.empty(info.shape, dtype, order="F" if info.layout == "strided" else "C")
    finite: list[bool] = []
    ours.read_into(name, out, lambda place, array: finite.append(convert(array, place)))
    return out, all(finite)


def _kept(ours: Checkpoint, name: str, dtype: str) -> tuple[Any, bool]:
    """One float16 parameter where it is, mapped from its file; of shards, whose tensors lie in parts, joined. And whether it is finite."""
    info = ours.info(name)
    if info.dtype != np.float16:
        raise ConfigError(
            "low memory is for float16 files",
            where=f"{info.file}, {name}",
            expected=np.dtype(np.float16),
            got=info.dtype,
            remedy="write one with `refimpl weights convert --dtype float16`, or load without low_memory",
        )
    if ours.metadata.get("ranks", 1) > 1:  # all of them: one array that is mapped keeps its whole file in memory
        return _array(ours, name, dtype)
    array = ours[name]
    return array, is_finite(array)


def _arrays(
    checkpoint: Checkpoint,
    ours: Checkpoint,
    explanation: Explanation,
    wanted: Mapping[str, tuple[int, ...]],
    dtype: str,
    made: Any,
    read: Callable[[Checkpoint, str, str], tuple[Any, bool]] = _array,
) -> _Found:
    """The parameters, each read by `read` and put through `made`; of what has no place only the shape is looked at."""
    for name, theirs in explanation.clashes.items():
        raise ConfigError("two tensors claim one parameter", where=name, got=", ".join(theirs))
    source = {name: ", ".join(piece.name for piece in pieces) for name, pieces in explanation.pieces.items()}
    fitting = [name for name in ours if ours.info(name).shape == wanted.get(name)]
    others = [name for name in ours if name not in fitting and (name in wanted or name != "output_embedding")]
    arrays, finite = {name: _outline(ours.info(name), dtype) for name in others}, set()
    for name, (array, good) in _together(lambda name: read(ours, name, dtype), fitting):
        arrays[name] = made(array)
        finite |= {name} if good else set()
    strangers = {name: _outline(checkpoint.info(name), dtype) for name in explanation.unexplained}
    return _Found(arrays | strangers, source | {name: name for name in strangers}, finite)


def _together(function: Callable[[str], Any], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each name and the function's value, in order; so many at a time as products have threads, and at most `AHEAD` wait."""
    threads = blas_threads() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[str, Future[Any]]] = deque()
        for name in names:
            waiting.append((name, pool.submit(function, name)))
            if len(waiting) > AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        for name, result in waiting:
            yield name, result.result()


class _Found(NamedTuple):
    """What was read."""

    arrays: dict[str, Any]  # the parameters by name
    source: dict[str, str]  # what the file calls each
    finite: set[str]  # those that were found to be


def _weights(
    checkpoint: Checkpoint,
    ours: Checkpoint,
    explanation: Explanation,
    config: gpt2.GPT2Config,
    dtype: str,
    made: Any,
    low_memory: bool,
) -> gpt2.GPT2Weights:
    """The parameters of a GPT-2 in place."""
    read = _kept if low_memory else _array
    found = _arrays(checkpoint, ours, explanation, gpt2.GPT2Weights.shapes(config), dtype, made, read)
    _check_tied(ours, found.source, config)
    return gpt2.GPT2Weights.from_named(found.arrays, config, source=found.source, finite=found.finite)


def _encoder_weights(
    checkpoint: Checkpoint, ours: Checkpoint, explanation: Explanation, config: bert.BertConfig, dtype: str, made: Any
) -> bert.BertWeights:
    """The parameters of a BERT or NEZHA in place, with the heads that the file has; a head equal to the token embedding is tied to it."""
    from weights_io.schemes.scheme import same_bits

    groups = {name.split(".")[0] for name in ours}
    if {"output_embedding", "token_embedding"} <= groups and same_bits(
        ours["output_embedding"], ours["token_embedding"]
    ):
        groups -= {"output_embedding"}
    wanted = bert.BertWeights.shapes(config, groups)
    found = _arrays(checkpoint, ours, explanation, wanted, dtype, made)
    return bert.BertWeights.from_named(found.arrays, config, source=found.source)


def _outline(info: TensorInfo, dtype: str) -> Any:  # -> zeros of that shape, which take no memory
    return np.broadcast_to(np.zeros((), dtype), info.shape)


def _check_tied(ours: Checkpoint, source: dict[str, str], config: gpt2.GPT2Config) -> None:
    """A head that the configuration says is tied is not in the file, or is the token embedding bit for bit."""
    from weights_io.schemes.scheme import same_bits

    if not config.tie_word_embeddings or "output_embedding" not in ours or "token_embedding" not in ours:
        return
    head, table = ours["output_embedding"], ours["token_embedding"]
    if not same_bits(head, table):
        theirs = source["output_embedding"]
        raise ConfigError(
            "the configuration says the head is tied, the file says otherwise",
            where=ours.info("output_embedding").file,
            expected=f"no {theirs}, or one equal to the token embedding",
            got=f"{theirs} {head.shape} that differs",
            remedy='set "tie_word_embeddings": false in config.json',
        )


def _defaults(folder: Path) -> dict[str, Any]:
    from weights_io.schemes.config import read_object

    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    fields = read_object(path)
    if not fields.get("do_sample", False):
        return {}
    return {name: fields[name] for name in ("temperature", "top_k", "top_p") if fields.get(name) is not None}


def load(
    path: str | Path,
    *,
    backend: str = "auto",
    dtype: str | None = None,
    architecture: str | None = None,
    dialect: str | gpt2.Dialect | bert.Dialect | None = None,
    positions: int | None = None,
    heads: int | None = None,
    residual_attention: bool | str | None = None,
    arithmetic: str | Arithmetic | None = None,
    low_memory: bool = False,
) -> Model:
    """Open a model: an embedded one by its name ("tang"), or a GPT-2, BERT, RoBERTa or NEZHA in any format, under any names that are known.

    Parameters
    ----------
    path : name; or a folder, file, shard index, prefix of a TensorFlow checkpoint, or one of CPM's shards, which opens all of them
    backend : "numpy", "cupy" or "auto" (see `refimpl.backend.get`)
    dtype : "float16", "float32", "float64", in which weights are kept and computed with; None is "float32"
    architecture : "gpt2", "bert", "nezha" or None, which infers it
    dialect : "openai", "cpm", "bert4keras" or a `gpt2.Dialect`; None is that of the naming scheme: "cpm" for Megatron's names, "bert4keras" for
        TensorFlow's and for any names beside a config.json of bert4keras, otherwise "openai". Of an encoder: "huggingface", "bert4keras",
        "bert4keras-0.9" or a `bert.Dialect`; None is "bert4keras" for TensorFlow's names, otherwise "huggingface"
    positions : int, how many positions the model is to have: a learned table of n is extended hierarchically (`refimpl.positions.extend`),
        up to n²; None leaves it
    heads : attention heads, for weights without a config.json whose width is not that of a released model
    residual_attention : of an encoder that was trained as RealFormer, which weights do not show: "sum" (or true), "mean" for the running mean,
        "none" (or false), as in `bert.BertConfig`; None: what config.json says (residual_attention_scores, as bert4keras calls it), otherwise none.
        The dialect "bert4keras" adds the previous layer's scores alone
    arithmetic : "mitchell", "mitchell-centred", "mitchell-corrected", "mitchell-refined", "exact" or an `Arithmetic`: how the network's products
        are made; None: by the array library
    low_memory : of a GPT-2 whose file has float16 parameters, on NumPy: keep them as they are, mapped from the file where it has them whole, and
        widen them to float32 a panel at a time wherever they are used (`refimpl.inference.gpt2`): half the memory, slower decoding. A file with
        other parameters is refused, not rounded. A file that is mapped must stay as it is for as long as the model is used

    Returns
    -------
    Model; of an encoder, a `refimpl.encoder.Encoder`

    Raises
    ------
    ConfigError, weights_io.WeightsError, TokenizerError, BackendError
        for a model that is not there or does not fit its configuration: every missing, extra, misshaped and non-finite tensor is listed; for
        residual attention in a GPT-2, or against config.json.
    """
    import weights_io
    from refimpl.text import open_tokenizer, simplify
    from weights_io.schemes import explain
    from weights_io.schemes.scheme import canonical_view

    _check_choices(dtype, architecture)
    numbers = None if arithmetic is None else named_arithmetic(arithmetic)
    residual = _residual_choice(residual_attention)
    folder, opened = _resolve(path)
    chosen = backends.get("numpy" if low_memory and backend == "auto" else backend)
    if low_memory:
        _check_low_memory(chosen, dtype, numbers)
    with weights_io.open(opened) as checkpoint:
        scheme = _scheme(checkpoint, architecture)
        explanation = explain(checkpoint, scheme)
        ours = canonical_view(checkpoint, explanation)
        if scheme.architecture != "gpt2":
            if low_memory:
                expected, got = "a GPT-2", f"the names of {scheme.name}"
                raise ConfigError("no low memory", where="refimpl.load(low_memory=True)", expected=expected, got=got)
            found = _encoder(checkpoint, ours, explanation, scheme, folder, chosen, dtype, dialect, positions, residual)
            return found.with_arithmetic(numbers)
        if residual not in (None, "none"):
            raise ConfigError(
                "a GPT-2 has no residual attention",
                where="refimpl.load(residual_attention=...)",
                expected="a BERT, RoBERTa or NEZHA, or no such argument",
                got=f"{residual_attention!r} for the names of {scheme.name}",
            )
        convention: Any = dialect
        gpt2.named_dialect(convention or "openai")
        config = _config(folder, ours, scheme, heads, convention)
        tokenizer = open_tokenizer(folder, simplify if str(path) in EMBEDDED else None)
        rows = ours.info("token_embedding").shape[0] if "token_embedding" in ours else config.vocab_size
        config = _of_cpm(config, tokenizer, rows)
        kind = "float16" if low_memory else dtype or "float32"
        weights = _weights(checkpoint, ours, explanation, config, kind, chosen.asarray, low_memory)
    if positions is not None:
        if low_memory:  # what is made of the table is not rounded to float16
            weights = weights._replace(position_embedding=weights.position_embedding.astype(np.float32))
        weights = extend(weights, to=positions)
        config = dataclasses.replace(config, n_positions=positions)
    meant = _dialect(convention, scheme, config, folder)
    fast = chosen.name == "numpy" and (low_memory or kind != "float16")
    return Model(
        weights,
        config,
        chosen,
        tokenizer,
        dialect=meant,
        defaults=_defaults(folder),
        arithmetic=numbers,
        make_decoder=Session if fast else None,
        low_memory=low_memory,
    )


def _check_low_memory(backend: backends.Backend, dtype: str | None, arithmetic: Arithmetic | None) -> None:
    """Raise ConfigError for what low memory does not go with."""
    asked = {
        "backend": backend.name != "numpy",
        "dtype": dtype not in (None, "float32"),
        "arithmetic": arithmetic is not None,
    }
    for name, wrong in asked.items():
        if wrong:
            raise ConfigError(
                "low memory has float16 weights on NumPy, and computes in float32",
                where=f"refimpl.load({name}=..., low_memory=True)",
                expected="the backend numpy, the dtype float32, no arithmetic",
                got={"backend": backend.name, "dtype": dtype, "arithmetic": str(arithmetic)}[name],
            )


def _encoder(
    checkpoint: Checkpoint,
    ours: Checkpoint,
    explanation: Explanation,
    scheme: Scheme,
    folder: Path,
    backend: backends.Backend,
    dtype: str | None,
    dialect: Any,
    positions: int | None,
    residual_attention: str | None,
) -> Model:
    """A BERT, RoBERTa or NEZHA: config.json must be there, since the number of heads does not show in weights."""
    from refimpl.encoder import Encoder
    from refimpl.text import open_tokenizer
    from weights_io.schemes.bert_config import bert_config

    default = "bert4keras" if scheme.dialect == "bert4keras" else "huggingface"
    bert.named_dialect(dialect or default)
    shapes = {name: ours.info(name).shape for name in ours}
    config = bert_config(folder / "config.json", shapes, scheme, residual_attention)
    weights = _encoder_weights(checkpoint, ours, explanation, config, dtype or "float32", backend.asarray)
    if positions is not None:
        weights = extend(weights, to=positions, offset=config.position_offset)
        config = dataclasses.replace(config, max_position_embeddings=positions + config.position_offset)
    tokenizer = open_tokenizer(folder, None)
    return Encoder(weights, config, backend, tokenizer, dialect=dialect or default, folder=folder)
