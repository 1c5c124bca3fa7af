"""What `refimpl validate` runs, besides the claims: the truth doubted, parity with recorded answers, and agreement of the number systems."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import refimpl
import weights_io
from refimpl import copying, decoding, gpt2, mlp, path_kernel
from refimpl.parameters import Linear
from refimpl.spaces import labels
from refimpl.spaces.published import published_search
from refimpl.text import rouge, sentences
from validation import (
    claims,
    components,
    conformance,
    gradients,
    hashed,
    number_systems,
    peers,
    scalar,
    tolerance,
    truth,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.claims.registry import Setting

__all__ = [
    "RELATIVE",
    "Check",
    "Finding",
    "agreement_checks",
    "all_checks",
    "claim_checks",
    "gradient_checks",
    "parity_checks",
    "truth_checks",
]

RELATIVE = peers.RELATIVE  # of the largest logit: what float64 logits are held to
EMBEDDED = "tang"
ELEMENTARY = [name for name in components.COMPONENTS if name not in components.MODELS]


@dataclass(frozen=True)
class Finding:
    """What a check found: whether it holds, the word for it, on how many cases, the worst case, and that as a multiple of what is allowed."""

    holds: bool
    verdict: str
    cases: int
    worst: str
    multiple: float | None = None
    ulps: tuple[int, ...] = ()  # how many elements are off by how many units in the last place, by tolerance.ULP_BINS


@dataclass(frozen=True)
class Check:
    """One line of the report. `cases` is announced before anything runs; fewer fail. None: what it needs lives elsewhere, not announced.

    `peer` names the implementation, where what was found of it is told in full below the table.
    """

    id: str
    section: str
    statement: str
    cases: int | None
    run: Callable[[Setting], Finding]
    peer: str | None = None


def claim_checks() -> list[Check]:
    """One check for every registered claim."""

    def runner(each: claims.Claim) -> Callable[[Setting], Finding]:
        def run(setting: Setting) -> Finding:
            outcome = each.check(setting)
            holds = each.holds(outcome) or each.excuses(outcome)
            return Finding(holds, outcome.verdict, outcome.cases, outcome.worst, outcome.tightness)

        return run

    return [
        Check(each.id, "claims", each.statement, None if each.needs else each.cases, runner(each))
        for each in claims.CLAIMS.values()
    ]


# ---------------------------------------------------------------------------------------------------------------- parity


def _recorded(name: str, setting: Setting) -> tuple[refimpl.Model, dict[str, Any]]:
    model = refimpl.load(components.RECORDED / name / "model", backend=setting.backend.name, dtype="float64")
    answers = components.RECORDED / name / "answers.safetensors"
    return model, dict(weights_io.open(answers)) if answers.is_file() else {}


def _relative(pairs: list[tuple[Any, Any]], largest: float) -> Finding:
    """Differences relative to the largest recorded value, against `RELATIVE`."""
    cases = sum(recorded.size for _, recorded in pairs)
    shapes = [(got.shape, recorded.shape) for got, recorded in pairs if got.shape != recorded.shape]
    if shapes:
        return Finding(False, "wrong shape", cases, f"got {shapes[0][0]}, recorded {shapes[0][1]}")
    worst = float(np.max(np.concatenate([np.abs(got - recorded).ravel() for got, recorded in pairs]))) / largest
    holds = bool(worst <= RELATIVE)  # np.max hands NaN on, and NaN is not <=
    return Finding(
        holds, "agrees" if holds else "outside", cases, f"{worst:.1e} of the largest value", worst / RELATIVE
    )


def _logits(name: str) -> Callable[[Setting], Finding]:
    def run(setting: Setting) -> Finding:
        model, answers = _recorded(name, setting)
        pairs = [(setting.backend.to_numpy(model.logits(answers["ids"])), answers["logits"])]
        for side in ("left", "right"):
            real = answers[f"{side}_mask"].astype(bool)
            got = setting.backend.to_numpy(model.logits(answers[f"{side}_ids"], mask=real))
            pairs.append((got[real], answers[f"{side}_logits"][real]))
        return _relative(pairs, float(np.max(np.abs(answers["logits"]))))

    return run


def _hidden(setting: Setting) -> Finding:
    model, answers = _recorded("gpt2_tiny", setting)
    states = gpt2.hidden_states(model.weights, model.config, answers["ids"][:1])
    names = [*(f"hidden_{i}" for i in range(model.config.n_layer + 1)), "hidden_final"]
    pairs = [(setting.backend.to_numpy(state)[0], answers[name]) for state, name in zip(states, names, strict=True)]
    return _relative(pairs, max(float(np.max(np.abs(recorded))) for _, recorded in pairs))


def _greedy(setting: Setting) -> Finding:
    model, answers = _recorded("gpt2_tiny", setting)
    decoder, wrong, cases = gpt2.CachedDecoder(model.weights, model.config), [], 0
    for i in range(5):
        prompt, expected = answers[f"greedy{i}_prompt"].tolist(), answers[f"greedy{i}_sequence"].tolist()
        got = [token for (token,) in decoding.generate(decoder, [prompt], max_new_tokens=12, temperature=0)]
        wrong += [i] if prompt + got != expected else []
        cases += len(got)
    return Finding(
        not wrong, "differs" if wrong else "same tokens", cases, f"prompts {wrong}" if wrong else "every token"
    )


def _beams(setting: Setting) -> Finding:
    model, answers = _recorded("gpt2_tiny", setting)
    decoder, cases, worst = gpt2.CachedDecoder(model.weights, model.config), 0, 0.0
    for i in range(4):
        prompt, stop = answers[f"beam{i}_prompt"].tolist(), [int(answers[f"beam{i}_eos_id"])]
        for penalty in (0, 1, 2):
            for early in (False, True):
                key = f"beam{i}_lp{penalty}_early_{str(early).lower()}"
                found = decoding.beam_search(
                    decoder,
                    prompt,
                    beams=4,
                    max_new_tokens=8,
                    length_penalty=float(penalty),
                    stop=stop,
                    early_stopping=early,
                )
                for each, row, n, score in zip(
                    found, answers[f"{key}_sequences"], answers[f"{key}_lengths"], answers[f"{key}_scores"], strict=True
                ):
                    cases += 1
                    difference = abs(each.score - float(score)) / abs(float(score))
                    if prompt + each.ids != row[: len(prompt) + n].tolist() or not difference <= RELATIVE:
                        return Finding(False, "differs", cases, f"{key}: {each}")
                    worst = max(worst, difference)
    return Finding(True, "same tokens", cases, f"scores differ by {worst:.1e}", worst / RELATIVE)


FILTERS: dict[str, dict[str, Any]] = {
    "temperature_0.7": {"temperature": 0.7},
    "top_k_1": {"top_k": 1},
    "top_k_5": {"top_k": 5},
    "top_k_61": {"top_k": 61},
    "top_k_100": {"top_k": 100},
    "top_p_0.1": {"top_p": 0.1},
    "top_p_0.5": {"top_p": 0.5},
    "top_p_0.9": {"top_p": 0.9},
    "top_p_1": {"top_p": 1.0},
    "chain_0.7_5_0.9": {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
    "chain_0.7_20_0.5": {"temperature": 0.7, "top_k": 20, "top_p": 0.5},
}


def _filters(setting: Setting) -> Finding:
    _, answers = _recorded("gpt2_tiny", setting)
    logits, pairs = setting.backend.asarray(answers["warp_logits"]), []
    for name, options in FILTERS.items():
        got = setting.backend.to_numpy(decoding.sampling_probabilities(logits, **options))
        defined = answers[f"warp_{name}_defined"].astype(
            bool
        )  # elsewhere the oracle split a tie by accident of its sort
        pairs.append((np.where(defined[:, None], got, np.sort(got)), _sorted_where(answers[f"warp_{name}"], ~defined)))
    return _relative(pairs, 1.0)


def _sorted_where(rows: Any, undefined: Any) -> Any:
    return np.where(undefined[:, None], np.sort(rows), rows)


TORCH: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("softmax", "softmax", ("softmax_input",), {}),
    ("log_softmax", "log_softmax", ("softmax_input",), {}),
    ("logsumexp", "logsumexp", ("softmax_input",), {}),
    ("gelu", "gelu_tanh", ("gelu_input",), {"approximate": "tanh"}),
    ("gelu", "gelu_none", ("gelu_input",), {"approximate": "none"}),
    ("layer_norm", "layer_norm_eps_1e-05", ("layer_norm_input", "layer_norm_scale", "layer_norm_bias"), {"eps": 1e-5}),
    ("layer_norm", "layer_norm_eps_1e-12", ("layer_norm_input", "layer_norm_scale", "layer_norm_bias"), {"eps": 1e-12}),
    ("attention", "attention_none", ("attention_q", "attention_k", "attention_v"), {"mask": None}),
    ("attention", "attention_causal", ("attention_q", "attention_k", "attention_v"), {"mask": "attention_mask_causal"}),
    (
        "attention",
        "attention_padding",
        ("attention_q", "attention_k", "attention_v"),
        {"mask": "attention_mask_padding"},
    ),
    ("attention", "attention_short_none", ("attention_short_q", "attention_k", "attention_v"), {"mask": None}),
]


def _torch(setting: Setting) -> Finding:
    """Torch's answers and ours, each judged against the enclosure of the definition."""
    answers = dict(weights_io.open(components.RECORDED / "torch_components" / "answers.safetensors"))
    cases, worst, shown = 0, 0.0, ""
    for name, key, inputs, params in TORCH:
        component, arrays = components.component(name), [answers[each] for each in inputs]
        options = params | (
            {"mask": answers[params["mask"]].astype(bool)} if isinstance(params.get("mask"), str) else {}
        )
        enclosure = truth.enclose(component.definition, *arrays, target=1e-25, **options)
        budget = component.budget(*arrays, dtype="float64", **options)
        ours = number_systems.NumberSystem("", (), setting.backend.asarray, setting.backend.to_numpy).run(
            component.definition
        )
        for whose, answer in (("torch", answers[key]), ("ours", ours(*arrays, **options))):
            verdict = tolerance.judge(answer, enclosure, budget, "float64")
            cases += answer.size
            if not verdict.passed:
                return Finding(False, verdict.word, cases, f"{whose}, {key}: {verdict}", verdict.multiple)
            if verdict.multiple > worst:
                worst, shown = verdict.multiple, f"{whose}, {key}"
    return Finding(True, "within proof", cases, shown, worst)


