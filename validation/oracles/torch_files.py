"""Record the files that torch.save writes, and what is in them, for readers that have no torch.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_files.py --out validation/recorded

Writes `torch_files/` under `--out`: small files in the zip and in the legacy container, with pickle protocols 2 to 5;
`answers.safetensors`, the bits of every tensor in them; `expected.json`, the tree of every object with the place, dtype,
shape and storage of every tensor; `facts.json`, the pickle symbols, the opcodes, and the layout of every container; and
`README.md`, the same for people. Everything is drawn from a seed.

All bytes are written by torch's own functions `_save` and `_legacy_save`. In a few files something that they look up is
answered differently, and the file is named for it in VARIANTS:

* storage keys of the legacy container are memory addresses; here they are made-up addresses, so that a second run gives
  the same bytes; the paths of source files, which the legacy container holds, are cut down to the file name;
* `big_endian`: `sys.byteorder` reads "big", and every storage is byte-swapped before it is written, as a big-endian
  machine would hold it; `torch.load` of this machine gives the original values back;
* `cuda`: the location tag of every storage reads "cuda:0";
* `repacked`, `deflated`: the records `data.pkl`, `data/KEY` and `version` alone, KEY a made-up address, as in the first
  releases of the zip container, but put into the archive by Python's zipfile, stored and compressed;
* `numpy1`: the module names that NumPy 1 wrote into pickles (`numpy.core` for `numpy._core`).

Every file is read back with torch.load, and every tensor compared bit by bit with what was saved.
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import enum
import functools
import inspect
import io
import json
import pathlib
import pickletools
import random
import struct
import sys
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from recording import deterministic, write_provenance
from safetensors.torch import load_file, save_file
from torch import serialization
from torch.utils.serialization import config as serialization_config

COMMAND = "python validation/oracles/torch_files.py --out validation/recorded"
PACKAGES = ("torch", "numpy", "safetensors", "huggingface_hub")
SEED = 20201115
ANSWERS, EXPECTED, FACTS, README = "answers.safetensors", "expected.json", "facts.json", "README.md"

OWN_STORAGE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
)
UNTYPED_STORAGE = (
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex32),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
)
RARE = (torch.float4_e2m1fn_x2, torch.bits8, torch.bits16, torch.bits1x8, torch.bits2x4, torch.bits4x2)
IN_SAFETENSORS = {
    *OWN_STORAGE,
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
} - {torch.complex128}
UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64, 16: torch.uint64}
SWAPPED_UNIT = {torch.complex32: 2, torch.complex64: 4, torch.complex128: 8}

# ---------------------------------------------------------------------------------------------------------------------
# Values


def random_bits(rng: np.random.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of random bits: subnormals, infinities and NaNs with payload included; a bool is 0 or 1."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    drawn = rng.integers(0, 2 if dtype == torch.bool else 256, count, dtype=np.uint8)
    return torch.from_numpy(drawn).clone().view(dtype).reshape(shape)


def normal(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def storage_bytes(storage: torch.UntypedStorage) -> np.ndarray:
    view = torch.empty(0, dtype=torch.uint8)
    view.set_(storage, 0, (storage.nbytes(),), (1,))
    return view.numpy()


def raw(tensor: torch.Tensor) -> bytes:
    """Return the elements' bytes in C order, gathered by NumPy from the storage: no arithmetic touches them."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.numel() == 0:
        return b""
    size = tensor.element_size()
    return np.ndarray(
        tuple(tensor.shape),
        dtype=f"V{size}",
        buffer=storage_bytes(tensor.untyped_storage()),
        offset=tensor.storage_offset() * size,
        strides=[step * size for step in tensor.stride()],
    ).tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Objects whose classes a reader cannot import


class Settings:
    """An instance with a dictionary."""

    def __init__(self) -> None:
        self.layers, self.names, self.scale = 2, ["a", "b"], 0.5
        self.weight = torch.arange(4, dtype=torch.float32)


class Slotted:
    """An instance with slots: its state is a pair."""

    __slots__ = ("left", "right")

    def __init__(self) -> None:
        self.left, self.right = 1, torch.tensor([2, 3])


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int = 3
    y: float = -1.5


class Pair(NamedTuple):
    """A named tuple: built by NEWOBJ with its items as arguments."""

    first: int
    second: str


class Colour(enum.Enum):
    """An enumeration: built by calling the class."""

    RED = "r"


class History(list):
    """A subclass of list with attributes: APPENDS and BUILD on an object."""


class Table(dict):
    """A subclass of dict with attributes: SETITEMS and BUILD on an object."""


class Reduced:
    """An instance with its own __reduce__: five parts, of which the list and dict items are used too."""

    def __init__(self, number: int) -> None:
        self.number, self.items, self.named = number, [], {}

    def append(self, item: int) -> None:
        self.items.append(item)

    def extend(self, items: list[int]) -> None:
        self.items.extend(items)

    def __setitem__(self, key: str, value: int) -> None:
        self.named[key] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (self.number,), {"note": self.note}, iter(self.items), iter(self.named.items())


class Tagged(torch.Tensor):
    """A subclass of Tensor."""


class Net(torch.nn.Module):
    """A module saved whole."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)
        self.norm = torch.nn.LayerNorm(2)
        self.register_buffer("steps", torch.tensor(5))
        self.register_buffer("scratch", torch.tensor([0.25]), persistent=False)
        self.tied = self.inner.weight
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(normal(rng, *weight.shape))


class LanguageModel(torch.nn.Module):
    """Two tied weights and a submodule list, for state dictionaries."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(11, 6)
        self.h = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        self.ln_f = torch.nn.LayerNorm(6)
        self.lm_head = torch.nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(normal(rng, *weight.shape))


# ---------------------------------------------------------------------------------------------------------------------
# Cases


