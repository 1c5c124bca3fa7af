"""Trees of arrays: parameters, their gradients and an optimizer's moments have one form, and are mapped leaf by leaf.

A tree is an array, None (no leaf), or a tuple, named tuple, list or dict of trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Tree", "leaves", "mapped", "named_leaves"]

Tree = Any


def mapped(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """function(leaf, ...) in the place of each leaf; the other trees have the form of the first.

    Raises ShapeError where their forms differ.
    """
    if tree is None and all(other is None for other in others):
        return None
    if isinstance(tree, dict):
        _check_form(tree, others, lambda other: isinstance(other, dict) and other.keys() == tree.keys())
        return {name: mapped(function, part, *(other[name] for other in others)) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        _check_form(tree, others, lambda other: type(other) is type(tree) and len(other) == len(tree))
        parts = [mapped(function, *group) for group in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    _check_form(tree, others, lambda other: tree is not None and not isinstance(other, dict | tuple | list | None))
    return function(tree, *others)


def _check_form(tree: Tree, others: tuple[Tree, ...], fits: Callable[[Tree], bool]) -> None:
    for other in others:
        if not fits(other):
            expected, got = _form(tree), _form(other)
            raise ShapeError("trees of different form", where="refimpl.trees", expected=expected, got=got)


def _form(tree: Tree) -> str:
    if isinstance(tree, dict):
        return f"a dict of {', '.join(map(repr, tree))}"
    return f"{type(tree).__name__} of {len(tree)}" if isinstance(tree, tuple | list) else type(tree).__name__


def named_leaves(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """The leaves by their dotted names, such as "blocks.0.attention_norm.scale", in the tree's order."""
    if tree is None:
        return {}
    if isinstance(tree, dict):
        parts = [(str(name), part) for name, part in tree.items()]
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = [(str(name), part) for name, part in zip(names, tree, strict=True)]
    else:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, part in parts:
        found |= named_leaves(part, f"{prefix}.{name}" if prefix else name)
    return found


def leaves(tree: Tree) -> list[Any]:
    """The leaves in the tree's order."""
    return list(named_leaves(tree).values())
