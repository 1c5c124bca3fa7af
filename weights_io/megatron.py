"""Megatron's model-parallel shards, as CPM-LM publishes them: one file a rank, merged to one checkpoint and split to any number of ranks.

    CPM/latest_checkpointed_iteration.txt                   80000
    CPM/80000/mp_rank_00_model_states.pt                    {"module": {name: tensor}, ...the state of the training}
    CPM/80000/mp_rank_01_model_states.pt

A rank holds whole attention heads and a slice of the feed-forward layer; `LAYOUT` says how, for every tensor. A Linear is (out, in), so that a
layer whose output is cut has its rows cut, and one whose input is cut its columns. query_key_value is [Q; K; V] on every rank: joining the rows of
the ranks as they are gives Q0 K0 V0 Q1 K1 V1, which is not the layer's matrix; each third is joined by itself. What every rank holds is the same on
every rank, bit for bit.

Reference: M. Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3; the code of TsinghuaAI/CPM-1-Generate: mpu/layers.py, mpu/transformer.py,
change_mp.py.
"""

from __future__ import annotations

import functools
import math
import re
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.files import replace_file
from weights_io import limits as _limits
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, WeightsError
from weights_io.schemes.megatron_cpm import SCHEME
from weights_io.schemes.scheme import SchemeError, info_of, same_bits, view
from weights_io.source import Source
from weights_io.writing import new_folder, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from weights_io.limits import Limits
    from weights_io.writing import Pending

__all__ = ["LAYOUT", "RULES", "Layout", "find_shards", "merge", "open_rank", "open_shards", "save_ranks", "split"]

RULES = {
    "megatron.ranks": "The files of a folder are those of ranks 0, 1, ..., each once, and all there are.",
    "megatron.names": "Every tensor of a model is one whose layout over the ranks is known, and every rank has the same ones.",
    "megatron.shapes": "A tensor has the same shape and dtype on every rank, and the ranks make whole matrices.",
    "megatron.replicated": "A tensor that every rank holds is the same on every rank, bit for bit.",
    "megatron.run": "The files of all ranks were saved by the same run at the same step, as far as they say it.",
    "megatron.distinct": "No two ranks hold the same rows of the token embedding.",
    "megatron.tracker": "latest_checkpointed_iteration.txt names a folder beside it: a number, or release.",
}
FILE = re.compile(r"mp_rank_([0-9]{2,4})_model_states\.pt")
ITERATION = re.compile(r"release|[0-9]{1,18}")
RUN = (
    "iteration",
    "global_steps",
    "global_samples",
    "skipped_steps",
    "dp_world_size",
)  # what a run keeps beside the parameters
EMBEDDING = "word_embeddings.weight"
TRACKER = "latest_checkpointed_iteration.txt"
LARGE = 1 << 20  # bytes of a rank's tensor
ROOTS = ("module/", "model/", "")  # where files keep the parameters: DeepSpeed's, Megatron's own, and bare


class Layout(Enum):
    """How a tensor lies over the ranks."""

    WHOLE = "the same on every rank"
    ROWS = "rows cut"
    COLUMNS = "columns cut"
    THIRDS = "the rows of each third cut"  # [Q; K; V]


LAYOUT: dict[str, Layout] = {
    "word_embeddings.weight": Layout.ROWS,
    "position_embeddings.weight": Layout.WHOLE,
    "transformer.layers.{i}.input_layernorm.weight": Layout.WHOLE,
    "transformer.layers.{i}.input_layernorm.bias": Layout.WHOLE,
    "transformer.layers.{i}.attention.query_key_value.weight": Layout.THIRDS,
    "transformer.layers.{i}.attention.query_key_value.bias": Layout.THIRDS,
    "transformer.layers.{i}.attention.dense.weight": Layout.COLUMNS,
    "transformer.layers.{i}.attention.dense.bias": Layout.WHOLE,
    "transformer.layers.{i}.post_attention_layernorm.weight": Layout.WHOLE,
    "transformer.layers.{i}.post_attention_layernorm.bias": Layout.WHOLE,
    "transformer.layers.{i}.mlp.dense_h_to_4h.weight": Layout.ROWS,
    "transformer.layers.{i}.mlp.dense_h_to_4h.bias": Layout.ROWS,
    "transformer.layers.{i}.mlp.dense_4h_to_h.weight": Layout.COLUMNS,
    "transformer.layers.{i}.mlp.dense_4h_to_h.bias": Layout.WHOLE,
    "transformer.final_layernorm.weight": Layout.WHOLE,
    "transformer.final_layernorm.bias": Layout.WHOLE,
}
LAYER = re.compile(r"(transformer\.layers\.)(?:0|[1-9][0-9]{0,2})(\..*)", re.DOTALL)
QUERY_KEY_VALUE = "transformer.layers.{i}.attention.query_key_value.weight"


