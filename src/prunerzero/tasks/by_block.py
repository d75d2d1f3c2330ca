"""Pruning a model of any size, with one block of it on the device at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from functools import partial as bind
from pathlib import Path
from typing import Any

import torch

from prunerzero.errors import InputError
from prunerzero.identity import Identity
from prunerzero.language.corpora import Part, the_text
from prunerzero.language.devices import compute_dtype, find_devices
from prunerzero.language.models import LanguageModel
from prunerzero.language.source import ModelSource
from prunerzero.language.streaming import open_streamed
from prunerzero.metrics import Metric, Sparsity
from prunerzero.options import FLAG, STRING, Options, one_of, option
from prunerzero.pruning.blocks import check_widths
from prunerzero.pruning.by_block.block_passes import Resources, losses_by_block
from prunerzero.pruning.by_block.offloaded_blocks import OffloadedBlocks, block_names
from prunerzero.pruning.by_block.partial_checkpoint import FinishedBlocks, PartialCheckpoint
from prunerzero.pruning.by_block.prune_blocks import Plan, Propagate, prune_by_block
from prunerzero.pruning.by_block.shards import ShardWriter
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.tasks import read_back
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

_PANEL = "Memory"


@dataclass(frozen=True)
class Way(Options):
    """Whether a model is pruned as a whole or block by block, and how."""

    block_by_block: bool = option(
        False,
        "Hold one block on the device, the rest on disk; the default where the model does not fit.",
        FLAG,
        panel=_PANEL,
    )
    propagate: Propagate = option(
        "dense",
        "Where a block's inputs come from: the dense blocks before it, or the pruned ones.",
        one_of(Propagate),
        panel=_PANEL,
    )
    activation_memory: str = option(
        "4GiB",
        "Memory for hidden states, block by block; more than that goes to files.",
        STRING,
        panel=_PANEL,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        read_size(self.activation_memory)


def read_size(text: str) -> int:
    """Bytes of "4GiB", "500MB" or "0". Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"a size must be given as 4GiB or 500MB, not {text!r}.")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class BlockByBlock:
    """A workspace whose model stays on disk, and what is measured of it block by block.

    Args:
        setup, observer: as for ``Workspace``.
        way: how the model is worked on.
        scratch: folder for what does not fit in memory.
        refit: what is done with masks, in one step.

    Attributes:
        work: the workspace, for texts, layers, identity and settings.
        way, refit: as given.
    """

    def __init__(
        self,
        setup: Setup,
        way: Way,
        scratch: Path,
        observer: Observer | None = None,
        refit: RefitOptions = RefitOptions(),
    ) -> None:
        self.work = Workspace(setup, observer, load=self._open)
        self.way, self.refit, self._scratch = way, refit, scratch
        self._devices = find_devices(setup.device)

    def _open(self, source: ModelSource) -> LanguageModel:
        opened = open_streamed(source, block_names, self._scratch / "weights")
        self._files = opened.files
        return opened.language_model

    @cached_property
    def source(self) -> OffloadedBlocks:
        """The dense model."""
        loaded = self.work.language_model
        dtype = compute_dtype(self.work.setup.dtype, loaded.stored_dtype, self._devices[0])
        return OffloadedBlocks(loaded.model, self._files, dtype, self.work.layers)

    @property
    def resources(self) -> Resources:
        """Devices, memory and folder to use."""
        return Resources(self._devices, read_size(self.way.activation_memory), self._scratch)

    def measure(self, source: OffloadedBlocks, place: str, label: str) -> list[float]:
        """The loss of each window of a part, or of one of its texts, in nats per token."""
        windows = self.work.texts.of(place).windows
        what = f"{label}, {the_text(place)}"
        with self.work.observer.count(what, len(source), "blocks") as advance:
            return losses_by_block(source, windows, self.resources, _one_more(advance))

    def describe(self) -> dict[str, Any]:
        """All settings as they came out, and how the model was worked on."""
        return {
            **describe(self.work),
            "dtype": str(self.source.dtype).removeprefix("torch."),
            "device": ",".join(str(device) for device in self._devices),
            "block_by_block": True,
            "propagate": self.way.propagate,
            **asdict(self.refit),
        }

    def identity(self, metric: Metric, sparsity: Sparsity, parts: list[Part]) -> Identity:
        """Everything that must be equal in a run that is resumed."""
        described, refit = self.describe(), self.refit
        chosen = {"update": refit.update, "refine": refit.refine}
        return {
            **self.work.identity(*parts_read(metric, refit), *parts),
            "dtype": described["dtype"],
            "metric": str(metric.expression),
            "sparsity": str(sparsity),
            "group": sparsity.group,
            "propagate": self.way.propagate,
            "device": self._devices[0].type,
            "versions": described["versions"],
            **{name: value for name, value in chosen.items() if value != "none"},
        }


