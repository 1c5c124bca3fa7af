"""Other people's implementations, and what the report says of each: *equals dialect X to Y; departs from the paper by Z because W*.

Their answers were recorded by the scripts in `validation/oracles/`, or outside this repository, and are read back here.

*Equals.* Where the implementation computed in float64, every recorded array is held to `RELATIVE` of its largest magnitude. Where numbers were
stored in float32, each may be off by its own last rounding besides, 2^-24 of its magnitude. Where it computed in float32, the bound is derived:
twice `tolerance.proved_budget`, the first-order radius of the definition's own operations at float32, once for each of two orders of operations; or
what the comment beside it derives.

*Departs.* The distance of the recorded answer from the paper's, as a part of the paper's largest magnitude. That the reason given is the reason, and
all of it, is checked: the dialect with that convention taken back has to equal the paper's definition, again to `RELATIVE`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import refimpl
import weights_io
from refimpl import attention, bert, blocks, favor, softmax, taylor
from refimpl.linear_attention import linear_attention, weighted_mean
from refimpl.normalization import layer_norm
from refimpl.parameters import Block, Linear, Norm
from refimpl.positions import extend
from validation import components, tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.claims.registry import Setting

__all__ = ["PEERS", "RELATIVE", "Answer", "Comparison", "Departure", "Peer", "compare", "markdown"]

RELATIVE = 1e-12  # of the largest magnitude: what float64 answers are held to
UNIT32 = 2.0**-24
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A recorded array beside the definition's; `allowed` besides `RELATIVE` of the largest magnitude, where it was not computed in float64."""

    name: str
    got: Any
    recorded: Any
    allowed: Any = 0.0

    @property
    def distance(self) -> float:
        """The largest difference, as a part of the largest recorded magnitude."""
        return _distance(self.got, self.recorded)

    @property
    def multiple(self) -> float:
        """The largest difference as a multiple of what is allowed; infinite where shapes differ, NaN where an answer is NaN."""
        if self.got.shape != self.recorded.shape:
            return float("inf")
        bound = RELATIVE * np.max(np.abs(self.recorded)) + self.allowed
        return float(np.max(np.abs(self.got - self.recorded) / bound))


@dataclass(frozen=True)
class Departure:
    """Where a recorded answer is not the paper's: on what, by how much and because of what; `restored` is the dialect without that convention."""

    case: str
    because: str
    recorded: Any
    paper: Any
    restored: Any

    @property
    def distance(self) -> float:
        """Of the recorded answer from the paper's, as a part of the paper's largest magnitude."""
        return _distance(self.recorded, self.paper)

    @property
    def explained(self) -> float:
        """Of the restored answer from the paper's: 0 but for rounding, if the reason is the whole reason."""
        return _distance(self.restored, self.paper)


@dataclass(frozen=True)
class Comparison:
    """All that was compared for one implementation."""

    answers: tuple[Answer, ...]
    departures: tuple[Departure, ...] = ()

    @property
    def cases(self) -> int:
        """How many recorded numbers were compared."""
        return sum(answer.recorded.size for answer in self.answers)

    @property
    def equals(self) -> float:
        """The largest distance from the dialect among the answers computed and stored in float64, or among all, if there are none."""
        exact = [answer.distance for answer in self.answers if np.ndim(answer.allowed) == 0 and answer.allowed == 0]
        return float(np.max(exact or [answer.distance for answer in self.answers]))

    @property
    def multiple(self) -> float:
        """The worst of all answers and reasons, as a multiple of what is allowed."""
        reasons = [departure.explained / RELATIVE for departure in self.departures]
        return float(np.max([*(answer.multiple for answer in self.answers), *reasons]))

    @property
    def worst(self) -> str:
        """The name of the answer, or the case of the reason, that `multiple` is of."""
        named = [(answer.multiple, answer.name) for answer in self.answers]
        named += [(departure.explained / RELATIVE, f"reason for {departure.case}") for departure in self.departures]
        return max(named, key=lambda pair: (np.isnan(pair[0]), pair[0]))[1]

    def line(self, dialect: str) -> str:
        """Equals dialect X to Y; departs from the paper by Z because W."""
        reasons: dict[str, list[str]] = {}
        for each in self.departures:
            if not each.distance <= RELATIVE:
                reasons.setdefault(each.because, []).append(f"{each.distance:.1e} ({each.case})")
        said = [f"by {', '.join(by)} because {because}" for because, by in reasons.items()]
        apart = "; ".join(said) if said else "in nothing that was recorded"
        return f"equals {dialect} to {self.equals:.1e}; departs from the paper {apart}"


@dataclass(frozen=True)
class Peer:
    """One implementation, in one version: which dialect it should equal, and how that is compared."""

    id: str
    name: str  # and version
    what: str
    dialect: str
    compare: Callable[[Setting, Path], Comparison]
    cases: int | None  # announced; None: recorded outside the package
    folder: str

    @property
    def outside(self) -> bool:
        """Whether its answers are kept outside the package."""
        return self.cases is None


def _distance(x: Any, y: Any) -> float:
    if x.shape != y.shape:
        return float("inf")
    return float(np.max(np.abs(x - y)) / np.max(np.abs(y)))


def _recorded(folder: Path) -> Arrays:
    return dict(weights_io.open(folder / "answers.safetensors"))


def _stored(recorded: Any) -> Any:
    """What an array may be off by for having been stored in float32."""
    return UNIT32 * np.abs(recorded.astype(np.float64)) if recorded.dtype == np.float32 else 0.0


# ----------------------------------------------------------------------------------------------------------------- FAVOR+


def _favor(setting: Setting) -> Callable[..., Any]:
    """favor_attention on the backend, from NumPy and to NumPy."""

    def run(q: Any, k: Any, v: Any, projection: Any, mask: Any = None, **options: Any) -> Any:
        q, k, v = map(setting.backend.asarray, (q, k, v))
        given = None if projection is None else setting.backend.asarray(projection)
        seen = None if mask is None else setting.backend.asarray(mask)
        return setting.backend.to_numpy(favor.favor_attention(q, k, v, given, mask=seen, **options))

    return run


def _features(setting: Setting, features: favor.Features, x: Any, projection: Any, shift: Any) -> Any:
    """The public feature functions by a dialect's conventions."""
    options: Arrays = {"scaled": features.scaled, "normalized": features.normalized}
    options |= {"shift": shift} if features.map != "relu" else {}
    options |= {"epsilon": features.epsilon} if features.map in ("relu", "positive") else {}
    functions = {
        "positive": favor.positive_features,
        "relu": favor.relu_features,
        "trigonometric": favor.trigonometric_features,
        "hyperbolic": favor.hyperbolic_features,
    }
    place = setting.backend.asarray
    found = functions[features.map](place(x), None if projection is None else place(projection), **options)
    return setting.backend.to_numpy(found)


def _without(dialect: str, kernel: str, features: Arrays | None = None, **conventions: Any) -> favor.Dialect:
    """The dialect with some conventions of a kernel, and of its own, taken back."""
    named = favor.dialects[dialect]
    kernels = dict(named.kernels) | {kernel: dataclasses.replace(named.kernels[kernel], **(features or {}))}
    return dataclasses.replace(named, kernels=kernels, **conventions)


