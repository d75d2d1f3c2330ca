"""``prunerzero search``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prunerzero.cli.app import GroupOption, SparsityOption, app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_setup
from prunerzero.cli.plain_output import print_json
from prunerzero.evolution.settings import SeedMetrics, Strategy
from prunerzero.evolution.variation import OperatorSet
from prunerzero.tasks.workspace import Setup


@app.command()
@one_sentence
@with_setup
def search(
    setup: Setup,
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; resumed if it is one.")],
    sparsity: SparsityOption = "0.5",
    evaluations: Annotated[
        int | None, typer.Option(help="At most so many evaluations, by all workers together.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="At most so long: 90s, 15m, 2h, 1h30m.", metavar="DURATION")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another search.")] = 0,
    strategy: Annotated[
        Strategy, typer.Option(help="evolution; or random, powerlaw: baselines at equal budget.")
    ] = "evolution",
    operators: Annotated[
        OperatorSet, typer.Option(help="Operators to build metrics from: published or extended.")
    ] = "published",
    seed_metrics: Annotated[
        SeedMetrics, typer.Option(help="Begin from scratch, or with the known metrics.")
    ] = "none",
    group: GroupOption = "row",
    workers: Annotated[
        str,
        typer.Option(
            help="Processes on this host, one for each GPU; auto: as many as GPUs are visible.",
            metavar="auto|K",
        ),
    ] = "1",
    storage: Annotated[
        str | None,
        typer.Option(
            help="Path of the study's journal, by default OUTPUT_DIR/journal.log, or the URL of a "
            "PostgreSQL database. The same command on another host joins in.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Evolve a pruning metric for a model, a text and a sparsity.

    Statistics come from the calibration text, metrics are judged on the validation text, and the
    best is measured on the test text where one is named. Where no evolved metric beats the known
    ones, the result is the best of those. The same command again resumes;
    killed or interrupted, a search loses no more than the evaluations in flight.

    Example: [bold]prunerzero search --model ORG/NAME --dataset wikitext2 --sparsity 2:4
    --output-dir run[/], then [bold]prunerzero prune --model ORG/NAME --dataset wikitext2
    --sparsity 2:4 --metric run --output-dir pruned[/]

    On all GPUs for two hours: [bold]prunerzero search --model ORG/NAME --dataset wikitext2
    --workers auto --time 2h --output-dir run[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.search import search as run

    observer = TerminalObserver()
    with observer.shown():
        found = run(
            setup,
            sparsity,
            output_dir,
            evaluations=evaluations,
            time=time,
            seed=seed,
            strategy=strategy,
            operators=operators,
            seed_metrics=seed_metrics,
            group=group,
            workers=workers,
            storage=storage,
            observer=observer,
        )
    if json:
        print_json(asdict(found))
    else:
        _print_search(found, setup)
    if found.interrupted:
        raise KeyboardInterrupt


def _print_search(found: Any, setup: Setup) -> None:
    from prunerzero.metrics import Sparsity
    from prunerzero.report import perplexity_table
    from prunerzero.tasks.commands import prune_command

    console = out()
    console.print(f"Best metric: [bold]{escape(found.metric)}[/]")
    console.print(escape(found.answer))
    console.print(perplexity_table(found.perplexity, f"Sparsity {found.sparsity}"))
    console.print(
        f"{found.evaluations} evaluations ({found.raced_out} raced out, {found.failed} failed), "
        f"{found.duplicates_skipped} duplicates skipped, {found.seconds:.0f} s."
    )
    command = prune_command(setup, found.output_dir, Sparsity.parse(found.sparsity, found.group))
    console.print(f"Prune with it: {command}", markup=False, soft_wrap=True)
