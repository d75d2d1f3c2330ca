"""The same numbers from the same computation, on a GPU too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils import deterministic

T = TypeVar("T")


def repeatably(work: Callable[[], T]) -> T:
    """The result of ``work``, with every sum in the same order wherever there is a way.

    The backward pass of attention on a GPU adds up in any order otherwise, and a run that goes on,
    or one on more devices, would prune a few other weights. torch keeps that order only where it
    may refuse what has none; a model that needs such an operation (the counting of routed tokens,
    a cumulative sum) begins again without, and its attention adds up as it likes.
    """
    try:
        with repeatable():
            return work()
    except RuntimeError as error:
        if "deterministic" not in str(error).lower():
            raise
    with repeatable(strict=False):
        return work()


@contextmanager
def repeatable(*, strict: bool = True) -> Iterator[None]:
    """Inside, sums are in the same order; what has none raises RuntimeError if ``strict``."""
    before = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*determinis.*")
            yield
    finally:
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.use_deterministic_algorithms(before, warn_only=lenient)
        deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
