"""Of the metrics that are compared, one that cannot rank a layer's weights stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import tiny_model, tiny_tokenizer

from prunerzero import MetricError, Setup, compare

UNRANKED = "zsn(W)"
"""NaN where all weights of a layer are equal: nothing is left to divide by."""


@pytest.fixture
def setup(tmp_path: Path, workplace: Path) -> Setup:
    """A model of which one layer holds zeros alone, as layers that were never trained may."""
    model = tiny_model(1)
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return Setup(
        model=str(tmp_path / "model"),
        calibration=workplace / "calibration.txt",
        test=workplace / "test.txt",
        max_seq_length=32,
    )


def test_it_is_left_out_and_the_others_are_measured_on_the_whole_model(setup: Setup) -> None:
    alone = compare(setup, ["wanda", "magnitude"])
    found = compare(setup, ["wanda", UNRANKED, "magnitude"], samples=1)
    assert found.perplexity == alone.perplexity
    assert set(found.formulas) == {"wanda", "magnitude"}
    [sentence] = [one for one in found.warnings if "left out" in one]
    assert sentence.startswith(f"'{UNRANKED}' is left out, as it cannot rank all weights: on layer")
    assert "model.layers.0.mlp.up_proj" in sentence


def test_alone_it_is_refused(setup: Setup) -> None:
    with pytest.raises(MetricError, match=r"up_proj, \d+ of \d+ scores are NaN"):
        compare(setup, [UNRANKED])


def test_fisher_obs_of_the_catalog_is_such_a_metric(setup: Setup) -> None:
    found = compare(setup, ["wanda", "fisher-obs"], update="least-squares", group="model")
    assert set(found.formulas) == {"wanda"}
