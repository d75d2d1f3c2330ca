"""Disks that are full, read-only or damaged: one sentence, and nothing lost that can be kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from installed_command import COMMAND, InProcess
from safetensors.torch import load_file
from small_disk import enlarge, read_only, small_disk

from prunerzero.language import loading, streaming

FULL = "Error: standard output cannot be written: no space left on device.\n"
AMOUNTS = ["--num-calibration-samples", "4", "--num-test-samples", "4"]
PRUNE = ["prune", "--calibration", "calibration.txt", "--test", "test.txt", *AMOUNTS]
SEARCH = ["search", "--calibration", "calibration.txt", "--validation", "validation.txt"]
TUNE = ["tune", "--validation", "validation.txt"]
A_LITTLE = [*TUNE, "--model", "model", "--evaluations", "0", "--max-degradation", "50%"]
A_LITTLE += ["--max-seq-length", "16", "--num-validation-samples", "4", "--samples", "1"]
A_LITTLE += ["--num-test-samples", "4", "--num-calibration-samples", "4"]

PLACES = {
    "a file": ("disks/file", "is no folder"),
    "below a file": ("disks/file/new", "not a directory"),
    "not empty": ("disks/full", "is not empty"),
    "the parent folder": ("..", "is not empty"),
    "the root": ("/", "is not empty"),
    "a link to a file": ("disks/link-to-file", "is no folder"),
    "a name too long": ("n" * 256, "file name too long"),
    "a device": ("/dev/null/new", "not a directory"),
    "in /proc": ("/proc/new", "cannot be written"),
    "inside the model": ("model/pruned", "lies inside the model folder"),
    "the model": ("model", "is the model folder"),
}


@pytest.fixture(scope="module")
def disks(workplace: Path) -> Path:
    folder = workplace / "disks"
    (folder / "full").mkdir(parents=True)
    (folder / "full" / "letter").write_text("keep me")
    (folder / "file").write_text("keep me")
    (folder / "link-to-file").symlink_to("file")
    return folder


def everything_in(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in folder.rglob("*") if "cache" not in p.parts}


def refused(done, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.stderr
    sentence = done.stderr[done.stderr.index("Error") :].strip()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def refuse_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail where a model is loaded."""
    for module in (loading, streaming):
        monkeypatch.setattr(module, "read_model", lambda *_, **__: pytest.fail("a model is loaded"))


@pytest.mark.parametrize("command", [PRUNE, SEARCH, TUNE], ids=lambda command: command[0])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    command, place, disks, in_workplace, workplace, monkeypatch
):
    refuse_models(monkeypatch)
    before = everything_in(workplace)
    name, words = PLACES[place]
    refused(in_workplace(*command, "--model", "model", "--output-dir", name), name, words)
    assert everything_in(workplace) == before


@pytest.mark.parametrize("command", [PRUNE, SEARCH, TUNE, ["demo"]], ids=lambda command: command[0])
def test_a_read_only_disk_is_refused_before_a_model_is_loaded(
    command, in_workplace, tmp_path, monkeypatch
):
    refuse_models(monkeypatch)
    with read_only(tmp_path) as disk:
        model = [] if command == ["demo"] else ["--model", "model"]
        done = in_workplace(*command, *model, "--output-dir", str(disk / "new"))
    refused(done, str(disk / "new"), "read-only file system", "name another folder")


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("disks/file", "is no journal"),
        ("disks/full", "is a folder"),
        ("disks/file/journal", "not a directory"),
        ("/proc/new/journal", "no such file"),
    ],
)
def test_a_storage_that_cannot_be_one_is_refused_before_a_model_is_loaded(
    storage, words, disks, in_workplace, workplace, monkeypatch
):
    refuse_models(monkeypatch)
    before = everything_in(workplace)
    options = ["--model", "model", "--output-dir", "new", "--storage", storage]
    refused(in_workplace(*SEARCH, *options), storage, words)
    assert everything_in(workplace) == before


def test_a_current_folder_that_is_empty_is_filled_or_refused_in_a_sentence(workplace, tmp_path):
    done = InProcess(tmp_path).run(
        "prune", "--model", str(workplace / "model"), "--output-dir", "."
    )
    assert done.returncode == 2
    assert "'.' is the current folder" in done.stderr
    assert not list(tmp_path.iterdir())


def test_output_goes_through_links_that_stay_links(in_workplace, workplace, tmp_path):
    link = workplace / "link-to-new"
    link.symlink_to(tmp_path / "elsewhere")
    done = in_workplace(*PRUNE, "--model", "model", "--output-dir", "link-to-new")
    assert done.exit_code == 0, done.output
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    link.unlink()


@pytest.mark.parametrize("kilobytes", [4, 12, 24, 40])
def test_a_disk_that_is_full_while_a_model_is_saved_is_told_and_holds_no_half_of_it(
    in_workplace, tmp_path, kilobytes
):
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        done = in_workplace(*PRUNE, "--model", "model", "--output-dir", str(disk / "new"))
        refused(done, str(disk / "new"), "no space left on device")
        assert not list(disk.iterdir())


