"""Naming schemes: what a framework calls each parameter, and how it lays it out, as a table that is read in both directions.

    table = {"h{i}/attn/w": Rule("blocks.{i}.query_key_value.weight", SQUEEZED), ...}

A *template* on the left is a name in the file: `{i}` is the layer, `{i:02}` the layer in two digits, `{i:_}` and `{i:_1}` as Keras counts (`Layer`),
`[x]` is text that may be left out, and `[x|y]` one of several texts. All of them are read; what stands first is written. A *rule* on the right is
the project's own (canonical) name, one of three transforms, and the part of the canonical tensor that this one is. That is the whole vocabulary,
and every word of it can be undone exactly:

* as it is, transposed, or without a first axis of length 1;
* part k of n along the last axis: the tensors of the parts are joined, side by side;
* `repeats`: the same tensor under a second name; it must agree bit for bit, and is not written.

Nothing is dropped silently: every name of a file is explained by the table, or by `ignored`, which says why it is left out, or refused.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from weights_io.arrays import as_bytes, read_only
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import WeightsError, clipped
from weights_io.schemes.canonical import ARCHITECTURES, OPTIONAL, TIED, misfits

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "COPY",
    "KEY",
    "QUERY",
    "RULES",
    "SQUEEZED",
    "TRANSPOSED",
    "VALUE",
    "Explanation",
    "Layer",
    "Part",
    "Piece",
    "Row",
    "Rule",
    "Scheme",
    "SchemeError",
    "Transform",
    "canonical_view",
    "describe",
    "explain",
    "from_canonical",
    "info_of",
    "same_bits",
    "to_canonical",
    "view",
    "with_tied",
]

RULES = {
    "scheme.unknown": "The names of a checkpoint are those of one naming scheme, and closer to it than to any other.",
    "scheme.names": "Every name is in the scheme's table, none is missing, and no parameter has two tensors.",
    "scheme.layout": "A tensor has the axes that its place in the scheme needs, and the parts of one parameter agree in shape and dtype.",
    "scheme.shapes": "The shapes of all parameters are those of one model of the architecture.",
    "scheme.repeated": "A parameter that is stored twice is the same both times, bit for bit.",
}
LONGEST = 256  # characters of a name that a table can explain
LISTED = 100  # names in one message
BLOCK = 1 << 22  # bytes compared at a time
COUNT = re.compile(r"_([0-9]{1,3}|1000)(?=/)")  # behind the name of a layer of Keras, which may count from 1
NUMBER = re.compile(r"(?<![0-9])[0-9]{1,3}(?![0-9])")  # a layer; no model has a thousand


class SchemeError(WeightsError):
    """The names or shapes of a checkpoint do not fit a naming scheme.

    Attributes
    ----------
    problems : every problem, one line each; the message shows the first hundred
    """

    def __init__(self, what: str, problems: Sequence[str] = (), **details: Any) -> None:
        super().__init__(what, **details)
        self.problems = list(problems)
        shown = [f"\n    {clipped(line)}" for line in self.problems[:LISTED]]
        more = [f"\n    and {len(self.problems) - LISTED} more"] if len(self.problems) > LISTED else []
        self.args = ("".join([str(self.args[0]), *shown, *more]),)


class Layer(int):
    """The number of a layer, from 0, which in a template may be written as Keras does: `{i:_}` is "", "_1", "_2", ..., `{i:_1}` is "_1", "_2", ..."""

    def __format__(self, form: str) -> str:
        if form in ("_", "_1"):
            return f"_{self + len(form) - 1}" if self or form == "_1" else ""
        return super().__format__(form)


# --- the vocabulary ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """How a tensor of a file becomes ours, and back; views, nothing is copied."""

    name: str
    axes: int | None  # that the file's tensor must have; None: any
    apply: Callable[[Any], Any] = field(repr=False)
    undo: Callable[[Any], Any] = field(repr=False)


COPY = Transform("as it is", None, lambda array: array, lambda array: array)
TRANSPOSED = Transform("transposed", 2, lambda array: array.T, lambda array: array.T)
SQUEEZED = Transform("first axis removed", 3, lambda array: array[0], lambda array: array[None])


class Part(NamedTuple):
    """The k-th (from 0) of n equal parts of a canonical tensor, along its last axis."""

    k: int
    n: int
    name: str


QUERY, KEY, VALUE = Part(0, 3, "query"), Part(1, 3, "key"), Part(2, 3, "value")


class Rule(NamedTuple):
    """What one tensor of a file is."""

    name: str  # canonical, with {i}
    how: Transform = COPY
    part: Part | None = None
    repeats: bool = False  # a second name of the same tensor


class Piece(NamedTuple):
    """One tensor of a file and the rule that explains it."""

    name: str
    rule: Rule


@dataclass(frozen=True)
class Scheme:
    """A naming scheme; see the module.

    Attributes
    ----------
    name : as in `weights_io.schemes.SCHEMES`
    architecture : as in `weights_io.schemes.canonical.ARCHITECTURES`
    title : whose names these are
    reference : where they are defined
    table : template of the name in the file -> Rule
    ignored : template -> why such a tensor is no parameter; `{name}` stands for any text
    dialect : the convention of `refimpl` that the framework follows, see `refimpl.gpt2.dialects`
    heads : width -> attention heads of the models that were released without a configuration
    first_position : the row of the position table that the first token has
    """

    name: str
    architecture: str
    title: str
    reference: str
    table: Mapping[str, Rule] = field(repr=False)
    ignored: Mapping[str, str] = field(repr=False, default_factory=dict)
    dialect: str = "openai"
    heads: Mapping[int, int] = field(repr=False, default_factory=dict)
    first_position: int = 0

    @functools.cached_property
    def _read(self) -> dict[str, Rule]:
        """Every reading of every template, with {i} still in it."""
        return {text: rule for template, rule in self.table.items() for text in _readings(template)}

    @functools.cached_property
    def _written(self) -> dict[str, list[tuple[str, Rule]]]:
        """Canonical template -> what is written for it: name template and rule, in the order of the parts."""
        written: dict[str, list[tuple[str, Rule]]] = {}
        for template, rule in self.table.items():
            if not rule.repeats:
                written.setdefault(rule.name, []).append((next(_readings(template)), rule))
        return {
            name: sorted(pairs, key=lambda pair: pair[1].part.k if pair[1].part else 0)
            for name, pairs in written.items()
        }

    @functools.cached_property
    def _left_out(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(template), reason) for template, reason in self.ignored.items()]

    def reason(self, name: str) -> str | None:
        """Why a tensor of that name is left out; None if it is not. The state of a parameter needs a parameter of the table."""
        for pattern, reason in self._left_out:
            found = pattern.fullmatch(name)
            if found and all(_find(of, self._read) for of in found.groups() if of is not None):
                return reason
        return None

    def file_names(self, canonical: str) -> list[tuple[str, Rule]]:
        """The tensors that are written for one canonical name: their names and rules, in the order of the parts."""
        template, layer = _find(canonical, self._written) or (canonical, None)
        return [(name.format(i=layer), rule) for name, rule in self._written.get(template, [])]


def _readings(template: str) -> Iterator[str]:
    """Every name that a template means, what is written first: `[x]` with and without x, `[x|y]` each of them."""
    parts = re.split(r"\[([^\]]*)\]", template)
    choices = [part.split("|") + [""] * ("|" not in part) if k % 2 else [part] for k, part in enumerate(parts)]
    return map("".join, itertools.product(*choices))


def _pattern(template: str) -> re.Pattern[str]:
    """What a template means; the name that one begins with is a group."""
    fills = {re.escape("{name}"): ".+", re.escape("{i}"): "[0-9]+"}
    readings = [re.escape(reading) for reading in _readings(template)]
    readings = [reading.replace(r"\{name\}", "(.+)", reading.startswith(r"\{name\}")) for reading in readings]
    for mark, meaning in fills.items():
        readings = [reading.replace(mark, meaning) for reading in readings]
    return re.compile("|".join(f"(?:{reading})" for reading in readings), re.DOTALL)


def _find(name: str, templates: Mapping[str, Any]) -> tuple[str, Layer | None] | None:
    """The template that `name` is an instance of, and its layer; a layer is written in the template's one way only."""
    if name in templates and "{" not in name:
        return name, None
    if len(name) > LONGEST:
        return None
    for number in NUMBER.finditer(name):
        for mark in ("{i}", "{i:02}"):
            template, layer = f"{name[: number.start()]}{mark}{name[number.end() :]}", Layer(number[0])
            if template in templates and mark.format(i=layer) == number[0]:
                return template, layer
    return _counted(name, templates)


