"""What only a new process shows: variables are read while modules are imported."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, running_hub
from installed_command import Installed

NOWHERE = {name: "/proc/nowhere" for name in ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}


@dataclass(frozen=True)
class Ended:
    """A new process that ran several commands; Ctrl-C ended it in the last, a long search."""

    exit_code: int
    stdout: str
    stderr: str
    folder: Path
    hub: Hub


@pytest.fixture(scope="module")
def ended(workplace: Path, texts: list[str]) -> Iterator[Ended]:
    folder, few = workplace / "new-process", ["--num-calibration-samples", "4"]
    with running_hub() as hub:
        line = Installed(workplace)
        line.environment |= NOWHERE
        line.environment |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
        line.environment |= {"HF_HUB_DISABLE_XET": "1"}
        pruned, run = str(folder / "pruned"), str(folder / "run")
        last = folder / "long"
        commands = (
            ["prune", *texts, *few, "--output-dir", pruned, "--push-to-hub", "me/mine"],
            ["eval", "--model", pruned, "--text", "test.txt"],
            ["search", *texts, *few, "--evaluations", "5", "--output-dir", run],
            ["report", run],
            ["search", *texts, *few, "--evaluations", "100000", "--output-dir", str(last)],
        )
        with line.start_in_turn(*commands) as process:
            journal = last / "journal.log"
            while not journal.exists() or journal.read_text().count('"complete"') < 3:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        assert process.returncode is not None
        yield Ended(process.returncode, out, errors, folder, hub)


def test_home_and_temporary_folders_that_cannot_be_written_are_no_reason_to_stop(
    ended: Ended,
) -> None:
    assert (ended.folder / "run" / "report.html").is_file(), ended.stderr


def test_the_hub_is_found_in_the_environment(ended: Ended) -> None:
    assert f"Pushed to {ended.hub.address}/me/mine" in ended.stdout
    pushed = ended.hub.repositories["me/mine"]["model.safetensors"]
    assert pushed == (ended.folder / "pruned" / "model.safetensors").read_bytes()


def test_ctrl_c_ends_it_and_keeps_what_was_evaluated(ended: Ended) -> None:
    assert ended.exit_code == 130, ended.stderr
    assert "Traceback" not in ended.stderr and "Interrupted." in ended.stderr
    kept = json.loads((ended.folder / "long" / "best.json").read_text())
    assert kept["interrupted"] and kept["metric"] in ended.stdout
