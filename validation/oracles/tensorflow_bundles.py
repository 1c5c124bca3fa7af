"""Record TensorBundles, the checkpoints of TensorFlow, as TensorFlow itself writes and reads them.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python validation/oracles/tensorflow_bundles.py --out validation/recorded

Writes `tensorbundle/` under `--out`, one folder a case, each with `model.ckpt.index`, `model.ckpt.data-?????-of-?????`
and what `tf.train.load_checkpoint` reads back (`tensorflow_recording.py` says in which form):

* `dtypes`: every numeric dtype that can be saved, with random bits: NaN payloads, infinities, subnormals, both zeros;
  vectors, scalars, empty tensors, five axes;
* `strings`: string tensors beside numeric ones; `variant`: a tensor of dtype variant, which nobody else can read;
* `partitioned`: variables that were saved in slices, along one axis, along two, and in an irregular tiling;
* `shards`: three data files, with slices of one variable in different files;
* `object_based` and `keras_weights`: `tf.train.Checkpoint` of a Keras model and its optimizer, and
  `Model.save_weights`, each with the file `checkpoint`;
* `many`: so many names that the index has several blocks. Its answers are the concatenated values in the order of the
  names, and the SHA-256 of the names, because the names themselves would be as large as the index.

Every value is also compared with the one that was saved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow_recording import (
    ANSWERS,
    ANSWERS_FORM,
    ANSWERS_JSON,
    Arrays,
    bits,
    sha256,
    write_arrays,
    write_json,
    write_provenance,
)

COMMAND = "python validation/oracles/tensorflow_bundles.py --out validation/recorded"
PACKAGES = ("tensorflow-cpu", "keras", "ml-dtypes", "numpy", "safetensors")
SEED = 20210301
PREFIX = "model.ckpt"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
DTYPES = (
    *(tf.half, tf.bfloat16, tf.float32, tf.float64, tf.dtypes.experimental.float8_e4m3fn),
    *(tf.dtypes.experimental.float8_e5m2, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32),
    *(tf.uint64, tf.dtypes.experimental.int4, tf.dtypes.experimental.uint4, tf.bool, tf.complex64, tf.complex128),
    *(tf.qint8, tf.quint8, tf.qint16, tf.quint16, tf.qint32),
)
SPECIAL = {  # negative zero, infinities, smallest subnormal, quiet and signalling NaN with a payload, negative NaN
    "float16": [0x8000, 0x7C00, 0xFC00, 0x0001, 0x7E01, 0x7D55, 0xFFFF],
    "bfloat16": [0x8000, 0x7F80, 0xFF80, 0x0001, 0x7FC1, 0x7F95, 0xFFFF],
    "float32": [0x80000000, 0x7F800000, 0xFF800000, 0x00000001, 0x7FC00001, 0x7F812345, 0xFFFFFFFF],
    "float64": [0x8000000000000000, 0x7FF0000000000000, 0xFFF0000000000000, 1, 0x7FF8000000000001, 0x7FF0000123456789],
    "float8_e4m3fn": [0x80, 0x7E, 0xFE, 0x01, 0x7F, 0xFF],
    "float8_e5m2": [0x80, 0x7C, 0xFC, 0x01, 0x7E, 0x7D, 0xFF],
}
MANY = 1420
TAIL = "/encoder/layer/attention/self/query_key_value/projection/low_rank/factor/adapter/of/the/second/kind"
TAIL += "/encoder/layer/intermediate/dense/with/a/name/that/goes/on/beyond/one/byte/of/length"


def stream(index: int) -> np.random.Generator:
    return np.random.default_rng([SEED, index])


# --- writing and reading with TensorFlow ------------------------------------------------------------------------------


def save(prefix: Path, tensors: list[tuple[str, tf.Tensor]], slices: list[str] | None = None) -> None:
    """One SaveV2: one index and one data file. A slice is "shape extent:extent", with extent "-" or "start,length"."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[name for name, _ in tensors],
        shape_and_slices=slices or [""] * len(tensors),
        tensors=[tensor for _, tensor in tensors],
    )


