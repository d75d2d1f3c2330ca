"""What a search needs of whatever measures a metric."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Protocol

from prunerzero.metrics.expression import Expression

UNMEASURABLE = (ArithmeticError, ValueError, MemoryError)
"""The errors of ``read`` where a metric cannot be measured."""


class Fitness(Protocol):
    """Measures a metric: the loss of the model pruned with it, chunk by chunk of a text."""

    @property
    def chunks(self) -> int:
        """How many chunks the race reads."""

    @property
    def total_chunks(self) -> int:
        """How many chunks there are; finalists are judged on all."""

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        """The mean negative log-likelihood per token of chunks ``start`` to ``stop`` (or the end).

        The chunks come in the same order for every metric, and have the same number of tokens. May
        raise ArithmeticError, ValueError or MemoryError where the metric cannot be measured.
        """


def read(
    fitness: Fitness, expression: Expression, start: int, stop: int
) -> Generator[float, None, None]:
    """The losses of these chunks, one by one.

    Closing this generator also closes that of the fitness, which then restores the model.

    Raises:
        ArithmeticError: a loss is not finite, so it cannot be ranked.
    """
    losses = fitness.losses(expression, start, stop)
    try:
        yield from map(finite, losses)
    finally:
        if isinstance(losses, Generator):
            losses.close()


def finite(loss: float) -> float:
    """The loss. Raises ArithmeticError where it is not finite, so that it cannot be ranked."""
    if not math.isfinite(loss):
        raise ArithmeticError(f"a loss of {loss} cannot be ranked.")
    return float(loss)


def read_all(fitness: Fitness, expression: Expression, start: int, stop: int) -> list[float]:
    """The losses of these chunks; empty where one of them cannot be measured.

    Where there are none to read, as of a finalist whose race read the whole text, the model is not
    pruned for it.
    """
    if start >= stop:
        return []
    try:
        return list(read(fitness, expression, start, stop))
    except UNMEASURABLE:
        return []