def _spaces(setting: Setting) -> Finding:
    """Labels, masks and states of the released code of SPACES, all of them equal."""
    answers, cases = dict(weights_io.open(components.RECORDED / "spaces" / "answers.safetensors")), 0
    kept = [answers[name] for name in ("source", "target", "source_labels", "target_labels")]
    for rows in zip(*kept, strict=True):
        source, target, *labels = ([token for token in row.tolist() if token >= 0] for row in rows)
        cases += len(source) + len(target)
        if copying.copy_labels(source, target) != tuple(labels):
            return Finding(
                False, "differs", cases, f"labels of {source}, {target}: {copying.copy_labels(source, target)}"
            )
    names = ("source", "output", "states", "bio", "logits", "masked", "after")
    array, host = setting.backend.asarray, setting.backend.to_numpy
    for source, output, states, bio, logits, masked, after in zip(*(answers[f"step_{n}"] for n in names), strict=True):
        emitted, told = output[:, output[0] >= 0], {"vocab_size": logits.shape[-1], "dialect": "bert4keras-spaces"}
        allowed, new = copying.copy_step(array(bio), array(states), array(source), array(emitted), **told)
        found = host(copying.masked_logits(array(logits), allowed, dialect="bert4keras-spaces"))
        cases += masked.size + after.size
        if not (np.array_equal(found, masked) and host(new).tolist() == after.tolist()):
            return Finding(False, "differs", cases, f"a step from {source.tolist()}, states {states.tolist()}")
    return Finding(True, "equal", cases, "every label, mask and state")


