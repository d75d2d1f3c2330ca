"""torch's own int8 and int4 products in the place of a model's linear layers.

Weights alone are quantised, by rounding to the nearest; the head and the embedding stay as they
are. Nothing is calibrated: it is what a model costs, and loses, without further work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError

GROUP = 32
"""Inputs that share a scale where values have four bits."""
_NOTHING = 0.02
"""Share of the weights' norm. Four bits change weights that were not rounded before by 0.07."""
_ROWS = 16
"""torch's int4 product wants a multiple of so many outputs."""


class Int8Linear(nn.Module):
    """A linear layer with weights of eight bits and a scale for each output."""

    values: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scales = weight.abs().amax(1).float() / 127
        divisor = torch.where(scales > 0, scales, 1)
        self.register_buffer("values", (weight.float() / divisor[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.to(weight.dtype))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        found = torch._weight_int8pack_mm(rows, self.values, self.scales)
        return _with_bias(found, self.bias).view(*inputs.shape[:-1], -1)


class Int4Linear(nn.Module):
    """A linear layer with weights of four bits, and a scale and a shift for each 32 inputs.

    The values are in the order that torch's product wants on this machine.
    """

    values: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        levels, scales, shifts = _levels(weight)
        values = torch._convert_weight_to_int4pack_for_cpu(levels.flatten(1).int(), 1)
        self.register_buffer("values", values)
        self.register_buffer("scales", torch.stack([scales.T, shifts.T], 2).contiguous())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        found = product(rows, self.values, GROUP, self.scales)
        return _with_bias(found, self.bias).view(*inputs.shape[:-1], -1)


def _levels(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels from 0 to 15 [rows, groups, GROUP], scales and shifts [rows, groups] of four bits.

    A weight is (level - 8) * scale + shift, as torch's product has it.
    """
    grouped = weight.float().unflatten(1, (-1, GROUP))
    low, high = grouped.amin(2), grouped.amax(2)
    scales = ((high - low) / 15).to(weight.dtype)
    divisor = torch.where(scales > 0, scales, 1).float()
    levels = ((grouped - low[..., None]) / divisor[..., None]).round().clamp(0, 15)
    return levels, scales, (low + 8 * scales.float()).to(weight.dtype)


def lies_on_int4(model: Any) -> bool:
    """Whether four bits change the weights by next to nothing: they were rounded so before."""
    fitting = (m for m in model.modules() if type(m) is nn.Linear and fits_int4(m))
    layer = next(fitting, None)
    if layer is None:
        return False
    weight = layer.weight.detach()
    levels, scales, shifts = _levels(weight)
    rounded = (levels - 8) * scales.float()[..., None] + shifts.float()[..., None]
    error = rounded.flatten(1) - weight.float()
    return bool(error.norm() < _NOTHING * weight.float().norm())


def fits_int4(layer: nn.Linear) -> bool:
    """Whether torch's product takes a layer of this shape."""
    return layer.in_features % GROUP == 0 and layer.out_features % _ROWS == 0


@contextmanager
def replaced(model: Any, make: Callable[[nn.Linear], nn.Module]) -> Iterator[list[str]]:
    """Inside, the model's linear layers but its head are what ``make`` makes of each.

    Yields:
        The names of the linear layers that stay, since torch has no product for their shape.

    Raises:
        ModelError: there is none to replace.
    """
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head
    }
    chosen = {
        name: layer for name, layer in linear.items() if make is not Int4Linear or fits_int4(layer)
    }
    if not chosen:
        raise ModelError(
            "the model has no linear layers that torch's product takes; rivals are made of the "
            "first model, so name the dense one first."
        )
    try:
        for name, layer in chosen.items():
            model.set_submodule(name, make(layer))
        yield sorted(linear.keys() - chosen.keys())
    finally:
        for name, layer in chosen.items():
            model.set_submodule(name, layer)


def _with_bias(found: Tensor, bias: Tensor | None) -> Tensor:
    return found if bias is None else found + bias
