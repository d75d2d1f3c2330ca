from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_model

from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_inverse_diagonals
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import LayerStatistics, collect_statistics
from prunerzero.scoring import prune_mask

WINDOWS = torch.randint(0, 32, (10, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def statistics():
    """Of the model that each test has a new one of."""
    model = tiny_model()
    layers = prunable_layers(model)
    D = collect_inverse_diagonals(model, layers, WINDOWS)
    found = collect_statistics(model, layers, WINDOWS)
    return {name: replace(layer, D=D[name]) for name, layer in found.items()}


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("sparsity", ["0", "0.3", "0.5", "2:4", "4:8"])
def test_every_catalog_metric_prunes_exactly_what_was_asked(
    model, layers, statistics, name, sparsity
):
    sparsity = Sparsity.parse(sparsity)
    untouched = {n: p.clone() for n, p in model.named_parameters()}
    dense = {n: layer.weight.clone() for n, layer in layers.items()}
    report = prune_model(layers, statistics, CATALOG[name].expression, sparsity)
    for row in report:
        weight = layers[row.name].weight
        width = weight.shape[1]
        per_row = int(width * sparsity.fraction)
        assert ((weight == 0).sum(1) == per_row).all()
        assert row.zeros == per_row * weight.shape[0]
        assert torch.equal(weight[weight != 0], dense[row.name][weight != 0])
    for n, parameter in model.named_parameters():
        if n.removesuffix(".weight") not in layers:
            assert torch.equal(parameter, untouched[n])


def test_the_lowest_scores_go(layers, statistics):
    name, layer = next(iter(layers.items()))
    dense, found = layer.weight.clone(), statistics[name]
    score = dense.abs() * found.X.sqrt()
    prune_model(layers, statistics, CATALOG["wanda"].expression, Sparsity.parse("0.5"))
    assert torch.equal(layer.weight == 0, prune_mask(score, Sparsity.parse("0.5")))


def test_a_score_that_is_not_a_number_names_the_layer(layers, statistics):
    with pytest.raises(ScoreError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        prune_model(layers, statistics, Expression.parse("mms(W - W)"), Sparsity.parse("0.5"))


@pytest.fixture
def fitness(model, layers, statistics):
    return PrunedLoss(
        model,
        layers,
        statistics,
        Sparsity.parse("0.5"),
        WINDOWS,
        windows_per_chunk=2,
        race_chunks=3,
    )


def test_a_race_reads_some_of_the_chunks(fitness):
    assert (fitness.chunks, fitness.total_chunks) == (3, 5)
    assert len(list(fitness.losses(Expression.parse("W")))) == 5
    assert len(list(fitness.losses(Expression.parse("W"), 1, 3))) == 2


def test_losses_do_not_depend_on_where_reading_starts(fitness):
    metric = Expression.parse("W * sqrt(X)")
    whole = list(fitness.losses(metric))
    parts = list(fitness.losses(metric, 0, 3)) + list(fitness.losses(metric, 3))
    assert whole == parts


def test_losses_are_those_of_the_pruned_model(fitness, model, layers, statistics):
    metric = Expression.parse("W * sqrt(X)")
    mean = sum(fitness.losses(metric)) / fitness.total_chunks
    prune_model(layers, statistics, metric, Sparsity.parse("0.5"))
    with torch.no_grad():
        expected = torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in WINDOWS])
    assert mean == pytest.approx(float(expected.mean()), rel=1e-5)


def test_the_dense_weights_are_back_however_the_reading_ends(fitness, layers):
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    list(fitness.losses(Expression.parse("W")))
    reading = fitness.losses(Expression.parse("W"))
    next(reading)
    reading.close()
    with pytest.raises(ScoreError):
        next(fitness.losses(Expression.parse("mms(W - W)")))
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name])


def test_chunks_are_read_in_growing_batches_that_a_race_ends_with(monkeypatch, fitness):
    batches, begin = [], fitness._loss.begin
    monkeypatch.setattr(
        fitness._loss, "begin", lambda windows: batches.append(len(windows)) or begin(windows)
    )
    monkeypatch.setattr(fitness, "_most", 4)
    list(fitness.losses(Expression.parse("W"), 0, fitness.chunks))
    assert batches == [2, 2, 2]  # chunk 2 alone: the race has three
    batches.clear()
    list(fitness.losses(Expression.parse("W"), fitness.chunks))
    assert batches == [2, 2]


def test_a_model_too_large_for_one_window_fails_as_a_metric_that_cannot_be_measured(
    monkeypatch, fitness
):
    def begin(windows):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(fitness._loss, "begin", begin)
    with pytest.raises(ValueError, match="memory"):
        list(fitness.losses(Expression.parse("W")))


@pytest.mark.parametrize("formula", ["sqrt(X) * W", "W * D"])
def test_what_no_token_reached_is_pruned_by_magnitude(model, layers, statistics, formula):
    name = next(iter(layers))
    nothing = torch.zeros_like(statistics[name].X)
    zero = {**statistics, name: LayerStatistics(nothing, None, nothing)}
    half = Sparsity.parse("0.5")
    fitness = PrunedLoss(model, layers, zero, half, WINDOWS, windows_per_chunk=2, race_chunks=3)
    dense = layers[name].weight.clone()
    reading = fitness.losses(Expression.parse(formula))
    next(reading)
    assert torch.equal(layers[name].weight == 0, prune_mask(dense.abs(), half))
    reading.close()
