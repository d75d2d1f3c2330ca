"""Checkpoints with zeros in them, made without a pruner."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model
from torch import Tensor


def zero_smallest(folder: Path, share: float = 0.5) -> Path:
    """Set that share of every matrix but embeddings to zero, in the files of a checkpoint."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.dim() == 2 and "embed" not in name:
                tensors[name] = sparse(tensor, share)
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def sparse(weight: Tensor, share: float) -> Tensor:
    count = int(share * weight.numel())
    if not count:
        return weight
    limit = weight.abs().float().flatten().kthvalue(count).values
    return weight.masked_fill(weight.abs().float() <= limit, 0)


def sparse_tiny_model(
    folder: Path, dtype: torch.dtype = torch.bfloat16, share: float = 0.5
) -> Path:
    return zero_smallest(save_tiny_model(folder, dtype), share)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)