SCALES = {"unit": 1.0, "big": 4.0}
WORDS = {"unit": "unit scale", "big": "x 4", "both": "both ways", "causal": "causal", "bi": "both ways"}


def _kernel_answers(
    setting: Setting, a: Arrays, dialect: str, kernels: tuple[str, ...] = ("softmax", "relu")
) -> list[Answer]:
    """Features first, then attention: both scales, every kernel, both directions; "bare" is ReLU without a projection."""
    run, found = _favor(setting), []
    for case, scale in SCALES.items():
        for kernel in kernels:
            named, projection = ("relu", None) if kernel == "bare" else (kernel, a["projection"])
            features = favor.dialects[dialect].kernels[named]
            for end, x, shift in (("query", a["q"], features.query_shift), ("key", a["k"], features.key_shift)):
                got = _features(setting, features, scale * x, projection, shift)
                found.append(Answer(f"{case}_{kernel}_{end}", got, a[f"{case}_{kernel}_{end}"]))
            for direction in ("both", "causal"):
                key = f"{case}_{kernel}_{direction}"
                options = {"causal": direction == "causal", "dialect": dialect, "kernel": named}
                got = run(scale * a["q"], scale * a["k"], a["v"], projection, **options)
                found.append(Answer(key, got, a[key]))
    return found


def _float32_answers(
    setting: Setting, a: Arrays, dialect: str, kernels: tuple[str, ...] = ("softmax", "relu")
) -> list[Answer]:
    """What the unedited code answered in float32, at unit scale: the first row of the batch, against twice the proved budget."""
    run, found = _favor(setting), []
    inputs = [a[name][:1] if a[name].ndim == 4 else a[name] for name in ("q", "k", "v", "projection")]
    rounded = [each.astype(np.float32).astype(np.float64) for each in inputs]
    for kernel in kernels:
        for direction in ("both", "causal"):
            options: Arrays = {"causal": direction == "causal", "dialect": dialect, "kernel": kernel}
            budget = tolerance.proved_budget(favor.favor_attention, *rounded, dtype="float32", **options)
            recorded = a[f"float32_unit_{kernel}_{direction}"][:1]
            allowed = 2 * budget + UNIT32 * np.abs(recorded)
            found.append(Answer(f"float32_unit_{kernel}_{direction}", run(*rounded, **options), recorded, allowed))
    return found


def _kernel_departure(
    setting: Setting, a: Arrays, case: str, kernel: str, direction: str, restored: favor.Dialect, because: str
) -> Departure:
    run, scale, causal = _favor(setting), SCALES[case], direction == "causal"
    arrays = (scale * a["q"], scale * a["k"], a["v"], a["projection"])
    paper = run(*arrays, causal=causal, kernel=kernel)
    back = run(*arrays, causal=causal, kernel=kernel, dialect=restored)
    label = f"{kernel}, {WORDS[direction]}, {WORDS[case]}"
    return Departure(label, because, a[f"{case}_{kernel}_{direction}"], paper, back)


def _performer_pytorch(setting: Setting, folder: Path) -> Comparison:
    a, name = _recorded(folder), "performer-pytorch"
    answers = _kernel_answers(setting, a, name)
    layers, departures = _performer_layer(setting, a)
    bare = _without(name, "softmax", {"epsilon": 0.0}, causal_denominator="bare")
    unscaled = _without(name, "relu", {"scaled": False}, causal_denominator="bare")
    epsilon = "1e-4 is added to every feature"
    departures = [
        _kernel_departure(setting, a, "unit", "softmax", "both", bare, epsilon),
        _kernel_departure(setting, a, "big", "softmax", "both", bare, epsilon),
        _kernel_departure(setting, a, "unit", "softmax", "causal", bare, epsilon + " and 1e-6 to every sum of keys"),
        _kernel_departure(setting, a, "unit", "relu", "both", unscaled, "inputs of ReLU are scaled by d^-1/4"),
        *departures,
    ]
    return Comparison((*answers, *layers), tuple(departures))


def _performer_layer(setting: Setting, a: Arrays) -> tuple[list[Answer], list[Departure]]:
    """SelfAttention with its linear layers. Its mask sets values to zero and leaves their keys in the denominator: so does this."""
    run, real, name = _favor(setting), a["layer_mask"].astype(bool), "performer-pytorch"
    q, k, v = (_heads(a["layer_x"] @ a[f"layer_{each}"].T, 2) for each in ("to_q", "to_k", "to_v"))
    answers = []
    for direction in ("both", "causal"):
        options: Arrays = {"causal": direction == "causal", "dialect": name}
        for key, values in ((f"layer_{direction}", v), (f"layer_{direction}_masked", v * real[:, None, :, None])):
            answers.append(Answer(key, _out(a, run(q, k, values, a["layer_projection"], **options)), a[key]))
    options = {"dialect": name}
    removed = run(q[1:], k[1:, :, real[1]], v[1:, :, real[1]], a["layer_projection"], **options)
    hidden = run(q[1:], k[1:], v[1:], a["layer_projection"], real[1:, None, :], **options)
    because = "only the values of masked keys are zeroed, the keys stay in the denominator"
    departures = [Departure("mask", because, a["layer_both_masked"][1:], _out(a, hidden), _out(a, removed))]
    return answers, departures


def _heads(x: Any, heads: int) -> Any:  # (batch, n, h w) -> (batch, h, n, w)
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def _out(a: Arrays, mixed: Any) -> Any:
    return _merged(mixed) @ a["layer_to_out"].T + a["layer_to_out_bias"]


def _merged(x: Any) -> Any:  # (batch, h, n, w) -> (batch, n, h w)
    return np.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)


def _tf_models(setting: Setting, folder: Path) -> Comparison:
    a, name = _recorded(folder), "tf-models"
    answers, run = _kernel_answers(setting, a, name), _favor(setting)
    inputs = tuple(a[each] for each in ("q", "k", "v", "projection"))
    low, high = (a[f"mask_{each}"].astype(bool)[:, None, :] for each in ("low", "high"))
    masked = run(*inputs, low, dialect=name)
    answers.append(Answer("mask_low", masked, a["unit_softmax_both_mask_low"]))
    answers.append(Answer("mask_high", _late_mask(setting, a, high, 1e-6), a["unit_softmax_both_mask_high"]))
    answers += _float32_answers(setting, a, name)
    added = "1e-6 is added to the denominator, below a maximum over the whole batch row"
    bare = _without(name, "softmax", denominator="bare", causal_denominator="bare")
    unscaled = _without(name, "relu", {"scaled": False}, denominator="bare", causal_denominator="bare")
    late = "masked keys enter the maximum, and 1e-6 is added to the denominator"
    departures = (
        _kernel_departure(setting, a, "unit", "softmax", "both", bare, added),
        _kernel_departure(setting, a, "unit", "softmax", "causal", bare, added),
        _kernel_departure(
            setting,
            a,
            "big",
            "softmax",
            "both",
            bare,
            "the denominators vanish beside that 1e-6, and the output with them",
        ),
        _kernel_departure(setting, a, "unit", "relu", "both", unscaled, "inputs of ReLU are scaled by d^-1/4"),
        Departure(
            "mask", late, a["unit_softmax_both_mask_high"], run(*inputs, high), _late_mask(setting, a, high, 0.0)
        ),
    )
    return Comparison(tuple(answers), departures)