def _counted(name: str, templates: Mapping[str, Any]) -> tuple[str, Layer] | None:
    """The same where Keras counts, which writes the number, or none, several times."""
    if "/" not in name:
        return None
    found = COUNT.findall(name)
    bare, count = COUNT.sub("", name), int(found[0]) if found else 0
    for mark, layer in (("{i:_}", count), ("{i:_1}", count - 1)):
        for template in templates if layer >= 0 else ():
            if mark in template and template.replace(mark, "") == bare and template.format(i=Layer(layer)) == name:
                return template, Layer(layer)
    return None


# --- explaining names ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """What a scheme says about every name of a checkpoint.

    Attributes
    ----------
    pieces : canonical name -> the tensors it is made of, in the order of its parts; complete ones only
    repeats : canonical name -> further tensors that must equal it
    ignored : name -> why it is left out
    unexplained : names that the scheme does not have, and parts of a tensor whose other parts are missing
    missing : (name, canonical name) of what a complete checkpoint has besides
    clashes : canonical name -> names that claim the same place
    """

    scheme: Scheme
    pieces: dict[str, list[Piece]]
    repeats: dict[str, list[Piece]]
    ignored: dict[str, str]
    unexplained: list[str]
    missing: list[tuple[str, str]]
    clashes: dict[str, list[str]]

    @property
    def explained(self) -> int:
        """How many names the scheme has a place for."""
        return sum(map(len, self.pieces.values())) + sum(map(len, self.repeats.values()))

    @property
    def problems(self) -> list[str]:
        """One line for each thing that does not fit."""
        lines = [f"two tensors claim one parameter: {name}: {', '.join(two)}" for name, two in self.clashes.items()]
        lines += [f"not in the scheme: {name}" for name in self.unexplained]
        return lines + [f"missing: {name} ({ours})" if name else f"missing: {ours}" for name, ours in self.missing]

    def check(self, where: object = None) -> None:
        """Raise SchemeError that lists every problem, if there is one."""
        if self.problems:
            raise SchemeError(
                f"the names do not fit the naming scheme {self.scheme.name} ({len(self.problems)} problems)",
                self.problems,
                rule="scheme.names",
                where=where,
            )


def _wanted(scheme: Scheme, found: Iterable[str]) -> tuple[list[str], list[str]]:
    """Canonical names that a checkpoint with `found` has besides, and its gaps: runs of layers that are missing whole."""
    places = [_find(name, scheme._written) for name in found]
    layers = sorted({place[1] for place in places if place and place[1] is not None}) or [Layer(0)]
    groups = {place[0].split(".")[0] for place in places if place}
    templates = [t for t in scheme._written if t.split(".")[0] not in OPTIONAL or t.split(".")[0] in groups]
    wanted = [t for t in templates if "{i}" not in t]
    wanted += [t.format(i=layer) for layer in layers for t in templates if "{i}" in t]
    before = [-1, *layers[:-1]]
    gaps = [(last + 1, layer - 1) for last, layer in zip(before, layers, strict=True) if layer > last + 1]
    return wanted, [f"blocks.{a} to blocks.{b}" if b > a else f"blocks.{a}" for a, b in gaps]


def _sorted_out(names: Iterable[str], scheme: Scheme) -> tuple[dict[str, list[Piece]], dict[str, str], list[str]]:
    """Canonical name -> pieces; ignored name -> reason; unexplained names."""
    pieces: dict[str, list[Piece]] = {}
    ignored, unexplained = {}, []
    for name in names:
        found, reason = _find(name, scheme._read), None
        if found is None:
            reason = scheme.reason(name)
        if found is not None:
            rule = scheme._read[found[0]]
            pieces.setdefault(rule.name.format(i=found[1]), []).append(Piece(name, rule))
        elif reason is not None:
            ignored[name] = reason
        else:
            unexplained.append(name)
    return pieces, ignored, unexplained


def explain(names: Iterable[str], scheme: Scheme) -> Explanation:
    """What `scheme` says about each of `names`; raises nothing, see `Explanation.check`."""
    found, ignored, unexplained = _sorted_out(names, scheme)
    pieces: dict[str, list[Piece]] = {}
    repeats: dict[str, list[Piece]] = {}
    clashes: dict[str, list[str]] = {}
    missing: list[tuple[str, str]] = []
    for name, all_of_it in found.items():
        once = [piece for piece in all_of_it if not piece.rule.repeats] or all_of_it[:1]
        places = [piece.rule.part for piece in once]
        again = [piece for piece in all_of_it if piece not in once]
        if len(set(places)) < len(places):
            clashes[name] = [piece.name for piece in once]
        elif places[0] and len(places) < places[0].n:
            unexplained += [piece.name for piece in once]
        else:
            pieces[name] = sorted(once, key=lambda piece: piece.rule.part.k if piece.rule.part else 0)
            repeats |= {name: again} if again else {}
    wanted, gaps = _wanted(scheme, found)
    for name in wanted:
        have = {piece.name for piece in found.get(name, [])}
        parts = {piece.rule.part for piece in found.get(name, [])}
        missing += [
            (file, name) for file, rule in scheme.file_names(name) if rule.part not in parts and file not in have
        ]
    missing += [("", f"{gap}, all of it") for gap in gaps]
    return Explanation(scheme, pieces, repeats, ignored, unexplained, missing, clashes)


# --- reading in both directions -----------------------------------------------------------------------------------------------


def info_of(tensors: Mapping[str, Any], name: str) -> TensorInfo:
    """What is known of a tensor of a Checkpoint or of a mapping of arrays, without reading it."""
    if isinstance(tensors, Checkpoint):
        return tensors.info(name)
    array = np.asarray(tensors[name])
    address = int(array.__array_interface__["data"][0])
    return TensorInfo(name, array.dtype, array.shape, Path("memory"), address, array.nbytes)


def view(
    form: str,
    made: Mapping[str, tuple[TensorInfo, Callable[[], Any]]],
    *parents: Mapping[str, Any],
    into: Mapping[str, Callable[[Any, Callable[[Any, Any], object]], None]] | None = None,
) -> Checkpoint:
    """A Checkpoint of tensors that are made of `parents`' when they are asked for; it has the first one's metadata and closes them all.

    `into` has, for some or all names, what writes the tensor into an array: see `Checkpoint.read_into`.
    """
    opened = [parent for parent in parents if isinstance(parent, Checkpoint)]

    def write(info: TensorInfo, out: Any, put: Callable[[Any, Any], object]) -> None:
        if into is not None and info.name in into:
            into[info.name](out, put)
        else:
            put(out, made[info.name][1]())

    return Checkpoint(
        form,
        opened[0].metadata if opened else {},
        {name: info for name, (info, _) in made.items()},
        lambda info: read_only(made[info.name][1]().view()),
        [source for parent in opened for source in parent._sources],
        write,
    )


def _form(tensors: Mapping[str, Any]) -> str:
    return tensors.format if isinstance(tensors, Checkpoint) else "memory"


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays have the same dtype, shape and bits; a block at a time."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = np.frombuffer(as_bytes(a), np.uint8), np.frombuffer(as_bytes(b), np.uint8)
    return all(np.array_equal(left[k : k + BLOCK], right[k : k + BLOCK]) for k in range(0, left.size, BLOCK))


def _shape(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `function` gives an array of a shape; on a view of one byte."""
    result: tuple[int, ...] = function(np.broadcast_to(np.int8(0), shape)).shape
    return result