def _spaces_decoding(setting: Setting) -> Finding:
    """Texts of the released decoder of SPACES on the beam search of bert4keras 0.9.7, all of them equal."""
    for number, case in enumerate(hashed.recorded()):
        model = hashed.Hashed(number, case.model.vocabulary, case.model.favoured, setting.backend.asarray)
        ends = {"start": model.vocabulary - 2, "end": model.vocabulary - 1}
        options = {"max_new_tokens": case.most, "min_length": case.min_length, "min_ends": case.min_ends}
        found = published_search(model, case.source, beams=case.beams, **ends, **options)
        if found.ids != case.text:
            return Finding(False, "differs", number, f"search {number}: {found.ids}, recorded {case.text}")
    return Finding(True, "equal", number + 1, "every text")


@functools.cache
def _rouge_texts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((components.RECORDED / "rouge" / "texts.json").read_text("utf-8"))
    return found


def _rouge(setting: Setting) -> Finding:
    """p, r and f as four programs answer them, bit for bit; 0 where they raise ValueError, as SPACES has it."""
    answers, pairs, cases = (
        weights_io.open(components.RECORDED / "rouge" / "answers.safetensors"),
        _rouge_texts()["pairs"],
        0,
    )
    values = np.append(answers["values"], 0.0)  # which -1 selects
    for dialect, scores in zip(_rouge_texts()["dialects"], answers["scores"], strict=True):
        for (hypothesis, reference), places in zip(pairs, scores, strict=True):
            cases, found = cases + places.size, np.array(rouge.rouge(hypothesis, reference, dialect=dialect))
            if not np.array_equal(found, values[places]):
                said = f"{dialect}, {hypothesis!r} against {reference!r}: {found.tolist()}"
                return Finding(False, "differs", cases, said)
    return Finding(True, "equal", cases, "every p, r and f")


