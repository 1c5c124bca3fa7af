"""Claims GPT2-1 to GPT2-6: what every use of a GPT-2 takes for granted.

Independence claims (1, 3) are proved by tracing what each logit can depend on (`validation.dependence`), where nothing overflows: a token whose
embedding overflows a layer makes NaN of 0 · inf everywhere that it is masked.
Equalities (2, 4, 5, 6) are decided on the recorded tiny model by balls: two enclosures of radius < 1e-20 that meet. In floats, two evaluations
with different roundings may differ by their two sampled budgets (`validation.perturbed`).
"""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
from mpmath import mp

from refimpl import gpt2, parallel, parallel_communicators
from refimpl.number_system import namespace
from refimpl.parameters import affine
from validation import components, dependence, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim
from validation.scalar.gpt2 import scalar_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.backend import Backend
    from refimpl.parallel import Communicator

SOURCE = "A. Radford et al., Language models are unsupervised multitask learners (2019); used by every implementation"
DTYPES = ("float32", "float64")
RADIUS = 1e-20
BITS = 384


def _tiny() -> tuple[gpt2.GPT2Config, dict[str, Any]]:
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    return config, arrays


def _on(backend: Backend, arrays: dict[str, Any], config: gpt2.GPT2Config, dtype: str) -> gpt2.GPT2Weights:
    return gpt2.GPT2Weights.from_named({name: backend.asarray(a.astype(dtype)) for name, a in arrays.items()}, config)


def _balls(arrays: dict[str, Any], config: gpt2.GPT2Config) -> gpt2.GPT2Weights:
    return gpt2.GPT2Weights.from_named({name: truth.balls(a) for name, a in arrays.items()}, config)


