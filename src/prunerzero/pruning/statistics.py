"""X, G and D of each prunable layer, computed once from calibration text and cached on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunerzero.memory import cached
from prunerzero.pruning.activations import squares, watch_inputs
from prunerzero.pruning.block_gradients import from_each_block
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration import CalibrationRun
from prunerzero.pruning.calibration_pass import CalibrationPass
from prunerzero.pruning.carried import in_host_memory
from prunerzero.pruning.deterministic import deterministically
from prunerzero.pruning.gradients import watch_gradients
from prunerzero.pruning.gram import Grams, gram_and_squares, take_inverse_diagonals
from prunerzero.scoring.ranking import Probe
from prunerzero.tensor_file import Form, Header, write_tensors

_VERSION = 4
"""Part of the cache key; to raise when the meaning of the numbers changes."""

_FIELDS = ("X", "G", "D")

_PACE = 1e9
"""Bytes a second that the cache is worth: 26 GB of a 7B model were written in 24 s on a host with a
GPU that measures them in 4 (2026-11-27, ``docs/performance.md``)."""


@dataclass(frozen=True)
class LayerStatistics:
    """What a metric may read of one linear layer besides its weights.

    Attributes:
        X: fp32 [in], mean over calibration windows of the squared L2 norm of each input feature.
        G: fp32 [out, in], sqrt of the sum over windows of (100 · gradient)², the gradient being
            that of the window's mean negative log-likelihood.
        D: fp32 [in], 1 / √diag(A⁻¹) of the damped Gram matrix A of the layer's inputs in all
            windows: what the others cannot replace of each; see ``gram.inverse_diagonal``.

    Each is None where no metric needs it.
    """

    X: Tensor | None
    G: Tensor | None
    D: Tensor | None = None


Statistics = dict[str, LayerStatistics]
"""Statistics of layers, by full name."""

GradientOf = Literal["full", "block"]
"""What G is the gradient of: the model's loss, or the L2 norm of the output of a matrix's block."""


def collect_statistics(
    model: Any,
    layers: Mapping[str, Matrix],
    windows: Tensor,
    *,
    gradients: bool = True,
    of: GradientOf = "full",
    on_window: Callable[[int], None] = lambda done: None,
    batch: int | None = None,
) -> Statistics:
    """Measure X and G on the model as it is; ``gram.collect_inverse_diagonals`` measures D.

    X and G of an expert's matrix come from the tokens that are routed to it. Both are zero where no
    token is.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by full name.
        windows: calibration token ids [count, length].
        gradients: whether to compute G; without G there is no pass backward.
        of: what G is the gradient of.
        on_window: gets the number of windows done.
        batch: windows in a batch, where those can be separated; None for the fastest number on this
            device. The batch is halved where memory does not suffice.

    Raises:
        torch.OutOfMemoryError: not even one window at a time fits.

    Source: method of Pruner-Zero (Dong et al., ICML 2024); X as in Wanda, G as in GBLM-Pruner.
    """

    def collect() -> Statistics:
        current = CalibrationPass()
        locally = gradients and of == "block"
        backward = gradients and not locally
        calibration = CalibrationRun(model, windows, current, backward=backward, batch=batch)
        blocks = from_each_block(model) if locally else nullcontext()
        with watch(layers, gradients, current) as statistics_over, blocks:
            calibration.run(on_window)
        return statistics_over(len(windows))

    return deterministically(collect)


@contextmanager
def watch(
    layers: Mapping[str, Matrix],
    gradients: bool,
    current: CalibrationPass | None = None,
    *,
    inverse_diagonals: bool = False,
    grams: Grams | None = None,
) -> Iterator[Callable[[int], Statistics]]:
    """Add up squared activations, and squared gradients, of all that runs inside the ``with``.

    Args:
        layers: the matrices to watch, by full name.
        gradients: whether to add up gradients too.
        current: the current pass; None where each pass is over one window.
        inverse_diagonals: whether to add up Gram matrices too, for D. They take 4 · in² bytes for
            each of the layers until their D is computed, and all are held together.
        grams: gets the Gram matrices, which are added up and kept then, when statistics are made;
            None where nobody needs them.

    Yields:
        a function, to be called once: number of windows read → statistics.
    """
    current = current or CalibrationPass()
    whole = inverse_diagonals or grams is not None
    totals = {}
    for name, layer in layers.items():
        width = layer.weight.shape[1]
        shape = (width + 1, width) if whole else (width,)
        totals[name] = torch.zeros(shape, device=layer.weight.device)
    gradient_squares: dict[str, Tensor] = {}

    def statistics_over(windows: int) -> Statistics:
        D: dict[str, Tensor] = {}
        X = {name: (t[-1] if whole else t) / windows for name, t in totals.items()}
        if whole:
            matrices = {name: totals.pop(name)[:-1] for name in layers}
            if grams is not None:
                grams.update(matrices)
            if inverse_diagonals:
                D = take_inverse_diagonals(matrices)
        return {
            name: LayerStatistics(
                X[name], gradient_squares[name].sqrt_() if gradients else None, D.get(name)
            )
            for name in layers
        }

    watching_gradients = (
        watch_gradients(layers, gradient_squares, current) if gradients else nullcontext()
    )
    measure = gram_and_squares if whole else squares
    with watching_gradients, watch_inputs(layers, totals, current, measure):
        yield statistics_over


def cached_statistics(
    key: dict[str, Any], layers: Mapping[str, Matrix], collect: Callable[[], Statistics]
) -> Statistics:
    """Statistics from the cache, or else from ``collect``.

    They are written to the cache, unless writing and reading them takes longer than to measure them
    again, as of a large model on a fast GPU.

    Args:
        key: everything that they depend on: model, text, settings.
        layers: the prunable matrices; cached statistics are read to their device.
        collect: measures them.
    """
    device = next(iter(layers.values())).weight.device
    took = 0.0

    def timed() -> Statistics:
        nonlocal took
        began = time.monotonic()
        found = collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.monotonic() - began
        return found

    def worth(found: Statistics) -> bool:
        return sum(tensor.nbytes for tensor in _tensors(found).values()) < took * _PACE

    whole = {**key, "version": _VERSION}
    return cached("statistics", whole, timed, partial(_load, device=device), _save, worth)


def _tensors(statistics: Statistics) -> dict[str, Tensor]:
    return {
        f"{name}/{field}": tensor
        for name, layer in statistics.items()
        for field in _FIELDS
        if (tensor := getattr(layer, field)) is not None
    }


def _save(statistics: Statistics, path: Path) -> None:
    """One tensor after the other: all of them, as large as the model in fp32, may not fit in host
    memory, and take longer to get there than to be written."""
    tensors = _tensors(statistics)
    header = Header({name: Form.of(tensor) for name, tensor in tensors.items()}, {})
    write_tensors(path, header, in_host_memory(tensors))


def _load(path: Path, device: torch.device) -> Statistics:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            return {
                layer: LayerStatistics(
                    *(
                        file.get_tensor(f"{layer}/{field}") if f"{layer}/{field}" in names else None
                        for field in _FIELDS
                    )
                )
                for layer in sorted({name.rpartition("/")[0] for name in names})
            }
    except SafetensorError as error:
        raise ValueError(f"'{path}' holds no statistics") from error


def probes_of(
    layers: Mapping[str, Matrix],
    statistics: Statistics,
    count: int = 4,
    names: Sequence[str] | None = None,
) -> list[Probe]:
    """Samples of a few layers, evenly spaced through the model.

    Args:
        layers: the prunable matrices.
        statistics: of all layers; ones stand in for X, G or D where it is None.
        count: number of layers to choose.
        names: the layers to choose from; None for all that tokens reached.
    """
    if names is None:
        names = [name for name in layers if (X := statistics[name].X) is not None and X.any()]
    chosen = [names[i * (len(names) - 1) // max(1, count - 1)] for i in range(count)]
    probes = []
    for name in dict.fromkeys(chosen):
        W, known = layers[name].weight, statistics[name]
        X = known.X if known.X is not None else torch.ones(W.shape[1])
        G = known.G if known.G is not None else torch.ones(W.shape)
        probes.append(Probe.of(W, X, G, known.D))
    return probes
