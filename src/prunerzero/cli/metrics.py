"""``prunerzero metrics`` and ``prunerzero explain``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, one_sentence
from prunerzero.cli.plain_output import print_json
from prunerzero.metrics import CATALOG
from prunerzero.tasks.explain import explain
from prunerzero.tasks.metric_sources import read_metric


@app.command()
@one_sentence
def metrics(json: JsonOption = False) -> None:
    """List the known metrics with their formulas and sources."""
    rows = [
        {"name": m.name, "formula": str(m.expression), "source": m.source} for m in CATALOG.values()
    ]
    if json:
        print_json(rows)
        return
    table = Table("name", "formula", "source")
    for row in rows:
        table.add_row(*(escape(value) for value in row.values()))
    out().print(table)
    out().print("power-law(a,b) is W * X^a * G^b for any a and b, power-law(a,b,c) has D^c too.")


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
    read = read_metric(metric)
    told = explain(read)
    if json:
        print_json(asdict(told))
        return
    console = out()
    console.print(Panel(escape(told.formula), title=escape(metric)))
    console.print(escape(told.words))
    if read.name in CATALOG:
        console.print(f"Source: {escape(told.source)}.")
    if told.simplified != told.formula:
        console.print(f"Prunes the same weights as: [bold]{escape(told.simplified)}[/]")
    console.print(escape(told.tree))
    for name in told.same_as:
        if name == metric.strip().lower():
            continue
        console.print(f"Ranks weights exactly as [bold]{name}[/] does.")
    table = Table("metric", "pruned in common at 50 %")
    for name, share in sorted(told.agreement.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{share:.1%}")
    console.print(table)
