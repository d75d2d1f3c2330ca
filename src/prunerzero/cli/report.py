"""``prunerzero report``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, one_sentence
from prunerzero.cli.plain_output import print_json
from prunerzero.report.phrases import Language


@app.command()
@one_sentence
def report(
    run: Annotated[
        Path, typer.Argument(help="Folder of a search, a tuning or a bench.", show_default=False)
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another search to draw beside it; by default a random search in a "
            "folder next to RUN, if there is one."
        ),
    ] = None,
    language: Annotated[
        Language,
        typer.Option(help="Language of the report of a tuning or a bench: English or Japanese."),
    ] = "en",
    json: JsonOption = False,
) -> None:
    """Write RUN/report.html: how the search went, what tune answered, or what bench measured, in
    one file that opens offline.

    Example: [bold]prunerzero search --strategy random --output-dir runs/random[/],
    [bold]prunerzero search --output-dir runs/evolved[/], then
    [bold]prunerzero report runs/evolved[/]

    Example: [bold]prunerzero report tuned --language ja[/]
    """
    from prunerzero.tasks.report import report as write

    written = write(run, baseline, language)
    if json:
        print_json(asdict(written))
    else:
        told = f"Wrote {written.path}: open it in any browser."
        out().print(told, markup=False, soft_wrap=True)
