"""Blocks of rows on the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier

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
    """Threads of which each computes alone: torch would split what each does among all cores."""
    pool = ThreadPoolExecutor(threads, "rows")
    all_there = Barrier(threads)

    def start(_: int) -> None:
        torch.get_num_threads()  # or torch undoes what follows
        torch.set_num_threads(1)
        all_there.wait()

    list(pool.map(start, range(threads)))
    torch.set_num_threads(threads)  # for new threads of the caller's, which would have got 1
    return pool
