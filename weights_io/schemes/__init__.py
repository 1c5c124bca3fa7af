"""Naming schemes: how each framework calls and lays out the parameters of each model, as tables that can be read, inverted and listed.

checkpoint = weights_io.open("model.ckpt")
scheme = schemes.detect(checkpoint)                     # tensorflow-gpt2
ours = schemes.to_canonical(checkpoint, scheme)         # lazy: "blocks.0.query_key_value.weight", ...
theirs = schemes.from_canonical(ours, SCHEMES["hugging-face-gpt2"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_io.schemes import hugging_face_bert, hugging_face_gpt2, megatron_cpm, tensorflow
from weights_io.schemes.scheme import (
    Explanation,
    Row,
    Scheme,
    SchemeError,
    describe,
    explain,
    from_canonical,
    to_canonical,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "SCHEMES",
    "Explanation",
    "Row",
    "Scheme",
    "SchemeError",
    "describe",
    "detect",
    "explain",
    "from_canonical",
    "named",
    "to_canonical",
]

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        hugging_face_gpt2.SCHEME,
        hugging_face_bert.BERT,
        hugging_face_bert.ROBERTA,
        tensorflow.GPT2,
        tensorflow.GPT,
        tensorflow.GPT2_ML,
        tensorflow.BERT,
        tensorflow.NEZHA,
        tensorflow.OPENAI_GPT2,
        megatron_cpm.SCHEME,
    )
}


def named(name: str) -> Scheme:
    """The scheme of that name; SchemeError that lists the names there are."""
    if name not in SCHEMES:
        raise SchemeError("unknown naming scheme", expected=", ".join(SCHEMES), got=repr(name))
    return SCHEMES[name]


def _distance(explanation: Explanation) -> int:
    return len(explanation.unexplained) + len(explanation.missing) + len(explanation.clashes)


def detect(names: Iterable[str], candidates: Iterable[Scheme] | None = None) -> Scheme:
    """The scheme whose names these are: the one that leaves fewest names unexplained and missing.

    Parameters
    ----------
    names : of the tensors; a Checkpoint is one
    candidates : schemes to choose from; None: all in `SCHEMES`

    Raises
    ------
    SchemeError
        if the best one explains less than it leaves open, or two are equally good; it lists what the nearest scheme does not explain.
    """
    listed = list(names)
    found = [explain(listed, scheme) for scheme in (SCHEMES.values() if candidates is None else candidates)]
    found.sort(key=_distance)
    nearest = found[0]
    if nearest.explained <= _distance(nearest):
        raise SchemeError(
            "the names are those of no naming scheme",
            nearest.problems if nearest.explained else [f"not in any scheme: {name}" for name in nearest.unexplained],
            rule="scheme.unknown",
            where=names if hasattr(names, "format") else None,
            expected=", ".join(explanation.scheme.name for explanation in found),
            got=f"{nearest.explained} of {len(listed)} names are in {nearest.scheme.name}, the nearest",
        )
    equal = [explanation.scheme.name for explanation in found if _distance(explanation) == _distance(nearest)]
    if len(equal) > 1:
        raise SchemeError(
            "the names fit several naming schemes equally well",
            nearest.problems,
            rule="scheme.unknown",
            got=", ".join(equal),
            remedy="name the scheme",
        )
    return nearest.scheme
