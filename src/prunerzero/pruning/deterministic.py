"""Computations that give the same bits each time, on a GPU too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.utils.deterministic

T = TypeVar("T")


def deterministically(work: Callable[[], T]) -> T:
    """The result of ``work``, with torch's deterministic algorithms wherever there are any.

    Otherwise the pass backward of attention on a GPU adds up in any order, and a resumed run, or
    one on more devices, would prune a few other weights. torch keeps a fixed order only in the mode
    that refuses operations without one. Where a model needs such an operation (the counting of
    routed tokens, a cumulative sum), ``work`` is called again in the mode that allows them, without
    a fixed order in attention.
    """
    try:
        with deterministic():
            return work()
    except RuntimeError as error:
        if "deterministic" not in str(error).lower():
            raise
    with deterministic(strict=False):
        return work()


@contextmanager
def deterministic(*, strict: bool = True) -> Iterator[None]:
    """Inside the ``with``, torch uses deterministic algorithms.

    Where an operation has none, ``strict`` makes it raise RuntimeError.
    """
    settings = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*determinis.*")
            yield
    finally:
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.use_deterministic_algorithms(before, warn_only=lenient)
        settings.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
