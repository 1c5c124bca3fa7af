"""Making a failing call smaller, move by move, until no move leaves one that fails: after Hypothesis, which stops before that.

The moves: drop one index of a size (a row, a head, a key, in every argument that has it); drop a mask; let a mask hide one place less; set one
number to 0, to 1, drop its sign, or keep the first half of its significant bits (cut towards 0, so that every dtype that had the number has the new
one). Every move makes a call simpler, so that they end; the result is *1-minimal*: any one move gives a call that is not one of the component's,
or that has no proved answer, or on which the function is right.

`SHAPES` says which sizes the arguments of a component share, and `_VALID` what else its calls keep to, as `validation.strategies` draws them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation import beams, components, extraction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from validation.case import Case

__all__ = ["SHAPES", "moves", "smallest"]

_ROWS, _NUMBERS, _COLUMN, _PAIR = {"x": "r n"}, {"x": "n"}, {"x": "n 1"}, {"a": "n 1", "b": "n 1"}
_WHOLE = {"a": "n", "b": "n"}
_OF_WHOLE = ("multiply_integer", "divide_integer", "multiply_patterns", "divide_patterns", "multiply_words")
_QKV = {"q": "b h n d", "k": "b h m d", "v": "b h m d"}
_PAIRED = {"q": "b h n 2d", "k": "b h m 2d", "v": "b h m 2d", "relative": "n m 2d"}
_PROJECTED = {"x": "b n d", "projection": "r d"}
_COPIED = {"tag_scores": "r 3", "states": "r", "source": "n", "emitted": "r t"}
# component -> argument -> its axes: a size has a letter; "2d" is twice d, "n-1" one less than n; a mask may have fewer axes, and 1 for any size
SHAPES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp", "taylor_softmax", "sparse_softmax", "unit_length"), _ROWS),
    "sparse_softmax_cross_entropy": {"logits": "r n", "targets": "r"},
    **dict.fromkeys(("gelu", "exp_taylor"), _NUMBERS),
    "layer_norm": {"x": "r d", "scale": "d", "bias": "d"},
    "mean_pooling": {"hidden": "b n d", "mask": "b n"},
    "hierarchical_positions": {"table": "n c", "positions": "p"},
    "attention": {**_QKV, "mask": "b h n m"},
    "residual_attention": {**_QKV, "previous_scores": "b h n m", "mask": "b h n m"},
    "relative_attention": {**_PAIRED, "mask": "b h n m"},
    "taylor_attention": _QKV,
    "favor_attention": {**_QKV, "projection": "r d", "mask": "b 1 m"},
    **dict.fromkeys(
        ("positive_features", "trigonometric_features", "hyperbolic_features", "relu_features"), _PROJECTED
    ),
    **dict.fromkeys(("mitchell_multiply", "mitchell_divide", "mitchell_corrected"), _PAIR),
    **dict.fromkeys((f"mitchell_{name}" for name in _OF_WHOLE), _WHOLE),
    **dict.fromkeys(("mitchell_log2", "mitchell_exp2", "mitchell_square_root"), _COLUMN),
    "mitchell_matmul": {"a": "n k", "b": "k m"},
    "mitchell_power": {"x": "n 1", "y": "n 1"},
    "copy_labels": {"source": "n", "target": "m"},
    **dict.fromkeys(("copy_step", "copy_states"), _COPIED),
    "copy_beam_search": {"scores": "t v v", "tag_scores": "t v 3", "source": "n"},
    "copy_loss": {"tag_logits": "b n 3", "labels": "b n-1", "segment_ids": "b n"},
    "rouge": {"hypothesis": "n", "reference": "m", "epsilon": "1"},
    "extend_embedding": {"table": "v d", "kept": "k", "pieces": "w p"},
    "match_sentences": {"texts": "s n", "summaries": "r m"},
    "split_sentences": {"text": "n"},
}
# backward passes: the forward call, and the axes of its answer
_COTANGENTS = {
    **dict.fromkeys(("softmax", "log_softmax", "taylor_softmax", "sparse_softmax", "unit_length"), "r n"),
    **dict.fromkeys(("logsumexp", "sparse_softmax_cross_entropy"), "r"),
    "gelu": "n",
    "layer_norm": "r d",
    "mean_pooling": "b d",
    "hierarchical_positions": "p c",
    **dict.fromkeys(("attention", "residual_attention", "taylor_attention", "favor_attention"), "b h n d"),
    "relative_attention": "b h n 2d",
    **dict.fromkeys(("positive_features", "relu_features"), "b n r"),
    **dict.fromkeys(("trigonometric_features", "hyperbolic_features"), "b n 2r"),
    "exp_taylor": "n",
    "copy_loss": "1",
}
SHAPES |= {f"{name}.vjp": {**SHAPES[name], "cotangent": axes} for name, axes in _COTANGENTS.items()}
SHAPES["cross_entropy.vjp"] = SHAPES["sparse_softmax_cross_entropy.vjp"]


# --- what a call has to keep to -----------------------------------------------------------------------------------------------


def _keys_of_queries(given: dict[str, Any]) -> bool:
    """Queries stand at the end of the keys."""
    return bool(given["q"].shape[-2] <= given["k"].shape[-2])


def _one_run(given: dict[str, Any]) -> bool:
    """Every row has a source, and a target without holes."""
    rows = given["segment_ids"]
    return bool(np.all(rows[:, 0] == 0) and np.all(np.sum(np.diff(rows, axis=-1, append=0) < 0, axis=-1) == 1))


def _known_states(given: dict[str, Any]) -> bool:
    """No span is longer than what was emitted."""
    return bool(np.all(given["states"] <= given["emitted"].shape[-1]))


def _padded_behind(rows: Any) -> bool:  # (r, n)
    return bool(np.all(np.diff((rows < 0).astype(np.int64), axis=-1) >= 0))


def _known_rows(given: dict[str, Any]) -> bool:
    """Rows and pieces that are there, and a piece of every word."""
    table, kept, pieces = (given[name] for name in ("table", "kept", "pieces"))
    there = np.all(kept < table.shape[0]) and np.all(pieces < kept.shape[0]) and np.all(np.any(pieces >= 0, axis=-1))
    return bool(there) and _padded_behind(pieces)


def _decided(given: dict[str, Any]) -> bool:
    """Texts, and no metrics that only rounding tells apart."""
    whole = _padded_behind(given["texts"]) and _padded_behind(given["summaries"])
    return whole and extraction.are_decided(given["texts"], given["summaries"], given["dialect"])


def _decided_search(given: dict[str, Any]) -> bool:
    """Tokens of the vocabulary, no more hypotheses than tokens, and no choice between near numbers."""
    vocabulary = given["scores"].shape[-1]
    tokens = (int(np.max(given["source"])), int(-np.min(given["source"])) - 1, given["start"], given["end"])
    names = ("scores", "tag_scores", "source", "start", "end", "beams", "dialect")
    small = max(tokens) < vocabulary and min(given["source"]) >= 0 and given["beams"] <= vocabulary
    return bool(small and given["start"] != given["end"] and beams.is_decided(*(given[name] for name in names)))


_VALID: dict[str, Callable[[dict[str, Any]], bool]] = {
    **dict.fromkeys(("attention", "residual_attention", "relative_attention"), _keys_of_queries),
    **dict.fromkeys(("taylor_attention", "favor_attention"), _keys_of_queries),
    "sparse_softmax_cross_entropy": lambda given: bool(np.all(given["targets"] < given["logits"].shape[-1])),
    "hierarchical_positions": lambda given: bool(np.all(given["positions"] < given["table"].shape[0] ** 2)),
    "mean_pooling": lambda given: bool(np.all(np.any(given["mask"], axis=-1))),
    "unit_length": lambda given: bool(np.all(np.any(np.abs(given["x"].astype(np.float64)) > 1e-4, axis=-1))),
    "mitchell_divide": lambda given: bool(np.all((given["a"] != 0) & (given["b"] != 0))),
    "mitchell_divide_integer": lambda given: bool(np.all(given["b"] != 0)),
    "mitchell_log2": lambda given: bool(np.all(given["x"] > 0)),
    **dict.fromkeys(("copy_step", "copy_states"), _known_states),
    "copy_beam_search": _decided_search,
    "copy_loss": _one_run,
    "rouge": lambda given: bool(given["epsilon"] == extraction.epsilon_of(given["dialect"])),
    "extend_embedding": _known_rows,
    "match_sentences": _decided,
}


# --- the moves ----------------------------------------------------------------------------------------------------------------


def moves(component: str, case: Case) -> Iterator[Case]:
    """Every call that one move makes of this one, the largest steps first; none for a component whose shapes are not known."""
    shapes = SHAPES.get(component)
    if shapes is None:
        return
    names = list(inspect.signature(components.component(component).definition).parameters)[: len(case.arrays)]
    given = dict(zip(names, case.arrays, strict=True)) | case.params
    backward = components.component(component).backward
    valid = _VALID.get(backward.forward if backward else component, lambda given: True)
    for changed in _changes(shapes, given, names):
        candidate = given | changed
        if valid(candidate):
            arrays, params = (candidate[name] for name in names), {name: candidate[name] for name in case.params}
            yield dataclasses.replace(case, arrays=tuple(arrays), params=params)


def _changes(shapes: dict[str, str], given: dict[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    arrays = {name: given[name] for name in shapes if given.get(name) is not None}
    for letter, length in _sizes(shapes, arrays).items():
        for index in range(length if length > 1 else 0):
            yield {name: _without(array, shapes[name], letter, length, index) for name, array in arrays.items()}
    for name in arrays:
        if name not in names:
            yield {name: None}
    for name, array in arrays.items():
        for place in np.ndindex(array.shape):
            for simpler in _simpler(array[place]):
                changed = array.copy()
                changed[place] = simpler
                yield {name: changed}


def _axes(shape: str, array: Any) -> list[tuple[int, str, int, int]]:
    """(axis, letter, how many entries an index of it has, how many less there are) of the axes that have one; of fewer axes, the last ones."""
    found = []
    for axis, token in zip(range(-1, -array.ndim - 1, -1), reversed(shape.split()), strict=False):
        size, _, less = token.partition("-")
        letter = size.lstrip("0123456789")
        if letter:
            found.append((axis, letter, int(size.removesuffix(letter) or 1), int(less or 0)))
    return found


def _sizes(shapes: dict[str, str], arrays: dict[str, Any]) -> dict[str, int]:
    """How long each letter is."""
    found: dict[str, int] = {}
    for name, array in arrays.items():
        for axis, letter, entries, less in _axes(shapes[name], array):
            found[letter] = max(found.get(letter, 0), array.shape[axis] // entries + less)
    return found


def _without(array: Any, shape: str, letter: str, length: int, index: int) -> Any:
    """The array without one index of a size; as it is where it has not that size, or is the same for all of it."""
    for axis, its, entries, less in _axes(shape, array):
        if its == letter and array.shape[axis] == entries * (length - less):
            at = min(index, length - less - 1)
            array = np.delete(array, slice(entries * at, entries * (at + 1)), axis=axis)
    return array


def _simpler(value: Any) -> Iterator[Any]:
    """What a number of an array may become, the simplest first."""
    if value.dtype.kind == "b":
        yield from () if value else (True,)
        return
    if value.dtype.kind in "iu":
        yield from _simpler_whole(int(value), np.iinfo(value.dtype).max)
        return
    number = float(value)
    if number == 0:
        yield from (0.0,) if math.copysign(1, number) < 0 else ()
        return
    yield 0
    yield from (1,) if number != 1 else ()
    yield from (-value,) if number < 0 and number != -1 else ()
    shorter = _halved(number)
    yield from (shorter,) if shorter not in (1, number) else ()


def _simpler_whole(number: int, largest: int) -> Iterator[int]:
    """The same of a whole number, of which no float may have all bits."""
    yield from (0,) if number else ()
    yield from (1,) if number not in (0, 1) else ()
    yield from (-number,) if number < 0 and number != -1 and -number <= largest else ()
    size = abs(number)
    bits = size.bit_length() - ((size & -size).bit_length() - 1) if size else 0  # without the zeros at its end
    if bits > 1:
        unit = size.bit_length() - bits // 2
        yield (size >> unit << unit) * (1 if number > 0 else -1)


def _halved(number: float) -> float:
    """The number cut to the first half of its significant bits."""
    fraction, exponent = math.frexp(number)
    whole = int(abs(fraction) * 2**53)
    length = 53 - ((whole & -whole).bit_length() - 1)  # of the significand without the zeros at its end
    unit = 2 ** (53 - max(length // 2, 1))
    return math.copysign(math.ldexp(whole // unit * unit, exponent - 53), number)


# --- the search for the smallest ----------------------------------------------------------------------------------------------


def smallest(component: str, case: Case, fails: Callable[[Case], bool | None]) -> bool:
    """Make moves as long as one leaves a failing call, and say whether the last call that failed is 1-minimal.

    Parameters
    ----------
    component, case : a call that fails
    fails : whether a call does, which is to note it; None to stop
    """
    if component not in SHAPES:
        return False
    near, place, unchanged = list(moves(component, case)), 0, 0
    while unchanged < len(near):
        candidate = near[place % len(near)]
        failing = fails(candidate)
        if failing is None:
            return False
        if failing:  # what comes next is at the same place
            near, unchanged = list(moves(component, candidate)), 0
        else:
            place, unchanged = place + 1, unchanged + 1
    return True
