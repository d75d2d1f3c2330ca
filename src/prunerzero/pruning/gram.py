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

from prunerzero.pruning.activations import squares, watch_inputs
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration import CalibrationRun
from prunerzero.pruning.calibration_pass import CalibrationPass
from prunerzero.pruning.carried import to_host
from prunerzero.pruning.deterministic import deterministically

DAMPING = 0.01
"""Share of each diagonal entry that is added to it."""

AT_ONCE = 1 << 32
"""Bytes of Gram matrices that are summed in one pass over the text: 4 GiB."""

Grams = dict[str, Tensor]
"""Gram matrices [in, in] of layers in fp32, by full name."""


def gram(features: Tensor) -> Tensor:
    """The Gram matrix [in, in] of features [..., in], in fp32."""
    rows = features.detach().reshape(-1, features.shape[-1]).float()
    return rows.T @ rows


def gram_and_squares(features: Tensor) -> Tensor:
    """The same with the sums of squares [in] as one more row, to the bit those of ``squares``."""
    rows = features.detach().reshape(-1, features.shape[-1])
    result = torch.empty(rows.shape[1] + 1, rows.shape[1], device=rows.device)
    torch.mm(rows.float().T, rows.float(), out=result[:-1])
    result[-1] = squares(features)
    return result


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
    *,
    on_host: bool = False,
) -> Grams:
    """Measure the Gram matrices on the model as it is.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by full name.
        windows: calibration token ids [count, length].
        on_window: gets the number of windows done; with ``on_host`` of ``passes`` over all of them.
        on_host: keep the matrices in host memory. Those of ``AT_ONCE`` bytes are on the device
            together, and each such part of the layers takes one pass over the text. The matrices
            are the same.

    Returns:
        sums over all tokens; of an expert, over those that are routed to it, and zero where none
        is. Layers in a row that read the same, such as query, key and value, share one matrix.
    """
    found: Grams = {}
    last: Tensor | None = None
    for index, part in enumerate(_parts(layers) if on_host else [layers]):
        done = index * len(windows)
        grams = _collect(model, part, windows, lambda n, done=done: on_window(done + n))  # type: ignore[misc]
        for name in list(grams):
            matrix = grams.pop(name)
            if last is None or not _same(matrix, last):
                last, kept = matrix, to_host(matrix) if on_host else matrix
            found[name] = kept
    return found


def _collect(
    model: Any,
    layers: Mapping[str, Matrix],
    windows: Tensor,
    on_window: Callable[[int], None],
) -> Grams:
    """Gram matrices of all these layers, each its own, from one pass over the text."""

    def collect() -> Grams:
        current = CalibrationPass()
        run = CalibrationRun(model, windows, current, backward=False)
        with watch_grams(layers, current) as grams:
            run.run(on_window)
        return grams

    return deterministically(collect)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices are equal; where their diagonals differ no more is compared."""
    return (
        (a.device, a.shape) == (b.device, b.shape)
        and torch.equal(a.diagonal(), b.diagonal())
        and torch.equal(a, b)
    )


def damped(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """A = H + damping · diag(H), the matrix of the quadratic form that is minimised."""
    result = gram.clone()
    result.diagonal().mul_(1 + damping)
    return result


def inverse_diagonal(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """D [in] = 1 / √diag(A⁻¹) of a damped Gram matrix: what other inputs cannot replace.

    Zero for an input that is never active; NaN throughout where an entry of the matrix is not
    finite. Computed in float64.

    Source: Optimal Brain Surgeon (Hassibi & Stork, NeurIPS 1992), where w² / diag(H⁻¹) is what the
    removal of a weight costs after the others are refitted.
    """
    if not gram.isfinite().all():
        return torch.full_like(gram.diagonal(), torch.nan, dtype=torch.float32)
    own = gram.diagonal().double()
    alive = own > 0
    scale = torch.where(alive, own, 1.0).sqrt()
    scaled = damped(gram.double() / scale / scale[:, None], damping)
    scaled.diagonal()[~alive] = 1
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(scaled))
    return torch.where(alive, scale / inverse.diagonal().sqrt(), 0.0).float()


def take_inverse_diagonals(grams: Grams) -> dict[str, Tensor]:
    """D of each layer, whose matrix is taken out of ``grams``, so that it is freed at once.

    Layers in a row that read the same, such as query, key and value, are computed once.
    """
    found: dict[str, Tensor] = {}
    last, D = torch.empty(0, 0), torch.empty(0)
    for name in list(grams):
        matrix = grams.pop(name)
        if matrix is not last and not _same(matrix, last):
            D = inverse_diagonal(matrix)
        found[name], last = D.clone(), matrix
    return found


def collect_inverse_diagonals(
    model: Any,
    layers: Mapping[str, Matrix],
    windows: Tensor,
    on_window: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """Measure D of each layer's inputs on the model as it is.

    Gram matrices, of 4 · in² bytes, of as many layers as fit in ``AT_ONCE`` bytes, and of one layer
    at least, are in memory together: each such part of the layers takes one pass over the text.
    ``inverse_diagonal`` adds five matrices of 8 · in² bytes for one layer at a time.

    Args:
        model, layers, windows: as for ``collect_grams``.
        on_window: gets the number of windows done, of ``passes`` over all of them.
    """
    found: dict[str, Tensor] = {}
    for index, part in enumerate(_parts(layers)):
        done = index * len(windows)
        grams = _collect(model, part, windows, lambda n, done=done: on_window(done + n))  # type: ignore[misc]
        found |= take_inverse_diagonals(grams)
    return found


def memory(layers: Mapping[str, Matrix]) -> int:
    """Bytes that ``collect_inverse_diagonals`` takes beside the model."""
    summed = (sum(map(size_of, part.values())) for part in _parts(layers))
    return max(summed, default=0) + 10 * max(map(size_of, layers.values()), default=0)


def size_of(layer: Matrix) -> int:
    """Bytes of a layer's Gram matrix."""
    return 4 * layer.weight.shape[1] ** 2


def passes(layers: Mapping[str, Matrix]) -> int:
    """How often ``collect_inverse_diagonals`` reads the text, and ``collect_grams`` with
    ``on_host``."""
    return len(_parts(layers))


def _parts(layers: Mapping[str, Matrix]) -> list[dict[str, Matrix]]:
    parts: list[dict[str, Matrix]] = []
    room = 0
    for name, layer in layers.items():
        size = size_of(layer)
        if size > room:
            parts.append({})
            room = AT_ONCE
        parts[-1][name] = layer
        room -= size
    return parts
