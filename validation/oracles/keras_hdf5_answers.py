"""What the scripts that record HDF5 files share: describing with h5py everything that a file holds.

Imported by `keras_hdf5*.py` only. Beside `NAME.h5` come

* `NAME.safetensors`: every numeric dataset of the file under its path without the first slash, little-endian; types
  that safetensors cannot say as bits, as `tensorflow_recording.py` describes, and likewise opaque types, which is how
  Keras 3 stores bfloat16;
* `NAME.json`: `objects`, one entry for every group, dataset and named type, in h5py's order of names: kind, attributes,
  and for a dataset the dtype in NumPy's words (with the byte order of the file), the shape, and how it is stored;
  `links`, every soft and external link; `superblock` with its place and version; `structures`, how often the four-letter
  signatures of HDF5's structures occur in the file, which shows what a reader of it has to follow.

More than 4096 bytes of an attribute are only hashed: the SHA-256 of the numbers, little-endian, or of the strings, joined
by line feeds, in UTF-8. Other numbers of attributes are JSON numbers (exact: doubles keep all their digits), strings are strings, and bytes that are
not UTF-8 are `{"hex": ...}`. An object with several hard links is described and recorded under the first of its names;
the others, also those by which a group holds itself, say `of` which it is another name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from tensorflow_recording import Arrays, little_endian, sha256, write_arrays, write_json

if TYPE_CHECKING:
    from pathlib import Path

STRUCTURES = "TREE SNOD HEAP GCOL OHDR OCHK FRHP FHDB FHIB FSHD BTHD BTIN BTLF FAHD FADB EAHD EAIB EASB EADB".split()
LARGE = 4096
SIGNATURE = b"\x89HDF\r\n\x1a\n"
LAYOUTS = {h5py.h5d.COMPACT: "compact", h5py.h5d.CONTIGUOUS: "contiguous", h5py.h5d.CHUNKED: "chunked"}


def as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    return str(value)


def dtype_name(dtype: np.dtype) -> str:
    """NumPy's words, except where they hide what the file holds."""
    if (text := h5py.check_string_dtype(dtype)) is not None:
        length = "variable" if text.length is None else text.length
        return f"string, {text.encoding}, {length}"
    if (values := h5py.check_enum_dtype(dtype)) is not None:
        return f"enum of {dtype.str}: {values}"
    if h5py.check_ref_dtype(dtype) is not None:
        return "reference"
    if (base := h5py.check_vlen_dtype(dtype)) is not None:
        return f"variable length of {np.dtype(base).str}"
    if is_opaque(dtype):
        return f"opaque, {dtype.itemsize}"  # of another size it is "|V" and the size
    return dtype.str if dtype.names is None and dtype.subdtype is None else str(dtype)


def is_text(dtype: np.dtype) -> bool:
    return h5py.check_string_dtype(dtype) is not None


