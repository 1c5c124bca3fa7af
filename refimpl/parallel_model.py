"""Opening a model on many ranks: each reads its own share, and all make sure that the shares are those of one model.

    model = refimpl.parallel_model.load("CPM", communicator)       # on every rank
    if communicator.rank:
        model.follow()                                             # until rank 0 is done
    else:
        with model:
            print(model.generate("..."))

Where the model lies as Megatron's shards of as many ranks as there are here, a rank opens its own file and no other: on machines of their own, each
needs only that. Any other checkpoint is opened by every rank, which reads its slice of each tensor. What all must have in common (sizes, dialect,
dtype, the iteration of the training, the bits of every parameter that is whole on every rank) they compare by checksums before anything is
computed.

An error of one rank is raised on all, with the words of the first rank that had one, so that no rank waits for another that has given up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from refimpl import backend as backends
from refimpl import gpt2, parallel
from refimpl import model as models
from refimpl.errors import NotBuiltYetError, RefimplError, explain
from refimpl.parallel_communicators import RankLostError
from refimpl.parallel_decoder import Leader, Share, follow
from refimpl.parameters import check_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from refimpl.gpt2 import Dialect, GPT2Config
    from refimpl.number_system import Array
    from refimpl.parallel import Communicator
    from weights_io.checkpoint import Checkpoint
    from weights_io.schemes.scheme import Explanation, Scheme

__all__ = ["ParallelModel", "RankError", "load", "together"]

Answer = TypeVar("Answer")


class RankError(RefimplError, RuntimeError):
    """What stopped a rank, in its words, raised on all of them."""

    def __init__(self, rank: int, ranks: int, text: str) -> None:
        super().__init__("")
        self.rank = rank
        self.args = (f"{text}\n  {'rank:':<9} {rank} of {ranks}",)


def together(communicator: Communicator, work: Callable[[], Answer]) -> Answer:
    """What `work` returns on this rank; RankError on every rank if it raises an error of this project on any."""
    answer, problem = None, None
    try:
        answer = work()
    except RankLostError:
        raise
    except RefimplError as error:
        problem = str(error)
    problems = communicator.exchange(problem)
    first = next((rank for rank, text in enumerate(problems) if text is not None), None)
    if first is not None:
        raise RankError(first, communicator.size, problems[first])
    return answer  # type: ignore[return-value]


class ParallelModel(models.Model):
    """A `refimpl.Model` on many ranks: rank 0 uses it as any other, the others `follow`. It ends them when it is closed.

    Attributes
    ----------
    share : this rank's
    """

    def __init__(self, share: Share, backend: backends.Backend, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(share.weights, share.config, backend, tokenizer, dialect=share.dialect, **options)
        self.share = share
        self.leader = Leader(share)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, rank {self.share.communicator.rank} of {self.share.communicator.size}>"

    def with_arithmetic(self, arithmetic: Any, kinds: Any = None) -> Self:
        """Raises NotBuiltYetError: products are the array library's own on many ranks."""
        raise NotBuiltYetError(
            "on many ranks there is no other arithmetic",
            where="with_arithmetic",
            expected="none",
            got=arithmetic,
            remedy="load it on one",
        )

    def logits(self, token_ids: Any, mask: Any = None) -> Array:  # int (batch, length) -> (batch, length, vocab)
        """The definition's logits, `refimpl.parallel.logits`, of all ranks; on rank 0 alone."""
        return self.leader.logits(token_ids, mask)

    def _decoder(self) -> Leader:
        return self.leader

    def follow(self) -> None:
        """On every rank but 0: compute along until rank 0 closes the model."""
        follow(self.share)

    def close(self) -> None:
        """On rank 0: let the other ranks go. Does nothing where they are in the middle of a step that failed."""
        self.leader.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


# --- a rank's part of a checkpoint ----------------------------------------------------------------------------------------------------


