"""Devices are named as torch names them, and what is no device here is refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from prunerzero.errors import ModelError
from prunerzero.language.devices import find_device, find_devices


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as refused:
        find_devices(name)
    return str(refused.value)


@pytest.mark.parametrize("name", ["CUDA", "gpu", "qpu", "cuda:x", "cuda:-1", "", "cpu,CUDA"])
def test_a_name_that_is_none_is_answered_with_those_that_are(name: str) -> None:
    called = name.split(",")[-1]
    assert refusal(name).startswith(f"no device is called '{called}'; pass `device` 'auto'")


@pytest.mark.parametrize("name", ["hpu", "xla", "opencl", "privateuseone", "mtia"])
def test_a_device_that_torch_knows_by_name_alone_is_answered_alike(name: str) -> None:
    """Torch's own words on these are for its developers."""
    assert refusal(name).startswith(
        f"device '{name}' cannot be used here: this torch cannot compute on it; pass `device` "
    )


def test_a_gpu_that_is_not_there_is_refused_with_the_reason() -> None:
    words = refusal("cuda:99")
    assert words.startswith("device 'cuda:99' cannot be used here: ")
    assert "this torch cannot" not in words and "; pass `device` 'auto'" in words


@pytest.mark.parametrize(
    ("gpus", "apple", "names"),
    [
        (0, False, "'auto' or 'cpu' (torch finds no GPU here)."),
        (0, True, "'auto', 'cpu' or 'mps'."),
        (1, False, "'auto', 'cpu', 'cuda' or 'cuda:0'."),
        (4, False, "'auto', 'cpu', 'cuda' or 'cuda:0' to 'cuda:3'."),
    ],
)
def test_those_are_named_that_there_are(
    gpus: int, apple: bool, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert refusal("CUDA") == f"no device is called 'CUDA'; pass `device` {names}"


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert find_device("auto").type == kind
