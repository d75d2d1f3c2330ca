"""What the scripts in ``examples/metrics`` make of results."""

from __future__ import annotations

import json
import sys
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from examples.metrics import one_or_many, run

RESULTS = Path(run.__file__).parent / "results.json"
MODELS = ("A", "B")
ONE, SEVERAL = ("W * X", "W + X", "W - X"), ("W * G", "W + G", "W - G")
FIGURES = {"dense": 10.0, "wanda": 20.0, "obs": 19.0} | {
    metric: 15.0 + 2 * place for place, metric in enumerate(ONE + SEVERAL)
}


def search(metric: str) -> dict[str, Any]:
    """One that began with Wanda, and whose best metric is another one."""
    return {
        "history": [[0.5, "wanda", "catalog"], [0.4, metric, "crossover"]],
        "finalists": [{"metric": "wanda"}, {"metric": metric}, {"metric": "abs(W)"}],
    }


def three_seeds() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed, (one, several) in enumerate(zip(ONE, SEVERAL, strict=True)):
        found[f"search | A | rows | none | {seed}"] = search(one)
        found[f"search | all | rows | none | {seed}"] = search(several)
    found["search | all | rows | none | laws"] = search("W * X ** 0.1")
    for times, model in enumerate(MODELS, 1):
        figures = {m: 10 * (p / 10) ** times for m, p in FIGURES.items()}
        found[f"comparison | {model} | rows | none"] = {
            "perplexity": {"/t/valid.txt": {"dense": 1.0}, "/t/test.txt": figures}
        }
    return found


def rows(results: dict[str, Any], *texts: str) -> list[list[str]]:
    lines = one_or_many.table(results, texts).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_metrics_of_three_seeds_have_a_mean_and_an_interval_on_all_models_and_on_each() -> None:
    known, one, several = rows(three_seeds(), "test")
    assert known[:3] == ["rows, none", "best known: `obs`", "1"]
    assert known[3] == f"{1.5 * log(1.9):.4f}"
    assert one[1:3] == ["evolved on A", "3"] and several[1:3] == ["evolved on all", "3"]
    for row, metrics in ((one, ONE), (several, SEVERAL)):
        for cell, times in zip(row[3:], (1.5, 1, 2), strict=True):
            logs = [times * log(FIGURES[metric] / 10) for metric in metrics]
            half = 4.303 * stdev(logs) / sqrt(3)
            assert cell == f"{fmean(logs):.4f} ± {half:.4f}"


def test_a_metric_or_a_text_that_was_not_compared_is_an_error() -> None:
    results = three_seeds()
    with pytest.raises(ValueError, match="manual are not all among"):
        one_or_many.table(results, ["test", "manual"])
    del results["comparison | B | rows | none"]["perplexity"]["/t/test.txt"]["W + G"]
    with pytest.raises(ValueError, match=r"rows, none: W \+ G was not compared on B"):
        one_or_many.table(results, ["test"])


def test_results_of_one_seed_are_told_without_an_interval() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    texts = ("python_test", "manual_test")
    found = rows(results, *texts)
    assert len(found) == 9 and not any("±" in cell for row in found for cell in row)
    [whole] = [row for row in found if row[:2] == ["model, none", "evolved on all"]]
    best = run.evolved(results["search | all | model | none | 0"])[0]
    on_bundled = results["comparison | bundled, all texts | model | none"]["perplexity"]
    logs = [log(on_bundled[text][best] / on_bundled[text]["dense"]) for text in texts]
    assert whole[4] == f"{fmean(logs):.4f}"


def options(monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    texts = [f"--{part}={part}.txt" for part in ("calibration", "validation", "test")]
    arguments = ["--models", *MODELS, *texts, "--output", "none.json", *more]
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    return run.parse_options()


def test_a_comparison_may_be_of_winners_under_their_own_update(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = {"search | all | rows | none | 0": search("W * G")}
    under = {"search | all | rows | least-squares | 0": search("W * D")}
    alone = {"search | A | model | none | 0": search("W * X")}
    files = []
    for found in (under, alone):
        files.append(str(tmp_path / f"{len(files)}.json"))
        Path(files[-1]).write_text(json.dumps(found))
    few = ["--known", "obs", "W · G^¾", "W * D ** 0.5", "--finalists", "1", "--own-update"]
    few += ["--also", *files]
    chosen = {
        (one.competition, one.update, one.model): one.metrics  # type: ignore[attr-defined]
        for one in run.comparisons(options(monkeypatch, *few), results)
    }
    assert len(chosen) == 12
    known = ("obs", "W * G ** 0.75", "W * D ** 0.5")
    assert chosen["rows", "none", "A"] == (*known, "W * G")
    assert chosen["rows", "least-squares", "B"] == (*known, "W * D")
    assert chosen["model", "none", "A"] == (*known, "W * X")
    assert chosen["2:4", "none", "A"] == known


def test_searches_go_update_by_update(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = options(
        monkeypatch,
        "--work",
        str(tmp_path),
        "--updates",
        "least-squares",
        "none",
        "--seeds",
        "0",
        "1",
    )
    names = [task.name.split(" | ") for task in run.searches(asked)]
    assert [name[3] for name in names] == ["least-squares"] * 6 + ["none"] * 6
