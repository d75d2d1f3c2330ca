"""Known metrics are judged under an update as the candidates of a search are."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from prunerzero.metrics import CATALOG, Sparsity
from prunerzero.metrics.catalog import power_law
from prunerzero.tasks.cases import fitness_of
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.tuning.judge import Judge
from prunerzero.tasks.tuning.workbench import Workbench, open_ledger
from prunerzero.tasks.workspace import Workspace

UPDATE = RefitOptions("least-squares")
METRICS = [CATALOG["wanda"], CATALOG["obs"], power_law(0, 0.75)]


@pytest.fixture
def bench(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation")}
    few = {f"num_{part}_samples": 32 for part in texts}
    work = Workspace(Setup(str(workplace / "model"), max_seq_length=32, **few, **texts))
    return Workbench(work, open_ledger(tmp_path / "run", {}))


@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_a_loss_is_that_of_a_candidate_on_chunks_that_hold_so_many_windows(
    pattern: str, bench: Workbench
) -> None:
    sparsity = Sparsity.parse(pattern)
    fitness = fitness_of(bench.work, sparsity, "XGD", UPDATE)
    windows = len(bench.work.texts.of("validation").windows)
    per_chunk = windows // fitness.total_chunks
    judge = Judge(bench, sparsity, UPDATE)
    for metric in METRICS:
        for asked in (1, 4, 16, 10 * windows):
            chunks = min(-(-asked // per_chunk), fitness.total_chunks)
            expected = fmean(fitness.losses(metric.expression, 0, chunks))
            assert judge.loss(metric, asked) == pytest.approx(expected, rel=1e-6)


def test_what_was_judged_before_an_interruption_is_not_judged_again(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparsity = Sparsity.parse("2:4")
    before = [Judge(bench, sparsity, UPDATE).loss(metric, 4) for metric in METRICS]

    def refuse(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr("prunerzero.tasks.tuning.judge.Cases", refuse)
    assert [Judge(bench, sparsity, UPDATE).loss(metric, 4) for metric in METRICS] == before


def test_a_metric_that_cannot_be_measured_is_last(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunerzero.tasks.tuning.judge.read_all", lambda *_: [])
    assert Judge(bench, Sparsity.parse("0.5"), UPDATE).loss(CATALOG["wanda"], 4) == math.inf
