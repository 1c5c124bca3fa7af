"""Reading and writing vector files. What is read is checked: the manifest's own rules, the number of cases, every tensor's SHA-256."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import weights_io
from refimpl.errors import ConfigError, VectorError
from refimpl.files import replace_file
from validation import tolerance, truth

__all__ = ["DATA", "FORMAT", "Vector", "VectorSet", "check_dtype", "load", "names", "read", "write"]

DATA = Path(__file__).parent / "data"
WORDS = {"proved": "within proof", "sampled": "within sample", "exact": "exact"}  # kind of tolerance -> what passes
FORMAT = 1  # of manifests; a number that a reader does not know is refused
FORMULA = "u (amplification + |high + low|) + s (underflow + 1), element by element"
EQUAL = "none: an answer is right where it is equal"


@dataclass(frozen=True)
class Vector:
    """One case: a call, its exact answer, and how far off an answer may be.

    `arguments` holds every argument of the call by name, in the order of the component's signature: NumPy arrays (floating ones float64)
    and plain values.
    """

    id: str
    name: str
    hard: str  # why it is hard
    origin: str  # where the inputs come from
    dialect: str | None
    dtypes: tuple[str, ...]
    arguments: dict[str, Any]
    arrays: tuple[str, ...]  # the arguments that are passed by position
    expected: truth.DoubleDouble | None = None
    amplification: Any = None  # float64 (...)
    underflow: float = 0.0
    word: str = "within proof"  # what an answer within tolerance is called
    exact: str | None = None  # "int64" or "bool": the dtype of an answer that has no tolerance
    flags: tuple[str, ...] = ()
    null_margins: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # dtype -> null answer -> its error / tolerance

    def positional(self, dtype: str) -> tuple[Any, ...]:
        """The arrays of the call, floating ones in `dtype`: a fresh copy, so that nobody changes what the next one gets."""
        return tuple(_in(self.arguments[name], dtype) for name in self.arrays)

    def params(self, dtype: str) -> dict[str, Any]:
        """The other arguments, by name."""
        others = {name: value for name, value in self.arguments.items() if name not in self.arrays}
        return {name: _in(value, dtype) if isinstance(value, np.ndarray) else value for name, value in others.items()}

    def budget(self, dtype: str) -> Any:  # -> float64 (...)
        """The error allowed besides the last rounding."""
        return tolerance.budget(self.amplification, self.underflow, dtype)

    def judge(self, got: Any, dtype: str) -> tolerance.Verdict:
        """The verdict on an answer."""
        return tolerance.judge(got, self.expected, self.budget(dtype), self.exact or dtype, word=self.word)


def _in(array: Any, dtype: str) -> Any:
    return array.astype(tolerance.DTYPES[dtype]) if array.dtype.kind == "f" else array.copy()


@dataclass(frozen=True)
class VectorSet:
    """All vectors of one component, with what its manifest says of it."""

    op: str
    signature: str
    equation: str
    vectors: tuple[Vector, ...]
    flags: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> {"description": ..., "effect": ...}

    @property
    def dialects(self) -> tuple[str, ...]:
        """The dialects that some vector is of."""
        return tuple(dict.fromkeys(v.dialect for v in self.vectors if v.dialect))

    def select(self, dtype: str, dialect: str | None = None) -> tuple[Vector, ...]:
        """The vectors for a dtype, and for a dialect if one is given."""
        check_dtype(dtype)
        if dialect is not None and dialect not in self.dialects:
            known = ", ".join(self.dialects) or "none"
            raise ConfigError(f"{self.op} has no such dialect", expected=known, got=repr(dialect))
        return tuple(v for v in self.vectors if dtype in v.dtypes and dialect in (None, v.dialect))


def check_dtype(dtype: str) -> None:
    """Raise ConfigError for a dtype that is not checked."""
    if dtype not in tolerance.DTYPES:
        raise ConfigError("unknown dtype", expected=", ".join(tolerance.DTYPES), got=repr(dtype))


def names(folder: Path = DATA) -> list[str]:
    """The components that have vectors."""
    return sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".safetensors").exists())


@cache
def load(op: str) -> VectorSet:
    """The vectors of a component; raises ConfigError that lists the components there are."""
    if op not in names():
        raise ConfigError("there are no vectors of this name", expected=", ".join(names()), got=repr(op))
    return read(op)


def read(op: str, folder: Path = DATA) -> VectorSet:
    """Read one set of vectors and check it against its own manifest.

    Raises
    ------
    VectorError
        for a manifest of another format, a number of cases that is not the one announced, a repeated id, a missing or superfluous tensor, a tensor
        with another SHA-256 than the manifest's, or a manifest with another than its own.
    """
    path = folder / f"{op}.json"
    manifest = json.loads(path.read_text("utf-8"))
    if manifest.get("format") != FORMAT or manifest.get("op") != op:
        got = f"format {manifest.get('format')!r}, op {manifest.get('op')!r}"
        raise VectorError(
            "this is no manifest of vectors that is understood",
            where=path,
            expected=f"format {FORMAT}, op {op!r}",
            got=got,
        )
    entries = manifest["vectors"]
    if len({entry["id"] for entry in entries}) != len(entries) or len(entries) != manifest["cases"]:
        raise VectorError(
            "vectors are missing, or an id is used twice",
            where=path,
            expected=f"{manifest['cases']} ids",
            got=len(entries),
        )
    with weights_io.open(path.with_suffix(".safetensors")) as tensors:
        arrays = {name: np.array(tensors[name]) for name in tensors}
    _check_sums({name: digest for entry in entries for name, digest in entry["sha256"].items()}, arrays, path)
    if manifest.get("sha256") != _sealed(manifest):
        raise VectorError(
            "the manifest is not the one that was published",
            where=f"{path}: sha256",
            expected=_sealed(manifest),
            got=manifest.get("sha256"),
            remedy="install the package again: vectors are never edited",
        )
    found = tuple(_vector(entry, arrays) for entry in entries)
    return VectorSet(op, manifest["signature"], manifest["equation"], found, manifest["flags"])


def _sealed(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own `sha256`: JSON with sorted keys and no spaces, in UTF-8."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_sums(sums: dict[str, str], arrays: dict[str, Any], path: Path) -> None:
    if sums.keys() != arrays.keys():
        odd = sorted(sums.keys() ^ arrays.keys())
        raise VectorError(
            "the manifest and the tensors do not belong together",
            where=path,
            got=f"{len(odd)} names in one only: {odd[0]}, ...",
        )
    for name, array in arrays.items():
        if digest(array) != sums[name]:
            remedy = "install the package again: vectors are never edited"
            raise VectorError(
                "a tensor is not the one that was published",
                where=f"{path}: {name}",
                expected=sums[name],
                got=digest(array),
                remedy=remedy,
            )


def digest(array: Any) -> str:
    """SHA-256 of a tensor's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _vector(entry: dict[str, Any], tensors: dict[str, Any]) -> Vector:
    arguments = {
        name: tensors[given["tensor"]] if "tensor" in given else given["value"]
        for name, given in entry["arguments"].items()
    }
    expected, allowed = entry["expected"], entry["tolerance"]
    return Vector(
        id=entry["id"],
        name=entry["name"],
        hard=entry["hard"],
        origin=entry["origin"],
        dialect=entry["dialect"],
        dtypes=tuple(entry["dtypes"]),
        arguments=arguments,
        arrays=tuple(entry["positional"]),
        expected=truth.DoubleDouble(tensors[expected["high"]], tensors[expected["low"]]),
        amplification=tensors[allowed["amplification"]],
        underflow=allowed["underflow"],
        word=WORDS[allowed["kind"]],
        exact=expected.get("dtype"),
        flags=tuple(entry["flags"]),
        null_margins=entry["null_margins"],
    )


