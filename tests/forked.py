"""Processes that begin with the libraries imported: copies of one that has imported them once.

A new process imports torch and transformers for four seconds; a copy begins in milliseconds. In
all else it is a process like any: it has memory, environment, folder and streams of its own, takes
signals, and ends with a code. But what libraries read while they are imported it has from before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "many_workers",  # of the tests of the evolution
    "prunerzero.cli.commands",
    "prunerzero.tasks.benching.in_torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
]


def start_server() -> None:
    """Let copies be made from now on; the first of them waits until everything is imported."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    places = [*sys.path, str(Path(__file__).with_name("evolution"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        patch.setenv("OMP_NUM_THREADS", "1")  # of several, a copy would wait for those it lacks
        ensure_running()


class ForkedProcess:
    """``target(*arguments)`` in a copy, with the little of ``subprocess.Popen`` that tests need.

    Args:
        target: what it does, of a module's top level.
        arguments: of the target.
        streams: its standard streams by their numbers, as open files here; others go nowhere.
        environment: variables that it has beside those of this process.
        folder: that it works in, if it is not this one.
        own_group: whether it leads a process group, so that signals can be sent to all of it.
    """

    def __init__(
        self,
        target: Callable[..., object],
        *arguments: Any,
        streams: Mapping[int, int] = {},
        environment: Mapping[str, str] = {},
        folder: Path | None = None,
        own_group: bool = False,
    ) -> None:
        start_server()
        sent = {number: _Sent(file) for number, file in streams.items()}
        variables, place = {**os.environ, **environment}, str(folder or Path.cwd())
        told = (target, arguments, sent, variables, place, own_group)
        self._process = CONTEXT.Process(target=_begin, args=told)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self.returncode is not None, f"it goes on after {timeout} seconds"
        return self.returncode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Sent:
    """An open file's number, which arrives as that of a copy of it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _received, (DupFd(self.number),)


def _received(sent: Any) -> int:
    return int(sent.detach())


def _begin(
    target: Callable[..., object],
    arguments: tuple[Any, ...],
    streams: dict[int, int],
    environment: dict[str, str],
    folder: str,
    own_group: bool,
) -> None:
    if own_group:
        os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in range(3):
        os.dup2(streams.get(number) or os.open(os.devnull, os.O_RDWR), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
    target(*arguments)
