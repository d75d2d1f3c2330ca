from __future__ import annotations

import os
import signal
from pathlib import Path

import optuna
import pytest

from prunerzero.evolution import Population, StudyMismatchError
from prunerzero.evolution.interrupt import interrupts_wait
from prunerzero.evolution.records import Candidate
from prunerzero.evolution.storage import repair_journal
from prunerzero.metrics import Expression

SETTINGS = {"model": "bundled", "sparsity": "0.5", "text": {"windows": 8}}


def candidate(formula: str) -> Candidate:
    return Candidate(Expression.parse(formula), f"ranking of {formula}", "random")


def measure(population: Population, formula: str, *losses: float) -> None:
    population.ask()
    population.announce(candidate(formula))
    population.record("complete" if losses else "failed", losses, 1.5)


def test_what_was_recorded_is_there_after_reopening(journal: Path) -> None:
    population = Population.open(journal, SETTINGS)
    measure(population, "W", 3.0, 4.0)
    measure(population, "X")
    again = Population.open(journal, SETTINGS)
    assert again.individuals == population.individuals
    assert [i.state for i in again.individuals] == ["complete", "failed"]
    assert [i.mean for i in again.living] == [3.5]
    assert again.knows("W") and again.knows("ranking of X") and not again.knows("G")


def test_a_trial_holds_its_expression_in_user_attributes_and_no_parameters(journal: Path) -> None:
    population = Population.open(journal)
    measure(population, "W * X", 3.0)
    (trial,) = population.study.get_trials()
    assert trial.params == {}
    assert trial.value == 3.0
    assert trial.user_attrs["expression"] == "W * X"
    assert trial.user_attrs["proposal"]["size"] == 3
    assert trial.user_attrs["measured"]["chunks_read"] == 1


def test_other_settings_are_refused_in_one_sentence_that_names_the_difference(
    journal: Path,
) -> None:
    Population.open(journal, SETTINGS)
    with pytest.raises(StudyMismatchError, match=r"begun with sparsity '0\.5', not '2:4'\.$"):
        Population.open(journal, {**SETTINGS, "sparsity": "2:4"})
    with pytest.raises(StudyMismatchError, match="group nothing, not 'layer'"):
        Population.open(journal, {**SETTINGS, "group": "layer"})
    Population.open(journal, SETTINGS)


def test_an_evaluation_of_a_dead_worker_is_neither_counted_nor_seen(journal: Path) -> None:
    dead = Population.open(journal)
    measure(dead, "W", 3.0)
    dead.ask()
    dead.announce(candidate("W * X"))
    population = Population.open(journal)
    assert len(population.individuals) == 1
    assert not population.knows("W * X")
    assert population.ask() == 1, "the draw of the dropped trial is drawn again"


def test_a_worker_that_died_after_measuring_lost_nothing(journal: Path) -> None:
    dead = Population.open(journal)
    dead.ask()
    dead.announce(candidate("W"))
    measured = {"state": "complete", "losses": [3.0, 4.0], "chunks_read": 2, "seconds": 1.0}
    dead._trial.set_user_attr("measured", measured)  # killed before the trial was told
    population = Population.open(journal)
    assert [i.mean for i in population.individuals] == [3.5]
    assert population.study.trials[0].value == 3.5


def test_workers_that_are_not_alone_leave_the_trials_of_others_running(journal: Path) -> None:
    first = Population.open(journal)
    first.ask()
    first.announce(candidate("W"))
    second = Population.open(journal, alone=False)
    assert second.knows("W"), "what another worker measures now is not proposed again"
    first.record("complete", [3.0], 1.0)
    second.refresh()
    assert [i.mean for i in second.individuals] == [3.0]


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0\0\0\0", b'{"op_code"\n', b"x\ny\n"])
def test_a_torn_last_line_is_cut_off_at_start(journal: Path, torn: bytes) -> None:
    measure(Population.open(journal), "W", 3.0)
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    population = Population.open(journal)
    assert journal.read_bytes().startswith(whole + b'{"op_code":')
    measure(population, "X", 4.0)
    assert [i.mean for i in Population.open(journal).individuals] == [3.0, 4.0]


def test_an_empty_or_missing_journal_needs_no_repair(tmp_path: Path) -> None:
    assert repair_journal(tmp_path / "none.log") == 0
    (tmp_path / "empty.log").touch()
    assert repair_journal(tmp_path / "empty.log") == 0


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not a journal\n")
    with pytest.raises(ValueError, match="no journal of a search"):
        Population.open(notes)
    assert notes.read_text() == "not a journal\n"


def test_a_journal_torn_in_its_first_line_begins_anew(journal: Path) -> None:
    journal.parent.mkdir()
    journal.write_bytes(b'{"op_co')
    measure(Population.open(journal), "W", 3.0)


def test_a_lock_held_by_a_dead_worker_does_not_hold_up_the_next(journal: Path) -> None:
    Population.open(journal)
    Path(f"{journal}.lock").symlink_to(journal)
    measure(Population.open(journal), "W", 3.0)


def test_sqlite_is_refused_for_several_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SQLite"):
        Population.open(f"sqlite:///{tmp_path}/study.db", alone=False)


def test_a_database_url_serves_as_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    measure(Population.open(url, SETTINGS), "W", 3.0)
    assert len(Population.open(url, SETTINGS).individuals) == 1


def test_judgements_of_finalists_are_kept(journal: Path) -> None:
    Population.open(journal).write_judged(7, [1.0, 2.0])
    assert Population.open(journal).judged(7) == [1.0, 2.0]
    assert Population.open(journal).judged(8) == []


def test_an_interrupt_waits_for_the_end_of_a_write() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt):
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            reached = True
    assert reached


def test_refreshing_reads_each_finished_trial_once() -> None:
    population = Population.open(optuna.storages.InMemoryStorage())
    for n, formula in enumerate(("W", "X", "G")):
        measure(population, formula, float(n))
        population.refresh()
    assert [i.number for i in population.individuals] == [0, 1, 2]