def write(given: VectorSet, folder: Path) -> None:
    """Write a set: tensors first, then the manifest that names them, each to a temporary name."""
    tensors: dict[str, Any] = {}
    entries = [_entry(vector, tensors) for vector in given.vectors]
    manifest = {
        "format": FORMAT,
        "op": given.op,
        "signature": given.signature,
        "equation": given.equation,
        "tolerance": EQUAL if any(vector.exact for vector in given.vectors) else FORMULA,
        "flags": given.flags,
        "cases": len(entries),
        "vectors": entries,
    }
    manifest["sha256"] = _sealed(manifest)
    weights_io.save(folder / f"{given.op}.safetensors", tensors)
    replace_file(folder / f"{given.op}.json", lambda file: file.write(_text(manifest).encode()))


def _text(manifest: dict[str, Any]) -> str:
    """A manifest as JSON, a vector a line."""

    def plain(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    vectors = ",\n".join(map(plain, manifest["vectors"]))
    parts = [
        f'"{key}":' + (f"[\n{vectors}\n]" if key == "vectors" else plain(value)) for key, value in manifest.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _entry(vector: Vector, tensors: dict[str, Any]) -> dict[str, Any]:
    """One vector as plain data; its tensors are added to `tensors`."""
    assert_complete(vector)
    own: dict[str, Any] = {}

    def put(name: str, array: Any) -> str:
        own[f"{vector.id}.{name}"] = np.ascontiguousarray(array)
        return f"{vector.id}.{name}"

    arguments = {
        name: {"tensor": put(name, value)} if isinstance(value, np.ndarray) else {"value": value}
        for name, value in vector.arguments.items()
    }
    known = vector.expected
    largest = float(np.max(np.abs(known.high), initial=0.0))
    entry = {
        "id": vector.id,
        "name": vector.name,
        "hard": vector.hard,
        "origin": vector.origin,
        "dialect": vector.dialect,
        "dtypes": list(vector.dtypes),
        "positional": list(vector.arrays),
        "arguments": arguments,
        "expected": {
            "high": put("high", known.high),
            "low": put("low", known.low),
            **({"dtype": vector.exact} if vector.exact else {}),
            "shape": list(known.shape),
            "radius": float(np.max(known.radii, initial=0.0)),
            "largest": largest,
        },
        "tolerance": {
            "kind": next(kind for kind, word in WORDS.items() if word == vector.word),
            "amplification": put("amplification", vector.amplification),
            "underflow": vector.underflow,
        },
        "flags": list(vector.flags),
        "null_margins": vector.null_margins,
        "sha256": {name: digest(array) for name, array in own.items()},
    }
    tensors |= own
    return entry


def assert_complete(vector: Vector) -> None:
    """Raise ConfigError for a vector that has no answer yet."""
    if vector.expected is None or vector.amplification is None:
        raise ConfigError("a vector without an answer cannot be written", where=vector.id, remedy="generate it first")
