"""``prunerzero report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunerzero.cli.app import app, out
from prunerzero.cli.options import one_sentence


@app.command()
@one_sentence
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a search.", show_default=False)],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another search to draw beside it; by default a random search in a "
            "folder next to RUN, if there is one."
        ),
    ] = None,
) -> None:
    """Write RUN/report.html: how the search went, in one file that opens offline.

    Example: [bold]prunerzero search --strategy random --output-dir runs/random[/],
    [bold]prunerzero search --output-dir runs/evolved[/], then
    [bold]prunerzero report runs/evolved[/]
    """
    from prunerzero.tasks.report import report as write

    path = write(run, baseline)
    out().print(f"Wrote {path}: open it in any browser.", markup=False, soft_wrap=True)
