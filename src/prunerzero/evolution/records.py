"""The values that a search works with and returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal, cast

from prunerzero.exponential import exp
from prunerzero.metrics.expression import Expression

State = Literal["complete", "raced_out", "failed"]
Origin = Literal[
    "random",
    "catalog",
    "given",
    "power law",
    "crossover",
    "node mutation",
    "constant mutation",
    "subtree mutation",
    "insertion",
    "shrinking",
]


@dataclass(frozen=True)
class Candidate:
    """A metric that is proposed for evaluation.

    Attributes:
        expression: in canonical form, in which it is measured and stored.
        ranking: its ranking key, from ``ranking_key``.
        origin: how it was made.
        parents: numbers of the trials it was made from.
        duplicates_skipped: proposals before it that were known already.
    """

    expression: Expression
    ranking: str
    origin: Origin
    parents: tuple[int, ...] = ()
    duplicates_skipped: int = 0


@dataclass(frozen=True)
class Begun:
    """An evaluation in flight.

    Attributes:
        number: of its trial in the study.
        trial_id: of its trial in the storage.
        text: canonical text of the metric.
        ranking: ranking key of the metric.
        draw: the draw that seeded its proposal.
        worker: evaluates it.
    """

    number: int
    trial_id: int
    text: str
    ranking: str
    draw: int
    worker: str


@dataclass(frozen=True)
class Individual:
    """A candidate that was evaluated.

    Attributes:
        number: of its trial in the study.
        candidate: the metric, and how it was made.
        state: "complete" (it finished the race), "raced_out" or "failed".
        losses: of each chunk read, in nats per token, in the fitness's one order.
        seconds: when its evaluation ended, since the search began, without pauses.
        draw: the draw that seeded its proposal.
    """

    number: int
    candidate: Candidate
    state: State
    losses: tuple[float, ...]
    seconds: float
    draw: int = 0

    @property
    def is_evolved(self) -> bool:
        """Whether the search made it; the known metrics that it begins with were there before."""
        return self.candidate.origin not in ("catalog", "given")

    @cached_property
    def mean(self) -> float:
        """Mean loss of the chunks read, in nats per token; infinite where none was."""
        return fmean(self.losses) if self.losses else math.inf

    def record(self, chunks: int) -> EvaluationRecord:
        """The same for reports.

        Args:
            chunks: how many a finished race reads.
        """
        loss = self.mean if self.losses and self.state != "failed" else None
        return EvaluationRecord(
            number=self.number,
            expression=str(self.candidate.expression),
            state=self.state,
            loss=loss,
            perplexity=perplexity(loss),
            chunks_read=len(self.losses),
            chunks=chunks,
            size=self.candidate.expression.size,
            origin=self.candidate.origin,
            parents=self.candidate.parents,
            seconds=self.seconds,
            duplicates_skipped=self.candidate.duplicates_skipped,
        )


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation, for reports: an entry of ``history.json``.

    Attributes:
        number: of its trial in the study.
        expression: text of what was measured.
        state: "complete" (it finished the race), "raced_out" or "failed".
        loss: mean over the chunks read, in nats per token; None if it failed.
        perplexity: exp(loss); None if it failed.
        chunks_read: how many it read.
        chunks: how many a finished race reads.
        size: nodes of the expression.
        origin: how it was made.
        parents: numbers of the trials it was made from.
        seconds: when it ended, since the search began, without pauses.
        duplicates_skipped: proposals before it that were known already.
    """

    number: int
    expression: str
    state: State
    loss: float | None
    perplexity: float | None
    chunks_read: int
    chunks: int
    size: int
    origin: Origin
    parents: tuple[int, ...]
    seconds: float
    duplicates_skipped: int


@dataclass(frozen=True)
class Finalist:
    """One of the best, judged on all chunks.

    Attributes:
        number: of its trial in the study.
        expression: its text.
        size: its nodes.
        loss: mean over all chunks, in nats per token.
    """

    number: int
    expression: str
    size: int
    loss: float


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after an evaluation or a finalist judged.

    Attributes:
        phase: "searching", then "judging".
        evaluations: done, including those before a resume and those of other workers.
        evaluations_per_second: of all workers, in this session.
        duplicates_skipped, raced_out, failed: of all evaluations.
        best_expression, best_loss, best_perplexity: of those that finished the race, on its chunks;
            None before there is one.
        seconds: since the search began, without pauses.
        seconds_left: until the first budget ends, judging included; None if unknown.
        workers: how many work on the study, on any machine.
        is_rise: whether the losses are how far they rise above the dense ones, in the mean of
            several cases, so that ``best_perplexity`` is a multiple of the dense one.
        after: what is done with masks before a loss is read, where the result is measured after
            something else.
    """

    phase: Literal["searching", "judging"]
    evaluations: int
    evaluations_per_second: float
    duplicates_skipped: int
    raced_out: int
    failed: int
    best_expression: str | None
    best_loss: float | None
    best_perplexity: float | None
    seconds: float
    seconds_left: float | None
    workers: int = 1
    is_rise: bool = False
    after: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search. ``dataclasses.asdict`` of it goes to JSON as it is.

    Attributes:
        expression: text of the best metric that the search made, the smallest of those that are
            equally good within the noise; None if none finished the race.
        loss: its mean loss over ``chunks`` chunks, in nats per token.
        perplexity: exp(loss).
        chunks: how many chunks that is: all, or the race's if no finalist could be judged.
        evaluations: every evaluation, by trial number.
        finalists: the metrics that were judged on all chunks, the best first; none of those that
            the search began with, as they are known.
        duplicates_skipped, raced_out, failed: of all evaluations.
        seconds: since the search began, without pauses.
        interrupted: Ctrl-C, or ``should_stop``, ended it before its budget did.
        resumed_from: evaluations that the study held at the start.
    """

    expression: str | None
    loss: float | None
    perplexity: float | None
    chunks: int
    evaluations: tuple[EvaluationRecord, ...]
    finalists: tuple[Finalist, ...]
    duplicates_skipped: int
    raced_out: int
    failed: int
    seconds: float
    interrupted: bool
    resumed_from: int


def read_state(text: str) -> State:
    """The state that a file names. Files of version 0.1.0 say "pruned" for "raced_out"."""
    return cast(State, "raced_out" if text == "pruned" else text)


def perplexity(loss: float | None) -> float | None:
    """exp(loss); None for None."""
    return None if loss is None else exp(loss)
