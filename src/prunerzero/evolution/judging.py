"""Judging: measure the best candidates on the whole text, and choose the smallest good one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean

from prunerzero.evolution.fitness import Fitness, read_all
from prunerzero.evolution.pareto import smallest_as_good
from prunerzero.evolution.records import Finalist, Individual
from prunerzero.evolution.study import SearchStudy


class Judging:
    """Judges the finalists of a study. The workers share them, and each is judged once.

    Args:
        fitness: measures a metric.
        study: the study, opened.
        count: how many of the best are finalists; as many smaller metrics may join them.
    """

    def __init__(self, fitness: Fitness, study: SearchStudy, count: int) -> None:
        self._fitness = fitness
        self._study = study
        self._count = count
        self._losses: dict[int, list[float]] = {}
        self._finalists: dict[int, Finalist] = {}

    @property
    def finalists(self) -> tuple[Finalist, ...]:
        """The finalists judged so far, the best first."""
        return tuple(sorted(self._finalists.values(), key=lambda f: (f.loss, f.size, f.number)))

    def winner(self) -> Finalist | None:
        """The smallest finalist that is as good as the best within the noise; None before any."""
        sizes = {number: finalist.size for number, finalist in self._finalists.items()}
        number = smallest_as_good(self._losses, sizes)
        return None if number is None else self._finalists[number]

    def run(self, on_judged: Callable[[], None]) -> None:
        """Judge the finalists, together with the other workers that have reached this point."""
        finalists = {_job(individual): individual for individual in self._candidates()}
        work = {job: partial(self._read_rest, i) for job, i in finalists.items()}
        for job, losses in self._study.jobs.each(work):
            self._take_in(finalists[job], losses)
            on_judged()

    def recall(self) -> None:
        """Take in the results of an earlier session; measures nothing."""
        for individual in self._candidates():
            more = self._study.jobs.result(_job(individual))
            if more is not None:
                self._take_in(individual, more)

    def _take_in(self, individual: Individual, more: list[float]) -> None:
        losses = [*individual.losses, *more]
        if len(losses) == self._fitness.total_chunks:
            self._losses[individual.number] = losses
            self._finalists[individual.number] = Finalist(
                number=individual.number,
                expression=str(individual.candidate.expression),
                size=individual.candidate.expression.size,
                loss=fmean(losses),
            )

    def _candidates(self) -> list[Individual]:
        """The best that finished the race, then those that are smaller than all better ones.

        A metric that two workers measured counts once; one that the search began with is no
        finalist, as it was known before.
        """
        living = self._study.population.living
        finished = [i for i in living if i.state == "complete" and i.is_evolved]
        finished.sort(key=lambda i: (i.mean, i.candidate.expression.size, i.number))
        distinct = {i.candidate.ranking: i for i in reversed(finished)}
        ranked = list(reversed(distinct.values()))
        best, others = ranked[: self._count], ranked[self._count :]
        smaller: list[Individual] = []
        for individual in others:
            size = individual.candidate.expression.size
            if all(size < i.candidate.expression.size for i in (*best, *smaller)):
                smaller.append(individual)
        return [*best, *smaller[: self._count]]

    def _read_rest(self, individual: Individual) -> list[float]:
        """The losses of the chunks after the race's; empty where one cannot be measured."""
        start, stop = self._fitness.chunks, self._fitness.total_chunks
        return read_all(self._fitness, individual.candidate.expression, start, stop)

    def seconds_left(self, chunk_seconds: float | None) -> float:
        """An estimate of the time that judging still takes.

        Args:
            chunk_seconds: the time that a chunk takes; if it is None, the estimate is 0.
        """
        if chunk_seconds is None:
            return 0.0
        unread = self._fitness.total_chunks - self._fitness.chunks
        left = max(0, self._count - len(self._finalists))
        return left * unread * chunk_seconds / self._study.workers


def _job(individual: Individual) -> str:
    return f"judge {individual.number}"
