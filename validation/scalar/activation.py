"""GELU from its formulas.

    "none": x Φ(x), Φ the distribution function of the standard normal        "tanh": 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))

Reference: D. Hendrycks and K. Gimpel, "Gaussian error linear units (GELUs)", arXiv 1606.08415, section 2. The coefficient is the decimal
printed there.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from validation.scalar.numbers import each_row, scalar

__all__ = ["gelu", "gelu_tanh"]


def gelu_tanh(x: Any) -> Any:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) of one number."""
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)))


@scalar
def gelu(x: Any, approximate: str) -> Any:
    """Either form, of every number."""
    form = {"tanh": gelu_tanh, "none": lambda value: value * mp.ncdf(value)}[approximate]
    return each_row(lambda row: [form(value) for value in row], x)