def _template(name: str) -> str:
    return LAYER.sub(r"\1{i}\2", name)


def _layouts(names: Iterable[str], where: object) -> dict[str, Layout]:
    """Name -> layout; SchemeError that lists the names whose layout is not known."""
    names = list(names)
    strangers = [name for name in names if _template(name) not in LAYOUT]
    if strangers:
        raise SchemeError(
            "it is not known how some tensors lie over the ranks",
            [f"not in the table: {name}" for name in strangers],
            rule="megatron.names",
            where=where,
            expected="the parameters of a GPT-2 in Megatron, under module",
        )
    return {name: LAYOUT[_template(name)] for name in names}


# --- finding ------------------------------------------------------------------------------------------------------------------


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise WeightsError("the folder cannot be read", where=folder, got=f"{type(error).__name__}: {error}") from None


def _rank_files(folder: Path) -> list[Path]:
    """The shards in a folder, in the order of their ranks."""
    found = [(int(match[1]), entry) for entry in _entries(folder) if (match := FILE.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found)]


def _tracked(tracker: Path) -> Path:
    """The folder that the tracker file names."""
    source = Source(tracker)
    raw = source.read(0, min(source.size, 64)).strip()
    source.close()
    text = raw.decode("ascii", "replace")
    if not ITERATION.fullmatch(text):
        raise FormatError(
            "the tracker names no folder",
            rule="megatron.tracker",
            where=tracker,
            expected="a number, or release",
            got=repr(raw),
        )
    return tracker.with_name(text if text == "release" else str(int(text)))


def find_shards(folder: Path) -> list[Path] | None:
    """The shards in a folder, or in the one below it that holds shards (the tracker file says which), by rank; None if there are none.

    Raises FormatError (megatron.tracker) for a tracker that names no folder of shards, WeightsError where several folders hold shards and no tracker
    says which is meant.
    """
    here = _rank_files(folder)
    if here:
        return here
    tracker = folder / TRACKER
    if tracker.is_file():
        named = _tracked(tracker)
        found = _rank_files(named) if named.is_dir() else []
        if not found:
            raise FormatError(
                "the tracker names a folder without shards",
                rule="megatron.tracker",
                where=tracker,
                expected=f"{named.name}/mp_rank_00_model_states.pt beside it",
                got="no such file",
            )
        return found
    below = [
        (entry.name, files)
        for entry in _entries(folder)
        if ITERATION.fullmatch(entry.name) and entry.is_dir() and (files := _rank_files(entry))
    ]
    if len(below) > 1:
        raise WeightsError(
            "several folders hold shards",
            where=folder,
            expected=f"one, or {TRACKER} that names it",
            got=", ".join(sorted(name for name, _ in below)),
            remedy="open the one that is meant",
        )
    return below[0][1] if below else None


def _check_ranks(files: Sequence[Path]) -> None:
    matches = [FILE.fullmatch(file.name) for file in files]
    ranks = [int(match[1]) if match else None for match in matches]
    if ranks != list(range(len(files))) or not files:
        raise FormatError(
            "the files are not those of ranks 0, 1, ...",
            rule="megatron.ranks",
            where=files[0].parent if files else None,
            expected="mp_rank_00_model_states.pt, mp_rank_01_model_states.pt, ... without a gap",
            got=", ".join(file.name for file in files) or "no files",
            remedy="fetch the missing shards",
        )


def _check_run(files: Sequence[Path], ranks: Sequence[Checkpoint]) -> None:
    """Whether the files say that they are of one run and step; a file that says nothing of a number agrees with any."""
    for field in RUN:
        said = [checkpoint.metadata.get(field) for checkpoint in ranks]
        known = [(file, value) for file, value in zip(files, said, strict=True) if type(value) is int]
        other = next(((file, value) for file, value in known if value != known[0][1]), None)
        if other is not None:
            raise FormatError(
                "the files are of different runs or steps",
                rule="megatron.run",
                where=other[0],
                field=field,
                expected=f"{known[0][1]}, as in {known[0][0].name}",
                got=other[1],
                remedy="put the shards of one run and one step into the folder",
            )


