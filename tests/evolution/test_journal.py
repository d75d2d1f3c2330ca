"""A journal stays readable: torn lines, damaged lines, dead holders of its lock."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from one_worker import begin, measure

from prunerzero.evolution import SearchStudy, locks
from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.journal import repair_journal
from prunerzero.evolution.locks import SharedLock
from prunerzero.evolution.storage import check_storage


def test_a_journal_that_calls_raced_out_pruned_is_still_read(journal: Path) -> None:
    """As version 0.1.0 wrote it; Optuna's own state of such a trial is still PRUNED."""
    with SearchStudy.open(journal) as study:
        begin(study, "W")
        study.record("raced_out", [3.0], 1.5)
        assert study.optuna_study.trials[0].state.name == "PRUNED"
    text = journal.read_text()
    assert '"state":"raced_out"' in text
    journal.write_text(text.replace('"state":"raced_out"', '"state":"pruned"'))
    assert SearchStudy.open(journal).population.individuals == study.population.individuals


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0", b'{"op_code"\n', b"x\ny\n"])
def test_a_torn_last_line_is_cut_off_at_start(journal: Path, torn: bytes) -> None:
    measure(SearchStudy.open(journal), "W", 3.0)
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    study = SearchStudy.open(journal)
    assert journal.read_bytes().startswith(whole + b'{"op_code":')
    measure(study, "X", 4.0)
    assert [i.mean for i in SearchStudy.open(journal).population.individuals] == [3.0, 4.0]


@pytest.mark.parametrize(
    "damage", [b"x", b"[]", b'{"op_code":99,"worker_id":"w"}', b"\0" * 40, b"\xff"]
)
@pytest.mark.parametrize("line", [1, 2, 5])
def test_a_line_damaged_in_the_middle_is_named_with_file_and_remedy(
    journal: Path, damage: bytes, line: int
) -> None:
    study = SearchStudy.open(journal)
    measure(study, "W", 3.0)
    lines = journal.read_bytes().split(b"\n")
    lines[line - 1] = damage
    journal.write_bytes(b"\n".join(lines))
    damaged = journal.read_bytes()
    words = rf"line {line} of '{journal}' is damaged; restore .*, or name another output folder\."
    with pytest.raises(DamagedJournalError, match=words) as raised:
        SearchStudy.open(journal)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value), "workers send it"
    with pytest.raises(DamagedJournalError):
        check_storage(journal)
    assert journal.read_bytes() == damaged, "nothing is deleted without a word"
    if line > 1:  # what the sentence advises
        journal.write_bytes(b"".join(line + b"\n" for line in lines[: line - 1]))
        SearchStudy.open(journal)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"measured":{"state"', '"measured":{"stat"'),
        ('"measured":{', '"measured":[],"x":{'),
        ('"losses":[', '"losses":["x",'),
        ('"ranking":', '"rank":'),
        ('"study_name":"search"', '"study":"search"'),
        ('"directions":[1]', '"directions":"up"'),
        ('"study_id":0', '"study":0'),
    ],
)
def test_a_line_that_is_json_but_not_what_was_written_is_named_too(
    journal: Path, before: str, after: str
) -> None:
    study = SearchStudy.open(journal)
    measure(study, "W", 3.0)
    measure(study, "X", 3.0)
    study.close()
    text = journal.read_text()
    assert before in text
    line = text[: text.index(before)].count("\n") + 1
    journal.write_text(text.replace(before, after, 1))
    with pytest.raises(DamagedJournalError, match=f"line {line} of "):
        SearchStudy.open(journal)


def test_a_line_damaged_while_workers_are_at_work_is_named(journal: Path) -> None:
    study = SearchStudy.open(journal)
    count = journal.read_bytes().count(b"\n")
    with journal.open("ab") as file:
        file.write(b"x\n")
    with pytest.raises(DamagedJournalError, match=f"line {count + 1} of "):
        study.refresh()
    assert SearchStudy.open(journal).workers == 2, "it was the last one, and is cut off"


def test_a_journal_is_the_same_by_whatever_link_it_is_named(journal: Path) -> None:
    with SearchStudy.open(journal) as study:
        measure(study, "W", 3.0)
        link = journal.with_name("link.log")
        link.symlink_to(journal)
        assert SearchStudy.open(link).workers == 2
    assert not list(journal.parent.glob("link.log.*"))


def test_a_journal_that_is_deleted_is_not_begun_again_in_the_middle(journal: Path) -> None:
    study = SearchStudy.open(journal)
    journal.unlink()
    with pytest.raises(StorageError, match="no such file"):
        measure(study, "W", 3.0)
    assert not journal.exists()


def test_an_empty_or_missing_journal_needs_no_repair(tmp_path: Path) -> None:
    assert repair_journal(tmp_path / "none.log") == 0
    (tmp_path / "empty.log").touch()
    assert repair_journal(tmp_path / "empty.log") == 0


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a journal\n")
    with pytest.raises(ValueError, match="no journal of a search"):
        SearchStudy.open(notes)
    assert notes.read_text() == "not a journal\n"


def test_a_journal_torn_in_its_first_line_begins_anew(journal: Path) -> None:
    journal.parent.mkdir()
    journal.write_bytes(b'{"op_co')
    measure(SearchStudy.open(journal), "W", 3.0)


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0"])
def test_a_line_torn_while_others_are_at_work_breaks_nothing(journal: Path, torn: bytes) -> None:
    first, second = SearchStudy.open(journal), SearchStudy.open(journal)
    measure(first, "W", 3.0)
    with journal.open("ab") as file:
        file.write(torn)
    second.refresh()
    measure(second, "X", 4.0)
    measure(first, "G", 5.0)
    for study in (first, second, SearchStudy.open(journal)):
        study.refresh()
        assert [i.mean for i in study.population.individuals] == [3.0, 4.0, 5.0]


def test_a_lock_held_by_a_dead_worker_does_not_hold_up_the_next(journal: Path) -> None:
    dead = SharedLock(journal)
    SearchStudy.open(journal)
    dead.__enter__()
    dead._here.release()  # by the kernel, at its death; the link stays
    measure(SearchStudy.open(journal), "W", 3.0)
    assert not Path(f"{journal}.lock").is_symlink()


def test_a_lock_of_another_machine_is_taken_away_when_it_is_held_for_too_long(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GRACE", 0.1)
    journal.parent.mkdir()
    Path(f"{journal}.lock").symlink_to("elsewhere-1/0")
    with SharedLock(journal):
        Path(f"{journal}.lock").unlink()
        Path(f"{journal}.lock").symlink_to("elsewhere-1/1")  # which took it while this one slept
    assert Path(f"{journal}.lock").is_symlink(), "what others hold is not released"


def test_a_lock_whose_link_cannot_be_removed_is_let_go_of_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr("pathlib.Path.unlink", fail)
        with SharedLock(tmp_path / "journal.log"):
            pass
    with SharedLock(tmp_path / "journal.log"):
        assert (tmp_path / "journal.log.lock").is_symlink()
    assert not (tmp_path / "journal.log.lock").is_symlink()
