"""``prunerzero eval`` and ``prunerzero compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from prunerzero.cli.app import OwnGroupOption, OwnSparsityOption, app, out, own_sparsity
from prunerzero.cli.options import JsonOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.language.corpora import PARTS, corpora_in_words
from prunerzero.metrics import CATALOG
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup

DatasetsOption = Annotated[
    list[str],
    typer.Option(
        help=f"Named text: {corpora_in_words()}; may be repeated.",
        rich_help_panel="Text",
    ),
]
TextsOption = Annotated[list[Path], typer.Option(help="Text file to measure on; may be repeated.")]
StrideOption = Annotated[
    int | None,
    typer.Option(
        help="Slide windows by this many tokens, each counting its new ones only; side by side by "
        "default."
    ),
]


@app.command(name="eval")
@one_sentence
@with_options
def evaluate(
    setup: Setup,
    text: TextsOption = [],  # noqa: B006
    dataset: DatasetsOption = [],  # noqa: B006
    part: Annotated[
        Literal["calibration", "validation", "test"], typer.Option(help="Part of the text.")
    ] = "test",
    stride: StrideOption = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The model it came from: shows KL divergence and top-1 agreement beside "
            "perplexity."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Continuations to show beside the reference's.")] = 0,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks of lm-evaluation-harness with commas between: names, .yaml files, folders "
            "of such; needs prunerzero\\[eval]."
        ),
    ] = "",
    examples: Annotated[
        int | None, typer.Option(help="Examples of each task at most; all by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a model's perplexity on texts, its scores in tasks, and how far it has moved.

    Example: [bold]prunerzero eval --model ./pruned --text my_text.txt[/]

    Example: [bold]prunerzero eval --model ./pruned --reference ORG/NAME --dataset wikitext2
    --dataset c4 --text my_text.txt --samples 4 --tasks arc_easy,hellaswag[/]
    """
    from dataclasses import replace

    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.evaluate import evaluate as run
    from prunerzero.tasks.own_texts import beside_doubt

    observer = TerminalObserver()
    if not text or (len(text) == 1 and not dataset):  # as every command takes them
        if text and (unread := beside_doubt(setup, (part,))):
            observer.note(unread)
        named: dict[str, Any] = {"dataset": dataset} if dataset else {part: text} if text else {}
        setup, text, dataset = replace(setup, **named), [], []
    with observer.shown():
        result = run(
            setup,
            part,
            observer,
            datasets=dataset,
            texts=text,
            stride=stride,
            reference=reference,
            samples=samples,
            tasks=[name.strip() for name in tasks.split(",") if name.strip()],
            examples=examples,
        )
    if json:
        print_json(asdict(result))
    else:
        _print_evaluation(result)


def _print_evaluation(result: Any) -> None:
    from prunerzero.report import texts_table

    console = out()
    if len(result.texts) == 1 and result.reference is None:
        console.print(
            f"Perplexity of {escape(result.model)} on {escape(result.text)}: "
            f"[bold]{result.perplexity:.4f}[/] "
            f"({result.windows} windows of {result.window_length} tokens)."
        )
    elif result.texts:
        perplexity, divergence = {}, {}
        for figures in result.texts:
            name = f"{figures.text} ({figures.windows} windows)"
            perplexity[name] = {result.model: figures.perplexity}
            if figures.reference is not None:
                perplexity[name] = {"dense": figures.reference, **perplexity[name]}
            if figures.divergence is not None:
                divergence[name] = {result.model: asdict(figures.divergence)}
        title = f"{result.model}, dense: {result.reference}" if result.reference else result.model
        console.print(texts_table(perplexity, divergence, title))
    if result.texts:
        console.print(f"Protocol: {escape(result.protocol['words'])}.", soft_wrap=True)
    if result.tasks:
        console.print(_tasks_table(result))
    for sample in result.samples:
        console.print(
            _sample_table(sample.prompt, {"dense": sample.dense, "pruned": sample.pruned})
        )