def _late_mask(setting: Setting, a: Arrays, mask: Any, added: float) -> Any:
    """Softmax features whose maximum is over all keys, of which the masked ones are then left out; `added` to the denominator."""
    place = setting.backend.asarray
    q, k, v, projection = (place(a[name]) for name in ("q", "k", "v", "projection"))
    options: Arrays = {"scaled": True, "shift": "sequence"}
    of_q, of_k = (favor.positive_features(x, projection, **options) for x in (q, k))
    numerators, denominators = linear_attention(of_q, of_k, v, q_map=lambda x: x, k_map=lambda x: x, mask=place(mask))
    return setting.backend.to_numpy(weighted_mean(numerators, denominators + added, None))


def _google_tf(setting: Setting, folder: Path) -> Comparison:
    a, name = _recorded(folder), "google-tf"
    answers = [*_kernel_answers(setting, a, name, ("softmax", "relu", "bare")), *_float32_answers(setting, a, name)]
    exact, outside = _without(name, "softmax", {"epsilon": 0.0}), _without(name, "relu", {"normalized": True})
    added, root = "1e-6 is added to every feature", "the root of m divides inside ReLU, and 1e-3 is added after it"
    departures = [
        _kernel_departure(setting, a, case, "softmax", direction, exact, added)
        for case, direction in (("unit", "both"), ("unit", "causal"), ("big", "both"))
    ]
    departures += [_kernel_departure(setting, a, "unit", "relu", each, outside, root) for each in ("both", "causal")]
    return Comparison(tuple(answers), tuple(departures))


def _fast_transformers(setting: Setting, folder: Path) -> Comparison:
    a, name, run, kernels = _recorded(folder), "fast-transformers", _favor(setting), ("softmax", "stabilized", "relu")
    answers = [*_kernel_answers(setting, a, name, kernels), *_float32_answers(setting, a, name, kernels)]
    inputs, seen = tuple(a[each] for each in ("q", "k", "v", "projection")), a["mask"].astype(bool)[:, None, :]
    for direction in ("both", "causal"):
        key, causal = f"unit_softmax_{direction}_masked", direction == "causal"
        answers.append(Answer(key, run(*inputs, seen, causal=causal, dialect=name), a[key]))
        key = f"unit_stabilized_{direction}_masked"
        answers.append(Answer(key, _late_norm(setting, a, seen, 1e-6, causal=causal), a[key]))
    answers += _fourier(setting, a)
    bare = {"denominator": "bare", "causal_denominator": "bare"}
    positive = _without(name, "softmax", {"map": "positive"}, **bare)
    raised = _without(name, "relu", {"epsilon": 1e-3}, **bare)
    other = "features are hyperbolic, another estimate from the same draws, and 1e-6 is added to the denominator"
    zero = "nothing is added to ReLU, and 1e-6 to the denominator"
    departures = [
        _kernel_departure(setting, a, case, "softmax", direction, positive, other)
        for case, direction in (("unit", "both"), ("unit", "causal"), ("big", "both"))
    ]
    departures += [_kernel_departure(setting, a, "unit", "relu", each, raised, zero) for each in ("both", "causal")]
    return Comparison(tuple(answers), (*departures, *_stabilized_departures(setting, a, inputs, seen)))


def _stabilized_departures(setting: Setting, a: Arrays, inputs: tuple[Any, ...], seen: Any) -> list[Departure]:
    """From the paper's attention with the same features, hyperbolic ones: what 1e-6 beside shifted features does."""
    run, name, found = _favor(setting), "fast-transformers", []
    bare = _without(name, "stabilized", denominator="bare", causal_denominator="bare")
    because = "1e-6 is added to a denominator that subtracting the maximum of abs(x')² has made small"
    for case, scale in SCALES.items():
        q, k, v, projection = (scale * inputs[0], scale * inputs[1], *inputs[2:])
        paper = run(q, k, v, projection, kernel="hyperbolic")
        restored = run(q, k, v, projection, kernel="stabilized", dialect=bare)
        label = f"stabilized against hyperbolic, {WORDS['both']}, {WORDS[case]}"
        found.append(Departure(label, because, a[f"{case}_stabilized_both"], paper, restored))
    late = "masked keys enter that maximum, and 1e-6 is added to the denominator"
    hidden, restored = run(*inputs, seen, kernel="hyperbolic"), _late_norm(setting, a, seen, 0.0)
    return [*found, Departure("stabilized, mask", late, a["unit_stabilized_both_masked"], hidden, restored)]


def _late_norm(setting: Setting, a: Arrays, mask: Any, added: float, *, causal: bool = False) -> Any:
    """Stabilized features, whose maximum of |x'|² is over all keys, of which the masked ones are then left out; `added` to the denominator."""
    place = setting.backend.asarray
    q, k, v, projection = (place(a[name]) for name in ("q", "k", "v", "projection"))
    of_q, of_k = (favor.hyperbolic_features(x, projection, scaled=True, shift="norm") for x in (q, k))
    same: Arrays = {"q_map": lambda x: x, "k_map": lambda x: x, "mask": place(mask), "causal": causal}
    numerators, denominators = linear_attention(of_q, of_k, v, **same)
    return setting.backend.to_numpy(weighted_mean(numerators, denominators + added, None))


def _fourier(setting: Setting, a: Arrays) -> list[Answer]:
    """Its two maps for the Gaussian kernel exp(-|x'-y'|²/2) = E φ(x)·φ(y): trigonometric features times exp(-h), cosines first; and a constant."""
    place, k = setting.backend.asarray, a["k"][:1]
    waves = setting.backend.to_numpy(favor.trigonometric_features(place(k), place(a["projection"]), scaled=True))
    h = np.sum(k * k, axis=-1, keepdims=True) / np.sqrt(k.shape[-1]) / 2
    turned = np.roll(np.exp(-h) * waves, len(a["projection"]), axis=-1)
    smoothed = np.concatenate([turned, np.full_like(h, 0.5)], axis=-1)
    return [Answer("rff_key", turned, a["rff_key"]), Answer("smoothed_key", smoothed, a["smoothed_key"])]