def _ours(info: TensorInfo, rule: Rule) -> TensorInfo:
    """`info` of a file's tensor after the rule's transform."""
    first = rule.how is SQUEEZED and info.shape[:1] != (1,)
    if rule.how.axes not in (None, len(info.shape)) or first:
        raise SchemeError(
            "a tensor has the wrong axes for its place",
            rule="scheme.layout",
            where=info.file,
            field=repr(info.name),
            expected="(1, in, out)" if rule.how is SQUEEZED else f"{rule.how.axes} axes",
            got=info.shape,
        )
    layout = info.layout if rule.how is not TRANSPOSED else "strided"
    return info._replace(name=rule.name, shape=_shape(rule.how.apply, info.shape), layout=layout)


def _joined_info(name: str, infos: list[TensorInfo]) -> TensorInfo:
    if len(infos) == 1:
        return infos[0]._replace(name=name)
    first = infos[0]
    if not first.shape or any((info.shape, info.dtype) != (first.shape, first.dtype) for info in infos):
        raise SchemeError(
            "the parts of one parameter differ",
            rule="scheme.layout",
            where=first.file,
            field=repr(name),
            expected=f"{len(infos)} times {first.shape} {first.dtype}",
            got=", ".join(f"{info.shape} {info.dtype}" for info in infos),
        )
    shape = (*first.shape[:-1], first.shape[-1] * len(infos))
    return first._replace(name=name, shape=shape, nbytes=first.nbytes * len(infos), layout="merged")