# --- merging ------------------------------------------------------------------------------------------------------------------


def open_shards(
    files: Path | Sequence[Path], mode: str = "strict", limits: Limits = _limits.DEFAULT
) -> Checkpoint:  # rank files -> one checkpoint
    """One checkpoint of all ranks, under Megatron's names, each tensor merged when it is asked for.

    Parameters
    ----------
    files : a folder (see `find_shards`), or the files of ranks 0, 1, ... in this order
    mode, limits : as in `weights_io.open`

    Raises
    ------
    FormatError
        for ranks that are missing or do not fit together; on reading, for a tensor that should be the same on every rank and is not.
    WeightsError
        if there are no shards, and for everything that opening one file raises.
    """
    from weights_io.folders import open_file

    if isinstance(files, Path):
        found = find_shards(files)
        if found is None:
            raise WeightsError("no shards in the folder", where=files, expected="mp_rank_00_model_states.pt")
        files = found
    _check_ranks(files)
    ranks = [open_file(file, mode, limits) for file in files]
    for file, checkpoint in zip(files, ranks, strict=True):
        world = checkpoint.metadata.get("mp_world_size")
        if type(world) is int and world != len(ranks):
            raise FormatError(
                "the files are not all there are",
                rule="megatron.ranks",
                where=file,
                field="mp_world_size",
                expected=f"{world} files",
                got=f"{len(ranks)} files",
                remedy="fetch the missing shards, or remove those of another model",
            )
    _check_run(files, ranks)
    return merge(ranks, where=files[0].parent)


def open_rank(
    folder: Path, rank: int, ranks: int, mode: str = "strict", limits: Limits = _limits.DEFAULT
) -> Checkpoint | None:
    """What one rank holds, under Megatron's names, from its own file alone; None where the shards are those of another number of ranks.

    The file says how many ranks there are (mp_world_size); the folder, where it does not. On a machine of its own a rank needs no other file.

    Raises
    ------
    FormatError
        for a rank whose file is missing; for tensors that are no rank's.
    WeightsError
        if there are no shards, and for everything that opening one file raises.
    """
    from weights_io.folders import open_file

    files = {int(file.name[8:-16]): file for file in find_shards(folder) or []}
    if not files:
        raise WeightsError("no shards in the folder", where=folder, expected="mp_rank_00_model_states.pt")
    own = open_file(files.get(rank, next(iter(files.values()))), mode, limits)
    world = own.metadata.get("mp_world_size")
    if (world if type(world) is int else len(files)) != ranks:
        own.close()
        return None
    if rank not in files:
        own.close()
        name = f"mp_rank_{rank:02d}_model_states.pt"
        raise FormatError(
            "this rank's shard is missing",
            rule="megatron.ranks",
            where=next(iter(files.values())).parent,
            expected=name,
            got=", ".join(file.name for file in files.values()),
            remedy=f"put {name} there, on the machine of rank {rank}",
        )
    root = next((root for root in ROOTS if f"{root}word_embeddings.weight" in own), ROOTS[0])
    names = [name.removeprefix(root) for name in own if name.startswith(root)]
    _check_same_names([own], root, names, files[rank])
    made = {
        name: (own.info(root + name)._replace(name=name), functools.partial(own.__getitem__, root + name))
        for name in names
    }
    _layouts(made, files[rank])
    checkpoint = view(f"megatron (rank {rank} of {ranks})", made, own)
    checkpoint.metadata |= _left_out([own], root) | {"ranks": ranks}
    return checkpoint


def merge(ranks: Sequence[Mapping[str, Any]], where: object = None) -> Checkpoint:
    """One checkpoint of the ranks' tensors, each merged when it is asked for; errors as `open_shards`.

    What a file keeps beside the parameters is a rank's own (random number generators, optimizer) and is listed in `.metadata["left_out"]`.
    """
    root = next((root for root in ROOTS if f"{root}{EMBEDDING}" in ranks[0]), ROOTS[0])
    names = [name.removeprefix(root) for name in ranks[0] if name.startswith(root)]
    layouts = _layouts(names, where)
    _check_same_names(ranks, root, names, where)
    made, into = {}, {}
    for name, layout in layouts.items():
        infos = [info_of(rank, root + name) for rank in ranks]
        made[name] = _merged_info(name, layout, infos), functools.partial(_merged, name, layout, root, ranks)
        into[name] = functools.partial(_merged_into, name, layout, root, ranks)
    _check_whole({name: info for name, (info, _) in made.items()}, len(ranks), where)
    checkpoint = view(f"megatron ({len(ranks)} ranks)", made, *ranks, into=into)
    checkpoint.metadata |= _left_out(ranks, root)
    return checkpoint


