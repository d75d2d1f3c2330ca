"""The refit that candidates of a search are judged after: a few steps, many layers at once.

A search refits every layer of a model for every candidate, and needs to know only which candidate
is better. So it stops after some steps of conjugate gradients, multiplies in TF32 on a GPU, and
never waits for the GPU. Rows of layers that read the same are one problem, and problems of one
shape are solved together: a small model is otherwise bound by the launching of kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.gram import DAMPING, Grams
from prunerzero.scoring.devices import current_device, has_triton

_TOGETHER = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Weights that are solved together at most: more do not fit in a CPU's cache, or take too much of a
GPU's memory, of which each takes about 30 bytes."""

_TINY = 1e-30
"""What is divided by at least: squared residuals below it are none."""

Problem = tuple[str, ...]
"""Names of layers that read the same, whose rows share a Gram matrix."""


@dataclass(frozen=True)
class QuickRefit:
    """Refits the weights that stay of all layers.

    Attributes:
        batches: problems of one shape that are solved together.
        steps: of conjugate gradients.
        damping: share of each diagonal entry of a Gram matrix that is added to it.
    """

    batches: tuple[tuple[Problem, ...], ...]
    steps: int
    damping: float = DAMPING

    @classmethod
    def of(cls, layers: Mapping[str, Matrix], grams: Grams, steps: int) -> QuickRefit:
        """Group the layers; those in a row that share one Gram matrix are one problem."""
        problems: list[list[str]] = []
        for name in layers:
            if problems and grams[name] is grams[problems[-1][-1]]:
                problems[-1].append(name)
            else:
                problems.append([name])
        return cls(tuple(_batches(layers, problems)), steps)

    @torch.no_grad()
    def apply(
        self, layers: Mapping[str, Matrix], dense: Mapping[str, Tensor], grams: Grams
    ) -> None:
        """Refit in place the weights of pruned layers.

        Args:
            layers: the matrices, zero where pruned.
            dense: dense weights [out, in] of each.
            grams: Gram matrix [in, in] of each layer's inputs.
        """
        for batch in self.batches:
            matrix, norms = _scaled(torch.stack([grams[p[0]] for p in batch]), self.damping)
            masked = torch.stack([torch.cat([layers[n].weight for n in p]) for p in batch]) == 0
            target = torch.stack([torch.cat([dense[n] for n in p]) for p in batch]).float()
            found = _solve(target * norms, matrix, ~masked, self.steps)
            # weights of an input that is never active, and rows that lose none, stay what they are
            changes = (norms > 0) & masked.any(2, keepdim=True)
            found = torch.where(changes, found / norms, target).masked_fill_(masked, 0)
            for problem, weights in zip(batch, found, strict=True):
                rows = [len(layers[name].weight) for name in problem]
                for name, own in zip(problem, weights.split(rows), strict=True):
                    layers[name].weight.copy_(own)


def _batches(
    layers: Mapping[str, Matrix], problems: Sequence[Sequence[str]]
) -> Iterator[tuple[Problem, ...]]:
    alike: dict[tuple[int, int, torch.dtype, torch.device], list[Problem]] = {}
    for problem in problems:
        weights = [layers[name].weight for name in problem]
        shape = sum(map(len, weights)), weights[0].shape[1]
        key = (*shape, weights[0].dtype, weights[0].device)
        alike.setdefault(key, []).append(tuple(problem))
    for (rows, width, _, device), found in alike.items():
        most = max(1, _TOGETHER.get(device.type, 1) // max(1, rows * width))
        for first in range(0, len(found), most):
            yield tuple(found[first : first + most])


def _scaled(grams: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Damped matrices [n, in, in] with diagonals of one, and the norms [n, 1, in] that they were
    divided by, as ``least_squares.Scaled`` has them."""
    norms = grams.diagonal(dim1=1, dim2=2).clamp(min=0).mul(1 + damping).sqrt()
    divisor = torch.where(norms > 0, norms, 1.0)
    matrix = grams / divisor[:, None, :] / divisor[:, :, None]
    matrix = (matrix + matrix.mT).div_(2)
    matrix.diagonal(dim1=1, dim2=2).fill_(1)
    norms = norms / divisor.amax(1, keepdim=True)
    return matrix, norms[:, None, :]


def _solve(target: Tensor, matrix: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Scaled weights [n, rows, in] after so many steps from the dense ones, zero where not kept."""
    with _quick_products():
        values = torch.where(kept, target, 0.0)
        residual = ((target - values) @ matrix).mul_(kept)
        course = _Course(values, residual, residual.clone(), kept, residual.square().sum(2))
        step = step_by_kernel if _has_kernel(values.device) else step_by_torch
        for _ in range(steps):
            step(course, course.direction @ matrix)
    return values


class _Course(NamedTuple):
    """Where conjugate gradients stand: all fp32 [n, rows, in], and contiguous.

    Attributes:
        values: scaled weights.
        residual: what is left of the gradient; zero where not kept.
        direction: of the next step.
        kept: bool, which weights stay.
        left: squared residual [n, rows] of each row.
    """

    values: Tensor
    residual: Tensor
    direction: Tensor
    kept: Tensor
    left: Tensor


def step_by_torch(course: _Course, moved: Tensor) -> None:
    """Take a step, in place. ``moved`` is the product of the direction with the matrix."""
    values, residual, direction, kept, left = course
    moved.mul_(kept)
    length = left / (direction * moved).sum(2).clamp_(min=_TINY)
    values.addcmul_(direction, length[..., None])
    residual.addcmul_(moved, length[..., None], value=-1)
    now = residual.square().sum(2)
    direction.mul_((now / left.clamp(min=_TINY))[..., None]).add_(residual)
    left.copy_(now)


def step_by_kernel(course: _Course, moved: Tensor) -> None:
    """The same in one pass over the rows: a third of what eager torch reads and writes."""
    from prunerzero.pruning.step_kernel import conjugate_step

    values, residual, direction, kept, left = course
    width = values.shape[2]
    block = 1 << (width - 1).bit_length()
    with current_device(values.device):
        conjugate_step[left.numel(),](
            values, residual, direction, moved, kept.view(torch.uint8), left, width,
            TINY=_TINY, BLOCK=block, num_warps=max(1, min(16, block // 512)),
        )  # fmt: skip


@lru_cache
def _has_kernel(device: torch.device) -> bool:
    """Whether there is a kernel for the device that agrees with torch."""
    if device.type != "cuda" or not has_triton():
        return False
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 70, 37, generator=generator)
    matrix = (rows.mT @ rows / 70 + torch.eye(37)).to(device)
    kept = (torch.rand(2, 5, 37, generator=generator) < 0.5).to(device)
    found: list[Tensor] = []
    for step in (step_by_torch, step_by_kernel):
        residual = torch.randn(2, 5, 37, generator=torch.Generator().manual_seed(1)).to(device)
        residual.mul_(kept)
        values = torch.zeros_like(residual)
        course = _Course(values, residual, residual.clone(), kept, residual.square().sum(2))
        for _ in range(4):
            step(course, course.direction @ matrix)
        found.append(values)
    return torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-5)


@contextmanager
def _quick_products() -> Iterator[None]:
    """Products of a GPU in TF32: their errors are far below what tells candidates apart."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
