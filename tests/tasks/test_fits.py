"""What of a search goes to host memory, and what is refused, by the memory that is free."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from prunerzero.errors import ModelError
from prunerzero.pruning.refit import Refit
from prunerzero.tasks import fits
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup

CARD = 84_000_000_000
"""Bytes of a GPU with 80 GB that a program can use."""

HOST = SimpleNamespace(available=128 << 30)
UPDATE = RefitOptions("least-squares")


class Notes(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, what: str) -> None:
        self.told.append(what)


def llama(blocks: int, hidden: int, ffn: int, device: str = "cuda") -> Any:
    """What is asked of a workspace, of a model in bf16 of that shape."""
    shapes = [(hidden, hidden)] * 4 + [(ffn, hidden)] * 2 + [(hidden, ffn)]
    weights = [
        SimpleNamespace(
            shape=torch.Size(shape), nbytes=2 * shape[0] * shape[1], device=torch.device(device)
        )
        for shape in shapes * blocks
    ]
    layers = {str(n): SimpleNamespace(weight=weight) for n, weight in enumerate(weights)}
    calibration = SimpleNamespace(grams_on_host=False)
    return SimpleNamespace(layers=layers, calibration=calibration, observer=Notes())


def placed(monkeypatch, unused: int, *works: Any, sparsities: int = 1) -> list[bool]:
    monkeypatch.setattr(fits, "_unused", lambda _: unused)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: HOST)
    fits.place_grams(works, sparsities, Refit("least-squares", solver_steps=8))
    return [work.calibration.grams_on_host for work in works]


WEIGHTS_AND_G = 39_400_000_000


def test_gram_matrices_of_7b_are_in_host_memory_on_80_gb_and_on_the_device_on_140(monkeypatch):
    work = llama(32, 4096, 11008)
    assert placed(monkeypatch, CARD - WEIGHTS_AND_G, work) == [True]
    [told] = work.observer.told
    assert "Gram matrices of 28.4 GB are kept in host memory and come to the device" in told
    work = llama(32, 4096, 11008)
    assert placed(monkeypatch, 149_000_000_000 - WEIGHTS_AND_G, work) == [False]
    assert not work.observer.told


def test_the_models_of_a_search_share_the_room(monkeypatch):
    small = (30, 576, 1536)
    assert placed(monkeypatch, 9_000_000_000, llama(*small)) == [False]
    assert placed(monkeypatch, 9_000_000_000, *[llama(*small) for _ in range(8)]) == [True] * 8
    assert placed(monkeypatch, 9_000_000_000, llama(*small), sparsities=30) == [True]


def test_where_there_is_one_memory_they_stay_in_it(monkeypatch):
    assert placed(monkeypatch, 0, llama(2, 64, 96, device="cpu")) == [False]


def test_gram_matrices_that_fit_nowhere_are_refused(monkeypatch):
    monkeypatch.setattr(fits, "_unused", lambda _: 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**10))
    with pytest.raises(ModelError, match="30.1 GB have no room on the device, and 10.0 GB of host"):
        fits.place_grams([llama(32, 4096, 11008)], 1, Refit("least-squares", solver_steps=8))


@pytest.fixture
def check(workplace, monkeypatch):
    """A search on the tiny model on a GPU, of which so many bytes are free, and of the host."""

    def refused(device: int, host: int, refit: RefitOptions = UPDATE, workers: int = 1) -> str:
        monkeypatch.setattr(fits, "find_devices", lambda _: [torch.device("cuda")])
        monkeypatch.setattr(fits, "_free", lambda _: device)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=host))
        setup = Setup(str(workplace / "model"))
        try:
            fits.check_room(fits.needs_of([setup], 1, "WXG", refit), ["cuda:0"] * workers)
        except ModelError as error:
            return str(error)
        return ""

    return refused


def test_a_search_that_cannot_fit_is_refused_before_the_model_is_read(check):
    assert "the model needs about 0.0 GB, and the device has 0.0 GB free" in check(1000, 10**12)
    assert not check(10**9, 0)
    between = next(size for size in range(1000, 10**9, 1000) if not check(size, 10**12))
    assert "GB for Gram matrices, which then have to be in host memory" in check(between, 0)
    assert not check(between, 0, RefitOptions())
    assert "2 workers with the model each need" in check(between, 10**12, workers=2)


GB = 10**9
SEVEN_B = (32, 4096, 11008)


@pytest.fixture
def planned(workplace, monkeypatch):
    """What is decided for models of 7B in bf16 on GPUs with so many bytes free, and of the host."""

    def decide(
        device: int,
        host: int = 10**13,
        *,
        models: int = 2,
        sparsities: int = 1,
        refit: RefitOptions = RefitOptions(),
        devices: tuple[str, ...] = ("cuda:0",),
        kind: str = "cuda",
    ) -> str:
        from transformers import LlamaConfig, LlamaForCausalLM

        blocks, hidden, ffn = SEVEN_B
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=blocks, dtype="bfloat16"
        )
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        monkeypatch.setattr(fits, "empty_model_of", lambda _: model)
        monkeypatch.setattr(fits, "find_devices", lambda _: [torch.device(kind)])
        monkeypatch.setattr(fits, "_free", lambda _: device)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=host))
        setups = [Setup(f"{workplace}/{n}", dtype="bfloat16") for n in range(models)]
        return fits.check_room(fits.needs_of(setups, sparsities, "WXG", refit), devices)

    return decide


def test_models_that_fit_together_stay_and_others_take_turns(planned):
    """Weights of 13.5 GB, their copy of 13.0 GB and G of 25.9 GB are 52.3 GB for each of two."""
    assert planned(141 * GB) == ""
    told = planned(80 * GB)
    assert told == (
        "the 2 models together need about 104.7 GB, and the device has 80.0 GB free: one model at "
        "a time is on it, and the others wait in host memory."
    )
    assert planned(80 * GB, models=1) == ""
    assert planned(141 * GB, sparsities=3) != "", "each sparsity adds a copy of both"
    assert planned(300 * GB, devices=("cuda:0",) * 2) == ""
    assert "2 workers with 2 models each need" in planned(141 * GB, devices=("cuda:0",) * 2)


def test_a_tenth_and_a_copy_are_left_to_the_reading_of_text(planned):
    limit = next(size for size in range(100, 200) if planned(size * GB) == "")
    assert limit == math.ceil((2 * 52.34 + 12.95) / 0.9)


def test_what_does_not_fit_by_turns_either_is_refused(planned):
    for asked, words in [
        ({"device": 50 * GB}, "by turns the largest needs about 52.3 GB, where 50.0 GB are free"),
        (
            {"device": 80 * GB, "devices": ("cuda:0",) * 2},
            "by turns the largest needs about 104.7 GB for 2 workers",
        ),
        (
            {"device": 80 * GB, "host": 90 * GB},
            r"by turns they need about \d+.\d GB of host memory",
        ),
        ({"device": 80 * GB, "kind": "cpu"}, "the 2 models together need about 104.7 GB"),
    ]:
        with pytest.raises(ModelError, match=words):
            planned(**asked)


def test_what_waits_on_one_host_is_counted_for_every_worker_and_with_gram_matrices(planned):
    def least(**asked: Any) -> int:
        """GB of host memory from which models of 80 GB take turns."""
        for size in range(0, 2000, 10):
            try:
                assert planned(80 * GB, size * GB, **asked)
                return size
            except ModelError:
                pass
        raise AssertionError

    alone = least()
    assert 2 * (13.5 + 25.9 + 13.0) < alone < 4 * (13.5 + 25.9 + 13.0)
    assert least(devices=("cuda:0", "cuda:1")) == pytest.approx(2 * alone, abs=10)
    assert least(refit=UPDATE) > alone + 2 * 28
    assert least(sparsities=2) > alone + 2 * 13
