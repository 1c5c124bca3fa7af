"""Mutants of the backward passes of a layer of GPT-2 and of a layer of BERT, all parameters included."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.backwards import joined
from validation.layers import PARAMETERS
from validation.mutants import layers as steps
from validation.mutants.backward_attentions import NARROW
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _swap(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _flat(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


def _mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


def _every_token(x: Any) -> Any:
    return x


def _first_sequence(x: Any) -> Any:
    return x[:1]


def _last_token(x: Any) -> Any:
    return x[:, -1:]


def _linear_back(x: Any, weight: Any, bar: Any, over: Any, *, turned: bool = True) -> tuple[Any, Any, Any]:
    """x̄, W̄ and b̄, the last two of the tokens of `over`."""
    back = weight.T if turned or weight.shape[0] != weight.shape[1] else weight
    return bar @ back, _flat(over(x)).T @ _flat(over(bar)), _flat(over(bar)).sum(0)


class _Norm:
    """A layer norm, forwards and backwards."""

    def __init__(self, x: Any, scale: Any, bias: Any, eps: float, *, outside: bool = False) -> None:
        centred = x - _mean(x)
        variance = _mean(centred**2)
        self.deviation = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
        self.z, self.scale = centred / self.deviation, scale
        self.y = self.z * scale + bias

    def back(
        self, bar: Any, over: Any, *, centre: bool = True, along: bool = True, scaled: bool = True
    ) -> tuple[Any, Any, Any]:
        g = bar * self.scale if scaled else bar
        left = g - (_mean(g) if centre else 0) - (self.z * _mean(g * self.z) if along else 0)
        return left / self.deviation, _flat(over(bar * self.z)).sum(0), _flat(over(bar)).sum(0)


def _tanh_slope(x: Any) -> Any:
    root = math.sqrt(2 / math.pi)
    t = np.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * root * (1 + 3 * 0.044715 * x**2) * (1 - t**2) / 2


def _erf_slope(x: Any) -> Any:
    return scipy.special.ndtr(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _weights(scores: Any, seen: Any) -> Any:
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _inner(p: Any, p_bar: Any) -> Any:
    return (p * p_bar).sum(-1, keepdims=True)


def _layer(
    x: Any,
    mask: Any,
    previous: Any,
    rest: tuple[Any, ...],
    heads: int,
    eps: float,
    *,
    pre: bool,
    triangle: Any,
    activation: Any,
    slope: Any,
    visible: Any = steps.keys,
    norms: dict[str, Any] | None = None,
    forward: dict[str, Any] | None = None,
    added: Any = lambda scores, earlier: scores + earlier,
    split: Any = steps.split,
    saved: Any = None,
    centre: Any = _inner,
    root: Any = math.sqrt,
    k_across: Any = _swap,
    v_across: Any = _swap,
    columns: Any = lambda q, k, v: (q, k, v),
    turned: bool = True,
    around_attention: bool = True,
    around_feed_forward: bool = True,
    attention: float = 1.0,
    feed_forward: float = 1.0,
    at_padding: Any = lambda bar, mask: bar * mask[..., None],
    over: Any = _every_token,
    finish: Any = None,
) -> Any:
    w = dict(zip(PARAMETERS, rest[:-1], strict=True))
    bar, found = at_padding(rest[-1], mask), dict[str, Any]()
    seen, given, options = triangle(x.shape[1]) & visible(mask), forward or {}, norms or {}

    def norm(name: str, a: Any) -> _Norm:
        return _Norm(
            a, w[f"{name}_scale"], w[f"{name}_bias"], given.get("eps", eps), outside=given.get("outside", False)
        )

    def norm_back(name: str, made: _Norm, bar: Any) -> Any:
        bar, found[f"{name}_scale"], found[f"{name}_bias"] = made.back(bar, over, **options)
        return bar

    def linear_back(name: str, a: Any, bar: Any, *, turn: bool = True) -> Any:
        weight = w[f"{name}_weight"]
        bar, found[f"{name}_weight"], found[f"{name}_bias"] = _linear_back(a, weight, bar, over, turned=turn)
        return bar

    def attend(a: Any) -> tuple[Any, Callable[[Any], Any]]:
        qkv = a @ w["query_key_value_weight"] + w["query_key_value_bias"]
        q, k, v = (split(part, heads) for part in np.split(qkv, 3, axis=-1))
        divisor = root(q.shape[-1])
        p = _weights(added(q @ _swap(k) / math.sqrt(q.shape[-1]), previous), seen)
        p = saved(p) if saved else p
        mixed = steps.merge(p @ v)

        def back(bar: Any) -> Any:
            mixed_bar = steps.split(linear_back("attention_output", mixed, bar, turn=turned), heads)
            p_bar = mixed_bar @ _swap(v)
            s_bar = p * (p_bar - centre(p, p_bar))
            found["previous_scores"] = s_bar
            bars = columns(s_bar @ k / divisor, k_across(s_bar) @ q / divisor, v_across(p) @ mixed_bar)
            return linear_back("query_key_value", a, np.concatenate([steps.merge(each) for each in bars], axis=-1))

        return mixed @ w["attention_output_weight"] + w["attention_output_bias"], back

    def feed(a: Any) -> tuple[Any, Callable[[Any], Any]]:
        inner = a @ w["feed_forward_in_weight"] + w["feed_forward_in_bias"]
        active = activation(inner)

        def back(bar: Any) -> Any:
            active_bar = linear_back("feed_forward_out", active, bar)
            return linear_back("feed_forward_in", a, active_bar * slope(inner))

        return active @ w["feed_forward_out_weight"] + w["feed_forward_out_bias"], back

    if pre:
        first = norm("attention_norm", x)
        mixed, mixed_back = attend(first.y)
        second = norm("feed_forward_norm", x + mixed)
        _, fed_back = feed(second.y)
        bar = bar * around_feed_forward + feed_forward * norm_back("feed_forward_norm", second, fed_back(bar))
        bar = bar * around_attention + attention * norm_back("attention_norm", first, mixed_back(bar))
    else:
        mixed, mixed_back = attend(x)
        first = norm("attention_norm", x + mixed)
        fed, fed_back = feed(first.y)
        bar = norm_back("feed_forward_norm", norm("feed_forward_norm", first.y + fed), bar)
        bar = norm_back("attention_norm", first, bar * around_feed_forward + feed_forward * fed_back(bar))
        bar = bar * around_attention + attention * mixed_back(bar)
    found = {"x": bar, **found}
    return finish(found) if finish else found


def _gpt2(x: Any, mask: Any, *rest: Any, heads: int, eps: float, **replaced: Any) -> Any:
    chosen = {"pre": True, "triangle": steps.causal, "activation": steps.gelu, "slope": _tanh_slope} | replaced
    found = _layer(x, mask, 0, rest, heads, eps, **chosen)
    return joined(found[name] for name in ("x", *PARAMETERS))


def _bert(x: Any, mask: Any, previous_scores: Any, *rest: Any, heads: int, eps: float, **replaced: Any) -> Any:
    chosen = {"pre": False, "triangle": steps.every, "activation": steps.erf_gelu, "slope": _erf_slope} | replaced
    found = _layer(x, mask, previous_scores, rest, heads, eps, **chosen)
    return joined(found[name] for name in ("x", "previous_scores", *PARAMETERS))


# --- what is replaced ---------------------------------------------------------------------------------------------------------


def _padded(case: Case) -> bool:
    return not bool(case.arrays[1].all())


def _two(case: Case) -> bool:
    return len(case.arrays[0]) > 1


def _has_scores(case: Case) -> bool:
    return bool(np.any(case.arrays[2]))


def _changed(name: str, change: Any) -> Any:
    return lambda found: found | {name: change(found[name])}


def _averaged(found: dict[str, Any]) -> dict[str, Any]:
    """Every parameter's divided by the number of tokens."""
    tokens = found["x"].shape[0] * found["x"].shape[1]
    return {name: bar / tokens if name in PARAMETERS else bar for name, bar in found.items()}