def _check_same(name: str, value: Any, other_name: str, other: Any) -> None:
    if not same_bits(value, other):
        raise SchemeError(
            "a parameter that is stored twice differs",
            rule="scheme.repeated",
            field=repr(name),
            expected=f"{other_name!r} equal to it, bit for bit",
            got=f"{value.shape} {value.dtype} and {other.shape} {other.dtype} that differ",
        )


def canonical_view(tensors: Mapping[str, Any], explanation: Explanation) -> Checkpoint:
    """What is complete of a checkpoint, under canonical names, each tensor made when it is asked for. See `to_canonical`."""

    def join(pieces: list[Piece], again: list[Piece]) -> Any:
        arrays = [piece.rule.how.apply(np.asarray(tensors[piece.name])) for piece in pieces]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        for piece in again:
            _check_same(pieces[0].name, array, piece.name, piece.rule.how.apply(np.asarray(tensors[piece.name])))
        return array

    made, into = {}, {}
    for name, pieces in explanation.pieces.items():
        info = _joined_info(name, [_ours(info_of(tensors, piece.name), piece.rule) for piece in pieces])
        made[name] = info, functools.partial(join, pieces, explanation.repeats.get(name, []))
        if isinstance(tensors, Checkpoint) and name not in explanation.repeats:
            into[name] = functools.partial(_pieces_into, tensors, pieces)
    return view(f"{_form(tensors)}, canonical names", made, tensors, into=into)


