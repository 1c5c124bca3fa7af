"""Tensor parallelism with threads for ranks: on every number system, against one rank; what goes wrong on one rank; transports by stand-ins."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
import numpy as np
import pytest
import systems
from hypothesis import given
from hypothesis import strategies as st

import refimpl
import weights_io
from refimpl import backend as backends
from refimpl import decoding, errors, gpt2, parallel, parallel_decoder, parallel_job, parallel_model, parallel_plan
from refimpl import parallel_communicators as communicators
from refimpl.parallel_communicators import run_ranks
from validation import components, tolerance, truth
from weights_io import megatron, source
from weights_io.schemes import SCHEMES, from_canonical
from weights_io.schemes.scheme import TRANSPOSED, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable

SIX = dataclasses.replace(models.TINY, n_head=6, n_inner=12)  # 11 tokens: 2, 3 and 6 ranks pad them
UNTIED = dataclasses.replace(SIX, tie_word_embeddings=False, activation="none")
IDS = [[1, 2, 3, 10], [4, 5, 6, 0]]
CPM = Path(__file__).parent.parent / "validation" / "recorded" / "cpm_megatron"
SCHEME = SCHEMES["megatron-cpm"]


def _refused(kind: Any, *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _logits(weights: Any, config: Any, ids: Any, ranks: int, **options: Any) -> list[Any]:
    def one(communicator: Any) -> Any:
        own = parallel.share(weights, config, communicator.rank, ranks)
        return parallel.logits(own, config, communicator, ids, **options)

    return run_ranks(ranks, one)


def _budget(config: gpt2.GPT2Config) -> Any:
    """What two evaluations of the random model with different roundings may differ by, in units of the roundoff."""
    return 2 * components.unit_budget(config, models.random_arrays(config), np.asarray(IDS))


@pytest.fixture(scope="module")
def budgets() -> dict[bool, Any]:
    return {config.tie_word_embeddings: _budget(config) for config in (SIX, UNTIED)}


# --- the definition -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "ranks"), [(SIX, 2), (UNTIED, 3), (SIX, 6)], ids=["tied-2", "untied-3", "tied-6"])
def test_any_number_of_ranks_gives_the_logits_of_one(
    config: gpt2.GPT2Config, ranks: int, system: systems.System, budgets: Any
) -> None:
    """Balls: enclosures that meet; floats within two sampled budgets; the same bits on every rank, in the dtype of the weights."""
    for dtype in system.dtypes:
        weights = models.weights(config, system, dtype)
        with truth.precision(300):
            one, many = gpt2.logits(weights, config, IDS), _logits(weights, config, IDS, ranks)
        if system.is_ball:
            assert all(a.overlaps(b) for each in many for a, b in zip(one.ravel(), each.ravel(), strict=True))
            assert truth.radii(many[0]).max() < 1e-60
            continue
        first = system.back(many[0])
        assert all(system.back(each).tobytes() == first.tobytes() for each in many)
        assert many[0].dtype == one.dtype
        gap = np.abs(first.astype(np.float64) - system.back(one).astype(np.float64))
        assert not np.any(gap > budgets[config.tie_word_embeddings] * tolerance.roundoff(dtype)), (dtype, gap.max())


@given(
    heads=st.sampled_from([1, 2, 4, 6, 12]),
    width=st.integers(1, 3),
    inner=st.integers(1, 3),
    vocab=st.integers(1, 19),
    tied=st.booleans(),
    data=st.data(),
)
def test_shares_are_parts_of_one_model(
    heads: int, width: int, inner: int, vocab: int, tied: bool, data: st.DataObject
) -> None:
    """Every parameter is that of every rank, or the ranks' parts make it; padding is zeros; shapes are what `shapes` says."""
    config = gpt2.GPT2Config(
        vocab, 4, heads * width, 1, heads, n_inner=heads * inner, tie_word_embeddings=tied, activation="none"
    )
    ranks = data.draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    weights = models.weights(config, systems.NUMPY, "float64")
    parts = [parallel.share(weights, config, rank, ranks).named() for rank in range(ranks)]
    assert [{name: array.shape for name, array in part.items()} for part in parts] == [
        parallel.shapes(config, ranks)
    ] * ranks
    for name, whole in weights.named().items():
        arrays, kind = [part[name] for part in parts], parallel.cut_of(name)
        if kind is parallel.Cut.WHOLE:
            assert all(same_bits(array, whole) for array in arrays)
        elif kind is parallel.Cut.THIRDS:
            thirds = [np.split(array, 3, axis=-1) for array in arrays]
            joined = [np.concatenate([third[i] for third in thirds], axis=-1) for i in range(3)]
            assert np.array_equal(np.concatenate(joined, axis=-1), whole)
        else:
            joined_whole = np.concatenate(arrays, axis=-1 if kind is parallel.Cut.COLUMNS else 0)
            assert np.array_equal(joined_whole[: whole.shape[0]], whole)
            assert not np.any(joined_whole[whole.shape[0] :])
            assert parallel.whole_shape(name, arrays[0].shape, ranks) == joined_whole.shape
    ids = np.asarray(data.draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=4)))[None]
    one, (first, *_) = gpt2.logits(weights, config, ids), _logits(weights, config, ids, ranks)
    # two orders of sums of at most 36 terms, through one layer: thousands of roundings, of numbers below 100
    assert np.max(np.abs(first - one)) <= 1e-10 * max(1.0, float(np.max(np.abs(one))))


