"""Turning next-token scores into text: greedy, temperature, top-k, top-p, beam search.

    p = softmax(keep(z / τ)),   keep_k(z) = {i : z_i >= the k-th largest z},   keep_p = the fewest most probable tokens whose mass reaches p

Filters apply in the order temperature, top-k, top-p, and renormalize at the end. Ties: top-k keeps every token tied with the k-th; top-p
orders ties by token id. Randomness is one uniform number per row and step, drawn on the host from a NumPy Generator and inverted through
the cumulative distribution, so that a seed gives the same text on every backend up to rounding.

Beam search scores a hypothesis of n generated tokens, the stop token counted, by  Σ log p / n^α  (α the length penalty).

References: A. Fan et al., arXiv 1805.04833 (top-k); A. Holtzman et al., arXiv 1904.09751, section 3.1 (top-p);
Y. Wu et al., arXiv 1609.08144, section 7 (length normalization; the plain power n^α is the form in common use).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from refimpl.errors import ConfigError, DtypeError, TokenError
from refimpl.number_system import Array, device_of, is_ball, namespace
from refimpl.parameters import is_positive
from refimpl.softmax import log_softmax, masked_softmax

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Decoder",
    "Hypothesis",
    "ReadOnce",
    "Stop",
    "beam_search",
    "common_prefix",
    "generate",
    "sample",
    "sampling_probabilities",
    "top_k_mask",
    "top_p_mask",
    "wide",
]

Stop = (
    Iterable[int] | Callable[[list[int]], bool]
)  # ids that end a row; or a function of its new ids, the last one just chosen


class Decoder(Protocol):
    """What decoding asks of a model. `refimpl.gpt2.CachedDecoder` is one."""

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, Any]:
        """Read left-padded prompts (batch, length); return the next token's logits (batch, vocab) and a state."""

    def advance(self, token_ids: Any, cache: Any) -> tuple[Array, Any]:
        """Read one more token a row (batch, 1); return the next token's logits and the state."""

    def select(self, cache: Any, rows: list[int]) -> Any:
        """The state of the given rows, which may repeat."""


