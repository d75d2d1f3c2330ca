from __future__ import annotations

from pathlib import Path

import pytest
from toy_fitness import ToyFitness


@pytest.fixture
def toy() -> ToyFitness:
    return ToyFitness()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.log"
