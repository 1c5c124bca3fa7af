"""Names in the HDF5 files that Keras writes of the extractor of SPACES: a group for each layer, in it the layer's name once more, and `:0`.

Keras counts layers of a kind in the order in which a program makes them: Keras 2.3, which the released program uses, from 1, tf.keras from the
second on (`dense`, `dense_1`). The tables are those of a program that makes nothing else before.
"""

from __future__ import annotations

from weights_io.schemes.scheme import Rule, Scheme

__all__ = ["KERAS", "TF_KERAS"]

REFERENCE = "github.com/bojone/SPACES, extract_model.py"


def _table(mark: str, first: str, last: str) -> dict[str, Rule]:
    """The names where layers are numbered by `mark`, and the two dense ones called `first` and `last`; whole models have a prefix."""
    layer = f"residual_gated_conv1d{mark}"
    names = {
        f"{first}/{first}/kernel": "projection",
        f"{layer}/{layer}/conv1d{mark}/kernel": "blocks.{i}.kernel",
        f"{layer}/{layer}/conv1d{mark}/bias": "blocks.{i}.bias",
        f"{layer}/{layer}/layer_normalization{mark}/gamma": "blocks.{i}.norm.scale",
        f"{layer}/{layer}/layer_normalization{mark}/beta": "blocks.{i}.norm.bias",
        f"{layer}/{layer}/alpha": "blocks.{i}.alpha",
        f"{last}/{last}/kernel": "head.weight",
        f"{last}/{last}/bias": "head.bias",
    }
    return {f"[|model_weights/]{name}:0": Rule(ours) for name, ours in names.items()}


KERAS = Scheme(
    name="keras-extractor",
    architecture="extractor",
    title="The extractor of SPACES in Keras 2.3",
    reference=REFERENCE,
    table=_table("{i:_1}", "dense_1", "dense_2"),
)

TF_KERAS = Scheme(
    name="tf-keras-extractor",
    architecture="extractor",
    title="The extractor of SPACES in tf.keras",
    reference=REFERENCE,
    table=_table("{i:_}", "dense", "dense_1"),
)
