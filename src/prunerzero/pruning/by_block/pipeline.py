"""Blocks at work side by side on several devices, windows handed on from each to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

import torch

from prunerzero.scoring.devices import current_device

Work = Callable[[int, torch.device, Iterator[int]], None]
"""Told a block, its device, and the windows, each of which comes when the block before has it."""


def run_blocks(
    order: Sequence[int], devices: Sequence[torch.device], windows: int, work: Work
) -> None:
    """Let ``work`` be done for each block in this order, by turns on the devices.

    A block reads its windows in their order and on one device, so that its sums are the same to the
    bit on any number of devices. A block whose windows are not all taken counts as having read them
    when its work is done.
    """
    if len(devices) == 1:
        with current_device(devices[0]):
            for block in order:
                work(block, devices[0], iter(range(windows)))
        return
    progress = _Progress(len(order), windows)
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
    """Another device's work failed."""


class _Progress:
    """How many windows each block has read."""

    def __init__(self, blocks: int, windows: int) -> None:
        self._done, self._windows = [0] * blocks, windows
        self._changed, self._stopped = Condition(), False

    def windows(self, place: int) -> Iterator[int]:
        """The windows, each when the block before has read it."""
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
            self.reached(place, window + 1)

    def reached(self, place: int, windows: int) -> None:
        with self._changed:
            self._done[place] = windows
            self._changed.notify_all()

    def finished(self, place: int) -> None:
        self.reached(place, self._windows)

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
                progress.finished(place)
    except _StoppedError:
        pass
    except BaseException:
        progress.stop()
        raise
