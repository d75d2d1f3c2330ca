"""Being stopped: by Ctrl-C, or by SIGTERM as SLURM, Kubernetes, systemd and ``timeout`` send it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

MESSAGE = "Interrupted."


class Stoppable:
    """Within it SIGTERM raises KeyboardInterrupt, as Ctrl-C does.

    Attributes:
        exit_code: of a command that was stopped: 130 after Ctrl-C, 143 after SIGTERM.
    """

    exit_code = 128 + signal.SIGINT

    def __enter__(self) -> Stoppable:
        self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code != 128 + number:  # once: timeout sends two, and cleaning up takes a while
            self.exit_code = 128 + number
            raise KeyboardInterrupt


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Where nothing is begun yet, and there is nothing to lose, end without a traceback.

    By the handler itself: in the midst of an import an exception may be caught or made another.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:  # as a shell starts what it runs in the background
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(128 + number)