def test_the_cut_is_megatrons() -> None:
    """The table, and every bit of every share, against `weights_io.megatron`: there weights are (out, in), here (in, out)."""
    turned = {megatron.Layout.ROWS: parallel.Cut.COLUMNS, megatron.Layout.COLUMNS: parallel.Cut.ROWS}
    turned |= {megatron.Layout.THIRDS: parallel.Cut.THIRDS, megatron.Layout.WHOLE: parallel.Cut.WHOLE}
    for template, rule in SCHEME.table.items():
        layout = megatron.LAYOUT[template.removeprefix("[|module/]")]
        assert (layout in (megatron.Layout.ROWS, megatron.Layout.COLUMNS)) or rule.name != "token_embedding"
        expected = parallel.Cut.VOCABULARY if rule.name == "token_embedding" else turned[layout]
        assert parallel.cut_of(rule.name) is expected, rule
        assert layout is not megatron.Layout.COLUMNS or rule.how is TRANSPOSED
    config = dataclasses.replace(SIX, vocab_size=12)
    weights = models.weights(config, systems.NUMPY, "float32")
    for ranks in (2, 3, 6):
        theirs = megatron.split(from_canonical(weights.named(), SCHEME), ranks, heads=6)
        for rank in range(ranks):
            ours = from_canonical_shapes(parallel.share(weights, config, rank, ranks).named())
            assert set(ours) == set(theirs[rank])
            assert all(np.array_equal(ours[name], theirs[rank][name]) for name in ours)


def from_canonical_shapes(share: dict[str, Any]) -> dict[str, Any]:
    """A share under Megatron's names: transposed where the scheme says so, without its check that shapes are those of one model."""
    made = {}
    for name, array in share.items():
        ((theirs, rule),) = SCHEME.file_names(name)
        made[theirs] = rule.how.undo(array)
    return made


def test_reading_in_pieces_is_reading_at_once() -> None:
    """The cache of a rank holds its own heads' keys and values."""
    weights = models.weights(SIX, systems.BALLS, "float64")

    def one(communicator: Any) -> Any:
        own = parallel.share(weights, SIX, communicator.rank, communicator.size)
        at_once, cache = parallel.forward(own, SIX, communicator, [IDS[0]])
        assert cache.keys[0].shape == (1, 2, 4, 1)
        last, cache = parallel.forward(own, SIX, communicator, [IDS[0][:3]], last=True)
        assert all(a.overlaps(b) for a, b in zip(at_once[:, 2].ravel(), last.ravel(), strict=True))
        return at_once, parallel.forward(own, SIX, communicator, [IDS[0][3:]], cache=cache, last=True)[0]

    with truth.precision(300):
        for at_once, last in run_ranks(3, one):
            assert last.shape == (1, 1, 11)
            assert all(a.overlaps(b) for a, b in zip(at_once[:, -1].ravel(), last.ravel(), strict=True))


@pytest.mark.parametrize(("ranks", "words"), [(4, "6 heads, 10 columns"), (6, "10 columns"), (0, "whole number")])
def test_ranks_that_do_not_divide_are_refused(ranks: int, words: str) -> None:
    config = dataclasses.replace(SIX, n_inner=10)
    with _refused(errors.ConfigError, words):
        parallel.share(models.weights(config, systems.NUMPY, "float32"), config, 0, ranks)


