"""Models that ``bench`` measures, in copies of a process instead of new ones: see ``forked``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from forked import ForkedProcess

from prunerzero.tasks.benching import process, worker


class _Copy(ForkedProcess):
    """What ``ModelProcess`` uses of ``subprocess.Popen``."""

    def __init__(self, command: list[str], stderr: Any, env: dict[str, str], **_: Any) -> None:
        assert command[1:] == ["-m", worker.__name__]
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        streams = {0: read_there, 1: write_there, 2: stderr.fileno()}
        super().__init__(worker.main, streams=streams, environment=env, own_group=True)
        for number in (read_there, write_there):
            os.close(number)
        self.stdin, self.stdout = open(write_here, "w"), open(read_here)

    def communicate(self) -> None:
        self.stdin.close()
        self.wait()
        self.stdout.close()


@contextmanager
def copied_models() -> Iterator[None]:
    """Within it the processes of models are copies."""
    with pytest.MonkeyPatch.context() as patch:
        copies = SimpleNamespace(Popen=_Copy, PIPE=subprocess.PIPE)
        patch.setattr(process, "subprocess", copies)
        yield
