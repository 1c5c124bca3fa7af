"""A second, independent BERT and NEZHA, token by token, with the masked-LM head.

    x = LN(E[token] + S[segment] + P[place])                                  NEZHA: no P
    y = LN(x + W_o [heads] + b_o)           x' = LN(y + W_2 GELU(W_1 y + b_1) + b_2)
    logits = E LN(GELU(W_t x + b_t)) + b    GELU(x) = x Φ(x)

A head is o_i = Σ_j p_ij v_j, p_i = softmax of q_i·k_j/√w over the keys that token i sees; in NEZHA q_i·(k_j + a_ij)/√w and v_j + a_ij, with

    a_ij[2k] = sin(t/10000^{2k/w}),  a_ij[2k+1] = cos(t/10000^{2k/w}),  t = min(max(j - i, -64), 64) + 64

A token sees the real tokens ("encoder"); of those, the ones up to itself ("lm"); or, as source (segment 0), the source, and as target, the source and
the target up to itself ("unilm").

References: J. Devlin et al., arXiv 1810.04805, section 3 and appendix A; A. Vaswani et al., arXiv 1706.03762, sections 3.1 to 3.3; J. Wei et al.,
"NEZHA", arXiv 1909.00204, section 2.2, its sinusoid of the clipped distance as in the released code; L. Dong et al., "UniLM",
arXiv 1905.03197, section 2.3.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf

from validation.scalar.attention import answer, score
from validation.scalar.files import RECORDED, safetensors, tensorflow_data
from validation.scalar.normalization import normalized
from validation.scalar.numbers import DIGITS, added, affine, dot, scalar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bert", "nezha", "relative_embedding"]

Vector = list[Any]
Matrix = list[Vector]
CLIP = 64
EPS = 1e-12


def relative_embedding(distance: int, width: int, clip: int = CLIP) -> Vector:
    """a_ij for j - i = distance."""
    t, found = min(max(distance, -clip), clip) + clip, []
    for k in range(width // 2):
        angle = t / mpf(10000) ** (mpf(2 * k) / width)
        found += [mp.sin(angle), mp.cos(angle)]
    return found


@functools.cache
def _kept_embedding(distance: int, width: int) -> Vector:
    with mp.workdps(DIGITS):
        return relative_embedding(distance, width)


def _gelu(x: Vector) -> Vector:
    return [value * mp.ncdf(value) for value in x]


def _encoded(p: dict[str, Any], x: Matrix, sees: Callable[[int, int], bool], heads: int, relative: bool) -> Matrix:
    """One layer: `p` are its parameters by the names of BERT's checkpoints, weights as (in, out)."""
    q, k, v = (
        [affine(each, p[f"attention.self.{name}.w"], p[f"attention.self.{name}.b"]) for each in x]
        for name in ("query", "key", "value")
    )
    width, after = len(x[0]) // heads, []
    for i, token in enumerate(x):
        joined: Vector = []
        for at in range(0, len(token), width):
            seen = [j for j in range(len(x)) if sees(i, j)]
            keys, values = ([row[j][at : at + width] for j in seen] for row in (k, v))
            if relative:
                moves = [_kept_embedding(j - i, width) for j in seen]
                keys, values = ([added(a, b) for a, b in zip(rows, moves, strict=True)] for rows in (keys, values))
            joined += answer([score(q[i][at : at + width], key) for key in keys], values, width)
        mixed = added(token, affine(joined, p["attention.output.dense.w"], p["attention.output.dense.b"]))
        y = normalized(mixed, p["attention.output.LayerNorm.w"], p["attention.output.LayerNorm.b"], mpf(EPS))
        inner = _gelu(affine(y, p["intermediate.dense.w"], p["intermediate.dense.b"]))
        fed = added(y, affine(inner, p["output.dense.w"], p["output.dense.b"]))
        after.append(normalized(fed, p["output.LayerNorm.w"], p["output.LayerNorm.b"], mpf(EPS)))
    return after


def _logits(
    p: dict[str, Any],
    layers: int,
    heads: int,
    tokens: list[int],
    segments: list[int],
    real: list[bool],
    application: str,
) -> Matrix:
    """Masked-LM logits of one row; of padding too, whatever they are there."""
    relative, x = "position" not in p, []
    for place, (token, segment) in enumerate(zip(tokens, segments, strict=True)):
        vector = added(p["word"][token], p["segment"][segment])
        vector = vector if relative else added(vector, p["position"][place])
        x.append(normalized(vector, p["norm.w"], p["norm.b"], mpf(EPS)))

    def sees(i: int, j: int) -> bool:
        if application == "lm":
            return real[j] and j <= i
        if application == "unilm":
            return real[j] and (segments[j] == 0 or (segments[i] == 1 and j <= i))
        return real[j]

    for layer in range(layers):
        x = _encoded(p["layers"][layer], x, sees, heads, relative)
    words = [
        normalized(_gelu(affine(each, p["head.w"], p["head.b"])), p["head.norm.w"], p["head.norm.b"], mpf(EPS))
        for each in x
    ]
    return [[dot(each, row) + bias for row, bias in zip(p["word"], p["head.bias"], strict=True)] for each in words]


