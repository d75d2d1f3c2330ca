from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

import optuna
import pytest

from prunerzero.evolution import SearchStudy, StudyMismatchError, locks, presence
from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.interrupt import STOPS, interrupts_wait
from prunerzero.evolution.journal import repair_journal
from prunerzero.evolution.locks import SharedLock, hostname
from prunerzero.evolution.records import Candidate
from prunerzero.evolution.storage import check_storage, trials_from
from prunerzero.metrics import Expression

SETTINGS = {"model": "bundled", "sparsity": "0.5", "text": {"windows": 8}}


def candidate(formula: str) -> Candidate:
    return Candidate(Expression.parse(formula), f"ranking of {formula}", "random")


def begin(study: SearchStudy, formula: str) -> int:
    study.refresh()
    draw = study.next_draw(None)
    assert draw is not None
    assert study.begin(candidate(formula), draw)
    return draw


def die(study: SearchStudy) -> None:
    """What the death of its process does to a worker: its heart stops and its lock is free."""
    study._presence._leaving.set()
    study._presence._lock.release()


def measure(study: SearchStudy, formula: str, *losses: float) -> None:
    begin(study, formula)
    study.record("complete" if losses else "failed", losses, 1.5)


def test_what_was_recorded_is_there_after_reopening(journal: Path) -> None:
    study = SearchStudy.open(journal, SETTINGS)
    measure(study, "W", 3.0, 4.0)
    measure(study, "X")
    again = SearchStudy.open(journal, SETTINGS)
    assert again.population.individuals == study.population.individuals
    assert [i.state for i in again.population.individuals] == ["complete", "failed"]
    assert [i.mean for i in again.population.living] == [3.5]
    knows = again.population.knows
    assert knows("W") and knows("ranking of X") and not knows("G")


def test_a_trial_holds_its_expression_in_user_attributes_and_no_parameters(journal: Path) -> None:
    study = SearchStudy.open(journal)
    measure(study, "W * X", 3.0)
    (trial,) = study.optuna_study.get_trials()
    assert trial.params == {}
    assert trial.value == 3.0
    assert trial.user_attrs["expression"] == "W * X"
    assert trial.user_attrs["proposal"]["size"] == 3
    assert trial.user_attrs["measured"]["chunks_read"] == 1


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


def test_other_settings_are_refused_in_one_sentence_that_names_the_difference(
    journal: Path,
) -> None:
    SearchStudy.open(journal, SETTINGS)
    before = journal.read_bytes()
    with pytest.raises(StudyMismatchError, match=r"begun with sparsity '0\.5', not '2:4'\.$"):
        SearchStudy.open(journal, {**SETTINGS, "sparsity": "2:4"})
    with pytest.raises(StudyMismatchError, match="group unset, not 'layer'"):
        SearchStudy.open(journal, {**SETTINGS, "group": "layer"})
    assert journal.read_bytes() == before
    SearchStudy.open(journal, SETTINGS)


def test_an_evaluation_of_a_dead_worker_is_neither_counted_nor_seen(journal: Path) -> None:
    dead = SearchStudy.open(journal)
    measure(dead, "W", 3.0)
    begin(dead, "W * X")
    die(dead)
    study = SearchStudy.open(journal)
    assert study.arrival == "resumed: 1 evaluation, 1 in flight lost"
    assert len(study.population.individuals) == 1
    assert not study.population.knows("W * X")
    assert study.next_draw(None) == 1, "the draw that was lost is drawn again"


def test_a_worker_that_died_after_measuring_lost_nothing(journal: Path) -> None:
    dead = SearchStudy.open(journal)
    begin(dead, "W")
    measured = {"state": "complete", "losses": [3.0, 4.0], "chunks_read": 2, "seconds": 1.0}
    dead._storage.set_trial_user_attr(dead._own, "measured", measured)  # and not its state
    die(dead)
    study = SearchStudy.open(journal)
    assert [i.mean for i in study.population.individuals] == [3.5]
    assert study.optuna_study.trials[0].value == 3.5


def test_a_budget_counts_draws_wherever_they_lie(journal: Path) -> None:
    """As several workers leave them, who choose among more draws than a later budget has."""
    study = SearchStudy.open(journal)
    for draw, formula in ((0, "W"), (5, "X"), (9, "G")):
        assert study.begin(candidate(formula), draw)
        study.record("complete", [3.0], 1.0)
    assert study.next_draw(3) is None
    assert study.next_draw(4) == 1
    assert study.begin(candidate("W * X"), 1)
    assert study.next_draw(4) is None, "its own draw counts too"
    study.drop()
    assert study.next_draw(4) == 1


def test_a_living_workers_evaluation_is_left_to_it_and_not_proposed_again(journal: Path) -> None:
    first = SearchStudy.open(journal)
    begin(first, "W")
    second = SearchStudy.open(journal)
    assert second.arrival == "joined 1 worker: 0 evaluations, 1 in flight with other workers"
    assert second.population.knows("W")
    assert second.next_draw(1) is None, "the budget counts what others are at"
    first.record("complete", [3.0], 1.0)
    second.refresh()
    assert [i.mean for i in second.population.individuals] == [3.0]
    assert second.lost == 0


def test_of_two_that_begin_the_same_metric_or_draw_the_first_has_it(journal: Path) -> None:
    first, second = SearchStudy.open(journal), SearchStudy.open(journal)
    assert first.begin(candidate("W"), 0)
    assert not second.begin(candidate("W"), 1)
    assert not second.begin(candidate("X"), 0)
    assert second.begin(candidate("X"), 1)
    second.record("complete", [4.0], 1.0)
    first.record("complete", [3.0], 1.0)
    assert not second.begin(candidate("W"), 2), "not what has been measured meanwhile either"
    second.refresh()
    assert sorted(i.mean for i in second.population.individuals) == [3.0, 4.0]


