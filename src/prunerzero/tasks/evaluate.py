"""How well a model predicts a text, dense or pruned with each of several metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunerzero.errors import InputError
from prunerzero.language.corpora import Part
from prunerzero.metrics import Metric, Sparsity
from prunerzero.metrics.mask import Group
from prunerzero.pruning.blocks import check_widths
from prunerzero.pruning.pruner import prune_model
from prunerzero.tasks.metric_sources import read_metric
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.workspace import Setup, Workspace


@dataclass(frozen=True)
class Evaluation:
    """Perplexity of one model on one text, and the protocol it was measured by."""

    model: str
    text: str
    perplexity: float
    loss: float
    windows: int
    window_length: int
    settings: dict[str, Any]


def evaluate(setup: Setup, part: Part = "test", observer: Observer | None = None) -> Evaluation:
    """Perplexity of a model on one part of its text. Raises InputError."""
    work = Workspace(setup, observer)
    work.read(part)
    result = work.measure(part, "dense")
    return Evaluation(
        model=setup.model,
        text=work.text(part).name,
        perplexity=result.value,
        loss=result.loss,
        windows=result.windows,
        window_length=result.window_length,
        settings=work.describe(),
    )


@dataclass(frozen=True)
class Comparison:
    """Perplexity of one model pruned with each of several metrics, on the same windows.

    Attributes:
        sparsity: as text.
        group: within which scores compete.
        perplexity: part → name → perplexity; ``dense`` is the model unpruned.
        formulas: each metric's formula by its name.
        settings: all that the figures depend on.
    """

    sparsity: str
    group: Group
    perplexity: dict[str, dict[str, float]]
    formulas: dict[str, str]
    settings: dict[str, Any]


def compare(
    setup: Setup,
    metrics: list[str],
    sparsity: str | Sparsity,
    parts: tuple[Part, ...] | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Prune with each metric in turn, measure, and restore.

    Args:
        setup: model and texts.
        metrics: catalog names, formulas, JSON files or folders of searches.
        sparsity: ``"0.5"``, ``"2:4"`` …
        parts: which texts to measure; by default validation and test, those that are named.
        observer: told of progress.

    Raises:
        InputError, MetricError: nothing was written.
    """
    if not metrics:
        raise InputError("no metric is named; pass for example --metrics magnitude,wanda.")
    found = {name: read_metric(name) for name in metrics}
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    work = Workspace(setup, observer)
    if parts is None:
        both: tuple[Part, ...] = ("validation", "test")
        parts = tuple(part for part in both if work.has(part)) or ("validation",)
    work.read("calibration", *parts)
    return compare_in(work, found, sparsity, parts)


def compare_in(
    work: Workspace, metrics: Mapping[str, Metric], sparsity: Sparsity, parts: tuple[Part, ...]
) -> Comparison:
    """``compare`` for a workspace that is open already."""
    check_widths(work.layers, sparsity)
    for part in parts:
        work.text(part)
    gradients = any("G" in metric.expression.terminals for metric in metrics.values())
    statistics = work.statistics(gradients)
    perplexity = {str(part): {"dense": work.dense(part)} for part in parts}
    for name, metric in metrics.items():
        with work.pruned_for_now():
            prune_model(work.layers, statistics, metric.expression, sparsity)
            for part in parts:
                perplexity[part][name] = work.measure(part, name).value
    return Comparison(
        sparsity=str(sparsity),
        group=sparsity.group,
        perplexity=perplexity,
        formulas={name: str(metric.expression) for name, metric in metrics.items()},
        settings=work.describe(),
    )