# --- communicators --------------------------------------------------------------------------------------------------------------------


class _MPI:
    """What `communicators.MPI` asks of mpi4py, with threads for ranks."""

    def __init__(self, threads: Any) -> None:
        self.threads = threads
        self.Get_rank, self.Get_size = (lambda: threads.rank), (lambda: threads.size)
        self.allgather, self.bcast = threads.exchange, (lambda value, root: threads.broadcast(value))

    def Allgather(self, sent: Any, received: Any) -> None:  # noqa: N802
        assert sent.dtype == received.dtype == np.uint8
        received[:] = np.concatenate(self.threads.exchange(sent.copy()))

    def Alltoall(self, sent: Any, received: Any) -> None:  # noqa: N802
        each = sent.size // self.threads.size
        rank = self.threads.rank
        received[:] = np.concatenate([theirs[rank * each :][:each] for theirs in self.threads.exchange(sent.copy())])


class _Group:
    """What `communicators.NCCL` asks of cupyx.distributed.NCCLBackend: contiguous arrays, of dtypes that NCCL has, answers put into others."""

    def __init__(self, threads: Any) -> None:
        self.threads = threads

    def all_gather(self, sent: Any, received: Any, count: int) -> None:
        self._check(sent, received)
        assert count == sent.size
        received[...] = np.stack(self.threads.exchange(sent.copy())).reshape(received.shape)

    def all_to_all(self, sent: Any, received: Any) -> None:
        self._check(sent, received)
        assert sent.shape[0] == received.shape[0] == self.threads.size
        received[...] = np.stack([theirs[self.threads.rank] for theirs in self.threads.exchange(sent.copy())])

    @staticmethod
    def _check(*arrays: Any) -> None:
        assert all(array.flags.c_contiguous and array.dtype.char in "bBiIlLqQefd" for array in arrays)


TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "threads": lambda threads: threads,
    "mpi": lambda threads: communicators.MPI(_MPI(threads)),
    "staged": lambda threads: communicators.MPI(_MPI(threads), staged=True),
    "nccl": lambda threads: communicators.NCCL(_Group(threads), _MPI(threads)),
}


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_transport_adds_in_the_order_of_the_ranks(name: str, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of ((0 + 1) + 2) + .., gathered and in parts, for numbers whose sum depends on the order; joined along any axis."""
    fetched: list[int] = []
    cupy = types.SimpleNamespace(asnumpy=lambda array: fetched.append(1) or array)
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # type: ignore[arg-type]
    for dtype in (np.float32, np.float64):
        for shape in ((1,), (2, 7), (2, 3, communicators.FEW)):
            size = np.asarray([1e8, 1.0, -1e8, 1e-8, 1e4])
            made = [np.random.default_rng(r).normal(size=shape).astype(dtype) * dtype(size[r]) for r in range(ranks)]
            parts = [np.asfortranarray(part) for part in made]  # transports move what lies in order
            expected = np.asarray(parallel.summed(parts))

            def one(threads: Any, parts: Any = parts) -> tuple[Any, ...]:
                communicator = TRANSPORTS[name](threads)
                mine = parts[communicator.rank]
                sums = communicator.all_reduce(mine), communicator.reduced_in_parts(mine)
                return *sums, communicator.all_gather(mine, -1), communicator.broadcast(communicator.rank)

            for whole, pieces, joined, told in run_ranks(ranks, one):
                assert whole.dtype == pieces.dtype == dtype
                assert np.asarray(whole).tobytes() == np.asarray(pieces).tobytes() == expected.tobytes()
                assert np.array_equal(joined, np.concatenate(parts, axis=-1))
                assert told == 0
    assert bool(fetched) is (name == "staged")


def test_the_order_matters_for_those_numbers() -> None:
    """The test above could fail: another order has other bits."""
    parts = [np.float64(x) for x in (1e8, 1.0, -1e8, 1e-8)]
    assert parallel.summed(parts) != parallel.summed(parts[::-1])


def test_mpi_refuses_what_has_no_bytes() -> None:
    def one(threads: Any) -> Any:
        return communicators.MPI(_MPI(threads)).all_reduce(truth.balls(np.ones(3)))

    with _refused(errors.DtypeError, "MPI moves bytes", "run_ranks"):
        run_ranks(2, one)


def test_an_error_of_one_rank_ends_all_and_is_the_one_that_is_raised() -> None:
    def one(communicator: Any) -> Any:
        if communicator.rank == 1:
            raise ZeroDivisionError("planted")
        communicator.exchange(1)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="planted"):
        run_ranks(3, one)
    assert threading.active_count() == before


def test_mpi_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array on a device is not sent before CuPy's current stream has made it."""
    waited = []
    stream = types.SimpleNamespace(synchronize=lambda: waited.append(1))
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(get_current_stream=lambda: stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # type: ignore[arg-type]
    communicators._finished(np.ones(1))
    assert waited == []
    communicators._finished(types.SimpleNamespace(__cuda_array_interface__={}))
    assert waited == [1]


@pytest.mark.parametrize(
    ("transport", "kind"),
    [("host", "MPI"), ("cuda-aware", "MPI"), ("nccl", "NCCL")],
    ids=["host", "cuda-aware", "nccl"],
)
def test_a_rank_takes_the_gpu_of_its_number_on_its_machine(
    transport: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for cupy and cupyx: ranks 2 and 3 of 4, on a machine with one GPU each and with none to spare."""
    used: list[int] = []

    def device(number: int) -> Any:
        return types.SimpleNamespace(id=number, use=lambda: used.append(number))

    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2)
    cuda = types.SimpleNamespace(runtime=runtime, Device=device)
    distributed = types.SimpleNamespace(
        init_process_group=lambda n, rank, backend, use_mpi: (n, rank, backend, use_mpi)
    )
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cupyx", types.SimpleNamespace(distributed=distributed))  # type: ignore[arg-type]
    monkeypatch.setattr(parallel_job, "_mpi", lambda: types.SimpleNamespace(COMM_TYPE_SHARED=0))

    def joined(local: int) -> Any:
        here = types.SimpleNamespace(Get_rank=lambda: local)
        others = {"allgather": lambda value: [None, None, None, value], "Split_type": lambda kind: here}
        return types.SimpleNamespace(Get_rank=lambda: 3, Get_size=lambda: 4, **others)

    monkeypatch.setattr(backends, "get", lambda name: backends.Backend(name, None, None))
    chosen, communicator = parallel_job._on_device("cupy", joined(1), transport)
    assert (chosen.device.id, used, type(communicator).__name__) == (1, [1], kind)
    assert communicator.staged is (transport == "host")
    if transport == "nccl":
        assert communicator.backend == (4, 3, "nccl", True)
    with _refused(parallel_model.RankError, "more ranks than GPUs", "2 GPUs, and a rank 2", "3 of 4"):
        parallel_job._on_device("cupy", joined(2), transport)
    if transport != "host":
        with _refused(parallel_model.RankError, "between GPUs", "--transport host"):
            parallel_job._on_device("numpy", joined(1), transport)


@pytest.mark.parametrize("what", ["no cupy", "no GPU"])
def test_a_rank_that_has_no_gpu_leaves_no_other_in_what_all_do_together(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 of 2 refuses. Every exchange says what it is: no rank may be in one of which the other is not, and both hear of it."""

    class Joined(_MPI):
        def __init__(self, threads: Any) -> None:
            super().__init__(threads)
            self.allgather = lambda value: self._same("allgather", value)

        def _same(self, call: str, value: Any) -> list[Any]:
            told = self.threads.exchange((call, value))
            assert {name for name, _ in told} == {call}
            return [each for _, each in told]

        def Split_type(self, kind: Any) -> Any:  # noqa: N802
            ranks = self._same("Split_type", self.threads.rank)
            return types.SimpleNamespace(Get_rank=lambda: ranks.index(self.threads.rank))

    def get(name: str) -> backends.Backend:
        if what == "no cupy" and threading.current_thread().name == "rank 1":
            raise errors.BackendError("no cupy here")
        return backends.Backend(name, None, None)

    device = lambda number: types.SimpleNamespace(use=lambda: None)  # noqa: E731
    cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 1), Device=device)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    monkeypatch.setattr(backends, "get", get)
    monkeypatch.setattr(parallel_job, "_mpi", lambda: types.SimpleNamespace(COMM_TYPE_SHARED=0))
    words: list[str] = []

    def one(threads: Any) -> None:
        with pytest.raises(parallel_model.RankError) as caught:
            parallel_job._on_device("cupy", Joined(threads), "host")
        words.append(str(caught.value))

    run_ranks(2, one)
    assert len(set(words)) == 1
    assert len(words) == 2
    assert ("no cupy here" if what == "no cupy" else "more ranks than GPUs") in words[0]
    assert "1 of 2" in words[0]


def _nobody_reads(*given: object) -> None:
    raise BrokenPipeError


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_job_is_ended_even_where_nobody_reads_why(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    joined = types.SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 2, Abort=ended.append)
    monkeypatch.setattr(sys, stream, types.SimpleNamespace(write=_nobody_reads, flush=_nobody_reads))
    parallel_job._abort(joined, ZeroDivisionError("planted"))
    assert ended == [1]


def test_a_step_that_failed_and_was_passed_over_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    joined = types.SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 2, Abort=ended.append)
    broken = parallel_decoder.Leader(None)  # type: ignore[arg-type]
    broken.idle = False
    model = contextlib.ExitStack()
    model.leader = broken  # type: ignore[attr-defined]
    monkeypatch.setattr(parallel_job, "world", lambda: joined)
    monkeypatch.setattr(parallel_job, "_loaded", lambda *given: model)
    with parallel_job.opened("tang"):
        pass
    assert ended == [1]


