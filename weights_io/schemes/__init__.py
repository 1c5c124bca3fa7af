"""Naming schemes: how each framework calls and lays out the parameters of each model, as tables that can be read, inverted and listed.

checkpoint = weights_io.open("model.ckpt")
scheme = schemes.detect(checkpoint)                     # tensorflow-gpt2
ours = schemes.to_canonical(checkpoint, scheme)         # lazy: "blocks.0.query_key_value.weight", ...
theirs = schemes.from_canonical(ours, SCHEMES["hugging-face-gpt2"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_io.checkpoint import Checkpoint
from weights_io.schemes import hugging_face_bert, hugging_face_gpt2, keras_extractor, megatron_cpm, tensorflow
from weights_io.schemes.canonical import ARCHITECTURES
from weights_io.schemes.scheme import (
    RULES,
    Explanation,
    Row,
    Rule,
    Scheme,
    SchemeError,
    describe,
    explain,
    from_canonical,
    to_canonical,
    with_tied,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "RULES",
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
    "with_tied",
]

OWN = [
    Scheme(
        name=f"refimpl-{architecture.replace('_', '-')}",
        architecture=architecture,
        title=f"This project's own names of a {architecture}",
        reference="weights_io/schemes/canonical.py",
        table={name: Rule(name) for name in shapes},
    )
    for architecture, shapes in ARCHITECTURES.items()
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
        keras_extractor.KERAS,
        keras_extractor.TF_KERAS,
        *OWN,
    )
}


def named(name: str) -> Scheme:
    """The scheme of that name; SchemeError that lists the names there are."""
    if name not in SCHEMES:
        raise SchemeError("unknown naming scheme", expected=", ".join(SCHEMES), got=repr(name))
    return SCHEMES[name]


def _margin(explanation: Explanation) -> int:
    """Names explained, less those left open."""
    return explanation.explained - len(explanation.problems)


def detect(names: Iterable[str], candidates: Iterable[Scheme] | None = None) -> Scheme:
    """The scheme whose names these are: the one that explains most and leaves fewest unexplained and missing.

    Parameters
    ----------
    names : of the tensors; a Checkpoint is one
    candidates : schemes to choose from; None: all in `SCHEMES`

    Raises
    ------
    SchemeError
        if the best one explains no more than it leaves open, or two are equally good; it lists what the nearest scheme does not explain.
    """
    listed, where = list(names), names if isinstance(names, Checkpoint) else None
    found = [explain(listed, scheme) for scheme in (SCHEMES.values() if candidates is None else candidates)]
    best = max(found, key=_margin)
    if _margin(best) <= 0:
        raise _unknown(listed, found, where)
    equal = [explanation.scheme.name for explanation in found if _margin(explanation) == _margin(best)]
    if len(equal) > 1:
        raise SchemeError(
            "the names fit several naming schemes equally well",
            best.problems,
            rule="scheme.unknown",
            where=where,
            got=", ".join(equal),
            remedy="name the scheme",
        )
    return best.scheme


def _unknown(names: list[str], found: list[Explanation], where: object) -> SchemeError:
    nearest = max(found, key=lambda explanation: explanation.explained)
    share = f"{nearest.explained} of {len(names)} names are in {nearest.scheme.name}, the nearest"
    return SchemeError(
        "the names are those of no naming scheme",
        nearest.problems if nearest.explained else [f"not in any scheme: {name}" for name in nearest.unexplained],
        rule="scheme.unknown",
        where=where,
        expected="names of " + ", ".join(explanation.scheme.name for explanation in found),
        got=share if nearest.explained else f"{len(names)} names",
    )
