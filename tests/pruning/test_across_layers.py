"""Scores of all layers compete: the lowest of the whole model go, exactly as many as asked."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_model

from prunerzero.metrics import CATALOG, Expression, ScoreError, Sparsity
from prunerzero.pruning import across_layers
from prunerzero.pruning.across_layers import lowest_of_all
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.gram import collect_inverse_diagonals
from prunerzero.pruning.pruned_weights import PrunedWeights
from prunerzero.pruning.pruner import one_by_one, prune_model
from prunerzero.pruning.statistics import LayerStatistics, collect_statistics

WINDOWS = torch.randint(0, 32, (10, 20), generator=torch.Generator().manual_seed(1))
THIRD = Sparsity.parse("0.3", "model")
METRICS = ["W * G", "exp(mms(G)) * W - X", "sqrt(W) * zsn(W) / (X + G)", "W * 0", "G"]

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def statistics():
    """Of the model that each test has a new one of."""
    model = tiny_model()
    layers = prunable_layers(model)
    D = collect_inverse_diagonals(model, layers, WINDOWS)
    found = collect_statistics(model, layers, WINDOWS)
    return {name: replace(known, D=D[name]) for name, known in found.items()}


def by_a_stable_sort(scores: list[torch.Tensor], ratio: float) -> list[torch.Tensor]:
    """Masks by sorting all scores at once."""
    every = torch.cat([score.flatten() for score in scores])
    pruned = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    pruned[every.argsort(stable=True)[: int(len(every) * ratio)]] = True
    parts = pruned.split([score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, float("inf"), -float("inf")])


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    numbers = st.lists(VALUES | st.floats(width=32, allow_nan=False), min_size=rows * columns)
    return torch.tensor(draw(numbers)[: rows * columns]).reshape(rows, columns)


@given(st.lists(matrices(), min_size=1, max_size=4), st.floats(0, 1, exclude_max=True), st.data())
def test_any_scores_give_the_masks_of_one_stable_sort(scores, ratio, data):
    """The metric is G - W with W = 0, so that scores are whatever G is."""
    weights = {str(i): torch.zeros_like(score) for i, score in enumerate(scores)}
    known = {str(i): LayerStatistics(X=None, G=score) for i, score in enumerate(scores)}
    scorer = one_by_one(weights, known, Expression.parse("G - W"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(across_layers, "KEPT", data.draw(st.sampled_from([0, 1 << 28])))
        patch.setattr(
            across_layers, "TOGETHER", {"cpu": data.draw(st.sampled_from([0, 20, 1 << 26]))}
        )
        found = dict(lowest_of_all(weights, scorer, ratio))
    for mask, expected in zip(found.values(), by_a_stable_sort(scores, ratio), strict=True):
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("name", CATALOG)
def test_every_catalog_metric_prunes_exactly_what_was_asked(layers, statistics, name):
    expression: Expression = CATALOG[name].expression
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    scores = [
        expression.score(W=weight, X=known.X, G=known.G, D=known.D)
        for weight, known in zip(dense.values(), statistics.values(), strict=True)
    ]
    report = prune_model(layers, statistics, expression, THIRD)
    assert [layer.name for layer in report] == list(layers)
    total = sum(weight.numel() for weight in dense.values())
    assert sum(layer.zeros for layer in report) == int(0.3 * total)
    for name, expected in zip(dense, by_a_stable_sort(scores, 0.3), strict=True):
        weight = layers[name].weight
        assert torch.equal(weight == 0, expected)
        assert torch.equal(weight[weight != 0], dense[name][~expected])


def test_a_search_judges_by_what_pruning_does(model, layers, statistics):
    metric = Expression.parse("W * G")
    fitness = PrunedLoss(
        model, layers, statistics, THIRD, WINDOWS, windows_per_chunk=2, race_chunks=3
    )
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    mean = sum(fitness.losses(metric)) / fitness.total_chunks
    assert all(torch.equal(layer.weight, dense[name]) for name, layer in layers.items())
    prune_model(layers, statistics, metric, THIRD)
    with torch.no_grad():
        expected = torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in WINDOWS])
    assert mean == pytest.approx(float(expected.mean()), rel=1e-5)


def test_a_layer_that_no_token_reached_is_pruned_by_magnitude_and_by_itself(layers, statistics):
    name = next(iter(layers))
    zero = {**statistics, name: LayerStatistics(torch.zeros_like(statistics[name].X), None)}
    report = prune_model(layers, zero, Expression.parse("W * sqrt(X)"), THIRD)
    weights = layers[name].weight.numel()
    assert report[0].unreached and report[0].zeros == int(0.3 * weights)
    others = sum(layer.weight.numel() for layer in layers.values()) - weights
    assert sum(layer.zeros for layer in report[1:]) == int(0.3 * others)


def test_a_score_that_is_not_a_number_names_the_layer(layers, statistics):
    with pytest.raises(ScoreError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        prune_model(layers, statistics, Expression.parse("mms(W - W)"), THIRD)


@gpu
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("together", [0, 30_000, 1 << 26])
def test_a_gpu_prunes_the_lowest_of_all_too(model, statistics, metric, together, monkeypatch):
    monkeypatch.setattr(across_layers, "TOGETHER", {"cuda": together})
    layers = prunable_layers(model.to("cuda", torch.bfloat16))
    known = {name: LayerStatistics(s.X.cuda(), s.G.cuda()) for name, s in statistics.items()}
    e = Expression.parse(metric)
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    scores = [e.score(W=w, X=known[name].X, G=known[name].G) for name, w in dense.items()]
    expected = dict(zip(dense, by_a_stable_sort(scores, 0.3), strict=True))
    weights = PrunedWeights(layers, known, THIRD)
    weights.prune(e)
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name].masked_fill(expected[name], 0))
    weights.restore()
    prune_model(layers, known, e, THIRD)
    for name, layer in layers.items():
        assert torch.equal(layer.weight, dense[name].masked_fill(expected[name], 0))


def competing_layers(dtypes, ties: bool):
    """Layers of three shapes on a GPU, in turns, and what is known of each."""
    generator = torch.Generator().manual_seed(0)
    layers, known = {}, {}
    for i in range(9):
        shape = [(40, 576), (7, 1536), (33, 50)][i % 3]
        layer = torch.nn.Linear(*shape[::-1], bias=False, dtype=dtypes[i % len(dtypes)])
        W, G = torch.randn(2, *shape, generator=generator)
        if ties:
            W, G = (W * 2).round(), (G * 2).round()
        with torch.no_grad():
            layer.weight.copy_(W)
        layers[str(i)] = layer.requires_grad_(False).cuda()
        known[str(i)] = LayerStatistics(torch.ones(shape[1]).cuda() + i // 5, G.abs().cuda())
    return layers, known


@gpu
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [1e-4, 0.1, 0.5, 0.9999])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16,), (torch.float32, torch.float16)])
@pytest.mark.parametrize("sample, bins", [(1 << 22, 1 << 21), (300, 1 << 6), (1, 2)])
def test_any_sample_gives_a_gpu_the_masks_of_one_stable_sort(
    ties, share, dtypes, sample, bins, monkeypatch
):
    from prunerzero.scoring import competing, narrowing

    monkeypatch.setattr(competing, "SAMPLE", sample)
    monkeypatch.setattr(narrowing, "BINS", bins)
    monkeypatch.setattr(PrunedWeights, "_prune_by_masks", None)  # is not to be called
    layers, known = competing_layers(dtypes, ties)
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    weights = PrunedWeights(layers, known, Sparsity(share, group="model"))
    for metric in ("W * G", "G - W * sqrt(X)", "W * 0", "rownorm(W) * log(G) + mms(G)"):
        e = Expression.parse(metric)
        scores = [e.score(W=w, X=known[name].X, G=known[name].G) for name, w in dense.items()]
        weights.prune(e)
        for name, mask in zip(dense, by_a_stable_sort(scores, share), strict=True):
            assert torch.equal(layers[name].weight, dense[name].masked_fill(mask, 0)), metric
        weights.restore()


@gpu
def test_on_a_gpu_a_score_that_is_not_a_number_names_the_layer():
    layers, known = competing_layers((torch.bfloat16,), ties=False)
    known["4"].G[3, 5] = torch.nan
    dense = {name: layer.weight.clone() for name, layer in layers.items()}
    weights = PrunedWeights(layers, known, THIRD)
    with pytest.raises(ScoreError, match=r"on layer 4, 1 of 10752 scores are NaN"):
        weights.prune(Expression.parse("W * G"))
    assert all(torch.equal(layer.weight, dense[name]) for name, layer in layers.items())
