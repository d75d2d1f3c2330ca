"""A metric as instructions of a small stack machine, which a GPU kernel runs on each weight.

One compiled kernel then serves every metric: a search meets thousands, and compiling each would
take longer than measuring it. What is no function of one weight alone is computed before, by the
operators' own functions: subtrees that are a number or one row [1, in], and the shifts and scales
of operators that read the whole matrix.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.facts import breadth
from prunerzero.metrics.operators import OPERATORS

STACK = 4
"""Values the machine can hold; enough for any tree of fewer than 31 nodes."""

PUSHES = ("W", "G", "constant", "number", "row", "column")
"""A ``number`` is one for the layer, a ``row`` one for each output, a ``column`` for each input."""
UNARY = ("sqr", "neg", "abs", "log", "exp", "sqrt", "tanh")
BINARY = ("swap", "add", "sub", "mul", "divide", "ediv", "epow", "max", "min")
CODES = {name: code for code, name in enumerate(PUSHES + UNARY + BINARY)}

Slot = tuple[Expression, int | None]
"""A subtree, and None for its value, or 0 or 1 for its shift or its scale."""


@dataclass
class Program:
    """Instructions, and what has to be computed before they run.

    Attributes:
        instructions: (code, operand) in order; a constant's operand holds the bits of its fp32.
        numbers, rows, columns: what the pushes of those names read, by index.
    """

    instructions: list[tuple[int, int]] = field(default_factory=list)
    numbers: list[Slot] = field(default_factory=list)
    rows: list[Slot] = field(default_factory=list)
    columns: list[Slot] = field(default_factory=list)

    def _put(self, name: str, operand: int = 0) -> None:
        self.instructions.append((CODES[name], operand))

    def _push(self, name: str, node: Expression, part: int | None) -> None:
        slots = {"number": self.numbers, "row": self.rows, "column": self.columns}[name]
        if (node, part) not in slots:
            slots.append((node, part))
        self._put(name, slots.index((node, part)))

    def _write(self, e: Expression) -> None:
        if e.value is not None:
            self._put("constant", struct.unpack("<i", struct.pack("<f", e.value))[0])
        elif breadth(e) < 2:
            self._push("column" if breadth(e) else "number", e, None)
        elif not e.arguments:
            self._put(e.name)
        elif OPERATORS[e.name].scale is not None:
            self._write(e.arguments[0])
            reads = OPERATORS[e.name].reads
            where = "number" if reads == "matrix" else reads
            assert where is not None
            if OPERATORS[e.name].shifts:
                self._push(where, e, 0)
                self._put("sub")
            self._push(where, e, 1)
            self._put("divide")
        elif len(e.arguments) == 1:
            self._write(e.arguments[0])
            if instruction := _instruction(e):
                self._put(instruction)
        else:
            first, second = e.arguments
            if _need(second) > _need(first):
                self._write(second)
                self._write(first)
                if not OPERATORS[e.name].commutative:
                    self._put("swap")
            else:
                self._write(first)
                self._write(second)
            self._put(_instruction(e))


class _NoInstructionError(Exception):
    """An operator that no kernel computes."""


def _instruction(e: Expression) -> str:
    instruction = OPERATORS[e.name].kernel
    if instruction is None:
        raise _NoInstructionError(e.name)
    return instruction


def _need(e: Expression) -> int:
    """How many values of the stack the subtree takes, the deeper argument going first."""
    if breadth(e) < 2 or not e.arguments:
        return 1
    needs = sorted(map(_need, e.arguments))
    if OPERATORS[e.name].scale is not None:
        return max(_need(e.arguments[0]), 2)
    return max(needs[-1], needs[0] + 1) if len(needs) == 2 else needs[0]


@lru_cache(maxsize=1 << 10)
def compiled(expression: Expression) -> Program | None:
    """The program of a metric; None where an operator has no instruction, or the stack is short."""
    if _need(expression) > STACK:
        return None
    program = Program()
    try:
        program._write(expression)
    except _NoInstructionError:
        return None
    return program
