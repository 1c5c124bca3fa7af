"""Training a GPT-2: the gradient by the rules on every array library, the fast session beside it, and learning real text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, UNTIED, weights
from systems import FLOATING, NUMPY, System, unchanged

from refimpl import gpt2, learning
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError
from refimpl.trees import leaves, mapped, named_leaves

LICENSE = Path(__file__).parent.parent / "LICENSE"
HEADED = dataclasses.replace(UNTIED, activation="tanh")
SMALL = gpt2.GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3)
FORMS: Any = ("grouped", "padded", "packed")


def _batches(form: Any = "grouped", seed: int = 0, **options: Any) -> tuple[learning.Batch, ...]:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, 11, n) for n in (3, 5, 5, 5, 9, 9, 9, 4)]
    chosen = {"length": 8, "form": form, "rows": 2, "targets": 30, "ignored": [5]} | options
    return learning.Corpus(texts, **chosen).step(0, 0)  # type: ignore[arg-type]


def _apart(ours: Any, meant: Any) -> float:
    """The largest difference in any leaf, as a part of the largest number of that leaf."""
    pairs = zip(leaves(ours), leaves(meant), strict=True)
    return max(float(np.max(np.abs(a.astype(np.float64) - b)) / np.max(np.abs(b))) for a, b in pairs)


@pytest.mark.parametrize(
    ("config", "form", "threads"),
    [
        *((SMALL, form, threads) for form in FORMS for threads in (1, 3)),
        (TINY, "grouped", 2),
        (HEADED, "padded", 2),
        (UNTIED, "padded", 1),
    ],
)
def test_the_session_has_the_gradients_of_the_rules(config: Any, form: Any, threads: int) -> None:
    """In float64 within 1e-13 (4e-15 was seen, 20 roundings); in float32 no further from those than four times the rules are, and one roundoff."""
    batches, exact = _batches(form), weights(config, NUMPY, "float64")
    narrow = mapped(lambda a: a.astype(np.float32), exact)
    rules, session = learning.GPT2Gradient(config), learning.Session(config, threads=threads)
    (loss, meant), (same, found) = rules(exact, batches), session(exact, batches)
    assert abs(loss - same) <= 1e-13 * loss
    assert _apart(found, meant) <= 1e-13
    wide = mapped(lambda a: a.astype(np.float64), narrow)
    (loss, meant), (ours, fast), (theirs, slow) = rules(wide, batches), session(narrow, batches), rules(narrow, batches)
    assert abs(ours - loss) <= 4 * abs(theirs - loss) + 2.0**-21 * loss
    assert _apart(fast, meant) <= 4 * _apart(slow, meant) + 2.0**-24
    assert all(leaf.dtype == np.float32 for leaf in leaves(fast))


def test_the_session_has_the_same_bits_at_every_call_and_changes_nothing() -> None:
    model, batches = weights(SMALL, NUMPY, "float32"), _batches()
    before, session = [a.copy() for a in leaves(model)], learning.Session(SMALL, dropout=0.1, threads=2)
    (loss, first), _, (again, second) = (
        session(model, part, np.random.default_rng(3)) for part in (batches, _batches("padded", 1), batches)
    )
    assert loss == again
    assert all(unchanged(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))
    assert all(unchanged(a, b) for a, b in zip(before, leaves(model), strict=True))
    assert session.loss(model, batches) == session(model, batches)[0]


def test_large_logits_do_not_overflow() -> None:
    """Logits of ±400, whose exponentials are beyond float32: the rows' maxima are taken off."""
    model, batches = weights(SMALL, NUMPY, "float32"), _batches()
    sharp = model._replace(final_norm=model.final_norm._replace(scale=model.final_norm.scale * 100))
    wide = mapped(lambda a: a.astype(np.float64), sharp)
    (loss, meant), (same, found) = learning.GPT2Gradient(SMALL)(wide, batches), learning.Session(SMALL)(sharp, batches)
    assert float(np.max(np.abs(gpt2.logits(wide, SMALL, batches[0].ids)))) > 100
    assert abs(loss - same) <= 1e-5 * loss
    assert _apart(found, meant) <= 1e-3  # logits of 400 are known to 2^-16 of 1


