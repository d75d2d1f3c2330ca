"""Several sparsities of one model, read by turns: each as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tiny_model import tiny_model

from prunerzero.evolution import AtOnce, Case, Placed, Several
from prunerzero.language.perplexity import perplexity
from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_grams
from prunerzero.pruning.refit import Refit
from prunerzero.pruning.statistics import collect_statistics

WINDOWS = torch.randint(0, 32, (24, 20), generator=torch.Generator().manual_seed(1))
SPARSITIES = [Sparsity.parse(text) for text in ("0.5", "2:4", "0.3")]
NAN = Expression.parse("mms(W - W)")


@pytest.fixture(params=["none", "least-squares"])
def refit(request):
    return Refit(request.param)


@pytest.fixture
def measure(model, layers, refit):
    """The fitness of a sparsity, made anew."""
    statistics = collect_statistics(model, layers, WINDOWS)
    grams = collect_grams(model, layers, WINDOWS) if refit else None
    return lambda sparsity: PrunedLoss(
        model, layers, statistics, sparsity, WINDOWS, windows_per_chunk=2, race_chunks=7,
        refit=refit, grams=grams,
    )  # fmt: skip


@examples(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.lists(st.integers(0, 2), max_size=40),
    names=st.lists(st.sampled_from(["wanda", "fisher", "magnitude"]), min_size=3, max_size=3),
)
def test_each_gives_the_losses_that_it_gives_alone_however_turns_are_taken(
    measure, layers, order, names
):
    metrics = [CATALOG[name].expression for name in names]
    pairs = list(zip(SPARSITIES, metrics, strict=True))
    alone = [list(measure(s).losses(e)) for s, e in pairs]
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    first = measure(SPARSITIES[0])
    fitnesses = [first, *map(first.at, SPARSITIES[1:])]
    readings = [f.losses(e) for f, e in zip(fitnesses, metrics, strict=True)]
    read: list[list[float]] = [[], [], []]
    for turn in [*order, *[0] * 12, *[1] * 12, *[2] * 12]:  # to the end of each
        read[turn] += [loss for loss in [next(readings[turn], None)] if loss is not None]
    assert read == alone
    for reading in readings:
        reading.close()
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name])


def test_chunks_that_are_all_begun_before_any_is_waited_for_have_the_losses_they_have_alone(
    measure, layers
):
    metrics = [CATALOG[name].expression for name in ("wanda", "fisher", "magnitude")]
    alone = [list(measure(s).losses(e)) for s, e in zip(SPARSITIES, metrics, strict=True)]
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    first = measure(SPARSITIES[0])
    fitnesses = [first, *map(first.at, SPARSITIES[1:])]
    begun = [f.begun(e) for f, e in zip(fitnesses, metrics, strict=True)]
    waits = list(zip(*begun, strict=True))
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name])
    found = [[wait() for wait in chunk] for chunk in reversed(waits)]
    assert [list(losses) for losses in zip(*reversed(found), strict=True)] == alone


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize("group", ["row", "layer", "model"])
def test_on_two_gpus_models_that_are_read_at_once_have_the_losses_they_have_alone(refit, group):
    """Models so large that a GPU is behind the CPU, which does not wait between begun chunks."""
    windows = torch.randint(0, 32, (48, 60), generator=torch.Generator().manual_seed(1))
    refit = replace(refit, solver_steps=8) if refit else refit
    sparsities = [Sparsity(0.5, group=group), Sparsity(0.6, group=group)]

    def cases(devices: list[str]) -> list[Placed]:
        found = []
        for seed, device in enumerate(devices):
            model = tiny_model(seed, hidden_size=1024, intermediate_size=2048).to(device).bfloat16()
            layers = prunable_layers(model)
            first = PrunedLoss(
                model, layers, collect_statistics(model, layers, windows[:8]), sparsities[0],
                windows, windows_per_chunk=2, race_chunks=16, refit=refit,
                grams=collect_grams(model, layers, windows[:8]) if refit else None,
            )  # fmt: skip
            each = [first, first.at(sparsities[1])]
            found += [Placed(one, [0.0] * first.total_chunks, device) for one in each]
        return found

    one_gpu, two_gpus = Several(cases(["cuda:0"] * 2)), AtOnce(cases(["cuda:0", "cuda:1"]))
    for name in ("wanda", "fisher", "pruner-zero"):
        metric = CATALOG[name].expression
        assert list(two_gpus.losses(metric)) == list(one_gpu.losses(metric))
        reading = two_gpus.losses(metric)  # left in the midst, it leaves dense models
        next(reading)
        reading.close()
    assert torch.cuda.current_device() == 0


def test_the_fitness_of_several_is_the_mean_of_what_brute_force_measures(measure, model):
    first = measure(SPARSITIES[0])
    dense = perplexity(model, WINDOWS)
    in_chunks = first.in_chunks(dense.losses)
    several = Several([Case(f, in_chunks) for f in (first, *map(first.at, SPARSITIES[1:]))])
    metric = CATALOG["wanda"].expression
    rises = []
    for sparsity in SPARSITIES:
        losses = list(measure(sparsity).losses(metric))
        rises.append(sum(losses) / len(losses) - dense.loss)
    found = list(several.losses(metric))
    assert sum(found) / len(found) == pytest.approx(sum(rises) / len(rises), abs=1e-6)


def test_the_losses_of_windows_are_told_in_the_chunks_of_the_race(measure, model):
    """A sparsity of zero prunes nothing: then all rises are zero."""
    nothing = measure(Sparsity.parse("0"))
    in_chunks = nothing.in_chunks(perplexity(model, WINDOWS).losses)
    losses = list(nothing.losses(CATALOG["wanda"].expression))
    assert losses == pytest.approx(in_chunks, abs=1e-6)


def test_a_metric_that_fails_at_one_leaves_the_dense_weights(measure, layers):
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    first = measure(SPARSITIES[0])
    other = first.at(SPARSITIES[1])
    reading = first.losses(CATALOG["wanda"].expression)
    next(reading)
    with pytest.raises(ScoreError):
        next(other.losses(NAN))
    expected = list(measure(SPARSITIES[0]).losses(CATALOG["wanda"].expression))
    assert list(reading) == expected[1:]
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name])