def _slices(whole: Checkpoint, rank: int, ranks: int) -> Checkpoint:
    """The parameters of which a rank has parts, cut when they are asked for; canonical names on both sides."""
    from weights_io.schemes.scheme import view

    made = {}
    for name in whole:
        info = whole.info(name)
        shape = parallel.cut_shape(name, info.shape, ranks) if info.shape else info.shape
        part = info._replace(shape=shape, nbytes=math.prod(shape) * info.dtype.itemsize)
        made[name] = part, functools.partial(_slice, whole, name, rank, ranks)
    return view(f"{whole.format}, rank {rank} of {ranks}", made, whole)


def _slice(whole: Checkpoint, name: str, rank: int, ranks: int) -> Any:
    return np.asarray(parallel.cut(name, np.asarray(whole[name]), rank, ranks))


def _opened(path: Path, communicator: Communicator) -> tuple[Checkpoint, bool]:
    """The checkpoint, and whether it is this rank's own file alone."""
    import weights_io
    from weights_io import megatron

    if communicator.size > 1 and path.is_dir() and megatron.find_shards(path):
        own = megatron.open_rank(path, communicator.rank, communicator.size)
        if own is not None:
            return own, True
    return weights_io.open(path), False


def _canonical(checkpoint: Checkpoint) -> tuple[Scheme, Explanation, Checkpoint]:
    """The scheme of a GPT-2, what it says, and the parameters by their canonical names."""
    from weights_io.schemes import explain as explain_names
    from weights_io.schemes.scheme import canonical_view

    scheme = models._scheme(checkpoint, "gpt2")
    explanation = explain_names(checkpoint, scheme)
    return scheme, explanation, canonical_view(checkpoint, explanation)


def _sizes(
    folder: Path, ours: Checkpoint, own: bool, ranks: int, scheme: Scheme, heads: int | None, dialect: Any
) -> GPT2Config:
    """The sizes of the whole model, refused if `ranks` does not divide them."""
    from weights_io.schemes.scheme import view

    if own:
        whole = {name: parallel.whole_shape(name, ours.info(name).shape, ranks) for name in ours}
        nothing = functools.partial(np.zeros, 0)
        ours = view(ours.format, {name: (ours.info(name)._replace(shape=whole[name]), nothing) for name in ours})
    config = models._config(folder, ours, scheme, heads, dialect)
    parallel.check_ranks(config, ranks)
    return config


def _share(
    path: Path,
    folder: Path,
    communicator: Communicator,
    backend: backends.Backend,
    dtype: str,
    heads: int | None,
    dialect: Any,
) -> tuple[Share, dict[str, Any]]:
    """The share of this rank, and what must be the same on all ranks, the checksum of its rows of the vocabulary excepted."""
    from weights_io.megatron import RUN

    checkpoint, own = _opened(path, communicator)
    rank, ranks = communicator.rank, communicator.size
    with checkpoint:
        scheme, explanation, ours = _canonical(checkpoint)
        config = _sizes(folder, ours, own, ranks, scheme, heads, dialect)
        mine = ours if own else _slices(ours, rank, ranks)
        wanted = parallel.shapes(config, ranks)
        arrays, source, finite = models._arrays(checkpoint, mine, explanation, wanted, dtype, lambda array: array)
        models._check_tied(mine, source, config)
        check_weights(arrays, wanted, source, finite)
        told = models._dialect(dialect, scheme, config, folder)
        facts: dict[str, Any] = {
            "configuration": repr(config),
            "dialect": repr(gpt2.named_dialect(told)),
            "dtype": dtype,
        }
        facts |= {"backend": backend.name, "from its own file": own}
        facts |= {field: checkpoint.metadata.get(field) for field in RUN} if own else {}
        facts |= _checksums(mine, arrays)
    weights = gpt2.GPT2Weights.placed({name: backend.asarray(array) for name, array in arrays.items()}, config)
    return Share(weights, config, communicator, told), facts


ROWS = "rows of the token embedding"


