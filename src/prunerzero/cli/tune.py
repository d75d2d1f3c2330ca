"""``prunerzero tune``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.tasks.options import TuneOptions
from prunerzero.tasks.setup import Setup


@app.command()
@one_sentence
@with_options
def tune(
    setup: Setup,
    options: TuneOptions,
    output_dir: Annotated[
        Path, typer.Option(help="Folder of the answer. A tuning begun there is continued.")
    ],
    json: JsonOption = False,
) -> None:
    """Find out how much of a model can be pruned within a loss that you accept.

    Chooses or evolves the metric for it, finds the highest sparsity, checks it on text that no
    choice has seen, writes the pruned model, and packs it: what that saves is measured on this
    machine's CPU. Where --validation is named alone, parts of it are set aside for calibration and
    test; where it is named several times, each text keeps the limit. The same command again goes on
    after an interruption.

    Example: [bold]prunerzero tune --model ORG/NAME --validation my_text.txt --max-degradation 5%
    --output-dir tuned[/]

    Example: [bold]prunerzero tune --model ORG/NAME --validation my_text.txt --pattern 2:4
    --max-perplexity 25 --output-dir tuned[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.tune import tune as run

    observer = TerminalObserver()
    try:
        with observer.shown():
            result = run(setup, output_dir, options, observer=observer)
    except KeyboardInterrupt:
        if output_dir.is_dir():
            observer.console.print(
                "What was measured until now is kept: the same command again goes on."
            )
        raise
    if json:
        print_json(asdict(result))
        return
    console = out()
    console.print(escape(result.answer), soft_wrap=True)
    if result.reached:
        console.print(f"Pruned model: {result.output_dir}/model", markup=False)
    if result.packing is not None and result.packing.folder is not None:
        console.print(f"Packed model: {result.packing.folder}", markup=False)
    console.print(
        f"Report: {result.output_dir}/report.html   All figures: {result.output_dir}/tune.json",
        markup=False,
    )
    if options.push_to_hub and result.reached:
        console.print(f"Pushed to {options.push_to_hub}")
