"""What the package sets for its own work in other libraries is as before afterwards."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from tiny_model import save_tiny_model, some_text
from transformers.utils import logging as of_transformers

from prunerzero import Setup, prune
from prunerzero.language.quiet import quiet_datasets, quiet_logger, quiet_transformers
from prunerzero.tasks.by_block import Way


@pytest.mark.parametrize("way", [Way(), Way(block_by_block=True)])
def test_pruning_leaves_other_libraries_as_it_finds_them(tmp_path: Path, way: Way) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text(some_text(0))
    setup = Setup(
        model=str(tmp_path / "model"),
        calibration=tmp_path / "text.txt",
        test=tmp_path / "text.txt",
        num_calibration_samples=2,
        num_test_samples=2,
    )
    verbosity = of_transformers.get_verbosity()
    of_transformers.set_verbosity_info()
    of_transformers.enable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.INFO)
    environment = dict(os.environ)
    try:
        prune(setup, "W * sqrt(X) * G", "0.5", tmp_path / "pruned", way=way)
        assert of_transformers.get_verbosity() == of_transformers.INFO
        assert of_transformers.is_progress_bar_enabled()
        assert logging.getLogger("accelerate").level == logging.INFO
        assert dict(os.environ) == environment
    finally:
        of_transformers.set_verbosity(verbosity)
        logging.getLogger("accelerate").setLevel(logging.NOTSET)


@pytest.mark.parametrize("quiet", [quiet_transformers, quiet_datasets, lambda: quiet_logger("x")])
def test_it_is_undone_after_an_error_too(quiet: object) -> None:
    before = of_transformers.get_verbosity(), logging.getLogger("x").level
    with pytest.raises(KeyboardInterrupt), quiet():  # type: ignore[operator]
        raise KeyboardInterrupt
    assert (of_transformers.get_verbosity(), logging.getLogger("x").level) == before