def _left_out(ranks: Sequence[Mapping[str, Any]], root: str) -> dict[str, Any]:
    """What is known of a merged checkpoint besides its tensors."""
    names = sorted({name for rank in ranks for name in rank if not name.startswith(root)})
    return {"ranks": len(ranks)} | ({"left_out": names} if names else {})


def _check_same_names(ranks: Sequence[Mapping[str, Any]], root: str, names: list[str], where: object) -> None:
    for number, rank in enumerate(ranks):
        other = {name.removeprefix(root) for name in rank if name.startswith(root)}
        problems = [f"rank {number} lacks {name}" for name in names if name not in other]
        problems += [f"only rank {number} has {name}" for name in sorted(other.difference(names))]
        if problems or not names:
            raise SchemeError(
                "the ranks hold different tensors" if names else "there are no parameters under module",
                problems,
                rule="megatron.names",
                where=where,
            )


def _merged_info(name: str, layout: Layout, infos: list[TensorInfo]) -> TensorInfo:
    first = infos[0]
    if any((info.shape, info.dtype) != (first.shape, first.dtype) for info in infos):
        raise FormatError(
            "the ranks' parts differ in shape or dtype",
            rule="megatron.shapes",
            where=first.file,
            field=repr(name),
            expected=f"{first.shape} {first.dtype} on every rank",
            got=", ".join(f"{info.shape} {info.dtype}" for info in infos),
        )
    axes = 2 if name.endswith("weight") and "norm" not in name else 1
    if len(first.shape) != axes or (layout is Layout.THIRDS and first.shape[0] % 3):
        raise FormatError(
            "a tensor cannot be merged",
            rule="megatron.shapes",
            where=first.file,
            field=repr(name),
            expected="[Q; K; V], a multiple of 3 rows"
            if layout is Layout.THIRDS
            else f"{axes} {'axes' if axes > 1 else 'axis'}",
            got=first.shape,
        )
    if layout is Layout.WHOLE:
        return first._replace(name=name)
    axis = 1 if layout is Layout.COLUMNS else 0
    shape = tuple(n * len(infos) if k == axis else n for k, n in enumerate(first.shape))
    layout_name = "merged" if len(infos) > 1 else first.layout
    return first._replace(name=name, shape=shape, nbytes=first.nbytes * len(infos), layout=layout_name)


def _check_whole(infos: Mapping[str, TensorInfo], ranks: int, where: object) -> None:
    """Whether the last ranks are missing shows in the shapes: query_key_value is (3d, d) when it is whole."""
    for name, info in infos.items():
        if _template(name) == QUERY_KEY_VALUE and info.shape[0] != 3 * info.shape[1]:
            raise FormatError(
                "the ranks do not make a whole matrix",
                rule="megatron.shapes",
                where=where,
                field=repr(name),
                expected=f"{(3 * info.shape[1], info.shape[1])}",
                got=f"{info.shape} from {ranks} ranks",
                remedy="fetch the shards that are missing",
            )


def _read_all(name: str, ranks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Every rank's tensor; large ones of ranks that have no file in common are read at the same time, for checksums take theirs."""
    sources = [id(source) for rank in ranks if isinstance(rank, Checkpoint) for source in rank._sources]
    if len(set(sources)) < max(len(sources), len(ranks)) or info_of(ranks[0], name).nbytes < LARGE:
        return [np.asarray(rank[name]) for rank in ranks]
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: np.asarray(rank[name]), ranks))


def _merged(name: str, layout: Layout, root: str, ranks: Sequence[Mapping[str, Any]]) -> Any:
    if len(ranks) == 1:
        return np.asarray(ranks[0][root + name])
    parts = _consistent(name, layout, _read_all(root + name, ranks))
    if layout is Layout.WHOLE:
        return parts[0]
    shape, axis = list(parts[0].shape), 1 if layout is Layout.COLUMNS else 0
    shape[axis] *= len(parts)
    whole = np.empty(shape, parts[0].dtype)
    _put_parts(layout, parts, whole, np.copyto)
    return whole


