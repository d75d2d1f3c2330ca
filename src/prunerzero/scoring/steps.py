"""A metric as steps over one block of rows after another, each written where memory is free.

What an operator leaves is still in the cache when the next reads it, and no page is given back to
the system to be cleared and fetched again, which takes longer than most operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OPERATORS, Scale, rescale

WEIGHTS, GRADIENTS = Expression("W"), Expression("G")
_OF_A_BLOCK = frozenset((WEIGHTS, GRADIENTS))

Place = int | Expression
"""A matrix of memory, or what a run is given: signed weights, gradients, or a fixed subtree."""


@dataclass(frozen=True, slots=True)
class _Step:
    function: Callable[..., Tensor] | None
    """None where ``rescale`` takes a scale that is known."""
    e: Expression
    reads: tuple[Place, ...]
    writes: int


@dataclass(frozen=True)
class Steps:
    """An expression to evaluate on blocks of rows, with the values that ``evaluate`` gives.

    Attributes:
        fixed: subtrees that are the same in every block: numbers and rows [1, in].
        matrices: how many matrices of a block's shape a run writes to.
    """

    fixed: tuple[Expression, ...]
    matrices: int
    _steps: tuple[_Step, ...]
    _result: Place

    def run(
        self,
        given: Mapping[Expression, Tensor],
        scales: Mapping[Expression, Scale],
        memory: list[Tensor],
    ) -> Tensor:
        """fp32 values [rows, in] of a block, or what broadcasts to them, in memory or as given.

        Args:
            given: the block's ``WEIGHTS``, ``GRADIENTS`` in fp32 where read, and what is ``fixed``.
            scales: of the subtrees that were said to rescale by what is known.
            memory: ``matrices`` fp32 matrices of the block's shape.
        """
        for step in self._steps:
            values = [memory[p] if isinstance(p, int) else given[p] for p in step.reads]
            out = memory[step.writes]
            if step.function is None:  # by what all of a matrix gives: a row or number spreads
                rescale(values[0].expand(out.shape), scales[step.e], out=out)
            else:
                step.function(*values, out=out)
        return memory[self._result] if isinstance(self._result, int) else given[self._result]


@lru_cache(maxsize=8)  # one expression is evaluated on layer after layer
def steps_of(expression: Expression, scaled: frozenset[Expression] = frozenset()) -> Steps:
    """The steps of an expression in which the scales of some subtrees will be known."""
    return _Writer(scaled).write(expression)


class _Writer:
    def __init__(self, scaled: frozenset[Expression]) -> None:
        self._scaled = scaled
        self._readings: Counter[Expression] = Counter()
        self._places: dict[Expression, Place] = {}
        self._steps: list[_Step] = []
        self._free: list[int] = []
        self._matrices = 0

    def write(self, expression: Expression) -> Steps:
        self._count_readings(expression)
        result = self._place(expression)
        read = {result}.union(*(step.reads for step in self._steps))
        fixed = tuple(e for e in read if isinstance(e, Expression) and e not in _OF_A_BLOCK)
        return Steps(fixed, self._matrices, tuple(self._steps), result)

    def _arguments(self, e: Expression) -> tuple[Expression, ...]:
        return e.arguments[:1] if e in self._scaled else e.arguments

    def _count_readings(self, e: Expression) -> None:
        self._readings[e] += 1
        if self._readings[e] == 1:  # its arguments are read once, however often it is
            for argument in self._arguments(e):
                self._count_readings(argument)

    def _place(self, e: Expression) -> Place:
        """Where the value is found; steps that compute it are added."""
        if e not in self._places:
            self._places[e] = self._computed(e)
        return self._places[e]

    def _computed(self, e: Expression) -> Place:
        if e == WEIGHTS:
            return self._step(_magnitudes, e, (WEIGHTS,))
        arguments = self._arguments(e)
        reads = tuple(map(self._place, arguments))
        if e not in self._scaled and not any(
            isinstance(place, int) or place in _OF_A_BLOCK for place in reads
        ):
            return e
        for argument, place in zip(arguments, reads, strict=True):
            self._readings[argument] -= 1
            if self._readings[argument] == 0 and isinstance(place, int):
                self._free.append(place)
        return self._step(None if e in self._scaled else OPERATORS[e.name].function, e, reads)

    def _step(
        self, function: Callable[..., Tensor] | None, e: Expression, reads: tuple[Place, ...]
    ) -> int:
        if not self._free:
            self._free.append(self._matrices)
            self._matrices += 1
        self._steps.append(_Step(function, e, reads, self._free.pop()))
        return self._steps[-1].writes


def _magnitudes(W: Tensor, *, out: Tensor) -> Tensor:
    return torch.abs(W, out=out) if W.dtype == out.dtype else out.copy_(W).abs_()
