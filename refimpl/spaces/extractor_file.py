"""An extractor in a file: written as safetensors with its configuration, read from that or from what Keras saved.

    weights, config = load_extractor("extract_model.0.weights")                     # Keras' HDF5: the sizes are those of the arrays
    save_extractor("extractor.safetensors", weights, config)                        # names of `ExtractorWeights.shapes`, and the configuration

Dilations and the norms' eps leave no trace in the arrays. Where a file has no configuration, as Keras' has none, they are the caller's; or else the
dilations of the published network, if there are six layers, and the eps of bert4keras 0.9, with which it was published.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import weights_io
from refimpl import backend as backends
from refimpl.errors import ConfigError
from refimpl.learning.checkpoints import check_name, on_host
from refimpl.number_system import check_floating
from refimpl.spaces.extractor import ExtractorConfig, ExtractorWeights
from weights_io import schemes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weights_io.checkpoint import Checkpoint

__all__ = ["load_extractor", "save_extractor"]

KEY, VERSION = "refimpl.extractor", 1
DTYPES = ("float16", "float32", "float64")


def save_extractor(path: str | Path, weights: ExtractorWeights, config: ExtractorConfig) -> None:
    """Write an extractor; where there was a file, it is replaced once the new one is whole on disk, and read back.

    Raises
    ------
    ConfigError, DtypeError, weights_io.WeightsError
        for a name that does not end in .safetensors, weights that are not floating or not those of the configuration, a folder that cannot be
        written to.
    """
    check_name(Path(path))
    ExtractorWeights.from_named(arrays := weights.named(), config)
    check_floating("weights", weights.projection, "save_extractor")
    said = {"version": VERSION, **dataclasses.asdict(config)}
    weights_io.save(path, {name: on_host(array) for name, array in arrays.items()}, {KEY: json.dumps(said)})


def load_extractor(
    path: str | Path,
    *,
    dilations: Sequence[int] | None = None,
    layer_norm_eps: float | None = None,
    dtype: str | None = None,
    backend: str = "numpy",
) -> tuple[ExtractorWeights, ExtractorConfig]:
    """The extractor in a file of `save_extractor`, of Keras, or of any format that `weights_io` opens, under names of an extractor's scheme.

    Parameters
    ----------
    path : of the file
    dilations : of the layers, where the file does not say; None: 1, 2, 4, 8, 1, 1 for six layers
    layer_norm_eps : where the file does not say; None: 1e-12. Use 1e-7 for a network that was trained with bert4keras 0.11.5
    dtype : "float16", "float32" or "float64"; None: as in the file
    backend : as `refimpl.backend.get`

    Returns
    -------
    (ExtractorWeights, ExtractorConfig)

    Raises
    ------
    ConfigError, DtypeError, weights_io.WeightsError
        for a file that cannot be read or is no extractor, or not one of floats; dilations that do not show; arguments that contradict the file.
    """
    if dtype not in (None, *DTYPES):
        raise ConfigError("unknown dtype", where="load_extractor(dtype)", expected=", ".join(DTYPES), got=repr(dtype))
    with weights_io.open(path) as checkpoint:
        scheme = schemes.detect(checkpoint)
        if scheme.architecture != "extractor":
            expected, got = "the parameters of an extractor", f"{scheme.title} ({scheme.name})"
            raise ConfigError("the file is no extractor", where=path, expected=expected, got=got)
        explained, ours = schemes.explain(checkpoint, scheme), schemes.to_canonical(checkpoint, scheme)
        asked = {"dilations": dilations, "layer_norm_eps": layer_norm_eps}
        config = _config(Path(path), ours, {name: value for name, value in asked.items() if value is not None})
        source = {name: pieces[0].name for name, pieces in explained.pieces.items()}
        library = backends.get(backend)
        for name in ours:
            check_floating("weights", ours[name], "load_extractor")
        with np.errstate(over="ignore"):  # infinity is found below, with its name
            host = {name: ours[name] if dtype is None else ours[name].astype(dtype) for name in ours}
        arrays = {name: library.asarray(array) for name, array in host.items()}
        return ExtractorWeights.from_named(arrays, config, source=source), config


def _config(path: Path, ours: Checkpoint, asked: dict[str, Any]) -> ExtractorConfig:
    """What the file says; without that, what the arrays show and the caller says."""
    if KEY in ours.metadata:
        return _said(path, ours.metadata[KEY], asked)
    layers = sum(name.endswith(".alpha") for name in ours)
    if len(asked.get("dilations", ExtractorConfig().dilations)) != layers:
        expected = (
            f"{layers}, one for each layer" if "dilations" in asked else "six layers, as in the published network"
        )
        got = f"{len(asked['dilations'])}" if "dilations" in asked else f"{layers} layers"
        what, remedy = "the dilations do not show in the weights", f"pass dilations=, {layers} numbers"
        raise ConfigError(what, where=path, expected=expected, got=got, remedy=remedy)
    taps, width, _ = ours.info("blocks.0.kernel").shape
    return ExtractorConfig(ours.info("projection").shape[0], width, taps, **asked)


def _said(path: Path, text: str, asked: Mapping[str, Any]) -> ExtractorConfig:
    """The configuration in a file's metadata; ConfigError where it is none, or says something else than the caller."""
    names, where = [field.name for field in dataclasses.fields(ExtractorConfig)], f"{path}, metadata {KEY}"
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the configuration is no JSON", where=where, got=f"{type(error).__name__}: {error}") from None
    if not isinstance(fields, dict) or fields.keys() != {"version", *names} or fields["version"] != VERSION:
        expected = f"version {VERSION}, {', '.join(names)}"
        raise ConfigError("that is no configuration of an extractor", where=where, expected=expected, got=text[:200])
    config = ExtractorConfig(**{name: fields[name] for name in names})
    for name, value in asked.items():
        given, said = tuple(value) if name == "dilations" else value, getattr(config, name)
        if given != said:
            what, remedy = f"the file and the caller disagree about {name}", "leave the argument out"
            raise ConfigError(what, where=where, expected=repr(said), got=repr(given), remedy=remedy)
    return config