def test_block_by_block_a_full_disk_keeps_what_is_finished_and_the_command_goes_on(
    in_workplace, workplace, tmp_path, monkeypatch
):
    from prunerzero.pruning.by_block.shards import ShardWriter

    options = [*PRUNE, "--model", "model", "--block-by-block", "--output-dir"]
    assert in_workplace(*options, str(tmp_path / "at-once")).exit_code == 0
    with small_disk(tmp_path / "disk", 1000) as disk:
        filler, write, pieces = disk / "filler", ShardWriter.write, 0

        def fill(self, piece, tensors):
            nonlocal pieces
            pieces += 1
            if pieces == 3:  # one for what is outside the blocks, one block
                with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
                    while True:
                        file.write(b"\0" * 4096)
                        file.flush()
            write(self, piece, tensors)

        with monkeypatch.context() as patched:
            patched.setattr(ShardWriter, "write", fill)
            done = in_workplace(*options, str(disk / "new"))
        refused(done, ".new.partial", "no space left", "the same command goes on")
        assert "block 0" in (disk / ".new.partial/.work/manifest.jsonl").read_text()
        filler.unlink()
        done = in_workplace(*options, str(disk / "new"))
        assert done.exit_code == 0, done.output
        assert "1 blocks are finished" in done.stderr
        assert [path.name for path in disk.iterdir()] == ["new"]
        for file in (tmp_path / "at-once").glob("*.safetensors"):
            again, expected = load_file(disk / "new" / file.name), load_file(file)
            assert all(again[name].equal(tensor) for name, tensor in expected.items())


@pytest.fixture
def stopped(in_workplace, tmp_path, monkeypatch, workplace):
    """The command of a pruning block by block that was stopped after its first block."""
    from prunerzero.pruning.by_block.shards import ShardWriter

    write = ShardWriter.write

    def stop(self, piece, tensors):
        if piece == 2:
            raise KeyboardInterrupt
        write(self, piece, tensors)

    command = [*PRUNE, "--model", "model", "--output-dir", str(tmp_path / "new")]
    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "write", stop)
        assert in_workplace(*command, "--block-by-block").exit_code == 130
    return command


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{", b"x"),
        (b'"key"', b'"kex"'),
        (b'"settings"', b"3"),
        (b'"at": ', b'"at": "x", "y": '),
        (b'"block 0"', b'"block x"'),
        (b'"shape": [', b'"shape": null, "y": ['),
        (b'"layers": [', b'"layers": 3, "y": ['),
        (b'"name": ', b'"surname": '),
        (b'"digests": {', b'"digests": [], "y": {'),
    ],
)
def test_a_damaged_manifest_is_named_with_what_to_do_and_left_alone(
    before, after, stopped, in_workplace, tmp_path
):
    manifest = tmp_path / ".new.partial" / ".work" / "manifest.jsonl"
    assert before in manifest.read_bytes()
    manifest.write_bytes(manifest.read_bytes().replace(before, after, 1))
    files = everything_in(tmp_path)
    done = in_workplace(*stopped)
    refused(done, str(manifest), "restore it, or name another output folder, or delete")
    assert everything_in(tmp_path) == files


def test_a_finished_block_whose_file_is_damaged_is_pruned_again(stopped, in_workplace, tmp_path):
    [first, second] = sorted((tmp_path / ".new.partial").glob("*.safetensors"))
    second.write_bytes(second.read_bytes()[:-7])
    done = in_workplace(*stopped)
    assert done.exit_code == 0, done.output
    assert in_workplace(*stopped[:-1], str(tmp_path / "at-once")).exit_code == 0
    whole = load_file(tmp_path / "at-once" / "model.safetensors")
    for file in (tmp_path / "new").glob("*.safetensors"):
        assert all(tensor.equal(whole[name]) for name, tensor in load_file(file).items())


def test_two_prunings_of_the_same_folder_do_not_write_into_each_other(stopped, in_workplace):
    from prunerzero.pruning.by_block.partial_checkpoint import PartialCheckpoint

    with PartialCheckpoint(Path(stopped[-1])):
        refused(in_workplace(*stopped), "another process is writing")
    assert in_workplace(*stopped).exit_code == 0


