"""Inputs that the search found and that were then frozen: each the smallest that it shrank to for a bug that few other vectors catch.

They are data, not computed: the golden vectors that they became stay as they are, whatever a later search finds.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FOUND"]

# component -> (name, the mutant that it was found for, floating arrays and parameters by name)
FOUND: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "softmax": (
        (
            "found 1",
            "the row's mean subtracted",
            {"x": [[0.0, 178.0], [0.6972725987434387, 5400.33251953125], [0.16964228451251984, 0.125]]},
        ),
        ("found 2", "the maximum of all rows subtracted", {"x": [[0.0, -12.0, 0.0], [0.0, 0.0, 92.0]]}),
    ),
    "log_softmax": (
        ("found 1", "the maximum of all rows subtracted", {"x": [[0.0], [1.25]]}),
        ("found 2", "logarithm of softmax", {"x": [[0.0, 0.0, 0.0], [0.0, 12.0, -92.0]]}),
    ),
    "logsumexp": (
        ("found 1", "the maximum of all rows subtracted", {"x": [[0.0], [1.25]]}),
        ("found 2", "the smallest entry subtracted", {"x": [[0.0, 89.0], [-0.0, -4.625]]}),
    ),
    "gelu": (
        ("found 1", "tanh by exponentials", {"x": [11.0], "approximate": "tanh"}),
        ("found 2", "0.0447 for 0.044715", {"x": [1.0], "approximate": "tanh"}),
    ),
    "layer_norm": (
        (
            "found 1",
            "mean of squares minus square of the mean",
            {
                "x": [[8.0, 8.0, 8.0, 8.0, 8.25]],
                "scale": [0.0, 0.0, 0.0, 0.0, 1.0],
                "bias": [0.0, 0.0, 0.0, 0.0, 3.0],
                "eps": 1e-12,
            },
        ),
        (
            "found 2",
            "eps 1e-5 throughout",
            {
                "x": [[0.0, 0.0, 0.0, 0.0], [0.0078125, 0.0, 0.0, 0.0]],
                "scale": [0.0, 0.0, 0.0, 1.0],
                "bias": [0.0, 0.0, 0.0, 0.0],
                "eps": 1e-12,
            },
        ),
    ),
    "residual_attention": (
        (
            "found 1",
            "NaN where nothing is allowed",
            {
                "q": [[[[0.0], [0.0]], [[0.0], [0.0]]]],
                "k": [[[[0.0], [0.0]], [[0.0], [0.0]]]],
                "v": [[[[0.0], [0.0]], [[0.0], [0.0]]]],
                "previous_scores": [[[[59904.0, 59904.0], [0.0, 0.0]], [[59904.0, 59904.0], [0.25, -0.2060546875]]]],
                "mask": [[False, False], [True, True]],
                "mean_over": 36,
            },
        ),
    ),
    "relative_attention": (
        (
            "found 1",
            "queries placed at the start",
            {
                "q": [[[[0.0, 0.0]]]],
                "k": [[[[0.0, 0.0], [0.0, 0.0]]]],
                "v": [[[[0.0, 3.0], [-0.232421875, 0.62109375]]]],
                "relative": [[[0.0, 0.0], [0.0, 1.0]]],
                "mask": [[True, True]],
            },
        ),
    ),
    "hierarchical_positions": (
        (
            "found 1",
            "alpha 0.4 throughout",
            {"table": [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], "positions": [12], "alpha": 1.5},
        ),
        (
            "found 2",
            "alpha in float32",
            {
                "table": [[0.0, 1.0, 0.254829592], [1.175494351e-38, 1.470897283571058, -1.7064612440198825]],
                "positions": [2],
                "alpha": 0.4,
            },
        ),
    ),
    "exp_taylor": (
        ("found 1", "term by term", {"x": [-4.5], "order": 16}),
        ("found 2", "Horner", {"x": [-5.0], "order": 16}),
    ),
    "taylor_softmax": (
        (
            "found 1",
            "order 2 throughout",
            {"x": [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [-4.65625, 1.15625, -2.390625, -0.40625]], "order": 4},
        ),
    ),
    "sparse_softmax": (
        (
            "found 1",
            "every tie with the last is kept",
            {"x": [[0.0, 0.0], [1.0390625, 4.1875], [9.968061931431293e-10, -40.5]], "k": 1},
        ),
    ),
    "sparse_softmax_cross_entropy": (
        ("found 1", "un-shifted", {"logits": [[89.0], [0.0], [2.34375]], "targets": [0, 0, 0], "k": 1}),
    ),
    "positive_features": (
        (
            "found 1",
            "maximum of all heads",
            {
                "x": [[[0.0], [0.0]], [[0.0], [1.0]]],
                "projection": [[1.0]],
                "scaled": True,
                "shift": "row",
                "epsilon": 0.0001,
                "normalized": True,
            },
        ),
    ),
    "hyperbolic_features": (
        (
            "found 1",
            "maximum of all heads",
            {"x": [[[0.0]], [[1.0]]], "projection": [[0.0]], "scaled": True, "shift": "norm", "normalized": True},
        ),
    ),
}
