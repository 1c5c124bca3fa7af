"""Trees of arrays: parameters, their gradients and an optimizer's moments have one form, and are mapped leaf by leaf.

A tree is an array, None (no leaf), or a tuple, named tuple, list or dict of trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Tree", "added", "leaves", "mapped", "named_leaves", "with_leaves"]

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


def _walked(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves and their dotted names, in the tree's order."""
    if tree is None:
        return
    if not isinstance(tree, dict | tuple | list):
        yield prefix, tree
        return
    names = tree if isinstance(tree, dict) else getattr(tree, "_fields", range(len(tree)))
    parts = tree.values() if isinstance(tree, dict) else tree
    for name, part in zip(names, parts, strict=True):
        yield from _walked(part, f"{prefix}.{name}" if prefix else str(name))


def named_leaves(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """The leaves by their dotted names, such as "blocks.0.attention_norm.scale", in the tree's order.

    Raises ConfigError where two leaves have one name, as those of {"a.b": x, "a": {"b": y}}.
    """
    found: dict[str, Any] = {}
    for name, leaf in _walked(tree, prefix):
        if name in found:
            raise ConfigError(
                "two leaves of a tree have one name", where="refimpl.trees", expected="names apart", got=name
            )
        found[name] = leaf
    return found


def leaves(tree: Tree) -> list[Any]:
    """The leaves in the tree's order."""
    return [leaf for _, leaf in _walked(tree)]


def with_leaves(tree: Tree, found: Iterable[Any]) -> Tree:
    """The tree with other leaves in the places of its own, in its order; there are as many."""
    each = iter(found)
    return mapped(lambda leaf: next(each), tree)


def added(tree: Tree, other: Tree) -> Tree:
    """Leaf by leaf the sum of two trees of one form: gradients of what is computed in pieces."""
    return mapped(lambda a, b: a + b, tree, other)