def _meet(a: Any, b: Any) -> tuple[bool, float]:
    """Whether all pairs of enclosures overlap, and the largest radius among them."""
    overlap = all(x.overlaps(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    return overlap, float(max(truth.radii(a).max(), truth.radii(b).max()))


def _random_model(rng: np.random.Generator, vocabulary: int, layers: int = 2) -> tuple[gpt2.GPT2Config, dict[str, Any]]:
    config = gpt2.GPT2Config(vocabulary, n_positions=12, n_embd=8, n_layer=layers, n_head=2)
    shapes = gpt2.GPT2Weights.shapes(config)
    return config, {name: rng.normal(scale=0.6, size=shape) for name, shape in shapes.items()}


LENGTHS = np.array([8, 5, 1])  # real tokens in the rows of the traced batches


def _traced_logits(rng: np.random.Generator, dialect: gpt2.Dialect, mask: Any) -> Any:
    """Tags of the logits of a (3, 8) batch with padding, when token (b, t) carries tag 8 b + t."""
    config, arrays = _random_model(rng, vocabulary=5)
    weights = gpt2.GPT2Weights.from_named({name: dependence.traced(a) for name, a in arrays.items()}, config)
    tags = np.left_shift(np.uint64(1), np.arange(24, dtype=np.uint64)).reshape(3, 8)
    ids = dependence.traced(rng.integers(0, 5, (3, 8)), tags)
    return gpt2.logits(weights, config, ids, mask=dependence.traced(mask), dialect=dialect).tags


def _leaks(tags: Any, allowed: Callable[[int, int], list[tuple[int, int]]], mask: Any) -> list[tuple[int, int]]:
    """Real positions (b, t) some logit of which carries a tag outside allowed(b, t), or lacks its own token's."""
    leaking = []
    for b, t in zip(*np.nonzero(mask), strict=True):
        permitted = sum(1 << (8 * row + place) for row, place in allowed(int(b), int(t)))
        found = [int(tag) for tag in tags[b, t]]
        if any(tag & ~permitted for tag in found) or not all(tag >> (8 * int(b) + int(t)) & 1 for tag in found):
            leaking.append((int(b), int(t)))
    return leaking


def _trace(seed: int, allowed: Callable[[int, int], list[tuple[int, int]]]) -> tuple[int, list[Any]]:
    """The number of logits traced, and where they leak; a branch on data that was taken leaks too."""
    cases, leaking = 0, []
    dependence.tagged_branches.clear()
    for dialect in (*gpt2.dialects.values(), gpt2.Dialect(activation="none")):
        for mask in (np.arange(8) >= 8 - LENGTHS[:, None], np.arange(8) < LENGTHS[:, None]):
            tags = _traced_logits(np.random.default_rng(seed), dialect, mask)
            leaking += _leaks(tags, allowed, mask)
            cases += tags[mask].size
    return cases, leaking + [branch for branch in dependence.tagged_branches if branch.taken]


TRACED = 4 * 2 * 14 * 5  # conventions x sides of the padding x real tokens x vocabulary
PREFIXES = [(t, ids) for t in range(1, 5) for ids in itertools.product(range(3), repeat=t)]


@claim(
    "GPT2-1",
    "causality: the logits at t do not depend on tokens after t, for finite weights, where no intermediate value overflows",
    source=SOURCE,
    method="dependence traced on (3, 8) batches padded on either side, 2 layers, all dialects; the source branches on no data but refusals "
    "(recorded) and on no sizes; bitwise in float32 and float64 over all 243 sequences of 5 tokens from a vocabulary of 3",
    expected="proved",
    cases=TRACED + 2 * len(PREFIXES),
)
def _causal(setting: Setting) -> Outcome:
    cases, leaking = _trace(setting.seed, lambda b, t: [(b, place) for place in range(t + 1)])
    if leaking:
        return Outcome("refuted", cases, f"logits at {leaking[0]} carry tags of later tokens")
    config, arrays = _random_model(np.random.default_rng(setting.seed), vocabulary=3)
    ids = np.array(list(itertools.product(range(3), repeat=5)))
    for dtype in DTYPES:
        weights = _on(setting.backend, arrays, config, dtype)
        answer = setting.backend.to_numpy(gpt2.logits(weights, config, setting.backend.asarray(ids)))
        for t, prefix in PREFIXES:
            same = answer[(ids[:, :t] == prefix).all(axis=1), :t]
            cases += 1
            if not np.all(same == same[:1]):
                return Outcome("refuted", cases, f"{dtype}: sequences that begin {prefix} differ before {t}")
    return Outcome("proved", cases, "no logit carries a later token's tag; no bit differs")


def _float_gap(setting: Setting, pairs: Callable[[gpt2.GPT2Weights], tuple[Any, Any]], unit: Any) -> tuple[float, str]:
    """The largest difference of two evaluations as a multiple of their two sampled budgets, over the dtypes."""
    worst, shown = 0.0, ""
    config, arrays = _tiny()
    for dtype in DTYPES:
        one, other = (setting.backend.to_numpy(each) for each in pairs(_on(setting.backend, arrays, config, dtype)))
        difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
        if one.dtype != dtype or other.dtype != dtype or not np.all(np.isfinite(difference)):
            return np.inf, f"{one.dtype}, {other.dtype}, finite: {bool(np.all(np.isfinite(difference)))}"
        multiple = float(np.max(difference / (2 * unit * tolerance.roundoff(dtype) + np.finfo(np.float64).tiny)))
        if not multiple < worst:
            worst, shown = multiple, f"{dtype} differs by {difference.max():.2g}"
    return worst, shown


def _decide(meet: tuple[bool, float], cases: int, floats: tuple[float, str], what: str) -> Outcome:
    overlap, radius = meet
    if not overlap or not floats[0] <= 1:
        return Outcome(
            "refuted", cases, f"{what}: enclosures meet: {overlap}; floats: {floats[1]}, {floats[0]:.2g} of budget"
        )
    if not radius < RADIUS:
        return Outcome("not refuted", 0, f"undecided: radius {radius:.1e}")
    return Outcome("not refuted", cases, f"balls meet within {radius:.0e}; {floats[1]}", floats[0])


def _equality(
    setting: Setting, both: Callable[[gpt2.GPT2Weights, Callable[[Any], Any]], tuple[Any, Any]], ids: Any, what: str
) -> Outcome:
    """Decide that `both(weights, place)` gives the same logits twice: by balls, and in floats on the backend, where `place` puts arrays."""
    config, arrays = _tiny()
    with truth.precision(BITS):
        one, other = both(_balls(arrays, config), lambda array: array)
        meet = _meet(one, other)
    unit = components.unit_budget(config, arrays, ids)
    floats = _float_gap(setting, lambda weights: both(weights, setting.backend.asarray), unit)
    return _decide(meet, other.size, floats, what)


def _ids(config: gpt2.GPT2Config, shape: tuple[int, int], seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape)


def _cached(weights: gpt2.GPT2Weights, config: gpt2.GPT2Config, ids: Any) -> Any:
    """Logits of all positions, read as three tokens at once and then one by one through the cache."""
    parts, cache = [], None
    for low, high in [(0, 3), *((t, t + 1) for t in range(3, ids.shape[1]))]:
        part, cache = gpt2.forward(weights, config, ids[:, low:high], cache=cache)
        parts.append(part)
    return namespace(*parts).concat(parts, axis=1)


@claim(
    "GPT2-2",
    "cached decoding = full recomputation",
    source=SOURCE,
    method="the recorded 4-layer model, 2 x 10 tokens: ball enclosures of radius < 1e-20 meet; floats within two sampled budgets",
    expected="not refuted",
    cases=2 * 10 * 61,
)
def _cache(setting: Setting) -> Outcome:
    config, _ = _tiny()
    ids = _ids(config, (2, 10), setting.seed)

    def both(weights: gpt2.GPT2Weights, place: Callable[[Any], Any]) -> tuple[Any, Any]:
        return gpt2.logits(weights, config, place(ids)), _cached(weights, config, place(ids))

    return _equality(setting, both, ids, "cached and full")


@claim(
    "GPT2-3",
    "batch invariance: a row's logits do not depend on its neighbours, for finite weights, where no intermediate value overflows",
    source=SOURCE,
    method="dependence traced as for GPT2-1; alone and in a batch, floats within two sampled budgets",
    expected="proved",
    cases=TRACED + 3 * 10 * 61,
)
def _batch(setting: Setting) -> Outcome:
    cases, leaking = _trace(setting.seed, lambda b, t: [(b, place) for place in range(8)])
    if leaking:
        return Outcome("refuted", cases, f"logits at {leaking[0]} carry tags of another row")
    config, arrays = _tiny()
    ids = _ids(config, (3, 10), setting.seed)

    def alone_and_together(weights: gpt2.GPT2Weights) -> tuple[Any, Any]:
        alone = [gpt2.logits(weights, config, setting.backend.asarray(ids[row : row + 1])) for row in range(3)]
        return setting.backend.xp.concat(alone, axis=0), gpt2.logits(weights, config, setting.backend.asarray(ids))

    multiple, shown = _float_gap(setting, alone_and_together, components.unit_budget(config, arrays, ids))
    verdict = "proved" if multiple <= 1 else "refuted"
    return Outcome(verdict, cases + ids.size * 61, f"no logit carries another row's tag; {shown}", multiple)


@claim(
    "GPT2-4",
    "left padding, with positions and mask set right, changes nothing",
    source=SOURCE,
    method="8 tokens behind 1, 4 and 9 paddings: ball enclosures of radius < 1e-20 meet; floats within two sampled budgets",
    expected="not refuted",
    cases=3 * 8 * 61,
)
def _padding(setting: Setting) -> Outcome:
    config, _ = _tiny()
    ids = _ids(config, (1, 8), setting.seed)
    fillers = _ids(config, (3, 9), setting.seed + 1)
    padded = [np.concatenate([fillers[i : i + 1, :n], ids], axis=1) for i, n in enumerate((1, 4, 9))]
    masks = [np.arange(row.shape[1])[None, :] >= row.shape[1] - 8 for row in padded]

    def both(weights: gpt2.GPT2Weights, place: Callable[[Any], Any]) -> tuple[Any, Any]:
        plain = gpt2.logits(weights, config, place(ids))
        rows = [
            gpt2.logits(weights, config, place(row), mask=place(mask))[:, -8:]
            for row, mask in zip(padded, masks, strict=True)
        ]
        xp = namespace(plain)
        return xp.concat([plain, plain, plain], axis=0), xp.concat(rows, axis=0)

    return _equality(setting, both, ids, "padded and plain")


DIVISORS = {6: (1, 2, 3, 6), 3: (3,)}  # of the heads; on one rank the recorded model is cut into nothing
ODD = gpt2.GPT2Config(
    13, n_positions=8, n_embd=12, n_layer=2, n_head=6, n_inner=18
)  # a vocabulary that 2, 3 and 6 ranks pad
RANK_CASES = 2 * 8 * 61 + 2 * 2 * 6 * 13 * 4


def _on_ranks(weights: gpt2.GPT2Weights, config: gpt2.GPT2Config, ids: Any, ranks: int) -> list[Any]:
    """The logits that each of `ranks` ranks makes of its share."""

    def one(communicator: Communicator) -> Any:
        own = parallel.share(weights, config, communicator.rank, ranks)
        return parallel.logits(own, config, communicator, ids)

    return parallel_communicators.run_ranks(ranks, one)


def _models_on_ranks(seed: int) -> list[tuple[gpt2.GPT2Config, dict[str, Any], Any]]:
    """Configuration, parameters and token ids: the recorded model, and a random one, its head tied and not."""
    rng = np.random.default_rng(seed)
    config, arrays = _tiny()
    models = [(config, arrays, _ids(config, (2, 8), seed))]
    for each in (ODD, dataclasses.replace(ODD, tie_word_embeddings=False)):
        made = {name: rng.normal(scale=0.6, size=shape) for name, shape in gpt2.GPT2Weights.shapes(each).items()}
        models.append((each, made, _ids(each, (2, 6), seed)))
    return models


def _cut_enclosures(seed: int) -> tuple[tuple[bool, float], int]:
    """Whether the enclosures on one rank and on every rank of any number meet, their largest radius, and how many were compared."""
    meet, radius, cases = True, 0.0, 0
    with truth.precision(BITS):
        for config, arrays, ids in _models_on_ranks(seed):
            weights = _balls(arrays, config)
            whole = gpt2.logits(weights, config, ids)
            for ranks in DIVISORS[config.n_head]:
                found = [_meet(whole, answer) for answer in _on_ranks(weights, config, ids, ranks)]
                meet = meet and all(overlap for overlap, _ in found)
                radius = max(radius, *(size for _, size in found))
                cases += whole.size
    return (meet, radius), cases


@claim(
    "GPT2-5",
    "cutting the weights over ranks, by heads, inner width and vocabulary, and summing changes nothing but rounding",
    source="M. Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3; the published shards of CPM-LM",
    method="refimpl.parallel on every number of ranks that divides the heads, heads tied and not, padded vocabularies: ball enclosures of radius "
    "< 1e-20 meet on every rank; floats, a head a rank, within two sampled budgets",
    expected="not refuted",
    cases=RANK_CASES,
)
def _ranks(setting: Setting) -> Outcome:
    config, arrays = _tiny()
    ids = _ids(config, (2, 8), setting.seed)
    place = setting.backend.asarray

    def both(weights: gpt2.GPT2Weights) -> tuple[Any, Any]:
        return gpt2.logits(weights, config, place(ids)), _on_ranks(weights, config, place(ids), config.n_head)[0]

    meet, cases = _cut_enclosures(setting.seed)
    floats = _float_gap(setting, both, components.unit_budget(config, arrays, ids))
    return _decide(meet, cases, floats, "cut and whole")


LAYERS = [(12, 5, ranks) for ranks in (1, 2, 3, 4, 6, 12)]  # inputs, outputs, ranks
SUMS = 20  # random layers a dtype and number of ranks


def _cut_layers(layers: list[tuple[Any, Any, Any]], ranks: int) -> list[list[Any]]:
    """Σ_r x_r W_r + b of many layers (x, W, b), for each layer on every rank."""

    def one(communicator: Communicator) -> list[Any]:
        answers = []
        for x, weight, bias in layers:
            width = weight.shape[0] // ranks
            own = slice(communicator.rank * width, (communicator.rank + 1) * width)
            answers.append(parallel.summed_affine(x[..., own], weight[own, :], bias, communicator))
        return answers

    return [list(answers) for answers in zip(*parallel_communicators.run_ranks(ranks, one), strict=True)]


def _on_basis(n: int, m: int, ranks: int) -> bool:
    """Whether the cut layer is the whole one for each unit input with each unit matrix, and for each unit bias."""
    unit, zeros = np.eye(n), np.zeros((n, m))
    layers = [(unit, zeros, bias) for bias in np.eye(m)]
    for place in np.ndindex(n, m):
        weight = zeros.copy()
        weight[place] = 1.0
        layers.append((unit, weight, zeros[0]))
    pairs = zip(layers, _cut_layers(layers, ranks), strict=True)
    return all(np.array_equal(affine(*layer), answer) for layer, answers in pairs for answer in answers)


def _rational(array: Any) -> Any:  # floating (...) -> Fraction (...)
    return np.frompyfunc(lambda number: Fraction(float(number)), 1, 1)(array)


def _order_multiple(setting: Setting, dtype: str, n: int, m: int, ranks: int) -> float:
    """The largest difference of the layer on `ranks` ranks and on one, as a multiple of its bound, for terms of any size and sign."""
    rng, u, worst = np.random.default_rng(setting.seed), Fraction(tolerance.roundoff(dtype)), 0.0
    gamma = (n + 1) * u / (1 - (n + 1) * u)
    layers = []
    for _ in range(SUMS):
        arrays = [rng.normal(size=shape) * 2.0 ** rng.integers(-12, 12, shape) for shape in ((1, n), (n, m), (m,))]
        layers.append(tuple(array.astype(dtype) for array in arrays))
    placed = [tuple(map(setting.backend.asarray, layer)) for layer in layers]
    for layer, there, answers in zip(layers, placed, _cut_layers(placed, ranks), strict=True):
        x, weight, bias = map(_rational, layer)
        bound = 2 * gamma * (abs(x) @ abs(weight) + abs(bias))
        whole, *cut = (setting.backend.to_numpy(y) for y in (affine(*there), *answers))
        if any(y.tobytes() != cut[0].tobytes() for y in cut):
            return np.inf  # the ranks disagree with each other
        worst = max(worst, float(np.max(abs(_rational(cut[0]) - _rational(whole)) / bound)))
    return worst


@claim(
    "GPT2-5.sum",
    "a layer whose rows are cut, Σ_r x_r W_r + b, is the layer x W + b; in floats without underflow or overflow the two differ by at most "
    "2 γ_{n+1} (Σ |x_k w_kj| + |b_j|), γ_m = m u/(1 - m u), and all ranks have the same bits",
    source="the sums of GPT2-5; N. Higham, Accuracy and stability of numerical algorithms, section 3.1; derived in refimpl.parallel",
    method="both sides are bilinear in x and W and affine in b: equality on the basis, where floats are exact, is equality everywhere; the bound is "
    "derived, and held against random layers with terms of 2^-24 to 2^24 in exact rationals",
    expected="proved",
    cases=sum(n * m for n, m, _ in LAYERS) + 2 * SUMS * sum(m for _, m, _ in LAYERS),
)
def _sums(setting: Setting) -> Outcome:
    cases, worst, place = 0, 0.0, ""
    for n, m, ranks in LAYERS:
        if not _on_basis(n, m, ranks):
            return Outcome("refuted", cases, f"{n} inputs on {ranks} ranks: another map")
        cases += n * m
        for dtype in DTYPES:
            multiple = _order_multiple(setting, dtype, n, m, ranks)
            if not multiple <= 1:
                return Outcome("refuted", cases, f"{dtype}, {ranks} ranks: {multiple:.2g} of the bound")
            cases += SUMS * m
            if multiple > worst:
                worst, place = multiple, f"{dtype}, {ranks} ranks"
    return Outcome("proved", cases, f"equal on the basis; floats at {worst:.2g} of the bound ({place})", worst)


@claim(
    "GPT2-6",
    "the reference encloses the truth: the ball evaluation contains an independent scalar evaluation",
    source="this project: validation.scalar.gpt2, mpmath, 75 digits",
    method="the recorded 4-layer model, 5 tokens: |scalar - midpoint| <= radius + 1e-40, radius < 1e-45, for every logit",
    expected="not refuted",
    cases=5 * 61,
)
def _scalar(setting: Setting) -> Outcome:
    config, arrays = _tiny()
    ids = _ids(config, (1, 5), setting.seed)
    enclosure = truth.enclose(lambda: gpt2.logits(_balls(arrays, config), config, ids), target=1e-45)[0]
    scalar = scalar_logits(arrays, config.n_layer, config.n_head, config.layer_norm_epsilon, ids[0].tolist())
    farthest = 0.0
    with truth.precision(512):
        for row, answers in zip(enclosure, scalar, strict=True):
            for ball, answer in zip(row, answers, strict=True):
                # 1e-40: the scalar program rounds to 75 digits some 10^4 times, on numbers below 10^3, amplified by less than 10^10
                gap = abs(ball.mid() - flint.arb(mp.nstr(answer, 70)))
                if not gap <= ball.rad() + flint.arb("1e-40"):
                    return Outcome("refuted", enclosure.size, f"{answer} is not in {ball}")
                farthest = max(farthest, float(gap))
    return Outcome("not refuted", enclosure.size, f"largest distance of the two evaluations {farthest:.1e}")