# --- decoding and loading -------------------------------------------------------------------------------------------------------------


def _led(ranks: int, path: Any, work: Callable[[Any], Any], **options: Any) -> list[Any]:
    """What `work(model)` returns on rank 0, and how many caches each of the others held at most."""

    def one(communicator: Any) -> Any:
        model = parallel_model.load(path, communicator, **options)
        if communicator.rank:
            return parallel_decoder.follow(model.share)
        with model:
            return work(model)

    return run_ranks(ranks, one)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_embedded_model_says_the_same_on_any_number_of_ranks(ranks: int) -> None:
    """Greedy, sampled, in a batch, by beam search, and scored; caches that are not needed are dropped on every rank."""

    def work(model: Any) -> Any:
        texts = [model.generate("春眠不觉晓，", max_new_tokens=9, temperature=0)]
        texts += model.generate_batch(["明月", "一片孤城"], max_new_tokens=6, seed=3)
        prompts = ["明月几时有", "明月何处", "明月几时有"]  # what they have in common is read once
        texts += [each.text for each in model.continuations(prompts, max_new_tokens=4, temperature=0, stop_text="。")]
        beams = model.beam_search("山", beams=3, max_new_tokens=6)
        return texts, [hypothesis.ids for hypothesis in beams], model.score("明月何时有").log_probabilities

    texts, beams, scores = work(refimpl.load("tang", backend="numpy", dtype="float64"))
    (found, found_beams, found_scores), *held = _led(ranks, "tang", work, dtype="float64")
    assert (found, found_beams) == (texts, beams)
    assert np.max(np.abs(np.subtract(found_scores, scores))) <= 1e-9
    assert all(most <= 3 for most in held)  # one in use, its selection, and one that the next order drops


def test_states_are_values() -> None:
    """An earlier state can be gone on from again, and gives the same logits, on ranks that only know its number."""

    def work(model: Any) -> None:
        decoder = model._decoder()
        _, state = decoder.start([[1, 2], [3, 4]])
        first, later = decoder.advance([[5], [6]], state)
        decoder.advance([[7], [8]], later)
        again, _ = decoder.advance([[5], [6]], state)
        swapped, _ = decoder.advance([[6], [5]], decoder.select(state, [1, 0]))
        assert np.array_equal(first, again)
        assert np.max(np.abs(swapped[::-1] - first)) <= 1e-12 * np.max(np.abs(first))

    _led(2, "tang", work, dtype="float64")


