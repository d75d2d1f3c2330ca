"""What the study of a search tells of its workers: rates, their own work, and the time of parts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from benchmarks.commands import no_command
from prunerzero.evolution.storage import open_storage
from prunerzero.evolution.study import STUDY_NAME


class Study:
    """A search's study, perhaps while it runs or before it is there."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal

    def _trials(self, name: str) -> list[FrozenTrial]:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not self._journal.exists():
            return []
        try:
            study = optuna.load_study(study_name=name, storage=open_storage(self._journal))
        except KeyError:  # it is only just being made
            return []
        return list(study.get_trials(deepcopy=False))

    def measured(self) -> list[FrozenTrial]:
        """The trials that were measured, in the order in which that ended."""
        trials = [t for t in self._trials(STUDY_NAME) if "measured" in t.user_attrs]
        return sorted(trials, key=lambda t: float(t.user_attrs["measured"]["seconds"]))

    def parts(self, begun: datetime, ended: datetime) -> dict[str, float]:
        """Seconds of a search's parts, which follow each other, and how far workers began apart.

        ``start``: processes, model, statistics; ``known``: the dense model and the named metrics;
        ``search``: from the first proposal to the last record; ``judging``: of the finalists;
        ``end``: the metric found, on whole texts.
        """
        jobs, trials = self._trials(f"{STUDY_NAME} jobs"), self.measured()
        first_job = min(map(_begun, jobs))
        proposals = [min(map(_begun, own)) for own in by_worker(trials).values()]
        recorded = max(map(_ended, trials))
        judged = [_ended(t) for t in jobs if t.user_attrs["job"].startswith("judge")]
        marks = [begun, first_job, min(proposals), recorded, max([recorded, *judged]), ended]
        names = ("start", "known", "search", "judging", "end")
        seconds = {
            name: (after - before).total_seconds()
            for name, before, after in zip(names, marks, marks[1:], strict=False)
        }
        return seconds | {"apart": (max(proposals) - min(proposals)).total_seconds()}


def by_worker(trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """The trials of each worker."""
    found: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        found[trial.user_attrs["proposal"]["worker"]].append(trial)
    return found


def chunks(trial: FrozenTrial) -> int:
    """How many it read."""
    return int(trial.user_attrs["measured"]["chunks_read"])


def per_hour(
    trials: Sequence[FrozenTrial], count: Callable[[FrozenTrial], float] = lambda _: 1
) -> float:
    """Of all workers, each from its first proposal to its last record; candidates if not told."""
    return sum(3600 * sum(map(count, own)) / _wall(own) for own in by_worker(trials).values())


def cost(trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """Seconds that a candidate takes beside its chunks (masks, restoring), and that a chunk takes.

    By least squares, so that together they are what measuring these candidates took; nothing where
    there are none.
    """
    if not trials:
        return 0.0, 0.0
    read = np.array([[1.0, chunks(trial)] for trial in trials])
    each, chunk = np.linalg.lstsq(read, np.array(list(map(_took, trials))))[0]
    return float(each), float(chunk)


def work(cost: tuple[float, float], trials: Sequence[FrozenTrial]) -> float:
    """How much measuring these workers do in a second, in seconds at this cost.

    It is the share of the time that is spent measuring where measuring takes what the cost says.
    Searches race out different shares of their candidates, and rates of candidates or of chunks
    change with that; this does not.
    """
    each, chunk = cost
    return per_hour(trials, lambda trial: each + chunk * chunks(trial)) / 3600


def engine_share(trials: Sequence[FrozenTrial]) -> float:
    """Share of the workers' time, from first proposal to last record, that was not measuring."""
    return 1 - sum(map(_took, trials)) / sum(map(_wall, by_worker(trials).values()))


def seconds_a_chunk(trials: Sequence[FrozenTrial]) -> float:
    """Of measuring, masks included."""
    return sum(map(_took, trials)) / max(1, sum(map(chunks, trials)))


def best_until(trials: Sequence[FrozenTrial], seconds: float) -> float | None:
    """The best perplexity on the race's chunks of those that finished it by then."""
    losses = [
        t.value
        for t in trials
        if t.user_attrs["measured"]["state"] == "complete"
        and t.user_attrs["measured"]["seconds"] <= seconds
        and t.value is not None
    ]
    return math.exp(min(losses)) if losses else None


def _took(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["measured"]["took"])


def _wall(trials: Sequence[FrozenTrial]) -> float:
    return (max(map(_ended, trials)) - min(map(_begun, trials))).total_seconds()


def _begun(trial: FrozenTrial) -> datetime:
    begun: datetime | None = trial.datetime_start
    assert begun is not None
    return begun


def _ended(trial: FrozenTrial) -> datetime:
    ended: datetime | None = trial.datetime_complete
    assert ended is not None
    return ended


if __name__ == "__main__":
    no_command("python -m benchmarks.search_scaling --help")
