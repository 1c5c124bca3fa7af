"""Functions taken out of the syntax tree of a module that cannot be imported: it loads a model, or needs packages that are not there.

Imported by the scripts of this folder only.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np


def lifted(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    """The functions called `names`, of a module or of its classes (the first of each name), with those globals; decorators are left out."""
    tree = ast.parse(path.read_text("utf-8"))
    every = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    found = list({node.name: node for node in every[::-1]}.values())
    for node in found:
        node.decorator_list = []
    space: dict[str, Any] = {"np": np, **{k: v for given in names.values() for k, v in (given or {}).items()}}
    exec(compile(ast.Module(found, []), path.name, "exec"), space)
    return space
