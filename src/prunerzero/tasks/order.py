"""What the workers of a search are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunerzero.evolution import SearchSettings
from prunerzero.metrics import Sparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup


@dataclass(frozen=True)
class Order:
    """What every worker of a search is told; all but the device is the same for all."""

    setup: Setup
    sparsity: Sparsity
    folder: Path
    settings: SearchSettings
    storage: str | Path
    refit: RefitOptions = RefitOptions()
