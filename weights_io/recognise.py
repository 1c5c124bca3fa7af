"""Which format a file is in, decided by its bytes and never by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from weights_io.errors import UnsupportedError

if TYPE_CHECKING:
    from weights_io.source import Source

__all__ = ["FORMATS", "Format", "recognise"]


class Format(NamedTuple):
    """One file format: the module that has `open_source(source, limits, mode)`, and how it is written."""

    name: str
    module: str
    suffixes: tuple[str, ...] = ()  # of the files that `save` writes in this format; none: it is not written


FORMATS = {
    "safetensors": Format("safetensors", "weights_io.safetensors", (".safetensors",)),
    "zip": Format("zip", "weights_io.zip_archive"),  # PyTorch since 1.6, or NumPy's .npz: its members tell
    "npz": Format("npz", "weights_io.numpy_files", (".npz",)),
    "npy": Format("npy", "weights_io.numpy_files"),
    "pytorch": Format("pytorch", "weights_io.pytorch", (".pt", ".pth", ".bin")),
    "pytorch-legacy": Format("pytorch-legacy", "weights_io.pytorch_legacy"),
    "tensorbundle": Format("tensorbundle", "weights_io.tensorbundle", (".ckpt",)),
    "hdf5": Format("hdf5", "weights_io.hdf5"),
}
BUNDLE_MAGIC = bytes.fromhex("57fb808b247547db")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # LONG1 of PyTorch's magic number, after the pickle's protocol
OTHERS = {
    b"GGUF": "GGUF",
    b"\x1f\x8b": "gzip",
    b"(\xb5/\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
}
REMEDY = "convert it with the program that wrote it, or unpack it first"


def recognise(source: Source) -> Format:
    """The format of a file; UnsupportedError, with the name where it is known, if it is none of `FORMATS`."""
    start = source.read(0, min(source.size, 512))
    if start[8:9] == b"{":
        return FORMATS["safetensors"]
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return FORMATS["zip"]
    if start[:6] == b"\x93NUMPY":
        return FORMATS["npy"]
    if start[:1] == b"\x80" and start[2:14] == LEGACY_MAGIC:
        return FORMATS["pytorch-legacy"]
    if source.size >= 48 and source.read(source.size - 8, 8) == BUNDLE_MAGIC:
        return FORMATS["tensorbundle"]
    if _user_block(source) is not None:
        return FORMATS["hdf5"]
    raise UnsupportedError(
        "this is no checkpoint format that is read",
        rule="format.unknown",
        where=source.path,
        expected="safetensors, PyTorch, NumPy, TensorBundle or HDF5, by content",
        got=_other(source, start),
        remedy=REMEDY,
    )


def _user_block(source: Source) -> int | None:
    """Where an HDF5 file begins: at 0, or after a user block of 512, 1024, 2048, ... bytes; None if nowhere."""
    offset = 0
    while offset + 8 <= source.size:
        if source.read(offset, 8) == HDF5_MAGIC:
            return offset
        offset = max(512, 2 * offset)
    return None


def _other(source: Source, start: bytes) -> str:
    if start[257:262] == b"ustar":
        return "a tar archive: PyTorch's form before 0.1.10, which is not read; or an archive to unpack"
    if start[:1] == b"\x80" and len(start) > 1 and start[1] in range(2, 6):
        return "a plain Python pickle, which is no checkpoint format and is not read"
    known = next((name for magic, name in OTHERS.items() if start.startswith(magic)), None)
    return known or (f"{source.size} bytes that begin with {start[:16]!r}" if start else "an empty file")
