"""Training of the weights that stay, from the command to the checkpoint and what is told of it."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_model import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from prunerzero import Setup, compare, evaluate, prune, search
from prunerzero.errors import InputError, ModelError
from prunerzero.pruning.by_block.block_calls import NotOneByOneError
from prunerzero.tasks import prune_loaded
from prunerzero.tasks.calibration import Calibration


@pytest.fixture
def setup(workplace, monkeypatch) -> Setup:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    return Setup(model=str(workplace / "model"), num_calibration_samples=4, **texts)


def test_a_trained_model_has_the_same_zeros_and_says_that_it_was_trained(setup, tmp_path):
    masked = prune(setup, "wanda", "2:4", tmp_path / "masked")
    trained = prune(setup, "wanda", "2:4", tmp_path / "trained", reconstruct=16)
    assert [row.zeros for row in masked.layers] == [row.zeros for row in trained.layers]
    assert trained.divergence["test"].kl < masked.divergence["test"].kl
    assert trained.settings["reconstruct"] == 16 and masked.settings["reconstruct"] == 0
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("masked", "trained")
    )
    for row in masked.layers:
        a, b = (m.get_submodule(row.name).weight for m in (before, after))
        assert torch.equal(a == 0, b == 0) and not torch.equal(a, b)
    assert "reconstruct: 16" in (tmp_path / "trained" / "recipe.yaml").read_text()
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "**trained** on the calibration text: 16 steps" in card
    assert "without retraining" not in card
    assert "without retraining" in (tmp_path / "masked" / "README.md").read_text()


def test_what_is_measured_is_what_is_saved(workplace, tmp_path):
    tiny_model(tie_word_embeddings=False).bfloat16().save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    texts = {"calibration": workplace / "calibration.txt", "test": workplace / "test.txt"}
    setup = Setup(str(tmp_path / "dense"), num_calibration_samples=4, num_test_samples=4, **texts)
    result = prune(
        setup, "magnitude", "0.5", tmp_path / "out", update="least-squares", reconstruct=4
    )
    again = evaluate(Setup(str(tmp_path / "out"), num_test_samples=4, **texts))
    assert again.perplexity == result.perplexity["test"]["pruned"]
    assert all(row.error is None for row in result.layers)  # told of the weights before training


def test_compare_trains_behind_each_metric_and_says_so(in_workplace, texts):
    options = ["compare", *texts, "--num-calibration-samples", "4", "--metrics", "magnitude,wanda"]
    plain = json.loads(in_workplace(*options, "--json").stdout)
    trained = json.loads(in_workplace(*options, "--reconstruct", "8", "--json").stdout)
    assert trained["settings"]["reconstruct"] == 8
    for name in ("magnitude", "wanda"):
        kl = [found["divergence"]["test"][name]["kl"] for found in (trained, plain)]
        assert kl[0] < kl[1]
    assert trained["perplexity"]["test"]["dense"] == plain["perplexity"]["test"]["dense"]
    shown = in_workplace(*options, "--reconstruct", "8")
    assert "trained, 8 steps a block" in shown.stdout
    assert "differs from the dense model's on average" in shown.stderr


def test_what_cannot_be_trained_is_refused_before_the_work(setup, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="`reconstruct` must be at least 0"):
        prune(setup, "wanda", "0.5", tmp_path / "out", reconstruct=-1)
    with pytest.raises(TypeError, match="reconstruct"):
        search(setup, "0.5", tmp_path / "run", reconstruct=4)

    def refuse(*_):
        raise NotOneByOneError("blocks hand on more than hidden states")

    monkeypatch.setattr(prune_loaded, "check_one_by_one", refuse)
    monkeypatch.setattr(Calibration, "statistics", lambda *_: pytest.fail("work began"))
    sentence = "more than hidden states, so .* leave out `reconstruct`"
    with pytest.raises(ModelError, match=sentence):
        prune(setup, "wanda", "0.5", tmp_path / "out", reconstruct=4)
    with pytest.raises(ModelError, match=sentence):
        compare(setup, "wanda", reconstruct=4)
    assert not list(tmp_path.iterdir())
