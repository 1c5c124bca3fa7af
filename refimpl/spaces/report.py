"""Summaries as a page to look at: what was extracted, with what probability, and what was copied from where.

`index.html` is one file that needs nothing else: no network, no script. Every text is escaped by jinja2 and made visible first: control characters,
and what reorders text, are written out. The same summaries give the same bytes. Needs jinja2 (the extra "validation"), imported only here.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError
from refimpl.files import replace_file
from refimpl.spaces.showing import Run, sentence_runs, summary_runs, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from refimpl.spaces.running import Result
    from refimpl.spaces.summary import Summary

__all__ = ["COLOURS", "NAME", "Report", "prepare"]

NAME = "index.html"
COLOURS = 6


def prepare(folder: str | Path) -> Path:
    """Make the folder and see that a page can be written there, before a long run.

    Raises
    ------
    ConfigError
        where it cannot be made or written to, where it holds anything but an earlier page, or where jinja2 is missing.
    """
    path = Path(folder)
    try:
        importlib.import_module("jinja2")
    except ImportError as error:
        remedy = 'pip install jinja2   (the extra "validation")'
        raise ConfigError("a report needs a package", expected="jinja2", got=str(error), remedy=remedy) from None
    remedy = f"name a new folder; {NAME} is written into it"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass  # it can be written to
        others = sorted(entry.name for entry in path.iterdir() if entry.name != NAME)
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the folder cannot be used", where=path, got=got, remedy=remedy) from None
    if others:
        expected, got = "an empty folder, or an earlier report", ", ".join(map(ascii, others[:3]))
        raise ConfigError("the folder holds something else", where=path, expected=expected, got=got, remedy=remedy)
    return path


class Report:
    """A page that grows by a result at a time.

    Parameters
    ----------
    folder : for the page, as `prepare` takes it
    model, options : what the summaries were made with, for the page's head
    """

    def __init__(self, folder: str | Path, model: str, options: dict[str, Any]) -> None:
        self.path = prepare(folder)
        self._about: dict[str, Any] = {"model": model, "options": options}
        self._documents: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        """Take the next document."""
        told: dict[str, Any] = {"name": result.document.name, "error": result.error}
        if result.summary is not None:
            told |= _told(result.summary, len(self._documents))
        self._documents.append(told)

    def write(self) -> Path:
        """Write the page and return its path."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=lambda value: visible(value) if type(value) is str else value,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        failed = sum(each["error"] is not None for each in self._documents)
        given = {"documents": self._documents, "failed": failed, "done": len(self._documents) - failed, **self._about}
        content = environment.get_template("page.html.jinja").render(given).encode("utf-8", "backslashreplace")
        replace_file(self.path / NAME, lambda file: file.write(content))
        return self.path / NAME


def _told(summary: Summary, document: int) -> dict[str, Any]:
    """What the page says of a summary."""
    seen = set[int]()
    return {
        "runs": _linked(summary_runs(summary), f"s{document}", f"t{document}", set()),
        "copied": summary.copied,
        "length": len(summary.text),
        "spans": len(summary.spans),
        "chosen": sum(sentence.chosen for sentence in summary.sentences),
        "ended": summary.ended,
        "notes": summary.notes,
        "sentences": [
            {
                "chosen": sentence.chosen,
                "probability": sentence.probability,
                "runs": _linked(sentence_runs(summary, sentence), f"t{document}", f"s{document}", seen),
            }
            for sentence in summary.sentences
        ],
    }


def _linked(runs: Iterable[Run], here: str, there: str, seen: set[int]) -> list[dict[str, Any]]:
    """Runs with their colours, and links to the other side; the first run of a span is what the other side leads to."""
    found: list[dict[str, Any]] = []
    for run in runs:
        if not run.spans:
            found.append({"text": run.text, "href": None})
            continue
        new = [span for span in run.spans if span not in seen]
        span = new[0] if new else run.spans[0]
        seen |= set(new)
        names = [f"{here}-{each}" for each in new]
        found.append({"text": run.text, "href": f"{there}-{span}", "names": names, "colour": span % COLOURS})
    return found