def _spaces_labels(setting: Setting) -> Finding:
    """Clauses, mappings and their metric as the released code answers them, with three versions of the package rouge."""
    texts, cases = _rouge_texts(), 0
    for *given, pieces in texts["cuts"]:
        cases += 1
        if sentences.split(*given) != pieces:
            return Finding(False, "differs", cases, f"pieces of {given}: {sentences.split(*given)}")
    for dialect, mappings in texts["mappings"].items():
        for document, mapping, main in zip(texts["documents"], mappings, texts["mains"][dialect], strict=True):
            cases, found = cases + len(mapping) + 1, labels.extractive_labels(*document, dialect=dialect)
            if [list(pair) for pair in found.mapping] != mapping or found.score != main:
                return Finding(False, "differs", cases, f"{dialect}, {document[1]!r}: {found.mapping}, {found.score}")
    return Finding(True, "equal", cases, "every piece, pair of sentences and metric")


def _spaces_labels_count() -> int:
    texts = _rouge_texts()
    return len(texts["cuts"]) + sum(len(mapping) + 1 for every in texts["mappings"].values() for mapping in every)


def _spaces_count() -> int:
    opened = weights_io.open(components.RECORDED / "spaces" / "answers.safetensors")
    return sum(int((opened[name] >= 0).sum()) for name in ("source", "target")) + _sizes(
        "spaces", ["step_masked", "step_after"]
    )


def _sharded(setting: Setting) -> Finding:
    one, _ = _recorded("gpt2_tiny", setting)
    many, _ = _recorded("gpt2_tiny_sharded", setting)
    pairs = [(one.weights.named()[name], array) for name, array in many.weights.named().items()]
    same = all(setting.backend.to_numpy(a).tobytes() == setting.backend.to_numpy(b).tobytes() for a, b in pairs)
    return Finding(same, "bitwise" if same else "differs", len(pairs), "every tensor")


def _embedded_texts() -> list[str]:
    provenance = json.loads((components.RECORDED / "embedded_tang" / "provenance.json").read_text("utf-8"))
    return [entry["text"] for entry in provenance["texts"]]


def _embedded(setting: Setting) -> Finding:
    model = refimpl.load(EMBEDDED, backend=setting.backend.name, dtype="float64")
    answers = dict(weights_io.open(components.RECORDED / "embedded_tang" / "answers.safetensors"))
    pairs, decoder, largest = [], gpt2.CachedDecoder(model.weights, model.config), 0.0
    for i, text in enumerate(_embedded_texts()):
        ids, greedy = answers[f"text{i}_ids"].tolist(), answers[f"text{i}_greedy"].tolist()
        if model.prompt_ids(text) != ids:
            return Finding(False, "differs", 0, f"token ids of {text!r}")
        steps = decoding.generate(decoder, [ids], max_new_tokens=len(greedy), temperature=0)
        if [token for (token,) in steps] != greedy:
            return Finding(False, "differs", 0, f"greedy continuation of {text!r}")
        pairs.append((setting.backend.to_numpy(model.logits([ids]))[0, -1], answers[f"text{i}_last_logits"]))
        pairs.append((np.array(model.score(text).log_probabilities), answers[f"text{i}_log_probabilities"]))
        largest = max(largest, float(np.max(np.abs(answers[f"text{i}_last_logits"]))))
    return _relative(pairs, largest)


