"""``prunerzero tune``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, LanguageOption, PushOption, one_sentence, with_setup
from prunerzero.cli.plain_output import print_json
from prunerzero.tasks.workspace import Setup

_LIMIT = "Limit (one of them)"


@app.command()
@one_sentence
@with_setup
def tune(
    setup: Setup,
    output_dir: Annotated[
        Path, typer.Option(help="Folder of the answer; gone on with if it is one.")
    ],
    max_degradation: Annotated[
        str | None,
        typer.Option(
            help="Rise of perplexity that is acceptable, 5% or 0.05; 5% if no limit is given.",
            rich_help_panel=_LIMIT,
        ),
    ] = None,
    max_perplexity: Annotated[
        float | None,
        typer.Option(help="Perplexity that is acceptable.", rich_help_panel=_LIMIT),
    ] = None,
    task_metric: Annotated[
        str | None,
        typer.Option(
            help="Drop of a task's score that is acceptable, TASK:METRIC:DROP, such as "
            "arc_easy:acc:0.02; needs prunerzero\\[eval].",
            rich_help_panel=_LIMIT,
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Ask about this pattern alone, such as 2:4: is it within the limit?"),
    ] = None,
    group: Annotated[
        Literal["auto", "row", "layer", "model"],
        typer.Option(
            help="Scores compete within a row, a whole layer, or the whole model; auto: whichever "
            "keeps most."
        ),
    ] = "auto",
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Metrics to evolve at most; 0 for known metrics only; 200 if --time is not given "
            "either."
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time of evolution at most: 90s, 15m, 1h30m.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another evolution.")] = 0,
    samples: Annotated[int, typer.Option(help="Continuations to show, dense against pruned.")] = 4,
    language: LanguageOption = "en",
    push_to_hub: PushOption = None,
    json: JsonOption = False,
) -> None:
    """Find out how much of a model can be pruned within a loss that you accept.

    Chooses or evolves the metric for it, finds the highest sparsity, checks it on text that no
    choice has seen, and writes the pruned model. Of a single --validation text, parts are set aside
    for calibration and test. The same command again goes on after an interruption.

    Example: [bold]prunerzero tune --model ORG/NAME --validation my_text.txt --max-degradation 5%
    --output-dir tuned[/]

    Example: [bold]prunerzero tune --model ORG/NAME --validation my_text.txt --pattern 2:4
    --max-perplexity 25 --output-dir tuned[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.tune import tune as run

    observer = TerminalObserver()
    with observer.shown():
        result = run(
            setup,
            output_dir,
            max_degradation=max_degradation,
            max_perplexity=max_perplexity,
            task_metric=task_metric,
            pattern=pattern,
            group=group,
            evaluations=evaluations,
            time=time,
            seed=seed,
            samples=samples,
            language=language,
            push_to_hub=push_to_hub,
            observer=observer,
        )
    if json:
        print_json(asdict(result))
        return
    console = out()
    console.print(escape(result.answer), soft_wrap=True)
    if result.reached:
        console.print(f"Pruned model: {result.output_dir}/model", markup=False)
    console.print(
        f"Report: {result.output_dir}/report.html   All figures: {result.output_dir}/tune.json",
        markup=False,
    )
    if push_to_hub and result.reached:
        console.print(f"Pushed to {push_to_hub}")
