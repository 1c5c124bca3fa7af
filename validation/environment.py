"""What a run was made with, for reports."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["environment"]

PACKAGES = ("numpy", "scipy", "array-api-compat", "array-api-strict", "python-flint", "mpmath", "cupy-cuda12x")


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that compute, and the kind of machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()} | versions