def _outside(setting: Setting) -> Finding:
    """The fixture folder hf_gpt2, recorded elsewhere: float32 and float16 weights, logits and greedy tokens."""
    if "REFIMPL_FIXTURES" not in os.environ:
        return Finding(True, "not run", 0, "set REFIMPL_FIXTURES to the folder that holds hf_gpt2")
    folder = Path(os.environ["REFIMPL_FIXTURES"]) / "hf_gpt2"
    answers, pairs = np.load(folder / "io.npz"), []
    for kind in ("f32", "f16"):
        model = refimpl.load(folder / f"model_{kind}.safetensors", backend=setting.backend.name, dtype="float64")
        pairs.append((setting.backend.to_numpy(model.logits(answers["ids"])), answers[f"logits64_{kind}"]))
    return _relative(pairs, float(np.max(np.abs(answers["logits64_f32"]))))


def _sizes(name: str, keys: list[str]) -> int:
    opened = weights_io.open(components.RECORDED / name / "answers.safetensors")
    return sum(int(np.prod(opened.info(key).shape)) for key in keys)


def _logit_count(name: str) -> int:
    opened = weights_io.open(components.RECORDED / name / "answers.safetensors")
    real = sum(int(opened[f"{side}_mask"].sum()) for side in ("left", "right"))
    return _sizes(name, ["logits"]) + real * opened.info("logits").shape[-1]


def _embedded_count() -> int:
    opened = weights_io.open(components.RECORDED / "embedded_tang" / "answers.safetensors")
    return _sizes("embedded_tang", [name for name in opened if name.endswith(("_last_logits", "_log_probabilities"))])


NEURAL_TANGENTS = ("fx", "fz", "kernel_xx", "kernel_zx", "predicted_x")


def _kernel_count() -> int:
    return _sizes("neural_tangents", list(NEURAL_TANGENTS))


def _neural_tangents(setting: Setting) -> Finding:
    """Outputs and tangent kernels of a perceptron; and y + exp(-K t/N)(f - y), N the number of numbers in the targets, by our kernel."""
    a = dict(weights_io.open(components.RECORDED / "neural_tangents" / "answers.safetensors"))
    place, back = setting.backend.asarray, setting.backend.to_numpy
    layers = tuple(Linear(place(a[f"weight_{i}"]), place(a[f"bias_{i}"])) for i in (1, 2, 3))
    model, x, z = path_kernel.read_out(mlp.perceptron_vjp), place(a["x"]), place(a["z"])
    kernels = [back(path_kernel.tangent_kernel(model, layers, left, x)) for left in (x, z)]
    values, vectors = np.linalg.eigh(np.moveaxis(kernels[0], 2, 1).reshape(a["y"].size, -1))
    rest = vectors.T @ (a["fx"] - a["y"]).ravel()
    flows = [vectors @ (np.exp(-values * t / a["y"].size) * rest) for t in a["times"]]
    predicted = np.stack([a["y"] + flow.reshape(a["y"].shape) for flow in flows])
    found = (back(model(layers, x)[0]), back(model(layers, z)[0]), *kernels, predicted)
    pairs = [(got, a[name]) for got, name in zip(found, NEURAL_TANGENTS, strict=True)]
    return _relative(pairs, float(np.max(np.abs(a["kernel_xx"]))))