def _google_jax(setting: Setting, folder: Path) -> Comparison:
    """Recorded outside: float64 runs on float32 inputs, some arrays stored in float32."""
    given, recorded, run = np.load(folder / "inputs.npz"), np.load(folder / "google_jax.npz"), _favor(setting)
    dialect, answers, unit = favor.dialects["google-jax"], [], {}
    kernels = {"softmax": "softmax", "relu_proj": "relu", "relu_det": "relu", "sincos": "trigonometric"}
    for case in ("unit", "big"):
        q, k, v, drawn = (given[f"{case}_{name}"].astype(np.float64) for name in ("q", "k", "v", "proj"))
        for name, kernel in kernels.items():
            projection, features = None if name == "relu_det" else drawn, dialect.kernels[kernel]
            for end, x, shift in (("qp", q, features.query_shift), ("kp", k, features.key_shift)):
                key = f"{case}_{name}_{end}"
                if key in recorded:
                    got = _features(setting, features, x, projection, shift)
                    got = (
                        np.roll(got, len(drawn), axis=-1) if kernel == "trigonometric" else got
                    )  # its order is cos, sin
                    answers.append(Answer(key, got, recorded[key], _stored(recorded[key])))
            for end in ("bi", "causal"):
                key = f"{case}_{name}_{end}"
                if key in recorded:
                    options = {"causal": end == "causal", "dialect": "google-jax", "kernel": kernel}
                    answers.append(Answer(key, run(q, k, v, projection, **options), recorded[key]))
        unit[case] = (q, k, v, drawn)
    added = ("1e-6 is added to every feature", "1e-6 is added to every feature, and 2e-6 to denominators below 1e-6")
    restored = _without("google-jax", "softmax", {"epsilon": 0.0}, denominator="bare", causal_denominator="bare")
    departures = [
        Departure(
            f"softmax, {WORDS[end]}, {WORDS[case]}",
            added[case == "big"],
            recorded[f"{case}_softmax_{end}"],
            run(*unit[case], causal=end == "causal"),
            run(*unit[case], causal=end == "causal", dialect=restored),
        )
        for case, end in (("unit", "bi"), ("unit", "causal"), ("big", "bi"))
    ]
    return Comparison(tuple(answers), tuple(departures))


def _performer_outside(setting: Setting, folder: Path) -> Comparison:
    """performer-pytorch recorded a second time, on the inputs of Google's code."""
    given, recorded, run = np.load(folder / "inputs.npz"), np.load(folder / "performer_pytorch.npz"), _favor(setting)
    answers, name = [], "performer-pytorch"
    for case in ("unit", "big"):
        q, k, v, drawn = (given[f"{case}_{each}"].astype(np.float64) for each in ("q", "k", "v", "proj"))
        for kernel in ("softmax", "relu"):
            features = favor.dialects[name].kernels[kernel]
            for end, x, shift in (("qp", q, features.query_shift), ("kp", k, features.key_shift)):
                key = f"{case}_{kernel}_{end}"
                got = _features(setting, features, x, drawn, shift)
                answers.append(Answer(key, got, recorded[key], _stored(recorded[key])))
            for end in ("bi", "causal"):
                key, options = f"{case}_{kernel}_{end}", {"causal": end == "causal", "dialect": name, "kernel": kernel}
                answers.append(Answer(key, run(q, k, v, drawn, **options), recorded[key]))
    q, k, v, drawn = (given[f"unit_{each}"].astype(np.float64) for each in ("q", "k", "v", "proj"))
    restored = _without(name, "softmax", {"epsilon": 0.0}, causal_denominator="bare")
    departure = Departure(
        "softmax, both ways, unit scale",
        "1e-4 is added to every feature",
        recorded["unit_softmax_bi"],
        run(q, k, v, drawn),
        run(q, k, v, drawn, dialect=restored),
    )
    return Comparison(tuple(answers), (departure,))


# ------------------------------------------------------------------------------------------------- residual attention


def _x_transformers_block(a: Arrays, number: int, place: Callable[[Any], Any]) -> Block:
    """Its layer in ours: linear ones transposed, queries, keys and values side by side, zeros where it has no bias, 1 more in the norms' scales."""
    prefix = f"layer_{number}_"
    projections = [a[f"{prefix}attention_to_{each}.weight"].T for each in ("q", "k", "v")]
    width = len(a[f"{prefix}attention_norm"])

    def linear(weight: Any, bias: Any) -> Linear:
        return Linear(place(np.ascontiguousarray(weight)), place(bias))

    def norm(name: str) -> Norm:
        return Norm(place(1 + a[f"{prefix}{name}_norm"]), place(np.zeros(width)))

    return Block(
        norm("attention"),
        linear(np.concatenate(projections, axis=1), np.zeros(3 * width)),
        linear(a[f"{prefix}attention_to_out.weight"].T, np.zeros(width)),
        norm("feed_forward"),
        linear(a[f"{prefix}feed_forward_ff.0.0.weight"].T, a[f"{prefix}feed_forward_ff.0.0.bias"]),
        linear(a[f"{prefix}feed_forward_ff.2.weight"].T, a[f"{prefix}feed_forward_ff.2.bias"]),
    )


def _x_transformers(setting: Setting, folder: Path) -> Comparison:
    a, place, back = _recorded(folder), setting.backend.asarray, setting.backend.to_numpy
    layers = [_x_transformers_block(a, number, place) for number in range(4)]
    real = a["mask"].astype(bool)
    triangle = np.tri(real.shape[1], dtype=bool)

    def stack(mask: Any, residual: bool = True) -> Any:
        x, scores, seen = place(a["x"]), None, None if mask is None else place(mask)
        for layer in layers:
            x, attended = blocks.realformer(layer, x, blocks.Form(2, 1e-5), mask=seen, previous_scores=scores)
            scores = attended.scores if residual else None
        return back(x)

    keys = real[:, None, None, :]
    answers = [
        Answer("both", stack(None), a["both"]),
        Answer("causal", stack(triangle), a["causal"]),
        Answer("both_plain", stack(None, residual=False), a["both_plain"]),
        Answer("both_masked", stack(keys)[real], a["both_masked"][real]),
        Answer("causal_masked", stack(keys & triangle)[real], a["causal_masked"][real]),
    ]
    attends, departures = _x_transformers_attend(setting, a)
    return Comparison((*answers, *attends), departures)


def _x_transformers_attend(setting: Setting, a: Arrays) -> tuple[list[Answer], tuple[Departure, ...]]:
    """Three layers of attention on given queries, keys and values, so that no error is handed on but in the scores, which are float64.

    Its own softmax is in float32, u = 2^-24. With S = max |s|: rounding s and subtracting the maximum move an exponent by at most 4 u S, exp may
    err by 2 units in the last place, 4 u; numerator and denominator both, the denominator by n - 1 sums more, one division: relative to a weight
    (8 S + n + 9) u in all, k u / (1 - k u) to every order; times Σ p |v| for the output.
    """
    place, back = setting.backend.asarray, setting.backend.to_numpy
    outputs, scores, sizes, before = [], [], [], None
    for q, k, v in zip(a["attend_q"], a["attend_k"], a["attend_v"], strict=True):
        out, summed = attention.scaled_dot_product_attention(place(q), place(k), place(v), previous_scores=before)
        size, _ = attention.scaled_dot_product_attention(place(q), place(k), place(np.abs(v)), previous_scores=before)
        before = summed
        for kept, each in ((outputs, out), (scores, summed), (sizes, size)):
            kept.append(back(each))
    got, summed = np.stack(outputs), np.stack(scores)
    roundings = (8 * np.max(np.abs(summed)) + summed.shape[-1] + 9) * UNIT32
    allowed = roundings / (1 - roundings) * np.stack(sizes)
    answers = [
        Answer("attend_float64", got, a["attend_float64"]),
        Answer("attend_scores", summed, a["attend_scores"]),
        Answer("attend_float32", got, a["attend_float32"], allowed),
    ]
    because = "softmax is in float32 whatever its inputs are, unless the option for another one is used"
    # the second layer without a mask, after a first one with a mask: as the mask's -1.8e308 is handed on, the second has it too
    (q, k, v), seen = (
        [place(a[f"attend_{name}"][1]) for name in "qkv"],
        place(a["attend_mask"].astype(bool)[:, None, None, :]),
    )
    before = place(summed[0])
    unmasked, masked = (
        back(attention.scaled_dot_product_attention(q, k, v, previous_scores=before, mask=mask)[0])
        for mask in (None, seen)
    )
    answers.append(Answer("attend_after_mask", masked, a["attend_after_mask"]))
    answers.append(Answer("attend_after_mask_clean", unmasked, a["attend_after_mask_clean"]))
    handed, clean = "the scores that are handed on have its mask in them", a["attend_after_mask_clean"]
    return answers, (
        Departure("softmax left as it is", because, a["attend_float32"], got, a["attend_float64"]),
        Departure("no mask after a layer with one", handed, a["attend_after_mask"], unmasked, clean),
    )


