"""Gram matrices H = XᵀX of what each layer reads, and what follows from them.

H [in, in] says how much the outputs of a layer change when its weights do: by (w - t)ᵀ H (w - t)
where a row t [in] becomes w. Everything that is made of it is damped: to each input's own entry on
the diagonal ``DAMPING`` of it is added. The share is of the input's own entry and not of their
mean, as a few inputs with huge activations own the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunerzero.pruning.activations import watch_inputs
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration import CalibrationRun
from prunerzero.pruning.calibration_pass import CalibrationPass
from prunerzero.pruning.deterministic import deterministically

DAMPING = 0.01
"""Share of each diagonal entry that is added to it."""

Grams = dict[str, Tensor]
"""Gram matrices [in, in] of layers in fp32, by full name."""


def gram(features: Tensor) -> Tensor:
    """The Gram matrix [in, in] of features [..., in], in fp32."""
    rows = features.detach().reshape(-1, features.shape[-1]).float()
    return rows.T @ rows


@contextmanager
def watch_grams(
    layers: Mapping[str, Matrix], current: CalibrationPass | None = None
) -> Iterator[Grams]:
    """Add up the Gram matrices of these layers' inputs over all that runs inside the ``with``.

    Args:
        layers: the matrices to watch, by full name.
        current: the current pass; None where each pass is over one window.

    Yields:
        the sums, which take 4 · in² bytes for each layer.

    Raises:
        ModelError: experts ran, but no product with their weights was recognised.
    """
    grams = {}
    for name, layer in layers.items():
        width = layer.weight.shape[1]
        grams[name] = torch.zeros(width, width, device=layer.weight.device)
    with watch_inputs(layers, grams, current or CalibrationPass(), measure=gram):
        yield grams


def collect_grams(
    model: Any,
    layers: Mapping[str, Matrix],
    windows: Tensor,
    on_window: Callable[[int], None] = lambda done: None,
) -> Grams:
    """Measure the Gram matrices on the model as it is.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by full name.
        windows: calibration token ids [count, length].
        on_window: gets the number of windows done.

    Returns:
        sums over all tokens; of an expert, over those that are routed to it, and zero where none
        is.
    """

    def collect() -> Grams:
        current = CalibrationPass()
        run = CalibrationRun(model, windows, current, backward=False)
        with watch_grams(layers, current) as grams:
            run.run(on_window)
        return grams

    return deterministically(collect)


def damped(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """A = H + damping · diag(H), the matrix of the quadratic form that is minimised."""
    result = gram.clone()
    result.diagonal().mul_(1 + damping)
    return result


def inverse_diagonal(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """D [in] = 1 / √diag(A⁻¹) of a damped Gram matrix: what other inputs cannot replace.

    Zero for an input that is never active. Computed in float64.

    Source: Optimal Brain Surgeon (Hassibi & Stork, NeurIPS 1992), where w² / diag(H⁻¹) is what the
    removal of a weight costs after the others are refitted.
    """
    squares = gram.diagonal().double()
    alive = squares > 0
    scale = torch.where(alive, squares, 1.0).sqrt()
    scaled = damped(gram.double() / scale / scale[:, None], damping)
    scaled.diagonal()[~alive] = 1
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(scaled))
    return torch.where(alive, scale / inverse.diagonal().sqrt(), 0.0).float()