def _tasks_table(result: Any) -> Table:
    """acc, acc_norm and whatever else the tasks score, beside the reference's."""
    table = Table("task", "metric", "examples", "shots")
    before = {(score.task, score.metric): score for score in result.reference_tasks}
    if before:
        table.add_column("dense", justify="right")
    table.add_column(Text(result.model), justify="right")
    for score in result.tasks:
        cells = [score.task, score.metric, str(score.examples), str(score.shots)]
        other = before.get((score.task, score.metric))
        shown = [other, score] if before else [score]
        table.add_row(*map(Text, [*cells, *map(_score_text, shown)]))
    return table


def _score_text(score: Any) -> str:
    if score is None:
        return ""
    return f"{score.value:.4f}" + (f" ± {score.error:.4f}" if score.error is not None else "")


def _sample_table(prompt: str, continuations: dict[str, str]) -> Table:
    table = Table(title=Text(prompt), title_justify="left", show_lines=True)
    for name in continuations:
        table.add_column(Text(name), overflow="fold", ratio=1)
    table.add_row(*map(Text, continuations.values()))
    return table


@app.command()
@one_sentence
@with_options
def compare(
    setup: Setup,
    refit: RefitOptions,
    metrics: Annotated[
        str,
        typer.Option(
            help="Metrics with commas between: catalog names, formulas, JSON files, run folders; a "
            "name or formula goes before a file that is called so: write ./NAME for the file."
        ),
    ] = ",".join(CATALOG),
    methods: Annotated[
        str,
        typer.Option(
            help="Published methods with commas between: sparsegpt, alps. They choose and change "
            "the weights of a layer together, and prune every layer by the same share."
        ),
    ] = "",
    sparsity: OwnSparsityOption = [],  # noqa: B006
    group: OwnGroupOption = None,
    text: TextsOption = [],  # noqa: B006
    dataset: DatasetsOption = [],  # noqa: B006
    stride: StrideOption = None,
    samples: Annotated[
        int, typer.Option(help="Continuations to show, dense and pruned side by side.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Prune with each of several metrics and methods; show perplexity and divergence side by side.

    With --text, that and the test part of each --dataset are what is measured on; statistics come
    from --calibration, or else from the datasets.

    Example: [bold]prunerzero compare --metrics "magnitude,wanda,W * X * G,run" --sparsity 2:4[/]

    Example: [bold]prunerzero compare --model ORG/NAME --dataset wikitext2 --dataset c4 --text
    my_text.txt --samples 3[/]

    Refitted: [bold]prunerzero compare --group model --update least-squares --refine admm[/]

    Example: [bold]prunerzero compare --metrics wanda,run --methods sparsegpt,alps[/]
    """
    from dataclasses import replace

    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.report import perplexity_table, texts_table
    from prunerzero.tasks.compare import compare as run

    if dataset:
        setup = replace(setup, dataset=dataset)
    if not text:  # the validation and test parts, as for every command
        dataset = []
    observer = TerminalObserver()
    with observer.shown():
        result = run(
            setup,
            metrics,
            own_sparsity(sparsity),
            observer=observer,
            refit=refit,
            group=group,
            datasets=dataset,
            texts=text,
            stride=stride,
            samples=samples,
            methods=methods,
        )
    if json:
        print_json(asdict(result))
        return
    console = out()
    title = f"Sparsity {result.sparsity}"
    if result.group != "row":
        title += f", scores compared within the {result.group}"
    if refit.in_words:
        title += f"; {refit.in_words}"
    figures = asdict(result)
    if dataset or text or any(name not in PARTS for name in result.perplexity):
        console.print(texts_table(figures["perplexity"], figures["divergence"], title))
    else:
        console.print(perplexity_table(figures["perplexity"], title, figures["divergence"]))
    measured = ", ".join(
        f"{result.settings['windows'][name]} on {name}" for name in result.perplexity
    )
    console.print(
        f"Protocol: {escape(result.protocol['words'])}; {escape(measured)}.", soft_wrap=True
    )
    if result.methods:
        named = "; ".join(f"{name}: {source}" for name, source in result.methods.items())
        console.print(
            "Methods also change the weights that stay, which metrics by themselves leave as they "
            f"are, and prune every layer by the same share. {escape(named)}.",
            soft_wrap=True,
        )
    for sample in result.samples:
        console.print(_sample_table(sample.prompt, sample.continuations))
