"""Keep other libraries quiet while we work with them; their settings are restored afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers shows no warnings and no progress bars: ours say more."""
    from transformers.utils import logging as of_transformers

    verbosity = of_transformers.get_verbosity()
    shows_bars = of_transformers.is_progress_bar_enabled()
    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
    try:
        yield
    finally:
        of_transformers.set_verbosity(verbosity)
        if shows_bars:
            of_transformers.enable_progress_bar()


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Inside, datasets shows no progress bars, if it is installed."""
    try:
        from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    except ImportError:
        yield
        return
    shows_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shows_bars:
            enable_progress_bars()


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Inside, the logger of that name shows errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
