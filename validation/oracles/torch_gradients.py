"""Record what PyTorch's own backward passes answer in float64: of its functions, and of whole models of Hugging Face transformers.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_gradients.py --out validation/recorded

Writes `torch_gradients/` under `--out`:

* `answers.safetensors`: inputs, cotangents and what `torch.autograd.grad` makes of them through torch's softmax, log_softmax, logsumexp, gelu,
  layer_norm, scaled_dot_product_attention, cross_entropy and embedding; and the tokens and losses of the two models;
* `gpt2/`, `bert/`: a GPT2LMHeadModel and a BertForPreTraining of save_pretrained, float32, with random parameters;
* `gpt2_gradients/`, `bert_gradients/`: the same form again, float64, with the gradient of the loss in each parameter's place.

Logits are computed from the float32 weights widened to float64, with eager attention; the losses are torch's cross_entropy of them. (GPT-2's own
loss would do `logits.float()` first, which makes float32 of float64: it is recorded beside, as `gpt2_own_loss`.)
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recording import deterministic, to_array, write_answers, write_provenance
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_components import softmax_rows
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

COMMAND = "python validation/oracles/torch_gradients.py --out validation/recorded"
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
SEED = 20261123
GPT2 = {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 6, "n_inner": 12}
BERT = {
    "vocab_size": 13,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
Tensors = dict[str, torch.Tensor]


def normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def backward(function: Any, arguments: Tensors, cotangent: torch.Tensor, label: str) -> Tensors:
    """The cotangents of the arguments, named LABEL.ARGUMENT."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in arguments.items()}
    bars = torch.autograd.grad(function(*leaves.values()), list(leaves.values()), cotangent)
    return {f"{label}.{name}": bar for name, bar in zip(leaves, bars, strict=True)}


def softmax_answers(rng: np.random.Generator) -> Tensors:
    x, bar, each = softmax_rows(rng), normal(rng, 12, 16), normal(rng, 12)
    targets = torch.from_numpy(rng.integers(0, 16, 12))
    given = {"softmax_x": x, "softmax_cotangent": bar, "rows_cotangent": each, "cross_entropy_targets": targets}
    return (
        given
        | backward(lambda x: F.softmax(x, -1), {"x": x}, bar, "softmax")
        | backward(lambda x: F.log_softmax(x, -1), {"x": x}, bar, "log_softmax")
        | backward(lambda x: torch.logsumexp(x, -1), {"x": x}, each, "logsumexp")
        | backward(lambda x: F.cross_entropy(x, targets, reduction="none"), {"logits": x}, each, "cross_entropy")
    )


def gelu_answers(rng: np.random.Generator) -> Tensors:
    x = torch.from_numpy(np.concatenate([np.linspace(-12.0, 12.0, 61), [-300.0, -1e-8, 1e-8, 300.0]]))
    bar = normal(rng, 65)
    made = {"gelu_x": x, "gelu_cotangent": bar}
    for form in ("tanh", "none"):
        made |= backward(lambda x, form=form: F.gelu(x, approximate=form), {"x": x}, bar, f"gelu_{form}")
    return made


def layer_norm_answers(rng: np.random.Generator) -> Tensors:
    """Rows: plain, offset 1e3, spread 1e-3, spread 1e3, and one outlier."""
    x = normal(rng, 5, 12)
    x[1] += 1e3
    x[2] *= 1e-3
    x[3] *= 1e3
    x[4, 3] = 50.0
    given = {"x": x, "scale": 1 + 0.2 * normal(rng, 12), "bias": normal(rng, 12)}
    bar = normal(rng, 5, 12)
    made = backward(lambda x, s, b: F.layer_norm(x, (12,), s, b, 1e-5), given, bar, "layer_norm")
    return {f"layer_norm_{name}": value for name, value in (given | {"cotangent": bar}).items()} | made


def attention_answers(rng: np.random.Generator) -> Tensors:
    """Masks are int64 with 1 where a query may see a key; row 0 of `empty` sees nothing."""
    q, k, v, bar = (normal(rng, 2, 2, 4, 6) for _ in range(4))
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    empty = causal.clone()
    empty[0] = False
    padding = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)[:, None, None, :]
    masks = {"causal": causal, "padding": padding, "empty": empty}
    made = {"attention_q": q, "attention_k": k, "attention_v": v, "attention_cotangent": bar}
    made |= {f"attention_mask_{name}": mask for name, mask in masks.items()}
    with sdpa_kernel(SDPBackend.MATH):
        for name, mask in ({"none": None} | masks).items():

            def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = mask) -> torch.Tensor:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

            made |= backward(attend, {"q": q, "k": k, "v": v}, bar, f"attention_{name}")
    return made


def embedding_answers(rng: np.random.Generator) -> Tensors:
    table, ids, bar = normal(rng, 6, 4), torch.tensor([[0, 5, 3], [3, 3, 1]]), normal(rng, 2, 3, 4)
    made = backward(lambda table: F.embedding(ids, table), {"table": table}, bar, "embedding")
    return {"embedding_table": table, "embedding_ids": ids, "embedding_cotangent": bar} | made


