"""refimpl: one readable source per system, run as float, as GPU float, as a strict array, and as proof.

The modules are named after what they define: `taylor`, `softmax`, `activation`, `normalization`, `attention`, `linear_attention`, `favor`,
`positions`, `blocks`, `gpt2`, `bert`, `decoding`, `mitchell`, `copying`. `load` opens a model; `backend` chooses where it runs. Importing this
package imports
NumPy's array-API layer and nothing heavier.
"""

from __future__ import annotations

from refimpl import (
    activation,
    attention,
    backend,
    bert,
    blocks,
    copying,
    decoding,
    errors,
    favor,
    gpt2,
    linear_attention,
    mitchell,
    normalization,
    positions,
    softmax,
    special,
    taylor,
)
from refimpl.arithmetic import Arithmetic
from refimpl.encoder import Encoder
from refimpl.model import Model, Score, load

__version__ = "0.1.0"
__all__ = [
    "Arithmetic",
    "Encoder",
    "Model",
    "Score",
    "__version__",
    "activation",
    "attention",
    "backend",
    "bert",
    "blocks",
    "copying",
    "decoding",
    "errors",
    "favor",
    "gpt2",
    "linear_attention",
    "load",
    "mitchell",
    "normalization",
    "positions",
    "softmax",
    "special",
    "taylor",
]