def merge(folder: Path, parts: list[Path]) -> None:
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts],
        destination_prefix=str(folder / PREFIX),
        delete_old_dirs=True,
    )


def read(prefix: Path) -> tuple[dict[str, tf.DType], dict[str, list[int]], Arrays]:
    """Dtypes, shapes and values of everything in a bundle; a variant has no value."""
    reader = tf.train.load_checkpoint(str(prefix))
    dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    names = sorted(shapes)
    return (
        {name: tf.as_dtype(dtypes[name]) for name in names},
        {name: list(shapes[name]) for name in names},
        {name: as_array(reader.get_tensor(name)) for name in names if dtypes[name] != tf.variant},
    )


def as_array(value: Any) -> np.ndarray:
    """A scalar string comes as `bytes`; NumPy's own type for it would drop zeros at the end."""
    return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)


def hexadecimal(array: np.ndarray) -> list[str]:
    return [element.hex() for element in array.reshape(-1)]


def record(folder: Path, saved: dict[str, Any], prefix: str = PREFIX, **more: Any) -> None:
    """Read the bundle back, compare it with `saved`, and write the answers."""
    dtypes, shapes, values = read(folder / prefix)
    if set(saved) != set(shapes) - {GRAPH}:
        raise RuntimeError(f"{folder.name}: saved {sorted(saved)}, found {sorted(shapes)}")
    strings = {name: array for name, array in values.items() if dtypes[name] == tf.string}
    numeric = {name: array for name, array in values.items() if name not in strings}
    for name, value in saved.items():
        if name in values and not same(np.asarray(value), values[name]):
            raise RuntimeError(f"{folder.name}: {name} was read back differently")
    write_arrays(folder / ANSWERS, numeric)
    described = {name: {"dtype": dtypes[name].name, "shape": shapes[name]} for name in shapes}
    in_hex = {name: hexadecimal(array) for name, array in strings.items()}
    write_json(folder / ANSWERS_JSON, {"tensors": described, "strings": in_hex, **more})


def same(saved: np.ndarray, found: np.ndarray) -> bool:
    if saved.shape != found.shape:
        return False
    if found.dtype == object:
        return saved.reshape(-1).tolist() == found.reshape(-1).tolist()
    return np.array_equal(bits(saved), bits(found))


# --- cases ------------------------------------------------------------------------------------------------------------


def random_bits(dtype: tf.DType, shape: tuple[int, ...], rng: np.random.Generator, special: bool = False) -> np.ndarray:
    """An array of the dtype's NumPy type whose elements are random patterns of bits."""
    kind = np.dtype(dtype.as_numpy_dtype) if not dtype.is_quantized else np.dtype(dtype.name[1:])
    size = int(np.prod(shape))
    if dtype.name in ("bool", "int4", "uint4"):
        low, high = {"bool": (0, 2), "int4": (-8, 8), "uint4": (0, 16)}[dtype.name]
        return rng.integers(low, high, size).astype(kind).reshape(shape)
    raw = np.frombuffer(rng.bytes(size * kind.itemsize), kind).copy()
    if special and dtype.name in SPECIAL:
        patterns = SPECIAL[dtype.name]
        raw[: len(patterns)] = np.array(patterns, dtype=f"u{kind.itemsize}").view(kind)
    return raw.reshape(shape)


