"""What was measured of one model, and the figures that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Spread = tuple[float, float]
"""The first and the third quartile."""


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one model; what was not measured is None, and ``notes`` say why.

    Attributes:
        model: as the user named it, or what the rival is called.
        file_bytes: of the files of weights.
        memory_bytes: memory in use once loaded, all weights having been used, beyond what the
            libraries had taken before; pages of mapped files count. On a GPU, what the model's
            tensors take there.
        load_seconds: until the first token, the libraries being imported and the files being in
            the system's cache; the median.
        prefill_tokens_per_second: of reading a prompt, by its length; the medians. On a GPU, in a
            CUDA graph.
        decode_tokens_per_second: of all continuations together, by how many are made at once; the
            medians. On a GPU, in CUDA graphs with a static cache.
        perplexity: on the text.
        peak_memory_bytes: the most at once while loading and while speed was measured, beyond what
            the libraries had taken before. On a GPU, what torch had allocated there.
        mapped_bytes: of the memory in use, the pages of mapped files, which the system can drop
            and read again; None where it does not tell.
        libraries_bytes: what Python and its libraries had taken before; None on a GPU.
        spread: the quartiles of each speed, ``prefill`` by length and ``decode`` by how many at
            once; on a GPU also ``without_graphs``, which has both.
        runs: every measurement, in tokens a second, and the times of loading in seconds.
        runtime: what ran it.
        dtype: that the model says it has.
        kernel: which of our kernels multiplies packed weights; None where none are packed.
        is_rival: whether it was made to be compared with.
        notes: sentences on what could not be measured, or is not what it seems.
        without_graphs: on a GPU, ``prefill`` and ``decode`` in tokens a second where Python
            launches every kernel, as ``generate`` runs a model by itself. None on a CPU, whose
            speeds all are so.
    """

    model: str
    file_bytes: int | None
    memory_bytes: int | None
    load_seconds: float | None
    prefill_tokens_per_second: dict[str, float]
    decode_tokens_per_second: dict[str, float]
    perplexity: float | None
    peak_memory_bytes: int | None
    mapped_bytes: int | None
    libraries_bytes: int | None
    spread: dict[str, Any]
    runs: dict[str, Any]
    runtime: str
    dtype: str | None
    kernel: str | None
    is_rival: bool
    notes: tuple[str, ...]
    without_graphs: dict[str, dict[str, float]] | None = None

    @property
    def has_speed(self) -> bool:
        """Whether any speed was measured."""
        return bool(self.prefill_tokens_per_second or (self.without_graphs or {}).get("prefill"))


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if values else None


def quartiles(values: Sequence[float]) -> Spread | None:
    """The first and the third quartile; None of a single value, which says nothing of a spread.

    >>> quartiles([1, 2, 3, 4, 5])
    (2.0, 4.0)
    """
    if len(values) < 2:
        return None
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)
