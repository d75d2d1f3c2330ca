"""A metric as steps over one block of rows after another, each written where memory is free.

What an operator leaves is still in the cache when the next reads it, and no page is given back to
the system to be cleared and fetched again, which takes longer than most operators. What is the same
in every block, a number or one row [1, in], is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OPERATORS, Scale, rescale


@dataclass(frozen=True, slots=True)
class _Step:
    function: Callable[..., Tensor]
    reads: tuple[Tensor | str | int, ...]
    """What is the same in every block, a terminal, or a matrix of memory."""
    writes: int


class Steps:
    """An expression to evaluate on blocks of rows, with the values that ``evaluate`` gives.

    Attributes:
        matrices: how many matrices of a block's shape a run writes to.
    """

    def __init__(
        self, expression: Expression, X: Tensor | None, scales: Mapping[Expression, Scale]
    ) -> None:
        """``scales`` holds what is known already of subtrees that rescale."""
        self._X, self._scales = X, scales
        self._steps: list[_Step] = []
        self._places: dict[Expression, Tensor | str | int] = {}
        self._free: list[int] = []
        self.matrices = 0
        self._readings: Counter[Expression] = Counter()
        self._count_readings(expression)
        self._result = self._place(expression)

    def run(self, W: Tensor, G: Tensor | None, memory: list[Tensor]) -> Tensor:
        """fp32 scores [rows, in] of a block, in one of the ``matrices`` or as they were given.

        Args:
            W, G: [rows, in], the weights, signed, and G in fp32.
            memory: fp32 matrices of the block's shape.
        """

        def value(place: Tensor | str | int) -> Tensor:
            if isinstance(place, int):
                return memory[place]
            if isinstance(place, Tensor):
                return place
            given = W if place == "W" else G
            assert given is not None
            return given

        for step in self._steps:
            step.function(*map(value, step.reads), out=memory[step.writes])
        return value(self._result).expand(W.shape)

    def _arguments(self, e: Expression) -> tuple[Expression, ...]:
        return e.arguments[:1] if e in self._scales else e.arguments

    def _count_readings(self, e: Expression) -> None:
        self._readings[e] += 1
        if self._readings[e] == 1:  # else its arguments are not read again
            for argument in self._arguments(e):
                self._count_readings(argument)

    def _place(self, e: Expression) -> Tensor | str | int:
        """Where the value of ``e`` is found after the steps up to here."""
        if e not in self._places:
            self._places[e] = self._computed(e)
        return self._places[e]

    def _computed(self, e: Expression) -> Tensor | str | int:
        if e.value is not None:
            return torch.tensor(e.value, dtype=torch.float32)
        if e.name == "X":
            assert self._X is not None
            return self._X
        if e.name == "G":
            return "G"
        if e.name == "W":
            return self._step(_magnitudes, ("W",))
        arguments = self._arguments(e)
        reads = tuple(map(self._place, arguments))
        function = OPERATORS[e.name].function
        if e in self._scales:
            function = partial(rescale, scale=self._scales[e])
        fixed = [place for place in reads if isinstance(place, Tensor)]
        if len(fixed) == len(reads):
            return function(*fixed)
        for argument, place in zip(arguments, reads, strict=True):
            self._readings[argument] -= 1
            if self._readings[argument] == 0 and isinstance(place, int):
                self._free.append(place)
        return self._step(function, reads)

    def _step(self, function: Callable[..., Tensor], reads: tuple[Tensor | str | int, ...]) -> int:
        if not self._free:
            self._free.append(self.matrices)
            self.matrices += 1
        self._steps.append(_Step(function, reads, self._free.pop()))
        return self._steps[-1].writes


def _magnitudes(W: Tensor, *, out: Tensor) -> Tensor:
    return torch.abs(W, out=out) if W.dtype == out.dtype else out.copy_(W).abs_()
