"""Scores and masks on an NVIDIA GPU: what ``kernels`` needs, computed and launched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunerzero.metrics.expression import Expression, evaluate
from prunerzero.metrics.facts import breadth
from prunerzero.metrics.operators import OPERATORS, Scale
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring.devices import current_device
from prunerzero.scoring.kernels import OPTIONS, each_weight, select_rows
from prunerzero.scoring.mask import prune_mask
from prunerzero.scoring.program import Slot, compiled

WIDEST = 32768
"""Rows of more inputs do not fit on the chip."""

_SCORES = 1 << 28
"""Scores held at once where operators read all of a matrix that is itself computed: 1 GB."""

_WAYS = 3

_TYPES = {
    torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
    torch.float64: tl.float64, torch.int8: tl.int8, torch.bool: tl.int8,
}  # fmt: skip


class Layers:
    """Layers of one shape and type on a GPU, pruned together by one launch.

    Args:
        W: weights [out, in] of each layer, as they are; their rows lie in order in memory.
        X: fp32 [layers, in], or None.
        G: [out, in] of each layer likewise, or None.
        D: fp32 [layers, in], or None.
    """

    def __init__(
        self,
        W: Sequence[Tensor],
        X: Tensor | None,
        G: Sequence[Tensor] | None,
        D: Tensor | None = None,
    ) -> None:
        self.W, self.X, self.G, self.D = list(W), X, None if G is None else list(G), D
        self.shape, self.device = W[0].shape, W[0].device
        self._tables: dict[str, tuple[list[int], Tensor]] = {}
        self._kept: dict[tuple[str, Expression], list[Scale]] = {}
        self._parts: dict[tuple[int, int], Layers] = {}

    def supports(self, sparsity: Sparsity) -> bool:
        """Whether the kernels can prune so."""
        if not selects_exactly(self.device):
            return False
        if sparsity.of is not None:
            return sparsity.of in (2, 4, 8)
        width = self.shape[1]
        return sparsity.group == "row" and width <= WIDEST and int(width * sparsity.fraction) > 0

    def score(self, expression: Expression, first: int = 0, last: int | None = None) -> Tensor:
        """fp32 scores [layers, out, in] of the layers ``first`` … ``last`` - 1."""
        last = len(self.W) if last is None else last
        out = torch.empty((last - first, *self.shape), dtype=torch.float32, device=self.device)
        self._part(first, last)._each_weight(expression, list(out), None, 0, 0)
        return out

    def write_scores(self, expression: Expression, out: Sequence[Tensor], first: int = 0) -> None:
        """Write the scores, those of eager torch, of the layers from ``first`` on to ``out``."""
        part = self._part(first, first + len(out))
        if is_fused(expression, self.device):
            part._each_weight(expression, out, None, 0, 0)
            return
        for i, scores in enumerate(out):
            scores.copy_(part._eager(expression, i))

    def prune(
        self, expression: Expression, sparsity: Sparsity, out: Sequence[Tensor], nans: Tensor
    ) -> None:
        """Write to each ``out`` the mask where that is bool, else the weights with zeros for it.

        The number of scores of a layer that are NaN is added to ``nans`` (int32 [layers]).
        """
        if not is_fused(expression, self.device):
            for i, W in enumerate(self.W):
                single = Layers([W], None, [self._eager(expression, i)])
                single._select(Expression("G"), sparsity, out[i : i + 1], nans[i : i + 1])
        else:
            self._select(expression, sparsity, out, nans)

    def _eager(self, expression: Expression, i: int) -> Tensor:
        G = None if self.G is None else self.G[i]
        return expression.score(W=self.W[i], G=G, **self._of_inputs(i, i + 1))

    def _select(
        self, expression: Expression, sparsity: Sparsity, out: Sequence[Tensor], nans: Tensor
    ) -> None:
        if sparsity.of is not None:
            assert sparsity.keep is not None
            self._each_weight(expression, out, nans, sparsity.of - sparsity.keep, sparsity.of)
        else:
            self._rows(expression, out, nans, int(self.shape[1] * sparsity.fraction))

    def _each_weight(
        self, e: Expression, out: Sequence[Tensor], nans: Tensor | None, prune: int, of: int
    ) -> None:
        rows, width = self.shape
        chunk = min(1024, triton.next_power_of_2(width))
        with current_device(self.device):
            each_weight[rows * len(self.W), triton.cdiv(width, chunk)](
                *self.arguments(e, out, nans),
                CHUNK=chunk,
                PRUNE=prune,
                OF=of,
                WEIGHTS=out[0].dtype != torch.bool,
                num_warps=4,
                **OPTIONS,
            )

    def _rows(self, e: Expression, out: Sequence[Tensor], nans: Tensor, count: int) -> None:
        rows, width = self.shape
        block = triton.next_power_of_2(width)
        warps, chunk, registers = _launch(block)
        programs = min(rows * len(self.W), _processors(self.device) * (64 // warps))
        scratch = torch.empty(programs * block, dtype=torch.int32, device=self.device)
        with current_device(self.device):
            select_rows[programs,](
                *self.arguments(e, out, nans),
                scratch,
                count,
                CHUNK=min(block, chunk),
                BLOCK=block,
                WEIGHTS=out[0].dtype != torch.bool,
                WAYS=_WAYS,
                num_warps=warps,
                maxnreg=registers,
                **OPTIONS,
            )

    def arguments(self, e: Expression, out: Sequence[Tensor], nans: Tensor | None) -> list[Any]:
        """The arguments that the kernels have in common, in order; they stay good for ``out``."""
        program = compiled(e)
        assert program is not None
        # computing these may launch kernels on these layers, so they come first
        values = [self._values(s) for s in (program.numbers, program.rows, program.columns)]
        table_w = self._table("W", self.W)
        table_g = table_w if self.G is None else self._table("G", self.G)
        w, g = self.W[0], self.W[0] if self.G is None else self.G[0]
        aligned = all(
            address % 16 == 0
            for tensors in (self.W, self.G or [], out)
            for address in (t.data_ptr() | t.stride(0) * t.itemsize for t in tensors)
        )
        return [
            _code(e, self.device), len(program.instructions), table_w, table_g,
            *values,
            self._table("out", out), _nothing(self.device) if nans is None else nans,
            len(self.W), *self.shape, w.stride(0), g.stride(0), out[0].stride(0),
            _TYPES[w.dtype], _TYPES[g.dtype], _TYPES[out[0].dtype], aligned,
        ]  # fmt: skip

    def _table(self, of: str, tensors: Sequence[Tensor]) -> Tensor:
        """The addresses of tensors on the device, made anew where those are elsewhere now."""
        addresses = [tensor.data_ptr() for tensor in tensors]
        if of not in self._tables or self._tables[of][0] != addresses:
            table = torch.tensor(addresses, dtype=torch.int64, device=self.device)
            self._tables[of] = addresses, table
        return self._tables[of][1]

    def _values(self, slots: list[Slot]) -> Tensor:
        """What the slots hold [slots, layers, …]."""
        found = []
        for node, part in slots:
            if part is not None:
                values = [scale[part] for scale in self._scales(node)]
                found.append(torch.stack([v for v in values if v is not None]))
            elif breadth(node) == 0:
                found.append(self._evaluate(node, {}).expand(len(self.W)))
            elif _reads_others(node):
                found.append(torch.stack(list(self._matrices(node, 0, len(self.W)))))
            else:
                found.append(self._evaluate(node, self._of_inputs(0, len(self.W))))
        return torch.cat([f.reshape(-1) for f in found]) if found else _nothing(self.device)

    def _of_inputs(self, first: int, last: int) -> dict[str, Tensor]:
        """X and D [layers, in] of the layers ``first`` … ``last`` - 1, where given."""
        given = {"X": self.X, "D": self.D}
        return {name: rows[first:last] for name, rows in given.items() if rows is not None}

    def _evaluate(self, e: Expression, rows: Mapping[str, Tensor]) -> Tensor:
        """A number, or a row for each row of X and D."""
        return evaluate(e, {"W": self.W[0][:1, :1].float(), **rows})

    def _scales(self, e: Expression) -> list[Scale]:
        """Shift and scale of each layer, of an operator that reads more than one weight."""
        scale, argument = OPERATORS[e.name].scale, e.arguments[-1]
        assert scale is not None
        if found := self._kept.get((e.name, argument)):
            return found
        count = max(1, _SCORES // max(1, self.W[0].numel()))
        scales: list[Scale] = []
        for first in range(0, len(self.W), count):
            last = min(first + count, len(self.W))
            values = self._matrices(argument, first, last)
            scales += [scale(value.expand(self.shape)) for value in values]
        if not argument.arguments:  # every metric that reads it so will read the same
            self._kept[e.name, argument] = scales
        return scales

    def _matrices(self, e: Expression, first: int, last: int) -> Sequence[Tensor]:
        """The values of a subtree in these layers."""
        if e.name == "W":
            return [w.float().abs() for w in self.W[first:last]]
        if e.name == "G":
            assert self.G is not None
            return [g.float() for g in self.G[first:last]]
        if breadth(e) == 2:
            return list(self.score(e, first, last))
        return [self._evaluate(e, self._of_inputs(i, i + 1)) for i in range(first, last)]

    def _part(self, first: int, last: int) -> Layers:
        if (first, last) == (0, len(self.W)):
            return self
        if (first, last) not in self._parts:
            self._parts[first, last] = Layers(
                self.W[first:last],
                None if self.X is None else self.X[first:last],
                None if self.G is None else self.G[first:last],
                None if self.D is None else self.D[first:last],
            )
        return self._parts[first, last]


def _launch(block: int) -> tuple[int, int, int]:
    """Warps for a row of so many weights, weights scored at a time, and registers a thread."""
    if block <= 4096:
        return max(4, block // 512), max(512, block // 4), 64
    return min(32, block // 512), 4096, 64


def is_fused(expression: Expression, device: torch.device) -> bool:
    """Whether the kernels give the scores of eager torch to the bit."""
    if breadth(expression) < 2 or compiled(expression) is None:
        return False
    trusted = trusted_operators(device)
    computed = (node for _, node in expression.subtrees() if node.arguments)
    # subtrees that are a number or one row are computed by the operators' own functions
    return all(node.name in trusted for node in computed if breadth(node) == 2)


@lru_cache
def trusted_operators(device: torch.device) -> frozenset[str]:
    """The operators whose values the kernels give to the bit.

    exp, log and tanh come from NVIDIA's library, of which torch and Triton bring a copy each:
    whether they round alike is found out on this device, on values of all sizes. None are trusted
    where formulas that need the whole stack come out otherwise.
    """
    generator = torch.Generator().manual_seed(0)

    def spread(low: float, high: float, *shape: int) -> Tensor:
        exponents = torch.rand(*shape, generator=generator) * (high - low) + low
        values = torch.randn(*shape, generator=generator) * 10**exponents
        return values.to(device)

    W, X, G = spread(-9, 2, 256, 1024), spread(-3, 3, 1, 1024).abs(), spread(-8, 2, 256, 1024)
    layer = Layers([W], X, [G])

    def same(e: Expression) -> bool:
        return torch.equal(
            layer.score(e)[0].nan_to_num(nan=0.5), e.score(W=W, X=X, G=G).nan_to_num(nan=0.5)
        )

    deep = "(W - G) * (X + sqr(W)) - (G - W * X) * (G * G + neg(W))"
    if not same(Expression.parse(deep)):
        return frozenset()
    found = set()
    for operator in OPERATORS.values():
        if operator.kernel is None and operator.scale is None:
            continue
        pairs = [names[: operator.arity] for names in ("WG", "GW", "WX", "GX", "XG")]
        expressions = [Expression(operator.name, tuple(map(Expression, names))) for names in pairs]
        if all(same(e) for e in expressions if breadth(e) == 2):
            found.add(operator.name)
    return frozenset(found)


@lru_cache
def selects_exactly(device: torch.device) -> bool:
    """Whether the kernels select as the plain path does, of scores with many ties."""
    generator = torch.Generator().manual_seed(0)
    score = (torch.randn(64, 1000, generator=generator) * 50).round().to(device)
    layer = Layers([score], None, [score])
    for sparsity in (Sparsity(0.5), Sparsity(0.7), Sparsity.parse("2:4"), Sparsity.parse("4:8")):
        mask = torch.empty(score.shape, dtype=torch.bool, device=device)
        nans = torch.zeros(1, dtype=torch.int32, device=device)
        layer._select(Expression("G"), sparsity, [mask], nans)
        if int(nans) or not torch.equal(mask, prune_mask(score, sparsity)):
            return False
    return True


@lru_cache(maxsize=1 << 12)
def _reads_others(e: Expression) -> bool:
    """Whether a value in it depends on others, so that layers cannot be computed together."""
    return any(node.arguments and OPERATORS[node.name].reads for _, node in e.subtrees())


@lru_cache(maxsize=1 << 8)
def _code(expression: Expression, device: torch.device) -> Tensor:
    program = compiled(expression)
    assert program is not None
    return torch.tensor(program.instructions, dtype=torch.int32, device=device)


@lru_cache
def _nothing(device: torch.device) -> Tensor:
    """Stands for a table that no instruction reads."""
    return torch.zeros(1, device=device)


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