def test_what_rank_0_refuses_does_not_reach_the_others() -> None:
    def work(model: Any) -> str:
        for ids, mask in (([[99999]], None), ([[1] * 129], None), ([[1, 2]], [[True, False]]), ([[1]], [[5]])):
            with pytest.raises(errors.RefimplError):
                model._decoder().start(ids, mask)
        with pytest.raises(errors.NotBuiltYetError):
            model.with_arithmetic("mitchell")
        assert "rank 0 of 2" in repr(model)
        text: str = model.generate("明月", max_new_tokens=3, temperature=0)
        return text

    assert _led(2, "tang", work)[0] == refimpl.load("tang", backend="numpy").generate(
        "明月", max_new_tokens=3, temperature=0
    )


def test_a_model_that_was_closed_reads_nothing_more() -> None:
    """The other ranks have gone: an order would wait for them for ever (here there are none, so that a wrong one fails and does not hang). A stream
    that was begun before cannot go on either."""

    def one(communicator: Any) -> None:
        model = parallel_model.load("tang", communicator)
        with model:
            pieces = model.stream("明月", max_new_tokens=5, temperature=0)
            next(pieces)
        for use in (lambda: next(pieces), lambda: model.logits([[1]]), lambda: model.generate("明", max_new_tokens=2)):
            with _refused(communicators.RankLostError, "do not wait for an order", "a model that was closed"):
                use()

    run_ranks(1, one)


def test_a_step_that_fails_half_way_is_not_followed_by_an_order() -> None:
    """The others are in the middle of it: only ending the job ends them, and closing the model must not hang."""
    shares = [parallel.share(models.weights(SIX, systems.NUMPY, "float64"), SIX, rank, 2) for rank in range(2)]

    def one(communicator: Any) -> Any:
        share = parallel_decoder.Share(shares[communicator.rank], SIX, communicator)
        if communicator.rank:
            with contextlib.suppress(communicators.RankLostError):
                parallel_decoder.follow(share)
            return None
        leader = parallel_decoder.Leader(share)
        leader.share = dataclasses.replace(
            share, weights=share.weights._replace(final_norm=())
        )  # which fails on the way
        with pytest.raises(TypeError):
            leader.start([[1, 2]])
        leader.stop()
        assert not leader.idle
        assert not leader.stopped
        with _refused(communicators.RankLostError, "do not wait for an order", "failed half-way"):
            leader.start([[1, 2]])
        communicator._barrier.abort()
        return None

    run_ranks(2, one)


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("mp1", 1),
        ("mp1", 2),
        ("mp2", 1),
        ("mp2", 2),
        ("mp2", 4),
        ("mp4", 2),
        ("mp4", 4),
        ("mp1_mp2", 2),
        ("mp2_legacy", 2),
    ],
)
def test_cpm_shards_on_ranks_give_the_logits_of_cpm(name: str, ranks: int, recorded: Any) -> None:
    answers = recorded("cpm_megatron")
    logits = _led(ranks, CPM / name, lambda model: model.logits(answers["ids"]), dtype="float64", heads=4)[0]
    for known in ("logits_mp1", "logits_mp2"):
        assert np.max(np.abs(logits - answers[known])) <= 1e-12 * np.max(np.abs(answers[known]))


