"""What a model needs when it is cut over R ranks: memory, what is read and what is exchanged for a token, and the time that takes at least.

    weights of a rank   Σ over the parameters of the numbers in its part (`parallel.shapes`)
    cache of a rank     2 L b n d/R
    read for a token    the weights but the position table (and the token table where the head is not tied to it), and the cache: all of it, once
    received            2 L + 1 sums of b d numbers, one of them the embedding's, and R - 1 parts of b ⌈vocab/R⌉ logits

A sum that is gathered brings (R - 1) b d numbers in one exchange, one made in parts 2 (R - 1)/R b d in two (`parallel_communicators`). A block's
sums of 16-bit floats are made in float32, so that each of their numbers is 4 bytes at least; the embedding's, in which nothing is rounded, keeps
its dtype.

    seconds a token >= read/(bandwidth of the memory) + exchanges · latency + received/(bandwidth of the link)

is a bound from below: nothing overlaps here, since a sum needs the product before it and the next product needs the sum; and products are taken to
cost nothing but reading their matrix, which holds for a few rows at a time.

Reference: M. Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3; the arithmetic is this project's, and its counts of sums and of numbers
are held against a communicator that counts (tests/test_parallel.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from refimpl import parallel
from refimpl.errors import ConfigError
from refimpl.gpt2 import GPT2Config
from refimpl.parallel_communicators import is_gathered

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LINKS", "MODELS", "Link", "Plan", "plan", "table"]


class Link(NamedTuple):
    """What lies between two ranks."""

    name: str
    bandwidth: float  # bytes/s that a rank receives
    latency: float  # seconds an exchange takes, however little is exchanged


# nominal, or the order of magnitude where nothing is promised (latencies): for arithmetic, not measured here
LINKS: dict[str, Link] = {
    "ethernet": Link("10 Gb/s Ethernet", 1.25e9, 50e-6),
    "infiniband": Link("200 Gb/s InfiniBand", 25e9, 5e-6),
    "nvlink": Link("NVLink 3, 300 GB/s each way", 300e9, 10e-6),
}

MODELS: dict[str, GPT2Config] = {
    "2.6B": GPT2Config(30000, 1024, 2560, 32, 32),  # CPM-LM: arXiv 2012.00413, table 2
    "20B": GPT2Config(30000, 2048, 6144, 44, 64),  # assumed: depth, width and heads of GPT-NeoX-20B, arXiv 2204.06745
    "100B": GPT2Config(
        30000, 2048, 12288, 56, 96
    ),  # assumed: width and heads of GPT-3, arXiv 2005.14165, on 56 of its 96 layers
}


class Plan(NamedTuple):
    """What one rank of a job needs, for one step of `batch` sequences that are `length` tokens long."""

    parameters: int  # of the whole model
    held: int  # numbers that the rank holds of it
    weights: int  # bytes of these
    cache: int  # bytes of keys and values
    read: int  # bytes that a step reads
    sums: int  # sums over the ranks in a step
    exchanges: int  # in a step, those of the sums and of the logits
    received: int  # bytes in a step

    def seconds(self, memory: float, link: Link) -> float:
        """The least time of a step, where `memory` is the bandwidth of the memory in bytes/s."""
        return self.read / memory + self.exchange_seconds(link)

    def exchange_seconds(self, link: Link) -> float:
        """The part of a step in which ranks exchange."""
        return self.exchanges * link.latency + self.received / link.bandwidth


def plan(config: GPT2Config, ranks: int, *, itemsize: int = 2, batch: int = 1, length: int | None = None) -> Plan:
    """What each of `ranks` ranks needs of a model, and a step of decoding.

    Parameters
    ----------
    config : the sizes
    ranks : how many; it must divide the model
    itemsize : bytes of a number: 2, 4 or 8
    batch : sequences
    length : tokens in the cache of each; None: as many as there are positions

    Raises
    ------
    ConfigError
        as `parallel.check_ranks`; for another itemsize.
    """
    parallel.check_ranks(config, ranks)
    if itemsize not in (2, 4, 8):
        raise ConfigError(
            "a number has 2, 4 or 8 bytes", where="plan(itemsize=...)", expected="2, 4 or 8", got=itemsize
        )
    whole, held = ({name: math.prod(s) for name, s in parallel.shapes(config, n).items()} for n in (1, ranks))
    idle = held["position_embedding"] + (0 if config.tie_word_embeddings else held["token_embedding"])
    tokens = config.n_positions if length is None else length
    cache = 2 * config.n_layer * batch * tokens * config.n_embd // ranks * itemsize
    layers, count, logits = 2 * config.n_layer, batch * config.n_embd, batch * -(-config.vocab_size // ranks)
    gathered = is_gathered(count, ranks)
    numbers = (ranks - 1) * count if gathered else 2 * (ranks - 1) * -(-count // ranks)
    return Plan(
        parameters=sum(whole.values()),
        held=sum(held.values()),
        weights=sum(held.values()) * itemsize,
        cache=cache,
        read=(sum(held.values()) - idle) * itemsize + cache,
        sums=layers + 1 if ranks > 1 else 0,
        exchanges=(layers + 1) * (1 if gathered else 2) + 1 if ranks > 1 else 0,
        received=numbers * (layers * max(itemsize, 4) + itemsize) + (ranks - 1) * logits * itemsize,
    )


def table(rows: Iterable[tuple[str, int, int, float, str]]) -> str:
    """A line for each (model, ranks, itemsize, memory in bytes/s, link): GB of 10⁹ bytes, exchanges and what they bring, and times a token."""
    lines = ["model ranks bits   weights/rank  cache/rank  received    sums    reading  exchange  tokens/s"]
    for name, ranks, itemsize, memory, link in rows:
        need = plan(MODELS[name], ranks, itemsize=itemsize)
        reading, exchange = need.read / memory, need.exchange_seconds(LINKS[link])
        lines.append(
            f"{name:<5} {ranks:5} {8 * itemsize:4}   {need.weights / 1e9:9.2f} GB {need.cache / 1e9:8.2f} GB "
            f"{need.received / 1e6:6.2f} MB   {need.sums:5} {1e3 * reading:7.1f} ms {1e3 * exchange:6.2f} ms "
            f"{1 / need.seconds(memory, LINKS[link]):9.1f}"
        )
    return "\n".join(lines)
