"""The command line on a folder: in a process of its own, or in this one, which is faster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("prunerzero")


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

    def start(self, *arguments: str, own_group: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(COMMAND), *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0 if own_group else None,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


class InProcess(CommandLine):
    """The same commands without the seconds that a new process takes to import torch."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        from typer.testing import CliRunner

        from prunerzero.cli.commands import app

        with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment, "COLUMNS": "200"}.items():
                patch.setenv(name, value)
            done = CliRunner().invoke(app, list(arguments))
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
