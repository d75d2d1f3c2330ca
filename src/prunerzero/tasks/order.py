"""What the workers of a search are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prunerzero.evolution import SearchSettings
from prunerzero.metrics import Sparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup


@dataclass(frozen=True)
class Order:
    """What every worker of a search is told; all but the devices is the same for all.

    Attributes:
        by_turns: whether the models are on the device one at a time.
        given: formulas of the metrics to begin with, by the names that the user gave.
    """

    setups: tuple[Setup, ...]
    sparsities: tuple[Sparsity, ...]
    folder: Path
    settings: SearchSettings
    storage: str | Path
    refit: RefitOptions = RefitOptions()
    by_turns: bool = False
    given: Mapping[str, str] = field(default_factory=dict)

    def on(self, devices: Sequence[str]) -> Order:
        """The same for the worker that has each model on one of these devices."""
        placed = zip(self.setups, devices, strict=True)
        return replace(self, setups=tuple(replace(one, device=device) for one, device in placed))