def _without(*names: str) -> Any:
    return lambda found: found | {name: 0 * found[name] for name in names}


def _innermost(x: Any, heads: int) -> Any:
    return steps.split_innermost(x, heads)


def _common(of: Any) -> tuple[Mutant, ...]:
    """The mistakes that can be made in either layer."""
    return (
        of("residual around attention not gone back", "gradient-dropped", around_attention=False),
        of("residual around the feed-forward layer not gone back", "gradient-dropped", around_feed_forward=False),
        of("nothing through attention", "gradient-dropped", attention=0.0),
        of("nothing through the feed-forward layer", "gradient-dropped", feed_forward=0.0),
        of("means of the norms constant", "gradient-dropped", norms={"centre": False}),
        of("variances of the norms constant", "gradient-dropped", norms={"along": False}),
        of("scale of the norms left out", "parameter-ignored", norms={"scaled": False}),
        of("eps 1e-3", "wrong-eps", dtypes=LONG, forward={"eps": 1e-3}),
        of("eps outside the root", "eps-outside-root", dtypes=LONG, forward={"outside": True}),
        of("slope of ReLU", "wrong-activation", slope=lambda x: x > 0),
        of("GELU itself for its slope", "chain-rule", slope=steps.gelu),
        of("GELU not gone back through", "chain-rule", slope=lambda x: 1),
        of("1/√w left out of q̄ and k̄", "missing-scale", root=lambda w: 1.0),
        of("1/w for 1/√w", "wrong-scale", root=float),
        of("Σ P P̄ left out", "missing-term", centre=lambda p, p_bar: 0),
        of("Σ P P̄ over queries", "wrong-axis", centre=lambda p, p_bar: (p * p_bar).sum(-2, keepdims=True)),
        of("k̄ by S̄, not S̄ᵀ", "transposed", k_across=lambda s: s),
        of("v̄ by P, not Pᵀ", "transposed", v_across=lambda p: p),
        of("q̄ and k̄ exchanged", "exchanged", columns=lambda q, k, v: (k, q, v)),
        of("v, k, q for q, k, v", "exchanged", columns=lambda q, k, v: (v, k, q)),
        of("heads innermost", "head-order", split=_innermost),
        of("output weight of attention not transposed", "transposed", turned=False),
        of(
            "cotangent of the output weight transposed",
            "transposed",
            finish=_changed("attention_output_weight", lambda bar: bar.T),
        ),
        of("parameters of the first sequence alone", "not-summed", seen=_two, over=_first_sequence),
        of("parameters of the last token alone", "not-summed", over=_last_token),
        of("parameters averaged over tokens", "wrong-count", finish=_averaged),
        of(
            "norms get nothing",
            "gradient-dropped",
            finish=_without(*(name for name in PARAMETERS if "norm" in name)),
        ),
        of("biases get nothing", "gradient-dropped", finish=_without(*(n for n in PARAMETERS if n.endswith("bias")))),
        of("cotangents at padding", "mask-ignored", seen=_padded, at_padding=lambda bar, mask: bar),
        of("padding seen", "mask-ignored", seen=_padded, visible=lambda mask: steps.keys(np.ones_like(mask))),
        of("P kept in bfloat16", "low-precision", dtypes=LONG, saved=in_bfloat16),
    )