def test_a_damaged_journal_is_named_before_a_model_is_loaded_and_left_alone(
    found, in_workplace, workplace, texts, tmp_path, monkeypatch
):
    refuse_models(monkeypatch)
    run = tmp_path / "run"
    shutil.copytree(workplace / "run", run)
    lines = (run / "journal.log").read_bytes().split(b"\n")
    lines[16] = lines[16][:10] + b"\0" * 20 + lines[16][30:]
    (run / "journal.log").write_bytes(b"\n".join(lines))
    before = everything_in(run)
    for workers in ("1", "2"):
        command = ["search", *texts, "--evaluations", "14", "--output-dir", str(run)]
        done = in_workplace(*command, "--workers", workers)
        refused(done, f"line 17 of '{run / 'journal.log'}' is damaged", "another output folder")
    assert everything_in(run) == before


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(("best.json", damage) for damage in ("", "[", "{}", "[]", "3", '{"metric": 1}')),
        *(("history.json", damage) for damage in ("", "[", "{}", "3", '[{"expression": 1}]')),
    ],
)
def test_a_damaged_result_is_named_by_the_report(
    found, in_workplace, workplace, tmp_path, file, damage
):
    run = tmp_path / "run"
    shutil.copytree(workplace / "run", run)
    (run / "report.html").unlink(missing_ok=True)  # of another test
    (run / file).write_text(damage)
    done = in_workplace("report", str(run))
    refused(done, str(run / file), "the search command that made")
    assert "Error:" not in done.stderr.removeprefix("Error:"), "no names of Python's errors"
    assert not (run / "report.html").exists()


def test_a_report_that_cannot_be_written_is_told(found, in_workplace, workplace, tmp_path):
    shutil.copytree(workplace / "run", tmp_path / "run")
    with read_only(tmp_path / "run") as run:
        refused(in_workplace("report", str(run)), "report.html", "read-only file system")


def test_a_tuning_on_a_full_disk_keeps_what_it_measured_and_the_command_goes_on(
    in_workplace, tmp_path
):
    with small_disk(tmp_path / "disk", 64) as disk:
        command = [*A_LITTLE, "--output-dir", str(disk / "tuned")]
        refused(in_workplace(*command), str(disk / "tuned"), "no space left on device", "again")
        measured = (disk / "tuned" / "run" / "measured.jsonl").read_bytes()
        enlarge(disk, 8000)
        done = in_workplace(*command)
        assert done.exit_code == 0, done.output
        again = (disk / "tuned" / "run" / "measured.jsonl").read_bytes()
        assert again.startswith(measured[: measured.rfind(b"\n") + 1])


@pytest.fixture(scope="module")
def tuned(here, workplace):
    """The folder of a little tuning."""
    done = here.run(*A_LITTLE, "--output-dir", "little")
    assert done.returncode == 0, done.stderr
    return workplace / "little"


@pytest.mark.parametrize("file", ["measured.jsonl", "tune.json"])
def test_what_a_tuning_has_kept_is_named_where_it_is_damaged(in_workplace, tuned, tmp_path, file):
    shutil.copytree(tuned, tmp_path / "tuned")
    command = [*A_LITTLE, "--output-dir", str(tmp_path / "tuned")]
    [path] = (tmp_path / "tuned").rglob(file)
    whole = path.read_bytes()
    for damage in (b"x", b"[]", b"{}", b'{"key": 1}'):
        path.write_bytes(whole.replace(whole.split(b"\n")[1], damage, 1))
        done = in_workplace(*command)
        refused(done, str(path), "line 2" if file == "measured.jsonl" else "damaged")
    path.write_bytes(b"[]\n")
    refused(in_workplace(*command), str(path))
    if file == "tune.json":  # what the sentence advises
        refused(in_workplace("report", str(tmp_path / "tuned")), str(path), "move it away")
        path.unlink()
        assert in_workplace(*command).exit_code == 0
        assert path.is_file()


def test_a_run_folder_that_becomes_read_only_in_the_midst_of_a_search_loses_nothing(
    forked, texts, tmp_path
):
    run = tmp_path / "run"
    run.mkdir()
    search = forked.start("search", *texts, "--evaluations", "100000", "--output-dir", str(run))
    journal = run / "journal.log"
    while not journal.exists() or journal.read_bytes().count(b'"measured"') < 3:
        assert search.poll() is None
    search.send_signal(signal.SIGSTOP)
    with read_only(run):
        search.send_signal(signal.SIGCONT)
        try:
            _, errors = search.communicate(timeout=60)
        finally:
            search.kill()
    if search.returncode != 2:
        pytest.skip("a process that has a file open may go on writing here")
    assert "What was evaluated is kept" in errors
    assert "Traceback" not in errors


def stop_itself(stop):
    """Where it writes the last but one of its files."""
    write = Path.write_text

    def write_and_stop(self, *args, **options):
        if "metric.json" in self.name:
            os.kill(os.getpid(), stop)
        return write(self, *args, **options)

    Path.write_text = write_and_stop


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_writes_a_pruning_leaves_nothing(forked, tmp_path, stop):
    out = tmp_path / "out"
    out.mkdir()
    command = [*PRUNE, "--model", "model", "--output-dir", str(out / "new")]
    done = forked.run(*command, first=partial(stop_itself, stop))
    assert done.returncode == 128 + stop, done.stderr
    assert not list(out.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["metrics"], ["metrics", "--json"], ["explain", "wanda"]])
def test_standard_output_on_a_full_disk_is_told_in_one_sentence(arguments, monkeypatch, capsys):
    from prunerzero.cli.commands import app

    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            app(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == FULL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_the_installed_command_tells_it_once_too():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(COMMAND), "metrics"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, FULL)
