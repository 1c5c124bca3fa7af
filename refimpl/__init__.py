"""refimpl: one readable source per system, run as float, as GPU float, as a strict array, and as proof.

The modules are named after what they define: `taylor`, `softmax`, `activation`, `normalization`, `attention`, `gpt2`, `decoding`. `load` opens
a model; `backend` chooses where it runs. Importing this package imports NumPy's array-API layer and nothing heavier.
"""

from __future__ import annotations

from refimpl import activation, attention, backend, decoding, errors, gpt2, normalization, softmax, special, taylor
from refimpl.model import Model, Score, load

__version__ = "0.1.0"
__all__ = [
    "Model",
    "Score",
    "__version__",
    "activation",
    "attention",
    "backend",
    "decoding",
    "errors",
    "gpt2",
    "load",
    "normalization",
    "softmax",
    "special",
    "taylor",
]