def make_dtypes(dtypes: tuple[torch.dtype, ...], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    return {str(dtype).removeprefix("torch."): random_bits(rng, dtype, (3, 4)) for dtype in dtypes}


def make_tiny(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    return {"weight": normal(rng, 3, 4), "bias": normal(rng, 3, dtype=torch.bfloat16), "count": torch.tensor(258)}


def make_views(rng: np.random.Generator) -> dict[str, Any]:
    base = normal(rng, 24)
    cube = random_bits(rng, torch.int16, (2, 3, 4))
    matrix = base.view(4, 6)
    tied = normal(rng, 2, 3)
    large = normal(rng, 200, dtype=torch.float16)
    pairs = torch.view_as_complex(normal(rng, 3, 2)).clone()
    return {
        "base": base,
        "matrix": matrix,
        "transposed": matrix.T,
        "block": matrix[1:3, 2:5],
        "every_second": base[1::2],
        "column": matrix[:, 3],
        "expanded": base[5:8].expand(2, 3),
        "expanded_scalar": base[9].expand(2, 2),
        "overlapping": base.as_strided((5, 3), (1, 1), 2),
        "permuted": cube.permute(2, 0, 1),
        "channels_last": normal(rng, 2, 3, 2, 2).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(-1.25),
        "scalar_view": base[7],
        "empty_storage": torch.empty(0, 3),
        "empty_view": base[4:4],
        "empty_middle": torch.empty((2, 0, 5), dtype=torch.int64),
        "size_one": base[3:4].as_strided((1, 1), (17, 99)),
        "few_of_many": large[100:102],
        "tied": tied,
        "tied_again": tied,
        "tied_other_object": tied.view(2, 3),
        "conjugate": pairs.conj(),
        "negative": torch._neg_view(base[10:13]),
    }


def make_parameters(rng: np.random.Generator) -> dict[str, Any]:
    noted = torch.nn.Parameter(normal(rng, 3))
    noted.model_parallel = True
    noted.partition = [0, "rows"]
    attributed = normal(rng, 2)
    attributed.note = {"axis": 1}
    shared = torch.nn.Parameter(normal(rng, 2, 2))
    return {
        "parameter": torch.nn.Parameter(normal(rng, 2, 3)),
        "frozen": torch.nn.Parameter(normal(rng, 2), requires_grad=False),
        "bfloat16": torch.nn.Parameter(normal(rng, 2, 2, dtype=torch.bfloat16)),
        "leaf": normal(rng, 2).requires_grad_(),
        "with_state": noted,
        "tensor_with_attribute": attributed,
        "subclass": normal(rng, 2).as_subclass(Tagged),
        "buffer": torch.nn.Buffer(normal(rng, 2)),
        "shared": shared,
        "shared_again": shared,
        "shared_transposed": shared.data.T,
    }


def make_checkpoint(rng: np.random.Generator) -> dict[str, Any]:
    """Return what a training script saves: state dictionary with _metadata, optimizer, arguments, generator states."""
    model = LanguageModel(rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)
    for weight in model.parameters():
        weight.grad = normal(rng, *weight.shape)
    optimizer.step()
    scheduler.step()
    own = random.Random(SEED)
    old = np.random.__dict__["RandomState"](SEED)  # the old generator: its state is what checkpoints hold
    args = argparse.Namespace(
        hidden_size=6,
        lr=1.5e-4,
        fp16=True,
        load=None,
        tokenizer="bpe",
        betas=(0.9, 0.95),
        dtype=torch.float16,
        out=pathlib.PurePosixPath("runs/one"),
    )
    nested = collections.defaultdict(list)
    nested["lengths"] += [1, 2]
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "iteration": 80000,
        "args": args,
        "random_rng_state": own.getstate(),
        "np_rng_state": old.get_state(),
        "np_generator_state": np.random.PCG64(SEED).state,
        "torch_rng_state": torch.Generator().manual_seed(SEED).get_state(),
        "cuda_rng_state": random_bits(rng, torch.uint8, (16,)),
        "rng_tracker_states": {},
        "best": (float("-inf"), float("nan"), float("inf"), -0.0, 5e-324),
        "small integers": [0, -1, 255, 256, 65535, 65536, -(2**31), 2**31 - 1],
        "large integers": [2**31, 2**63, -(2**63), 2**64, 10**50, -(10**50), 2**2100],
        "flags": {"done": False, "seen": True, "reason": None},
        "bytes": [b"", b"abc", bytes(range(256)), bytes(300), bytearray(b"xyz")],
        "texts": ["", "中文", "\n'\"\\", "a" * 300, "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), [{}])],
        "sets": [set(), {5}, frozenset({2}), frozenset()],
        "complex": 1.5 - 2j,
        "counter": collections.Counter({"a": 2, "b": 1}),
        "defaultdict": nested,
        "deque": collections.deque([1, 2], maxlen=5),
        "saved_at": datetime.datetime(2020, 11, 13, 12, 30, 15, 678),
        "saved_at_utc": datetime.datetime(2020, 11, 13, tzinfo=datetime.UTC),
        "day": datetime.date(2020, 11, 13),
        "elapsed": datetime.timedelta(days=1, seconds=2, microseconds=3),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "device_cuda": torch.device("cuda", 1),
        "dtypes": [torch.float32, torch.bfloat16, torch.int64, torch.float8_e4m3fn],
        "layout": torch.strided,
        "range": range(2, 9, 3),
        "slice": slice(1, None, 2),
        "types": [int, dict, len, np.float32, torch.nn.Linear],
        "int keys": {0: "zero", -1: "minus one", (1, 2): "pair", None: "none", 2.5: "float", True: "true"},
    }


def make_deep(_: np.random.Generator) -> dict[str, Any]:
    """Return 300 names and objects met twice: two-byte memo indices, and lists longer than one batch of 1000."""
    shared = ["shared", {"x": 1}]
    cycle: list[Any] = [1]
    cycle.append(cycle)
    return {
        "many": {f"layer.{index}.weight": torch.full((1,), index, dtype=torch.int16) for index in range(20)},
        "names": [f"name {index}" for index in range(300)],
        "long": list(range(2500)),
        "wide": {index: -index for index in range(1100)},
        "first": shared,
        "second": shared,
        "cycle": cycle,
    }


def make_objects(_: np.random.Generator) -> dict[str, Any]:
    module = types.ModuleType("my_project.configuration")
    module.Hyper = type("Hyper", (), {"__module__": module.__name__})
    sys.modules["my_project"], sys.modules[module.__name__] = types.ModuleType("my_project"), module
    hyper = module.Hyper()
    hyper.width = 8
    history, table, reduced = History([1, 2]), Table(a=1), Reduced(4)
    history.best, table.note = 2, "n"
    reduced.extend([7, 8])
    reduced["k"], reduced.note = 9, "state"
    return {
        "before": torch.tensor([1.5, 2.5]),
        "settings": Settings(),
        "slotted": Slotted(),
        "dataclass": Point(),
        "named_tuple": Pair(1, "two"),
        "enum": Colour.RED,
        "list_subclass": history,
        "dict_subclass": table,
        "reduced": reduced,
        "other_module": hyper,
        "class": Settings,
        "function": make_tiny,
        "partial": functools.partial(int, base=2),
        "after": torch.tensor([3, 4]),
    }


def make_module(rng: np.random.Generator) -> Net:
    return Net(rng)


def make_numpy(rng: np.random.Generator) -> dict[str, Any]:
    plain = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    drawn = {kind: rng.integers(0, 2 if kind == "?" else 100, (2, 3)).astype(kind) for kind in plain}
    return {
        "arrays": drawn,
        "scalars": {kind: array[1, 2] for kind, array in drawn.items()},
        "big_endian": drawn["i4"].astype(">i4"),
        "big_endian_doubles": drawn["f8"].astype(">f8"),
        "fortran": np.asfortranarray(drawn["f4"]),
        "strided": rng.standard_normal((4, 6))[::2, 1::2],
        "zero_dimensional": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
        "bool_scalar": np.bool_(True),
        "nan": np.float64("nan"),
        "dtype": np.dtype("float16"),
        "tensor": torch.from_numpy(drawn["f4"].copy()),
    }


def make_numpy_exotic(_: np.random.Generator) -> dict[str, Any]:
    return {
        "unicode": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "structured": np.array([(1, 2.5)], dtype=[("n", "<i2"), ("x", "<f4")]),
        "objects": np.array([None, "x"], dtype=object),
        "dates": np.array(["2020-11-13"], dtype="datetime64[D]"),
        "text_scalar": np.str_("text"),
        "tensor": torch.tensor([1, 2]),
    }


def make_sparse_coo(rng: np.random.Generator) -> dict[str, Any]:
    dense = torch.tensor([[0.0, 1.5, 0.0], [2.5, 0.0, 0.0]])
    return {"dense": normal(rng, 2), "sparse": dense.to_sparse()}


def make_sparse_csr(rng: np.random.Generator) -> dict[str, Any]:
    dense = torch.tensor([[0.0, 1.5, 0.0], [2.5, 0.0, 0.0]])
    return {"dense": normal(rng, 2), "sparse": dense.to_sparse_csr()}


def make_meta(rng: np.random.Generator) -> dict[str, Any]:
    return {"dense": normal(rng, 2), "meta": torch.empty((2, 3), dtype=torch.float16, device="meta")}


def make_nested(rng: np.random.Generator) -> dict[str, Any]:
    return {"dense": normal(rng, 2), "nested": torch.nested.nested_tensor([normal(rng, 2), normal(rng, 3)])}


def make_quantized(rng: np.random.Generator) -> dict[str, Any]:
    values = normal(rng, 2, 3)
    scales, points = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0, 3])
    return {
        "dense": normal(rng, 2),
        "per_tensor_quint8": torch.quantize_per_tensor(values, 0.1, 10, torch.quint8),
        "per_tensor_qint8": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        "per_tensor_qint32": torch.quantize_per_tensor(values, 0.001, 0, torch.qint32),
        "per_channel_qint8": torch.quantize_per_channel(values, scales, points, 0, torch.qint8),
    }