def random_parameters(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Every parameter far from its initial value, exactly representable in float32."""
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            norm = name.endswith("weight") and (".ln_" in name or "LayerNorm" in name)
            drawn = 0.3 * rng.standard_normal(tuple(weight.shape)) + (1.0 if norm else 0.0)
            weight.copy_(torch.from_numpy(drawn.astype(np.float32)))


def write_model(
    folder: Path, name: str, kind: Any, config: Any, rng: np.random.Generator, loss_of: Any
) -> torch.Tensor:
    """Write the model and, in the same form, the gradients of its loss; return the loss."""
    model = kind(config)
    random_parameters(model, rng)
    model.save_pretrained(folder / name)
    double = kind.from_pretrained(folder / name, dtype=torch.float64, attn_implementation="eager").train()
    loss = loss_of(double)
    loss.backward()
    lost = [key for key, weight in double.named_parameters() if weight.grad is None]
    if lost:
        raise RuntimeError(f"{name}: no gradient reaches {lost}")
    with torch.no_grad():
        for weight in double.parameters():
            weight.copy_(weight.grad)
    double.save_pretrained(folder / f"{name}_gradients")
    return loss


def model_answers(folder: Path, rng: np.random.Generator) -> Tensors:
    ids = torch.from_numpy(rng.integers(0, GPT2["vocab_size"], (2, 6)))
    labels = ids.clone()
    labels[1, 4:] = -100
    gpt2 = GPT2Config(**GPT2, **DROPOUT["gpt2"])
    made = {"gpt2_ids": ids, "gpt2_labels": labels}

    def next_tokens(model: Any) -> torch.Tensor:
        output = model(input_ids=ids, labels=labels)
        made["gpt2_own_loss"] = output.loss
        return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    made["gpt2_loss"] = write_model(folder, "gpt2", GPT2LMHeadModel, gpt2, rng, next_tokens)
    made |= bert_answers(folder, rng)
    return made


def bert_answers(folder: Path, rng: np.random.Generator) -> Tensors:
    ids = torch.from_numpy(rng.integers(1, BERT["vocab_size"], (2, 7)))
    mask, segments = torch.ones_like(ids), (torch.arange(7) >= 3).long()[None].repeat(2, 1)
    mask[1, 5:] = ids[1, 5:] = segments[1, 5:] = 0
    labels = torch.from_numpy(rng.integers(0, BERT["vocab_size"], (2, 7)))
    labels[:, ::2] = labels[1, 5:] = -100
    given, following = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}, torch.tensor([0, 1])

    def words_and_sentences(model: Any) -> torch.Tensor:
        output = model(**given)
        words = F.cross_entropy(output.prediction_logits.flatten(0, 1), labels.flatten())
        return words + F.cross_entropy(output.seq_relationship_logits, following)

    made = {f"bert_{name}": value for name, value in given.items()}
    made |= {"bert_labels": labels, "bert_next_sentence_label": following}
    config = BertConfig(**BERT, **DROPOUT["bert"])
    return made | {"bert_loss": write_model(folder, "bert", BertForPreTraining, config, rng, words_and_sentences)}


WHAT = {
    "softmax.x, log_softmax.x": "the cotangent of softmax_x, of softmax_cotangent, along the last axis",
    "logsumexp.x, cross_entropy.logits": "the cotangent of softmax_x, of rows_cotangent; targets cross_entropy_targets, reduction none",
    "gelu_F.x": "the cotangent of gelu_x, of gelu_cotangent, gelu(approximate=F)",
    "layer_norm.A": "the cotangent of layer_norm_A, of layer_norm_cotangent, eps 1e-5",
    "attention_M.A": "the cotangent of attention_A, of attention_cotangent, through scaled_dot_product_attention, mask attention_mask_M "
    "(1 = may attend; M = none has no mask), math backend; row 0 of `empty` sees nothing",
    "embedding.table": "the cotangent of embedding_table, of embedding_cotangent, rows embedding_ids",
    "gpt2_loss": "cross_entropy of GPT2LMHeadModel's logits for gpt2_ids with the next of gpt2_labels (-100: ignored); its gradient: gpt2_gradients",
    "gpt2_own_loss": "what the model itself says it is, in float32",
    "bert_loss": "cross_entropy of BertForPreTraining's logits of masked tokens, and of the next sentence, added; its gradient: bert_gradients",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives torch_gradients")
    folder: Path = parser.parse_args().out / "torch_gradients"
    shutil.rmtree(folder, ignore_errors=True)
    deterministic()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    streams = [np.random.default_rng([SEED, index]) for index in range(6)]
    tensors = softmax_answers(streams[0]) | gelu_answers(streams[1]) | layer_norm_answers(streams[2])
    tensors |= attention_answers(streams[3]) | embedding_answers(streams[4]) | model_answers(folder, streams[5])
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    for path in folder.rglob("generation_config.json"):
        path.unlink()
    facts = {
        "oracle": "PyTorch's autograd, CPU, float64; Hugging Face transformers, eager attention",
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
