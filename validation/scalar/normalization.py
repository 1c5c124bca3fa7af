"""Layer normalization from its formula.

    (x_i - μ)/√(σ² + ε) g_i + b_i        μ = 1/d Σ x_i        σ² = 1/d Σ (x_i - μ)²

Reference: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", arXiv 1607.06450, eq. (3) and section 3.1; ε is the binary number given.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp

from validation.scalar.numbers import each_row, scalar

__all__ = ["layer_norm", "normalized"]


def normalized(x: list[Any], scale: list[Any], bias: list[Any], eps: Any) -> list[Any]:
    """One vector, normalised."""
    mean = mp.fsum(x) / len(x)
    deviation = mp.sqrt(mp.fsum((value - mean) ** 2 for value in x) / len(x) + eps)
    return [(value - mean) / deviation * g + b for value, g, b in zip(x, scale, bias, strict=True)]


@scalar
def layer_norm(x: Any, scale: Any, bias: Any, eps: Any) -> Any:
    """Every vector, normalised."""
    return each_row(lambda row: normalized(row, scale, bias, eps), x)
