"""The main job in one go, on the bundled model: evolve, compare, prune, report."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunerzero import evolution
from prunerzero.errors import OtherRunError
from prunerzero.files import put_in_place, real, replace_folder, write_json, writing
from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity
from prunerzero.report import write_report
from prunerzero.tasks.compare import compare_in
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.output import check_output
from prunerzero.tasks.prune import prune_in
from prunerzero.tasks.search import search_in
from prunerzero.tasks.workspace import Setup, Workspace, versions

DEMO_SETUP = Setup(
    num_calibration_samples=48,
    num_validation_samples=64,
    num_test_samples=64,
)
"""Amounts of text that fit three minutes on two cores."""

DEMO_SECONDS = 175.0
"""Of the whole demo; the search gets what measuring leaves of it."""

LEAST_SEARCH_SECONDS = 45.0
DEMO_EVALUATIONS = 500
SECOND_PATTERN = "2:4"


def run_demo(
    output_dir: Path,
    *,
    sparsity: str = "0.5",
    seed: int = 0,
    evaluations: int | None = None,
    seconds: float | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Evolve a metric on the bundled model and leave ``summary.json``, ``report.html``, ``model/``.

    Until all is done the folder is called ``NAME.partial``; after an interruption the same call
    goes on from there.

    Args:
        output_dir: must be absent or empty, unless ``overwrite``.
        sparsity: what the metric is evolved for.
        seed: of the evolution.
        evaluations, seconds: budgets of the search, in place of the demo's own.
        overwrite: replace ``output_dir`` once the new result is complete.
        observer: told of progress.

    Returns:
        What ``summary.json`` holds.

    Raises:
        InputError, MetricError: what was asked cannot be done.
    """
    began = time.monotonic()
    wanted = Sparsity.parse(sparsity)
    check_output(output_dir, DEMO_SETUP, replaces="summary.json" if overwrite else None)
    partial = real(output_dir).with_name(real(output_dir).name + ".partial")
    work = Workspace(DEMO_SETUP, observer)
    work.statistics(gradients=True)
    if seconds is None and evaluations is None:
        seconds = max(LEAST_SEARCH_SECONDS, DEMO_SECONDS - _measuring_seconds(work, began))
    settings = evolution.SearchSettings(
        seed=seed, evaluations=evaluations or DEMO_EVALUATIONS, seconds=seconds
    )
    try:
        found, result = search_in(work, wanted, partial / "run", settings)
    except OtherRunError:  # left by a demo with other settings
        shutil.rmtree(partial)
        found, result = search_in(work, wanted, partial / "run", settings)
    if found.interrupted:
        raise KeyboardInterrupt
    evolved = Metric("evolved", Expression.parse(found.metric), "found by this demo")
    table = compare_in(work, CATALOG, wanted, ("validation", "test"))
    for part, figures in table.items():
        figures["evolved"] = found.perplexity[part]["evolved"]
    everything = {**CATALOG, "evolved": evolved}
    second = compare_in(work, everything, Sparsity.parse(SECOND_PATTERN), ("test",))
    shutil.rmtree(partial / "model", ignore_errors=True)
    pruned = prune_in(work, evolved, wanted, partial / "model", ["test"])
    history = [asdict(evaluation) for evaluation in result.evaluations]
    summary: dict[str, Any] = {
        "sparsity": str(wanted),
        "seed": seed,
        "evaluations": found.evaluations,
        "raced_out": found.raced_out,
        "duplicates_skipped": found.duplicates_skipped,
        "seconds": time.monotonic() - began,
        "metric": found.metric,
        "tree": found.tree,
        "model": DEMO_SETUP.model,
        "text": "python-docs",
        "window_length": work.window_length,
        "windows": found.settings["windows"],
        "perplexity": table,
        "patterns": {SECOND_PATTERN: second},
        "finalists": list(found.finalists),
        "catalog": {name: str(metric.expression) for name, metric in CATALOG.items()},
        "command": f"prunerzero demo --sparsity {wanted} --seed {seed}",
        "versions": versions(),
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}",
    }
    write_json(partial / "history.json", history)
    write_json(partial / "summary.json", summary)
    with writing(partial / "report.html", "make room, and the same command goes on"):
        write_report(
            partial / "report.html", summary, history, [asdict(layer) for layer in pruned.layers]
        )
    (replace_folder if overwrite else put_in_place)(partial, output_dir)
    return summary


def _measuring_seconds(work: Workspace, began: float) -> float:
    """What the demo takes beside the search, as far as the dense model's perplexity tells."""
    start = time.monotonic()
    work.dense("validation")
    work.dense("test")
    both = time.monotonic() - start
    # every metric and the evolved one on both parts; then 2:4, the dense model's logits and the
    # pruned model beside them on the test part
    passes = (len(CATALOG) + 1) * 1.5 + 2
    return start - began + both * (1 + passes)
