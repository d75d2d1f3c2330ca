"""Pruning with what the other inputs of a layer cannot replace, from the command to the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance.brute_force import irreplaceable
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prunerzero import Setup, prune
from prunerzero.tasks.by_block import Way
from prunerzero.tasks.workspace import Workspace


@pytest.fixture
def setup(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    return Setup(model=str(workplace / "model"), calibration=workplace / "calibration.txt")


def inputs(model: nn.Module, windows: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What each of these linear layers reads of the text: [tokens, in] in float64."""
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, given, name=name: rows[name].append(given[0][0].double())
        )
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return {name: torch.cat(found) for name, found in rows.items()}


def test_the_weights_of_the_lowest_w_times_d_are_pruned(setup, tmp_path):
    prune(setup, "W * D", "0.5", tmp_path / "pruned")
    work = Workspace(setup)
    windows = work.texts.of("calibration").windows
    dense = AutoModelForCausalLM.from_pretrained(setup.model, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    for name, rows in inputs(dense, windows, list(work.layers)).items():
        before = dense.get_submodule(name).weight
        scores = before.abs().double() * irreplaceable(rows)
        half = scores.shape[1] // 2
        lowest = scores.argsort(dim=1)[:, :half]
        expected = before.scatter(1, lowest, 0.0)
        assert torch.equal(after.get_submodule(name).weight, expected), name


def test_block_by_block_the_same_weights_are_pruned(setup, tmp_path):
    prune(setup, "obs", "2:4", tmp_path / "whole")
    prune(setup, "obs", "2:4", tmp_path / "blocks", way=Way(block_by_block=True))
    whole, blocks = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "blocks")
    )
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, blocks.get_parameter(name)), name