_of_gpt2 = family("gpt2_block.vjp", _gpt2)
_GPT2 = (
    *_common(_of_gpt2),
    _of_gpt2("slope of the erf form", "erf-for-tanh", dtypes=LONG, slope=_erf_slope),
    _of_gpt2("not causal", "future-leak", triangle=steps.every),
    _of_gpt2("sees the next token", "future-leak", triangle=lambda n: np.tril(steps.every(n), 1)),
    _of_gpt2("post-LN", "norm-placement", pre=False),
    _of_gpt2("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_gpt2)),
    _of_gpt2("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_gpt2)),
)

_of_bert = family("bert_block.vjp", _bert)
_BERT = (
    *_common(_of_bert),
    _of_bert("slope of the tanh form", "tanh-for-erf", dtypes=LONG, slope=_tanh_slope),
    _of_bert("causal", "mask-alignment", triangle=steps.causal),
    _of_bert("pre-LN", "norm-placement", pre=True),
    _of_bert(
        "previous scores not added in the recomputed forward",
        "scores-not-accumulated",
        seen=_has_scores,
        added=lambda scores, earlier: scores,
    ),
    _of_bert("previous scores get nothing", "gradient-dropped", finish=_without("previous_scores")),
    _of_bert(
        "previous scores get S̄/√w", "wrong-scale", finish=_changed("previous_scores", lambda bar: bar / math.sqrt(2))
    ),
    _of_bert("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_bert)),
    _of_bert("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_bert)),
)

MUTANTS: tuple[Mutant, ...] = _GPT2 + _BERT
TWINS: dict[str, Callable[..., Any]] = {"gpt2_block.vjp": wide(_gpt2), "bert_block.vjp": wide(_bert)}
