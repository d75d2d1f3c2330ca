"""``prunerzero bench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from prunerzero.cli.app import app, out
from prunerzero.cli.options import JsonOption, one_sentence, with_options
from prunerzero.cli.plain_output import print_json
from prunerzero.tasks.options import BenchOptions

IN_GRAPHS = (
    "Speeds in CUDA graphs are of models whose steps are recorded, with a static cache; "
    "generate() by itself runs them without, as in the last table."
)


@app.command()
@one_sentence
@with_options
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folders, hub ids, GGUF files, or 'bundled'. Rivals are made of the first.",
            show_default=False,
        ),
    ],
    options: BenchOptions,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json and report.html; an earlier result is replaced."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure what models cost on this machine: bytes, memory, time to load, speed, perplexity.

    All of them in one run, by turns, with equally many threads (OMP_NUM_THREADS), each in a process
    of its own: a GGUF file by llama.cpp, any other model by transformers in the dtype it is stored
    in. On a GPU (--device cuda) speeds are told in CUDA graphs and without. Ctrl-C keeps what was
    measured.

    Example: [bold]prunerzero bench ORG/NAME ./pruned --text my_text.txt --output-dir bench[/]

    Example: [bold]prunerzero bench ORG/NAME ./packed --rivals int8,int4,llama.cpp --dataset
    wikitext2[/]

    Example: [bold]prunerzero bench ./packed --rivals dense --device cuda --text my_text.txt[/]
    """
    from prunerzero.cli.terminal import TerminalObserver
    from prunerzero.report import bench_tables, gpu_text
    from prunerzero.tasks.bench import PAGE, RESULTS
    from prunerzero.tasks.bench import bench as run

    observer = TerminalObserver()
    with observer.shown():
        result = run(models, options, output_dir=output_dir, observer=observer)
    if json:
        print_json(asdict(result))
    else:
        console = out()
        console.print(*bench_tables(asdict(result)), sep="\n")
        if len(result.models) > 1:
            console.print(result.answer, markup=False, soft_wrap=True)
        if result.protocol["in_graphs"]:
            console.print(f"[bold]{IN_GRAPHS}[/]", soft_wrap=True)
        console.print(f"Protocol: {result.protocol['words']}.", markup=False, soft_wrap=True)
        machine = result.machine
        sets = ", ".join(machine["instruction_sets"])
        places = filter(None, (gpu_text(machine), f"{machine['cpu']} ({sets})"))
        console.print(f"Machine: {'; '.join(places)}.", markup=False, soft_wrap=True)
        if output_dir is not None:
            told = f"Report: {output_dir}/{PAGE}   All figures: {output_dir}/{RESULTS}"
            console.print(told, markup=False, soft_wrap=True)
    if result.interrupted:
        raise KeyboardInterrupt
