"""Pipeline parallelism: each device works on another block, and windows go from block to block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

import torch

from prunerzero.scoring.devices import current_device

Work = Callable[[int, torch.device, Iterator[int]], None]
"""What is done with a block: takes its index, its device, and the windows, each of which comes as
soon as the block before has finished it."""


def run_blocks(
    order: Sequence[int],
    devices: Sequence[torch.device],
    windows: int,
    work: Work,
    on_block: Callable[[], None] = lambda: None,
) -> None:
    """Do ``work`` with each block in this order; the devices take turns.

    Each block reads its windows in order and on one device, so that sums are the same to the bit on
    any number of devices. ``work`` need not take all windows: the next block gets the rest when it
    returns.

    Args:
        order: indices of blocks.
        devices: where they are worked on.
        windows: number of windows.
        work: what is done with a block; called in a thread for each device where there are several.
        on_block: called after each block, by one thread at a time.
    """
    if len(devices) == 1:
        with current_device(devices[0]):
            for block in order:
                work(block, devices[0], iter(range(windows)))
                on_block()
        return
    progress = _Progress(len(order), windows, on_block)
    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [
            pool.submit(_run, range(turn, len(order), len(devices)), order, device, progress, work)
            for turn, device in enumerate(devices)
        ]
        try:
            for future in futures:
                future.result()
        except BaseException:
            progress.stop()
            raise


class _StoppedError(Exception):
    """The work on another device has failed."""


class _Progress:
    """How many windows each block has finished; places are positions in the order of blocks."""

    def __init__(self, blocks: int, windows: int, on_block: Callable[[], None]) -> None:
        self._done, self._windows, self._on_block = [0] * blocks, windows, on_block
        self._changed, self._stopped = Condition(), False

    def windows(self, place: int) -> Iterator[int]:
        """The windows, each when the block before has finished it."""
        for window in range(self._windows):
            with self._changed:
                self._changed.wait_for(
                    lambda window=window: (  # type: ignore[misc]
                        self._stopped or place == 0 or self._done[place - 1] > window
                    )
                )
                if self._stopped:
                    raise _StoppedError
            yield window
            with self._changed:
                self._done[place] = window + 1
                self._changed.notify_all()

    def finish(self, place: int) -> None:
        with self._changed:
            self._done[place] = self._windows
            self._on_block()
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _run(
    places: range,
    order: Sequence[int],
    device: torch.device,
    progress: _Progress,
    work: Work,
) -> None:
    try:
        with current_device(device):
            for place in places:
                work(order[place], device, progress.windows(place))
                progress.finish(place)
    except _StoppedError:
        pass
    except BaseException:
        progress.stop()
        raise
