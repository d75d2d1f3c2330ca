"""The usual way to prune, from its published descriptions, to compare with.

Scores of the whole matrix, operator by operator; a full stable sort and a scatter for a share of
each row; a loop over runs of M columns for N:M (Wanda, Sun et al., ICLR 2024, and the published
Pruner-Zero); one window at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.commands import no_command
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.blocks import Matrix


def mask(
    expression: Expression, sparsity: Sparsity, W: Tensor, X: Tensor | None, G: Tensor | None
) -> Tensor:
    """The mask [out, in] of one layer."""
    return select(expression.score(W=W, X=X, G=G), sparsity)


def select(score: Tensor, sparsity: Sparsity) -> Tensor:
    pruned = torch.zeros_like(score, dtype=torch.bool)
    if sparsity.of is None:
        order = torch.sort(score, dim=-1, stable=True)[1]
        lowest = order[:, : int(score.shape[1] * sparsity.fraction)]
        return pruned.scatter_(1, lowest, True)
    assert sparsity.keep is not None
    for start in range(0, score.shape[1], sparsity.of):
        run = score[:, start : start + sparsity.of]
        lowest = torch.topk(run, sparsity.of - sparsity.keep, dim=1, largest=False)[1]
        pruned.scatter_(1, start + lowest, True)
    return pruned


def statistics(model: Any, layers: Mapping[str, Matrix], windows: Tensor) -> dict[str, Tensor]:
    """Statistics of each layer, one window at a time.

    X as Wanda takes it, on two passes through each block: one to see the inputs, one for the
    outputs that the next block reads. G as GBLM-Pruner takes it: a gradient step for each window,
    after which each weight's gradient is squared and added.
    """
    X = {name: torch.zeros(m.weight.shape[1], device=windows.device) for name, m in layers.items()}
    G = {name: torch.zeros(m.weight.shape, device=windows.device) for name, m in layers.items()}

    def watch(name: str) -> Any:
        def add(_module: Any, inputs: Any, _output: Any) -> None:
            features = inputs[0].reshape(-1, inputs[0].shape[-1]).t().float()
            X[name] += torch.norm(features, p=2, dim=1) ** 2

        return add

    hooks = [m.module.register_forward_hook(watch(name)) for name, m in layers.items()]
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    for matrix in layers.values():
        matrix.stored.requires_grad_(True)
    for window in windows:
        model(input_ids=window[None], labels=window[None], use_cache=False).loss.backward()
        for name, matrix in layers.items():
            assert matrix.stored.grad is not None
            G[name] += (matrix.stored.grad.float() * 100) ** 2
        model.zero_grad()
    for matrix in layers.values():
        matrix.stored.requires_grad_(False)
    return {name: g.sqrt() for name, g in G.items()}


if __name__ == "__main__":
    no_command("python -m benchmarks masks")
