from __future__ import annotations

import signal
from pathlib import Path

import pytest
from toy_fitness import ToyFitness

# a shell starts what it runs in the background with Ctrl-C ignored, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def toy() -> ToyFitness:
    return ToyFitness()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.log"
