"""The loop: propose → simplify → known? → measure until hopeless → record; then judge the best."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from statistics import median
from typing import Literal

from prunerzero.evolution.breeding import Breeder
from prunerzero.evolution.fitness import UNMEASURABLE, Fitness, read
from prunerzero.evolution.judging import Judging
from prunerzero.evolution.power_laws import PowerLaws
from prunerzero.evolution.proposals import Proposals, Proposer
from prunerzero.evolution.racing import Race
from prunerzero.evolution.records import (
    Candidate,
    Progress,
    SearchResult,
    State,
    perplexity,
)
from prunerzero.evolution.settings import SearchSettings
from prunerzero.evolution.study import SearchStudy
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.ranking import Probe

SLOWEST, SLOWEST_SECONDS = 20.0, 30.0
"""A metric fails when it takes so many times the usual time, and more than so many seconds."""

SLOWNESS_OF = 5
"""Number of finished races whose median is the usual time."""


def search(
    fitness: Fitness,
    *,
    study: SearchStudy,
    settings: SearchSettings,
    probes: Sequence[Probe],
    sparsity: Sparsity,
    also: Sequence[tuple[Sequence[Probe], Sparsity]] = (),
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    ahead: bool = False,
) -> SearchResult:
    """Evolve a metric, or resume: the study holds all state.

    Any number of workers may run the same search on one study. They share the budget of evaluations
    and, at the end, the finalists, each of which is judged once.

    Ctrl-C and ``should_stop``, which is called before each evaluation, end the search early: the
    evaluation in flight is dropped, everything else is kept.

    Args:
        fitness: measures a metric.
        study: the study, opened.
        settings: of the search.
        probes: samples of real layers, which show which metrics rank alike.
        sparsity: its group is the one in which scores compete.
        also: probes and sparsity of each further case, where the fitness is that of several; their
            group is the same.
        on_progress: called after each evaluation and each finalist judged.
        should_stop: ends the search when it returns True.
        ahead: propose a candidate while the one before is measured, without knowing
            its loss. This pays where measuring leaves the CPU idle.

    Raises:
        StudyMismatchError: the study's losses were read from other chunks.
        StorageError: the study cannot be written; what it holds is kept.
    """
    if not 1 <= fitness.chunks <= fitness.total_chunks:
        raise ValueError(f"{fitness.chunks} of {fitness.total_chunks} chunks cannot be raced.")
    study.require(
        "chunks", {"chunks of the race": fitness.chunks, "chunks in all": fitness.total_chunks}
    )
    samples = [(probes, sparsity), *also]
    proposer: Proposer
    if settings.strategy == "powerlaw":
        proposer = PowerLaws(study.population, samples, settings.terminals)
        ahead = False  # each step depends on the last one
    else:
        proposer = Breeder(study.population, settings, samples, ahead=ahead)
    proposals = Proposals(study, proposer, settings.evaluations, ahead=ahead)
    with closing(proposals):
        return _Search(fitness, study, settings, proposals, on_progress, should_stop).run()


class _Search:
    def __init__(
        self,
        fitness: Fitness,
        study: SearchStudy,
        settings: SearchSettings,
        proposals: Proposals,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.fitness = fitness
        self.study = study
        self.settings = settings
        self.proposals = proposals
        self.on_progress = on_progress
        self.should_stop = should_stop or (lambda: False)
        self.race = Race(
            fitness.chunks,
            settings.first_rung,
            settings.reduction_factor,
            settings.noise_margin,
            settings.places,
        )
        self.judging = Judging(fitness, study, settings.finalists)
        self.interrupted = False
        self._taken_in = 0
        self._duplicates = self._raced_out = self._failed = 0
        self._chunk_seconds: float | None = None
        self._paces: deque[float] = deque(maxlen=SLOWNESS_OF)
        self._start = time.monotonic()
        self._earlier = study.seconds
        study.refresh()
        self._take_in()
        self.resumed_from = self._taken_in

    @property
    def seconds(self) -> float:
        """Since the search began, without the pauses between sessions."""
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
                self._await(self.study.in_flight)
                self.judging.run(self._judged)
        except KeyboardInterrupt:
            self.interrupted = True
            self.proposals.settle()
            self.study.drop()
            self._take_in()
        self.study.keep_seconds(self.seconds)
        return self._result()

    # Searching

    def _is_spent(self) -> bool:
        s = self.settings
        if s.evaluations is not None and self._taken_in >= s.evaluations:
            return True
        return (
            s.seconds is not None
            and self._taken_in >= s.least_evaluations
            and self.seconds + self.judging.seconds_left(self._chunk_seconds) >= s.seconds
        )

    def _evaluate_one(self) -> bool:
        """Evaluate one candidate; False where there is nothing new to propose."""
        proposal = self.proposals.take()
        if proposal is None:  # other workers evaluate the rest of the budget, and may lose some
            self._await(self.study.in_flight)
            return True
        draw, candidate = proposal
        if candidate is None:
            return False
        if not self._begin(candidate, draw):
            return True
        self.proposals.start()
        begun = time.monotonic()
        state, losses, error = self._measure(candidate.expression)
        took = time.monotonic() - begun
        self.proposals.settle()
        self.study.record(state, losses, self.seconds, took=took, error=error)
        self._take_in()
        self._report("searching")
        return True

    def _begin(self, candidate: Candidate, draw: int | None) -> bool:
        """Begin the evaluation; False where another worker has the metric already.

        If another worker has taken the draw alone, the candidate goes on with another draw.
        """
        while draw is not None and not self.study.begin(candidate, draw):
            self._take_in()
            if self.study.population.knows_any(candidate):
                return False
            draw = self.proposals.another_draw()
        return draw is not None

    def _measure(self, expression: Expression) -> tuple[State, list[float], str | None]:
        """Read chunks until the race ends; returns the state, the losses, and why it failed."""
        losses: list[float] = []
        begun = time.monotonic()
        try:
            with closing(read(self.fitness, expression, 0, self.fitness.chunks)) as reading:
                for loss in reading:
                    losses.append(loss)
                    if self.race.is_hopeless(losses):
                        return "raced_out", losses, None
                    self._refuse_slow(time.monotonic() - begun, len(losses))
        except (*UNMEASURABLE, SlowMetricError) as error:
            return "failed", losses, str(error) or type(error).__name__
        self._chunk_seconds = (time.monotonic() - begun) / self.fitness.chunks
        self._paces.append(self._chunk_seconds)
        return "complete", losses, None

    def _refuse_slow(self, seconds: float, chunks: int) -> None:
        if len(self._paces) == SLOWNESS_OF:
            limit = max(SLOWEST_SECONDS, SLOWEST * median(self._paces) * chunks)
            if seconds > limit:
                raise SlowMetricError(f"{chunks} chunks took {seconds:.0f} s.")

    def _await(self, trials: frozenset[int]) -> None:
        """Wait until other workers have finished or lost these trials."""
        pause = 0.02
        while trials & self.study.in_flight:
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            self.study.refresh(look=pause == 1.0)
            self._take_in()

    def _take_in(self) -> None:
        """Count the evaluations that are new, of all workers, and move our clock up to theirs."""
        for individual in self.study.population.individuals[self._taken_in :]:
            self._earlier += max(0.0, individual.seconds - self.seconds)
            self.race.add(individual)
            self._duplicates += individual.candidate.duplicates_skipped
            self._raced_out += individual.state == "raced_out"
            self._failed += individual.state == "failed"
            self._taken_in += 1

    # Reporting

    def _judged(self) -> None:
        """Keep the time: that of an evaluation is kept with it, that of judging is not."""
        self.study.keep_seconds(self.seconds)
        self._report("judging")

    def _report(self, phase: Literal["searching", "judging"]) -> None:
        if self.on_progress is None:
            return
        best = self.race.best
        loss = best.mean if best else None
        # a worker that has just joined has seen no evaluation in its own time
        since = self.resumed_from if self._taken_in > self.resumed_from else 0
        begun = self._start if since else self._start - self._earlier
        rate = (self._taken_in - since) / max(time.monotonic() - begun, 1e-9)
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
                workers=self.study.workers,
            )
        )

    def _seconds_left(self, phase: str, rate: float) -> float | None:
        estimates = []
        if self.settings.evaluations is not None and rate:
            left = 0 if phase == "judging" else self.settings.evaluations - self._taken_in
            estimates.append(max(0, left) / rate + self.judging.seconds_left(self._chunk_seconds))
        if self.settings.seconds is not None:
            estimates.append(max(0.0, self.settings.seconds - self.seconds))
        return min(estimates, default=None)

    def _result(self) -> SearchResult:
        living = self.study.population.living
        finished = [i for i in living if i.state == "complete" and i.is_evolved]
        best = min(finished, key=lambda i: i.mean, default=None)
        expression, loss, chunks = None, None, self.fitness.chunks
        if self.interrupted:
            self.judging.recall()
        judged = {finalist.number for finalist in self.judging.finalists}
        winner = self.judging.winner()
        if winner is not None and (not self.interrupted or (best and best.number in judged)):
            expression, loss, chunks = winner.expression, winner.loss, self.fitness.total_chunks
        elif best is not None:
            expression, loss = str(best.candidate.expression), best.mean
        individuals = sorted(self.study.population.individuals, key=lambda i: i.number)
        return SearchResult(
            expression=expression,
            loss=loss,
            perplexity=perplexity(loss),
            chunks=chunks,
            evaluations=tuple(i.record(self.fitness.chunks) for i in individuals),
            finalists=self.judging.finalists,
            duplicates_skipped=self._duplicates,
            raced_out=self._raced_out,
            failed=self._failed,
            seconds=self.seconds,
            interrupted=self.interrupted,
            resumed_from=self.resumed_from,
        )


class SlowMetricError(Exception):
    """A metric takes far longer than others."""
