"""The runner behind `refimpl validate`: what is announced must run, NaN fails, nothing is skipped unsaid."""

import dataclasses
import json
import os

import numpy as np
import pytest

from refimpl import attention, backend, blocks, errors, gpt2
from validation import checks, components, run
from validation.checks import Check, Finding
from validation.claims.registry import Setting

NUMPY = backend.get("numpy")


def _check(finding, cases=1):
    def answer(setting):
        if isinstance(finding, Exception):
            raise finding
        return finding

    return Check("X-1", "claims", "a statement", cases, answer)


GOOD = Finding(True, "proved", 10, "fine", 0.5)


@pytest.mark.parametrize(
    ("finding", "cases", "passed"),
    [
        (GOOD, 10, True),
        (GOOD, 9, True),
        (GOOD, 11, False),
        (dataclasses.replace(GOOD, holds=False), 10, False),
        (dataclasses.replace(GOOD, multiple=float("nan")), 10, False),
        (dataclasses.replace(GOOD, multiple=None), 10, True),
        (dataclasses.replace(GOOD, cases=0), None, False),
        (Finding(True, "not run", 0, ""), None, True),
        (Finding(True, "not run", 0, ""), 10, False),
        (ValueError("broken"), 10, False),
    ],
)
def test_a_line_passes_only_if_it_holds_on_enough_cases_with_numbers(finding, cases, passed, monkeypatch):
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(GOOD), _check(finding, cases)])
    result = run.validate(NUMPY)
    assert [line.passed for line in result.lines] == [True, passed]
    assert result.passed is passed


def test_a_check_that_raises_is_reported_not_lost(monkeypatch):
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(ValueError("broken here"))])
    line = run.validate(NUMPY).lines[0]
    assert line.finding.verdict == "raised"
    assert line.finding.worst == "ValueError: broken here"


def test_nothing_at_all_has_not_passed(monkeypatch):
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [])
    assert not run.validate(NUMPY).passed
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(Finding(True, "not run", 0, ""), None)])
    assert not run.validate(NUMPY).passed


def test_a_missing_line_has_not_passed():
    line = run.Line(_check(GOOD), GOOD, 0.0)
    assert run.Validation((line,), 1, "numpy", 0, 0.0).passed
    assert not run.Validation((line,), 2, "numpy", 0, 0.0).passed


def test_the_report_is_plain_json_and_says_what_it_ran_on(tmp_path, monkeypatch):
    infinite = dataclasses.replace(GOOD, holds=False, multiple=float("inf"))
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(GOOD, 10), _check(infinite)])
    run.validate(NUMPY, seed=7).write(tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert report["passed"] is False
    assert report["announced_checks"] == 2
    assert report["cases"] == 20
    assert report["seed"] == 7
    assert report["environment"]["numpy"] == np.__version__
    assert report["checks"][0] | {"seconds": 0} == {
        "id": "X-1",
        "section": "claims",
        "statement": "a statement",
        "holds": True,
        "verdict": "proved",
        "cases": 10,
        "worst": "fine",
        "multiple": 0.5,
        "ulps": [],
        "announced": 10,
        "passed": True,
        "seconds": 0,
        "peer": None,
    }
    assert report["checks"][1]["multiple"] == "inf"


def test_progress_is_told_before_each_check(monkeypatch):
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(GOOD), _check(GOOD)])
    told = []
    run.validate(NUMPY, advance=lambda check, index, count: told.append((check.id, index, count)))
    assert told == [("X-1", 0, 2), ("X-1", 1, 2)]


FEW = ["TAYLOR-1", "MITCHELL-6.h", "SYSTEMS.copy_labels", "PARITY.filters"]


def test_several_processes_find_the_same():
    told = []
    one = run.validate(NUMPY, only=FEW, seed=3)
    two = run.validate(NUMPY, only=FEW, seed=3, jobs=2, advance=lambda check, index, count: told.append(check.id))
    assert two.passed
    assert two.seed == 3
    assert len(two.lines) == 4
    assert [(line.check.id, line.finding) for line in two.lines] == [
        (line.check.id, line.finding) for line in one.lines
    ]
    assert told == [line.check.id for line in one.lines]


