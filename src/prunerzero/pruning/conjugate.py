"""A step of conjugate gradients for many rows at once, each over the weights that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from prunerzero.scoring.devices import current_device, has_triton

_TINY = 1e-30
"""What is divided by at least: squared residuals below it are none."""


class Course(NamedTuple):
    """Where conjugate gradients stand: all fp32 [..., rows, in], and contiguous.

    Attributes:
        values: scaled weights.
        residual: what is left of the gradient; zero where not kept.
        direction: of the next step.
        kept: bool, which weights stay.
        left: squared residual [..., rows] of each row.
    """

    values: Tensor
    residual: Tensor
    direction: Tensor
    kept: Tensor
    left: Tensor

    @classmethod
    def begin(cls, values: Tensor, residual: Tensor, kept: Tensor) -> Course:
        """The first direction is that of the gradient."""
        return cls(values, residual, residual.clone(), kept, residual.square().sum(-1))


def step_by_torch(course: Course, moved: Tensor) -> None:
    """Take a step, in place. ``moved`` is the product of the direction with the matrix."""
    values, residual, direction, kept, left = course
    moved.mul_(kept)
    length = left / (direction * moved).sum(-1).clamp_(min=_TINY)
    values.addcmul_(direction, length[..., None])
    residual.addcmul_(moved, length[..., None], value=-1)
    now = residual.square().sum(-1)
    direction.mul_((now / left.clamp(min=_TINY))[..., None]).add_(residual)
    left.copy_(now)


def step_by_kernel(course: Course, moved: Tensor) -> None:
    """The same in one pass over the rows: a third of what eager torch reads and writes."""
    from prunerzero.pruning.step_kernel import conjugate_step

    values, residual, direction, kept, left = course
    width = values.shape[-1]
    block = 1 << (width - 1).bit_length()
    with current_device(values.device):
        conjugate_step[left.numel(),](
            values, residual, direction, moved, kept.view(torch.uint8), left, width,
            TINY=_TINY, BLOCK=block, num_warps=max(1, min(16, block // 512)),
        )  # fmt: skip


def step_on(device: torch.device) -> Callable[[Course, Tensor], None]:
    """What takes a step there."""
    return step_by_kernel if has_kernel(device) else step_by_torch


@contextmanager
def quick_products() -> Iterator[None]:
    """Products of a GPU are in TF32 inside this context, several times as quick as in fp32.

    TF32 holds ten bits of a factor. What that changes is as small as what a refit of a model leaves
    undone where it stops, and far below what tells candidates apart (``docs/refit.md``).
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@lru_cache
def has_kernel(device: torch.device) -> bool:
    """Whether there is a kernel for the device that agrees with torch."""
    if device.type != "cuda" or not has_triton():
        return False
    from triton.errors import TritonError

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 70, 37, generator=generator)
    matrix = (rows.mT @ rows / 70 + torch.eye(37)).to(device)
    kept = (torch.rand(2, 5, 37, generator=generator) < 0.5).to(device)
    found: list[Tensor] = []
    for step in (step_by_torch, step_by_kernel):
        residual = torch.randn(2, 5, 37, generator=torch.Generator().manual_seed(1)).to(device)
        residual.mul_(kept)
        values = torch.zeros_like(residual)
        course = Course.begin(values, residual, kept)
        try:
            for _ in range(4):
                step(course, course.direction @ matrix)
        except TritonError:  # a GPU that it cannot be compiled for
            return False
        found.append(values)
    return torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5)
