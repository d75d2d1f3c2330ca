"""The loop: propose → simplify → known? → measure until hopeless → record; then judge the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from statistics import fmean
from typing import Literal, Protocol

from prunerzero.evolution.breeding import Breeder
from prunerzero.evolution.population import Population
from prunerzero.evolution.power_laws import PowerLaws
from prunerzero.evolution.racing import Race
from prunerzero.evolution.records import (
    Finalist,
    Individual,
    Progress,
    SearchResult,
    State,
    perplexity,
)
from prunerzero.evolution.settings import SearchSettings
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.mask import Sparsity
from prunerzero.metrics.ranking import Probe


class Fitness(Protocol):
    """What measures a metric: the loss of the model pruned with it, chunk by chunk."""

    @property
    def chunks(self) -> int:
        """How many chunks the race reads."""

    @property
    def total_chunks(self) -> int:
        """How many there are; finalists are judged on all."""

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """The mean negative log-likelihood per token of chunks ``start`` to ``stop`` (to the end).

        Always in the same order, and of equally many tokens each. May raise ArithmeticError or
        ValueError where the metric cannot be measured.
        """


def search(
    fitness: Fitness,
    *,
    population: Population,
    settings: SearchSettings,
    probes: Sequence[Probe],
    sparsity: Sparsity,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Evolve a metric, or go on with it: all state is in the population's study.

    Ctrl-C and ``should_stop``, asked before each evaluation, end the search early: the evaluation
    in flight is dropped, everything else is kept.

    Args:
        fitness: what measures a metric.
        population: the study, opened.
        settings: of the search.
        probes: samples of real layers, on which metrics that rank alike are told.
        sparsity: within which group scores compete.
        on_progress: called after each evaluation and each finalist judged.
        should_stop: True ends the search.

    Raises:
        StudyMismatchError: the study's losses were read from other chunks.
    """
    if not 1 <= fitness.chunks <= fitness.total_chunks:
        raise ValueError(f"{fitness.chunks} of {fitness.total_chunks} chunks cannot be raced.")
    population.require(
        "chunks", {"chunks of the race": fitness.chunks, "chunks in all": fitness.total_chunks}
    )
    breeder: Breeder | PowerLaws
    if settings.strategy == "powerlaw":
        breeder = PowerLaws(population, probes, sparsity)
    else:
        breeder = Breeder(population, settings, probes, sparsity)
    return _Search(fitness, population, settings, breeder, on_progress, should_stop).run()


