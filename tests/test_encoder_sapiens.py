"""Two antibody RoBERTas of fairseq (package sapiens, legacy pickles of PyTorch) against the logits that transformers gives for them."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl
import weights_io

RECORDED = Path(__file__).parent.parent / "validation" / "recorded" / "sapiens"
LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
ROWS = {"vh": 146, "vl": 130}  # of the position tables, the two before position 0 among them
REST = {
    "sentence_encoder.embed_tokens.weight": "roberta.embeddings.word_embeddings.weight",
    "sentence_encoder.embed_positions.weight": "roberta.embeddings.position_embeddings.weight",
    "sentence_encoder.emb_layer_norm.weight": "roberta.embeddings.LayerNorm.weight",
    "sentence_encoder.emb_layer_norm.bias": "roberta.embeddings.LayerNorm.bias",
    "lm_head.weight": "lm_head.decoder.weight",
}


@functools.cache
def _checkpoint(chain: str) -> Path:
    install = "python -m pip install --no-deps -r tests/requirements-models.txt"
    try:
        package = importlib.metadata.distribution("sapiens")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package sapiens is not installed: {install}")
    return Path(str(package.locate_file(f"sapiens/models/v1/checkpoint_{chain}.pt")))


def _name(theirs: str) -> str:
    """Hugging Face's name for one of fairseq's."""
    layer = re.fullmatch(r"sentence_encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", theirs)
    if layer:
        return f"roberta.encoder.layer.{layer[1]}.{LAYER[layer[2]]}.{layer[3]}"
    return REST.get(theirs, theirs)


def _folder(path: Path, chain: str) -> Path:
    """The checkpoint under Hugging Face's names; fairseq has no segments, so there is one, of zeros."""
    prefix = "model/decoder."
    with weights_io.open(_checkpoint(chain)) as checkpoint:
        assert checkpoint.format == "pytorch-legacy"
        tensors = {_name(name.removeprefix(prefix)): a for name, a in checkpoint.items() if name.startswith(prefix)}
        assert len(tensors) == 2 + 2 + 4 * 16 + 6
        tensors["roberta.embeddings.token_type_embeddings.weight"] = np.zeros((1, 128), np.float32)
        weights_io.save(path / "model.safetensors", tensors)
    sizes = {"vocab_size": 25, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8}
    sizes |= {"intermediate_size": 256, "max_position_embeddings": ROWS[chain], "type_vocab_size": 1}
    (path / "config.json").write_text(json.dumps(sizes | {"layer_norm_eps": 1e-5, "pad_token_id": 1}))
    return path


def _relative(found: Any, expected: Any) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("chain", ["vh", "vl"])
def test_a_roberta_of_fairseq_gives_the_recorded_logits(chain: str, tmp_path: Path, recorded: Any) -> None:
    """To 1e-12 of the largest magnitude, at residues; padding on the right takes no position."""
    answers = recorded("sapiens")
    expected = json.loads((RECORDED / "provenance.json").read_text("utf-8"))["model"]["sha256"]
    assert hashlib.sha256(_checkpoint(chain).read_bytes()).hexdigest() == expected[f"checkpoint_{chain}.pt"]
    model = refimpl.load(_folder(tmp_path, chain), backend="numpy", dtype="float64")
    assert (model.config.position_offset, model.config.max_position_embeddings) == (2, ROWS[chain])
    mask = answers["ids"] != 1
    found = model.logits(answers["ids"], mask)
    assert _relative(found[mask], answers[f"{chain}_logits"][mask]) <= 1e-12


def test_a_roberta_with_more_positions_gives_the_recorded_logits(tmp_path: Path, recorded: Any) -> None:
    """144 positions behind two rows, extended to 300: the offset of the table enters the decomposition."""
    answers = recorded("sapiens")
    model = refimpl.load(_folder(tmp_path, "vh"), backend="numpy", dtype="float64", positions=300)
    assert _relative(model.logits(answers["long_ids"]), answers["long_logits"]) <= 1e-12
    plain = refimpl.load(tmp_path, backend="numpy", dtype="float64")
    assert np.array_equal(plain.logits(answers["ids"]), model.logits(answers["ids"]))
