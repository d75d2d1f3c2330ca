"""Several workers through the command line: killed, interrupted, resumed, refused."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ForkedProcess
from installed_command import CommandLine, Forked, copy_workers
from plug_in import PLUGIN

from prunerzero.errors import InputError
from prunerzero.tasks.duration import parse_duration
from prunerzero.tasks.workers import devices_for


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("420", 420)]
    + [("1.5s", 1.5), (12, 12), (" 2H ", 7200)],
)
def test_lengths_of_time_are_written_as_people_do(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "h", "-5m", "1m2h", "2 hours", "0", "0h0m"])
def test_other_lengths_of_time_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write 90s, 15m, 2h or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("workers", "device", "gpus", "devices"),
    [
        ("auto", "auto", 0, ["auto"]),
        ("3", "cpu", 8, ["cpu"] * 3),
        ("1", "auto", 8, ["auto"]),
        ("auto", "auto", 2, ["cuda:0", "cuda:1"]),
        (3, "cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", "cuda:1", 2, ["cuda:1"]),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_as_many_as_asked(
    workers: str, device: str, gpus: int, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices_for(workers, device) == devices


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_other_numbers_of_workers_are_refused(workers: str) -> None:
    with pytest.raises(InputError, match="`workers` must be 'auto' or a positive number"):
        devices_for(workers, "cpu")


def records(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal that may be being written."""
    text = journal.read_bytes() if journal.exists() else b""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def worker_processes(journal: Path) -> list[int]:
    """Of those that entered themselves in the study, in order, the supervisor left out."""
    entries = [
        entry
        for record in records(journal)
        for name, entry in record.get("user_attr", {}).items()
        if name.startswith("worker ") and entry and entry["beat"] == 0
    ]
    # a worker enters itself once to compare its model with the study's, and again for the search
    return list(dict.fromkeys(entry["pid"] for entry in entries))[1:]


def measured(journal: Path, since: str = "") -> int:
    """How many evaluations are done, since a formula with this in it was proposed."""
    told = records(journal)
    first = next((n for n, record in enumerate(told) if since in json.dumps(record)), len(told))
    return sum("measured" in record.get("user_attr", {}) for record in told[first:])


