"""A search on models that are on the device one at a time finds what one on all together does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from moved_tensors import Moves, poisoned_moves
from tiny_model import tiny_model, tiny_tokenizer
from two_models import results, two_models

from prunerzero import InputError, Setup, search
from prunerzero.tasks.observer import Observer

if not torch.cuda.is_available():
    warnings.warn("no GPU here: models are not moved between host and device", stacklevel=1)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CROWDED = "the 2 models together need more than there is"


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Callable[..., list[Setup]]:
    return two_models(tmp_path_factory.mktemp("models"), workplace)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the models of a search do not fit on the device together."""
    return lambda: monkeypatch.setattr("prunerzero.tasks.places.check_room", lambda *_: CROWDED)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Moves]:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    with poisoned_moves() as moves:
        yield moves


FEW = {"evaluations": 12, "seed": 3}
REFITS = [{}, {"update": "least-squares"}]
SPARSITIES = [0.5, "2:4"]


@pytest.mark.parametrize("refit", REFITS, ids=str)
def test_the_results_are_the_same_to_the_bit(setups, crowded, moves, tmp_path, refit, monkeypatch):
    search(setups(), SPARSITIES, tmp_path / "together", **FEW, **refit)
    assert not moves.left
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "another cache"))
    crowded()
    search(setups(), SPARSITIES, tmp_path / "by turns", **FEW, **refit)
    assert moves.left and results(tmp_path / "by turns") == results(tmp_path / "together")


@pytest.mark.parametrize("refit", REFITS, ids=str)
def test_a_search_is_resumed_in_either_way(setups, crowded, moves, tmp_path, refit):
    search(setups(), SPARSITIES, tmp_path / "together", **FEW, **refit)
    search(setups(), SPARSITIES, tmp_path / "resumed", **{**FEW, "evaluations": 5}, **refit)
    crowded()
    search(setups(), SPARSITIES, tmp_path / "resumed", **FEW, **refit)
    assert moves.left and results(tmp_path / "resumed") == results(tmp_path / "together")


def test_one_line_tells_of_it(setups, crowded, moves, tmp_path):
    class Notes(Observer):
        def __init__(self) -> None:
            self.told: list[str] = []

        def note(self, what: str) -> None:
            self.told.append(what)

    observer = Notes()
    crowded()
    search(setups(), 0.5, tmp_path / "run", evaluations=2, observer=observer)
    assert observer.told.count(CROWDED) == 1


def test_while_one_model_is_loaded_the_other_has_left(
    setups, crowded, moves, tmp_path, monkeypatch
):
    from prunerzero.tasks import workspace

    away = []

    def load(source: Any, load: Any = workspace.load_model) -> Any:
        away.append(len(moves.away))
        return load(source)

    monkeypatch.setattr(workspace, "load_model", load)
    crowded()
    search(setups(), 0.5, tmp_path / "run", evaluations=2)
    first, second = away
    assert first == 0 and second > 10


def test_a_model_that_has_no_finite_loss_is_refused_all_the_same(
    setups, crowded, moves, tmp_path, workplace
):
    broken = tiny_model(3)
    broken.model.norm.weight.data.fill_(math.nan)
    broken.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    crowded()
    one = setups()[0]
    with pytest.raises(InputError, match="nan' has no finite loss"):
        search([one, Setup(**{**vars(one), "model": str(tmp_path / "nan")})], 0.5, tmp_path / "run")


@gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("refit", REFITS, ids=str)
def test_on_a_gpu_the_results_are_the_same_to_the_bit(
    setups, crowded, tmp_path, refit, dtype, monkeypatch
):
    monkeypatch.setenv("PRUNERZERO_CACHE", str(tmp_path / "cache"))
    models = setups(device="cuda:0", dtype=dtype)
    search(models, SPARSITIES, tmp_path / "together", **FEW, **refit)
    crowded()
    search(models, SPARSITIES, tmp_path / "by turns", **FEW, **refit)
    assert results(tmp_path / "by turns") == results(tmp_path / "together")