def _check_options(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < math.inf:
        raise ConfigError(
            "temperature must not be negative, and must be finite", expected="temperature >= 0", got=repr(temperature)
        )
    if top_k is not None and not is_positive(top_k):
        raise ConfigError("top_k must be a whole number", expected="top_k >= 1, or None for no limit", got=repr(top_k))
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(
            "top_p must be a probability", expected="0 < top_p <= 1, or None for no limit", got=repr(top_p)
        )


def top_k_mask(logits: Array, k: int) -> Array:  # (..., vocab) -> bool (..., vocab)
    """keep_i = (z_i >= the k-th largest z): at least k tokens, more where ties meet the k-th.

    Raises ConfigError unless `k` is a whole number >= 1; a `k` beyond the vocabulary keeps everything.
    """
    _refuse_balls(logits)
    _check_options(1.0, k, None)
    ordered = namespace(logits).sort(logits, axis=-1, descending=True)
    position = min(int(k), logits.shape[-1]) - 1
    return logits >= ordered[..., position : position + 1]


def top_p_mask(probabilities: Array, p: float) -> Array:  # (..., vocab) -> bool (..., vocab)
    """keep_i = (the mass of all tokens ordered before i < p): the shortest prefix, by falling probability, whose mass reaches p.

    Ties are ordered by token id. At least one token is always kept. Raises ConfigError unless 0 < p <= 1.
    """
    _check_options(1.0, None, p)
    probabilities = wide(probabilities)
    xp = namespace(probabilities)
    order = xp.argsort(probabilities, axis=-1, descending=True, stable=True)
    ordered = xp.take_along_axis(probabilities, order, axis=-1)
    kept = (xp.cumulative_sum(ordered, axis=-1) - ordered < p) | (p == 1)
    first = xp.arange(kept.shape[-1], device=device_of(probabilities)) == 0
    return xp.take_along_axis(kept | first, xp.argsort(order, axis=-1, stable=True), axis=-1)


def _refuse_balls(x: Array) -> None:
    if is_ball(x):
        raise DtypeError(
            "undecided: decoding chooses between numbers, and overlapping balls have no order",
            expected="a floating dtype",
            got=x.dtype,
            remedy="decode from the midpoints, for instance validation.truth.midpoints(logits)",
        )


def _refuse_undefined(logits: Array) -> None:
    """Raise where a row of logits has NaN or +inf, or nothing but -inf: no token can be chosen from it."""
    xp = namespace(logits)
    best = xp.reshape(xp.max(logits, axis=-1), (-1,))
    undefined = ~xp.isfinite(best)
    if bool(xp.any(undefined)):
        row = int(xp.nonzero(undefined)[0][0])
        raise TokenError(
            "the next token cannot be chosen",
            where=f"logits of row {row}",
            expected="finite logits; -inf only for tokens that are ruled out",
            got=f"a largest logit of {float(best[row])}",
            remedy="check the model's weights for NaN, or compute in a wider dtype",
        )


def wide(logits: Array) -> Array:
    """The logits in float64 where the array library has it on this device, in float32 otherwise: many masses are added up."""
    _refuse_balls(logits)
    xp = namespace(logits)
    try:
        return xp.astype(logits, xp.float64)
    except (ValueError, TypeError):  # array-api-strict's device without float64
        return xp.astype(logits, xp.float32)


def sampling_probabilities(
    logits: Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Array:  # (..., vocab) -> (..., vocab)
    """p = softmax of logits/τ over the tokens that top-k, then top-p, keep; 0 elsewhere.

    Parameters
    ----------
    logits : array, (..., vocab), floating
    temperature : float > 0 (greedy decoding is the argmax, not a temperature)
    top_k, top_p : the limits of `top_k_mask` and `top_p_mask`, or None

    Returns
    -------
    array, (..., vocab), the dtype of `logits`, each row summing to one

    Raises
    ------
    ConfigError, TokenError, DtypeError
        for a temperature that is not positive, limits out of range, logits that are NaN or infinite, balls.
    """
    _check_options(temperature, top_k, top_p)
    if temperature == 0:
        raise ConfigError("temperature must be positive", expected="0 < temperature < inf", got=repr(temperature))
    dtype, logits = logits.dtype, wide(logits)
    _refuse_undefined(logits)
    scaled = logits / temperature
    mask = None if top_k is None else top_k_mask(scaled, top_k)
    if top_p is not None:
        nucleus = top_p_mask(masked_softmax(scaled, mask), top_p)
        mask = nucleus if mask is None else mask & nucleus
    return namespace(logits).astype(masked_softmax(scaled, mask), dtype)


def sample(probabilities: Array, rng: Any) -> Array:  # (batch, vocab) -> int (batch,)
    """i = the number of tokens whose cumulative mass is at most u · total, u uniform in [0, 1), one draw a row from `rng` on the host.

    Masses add up in float64 where the array library has it on this device. A token of probability zero is never drawn. Raises TokenError for
    a row whose mass is not a positive number.
    """
    xp, probabilities = namespace(probabilities), wide(probabilities)
    cumulative = xp.cumulative_sum(probabilities, axis=-1)
    if not bool(xp.all((cumulative[:, -1] > 0) & xp.isfinite(cumulative[:, -1]))):
        remedy = "a temperature this small overflows logits/temperature: use temperature=0 for greedy decoding"
        raise TokenError(
            "the probabilities have no mass", where="sample", expected="a positive sum in every row", remedy=remedy
        )
    uniform = xp.asarray(
        rng.random(probabilities.shape[0]).tolist(), dtype=cumulative.dtype, device=device_of(cumulative)
    )
    passed = xp.sum(xp.astype(cumulative <= uniform[:, None] * cumulative[:, -1:], xp.int64), axis=-1)
    ids = xp.arange(cumulative.shape[-1], device=device_of(cumulative))
    last_possible = xp.max(xp.where(probabilities > 0, ids, xp.zeros_like(ids)), axis=-1)
    return xp.minimum(passed, last_possible)


def _choose(logits: Array, temperature: float, top_k: int | None, top_p: float | None, rng: Any) -> list[int]:
    logits = wide(logits)
    _refuse_undefined(logits)
    if temperature == 0:
        chosen = namespace(logits).argmax(logits, axis=-1)
    else:
        chosen = sample(sampling_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p), rng)
    return [int(chosen[row]) for row in range(chosen.shape[0])]


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[bool]]]:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise TokenError(
            "the prompt is empty",
            where="generate(prompts)",
            expected="at least one token in every prompt",
            got=[len(prompt) for prompt in prompts],
            remedy="begin with the model's start token (bos_token_id)",
        )
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return ids, [[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts]


def _room(decoder: Decoder, longest: int, max_new_tokens: int | None) -> int:
    room = decoder.context - longest
    asked = room if max_new_tokens is None else max_new_tokens
    if asked < 1 or asked > room:
        raise TokenError(
            "the sequence runs past the position table" if asked > room or room < 1 else "nothing to generate",
            where="generate",
            expected=f"1 <= max_new_tokens <= {room} after a prompt of {longest} tokens (n_positions = {decoder.context})",
            got=asked,
            remedy="shorten the prompt, ask for fewer tokens, or extend the table hierarchically: refimpl.load(..., positions=N)",
        )
    return asked


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Stop = (),
    rng: Any = None,
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token of every prompt; None for a row that has already stopped.

    Parameters
    ----------
    decoder : the model
    prompts : one list of token ids a row, of any lengths >= 1
    max_new_tokens : int, or None for as many as the position table holds
    temperature : float >= 0; 0 is greedy: the most probable token, the lowest id among equals
    top_k, top_p : limits, or None; ignored by greedy decoding, which they do not change
    stop : token ids that end a row, or a function that says of a row's new ids whether they end it; the token that ends it is yielded
    rng : numpy.random.Generator, needed unless temperature is 0

    Raises
    ------
    TokenError, ConfigError
        for an empty prompt, too long a sequence, options out of range, a missing generator: at the call, before any token.
    """
    _check_options(temperature, top_k, top_p)
    if temperature > 0 and rng is None:
        raise ConfigError("sampling needs a random generator", expected="rng=numpy.random.default_rng(seed)", got=None)
    ids, mask = _left_padded(prompts)
    steps = _room(decoder, len(ids[0]), max_new_tokens)
    return _steps(decoder, ids, mask, steps, _ending(stop), (temperature, top_k, top_p, rng))


def _ending(stop: Stop) -> Callable[[list[int]], bool]:
    """The stop rule as a function of the new ids."""
    if callable(stop):
        return stop
    ends = frozenset(stop)
    return lambda ids: ids[-1] in ends


def _steps(
    decoder: Decoder,
    ids: list[list[int]],
    mask: list[list[bool]],
    steps: int,
    ended: Callable[[list[int]], bool],
    options: Any,
) -> Iterator[list[int | None]]:
    logits, state = decoder.start(ids, mask)
    running, rows = [True] * len(ids), [list[int]() for _ in ids]
    for remaining in range(steps - 1, -1, -1):
        chosen = _choose(logits, *options)
        yield [token if alive else None for token, alive in zip(chosen, running, strict=True)]
        for number, token in enumerate(chosen):
            rows[number].append(token)
            running[number] = running[number] and not ended(rows[number])
        if not any(running):
            return
        if remaining:
            logits, state = decoder.advance([[token] for token in chosen], state)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    shortest = min(map(len, rows))
    differing = (place for place in range(shortest) if len({row[place] for row in rows}) > 1)
    return next(differing, shortest)


@dataclass(frozen=True)
class ReadOnce:
    """A decoder that reads what prompts have in common once: equal prompts, and, where `decoder` has a method `read`, the beginning of all of them.

    `read(token_ids, state, mask)` reads more tokens a row (batch, n) after what the state holds, some of them padding where the mask is false, and
    returns logits (batch, n, vocab) and the state. A decoder whose answers depend on the row and not on the ids must not be wrapped.
    """

    decoder: Decoder

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self.decoder.context

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, Any]:
        """Read left-padded prompts, lists of ids; the logits of each row's next token, and the state."""
        real = [[True] * len(row) for row in token_ids] if mask is None else mask
        prompts = [
            tuple(t for t, r in zip(row, seen, strict=True) if r) for row, seen in zip(token_ids, real, strict=True)
        ]
        places = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        logits, state = self._different(list(places))
        rows = [places[prompt] for prompt in prompts]
        if len(places) == len(rows):
            return logits, state
        xp = namespace(logits)
        return xp.take(logits, xp.asarray(rows, device=device_of(logits)), axis=0), self.decoder.select(state, rows)

    def _different(self, prompts: list[tuple[int, ...]]) -> tuple[Array, Any]:
        """Read prompts of which no two are equal."""
        shared, read = min(common_prefix(prompts), min(map(len, prompts)) - 1), getattr(self.decoder, "read", None)
        if read is None or len(prompts) == 1 or shared < 1:
            return self.decoder.start(*_left_padded(prompts))
        _, state = self.decoder.start([list(prompts[0][:shared])])
        rest, real = _left_padded([prompt[shared:] for prompt in prompts])
        logits, state = read(rest, self.decoder.select(state, [0] * len(prompts)), real)
        return logits[:, -1, :], state

    def advance(self, token_ids: Any, cache: Any) -> tuple[Array, Any]:
        """Read one more token a row."""
        return self.decoder.advance(token_ids, cache)

    def select(self, cache: Any, rows: list[int]) -> Any:
        """The state of the given rows."""
        return self.decoder.select(cache, rows)


class Hypothesis(NamedTuple):
    """A complete hypothesis of beam search."""

    ids: list[int]  # generated; the stop token that ended it included
    score: float  # Σ log p / n^α, n = len(ids)


class _Open(NamedTuple):
    ids: list[int]
    total: float  # Σ log p
    row: int = 0  # of the hypothesis that it extends


def _extensions(log_p: Array, hypotheses: list[_Open]) -> Iterator[tuple[float, int, int]]:
    """All (total, hypothesis, token), best first, but those ruled out; equals in the order of hypothesis, then token id."""
    xp = namespace(log_p)
    totals = xp.asarray([hypothesis.total for hypothesis in hypotheses], dtype=log_p.dtype, device=device_of(log_p))
    flat = xp.reshape(log_p + totals[:, None], (-1,))
    order, vocabulary = xp.argsort(flat, descending=True, stable=True), log_p.shape[-1]
    for rank in range(flat.shape[0]):
        index = int(order[rank])
        total = float(flat[index])
        if total == -math.inf:  # what is ruled out is no extension
            return
        yield total, index // vocabulary, index % vocabulary


def _divided(
    extensions: Iterator[tuple[float, int, int]],
    alive: list[_Open],
    beams: int,
    ended: Callable[[list[int]], bool],
) -> tuple[list[_Open], list[_Open]]:
    """Those of the first `beams` extensions that end, and the first `beams` that do not."""
    ending, kept = list[_Open](), list[_Open]()
    for rank, (total, row, token) in enumerate(extensions):
        extended = _Open([*alive[row].ids, token], total, row)
        if not ended(extended.ids):
            kept.append(extended)
        elif rank < beams:
            ending.append(extended)
        if len(kept) == beams:
            break
    return ending, kept


def _check_beams(beams: int, length_penalty: float) -> None:
    if not is_positive(beams):
        raise ConfigError("beams must be a whole number", expected="beams >= 1", got=repr(beams))
    if not math.isfinite(length_penalty):
        raise ConfigError("length_penalty must be finite", expected="a number; 0 ranks by Σ log p", got=length_penalty)


def _check_power(length_penalty: float, longest: int) -> None:
    most = math.log(sys.float_info.max) / math.log(max(longest, 2))
    if abs(length_penalty) > most:
        expected = f"at most {most:.0f} either way: {longest} to the power of it must be a number"
        raise ConfigError("length_penalty is too large", expected=expected, got=length_penalty)


def beam_search(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int | None = None,
    length_penalty: float = 1.0,
    stop: Stop = (),
    early_stopping: bool = False,
) -> list[Hypothesis]:
    """Search for the sequences of the largest  Σ log p / n^α.

    Each step extends every open hypothesis by every token and ranks the extensions. Of the first `beams`, those that end (by the stop rule, or at
    the last step) are complete; the first `beams` that do not end stay open. The search stops when `beams` are complete and the best open
    total / n^α does not exceed the worst complete score (at once, with `early_stopping`). These are the rules of Hugging Face
    transformers 5, which looks at the first (1 + number of stop tokens)·beams only: among them are always as many that do not end, if there
    are so many at all. See validation/recorded/README.md.

    Parameters
    ----------
    decoder : the model
    prompt : token ids, at least one
    beams : int >= 1
    max_new_tokens : int, or None for as many as the position table holds
    length_penalty : α; larger prefers longer sequences
    stop : token ids that complete a hypothesis, or a function that says of its ids whether they complete it: of its text, say
    early_stopping : whether to stop as soon as `beams` hypotheses are complete

    Returns
    -------
    list of at most `beams` Hypothesis, best first; equals in the order they were found

    Raises
    ------
    TokenError, ConfigError
        for an empty prompt, too long a sequence, options out of range.
    """
    _check_beams(beams, length_penalty)
    ids, mask = _left_padded([prompt])
    limit, ended = _room(decoder, len(prompt), max_new_tokens), _ending(stop)
    _check_power(length_penalty, limit)
    logits, state = decoder.start(ids, mask)
    alive, complete = [_Open([], 0.0)], list[Hypothesis]()
    for n in range(1, limit + 1):
        logits = wide(logits)
        _refuse_undefined(logits)
        extensions = _extensions(log_softmax(logits), alive)
        if n == limit:
            ending, kept = _divided(itertools.islice(extensions, beams), alive, beams, lambda ids: True)
        else:
            ending, kept = _divided(extensions, alive, beams, ended)
        complete += [Hypothesis(each.ids, each.total / n**length_penalty) for each in ending]
        complete = sorted(complete, key=lambda hypothesis: -hypothesis.score)[:beams]
        enough = len(complete) == beams
        if not kept or (enough and (early_stopping or kept[0].total / n**length_penalty <= complete[-1].score)):
            break
        alive = kept
        logits, state = decoder.advance(
            [[each.ids[-1]] for each in kept], decoder.select(state, [each.row for each in kept])
        )
    return complete
