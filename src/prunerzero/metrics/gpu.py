"""Scores and masks on an NVIDIA GPU: what ``kernels`` needs, computed and launched."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
import triton
from torch import Tensor

from prunerzero.metrics.expression import Expression, evaluate
from prunerzero.metrics.facts import breadth
from prunerzero.metrics.kernels import OPTIONS, each_weight, select_rows
from prunerzero.metrics.mask import Sparsity
from prunerzero.metrics.operators import OPERATORS, Scale
from prunerzero.metrics.program import Program, compiled

WIDEST = 32768
"""Rows of more inputs do not fit on the chip."""


def supports(expression: Expression, sparsity: Sparsity, width: int) -> bool:
    """Whether the kernels can prune so in one pass."""
    if compiled(expression) is None or breadth(expression) < 2:
        return False
    if sparsity.of is not None:
        return sparsity.of in (2, 4, 8)
    return sparsity.group == "row" and width <= WIDEST and int(width * sparsity.fraction) > 0


@dataclass
class Layer:
    """One layer's matrices on a GPU, and what metrics read of all of them.

    Attributes:
        W: weights [out, in] as they are, of any float dtype.
        X: fp32 [1, in], or None.
        G: [out, in], or None.
    """

    W: Tensor
    X: Tensor | None
    G: Tensor | None
    _scales: dict[Expression, Scale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.W = _rows_in_order(self.W.detach())
        if self.G is not None:
            self.G = _rows_in_order(self.G.detach())

    def score(self, expression: Expression) -> Tensor:
        """fp32 scores [out, in]."""
        out = torch.empty(self.W.shape, dtype=torch.float32, device=self.W.device)
        self._each_weight(expression, out, out, 0, 0, False)
        return out

    def prune(self, expression: Expression, sparsity: Sparsity, out: Tensor, nans: Tensor) -> None:
        """Write to ``out`` the mask where that is bool, else the weights with zeros in its place.

        The number of scores that are NaN is added to ``nans`` (int32 [1]).
        """
        weights = out.dtype != torch.bool
        if not weights:
            out = out.view(torch.int8)
        if sparsity.of is not None:
            assert sparsity.keep is not None
            prune = sparsity.of - sparsity.keep
            self._each_weight(expression, out, nans, prune, sparsity.of, weights)
        else:
            self._rows(expression, out, nans, int(self.W.shape[1] * sparsity.fraction), weights)

    def _each_weight(
        self, expression: Expression, out: Tensor, nans: Tensor, prune: int, of: int, weights: bool
    ) -> None:
        rows, width = self.W.shape
        chunk = min(1024, triton.next_power_of_2(width))
        each_weight[rows, triton.cdiv(width, chunk)](
            *self._program(expression), out, nans, rows, width, *self._strides(), out.stride(0),
            CHUNK=chunk, PRUNE=prune, OF=of, WEIGHTS=weights, num_warps=4, **OPTIONS,
        )  # fmt: skip

    def _rows(
        self, expression: Expression, out: Tensor, nans: Tensor, count: int, weights: bool
    ) -> None:
        rows, width = self.W.shape
        block = triton.next_power_of_2(width)
        warps, chunk, registers = _shape(block)
        programs = min(rows, _processors(self.W.device) * (64 // warps))
        scratch = torch.empty(programs * block, dtype=torch.int32, device=self.W.device)
        select_rows[programs,](
            *self._program(expression), out, scratch, nans, rows, width, count,
            *self._strides(), out.stride(0), CHUNK=min(block, chunk), BLOCK=block,
            WEIGHTS=weights, num_warps=warps, maxnreg=registers, **OPTIONS,
        )  # fmt: skip

    def _strides(self) -> tuple[int, int]:
        return self.W.stride(0), self.W.stride(0) if self.G is None else self.G.stride(0)

    def _program(self, expression: Expression) -> tuple[Tensor | int, ...]:
        """The kernels' first arguments."""
        program = compiled(expression)
        assert program is not None
        code = _code(expression, self.W.device)
        tables = [self._table(slots) for slots in (program.numbers, program.rows, program.columns)]
        G = _nothing(self.W.device) if self.G is None else self.G
        return code, len(program.instructions), self.W, G, *tables

    def _table(self, slots: list[tuple[Expression, int | None]]) -> Tensor:
        values = []
        for node, part in slots:
            value = self._value(node) if part is None else self._scale(node)[part]
            assert value is not None
            values.append(value.reshape(-1))
        return torch.stack(values) if values else _nothing(self.W.device)

    def _value(self, e: Expression) -> Tensor:
        if e.name == "W":
            return self.W.float().abs()
        if e.name == "G":
            assert self.G is not None
            return self.G.float()
        if breadth(e) == 2:
            return self.score(e)
        values = {"W": self.W[:1, :1].float()}
        if self.X is not None:
            values["X"] = self.X
        return evaluate(e, values)

    def _scale(self, e: Expression) -> Scale:
        if e not in self._scales:
            operator = OPERATORS[e.name]
            assert operator.scale is not None
            self._scales[e] = operator.scale(self._value(e.arguments[-1]).expand(self.W.shape))
        return self._scales[e]


def _shape(block: int) -> tuple[int, int, int]:
    """Warps for a row of so many weights, weights scored at a time, and registers a thread."""
    warps = min(32, max(4, block // 512))
    return warps, warps * 128, 64 if warps == 32 else 80


@lru_cache(maxsize=1 << 8)
def _code(expression: Expression, device: torch.device) -> Tensor:
    program: Program | None = compiled(expression)
    assert program is not None
    return torch.tensor(program.instructions, dtype=torch.int32, device=device)


@lru_cache
def _nothing(device: torch.device) -> Tensor:
    """Stands for a table that no instruction reads."""
    return torch.zeros(1, device=device)


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _rows_in_order(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
