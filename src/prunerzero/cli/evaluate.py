"""``prunerzero eval`` and ``prunerzero compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from prunerzero.cli.app import GroupOption, SparsityOption, app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_setup
from prunerzero.errors import InputError
from prunerzero.files import to_json
from prunerzero.metrics import CATALOG, Sparsity
from prunerzero.tasks.workspace import Setup


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

    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.language.corpora import PARTS
    from prunerzero.tasks.evaluate import evaluate as run

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
    out().print(
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
    group: GroupOption = "row",
    json: JsonOption = False,
) -> None:
    """Prune with each of several metrics and show the perplexities side by side.

    Example: [bold]prunerzero compare --metrics "magnitude,wanda,W * X * G,run" --sparsity 2:4[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.report import perplexity_table
    from prunerzero.tasks.evaluate import compare as run

    observer = TerminalObserver()
    with observer.shown():
        result = run(
            setup, split_metrics(metrics), Sparsity.parse(sparsity, group), observer=observer
        )
    if json:
        print(to_json(asdict(result)))
    else:
        out().print(perplexity_table(result.perplexity, f"Sparsity {result.sparsity}"))


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