# -------------------------------------------------------------------------------------------------------- sparse softmax


def _sparse(setting: Setting, x: Any, k: int) -> Any:
    return setting.backend.to_numpy(softmax.sparse_softmax(setting.backend.asarray(x), k))


def _over(setting: Setting, x: Any, kept: Any) -> Any:
    place = setting.backend.asarray
    return setting.backend.to_numpy(softmax.masked_softmax(place(x), place(kept)))


def _x_transformers_top_k(setting: Setting, folder: Path) -> Comparison:
    a = _recorded(folder)
    x, ties = a["topk_x"], a["topk_x"][6:]
    third = np.sort(ties, axis=-1)[:, -3:-2]
    order = np.argsort(-ties, axis=-1, kind="stable")[:, :3]
    first = np.zeros(ties.shape, bool)
    np.put_along_axis(first, order, True, axis=-1)
    answers = (
        Answer("topk_3, no ties", _sparse(setting, x[:6], 3), a["topk_3"][:6]),
        Answer("topk_3, all ties kept", _over(setting, ties, ties >= third), a["topk_3"][6:]),
        Answer("topk_16", _sparse(setting, x, 16), a["topk_16"]),
    )
    because = "all entries that tie with the k-th are kept; here those of lower index, k in all"
    restored = _over(setting, ties, first)
    return Comparison(answers, (Departure("ties", because, a["topk_3"][6:], _sparse(setting, ties, 3), restored),))


def _jaketae_layer(a: Arrays, number: int) -> dict[str, Any]:
    """The parameters of a layer by our names: its projection holds key, query and value in this order, and its matrices are (out, in)."""
    given = {name.removeprefix(f"layers.{number}."): value for name, value in a.items()}
    matrix, offset = given["attn.kqv_proj.weight"].T, given["attn.kqv_proj.bias"]
    d = matrix.shape[0]
    order = np.concatenate([np.arange(d, 2 * d), np.arange(d), np.arange(2 * d, 3 * d)])
    named = {"query_key_value.weight": matrix[:, order], "query_key_value.bias": offset[order]}
    linear = {"attention_output": "attn.out_proj", "feed_forward_in": "ff.fc1", "feed_forward_out": "ff.fc2"}
    for ours, theirs in linear.items():
        named |= {f"{ours}.weight": given[f"{theirs}.weight"].T, f"{ours}.bias": given[f"{theirs}.bias"]}
    for ours, theirs in {"attention_norm": "norm1", "feed_forward_norm": "norm2"}.items():
        named |= {f"{ours}.scale": given[f"{theirs}.weight"], f"{ours}.bias": given[f"{theirs}.bias"]}
    return named


def _jaketae(setting: Setting, folder: Path) -> Comparison:
    """Four layers of two heads, erf GELU, eps 1e-5; no mask."""
    a, place, back = _recorded(folder), setting.backend.asarray, setting.backend.to_numpy
    x, handed, answers = place(a["x"]), None, []
    for number in range(4):
        arrays = {name: place(np.ascontiguousarray(value)) for name, value in _jaketae_layer(a, number).items()}
        layer = Block.from_named(arrays, "")
        x, seen = blocks.realformer(layer, x, blocks.Form(2, 1e-5), previous_scores=handed)
        handed = seen.scores
        answers.append(Answer(f"hidden_{number}", back(x), a[f"hidden_{number}"]))
        answers.append(Answer(f"scores_{number}", back(handed), a[f"scores_{number}"]))
    return Comparison((*answers, Answer("output", back(x), a["output"])))


def _pytorch_loss(setting: Setting, folder: Path) -> Comparison:
    a, answers = _recorded(folder), []
    for (case, scale), order in itertools.product(SCALES.items(), (2, 4, 6, 8)):
        found = taylor.taylor_softmax(setting.backend.asarray(scale * a["unit"]), order=order)
        got = setting.backend.to_numpy(found)
        answers += [
            Answer(f"{case}_{order}", got, a[f"{case}_{order}"]),
            Answer(f"{case}_{order}_log", np.log(got), a[f"{case}_{order}_log"]),
        ]
    return Comparison(tuple(answers))


def _entmax(setting: Setting, folder: Path) -> Comparison:
    """Not meant to equal: on the k entries it keeps, the k largest, sparsemax is x - τ and 1.5-entmax (x/2 - τ)², where a softmax is exp(x - τ).

    With the k entries from `top_k_selection`, τ follows from the sum of 1: (Σx - 1)/k, and m - √((1 - Σ(x/2 - m)²)/k) with m the mean of x/2.
    """
    a, answers, departures = _recorded(folder), [], []
    for case, scale in SCALES.items():
        for name, because in (("sparsemax", "x - τ"), ("entmax15", "(x/2 - τ)²")):
            x, recorded = scale * a["unit"], a[f"{case}_{name}"]
            counts = np.sum(recorded > 0, axis=-1)
            kept = np.stack([_kept(setting, row, int(k)) for row, k in zip(x, counts, strict=True)])
            sparse = np.stack([_sparse(setting, row, int(k)) for row, k in zip(x, counts, strict=True)])
            k, y = counts[:, None], x if name == "sparsemax" else x / 2
            mean = np.sum(np.where(kept, y, 0), axis=-1, keepdims=True) / k
            spread = np.sum(np.where(kept, (y - mean) ** 2, 0), axis=-1, keepdims=True)
            threshold = mean - (1 / k if name == "sparsemax" else np.sqrt((1 - spread) / k))
            got = np.where(kept, (y - threshold) ** (1 if name == "sparsemax" else 2), 0)
            answers.append(Answer(f"{case}_{name}", got, recorded))
            reason = f"the k largest get {because}, not exp(x - τ): another function, not meant to equal"
            departures.append(
                Departure(f"{name}, {WORDS[case]}", reason, recorded, sparse, _over(setting, x, recorded > 0))
            )
    return Comparison(tuple(answers), tuple(departures))


def _kept(setting: Setting, row: Any, k: int) -> Any:
    return setting.backend.to_numpy(softmax.top_k_selection(setting.backend.asarray(row), k))