def _pieces_into(tensors: Checkpoint, pieces: list[Piece], out: Any, put: Callable[[Any, Any], object]) -> None:
    """Write a canonical tensor, piece by piece, to where the file's tensors of it lie in `out`: see `Checkpoint.read_into`."""
    width = out.shape[-1] // len(pieces) if out.ndim else 0
    for k, piece in enumerate(pieces):
        part = out if len(pieces) == 1 else out[..., k * width : (k + 1) * width]
        tensors.read_into(piece.name, piece.rule.how.undo(part), put)


def to_canonical(tensors: Mapping[str, Any], scheme: Scheme) -> Checkpoint:
    """The checkpoint under canonical names: a lazy Checkpoint whose tensors are made one at a time, when they are asked for.

    Parameters
    ----------
    tensors : a Checkpoint, or a mapping of name to array, under the scheme's names
    scheme : Scheme, for instance `weights_io.schemes.detect(tensors)`

    Raises
    ------
    SchemeError
        that lists every unexplained and every missing name, and for tensors whose axes do not fit; on reading, for a tensor that is stored twice
        and differs.
    """
    explanation = explain(tensors, scheme)
    explanation.check(tensors if isinstance(tensors, Checkpoint) else None)
    ours = canonical_view(tensors, explanation)
    _check_shapes(ours, scheme)
    return ours


def _check_shapes(tensors: Mapping[str, Any], scheme: Scheme) -> None:
    """The canonical shapes agree with each other; SchemeError that lists every one that does not."""
    lines = misfits({name: info_of(tensors, name).shape for name in tensors}, scheme.architecture)
    if lines:
        raise SchemeError(
            f"the shapes are not those of one {scheme.architecture} ({len(lines)} problems)",
            lines,
            rule="scheme.shapes",
            where=tensors if isinstance(tensors, Checkpoint) else None,
        )


def _cut(info: TensorInfo, name: str, rule: Rule) -> TensorInfo:
    """What is known of the tensor that a file has for (a part of) a canonical one."""
    if rule.part is None:
        shape, offset = info.shape, info.offset
    else:
        if not info.shape or info.shape[-1] % rule.part.n:
            raise SchemeError(
                "a parameter cannot be cut into equal parts",
                rule="scheme.layout",
                where=info.file,
                field=repr(info.name),
                expected=f"a last axis that is a multiple of {rule.part.n}",
                got=info.shape,
            )
        width = info.shape[-1] // rule.part.n
        shape, offset = (*info.shape[:-1], width), info.offset + rule.part.k * width * info.dtype.itemsize
    if rule.how.axes is not None and _dimensions(rule.how, shape) != rule.how.axes:
        raise SchemeError(
            "a tensor has the wrong axes for its place", rule="scheme.layout", field=repr(info.name), got=info.shape
        )
    layout = info.layout if rule.part is None and rule.how is not TRANSPOSED else "strided"
    shape = _shape(rule.how.undo, shape)
    return info._replace(
        name=name, shape=shape, offset=offset, nbytes=math.prod(shape) * info.dtype.itemsize, layout=layout
    )


