"""Blocks of rows on the cores of a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache

import torch

_SPLIT = 1 << 15
"""Values from which on torch itself may split an operation among cores, at a price for each."""

_WORTH_THREADS = 1 << 16
"""Values of which a block takes much longer than handing it to a thread."""


BLOCK = 1 << 17
"""Values in a block of rows: 512 kB of scores, 32 rows of 4096 inputs.

A few such matrices fit in a core's cache; in smaller blocks threads wait for Python too often.
"""


def in_blocks(work: Callable[[Iterator[slice]], None], rows: int, width: int) -> None:
    """Have all ``rows`` of a matrix worked on, block by block, on as many threads as torch has.

    ``work`` is called once in each thread and takes blocks, slices of rows, until none is left.
    """
    threads, size = torch.get_num_threads(), BLOCK
    if rows * width < _WORTH_THREADS:
        threads, size = 1, min(BLOCK, _SPLIT - 1)
    height = max(1, min(size // max(1, width), -(-rows // threads)))
    blocks = [slice(start, start + height) for start in range(0, rows, height)]
    threads = min(threads, len(blocks))
    left = iter(blocks)
    if threads <= 1:
        work(left)
        return
    pool = _pool(torch.get_num_threads())
    futures = [pool.submit(work, left) for _ in range(threads)]
    wait(futures)
    for future in futures:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "rows", initializer=_compute_alone)


def _compute_alone() -> None:
    """Keep torch from splitting what this thread computes among all cores, which work already.

    ``torch.set_num_threads`` does that and more: it ends MKL's own choice of how many threads a
    call is worth, in the whole process, after which the smallest waits for every core. So OpenMP,
    which torch asks, is told itself; where it is not found, torch splits.
    """
    torch.get_num_threads()  # a thread's first question to torch sets it anew
    with suppress(AttributeError):
        ctypes.CDLL(torch._C.__file__).omp_set_num_threads(1)
