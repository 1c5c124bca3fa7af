"""Claims GPT2-1 to GPT2-6: what every use of a GPT-2 takes for granted.

Independence claims (1, 3) are proved by tracing what each logit can depend on (`validation.dependence`), where nothing overflows: a token whose
embedding overflows a layer makes NaN of 0 · inf everywhere that it is masked.
Equalities (2, 4, 5, 6) are decided on the recorded tiny model by balls: two enclosures of radius < 1e-20 that meet. In floats, two evaluations
with different roundings may differ by their two sampled budgets (`validation.perturbed`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
from mpmath import mp

from refimpl import gpt2
from refimpl.activation import gelu
from refimpl.attention import causal_mask, merge_heads, scaled_dot_product_attention, split_heads
from refimpl.normalization import layer_norm
from refimpl.number_system import device_of, namespace
from validation import components, dependence, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim
from validation.scalar.gpt2 import scalar_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.backend import Backend

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


def _rank(layer: gpt2.Block, rank: int, ranks: int, d: int) -> gpt2.Block:
    """One rank's share of a layer: its heads' columns of Q, K, V and rows of the output, its part of the inner width; biases once."""
    inner = layer.feed_forward_in.bias.shape[0]
    heads, part = (
        slice(rank * d // ranks, (rank + 1) * d // ranks),
        slice(rank * inner // ranks, (rank + 1) * inner // ranks),
    )
    xp = namespace(layer.query_key_value.weight)

    def columns(array: Any) -> Any:
        return xp.concat([array[..., i * d : (i + 1) * d][..., heads] for i in range(3)], axis=-1)

    return layer._replace(
        query_key_value=gpt2.Linear(columns(layer.query_key_value.weight), columns(layer.query_key_value.bias)),
        attention_output=layer.attention_output._replace(weight=layer.attention_output.weight[heads, :]),
        feed_forward_in=gpt2.Linear(layer.feed_forward_in.weight[:, part], layer.feed_forward_in.bias[part]),
        feed_forward_out=layer.feed_forward_out._replace(weight=layer.feed_forward_out.weight[part, :]),
    )


def _split_logits(weights: gpt2.GPT2Weights, config: gpt2.GPT2Config, ids: Any, heads: int, ranks: int) -> Any:
    """Logits with each layer's products split over ranks by heads and inner width, and summed (Megatron-LM's tensor parallelism)."""
    xp = namespace(weights.token_embedding)
    eps, d = config.layer_norm_epsilon, config.n_embd
    x = gpt2.hidden_states(weights, config, ids)[0]
    mask = causal_mask(x.shape[1], x.shape[1], xp=xp, device=device_of(x))
    for layer in weights.blocks:
        shares = [_rank(layer, rank, ranks, d) for rank in range(ranks)]
        normed, total = layer_norm(x, *layer.attention_norm, eps), layer.attention_output.bias
        for share in shares:
            qkv = share.query_key_value(normed)
            q, k, v = (
                split_heads(qkv[..., i * (d // ranks) : (i + 1) * (d // ranks)], heads // ranks) for i in range(3)
            )
            mixed = merge_heads(scaled_dot_product_attention(q, k, v, mask=mask)[0])
            total = total + xp.matmul(mixed, share.attention_output.weight)
        x = x + total
        normed, total = layer_norm(x, *layer.feed_forward_norm, eps), layer.feed_forward_out.bias
        for share in shares:
            total = total + xp.matmul(gelu(share.feed_forward_in(normed), "tanh"), share.feed_forward_out.weight)
        x = x + total
    return xp.matmul(layer_norm(x, *weights.final_norm, eps), xp.matrix_transpose(weights.token_embedding))


@claim(
    "GPT2-5",
    "splitting the weights over ranks, by heads and by inner width, and summing changes nothing but rounding",
    source="M. Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3; the published shards of CPM-LM",
    method="3 ranks, 2 x 8 tokens: ball enclosures of radius < 1e-20 meet; floats within two sampled budgets",
    expected="not refuted",
    cases=2 * 8 * 61,
)
def _ranks(setting: Setting) -> Outcome:
    config, _ = _tiny()
    ids = _ids(config, (2, 8), setting.seed)

    def both(weights: gpt2.GPT2Weights, place: Callable[[Any], Any]) -> tuple[Any, Any]:
        split = _split_logits(weights, config, place(ids), config.n_head, 3)
        return gpt2.logits(weights, config, place(ids)), split

    return _equality(setting, both, ids, "split and whole")


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
