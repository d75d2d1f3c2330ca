"""How much memory of a GPU a model takes, and took at most: what torch has allocated there."""

from __future__ import annotations

from typing import Any

import torch

from prunerzero.tasks.benching.loaded import OfTorch
from prunerzero.tasks.benching.resident import InUse


class CardMemory:
    """See ``Memory``. What CUDA itself takes for a process is not counted."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        torch.zeros(1, device=self._device)  # CUDA is ready before the time to load counts
        self._before = 0

    def begin(self) -> None:
        torch.cuda.synchronize(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def in_use(self, loaded: Any) -> InUse:
        assert isinstance(loaded, OfTorch)
        return InUse(loaded.tensor_bytes(), mapped_bytes=None, libraries_bytes=None)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before
