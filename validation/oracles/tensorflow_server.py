"""Answer what TensorFlow reads of bundles, one after the other, also of those that it crashes on.

    python validation/oracles/tensorflow_server.py

Each line of input is the path of an index, as JSON. Each line of output is an object:

* `tensors`: name -> [dtype, shape, bytes in hexadecimal], and `strings`: name -> elements in C order in hexadecimal;
* or `refused`: what TensorFlow said;
* or `crashed`: the signal that ended it, or the limit that it ran into.

TensorFlow is imported once; every bundle is read in a fork, which may use 10 seconds and 24 GB of addresses.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tensorflow.python.training import py_checkpoint_reader

SECONDS, ADDRESSES = 10, 24 << 30


def described(prefix: str) -> dict[str, Any]:
    reader = py_checkpoint_reader.NewCheckpointReader(prefix)
    tensors, strings = {}, {}
    for name in sorted(reader.get_variable_to_shape_map()):
        value = reader.get_tensor(name)
        array = np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)
        if array.dtype == object:
            strings[name] = [element.hex() for element in array.reshape(-1)]
        else:
            tensors[name] = [array.dtype.name, list(array.shape), array.tobytes().hex()]
    return {"tensors": tensors, "strings": strings}


def read(path: str, answer: Path) -> None:
    """In a fork: write the answer to a file."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    os.dup2(sys.stderr.fileno(), 2)
    try:
        found = described(path.removesuffix(".index"))
    except Exception as error:
        found = {"refused": f"{type(error).__name__}: {error}"[:500]}
    answer.write_text(json.dumps(found))


def answered(path: str, folder: Path) -> dict[str, Any]:
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            read(path, answer)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not answer.exists() or status:
        return {"crashed": os.waitstatus_to_exitcode(status)}
    return json.loads(answer.read_text())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(json.dumps(answered(json.loads(line), Path(folder))), flush=True)


if __name__ == "__main__":
    main()