def parity_checks() -> list[Check]:
    """Answers that implementations nobody here wrote gave to the same questions."""
    hidden = [*(f"hidden_{i}" for i in range(5)), "hidden_final"]
    torch_count = 2 * _sizes("torch_components", [key for _, key, _, _ in TORCH])
    rows: list[tuple[str, str, int | None, Callable[[Setting], Finding]]] = [
        (
            "gpt2_tiny.logits",
            "transformers: logits, plain and padded on either side",
            _logit_count("gpt2_tiny"),
            _logits("gpt2_tiny"),
        ),
        ("gpt2_tiny.hidden", "transformers: every layer's output", _sizes("gpt2_tiny", hidden), _hidden),
        (
            "gpt2_untied.logits",
            "transformers: untied head, inner width 40",
            _logit_count("gpt2_tiny_untied"),
            _logits("gpt2_tiny_untied"),
        ),
        ("gpt2_sharded", "four shards and an index = one file", 52, _sharded),
        ("greedy", "transformers: greedy tokens", 60, _greedy),
        ("beam_search", "transformers: sequences and scores of 24 searches", 96, _beams),
        ("filters", "transformers: temperature, top-k, top-p", len(FILTERS) * 5 * 61, _filters),
        ("torch_components", "torch: softmax, GELU, layer norm, attention", torch_count, _torch),
        ("embedded", "transformers on the embedded model: ids, log p, logits, greedy", _embedded_count(), _embedded),
        ("spaces", "SPACES: labels of 400 pairs, masks and states of 300 hypotheses", _spaces_count(), _spaces),
        ("spaces_decoding", "SPACES: texts of 320 searches", len(hashed.recorded()), _spaces_decoding),
        ("rouge", "rouge 1.0.1, 1.0.0, 0.3.2, rouge-score: p, r, f of many pairs", _sizes("rouge", ["scores"]), _rouge),
        ("spaces_labels", "SPACES: clauses, and sentences matched", _spaces_labels_count(), _spaces_labels),
        ("neural_tangents", "neural-tangents: kernels, and predictions by them", _kernel_count(), _neural_tangents),
        ("outside.hf_gpt2", "transformers: a recorded GPT-2 kept outside the package", None, _outside),
    ]
    checks = [Check(f"PARITY.{name}", "parity", statement, cases, run) for name, statement, cases, run in rows]
    return checks + [
        Check(f"PARITY.{peer.id}", "parity", f"{peer.name}: {peer.what}", peer.cases, _peer(peer), peer.name)
        for peer in peers.PEERS
    ]


def _peer(peer: peers.Peer) -> Callable[[Setting], Finding]:
    """Equals its dialect, and departs from the paper for the reasons given: see `validation.peers`."""

    def run(setting: Setting) -> Finding:
        found = peers.compare(peer, setting)
        if found is None:
            return Finding(True, "not run", 0, f"set REFIMPL_FIXTURES to the folder that holds {peer.folder}")
        if not found.multiple <= 1:
            return Finding(False, "outside", found.cases, found.worst, found.multiple)
        return Finding(True, "agrees", found.cases, found.line(peer.dialect), found.multiple)

    return run


# ------------------------------------------------------------------------------------------------------------- agreement


def _component_runs(setting: Setting) -> list[tuple[number_systems.NumberSystem, str]]:
    return [(system, dtype) for system in number_systems.float_systems(setting.backend) for dtype in system.dtypes]


def _component(name: str) -> Callable[[Setting], Finding]:
    def run(setting: Setting) -> Finding:
        cases, worst, shown, ulps = 0, 0.0, "", np.zeros(len(tolerance.ULP_BINS), int)
        answered = functools.cache(lambda dtype: conformance.live(name, None, dtype, setting.seed))
        for system, dtype in _component_runs(setting):
            definition = components.component(name).definition
            report = conformance.check_on(answered(dtype), system.run(definition), name, dtype=dtype)
            cases, row = cases + len(report.rows), report.worst
            if not report.passed:
                return Finding(False, row.verdict.word, cases, f"{system.name}, {dtype}, {row}", row.verdict.multiple)
            ulps = ulps + np.array(list(report.ulps.values()) or 0)  # exact answers have none
            if row.verdict.multiple > worst:
                worst, shown = row.verdict.multiple, f"{system.name}, {dtype}, {row.case}"
        return Finding(True, components.component(name).word, cases, shown, worst, tuple(ulps.tolist()))

    return run


def _network_runs(setting: Setting) -> list[tuple[number_systems.NumberSystem, str]]:
    return [(system, dtype) for system, dtype in _component_runs(setting) if dtype in ("float32", "float64")]


