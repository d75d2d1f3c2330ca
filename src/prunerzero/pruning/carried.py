"""Matrices that stay in host memory and come to a device by turns, each while it is in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor


def to_host(matrix: Tensor) -> Tensor:
    """A copy in host memory, which a GPU reads without the CPU's help where there is one."""
    kept = torch.empty(matrix.shape, dtype=matrix.dtype, pin_memory=torch.cuda.is_available())
    return kept.copy_(matrix)


def in_host_memory(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each of some tensors of one dtype in host memory, by its name.

    Those of a device come one after the other to the same place, which is made once: what was given
    may be read until the next is asked for.
    """
    moved = [tensor for tensor in tensors.values() if tensor.device.type != "cpu"]
    if moved:
        place = max(moved, key=Tensor.numel)
        room = to_host(place).flatten()
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu":
            yield name, tensor
        else:
            yield name, room[: tensor.numel()].view(tensor.shape).copy_(tensor)


def host_bytes(size: int) -> int:
    """What a tensor of so many bytes takes in the host memory that a GPU reads: torch takes the
    next power of two.

    >>> host_bytes(4 * 11008**2) / 2**20
    512.0
    """
    return 1 << max(0, size - 1).bit_length()


def carried(stacks: Sequence[Sequence[Tensor]], device: torch.device) -> Iterator[Tensor]:
    """Each stack of matrices [n, in, in] on the device, in turn, from host memory.

    A GPU takes in the next one while the one before is in use: two buffers of the largest size are
    all that is there. What was given may be read until the next is asked for.
    """
    size = max((sum(matrix.numel() for matrix in stack) for stack in stacks), default=0)
    dtype = stacks[0][0].dtype if stacks else None
    buffers = [torch.empty(size, dtype=dtype, device=device) for _ in stacks[:2]]
    is_gpu = device.type == "cuda"
    own = torch.cuda.current_stream(device) if is_gpu else None
    side = torch.cuda.Stream(device) if is_gpu else None

    def bring(number: int) -> Tensor:
        stack = stacks[number]
        shape = len(stack), *stack[0].shape
        buffer = buffers[number % 2][: torch.Size(shape).numel()].view(shape)
        if own is not None and side is not None:  # until whoever has it read what was there
            side.wait_stream(own)
        with torch.cuda.stream(side) if is_gpu else nullcontext():
            for place, matrix in zip(buffer, stack, strict=True):
                place.copy_(matrix, non_blocking=True)
        return buffer

    def settle() -> None:
        if own is not None and side is not None:
            own.wait_stream(side)

    try:
        coming = bring(0) if stacks else None
        for number in range(len(stacks)):
            settle()
            here = coming
            assert here is not None
            coming = bring(number + 1) if number + 1 < len(stacks) else None
            yield here
    finally:
        settle()  # the buffers' memory is free for others of this stream from here on
