"""Several cases that devices of their own read: these work at the same time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from prunerzero.evolution.fitness import UNMEASURABLE, Fitness, finite
from prunerzero.evolution.several import Case, Several
from prunerzero.metrics.expression import Expression

Loss = Callable[[], float]
"""The loss of a chunk that is being read; a call waits until it has been."""


class Begins(Fitness, Protocol):
    """A fitness that does not wait for its device."""

    def begun(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Generator[Loss, None, None]:
        """What ``losses`` gives, each as soon as the reading of its chunk has begun."""


@dataclass(frozen=True)
class Placed(Case):
    """A case, and the name of the device that reads it."""

    fitness: Begins
    device: str


class AtOnce(Several):
    """The same losses as ``Several``, and the same errors after them.

    Chunk k is begun of every case before it is waited for of any. Where a device reads several
    cases, all devices begin their first before any begins its second: to prune for that one has to
    wait until the device has read the first.
    """

    def __init__(self, cases: Sequence[Placed]) -> None:
        super().__init__(cases)
        self._placed = cases
        devices = [case.device for case in cases]
        earlier = [devices[:place].count(device) for place, device in enumerate(devices)]
        self._order = sorted(range(len(cases)), key=earlier.__getitem__)

    def _readings(
        self, expression: Expression, start: int, stop: int
    ) -> Iterator[Generator[Loss, None, None]]:
        return (case.fitness.begun(expression, start, stop) for case in self._placed)

    def _mean_rises(
        self, readings: Sequence[Iterator[Loss]], start: int, stop: int
    ) -> Iterator[float]:
        for chunk in range(start, stop):
            yield self._mean_rise(chunk, self._next(readings))

    def _next(self, readings: Sequence[Iterator[Loss]]) -> list[float]:
        """The losses of the next chunk."""
        begun = {place: _begin(readings[place]) for place in self._order}
        try:
            return [finite(begun[place]()) for place in range(len(readings))]
        finally:
            begun.clear()  # the frames of an error that is not raised may hold memory of a device


def _begin(reading: Iterator[Loss]) -> Loss:
    """Begin the next chunk; what fails is told when it is waited for, in the order of cases."""
    try:
        return next(reading)
    except UNMEASURABLE as error:
        return partial(_fail, [error])


def _fail(failures: list[Exception]) -> NoReturn:
    raise failures.pop()  # kept by nothing here, it is gone when it has been told
