"""What h5py reads: a child process with limits, for files that its C library may crash on; see `fuzz.hdf5.Oracle`.

    python hdf5_oracle.py < paths      one path a line in, one JSON object a line out:
    {"tensors": {name: [dtype, shape, bytes in base64]}, "attributes": {path: {name: value}}} or {"error": text}

Names are those of hard links; a value that JSON does not have is [dtype, shape, bytes in base64] too. A float of a layout that NumPy
lacks is what h5py makes of it, opaque bytes are themselves.
"""

from __future__ import annotations

import base64
import json
import resource
import signal
import sys
from typing import Any

MEMORY, SECONDS, EACH, LARGEST, DEEPEST = 4 << 30, 120, 10, 1 << 26, 64


class _TooMuchError(Exception):
    """The file asks for more than the limits."""


def _packed(array: Any) -> list[Any]:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.hasobject:
        return ["object", list(array.shape), ""]
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def _attribute(value: Any) -> Any:
    import h5py
    import numpy as np

    if value is None or isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "SOU":
        return [_attribute(one) for one in value]
    return _packed(value)


class _File:
    """Everything in one file."""

    def __init__(self, path: str) -> None:
        self.tensors: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self.left = LARGEST
        import h5py

        with h5py.File(path, "r") as file:
            self.walk(file, "", 0)

    def walk(self, group: Any, path: str, depth: int) -> None:
        import h5py

        if depth > DEEPEST:
            raise _TooMuchError("too deep")
        self.describe(group, path)
        for name in group:
            link, where = group.get(name, getlink=True), f"{path}/{name}" if path else name
            if not isinstance(link, h5py.HardLink):
                continue
            found = group[name]
            if isinstance(found, h5py.Group):
                self.walk(found, where, depth + 1)
            elif isinstance(found, h5py.Dataset):
                self.read(found, where)

    def read(self, dataset: Any, path: str) -> None:
        self.left -= dataset.size * dataset.dtype.itemsize if dataset.size else 0
        if self.left < 0:
            raise _TooMuchError("too large")
        self.describe(dataset, path)
        self.tensors[path] = _packed(dataset[()])

    def describe(self, thing: Any, path: str) -> None:
        found = {name: _attribute(thing.attrs[name]) for name in thing.attrs}
        if found:
            self.attributes[path] = found


def _late(*_: Any) -> None:
    raise _TooMuchError("too slow")


def main() -> None:
    """Answer for every path that comes in."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _late)
    for line in sys.stdin:
        signal.alarm(EACH)
        try:
            found = _File(line.rstrip("\n"))
            answer = {"tensors": found.tensors, "attributes": found.attributes}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
