"""Prune a model with one block of it on the device at a time, so that its size does not matter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from functools import partial as bind
from pathlib import Path
from typing import Any

import psutil
import torch

from prunerzero.errors import InputError
from prunerzero.language.corpora import Part
from prunerzero.language.devices import compute_dtype, find_devices
from prunerzero.language.kinds import empty_model
from prunerzero.language.locate import locate
from prunerzero.language.models import LanguageModel
from prunerzero.language.perplexity import Perplexity, exp
from prunerzero.language.source import BUNDLED, ModelSource
from prunerzero.language.streaming import StreamedModel, open_streamed
from prunerzero.metrics import Metric, Sparsity
from prunerzero.options import FLAG, TEXT, Options, one_of, option
from prunerzero.pruning.blocks import block_lists, check_widths
from prunerzero.pruning.by_block.block_passes import Room, losses_by_block
from prunerzero.pruning.by_block.partial_checkpoint import KeptBlocks, PartialCheckpoint
from prunerzero.pruning.by_block.prune_blocks import Plan, Propagate, prune_by_block
from prunerzero.pruning.by_block.shards import FiledBlocks, ShardWriter, block_names
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.tasks import read_back
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import DEFAULT_WINDOW_LENGTH, Workspace

_PANEL = "Memory"

_SHARE = 0.8
"""Of the free memory, that a model may take as a whole."""


@dataclass(frozen=True)
class Way(Options):
    """How a model is gone through: as a whole, or block by block."""

    block_by_block: bool = option(
        False,
        "Hold one block on the device, the rest in files; done unasked where the model does not "
        "fit.",
        FLAG,
        panel=_PANEL,
    )
    propagate: Propagate = option(
        "dense",
        "Statistics of the dense model, or of each block behind those already pruned.",
        one_of(Propagate),
        panel=_PANEL,
    )
    activation_memory: str = option(
        "4GiB",
        "For hidden states, block by block; more than that goes to files.",
        TEXT,
        panel=_PANEL,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        read_size(self.activation_memory)


def read_size(text: str) -> int:
    """Bytes of "4GiB", "500MB" or "0". Raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise InputError(f"a size must be given as 4GiB or 500MB, not {text!r}.")
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


class BlockWorkspace(Workspace):
    """A workspace whose model keeps its blocks in files; nothing is measured of it as a whole.

    Args:
        setup, observer: as for every workspace.
        way: how the model is gone through.
        scratch: folder for what does not fit in memory.
    """

    def __init__(
        self, setup: Setup, way: Way, scratch: Path, observer: Observer | None = None
    ) -> None:
        super().__init__(setup, observer)
        self.way, self._scratch = way, scratch
        self.devices = find_devices(setup.device)

    @cached_property
    def _streamed(self) -> StreamedModel:
        self.observer.stage(f"opening {self.setup.model}")
        return open_streamed(self.setup, block_names, self._scratch / "weights")

    def _load(self) -> LanguageModel:
        return self._streamed.language_model

    @cached_property
    def source(self) -> FiledBlocks:
        """The model's blocks."""
        stored = self.language_model.stored_dtype
        dtype = compute_dtype(self.setup.dtype, stored, self.devices[0])
        return FiledBlocks(self.language_model.model, self._streamed.files, dtype, self.layers)

    @property
    def room(self) -> Room:
        """Where the work is done."""
        return Room(self.devices, read_size(self.way.activation_memory), self._scratch)

    def measure(self, part: Part, label: str, source: FiledBlocks | None = None) -> Perplexity:
        """Perplexity of the model, or of another ``source``, on a part, block by block."""
        source, windows = source or self.source, self.text(part).windows
        with self.observer.count(f"{label}, {part} text", len(source), "blocks") as tell:
            losses = losses_by_block(source, windows, self.room, _counter(tell))
        mean = math.fsum(losses) / len(losses)
        length = windows.shape[1]
        return Perplexity(exp(mean), tuple(losses), length, (length - 1,) * len(losses))

    def describe(self) -> dict[str, Any]:
        """As for every workspace, and how the model was gone through."""
        return super().describe() | {
            "dtype": str(self.source.dtype).removeprefix("torch."),
            "device": ",".join(str(device) for device in self.devices),
            "block_by_block": True,
            "propagate": self.way.propagate,
        }


