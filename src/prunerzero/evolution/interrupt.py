"""Ctrl-C and SIGTERM, held back while something is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let what stops a search raise KeyboardInterrupt at the end of the block, not within.

    An interrupt in the midst of a write would leave Optuna's lock held, or its memory of the study
    apart from the file. A signal that is ignored, or left to the system, stays so. Outside the main
    thread, which alone is interrupted, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    found = {number: signal.getsignal(number) for number in STOPS}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
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
