"""A model's blocks, from the files they lie in to the device and into the shards of a new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.files import write_json
from prunerzero.language.checkpoint_files import restore_dtypes
from prunerzero.language.quiet import quiet_transformers
from prunerzero.pruning.blocks import Matrix, block_lists, check_apart, find_blocks


class FiledBlocks:
    """Blocks whose weights stay in files, but for those that are at work.

    Args:
        model: the model; its blocks on the meta device, all else on the CPU.
        files: the parameters of its blocks by full name, in the checkpoint's dtype.
        dtype: to compute in, where a parameter has the checkpoint's own dtype.
        layers: the prunable matrices of the model.

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

    def __len__(self) -> int:
        return len(self.blocks)

    def layers(self, index: int) -> dict[str, Matrix]:
        """The prunable layers of one block, by full name."""
        start = f"{self._prefix}.{index}."
        return {name: layer for name, layer in self._layers.items() if name.startswith(start)}

    @contextmanager
    def at_work(self, index: int, device: torch.device) -> Iterator[None]:
        """One block's weights are on the device inside."""
        block = self.blocks[index]
        for module in block.modules():  # buffers are small, and not all are in a file
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        weights = {  # copies, as what is in files must not be written to
            name: self._computed(tensor).to(device, copy=True)
            for name, tensor in self._read(index).items()
        }
        nothing = {name: torch.empty_like(t, device="meta") for name, t in weights.items()}
        block.load_state_dict(weights, strict=False, assign=True)
        del weights
        try:
            yield
        finally:
            block.load_state_dict(nothing, strict=False, assign=True)

    @contextmanager
    def outside_at_work(self, device: torch.device) -> Iterator[None]:
        """All that is outside the blocks is on the device inside: embedding, norm, head."""
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
        """What a checkpoint keeps of all that is outside the blocks, as it came."""
        start = f"{self._prefix}."
        tensors = self.model.state_dict()
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}

    @torch.no_grad()
    def zero(self, index: int, zeros: Mapping[str, Tensor]) -> None:
        """Set weights of a block that is at work to zero: full name of a parameter → where."""
        start = f"{self._prefix}.{index}."
        for name, where in zeros.items():
            parameter = self.blocks[index].get_parameter(name.removeprefix(start))
            where = where[: parameter.numel()].view(parameter.shape)
            parameter.masked_fill_(where.to(parameter.device), 0)

    def pruned(self, index: int) -> dict[str, Tensor]:
        """What a checkpoint keeps of a block that is at work, on the CPU and in its dtype.

        Zeros are where the block at work has them now; all else is as it is in the files.
        """
        stored, tensors = self._read(index), {}
        for name, tensor in self.blocks[index].state_dict().items():
            before = stored.get(name)
            now = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            now.copy_(tensor)  # pinned memory is used again for the next block
            if before is not None and before.dtype != now.dtype:
                now = before.masked_fill((now == 0) & (before != 0), 0)
            tensors[f"{self._prefix}.{index}.{name}"] = now
        return tensors

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters by name, sorted, as they are computed with; read when it is their turn."""
        for name, parameter in sorted(self.model.named_parameters()):
            inside = name.startswith(f"{self._prefix}.")
            yield name, self._computed(self._files[name] if inside else parameter)

    def _read(self, index: int) -> dict[str, Tensor]:
        start = f"{self._prefix}.{index}."
        names = [name for name, _ in self.blocks[index].named_parameters(remove_duplicate=False)]
        return {name: self._files[start + name] for name in names}

    def _computed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.dtype == self._stored else tensor


def is_whole(file: Path) -> bool:
    """Whether there is a safetensors file of the size that its header tells."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


class ShardWriter:
    """Writes a checkpoint piece by piece; a piece is there whole or not at all.

    Args:
        folder: of the checkpoint.
        model: whose pieces are written; names and layout are those its class saves.
        pieces: how many there will be; with the first come config and code.
        source: files of the checkpoint that it comes from, by tensor; dtypes are as there.
    """

    def __init__(
        self, folder: Path, model: Any, pieces: int, source: Mapping[str, Path] | None = None
    ) -> None:
        self._folder, self._model, self._pieces = folder, model, pieces
        self._source = source or {}
        self._lock = Lock()  # saving touches the model's config

    def write(self, piece: int, tensors: dict[str, Tensor]) -> None:
        """Write piece ``piece`` = 0, 1 … of tensors by the names they have in the model."""
        aside = self._folder / f"piece-{piece}"
        with self._lock:
            shutil.rmtree(aside, ignore_errors=True)
            try:
                with quiet_transformers():
                    self._model.save_pretrained(aside, state_dict=tensors, max_shard_size="100TB")
                restore_dtypes(aside, self._source)
                (weights,) = aside.glob("*.safetensors")
                shutil.copymode(aside / "config.json", weights)  # others may read it then
                os.replace(weights, self._folder / self._name(piece))
                if piece == 0:
                    for file in aside.iterdir():
                        os.replace(file, self._folder / file.name)
            finally:  # on a full disk too, where it takes the room that finished pieces need
                shutil.rmtree(aside, ignore_errors=True)

    def has(self, piece: int) -> bool:
        """Whether a piece is written, and whole."""
        return is_whole(self._folder / self._name(piece))

    def finish(self) -> None:
        """Write the index of all pieces."""
        places: dict[str, str] = {}
        size = 0
        for piece in range(self._pieces):
            file = self._folder / self._name(piece)
            with safe_open(file, framework="pt") as tensors:
                places |= dict.fromkeys(tensors.keys(), file.name)
            size += file.stat().st_size
        write_json(
            self._folder / "model.safetensors.index.json",
            {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))},
        )

    def _name(self, piece: int) -> str:
        return f"model-{piece + 1:05}-of-{self._pieces:05}.safetensors"


def block_names(model: nn.Module) -> list[str]:
    """The full names of the model's blocks. Raises ModelError where they do not stand apart."""
    (prefix, blocks), *others = block_lists(model)
    if others:
        raise ModelError(
            f"the model's blocks stand in several lists, {prefix} and {others[0][0]}; prune it as "
            "a whole, without `block_by_block`."
        )
    check_apart(blocks)  # on the model without weights: what is read apart, lies apart
    return [f"{prefix}.{index}" for index in range(len(blocks))]
