"""What a pruning tells of itself: its figures, their doubts, and the files beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from prunerzero.files import write_json, write_text
from prunerzero.language.cards import inherited_fields
from prunerzero.language.divergence import Divergence
from prunerzero.language.kinds import auto_class
from prunerzero.metrics import Metric, Sparsity
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.report import model_card
from prunerzero.tasks.doubts import dense_doubt, one_text_doubt, pruned_doubt, told
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.recipe import digest
from prunerzero.tasks.unseen import fitted_doubts
from prunerzero.tasks.workspace import Workspace


@dataclass(frozen=True)
class Pruned:
    """What was pruned and what it cost.

    Attributes:
        output_dir: the checkpoint.
        metric: the formula.
        sparsity: achieved share of zeros in the prunable layers.
        zeros, parameters: zero weights, and all parameters of the model.
        perplexity: part → ``dense`` and ``pruned``; empty where no text was named.
        divergence: part → how far the pruned model has moved from the dense one; empty where the
            model was pruned block by block.
        layers: how much of each layer is zero, and whether calibration tokens reached it.
        settings: all that the result depends on.
        repeated: whether the weights files are those of the recipe given, byte for byte; None
            where none was given.
        pushed_to: address on the hub, where it was pushed.
        warnings: what cannot be right about these figures, a sentence each.
    """

    output_dir: str
    metric: str
    sparsity: float
    zeros: int
    parameters: int
    perplexity: dict[str, dict[str, float]]
    layers: tuple[LayerSparsity, ...]
    settings: dict[str, Any]
    divergence: dict[str, Divergence] = field(default_factory=dict)
    repeated: bool | None = None
    pushed_to: str | None = None
    warnings: tuple[str, ...] = ()


def result_of(
    work: Workspace,
    metric: Metric,
    layers: tuple[LayerSparsity, ...],
    perplexity: dict[str, dict[str, float]],
    output_dir: Path,
    settings: dict[str, Any],
) -> Pruned:
    """The result of a pruning, before anything is known of doubts or of divergence."""
    zeros = sum(layer.zeros for layer in layers)
    return Pruned(
        output_dir=str(output_dir),
        metric=str(metric.expression),
        sparsity=zeros / sum(layer.weight.numel() for layer in work.layers.values()),
        zeros=zeros,
        parameters=sum(p.numel() for p in work.language_model.model.parameters()),
        perplexity=perplexity,
        layers=layers,
        settings=settings,
    )


def with_doubts(
    work: Workspace,
    result: Pruned,
    losses: Mapping[str, Mapping[str, Sequence[float]]],
    refit: RefitOptions,
) -> Pruned:
    """The result with what cannot be right in it, which is told too.

    Args:
        work: its texts.
        result: its perplexities.
        losses: place → the losses of its windows, ``dense`` and ``pruned``.
        refit: how the weights that stay were refitted.
    """
    doubts: list[str | None] = []
    if work.texts.sources("calibration"):
        measured = {place: work.texts.of(place) for place in losses}
        doubts += fitted_doubts(measured, work.texts.each("calibration"))
    for place, found in losses.items():
        dense = result.perplexity[place]["dense"]
        doubts.append(dense_doubt(place, dense, work.texts.of(place).windows))
        doubts.append(pruned_doubt(place, found["dense"], found["pruned"]))
    if refit.changes_weights:
        doubts.append(one_text_doubt([text.name for text in work.texts.each("calibration")]))
    for doubt in told(doubts):
        work.observer.note(doubt)
    return replace(result, warnings=told(doubts))


def write_results(
    folder: Path,
    work: Workspace,
    metric: Metric,
    sparsity: Sparsity,
    result: Pruned,
    repository: str | None,
) -> Pruned:
    """Write what a checkpoint tells of itself; returns the result with the weights' fingerprint."""
    fingerprints = {**result.settings["fingerprints"], "weights": digest(folder)}
    result = replace(result, settings={**result.settings, "fingerprints": fingerprints})
    recipe = {
        "metric": str(metric.expression),
        "sparsity": str(sparsity),
        "group": sparsity.group,
        **result.settings,
    }
    figures = asdict(result) | {
        "auto_class": auto_class(work.language_model.model.config).__name__,
        "window_length": work.window_length,
        "windows": result.settings["windows"],
    }
    tree = metric.expression.to_json()
    write_json(
        folder / "metric.json",
        {
            "name": metric.name,
            "formula": str(metric.expression),
            "tree": tree,
            "source": metric.source,
        },
    )
    write_json(folder / "figures.json", figures)
    card = model_card(
        recipe,
        figures,
        repository=repository,
        inherited=inherited_fields(work.setup.model, work.setup.revision),
    )
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    write_text(folder / "README.md", card)
    return result