def prune_blocks(
    work: BlockWorkspace,
    partial: PartialCheckpoint,
    metric: Metric,
    sparsity: Sparsity,
    parts: list[Part],
) -> tuple[tuple[LayerSparsity, ...], dict[str, dict[str, float]]]:
    """Prune into a checkpoint, going on where an earlier run was stopped.

    Returns:
        how much of each layer is zero, and part → perplexity ``dense`` and ``pruned``.

    Raises:
        OutputError: the earlier run was another one.
        InputError, MetricError: as ``prune`` does.
    """
    check_widths(work.layers, sparsity)
    reads = metric.expression.terminals
    windows = work.text("calibration").windows if reads - {"W"} else None
    for part in parts:
        work.text(part)
    begun = partial.begin(_identity(work, metric, sparsity, parts))
    source, loaded = work.source, work.language_model
    if begun:
        work.observer.stage(f"going on in {partial.folder}: {begun} blocks are finished")
    before = {part: partial.note(part, bind(work.dense, part)) for part in parts}
    plan = Plan(metric.expression, sparsity, work.way.propagate, work.gradient)
    writer = ShardWriter(partial.folder, loaded.model, len(source) + 1, loaded.files.tensors())
    writer.write(0, source.outside())
    record = KeptBlocks(partial, writer, with_zeros=plan.propagate == "pruned")
    with work.observer.count("pruning", plan.visits * len(source), "blocks") as tell:
        prune_by_block(source, windows, plan, work.room, record, _counter(tell))
    writer.finish()
    loaded.save_companions(partial.folder)
    work.observer.stage("reading the pruned weights back")
    written = ModelSource(str(partial.folder), trust_remote_code=work.setup.trust_remote_code)
    opened = open_streamed(written, block_names, partial.work / "pruned-weights")
    read_back.compare(
        ((name, opened.files[name]) for name in partial.digests()),
        {name: (opened.files[name].dtype, digest) for name, digest in partial.digests().items()},
        partial.folder,
    )
    pruned = FiledBlocks(opened.language_model.model, opened.files, source.dtype, {})
    after = {part: work.measure(part, "pruned", pruned).value for part in parts}
    perplexity = {str(part): {"dense": before[part], "pruned": after[part]} for part in parts}
    return partial.layers(), perplexity


def _identity(
    work: BlockWorkspace, metric: Metric, sparsity: Sparsity, parts: list[Part]
) -> dict[str, Any]:
    """Everything that must be the same in a run that goes on."""
    described = work.describe()
    reads: list[Part] = ["calibration"] if metric.expression.terminals - {"W"} else []
    return {
        **work.identity(*reads, *parts),
        "dtype": described["dtype"],
        "metric": str(metric.expression),
        "sparsity": str(sparsity),
        "group": sparsity.group,
        "propagate": work.way.propagate,
        "device": work.devices[0].type,
        "versions": described["versions"],
    }


def fits(setup: Setup, metric: Metric) -> bool:
    """Whether the whole model fits on its device, with what the metric needs; an estimate.

    Counted are the weights, G in fp32 if it is read, and for its pass backward 34 bytes an
    activation and block in bf16 (Korthikanti et al., 2022, without attention scores). A GGUF file
    is read whole in any case.

    Raises:
        ModelError: there is no such model.
    """
    from transformers import AutoConfig

    if setup.model == BUNDLED or Path(setup.model).suffix.lower() == ".gguf":
        return True
    where, options = locate(setup)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        model = empty_model(config, setup.trust_remote_code)
    except Exception:  # whatever is wrong with it, loading will say
        return True
    text = config.get_text_config()
    devices = find_devices(setup.device)
    item = compute_dtype(setup.dtype, text.dtype or torch.float32, devices[0]).itemsize
    need = item * sum(p.numel() for p in model.parameters())
    if "G" in metric.expression.terminals:
        length = setup.max_seq_length or DEFAULT_WINDOW_LENGTH
        parameters = (p for _, blocks in block_lists(model) for p in blocks.parameters())
        need += 4 * sum(p.numel() for p in parameters)
        need += 17 * item * length * text.hidden_size * text.num_hidden_layers
    if devices[0].type == "cuda":
        free = sum(torch.cuda.mem_get_info(device)[0] for device in devices)
    else:
        free = psutil.virtual_memory().available
    return bool(need < _SHARE * free)


def _counter(tell: Callable[[int], None]) -> Callable[[], None]:
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        tell(done)

    return one_more
