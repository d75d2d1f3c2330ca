"""Published methods beside metrics in ``compare``, from the command to the figures."""

from __future__ import annotations

import json

import pytest
import torch

from prunerzero import Setup, compare
from prunerzero.errors import InputError, ModelError
from prunerzero.metrics import Metric, Sparsity, find_metric
from prunerzero.pruning.by_block.block_calls import NotOneByOneError
from prunerzero.pruning.methods import METHODS
from prunerzero.tasks import prune_loaded
from prunerzero.tasks.calibration import Calibration
from prunerzero.tasks.methods import prune_by
from prunerzero.tasks.workspace import Workspace


@pytest.fixture
def setup(workplace, monkeypatch) -> Setup:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    return Setup(model=str(workplace / "model"), **texts)


@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_methods_stand_beside_metrics(in_workplace, texts, pattern):
    options = [*texts, "--metrics", "wanda", "--sparsity", pattern, "--samples", "1"]
    done = in_workplace("compare", *options, "--methods", "sparsegpt,alps", "--json")
    found, alone = (
        json.loads(done.stdout),
        json.loads(in_workplace("compare", *options, "--json").stdout),
    )
    assert list(found["methods"]) == ["sparsegpt", "alps"] and alone["methods"] == {}
    assert list(found["formulas"]) == ["wanda"]
    for part in ("validation", "test"):
        figures = found["perplexity"][part]
        assert list(figures) == ["dense", "wanda", "sparsegpt", "alps"]
        assert {name: figures[name] for name in ("dense", "wanda")} == alone["perplexity"][part]
        moved = found["divergence"][part]
        assert 0 < moved["alps"]["kl"] < moved["wanda"]["kl"]
        assert 0 < moved["sparsegpt"]["kl"]
    assert set(found["samples"][0]["continuations"]) == {"dense", "wanda", "sparsegpt", "alps"}


def test_the_table_says_that_methods_change_the_weights_that_stay(in_workplace, texts):
    told = "Methods also change the weights that stay"
    options = ["compare", *texts, "--metrics", "wanda"]
    done = in_workplace(*options, "--methods", "sparsegpt")
    assert told in done.stdout and "2301.00774" in done.stdout
    assert told not in in_workplace(*options).stdout


def test_methods_may_stand_alone_and_be_named_in_yaml(in_workplace, texts, workplace):
    (workplace / "methods.yaml").write_text("methods: [alps, sparsegpt]\nmetrics: ''\n")
    done = in_workplace("compare", *texts, "--config", "methods.yaml", "--json")
    found = json.loads(done.stdout)
    assert list(found["perplexity"]["test"]) == ["dense", "alps", "sparsegpt"]
    assert found["sparsity"] == "0.5"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_each_layer_is_pruned_by_the_same_share_and_the_model_restored(setup, method, pattern):
    work, sparsity = Workspace(setup), Sparsity.parse(pattern)
    before = {name: p.clone() for name, p in work.language_model.model.named_parameters()}
    layers = {layer.stored for layer in work.layers.values()}
    with work.pruned_for_now():
        prune_by(work, method, sparsity)
        for name, layer in work.layers.items():
            size = sparsity.of or layer.weight.numel()
            zeros = (layer.weight == 0).reshape(-1, size).sum(1)
            assert (zeros == int(size * sparsity.fraction)).all(), name
            kept = layer.weight != 0
            assert not torch.equal(layer.weight[kept], before[f"{name}.weight"][kept]), name
        for name, parameter in work.language_model.model.named_parameters():
            assert parameter in layers or torch.equal(parameter, before[name]), name
    for name, parameter in work.language_model.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_method_does_the_same_each_time(setup):
    first = compare(setup, methods=["alps", "sparsegpt"], parts="validation")
    assert compare(setup, methods=["alps", "sparsegpt"], parts="validation") == first


def test_what_cannot_be_done_is_said_before_the_work(setup, monkeypatch):
    with pytest.raises(InputError, match="no metric and no method is named"):
        compare(setup)
    with pytest.raises(InputError, match="no method is called 'sparse'; those known are"):
        compare(setup, "wanda", methods="sparse")
    with pytest.raises(InputError, match="`methods`"):
        compare(setup, "wanda", methods=3)
    with pytest.raises(InputError, match="both called 'alps'"):
        compare(setup, Metric("alps", find_metric("wanda").expression, "mine"), methods="alps")

    def refuse(*_):
        raise NotOneByOneError("blocks hand on more than hidden states")

    monkeypatch.setattr(prune_loaded, "check_one_by_one", refuse)
    monkeypatch.setattr(Calibration, "statistics", lambda *_: pytest.fail("work began"))
    with pytest.raises(ModelError, match="more than hidden states, so .* leave out `methods`"):
        compare(setup, "wanda", methods="alps")