@pytest.mark.parametrize(("name", "own"), [("mp2", True), ("mp4", False)])
def test_a_rank_opens_its_own_file_and_no_other(name: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks: the shards of two are opened one each; of four, all by both."""
    opened: dict[str, set[str]] = {"rank 0": set(), "rank 1": set()}
    original = source.Source.__init__

    def noting(self: Any, path: Path, *given: Any) -> None:
        if path.suffix == ".pt":
            opened[threading.current_thread().name].add(path.name)
        original(self, path, *given)

    monkeypatch.setattr(source.Source, "__init__", noting)
    _led(2, CPM / name, repr, heads=4)
    every = {f"mp_rank_{rank:02d}_model_states.pt" for rank in range(4)}
    expected = [{f"mp_rank_{rank:02d}_model_states.pt"} if own else every for rank in range(2)]
    assert [opened[f"rank {rank}"] for rank in range(2)] == expected


@pytest.fixture
def machines(tmp_path: Path) -> Callable[..., list[Path]]:
    """machines("mp2", "mp2") -> a folder for each rank that holds nothing but the rank's own shard of that model."""

    def make(*names: str) -> list[Path]:
        folders = []
        for rank, name in enumerate(names):
            folder = tmp_path / f"machine{rank}" / "80000"
            folder.mkdir(parents=True)
            shutil.copy(CPM / name / "80000" / f"mp_rank_{rank:02d}_model_states.pt", folder)
            folders.append(folder.parent)
        return folders

    return make


def _each(folders: list[Path], **options: Any) -> Any:
    def one(communicator: Any) -> Any:
        model = parallel_model.load(folders[communicator.rank], communicator, dtype="float64", heads=4, **options)
        if communicator.rank:
            return model.follow()
        with model:
            return model.logits([[1, 2, 3]])

    return run_ranks(len(folders), one)[0]


def test_on_machines_of_their_own_ranks_need_nothing_but_their_shards(machines: Any) -> None:
    expected = refimpl.load(CPM / "mp1", backend="numpy", dtype="float64", heads=4).logits([[1, 2, 3]])
    found = _each(machines("mp2", "mp2"))
    assert np.max(np.abs(found - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_shards_of_different_models_are_refused(machines: Any) -> None:
    """The values are the same, the dtypes are not: so is whatever is whole on every rank."""
    with _refused(parallel_model.RankError, "parts of different models", "position_embedding", "float16", "1 of 2"):
        _each(machines("mp2", "mp2_float32"))


def test_one_bit_in_one_norm_of_one_shard_is_noticed(machines: Any) -> None:
    folders = machines("mp2", "mp2")
    (file,) = folders[1].glob("*/*.pt")
    with weights_io.open(file) as checkpoint:
        tensors = {name: np.array(checkpoint[name]) for name in checkpoint if name.startswith("module/")}
    tensors["module/transformer.final_layernorm.bias"].view(np.uint16)[3] ^= 1
    weights_io.save(file.with_suffix(".new.pt"), tensors)
    file.with_suffix(".new.pt").replace(file)
    shutil.copy(
        CPM / "mp2" / "80000" / "mp_rank_00_model_states.pt", file.parent
    )  # the number of ranks shows in the folder now
    with _refused(parallel_model.RankError, "different models", "final_norm.bias", "1 of 2"):
        _each(folders)


def test_one_file_under_two_names_is_noticed(machines: Any) -> None:
    folders = machines("mp2", "mp2")
    (file,) = folders[1].glob("*/*.pt")
    shutil.copy(CPM / "mp2" / "80000" / "mp_rank_00_model_states.pt", file)
    with _refused(parallel_model.RankError, "the same rows of the token embedding", "ranks 0 and 1", "1 of 2"):
        _each(folders)


def test_a_missing_shard_is_named_by_the_rank_that_misses_it(machines: Any, tmp_path: Path) -> None:
    (first, second) = machines("mp2", "mp2")
    (file,) = second.glob("*/*.pt")
    shutil.copy(CPM / "mp2" / "80000" / "mp_rank_00_model_states.pt", file.parent)
    file.unlink()
    with _refused(parallel_model.RankError, "shard is missing", "mp_rank_01_model_states.pt", "1 of 2"):
        _each([first, second])


def test_a_truncated_shard_is_named_by_the_rank_that_has_it(machines: Any) -> None:
    folders = machines("mp2", "mp2")
    (file,) = folders[1].glob("*/*.pt")
    file.write_bytes(file.read_bytes()[:-1000])
    with _refused(parallel_model.RankError, "mp_rank_01_model_states.pt", "1 of 2"):
        _each(folders)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float8"}, "unknown dtype"),
        ({"dialect": "cpmm"}, "unknown dialect"),
        ({"heads": 3}, "does not divide into 2 ranks"),
        ({"heads": 5}, "multiple of n_head"),
        ({}, "pass heads="),
        ({"backend": "torch"}, "unknown backend"),
    ],
)
def test_what_load_refuses_is_refused_on_all_ranks(options: Any, words: str) -> None:
    seen: list[BaseException] = []

    def one(communicator: Any) -> Any:
        try:
            parallel_model.load(CPM / "mp2", communicator, **options)
        except parallel_model.RankError as error:
            seen.append(error)

    run_ranks(2, one)
    assert len(seen) == 2
    assert all(words in str(error) and "rank:     0 of 2" in str(error) for error in seen)


def test_other_formats_are_cut_when_they_are_read(tmp_path: Path, recorded: Any) -> None:
    """A Hugging Face folder with a head of its own and a vocabulary that two ranks pad."""
    config = dataclasses.replace(UNTIED, n_head=2, n_inner=10)
    arrays = {name: array.astype(np.float32) for name, array in models.random_arrays(config).items()}
    weights_io.save(tmp_path / "model.safetensors", from_canonical(arrays, SCHEMES["hugging-face-gpt2"]))
    fields = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    fields |= {"n_inner": 10, "activation_function": "gelu", "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    expected = refimpl.load(tmp_path, backend="numpy", dtype="float64").logits(IDS)
    found, _ = _led(2, tmp_path, lambda model: model.logits(IDS), dtype="float64")
    assert np.max(np.abs(found - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_a_leader_is_a_decoder() -> None:
    share = parallel_decoder.Share(
        models.weights(SIX, systems.NUMPY, "float64"), SIX, communicators.Threads(0, [None], threading.Barrier(1))
    )
    decoder: decoding.Decoder = parallel_decoder.Leader(share)
    assert decoder.context == SIX.n_positions


# --- the plan -------------------------------------------------------------------------------------------------------------------------


class _Counting(communicators.Exchange):
    """A communicator that counts what it receives from others."""

    def __init__(self, threads: Any) -> None:
        self.threads, self.rank, self.size = threads, threads.rank, threads.size
        self.exchanges = self.received = self.sums = 0

    def _counted(self, arrays: list[Any]) -> list[Any]:
        self.exchanges += 1
        self.received += sum(array.nbytes for rank, array in enumerate(arrays) if rank != self.rank)
        return arrays

    def gather(self, array: Any) -> list[Any]:
        return self._counted(self.threads.gather(array))

    def swap(self, parts: list[Any]) -> list[Any]:
        return self._counted(self.threads.swap(parts))

    def all_reduce(self, array: Any) -> Any:
        self.sums += 1
        return super().all_reduce(array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("batch", "ranks", "tied"), [(1, 2, True), (3, 3, False), (500, 3, True)])
def test_the_plan_counts_what_a_step_holds_and_receives(batch: int, ranks: int, tied: bool, dtype: str) -> None:
    """Two sums a block and one for the embedding; gathered for few numbers, in parts for 3000 x 2 of them."""
    config = dataclasses.replace(SIX, n_embd=12, tie_word_embeddings=tied)
    whole = models.weights(config, systems.NUMPY, dtype)
    need = parallel_plan.plan(config, ranks, itemsize=np.dtype(dtype).itemsize, batch=batch, length=3)

    def one(threads: Any) -> Any:
        own = parallel.share(whole, config, threads.rank, threads.size)
        _, cache = parallel.forward(own, config, threads, [[1, 2]] * batch)
        counting = _Counting(threads)
        _, cache = parallel.forward(own, config, counting, [[3]] * batch, cache=cache, last=True)
        held = own.named()
        read = sum(array.nbytes for name, array in held.items() if name != "position_embedding")
        read -= 0 if tied else held["token_embedding"].nbytes
        kept = sum(array.nbytes for array in (*cache.keys, *cache.values))
        weights = sum(array.nbytes for array in held.values())
        return weights, kept, read + kept, counting.sums, counting.exchanges, counting.received

    expected = (need.weights, need.cache, need.read, 2 * config.n_layer + 1, need.exchanges, need.received)
    assert run_ranks(ranks, one) == [expected] * ranks
    assert need.sums == 2 * config.n_layer + 1
    assert need.parameters == sum(array.size for array in whole.named().values())


def test_one_rank_exchanges_nothing_and_reads_everything() -> None:
    need = parallel_plan.plan(parallel_plan.MODELS["2.6B"], 1, itemsize=4)
    assert (need.parameters, need.sums, need.exchanges, need.received) == (2_597_073_920, 0, 0, 0)
    link = parallel_plan.Link("none", 1.0, 1.0)
    assert need.seconds(1e9, link) == need.read / 1e9
    with _refused(errors.ConfigError, "2, 4 or 8"):
        parallel_plan.plan(parallel_plan.MODELS["2.6B"], 1, itemsize=1)


@pytest.mark.parametrize(("name", "billions"), [("2.6B", 2.6), ("20B", 20), ("100B", 100)])
def test_the_models_of_the_page_are_of_the_size_they_are_called(name: str, billions: float) -> None:
    assert abs(parallel_plan.plan(parallel_plan.MODELS[name], 1).parameters / 1e9 - billions) <= 0.02 * billions
