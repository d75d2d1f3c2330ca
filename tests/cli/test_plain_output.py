"""A terminal of any encoding shows what it can, and JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("prunerzero")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", [["explain", "W"], ["metrics"], ["prune", "--help"]])
def test_output_that_cannot_be_encoded_is_replaced(encoding, command):
    done = run(encoding, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_loses_nothing_in_any_encoding(encoding):
    done = run(encoding, "explain", "wanda", "--json")
    told = json.loads(done.stdout.decode(encoding))
    assert told["tree"] == "mul\n├─ W\n└─ sqrt\n   └─ X"


def run(encoding: str, *command: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run([str(COMMAND), *command], env=environment, capture_output=True)
