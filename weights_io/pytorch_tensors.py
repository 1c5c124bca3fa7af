"""What PyTorch and NumPy write into a pickle for a tensor: storages, the functions that rebuild tensors, dtypes; each handled by code of this module.

    torch._utils._rebuild_tensor_v2 (storage, offset, size, stride, requires_grad, hooks[, {"conj": ..., "neg": ...}])
    torch._utils._rebuild_tensor_v3 (storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])
    numpy._core.multiarray._reconstruct (class, (0,), b"b"), and then BUILD (1, shape, dtype, column-major, bytes)

A storage is a persistent identifier, ("storage", class, key, location, count): `count` elements that lie elsewhere in the container. Offset, size and
stride are in elements, and must stay within the storage. Tensors of dtypes that neither NumPy nor ml_dtypes has (complex32, the bits of
no meaning, two floats in a byte, sub-byte quantised integers) are listed, as voids of that many bytes, and refused when they are read.

Reference: torch/_utils.py, torch/_tensor.py and torch/serialization.py of PyTorch 2.13; numpy/_core/multiarray and numpy.ndarray.__reduce__.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

import ml_dtypes
import numpy as np

from weights_io.arrays import as_array, native, read_only
from weights_io.errors import FormatError, UnsupportedError
from weights_io.pickle_machine import SYMBOLS, Inert, Known, Machine, Node, Symbol, merged, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "DTYPES",
    "NOWHERE",
    "RULES",
    "STORAGES",
    "TORCH",
    "Array",
    "NumpyDtype",
    "Storage",
    "Stored",
    "check_bool",
    "dtype_of",
    "read_array",
    "read_stored",
    "refuse_dtype",
    "same_storage",
    "storage_of",
    "stored",
]

RULES = {
    "pytorch.persistent": "A persistent identifier is ('storage', class, key, location, count): a known class, three texts, and a count from 0.",
    "pytorch.storage": "Every mention of a storage says the same class and count, and its bytes are count * itemsize.",
    "pytorch.rebuild": "The functions that rebuild tensors get the arguments that they are written with, and none of these is a file of its own.",
    "pytorch.shape": "Size and stride are at most 64 whole numbers each, as many as each other, of a product that an array can have.",
    "pytorch.bounds": "Every element of a tensor lies in its storage: offset + sum((size - 1) * stride) < count.",
    "pytorch.dtype": "A dtype is one that NumPy or ml_dtypes has, a whole number of bytes for each element.",
    "pytorch.array": "A NumPy array has as many bytes as its dtype and shape need.",
    "pytorch.bool": "A byte of a bool is 0 or 1.",
}

DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{f"{kind}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    },
}
QUANTISERS: dict[str, tuple[str, ...]] = {
    "per_tensor_affine": ("scheme", "scale", "zero_point"),
    "per_channel_affine": ("scheme", "scales", "zero_points", "axis"),
    "per_channel_affine_float_qparams": ("scheme", "scales", "zero_points", "axis"),
}
QUANTISED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
UNREAD = {  # dtype -> bytes of an element
    **dict.fromkeys(("bits8", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2", "quint4x2", "quint2x4"), 1),
    **{f"{kind}{bits}": 1 for kind in ("int", "uint") for bits in range(1, 8)},
    "bits16": 2,
    "complex32": 4,
}
CLASSES = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble QInt8 QUInt8 QInt32 QUInt4x2 QUInt2x4 Untyped"
ELEMENTS = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 qint8 quint8 qint32 quint4x2 quint2x4 untyped"
STORAGES = {f"{kind}Storage": dtype for kind, dtype in zip(CLASSES.split(), ELEMENTS.split(), strict=True)}
STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
MAX_AXES, MAX_BYTES = 64, 2**63
NODE_COST = 400  # bytes of a tensor, its shape and strides apart


def dtype_of(name: str) -> Any:
    """The dtype of a name of torch's: a void of the same size where there is none."""
    return DTYPES[name] if name in DTYPES else np.dtype(f"V{UNREAD[name]}")


# --- Storages -------------------------------------------------------------------------------------------------------------------


