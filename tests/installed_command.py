"""The command line on a folder: in a process of its own, a copied one, or this one.

The latter are faster by the seconds that a new process takes to import torch.
"""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from forked import ForkedProcess

COMMAND = Path(sys.executable).with_name("prunerzero")


_IN_TURN = """
import sys
from prunerzero.cli import main
for command in {commands}:
    sys.argv = ["prunerzero", *command]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


class CommandLine(ABC):
    """The command line, used in a folder; statistics are kept in ``cache`` there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"PRUNERZERO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}

    @abstractmethod
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""

    def json(self, *arguments: str) -> Any:
        """What the command prints with ``--json``, where it succeeds."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Installed(CommandLine):
    """The installed command, for what only a process of its own shows."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self._start(str(COMMAND), *arguments) as process:
            out, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)

    def start_in_turn(self, *commands: list[str]) -> subprocess.Popen[str]:
        """Start commands in one new process, each if the one before succeeded."""
        return self._start(sys.executable, "-c", _IN_TURN.format(commands=commands))

    def _start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Forked(CommandLine):
    """A process of its own that has imported everything already, as ``forked`` says.

    For signals, deaths, limits and standard streams; not for plug-ins, nor for variables of the
    hub, which are read while modules are imported.
    """

    def start(
        self,
        *arguments: str,
        own_group: bool = False,
        first: Callable[[], object] = list,
    ) -> ForkedCommand:
        """Start a command after something else, a function of a module's top level."""
        return ForkedCommand(self, arguments, own_group, first)

    def run(
        self, *arguments: str, first: Callable[[], object] = list
    ) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, first=first) as process:
            out, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.wait(), out, errors)


class ForkedCommand(ForkedProcess):
    """Output goes to files, so that nobody has to read it while the command runs."""

    def __init__(
        self,
        line: Forked,
        arguments: tuple[str, ...],
        own_group: bool,
        first: Callable[[], object],
    ) -> None:
        self.stdout, self.stderr = TemporaryFile("w+"), TemporaryFile("w+")
        super().__init__(
            _run_command,
            first,
            arguments,
            streams={1: self.stdout.fileno(), 2: self.stderr.fileno()},
            environment=line.environment,
            folder=line.folder,
            own_group=own_group,
        )

    def __enter__(self) -> ForkedCommand:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
            self.wait()
        self.stdout.close()
        self.stderr.close()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; what it printed on both streams."""
        self.wait(timeout)
        self.stdout.seek(0)
        self.stderr.seek(0)
        return self.stdout.read(), self.stderr.read()


def copy_workers() -> None:
    """Let a search make its workers as copies of itself, which has loaded no model."""
    copies = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: copies  # type: ignore[assignment]


def _run_command(first: Callable[[], object], arguments: tuple[str, ...]) -> None:
    from prunerzero.cli import main

    first()
    sys.argv = ["prunerzero", *arguments]
    main()


class InProcess(CommandLine):
    """The same commands in this process."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment, "COLUMNS": "200"}.items():
                patch.setenv(name, value)
            done = run_here(*arguments)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@dataclass(frozen=True)
class Done:
    """What a command that ran in this process left."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run_here(*arguments: str) -> Done:
    """Run a command in this process, in its folder; an error that is not foreseen is raised."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as end:
        _command()(list(arguments), prog_name="prunerzero")
    return Done(end.value.code or 0, out.getvalue(), errors.getvalue())  # type: ignore[arg-type]


@functools.cache
def _command() -> Callable[..., object]:
    """All commands, which take a hundredth of a second to build."""
    from typer.main import get_command

    from prunerzero.cli.commands import app

    return get_command(app)
