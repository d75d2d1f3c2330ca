"""Layers of a block, worked on in the order in which data flows through them.

What a layer reads depends on the layers before it. So the Gram matrices of a stage, of layers that
read the same, are measured after the stages before it were pruned and refitted: q, k and v; the
attention's output; gate and up; down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from torch import Tensor

from prunerzero.pruning.activations import watch_inputs
from prunerzero.pruning.blocks import Matrix
from prunerzero.pruning.by_block.block_passes import BlockPasses
from prunerzero.pruning.calibration_pass import CalibrationPass
from prunerzero.pruning.gram import watch_grams

Solve = Callable[[str, Tensor], None]
"""Name of a layer, and the Gram matrix [in, in] of its inputs → writes the layer's weights."""


@torch.no_grad()
def work_through(
    passes: BlockPasses, solve: Solve, on_block: Callable[[int], None] = lambda done: None
) -> None:
    """Work on all layers of a loaded model; each reads what the layers before it give by then.

    Args:
        passes: hold the inputs of the first block.
        solve: what is done with each layer.
        on_block: gets the number of blocks done.
    """
    for index in range(len(passes.source)):
        device = next(passes.source.blocks[index].parameters()).device
        work_in_order(passes, index, device, passes.source.layers(index), solve)
        passes.forward(index, device, iter(range(len(passes.windows))))
        on_block(index + 1)


def work_in_order(
    passes: BlockPasses,
    index: int,
    device: torch.device,
    layers: Mapping[str, Matrix],
    solve: Solve,
) -> None:
    """Work on the layers of a loaded block, stage by stage.

    Args:
        passes: holds the inputs of the block.
        index: of the block.
        device: where it is loaded.
        layers: its layers by full name.
        solve: what is done with each.
    """
    for stage in stages(passes, index, device, layers):
        with watch_grams({name: layers[name] for name in stage}) as grams:
            passes.forward(index, device, iter(range(len(passes.windows))), keep=False)
        for name in stage:
            solve(name, grams.pop(name))


def stages(
    passes: BlockPasses, index: int, device: torch.device, layers: Mapping[str, Matrix]
) -> list[list[str]]:
    """The layers of a block in groups that read the same, in the order in which they read.

    They are seen on the first window. Experts are alike: all layers whose names differ in numbers
    alone are of one group.
    """
    order = _Order()
    zeros = {name: torch.zeros((), device=device) for name in layers}
    with watch_inputs(layers, zeros, order, order.features):
        passes.forward(index, device, iter(range(1)), keep=False)
    return _grouped(order.read, layers)


class _Order(CalibrationPass):
    """Notes which layers read, and which of them read the same features."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, int]] = []
        """Name of a layer, and the number of the features that it read."""
        self._features = 0

    def features(self, features: Tensor) -> Tensor:
        """Called once for features that several layers read one after the other."""
        self._features += 1
        return features.new_zeros((), dtype=torch.float32)

    def once(self, what: Hashable, count: Callable[[], object]) -> None:
        """Called for each layer that reads."""
        assert isinstance(what, tuple)
        self.read.append((what[1], self._features))


def _grouped(read: Iterable[tuple[str, int]], layers: Iterable[str]) -> list[list[str]]:
    """Layers that read the same features in a row, and those of one kind, together.

    >>> _grouped([("q", 1), ("k", 1), ("o", 2), ("e.0.up", 3), ("e.0.down", 4), ("e.1.up", 5)],
    ...          ["q", "k", "o", "e.0.up", "e.0.down", "e.1.up", "e.1.down"])
    [['q', 'k'], ['o'], ['e.0.up', 'e.1.up'], ['e.0.down', 'e.1.down']]
    """
    place: dict[str, int] = {}
    last = count = 0
    for name, features in read:
        kind = re.sub(r"\d+", "*", name)
        if kind not in place:
            count += features != last
            place[kind], last = count, features
    found: dict[int, list[str]] = {}
    for name in layers:  # one that no token reached comes last
        found.setdefault(place.get(re.sub(r"\d+", "*", name), count + 1), []).append(name)
    return [found[number] for number in sorted(found)]
