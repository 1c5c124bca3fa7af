"""Vectors for programs in any language: a stream of lines and bytes, or a folder with two files.

The stream that is emitted (lines are UTF-8, end with a line feed and hold no other; tensors are raw little-endian numbers in C order)::

    refimpl-vectors 1 OP DTYPE CASES
    case ID ARGUMENTS
    tensor NAME DTYPE RANK SIZE ...         followed by the tensor's bytes
    value NAME int|float|bool|string TEXT   true or false for bool
    value NAME none
    end CASES

The stream of answers, in any order::

    answer ID DTYPE RANK SIZE ...           followed by the answer's bytes
    skip ID REASON                          no answer: the case fails as "not run"

In a folder, `cases.json` lists the same calls and `inputs.safetensors` holds the tensors, named ID.ARGUMENT; the answers are tensors named ID in a
checkpoint `answers` of any format that `weights_io` opens. Where the vectors are of a model, `model.json` and `model.safetensors` are its
configuration and its parameters (float32, weights as (in, out)).
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

import weights_io
from refimpl.errors import VectorError
from refimpl.files import replace_file
from validation import components, tolerance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from validation.vectors.files import Vector

__all__ = ["emit_folder", "emit_stream", "read_folder", "read_stream"]

VERSION = 1
LONGEST = 4096  # bytes of a line
LARGEST = 2**30  # bytes of an answer: what no vector's answer has
MOST_AXES = 32
STREAMED = {**tolerance.DTYPES, "int64": np.dtype(np.int64), "bool": np.dtype(np.bool_)}
Answers = dict[str, Any]  # id -> array, or the reason why there is none


def emit_stream(op: str, dtype: str, vectors: Sequence[Vector], out: BinaryIO) -> None:
    """Write the calls as a stream."""
    out.write(f"refimpl-vectors {VERSION} {op} {dtype} {len(vectors)}\n".encode())
    for vector in vectors:
        arguments = _call(vector, dtype)
        out.write(f"case {vector.id} {len(arguments)}\n".encode())
        for name, value in arguments.items():
            out.write(_line(name, value).encode())
            if isinstance(value, np.ndarray):
                out.write(_little(value).tobytes())
    out.write(f"end {len(vectors)}\n".encode())
    out.flush()


def _call(vector: Vector, dtype: str) -> dict[str, Any]:
    given = dict(zip(vector.arrays, vector.positional(dtype), strict=True)) | vector.params(dtype)
    return {name: given[name] for name in vector.arguments}


def _line(name: str, value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"tensor {name} {value.dtype.name} {_shape(value)}\n"
    if value is None:
        return f"value {name} none\n"
    if isinstance(value, bool):
        return f"value {name} bool {str(value).lower()}\n"
    kind = {int: "int", float: "float", str: "string"}[type(value)]
    return f"value {name} {kind} {value!r}\n" if kind == "float" else f"value {name} {kind} {value}\n"


def _shape(array: Any) -> str:
    return " ".join(map(str, (array.ndim, *array.shape)))


def _little(array: Any) -> Any:
    array = np.ascontiguousarray(array)
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def read_stream(source: BinaryIO) -> Answers:
    """Read a stream of answers to its end.

    Raises
    ------
    VectorError
        for a line that is no answer, an id that comes twice, a dtype or shape that is none, or bytes that are missing.
    """
    answers: Answers = {}
    while line := source.readline(LONGEST + 1):
        where = f"answer {len(answers) + 1} of the stream"
        if len(line) > LONGEST or not line.endswith(b"\n"):
            raise VectorError(
                "a line is too long, or cut off",
                where=where,
                expected=f"a line feed within {LONGEST} bytes",
                got=line[:60],
            )
        words = line.decode("utf-8", "replace").split()
        if len(words) < 2 or words[0] not in ("answer", "skip"):
            expected = "answer ID DTYPE RANK SIZE ..., or skip ID REASON"
            remedy = "write exactly rank, sizes and bytes of each answer, and nothing else to standard output"
            raise VectorError(
                "this is no line of a stream of answers", where=where, expected=expected, got=line[:60], remedy=remedy
            )
        if words[1] in answers:
            raise VectorError("a case is answered twice", where=where, got=words[1])
        answers[words[1]] = (
            _tensor(words[2:], source, where) if words[0] == "answer" else " ".join(words[2:]) or "skipped"
        )
    return answers


def _tensor(words: list[str], source: BinaryIO, where: str) -> Any:
    """The array that a line announces: DTYPE RANK SIZE ..."""
    whole = all(word.isascii() and word.isdigit() and len(word) < 12 for word in words[1:])
    if len(words) < 2 or words[0] not in STREAMED or not whole or int(words[1]) != len(words) - 2:
        known = ", ".join(STREAMED)
        raise VectorError(
            "no dtype and shape", where=where, expected=f"one of {known}; rank; as many sizes", got=" ".join(words)
        )
    dtype, shape = STREAMED[words[0]], tuple(map(int, words[2:]))
    length = math.prod(shape) * dtype.itemsize
    if len(shape) > MOST_AXES or (0 in shape and math.prod(filter(None, shape)) > LARGEST):  # which NumPy refuses too
        raise VectorError(
            "no answer has such a shape",
            where=where,
            expected=f"at most {MOST_AXES} axes, of at most {LARGEST} elements",
            got=" ".join(words)[:60],
        )
    if length > LARGEST:
        raise VectorError(
            "an answer is larger than any can be", where=where, expected=f"at most {LARGEST} bytes", got=length
        )
    found = source.read(length)
    if len(found) != length:
        raise VectorError("the stream ends within an answer", where=where, expected=f"{length} bytes", got=len(found))
    return np.frombuffer(found, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def emit_folder(op: str, dtype: str, vectors: Sequence[Vector], folder: Path) -> None:
    """Write the calls into a new or empty folder: `cases.json` and `inputs.safetensors`."""
    if folder.exists() and any(folder.iterdir()):
        raise VectorError(
            "the folder is not empty", where=folder, remedy="give a new one: answers of another run must not be judged"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors, cases = {}, []
    for vector in vectors:
        arguments = _call(vector, dtype)
        arrays = {name: f"{vector.id}.{name}" for name, value in arguments.items() if isinstance(value, np.ndarray)}
        tensors |= {arrays[name]: arguments[name] for name in arrays}
        values = {
            name: {"tensor": arrays[name]} if name in arrays else {"value": value} for name, value in arguments.items()
        }
        cases.append({"id": vector.id, "hard": vector.hard, "arguments": values})
    weights_io.save(folder / "inputs.safetensors", tensors)
    listing = {"protocol": VERSION, "op": op, "dtype": dtype, "count": len(cases), "cases": cases}
    _write_json(folder / "cases.json", listing)
    if op in components.MODELS:
        config, arrays = components.recorded_model(op)
        weights_io.save(folder / "model.safetensors", arrays)
        _write_json(folder / "model.json", dataclasses.asdict(config))


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    replace_file(path, lambda file: file.write(text.encode()))


def read_folder(folder: Path) -> tuple[str, str, list[str], Answers]:
    """(op, dtype, the ids that were emitted, answers) of a folder that was emitted and answered.

    Raises
    ------
    VectorError
        if the folder was not emitted, or its list of calls is not as it was emitted, or it holds no answers or more than one file of them.
    """
    listing = folder / "cases.json"
    if not listing.is_file():
        raise VectorError(
            "this folder holds no vectors",
            where=folder,
            expected="cases.json",
            remedy="refimpl vectors emit OP --out FOLDER",
        )
    op, dtype, ids = _listed(listing)
    found = sorted(path for path in folder.iterdir() if path.stem == "answers")
    if len(found) != 1:
        expected = "one checkpoint, such as answers.safetensors or answers.npz, with a tensor for each id"
        raise VectorError(
            "the answers are missing, or there are several",
            where=folder,
            expected=expected,
            got=[path.name for path in found],
        )
    with weights_io.open(found[0]) as checkpoint:
        answers = {name: np.array(checkpoint[name]) for name in checkpoint}
    return op, dtype, ids, answers


def _listed(listing: Path) -> tuple[str, str, list[str]]:
    """(op, dtype, ids) of `cases.json`, whose number of cases has to be the one that was emitted."""
    remedy = "emit the vectors again, into a new folder"
    try:
        given = json.loads(listing.read_text("utf-8"))
        version, op, dtype, count = (given[name] for name in ("protocol", "op", "dtype", "count"))
        ids = [case["id"] for case in given["cases"]]
    except (ValueError, TypeError, KeyError) as error:
        raise VectorError(
            "this is no list of calls that was emitted",
            where=listing,
            got=f"{type(error).__name__}: {error}",
            remedy=remedy,
        ) from error
    if version != VERSION:
        raise VectorError(
            "another version of the protocol", where=listing, expected=VERSION, got=version, remedy=remedy
        )
    if len(ids) != count or len(set(ids)) != len(ids):
        got = f"{len(ids)} calls, {len(set(ids))} of them different"
        raise VectorError(
            "calls have been lost, or are listed twice",
            where=listing,
            expected=f"{count} calls",
            got=got,
            remedy=remedy,
        )
    return op, dtype, ids