class _Search:
    def __init__(
        self,
        fitness: Fitness,
        population: Population,
        settings: SearchSettings,
        breeder: Breeder | PowerLaws,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.fitness = fitness
        self.population = population
        self.settings = settings
        self.breeder = breeder
        self.on_progress = on_progress
        self.should_stop = should_stop or (lambda: False)
        self.race = Race(
            fitness.chunks,
            settings.first_rung,
            settings.reduction_factor,
            settings.noise_margin,
            settings.places,
        )
        self.interrupted = False
        self._taken_in = 0
        self._duplicates = self._raced_out = self._failed = 0
        self._own = 0
        self._chunk_seconds: float | None = None
        self._finalists: dict[int, Finalist] = {}
        population.refresh()
        self._take_in()
        self.resumed_from = self._taken_in
        earlier = max((i.seconds for i in population.individuals), default=0.0)
        self._start = time.monotonic()
        self._earlier = earlier

    @property
    def seconds(self) -> float:
        """Since the search began, pauses left out."""
        return self._earlier + time.monotonic() - self._start

    def run(self) -> SearchResult:
        try:
            while not self._is_spent():
                if self.should_stop():
                    self.interrupted = True
                    break
                if not self._evaluate_one():
                    break
            if not self.interrupted:
                self._judge()
        except KeyboardInterrupt:
            self.interrupted = True
            self.population.drop()
            self._take_in()
        return self._result()

    # Searching

    def _is_spent(self) -> bool:
        s = self.settings
        if s.evaluations is not None and self._taken_in >= s.evaluations:
            return True
        return s.seconds is not None and self.seconds + self._judging_seconds() >= s.seconds

    def _evaluate_one(self) -> bool:
        """One trial; False where there is nothing new to propose."""
        candidate = self.breeder.propose(self.population.ask())
        if candidate is None:
            self.population.drop()
            return False
        self.population.announce(candidate)
        state, losses = self._measure(candidate.expression)
        self.population.record(state, losses, self.seconds)
        self._own += 1
        self._take_in()
        self._tell("searching")
        return True

    def _measure(self, expression: Expression) -> tuple[State, list[float]]:
        losses: list[float] = []
        begun = time.monotonic()
        try:
            with closing(_read(self.fitness, expression, 0, self.fitness.chunks)) as reading:
                for loss in reading:
                    losses.append(_finite(loss))
                    if self.race.is_hopeless(losses):
                        return "pruned", losses
        except (ArithmeticError, ValueError):
            return "failed", losses
        self._chunk_seconds = (time.monotonic() - begun) / self.fitness.chunks
        return "complete", losses

    def _take_in(self) -> None:
        """Count what the population has new, from whichever worker."""
        for individual in self.population.individuals[self._taken_in :]:
            self.race.add(individual)
            self._duplicates += individual.candidate.duplicates_skipped
            self._raced_out += individual.state == "pruned"
            self._failed += individual.state == "failed"
            self._taken_in += 1

    # Judging

    def _judge(self) -> None:
        for individual in self._candidates():
            losses = self._all_losses(individual)
            if losses is not None:
                self._finalists[individual.number] = Finalist(
                    number=individual.number,
                    expression=str(individual.candidate.expression),
                    size=individual.candidate.expression.size,
                    loss=fmean(losses),
                )
            self._tell("judging")

    def _candidates(self) -> list[Individual]:
        """The best that finished the race; several workers may have measured one twice."""
        finished = [i for i in self.population.living if i.state == "complete"]
        finished.sort(key=lambda i: (i.mean, i.candidate.expression.size, i.number))
        distinct = {i.candidate.ranking: i for i in reversed(finished)}
        return list(reversed(distinct.values()))[: self.settings.finalists]

    def _all_losses(self, individual: Individual) -> list[float] | None:
        """The losses of all chunks; None where one of them cannot be measured."""
        chunks, total = self.fitness.chunks, self.fitness.total_chunks
        more = self.population.judged(individual.number)
        if len(more) < total - chunks:
            try:
                expression = individual.candidate.expression
                more = [*map(_finite, _read(self.fitness, expression, chunks, total))]
            except (ArithmeticError, ValueError):
                return None
            self.population.write_judged(individual.number, more)
        return [*individual.losses, *more]

    def _judging_seconds(self) -> float:
        """An estimate of what judging the finalists still takes."""
        if self._chunk_seconds is None:
            return 0.0
        unread = self.fitness.total_chunks - self.fitness.chunks
        left = self.settings.finalists - len(self._finalists)
        return left * unread * self._chunk_seconds

    # Telling

    def _tell(self, phase: Literal["searching", "judging"]) -> None:
        if self.on_progress is None:
            return
        best = self.race.best
        loss = best.mean if best else None
        rate = self._own / max(time.monotonic() - self._start, 1e-9)
        self.on_progress(
            Progress(
                phase=phase,
                evaluations=self._taken_in,
                evaluations_per_second=rate,
                duplicates_skipped=self._duplicates,
                raced_out=self._raced_out,
                failed=self._failed,
                best_expression=str(best.candidate.expression) if best else None,
                best_loss=loss,
                best_perplexity=perplexity(loss),
                seconds=self.seconds,
                seconds_left=self._seconds_left(phase, rate),
            )
        )

    def _seconds_left(self, phase: str, rate: float) -> float | None:
        estimates = []
        if self.settings.evaluations is not None and rate:
            left = 0 if phase == "judging" else self.settings.evaluations - self._taken_in
            estimates.append(max(0, left) / rate + self._judging_seconds())
        if self.settings.seconds is not None:
            estimates.append(max(0.0, self.settings.seconds - self.seconds))
        return min(estimates, default=None)

    def _result(self) -> SearchResult:
        finalists = sorted(self._finalists.values(), key=lambda f: (f.loss, f.size, f.number))
        best = self.race.best
        expression, loss, chunks = None, None, self.fitness.chunks
        if finalists:
            expression, loss = finalists[0].expression, finalists[0].loss
            chunks = self.fitness.total_chunks
        elif best is not None:
            expression, loss = str(best.candidate.expression), best.mean
        individuals = sorted(self.population.individuals, key=lambda i: i.number)
        return SearchResult(
            expression=expression,
            loss=loss,
            perplexity=perplexity(loss),
            chunks=chunks,
            evaluations=tuple(i.evaluation(self.fitness.chunks) for i in individuals),
            finalists=tuple(finalists),
            duplicates_skipped=self._duplicates,
            raced_out=self._raced_out,
            failed=self._failed,
            seconds=self.seconds,
            interrupted=self.interrupted,
            resumed_from=self.resumed_from,
        )


def _read(
    fitness: Fitness, expression: Expression, start: int, stop: int
) -> Generator[float, None, None]:
    """The losses; closing this closes a fitness that is a generator, which then cleans up."""
    yield from fitness.losses(expression, start, stop)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise ArithmeticError(f"a loss of {loss} cannot be ranked.")
    return float(loss)
