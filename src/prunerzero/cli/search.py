"""``prunerzero search``."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prunerzero.cli.app import GroupOption, ModelsOption, SparsitiesOption, app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.language.source import BUNDLED
from prunerzero.tasks.options import RefitOptions, SearchOptions, SearchRefitOptions
from prunerzero.tasks.setup import Setup


@app.command()
@one_sentence
@with_options
def search(
    setup: Setup,
    options: SearchOptions,
    refit: SearchRefitOptions,
    output_dir: Annotated[Path, typer.Option(help="Folder of the run; resumed if it is one.")],
    model: ModelsOption = [BUNDLED],  # noqa: B006 (typer reads it)
    sparsity: SparsitiesOption = ["0.5"],  # noqa: B006
    group: GroupOption = "row",
    json: JsonOption = False,
) -> None:
    """Evolve a pruning metric for a model, a text and a sparsity, or for several of these.

    Statistics come from the calibration text, metrics are judged on the validation text, and the
    best is measured on the test text where one is named. Where no evolved metric beats the known
    ones, the result is the best of those. The same command again resumes;
    killed or interrupted, a search loses no more than the evaluations in flight.

    Example: [bold]prunerzero search --model ORG/NAME --dataset wikitext2 --sparsity 2:4
    --output-dir run[/], then [bold]prunerzero prune --model ORG/NAME --dataset wikitext2
    --sparsity 2:4 --metric run --output-dir pruned[/]

    For several models and sparsities at once: [bold]--model A --model B --sparsity 0.5 --sparsity
    2:4[/]; a metric is judged by the mean of ln(perplexity / dense perplexity).

    On all GPUs for two hours: [bold]prunerzero search --model ORG/NAME --dataset wikitext2
    --workers auto --time 2h --output-dir run[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.tasks.search import search as run

    began = time.monotonic()
    observer = TerminalObserver()
    setups = [replace(setup, model=one) for one in model]
    with observer.shown():
        found = run(setups, sparsity, output_dir, options, refit, group=group, observer=observer)
    if json:
        print_json(asdict(found))
    else:
        _print_search(found, setups, refit.whole, time.monotonic() - began)
    if found.interrupted:
        raise KeyboardInterrupt


def _times(search: float, command: float) -> str:
    """How long the search took, in all its sessions, and this command.

    >>> _times(300, 310), _times(300, 5)  # the second of a search that is resumed
    ('300 s of search, 310 s for the whole command',
     '300 s of search in all its sessions, 5 s for the whole command')
    """
    sessions = " in all its sessions" if search > command else ""
    return f"{search:.0f} s of search{sessions}, {command:.0f} s for the whole command"


def _print_search(found: Any, setups: list[Setup], refit: RefitOptions, seconds: float) -> None:
    from prunerzero.cli.terminal import count_of
    from prunerzero.metrics import Sparsity
    from prunerzero.report import cases_table, perplexity_table
    from prunerzero.tasks.commands import prune_command

    console = out()
    known = found.name if found.origin == "known" else ""
    called = f"{escape(known)}, " if known and known != found.metric else ""
    console.print(f"Best metric: {called}[bold]{escape(found.metric)}[/]")
    console.print(escape(found.answer))
    way = f"; {found.refit}" if found.refit else ""
    title = f"Sparsity {found.sparsity}{way}"
    if found.cases:
        console.print(cases_table(asdict(found), title))
    else:
        figures = {
            place: {known if name == "known" else name: value for name, value in of.items()}
            for place, of in found.perplexity.items()
        }
        in_race = found.judged if found.judged_on == "race" else None
        console.print(perplexity_table(figures, title, in_race=in_race))
    console.print(
        f"{count_of(found.evaluations, 'evaluation')} ({found.raced_out} raced out, "
        f"{found.failed} failed), "
        f"{count_of(found.duplicates_skipped, 'duplicate')} skipped; "
        f"{_times(found.seconds, seconds)}."
    )
    if found.judged_on == "race":
        after = f" after {refit.in_words} in full" if found.refit != refit.in_words else ""
        console.print(
            f"Interrupted before the result was measured on the whole text{after}: the same "
            "command again goes on."
        )
    if found.refit_of_candidates != found.refit:
        console.print(
            f"Candidates were judged after {found.refit_of_candidates}; the figures above are "
            f"after {found.refit} in full."
        )
    sparsities = [Sparsity.parse(one, found.group) for one in found.sparsity.split(", ")]
    pairs = list(product(setups, sparsities))
    for number, (setup, sparsity) in enumerate(pairs, start=1):
        ending = f"pruned-{number}" if len(pairs) > 1 else "pruned"
        command = prune_command(setup, found.output_dir, sparsity, refit, ending)
        console.print(f"Prune with it: {command}", markup=False, soft_wrap=True)