def tensor(array: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    if dtype.is_quantized:
        return tf.bitcast(tf.constant(array), dtype)
    return tf.constant(array, dtype=dtype)


def record_dtypes(folder: Path) -> None:
    rng = stream(0)
    shapes = {"vector": (17,), "scalar": (), "empty": (0, 3), "five": (2, 1, 3, 1, 2)}
    saved, tensors = {}, []
    for dtype in DTYPES:
        for kind, shape in shapes.items():
            name = f"{dtype.name}/{kind}"
            saved[name] = random_bits(dtype, shape, rng, special=kind == "vector")
            tensors.append((name, tensor(saved[name], dtype)))
    save(folder / PREFIX, tensors)
    record(folder, saved)


def record_strings(folder: Path) -> None:
    rng = stream(1)
    long = bytes(range(256)) * 65  # three bytes of varint
    values: dict[str, Any] = {
        "text/scalar": np.array("苏剑林 said é".encode(), dtype=object),
        "text/empty_string": np.array(b"", dtype=object),
        "text/no_elements": np.zeros((0, 2), dtype=object),
        "text/matrix": np.array([[b"a", b"", b"\x00\xff\x00"], [b"b" * 127, b"c" * 128, b"\n"]], dtype=object),
        "text/long": np.array([b"x", long, b"y" * 300], dtype=object),
        "a_number": rng.standard_normal((3, 4)).astype(np.float32),
        "text_2_number": rng.integers(-(2**62), 2**62, 5),
        "zzz": np.array(True),
    }
    kinds = {name: tf.string for name in values if name.startswith("text/")}
    tensors = [(name, tf.constant(value, dtype=kinds.get(name), shape=value.shape)) for name, value in values.items()]
    save(folder / PREFIX, tensors)
    record(folder, values)


def record_variant(folder: Path) -> None:
    rng = stream(2)
    before, after = rng.standard_normal(3).astype(np.float32), rng.standard_normal((2, 2))
    items = tf.constant(rng.standard_normal((2, 3)).astype(np.float32))
    variant = tf.raw_ops.TensorListFromTensor(tensor=items, element_shape=tf.constant([3]))
    save(folder / PREFIX, [("a", tf.constant(before)), ("list", variant), ("z", tf.constant(after))])
    record(folder, {"a": before, "list": None, "z": after})


def tiled(name: str, array: np.ndarray, tiles: list[str]) -> tuple[list[tuple[str, tf.Tensor]], list[str]]:
    """The tensors and slice strings that save `array` in `tiles`, each "extent:extent:..." as in `save`."""
    tensors, slices = [], []
    for tile in tiles:
        places = []
        for extent in tile.split(":"):
            start, length = (None, None) if extent == "-" else map(int, extent.split(","))
            places.append(slice(None) if start is None else slice(start, start + length))
        part = array[tuple(places)]
        tensors.append((name, tf.constant(part, shape=part.shape)))
        slices.append(" ".join(map(str, array.shape)) + " " + tile)
    return tensors, slices


def part_of(array: np.ndarray) -> Any:
    """The initializer of a partitioned variable: each part asks for its own shape at its own offset."""

    def initialize(shape: list[int], dtype: Any = None, partition_info: Any = None) -> np.ndarray:
        offset = partition_info.var_offset if partition_info else [0] * array.ndim
        return array[tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))]

    return initialize


def record_partitioned(folder: Path) -> None:
    """Variables of a partitioner under the old Saver, then further tilings by SaveV2, merged into one bundle."""
    rng = stream(3)
    arrays: dict[str, np.ndarray] = {
        "rows": rng.standard_normal((7, 3)).astype(np.float32),
        "columns": rng.standard_normal((2, 5, 4)),
        "whole": rng.standard_normal((2, 3)).astype(np.float32),
        "vector": rng.integers(-100, 100, 10).astype(np.int16),
        "grid": rng.standard_normal((5, 7)).astype(np.float32),
        "irregular": rng.standard_normal((4, 6)).astype(np.float64),
        "tall": rng.integers(-128, 128, 9001).astype(np.int8),
        "one_tile": rng.standard_normal((3, 2)).astype(np.float32),
        "flags": rng.integers(0, 2, (6, 2)).astype(bool),
        "name/with/slashes and \x00\xff": rng.standard_normal((4, 2)).astype(np.float32),
    }
    (folder / "old").mkdir(parents=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, parts, axis in (("rows", 3, 0), ("columns", 2, 1), ("vector", 4, 0), ("whole", 1, 0)):
            tf.compat.v1.get_variable(
                name,
                shape=arrays[name].shape,
                dtype=arrays[name].dtype,
                initializer=part_of(arrays[name]),
                use_resource=name != "columns",
                partitioner=tf.compat.v1.fixed_size_partitioner(parts, axis) if parts > 1 else None,
            )
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(folder / "old" / "part"), write_meta_graph=False, write_state=False)
    tensors, slices = [], []
    for name, tiles in (
        ("grid", ["0,2:0,3", "0,2:3,4", "2,3:0,3", "2,3:3,4"]),
        ("irregular", ["0,2:-", "2,2:4,2", "2,2:0,4"]),
        ("tall", ["0,63", "63,1", "64,7", "71,100", "171,8020", "8191,1", "8192,809"]),
        ("one_tile", ["-:-"]),
        ("flags", ["4,2:-", "0,4:-"]),
        ("name/with/slashes and \x00\xff", ["0,1:-", "1,3:-"]),
    ):
        more = tiled(name, arrays[name], tiles)
        tensors, slices = tensors + more[0], slices + more[1]
    save(folder / "new" / "part", tensors, slices)
    merge(folder, [folder / "old" / "part", folder / "new" / "part"])
    record(folder, arrays)


