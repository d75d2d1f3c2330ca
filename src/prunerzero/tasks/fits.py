"""Whether a model fits in the free memory of its device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psutil
import torch

from prunerzero.errors import ModelError
from prunerzero.language.devices import compute_dtype, find_devices
from prunerzero.language.loading import empty_model_of
from prunerzero.language.source import BUNDLED
from prunerzero.metrics import Metric
from prunerzero.pruning import gram
from prunerzero.pruning.blocks import block_lists, prunable_layers
from prunerzero.pruning.refit import memory
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import DEFAULT_WINDOW_LENGTH

_SHARE = 0.8
"""The share of free memory that a model may take as a whole."""


def fits(setup: Setup, metric: Metric, refit: RefitOptions = RefitOptions()) -> bool:
    """Estimate whether the whole model fits on its device, with what the metric needs.

    Counted are the weights; where the metric reads G, G in fp32 and 34 bytes an activation and
    block in bf16 for the pass backward (Korthikanti et al., 2022, without attention scores); where
    it reads D, the Gram matrices that are in memory together; where weights are refitted, those of
    all layers, and with several steps a copy of the weights; where blocks are trained, two copies
    on the CPU, and on a GPU one block in fp32 with its gradient and Adam's moments. The bundled
    model and GGUF files, which are read whole in any case, always count as fitting.

    Raises:
        ModelError: there is no such model.
    """
    if setup.model == BUNDLED:
        return True
    model = empty_model_of(setup)
    if model is None:
        return True
    text = model.config.get_text_config()
    devices = find_devices(setup.device)
    item = compute_dtype(setup.dtype, text.dtype or torch.float32, devices[0]).itemsize
    need = item * sum(p.numel() for p in model.parameters())
    if refit.steps > 1:
        need *= 2
    if refit.reconstruct and devices[0].type == "cuda":
        need += 16 * sum(p.numel() for p in model.parameters()) // text.num_hidden_layers
    elif refit.reconstruct:
        need *= 3
    if refit.refit:
        need += memory(prunable_layers(model), refit.refit)
    if "G" in metric.expression.terminals:
        length = setup.max_seq_length or DEFAULT_WINDOW_LENGTH
        parameters = (p for _, blocks in block_lists(model) for p in blocks.parameters())
        need += 4 * sum(p.numel() for p in parameters)
        need += 17 * item * length * text.hidden_size * text.num_hidden_layers
    if "D" in metric.expression.terminals:
        need += gram.memory(prunable_layers(model))
    return bool(need < _SHARE * _free(devices))


def check_together(
    setups: Sequence[Setup],
    sparsities: int,
    terminals: Collection[str],
    refit: RefitOptions,
    devices: Sequence[str],
) -> None:
    """Raise ModelError where the models of a search do not fit on its device together.

    Counted is what stays there all the time: the weights, a copy of those that are pruned, and
    another for each of several sparsities; G in fp32; Gram matrices where weights are refitted. The
    bundled model and GGUF files count as nothing.

    Args:
        setups: the models.
        sparsities: how many there are.
        terminals: what metrics may read.
        refit: what is done with masks.
        devices: of each worker, every one of which holds all the models.
    """
    need = 0
    for setup in setups:
        model = None if setup.model == BUNDLED else empty_model_of(setup)
        if model is None:
            continue
        stored = model.config.get_text_config().dtype or torch.float32
        item = compute_dtype(setup.dtype, stored, find_devices(setup.device)[0]).itemsize
        layers = prunable_layers(model, tuple(setup.ignore), tuple(setup.target))
        pruned = sum(layer.weight.numel() for layer in layers.values())
        need += item * sum(p.numel() for p in model.parameters())
        need += item * pruned * (1 + (sparsities if sparsities > 1 else 0))
        need += 4 * pruned if "G" in terminals else 0
        need += memory(layers, refit.refit) if refit.refit else 0
    for device in dict.fromkeys(devices):
        workers, free = devices.count(device), _free(find_devices(device))
        if workers * need > free:
            holders = (
                f"{workers} workers with {len(setups)} models each"
                if workers > 1
                else (f"the {len(setups)} models together")
            )
            raise ModelError(
                f"{holders} need about {workers * need / 1e9:.1f} GB, and the device has "
                f"{free / 1e9:.1f} GB free; name fewer `workers`, models or sparsities, or search "
                "on one model at a time."
            )


def _free(devices: Sequence[torch.device]) -> int:
    """Bytes that are free on these devices together."""
    if devices[0].type == "cuda":
        return sum(torch.cuda.mem_get_info(device)[0] for device in devices)
    return int(psutil.virtual_memory().available)
