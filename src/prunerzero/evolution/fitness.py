"""What a search asks of whatever measures a metric."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Protocol

from prunerzero.metrics.expression import Expression

UNMEASURABLE = (ArithmeticError, ValueError, MemoryError)
"""What reading raises where a metric cannot be measured."""


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


def read(
    fitness: Fitness, expression: Expression, start: int, stop: int
) -> Generator[float, None, None]:
    """The losses; closing this closes a fitness that is a generator, which then cleans up."""
    yield from fitness.losses(expression, start, stop)


def finite(loss: float) -> float:
    """The loss, if it can be ranked; otherwise ArithmeticError."""
    if not math.isfinite(loss):
        raise ArithmeticError(f"a loss of {loss} cannot be ranked.")
    return float(loss)
