"""Pruning the loaded model of a workspace in place: masks, refits, steps, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from torch import Tensor

from prunerzero.errors import ModelError
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import find_blocks
from prunerzero.pruning.by_block.block_calls import NotOneByOneError
from prunerzero.pruning.by_block.block_passes import BlockPasses, Resources
from prunerzero.pruning.by_block.by_method import check_one_by_one
from prunerzero.pruning.by_block.held_blocks import HeldBlocks
from prunerzero.pruning.by_block.in_order import work_through
from prunerzero.pruning.by_block.reconstruct import reconstruct
from prunerzero.pruning.deterministic import deterministic
from prunerzero.pruning.pruner import LayerSparsity, masks_of, outcome, prune_model
from prunerzero.pruning.refit import OutputChange, Refit, refit_in_place, sparsity_at
from prunerzero.pruning.statistics import Statistics
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.workspace import Workspace

_HIDDEN_STATES = 4 << 30
"""Bytes of memory for hidden states between two blocks; more than that goes to files."""


def prune_loaded(
    work: Workspace,
    expression: Expression,
    sparsity: Sparsity,
    how: RefitOptions = RefitOptions(),
    *,
    in_order: bool = False,
) -> tuple[LayerSparsity, ...]:
    """Prune the dense model in place with a metric, and use its masks as ``how`` says.

    Of several steps, each takes statistics and Gram matrices of the model that the one before left;
    all aim at the outputs of the dense weights.

    Args:
        work: holds the model and its calibration text.
        expression: the metric.
        sparsity: the share or pattern to prune, and the group in which scores compete.
        how: how the masks are used.
        in_order: whether a layer is refitted from what it reads after all layers before it were
            pruned and refitted, and not from what it reads in the dense model.

    Raises:
        ScoreError, SparsityError: as ``prune_model``.
    """
    if not how.reconstruct:
        return _in_steps(work, expression, sparsity, how, in_order)
    dense = {name: layer.weight.to("cpu", copy=True) for name, layer in work.layers.items()}
    found = _in_steps(work, expression, sparsity, how, in_order)
    _train(work, dense, how.reconstruct)
    # the errors told are of weights before training
    return tuple(replace(layer, error_of_mask=None, error=None) for layer in found)


def check_blocks(work: Workspace, option: str) -> None:
    """Raise ModelError where the model's blocks cannot run one by one, as ``option`` needs."""
    windows = work.texts.of("calibration").windows
    try:
        with resources_of(work) as resources:
            check_one_by_one(work.language_model.model, work.layers, windows, resources)
    except NotOneByOneError as error:
        raise ModelError(
            f"{error.reason}, so they cannot be worked on one after the other; leave out "
            f"`{option}`."
        ) from None


@contextmanager
def resources_of(work: Workspace) -> Iterator[Resources]:
    """What passes through the blocks of the loaded model may use."""
    with TemporaryDirectory(prefix="prunerzero-") as folder:
        yield Resources((work.language_model.device,), _HIDDEN_STATES, Path(folder))


def _in_steps(
    work: Workspace, expression: Expression, sparsity: Sparsity, how: RefitOptions, in_order: bool
) -> tuple[LayerSparsity, ...]:
    one_step: Callable[..., tuple[LayerSparsity, ...]] = _refit_in_order if in_order else _refit
    known = work.calibration.statistics(expression.terminals)
    if how.steps == 1:
        return one_step(work, known, expression, sparsity, how.refit)
    dense = {name: layer.weight.clone() for name, layer in work.layers.items()}
    found: tuple[LayerSparsity, ...] = ()
    for step in range(1, how.steps + 1):
        work.observer.stage(f"step {step} of {how.steps}")
        if step > 1:
            known = work.calibration.statistics_now(expression.terminals)
        part = sparsity_at(sparsity, step, how.steps)
        found = one_step(work, known, expression, part, how.refit, dense)
    return found


def _refit(
    work: Workspace,
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
    refit: Refit,
    dense: Mapping[str, Tensor] | None = None,
) -> tuple[LayerSparsity, ...]:
    """Prune, and refit all layers from what they read in the model as it is now.

    That is the dense model where no ``dense`` weights are kept beside it.
    """
    if not refit:
        return prune_model(work.layers, statistics, expression, sparsity)
    grams = work.calibration.grams if dense is None else work.calibration.grams_now()
    stored = work.stored_dtypes
    with work.observer.count("refitting", len(work.layers), "layers") as advance:
        return prune_model(
            work.layers, statistics, expression, sparsity, refit, grams, dense, stored, advance
        )


def _refit_in_order(
    work: Workspace,
    statistics: Statistics,
    expression: Expression,
    sparsity: Sparsity,
    refit: Refit,
    dense: Mapping[str, Tensor] | None = None,
) -> tuple[LayerSparsity, ...]:
    """Make all masks, and prune and refit layer after layer."""
    layers, stored, errors = work.layers, work.stored_dtypes, dict[str, OutputChange]()
    masks = masks_of(layers, statistics, expression, sparsity)

    def solve(name: str, gram: Tensor) -> None:
        target = None if dense is None else dense[name]
        errors[name] = refit_in_place(
            layers[name], gram, masks.pop(name), refit, sparsity, target, stored[name]
        )

    blocks = HeldBlocks(work.language_model.model, layers)
    with (
        resources_of(work) as resources,
        work.observer.count("refitting", len(blocks), "blocks") as advance,
        deterministic(strict=False),
        BlockPasses(blocks, work.texts.of("calibration").windows, resources) as passes,
    ):
        work_through(passes, solve, advance)
    return outcome(layers, statistics, expression, errors)


def _train(work: Workspace, dense: Mapping[str, Tensor], steps: int) -> None:
    """Train the weights of the pruned model that are not zero, block by block."""
    model, windows = work.language_model.model, work.texts.of("calibration").windows
    count, what = len(find_blocks(model)[1]), f"training, {steps} steps a block"
    with resources_of(work) as resources, work.observer.count(what, count, "blocks") as advance:
        errors = reconstruct(
            model,
            work.layers,
            dense,
            windows,
            steps,
            resources,
            advance,
            stored=work.stored_dtypes,
        )
    before, after = (fmean(getattr(e, when) for e in errors) for when in ("before", "after"))
    work.observer.note(
        f"{what}: of the blocks' outputs on the calibration text, {after:.2%} differs from the "
        f"dense model's on average, {before:.2%} before"
    )
