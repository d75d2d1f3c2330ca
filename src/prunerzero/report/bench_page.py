"""The report of ``bench``: one HTML file that needs no network, from ``results.json`` alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import bench_charts, charts
from .bench_words import (
    PHRASES,
    Column,
    Figures,
    answer,
    cells,
    columns_of,
    frontier,
    gpu_text,
    in_graphs,
    short_names,
    speed_of,
    speeds_of,
    without_graphs,
)
from .phrases import Language, Say, say_in
from .rendering import render, write_page
from .wording import MISSING, bytes_text, finite


def write_bench_report(result: Mapping[str, Any], path: Path, language: Language = "en") -> None:
    """Write the page to ``path``, whole or not at all.

    Args:
        result: what ``results.json`` holds.
        path: of the HTML file.
        language: English or Japanese; figures and names are the same in both.
    """
    write_page(path, _render(result, language))


def _render(result: Mapping[str, Any], language: Language) -> str:
    say = say_in(language, PHRASES)
    models: list[Figures] = list(result["models"])
    short = short_names(models)
    columns, graphs = columns_of(result), in_graphs(result)
    perplexity = say("axis_perplexity")
    figures = {
        "bytes": bench_charts.bytes_chart(models, say("axis_bytes"), perplexity),
        "speed": bench_charts.speed_chart(
            models, say("axis_speed_in_graphs" if graphs else "axis_speed"), perplexity
        ),
    }
    return render(
        "bench.html.j2",
        {},
        result=result,
        language=language,
        say=say,
        headline=answer(result, language),
        columns=_columns(columns, say),
        rows=[(model, cells(model, columns)) for model in models],
        in_graphs=graphs,
        speed_columns=_columns(speeds_of(result), say),
        speed_rows=[
            (model, cells(without_graphs(model), speeds_of(result))) for model in models if graphs
        ],
        on_frontier={
            "bytes": _names(frontier(models, lambda m: finite(m["file_bytes"])), short, say),
            "speed": _names(frontier(models, speed_of, highest=True), short, say),
        },
        notes=[(model["model"], note) for model in models for note in model["notes"]],
        protocol=_protocol(result["protocol"], say),
        machine=_machine(result),
        palette=charts.PALETTE,
        # plotly writes "<" inside JSON as \u003c, so that no name can end the script.
        figures={name: figure.to_json() for name, figure in figures.items()},
    )


def _names(models: Sequence[Figures], short: Mapping[str, str], say: Say) -> str:
    return say("list_comma").join(short[model["model"]] for model in models) or MISSING


def _columns(columns: Sequence[Column], say: Say) -> list[str]:
    """The heads of the columns of ``cells``."""
    return [say(f"column_{name}", size=key) for name, key in columns]


def _protocol(protocol: Mapping[str, Any], say: Say) -> list[str]:
    """How it was measured, in sentences."""
    lists = {
        name: say("list_comma").join(map(str, protocol[name]))
        for name in ("batches", "prefill_tokens")
    }
    keys = ["how_threads", "how_speed", "how_perplexity", "how_memory", "how_load", "how_file"]
    if protocol["in_graphs"]:
        keys[1:2] = ["how_speed", "how_in_graphs"]
    else:
        keys[1:2] = ["how_speed", "how_plain_loop"]
    if protocol["device"] != "cpu":
        keys[keys.index("how_memory")] = "how_gpu_memory"
    return [say(key, **{**protocol, **lists}) for key in keys]


def _machine(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = result["machine"]
    gpu = gpu_text(machine)
    return [
        *([] if gpu is None else [("gpu", gpu)]),
        *([] if gpu is None else [("gpu_memory", bytes_text(machine["gpu"]["memory_bytes"]))]),
        ("cpu", str(machine["cpu"])),
        ("instruction_sets", ", ".join(machine["instruction_sets"]) or MISSING),
        ("cores", str(machine["cores"] or MISSING)),
        ("memory", bytes_text(machine["memory_bytes"])),
        ("platform", str(machine["platform"])),
        *((name, str(version)) for name, version in result["versions"].items()),
    ]