def _spaces(setting: Setting, folder: Path) -> Comparison:
    """The mean of the loss over positions that are real and whose next one is too, and its gradient by the logits, (p - onehot)/positions."""
    io, place, answers = np.load(folder / "loss.npz"), setting.backend.asarray, []
    segments, logits, targets = io["segment_ids"], io["logits"][:, :-1], io["token_ids"][:, 1:]
    real = (segments[:, :-1] * segments[:, 1:]).astype(bool)
    given = (place(logits), place(real[..., None]))
    for key, k in (("", 10), ("_k1", 1), ("_k3", 3), ("_k30", 30)):
        loss = softmax.sparse_softmax_cross_entropy(given[0], place(targets), k, mask=given[1])
        mean = np.sum(setting.backend.to_numpy(loss)) / np.sum(real)
        p = setting.backend.to_numpy(softmax.sparse_softmax(given[0], k, mask=given[1]))
        slope = np.where(real[..., None], p - (np.arange(logits.shape[-1]) == targets[..., None]), 0) / np.sum(real)
        answers.append(Answer(f"loss, k = {k}", np.asarray(mean), io[f"seq2seq_loss{key}"]))
        answers.append(Answer(f"gradient, k = {k}", slope, io[f"dlogits{key}"][:, :-1]))
    return Comparison(tuple(answers))


# -------------------------------------------------------------------------------------------------------------------- BERT


def _encoder(setting: Setting, path: Path, **config: Any) -> tuple[bert.BertWeights, bert.BertConfig]:
    model = refimpl.load(path, backend=setting.backend.name, dtype="float64")
    return model.weights, dataclasses.replace(model.config, **config)


def _transformers_bert(setting: Setting, folder: Path) -> Comparison:
    a, place, back = _recorded(folder), setting.backend.asarray, setting.backend.to_numpy
    weights, config = _encoder(setting, folder / "model")
    answers = []
    for prefix, mask in (("", a["mask"].astype(bool)), ("unmasked_", None)):
        seen = None if mask is None else place(mask)
        states = bert.hidden_states(weights, config, place(a["ids"]), place(a["segments"]), mask=seen)
        real = np.ones(a["ids"].shape, bool) if mask is None else mask
        tokens = {"hidden": states[-1], "mlm_logits": bert.masked_lm_logits(weights, config, states[-1])}
        tokens |= {} if prefix else {"hidden_0": states[0], "hidden_1": states[1]}
        texts = {
            "pooled": bert.pooled(weights, states[-1]),
            "nsp_logits": bert.next_sentence_logits(weights, states[-1]),
        }
        answers += [Answer(prefix + name, back(got)[real], a[prefix + name][real]) for name, got in tokens.items()]
        answers += [Answer(prefix + name, back(got), a[prefix + name]) for name, got in texts.items()]
    return Comparison(tuple(answers))


ID_0 = "token id 0 is no key, except at position 0"
ALONE = "a layer adds the scores of the previous layer alone, not of all before it"


def _bert4keras(setting: Setting, folder: Path) -> Comparison:
    a, back, nezha = _recorded(folder), setting.backend.to_numpy, folder.name == "nezha"
    weights, config = _encoder(setting, folder / "model.ckpt", num_attention_heads=2, layer_norm_eps=1e-12)
    texts = setting.backend.asarray(a["ids"]), setting.backend.asarray(a["segments"])
    states = bert.hidden_states(weights, config, *texts, dialect="bert4keras")
    found = dict(zip(("embeddings", "layer_0", "encoder"), states, strict=True))
    found["pooled"] = bert.pooled(weights, states[-1])
    found["nsp_probabilities"] = softmax.softmax(bert.next_sentence_logits(weights, states[-1]))
    found["mlm_logits"] = bert.masked_lm_logits(weights, config, states[-1], dialect="bert4keras")
    answers = tuple(Answer(name, back(got), a[name]) for name, got in found.items())

    def encoded(dialect: Any) -> Any:
        return back(bert.encode(weights, config, *texts, dialect=dialect))

    theirs, paper = bert.dialects["bert4keras"], encoded("huggingface")
    restored = encoded(dataclasses.replace(theirs, masked_key_id=None, relative_eps=1e-12))
    departures = [Departure("texts with id 0", ID_0, a["encoder"], paper, restored)]
    if nezha:  # row 0 has no id 0
        because = "the eps of its layer norms is 1e-7"
        departures.append(Departure("text without id 0", because, a["encoder"][:1], paper[:1], restored[:1]))
    return Comparison(answers, tuple(departures))


def _bert4keras_lm(setting: Setting, folder: Path) -> Comparison:
    io, place, back = np.load(folder / "io.npz"), setting.backend.asarray, setting.backend.to_numpy
    weights, config = _encoder(setting, folder / "model.ckpt", num_attention_heads=4)
    theirs, found = bert.dialects["bert4keras"], {}

    def words(dialect: Any, ids: Any, segments: Any, application: Any) -> Any:
        hidden = bert.encode(weights, config, ids, segments, application=application, dialect=dialect)
        return back(softmax.softmax(bert.masked_lm_logits(weights, config, hidden, dialect=dialect)))

    for application in ("lm", "unilm"):
        given = (place(io[f"{application}_ids"]), place(io[f"{application}_segments"]), application)
        dialects = (theirs, bert.dialects["huggingface"], dataclasses.replace(theirs, masked_key_id=None))
        found[application] = [words(dialect, *given) for dialect in dialects]
    given = (place(io["mlm_ids"]), place(io["mlm_segments"]))
    hidden = bert.encode(weights, config, *given, dialect="bert4keras")
    sentences = softmax.softmax(bert.next_sentence_logits(weights, hidden))
    answers = [Answer(f"{name}_probs", got, io[f"{name}_probs"]) for name, (got, _, _) in found.items()]
    answers.append(Answer("mlm_nsp", back(sentences), io["mlm_nsp"]))
    answers.append(Answer("mlm_probs", words(theirs, *given, "encoder"), io["mlm_probs"], _stored(io["mlm_probs"])))
    departures = [
        Departure(f"{name}, texts with id 0", ID_0, io[f"{name}_probs"], paper, restored)
        for name, (_, paper, restored) in found.items()
    ]
    return Comparison(tuple(answers), tuple(departures))


def carried_scores(setting: Setting, folder: Path) -> tuple[list[Any], Any]:
    """S_1, S_2, .. of the recorded model and texts as bert4keras 0.9.8 runs them, (text, head, query, key), and which keys are masked.

    It also sets the output of attention to zero where a query is masked. At real queries that cannot be seen but in the scores of masked keys.
    """
    a, place = dict(weights_io.open(folder / "answers_0.11.5.safetensors")), setting.backend.asarray
    weights, config = _encoder(setting, folder / "model.ckpt", num_attention_heads=2, residual_attention="sum")
    masked = (a["ids"] == 0) & (np.arange(a["ids"].shape[1]) > 0)
    seen, shown = place(~masked[:, None, None, :]), place(np.where(masked, 0.0, 1.0)[..., None])
    x = bert.hidden_states(weights, config, place(a["ids"]), place(a["segments"]), dialect="bert4keras-0.9")[0]
    before, found = None, []
    for layer in weights.blocks:
        mixed, attended = blocks.self_attention(layer, x, 2, mask=seen, previous_scores=before)
        y = layer_norm(x + mixed * shown, *layer.attention_norm, 1e-12)
        x = layer_norm(y + blocks.feed_forward(layer, y, "none"), *layer.feed_forward_norm, 1e-12)
        before = attended.scores
        found.append(setting.backend.to_numpy(before))
    return found, np.broadcast_to(masked[:, None, None, :], found[0].shape)


