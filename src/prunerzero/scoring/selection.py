"""Metric + statistics → mask in one call, by the fastest way the device knows.

The masks are those of ``prune_mask(expression.score(...), sparsity)``. On a CPU scores are computed
a block of rows at a time, so that what an operator leaves is still in the cache when the next
reads it, and several blocks at once; on an NVIDIA GPU one kernel does it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from prunerzero.metrics.expression import Expression, evaluate, magnitudes, statistics_read
from prunerzero.metrics.facts import breadth
from prunerzero.metrics.operators import OPERATORS, Scale
from prunerzero.metrics.sparsity import Sparsity
from prunerzero.scoring import threads
from prunerzero.scoring.cpu import prune_rows, write_kept
from prunerzero.scoring.devices import has_triton
from prunerzero.scoring.mask import nan_error, prune_mask
from prunerzero.scoring.steps import GRADIENTS, WEIGHTS, steps_of

_CACHED = 1 << 20
"""Up to so many scores fit in the cache, so that cutting them into blocks makes nothing faster."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of as many bytes."""


def score_mask(
    expression: Expression,
    sparsity: Sparsity,
    *,
    W: Tensor,
    X: Tensor | None = None,
    G: Tensor | None = None,
    D: Tensor | None = None,
) -> Tensor:
    """Which weights of one layer the metric prunes.

    Args:
        expression: the metric.
        sparsity: how much to prune, and among which weights; see ``prune_mask``.
        W, X, G, D: as ``Expression.score`` takes them; only those that the metric reads.

    Returns:
        bool [out, in] on W's device, True where pruned.

    Raises:
        ScoreError: a statistic is missing or misshapen, or a score is NaN.
        SparsityError: the number of inputs is no multiple of M.
    """
    mask = torch.empty(W.shape, dtype=torch.bool, device=W.device)
    prune_into(mask, expression, sparsity, W=W, X=X, G=G, D=D)
    return mask


def write_scores(
    out: Tensor,
    expression: Expression,
    *,
    W: Tensor,
    X: Tensor | None = None,
    G: Tensor | None = None,
    D: Tensor | None = None,
) -> None:
    """``expression.score``, written to ``out`` [out, in], fp32, in place.

    Args:
        out: gets the scores.
        expression, W, X, G, D: as for ``score_mask``.

    Raises:
        ScoreError: a statistic is missing or misshapen.
    """
    statistics = statistics_read(expression, W, X, G, D)
    W = W.detach()
    if W.device.type == "cpu" and W.numel() > _CACHED and _runs_in_blocks(expression):
        out.copy_(_whole(expression, statistics, W))
    else:
        out.copy_(evaluate(expression, {**statistics, "W": magnitudes(W)}))


def prune_into(
    out: Tensor,
    expression: Expression,
    sparsity: Sparsity,
    *,
    W: Tensor,
    X: Tensor | None = None,
    G: Tensor | None = None,
    D: Tensor | None = None,
) -> None:
    """``score_mask``, written to ``out`` [out, in] in place.

    Args:
        out: gets the mask where it is bool, else the weights with zeros where they are pruned; may
            be W itself.
        expression, sparsity, W, X, G, D: as for ``score_mask``.

    Raises:
        ScoreError, SparsityError: as ``score_mask`` does; ``out`` may then hold anything.
    """
    statistics = statistics_read(expression, W, X, G, D)
    sparsity.check(W.shape[1])
    W = W.detach()
    if use_gpu_kernels(W):
        from prunerzero.scoring import gpu

        layer = gpu.Layers(
            [_rows_in_order(W)],
            statistics.get("X"),
            [_rows_in_order(statistics["G"])] if "G" in statistics else None,
            statistics.get("D"),
        )
        if layer.supports(sparsity):
            nans = torch.zeros(1, dtype=torch.int32, device=W.device)
            target = out if out.stride(1) == 1 else W.new_empty(W.shape, dtype=out.dtype)
            layer.prune(expression, sparsity, [target], nans)
            if count := int(nans):
                raise nan_error(count, W.numel())
            if target is not out:  # stored [in, out]
                out.copy_(target)
            return
    if W.device.type == "cpu" and W.numel() > threads.BLOCK and _runs_in_blocks(expression):
        _prune_in_blocks(out, expression, sparsity, statistics, W)
    else:
        values = {**statistics, "W": magnitudes(W)}
        write_pruned(out, W, prune_mask(evaluate(expression, values).expand(W.shape), sparsity))


