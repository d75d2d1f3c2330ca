"""What the calibration text tells of a model is measured once."""

from __future__ import annotations

import pytest
import torch

from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace


@pytest.fixture
def work(workplace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    calibration = workplace / "calibration.txt"
    return Workspace(Setup(model=str(workplace / "model"), calibration=calibration))


def test_whoever_asks_for_statistics_gets_the_same_tensors(work):
    """G is as large as the layers: a second copy on the device would be a second model."""
    first = work.calibration.statistics("XG")
    again = work.calibration.statistics("XG")
    for name in work.layers:
        assert first[name].G is again[name].G and first[name].X is again[name].X


def test_what_was_measured_goes_with_the_model_and_is_the_same_again(work):
    before, grams = work.calibration.statistics("XG"), work.calibration.grams
    work.forget_model()
    assert not list(work.calibration.tensors())
    after = work.calibration.statistics("XG")
    for name in work.layers:
        assert after[name].G is not before[name].G and torch.equal(after[name].G, before[name].G)
        assert work.calibration.grams[name] is not grams[name]
        assert torch.equal(work.calibration.grams[name], grams[name])


def test_d_is_measured_where_it_is_read_and_leaves_the_rest_as_it_was(work):
    before = work.calibration.statistics("XG")
    assert all(layer.D is None for layer in before.values())
    for name, layer in work.calibration.statistics("WXGD").items():
        assert layer.X is before[name].X and layer.G is before[name].G and layer.D is not None
    for layer in work.calibration.statistics("WD").values():
        assert layer.X is None and layer.G is None and layer.D is not None


def test_d_has_a_cache_file_of_its_own(work, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))

    def entries() -> set[str]:
        return {file.name for file in (tmp_path / "statistics").iterdir() if not file.suffix}

    work.calibration.statistics("XG")
    before = entries()
    first = work.calibration.statistics("D")
    assert before < entries()
    after, again = entries(), Workspace(work.setup).calibration.statistics("XGD")
    assert entries() == after
    assert all(torch.equal(first[name].D, again[name].D) for name in first)