def make_storages(rng: np.random.Generator) -> dict[str, Any]:
    """Return bare storages beside tensors: persistent identifiers outside any rebuild function."""
    values = normal(rng, 4)
    return {
        "tensor": values,
        "typed": torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=torch.float32, _internal=True),
        "untyped": random_bits(rng, torch.uint8, (5,)).untyped_storage(),
    }


def make_bare(rng: np.random.Generator) -> torch.Tensor:
    return normal(rng, 2, 3)


CASES: dict[str, Callable[[np.random.Generator], Any]] = {
    "dtypes_own": functools.partial(make_dtypes, OWN_STORAGE),
    "dtypes_untyped": functools.partial(make_dtypes, UNTYPED_STORAGE),
    "dtypes_rare": functools.partial(make_dtypes, RARE),
    "tiny": make_tiny,
    "bare": make_bare,
    "views": make_views,
    "parameters": make_parameters,
    "checkpoint": make_checkpoint,
    "deep": make_deep,
    "objects": make_objects,
    "module": make_module,
    "numpy": make_numpy,
    "numpy_exotic": make_numpy_exotic,
    "sparse_coo": make_sparse_coo,
    "sparse_csr": make_sparse_csr,
    "meta": make_meta,
    "nested": make_nested,
    "quantized": make_quantized,
    "storages": make_storages,
}
ALL = ("zip_p2", "zip_p3", "zip_p4", "zip_p5", "legacy_p2", "legacy_p4")
SOME = ("zip_p2", "zip_p4", "legacy_p2")
VARIANTS: dict[str, tuple[str, ...]] = {
    "dtypes_own": (*ALL, "zip_p2_big_endian", "legacy_p2_big_endian"),
    "dtypes_untyped": (*ALL, "zip_p2_big_endian"),
    "dtypes_rare": ("zip_p2", "legacy_p2"),
    "tiny": (
        *("zip_p2", "legacy_p2", "zip_p2_buffer", "zip_p2_open_file", "zip_p2_alignment_1", "zip_p2_alignment_256"),
        *("zip_p2_no_crc", "zip_p2_no_byteorder", "zip_p2_big_endian", "legacy_p2_big_endian", "zip_p2_cuda"),
        *("legacy_p2_cuda", "zip_p2_repacked", "zip_p2_deflated", "legacy_p3", "legacy_p5", "zip_p2_skip_data"),
    ),
    "bare": ("zip_p2", "legacy_p2"),
    "views": (*SOME, "zip_p2_repacked"),
    "parameters": SOME,
    "checkpoint": (*SOME, "zip_p5", "zip_p2_numpy1"),
    "deep": SOME,
    "objects": SOME,
    "module": SOME,
    "numpy": (*ALL, "zip_p2_numpy1", "legacy_p2_numpy1"),
    "numpy_exotic": ("zip_p2", "zip_p4"),
    "sparse_coo": ("zip_p2", "legacy_p2"),
    "sparse_csr": ("zip_p2",),
    "meta": ("zip_p2", "legacy_p2"),
    "nested": ("zip_p2",),
    "quantized": ("zip_p2", "legacy_p2"),
    "storages": ("zip_p2",),
}
SUFFIX = {"legacy": ".pth", "zip": ".pt"}

# ---------------------------------------------------------------------------------------------------------------------
# Writing


class Addresses:
    """Stands in for `str` where torch turns the address of a storage into its key: made-up addresses, always the same.

    Integers from `least` on are addresses. They begin with 94 and with 140 in turn, as heap and mapped memory do, so
    that their order as texts is neither the order of their first use nor their order as numbers.
    """

    def __init__(self, least: int = 1 << 16) -> None:
        self.known: dict[int, str] = {}
        self.least = least

    def __call__(self, value: Any) -> str:
        if not isinstance(value, int) or value < self.least:
            return str(value)
        index = len(self.known)
        start = 140_187_311_000_000 if index % 3 == 1 else 94_250_876_000_000
        return self.known.setdefault(value, str(start + 64 * (index * 7919 % 10007)))


