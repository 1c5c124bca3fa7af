"""One vector for a text: mean over its tokens, and unit length; and what a sentence-transformers folder says of both.

    m[b] = Σ_t mask[b, t] x[b, t] / Σ_t mask[b, t]                  `mean_pooling`
    y = x / √(Σ x²)                                                 `unit_length`

`modules.json` of such a folder lists what comes after the encoder: pooling, whose own folder holds a config.json, and normalisation. `read_pooling`
reads both, and refuses what is not implemented here rather than leave it out.

Reference: N. Reimers and I. Gurevych, "Sentence-BERT", arXiv 1908.10084, section 3; the files as written by sentence-transformers 2 to 5.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.inputs import check_mask
from refimpl.number_system import Array, check_floating, exact, namespace, rounded_once

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["POOLINGS", "SentencePooling", "mean_pooling", "read_pooling", "unit_length"]

POOLINGS = ("mean", "cls", "pooler", "none")
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}  # in config.json of the pooling


class SentencePooling(NamedTuple):
    """How a text's vectors become one, and whether that one is given unit length."""

    how: str  # one of POOLINGS
    normalize: bool


@rounded_once
def mean_pooling(hidden: Array, mask: Array) -> Array:  # (batch, n, d), bool (batch, n) -> (batch, d)
    """m[b] = Σ_t mask[b, t] x[b, t] / Σ_t mask[b, t].

    Parameters
    ----------
    hidden : array, (batch, n, d), floating or balls
    mask : bool array or nested list, (batch, n), true at real tokens; None: all are real

    Returns
    -------
    array, (batch, d), the dtype of `hidden`

    Raises
    ------
    DtypeError, ShapeError, TokenError
        if `hidden` is not floating or has not three axes, the mask does not fit, or a row has no token.
    """
    check_floating("hidden", hidden)
    if hidden.ndim != 3:
        raise ShapeError("hidden must have three axes", expected="(batch, n, d)", got=tuple(hidden.shape))
    xp = namespace(hidden)
    seen = check_mask(mask, hidden[:, :, 0])[:, :, None]
    count = xp.sum(xp.astype(seen, xp.int64), axis=1)
    if bool(xp.any(count == 0)):
        raise TokenError("a row without tokens has no mean", where="mean_pooling(mask)", expected="a true in every row")
    return xp.sum(xp.where(seen, hidden, exact(0, hidden)), axis=1) / xp.astype(count, hidden.dtype)


@rounded_once
def unit_length(x: Array) -> Array:  # (..., d) -> (..., d)
    """y = x/√(Σ x²), over the last axis.

    Parameters
    ----------
    x : array, (..., d), floating or balls

    Returns
    -------
    array, (..., d), the dtype of `x`; NaN, or balls that are not finite, in a row that is all zeros: it has no direction

    Raises
    ------
    DtypeError
        if `x` is not floating.
    """
    check_floating("x", x)
    xp = namespace(x)
    return x / xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the file cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None


def _mode(path: Path) -> str:
    """The pooling that the config.json of a Pooling module asks for."""
    fields = _json(path)
    if not isinstance(fields, dict):
        raise ConfigError("the pooling's configuration is no object", where=path, got=type(fields).__name__)
    modes = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
    found = [MODES.get(name, name) for name in modes]
    if isinstance(fields.get("pooling_mode"), str):
        found.append(fields["pooling_mode"])
    if found not in (["mean"], ["cls"]):
        raise ConfigError(
            "the folder asks for a pooling that is not implemented",
            where=path,
            expected="mean or cls, alone",
            got=", ".join(found) or "none",
            remedy=f"choose one of {', '.join(POOLINGS)} yourself (pooling=)",
        )
    return str(found[0])


def read_pooling(folder: Path) -> SentencePooling | None:
    """What `modules.json` of a sentence-transformers folder says comes after the encoder; None where there is no such file.

    Raises
    ------
    ConfigError
        if it cannot be read, or names anything but an encoder, one pooling (mean or cls) and, perhaps, a normalisation, in this order.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = _json(path)
    good = isinstance(modules, list) and all(isinstance(each, dict) for each in modules)
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in modules] if good else []
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            "the folder asks for modules that are not implemented",
            where=path,
            expected="Transformer, Pooling, and perhaps Normalize",
            got=", ".join(kinds) or "no list of modules",
            remedy=f"choose one of {', '.join(POOLINGS)} yourself (pooling=)",
        )
    return SentencePooling(_mode(folder / str(modules[1].get("path", "")) / "config.json"), len(kinds) == 3)