def _accumulated(setting: Setting, folder: Path, recorded: Any) -> list[Answer]:
    """The scores that 0.9.8 hands on: S_l where a key is seen, S_l - l 10¹² where it is masked."""
    carried, masked = carried_scores(setting, folder)
    ours, masked = np.stack(carried), np.broadcast_to(masked, recorded.shape)
    added = 1e12 * np.arange(1, len(ours) + 1)[:, None, None, None, None]
    chosen = {"seen": ~masked, "masked": masked}
    got = np.where(masked, ours - added, ours)
    return [Answer(f"residual_scores, {name} keys", got[each], recorded[each]) for name, each in chosen.items()]


def _bert4keras_attention(version: str, dialect: str) -> Callable[[Setting, Path], Comparison]:
    """Residual attention, masks of language models and hierarchical positions, of the version given."""

    def run(setting: Setting, folder: Path) -> Comparison:
        a = dict(weights_io.open(folder / "answers_0.11.5.safetensors"))
        recorded, back = dict(weights_io.open(folder / f"answers_{version}.safetensors")), setting.backend.to_numpy
        weights, config = _encoder(setting, folder / "model.ckpt", num_attention_heads=2)
        texts, long_texts = (
            [setting.backend.asarray(a[f"{k}{name}"]) for name in ("ids", "segments")] for k in ("", "long_")
        )
        residual = dataclasses.replace(config, residual_attention="sum")
        theirs = bert.dialects[dialect]
        # 0.9.8 sets the attention output of queries with id 0 to zero: what comes of that is not compared
        real = a["ids"] != 0 if dialect == "bert4keras-0.9" else np.ones(a["ids"].shape, bool)

        def hidden(chosen: Any, form: Any, application: Any = "encoder") -> Any:
            return bert.encode(weights, form, *texts, application=application, dialect=chosen)

        def words(form: Any, application: Any) -> Any:
            found = hidden(theirs, form, application)
            return back(bert.masked_lm_logits(weights, form, found, dialect=theirs))

        got = {"residual": back(hidden(theirs, residual)), "lm": words(config, "lm"), "unilm": words(config, "unilm")}
        got |= {"residual_unilm": words(residual, "unilm")} if "residual_unilm" in recorded else {}
        answers = [Answer(name, each[real], recorded[name][real]) for name, each in got.items()]
        length = a["long_ids"].shape[1]
        longer = extend(weights, to=length), dataclasses.replace(config, max_position_embeddings=length)
        long = bert.encode(*longer, *long_texts, dialect=theirs)
        answers.append(Answer("hierarchical", back(long), recorded["hierarchical"]))
        if "residual_scores" in recorded:
            answers += _accumulated(setting, folder, recorded["residual_scores"])
            relative = (
                weights._replace(position_embedding=None),
                dataclasses.replace(residual, max_position_embeddings=None),
            )
            nezha = back(bert.encode(*relative, *texts, application="unilm", dialect=theirs))
            answers.append(Answer("residual_nezha_unilm", nezha[real], recorded["residual_nezha_unilm"][real]))

        paper = back(hidden("huggingface", residual))
        restored = back(hidden(dataclasses.replace(theirs, masked_key_id=None, residual="all"), residual))
        of = recorded["residual"]
        departures = [Departure("text with id 0", ID_0, of[1][real[1]], paper[1][real[1]], restored[1][real[1]])]
        if dialect == "bert4keras":
            both = f"{ID_0}, and {ALONE}"
            departures = [
                Departure("RealFormer, text without id 0", ALONE, of[0], paper[0], restored[0]),
                Departure("RealFormer, text with id 0", both, of[1], paper[1], restored[1]),
            ]
        return Comparison(tuple(answers), tuple(departures))

    return run


def _realformer(dialect: str) -> Callable[[Setting, Path], Comparison]:
    key = {"bert4keras-0.9": "hidden_cumulative_098", "bert4keras": "hidden_noncumulative_0115"}[dialect]

    def run(setting: Setting, folder: Path) -> Comparison:
        io, place, back = np.load(folder / "io.npz"), setting.backend.asarray, setting.backend.to_numpy
        weights, config = _encoder(setting, folder / "model.ckpt", num_attention_heads=4, residual_attention="sum")
        real, theirs = (
            io["ids"] != 0,
            bert.dialects[dialect],
        )  # 0.9.8 sets the attention output of masked queries to zero

        def encoded(chosen: Any) -> Any:
            return back(bert.encode(weights, config, place(io["ids"]), place(io["segments"]), dialect=chosen))

        answers = [Answer(key, encoded(dialect)[real], io[key][real])]
        if dialect == "bert4keras-0.9":
            given = (io["unilm_ids"], io["unilm_segments"])
            hidden = bert.encode(weights, config, *map(place, given), application="unilm", dialect=dialect)
            words = back(softmax.softmax(bert.masked_lm_logits(weights, config, hidden, dialect=dialect)))
            answers.append(Answer("unilm", words[given[0] != 0], io["unilm_probs_098"][given[0] != 0]))
        paper, restored = (
            encoded("huggingface"),
            encoded(dataclasses.replace(theirs, masked_key_id=None, residual="all")),
        )
        cases = (
            [("texts with id 0", ID_0, real)]
            if dialect == "bert4keras-0.9"
            else [("text without id 0", ALONE, np.s_[:1])]
        )
        departures = [Departure(c, why, io[key][rows], paper[rows], restored[rows]) for c, why, rows in cases]
        return Comparison(tuple(answers), tuple(departures))

    return run


# ------------------------------------------------------------------------------------------------------------------ the table

QK, OUT = (
    2 * 2 * 9 * 12,
    2 * 2 * 9 * 6,
)  # numbers in the features of queries or keys, and in the output, of the recorded FAVOR+ inputs
BARE = 2 * 2 * 9 * 8  # numbers in those features without a projection
FAVOR = 2 * 2 * (2 * QK + 2 * OUT)  # two scales, two kernels: features of queries and keys, two directions
BERT4KERAS = 3 * 8 * (3 * 16 + 60) + 3 * (
    16 + 2
)  # three texts of 8 tokens: hidden states and words, pooler and sentences