def record_shards(folder: Path) -> None:
    rng = stream(4)
    arrays = {f"block_{index}/kernel": rng.standard_normal((3, index)).astype(np.float32) for index in range(6)}
    arrays |= {f"block_{index}/step": rng.integers(0, 9, ()) for index in range(3)}
    arrays["sliced"] = rng.standard_normal((6, 2)).astype(np.float32)
    arrays["text"] = np.array([b"in", b"the third"], dtype=object)
    tiles, slices = tiled("sliced", arrays["sliced"], ["0,2:-", "2,1:-", "3,3:-"])
    parts = []
    for index in range(3):
        names = [name for place, name in enumerate(sorted(arrays)) if name not in ("sliced", "text")]
        tensors = [(name, tf.constant(arrays[name])) for place, name in enumerate(names) if place % 3 == index]
        tensors += [("text", tf.constant(arrays["text"]))] if index == 2 else []
        prefix = folder / f"writer_{index}" / "part"
        save(prefix, [*tensors, tiles[index]], [""] * len(tensors) + [slices[index]])
        parts.append(prefix)
    merge(folder, parts)
    record(folder, arrays)


def small_model() -> tf.keras.Model:
    inner = tf.keras.Sequential([tf.keras.layers.Dense(3, name="first"), tf.keras.layers.Dense(2, name="second")])
    given = tf.keras.Input((4,))
    hidden = tf.keras.layers.LayerNormalization()(given)
    return tf.keras.Model(given, tf.keras.layers.Dense(2, use_bias=False)(inner(hidden)))


def assign_random(variables: list[tf.Variable], rng: np.random.Generator) -> None:
    for variable in variables:
        if variable.dtype.is_floating:
            variable.assign(rng.standard_normal(variable.shape).astype(variable.dtype.as_numpy_dtype))
        elif variable.dtype.is_integer:
            variable.assign(int(rng.integers(1, 1000)))


