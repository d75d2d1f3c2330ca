"""A search with each model on a GPU of its own finds what one with all on one GPU does.

Without GPUs the models are on "cpu" and "cpu:1", which torch takes for the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from two_models import results, two_models

from prunerzero import Setup, search
from prunerzero.evolution import AtOnce
from prunerzero.metrics import Expression
from prunerzero.tasks import cases as tasks_cases
from prunerzero.tasks.cases import Cases, sparsities_of
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.order import Order
from prunerzero.tasks.places import Places
from prunerzero.tasks.workspace import Workspace

GPUS = torch.cuda.device_count()
if GPUS < 4:
    warnings.warn(f"{GPUS} GPUs here: workers with two each are not tested", stacklevel=1)
two_gpus = pytest.mark.skipif(GPUS < 2, reason="fewer than two GPUs")
four_gpus = pytest.mark.skipif(GPUS < 4, reason="fewer than four GPUs")

APART = "the 2 models together need more than a GPU has"
FEW = {"evaluations": 12, "seed": 3}
REFITS = [{}, {"update": "least-squares"}]
SPARSITIES = [0.5, "2:4"]


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Callable[..., list[Setup]]:
    return two_models(tmp_path_factory.mktemp("models"), workplace)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """From now on the models of a search are where this says, of each worker."""

    def place(*workers: tuple[str, ...]) -> None:
        monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "another cache"))
        monkeypatch.setattr(
            "prunerzero.tasks.search.places_of", lambda *_: Places(workers, told=APART)
        )

    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    return place


@pytest.fixture
def read_at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices of the cases that are read at the same time."""
    devices: list[str] = []

    class Told(AtOnce):
        def __init__(self, cases: Any) -> None:
            super().__init__(cases)
            devices.extend(case.device for case in cases)

    monkeypatch.setattr(tasks_cases.evolution, "AtOnce", Told)
    return devices


@pytest.mark.parametrize("refit", REFITS, ids=str)
def test_the_results_are_the_same_to_the_bit(setups, apart, read_at_once, tmp_path, refit):
    search(setups(device="cpu"), SPARSITIES, tmp_path / "together", **FEW, **refit)
    assert not read_at_once
    apart(("cpu", "cpu:1"))
    search(setups(device="cpu"), SPARSITIES, tmp_path / "apart", **FEW, **refit)
    assert read_at_once == ["cpu", "cpu", "cpu:1", "cpu:1"]
    assert results(tmp_path / "apart") == results(tmp_path / "together")


def test_a_search_is_resumed_in_either_way(setups, apart, read_at_once, tmp_path):
    models = setups(device="cpu")
    search(models, SPARSITIES, tmp_path / "together", **FEW)
    search(models, SPARSITIES, tmp_path / "resumed", **{**FEW, "evaluations": 5})
    apart(("cpu", "cpu:1"))
    search(models, SPARSITIES, tmp_path / "resumed", **FEW)
    assert read_at_once and results(tmp_path / "resumed") == results(tmp_path / "together")


class Notes(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, what: str) -> None:
        self.told.append(what)


def test_one_line_tells_of_it(setups, apart, tmp_path):
    observer = Notes()
    apart(("cpu", "cpu:1"))
    search(setups(device="cpu"), 0.5, tmp_path / "run", evaluations=2, observer=observer)
    assert observer.told.count(APART) == 1


def test_each_worker_is_told_where_each_model_is(setups):
    order = Order(tuple(setups()), (), Path(), None, "")  # type: ignore[arg-type]
    placed = order.on(("cuda:3", "cuda:2"))
    assert [(s.model, s.device) for s in placed.setups] == [
        (setups()[0].model, "cuda:3"),
        (setups()[1].model, "cuda:2"),
    ]


def test_the_room_for_gram_matrices_is_that_of_each_gpu(setups, monkeypatch, tmp_path):
    asked: list[list[str]] = []
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path))
    monkeypatch.setattr(
        tasks_cases, "place_grams", lambda works, *_: asked.append([w.setup.model for w in works])
    )
    llama, gemma = setups(device="cpu")
    elsewhere = setups(device="cpu:1")[1]
    for models, groups in [
        ((llama, gemma), [[llama.model, gemma.model]]),
        ((llama, elsewhere), [[llama.model], [gemma.model]]),
    ]:
        works = tuple(map(Workspace, models))
        Cases(works, sparsities_of(0.5, None)).fitness("WXG", RefitOptions("least-squares"))
        assert asked == groups
        asked.clear()


@two_gpus
@pytest.mark.parametrize(
    ("dtype", "refit", "group"),
    [("bfloat16", {}, "row"), ("float32", {"update": "least-squares"}, "row")]
    + [("bfloat16", {"update": "least-squares"}, "model")],
)
def test_on_two_gpus_the_results_are_the_same_to_the_bit(
    setups, apart, read_at_once, tmp_path, dtype, refit, group
):
    sparsities = SPARSITIES if group == "row" else [0.5, 0.6]
    models = setups(device="cuda:0", dtype=dtype)
    search(models, sparsities, tmp_path / "together", **FEW, **refit, group=group)
    apart(("cuda:0", "cuda:1"))
    search(models, sparsities, tmp_path / "apart", **FEW, **refit, group=group)
    assert read_at_once and torch.cuda.current_device() == 0
    assert results(tmp_path / "apart") == results(tmp_path / "together")


@pytest.mark.parametrize(
    "workers",
    [
        (("cpu", "cpu:1"), ("cpu:1", "cpu")),
        pytest.param((("cuda:0", "cuda:1"), ("cuda:3", "cuda:2")), marks=four_gpus),
    ],
    ids=["two_cpus", "four_gpus"],
)
def test_whatever_two_workers_measure_is_what_one_with_all_models_on_one_device_does(
    setups, apart, tmp_path, workers
):
    device = workers[0][0]
    models = setups(device=device, dtype="auto" if device == "cpu" else "bfloat16")
    apart(*workers)
    search(models, SPARSITIES, tmp_path / "run", evaluations=16, workers=2)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    works = tuple(map(Workspace, models))
    fitness = Cases(works, sparsities_of(SPARSITIES, None)).fitness("WXG", RefitOptions())
    measured = [e for e in history if e["state"] != "failed"]
    assert len(measured) > 8
    for one in measured:
        losses = fitness.losses(Expression.parse(one["expression"]), 0, one["chunks_read"])
        assert fmean(losses) == one["loss"]
