"""Being stopped: by Ctrl-C, or by SIGTERM as SLURM, Kubernetes, systemd and ``timeout`` send it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_MESSAGES = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Interrupted by SIGTERM."}
"""Who pressed Ctrl-C knows of it; where something else ended a command, its user should too."""

_SOON = 0.02
"""Seconds after which a signal that came at a bad moment is sent again."""

Handler = Callable[[int, FrameType | None], None]


def end_at_once() -> None:
    """From here on, being stopped ends the process: nothing is begun that could be lost.

    By the handler itself: in the midst of an import an exception may be caught or made another.
    """
    _handle(_end)


class Stoppable:
    """Within it SIGTERM raises KeyboardInterrupt, as Ctrl-C does.

    Attributes:
        exit_code: of a command that was stopped: 130 after Ctrl-C, 143 after SIGTERM.
        message: what it says then.
    """

    exit_code = 128 + signal.SIGINT
    message = _MESSAGES[signal.SIGINT]

    def __enter__(self) -> Stoppable:
        self._terminated = -math.inf
        self._before = _handle(self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if _in_destructor(frame):  # where Python drops whatever is raised, and goes on
            again = threading.Timer(_SOON, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        self.exit_code = 128 + number
        self.message = _MESSAGES[signal.Signals(number)]
        if number == signal.SIGTERM:
            before, self._terminated = self._terminated, time.monotonic()
            if self._terminated - before < 1:  # timeout sends two, which are one
                return
        raise KeyboardInterrupt


def _in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _handle(handler: Handler) -> dict[signal.Signals, Any]:
    """Handle both signals, but one that is ignored; returns what did before.

    A shell starts what it runs in the background with Ctrl-C ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: old for number, old in before.items() if old != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{_MESSAGES[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)
