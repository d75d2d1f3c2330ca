"""The blocks of a model whose weights stay on disk, but for the block that is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.pruning.blocks import (
    Matrix,
    block_lists,
    check_apart,
    find_blocks,
    layers_inside,
)


class OffloadedBlocks:
    """A model whose blocks are read from disk when they are needed, and dropped afterwards.

    Args:
        model: the model; its blocks are on the meta device, everything else is on the CPU.
        files: the parameters of its blocks by full name, in the checkpoint's dtype.
        dtype: the dtype to compute in, for parameters that have the checkpoint's main dtype.
        layers: the prunable matrices of the model by full name.

    Attributes:
        model: as given.
        blocks: its blocks.
        dtype: as given.
    """

    def __init__(
        self,
        model: Any,
        files: Mapping[str, Tensor],
        dtype: torch.dtype,
        layers: Mapping[str, Matrix],
    ) -> None:
        self.model = model
        self._prefix, self.blocks = find_blocks(model)
        self.dtype, self._stored, self._files = dtype, model.dtype, files
        self._layers = layers
        self._same = [_first_names(block) for block in self.blocks]
        self._stored_dtypes: dict[str, torch.dtype] = {}

    def __len__(self) -> int:
        return len(self.blocks)

    def layers(self, index: int) -> dict[str, Matrix]:
        """The prunable layers of one block, by full name."""
        return layers_inside(self._layers, f"{self._prefix}.{index}")

    @contextmanager
    def loaded(self, index: int, device: torch.device) -> Iterator[None]:
        """Inside the ``with``, the weights of one block are on the device."""
        block = self.blocks[index]
        for module in block.modules():  # buffers are small, and some are in no file
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        weights = {}
        for name, tensor in self._read(index).items():
            self._stored_dtypes[self._full(index, name)] = tensor.dtype
            copy = self._computed(tensor).to(device, copy=True)  # files must not change with it
            weights[name] = nn.Parameter(copy, requires_grad=False)
        nothing = {
            name: nn.Parameter(torch.empty_like(t, device="meta"), requires_grad=False)
            for name, t in weights.items()
        }
        self._assign(index, weights)
        del weights
        try:
            yield
        finally:
            self._assign(index, nothing)

    def _assign(self, index: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give a block these parameters; names that shared one share it again."""
        named = {name: parameters[first] for name, first in self._same[index].items()}
        self.blocks[index].load_state_dict(named, strict=False, assign=True)

    @contextmanager
    def outside_loaded(self, device: torch.device) -> Iterator[None]:
        """Inside the ``with``, the model outside its blocks (embedding, norm, head) is there."""
        inside = {id(tensor) for tensor in [*self.blocks.parameters(), *self.blocks.buffers()]}
        parameters = [p for p in self.model.parameters() if id(p) not in inside]
        buffers = [b for b in self.model.buffers() if id(b) not in inside]
        before = [tensor.data for tensor in [*parameters, *buffers]]
        for parameter in parameters:
            parameter.data = self._computed(parameter.data).to(device)
        for buffer in buffers:
            buffer.data = buffer.data.to(device)
        try:
            yield
        finally:
            for tensor, data in zip([*parameters, *buffers], before, strict=True):
                tensor.data = data

    def outside(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint that are outside the blocks, unchanged."""
        start = f"{self._prefix}."
        tensors = self.model.state_dict()
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}

    @torch.no_grad()
    def zero(self, index: int, zeros: Mapping[str, Tensor]) -> None:
        """Set weights of a loaded block to zero.

        Args:
            index: of the block.
            zeros: full name of a parameter → bool, flat, True for zero; entries beyond the
                parameter's size are ignored.
        """
        start = f"{self._prefix}.{index}."
        for name, where in zeros.items():
            parameter = self.blocks[index].get_parameter(name.removeprefix(start))
            where = where[: parameter.numel()].view(parameter.shape)
            parameter.masked_fill_(where.to(parameter.device), 0)

    @torch.no_grad()
    def set(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Give a loaded block the weights that ``pruned`` gave.

        Args:
            index: of the block.
            tensors: full name of a parameter or buffer → what ``pruned`` gave, in any dtype that
                holds it.
        """
        for name, parameter in self.blocks[index].named_parameters():
            full = self._full(index, name)
            parameter.copy_(tensors[full].to(self._stored_dtypes[full]))

    def stored_dtypes(self, index: int) -> dict[str, torch.dtype]:
        """The checkpoint's dtype of each prunable layer of a loaded block."""
        named = self.blocks[index].named_parameters()
        of_parameter = {id(p): self._stored_dtypes[self._full(index, name)] for name, p in named}
        return {name: of_parameter[id(x.stored)] for name, x in self.layers(index).items()}

    def pruned(self, index: int) -> dict[str, Tensor]:
        """The tensors of a loaded and pruned block for a checkpoint, on the CPU.

        Weights that are zero in the block are zero; those that are unchanged have the values that
        they have on disk; others are rounded. All have the dtype that they have on disk.
        """
        stored, tensors = self._read(index), {}
        for name, tensor in self.blocks[index].state_dict().items():
            before = stored.get(self._same[index].get(name, name))
            now = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            now.copy_(tensor)  # torch reuses pinned memory for the next block
            if before is not None and before.dtype != now.dtype:
                unchanged = before.to(now.dtype) == now
                kept = torch.where(unchanged, before, now.to(before.dtype))
                now = kept.masked_fill_((now == 0) & (before != 0), 0)
            tensors[self._full(index, name)] = now
        return tensors

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters in the computing dtype, sorted by name, read one at a time."""
        for name, parameter in sorted(self.model.named_parameters()):
            inside = name.startswith(f"{self._prefix}.")
            yield name, self._computed(self._files[name] if inside else parameter)

    def _full(self, index: int, name: str) -> str:
        return f"{self._prefix}.{index}.{name}"

    def _read(self, index: int) -> dict[str, Tensor]:
        """The parameters of a block, each once, as they are on disk."""
        names = dict.fromkeys(self._same[index].values())
        return {name: self._files[self._full(index, name)] for name in names}

    def _computed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.dtype == self._stored else tensor


def _first_names(block: nn.Module) -> dict[str, str]:
    """Each name of a parameter → the first name of the same parameter."""
    firsts = {id(parameter): name for name, parameter in block.named_parameters()}
    named = block.named_parameters(remove_duplicate=False)
    return {name: firsts[id(parameter)] for name, parameter in named}


def block_names(model: nn.Module) -> list[str]:
    """The full names of the blocks of a model, which may be on the meta device.

    Raises:
        ModelError: the model has several lists of blocks, or blocks share weights.
    """
    (prefix, blocks), *others = block_lists(model)
    if others:
        raise ModelError(
            f"the model has several lists of blocks, {prefix} and {others[0][0]}; prune it as "
            "a whole, without `block_by_block`."
        )
    check_apart(blocks)
    return [f"{prefix}.{index}" for index in range(len(blocks))]
