"""Several sparsities of one model, read by turns: each as if it were alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from prunerzero.evolution import Case, Several
from prunerzero.language.perplexity import perplexity
from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity
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