def _network(
    answers: Callable[[number_systems.NumberSystem, str], Any],
    unit: Any,
    enclosure: Any,
    runs: list[tuple[number_systems.NumberSystem, str]],
) -> Finding:
    """The answers of a network in several number systems against the enclosure; the sampled budget is `unit` times the unit roundoff."""
    cases, worst, shown = 0, 0.0, ""
    for system, dtype in runs:
        answer = answers(system, dtype)
        verdict = tolerance.judge(answer, enclosure, unit * tolerance.roundoff(dtype), dtype, word="within sample")
        cases += answer.size
        if not verdict.passed:
            return Finding(False, verdict.word, cases, f"{system.name}, {dtype}: {verdict}", verdict.multiple)
        if verdict.multiple >= worst:
            worst, shown = verdict.multiple, f"{system.name}, {dtype}: error {verdict.error:.1e}"
    return Finding(True, "within sample", cases, f"{shown}; radius {truth.radii(enclosure).max():.0e}", worst)


def _gpt2(
    config: gpt2.GPT2Config, arrays: dict[str, Any], ids: Any, runs: list[tuple[number_systems.NumberSystem, str]]
) -> Finding:
    def answers(system: number_systems.NumberSystem, dtype: str) -> Any:
        kept = {name: system.to(a.astype(dtype)) for name, a in arrays.items()}
        weights = gpt2.GPT2Weights.from_named(kept, config)
        return system.back(gpt2.logits(weights, config, system.to(ids)))

    unit = components.unit_budget(config, arrays, ids)
    return _network(answers, unit, _enclosed(config, arrays, ids), runs)


def _enclosed(config: gpt2.GPT2Config, arrays: dict[str, Any], ids: Any) -> Any:
    def definition() -> Any:
        weights = gpt2.GPT2Weights.from_named({name: truth.balls(a) for name, a in arrays.items()}, config)
        return gpt2.logits(weights, config, ids)

    return truth.enclose(definition, target=1e-20, bits=256)


def _tiny(setting: Setting) -> Finding:
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    ids = np.random.default_rng(setting.seed).integers(0, config.vocab_size, (2, 8))
    return _gpt2(config, arrays, ids, _network_runs(setting))


def _real(setting: Setting) -> Finding:
    model = refimpl.load(EMBEDDED, backend="numpy", dtype="float64")
    arrays, ids = model.weights.named(), np.array([model.prompt_ids("春眠不觉晓，")])
    systems = [
        system for system in number_systems.float_systems(setting.backend) if not system.name.startswith("strict")
    ]
    runs = [(system, dtype) for system in systems for dtype in ("float32", "float64")]
    return _gpt2(model.config, arrays, ids, runs)


def _encoder(name: str) -> Callable[[Setting], Finding]:
    """Every case of a recorded encoder, in every number system."""

    def run(setting: Setting) -> Finding:
        subject, found = components.component(name), []
        for case in subject.trials("float64", setting.seed, None):
            enclosure = truth.enclose(subject.definition, *case.arrays, target=1e-20, **case.params)
            unit = subject.budget(*case.arrays, dtype="float64", **case.params) / tolerance.roundoff("float64")
            finding = _network(_encoder_answers(name, case), unit, enclosure, _network_runs(setting))
            found.append(dataclasses.replace(finding, worst=f"{case.id}, {finding.worst}"))
        worst = max(found, key=lambda each: (not each.holds, each.multiple or 0.0))
        return dataclasses.replace(worst, cases=sum(each.cases for each in found))

    return run


def _encoder_answers(name: str, case: components.Case) -> Callable[[number_systems.NumberSystem, str], Any]:
    config, arrays = components.recorded_bert(name)

    def answers(system: number_systems.NumberSystem, dtype: str) -> Any:
        kept = {key: system.to(a.astype(dtype)) for key, a in arrays.items()}
        found = components.encoder_logits(config, kept, *map(system.to, case.arrays), **case.params)
        return system.back(found) * case.arrays[2][..., None]

    return answers


def _encoder_count(name: str, setting: Setting) -> int:
    """How many logits `_encoder` judges."""
    config, _ = components.recorded_bert(name)
    tokens = sum(case.arrays[0].size for case in components.component(name).trials("float64", setting.seed, None))
    return tokens * config.vocab_size * len(_network_runs(setting))