class Storage(Node):
    """Bytes elsewhere in the container: `count` elements of a dtype; `first` is where a view begins in the storage that it views, in bytes."""

    __slots__ = ("count", "dtype", "first", "key")

    def __init__(self, key: str, dtype: str, count: int, first: int = 0) -> None:
        self.key, self.dtype, self.count, self.first = key, dtype, count, first

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.count * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        name = QUANTISED.get(self.dtype, self.dtype)
        return 1 if name == "untyped" else int(dtype_of(name).itemsize)

    def __repr__(self) -> str:
        return f"<storage {self.key[:64]}: {self.count} of {self.dtype}>"


def storage_of(machine: Machine, identity: Any, length: int, key: str) -> Storage:
    """The storage that a persistent identifier of `length` parts describes; `key` is a pattern."""
    good = type(identity) is tuple and len(identity) == length and identity[0] == "storage"
    if good:
        _, kind, name, location, count = identity[:5]
        good = isinstance(kind, Symbol) and kind.module in STORAGE_MODULES and kind.name in STORAGES
        good = good and type(name) is str and re.fullmatch(key, name, re.ASCII) is not None and type(location) is str
        good = good and type(count) is int and 0 <= count < MAX_BYTES
    if not good:
        expected = "('storage', a storage class, key, location, count)"
        machine.refuse("pytorch.persistent", "this identifies no storage", expected=expected, got=shown(identity))
    machine.spend(NODE_COST)
    return Storage(name, STORAGES[kind.name], count)


def same_storage(machine: Machine, known: Storage, again: Storage) -> Storage:
    """`known`, if a second mention says the same."""
    if (known.dtype, known.count, known.first) != (again.dtype, again.count, again.first):
        machine.refuse("pytorch.storage", "two mentions of a storage disagree", expected=known, got=again)
    return known


# --- Tensors --------------------------------------------------------------------------------------------------------------------