# --- the recorded models ------------------------------------------------------------------------------------------------------


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


_LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


@functools.cache
def _bert() -> tuple[dict[str, Any], int, int]:
    folder = RECORDED / "hugging_face_bert" / "model"
    config, t = json.loads((folder / "config.json").read_text("utf-8")), safetensors(folder / "model.safetensors")
    p: dict[str, Any] = {
        "word": t["bert.embeddings.word_embeddings.weight"],
        "segment": t["bert.embeddings.token_type_embeddings.weight"],
        "position": t["bert.embeddings.position_embeddings.weight"],
        "norm.w": t["bert.embeddings.LayerNorm.weight"],
        "norm.b": t["bert.embeddings.LayerNorm.bias"],
        "head.w": _transposed(t["cls.predictions.transform.dense.weight"]),
        "head.b": t["cls.predictions.transform.dense.bias"],
        "head.norm.w": t["cls.predictions.transform.LayerNorm.weight"],
        "head.norm.b": t["cls.predictions.transform.LayerNorm.bias"],
        "head.bias": t["cls.predictions.bias"],
        "layers": [],
    }
    for i in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}."
        layer = {f"{name}.w": _transposed(t[f"{at}{name}.weight"]) for name in _LINEAR}
        layer |= {f"{name}.w": t[f"{at}{name}.weight"] for name in _NORMS}
        p["layers"].append(layer | {f"{name}.b": t[f"{at}{name}.bias"] for name in (*_LINEAR, *_NORMS)})
    return p, config["num_hidden_layers"], config["num_attention_heads"]


@functools.cache
def _nezha() -> tuple[dict[str, Any], int, int]:
    folder = RECORDED / "bert4keras" / "nezha"
    config, t = json.loads((folder / "config.json").read_text("utf-8")), tensorflow_data(folder)
    p: dict[str, Any] = {
        "word": t["bert/embeddings/word_embeddings"],
        "segment": t["bert/embeddings/token_type_embeddings"],
        "norm.w": t["bert/embeddings/LayerNorm/gamma"],
        "norm.b": t["bert/embeddings/LayerNorm/beta"],
        "head.w": t["cls/predictions/transform/dense/kernel"],
        "head.b": t["cls/predictions/transform/dense/bias"],
        "head.norm.w": t["cls/predictions/transform/LayerNorm/gamma"],
        "head.norm.b": t["cls/predictions/transform/LayerNorm/beta"],
        "head.bias": t["cls/predictions/output_bias"],
        "layers": [],
    }
    for i in range(config["num_hidden_layers"]):
        names = {name: f"bert/encoder/layer_{i}/{name.replace('.', '/')}" for name in (*_LINEAR, *_NORMS)}
        layer = {f"{name}.w": t[f"{names[name]}/kernel"] for name in _LINEAR}
        layer |= {f"{name}.b": t[f"{names[name]}/bias"] for name in _LINEAR}
        layer |= {f"{name}.w": t[f"{names[name]}/gamma"] for name in _NORMS}
        p["layers"].append(layer | {f"{name}.b": t[f"{names[name]}/beta"] for name in _NORMS})
    return p, config["num_hidden_layers"], config["num_attention_heads"]


def _rows(model: tuple[dict[str, Any], int, int], token_ids: Any, segment_ids: Any, mask: Any, application: str) -> Any:
    p, layers, heads = model
    answers = []
    for tokens, segments, real in zip(token_ids, segment_ids, mask, strict=True):
        found = _logits(p, layers, heads, tokens, segments, real, application)
        answers.append([row if one else [mpf(0)] * len(row) for row, one in zip(found, real, strict=True)])
    return answers


@scalar
def bert(token_ids: Any, segment_ids: Any, mask: Any, application: str) -> Any:
    """Masked-LM logits of the recorded BERT, zeros at padding."""
    return _rows(_bert(), token_ids, segment_ids, mask, application)


@scalar
def nezha(token_ids: Any, segment_ids: Any, mask: Any, application: str) -> Any:
    """Masked-LM logits of the recorded NEZHA, zeros at padding."""
    return _rows(_nezha(), token_ids, segment_ids, mask, application)
