"""A linear layer whose dense weights lie in the packed order, multiplied by our own dense kernel.

It shows what a kernel of our style does without sparsity. Several inputs at once are multiplied by
torch, from weights that are put back into torch's order each time: only decoding of one sequence
is worth reading.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.commands import no_command
from benchmarks.packed_kernels import build_dense, in_steps
from prunerzero.packed.layout import ROWS


class DenseSteps(nn.Module):
    """Stands in for a bf16 ``nn.Linear`` without bias, of 16·k outputs and 2·k inputs."""

    built = False
    steps: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.rows = layer.out_features
        self.register_buffer("steps", in_steps(layer.weight.detach(), 2))

    def forward(self, inputs: Tensor) -> Tensor:
        columns = inputs.shape[-1]
        flat = inputs.reshape(-1, columns)
        if len(flat) > 1:
            groups = self.steps.view(self.rows // ROWS, columns // 2, ROWS, 2)
            return linear(inputs, groups.permute(0, 2, 1, 3).reshape(self.rows, columns))
        if not DenseSteps.built:
            DenseSteps.built = build_dense()
        product: Callable[..., Tensor] = torch.ops.prunerzero_benchmark.dense_product
        found = product(flat, self.steps, None, self.rows)
        return found.view(*inputs.shape[:-1], -1)


if __name__ == "__main__":
    no_command("python -m benchmarks.packed_model --help")
