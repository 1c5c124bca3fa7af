"""Backward passes are those of PyTorch's autograd: of its own functions within proved budgets, of whole models to 1e-12 of each largest gradient.

Recorded by validation/oracles/torch_gradients.py, which also wrote the models and, in the same form, their gradients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl import bert, gpt2, inputs, softmax, trees
from validation import components, peers, tolerance, truth

FOLDER = Path(__file__).parent.parent / "validation" / "recorded" / "torch_gradients"
ROWS = ("softmax_x", "rows_cotangent")
ATTENTION = ("attention_q", "attention_k", "attention_v", "attention_cotangent")
COMPONENTS = [
    ("softmax", "softmax", ("softmax_x", "softmax_cotangent"), {}),
    ("log_softmax", "log_softmax", ("softmax_x", "softmax_cotangent"), {}),
    ("logsumexp", "logsumexp", ROWS, {}),
    ("cross_entropy", "cross_entropy", ("softmax_x", "cross_entropy_targets", "rows_cotangent"), {}),
    ("gelu", "gelu_tanh", ("gelu_x", "gelu_cotangent"), {"approximate": "tanh"}),
    ("gelu", "gelu_none", ("gelu_x", "gelu_cotangent"), {"approximate": "none"}),
    ("layer_norm", "layer_norm", tuple(f"layer_norm_{n}" for n in ("x", "scale", "bias", "cotangent")), {"eps": 1e-5}),
    *(("attention", f"attention_{mask}", ATTENTION, {"mask": mask}) for mask in ("none", "causal", "padding", "empty")),
]


@pytest.mark.parametrize(
    ("name", "label", "arrays", "params"), COMPONENTS, ids=[label for _, label, _, _ in COMPONENTS]
)
def test_cotangents_are_those_of_torch_within_the_proved_budget(name, label, arrays, params, recorded):
    """Torch's and ours, each judged against the enclosure: what both may err by is derived, not fitted."""
    answers, subject = recorded("torch_gradients"), components.component(f"{name}.vjp")
    given = [answers[each] for each in arrays]
    if "mask" in params:
        mask = params["mask"]
        params = {"mask": None if mask == "none" else answers[f"attention_mask_{mask}"].astype(bool)}
    torch = [answers[f"{label}.{each}"] for each in subject.backward.arguments]
    torch = torch[0] if len(torch) == 1 else np.concatenate([each.ravel() for each in torch])
    enclosure = truth.enclose(subject.definition, *given, target=1e-25, **params)
    budget = subject.budget(*given, dtype="float64", **params)
    for whose, answer in (("torch", torch), ("ours", subject.definition(*given, **params))):
        verdict = tolerance.judge(answer, enclosure, budget, "float64")
        assert verdict.passed, (whose, verdict)


def test_the_cotangent_of_a_table_is_that_of_torchs_embedding(recorded):
    answers = recorded("torch_gradients")
    _, pullback = inputs.rows_vjp(answers["embedding_table"], answers["embedding_ids"])
    (bar,) = pullback(answers["embedding_cotangent"])
    _near(bar, answers["embedding.table"])


def _near(ours, torch):
    assert np.max(np.abs(ours - torch)) <= peers.RELATIVE * np.max(np.abs(torch))


def _same_gradients(ours, name):
    """Every parameter's, by our name; what the reader makes of the checkpoint of gradients says which is which."""
    torch = trees.named_leaves(refimpl.load(FOLDER / f"{name}_gradients", backend="numpy", dtype="float64").weights)
    found = trees.named_leaves(ours)
    assert found.keys() == torch.keys()
    assert len(found) > 25
    for each, bar in torch.items():
        assert np.any(bar != 0), each
        assert np.max(np.abs(found[each] - bar)) <= peers.RELATIVE * np.max(np.abs(bar)), each


def _mean_loss(logits, labels):
    """The mean of cross-entropy over the rows whose label is not -100, and the cotangent of the logits."""
    counted = labels != -100
    losses, pullback = softmax.cross_entropy_vjp(logits, np.where(counted, labels, 0))
    (bar,) = pullback(counted / counted.sum())
    return np.sum(losses * counted) / counted.sum(), bar


def test_the_gradient_of_gpt2s_loss_is_that_of_transformers(recorded):
    answers, model = recorded("torch_gradients"), refimpl.load(FOLDER / "gpt2", backend="numpy", dtype="float64")
    logits, pullback = gpt2.logits_vjp(model.weights, model.config, answers["gpt2_ids"])
    loss, inner = _mean_loss(logits[:, :-1], answers["gpt2_labels"][:, 1:])
    (bars,) = pullback(np.concatenate([inner, np.zeros_like(logits[:, :1])], axis=1))
    assert abs(loss - answers["gpt2_loss"]) <= peers.RELATIVE * loss
    _same_gradients(bars, "gpt2")


def test_the_gradient_of_berts_loss_is_that_of_transformers(recorded):
    """Of masked tokens and of the next sentence, through padding and segments."""
    answers, model = recorded("torch_gradients"), refimpl.load(FOLDER / "bert", backend="numpy", dtype="float64")
    ids, segments = answers["bert_input_ids"], answers["bert_token_type_ids"]
    mask = answers["bert_attention_mask"].astype(bool)
    weights, config = model.weights, model.config
    hidden, encoded = bert.encode_vjp(weights, config, ids, segments, mask=mask)
    words, words_pullback = bert.masked_lm_logits_vjp(weights, config, hidden)
    sentences, sentences_pullback = bert.next_sentence_logits_vjp(weights, hidden)
    losses, bars = zip(
        _mean_loss(words, answers["bert_labels"]),
        _mean_loss(sentences, answers["bert_next_sentence_label"]),
        strict=True,
    )
    assert abs(sum(losses) - answers["bert_loss"]) <= peers.RELATIVE * sum(losses)
    (by_words, hidden_bar), (by_sentences, more) = words_pullback(bars[0]), sentences_pullback(bars[1])
    (by_encoder,) = encoded(hidden_bar + more)
    _same_gradients(trees.mapped(lambda *parts: sum(parts), by_words, by_sentences, by_encoder), "bert")
