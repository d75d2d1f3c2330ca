"""A search that is stopped after its last candidate, while its result is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunerzero import Setup, search
from prunerzero.tasks.shared_study import SharedPerplexities


@pytest.fixture
def setup(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts: dict[str, Any] = {
        part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")
    }
    few: dict[str, Any] = {f"num_{part}_samples": 32 for part in texts}
    return Setup(model=str(workplace / "model"), max_seq_length=16, **texts, **few)


@pytest.mark.parametrize("update", ["none", "least-squares"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_it_has_a_result_and_the_same_call_again_ends_it(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: Any, after: int
) -> None:
    measured = SharedPerplexities.pruned
    calls = 0

    def stopped(self: Any, *asked: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return measured(self, *asked)

    with monkeypatch.context() as patched:
        patched.setattr(SharedPerplexities, "pruned", stopped)
        kept = search(setup, "0.5", tmp_path / "run", evaluations=4, update=update)
    assert kept.interrupted and kept.evaluations == 4
    assert json.loads((tmp_path / "run" / "best.json").read_text())["metric"] == kept.metric
    ended = search(setup, "0.5", tmp_path / "run", evaluations=4, update=update)
    whole = search(setup, "0.5", tmp_path / "whole", evaluations=4, update=update)
    assert not ended.interrupted
    assert ended.metric == whole.metric and ended.perplexity == whole.perplexity