def _runs_in_blocks(expression: Expression) -> bool:
    """Whether a block of rows gives the bits of the whole, scales being known.

    A registered operator that reads other weights may add them in another order in a block.
    """
    operators = (OPERATORS[node.name] for _, node in expression.subtrees() if node.arguments)
    return all(o.reads is None or o.scale is not None for o in operators)


def _prune_in_blocks(
    out: Tensor,
    expression: Expression,
    sparsity: Sparsity,
    statistics: Mapping[str, Tensor],
    W: Tensor,
) -> None:
    if sparsity.group != "row":
        write_pruned(out, W, prune_mask(_whole(expression, statistics, W), sparsity))
        return
    nans: list[int] = []

    def prune(score: Tensor, rows: slice, spare: Tensor) -> None:
        is_mask = out.dtype == torch.bool and out.is_contiguous()
        mask = out[rows] if is_mask else torch.empty(score.shape, dtype=torch.bool)
        nans.append(prune_rows(score.numpy(), sparsity, mask.numpy(), spare.numpy()))
        if not is_mask:
            write_pruned(out[rows], W[rows], mask, spare)

    _score_blocks(expression, statistics, W, _scales(expression, statistics, W), prune)
    if count := sum(nans):
        raise nan_error(count, W.numel())


def _score_blocks(
    e: Expression,
    statistics: Mapping[str, Tensor],
    W: Tensor,
    scales: Mapping[Expression, Scale],
    use: Callable[[Tensor, slice, Tensor], object],
) -> None:
    """Have values used a block of rows at a time; ``use`` may overwrite its third argument."""
    steps = steps_of(e, frozenset(scales))
    fixed = {part: evaluate(part, _no_weights(statistics)) for part in steps.fixed}

    @torch.no_grad()  # here, as it holds in one thread alone
    def work(blocks: Iterator[slice]) -> None:
        memory: list[Tensor] = []
        given = dict(fixed)
        for rows in blocks:
            given[WEIGHTS] = block = W[rows]
            if "G" in statistics:
                given[GRADIENTS] = statistics["G"][rows]
            if not memory:  # the first block is the tallest
                memory = [torch.empty(block.shape) for _ in range(steps.matrices + 1)]
            matrices = [matrix[: block.shape[0]] for matrix in memory]
            score = steps.run(given, scales, matrices).expand(block.shape)
            use(score, rows, matrices[-1])

    threads.in_blocks(work, *W.shape)


def _no_weights(statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What subtrees read that are a number or a row; constants take their type from W."""
    return {**statistics, "W": torch.empty(0)}


def write_pruned(out: Tensor, W: Tensor, mask: Tensor, spare: Tensor | None = None) -> None:
    """Write the mask to ``out`` where that is bool, else W with zeros where it is True.

    ``spare``, fp32 of the shape of ``W``, may be overwritten.
    """
    if out.dtype == torch.bool:
        out.copy_(mask)
    elif W.device.type != "cpu":
        torch.where(mask, W.new_zeros(()), W, out=out)
    else:
        bits = _INTEGERS[W.element_size()]
        memory = None
        if spare is not None and W.element_size() <= spare.element_size():
            memory = spare.view(bits)[:, : W.shape[1]].numpy()
        write_kept(W.view(bits).numpy(), mask.numpy(), out.detach().view(bits).numpy(), memory)


def _whole(
    e: Expression,
    statistics: Mapping[str, Tensor],
    W: Tensor,
    scales: Mapping[Expression, Scale] | None = None,
) -> Tensor:
    """fp32 values [out, in] of a metric or of a part of one."""
    if e.name == "G":
        return statistics["G"]
    if breadth(e) < 2:  # spread, not copied: sums over a copy are in another order
        return evaluate(e, _no_weights(statistics)).expand(W.shape)
    if scales is None:
        scales = _scales(e, statistics, W)
    out = torch.empty(W.shape)
    _score_blocks(e, statistics, W, scales, lambda score, rows, _: out[rows].copy_(score))
    return out


def _scales(
    expression: Expression, statistics: Mapping[str, Tensor], W: Tensor
) -> dict[Expression, Scale]:
    """What operators of the metric read of more than a block of rows."""
    scales: dict[Expression, Scale] = {}
    for _, e in reversed(list(expression.subtrees())):  # arguments before what reads them
        operator = OPERATORS.get(e.name)
        if operator is None or operator.scale is None or e in scales or breadth(e) < 2:
            continue
        if operator.reads != "row":
            scales[e] = operator.scale(_whole(e.arguments[-1], statistics, W, scales))
    return scales


def use_gpu_kernels(W: Tensor) -> bool:
    """Whether a layer's weights are where the kernels of ``gpu`` can read them."""
    return W.is_cuda and W.numel() > 0 and has_triton()


def _rows_in_order(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
