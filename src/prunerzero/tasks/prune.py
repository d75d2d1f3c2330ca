"""Prune a model and write it as a checkpoint that loads like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Unpack

from prunerzero.arguments import path
from prunerzero.errors import InputError
from prunerzero.exponential import exp
from prunerzero.files import new_folder, writing
from prunerzero.language.corpora import Part
from prunerzero.language.divergence import MEMORY
from prunerzero.metrics import Expression, Metric, ScoreError, Sparsity
from prunerzero.metrics.sparsity import Group
from prunerzero.options import takes
from prunerzero.pruning.by_block.partial_checkpoint import PartialCheckpoint, is_begun
from prunerzero.pruning.pruner import check_differs
from prunerzero.tasks.by_block import BlockByBlock, Way, parts_read, prune_blocks
from prunerzero.tasks.fits import fits
from prunerzero.tasks.keywords import RefitKeywords
from prunerzero.tasks.metric_sources import read_metric_and_origin, settle
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.output import check_output
from prunerzero.tasks.prune_loaded import check_blocks, prune_loaded
from prunerzero.tasks.pruned import Pruned, result_of, with_doubts, write_results
from prunerzero.tasks.publish import check_repository, push_folder
from prunerzero.tasks.read_back import check_written, digests_of
from prunerzero.tasks.recipe import check_same
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace


@takes(RefitOptions, "refit")
def prune(
    setup: Setup | str,
    metric: str | Path | Metric | Expression,
    sparsity: str | float | Sparsity | None,
    output_dir: Path | str,
    observer: Observer | None = None,
    way: Way = Way(),
    refit: RefitOptions = RefitOptions(),
    *,
    group: Group | None = None,
    recipe: Mapping[str, Any] | None = None,
    push_to_hub: str | None = None,
    **keywords: Unpack[RefitKeywords],
) -> Pruned:
    """Prune a model with a metric and save it.

    The folder loads with ``AutoModelForCausalLM.from_pretrained`` (a vision-language model with
    ``AutoModelForImageTextToText``): ordinary weights with zeros in the checkpoint's dtype,
    tokenizer and processor, model card, ``recipe.yaml``, ``metric.json``, ``figures.json``.

    Args:
        setup: model and texts, or the model alone where it brings its text. Perplexity before and
            after is measured on the test text, else on the validation text, where one is named.
        metric: catalog name, formula, JSON file, or the folder of a search, a tuning or a pruned
            model; or the metric itself.
        sparsity: ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"`` …; None for what the metric of a run was
            evolved for, and else 0.5.
        output_dir: must be absent or empty.
        observer: told of progress.
        way: how the model is gone through: as a whole, or block by block.
        refit: what is done with the metric's masks; each field of ``RefitOptions`` is a keyword
            too.
        group: scores compete within a ``"row"``, a ``"layer"`` or the ``"model"``; None for that of
            ``sparsity`` or of the metric's run.
        recipe: what ``read_recipe`` gives. Where ``setup`` names the same model and texts, they
            must be what they were, and the result tells whether the weights are the same again.
        push_to_hub: ``ORG/NAME`` of a new or empty repository, private where it is made.

    Raises:
        InputError, MetricError: nothing was written.
        OutputError: the same; or all was written, but it could not be pushed.
    """
    observer = observer or Observer()
    output_dir = path("output_dir", output_dir)
    found, origin = read_metric_and_origin(metric)
    setup, sparsity = settle(Setup.of(setup), sparsity, group, [(found, origin)], observer, refit)
    check_output(output_dir, setup)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    if not _by_block(setup, found, sparsity, output_dir, way, refit, observer):
        work = Workspace(setup, observer)
        parts = _read_texts(work, found, refit, recipe)
        in_order = way.propagate == "pruned"
        result = prune_in(
            work, found, sparsity, output_dir, parts, push_to_hub, refit, in_order=in_order
        )
    else:
        work, result = _prune_by_block(
            setup, found, sparsity, output_dir, observer, way, refit, recipe, push_to_hub
        )
    if recipe is not None:
        before, after = recipe["fingerprints"], result.settings["fingerprints"]
        result = replace(result, repeated=before.get("weights") == after["weights"])
    if push_to_hub is not None:
        where = push_folder(output_dir, push_to_hub, work.observer)
        result = replace(result, pushed_to=where)
    return result


def _prune_by_block(
    setup: Setup,
    metric: Metric,
    sparsity: Sparsity,
    output_dir: Path,
    observer: Observer,
    way: Way,
    refit: RefitOptions,
    recipe: Mapping[str, Any] | None,
    repository: str | None,
) -> tuple[Workspace, Pruned]:
    keeps = "what is finished is kept there; make room, and the same command goes on"
    with PartialCheckpoint(output_dir) as partial, writing(partial.folder, keeps):
        run = BlockByBlock(setup, way, partial.work, observer, refit)
        work = run.work
        parts = _read_texts(work, metric, refit, recipe)
        try:
            layers, losses = prune_blocks(run, partial, metric, sparsity, parts)
        except KeyboardInterrupt:
            observer.stage(f"stopped; the same command goes on from '{partial.folder}'")
            raise
        perplexity = {
            place: {what: exp(fmean(of_each)) for what, of_each in found.items()}
            for place, found in losses.items()
        }
        result = result_of(work, metric, layers, perplexity, output_dir, run.describe())
        result = with_doubts(work, result, losses, refit)
        observer.stage(f"writing {output_dir}")
        result = write_results(partial.folder, work, metric, sparsity, result, repository)
        partial.finish()
    return work, result


def _by_block(
    setup: Setup,
    metric: Metric,
    sparsity: Sparsity,
    output_dir: Path,
    way: Way,
    refit: RefitOptions,
    observer: Observer,
) -> bool:
    why = ""
    in_order = way.propagate == "pruned" and refit.refit and sparsity.group == "model"
    if way.block_by_block or (way.propagate != Way.propagate and not in_order):
        why = "as asked"
    elif is_begun(output_dir):
        why = "as it was begun so"
    elif not fits(setup, metric, refit):
        why = "as the whole model does not fit in free memory"
    if why and sparsity.group == "model":
        raise InputError(
            f"blocks are pruned one by one, {why}, so scores cannot compete within the whole "
            'model; pass `group="layer"`.'
        )
    needed = "training needs" if refit.reconstruct else "`steps` need" if refit.steps > 1 else ""
    if why and needed:
        option = "reconstruct" if refit.reconstruct else "steps"
        raise InputError(
            f"blocks are pruned one by one, {why}, and {needed} the whole model on its device; "
            f"leave out `{option}`, or prune without `block_by_block`."
        )
    if why:
        observer.stage(f"pruning block by block, {why}")
    return bool(why)


def _read_texts(
    work: Workspace, metric: Metric, refit: RefitOptions, recipe: Mapping[str, Any] | None
) -> list[Part]:
    """Read the texts that are needed; returns those to measure perplexity on."""
    choices: tuple[Part, ...] = ("test", "validation")
    parts = [part for part in choices if work.texts.has(part)][:1]
    needed = [*parts_read(metric, refit), *parts]
    work.texts.read(*needed)
    if recipe is not None:
        check_same(work, recipe, needed)
    return parts


def prune_in(
    work: Workspace,
    metric: Metric,
    sparsity: Sparsity,
    output_dir: Path,
    parts: list[Part],
    repository: str | None = None,
    refit: RefitOptions = RefitOptions(),
    *,
    in_order: bool = False,
) -> Pruned:
    """``prune`` for a workspace that is open already; its model stays pruned.

    Nothing is pushed: ``repository`` is where the model card says that the model is.
    ``in_order`` is as for ``prune_loaded``.
    """
    work.check_widths(sparsity)
    if refit.reconstruct or in_order:
        check_blocks(work, "reconstruct" if refit.reconstruct else "propagate")
    places = [place for part in parts for place in work.texts.places(part)]
    statistics = work.calibration.statistics(metric.expression.terminals)
    try:
        check_differs(work.layers, statistics, metric.expression, sparsity)
    except ScoreError as error:
        raise ScoreError(f"{metric.name!r}, with this model: {error}") from None
    before = {place: work.dense(place) for place in places}
    references = {place: work.remember(place, MEMORY // len(places)) for place in places}
    layers = prune_loaded(work, metric.expression, sparsity, refit, in_order=in_order)
    after = {place: work.compare(place, "pruned", references[place]) for place in places}
    perplexity = {p: {"dense": before[p], "pruned": after[p].value} for p in places}
    divergence = {p: d for p in places if (d := after[p].divergence) is not None}
    settings = describe(work) | asdict(refit)
    settings["propagate"] = "pruned" if in_order else "dense"
    result = result_of(work, metric, layers, perplexity, output_dir, settings)
    losses = {
        place: {"dense": work.dense_figures(place).losses, "pruned": after[place].losses}
        for place in places
    }
    result = with_doubts(work, replace(result, divergence=divergence), losses, refit)
    work.observer.stage(f"writing {output_dir}")
    measured = digests_of(work.language_model.model)
    with new_folder(output_dir) as folder:
        work.language_model.save(folder)
        for weights in folder.glob("*.safetensors"):  # safetensors lets nobody else read them
            shutil.copymode(folder / "config.json", weights)
        with TemporaryDirectory(dir=folder, prefix=".read-back-") as scratch:
            check_written(folder, Path(scratch), measured, work.setup.trust_remote_code)
        return write_results(folder, work, metric, sparsity, result, repository)