def with_names(function: types.FunctionType, **names: Any) -> types.FunctionType:
    """Return torch's own function, its code untouched, with some of the global names it looks up replaced."""
    return types.FunctionType(
        function.__code__,
        {**vars(serialization), **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def own_source(kind: type) -> tuple[list[str], int, str]:
    """Stand in for the look-up of a class's source, which the legacy container holds: classes of this script only."""
    if kind.__module__ != "__main__":
        raise OSError("the source of a library is not recorded")
    lines, start = inspect.getsourcelines(kind)
    return lines, start, Path(__file__).name


class Repacked:
    """Stands in for torch's writer: the records that the first zip containers had, into an archive of Python's zipfile."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root

    def write_record(self, name: str, content: Any, _: int) -> None:
        if name not in (".format_version", ".storage_alignment", "byteorder"):
            data = storage_bytes(content).tobytes() if torch.is_storage(content) else content
            info = zipfile.ZipInfo(f"{self.root}/{name}")  # of 1980
            info.create_system = 3
            self.archive.writestr(info, data, self.archive.compression)


def swapped(value: Any) -> Any:
    """Return the dictionary of tensors as a big-endian machine holds it: the bytes of every element reversed."""
    result = copy.deepcopy(value)
    for tensor in result.values():
        data = storage_bytes(tensor.untyped_storage())
        unit = SWAPPED_UNIT.get(tensor.dtype, tensor.element_size())
        data[:] = data.reshape(-1, unit)[:, ::-1].reshape(-1)
    return result


class NumPy1Pickler(serialization.pickle._Pickler):
    """The pickler in Python, with the names of NumPy 1 for the modules of NumPy 2."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", None) or ""
        if module.startswith("numpy._core"):
            name = getattr(obj, "__qualname__", None) or obj.__name__
            self.write(f"c{module.replace('numpy._core', 'numpy.core')}\n{name}\n".encode())
            self.memoize(obj)
            return
        super().save_global(obj, name)

    dispatch = {**serialization.pickle._Pickler.dispatch, types.FunctionType: save_global}


NUMPY1 = types.SimpleNamespace(__name__="pickle", Pickler=NumPy1Pickler, dump=serialization.pickle.dump)


def write(value: Any, path: Path, container: str, protocol: int, change: str) -> None:
    """Write one file by torch's own code, with the one change that the variant is named for."""
    names: dict[str, Any] = {}
    module = NUMPY1 if change == "numpy1" else serialization.pickle
    if change == "cuda":
        names["location_tag"] = lambda _: "cuda:0"
    if change == "big_endian":
        names["sys"] = types.SimpleNamespace(byteorder="big")
        value = swapped(value) if container == "zip" else value
    if container == "legacy":
        save = with_names(serialization._legacy_save, str=Addresses(), get_source_lines_and_file=own_source, **names)
        with path.open("wb") as file:
            save(value, file, module, protocol)
        return
    if change in ("repacked", "deflated"):
        save = with_names(serialization._save, str=Addresses(0))
        method = zipfile.ZIP_STORED if change == "repacked" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            target = Repacked(archive, path.stem)
            save(value, target, module, protocol, True)
            target.write_record("version", b"3\n", 2)
    elif change in ("big_endian", "cuda", "numpy1"):
        save = with_names(serialization._save, **names)
        with serialization._open_zipfile_writer(str(path)) as writer:
            save(value, writer, module, protocol, False)
    elif change == "buffer":
        buffer = io.BytesIO()
        torch.save(value, buffer, pickle_protocol=protocol)
        path.write_bytes(buffer.getvalue())
    elif change == "open_file":
        with path.open("wb") as file:
            torch.save(value, file, pickle_protocol=protocol)
    elif change == "skip_data":
        with serialization.skip_data():
            torch.save(value, path, pickle_protocol=protocol)
    else:
        settings = {"save.compute_crc32": change != "no_crc"}
        if change.startswith("alignment_"):
            settings["save.storage_alignment"] = int(change.removeprefix("alignment_"))
        with serialization_config.patch(settings):
            torch.save(value, path, pickle_protocol=protocol, _disable_byteorder_record=change == "no_byteorder")


# ---------------------------------------------------------------------------------------------------------------------
# What a reader should find


class Recorder:
    """Turns an object into a JSON tree and collects its tensors' bits.

    `{"tensor": i}` is entry i of the case's list; `{"same": path}` is an object met before. Integers and floats are
    texts (`float.hex`), so that JSON cannot round them; everything else is tagged with its kind.
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.tensors: list[dict[str, Any]] = []
        self.answers: dict[str, torch.Tensor] = {}
        self.seen: dict[int, list[Any]] = {}
        self.kept: list[Any] = []
        self.storages: dict[int, int] = {}

    def _answer(self, data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, str]:
        name = f"{self.case}/{len(self.answers):03d}"
        if dtype not in IN_SAFETENSORS:
            unsigned = UNSIGNED[dtype.itemsize]
            shape = (*shape, 2) if dtype.itemsize == 16 else shape
            dtype = unsigned
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        self.answers[name] = values.clone().view(dtype).reshape(shape)
        return {"answer": name, "stored_as": str(dtype).removeprefix("torch.")}

    def _tensor(self, value: torch.Tensor, path: list[Any]) -> dict[str, Any]:
        if value.is_quantized:
            parts = {"integers": self(value.int_repr(), [*path, {"part": "integers"}]), "dtype": str(value.dtype)}
            if value.qscheme() == torch.per_tensor_affine:
                parts |= {"scale": value.q_scale().hex(), "zero_point": value.q_zero_point()}
            else:
                parts["scales"] = self(value.q_per_channel_scales(), [*path, {"part": "scales"}])
                parts["zero_points"] = self(value.q_per_channel_zero_points(), [*path, {"part": "zero_points"}])
                parts["axis"] = value.q_per_channel_axis()
            return {"opaque": "quantized tensor", **parts}
        if value.layout != torch.strided or value.is_nested or value.device.type == "meta":
            kind = "meta" if value.device.type == "meta" else "nested" if value.is_nested else str(value.layout)
            shape = [] if value.is_nested else list(value.shape)
            return {"opaque": f"{kind} tensor", "dtype": str(value.dtype), "shape": shape}
        data = raw(value)
        number = self.storages.setdefault(value.untyped_storage()._cdata, len(self.storages))
        self.kept.append(value.untyped_storage())
        entry = {
            "path": path,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            **self._answer(data, value.dtype, tuple(value.shape)),
            "storage": number,
            "storage_bytes": value.untyped_storage().nbytes(),
            "offset": value.storage_offset(),
            "stride": list(value.stride()),
            "requires_grad": value.requires_grad,
            "class": f"{type(value).__module__}.{type(value).__qualname__}",
        }
        if value.is_conj() or value.is_neg():
            entry["pending"] = [name for name, on in (("conj", value.is_conj()), ("neg", value.is_neg())) if on]
        if value.__dict__:
            entry["state"] = self(dict(value.__dict__), [*path, {"part": "state"}])
        self.tensors.append(entry)
        return {"tensor": len(self.tensors) - 1}

    def _array(self, value: np.ndarray | np.generic, path: list[Any]) -> dict[str, Any]:
        kind = "numpy_scalar" if isinstance(value, np.generic) else "numpy_array"
        array = np.asarray(value)
        if array.dtype.kind not in "?biufc":
            return {"opaque": kind, "dtype": str(array.dtype), "shape": list(array.shape)}
        little = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
        dtype = getattr(torch, str(little.dtype))
        answer = self._answer(little.tobytes(), dtype, little.shape)
        return {kind: {"path": path, "dtype": little.dtype.str, "shape": list(array.shape), **answer}}

    def _object(self, value: Any, path: list[Any]) -> dict[str, Any]:
        kind = type(value)
        state = dict(getattr(value, "__dict__", {}))
        for name in getattr(kind, "__slots__", ()):
            state[name] = getattr(value, name)
        items = {key: self(item, [*path, {"attribute": key}]) for key, item in state.items()}
        result: dict[str, Any] = {"object": f"{kind.__module__}.{kind.__qualname__}"}
        if isinstance(value, dict):
            result["items"] = self._pairs(value, path)
        elif isinstance(value, (list, tuple, collections.deque)):
            result["items"] = [self(item, [*path, index]) for index, item in enumerate(value)]
        return result | ({"state": items} if items else {})

    def _pairs(self, value: Mapping[Any, Any], path: list[Any]) -> list[Any]:
        return [[self(key, []), self(item, [*path, key])] for key, item in value.items()]

    def __call__(self, value: Any, path: list[Any]) -> Any:
        if value is None or isinstance(value, (bool, str)) and type(value) in (bool, str):
            return value
        if type(value) is int:
            return {"int": str(value) if value.bit_length() < 2000 else hex(value)}
        if type(value) is float:
            return {"float": value.hex()}
        if type(value) is complex:
            return {"complex": [value.real.hex(), value.imag.hex()]}
        if type(value) in (bytes, bytearray):
            return {type(value).__name__: value.hex()}
        if type(value) in (torch.Size, set, frozenset, range, slice):
            return {"value": repr(value)}
        if isinstance(value, (datetime.date, datetime.timedelta, pathlib.PurePath, np.dtype, enum.Enum)):
            return {"value": repr(value)}
        if isinstance(value, (torch.dtype, torch.device, torch.layout)):
            return {"value": repr(value)}
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return {"global": f"{value.__module__}.{value.__qualname__}"}
        if isinstance(value, functools.partial):
            return {"value": "functools.partial(int, base=2)"}
        if type(value) is tuple and not value:
            return {"tuple": []}
        if id(value) in self.seen:
            return {"same": self.seen[id(value)]}
        self.seen[id(value)] = path
        self.kept.append(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value, path)
        if isinstance(value, torch.storage.TypedStorage) or torch.is_storage(value):
            storage = getattr(value, "_untyped_storage", value)
            return {"storage": storage_bytes(storage).tobytes().hex()}
        if type(value) is dict:
            return {"dict": self._pairs(value, path)}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self(item, [*path, index]) for index, item in enumerate(value)]}
        return self._object(value, path)


def plain_path(path: list[Any]) -> list[Any]:
    """Return the path with keys that JSON has no name for as their repr."""
    return [key if isinstance(key, (str, dict)) or type(key) is int else {"key": repr(key)} for key in path]


def clean(node: Any) -> Any:
    """Make every path in the tree fit for JSON."""
    if isinstance(node, dict):
        return {key: plain_path(item) if key in ("path", "same") else clean(item) for key, item in node.items()}
    return [clean(item) for item in node] if isinstance(node, list) else node


# ---------------------------------------------------------------------------------------------------------------------
# What is in the files


def pickle_facts(data: bytes) -> tuple[set[str], set[str]]:
    """Return the symbols and opcodes of one pickle; the names of STACK_GLOBAL are the last two texts pushed."""
    symbols: set[str] = set()
    opcodes: set[str] = set()
    memo: dict[int, Any] = {}
    pushed: list[Any] = [None, None]
    for opcode, argument, _ in pickletools.genops(data):
        opcodes.add(opcode.name)
        if opcode.name == "GLOBAL":
            symbols.add(argument)
            pushed.append(None)
        elif opcode.name == "STACK_GLOBAL":
            symbols.add(f"{pushed[-2]} {pushed[-1]}")
            pushed.append(None)
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = pushed[-1]
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = pushed[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            pushed.append(memo[argument])
        elif opcode.stack_after:
            pushed.append(argument if isinstance(argument, str) else None)
    return symbols, opcodes


def zip_facts(path: Path) -> dict[str, Any]:
    """Return root, records, and what in them has not the form that the README states for all.

    A record is name, offset of its header, offset of its data, bytes, flags, method, and whether its CRC holds.
    """
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        infos, start = archive.infolist(), archive.start_dir
    records, expected, values, pickled = [], 0, {}, b""
    irregular: set[str] = set()
    for info in infos:
        header = struct.unpack_from("<4s5H3I2H", data, info.header_offset)
        name_size, extra_size = header[9:]
        place = info.header_offset + 30 + name_size
        kind, length = struct.unpack_from("<2sH", data, place) if extra_size else (b"", 0)
        begin = place + extra_size
        end = begin + info.compress_size
        described = data[end : end + 4] == b"PK\x07\x08"
        if described and struct.unpack_from("<3I", data, end + 4) != (info.CRC, info.file_size, info.file_size):
            raise RuntimeError(f"{path.name}: the descriptor of {info.filename} differs from the directory")
        form = {
            "local header": header[:1] + header[1:4] == (b"PK\x03\x04", 0, info.flag_bits, 0),
            "zero time, date, crc and sizes in the local header": header[4:9] == (0, 0, 0, 0, 0),
            "extra field FB": kind == b"FB" and length == extra_size - 4,
            "stored, flags 0x0808, or 0x0800 if empty": (info.compress_type, info.flag_bits, described)
            == (0, 0x0808 if info.file_size else 0x0800, info.file_size > 0),
            "follows the record before": info.header_offset == expected,
            "central directory without extra field": info.extra == b"" and info.comment == b"",
            "versions 0": (info.create_version, info.extract_version, info.create_system) == (0, 0, 0),
        }
        wrong = [name for name, holds in form.items() if not holds]
        if wrong and not path.stem.endswith(("_repacked", "_deflated")):
            raise RuntimeError(f"{path.name}: {info.filename}: not as described: {wrong}")
        irregular |= set(wrong)
        expected = end + (16 if described else 0)
        name, content = info.filename.partition("/")[2], data[begin:end]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, -15)
        if name == "data.pkl":
            pickled = content
        elif not name.startswith("data/"):
            values[name] = content.decode()
        holds = info.CRC == zlib.crc32(content)
        records.append([name, info.header_offset, begin, info.file_size, info.flag_bits, info.compress_type, holds])
    if expected != start:
        raise RuntimeError(f"{path.name}: something stands between the records and the directory")
    tail = data[start:]
    size = len(tail) - 56 - 20 - 22
    marks = tail[size : size + 4], tail[size + 56 : size + 60], tail[-22:-18]
    if marks != (b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"):
        irregular.add("zip64 end record, its locator, and an end record")
        if not path.stem.endswith(("_repacked", "_deflated")):
            raise RuntimeError(f"{path.name}: expected a zip64 end record, its locator, and an end record")
    symbols, opcodes = pickle_facts(pickled)
    return {
        "container": "zip",
        "root": infos[0].filename.partition("/")[0],
        "values": values,
        "records": records,
        "irregular": sorted(irregular),
        "symbols": sorted(symbols),
        "opcodes": sorted(opcodes),
    }


def legacy_facts(path: Path) -> dict[str, Any]:
    """Return the five pickles' symbols and opcodes, and the storages in the order of the file."""
    data = path.read_bytes()
    stream = io.BytesIO(data)
    bounds = [0]
    for _ in range(5):
        for opcode, _, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                break
        bounds.append(stream.tell())
    pickles = [data[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]
    symbols, opcodes = pickle_facts(pickles[3])
    around = set().union(*(pickle_facts(part)[1] for index, part in enumerate(pickles) if index != 3))
    return {
        "container": "legacy",
        "pickle_offsets": bounds[:5],
        "magic": hex(serialization.pickle.loads(pickles[0])),
        "protocol_version": serialization.pickle.loads(pickles[1]),
        "system": serialization.pickle.loads(pickles[2]),
        "keys": serialization.pickle.loads(pickles[4]),
        "storages_offset": bounds[5],
        "symbols": sorted(symbols),
        "opcodes": sorted(opcodes),
        "opcodes_of_the_other_pickles": sorted(around),
    }


def safe_reader_accepts(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception:
        return False
    return True


def compare(recorder: Recorder, path: Path, value: Any) -> None:
    """Read the file back with torch and compare the tree and all bits."""
    back = Recorder(recorder.case)
    again = clean(back(torch.load(path, weights_only=False, map_location="cpu"), []))
    if again != clean(value):
        raise RuntimeError(f"{path.name}: the tree differs after reading back")
    for name in ("path", "dtype", "shape", "storage", "offset", "stride", "requires_grad", "class"):
        if [entry[name] for entry in back.tensors] != [entry[name] for entry in recorder.tensors]:
            raise RuntimeError(f"{path.name}: {name} differs after reading back")
    for name, tensor in recorder.answers.items():
        if raw(tensor) != raw(back.answers[name]):
            raise RuntimeError(f"{path.name}: {name} differs after reading back")


# ---------------------------------------------------------------------------------------------------------------------
# Recording


def record_case(folder: Path, index: int, case: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    value = CASES[case](np.random.default_rng([SEED, index]))
    recorder = Recorder(case)
    tree = recorder(value, [])
    facts = {}
    for variant in VARIANTS[case]:
        container, protocol, change = [*variant.split("_", 2), ""][:3]
        path = folder / f"{case}_{variant}{SUFFIX[container]}"
        write(value, path, container, int(protocol[1:]), change)
        found = zip_facts(path) if container == "zip" else legacy_facts(path)
        trouble = ""
        try:
            compare(recorder, path, tree)
        except Exception as error:
            if path.stem not in NOT_READ_BACK:
                raise
            trouble = f"{type(error).__name__}: {error}"
        if trouble == "" and path.stem in NOT_READ_BACK:
            raise RuntimeError(f"{path.name}: reads back equal, against what NOT_READ_BACK says")
        facts[path.name] = {
            "case": case,
            "protocol": int(protocol[1:]),
            "change": change,
            "bytes": path.stat().st_size,
            "read_back": trouble or "equal",
            "weights_only": safe_reader_accepts(path),
            **found,
        }
    return facts, clean({"tree": tree, "tensors": recorder.tensors}), recorder.answers


NO_UNTYPED = "its reader of this container expects every storage class to have a dtype, and UntypedStorage has none"
NOT_READ_BACK = {
    "tiny_zip_p2_skip_data": "skip_data leaves the data of the storages out and zeros in their place",
    "dtypes_untyped_zip_p2_big_endian": "it does not swap the bytes of an UntypedStorage",
    "dtypes_untyped_legacy_p2": NO_UNTYPED,
    "dtypes_untyped_legacy_p4": NO_UNTYPED,
    "dtypes_rare_legacy_p2": NO_UNTYPED,
}


def record_folders(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    """Write a state dictionary as the Hugging Face hub holds it: in one file, and in several with an index."""
    model = LanguageModel(np.random.default_rng([SEED, 1000]))
    state = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    state["lm_head.weight"] = state["wte.weight"]
    recorder = Recorder("hub")
    tree = recorder(state, [])
    whole, sharded = folder / "hub_whole", folder / "hub_sharded"
    whole.mkdir(exist_ok=True)
    sharded.mkdir(exist_ok=True)
    torch.save(state, whole / "pytorch_model.bin")
    save_torch_state_dict(state, sharded, safe_serialization=False, max_shard_size=200)
    index = json.loads((sharded / "pytorch_model.bin.index.json").read_text())["weight_map"]
    files = sorted(set(index.values()))
    if len(files) < 3:
        raise RuntimeError(f"expected at least 3 files, got {files}")
    for name, file in index.items():
        if raw(torch.load(sharded / file)[name]) != raw(state[name]):
            raise RuntimeError(f"{name}: differs in {file}")
    compare(recorder, whole / "pytorch_model.bin", tree)
    facts = {
        path.relative_to(folder).as_posix(): {
            "case": "hub",
            "protocol": 2,
            "change": "",
            "bytes": path.stat().st_size,
            "read_back": "equal",
            "weights_only": safe_reader_accepts(path),
            **zip_facts(path),
        }
        for path in [whole / "pytorch_model.bin", *(sharded / file for file in files)]
    }
    return facts, clean({"tree": tree, "tensors": recorder.tensors}), recorder.answers


def wrapped(title: str, items: list[str], width: int = 118) -> list[str]:
    """Return a list item whose text is broken at spaces."""
    lines, line = [], f"* {title}:"
    for item in items:
        if len(line) + 1 + len(item) > width:
            lines.append(line)
            line = " "
        line += f" {item}"
    return [*lines, line]


def file_section(name: str, facts: dict[str, Any], common: set[str]) -> list[str]:
    """Return what the README says about one file."""
    head = f"protocol {facts['protocol']}, {facts['bytes']} bytes"
    if facts["change"]:
        head += f", {facts['change']}"
    safe = "accepts" if facts["weights_only"] else "refuses"
    lines = ["", f"### `{name}`", "", f"{facts['container']}, {head}; torch.load(weights_only=True) {safe} it."]
    if facts["read_back"] != "equal":
        lines[-1] += f" **torch.load does not give the saved values back**: {NOT_READ_BACK[Path(name).stem]}."
    lines += ["", *wrapped("symbols", [f"`{item}`;" for item in facts["symbols"]])]
    lines += wrapped("opcodes beyond the common ones", [item for item in facts["opcodes"] if item not in common])
    if facts["container"] == "zip":
        values = [f"`{key}` = `{value.strip()}`;" for key, value in facts["values"].items()]
        sizes = [f"`{item[0]}` {item[3]}," for item in facts["records"] if item[0][:5] != "data/"]
        storages = [str(item[3]) for item in facts["records"] if item[0][:5] == "data/"]
        lines += wrapped(f"root `{facts['root']}`, values", values)
        lines += wrapped("bytes of the records", [*sizes, f"storages {' '.join(storages[:12])}"])
        if len(storages) > 12:
            lines[-1] += f" ... ({len(storages)})"
        if facts["irregular"]:
            lines += wrapped("not as described above", [f"{item};" for item in facts["irregular"]])
        if [item[0] for item in facts["records"]][1:5] != USUAL:
            lines += wrapped("all records", [f"`{item[0]}`" for item in facts["records"]])
    else:
        places = [str(offset) for offset in facts["pickle_offsets"]]
        keys = facts["keys"]
        lines += wrapped("the five pickles begin at", places)
        lines += wrapped(f"storages begin at {facts['storages_offset']}, {len(keys)} keys in this order", keys[:6])
        if len(keys) > 6:
            lines[-1] += " ..."
    return lines


USUAL = [".format_version", ".storage_alignment", "byteorder", "data/0"]
NOTES = """# Files written by torch.save

What `validation/oracles/torch_files.py` recorded, and the facts a reader needs. This text is written by that script;
`facts.json` holds the same for programs; a record there is [name, offset of its header, offset of its data, bytes, flags,
method, whether its CRC holds]. `expected.json` says what is in every case: a tree, and a list of tensors with place,
dtype, shape, storage and the name of their bits in `answers.safetensors`. Files of one case hold the same values; they
are named CASE_CONTAINER_pPROTOCOL_CHANGE, `.pt` for zip and `.pth` for legacy.

`expected.json`: `{"tensor": i}` is entry i of the case's `tensors`; `{"same": path}` an object met before at that path;
`{"int": ...}` and `{"float": ...}` (`float.hex`) are texts; `{"object": class, "items": ..., "state": ...}` an instance;
`{"opaque": ...}` something whose content is not recorded. A path is a list of keys: a text or an integer for dictionary
keys and list places, `{"attribute": name}`, `{"part": name}`, or `{"key": repr}`. In `tensors`, `storage` numbers the
storages of the case: equal numbers share memory. `stored_as` is the dtype in `answers.safetensors`: where safetensors has
no such dtype it is the unsigned integer of the same width, and complex128 is two uint64 along a last axis. `pending`
names a conjugation or negation that torch stores as a flag; the recorded bits are those after it was carried out.

## The zip container

Checked for every zip file here except where its section says otherwise:

* Names are `ROOT/record`. ROOT is the file's name without its last extension (`archive` when torch wrote to a file
  object or a buffer); a reader should take it from the first record.
* Records in this order: `data.pkl`, `.format_version` (`1`), `.storage_alignment` (`64`), `byteorder` (`little` or
  `big`, no newline), `data/0`, `data/1`, ... one per storage, in the order of first use, `version` (`3`, newline), and
  `.data/serialization_id` (40 decimal digits). Older files lack the second, third, fourth and last; in
  the oldest the keys are addresses: see `*_repacked`. `_disable_byteorder_record` (`*_no_byteorder`) moves `byteorder`
  behind `version` and does not leave it out: the writer adds it when it closes the file.
* Every record is stored (method 0), neither compressed nor encrypted. Time stamps and dates are 0, which is not a valid
  DOS date. Version made by, version needed, and system are 0.
* **The local header holds no size and no CRC (all zero)**: flag bits are 0x0808 (bit 3: data descriptor; bit 11: UTF-8),
  and a descriptor of 16 bytes follows the data (`PK 07 08`, CRC, size, size). **An empty record has flags 0x0800 and no
  descriptor.** Sizes must come from the central directory.
* The local header has one extra field, identifier `FB` (0x4246), filled with `Z`, which pads the header so that the data
  begin at a multiple of the alignment (64 by default; of every record, not of the storages only). The central
  directory has no extra field. The length of the local name and extra field must be read from the local header.
* The end is always a zip64 end record (56 bytes), its locator (20) and an ordinary end record (22) without comment, even
  in files of 1 kB. No record here has a zip64 extra field: sizes are below 4 GiB.
* `compute_crc32 = False` (`*_no_crc`) writes another number in place of every CRC-32; torch does not check it, zip
  readers that do refuse such a file. `skip_data` (`*_skip_data`) leaves the data of the storages out: zeros, of the right
  length, with a wrong CRC.

## Tensors in the pickle

* `torch._utils _rebuild_tensor_v2 (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])`, offset and
  stride in elements. `storage` is a persistent identifier (BINPERSID) of the tuple `("storage", class, key, location,
  count)`; class is `torch FloatStorage` and so on, which gives the dtype; count is in elements of it.
* `torch._utils _rebuild_tensor_v3 (storage, offset, size, stride, requires_grad, backward_hooks, dtype[, metadata])` for
  the dtypes that have no storage class (uint16, uint32, uint64, complex32, float8, bits): class is `torch.storage
  UntypedStorage` and **count is in bytes**, offset and stride still in elements of `dtype` (`torch float8_e5m2`).
* `metadata` is a dictionary with `conj` and `neg`: the tensor is the conjugate, the negative of what is stored.
* `backward_hooks` is always an empty `collections OrderedDict`.
* `torch._utils _rebuild_parameter (tensor, requires_grad, hooks)`, `_rebuild_parameter_with_state (tensor,
  requires_grad, hooks, state)`; `torch._tensor _rebuild_from_type_v2 (rebuild function, type, arguments, state)` for
  subclasses and for tensors with attributes.
* A state dictionary is a `collections OrderedDict` with BUILD of `{"_metadata": OrderedDict}` (a reader must let BUILD
  happen on an OrderedDict); save_torch_state_dict writes a plain dict.
* Protocol 2 writes bytes as `_codecs encode (text, "latin1")` and has Python 2's names (`__builtin__ set`); protocol 3
  writes BINBYTES and `builtins`; 4 has STACK_GLOBAL, MEMOIZE and FRAME; 5 has BYTEARRAY8, and NumPy arrays become
  `numpy._core.numeric _frombuffer`. NumPy 1 wrote `numpy.core` where NumPy 2 writes `numpy._core`.
* Byte order: `byteorder` = `big` means that every storage holds elements with their bytes reversed (each half of a complex
  number for itself). torch.load swaps by the dtype of the storage class, and so **does not swap v3 tensors at all**.

## The legacy container

Five pickles one after the other: the magic number 0x1950a86a20f9469cfc6c, the protocol version 1001, a dictionary
(`protocol_version`, `little_endian`, `type_sizes`), the object, and the sorted list of storage keys (as texts, so
`"140..."` comes before `"94..."`); then for every key in that order eight bytes, the count of elements (little endian), and
the data. The data are always little endian, `little_endian` notwithstanding: torch.load never looks at it. For an
UntypedStorage the count is in bytes. The persistent identifier of a storage has a sixth item, `view_metadata`: None
today, `(key of the view, offset, count)` in old files. Classes of modules are persistent identifiers too: `("module",
class, source file, source text)`, both texts None for classes whose source was not found. Nothing is aligned.
"""


def write_readme(folder: Path, facts: dict[str, Any]) -> None:
    common = set.intersection(*(set(item["opcodes"]) for item in facts.values()))
    symbols: dict[str, set[str]] = collections.defaultdict(set)
    opcodes: dict[str, set[str]] = collections.defaultdict(set)
    for item in facts.values():
        for symbol in item["symbols"]:
            symbols[symbol].add(item["case"])
        for opcode in item["opcodes"]:
            opcodes[opcode].add(item["case"])
    total = len({item["case"] for item in facts.values()})
    lines = [NOTES.rstrip(), "", "## Symbols", "", "Every symbol, with the cases it occurs in.", ""]
    lines += ["| symbol | cases |", "|---|---|"]
    lines += [
        f"| `{name}` | {'all' if len(cases) == total else ', '.join(sorted(cases))} |"
        for name, cases in sorted(symbols.items())
    ]
    lines += ["", "## Opcodes", "", f"In every object pickle: {', '.join(sorted(common))}. The others:", ""]
    lines += ["| opcode | cases |", "|---|---|"]
    lines += [
        f"| {name} | {'all' if len(cases) == total else ', '.join(sorted(cases))} |"
        for name, cases in sorted(opcodes.items())
        if name not in common
    ]
    around = sorted(set().union(*(item.get("opcodes_of_the_other_pickles", []) for item in facts.values())))
    lines += ["", f"In the other four pickles of the legacy container: {', '.join(around)}.", "", "## Files"]
    for name, item in sorted(facts.items()):
        lines += file_section(name, item, common)
    (folder / README).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives torch_files")
    folder: Path = parser.parse_args().out / "torch_files"
    folder.mkdir(parents=True, exist_ok=True)
    deterministic()
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # not there for every dtype, and nothing is left unfilled
    )
    warnings.filterwarnings("ignore")
    torch.manual_seed(SEED)
    facts: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    answers: dict[str, torch.Tensor] = {}
    parts = {case: functools.partial(record_case, folder, index, case) for index, case in enumerate(CASES)}
    for case, record in (parts | {"hub": functools.partial(record_folders, folder)}).items():
        found, expected[case], bits = record()
        facts |= found
        answers |= bits
    save_file(dict(sorted(answers.items())), folder / ANSWERS)
    back = load_file(folder / ANSWERS)
    if any(raw(back[name]) != raw(value) or back[name].dtype != value.dtype for name, value in answers.items()):
        raise RuntimeError(f"{ANSWERS}: differs after reading back")
    for name, content in ((EXPECTED, expected), (FACTS, facts)):
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (folder / name).write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")
    write_readme(folder, facts)
    record = {
        "oracle": "torch.save of PyTorch; its own _save and _legacy_save with a few look-ups replaced (see the script)",
        "seed": SEED,
        "what": {
            "CASE_CONTAINER_pPROTOCOL_CHANGE.pt, .pth": "files of torch.save; the cases are functions of the script",
            "hub_whole, hub_sharded": "a state dictionary as the Hugging Face hub holds it, float16, tied head",
            ANSWERS: "the bits of every tensor and array, C order",
            EXPECTED: "tree and tensors of every case; README.md explains the form",
            FACTS: "symbols, opcodes, container layout of every file; whether torch's safe reader accepts it",
            "module_*.pth, objects_*": "the source text and the class names in these files are of the script itself",
        },
        "not recorded": {
            "tar container (before 0.4)": "torch still reads it but no longer writes it",
            "int1 ... int7, uint1 ... uint7": "torch.save does not recognize these dtypes",
            "quint4x2, quint2x4": "quantized types of fewer than eight bits",
        },
        "check": "every file read back by torch.load and compared bit by bit, with the exceptions named in README.md",
    }
    write_provenance(folder, COMMAND, record, PACKAGES)


if __name__ == "__main__":
    main()
