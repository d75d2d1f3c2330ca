"""Delays Ctrl-C and SIGTERM while something is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Run the handlers of these signals at the end of the block, not within.

    An interrupt in the middle of a write would leave Optuna's lock held, or its memory of the study
    different from the file. A signal that is ignored, or that the system handles, stays so. Does
    nothing outside the main thread, since only the main thread is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    handlers = {n: handler for n in STOPS if callable(handler := signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        first, frame = held[0]
        handlers[signal.Signals(first)](first, frame)