def is_opaque(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and dtype.names is None and dtype.subdtype is None and dtype.itemsize in (1, 2, 4, 8)


def is_numeric(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" and dtype.names is None


def attributes(thing: h5py.HLObject) -> dict[str, Any]:
    found = {}
    for name in sorted(thing.attrs):
        dtype, shape = thing.attrs.get_id(name).dtype, thing.attrs.get_id(name).shape
        entry: dict[str, Any] = {"dtype": dtype_name(dtype)}
        value = thing.attrs[name]
        if isinstance(value, h5py.Empty):
            entry["shape"] = None
        elif is_text(dtype):
            entry["shape"] = list(shape)
            flat = np.asarray(value, dtype=object).reshape(-1).tolist()
            texts = [as_text(element) for element in flat]
            if shape != () and sum(map(len, texts)) > LARGE:
                entry["sha256"] = sha256("\n".join(texts).encode())
            else:
                entry["value"] = texts if shape else texts[0]
        elif is_numeric(dtype):
            entry["shape"] = list(shape)
            array = little_endian(np.asarray(value))
            if array.nbytes > LARGE:
                entry["sha256"] = sha256(array.tobytes())
            else:
                entry["value"] = array.reshape(-1).tolist() if shape else array.item()
        else:
            entry["shape"] = list(shape)
        found[name] = entry
    return found


def storage(dataset: h5py.Dataset) -> dict[str, Any]:
    """How the bytes lie in the file, in h5py's words; `filters` are numbers of filters in the order of writing."""
    plist = dataset.id.get_create_plist()
    found: dict[str, Any] = {"layout": LAYOUTS.get(plist.get_layout(), "virtual")}
    if dataset.chunks:
        found["chunks"] = list(dataset.chunks)
        found["maximum"] = list(dataset.maxshape)
        found["written_chunks"] = dataset.id.get_num_chunks()
    if filters := [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]:
        found["filters"] = filters
    if (offset := dataset.id.get_offset()) is not None:
        found["offset"] = offset
    if is_numeric(dataset.dtype) and dataset.shape is not None and dataset.fillvalue not in (0, None):
        found["fill_value"] = np.asarray(dataset.fillvalue).item()
    return found


def describe_dataset(dataset: h5py.Dataset, name: str, arrays: Arrays) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "dataset", "dtype": dtype_name(dataset.dtype)}
    entry["shape"] = None if dataset.shape is None else list(dataset.shape)
    entry |= storage(dataset)
    if dataset.shape is None:
        return entry
    if is_text(dataset.dtype):
        values = np.asarray(dataset[()], dtype=object).reshape(-1).tolist()
        entry["strings"] = [as_text(value) for value in values]
    elif is_numeric(dataset.dtype) or is_opaque(dataset.dtype):
        try:
            arrays[name] = little_endian(np.asarray(dataset[()]))
        except OSError as error:
            entry["unreadable"] = str(error).split("(")[0].strip()
    return entry


def leads_somewhere(group: h5py.Group, name: str) -> bool:
    try:
        return group.get(name) is not None
    except RuntimeError:  # links that lead around in a circle
        return False


def describe(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Everything the file holds, and its numeric datasets."""
    objects: dict[str, Any] = {}
    links: dict[str, Any] = {}
    arrays: Arrays = {}

    seen: dict[int, str] = {}

    def visit(group: h5py.Group, prefix: str) -> None:
        seen[h5py.h5o.get_info(group.id).addr] = prefix or "/"
        objects[prefix or "/"] = {"kind": "group", "attributes": attributes(group)}
        for name in sorted(group, key=str.encode):
            full = f"{prefix}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                links[full] = {"soft": link.path, "leads_somewhere": leads_somewhere(group, name)}
                continue
            if isinstance(link, h5py.ExternalLink):
                links[full] = {"file": link.filename, "path": link.path}
                continue
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                objects[full] = {"kind": "another name", "of": seen[address]}
                continue
            seen[address] = full
            if isinstance(thing, h5py.Group):
                visit(thing, full)
                continue
            entry = {"kind": "type", "dtype": dtype_name(thing.dtype)}
            if isinstance(thing, h5py.Dataset):
                entry = describe_dataset(thing, full[1:], arrays)
            objects[full] = {**entry, "attributes": attributes(thing)}

    with h5py.File(path, "r") as file:
        visit(file["/"], "")
    data = path.read_bytes()
    start = data.index(SIGNATURE)
    described = {
        "superblock": {"offset": start, "version": data[start + 8]},
        "structures": {name: count for name in STRUCTURES if (count := data.count(name.encode()))},
        "objects": objects,
        "links": links,
    }
    return described, arrays


def write_answers(path: Path) -> None:
    """Write the description and the arrays of `path` beside it."""
    described, arrays = describe(path)
    write_json(path.with_suffix(".json"), described)
    write_arrays(path.with_suffix(".safetensors"), arrays)