def _merged_into(
    name: str,
    layout: Layout,
    root: str,
    ranks: Sequence[Mapping[str, Any]],
    out: Any,
    put: Callable[[Any, Any], object],
) -> None:
    parts = [
        np.asarray(rank[root + name]) for rank in ranks
    ]  # in turn: who reads into places reads several tensors at a time
    _put_parts(layout, _consistent(name, layout, parts), out, put)


def _consistent(name: str, layout: Layout, parts: list[Any]) -> list[Any]:
    """The parts; FormatError where the layout says that they are the same and they are not, or the other way round."""
    for number, part in enumerate(parts if layout is Layout.WHOLE else []):
        if not same_bits(parts[0], part):
            raise FormatError(
                "a tensor that every rank holds differs between them",
                rule="megatron.replicated",
                field=repr(name),
                expected="the same bits on every rank",
                got=f"ranks 0 and {number} differ",
                remedy="put the shards of one run and one step into the folder",
            )
    if name == EMBEDDING:
        _check_distinct(parts)
    return parts


def _put_parts(layout: Layout, parts: list[Any], out: Any, put: Callable[[Any, Any], object]) -> None:
    """Write every rank's part to its place in the whole tensor."""
    if layout is Layout.WHOLE:
        put(out, parts[0])
        return
    if layout is Layout.COLUMNS:
        out, parts = out.T, [part.T for part in parts]
    thirds = 3 if layout is Layout.THIRDS else 1
    rows = len(parts[0]) // thirds
    for k in range(thirds):
        for rank, part in enumerate(parts):
            begin = (k * len(parts) + rank) * rows
            put(out[begin : begin + rows], part[k * rows : (k + 1) * rows])


def _check_distinct(parts: Sequence[Any]) -> None:
    """Whether a shard lies in the folder twice, under two names; rows that are all zero show nothing."""
    for number, part in enumerate(parts):
        same = next((first for first in range(number) if same_bits(parts[first], part)), None)
        if same is not None and part.any():
            raise FormatError(
                "two ranks hold the same rows of the token embedding",
                rule="megatron.distinct",
                field=repr(EMBEDDING),
                expected="each rank's own rows",
                got=f"ranks {same} and {number} are the same: one file twice, under two names",
                remedy="fetch each rank's own shard",
            )


# --- splitting ----------------------------------------------------------------------------------------------------------------


def split(tensors: Mapping[str, Any], ranks: int, *, heads: int | None = None) -> list[Checkpoint]:
    """The inverse of `merge`: what each of `ranks` ranks holds, under Megatron's names, cut when it is asked for.

    Parameters
    ----------
    tensors : a Checkpoint or a mapping, merged
    ranks : how many; it must divide the heads, the feed-forward width and the rows of the vocabulary
    heads : attention heads, which do not show in the tensors: a rank holds whole ones. None: those of the released model of that width; where
        there is none nothing is checked, and Megatron refuses the shards when it loads them if `ranks` does not divide the heads

    Raises
    ------
    WeightsError
        that lists everything that `ranks` does not divide.
    """
    where = tensors if isinstance(tensors, Checkpoint) else None
    layouts = _layouts(tensors, where)
    infos = {name: info_of(tensors, name) for name in layouts}
    infos = {name: _merged_info(name, layouts[name], [info]) for name, info in infos.items()}
    _check_whole(infos, 1, where)
    _check_division(infos, layouts, ranks, heads, where)
    return [_rank(tensors, infos, layouts, rank, ranks) for rank in range(ranks)]


def _rank(
    tensors: Mapping[str, Any], infos: Mapping[str, TensorInfo], layouts: Mapping[str, Layout], rank: int, ranks: int
) -> Checkpoint:
    made = {
        name: (_cut_info(infos[name], layout, rank, ranks), functools.partial(_cut, tensors, name, layout, rank, ranks))
        for name, layout in layouts.items()
    }
    return view(f"megatron (rank {rank} of {ranks})", made, tensors)


def _known_heads(infos: Mapping[str, TensorInfo], heads: int | None, where: object) -> int | None:
    """The number of heads, where it was given or the width is that of a released model."""
    width = next((info.shape[1] for name, info in infos.items() if _template(name) == QUERY_KEY_VALUE), 0)
    if heads is not None and (type(heads) is not int or heads < 1 or width % heads):
        raise WeightsError(
            "the width does not divide into the heads",
            where=where,
            expected=f"heads= a whole number that divides {width}",
            got=repr(heads),
        )
    return heads or SCHEME.heads.get(width)