def _checksums(mine: Checkpoint, arrays: dict[str, Any]) -> dict[str, str]:
    """The checksum, as it lies in the file, of every parameter that is whole on every rank, and of the token embedding; "" for zeros there."""
    from weights_io.arrays import as_bytes
    from weights_io.checksum import crc32c

    def told(name: str) -> str:
        return f"{mine.info(name).dtype} {crc32c(as_bytes(np.asarray(mine[name]))):08x}"

    whole = [name for name in arrays if parallel.cut_of(name) is parallel.Cut.WHOLE]
    rows = told("token_embedding") if np.any(arrays["token_embedding"]) else ""
    return {name: told(name) for name in whole} | {ROWS: rows}


def _check_same(communicator: Communicator, facts: dict[str, Any]) -> None:
    """Raise RankError on every rank where the ranks do not hold parts of one model."""
    theirs = communicator.exchange(facts)
    for rank, other in enumerate(theirs):
        differ = [name for name in {**theirs[0], **other} if other.get(name) != theirs[0].get(name)]
        if differ:
            text = explain(
                "the ranks hold parts of different models",
                where=", ".join(differ[:8]) + (f" and {len(differ) - 8} more" if len(differ) > 8 else ""),
                expected=f"{theirs[0].get(differ[0])}, as on rank 0",
                got=other.get(differ[0]),
                remedy="put the shards of one run, and of one step, on all ranks",
            )
            raise RankError(rank, communicator.size, text)


def _check_distinct(communicator: Communicator, rows: str) -> None:
    """Raise RankError on every rank where two have the same rows of the vocabulary, so that one file lies there under two names."""
    theirs = communicator.exchange(rows)
    for rank, told in enumerate(theirs):
        if told and told in theirs[:rank]:
            text = explain(
                "two ranks hold the same rows of the token embedding",
                expected="each rank's own rows",
                got=f"ranks {theirs.index(told)} and {rank} are the same: one file twice, under two names",
                remedy="fetch each rank's own shard",
            )
            raise RankError(rank, communicator.size, text)


def load(
    path: str | Path,
    communicator: Communicator,
    *,
    backend: str | backends.Backend = "numpy",
    dtype: str | None = None,
    dialect: str | Dialect | None = None,
    heads: int | None = None,
) -> ParallelModel:
    """Open a GPT-2 on all ranks; each calls this function.

    Parameters
    ----------
    path, dtype, dialect, heads : as `refimpl.load`
    communicator : which joins the ranks
    backend : "numpy", "cupy", or a Backend whose device is this rank's

    Returns
    -------
    ParallelModel; the tokenizer is on rank 0 alone

    Raises
    ------
    RankError
        on every rank, with what the first rank that had an error raised: everything that `refimpl.load` raises; a number of ranks that does not
        divide the model; a missing shard; shards of different models.
    """
    from refimpl.text import open_tokenizer, simplify

    def prepared() -> tuple[Share, dict[str, Any], Any, Path]:
        models._check_choices(dtype, "gpt2")
        gpt2.named_dialect(dialect or "openai")
        chosen = backends.get(backend) if isinstance(backend, str) else backend
        folder, opened = models._resolve(path)
        share, facts = _share(opened, folder, communicator, chosen, dtype or "float32", heads, dialect)
        return share, facts, chosen, folder

    share, facts, chosen, folder = together(communicator, prepared)
    rows = facts.pop(ROWS)
    _check_same(communicator, facts)
    if facts["from its own file"]:
        _check_distinct(communicator, rows)
    prepare = simplify if str(path) in models.EMBEDDED else None

    def finished() -> tuple[Share, Any, dict[str, Any]]:
        if communicator.rank:
            return share, None, {}
        tokenizer = open_tokenizer(folder, prepare)
        config = models._of_cpm(share.config, tokenizer, share.config.vocab_size)
        return dataclasses.replace(share, config=config), tokenizer, models._defaults(folder)

    share, tokenizer, defaults = together(communicator, finished)
    return ParallelModel(share, chosen, tokenizer, defaults=defaults)
