"""Figures that cannot be right are told; nobody is alarmed by those that can."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.tasks.doubts import (
    dense_doubt,
    frequency_perplexity,
    gain_doubt,
    interval_doubt,
    one_text_doubt,
    pruned_doubt,
)


def test_the_frequencies_of_equally_frequent_tokens_are_worth_their_number():
    windows = torch.arange(64).repeat(40, 20)
    assert frequency_perplexity(windows) == pytest.approx(64, rel=0.01)


@given(st.integers(2, 500), st.integers(0, 5))
def test_few_tokens_do_not_make_the_frequencies_look_much_better(distinct, seed):
    """Of uniform tokens no sample gives more than their number, nor far less where it is long."""
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randint(0, distinct, (10, 10 * distinct + 1), generator=generator)
    assert frequency_perplexity(windows) == pytest.approx(distinct, rel=0.02)


def test_a_model_worse_than_token_frequencies_is_told_and_a_better_one_is_not():
    windows = torch.arange(64).repeat(40, 20)
    assert "no working model" in (dense_doubt("validation", 90.0, windows) or "")
    assert dense_doubt("validation", 30.0, windows) is None


def test_of_a_few_tokens_nothing_is_told():
    """Their own frequencies are better than any model: 7 tokens that differ are worth 7."""
    assert dense_doubt("test", 50.0, torch.arange(8)[None]) is None
    assert dense_doubt("test", 250.0, torch.arange(200)[None]) is None
    assert dense_doubt("test", 1e6, torch.arange(201)[None]) is not None


def test_a_pruned_model_better_than_the_dense_by_more_than_noise_is_told():
    dense = [3.0 + 0.1 * (i % 5) for i in range(20)]
    assert pruned_doubt("test", dense, [loss - 0.2 for loss in dense]) is not None
    assert pruned_doubt("test", dense, [loss + 0.2 for loss in dense]) is None
    assert pruned_doubt("test", dense, dense) is None
    assert pruned_doubt("test", dense[:3], [loss - 0.2 for loss in dense[:3]]) is None


def test_too_few_windows_for_an_interval_are_told():
    assert "1 window is" in (interval_doubt("test", 1) or "") and interval_doubt("test", 8) is None


def test_a_gain_that_does_not_carry_over_is_told():
    told = gain_doubt("test", "2:4", "obs", 27.0, 27.9) or ""
    assert "obs has perplexity 27 and the evolved metric 27.9" in told and "At 2:4" in told
    assert gain_doubt("test", "2:4", "obs", 27.0, 27.0) is not None
    assert gain_doubt("test", "2:4", "obs", 27.0, 26.9) is None


def test_weights_that_are_refitted_to_one_text_alone_are_told():
    told = one_text_doubt(["wiki.txt"]) or ""
    assert "refitted to one text, wiki.txt" in told and "`calibration` several times" in told
    assert one_text_doubt(["wiki.txt", "code.txt"]) is None and one_text_doubt([]) is None


def test_one_of_several_texts_is_named():
    assert "window is read of the test text a.txt" in (interval_doubt("test: a.txt", 1) or "")


def test_a_search_on_a_model_without_sense_says_so(found, workplace):
    """The tiny model is random: it predicts letters worse than their frequencies do."""
    assert any("no working model" in warning for warning in found["warnings"])
    assert json.loads((workplace / "run" / "best.json").read_text())["warnings"]


@pytest.mark.parametrize("way", [[], ["--block-by-block"]], ids=["whole", "by block"])
def test_a_pruning_tells_them_in_figures_and_card(here, texts, found, workplace, way):
    folder = f"doubted{len(way)}"
    result = here.json("prune", *texts, *way, "--metric", "wanda", "--output-dir", folder)
    assert any("no working model" in warning for warning in result["warnings"])
    assert "no working model" in (workplace / folder / "README.md").read_text()
    here.run("report", "run")
    assert "no working model" in (workplace / "run" / "report.html").read_text()


def test_measuring_and_comparing_tell_them_too(here, texts):
    told = here.json("eval", "--model", "model", "--text", "test.txt")["warnings"]
    assert any("Model 'model' has perplexity" in warning for warning in told)
    compared = here.json("compare", *texts, "--metrics", "wanda", "--sparsity", "0.5")
    assert any("The unpruned model has perplexity" in warning for warning in compared["warnings"])