def _check_division(
    infos: Mapping[str, TensorInfo], layouts: Mapping[str, Layout], ranks: int, heads: int | None, where: object
) -> None:
    if type(ranks) is not int or not 1 <= ranks <= 9999:
        raise WeightsError(
            "the number of ranks must be a whole number from 1", where="split(ranks=...)", got=repr(ranks)
        )
    known, problems = _known_heads(infos, heads, where), []
    if known is not None and known % ranks:
        problems.append(f"{known} heads")
    for name, layout in layouts.items():
        length = infos[name].shape[1 if layout is Layout.COLUMNS else 0]
        length //= 3 if layout is Layout.THIRDS else 1
        if layout is not Layout.WHOLE and length % ranks:
            problems.append(f"{name}: {length} {'columns' if layout is Layout.COLUMNS else 'rows'}")
    if problems:
        raise SchemeError(
            f"the model does not divide into {ranks} ranks",
            problems,
            where=where,
            expected=f"heads, feed-forward width and vocabulary rows that are multiples of {ranks}",
        )


def _bounds(length: int, rank: int, ranks: int) -> slice:
    return slice(rank * length // ranks, (rank + 1) * length // ranks)


def _cut_info(info: TensorInfo, layout: Layout, rank: int, ranks: int) -> TensorInfo:
    if layout is Layout.WHOLE or ranks == 1:
        return info
    axis = 1 if layout is Layout.COLUMNS else 0
    shape = tuple(n // ranks if k == axis else n for k, n in enumerate(info.shape))
    step = math.prod(shape) if axis == 0 else shape[1]
    step //= 3 if layout is Layout.THIRDS else 1
    offset = info.offset + rank * step * info.dtype.itemsize
    return info._replace(shape=shape, nbytes=info.nbytes // ranks, offset=offset, layout="strided")


def _cut(tensors: Mapping[str, Any], name: str, layout: Layout, rank: int, ranks: int) -> Any:
    array = np.asarray(tensors[name])
    if layout is Layout.WHOLE or ranks == 1:
        return array
    if layout is Layout.COLUMNS:
        return array[:, _bounds(array.shape[1], rank, ranks)]
    if layout is Layout.ROWS:
        return array[_bounds(array.shape[0], rank, ranks)]
    return np.concatenate([third[_bounds(third.shape[0], rank, ranks)] for third in np.split(array, 3)])


# --- writing ------------------------------------------------------------------------------------------------------------------


def save_ranks(
    path: Path,
    items: Sequence[Pending] | Mapping[str, Any],
    ranks: int,
    *,
    heads: int | None = None,
    iteration: int = 1,
) -> None:
    """Write a model as `ranks` shards to a new folder, laid out as CPM's loader and change_mp.py read it.

    Parameters
    ----------
    path : the folder; it must not exist
    items : the merged model under Megatron's names: a Checkpoint, a mapping, or what is to be written of one
    ranks, heads : as in `split`
    iteration : of the training, by which the folder below `path` is named; Megatron wants at least 1

    Raises
    ------
    WeightsError
        as `split`, and where something of that name exists.
    """
    from weights_io import pytorch

    if not isinstance(items, (list, tuple)):
        items = pending(items)  # type: ignore[arg-type]
    if type(iteration) is not int or iteration < 1:
        raise WeightsError("the iteration must be a whole number from 1", where="save_ranks", got=repr(iteration))
    parts = split(_checkpoint(items), ranks, heads=heads)
    with new_folder(path) as folder:
        below = folder / str(iteration)
        below.mkdir()
        for rank, part in enumerate(parts):
            nested = [item._replace(name=f"module/{item.name}") for item in pending(part)]
            pytorch.save_items(below / f"mp_rank_{rank:02d}_model_states.pt", nested, {}, nested=True)
        replace_file(folder / TRACKER, lambda file: file.write(f"{iteration}\n".encode()))


def _checkpoint(items: Sequence[Pending]) -> Checkpoint:
    """What is to be written, as something to read from."""
    readers = {item.name: item.get for item in items}
    infos = {item.name: TensorInfo(item.name, item.dtype, item.shape, Path("memory"), 0, item.nbytes) for item in items}
    return Checkpoint("memory", {}, infos, lambda info: readers[info.name]())