def object_graph(prefix: Path) -> dict[str, Any]:
    """Checkpoint key -> full name of the variable, as the stored graph of objects has it."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(str(prefix)).get_tensor(GRAPH))
    return {attribute.checkpoint_key: attribute.full_name for node in graph.nodes for attribute in node.attributes}


def record_object_based(folder: Path) -> None:
    rng = stream(5)
    tf.keras.backend.clear_session()
    model, optimizer = small_model(), tf.keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    holder = tf.Module()
    holder.items = [tf.Variable(np.float64(0.0)), tf.Variable(np.zeros(3, np.float16))]
    holder.named = {"a/b": tf.Variable(np.zeros((2, 2), np.float32)), "c.d": tf.Variable(np.int64(0))}
    holder.text = tf.Variable(["one", "two"])
    holder.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    holder.table.insert(tf.constant(["key"]), tf.constant([7], tf.int64))  # one key: the order of several is undefined
    variables = [*model.variables, *optimizer.variables, *holder.items, *holder.named.values()]
    assign_random(variables, rng)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, holder=holder, step=tf.Variable(12))
    path = Path(checkpoint.save(str(folder / PREFIX)))
    found = read(path)[2]
    arrays = sorted(v.numpy().tobytes() for v in variables if np.asarray(v.numpy()).size > 1)
    stored = sorted(a.tobytes() for name, a in found.items() if a.size > 1 and a.dtype != object)
    if arrays != stored:
        raise RuntimeError("object_based: the stored values are not those of the variables")
    saved = {name: value for name, value in found.items() if name != GRAPH}
    record(folder, saved, path.name, full_names=object_graph(path))


def record_keras_weights(folder: Path) -> None:
    tf.keras.backend.clear_session()
    model = small_model()
    assign_random(model.variables, stream(6))
    model.save_weights(str(folder / "model.weights"))
    prefix = folder / "model.weights"
    saved = {name: value for name, value in read(prefix)[2].items() if name != GRAPH}
    written = {value.numpy().tobytes() for value in model.variables}
    if not written <= {np.asarray(value).tobytes() for value in saved.values()}:
        raise RuntimeError("keras_weights: a weight of the model was not stored")
    record(folder, saved, prefix.name, full_names=object_graph(prefix))


def record_many(folder: Path) -> None:
    """Names that differ early, so that little is shared, with siblings that differ at the end; saved in random order."""
    rng = stream(7)
    saved = {}
    for index in range(MANY):
        ending = ["/kernel", "/bias"] if index % 8 == 0 else [""]
        for end in ending:
            shape = [(1,), (), (2,), (1, 2), (0,)][index % 5]
            saved[f"shared/scope/of/every/variable/{index:04d}{TAIL}{end}"] = np.array(
                rng.standard_normal(shape), dtype=np.float32
            )
    order = [sorted(saved)[place] for place in rng.permutation(len(saved))]
    save(folder / PREFIX, [(name, tf.constant(saved[name])) for name in order])
    dtypes, shapes, values = read(folder / PREFIX)
    names = sorted(values, key=str.encode)
    if names != sorted(saved) or not all(same(saved[name], values[name]) for name in names):
        raise RuntimeError("many: read back differently")
    if set(dtypes.values()) != {tf.float32}:
        raise RuntimeError("many: not float32")
    flat = {
        "values": np.concatenate([values[name].reshape(-1) for name in names]),
        "ranks": np.array([len(shapes[name]) for name in names]),
        "dimensions": np.array([extent for name in names for extent in shapes[name]], dtype=np.int64),
    }
    write_arrays(folder / ANSWERS, flat)
    described = {"count": len(names), "names_sha256": sha256("\n".join(names).encode()), "dtype": "float32"}
    write_json(folder / ANSWERS_JSON, {**described, "first": names[0], "last": names[-1]})


WHAT = {
    "dtypes": "24 dtypes, each as vector, scalar, empty and five axes; a vector begins with the special values",
    "strings": "string tensors (UTF-8, NUL, empty, long) and numbers",
    "variant": "tensors a and z beside a list of dtype variant; TensorFlow's reader gives no value for the variant",
    "partitioned": "rows, columns, vector: a partitioner and the Saver; the others: SaveV2 with slices; merged",
    "shards": "three data files of three SaveV2, merged; the slices of `sliced` lie in all three",
    "object_based": "tf.train.Checkpoint of a model, Adam, a module with list, dict, strings and table, and a step",
    "keras_weights": "Model.save_weights to a name that does not end in .h5",
    "many": "values of all tensors concatenated in the order of their names; ranks, and dimensions in the same order",
    "full_names": "in answers.json: checkpoint key -> name of the variable, from the stored graph of objects",
    "names_sha256": "in many/answers.json: of the names, sorted by their bytes and joined by line feeds, in UTF-8",
    "form": ANSWERS_FORM,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives tensorbundle")
    out: Path = parser.parse_args().out / "tensorbundle"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "tensorbundle"
        for name, write in (
            ("dtypes", record_dtypes),
            ("strings", record_strings),
            ("variant", record_variant),
            ("partitioned", record_partitioned),
            ("shards", record_shards),
            ("object_based", record_object_based),
            ("keras_weights", record_keras_weights),
            ("many", record_many),
        ):
            (work / name).mkdir(parents=True)
            write(work / name)
        for path in work.rglob("*"):
            if path.is_file() and str(work).encode() in path.read_bytes():
                raise RuntimeError(f"{path.name} holds the name of the temporary folder")
        shutil.copytree(work, out, dirs_exist_ok=True)
    write_provenance(out, COMMAND, {"oracle": "TensorFlow, CPU", "seed": SEED, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