def test_with_dropout_the_gradient_is_that_of_the_loss_with_what_was_dropped() -> None:
    """The derivative along a direction, by central differences with the same draws: h² |L'''| and the roundoff of L over h, 1e-10 and 1e-11."""
    model, batches = weights(SMALL, NUMPY, "float64"), _batches()
    session, h = learning.Session(SMALL, dropout=0.3, threads=2), 1e-5

    def at(by: float) -> float:
        moved = mapped(lambda a, v: a + by * v, model, along)
        return session(moved, batches, np.random.default_rng(7))[0]

    along = weights(SMALL, NUMPY, "float64", seed=8)
    _, slopes = session(model, batches, np.random.default_rng(7))
    meant = sum(float(np.sum(a * b)) for a, b in zip(leaves(slopes), leaves(along), strict=True))
    assert abs((at(h) - at(-h)) / (2 * h) - meant) <= 1e-7 * abs(meant)
    assert at(0) != session(model, batches)[0]
    assert at(0) != session(model, batches, np.random.default_rng(8))[0]


def test_dropout_keeps_its_part_and_the_mean() -> None:
    """Of 10⁴ draws: kept within 5 standard deviations of 0.7, and each of them 1/0.7."""
    from refimpl.inference.in_place import Memory
    from refimpl.learning.session import _Run

    run, model = _Run(SMALL, Memory(), 0.3), weights(SMALL, NUMPY, "float64")
    run.begin(model, _part_of(840), np.random.default_rng(0))
    kept = run.kept("x")
    assert set(np.unique(kept)) == {0.0, 1 / 0.7}
    assert abs(np.mean(kept > 0) - 0.7) <= 5 * (0.21 / kept.size) ** 0.5


def _part_of(tokens: int) -> Any:
    from refimpl.learning.session import _Part

    ids = np.zeros(tokens, np.int64)
    return _Part(ids, ids, ids == 0, [(tokens, 1)], ids)


@pytest.mark.parametrize("floats", FLOATING)
def test_a_step_runs_on_every_array_library(floats: System) -> None:
    """Rules, clipping and AdamW: the loss and the parameters after a step are those of NumPy's float64 to 2^8 roundoffs; shapes and dtypes stay."""
    corpus = learning.Corpus([[1, 2, 3, 4, 5], [5, 6, 7], [3, 1, 2, 2]], length=8, form="padded", rows=3)
    exact = weights(TINY, NUMPY, "float64")
    for dtype in set(floats.dtypes) & {"float32", "float64"}:
        training = learning.Training(
            learning.GPT2Gradient(TINY), corpus, learning.AdamW(eps=1e-2, decay=0.1), learning.Schedule(0.01), clip=0.5
        )
        state, taken = training.step(training.start(weights(TINY, floats, dtype)))
        meant, whole = training.step(training.start(exact))
        unit = 2.0**-15 if dtype == "float32" else 2.0**-44
        assert abs(taken.loss - whole.loss) <= unit * whole.loss
        assert abs(taken.norm - whole.norm) <= unit * whole.norm
        for ours, b in zip(leaves(state.parameters), leaves(meant.parameters), strict=True):
            assert str(ours.dtype).endswith(dtype)
            assert np.max(np.abs(floats.back(ours) - b)) <= unit * np.max(np.abs(b))


