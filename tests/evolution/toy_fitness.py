"""A fitness that costs a fraction of a millisecond: how much of a planted importance is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import torch

from prunerzero.evolution import SearchResult, SearchSettings, SearchStudy, search
from prunerzero.metrics import Expression, Sparsity
from prunerzero.scoring import prune_mask
from prunerzero.scoring.ranking import Probe

HALF = Sparsity.parse("0.5")


class ToyFitness:
    """Loss of a chunk: its difficulty + the share of a planted metric's sum that is pruned.

    Chunks differ in difficulty and, by paired noise, in what they need. Remembers what was asked.
    """

    def __init__(self, planted: str = "W * sqrt(X) * G", chunks: int = 6, total: int = 10) -> None:
        generator = torch.Generator().manual_seed(3)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.W = normal(24, 32).abs()
        self.X = (1.5 * normal(1, 32)).exp()
        self.G = normal(24, 32).abs() * normal(1, 32).exp()
        others = torch.randn(1, 32, generator=torch.Generator().manual_seed(4))
        self.D = self.X.sqrt() * (-others.abs()).exp()
        importance = Expression.parse(planted).score(W=self.W, X=self.X, G=self.G, D=self.D)
        noise = (0.1 * normal(total, 24, 32)).exp()
        self.importance = importance * noise / importance.sum()
        self.difficulty = (3 + 0.3 * normal(total)).tolist()
        self.chunks = chunks
        self.total_chunks = total
        self.asked: list[Expression] = []
        self.read = 0

    @property
    def probes(self) -> list[Probe]:
        return [Probe.of(self.W, self.X, self.G, self.D)]

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        if start == 0:
            self.asked.append(expression)
        scores = expression.score(W=self.W, X=self.X, G=self.G, D=self.D)
        pruned = prune_mask(scores, HALF)
        for chunk in range(start, self.total_chunks if stop is None else stop):
            self.read += 1
            yield self.difficulty[chunk] + float(self.importance[chunk][pruned].sum())

    def mean(self, formula: str) -> float:
        losses = list(self.losses(Expression.parse(formula), 0))
        return sum(losses) / len(losses)


SMALL = {"initial": 12, "population": 30}


def settings(evaluations: int, **others: object) -> SearchSettings:
    return SearchSettings(evaluations=evaluations, **{**SMALL, **others})  # type: ignore[arg-type]


def run_search(
    fitness: ToyFitness,
    evaluations: int,
    storage: Path | None = None,
    *,
    on_progress: Callable[..., None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    ahead: bool = False,
    **others: object,
) -> SearchResult:
    with SearchStudy.open(storage or optuna.storages.InMemoryStorage()) as study:
        return search(
            fitness,
            study=study,
            settings=settings(evaluations, **others),
            probes=fitness.probes,
            sparsity=HALF,
            on_progress=on_progress,
            should_stop=should_stop,
            ahead=ahead,
        )
