"""A second, independent GPT-2: scalars of mpmath, loops, and nothing of `refimpl`.

It exists so that an error in the definition does not certify itself: the ball evaluation of `refimpl.gpt2` must contain what this program
computes from the published equations with sixty digits. It knows nothing of arrays, masks, caches or batches.

Reference: A. Radford et al., "Language models are unsupervised multitask learners" (2019), and the released model code's equations.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

__all__ = ["scalar_logits"]

Vector = list[Any]
Matrix = list[Vector]


def _numbers(array: Any) -> Any:
    return [_numbers(row) for row in array] if getattr(array, "ndim", 0) else mpf(float(array))


def _affine(x: Vector, weight: Matrix, bias: Vector) -> Vector:
    return [mp.fsum(x[i] * weight[i][j] for i in range(len(x))) + bias[j] for j in range(len(bias))]


def _layer_norm(x: Vector, scale: Vector, bias: Vector, eps: float) -> Vector:
    mean = mp.fsum(x) / len(x)
    variance = mp.fsum((value - mean) ** 2 for value in x) / len(x)
    return [(value - mean) / mp.sqrt(variance + mpf(eps)) * g + b for value, g, b in zip(x, scale, bias, strict=True)]


def _gelu(x: Any) -> Any:
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpf(44715) / 10**6 * x**3)))


def _attend(query: Vector, keys: Matrix, values: Matrix) -> Vector:
    """One head's answer for one query that sees all the keys given."""
    scores = [mp.fsum(a * b for a, b in zip(query, key, strict=True)) / mp.sqrt(len(query)) for key in keys]
    exponentials = [mp.exp(score) for score in scores]
    total = mp.fsum(exponentials)
    width = len(values[0])
    return [mp.fsum(e * value[j] for e, value in zip(exponentials, values, strict=True)) / total for j in range(width)]


def scalar_logits(
    arrays: dict[str, Any], layers: int, heads: int, eps: float, tokens: list[int], digits: int = 60
) -> Matrix:
    """Logits of one sequence, tokens x vocabulary, with `digits` digits.

    Parameters
    ----------
    arrays : parameters by the dotted names of `refimpl.gpt2.GPT2Weights.shapes`, tied head
    layers, heads, eps : of the model
    tokens : ids of one sequence, at positions 0, 1, ...
    """
    with mp.workdps(digits):
        p = {name: _numbers(array) for name, array in arrays.items()}
        width = len(p["token_embedding"][0])
        stream = [
            [a + b for a, b in zip(p["token_embedding"][token], p["position_embedding"][place], strict=True)]
            for place, token in enumerate(tokens)
        ]
        for i in range(layers):
            stream = _layer(
                {name.split(".", 2)[2]: p[name] for name in p if name.startswith(f"blocks.{i}.")},
                stream,
                heads,
                width,
                eps,
            )
        final = [_layer_norm(x, p["final_norm.scale"], p["final_norm.bias"], eps) for x in stream]
        return [[mp.fsum(a * b for a, b in zip(x, row, strict=True)) for row in p["token_embedding"]] for x in final]


def _layer(p: dict[str, Any], stream: Matrix, heads: int, width: int, eps: float) -> Matrix:
    normed = [_layer_norm(x, p["attention_norm.scale"], p["attention_norm.bias"], eps) for x in stream]
    qkv = [_affine(x, p["query_key_value.weight"], p["query_key_value.bias"]) for x in normed]
    size, after = width // heads, []
    for place, x in enumerate(stream):
        joined: Vector = []
        for head in range(heads):
            at = head * size
            keys = [row[width + at : width + at + size] for row in qkv[: place + 1]]
            values = [row[2 * width + at : 2 * width + at + size] for row in qkv[: place + 1]]
            joined += _attend(qkv[place][at : at + size], keys, values)
        mixed = _affine(joined, p["attention_output.weight"], p["attention_output.bias"])
        x = [a + b for a, b in zip(x, mixed, strict=True)]
        inner = _affine(
            _layer_norm(x, p["feed_forward_norm.scale"], p["feed_forward_norm.bias"], eps),
            p["feed_forward_in.weight"],
            p["feed_forward_in.bias"],
        )
        fed = _affine([_gelu(value) for value in inner], p["feed_forward_out.weight"], p["feed_forward_out.bias"])
        after.append([a + b for a, b in zip(x, fed, strict=True)])
    return after
