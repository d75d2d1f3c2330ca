"""X and G of each prunable layer, from calibration text, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunerzero.memory import cached
from prunerzero.pruning.activations import watch_inputs
from prunerzero.pruning.block_gradients import from_each_block
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.calibration import Reader
from prunerzero.pruning.gradients import watch_gradients
from prunerzero.pruning.passes import Pass
from prunerzero.pruning.repeatable import repeatably
from prunerzero.scoring.ranking import Probe

_VERSION = 4
"""Part of the cache key; raised when the meaning of the numbers changes."""


@dataclass(frozen=True)
class LayerStatistics:
    """What a metric may know of one linear layer besides its weights.

    Attributes:
        X: fp32 [in], mean over calibration windows of the squared L2 norm of each input feature.
        G: fp32 [out, in], sqrt of the sum over windows of (100 · gradient)², the gradient being
            that of the window's mean negative log-likelihood.

    Either is None where no metric at hand reads it.
    """

    X: Tensor | None
    G: Tensor | None


Statistics = dict[str, LayerStatistics]
"""Statistics by the layer's full name."""

GradientOf = Literal["full", "block"]
"""Of the model's loss, or of the L2 norm of the output of the block that a matrix belongs to."""


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
    """Measure X and G on the model as it is.

    Of a matrix that belongs to one expert, X and G come from the tokens that are routed to it;
    both are zero where none is.

    Args:
        model: a transformers causal language model.
        layers: its prunable matrices by name.
        windows: calibration token ids [count, length].
        gradients: whether G is wanted; without it no backward pass is made.
        of: what the gradient is of.
        on_window: told how many windows are done.
        batch: windows to read together where they can be told apart; by default as many as the
            device is good for. Halved where memory does not suffice.

    Source: method of Pruner-Zero (Dong et al., ICML 2024); X as in Wanda, G as in GBLM-Pruner.
    """

    def collect() -> Statistics:
        reading = Pass()
        locally = gradients and of == "block"
        backward = gradients and not locally
        reader = Reader(model, windows, reading, backward=backward, batch=batch)
        blocks = from_each_block(model) if locally else nullcontext()
        with watch(layers, gradients, reading) as statistics_over, blocks:
            reader.read(on_window)
        return statistics_over(len(windows))

    return repeatably(collect)


@contextmanager
def watch(
    layers: Mapping[str, Matrix], gradients: bool, reading: Pass | None = None
) -> Iterator[Callable[[int], Statistics]]:
    """Add up what X, and G where wanted, need of all that runs inside.

    The function that it gives makes the statistics, once told over how many windows. Without
    ``reading`` each pass forward and backward is over one window.
    """
    reading = reading or Pass()
    squares = {
        name: torch.zeros(layer.weight.shape[1], device=layer.weight.device)
        for name, layer in layers.items()
    }
    gradient_squares: dict[str, Tensor] = {}

    def statistics_over(windows: int) -> Statistics:
        return {
            name: LayerStatistics(
                squares[name] / windows,
                gradient_squares[name].sqrt_() if gradients else None,
            )
            for name in layers
        }

    watching_gradients = (
        watch_gradients(layers, gradient_squares, reading) if gradients else nullcontext()
    )
    with watching_gradients, watch_inputs(layers, squares, reading):
        yield statistics_over


def cached_statistics(
    key: dict[str, Any], layers: Mapping[str, Matrix], collect: Callable[[], Statistics]
) -> Statistics:
    """Statistics from the cache, or collected and put there.

    Args:
        key: everything that they depend on: model, text, settings.
        layers: the prunable matrices, on whose device the statistics are read.
        collect: measures them.
    """
    device = next(iter(layers.values())).weight.device
    whole = {**key, "version": _VERSION}
    return cached("statistics", whole, collect, partial(_load, device=device), _save)


def _save(statistics: Statistics, path: Path) -> None:
    named = {
        f"{name}/{field}": getattr(layer, field)
        for name, layer in statistics.items()
        for field in ("X", "G")
    }
    tensors = {name: t.cpu().contiguous() for name, t in named.items() if t is not None}
    save_file(tensors, path)


def _load(path: Path, device: torch.device) -> Statistics:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            return {
                layer: LayerStatistics(
                    file.get_tensor(f"{layer}/X"),
                    file.get_tensor(f"{layer}/G") if f"{layer}/G" in names else None,
                )
                for layer in (n.removesuffix("/X") for n in sorted(names) if n.endswith("/X"))
            }
    except SafetensorError as error:
        raise ValueError(f"'{path}' holds no statistics") from error


def probes_of(layers: Mapping[str, Matrix], statistics: Statistics, count: int = 4) -> list[Probe]:
    """Samples of a few layers that tokens reached, evenly spaced through the model; needs G."""
    names = [name for name in layers if (X := statistics[name].X) is not None and X.any()]
    chosen = [names[i * (len(names) - 1) // max(1, count - 1)] for i in range(count)]
    probes = []
    for name in dict.fromkeys(chosen):
        found = statistics[name]
        assert found.X is not None and found.G is not None
        probes.append(Probe.of(layers[name].weight, found.X, found.G))
    return probes