class Stored(Node):
    """A tensor that lies in a storage; offset, shape and strides are in elements. One without a storage gets it from BUILD, as in 2017."""

    __slots__ = ("conj", "dtype", "neg", "offset", "shape", "state", "storage", "strides")

    def __init__(self, dtype: str = "float32") -> None:
        self.storage: Storage = NOWHERE
        self.dtype, self.offset = dtype, 0
        self.shape: tuple[int, ...] = (0,)
        self.strides: tuple[int, ...] = (1,)
        self.conj = self.neg = False
        self.state: dict[Any, Any] | None = None

    def build(self, machine: Machine, state: Any) -> None:
        """Attributes, or attributes and slots; three parts are what old versions kept about gradients, four the place of the elements."""
        if type(state) is tuple and len(state) == 4 and self.storage is NOWHERE:
            return self.place(machine, *state, None)
        if type(state) is tuple and len(state) == 3:
            return None
        parts = state if type(state) is tuple and len(state) == 2 else (state,)
        for part in parts:
            self._attributes(machine, part)
        return None

    def _attributes(self, machine: Machine, state: Any) -> None:
        """Take attributes, but none that would put other elements into the tensor."""
        if not (state is None or isinstance(state, dict)) or any(name in (state or ()) for name in ELEMENTS_OF):
            expected = f"a dictionary of attributes, without {', '.join(ELEMENTS_OF)}"
            machine.refuse("pickle.build", "this is no state of a tensor", expected=expected, got=shown(state))
        if state:
            self.state = merged(machine, self.state, state)

    def place(self, machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None) -> None:
        """Lie in a storage, if every element is there; dtype None is that of the storage."""
        if not isinstance(storage, Storage) or (dtype is None) == (storage.dtype == "untyped"):
            got = f"{shown(storage)}, {dtype}"
            machine.refuse("pytorch.rebuild", "a tensor needs a typed storage, or an untyped one and a dtype", got=got)
        name = QUANTISED.get(storage.dtype, storage.dtype) if dtype is None else dtype
        itemsize = int(dtype_of(name).itemsize)
        _check_shape(machine, size, stride, itemsize)
        count = storage.nbytes // itemsize
        reach = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if not _whole(offset) or (math.prod(size) and offset + reach >= count):
            machine.refuse(
                "pytorch.bounds",
                "the tensor reaches beyond its storage",
                expected=f"{count} elements from 0",
                got=f"offset {shown(offset)}, size {shown(size)}, stride {shown(stride)}",
            )
        self.storage, self.dtype, self.offset, self.shape, self.strides = (
            storage,
            name,
            offset,
            tuple(size),
            tuple(stride),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, counted as often as they occur."""
        return math.prod(self.shape) * int(dtype_of(self.dtype).itemsize)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other in C order."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step:
                return math.prod(self.shape) == 0
            step *= length
        return True

    def __repr__(self) -> str:
        return f"<tensor of {self.dtype}, {self.shape}>"


NOWHERE = Storage("", "untyped", 0)
ELEMENTS_OF = ("data", "real", "imag")  # attributes that are the tensor's own elements


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_BYTES


def _axes(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) <= MAX_AXES and all(map(_whole, value))


def _check_shape(machine: Machine, size: Any, stride: Any, itemsize: int) -> None:
    good = _axes(size) and _axes(stride) and len(size) == len(stride)
    if not good or math.prod(length for length in size if length) * itemsize >= MAX_BYTES:
        machine.refuse("pytorch.shape", "wrong size or stride", got=f"size {shown(size)}, stride {shown(stride)}")


def stored(machine: Machine, *place: Any) -> Stored:
    """A new tensor at a place: storage, offset, size, stride, and dtype or None."""
    machine.spend(NODE_COST)
    tensor = Stored()
    tensor.place(machine, *place)
    return tensor


# --- The functions of torch -----------------------------------------------------------------------------------------------------


def _wrong(machine: Machine, name: str, args: Any, expected: str) -> Any:
    return machine.refuse("pytorch.rebuild", "wrong arguments", field=name, expected=expected, got=shown(args))


def _dtype_name(machine: Machine, value: Any) -> str:
    """The name of a dtype of torch's; UnsupportedError for one that is not known."""
    known = isinstance(value, Symbol) and value.module == "torch" and (value.name in DTYPES or value.name in UNREAD)
    if isinstance(value, Symbol) and known:
        return value.name
    raise UnsupportedError(
        "unknown dtype",
        rule="pytorch.dtype",
        where=machine.where,
        offset=machine.base + machine.begin,
        expected=", ".join([*DTYPES, *UNREAD]),
        got=shown(value),
    )


def _flags(machine: Machine, tensor: Stored, metadata: Any) -> Stored:
    """Whether the tensor is the conjugate, or the negative, of what is stored."""
    if metadata is None or metadata == {}:
        return tensor
    kind = dtype_of(tensor.dtype).kind
    good = (
        isinstance(metadata, dict) and set(metadata) <= {"conj", "neg"} and set(map(type, metadata.values())) <= {bool}
    )
    if not good or (metadata.get("conj") and kind != "c") or (metadata.get("neg") and kind not in "fc"):
        _wrong(
            machine, "metadata of a tensor", metadata, "conj of complex numbers and neg of floats, each True or False"
        )
    tensor.conj, tensor.neg = metadata.get("conj", False), metadata.get("neg", False)
    return tensor


def _tensor(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 4:
        _wrong(machine, "_rebuild_tensor", args, "storage, offset, size, stride")
    return stored(machine, *args, None)


def _tensor_v2(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) not in (6, 7):
        _wrong(
            machine,
            "_rebuild_tensor_v2",
            args,
            "storage, offset, size, stride, requires_grad, hooks and maybe metadata",
        )
    return _flags(machine, stored(machine, *args[:4], None), *args[6:] or (None,))


def _tensor_v3(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) not in (7, 8):
        expected = "storage, offset, size, stride, requires_grad, hooks, dtype and maybe metadata"
        _wrong(machine, "_rebuild_tensor_v3", args, expected)
    return _flags(machine, stored(machine, *args[:4], _dtype_name(machine, args[6])), *args[7:] or (None,))


def _parameter(machine: Machine, args: tuple[Any, ...]) -> Any:
    """The tensor of a parameter; its state, if it has one, are attributes."""
    if not 1 <= len(args) <= 4 or not isinstance(args[0], Node):
        _wrong(machine, "_rebuild_parameter", args, "a tensor, requires_grad, hooks and maybe a state")
    if len(args) == 4:
        args[0].build(machine, args[3])
    if isinstance(args[0], Stored) and args[0].storage is NOWHERE:
        return _empty(args[0].dtype)(machine, ())  # another tensor, whose place is its own
    return args[0]


def _from_type(machine: Machine, args: tuple[Any, ...]) -> Any:
    """_rebuild_from_type_v2(function, class, arguments, state): what the function makes, of another class and with attributes."""
    states = []
    function: Any = FROM_TYPES[0]
    while function in FROM_TYPES:
        if len(args) != 4 or not isinstance(args[0], Symbol) or type(args[2]) is not tuple:
            _wrong(machine, "_rebuild_from_type_v2", args, "a function, a class, arguments and a state")
        machine.spend(64)
        states.append(args[3])
        function, args = args[0], args[2]
    result = machine.call(function, args)
    for state in reversed(states):
        if isinstance(result, Node):
            result.build(machine, state)
    return result


def _cast(machine: Machine, args: tuple[Any, ...]) -> Any:
    """_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad), and the same from a tensor."""
    if len(args) != 4 or not isinstance(args[0], (Array, Stored)):
        _wrong(machine, "_rebuild_device_tensor_from_numpy", args, "an array, dtype, device, requires_grad")
    data, wanted = args[0], dtype_of(_dtype_name(machine, args[1]))
    if isinstance(data, Array) and data.array is not None:
        if native(data.array.dtype) == np.float32 and wanted == np.dtype(ml_dtypes.bfloat16):
            return _as_bfloat16(machine, data)
        if native(data.array.dtype) == wanted:
            return data
    if isinstance(data, Stored) and data.dtype == args[1].name:
        return data
    return _wrong(machine, "_rebuild_device_tensor_from_numpy", args, "the dtype of the array")


def _as_bfloat16(machine: Machine, data: Array) -> Array:
    """A tensor of the values of a float32 array: NumPy has no bfloat16, and that is how such tensors were kept."""
    machine.spend(NODE_COST)
    tensor = Array(data.function, data.args)
    tensor.array, tensor.place, tensor.cast = data.array, data.place, np.dtype(ml_dtypes.bfloat16)
    return tensor


def _quantised(machine: Machine, args: tuple[Any, ...]) -> Any:
    """A placeholder whose attributes are the integers, and the scale and zero point of each."""
    params = args[4] if len(args) == 7 else ()
    scheme = params[0].name if type(params) is tuple and params and isinstance(params[0], Symbol) else ""
    names = QUANTISERS.get(scheme, ())
    if len(names) == 0 or len(params) != len(names):
        _wrong(machine, "_rebuild_qtensor", args, "storage, offset, size, stride, quantiser, requires_grad, hooks")
    machine.spend(1000)
    state = {"integers": stored(machine, *args[:4], None), **dict(zip(names, params, strict=True))}
    return Inert(Symbol("torch._utils", "_rebuild_qtensor"), state=state)


def _sparse(machine: Machine, args: tuple[Any, ...]) -> Any:
    """A placeholder whose attributes are the indices and the values."""
    layout = args[0].name if len(args) == 2 and isinstance(args[0], Symbol) else ""
    names: tuple[str, ...] = ("indices", "values", "size", "is_coalesced")
    if layout in ("sparse_csr", "sparse_bsr"):
        names = ("crow_indices", "col_indices", "values", "size")
    elif layout in ("sparse_csc", "sparse_bsc"):
        names = ("ccol_indices", "row_indices", "values", "size")
    if layout == "" or type(args[1]) is not tuple or len(args[1]) not in (3, 4):
        _wrong(machine, "_rebuild_sparse_tensor", args, "a layout, and a tuple of indices, values and size")
    machine.spend(1000)
    state = {"layout": args[0], **dict(zip(names, args[1], strict=False))}
    return Inert(Symbol("torch._utils", "_rebuild_sparse_tensor"), state=state)


def _nested(machine: Machine, args: tuple[Any, ...]) -> Any:
    names = ("buffer", "sizes", "strides", "storage_offsets")
    if len(args) != 4:
        _wrong(machine, "_rebuild_nested_tensor", args, ", ".join(names))
    machine.spend(1000)
    return Inert(Symbol("torch._utils", "_rebuild_nested_tensor"), state=dict(zip(names, args, strict=True)))


def _empty(dtype: str) -> Callable[[Machine, tuple[Any, ...]], Any]:
    """What calling a class of tensors gives: a tensor without elements, until BUILD places it."""

    def run(machine: Machine, args: tuple[Any, ...]) -> Any:
        if args:
            _wrong(machine, "a class of tensors", args, "nothing, and BUILD afterwards")
        machine.spend(NODE_COST)
        return Stored(dtype)

    return run


def _file(machine: Machine, args: tuple[Any, ...]) -> Any:
    """torch.storage._load_from_bytes: a file within the file, which may have tensors."""
    raise UnsupportedError(
        "a file within the file is not read",
        rule="pytorch.rebuild",
        where=machine.where,
        offset=machine.base + machine.begin,
        field="torch.storage._load_from_bytes",
        expected="tensors whose storages are in the file itself",
        got=shown(args),
        remedy="load the file with PyTorch, and save its tensors with torch.save",
    )


def _size(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or not _axes(args[0]):
        _wrong(machine, "torch.Size", args, "one tuple of whole numbers")
    machine.spend(64 + 8 * len(args[0]))
    return tuple(args[0])


def _layout(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or type(args[0]) is not str or not args[0].startswith("torch."):
        _wrong(machine, "torch.serialization._get_layout", args, "the name of a layout")
    return machine.symbol("torch", args[0].removeprefix("torch."))


def _same(machine: Machine, args: tuple[Any, ...]) -> Any:
    """What TorchScript says about the type of a list or dictionary, without the saying."""
    if not 1 <= len(args) <= 2:
        _wrong(machine, "torch.jit._pickle", args, "a value and maybe its type")
    return args[0]


# --- NumPy ----------------------------------------------------------------------------------------------------------------------


class NumpyDtype(Inert):
    """numpy.dtype, called with a code, and then BUILD with the byte order."""

    __slots__ = ()

    def resolved(self) -> Any:
        """The dtype, if it is one of plain numbers; None otherwise."""
        code = self.args[0] if self.args else None
        if isinstance(code, Symbol):
            return DTYPES.get(code.name) if code.module == "ml_dtypes" else None
        state = self.state if type(self.state) is tuple and len(self.state) >= 5 else (3, "", None, None, None)
        if type(code) is not str or NUMERIC.fullmatch(code) is None or any(part is not None for part in state[2:5]):
            return None
        dtype = np.dtype(code.replace("b1", "?"))
        return dtype.newbyteorder(">") if state[1] == ">" else dtype.newbyteorder("<") if state[1] == "<" else dtype


class Array(Inert):
    """A NumPy array whose bytes are in the pickle itself.

    Attributes
    ----------
    array : the values, as they are in the pickle; None for what is not plain numbers
    cast : the dtype that they are to have, where it is another
    place : the byte of the file at which the opcode stands that completed it
    """

    __slots__ = ("array", "cast", "place")

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        super().__init__(function, args)
        self.array: Any = None
        self.cast: Any = None
        self.place = 0

    def build(self, machine: Machine, state: Any) -> None:
        """(version, shape, dtype, column-major, bytes), where old versions of NumPy left the version out."""
        parts = state[-4:] if type(state) is tuple and len(state) in (4, 5) else None
        if parts is None or type(parts[3]) not in (bytes, bytearray, str):
            return super().build(machine, state)
        shape, dtype, columns, raw = parts
        return self.fill(machine, raw, dtype, shape, "F" if columns else "C")

    def fill(self, machine: Machine, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        """Take the values, if they are plain numbers."""
        raw = _raw(machine, raw)
        known = dtype.resolved() if isinstance(dtype, NumpyDtype) else None
        if known is None:
            self.state = {"shape": shape, "dtype": dtype}
            return
        nbytes = math.prod(length for length in shape if length) * known.itemsize if _axes(shape) else MAX_BYTES
        if nbytes >= MAX_BYTES or len(raw) != (0 if 0 in shape else nbytes):
            got = f"{len(raw)} bytes for {known} {shown(shape)}"
            machine.refuse("pytorch.array", "an array has not the bytes that it needs", got=got)
        machine.spend(NODE_COST)
        self.place = machine.base + machine.begin
        values: Any = np.frombuffer(raw, known) if raw else np.empty(0, known)
        self.array = values.reshape(shape, order=order)


def _raw(machine: Machine, raw: Any) -> Any:
    """Bytes; what was a string of Python 2, and happened to be UTF-8, is bytes again."""
    if not isinstance(raw, str):
        return raw
    machine.spend(64 + len(raw) * (1 if raw.isascii() else 4))
    return raw.encode("utf-8", "surrogatepass")


NUMERIC = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|\?)", re.ASCII)


def _numpy_dtype(machine: Machine, args: tuple[Any, ...]) -> Any:
    machine.spend(NODE_COST)
    return NumpyDtype(Symbol("numpy", "dtype"), args)


def _reconstruct(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 3 or not isinstance(args[0], Symbol):
        _wrong(machine, "numpy._core.multiarray._reconstruct", args, "a class, a shape and a kind")
    machine.spend(NODE_COST)
    return Array(args[0], ())


def _frombuffer(machine: Machine, args: tuple[Any, ...]) -> Any:
    """numpy._core.numeric._frombuffer(bytes, dtype, shape, order[, axes]): an array in protocol 5."""
    if len(args) not in (4, 5) or type(args[0]) not in (bytes, bytearray) or args[3] not in ("C", "F", "K"):
        _wrong(machine, "numpy._core.numeric._frombuffer", args, "bytes, dtype, shape, order and maybe axes")
    machine.spend(NODE_COST)
    result = Array(Symbol("numpy", "ndarray"), ())
    result.fill(machine, args[0], args[1], args[2], "F" if args[3] == "F" else "C")
    if args[3] == "K" and result.array is not None:
        if len(args) != 5 or not _axes(args[4]) or sorted(args[4]) != list(range(result.array.ndim)):
            _wrong(machine, "numpy._core.numeric._frombuffer", args, "the order of the axes")
        result.array = result.array.transpose(args[4])
    return result


def _scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    """A NumPy scalar: the Python number of that value."""
    machine.spend(NODE_COST)
    dtype = args[0].resolved() if len(args) == 2 and isinstance(args[0], NumpyDtype) else None
    if dtype is None or type(args[1]) not in (bytes, str):
        return Inert(Symbol("numpy._core.multiarray", "scalar"), args)
    raw = _raw(machine, args[1])
    if len(raw) != dtype.itemsize:
        machine.refuse(
            "pytorch.array", "a scalar has not the bytes that it needs", expected=dtype.itemsize, got=len(raw)
        )
    return np.frombuffer(raw, dtype)[0].item()


# --- The closed table -----------------------------------------------------------------------------------------------------------

FROM_TYPES = [
    Symbol(module, name)
    for module in ("torch._tensor", "torch.tensor")
    for name in ("_rebuild_from_type", "_rebuild_from_type_v2")
]
UTILS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor_v2,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_device_tensor_from_numpy": _cast,
    "_rebuild_device_tensor_from_cpu_tensor": _cast,
    "_rebuild_xla_tensor": _cast,
    "_rebuild_qtensor": _quantised,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_nested_tensor": _nested,
}
TENSOR_CLASSES = {f"{kind}Tensor": STORAGES[f"{kind}Storage"] for kind in CLASSES.split()[:10]}
TORCH = {
    **SYMBOLS,
    **{Symbol("torch._utils", name): Known(run) for name, run in UTILS.items()},
    Symbol("torch", "Tensor"): Known(_empty("float32"), "empty"),
    **{
        Symbol(module, name): Known(_empty(dtype), "empty")
        for module in ("torch", "torch.cuda")
        for name, dtype in TENSOR_CLASSES.items()
    },
    Symbol("torch.storage", "_load_from_bytes"): Known(_file),
    **dict.fromkeys(FROM_TYPES, Known(_from_type)),
    Symbol("torch.nn.parameter", "Parameter"): Known(_parameter, "any"),
    Symbol("torch.autograd.variable", "Variable"): Known(_parameter, "any"),
    Symbol("torch", "Size"): Known(_size, "any"),
    Symbol("torch.serialization", "_get_layout"): Known(_layout),
    Symbol("torch.jit._pickle", "restore_type_tag"): Known(_same),
    **{Symbol("torch.jit._pickle", f"build_{kind}list"): Known(_same) for kind in ("int", "double", "bool", "tensor")},
    Symbol("numpy", "dtype"): Known(_numpy_dtype, "any"),
    **{Symbol(f"numpy.{core}.multiarray", "_reconstruct"): Known(_reconstruct) for core in ("core", "_core")},
    **{Symbol(f"numpy.{core}.multiarray", "scalar"): Known(_scalar) for core in ("core", "_core")},
    **{Symbol(f"numpy.{core}.numeric", "_frombuffer"): Known(_frombuffer) for core in ("core", "_core")},
}


# --- Reading --------------------------------------------------------------------------------------------------------------------


def read_array(node: Array) -> Any:
    """The values of a NumPy array, in native byte order."""
    array = node.array
    with np.errstate(all="ignore"):
        return read_only(array.astype(node.cast or native(array.dtype), copy=False))


def read_stored(
    tensor: Stored, raw: Any, big: bool
) -> Any:  # uint8 (bytes of the storage,) -> dtype (*shape), read-only
    """The values of a tensor: a view of the bytes of its storage wherever one can be had."""
    dtype = dtype_of(tensor.dtype)
    begin = tensor.offset * dtype.itemsize
    changes = big and dtype.itemsize > 1, tensor.conj, tensor.neg
    if tensor.nbytes == 0 or (tensor.contiguous and not any(changes)):
        return as_array(raw[begin : begin + tensor.nbytes], dtype, tensor.shape)
    steps = (step if length > 1 else 0 for length, step in zip(tensor.shape, tensor.strides, strict=True))
    array = np.ndarray(tensor.shape, dtype, raw, begin, tuple(dtype.itemsize * step for step in steps))
    if any(changes):
        return read_only(_changed(array, *changes))
    return read_only(array if array.flags.aligned else array.copy())


def _changed(array: Any, swap: bool, conj: bool, neg: bool) -> Any:
    """A copy of the array with what is to be done to every value."""
    array = np.array(array, order="C")
    if swap:
        unit = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
        array.reshape(-1).view(f"u{unit}").byteswap(inplace=True)
    if conj:
        np.conjugate(array, out=array)
    if neg:
        np.negative(array, out=array)
    return array


def check_bool(array: Any, where: Path, name: str, mode: str) -> Any:
    """The array, whose bytes must be 0 or 1; in compat mode every other byte is taken for 1, as a truth value."""
    raw = array.view(np.uint8)
    if raw.max(initial=0) <= 1:
        return array
    if mode == "compat":
        return read_only(raw != 0)
    raise FormatError(
        "a byte of a bool is neither 0 nor 1", rule="pytorch.bool", where=where, field=repr(name), got=int(raw.max())
    )


def refuse_dtype(where: Path, name: str, dtype: str) -> NoReturn:
    """Raise UnsupportedError for a tensor that cannot be held in an array."""
    raise UnsupportedError(
        "NumPy and ml_dtypes have no such dtype",
        rule="pytorch.dtype",
        where=where,
        field=repr(name),
        expected=", ".join(DTYPES),
        got=f"torch.{dtype}",
        remedy="convert the tensor with PyTorch first; the others can be read",
    )