def _of_license() -> tuple[learning.Training, gpt2.GPT2Weights]:
    """Paragraphs of real text, a token a character; the first parameters are five times those of the paper, for a width of 32."""
    text = LICENSE.read_text("utf-8")[:9000]
    ids = {char: number for number, char in enumerate(sorted(set(text)), 1)}
    texts = [[0, *(ids[char] for char in part), 0] for part in text.split("\n\n") if part]
    config = gpt2.GPT2Config(vocab_size=len(ids) + 1, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    corpus = learning.Corpus(texts, length=32, form="packed", rows=8, seed=2)
    session = learning.Session(config, dropout=0.02, threads=2)
    schedule = learning.Schedule(1e-2, "cosine", steps=60, warm_up=5)
    about = {"config": dataclasses.asdict(config)} | session.described()
    first = mapped(lambda a: a * np.float32(5 if a.ndim == 2 else 1), learning.initial_gpt2(config, seed=3))
    return learning.Training(session, corpus, learning.AdamW((0.9, 0.95), decay=0.01), schedule, about=about), first


def test_a_small_gpt2_learns_real_text_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """In 60 steps from log 72 = 4.3 nats to a quarter of a nat below what the frequencies of the characters alone can reach."""
    (training, first), path, half, losses = (
        _of_license(),
        tmp_path / "all.safetensors",
        tmp_path / "half.safetensors",
        [],
    )

    def watch(state: learning.State, taken: learning.Taken) -> None:
        losses.append(taken.loss)
        if taken.step == 40:
            half.write_bytes(path.read_bytes())

    state = training.run(training.start(first), 60, checkpoint=path, every=40, watch=watch)
    counts = np.unique(np.concatenate(training.corpus.texts), return_counts=True)[1]
    entropy = -float(np.sum(counts / counts.sum() * np.log(counts / counts.sum())))
    assert np.mean(losses[-10:]) < entropy - 0.25
    assert losses[0] > 4
    again, _ = _of_license()
    resumed = again.run(again.resume(half, first), 60)
    same = zip(leaves(state), leaves(resumed), strict=True)
    assert all(unchanged(a, b) if hasattr(a, "dtype") else a == b for a, b in same)


def test_the_rules_read_padding_on_the_left_too() -> None:
    """Tokens that are not real change neither loss nor gradients, but for the order of sums: 2^-44 of the largest number."""
    model, rules = weights(SMALL, NUMPY, "float64"), learning.GPT2Gradient(SMALL)
    batch = learning.Batch(*(np.array([row]) for row in ([1, 2, 3], [2, 3, 4], [True] * 3, [True] * 3)))
    padded = learning.Batch(*(np.concatenate([np.zeros_like(a[:, :2]), a], axis=1) for a in batch))
    (loss, plain), (same, found) = rules(model, (batch,)), rules(model, (padded,))
    assert abs(loss - same) <= 2.0**-44 * loss
    assert _apart(found, plain) <= 2.0**-44


def test_the_first_parameters_are_those_of_the_paper() -> None:
    config = dataclasses.replace(SMALL, n_embd=48)
    found = named_leaves(learning.initial_gpt2(config, seed=1))
    for name, array in found.items():
        assert array.dtype == np.float32
        if array.ndim == 1:
            assert set(array.tolist()) == {float(name.endswith("scale"))}
        elif array.size > 1000:  # a standard deviation is known to 1/√2n: five of them
            meant = 0.01 if "attention_output" in name or "feed_forward_out" in name else 0.02
            assert abs(np.std(array) / meant - 1) <= 5 / (2 * array.size) ** 0.5
    with pytest.raises(ConfigError, match="float32 or float64"):
        learning.initial_gpt2(SMALL, dtype="float16")


def test_what_a_session_does_not_compute_is_refused() -> None:
    session, model, (batch, *_) = learning.Session(SMALL), weights(SMALL, NUMPY, "float32"), _batches("padded")
    with pytest.raises(ConfigError, match=r"dropout = 1"):
        learning.Session(SMALL, dropout=1)
    with pytest.raises(TokenError, match="out of range"):
        session(model, (batch._replace(ids=batch.ids + 11),))
    with pytest.raises(ShapeError, match=r"padding on the right alone"):
        session(model, (batch._replace(real=np.roll(batch.real, 1, axis=1) & (np.arange(batch.ids.shape[1]) != 1)),))
    with pytest.raises(ShapeError, match=r"position table[\s\S]*n_positions = 8"):
        wide = [np.concatenate([a, a], axis=1) for a in batch]
        session(model, (learning.Batch(*wide),))
    with pytest.raises(DtypeError, match="16-bit"):
        session(weights(SMALL, NUMPY, "float16"), (batch,))
    for gradient in (session, learning.GPT2Gradient(SMALL)):
        with pytest.raises(ConfigError, match="no target"):
            gradient(model, (batch._replace(counted=batch.counted & False),))