class Deadly:
    """What ends the process that reads it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_processes_that_die_are_failing_lines(monkeypatch):
    monkeypatch.setattr(run, "_answer_here", Deadly())
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    result = run.validate(NUMPY, only=FEW, jobs=2)
    assert len(result.lines) == 4
    assert not any(line.passed for line in result.lines)
    assert all("BrokenProcessPool" in line.finding.worst for line in result.lines)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(("name", "jobs"), [("numpy", 0), ("numpy", -1), ("cupy", 2)])
def test_processes_must_be_possible(name, jobs, monkeypatch):
    monkeypatch.setattr(run, "all_checks", lambda setting, only: [_check(GOOD), _check(GOOD)])
    with pytest.raises(
        errors.ConfigError, match=r"not so many processes(.|\n)*jobs >= 1; 1 on a backend other than numpy"
    ):
        run.validate(dataclasses.replace(NUMPY, name=name), jobs=jobs)


def test_identifiers_are_unique_and_selected_by_prefix():
    every = checks.all_checks(Setting(NUMPY))
    assert len({check.id for check in every}) == len(every)
    assert {check.section for check in every} == {"claims", "gradients", "truth", "parity", "number systems"}
    assert [check.id for check in checks.all_checks(Setting(NUMPY), ["parity.gpt2_t", "GPT2-6"])] == [
        "GPT2-6",
        "PARITY.gpt2_tiny.logits",
        "PARITY.gpt2_tiny.hidden",
    ]
    with pytest.raises(errors.ConfigError, match=r"no such check(.|\n)*TAYLOR-1(.|\n)*NOPE"):
        checks.all_checks(Setting(NUMPY), ["NOPE"])


def _one_of_each_kind():
    """Of the number systems, a proved budget, an exact answer and a network: `refimpl validate` runs all, in the same checks."""
    chosen = ("SYSTEMS.attention", "SYSTEMS.copy_step", "SYSTEMS.gpt2_tiny")
    return [check for check in checks.agreement_checks(Setting(NUMPY)) if check.id in chosen]


@pytest.mark.parametrize("check", [*checks.parity_checks(), *_one_of_each_kind()], ids=lambda check: check.id)
def test_every_check_holds_on_as_many_cases_as_announced(check, monkeypatch):
    monkeypatch.delenv("REFIMPL_FIXTURES", raising=False)
    line = run.Line(check, check.run(Setting(NUMPY)), 0.0)
    assert line.passed, line.finding
    assert line.finding.cases == (check.cases or 0)


def test_answers_outside_the_repository_run_where_they_are(shared, monkeypatch):
    folder = shared("hf_gpt2")
    monkeypatch.setenv("REFIMPL_FIXTURES", str(folder.parent))
    finding = next(check for check in checks.parity_checks() if check.id == "PARITY.outside.hf_gpt2").run(
        Setting(NUMPY)
    )
    assert finding.holds
    assert finding.cases == 2 * 2 * 18 * 120


WRONG = [
    ("PARITY.gpt2_tiny.logits", "gelu", lambda x, form: ORIGINAL["gelu"](x, "none")),
    (
        "PARITY.gpt2_tiny.hidden",
        "layer_norm",
        lambda x, scale, bias, eps: ORIGINAL["layer_norm"](x, scale, bias, 2 * eps),
    ),
    ("PARITY.gpt2_untied.logits", "split_heads", lambda x, heads: ORIGINAL["split_heads"](x, 1)),
    ("PARITY.greedy", "gelu", lambda x, form: 1.05 * ORIGINAL["gelu"](x, form)),
    ("PARITY.beam_search", "gelu", lambda x, form: 1.05 * ORIGINAL["gelu"](x, form)),
    (
        "SYSTEMS.gpt2_tiny",
        "gelu",
        lambda x, form: ORIGINAL["gelu"](x, form) * (1 if "object" in str(x.dtype) else 1 + 1e-5),
    ),
    (
        "PARITY.embedded",
        "causal_mask",
        lambda n, m, xp, device=None: ORIGINAL["causal_mask"](n, m, xp=xp, device=device) | True,
    ),
]
ORIGINAL = {name: getattr(blocks, name) for name in ("gelu", "layer_norm", "split_heads")} | {
    "causal_mask": gpt2.causal_mask
}


@pytest.mark.parametrize(("identifier", "name", "replacement"), WRONG, ids=[f"{row[0]}-{row[1]}" for row in WRONG])
def test_a_wrong_engine_fails_parity_and_agreement(identifier, name, replacement, monkeypatch):
    for module in (gpt2, blocks):
        monkeypatch.setattr(module, name, replacement, raising=False)
    [check] = [each for each in checks.all_checks(Setting(NUMPY), [identifier]) if each.id == identifier]
    with np.errstate(all="ignore"):
        line = run.Line(check, check.run(Setting(NUMPY)), 0.0)
    assert not line.passed


def test_wrong_filters_and_components_fail(monkeypatch):
    original = checks.decoding.sampling_probabilities
    monkeypatch.setattr(
        checks.decoding,
        "sampling_probabilities",
        lambda logits, **options: original(logits, **(options | {"top_p": 0.89})),
    )
    assert not run.validate(NUMPY, only=["PARITY.filters"]).passed
    broken = dataclasses.replace(
        components.COMPONENTS["attention"],
        definition=lambda q, k, v, mask: attention.scaled_dot_product_attention(q, 2 * k, v, mask=mask)[0],
    )
    monkeypatch.setitem(components.COMPONENTS, "attention", broken)
    assert not run.validate(NUMPY, only=["PARITY.torch_components"]).passed


@pytest.mark.parametrize(
    "identifier", ["PARITY.gpt2_tiny.logits", "PARITY.gpt2_untied.logits", "GPT2-2", "GPT2-4", "SYSTEMS.gpt2_tiny"]
)
def test_nan_in_masked_or_cached_passes_does_not_pass(identifier, monkeypatch):
    original = gpt2.forward

    def poisoned(weights, config, token_ids, *, mask=None, cache=None, **options):
        logits, cache = original(weights, config, token_ids, mask=mask, cache=cache, **options)
        special = mask is not None or token_ids.shape[1] == 1 or identifier.startswith("SYSTEMS")
        return (logits * np.nan if special and "float" in str(logits.dtype) else logits), cache

    monkeypatch.setattr(gpt2, "forward", poisoned)
    assert not run.validate(NUMPY, only=[identifier]).passed


def test_a_recorded_answer_of_another_shape_does_not_broadcast():
    assert not checks._relative([(np.ones((1, 3)), np.ones((5, 3)))], 1.0).holds
    assert not checks._relative([(np.ones(3), np.ones(3)), (np.array([np.nan]), np.ones(1))], 1.0).holds


def test_fixtures_that_are_promised_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("REFIMPL_FIXTURES", str(tmp_path))
    assert not run.validate(NUMPY, only=["PARITY.outside"]).passed


RULES = (
    "activation.gelu activation.relu activation.sigmoid activation.tanh attention.merge_heads attention.scaled_dot_product_attention "
    "attention.split_heads bert.encode bert.hidden_states bert.masked_lm_logits bert.next_sentence_logits bert.pooled "
    "bert.masked_lm_scores bert.masked_lm_vectors spaces.seq2seq.logits spaces.seq2seq.loss "
    "blocks.feed_forward blocks.post_ln blocks.pre_ln blocks.realformer blocks.self_attention convolution.dilated_convolution "
    "convolution.gated_convolution convolution.gated_linear_unit copying.copy_loss copying.sequence_loss copying.spaces_loss "
    "favor.favor_attention favor.hyperbolic_features favor.positive_features favor.relu_features favor.trigonometric_features "
    "gpt2.hidden_states gpt2.logits inputs.rows learning.losses.mean_cross_entropy linear_attention.linear_attention "
    "linear_attention.weighted_mean mitchell.divide mitchell.exp2_approx mitchell.log2_approx mitchell.matmul mitchell.multiply "
    "mlp.perceptron normalization.layer_norm parameters.affine parameters.product pooling.mean_pooling pooling.unit_length "
    "positions.extend positions.hierarchical_bases positions.hierarchical_positions softmax.clipped_cross_entropy softmax.cross_entropy "
    "softmax.log_softmax softmax.logsumexp softmax.masked_softmax softmax.softmax softmax.sparse_softmax "
    "softmax.sparse_softmax_cross_entropy spaces.extractor.extractor_loss spaces.extractor.sentence_logits "
    "spaces.extractor.sentence_probabilities spaces.extractor.sentence_vectors special.erf special.erfc taylor.exp_taylor "
    "taylor.taylor_attention taylor.taylor_features taylor.taylor_softmax "
)
BACKWARDS = (
    "attention cross_entropy favor_attention gelu hierarchical_positions layer_norm log_softmax logsumexp mean_pooling "
    "positive_features relative_attention residual_attention softmax sparse_softmax sparse_softmax_cross_entropy taylor_attention "
    "taylor_softmax unit_length trigonometric_features hyperbolic_features relu_features exp_taylor copy_loss gpt2_block bert_block "
)


def test_no_check_gets_lost():
    """The identifiers, written down once more: a check that is no longer collected is noticed here."""
    expected = (
        "TAYLOR-1 TAYLOR-2 TAYLOR-3 TAYLOR-4 TAYLOR-5 TAYLOR-5.horner TAYLOR-5.terms TAYLOR-6 TAYLOR-6.order TAYLOR-7 "
    )
    expected += (
        "HIERPOS-1 HIERPOS-1.formula HIERPOS-2 HIERPOS-2.embedded HIERPOS-2.any HIERPOS-2.error HIERPOS-2.rounded "
    )
    expected += "HIERPOS-2.minilm HIERPOS-3 HIERPOS-3.half HIERPOS-4 HIERPOS-4.minilm HIERPOS-4.embedded HIERPOS-5 "
    expected += "REALFORMER-1 REALFORMER-1.mean REALFORMER-1.bert4keras REALFORMER-2 REALFORMER-3 REALFORMER-4 REALFORMER-4.network "
    expected += "REALFORMER-4.width REALFORMER-5 REALFORMER-5.network "
    expected += "GPT2-1 GPT2-2 GPT2-3 GPT2-4 GPT2-5 GPT2-5.sum GPT2-6 PARITY.gpt2_tiny.logits PARITY.gpt2_tiny.hidden PARITY.gpt2_untied.logits "
    expected += (
        "PARITY.gpt2_sharded PARITY.greedy PARITY.beam_search PARITY.filters PARITY.torch_components PARITY.embedded "
    )
    expected += (
        "PARITY.outside.hf_gpt2 SYSTEMS.softmax SYSTEMS.log_softmax SYSTEMS.logsumexp SYSTEMS.gelu SYSTEMS.layer_norm "
    )
    expected += "FAVOR-1.gaussian FAVOR-1.smoothing FAVOR-7.future FAVOR-7.future-epsilon FAVOR-8.mask FAVOR-8.sums FAVOR-12.relu "
    expected += "SYSTEMS.attention SYSTEMS.exp_taylor SYSTEMS.taylor_softmax SYSTEMS.gpt2_tiny SYSTEMS.gpt2_tang SYSTEMS.bert SYSTEMS.nezha "
    expected += "SYSTEMS.residual_attention SYSTEMS.relative_attention SYSTEMS.hierarchical_positions SYSTEMS.mean_pooling SYSTEMS.unit_length "
    expected += (
        "FAVOR-12.relu-scale FAVOR-12.norm FAVOR-12.norm-bound REALFORMER-1.handed-mask REALFORMER-1.x-transformers "
    )
    expected += "REALFORMER-1.bert4keras-0.9 PARITY.google_tf PARITY.fast_transformers "
    expected += "FAVOR-1 FAVOR-2 FAVOR-3 FAVOR-4 FAVOR-5 FAVOR-5.unbounded FAVOR-5.equal-norms FAVOR-6 FAVOR-7 FAVOR-8 FAVOR-8.stabilised "
    expected += "FAVOR-9 FAVOR-9.unit-scale FAVOR-10 FAVOR-11 FAVOR-11.trigonometric FAVOR-12 FAVOR-12.all-keys SYSTEMS.positive_features "
    expected += (
        "SYSTEMS.trigonometric_features SYSTEMS.hyperbolic_features SYSTEMS.relu_features SYSTEMS.favor_attention "
    )
    expected += "SPARSE-1 SPARSE-1.x-transformers SPARSE-2 SPARSE-3 SPARSE-4 "
    expected += "SYSTEMS.sparse_softmax SYSTEMS.sparse_softmax_cross_entropy SYSTEMS.taylor_attention"
    expected += (
        " PARITY.performer_pytorch PARITY.tf_models PARITY.x_transformers PARITY.x_transformers_top_k PARITY.entmax "
        "PARITY.jaketae_realformer PARITY.pytorch_loss "
        "PARITY.transformers_bert PARITY.bert4keras_bert PARITY.bert4keras_nezha PARITY.bert4keras_0.9.8 PARITY.bert4keras_0.11.5 "
        "PARITY.outside.performer_pytorch "
        "PARITY.outside.google_jax PARITY.outside.realformer_0.9.8 PARITY.outside.realformer_0.11.5 "
        "PARITY.outside.bert4keras_lm PARITY.outside.spaces_loss"
    )
    expected += " SYSTEMS.gpt2_block SYSTEMS.bert_block SYSTEMS.dgcnn SYSTEMS.copy_beam_search"
    expected += (
        " MITCHELL-1 MITCHELL-2 MITCHELL-2.integer MITCHELL-2.root MITCHELL-2.power MITCHELL-3 MITCHELL-4 MITCHELL-4.any MITCHELL-4.floor "
        "MITCHELL-5 MITCHELL-6 "
        "MITCHELL-6.hardware MITCHELL-7 SYSTEMS.mitchell_multiply SYSTEMS.mitchell_divide SYSTEMS.mitchell_log2 SYSTEMS.mitchell_exp2 "
        "SYSTEMS.mitchell_corrected SYSTEMS.mitchell_matmul SYSTEMS.mitchell_power SYSTEMS.mitchell_square_root "
        "SYSTEMS.mitchell_multiply_patterns SYSTEMS.mitchell_divide_patterns "
        "SYSTEMS.mitchell_multiply_words "
        "SYSTEMS.mitchell_multiply_integer SYSTEMS.mitchell_divide_integer"
    )
    expected += (
        " PATHKERNEL-1 PATHKERNEL-1.coefficients PATHKERNEL-2 PATHKERNEL-3 PATHKERNEL-3.exact PATHKERNEL-4 PATHKERNEL-5 "
        "PARITY.neural_tangents REALFORMER-6 REALFORMER-6.network"
    )
    expected += " COPY-1 COPY-1.spans COPY-2 COPY-2.published COPY-2.steps COPY-3 COPY-3.published COPY-4 COPY-5 COPY-5.published PARITY.spaces"
    expected += " COPY-2.generate COPY-2.generate.published SEQ2SEQ-1 SEQ2SEQ-2 PARITY.spaces_decoding"
    expected += " ROUGE-1 ROUGE-2 ROUGE-2.published ROUGE-3 ROUGE-3.sentences ROUGE-4 ROUGE-4.published ROUGE-5 ROUGE-6 CUT-1 MATCH-1 MATCH-2"
    expected += " PARITY.rouge PARITY.spaces_labels"
    expected += " SYSTEMS.gpt2_block SYSTEMS.bert_block"
    expected += " SYSTEMS.copy_labels SYSTEMS.copy_step SYSTEMS.copy_states SYSTEMS.copy_loss"
    expected += " SYSTEMS.rouge SYSTEMS.split_sentences SYSTEMS.match_sentences SYSTEMS.extend_embedding"
    expected += "".join(f" TRUTH.{name}" for name in components.COMPONENTS)
    expected += "".join(f" VJP.{name}" for name in RULES.split())
    expected += "".join(f" SYSTEMS.{name}.vjp" for name in BACKWARDS.split())
    assert {check.id for check in checks.all_checks(Setting(NUMPY))} == set(expected.split())


def test_a_model_with_one_bit_changed_is_not_the_sharded_one(monkeypatch):
    original = checks._recorded

    def changed(name, setting):
        model, answers = original(name, setting)
        if name.endswith("sharded"):
            model.weights.final_norm.bias[3] = np.nextafter(model.weights.final_norm.bias[3], 9)
        return model, answers

    monkeypatch.setattr(checks, "_recorded", changed)
    assert not run.validate(NUMPY, only=["PARITY.gpt2_sharded"]).passed
