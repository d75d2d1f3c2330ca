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
            libraries had taken before; pages of mapped files count.
        load_seconds: until the first token, the libraries being imported and the files being in
            the system's cache; the median.
        prefill_tokens_per_second: of the long prompt; the median.
        decode_tokens_per_second: of all continuations together, by how many are made at once; the
            medians.
        perplexity: on the text.
        peak_memory_bytes: the most at once while loading and while speed was measured, counted as
            ``memory_bytes``.
        mapped_bytes: of the memory in use, the pages of mapped files, which the system can drop
            and read again; None where it does not tell.
        libraries_bytes: what Python and its libraries had taken before.
        spread: the quartiles of each speed, ``prefill`` and ``decode`` by how many at once.
        runs: every measurement, in tokens a second, and the times of loading in seconds.
        runtime: what ran it.
        dtype: that the model says it has.
        kernel: which of our kernels multiplies packed weights; None where none are packed.
        is_rival: whether it was made to be compared with.
        notes: sentences on what could not be measured, or is not what it seems.
    """

    model: str
    file_bytes: int | None
    memory_bytes: int | None
    load_seconds: float | None
    prefill_tokens_per_second: float | None
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