PEERS: tuple[Peer, ...] = (
    Peer(
        "performer_pytorch",
        "performer-pytorch 1.1.4",
        "features and attention of FAVOR+, and its layer with a mask",
        'favor dialect "performer-pytorch"',
        _performer_pytorch,
        FAVOR + 4 * 2 * 9 * 8,
        "performer_pytorch",
    ),
    Peer(
        "tf_models",
        "tf-models-official 2.20.0, KernelAttention",
        "features and attention of FAVOR+, masks; float32 as it is",
        'favor dialect "tf-models"',
        _tf_models,
        FAVOR + 2 * OUT + 4 * OUT // 2,
        "tf_models",
    ),
    Peer(
        "google_tf",
        "google-research performer, TensorFlow (danipozo 994bc73)",
        "features and attention of FAVOR+, ReLU without a projection; float32 as it is",
        'favor dialect "google-tf"',
        _google_tf,
        FAVOR + 4 * (BARE + OUT) + 4 * OUT // 2,
        "google_tf",
    ),
    Peer(
        "fast_transformers",
        "fast-transformers 0.4.0 (2ad36b9)",
        "features and linear attention, Favor with and without stabilize, ReLU, masks; two Gaussian kernels' features; float32 as it is",
        'favor dialect "fast-transformers"',
        _fast_transformers,
        2 * 36 * 2 * (16 + 16 + 8) + 12 * OUT + 4 * OUT + 6 * OUT // 2 + 18 * (16 + 17),
        "fast_transformers",
    ),
    Peer(
        "x_transformers",
        "x-transformers 2.31.10, residual_attn",
        "four post-LN layers with residual scores, masks; three layers of attention alone",
        "blocks.realformer",
        _x_transformers,
        3 * 2 * 7 * 8 + 2 * (7 + 5) * 8 + 3 * 2 * 2 * 7 * (4 + 4 + 7) + 2 * 2 * 2 * 7 * 4,
        "x_transformers",
    ),
    Peer(
        "x_transformers_top_k",
        "x-transformers 2.31.10, sparse_topk_attn",
        "softmax over the k largest",
        "softmax.sparse_softmax",
        _x_transformers_top_k,
        2 * 9 * 16,
        "x_transformers",
    ),
    Peer(
        "entmax",
        "entmax 1.3",
        "for contrast: sparsemax and 1.5-entmax keep the k largest too",
        "their own closed forms on softmax.top_k_selection",
        _entmax,
        4 * 12 * 16,
        "entmax",
    ),
    Peer(
        "jaketae_realformer",
        "jaketae/realformer (be26f18)",
        "four layers and the scores that each hands on",
        "blocks.realformer",
        _jaketae,
        5 * 2 * 7 * 8 + 4 * 2 * 2 * 7 * 7,
        "jaketae_realformer",
    ),
    Peer(
        "pytorch_loss",
        "CoinCheung/pytorch-loss (67d0158), TaylorSoftmaxV1",
        "Taylor softmax and its logarithm, orders 2, 4, 6, 8",
        "taylor.taylor_softmax",
        _pytorch_loss,
        2 * 4 * 2 * 12 * 16,
        "pytorch_loss",
    ),
    Peer(
        "transformers_bert",
        "transformers 5.23.0, BertForPreTraining",
        "hidden states, pooler, both heads, with a mask and without",
        'bert dialect "huggingface"',
        _transformers_bert,
        27 * (3 * 32 + 60) + 32 * (32 + 60) + 2 * 2 * (32 + 2),
        "hugging_face_bert",
    ),
    Peer(
        "bert4keras_bert",
        "bert4keras 0.11.5, BERT",
        "hidden states, pooler, both heads",
        'bert dialect "bert4keras"',
        _bert4keras,
        BERT4KERAS,
        "bert4keras/bert",
    ),
    Peer(
        "bert4keras_nezha",
        "bert4keras 0.11.5, NEZHA",
        "hidden states, pooler, both heads",
        'bert dialect "bert4keras"',
        _bert4keras,
        BERT4KERAS,
        "bert4keras/nezha",
    ),
    Peer(
        "bert4keras_0.9.8",
        "bert4keras 0.9.8, attention",
        "RealFormer, alone and with UniLM, and its scores; the same in a NEZHA; LM; UniLM; hierarchical positions",
        'bert dialect "bert4keras-0.9"',
        _bert4keras_attention("0.9.8", "bert4keras-0.9"),
        21 * (2 * 16 + 3 * 60) + 2 * 30 * 16 + 4 * 3 * 2 * 8 * 8,
        "bert4keras_attention",
    ),
    Peer(
        "bert4keras_0.11.5",
        "bert4keras 0.11.5, attention",
        "RealFormer; LM; UniLM; hierarchical positions",
        'bert dialect "bert4keras"',
        _bert4keras_attention("0.11.5", "bert4keras"),
        24 * (16 + 2 * 60) + 2 * 30 * 16,
        "bert4keras_attention",
    ),
    Peer(
        "outside.performer_pytorch",
        "performer-pytorch 1.1.4, other inputs",
        "features and attention of FAVOR+, recorded outside the package",
        'favor dialect "performer-pytorch"',
        _performer_outside,
        None,
        "performer",
    ),
    Peer(
        "outside.google_jax",
        "google-research performer, JAX (cd31e5c)",
        "features and attention of FAVOR+, four kernels, recorded outside the package",
        'favor dialect "google-jax"',
        _google_jax,
        None,
        "performer",
    ),
    Peer(
        "outside.realformer_0.9.8",
        "bert4keras 0.9.8, RealFormer",
        "hidden states and UniLM probabilities of four layers, recorded outside the package",
        'bert dialect "bert4keras-0.9"',
        _realformer("bert4keras-0.9"),
        None,
        "b4k_realformer",
    ),
    Peer(
        "outside.realformer_0.11.5",
        "bert4keras 0.11.5, RealFormer",
        "hidden states of four layers, recorded outside the package",
        'bert dialect "bert4keras"',
        _realformer("bert4keras"),
        None,
        "b4k_realformer",
    ),
    Peer(
        "outside.bert4keras_lm",
        "bert4keras 0.11.5, LM and UniLM",
        "probabilities of words and sentences, recorded outside the package",
        'bert dialect "bert4keras"',
        _bert4keras_lm,
        None,
        "b4k_bert",
    ),
    Peer(
        "outside.spaces_loss",
        "SPACES (a545db3)",
        "loss of the sparse softmax and its gradient, k = 1, 3, 10, 30, recorded outside the package",
        "softmax.sparse_softmax_cross_entropy",
        _spaces,
        None,
        "spaces",
    ),
)


def compare(peer: Peer, setting: Setting) -> Comparison | None:
    """What the comparison with one implementation gives; None where its answers are kept outside and REFIMPL_FIXTURES is not set."""
    if not peer.outside:
        return peer.compare(setting, components.RECORDED / peer.folder)
    if "REFIMPL_FIXTURES" not in os.environ:
        return None
    return peer.compare(setting, Path(os.environ["REFIMPL_FIXTURES"]) / peer.folder)


def markdown(setting: Setting) -> str:
    """One line for every implementation, as a table; figures are of this run."""
    rows = ["| implementation | what was compared | what was found |", "|---|---|---|"]
    for peer in PEERS:
        found = compare(peer, setting)
        said = "not run: set REFIMPL_FIXTURES" if found is None else found.line(peer.dialect)
        rows.append(f"| {peer.name} | {peer.what} | {said} |")
    return "\n".join(rows) + "\n"
