"""A report as a folder: `index.html` to look at, `report.json` to compute with, `junit.xml` for continuous integration.

    validation.check(my_softmax, "softmax").write("softmax-report")

The page is one file that needs nothing else: no network, no script, plots as SVG in the text. `report.json` follows `schema.json` beside this
file. Everything that the page and `junit.xml` say is taken from that JSON, so the three cannot contradict each other. The same report gives the
same bytes; no time of day is written.

Only these three names are ever written: the folder is made if there is none, and one that holds anything else is refused. Each file is
written under a temporary name and renamed, after all three have been made. Needs jinja2 and matplotlib (the extra "validation"), which are
imported only here.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError
from refimpl.files import replace_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from validation.conformance import Report
    from validation.report.growth import Growth
    from validation.run import Validation

__all__ = ["NAMES", "SCHEMA", "prepare", "write"]

NAMES = ("index.html", "junit.xml", "report.json")
SCHEMA = Path(__file__).parent / "schema.json"
PACKAGES = ("jinja2", "matplotlib")


def prepare(folder: str | os.PathLike[str]) -> Path:
    """Make the folder and see that a report can be written there: to be called before a long run, whose result would be lost.

    Raises
    ------
    ConfigError
        where the path is a file or cannot be made, where the folder holds anything but an earlier report, or where jinja2 or matplotlib is missing.
    """
    path = Path(folder)
    _require_packages()
    remedy = f"name a new folder; {', '.join(NAMES)} are written into it"
    if path.suffix in (".json", ".html", ".xml") and not path.is_dir():
        what, expected = "a report is a folder of three files", "the name of a folder"
        raise ConfigError(what, where=path, expected=expected, got=f"a name that ends in {path.suffix}", remedy=remedy)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass  # it can be written to
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in NAMES or not entry.is_file())
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the folder cannot be used", where=path, got=got, remedy=remedy) from None
    if others:
        expected, got = "an empty folder, or an earlier report", ", ".join(map(ascii, others[:3]))
        what = "the folder holds something else"
        raise ConfigError(what, where=path, expected=expected, got=got, remedy=remedy)
    return path


def _require_packages() -> None:
    """Raise ConfigError that says what to install, unless what pages and plots are made with can be imported."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            what, remedy = "a report needs packages that are not installed", "pip install jinja2 matplotlib"
            remedy += '   (the extra "validation")'
            raise ConfigError(what, expected="jinja2, matplotlib", got=str(error), remedy=remedy) from None


def write(
    report: Report | Validation, folder: str | os.PathLike[str], *, growth: Iterable[Growth] = (), spread: Any = None
) -> Path:
    """Write index.html, report.json and junit.xml, and return the folder's path.

    Parameters
    ----------
    report : what `validation.check`, `validation.conformance.judge_answers` or `validation.run.validate` returned
    folder : made if there is none; files of an earlier report are replaced
    growth : how errors grow through networks, from `validation.report.growth`; for a Validation
    spread : how far legal evaluations of the component differ, `validation.spread.spread(component, dtype)`; None: as it was
        recorded (`validation.legal`); for a Report

    Raises
    ------
    ConfigError
        as `prepare`.
    """
    path = prepare(folder)
    from validation.report import content, junit, page

    told: dict[str, Any] = content.of(report, growth, spread)
    text = json.dumps(told, ensure_ascii=False, indent=1, allow_nan=False)
    data = text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes the escape that JSON has for it
    files = (page.render(told), junit.render(told), data)
    for name, made in zip(NAMES, files, strict=True):
        replace_file(path / name, lambda file, made=made: file.write(made))  # type: ignore[misc]
    return path
