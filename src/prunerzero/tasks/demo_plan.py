"""How much text the demo reads, and for how long it searches, on a machine of this speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prunerzero.language.perplexity import perplexity
from prunerzero.metrics import CATALOG
from prunerzero.tasks.workspace import Workspace

LEAST_EVALUATIONS = 80
"""Fewer tell nothing of an evolution; made however slow the machine turns out to be."""

LEAST_SEARCH_SECONDS = 45.0

AMOUNTS = ((64, 64, 48), (32, 32, 32), (16, 32, 16), (16, 16, 8))
"""Windows of the validation, the test and the calibration part: the first that fit."""

SECONDS = 162.0
"""Of the whole demo, with the first of the amounts; the search gets what measuring leaves."""

MOST_SECONDS = 240.0
"""Of the whole demo with fewer windows."""

_A_STATISTIC = 5.5
"""Forward passes that the statistics of a window cost: with gradients, and of D, on two cores."""

_A_REFIT = 9
"""Forward passes of a window that least squares on all layers takes as long as."""

_TIMED_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What the demo is going to do.

    Attributes:
        validation, test, calibration: windows of each part.
        search_seconds: of the evolution; LEAST_EVALUATIONS are made even where they take longer.
        seconds: of the whole, by estimate.
    """

    validation: int
    test: int
    calibration: int
    search_seconds: float
    seconds: float

    @property
    def is_reduced(self) -> bool:
        """Whether it is less than what two idle cores do."""
        return (self.validation, self.test, self.calibration) != AMOUNTS[0]


def plan_for(window_seconds: float, spent: float = 0.0) -> Plan:
    """The most text that leaves time to search.

    Args:
        window_seconds: how long the dense model takes to read a window.
        spent: seconds that have passed already.
    """
    for validation, test, calibration in AMOUNTS:
        beside = spent + window_seconds * _windows_beside(validation, test, calibration)
        least = LEAST_EVALUATIONS * window_seconds * _windows_of_an_evaluation(validation)
        is_full = (validation, test, calibration) == AMOUNTS[0]
        whole = SECONDS if is_full else MOST_SECONDS
        search = max(whole - beside, least, LEAST_SEARCH_SECONDS)
        plan = Plan(validation, test, calibration, search, beside + search)
        if plan.seconds <= whole:
            break
    return plan


def _windows_beside(validation: int, test: int, calibration: int) -> float:
    """Passes beside the search: statistics, known metrics, comparisons, refits, the pruning."""
    known = len(CATALOG)
    comparisons = (known + 3) * (validation + test) + (known + 1) * (test + 2)
    comparisons += (known + 1) * (test + _A_REFIT) + calibration
    return _A_STATISTIC * calibration + known * validation / 2 + comparisons + 4 * test


def _windows_of_an_evaluation(validation: int) -> float:
    """A race reads at most half of the text where that is long, and gives up half-way."""
    race = validation if validation <= 32 else validation / 2
    return 0.5 * race + 2


def time_a_window(work: Workspace, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that the dense model takes for a window, now, with all else that the machine does."""
    windows = work.texts.of("validation").spread(4).windows
    model = work.language_model.model
    perplexity(model, windows, work.batch_size)  # the first pass takes longer
    begun, read = clock(), 0
    while read == 0 or clock() - begun < _TIMED_SECONDS:
        perplexity(model, windows, work.batch_size)
        read += len(windows)
    return (clock() - begun) / read
