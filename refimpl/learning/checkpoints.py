"""A training on disk: one safetensors file that holds everything the next step depends on.

The arrays stand under "parameters." and "moments." and their dotted names (`refimpl.trees.named_leaves`), float32 and float64 bit for bit; the
rest is JSON in the file's metadata under "refimpl.learning": where the training is, whole numbers of the optimizer's state, and the description of
the training, by which a checkpoint of another one is known and refused.

The file is written to a temporary name, read back, compared, flushed, and renamed (`weights_io.save`): whoever is killed while writing leaves the
old checkpoint, and a temporary file that ends in .part.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat

import weights_io
from refimpl.errors import ConfigError
from refimpl.number_system import device_of, namespace, whole_number
from refimpl.trees import Tree, named_leaves, with_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["State", "check_name", "check_same", "on_host", "read_checkpoint", "write_checkpoint"]

KEY, VERSION = "refimpl.learning", 1


class State(NamedTuple):
    """Where a training is: everything the next step depends on, besides what is fixed throughout."""

    parameters: Tree
    moments: Tree  # of the optimizer
    step: int  # steps taken
    epoch: int
    position: int  # of the next step in its epoch


def on_host(x: Any) -> Any:
    """A NumPy or CuPy array as a NumPy array."""
    return x.get() if array_api_compat.is_cupy_array(x) else x


def check_name(path: Path) -> None:
    """Raise ConfigError unless the file's name ends in .safetensors."""
    if path.suffix != ".safetensors":
        expected = "a name that ends in .safetensors"
        raise ConfigError("checkpoints are safetensors files", where="checkpoint", expected=expected, got=path)


def write_checkpoint(path: Path, state: State, description: Mapping[str, Any]) -> None:
    """Write a state; where there was a checkpoint, it is replaced once the new one is whole on disk.

    Raises
    ------
    ConfigError, weights_io.WeightsError
        for a name that does not end in .safetensors, a folder that is not there or cannot be written to.
    """
    check_name(path)
    tree = {"parameters": state.parameters, "moments": state.moments}
    leaves = named_leaves(tree)
    numbers = {name: leaf for name, leaf in leaves.items() if not hasattr(leaf, "dtype")}
    place = {name: getattr(state, name) for name in ("step", "epoch", "position")}
    said = {"version": VERSION, **place, "numbers": numbers, "training": description}
    arrays = {name: on_host(leaf) for name, leaf in leaves.items() if name not in numbers}
    weights_io.save(path, arrays, {KEY: json.dumps(said, ensure_ascii=False)})


def read_checkpoint(path: Path, like: State, description: Mapping[str, Any], changed: Iterable[str] = ()) -> State:
    """The state in a checkpoint, its arrays beside those of `like`, a state of the same training at its start.

    Parameters
    ----------
    path : the file
    like : gives the form of the trees, the array library and the device
    description : of the training that goes on; refused where the checkpoint's differs
    changed : parts of the description that may differ, for instance "schedule"

    Raises
    ------
    ConfigError, weights_io.WeightsError
        for a file that is not there, no checkpoint of a training, or one of another training: all differences are listed.
    """
    with weights_io.open(path) as checkpoint:
        said = _said(path, checkpoint.metadata)
        check_same(path, said["training"], description, changed)
        wanted = named_leaves({"parameters": like.parameters, "moments": like.moments})
        arrays = {name: leaf for name, leaf in wanted.items() if hasattr(leaf, "dtype")}
        _check_arrays(path, checkpoint, arrays, wanted.keys() - arrays.keys(), said["numbers"])

        def found(name: str, leaf: Any) -> Any:
            if name in said["numbers"]:
                return said["numbers"][name]
            return namespace(leaf).asarray(checkpoint[name].copy(), device=device_of(leaf))

        each = [found(name, leaf) for name, leaf in wanted.items()]
        parameters, moments = with_leaves((like.parameters, like.moments), each)
    return State(parameters, moments, said["step"], said["epoch"], said["position"])


def _said(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of a checkpoint, its whole numbers checked."""
    expected = f"metadata {KEY!r} of version {VERSION}, as write_checkpoint makes them"
    try:
        said = json.loads(metadata[KEY])
        good = said["version"] == VERSION and isinstance(said["training"], dict) and isinstance(said["numbers"], dict)
        places = [said["step"], said["epoch"], said["position"], *said["numbers"].values()]
        good = good and all(isinstance(n, int) and (whole_number(n) or 0) >= 0 for n in places)
    except (KeyError, ValueError, TypeError):
        good = False
    if not good:
        raise ConfigError("this file is no checkpoint of a training", where=path, expected=expected)
    return dict(said)


def check_same(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], changed: Iterable[str] = ()) -> None:
    """Raise ConfigError that lists every part in which two descriptions of trainings differ, but for those in `changed`."""
    allowed, ours = set(changed), json.loads(json.dumps(ours))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if name not in allowed]
    lines = [line for name in names for line in _differences(name, ours.get(name), theirs.get(name))]
    if lines:
        raise ConfigError(
            "the checkpoint is of another training",
            where=path,
            got="".join(f"\n    {line}" for line in lines),
            remedy="go on with the same settings, name what may change in changed=, or begin anew with another file",
        )


def _differences(name: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys([*ours, *theirs])
        return [line for key in keys for line in _differences(f"{name}.{key}", ours.get(key), theirs.get(key))]
    return [] if ours == theirs else [f"{name}: {theirs!r} in the checkpoint, {ours!r} here"]


def _check_arrays(
    path: Path, checkpoint: weights_io.Checkpoint, arrays: Mapping[str, Any], numbers: Iterable[str], said: Any
) -> None:
    """Raise ConfigError unless the checkpoint has exactly these arrays, of their shapes and dtypes, and these numbers."""
    found = {name: (tuple(checkpoint.info(name).shape), str(checkpoint.info(name).dtype)) for name in checkpoint}
    wanted = {name: (tuple(leaf.shape), str(leaf.dtype).rpartition(".")[2]) for name, leaf in arrays.items()}
    found |= dict.fromkeys(said, ((), "number"))
    wanted |= dict.fromkeys(numbers, ((), "number"))
    names = [name for name in dict.fromkeys([*wanted, *found]) if wanted.get(name) != found.get(name)]
    if names:
        lines = [
            f"{name}: {found.get(name, 'nothing')} in the checkpoint, {wanted.get(name, 'nothing')} here"
            for name in names
        ]
        got = "".join(f"\n    {line}" for line in lines)
        raise ConfigError("the checkpoint's arrays are of another form", where=path, got=got)
