"""Golden vectors: frozen inputs, with answers that are proved and tolerances that are derived. Ids are never reused, files are only added to.

A component has two files in `data`: a manifest (`softmax.json`; `schema.json` is its JSON schema) and the tensors that it names
(`softmax.safetensors`). A vector is a call: arguments by name, each a tensor or a plain value. Floating tensors hold float64 numbers that every dtype
of the vector represents exactly, so that one truth serves them all. The truth y is given as high + low (`truth.DoubleDouble`), and the tolerance in
a dtype with unit roundoff u, whose smallest number that hardware does not flush to 0 is s, is, element by element,

    u · (amplification + |y|) + s · (underflow + 1)

where the amplification (of rounding errors, in units of u) is proved or sampled, as `validation.tolerance` explains. Answers of whole numbers or
truth values have a dtype of their own and no tolerance.

`python -m validation.vectors generate` computes all answers again from the frozen inputs; `--check` compares them with the files bit for bit.
"""

from __future__ import annotations

from validation.vectors.answers import fresh
from validation.vectors.files import DATA, Vector, VectorSet, check_dtype, load, names

__all__ = ["DATA", "Vector", "VectorSet", "check_dtype", "fresh", "load", "names"]
