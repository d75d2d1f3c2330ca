"""Threads of which each computes alone: on blocks of rows, or on what is too small to split."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

BLOCK = 1 << 17
"""Values in the smallest block of rows: 512 kB of scores, 32 rows of 4096 inputs.

The larger a block the less threads wait for Python, and the less of it stays in a core's cache.
"""

_GROWTH = 4
"""How many times as large blocks may be …"""

_EACH = 4
"""… where each thread still has so many, so that none waits long for the last."""


def in_blocks(work: Callable[[Iterator[slice]], None], rows: int, width: int) -> None:
    """Have all ``rows`` of a matrix worked on, in blocks of ``BLOCK`` values or some more.

    ``work`` is called once in each of torch's number of threads, and takes slices of rows until
    none is left. What is no more than one block is left to the caller's thread.
    """
    values, threads = rows * width, torch.get_num_threads()
    size = min(max(BLOCK, values // (_EACH * threads)), _GROWTH * BLOCK)
    count = -(-values // size)
    threads = min(threads, count)
    if threads > 1:
        count = -(-count // threads) * threads  # as many for each
    height = max(1, -(-rows // max(1, count)))
    left = iter([slice(start, start + height) for start in range(0, rows, height)])
    if threads <= 1:
        work(left)
        return
    pool = _pool(torch.get_num_threads())
    futures = [pool.submit(work, left) for _ in range(threads)]
    wait(futures)
    for future in futures:
        future.result()


def alone(work: Callable[[], T]) -> T:
    """The result of ``work``, computed by one thread alone.

    For what is so small that threads would wait for each other longer than it takes; its bits are
    then the same however many cores there are.
    """
    if torch.get_num_threads() <= 1:
        return work()
    return _pool(1).submit(work).result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "alone", initializer=_compute_alone)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its threads


def _compute_alone() -> None:
    """Keep torch from splitting what this thread computes among all cores, which work already.

    ``torch.set_num_threads`` does that and more: it ends MKL's own choice of how many threads a
    call is worth, in the whole process, after which the smallest waits for every core. So OpenMP,
    which torch asks, is told itself; where it is not found, torch splits.
    """
    torch.get_num_threads()  # a thread's first question to torch sets it anew
    with suppress(AttributeError):
        ctypes.CDLL(torch._C.__file__).omp_set_num_threads(1)
