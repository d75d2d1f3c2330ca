"""The figures of a tuned model: each part, each layer, samples side by side."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import fmean
from typing import Any, Literal

import numpy as np

from prunerzero.exponential import exp
from prunerzero.language.bootstrap import LEAST_WINDOWS, paired_bootstrap
from prunerzero.language.corpora import Part
from prunerzero.language.samples import continuations, prompts_of
from prunerzero.metrics import Metric, Sparsity
from prunerzero.pruning.blocks import block_lists
from prunerzero.tasks.doubts import dense_doubt, interval_doubt, pruned_doubt, told
from prunerzero.tasks.tune_result import (
    LayerFigures,
    Limit,
    PartFigures,
    Sample,
    TaskFigures,
)
from prunerzero.tasks.tuning.limit import allowed_on
from prunerzero.tasks.tuning.workbench import Workbench
from prunerzero.tasks.unseen import judged_doubts

SENSITIVITY_WINDOWS = 4
SENSITIVITY_SECONDS = 60.0
"""Longer than this, layers are pruned a block at a time."""


def part_figures(
    bench: Workbench, metric: Metric, sparsity: Sparsity, part: Part, limit: Limit
) -> PartFigures:
    """Dense against pruned on a part, with intervals and divergence; on each text of several."""
    places = bench.work.texts.places(part)
    texts = [_figures(bench, metric, sparsity, place, limit) for place in places]
    if len(texts) == 1:
        return texts[0]
    tokens = [figures.compared_tokens for figures in texts]
    moved = {
        "kl": fmean([figures.divergence for figures in texts], tokens),
        "agreement": fmean([figures.agreement for figures in texts], tokens),
        "tokens": sum(tokens),
    }
    mixture = _figures(bench, metric, sparsity, part, limit, moved)
    kept = [figures.within for figures in texts if figures.within is not None]
    sure = [figures.confidence for figures in texts if figures.confidence is not None]
    return replace(
        mixture,
        allowed=None,
        within=all(kept) if kept else None,
        confidence=min(sure) if len(sure) == len(texts) else None,
        texts=tuple(texts),
    )


def _figures(
    bench: Workbench,
    metric: Metric,
    sparsity: Sparsity,
    place: str,
    limit: Limit,
    moved: dict[str, Any] | None = None,
) -> PartFigures:
    """Of a part, or of one of its texts; ``moved`` is the divergence where it is known."""
    dense, pruned = bench.dense(place), bench.pruned(metric, sparsity, place)
    enough = len(dense.losses) >= LEAST_WINDOWS
    sure = paired_bootstrap(dense.losses, pruned.losses) if enough else None
    rise = exp(pruned.loss - dense.loss) - 1
    allowed = allowed_on(limit, exp(dense.loss))
    within = None if allowed is None else exp(pruned.loss) <= allowed
    confidence: float | None = None
    if sure is None:
        pass
    elif limit.kind == "degradation":
        confidence = float(np.mean(sure.ratios <= 1 + limit.value))
    elif allowed is not None:
        confidence = float(np.mean(sure.perplexities <= allowed))
    if moved is None:
        moved = bench.ledger.recall(
            f"divergence of {bench.name(metric, sparsity)}, {place}",
            lambda: _divergence(bench, metric, sparsity, place),
        )
    text = bench.work.texts.of(place)
    return PartFigures(
        text=text.name,
        windows=len(text.windows),
        window_length=bench.work.window_length,
        dense=exp(dense.loss),
        dense_interval=None if sure is None else sure.dense,
        pruned=exp(pruned.loss),
        pruned_interval=None if sure is None else sure.pruned,
        rise=rise,
        rise_interval=None if sure is None else sure.rise,
        allowed=allowed,
        within=within,
        confidence=confidence,
        divergence=moved["kl"],
        agreement=moved["agreement"],
        compared_tokens=moved["tokens"],
    )


def part_doubts(bench: Workbench, metric: Metric, sparsity: Sparsity) -> tuple[str, ...]:
    """What cannot be right about the figures of any text of either part."""
    doubts: list[str | None] = [*judged_doubts(bench.work.texts)]
    both: tuple[Part, ...] = ("validation", "test")
    for place in (place for part in both for place in bench.work.texts.places(part)):
        dense, pruned = bench.dense(place), bench.pruned(metric, sparsity, place)
        doubts += [
            dense_doubt(place, exp(dense.loss), bench.work.texts.of(place).windows),
            pruned_doubt(place, dense.losses, pruned.losses),
            interval_doubt(place, len(dense.losses)),
        ]
    return told(doubts)


def _divergence(bench: Workbench, metric: Metric, sparsity: Sparsity, place: str) -> dict[str, Any]:
    work = bench.work
    reference = work.remember(place)
    with work.pruned_for_now():
        bench.prune(metric, sparsity)
        found = work.compare(place, "divergence", reference)
    assert found.divergence is not None
    return asdict(found.divergence)


def layer_figures(
    bench: Workbench, metric: Metric, sparsity: Sparsity
) -> tuple[tuple[LayerFigures, ...], Literal["layer", "block"], int]:
    """Sparsity and sensitivity of each layer; what was pruned at a time; on how many windows."""
    work = bench.work
    block_of = {
        name: int(name.removeprefix(f"{prefix}.").split(".")[0])
        for prefix, _ in block_lists(work.language_model.model)
        for name in work.layers
        if name.startswith(f"{prefix}.")
    }
    with work.pruned_for_now():
        zeros = bench.prune(metric, sparsity)
        weights = {name: layer.weight.clone() for name, layer in work.layers.items()}
    whole = bench.dense("validation")
    windows = min(SENSITIVITY_WINDOWS, len(whole.losses))
    seconds = len(work.layers) * windows * whole.seconds / len(whole.losses)
    one_by_one = seconds <= SENSITIVITY_SECONDS
    groups: dict[Any, list[str]] = {}
    for name in work.layers:
        groups.setdefault(name if one_by_one else block_of[name], []).append(name)
    dense = bench.dense("validation", windows)
    base, windows = dense.loss, len(dense.losses)  # of many texts more, one of each
    rises: dict[str, float] = {}
    with work.observer.count("sensitivity, validation text", len(groups) * windows) as advance:
        for done, names in enumerate(groups.values(), start=1):
            pruned = {name: weights[name] for name in names}
            rise = bench.with_weights(pruned, metric, sparsity, windows) - base
            rises.update(dict.fromkeys(names, rise))
            advance(done * windows)
    layers = tuple(
        LayerFigures(
            layer.name, block_of[layer.name], layer.shape, layer.sparsity, rises[layer.name]
        )
        for layer in zeros
    )
    return layers, "layer" if one_by_one else "block", windows


def samples(bench: Workbench, metric: Metric, sparsity: Sparsity, count: int) -> tuple[Sample, ...]:
    """Continuations of test windows, dense against pruned."""
    work = bench.work
    model, tokenizer = work.language_model.model, work.language_model.tokenizer
    prompts = prompts_of(work.texts.of("test").spread(count).windows, count)
    work.observer.stage("writing samples")
    dense = continuations(model, tokenizer, prompts)
    with work.pruned_for_now():
        bench.prune(metric, sparsity)
        pruned = continuations(model, tokenizer, prompts)
    texts = [tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
    return tuple(map(Sample, texts, dense, pruned))


def task_figures(
    bench: Workbench, metric: Metric, sparsity: Sparsity, limit: Limit
) -> TaskFigures | None:
    """The limit's task, dense against pruned; None where the limit is a perplexity."""
    if limit.task is None or limit.task_metric is None:
        return None
    dense, pruned = bench.score(None, None, limit), bench.score(metric, sparsity, limit)
    return TaskFigures(
        task=limit.task,
        metric=limit.task_metric,
        examples=dense.examples,
        dense=dense.value,
        dense_error=dense.error,
        pruned=pruned.value,
        pruned_error=pruned.error,
    )
