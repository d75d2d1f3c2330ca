"""What only a new process shows: variables are read while modules are imported."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, running_hub
from installed_command import Installed

NOWHERE = {name: "/proc/nowhere" for name in ("HOME", "HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}


@dataclass(frozen=True)
class Ended:
    """A new process that ran several commands, the last of them in vain."""

    process: subprocess.CompletedProcess[str]
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
        process = line.run_in_turn(
            ["prune", *texts, *few, "--output-dir", pruned, "--push-to-hub", "me/mine"],
            ["eval", "--model", pruned, "--text", "test.txt"],
            ["search", *texts, *few, "--evaluations", "5", "--output-dir", run],
            ["report", run],
            ["explain", "W ** * X"],
        )
        yield Ended(process, folder, hub)


def test_home_and_temporary_folders_that_cannot_be_written_are_no_reason_to_stop(
    ended: Ended,
) -> None:
    assert (ended.folder / "run" / "report.html").is_file(), ended.process.stderr


def test_the_hub_is_found_in_the_environment(ended: Ended) -> None:
    assert f"Pushed to {ended.hub.address}/me/mine" in ended.process.stdout
    pushed = ended.hub.repositories["me/mine"]["model.safetensors"]
    assert pushed == (ended.folder / "pruned" / "model.safetensors").read_bytes()


def test_bad_input_ends_it_with_2_and_one_sentence(ended: Ended) -> None:
    assert ended.process.returncode == 2
    assert ended.process.stderr.count("Error:") == 1
    assert "Traceback" not in ended.process.stderr
