"""What a model in memory does for a measurement, whatever runs it.

Token ids are numpy's, so that the process of a model that torch does not run need not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Loaded(Protocol):
    """A model in memory, ready to be measured."""

    @property
    def dtype(self) -> str:
        """What its weights are kept in, as far as one word tells."""

    @property
    def kernel(self) -> str | None:
        """Which of our kernels multiplies packed weights; None where none are packed."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that its weights were read from."""

    def prefill(self, tokens: Ids) -> float:
        """Read a prompt [length]; the seconds until the token that follows is known."""

    def decode(self, prompts: Ids, new_tokens: int) -> float:
        """Continue prompts [count, length], always by the likeliest token; the seconds it took.

        Reading the prompts does not count.
        """

    def losses(self, windows: Ids, on_window: Callable[[int], None]) -> list[float]:
        """The mean negative log-likelihood of a token in each window [count, length], in nats."""


@runtime_checkable
class OfTorch(Loaded, Protocol):
    """A model that torch runs, so that CUDA graphs can be made of it on a GPU."""

    def tensor_bytes(self) -> int:
        """What its tensors take on their device."""

    def prefill_in_graph(self, tokens: Ids) -> float:
        """As ``prefill``, replaying a CUDA graph; recording it does not count."""

    def decode_in_graphs(self, prompts: Ids, new_tokens: int) -> float:
        """As ``decode``, with a static cache, and replaying a CUDA graph for each step."""


class Loader(Protocol):
    """What loads a model, made before its time counts: what loading imports is imported."""

    files: tuple[Path, ...]
    """Those that will be read, as far as they are on this machine."""

    def load(self) -> Loaded:
        """Load the model."""
