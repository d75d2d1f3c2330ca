"""``prunerzero demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prunerzero.cli.app import SparsityOption, app, out
from prunerzero.cli.options import JsonOption, one_sentence
from prunerzero.cli.plain_output import print_json


@app.command()
@one_sentence
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("demo"),
    sparsity: SparsityOption = "0.5",
    seed: Annotated[int, typer.Option(help="Another seed, another search.")] = 0,
    evaluations: Annotated[int | None, typer.Option(help="At most this many evaluations.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Search at most this long: 90s, 3m.", metavar="DURATION")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder of an earlier demo.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Evolve a metric on the bundled model, compare it with the known ones, prune, and report.

    Takes about three minutes on two cores, and reads less text on a slower machine; the same
    command again resumes after an interruption.

    Example: [bold]prunerzero demo --output-dir demo --seed 1[/]
    """
    from prunerzero.cli.terminal import TerminalObserver, count_of
    from prunerzero.report import perplexity_table
    from prunerzero.tasks.demo import run_demo
    from prunerzero.tasks.duration import parse_duration

    observer = TerminalObserver()
    with observer.shown():
        summary = run_demo(
            output_dir,
            sparsity=sparsity,
            seed=seed,
            evaluations=evaluations,
            seconds=None if time is None else parse_duration(time),
            overwrite=overwrite,
            observer=observer,
        )
    if json:
        print_json(summary)
        return
    console = out()
    console.print(
        perplexity_table(
            summary["perplexity"],
            f"Sparsity {summary['sparsity']} per row",
            refitted=summary["refitted"]["test"],
        )
    )
    for pattern, perplexity in summary["patterns"].items():
        console.print(perplexity_table(perplexity, f"Sparsity {pattern}, the same metric"))
        by_name = {name: value for name, value in perplexity["test"].items() if name != "dense"}
        best = min(by_name, key=by_name.__getitem__)
        if best != "evolved":
            console.print(
                f"At {pattern} {best} is ahead of the evolved metric, which was evolved for "
                f"{summary['sparsity']}: search with the sparsity that you need.",
                markup=False,
            )
    console.print(f"Best metric: [bold]{escape(summary['metric'])}[/]")
    console.print(escape(summary["answer"]))
    console.print(
        f"{count_of(summary['evaluations'], 'evaluation')} and "
        f"{count_of(summary['duplicates_skipped'], 'duplicate')} skipped; "
        f"{summary['seconds']:.0f} s in all."
    )
    console.print(f"Report: {output_dir / 'report.html'}   Pruned model: {output_dir / 'model'}")
