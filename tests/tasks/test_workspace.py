"""An open model with its texts: what is made once."""

from __future__ import annotations

import pytest

from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace


@pytest.fixture
def work(workplace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    calibration = workplace / "calibration.txt"
    return Workspace(Setup(model=str(workplace / "model"), calibration=calibration))


def test_whoever_asks_for_statistics_gets_the_same_tensors(work):
    """G is as large as the layers: a second copy on the device would be a second model."""
    first = work.statistics(gradients=True)
    again = work.statistics(gradients=True)
    for name in work.layers:
        assert first[name].G is again[name].G and first[name].X is again[name].X
