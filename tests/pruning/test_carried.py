"""Matrices of host memory on their way to a device, by turns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.pruning.carried import carried, in_host_memory, to_host

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def stacks_of(sizes: list[tuple[int, int]]) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(width, width, generator=generator) for _ in range(count)]
        for count, width in sizes
    ]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=6))
def test_each_stack_comes_in_turn_and_is_whole(sizes):
    stacks = stacks_of(sizes)
    brought = [stack.clone() for stack in carried(stacks, torch.device("cpu"))]
    assert len(brought) == len(stacks)
    for stack, found in zip(stacks, brought, strict=True):
        assert torch.equal(found, torch.stack(stack))


def test_two_buffers_are_all_that_is_there():
    stacks = stacks_of([(2, 3), (1, 4), (3, 3), (1, 1)])
    places = [stack.data_ptr() for stack in carried(stacks, torch.device("cpu"))]
    assert places == places[:2] * 2 and places[0] != places[1]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_of_a_device_come_to_host_memory_one_by_one(device):
    there = {str(n): torch.randn(n + 1, 7 - n, device=device) for n in range(7)}
    there["on the host"] = torch.randn(3)
    brought = {}
    for name, tensor in in_host_memory(there):
        assert tensor.device.type == "cpu" and tensor.shape == there[name].shape
        assert tensor.is_contiguous()
        brought[name] = tensor.clone()
    assert brought.keys() == there.keys()
    assert all(torch.equal(brought[name], there[name].cpu()) for name in there)
    places = {tensor.data_ptr() for name, tensor in in_host_memory(there) if name != "on the host"}
    assert len(places) == (7 if device == "cpu" else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_none_is_overwritten_while_it_is_in_use():
    stacks = [[to_host(matrix) for matrix in stack] for stack in stacks_of([(2, 700)] * 12)]
    assert stacks[0][0].is_pinned()
    brought = []
    for stack in carried(stacks, torch.device("cuda")):
        torch.cuda._sleep(20_000_000)  # 10 ms: far longer than the next one takes to come
        brought.append(stack.clone())
    for stack, found in zip(stacks, brought, strict=True):
        assert torch.equal(found.cpu(), torch.stack(stack))
