"""What a tuning's workbench measures is pruned and refitted as often as it has to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunerzero import Setup, Sparsity
from prunerzero.memory import Memory
from prunerzero.metrics import find_metric
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.tuning import workbench
from prunerzero.tasks.tuning.workbench import Workbench
from prunerzero.tasks.workspace import Workspace

HALF, WANDA = Sparsity.parse("0.5"), find_metric("wanda")


@pytest.fixture
def bench(workplace: Path, tmp_path: Path) -> Workbench:
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    few = {"max_seq_length": 16, "num_calibration_samples": 16}
    work = Workspace(Setup(model=str(workplace / "model"), **few, **texts))
    ledger = Memory(tmp_path / "measured.jsonl", "")
    return Workbench(work, ledger).refitted(RefitOptions("least-squares"))


def pruned(bench: Workbench, sparsity: Sparsity = HALF) -> tuple[object, dict[str, torch.Tensor]]:
    with bench.work.pruned_for_now():
        layers = bench.prune(WANDA, sparsity)
        return layers, {n: layer.weight.clone() for n, layer in bench.work.layers.items()}


def test_one_model_is_refitted_once_on_however_many_texts_it_is_measured(bench, monkeypatch):
    refits = []

    def counted(*asked, **options):
        refits.append(asked)
        return prune_loaded(*asked, **options)

    prune_loaded = workbench.prune_loaded
    monkeypatch.setattr(workbench, "prune_loaded", counted)
    dense = {n: layer.weight.clone() for n, layer in bench.work.layers.items()}
    first = pruned(bench)
    bench.pruned(WANDA, HALF, "validation")
    bench.pruned(WANDA, HALF, "test")
    again = pruned(bench)
    assert len(refits) == 1 and again[0] == first[0]
    assert all(torch.equal(again[1][name], weight) for name, weight in first[1].items())
    assert not all(torch.equal(dense[name], weight) for name, weight in first[1].items())
    assert all(torch.equal(dense[n], layer.weight) for n, layer in bench.work.layers.items())


def test_another_sparsity_is_another_model(bench):
    _, half = pruned(bench)
    _, few = pruned(bench, Sparsity.parse("0.25"))
    _, half_again = pruned(bench)
    assert all(int((few[n] == 0).sum()) < int((w == 0).sum()) for n, w in half.items())
    assert all(torch.equal(half_again[n], weight) for n, weight in half.items())
