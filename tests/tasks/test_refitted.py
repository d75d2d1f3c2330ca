"""Pruning with a refit as a whole: what is measured is what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import tiny_model, tiny_tokenizer

from prunerzero import Setup, evaluate, prune


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_weights_are_measured_as_the_checkpoint_rounds_them(workplace: Path, tmp_path, steps):
    tiny_model(tie_word_embeddings=False).bfloat16().save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    texts = {"calibration": workplace / "calibration.txt", "test": workplace / "test.txt"}
    setup = Setup(str(tmp_path / "dense"), num_calibration_samples=4, num_test_samples=4, **texts)
    result = prune(setup, "wanda", "0.5", tmp_path / "out", update="least-squares", steps=steps)
    again = evaluate(Setup(str(tmp_path / "out"), num_test_samples=4, **texts))
    assert again.perplexity == result.perplexity["test"]["pruned"]
    assert all(row.error < row.error_of_mask for row in result.layers)
