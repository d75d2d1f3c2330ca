"""Known metrics judged under an update as a search judges candidates, at a part of the time of a
refit in full."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import fmean

from prunerzero.evolution.fitness import Fitness, read_all
from prunerzero.metrics import Metric, Sparsity
from prunerzero.metrics.operators import TERMINALS
from prunerzero.tasks.cases import Cases, refit_of_candidates
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.tuning.workbench import Workbench


class Judge:
    """Ranks metrics by their losses on the first chunks of the validation text.

    The losses are kept in the bench's ledger. They compare with each other alone: a refit in
    full gives others.

    Args:
        bench: whose model and ledger they are.
        sparsity: what the model is pruned to.
        refit: the update.
    """

    def __init__(self, bench: Workbench, sparsity: Sparsity, refit: RefitOptions) -> None:
        self._bench = bench
        self._sparsity = sparsity
        self._refit = refit

    def loss(self, metric: Metric, windows: int) -> float:
        """The mean on the chunks that hold so many windows; infinite where it has none."""

        def losses() -> list[float]:
            count = len(self._bench.work.texts.of("validation").windows)
            chunks = math.ceil(min(1, windows / count) * self._fitness.total_chunks)
            return read_all(self._fitness, metric.expression, 0, chunks)

        how = refit_of_candidates(self._refit)
        key = f"{metric.expression} at {self._sparsity.in_words}, judged after {how}, {windows}"
        found: list[float] = self._bench.ledger.recall(key, losses)
        return fmean(found) if found else math.inf

    @cached_property
    def _fitness(self) -> Fitness:
        """Made where something is not in the ledger yet."""
        return Cases((self._bench.work,), (self._sparsity,)).fitness(TERMINALS, self._refit)
