"""A terminal of any encoding shows what it can, and JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunerzero.cli.plain_output import never_fail_to_print

COMMAND = Path(sys.executable).with_name("prunerzero")


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """What a command writes, as bytes, to a standard output of some encoding."""

    def run(encoding: str, *command: str) -> bytes:
        from prunerzero.cli.commands import app

        path = tmp_path / "output"
        with path.open("w", encoding=encoding) as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            never_fail_to_print()
            with pytest.raises(SystemExit) as ended:
                app(list(command))
        assert ended.value.code == 0
        return path.read_bytes()

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", [["explain", "W"], ["metrics"], ["prune", "--help"]])
def test_output_that_cannot_be_encoded_is_replaced(encoding, command, printed):
    assert printed(encoding, *command).decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_loses_nothing_in_any_encoding(encoding, printed):
    told = json.loads(printed(encoding, "explain", "wanda", "--json").decode(encoding))
    assert told["tree"] == "mul\n├─ W\n└─ sqrt\n   └─ X"


def test_the_installed_command_asks_for_both():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([str(COMMAND), "metrics"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "sqrt(X)" in done.stdout.decode("ascii")
    assert b"Traceback" not in done.stderr
