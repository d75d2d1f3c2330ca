"""Output is refused before the work begins, is never half written, and never written over."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from safetensors import SafetensorError
from small_disk import read_only, small_disk

from prunerzero.errors import InputError, OutputError
from prunerzero.files import (
    check_apart,
    check_empty,
    check_fillable,
    check_new,
    make_folder,
    new_folder,
    put_in_place,
    read_own_json,
    refusal,
    replace_folder,
    write_json,
    write_text,
    writing,
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def trace(folder: Path) -> dict[str, int]:
    """Everything in a folder, itself included, with its time of change."""
    return {str(path): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("check", [check_new, check_fillable])
@pytest.mark.parametrize("name", ["new", "a/b/c", "./x", "../x", "nowhere/../x", "n" * 200])
def test_a_folder_that_can_be_made_passes_and_the_trial_leaves_no_trace(tmp_path, check, name):
    before = trace(tmp_path)
    check(name)
    assert trace(tmp_path) == before


REFUSED = {
    "below a file": "file/new",
    "deep below a file": "file/a/b/c",
    "a file": "file",
    "a link to a file": "link-to-file",
    "links in a circle": "circle",
    "below links in a circle": "circle/new",
    "a name too long": "n" * 256,
    "a name too long above it": "n" * 256 + "/new",
    "a path too long": "/".join(["n" * 200] * 30),
    "a NUL byte": "new\0folder",
    "below a device": "/dev/null/new",
    "in /proc": "/proc/new",
    "nothing": "\0",
}


@pytest.mark.parametrize("check", [check_new, check_fillable])
@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path, check, case):
    Path("file").write_text("keep me")
    Path("link-to-file").symlink_to("file")
    Path("circle").symlink_to("round")
    Path("round").symlink_to("circle")
    before = trace(tmp_path)
    with pytest.raises(OutputError) as refused:
        check(REFUSED[case])
    assert REFUSED[case].split("\0")[0] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert trace(tmp_path) == before


def test_nothing_new_is_made_on_a_read_only_file_system(tmp_path):
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    with read_only(tmp_path / "disk") as disk:
        for check in (check_new, check_fillable):
            for folder in (disk / "new", disk / "a" / "b", disk / "empty"):
                with pytest.raises(OutputError, match="read-only file system; name another"):
                    check(folder)
        with pytest.raises(OutputError, match="read-only"):
            make_folder(disk / "new")


def test_the_current_folder_and_a_mount_point_can_be_filled_but_not_replaced(tmp_path):
    check_fillable(".")
    check_empty(".")
    Path("link").symlink_to(tmp_path / "here")
    os.rename("link", tmp_path / "link")
    for name in (".", "../here", tmp_path / "here", tmp_path / "link"):
        with pytest.raises(OutputError, match="is the current folder, which .* name a new folder"):
            check_new(name)
    with small_disk(tmp_path / "disk", 100) as disk:
        check_fillable(disk)
        check_new(disk / "new")
        with pytest.raises(OutputError, match="is a mount point, which .* name a new folder"):
            check_new(disk)


@pytest.mark.parametrize("name", ["..", "/", "full", "link-to-full"])
def test_a_folder_that_holds_something_is_not_empty_by_whatever_name(tmp_path, name):
    Path("full").mkdir()
    Path("full/letter").write_text("keep me")
    Path("link-to-full").symlink_to("full")
    for check in (check_new, check_empty):
        with pytest.raises(OutputError, match="exists and is not empty"):
            check(name)


def test_a_current_folder_that_was_deleted_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for check in (check_new, check_fillable):
        with pytest.raises(OutputError):
            check("new")


@pytest.mark.parametrize(
    "inside", ["model", "model/pruned", "link", "link/a/b", "./model/../model"]
)
def test_the_models_folder_is_no_place_for_output(tmp_path, inside):
    Path("model").mkdir()
    Path("link").symlink_to("model")
    for model in ("model", "link", str(tmp_path / "here" / "model")):
        with pytest.raises(OutputError, match="would be mixed up"):
            check_apart(inside, Path(model))
    check_apart("model-pruned", Path("model"))
    check_apart("pruned", Path("org/name-of-a-hub"))


def test_a_symbolic_link_is_followed_and_stays_one(tmp_path):
    (tmp_path / "big-disk" / "empty").mkdir(parents=True)
    Path("link").symlink_to(tmp_path / "big-disk" / "empty")
    Path("dangling").symlink_to(tmp_path / "big-disk" / "new")
    for name in ("link", "dangling"):
        with new_folder(Path(name)) as folder:
            assert folder.parent == tmp_path / "big-disk"
            (folder / "file").write_text("whole")
        assert Path(name).is_symlink()
        assert (Path(name) / "file").read_text() == "whole"
    make_folder(Path("dangling"))
    target = tmp_path / "big-disk" / "figures.json"
    Path("figures.json").symlink_to(target)
    write_json(Path("figures.json"), {"a": 1})
    assert Path("figures.json").is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError("no formula"), OSError(5, "?")])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, stop):
    Path("empty").mkdir()
    for name in ("new", "empty", "a/b"):
        with pytest.raises((KeyboardInterrupt, ValueError)), new_folder(Path(name)) as folder:
            (folder / "file").write_text("half")
            raise stop
    assert {p.name for p in Path().rglob("*")} <= {"empty", "a"}


@pytest.mark.parametrize("other", ["folder", "file"])
def test_what_appears_while_the_work_goes_on_is_not_replaced_and_the_work_is_kept(other):
    with pytest.raises(OutputError, match="left as it is") as told, new_folder(Path("new")) as f:
        (f / "file").write_text("mine")
        if other == "folder":
            Path("new").mkdir()
            (Path("new") / "file").write_text("theirs")
        else:
            Path("new").write_text("theirs")
    kept = Path(str(told.value).split("'")[-2])
    assert (kept / "file").read_text() == "mine"
    assert (Path("new/file") if other == "folder" else Path("new")).read_text() == "theirs"
    assert {p.name for p in Path().iterdir()} == {"new", kept.name}


def test_two_that_write_the_same_folder_at_once_both_keep_their_work():
    begun = threading.Barrier(2)
    told: list[str] = []

    def write(text: str) -> None:
        try:
            with new_folder(Path("new")) as folder:
                begun.wait()
                (folder / "file").write_text(text)
        except OutputError as error:
            told.append(str(error))

    threads = [threading.Thread(target=write, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert {p.read_text() for p in Path().glob("*/file")} == {"a", "b"}


def test_a_folder_that_is_replaced_is_there_until_the_new_one_is(monkeypatch):
    for name in ("old", "partial"):
        Path(name).mkdir()
        (Path(name) / "file").write_text(name)
    replace_folder(Path("partial"), Path("old"))
    assert Path("old/file").read_text() == "partial"
    assert [p.name for p in Path().iterdir()] == ["old"]
    with pytest.raises(OutputError, match="cannot be replaced"):
        replace_folder(Path("missing"), Path("old"))
    assert Path("old/file").read_text() == "partial"
    with pytest.raises(OutputError, match="left as it is"):
        Path("another").mkdir()
        put_in_place(Path("another"), Path("old"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left on device"),
        (OSError(errno.EROFS, "x"), "read-only file system"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "no space left"),
        (Exception("No space left on device (os error 28)"), "no space left on device"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), "disk"),
        (OSError("Can't load tokenizer"), None),
        (ValueError("something else"), None),
        (SafetensorError("header too large"), None),
    ],
)
def test_a_full_disk_is_told_whichever_library_meets_it(error, reason):
    if reason is None:
        assert refusal(error) is None
        with pytest.raises(type(error)), writing("out"):
            raise error
    else:
        with pytest.raises(OutputError, match=f"'out' cannot be written: .*{reason}.*; try\\."):
            with writing("out", "try"):
                raise error


def test_a_file_is_there_whole_or_as_it_was_before(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 40) as disk:
        write_text(disk / "file", "before")
        with pytest.raises(OutputError, match=r"file' cannot be written: no space left on device"):
            write_text(disk / "file", "x" * 100_000)
        assert (disk / "file").read_text() == "before"
        assert [p.name for p in disk.iterdir()] == ["file"]
        with pytest.raises(OutputError, match="no space left"), new_folder(disk / "new") as folder:
            write_text(folder / "file", "x" * 100_000)
        assert [p.name for p in disk.iterdir()] == ["file"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_text(Path("file"), "text")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,\n"b": }', "line 2 of"),
        (b'{"a": 1', "line 1 of"),
        (b"", "line 1 of"),
        (b'{"a": "\xff"}', "byte 8 of"),
        (b"[" * 100_000, "its JSON"),
        (None, "no such file"),
    ],
)
def test_a_damaged_file_is_named_with_the_place_and_the_remedy(content, words):
    if content is not None:
        Path("best.json").write_bytes(content)
    with pytest.raises(InputError, match=words) as told:
        read_own_json(Path("best.json"), "restore it")
    assert "'best.json'" in str(told.value)
    assert content is None or str(told.value).endswith("; restore it.")