def _dimensions(how: Transform, shape: tuple[int, ...]) -> int:
    return len(_shape(how.undo, shape))


def _check_canonical(names: Iterable[str], scheme: Scheme, where: object) -> list[str]:
    """The names that the scheme has a place for; SchemeError that lists the rest, and what is missing."""
    names = list(names)
    placed = [name for name in names if _find(name, scheme._written)]
    tied = {name for name in names if name in TIED and name not in placed}
    wanted, gaps = _wanted(scheme, placed)
    have = set(names)
    problems = [f"no place in the scheme: {name}" for name in names if name not in {*placed, *tied}]
    problems += [f"missing: {name}" for name in wanted if name not in have] + [
        f"missing: {gap}, all of it" for gap in gaps
    ]
    if problems:
        raise SchemeError(
            f"the parameters do not fit the naming scheme {scheme.name} ({len(problems)} problems)",
            problems,
            rule="scheme.names",
            where=where,
            expected=f"the canonical names of a {scheme.architecture}",
        )
    return placed


def from_canonical(tensors: Mapping[str, Any], scheme: Scheme) -> Checkpoint:
    """The inverse of `to_canonical`: canonical names -> the scheme's, lazily; optional prefixes are written.

    An output head that the scheme has no name for is left out where it equals the token embedding, which is compared when that is read.

    Raises
    ------
    SchemeError
        that lists every parameter the scheme has no place for, and every one that is missing.
    """
    placed = _check_canonical(tensors, scheme, tensors if isinstance(tensors, Checkpoint) else None)
    _check_shapes(tensors, scheme)
    heads = {table: head for head, table in TIED.items() if head in tensors and head not in placed}

    def part(name: str, rule: Rule) -> Any:
        array = np.asarray(tensors[name])
        if name in heads:
            _check_same(name, array, heads[name], np.asarray(tensors[heads[name]]))
        if rule.part:
            width = array.shape[-1] // rule.part.n
            array = array[..., rule.part.k * width : (rule.part.k + 1) * width]
        return rule.how.undo(array)

    made = {}
    for name in placed:
        for theirs, rule in scheme.file_names(name):
            made[theirs] = _cut(info_of(tensors, name), theirs, rule), functools.partial(part, name, rule)
    return view(f"{_form(tensors)}, names of {scheme.name}", made, tensors)


def with_tied(tensors: Checkpoint, names: Container[str]) -> Checkpoint:
    """A canonical checkpoint with the output head that is left out of its file, and is the token embedding, if the head is among `names`."""
    missing = {
        head: table for head, table in TIED.items() if head in names and head not in tensors and table in tensors
    }
    made = {name: (tensors.info(name), functools.partial(tensors.__getitem__, name)) for name in tensors}
    for head, table in missing.items():
        made[head] = tensors.info(table)._replace(name=head), functools.partial(tensors.__getitem__, table)
    return view(tensors.format, made, tensors) if missing else tensors


# --- listing ------------------------------------------------------------------------------------------------------------------


class Row(TypedDict):
    """One line of a scheme, as text."""

    file_name: str
    shape: str  # in the file, in the letters of docs/conventions.md
    canonical: str  # empty: left out
    how: str  # the transform, or why it is left out


def _letters(rule: Rule, letters: tuple[str, ...]) -> str:
    if rule.part:
        letters = (*letters[:-1], letters[-1].removeprefix(str(rule.part.n)))
    if rule.how is TRANSPOSED:
        letters = letters[::-1]
    return f"({', '.join(['1', *letters] if rule.how is SQUEEZED else letters)})"


def describe(scheme: Scheme) -> list[Row]:
    """The scheme as rows: name in the file, shape there, canonical name, how the one becomes the other; what is ignored comes last."""
    shapes = ARCHITECTURES[scheme.architecture]
    rows = []
    for template, rule in scheme.table.items():
        words = [] if rule.how is COPY and (rule.part or rule.repeats) else [rule.how.name]
        words += [f"{rule.part.name}: part {rule.part.k + 1} of {rule.part.n}"] if rule.part else []
        words += ["the same tensor again; not written"] if rule.repeats else []
        shape = _letters(rule, shapes[rule.name])
        rows.append(Row(file_name=template, shape=shape, canonical=rule.name, how=", ".join(words)))
    left_out = [(template, f"left out: {reason}") for template, reason in scheme.ignored.items()]
    return rows + [Row(file_name=template, shape="", canonical="", how=reason) for template, reason in left_out]
