"""Metric + statistics → mask in one call, by the fastest way the device knows.

The masks are those of ``prune_mask(expression.score(...), sparsity)``. On a CPU scores are computed
a block of rows at a time, so that what an operator leaves is still in the cache when the next
reads it, and several blocks at once; on an NVIDIA GPU one kernel does it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from prunerzero.metrics.errors import ScoreError
from prunerzero.metrics.expression import Expression, evaluate, magnitudes, statistics_read
from prunerzero.metrics.facts import breadth
from prunerzero.metrics.mask import Sparsity, nan_error, prune_mask, prune_mask_on
from prunerzero.metrics.operators import OPERATORS, Scale

_BLOCK = 1 << 18
"""Weights in a block of rows: 1 MB of scores, 64 rows of 4096 inputs."""


def score_mask(
    expression: Expression,
    sparsity: Sparsity,
    *,
    W: Tensor,
    X: Tensor | None = None,
    G: Tensor | None = None,
) -> Tensor:
    """Which weights of one layer the metric prunes.

    Args:
        expression: the metric.
        sparsity: how much to prune, and among which weights; see ``prune_mask``.
        W, X, G: as ``Expression.score`` takes them; X and G only where the metric reads them.

    Returns:
        bool [out, in] on W's device, True where pruned.

    Raises:
        ScoreError: a statistic is missing or misshapen, or a score is NaN.
        SparsityError: the number of inputs is no multiple of M.
    """
    mask = torch.empty(W.shape, dtype=torch.bool, device=W.device)
    prune_into(mask, expression, sparsity, W=W, X=X, G=G)
    return mask


def prune_into(
    out: Tensor,
    expression: Expression,
    sparsity: Sparsity,
    *,
    W: Tensor,
    X: Tensor | None = None,
    G: Tensor | None = None,
) -> None:
    """``score_mask``, written to ``out`` [out, in] in place.

    Args:
        out: gets the mask where it is bool, else the weights with zeros where they are pruned; may
            be W itself.
        expression, sparsity, W, X, G: as for ``score_mask``.

    Raises:
        ScoreError, SparsityError: as ``score_mask`` does; ``out`` may then hold anything.
    """
    statistics = statistics_read(expression, W, X, G)
    sparsity.check(W.shape[1])
    W = W.detach()
    if use_gpu_kernels(W):
        from prunerzero.metrics import gpu

        layer = gpu.Layers(
            [_rows_in_order(W)],
            statistics.get("X"),
            [_rows_in_order(statistics["G"])] if "G" in statistics else None,
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
    height = max(1, _BLOCK // max(1, W.shape[1])) if W.device.type == "cpu" else W.shape[0]
    if height >= W.shape[0] or sparsity.group != "row":
        score = _whole(expression, statistics, W, height)
        _write(out, W, prune_mask(score, sparsity))
        return
    scales = _scales(expression, statistics, W, height)

    @torch.no_grad()  # which holds for one thread
    def prune(rows: slice) -> None:
        score = evaluate(expression, _block(statistics, W, rows), scales).expand(W[rows].shape)
        _write(out[rows], W[rows], prune_mask_on(1, score, sparsity))

    try:
        # numpy and torch let other threads run while they compute; all are done at the end
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(prune, _blocks(W.shape[0], height)))
    except ScoreError:  # NaN: the whole tells how many
        prune_mask(_whole(expression, statistics, W, height, scales), sparsity)
        raise


def _write(out: Tensor, W: Tensor, mask: Tensor) -> None:
    if out.dtype == torch.bool:
        out.copy_(mask)
    else:
        torch.where(mask, W.new_zeros(()), W, out=out)


def _blocks(rows: int, height: int) -> list[slice]:
    return [slice(start, start + height) for start in range(0, rows, height)]


def _block(statistics: Mapping[str, Tensor], W: Tensor, rows: slice) -> dict[str, Tensor]:
    values = {"W": magnitudes(W[rows])}
    for name, value in statistics.items():
        values[name] = value[rows] if name == "G" else value
    return values


def _whole(
    e: Expression,
    statistics: Mapping[str, Tensor],
    W: Tensor,
    height: int,
    scales: Mapping[Expression, Scale] | None = None,
) -> Tensor:
    """fp32 values [out, in] of a metric or of a part of one, computed by blocks of rows."""
    if height >= W.shape[0]:
        values = _block(statistics, W, slice(None))
        return evaluate(e, values, scales or {}).expand(W.shape)
    if e.name == "G":
        return statistics["G"]
    if breadth(e) < 2:
        return evaluate(e, _block(statistics, W, slice(1))).expand(W.shape)
    if scales is None:
        scales = _scales(e, statistics, W, height)
    out = torch.empty(W.shape, dtype=torch.float32, device=W.device)
    for rows in _blocks(W.shape[0], height):
        out[rows] = evaluate(e, _block(statistics, W, rows), scales)
    return out


def _scales(
    expression: Expression, statistics: Mapping[str, Tensor], W: Tensor, height: int
) -> dict[Expression, Scale]:
    """What operators of the metric read of more than a block of rows."""
    scales: dict[Expression, Scale] = {}

    for _, e in reversed(list(expression.subtrees())):  # arguments before what reads them
        operator = OPERATORS.get(e.name)
        if operator is None or operator.scale is None or e in scales or breadth(e) < 2:
            continue
        if operator.reads != "row":
            scales[e] = operator.scale(_whole(e.arguments[-1], statistics, W, height, scales))
    return scales


def use_gpu_kernels(W: Tensor) -> bool:
    """Whether a layer's weights are where the kernels of ``gpu`` can read them."""
    return W.is_cuda and torch.version.cuda is not None and W.numel() > 0 and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _rows_in_order(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
