"""Workers that are killed, torn lines, several workers at once: the study stays true."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest
from forked import start_server
from many_workers import start_worker

from prunerzero.evolution import SearchStudy
from prunerzero.evolution.records import Individual

KILLS = 25


class Watched:
    """A study looked at from time to time: what was once counted stays, and is counted once."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.known: dict[int, Individual] = {}

    def check(self, living: int) -> None:
        with SearchStudy.open(self.journal) as study:
            found = {i.number: i for i in study.population.individuals}
            trials = {t.number: t.user_attrs for t in study.optuna_study.get_trials(deepcopy=False)}
            assert len(study.in_flight) <= living
        assert len(found) == len(study.population.individuals)
        assert {n: i for n, i in found.items() if n in self.known} == self.known
        candidates = [i.candidate for i in found.values()]
        assert len({str(c.expression) for c in candidates}) == len(candidates)
        assert len({c.ranking for c in candidates}) == len(candidates)
        draws = [trials[number]["proposal"]["draw"] for number in found]
        assert len(set(draws)) == len(draws)
        self.known = found


def wait_for_growth(journal: Path, evaluations: int) -> None:
    """Until about so many evaluations more have been written."""
    size = journal.stat().st_size if journal.exists() else 0
    while not journal.exists() or journal.stat().st_size < size + 1000 * evaluations:
        time.sleep(0.002)


def kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_moments_lose_what_was_in_flight_and_no_more(
    journal: Path, seed: int
) -> None:
    rng = Random(seed)
    watched = Watched(journal)
    workers = [start_worker(journal, 10**6) for _ in range(2)]
    for turn in range(KILLS):
        wait_for_growth(journal, turn % 3)
        time.sleep(rng.uniform(0, 0.05))
        killed = workers if turn % 5 == 4 else [rng.choice(workers)]
        kill(killed)
        watched.check(living=len(workers) - len(killed))
        workers = [w if w not in killed else start_worker(journal, 10**6) for w in workers]
    kill(workers)
    watched.check(living=0)
    evaluations = len(watched.known) + 10
    assert evaluations > KILLS, "the workers got somewhere between kills"
    workers = [start_worker(journal, evaluations) for _ in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    watched.check(living=0)
    assert len(watched.known) == evaluations


def test_three_workers_share_the_budget_the_duplicates_and_the_judging(
    journal: Path, tmp_path: Path
) -> None:
    judged = tmp_path / "judged.txt"
    workers = [start_worker(journal, 60, 0.001, judged) for _ in range(3)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    watched = Watched(journal)
    watched.check(living=0)
    assert len(watched.known) == 60, "not one more"
    assert set(Counter(judged.read_text().splitlines()).values()) == {1}, "each finalist once"
    with SearchStudy.open(journal) as study:
        measured = [t.user_attrs["proposal"]["worker"] for t in study.optuna_study.trials]
    assert len(set(measured)) == 3


def test_a_worker_killed_while_judging_leaves_its_finalist_to_another(
    journal: Path, tmp_path: Path
) -> None:
    judged = tmp_path / "judged.txt"
    slow = start_worker(journal, 20, 0.02, judged)
    while not judged.exists():
        time.sleep(0.01)
    other = start_worker(journal, 20, 0.0, judged)
    kill([slow])
    other.join(timeout=30)
    assert other.exitcode == 0
    with SearchStudy.open(journal) as study:
        finished = [i for i in study.population.living if i.state == "complete"]
        best = sorted(finished, key=lambda i: i.mean)
        for individual in best[:10]:
            assert len(study.jobs.result(f"judge {individual.number}") or []) == 4


@pytest.fixture(scope="module", autouse=True)
def workers_are_quickly_made_and_none_is_left() -> Iterator[None]:
    start_server()
    yield
    kill([w for w in multiprocessing.active_children() if w.is_alive()])
