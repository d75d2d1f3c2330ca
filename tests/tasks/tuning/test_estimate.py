"""How long a tuning will take is told from how long the dense model was read, and what is asked."""

from __future__ import annotations

from math import log
from types import SimpleNamespace
from typing import Any

import pytest

from prunerzero import Sparsity
from prunerzero.evolution import SearchSettings
from prunerzero.tasks.options import TuneOptions
from prunerzero.tasks.tuning.course import GROUPS
from prunerzero.tasks.tuning.estimate import about_seconds
from prunerzero.tasks.tuning.workbench import Measured

MASKS_ALONE = TuneOptions(update="none", refine="none").ways
PATTERN = (Sparsity.parse("2:4"),)
SHARES = tuple(Sparsity(ratio=0.5, group=group) for group in GROUPS)


def seconds(*, reading: float = 10.0, **asked: Any) -> float:
    """Of a tuning where the dense model read 20 windows in ``reading`` seconds."""
    bench: Any = SimpleNamespace(dense=lambda part: Measured((log(10),) * 20, reading))
    asked = {"ways": MASKS_ALONE, "patterns": (), "groups": GROUPS, "search": None} | asked
    return about_seconds(bench, **asked)


def test_a_machine_that_reads_half_as_fast_takes_about_twice_as_long():
    always = seconds(reading=0.0)
    assert seconds(reading=20.0) - always == pytest.approx(2 * (seconds() - always))


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({}, {"groups": ("row",)}),
        ({}, {"patterns": SHARES}),
        ({"patterns": SHARES}, {"patterns": PATTERN}),
        ({"ways": TuneOptions().ways}, {}),
        ({"search": SearchSettings(evaluations=9)}, {}),
        ({"search": SearchSettings(evaluations=9)}, {"search": SearchSettings(evaluations=3)}),
        ({"patterns": PATTERN, "ways": TuneOptions(refine="none").ways}, {"patterns": PATTERN}),
    ],
)
def test_what_asks_for_more_work_takes_longer(more, less):
    assert seconds(**more) > seconds(**less)


def test_a_search_of_a_given_time_takes_that_time():
    searches = [seconds(search=SearchSettings(seconds=given)) for given in (40.0, 100.0)]
    assert searches[1] - searches[0] == pytest.approx(60)
