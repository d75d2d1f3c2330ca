"""The command line: one short function a command, which calls a task and prints its result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

import prunerzero
from prunerzero.errors import InputError
from prunerzero.evolution.variation import OperatorSet
from prunerzero.files import to_json
from prunerzero.metrics import CATALOG, explain
from prunerzero.options import JsonOption, one_sentence, with_setup
from prunerzero.tasks.metric_sources import read_metric
from prunerzero.tasks.workspace import Setup

app = typer.Typer(
    name="prunerzero",
    help="Make language models smaller without retraining: evolve the rule that prunes them, apply "
    "it, and show what was kept.\n\nBegin with [bold]prunerzero demo[/], which needs nothing but "
    "three minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

SparsityOption = Annotated[
    str,
    typer.Option(help="Share of weights to prune in each row, 0.5, or keep N of each M: 2:4."),
]


def main() -> None:
    """Entry point of the ``prunerzero`` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prunerzero {prunerzero.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _out() -> Console:
    return Console(highlight=False)


@app.command()
@one_sentence
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("demo"),
    sparsity: SparsityOption = "0.5",
    seed: Annotated[int, typer.Option(help="Another seed, another search.")] = 0,
    evaluations: Annotated[int | None, typer.Option(help="At most so many evaluations.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="At most so many seconds of search.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder of an earlier demo.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Evolve a metric on the bundled model, compare it with the known ones, prune, and report.

    Takes about three minutes on two cores; the same command again resumes after an interruption.

    Example: [bold]prunerzero demo --output-dir demo --seed 1[/]
    """
    from prunerzero.report import perplexity_table
    from prunerzero.tasks.demo import run_demo
    from prunerzero.terminal import TerminalObserver

    observer = TerminalObserver()
    with observer.shown():
        summary = run_demo(
            output_dir,
            sparsity=sparsity,
            seed=seed,
            evaluations=evaluations,
            seconds=seconds,
            overwrite=overwrite,
            observer=observer,
        )
    if json:
        print(to_json(summary))
        return
    out = _out()
    out.print(perplexity_table(summary["perplexity"], f"Sparsity {summary['sparsity']} per row"))
    for pattern, perplexity in summary["patterns"].items():
        out.print(perplexity_table(perplexity, f"Sparsity {pattern}, the same metric"))
    out.print(f"Evolved metric: [bold]{escape(summary['metric'])}[/]")
    out.print(
        f"{summary['evaluations']} evaluations and {summary['duplicates_skipped']} duplicates "
        f"skipped; {summary['seconds']:.0f} s in all."
    )
    out.print(f"Report: {output_dir / 'report.html'}   Pruned model: {output_dir / 'model'}")


@app.command()
@one_sentence
@with_setup
def search(
    setup: Setup,
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; resumed if it is one.")],
    sparsity: SparsityOption = "0.5",
    evaluations: Annotated[int | None, typer.Option(help="At most so many evaluations.")] = None,
    seconds: Annotated[float | None, typer.Option(help="At most so many seconds.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another search.")] = 0,
    operators: Annotated[
        OperatorSet, typer.Option(help="Operators to build metrics from: published or extended.")
    ] = "published",
    json: JsonOption = False,
) -> None:
    """Evolve a pruning metric for a model, a text and a sparsity.

    Statistics come from the calibration text, metrics are judged on the validation text, and the
    one found is measured on the test text where one is named. The same command again resumes.

    Example: [bold]prunerzero search --model ORG/NAME --dataset wikitext2 --sparsity 2:4
    --output-dir run[/], then [bold]prunerzero prune --model ORG/NAME --dataset wikitext2
    --sparsity 2:4 --metric run --output-dir pruned[/]
    """
    from prunerzero.tasks.search import search as run
    from prunerzero.terminal import TerminalObserver

    observer = TerminalObserver()
    with observer.shown():
        found = run(
            setup,
            sparsity,
            output_dir,
            evaluations=evaluations,
            seconds=seconds,
            seed=seed,
            operators=operators,
            observer=observer,
        )
    if json:
        print(to_json(asdict(found)))
    else:
        _print_search(found)
    if found.interrupted:
        raise typer.Exit(130)


def _print_search(found: Any) -> None:
    from prunerzero.report import perplexity_table

    out = _out()
    out.print(f"Best metric: [bold]{escape(found.metric)}[/]")
    out.print(perplexity_table(found.perplexity, f"Sparsity {found.sparsity}"))
    out.print(
        f"{found.evaluations} evaluations ({found.raced_out} raced out, {found.failed} failed), "
        f"{found.duplicates_skipped} duplicates skipped, {found.seconds:.0f} s."
    )
    out.print(f"Prune with it: prunerzero prune --metric {found.output_dir} …")


@app.command()
@one_sentence
@with_setup
def prune(
    setup: Setup,
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must be absent or empty.")],
    metric: Annotated[
        str, typer.Option(help="Catalog name, formula, JSON file, or the folder of a search.")
    ] = "wanda",
    sparsity: SparsityOption = "0.5",
    json: JsonOption = False,
) -> None:
    """Prune a model with a metric and write a checkpoint that loads like any other.

    Perplexity before and after is measured on the test text, or else the validation text.

    Example: [bold]prunerzero prune --metric wanda --sparsity 0.5 --output-dir pruned[/]
    """
    from prunerzero.tasks.prune import prune as run
    from prunerzero.terminal import TerminalObserver

    observer = TerminalObserver()
    with observer.shown():
        result = run(setup, metric, sparsity, output_dir, observer)
    if json:
        print(to_json(asdict(result)))
        return
    out = _out()
    out.print(f"Wrote {output_dir}: {result.sparsity:.2%} of the prunable weights are zero.")
    for part, figures in result.perplexity.items():
        out.print(
            f"Perplexity on the {part} text: {figures['dense']:.3f} dense, "
            f"{figures['pruned']:.3f} pruned "
            f"({result.settings['windows'][part]} windows of "
            f"{result.settings['max_seq_length']} tokens)."
        )


@app.command(name="eval")
@one_sentence
@with_setup
def evaluate(
    setup: Setup,
    text: Annotated[Path | None, typer.Option(help="Text file to measure on.")] = None,
    part: Annotated[
        str, typer.Option(help="Part of the text: calibration, validation or test.")
    ] = "test",
    json: JsonOption = False,
) -> None:
    """Measure a model's perplexity on a text.

    Example: [bold]prunerzero eval --model ./pruned --text my_text.txt[/]
    """
    from dataclasses import replace

    from prunerzero.language.corpora import PARTS
    from prunerzero.tasks.evaluate import evaluate as run
    from prunerzero.terminal import TerminalObserver

    if part not in PARTS:
        raise InputError(f"--part must be calibration, validation or test, not {part!r}.")
    if text is not None:
        named: dict[str, Any] = {part: text}
        setup = replace(setup, **named)
    observer = TerminalObserver()
    with observer.shown():
        result = run(setup, part, observer)
    if json:
        print(to_json(asdict(result)))
        return
    _out().print(
        f"Perplexity of {result.model} on {result.text}: [bold]{result.perplexity:.4f}[/] "
        f"({result.windows} windows of {result.window_length} tokens)."
    )


@app.command()
@one_sentence
@with_setup
def compare(
    setup: Setup,
    metrics: Annotated[
        str,
        typer.Option(
            help="Metrics with commas between: catalog names, formulas, JSON files, run folders."
        ),
    ] = ",".join(CATALOG),
    sparsity: SparsityOption = "0.5",
    json: JsonOption = False,
) -> None:
    """Prune with each of several metrics and show the perplexities side by side.

    Example: [bold]prunerzero compare --metrics "magnitude,wanda,W * X * G,run" --sparsity 2:4[/]
    """
    from prunerzero.report import perplexity_table
    from prunerzero.tasks.evaluate import compare as run
    from prunerzero.terminal import TerminalObserver

    observer = TerminalObserver()
    with observer.shown():
        result = run(setup, split_metrics(metrics), sparsity, observer=observer)
    if json:
        print(to_json(asdict(result)))
    else:
        _out().print(perplexity_table(result.perplexity, f"Sparsity {result.sparsity}"))


def split_metrics(text: str) -> list[str]:
    """Split at the commas that stand outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


@app.command()
@one_sentence
def metrics(json: JsonOption = False) -> None:
    """List the known metrics with their formulas and sources."""
    rows = [
        {"name": m.name, "formula": str(m.expression), "source": m.source} for m in CATALOG.values()
    ]
    if json:
        print(to_json(rows))
        return
    table = Table("name", "formula", "source")
    for row in rows:
        table.add_row(*(escape(value) for value in row.values()))
    _out().print(table)
    _out().print("power-law(a,b) is W * X^a * G^b for any a and b.")


@app.command(name="explain")
@one_sentence
def explain_(
    metric: Annotated[
        str, typer.Argument(help="Catalog name, formula, JSON file, or the folder of a search.")
    ],
    json: JsonOption = False,
) -> None:
    """Say what a metric means, in words, simplified, as a tree, and what it ranks like.

    Example: [bold]prunerzero explain "exp(W * W * sqrt(X))"[/]
    """
    told = explain(read_metric(metric))
    if json:
        print(to_json(asdict(told)))
        return
    out = _out()
    out.print(Panel(escape(told.formula), title=escape(metric)))
    out.print(escape(told.words))
    if told.simplified != told.formula:
        out.print(f"Prunes the same weights as: [bold]{escape(told.simplified)}[/]")
    out.print(escape(told.tree))
    for name in told.same_as:
        out.print(f"Ranks weights exactly as [bold]{name}[/] does.")
    table = Table("metric", "pruned in common at 50 %")
    for name, share in sorted(told.agreement.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{share:.1%}")
    out.print(table)