def wait_until(condition: Any, process: ForkedProcess) -> None:
    while not condition():
        assert process.poll() is None, process.poll()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def survived(forked: Forked, workplace: Path, texts: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a search whose first worker was killed, then Ctrl-C."""
    journal = workplace / "crew" / "journal.log"
    command = ["search", *texts, "--workers", "2", "--output-dir", "crew"]
    with forked.start(*command, "--time", "1h", first=copy_workers) as process:
        wait_until(lambda: measured(journal) >= 4, process)
        os.kill(worker_processes(journal)[0], signal.SIGKILL)
        wait_until(lambda: len(worker_processes(journal)) == 3, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    return process.wait(), errors


def test_a_killed_worker_is_told_of_and_started_again(survived: tuple[int, str]) -> None:
    told = r"worker [12] \((cpu|auto)\) was ended by SIGKILL; it is started again"
    assert re.search(told, survived[1])


def test_ctrl_c_ends_all_workers_and_keeps_what_was_evaluated(
    survived: tuple[int, str], workplace: Path
) -> None:
    code, errors = survived
    assert code == 130
    assert "Traceback" not in errors
    journal = workplace / "crew" / "journal.log"
    for process in worker_processes(journal):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    best = json.loads((workplace / "crew" / "best.json").read_text())
    assert best["interrupted"]
    assert best["evaluations"] == measured(journal)


@pytest.fixture(scope="module")
def terminated(workplace: Path, texts: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a search that SIGTERM ended, as SLURM and systemd send it.

    To all processes, the workers too, and while one may still be starting. The workers are new
    processes, not copies, and a plug-in is named in their environment.
    """
    (workplace / "plugin.py").write_text(PLUGIN)
    line = Forked(workplace)
    line.environment["PRUNERZERO_PLUGINS"] = str(workplace / "plugin.py")
    journal = workplace / "terminated" / "journal.log"
    command = ["search", *texts, "--workers", "2", "--output-dir", "terminated", "--time", "1h"]
    command += ["--operators", "extended", "--strategy", "random"]
    command += ["--seed", "4"]  # its first formula has an operator of the plug-in
    with line.start(*command, own_group=True) as process:
        wait_until(
            lambda: measured(journal, "softrow(") >= 8,  # so the first of it is among them
            process,
        )
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    return process.wait(), errors


def test_sigterm_to_all_processes_ends_each_worker_as_it_would_alone(
    terminated: tuple[int, str], workplace: Path
) -> None:
    code, errors = terminated
    assert code == 143
    assert "Traceback" not in errors and "ended by" not in errors, errors
    best = json.loads((workplace / "terminated" / "best.json").read_text())
    assert best["interrupted"]
    assert best["evaluations"] == measured(workplace / "terminated" / "journal.log")


def test_a_plug_in_is_known_to_workers(terminated: tuple[int, str], workplace: Path) -> None:
    history = json.loads((workplace / "terminated" / "history.json").read_text())
    assert any("softrow(" in e["expression"] and e["state"] != "failed" for e in history)


def test_the_same_search_resumes_with_several_workers_and_keeps_to_its_budget(
    survived: tuple[int, str], forked: Forked, workplace: Path, texts: list[str]
) -> None:
    before = measured(workplace / "crew" / "journal.log")
    command = ["search", *texts, "--workers", "2", "--output-dir", "crew"]
    command += ["--evaluations", str(before + 5), "--json"]
    done = forked.run(*command, first=copy_workers)
    assert done.returncode == 0, done.stderr
    assert f"resumed: {before} evaluations" in done.stderr
    assert measured(workplace / "crew" / "journal.log") == before + 5
    best = json.loads(done.stdout)
    assert best["evaluations"] == before + 5
    assert best == json.loads((workplace / "crew" / "best.json").read_text())
    beside = {best["best_known"]} if best["origin"] == "evolved" else set()
    assert set(best["perplexity"]["test"]) == {"dense", best["origin"]} | beside


def test_what_workers_note_is_told_once_and_in_its_unit(
    forked: Forked, workplace: Path, texts: list[str]
) -> None:
    command = ["search", *texts, "--workers", "2", "--output-dir", "noted", "--json"]
    command += ["--update", "least-squares", "--evaluations", "4"]
    done = forked.run(*command, first=copy_workers)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert told.count("Candidates are judged after") == 1, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    assert len(warnings) == 3
    for warning in warnings:  # options are named as flags
        assert told.count(warning.split(";")[0]) == 1, done.stderr
    assert " windows) …" in told and not re.search(r"recognising[^…]*windows", told)
    assert "joined" not in told and "resumed" not in told


def limit_files() -> None:
    """Cut writing short where a file becomes that large, as a full disk does: in evaluations."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, resource.RLIM_INFINITY))


def test_a_full_disk_is_told_in_one_sentence_and_the_search_resumes(
    forked: Forked, here: CommandLine, workplace: Path, texts: list[str], found: Any
) -> None:
    command = ["search", *texts, "--output-dir", "full", "--json", "--evaluations", "12"]
    full = forked.run(*command, first=limit_files)
    assert full.returncode == 2
    assert "cannot be written" in full.stderr and "the same command goes on" in full.stderr
    assert "Traceback" not in full.stderr
    again = here.run(*command)
    assert "resumed: " in again.stderr
    resumed = json.loads(again.stdout)
    assert {k: resumed[k] for k in ("metric", "finalists", "evaluations")} == {
        k: found[k] for k in ("metric", "finalists", "evaluations")
    }


def test_sqlite_is_refused_for_several_workers(in_workplace: Any, texts: list[str]) -> None:
    asked = ["--workers", "2", "--storage", "sqlite:///study.db", "--output-dir", "with-sqlite"]
    done = in_workplace("search", *texts, *asked)
    assert done.exit_code == 2
    assert "SQLite cannot serve several workers" in done.stderr
