"""`python -m validation.mutants`: measure which vectors catch which bugs, and write or check the page that says so."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from refimpl.console import err, out
from refimpl.files import replace_file
from validation import components
from validation.mutants import matrix

app = typer.Typer(add_completion=False, help="Which golden vectors catch which bugs.")


@app.command()
def main(
    page: Annotated[Path, typer.Argument(help="The page.")] = Path("docs/kill_matrix.md"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; compare with the page that is there.")] = False,
) -> None:
    """Run every mutant of every component on its vectors, and write the kill matrix; exits with 1 if a mutant is caught by nobody.

    --check allows what may differ between machines (`validation.mutants.matrix`), prints any other difference, and exits with 1.
    """
    there = page.read_text("utf-8") if check else ""
    before = {(row.component, row.name): row for group in matrix.published(there).values() for row in group}
    rows = {}
    for component in components.COMPONENTS:
        found = [matrix.settled(one, before.get((component, one.row.name))) for one in matrix.measured(component)]
        rows[component] = tuple(found)
    here = matrix.rendered(rows)
    survivors = [f"{row.component}: {row.name}" for group in rows.values() for row in group if not row.ids]
    for name in survivors:
        err.print(f"caught by nobody that names it: {name}", markup=False, highlight=False)
    if not check:
        replace_file(page, lambda file: file.write(here.encode()))
        out.print(f"{page}: {sum(map(len, rows.values()))} mutants of {len(rows)} components", highlight=False)
    elif here != there:
        lines = difflib.unified_diff(there.splitlines(), here.splitlines(), str(page), "here", "", "", 0, "")
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    else:
        out.print(f"{page} is true here: {sum(map(len, rows.values()))} mutants", highlight=False)
    sys.exit(bool(survivors) or (check and here != there))


if __name__ == "__main__":
    app()
