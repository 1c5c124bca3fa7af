"""A layer of GPT-2 and a layer of BERT, token by token, the parameters as arguments.

    gpt2_block:  y = x + W_o [heads] + b_o of LN₁(x)        z = y + W_2 GELU(W_1 LN₂(y) + b_1) + b_2       GELU by tanh; keys: real ones up to itself
    bert_block:  y = LN₁(x + W_o [heads] + b_o)             z = LN₂(y + W_2 GELU(W_1 y + b_1) + b_2)       GELU(t) = t Φ(t); keys: real ones

A head is Σ_j p_j v_j, p = softmax over the keys of q·k_j/√w + S_ij, S the scores of the layers before (none in GPT-2).

References: A. Radford et al. (2019), section 2.3; J. Devlin et al., arXiv 1810.04805, and R. He et al., "RealFormer", arXiv 2012.11747, section 3.2.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from validation.scalar.activation import gelu_tanh
from validation.scalar.attention import answer, score
from validation.scalar.normalization import normalized
from validation.scalar.numbers import added, affine, scalar

__all__ = ["bert_block", "gpt2_block"]

Vector = list[Any]


def _attended(x: list[Vector], i: int, seen: list[int], scores: Any, weight: Any, bias: Any, heads: int) -> Vector:
    """The heads of token i, side by side."""
    d = len(x[0])
    width, joined = d // heads, []
    qkv = {j: affine(x[j], weight, bias) for j in {i, *seen}}
    for head in range(heads):
        at = head * width
        query = qkv[i][at : at + width]
        keys = [qkv[j][d + at : d + at + width] for j in seen]
        values = [qkv[j][2 * d + at : 2 * d + at + width] for j in seen]
        earlier = [mpf(0) if scores is None else scores[head][i][j] for j in seen]
        joined += answer([score(query, k) + s for k, s in zip(keys, earlier, strict=True)], values, width)
    return joined


@scalar
def gpt2_block(x: Any, mask: Any, *parameters: Any, heads: int, eps: float) -> Any:
    """Pre-LN, causal; zeros at padding."""
    g1, b1, w_qkv, b_qkv, w_o, b_o, g2, b2, w_in, b_in, w_out, b_out = parameters
    answers, eps = [], mpf(eps)
    for stream, real in zip(x, mask, strict=True):
        normed, rows = [normalized(each, g1, b1, eps) for each in stream], []
        for i, token in enumerate(stream):
            seen = [j for j in range(i + 1) if real[j]]
            y = added(token, affine(_attended(normed, i, seen, None, w_qkv, b_qkv, heads), w_o, b_o))
            inner = [gelu_tanh(t) for t in affine(normalized(y, g2, b2, eps), w_in, b_in)]
            rows.append(added(y, affine(inner, w_out, b_out)) if real[i] else [mpf(0)] * len(token))
        answers.append(rows)
    return answers


@scalar
def bert_block(x: Any, mask: Any, previous_scores: Any, *parameters: Any, heads: int, eps: float) -> Any:
    """Post-LN; zeros at padding."""
    g1, b1, w_qkv, b_qkv, w_o, b_o, g2, b2, w_in, b_in, w_out, b_out = parameters
    answers, eps = [], mpf(eps)
    for stream, real, scores in zip(x, mask, previous_scores, strict=True):
        seen, rows = [j for j, one in enumerate(real) if one], []
        for i, token in enumerate(stream):
            mixed = affine(_attended(stream, i, seen, scores, w_qkv, b_qkv, heads), w_o, b_o)
            y = normalized(added(token, mixed), g1, b1, eps)
            inner = [t * mp.ncdf(t) for t in affine(y, w_in, b_in)]
            fed = normalized(added(y, affine(inner, w_out, b_out)), g2, b2, eps)
            rows.append(fed if real[i] else [mpf(0)] * len(token))
        answers.append(rows)
    return answers