def test_a_worker_that_was_taken_for_dead_loses_its_evaluation_and_goes_on(journal: Path) -> None:
    sleeper = SearchStudy.open(journal)
    begin(sleeper, "W")
    sleeper._presence._lock.release()
    other = SearchStudy.open(journal)
    assert other.lost == 1
    measure(other, "W", 3.0)
    sleeper.record("complete", [3.0], 1.0)
    assert sleeper.lost == 1
    assert [i.mean for i in sleeper.population.individuals] == [3.0], "counted once"
    measure(sleeper, "X", 4.0)
    assert len(SearchStudy.open(journal).population.individuals) == 2


def test_a_worker_of_another_machine_is_dead_after_a_silence_of_two_minutes(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(presence, "machine", lambda: "elsewhere-1")
        far = SearchStudy.open(journal)
        begin(far, "W")
    here = SearchStudy.open(journal)
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    clock += 119
    here.refresh(look=True)
    assert here.in_flight and here.workers == 2
    far._presence._study.set_user_attr(
        f"worker {far._presence.worker}",
        {"machine": "elsewhere-1", "pid": 1, "lock": "/none", "beat": 1},
    )
    clock += 119
    here.refresh(look=True)
    assert here.in_flight, "it was heard of in between"
    clock += 121
    here.refresh(look=True)
    assert not here.in_flight and here.workers == 1 and here.lost == 1


def test_whoever_was_at_work_before_this_machine_was_started_again_is_dead(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(presence, "machine", lambda: f"{hostname()}-00000000")
        begin(SearchStudy.open(journal), "W")
    assert SearchStudy.open(journal).lost == 1


def test_workers_that_left_are_forgotten(journal: Path) -> None:
    with SearchStudy.open(journal) as study:
        measure(study, "W", 3.0)
    again = SearchStudy.open(journal)
    assert again.workers == 1
    assert again.arrival == "resumed: 1 evaluation"
    assert not list(Path(f"{journal}.workers").glob(f"*{study._presence.worker}*"))


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
    with pytest.raises(DamagedJournalError, match=words) as told:
        SearchStudy.open(journal)
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value), "workers send it"
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


def test_a_study_leaves_optunas_verbosity_as_it_was(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        SearchStudy.open(journal)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)


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


def test_sqlite_is_refused_for_several_workers(tmp_path: Path) -> None:
    first = SearchStudy.open(f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(ValueError, match="SQLite"):
        SearchStudy.open(f"sqlite:///{tmp_path}/study.db")
    first.close()
    SearchStudy.open(f"sqlite:///{tmp_path}/study.db")


def test_a_database_url_serves_as_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with SearchStudy.open(url, SETTINGS) as study:
        measure(study, "W", 3.0)
    assert len(SearchStudy.open(url, SETTINGS).population.individuals) == 1


def test_a_job_is_done_once_and_its_result_is_kept(journal: Path) -> None:
    first, second = SearchStudy.open(journal), SearchStudy.open(journal)
    asked: list[str] = []

    def work() -> list[float]:
        asked.append("first")
        assert second.jobs.once("judge 7", lambda: [0.0]) is None, "the first is at it"
        return [1.0, 2.0]

    assert first.jobs.result("judge 7") is None
    assert first.jobs.once("judge 7", work) == [1.0, 2.0]
    assert second.jobs.once("judge 7", work) == [1.0, 2.0]
    assert SearchStudy.open(journal).jobs.result("judge 7") == [1.0, 2.0]
    assert asked == ["first"]


def test_a_job_that_failed_or_whose_worker_died_is_free_again(journal: Path) -> None:
    def interrupted() -> list[float]:
        raise KeyboardInterrupt

    first = SearchStudy.open(journal)
    with pytest.raises(KeyboardInterrupt):
        first.jobs.once("judge 7", interrupted)
    assert first.jobs.once("judge 7", lambda: []) == []

    def dying() -> list[float]:
        die(first)
        other = SearchStudy.open(journal)
        assert other.jobs.once("judge 8", lambda: [2.0]) == [2.0]
        return [1.0]

    first.jobs.once("judge 8", dying)
    assert SearchStudy.open(journal).jobs.result("judge 8") == [2.0]


@pytest.mark.parametrize("stop", STOPS)
def test_what_stops_a_search_waits_for_the_end_of_a_write(stop: signal.Signals) -> None:
    before = signal.signal(stop, signal.default_int_handler)
    reached = False
    try:
        with pytest.raises(KeyboardInterrupt):
            with interrupts_wait():
                os.kill(os.getpid(), stop)
                reached = True
    finally:
        signal.signal(stop, before)
    assert reached


@pytest.mark.parametrize("kind", ["journal", "in memory"])
def test_trials_are_read_from_any_number_on(kind: str, journal: Path) -> None:
    study = SearchStudy.open(journal if kind == "journal" else optuna.storages.InMemoryStorage())
    for formula in ("W", "X", "G"):
        measure(study, formula, 3.0)
    begin(study, "W * X")
    trials = study.optuna_study.get_trials()
    for first in range(5):
        found = trials_from(study._storage, study._study_id, first)
        assert found == trials[first:]


def test_refreshing_reads_each_finished_trial_once() -> None:
    study = SearchStudy.open(optuna.storages.InMemoryStorage())
    for n, formula in enumerate(("W", "X", "G")):
        measure(study, formula, float(n))
        study.refresh()
    assert [i.number for i in study.population.individuals] == [0, 1, 2]
