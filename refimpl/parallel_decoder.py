"""Decoding on many ranks: rank 0 decides, the others compute along.

Rank 0 runs `refimpl.decoding` (greedy, sampling, beam search, scores) as on one machine, with a `Leader` for its decoder. Before it reads tokens, it
sends an `Order` of a few whole numbers to the other ranks, which `follow`: they do the same step on their shares, and meet in its sums.

That one rank draws and the others are told is a choice. All could draw the same numbers from the same seed, since all have the same logits; but
only if all have the same processor and libraries. Where one differs in the last bit of an exponential, its text parts from the others', and the
ranks wait for each other for ever. Told what to read, they cannot part, whatever their hardware, and need no tokenizer. It costs one message of
some bytes a token, beside two sums a block.

States are values, as `decoding.Decoder` wants them (beam search goes back to one several times): each has a number, under which the other ranks
keep their caches; when rank 0 drops it, the next order says so.
"""

from __future__ import annotations

import itertools
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl import gpt2, parallel
from refimpl.inputs import check_mask, check_selected, check_token_ids
from refimpl.parallel_communicators import RankLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from refimpl.gpt2 import Dialect, GPT2Config, GPT2Weights, KeyValueCache
    from refimpl.number_system import Array
    from refimpl.parallel import Communicator

__all__ = ["Leader", "Order", "Share", "State", "follow"]


@dataclass(frozen=True)
class Share:
    """What a rank has: its part of the weights, the sizes of the whole model, and the way to the other ranks."""

    weights: GPT2Weights
    config: GPT2Config
    communicator: Communicator
    dialect: str | Dialect = "openai"


class Order(NamedTuple):
    """One step, as rank 0 tells it to the others: whole numbers and lists of them."""

    step: Literal["read", "select"]
    number: int | None  # of the state that it makes; None: it is not kept
    before: int | None  # the number of the state that it goes on from
    rows: list[Any]  # token ids (batch, length); for "select", which rows
    mask: list[list[bool]] | None
    last: bool  # whether only the last position's logits are made
    dropped: list[int]  # states that are not needed any more


@dataclass(frozen=True)
class State:
    """What has been read, as rank 0 holds it."""

    cache: KeyValueCache
    number: int


def _lists(array: Array, kind: type) -> list[list[Any]]:  # (batch, length)
    return [[kind(array[b, t]) for t in range(array.shape[1])] for b in range(array.shape[0])]


def _computed(share: Share, order: Order, cache: KeyValueCache | None) -> tuple[Any, KeyValueCache]:
    """The logits that an order asks for (None for "select"), and the cache after it: what every rank does with its share."""
    if order.step == "select":
        decoder = gpt2.CachedDecoder(share.weights, share.config)  # a rank's cache is selected as a whole one is
        return None, decoder.select(cache, order.rows)  # type: ignore[arg-type]
    return parallel.forward(
        share.weights,
        share.config,
        share.communicator,
        order.rows,
        mask=order.mask,
        cache=cache,
        dialect=share.dialect,
        last=order.last,
    )


class Leader:
    """Rank 0's `decoding.Decoder`: every step is made together with the ranks that `follow`.

    Attributes
    ----------
    share : rank 0's
    idle : whether the other ranks wait for an order; false during a step, and after one that failed half-way: then only ending the job ends them
    stopped : whether they have been let go
    """

    def __init__(self, share: Share) -> None:
        self.share, self.idle, self.stopped = share, True, False
        self._numbers = itertools.count()
        self._dropped: list[int] = []

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self.share.config.n_positions

    def logits(self, token_ids: Any, mask: Any = None) -> Array:  # int (batch, length) -> (batch, length, vocab)
        """`parallel.logits` of all ranks."""
        return self._read(token_ids, mask, None, last=False, keep=False)[0]

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, State]:  # -> (batch, vocab), state
        """Read left-padded prompts (batch, length); the logits of each row's next token."""
        real = gpt2.check_left_padded(token_ids, mask, self.share.config, self.share.weights.token_embedding)
        scores, state = self._read(token_ids, real, None)
        return scores[:, -1, :], state

    def advance(self, token_ids: Any, cache: State) -> tuple[Array, State]:  # int (batch, 1)
        """Read one more token a row (batch, 1); the logits of the next."""
        scores, state = self._read(token_ids, None, cache)
        return scores[:, -1, :], state

    def read(self, token_ids: Any, cache: State, mask: Any = None) -> tuple[Array, State]:
        """Read n more tokens a row (batch, n), padding where the mask (batch, n) is false; the logits after each, (batch, n, vocab)."""
        return self._read(token_ids, mask, cache, last=False)

    def select(self, cache: State, rows: list[int]) -> State:
        """The state of the given rows; TokenError for one that there is not."""
        kept = check_selected(rows, cache.cache.allowed.shape[0])
        order = self._order("select", cache.number, kept, None)
        return self._done(order, cache)[1]

    def stop(self) -> None:
        """Let the other ranks go; nothing can be read any more. Does nothing where they do not wait for an order."""
        if self.idle:
            self.idle = False
            self.share.communicator.broadcast(None)
            self.stopped = True

    def _order(
        self, step: Literal["read", "select"], before: int | None, rows: list[Any], mask: Any, last: bool = True
    ) -> Order:
        dropped = [
            self._dropped.pop() for _ in range(len(self._dropped))
        ]  # the list stays the one that states report to
        return Order(step, next(self._numbers), before, rows, mask, last, dropped)

    def _read(
        self, token_ids: Any, mask: Any, state: State | None, *, last: bool = True, keep: bool = True
    ) -> tuple[Array, State]:
        """Refuse what cannot be read before anybody is told of it; then have it read."""
        share, cache = self.share, None if state is None else state.cache
        ids = check_token_ids(token_ids, share.config.vocab_size, share.weights.token_embedding)
        gpt2.reading(share.weights, share.config, ids, None, mask, cache, share.dialect)
        listed = None if mask is None else _lists(check_mask(mask, ids), bool)
        order = self._order("read", None if state is None else state.number, _lists(ids, int), listed, last)
        return self._done(order if keep else order._replace(number=None), state)

    def _done(self, order: Order, state: State | None) -> tuple[Array, State]:
        with self._told(order):
            scores, cache = _computed(self.share, order, None if state is None else state.cache)
        made = State(cache, -1 if order.number is None else order.number)
        if order.number is not None:
            weakref.finalize(made, self._dropped.append, order.number).atexit = False
        return scores, made

    @contextmanager
    def _told(self, order: Order) -> Iterator[None]:
        """Send an order, and compute along; an error on the way leaves the other ranks in the middle of it.

        Raises RankLostError where they would never receive it.
        """
        if not self.idle:
            raise RankLostError(
                "the other ranks do not wait for an order",
                where="Leader",
                expected="a model that is open, whose last step was finished, and one thread that uses it",
                got="a model that was closed" if self.stopped else "a step that failed half-way, or is not finished",
                remedy="read all that is wanted before the model is closed; after an error on the way, end the job",
            )
        self.idle = False
        self.share.communicator.broadcast(order)
        yield
        self.idle = True


def follow(share: Share) -> int:
    """Compute along with rank 0's `Leader` until it stops; the largest number of caches that were kept at a time."""
    caches: dict[int, KeyValueCache] = {}
    most = 0
    while (order := share.communicator.broadcast(None)) is not None:
        for number in order.dropped:
            del caches[number]
        before = None if order.before is None else caches[order.before]
        _, cache = _computed(share, order, before)
        if order.number is not None:
            caches[order.number] = cache
        most = max(most, len(caches))
    return most
