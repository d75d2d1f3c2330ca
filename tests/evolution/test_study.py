"""The study of a search, as one worker sees it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import optuna
import pytest
from one_worker import begin, candidate, die, measure

from prunerzero.evolution import SearchStudy, StudyMismatchError, presence
from prunerzero.evolution.interrupt import STOPS, interrupts_wait
from prunerzero.evolution.locks import hostname
from prunerzero.evolution.storage import trials_from

SETTINGS = {"model": "bundled", "sparsity": "0.5", "text": {"windows": 8}}


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


def test_other_settings_are_refused_in_one_sentence_that_names_the_difference(
    journal: Path,
) -> None:
    SearchStudy.open(journal, SETTINGS)
    before = journal.read_bytes()
    with pytest.raises(StudyMismatchError, match=r"begun with sparsity '0\.5', not '2:4'\.$"):
        SearchStudy.open(journal, {**SETTINGS, "sparsity": "2:4"})
    with pytest.raises(StudyMismatchError, match="group left out, not 'layer'"):
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
