"""How long a tuning will take, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from prunerzero import evolution
from prunerzero.metrics import Sparsity, known_metrics
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.tuning.course import BRACKET_WINDOWS, ROUNDS, judged_after
from prunerzero.tasks.tuning.figures import SENSITIVITY_SECONDS
from prunerzero.tasks.tuning.packing import ABOUT_SECONDS
from prunerzero.tasks.tuning.workbench import Workbench

_REFIT_WINDOWS = 60
"""A refit with ADMM takes as long as reading so many windows: the bundled model, on two cores."""

_QUICK_REFIT_WINDOWS = 5
"""The same of the refit that candidates are judged after."""


def about_seconds(
    bench: Workbench,
    ways: Sequence[RefitOptions],
    patterns: Sequence[Sparsity],
    groups: Sequence[Group],
    search: evolution.SearchSettings | None,
) -> float:
    """How long a tuning takes, judged by how long the dense model was read.

    Args:
        bench: where the dense model is read.
        ways, patterns, groups, search: what the course is given.
    """
    dense = bench.dense("validation")
    whole = len(dense.losses)
    a_window = dense.seconds / whole
    windows = 5 * whole  # what is told of the metric in the end
    windows += len(ways) * (whole + _REFIT_WINDOWS)
    windows += whole if patterns else 3 * BRACKET_WINDOWS * len(groups) + 8 * whole
    windows += _windows_to_choose(len(patterns or groups), whole)
    under_update = all(way.refine == "none" for way in ways) and any(
        judged_after(way).refit for way in ways
    )
    if under_update:  # of the same pattern nothing is judged again
        windows += _windows_to_choose(1, whole, under_update=True)
    if search is not None and len(patterns) != 1:  # once more, beside the evolved metric
        windows += _windows_to_choose(1, whole, under_update=under_update)
    seconds = a_window * windows
    if search is not None and search.seconds is not None:
        seconds += search.seconds
    elif search is not None:  # a race reads about half of its windows
        seconds += a_window * (search.evaluations or 0) * min(whole, BRACKET_WINDOWS) / 2
    return seconds + SENSITIVITY_SECONDS + ABOUT_SECONDS


def _windows_to_choose(groups: int, whole: int, *, under_update: bool = False) -> int:
    """As long as it takes to read so many windows, a known metric is chosen within these groups,
    the best few on the ``whole`` text."""
    windows, left = 0, len(known_metrics()) * groups
    quick, full = (_QUICK_REFIT_WINDOWS, _REFIT_WINDOWS) if under_update else (0, 0)
    for read, kept, refit in (*((*one, quick) for one in ROUNDS), (whole, 1, full)):
        windows += left * (min(read, whole) + 1 + refit)  # pruning takes about as long as a window
        left = kept
    return windows
