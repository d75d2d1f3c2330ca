"""Whether a model fits in the free memory of its device, and what of it goes to the host's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch

from prunerzero.errors import ModelError
from prunerzero.language.devices import compute_dtype, find_devices
from prunerzero.language.loading import empty_model_of
from prunerzero.language.source import BUNDLED
from prunerzero.metrics import Metric
from prunerzero.pruning import gram, quick_refit
from prunerzero.pruning.blocks import Matrix, block_lists, prunable_layers
from prunerzero.pruning.carried import host_bytes
from prunerzero.pruning.refit import Refit, memory, work_memory
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import DEFAULT_WINDOW_LENGTH, Workspace

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


@dataclass(frozen=True)
class Need:
    """Bytes that models of a search need all the time.

    Attributes:
        device: on the device, without Gram matrices.
        alone: the same where the model takes turns with others.
        pruned: one copy of the weights that are pruned.
        grams: Gram matrices, where weights are refitted.
        grams_on_host: the same in host memory.
        waiting: in host memory where the model takes turns, without Gram matrices.
    """

    device: int = 0
    alone: int = 0
    pruned: int = 0
    grams: int = 0
    grams_on_host: int = 0
    waiting: int = 0


def needs_of(
    setups: Sequence[Setup], sparsities: int, terminals: Collection[str], refit: RefitOptions
) -> tuple[Need, ...]:
    """What each model of a search needs.

    Counted is what stays there all the time: the weights, a copy of those that are pruned, and
    another for each of several sparsities; G in fp32; Gram matrices where weights are refitted. The
    bundled model and GGUF files count as nothing.

    Args:
        setups: the models.
        sparsities: how many there are.
        terminals: what metrics may read.
        refit: what is done with masks.
    """
    return tuple(_need(setup, sparsities, terminals, refit) for setup in setups)


def _need(setup: Setup, sparsities: int, terminals: Collection[str], refit: RefitOptions) -> Need:
    model = None if setup.model == BUNDLED else empty_model_of(setup)
    if model is None:
        return Need()
    stored = model.config.get_text_config().dtype or torch.float32
    item = compute_dtype(setup.dtype, stored, find_devices(setup.device)[0]).itemsize
    layers = prunable_layers(model, tuple(setup.ignore), tuple(setup.target))
    sizes = [layer.weight.numel() for layer in layers.values()]
    with_G = 4 if "G" in terminals else 0
    whole = [parameter.numel() for parameter in model.parameters()]
    alone = item * sum(whole) + (item + with_G) * sum(sizes)
    aside = sum(host_bytes(item * size) for size in sizes)
    return Need(
        device=alone + item * sum(sizes) * (sparsities if sparsities > 1 else 0),
        alone=alone,
        pruned=item * sum(sizes),
        grams=memory(layers, refit.refit) if refit.refit else 0,
        grams_on_host=_in_host(layers) if refit.refit else 0,
        waiting=sum(host_bytes(item * size) for size in whole)
        + sum(host_bytes(with_G * size) for size in sizes)
        + sparsities * aside,
    )


def on_device(needs: Sequence[Need]) -> int:
    """Bytes that these models take on one device, without Gram matrices."""
    return sum(need.device for need in needs)


def has_room(needs: Sequence[Need], free: int, workers: int = 1) -> bool:
    """Whether so many bytes of a GPU hold these models, and what the reading of text takes."""
    copy = max((need.pruned for need in needs), default=0)
    return workers * (on_device(needs) + copy) <= _ROOM * free


def check_room(needs: Sequence[Need], devices: Sequence[str]) -> str:
    """Decide whether the models of a search take turns on its device.

    A GPU that has no room for Gram matrices has them in host memory (``place_grams``), where they
    must fit.

    Several models take turns on a GPU that has no room for all with a tenth of it, and one more
    copy of the largest one's pruned weights, left to the reading of text. The others wait in host
    memory, and so do Gram matrices and, for each sparsity, what a candidate has pruned.

    Args:
        needs: of each model.
        devices: of each worker, every one of which has all the models, at once or by turns.

    Returns:
        why the models take turns, in a sentence; empty where they do not.

    Raises:
        ModelError: they do not fit on the device, not even by turns.
    """
    together = on_device(needs)
    grams = sum(need.grams for need in needs)
    in_host = sum(need.grams_on_host for need in needs)
    crowded = ""
    for device in dict.fromkeys(devices):
        workers, found = devices.count(device), find_devices(device)
        free, is_gpu = _free(found), found[0].type == "cuda"
        least = workers * (together if is_gpu else together + grams)
        names = "the model needs" if len(needs) == 1 else f"the {len(needs)} models together need"
        if workers > 1:
            models = "the model" if len(needs) == 1 else f"{len(needs)} models"
            names = f"{workers} workers with {models} each need"
        if is_gpu and len(needs) > 1 and not has_room(needs, free, workers):
            _check_turns(needs, workers, len(devices), free)
            crowded = crowded or (
                f"{names} about {least / 1e9:.1f} GB, and the device has {free / 1e9:.1f} GB free: "
                "one model at a time is on it, and the others wait in host memory."
            )
            continue
        if least > free:
            raise ModelError(
                f"{names} about {least / 1e9:.1f} GB, and the device has {free / 1e9:.1f} GB free; "
                f"{_FEWER}."
            )
        host = free_of_host()
        if is_gpu and least + workers * grams > free and workers * in_host > host:
            raise ModelError(
                f"{names} about {least / 1e9:.1f} GB on the device, which has {free / 1e9:.1f} GB "
                f"free, and {workers * in_host / 1e9:.1f} GB for Gram matrices, which then have to "
                f"be in host memory, where {host / 1e9:.1f} GB are free; {_FEWER}, or search "
                "without `update` and `refine`."
            )
    return crowded


def _check_turns(needs: Sequence[Need], here: int, workers: int, free: int) -> None:
    """Raise ModelError where models do not fit by turns either.

    Args:
        needs: of each model.
        here: workers on a device.
        workers: of the host.
        free: bytes of the device.
    """
    largest = here * max(need.alone for need in needs)
    by_turns = f"the {len(needs)} models do not fit on the device together, and by turns"
    if largest > free:
        raise ModelError(
            f"{by_turns} the largest needs about {largest / 1e9:.1f} GB"
            f"{f' for {here} workers' if here > 1 else ''}, where {free / 1e9:.1f} GB are free; "
            f"{_FEWER}."
        )
    waiting = workers * sum(need.waiting + need.grams_on_host for need in needs)
    if waiting > (host := free_of_host()):
        raise ModelError(
            f"{by_turns} they need about {waiting / 1e9:.1f} GB of host memory, where "
            f"{host / 1e9:.1f} GB are free; {_FEWER}."
        )


def free_of_host() -> int:
    """Bytes of host memory that are free."""
    return int(psutil.virtual_memory().available)


_FEWER = "name fewer `workers`, models or sparsities, or a smaller model"


def place_grams(works: Sequence[Workspace], sparsities: int, refit: Refit) -> None:
    """Have the models of a search keep their Gram matrices in host memory where a GPU has no room.

    To be called when the weights and the statistics are on the device. Room is needed for the Gram
    matrices as they are measured, one for each layer; for a copy of the weights that are pruned,
    one for each of several sparsities, and one for a whole text in the end; and for the work of a
    refit. A tenth is left to the reading of text. Where two processes share a GPU, each counts for
    itself.

    Raises:
        ModelError: there is no room for them in host memory either.
    """
    grams = others = work_of_one = in_host = 0
    devices: set[torch.device] = set()
    for work in works:
        weights = [layer.weight for layer in work.layers.values()]
        devices |= {weight.device for weight in weights}
        pruned = sum(weight.nbytes for weight in weights)
        own = max(work_memory(work.layers, refit), quick_refit.memory(work.layers))
        grams += sum(map(gram.size_of, work.layers.values()))
        others += pruned * (1 + (sparsities if sparsities > 1 else 0))
        work_of_one = max(work_of_one, pruned + own)
        in_host += _in_host(work.layers)
    if any(device.type != "cuda" for device in devices):
        return
    room = int(_ROOM * sum(_unused(device) for device in devices)) - others - work_of_one
    if grams <= room:
        return
    host = int(psutil.virtual_memory().available)
    if in_host > host:
        raise ModelError(
            f"Gram matrices of {in_host / 1e9:.1f} GB have no room on the device, and "
            f"{host / 1e9:.1f} GB of host memory are free; search without `update` and `refine`, "
            "or on a smaller model."
        )
    for work in works:
        work.calibration.grams_on_host = True
    works[0].observer.note(
        f"Gram matrices of {grams / 1e9:.1f} GB are kept in host memory and come to the device by "
        f"turns: beside the rest it has room for {max(0, room) / 1e9:.1f} GB."
    )


_ROOM = 0.9
"""The share of unused memory of a GPU that may be planned for."""


def _unused(device: torch.device) -> int:
    """Bytes of a GPU that torch can use, those that it holds in reserve included."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free([device]) + held


def _in_host(layers: Mapping[str, Matrix]) -> int:
    """Bytes of host memory that Gram matrices of all these layers take, if none is shared."""
    return sum(host_bytes(gram.size_of(layer)) for layer in layers.values())


def free_on(device: str) -> int:
    """Bytes that are free on a device of that name. Raises ModelError."""
    return _free(find_devices(device))


def _free(devices: Sequence[torch.device]) -> int:
    """Bytes that are free on these devices together."""
    if devices[0].type == "cuda":
        return sum(torch.cuda.mem_get_info(device)[0] for device in devices)
    return int(psutil.virtual_memory().available)
