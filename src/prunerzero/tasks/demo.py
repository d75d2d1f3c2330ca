"""The main job in one go, on the bundled model: evolve, compare, prune, report."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from prunerzero import evolution
from prunerzero.arguments import path, whole
from prunerzero.errors import OtherRunError
from prunerzero.files import put_in_place, real, replace_folder, write_json, writing
from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity
from prunerzero.report import comparison
from prunerzero.tasks.compare import compare_in
from prunerzero.tasks.demo_plan import LEAST_EVALUATIONS, Plan, plan_for, time_a_window
from prunerzero.tasks.duration import in_minutes
from prunerzero.tasks.metric_sources import sparsity_of
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.output import check_output
from prunerzero.tasks.prune import prune_in
from prunerzero.tasks.report import write_report_of
from prunerzero.tasks.search_cases import search_in
from prunerzero.tasks.settings import versions
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

DEMO_SETUP = Setup(
    num_calibration_samples=48,
    num_validation_samples=64,
    num_test_samples=64,
)
"""Amounts of text that fit three minutes on two idle cores; a slower machine reads less."""

DEMO_EVALUATIONS = 500
SECOND_PATTERN = "2:4"
PLAN = "plan.json"
"""What an interrupted demo goes on with, in its folder."""


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

    The speed of the machine, with all else that it does, is measured first: where it is slow, fewer
    windows are read, so that a search of at least 80 evaluations is done in a few minutes. The
    result is the best of all metrics on the validation text, which may be a known one.

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
    wanted, output_dir = sparsity_of("sparsity", sparsity), path("output_dir", output_dir)
    if evaluations is not None:
        evaluations = whole("evaluations", evaluations, 1)
    check_output(output_dir, DEMO_SETUP, replaces="summary.json" if overwrite else None)
    partial = real(output_dir).with_name(real(output_dir).name + ".partial")
    work, plan = _planned(partial, observer, began, is_budget_given=bool(evaluations or seconds))
    settings = evolution.SearchSettings(
        seed=seed,
        evaluations=evaluations or DEMO_EVALUATIONS,
        seconds=plan.search_seconds if plan else seconds,
        least_evaluations=LEAST_EVALUATIONS if plan else 0,
        seed_metrics="catalog" if plan and plan.is_reduced else "none",
    )
    try:
        found, result = search_in(work, wanted, partial / "run", settings)
    except OtherRunError:  # left by a demo with other settings
        shutil.rmtree(partial)
        found, result = search_in(work, wanted, partial / "run", settings)
    if found.interrupted:
        raise KeyboardInterrupt
    chosen = Metric(found.name, Expression.parse(found.metric), "found by this demo")
    compared, evolved = dict(CATALOG), None
    if found.origin == "evolved":
        evolved = chosen
    elif own := [f for f in found.finalists if f["same_as"] is None]:
        formula = Expression.parse(own[0]["metric"])  # shown beside, though it is not the result
        evolved = compared["evolved"] = Metric("evolved", formula, "found by this demo")
    table = compare_in(work, compared, wanted, ("validation", "test"))
    if found.origin == "evolved":
        for part, figures in table.items():
            figures["evolved"] = found.perplexity[part]["evolved"]
    everything = {**CATALOG, **({"evolved": evolved} if evolved else {})}
    refitted = compare_in(work, everything, wanted, ("test",), RefitOptions("least-squares"))
    second = compare_in(work, everything, Sparsity.parse(SECOND_PATTERN), ("test",))
    shutil.rmtree(partial / "model", ignore_errors=True)
    pruned = prune_in(work, chosen, wanted, partial / "model", ["test"])
    history = [asdict(evaluation) for evaluation in result.evaluations]
    summary: dict[str, Any] = {
        "sparsity": str(wanted),
        "seed": seed,
        "evaluations": found.evaluations,
        "raced_out": found.raced_out,
        "duplicates_skipped": found.duplicates_skipped,
        "seconds": time.monotonic() - began,
        "answer": found.answer,
        "metric": found.metric,
        "tree": found.tree,
        "origin": found.origin,
        "name": found.name,
        "evolved": str(evolved.expression) if evolved else None,
        "model": DEMO_SETUP.model,
        "text": "python-docs",
        "window_length": work.window_length,
        "windows": found.settings["windows"],
        "perplexity": table,
        "refitted": refitted,
        "patterns": {SECOND_PATTERN: second},
        "finalists": list(found.finalists),
        "catalog": {name: str(metric.expression) for name, metric in CATALOG.items()},
        "command": shlex.join(
            ["prunerzero", "demo", "--sparsity", str(wanted), "--seed", str(seed)]
            + ([] if evaluations is None else ["--evaluations", str(evaluations)])
            + ([] if seconds is None else ["--time", f"{seconds:g}s"])
            + ["--output-dir", f"{output_dir}-again"]
        ),
        "versions": versions(),
        "warnings": [*dict.fromkeys((*found.warnings, *pruned.warnings))],
        "machine": f"{torch.get_num_threads()} × {platform.processor() or platform.machine()}",
    }
    write_json(partial / "history.json", history)
    write_json(partial / "summary.json", summary)
    with writing(partial / "report.html", "make room, and the same command goes on"):
        compared = comparison(summary, [asdict(layer) for layer in pruned.layers])
        write_report_of(partial / "report.html", asdict(found), history, compared=compared)
    (partial / PLAN).unlink(missing_ok=True)
    (replace_folder if overwrite else put_in_place)(partial, output_dir)
    return summary


def _planned(
    partial: Path, observer: Observer | None, began: float, *, is_budget_given: bool
) -> tuple[Workspace, Plan | None]:
    """The workspace with as much text as this machine can read, and the plan, which is told.

    A demo that was interrupted keeps to the plan it had; a budget that is given goes before any.
    """
    work = Workspace(DEMO_SETUP, observer)
    if is_budget_given:
        return work, None
    kept = partial / PLAN
    if kept.is_file():
        plan = Plan(**json.loads(kept.read_text(encoding="utf-8")))
    else:
        plan = plan_for(time_a_window(work), time.monotonic() - began)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, asdict(plan))
    told = f"this demo takes about {in_minutes(plan.seconds)} on this machine as busy as it is now"
    if plan.is_reduced:
        told += (
            f": it is slow, so {plan.validation} windows are read to judge a metric, "
            f"and the search begins with the known metrics"
        )
    work.observer.note(f"{told}.")
    loaded = work.language_model
    work = Workspace(
        replace(
            DEMO_SETUP,
            num_validation_samples=plan.validation,
            num_test_samples=plan.test,
            num_calibration_samples=plan.calibration,
        ),
        work.observer,
    )
    work.language_model = loaded
    return work, plan