def agreement_checks(setting: Setting) -> list[Check]:
    """One source in every number system, the ball enclosure as truth."""
    checks = []
    for name in ELEMENTARY:
        runs = _component_runs(setting)
        announced = sum(len(components.component(name).trials(dtype, setting.seed, None)) for _, dtype in runs)
        statement = "each number system and dtype within the proved budget of the ball enclosure"
        checks.append(Check(f"SYSTEMS.{name}", "number systems", statement, announced, _component(name)))
    systems = number_systems.float_systems(setting.backend)
    tiny = len(_network_runs(setting)) * 2 * 8 * 61
    checks.append(
        Check(
            "SYSTEMS.gpt2_tiny",
            "number systems",
            "a 4-layer GPT-2 within the sampled budget of its enclosure",
            tiny,
            _tiny,
        )
    )
    for name in components.ENCODERS:
        statement = "a 2-layer encoder, masks and segments, within the sampled budget of its enclosure"
        count = _encoder_count(name, setting)
        checks.append(Check(f"SYSTEMS.{name}", "number systems", statement, count, _encoder(name)))
    real = sum(not system.name.startswith("strict") for system in systems) * 2 * 7 * _embedded_vocabulary()
    checks.append(
        Check(
            "SYSTEMS.gpt2_tang",
            "number systems",
            "the embedded model within the sampled budget of its enclosure",
            real,
            _real,
        )
    )
    return checks


def _embedded_vocabulary() -> int:
    config = json.loads((refimpl.model.EMBEDDED[EMBEDDED] / "config.json").read_text("utf-8"))
    return int(config["vocab_size"])


# ----------------------------------------------------------------------------------------------------------------- truth


def _scalar(name: str) -> Callable[[Setting], Finding]:
    def run(setting: Setting) -> Finding:
        found = scalar.cross_check(name, seed=setting.seed)
        apart = f"{found.elements} answers, radius {found.widest:.0e}, programs apart {found.farthest:.0e}"
        worst = apart if found.holds else found.worst
        return Finding(found.holds, "contained" if found.holds else "outside", found.cases, worst, found.multiple)

    return run


def truth_checks(setting: Setting) -> list[Check]:
    """The enclosure of every component's definition contains what a second program answers, which shares no line with it."""
    statement = "the enclosure contains what an independent scalar program answers"
    return [
        Check(f"TRUTH.{name}", "truth", statement, len(scalar.tiny_cases(name, setting.seed)), _scalar(name))
        for name in components.COMPONENTS
    ]


# ------------------------------------------------------------------------------------------------------------- gradients


def _rule(name: str) -> Callable[[Setting], Finding]:
    def run(setting: Setting) -> Finding:
        systems = number_systems.float_systems(setting.backend)
        found = gradients.check(name, seed=setting.seed, systems=systems)
        holds = bool(found.multiple <= 1)
        return Finding(holds, "agrees" if holds else "outside", found.cases, found.worst, found.multiple)

    return run


def gradient_checks(setting: Setting) -> list[Check]:
    """Every rule of `refimpl.gradients` against complex steps, mean values in balls, and the budgets of all dtypes."""
    statement = "the pullback agrees with complex steps to 1e-12 and with mean values in balls, and every dtype keeps its budget"
    return [
        Check(f"VJP.{name}", "gradients", statement, gradients.count(name, setting.seed), _rule(name))
        for name in gradients.CASES
    ]


def all_checks(setting: Setting, only: list[str] | None = None) -> list[Check]:
    """Every check, or those whose identifier begins with one of the prefixes (case does not matter); unknown prefixes are refused."""
    checks = [
        *claim_checks(),
        *truth_checks(setting),
        *parity_checks(),
        *agreement_checks(setting),
        *gradient_checks(setting),
    ]
    if not only:
        return checks
    prefixes = [prefix.upper() for prefix in only]
    lost = [prefix for prefix in prefixes if not any(check.id.upper().startswith(prefix) for check in checks)]
    if lost:
        identifiers = ", ".join(check.id for check in checks)
        raise refimpl.errors.ConfigError("no such check", where="--only", expected=identifiers, got=", ".join(lost))
    return [check for check in checks if any(check.id.upper().startswith(prefix) for prefix in prefixes)]