def prune_blocks(
    run: BlockByBlock,
    partial: PartialCheckpoint,
    metric: Metric,
    sparsity: Sparsity,
    parts: list[Part],
) -> tuple[tuple[LayerSparsity, ...], dict[str, dict[str, list[float]]]]:
    """Prune a model into a checkpoint; an earlier run that was stopped is resumed.

    Returns:
        how much of each layer is zero, and text of a part → the losses of its windows, ``dense``
        and ``pruned``, as ``Workspace.places`` calls it.

    Raises:
        OutputError: the earlier run had other settings.
        InputError, MetricError: as ``prune`` does.
    """
    work = run.work
    check_widths(work.layers, sparsity)
    for part in parts_read(metric, run.refit):
        work.texts.of(part)
    places = [place for part in parts for place in work.texts.places(part)]
    begun = partial.begin(run.identity(metric, sparsity, parts))
    source, loaded = run.source, work.language_model
    if begun:
        work.observer.stage(f"going on in {partial.folder}: {begun} blocks are finished")
    before = {p: partial.note(p, bind(run.measure, source, p, "dense")) for p in places}
    refit = run.refit.refit
    plan = Plan(metric.expression, sparsity, run.way.propagate, work.calibration.gradient, refit)
    writer = ShardWriter(partial.folder, loaded.model, len(source) + 1, loaded.files.tensors())
    writer.write(0, source.outside())
    record = FinishedBlocks(partial, writer, plan.needed)
    windows = work.texts.of("calibration").windows if plan.reads_text else None
    with work.observer.count("pruning", plan.visits * len(source), "blocks") as advance:
        prune_by_block(source, windows, plan, run.resources, record, _one_more(advance))
    writer.finish()
    loaded.save_companions(partial.folder)
    work.observer.stage("reading the pruned weights back")
    written = ModelSource(str(partial.folder), trust_remote_code=work.setup.trust_remote_code)
    opened = open_streamed(written, block_names, partial.work / "pruned-weights")
    read_back.compare(
        ((name, opened.files[name]) for name in partial.digests()),
        {name: (getattr(torch, dtype), d) for name, (dtype, d) in partial.digests().items()},
        partial.folder,
    )
    pruned = OffloadedBlocks(opened.language_model.model, opened.files, source.dtype, {})
    after = {place: run.measure(pruned, place, "pruned") for place in places}
    return partial.layers(), {p: {"dense": before[p], "pruned": after[p]} for p in places}


def parts_read(metric: Metric, refit: RefitOptions = RefitOptions()) -> list[Part]:
    """The parts of the text that statistics are taken from: none where the metric reads W alone
    and nothing is refitted or trained."""
    reads = metric.expression.terminals - {"W"} or refit.refit or refit.reconstruct
    return ["calibration"] if reads else []


def _one_more(advance: Callable[[int], None]) -> Callable[[], None]:
    """A function to call each time that one more is done; ``advance`` gets their number."""
    done = itertools.count(1)
    return lambda: advance(next(done))
