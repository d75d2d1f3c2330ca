"""The study of a search as its workers share it: opened, refused in words, measured once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError, OtherRunError, OutputError
from prunerzero.evolution import Population, StudyMismatchError
from prunerzero.evolution.jobs import Jobs
from prunerzero.evolution.storage import DamagedJournalError, StorageError
from prunerzero.language.corpora import Part
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.pruner import prune_model
from prunerzero.pruning.statistics import Statistics
from prunerzero.tasks.workspace import Workspace


@contextmanager
def open_study(
    storage: str | Path, settings: Mapping[str, Any] | None = None
) -> Iterator[Population]:
    """The study, for as long as this worker is at it.

    Raises:
        InputError: it was begun with other settings, cannot be used, or, in the midst of the work,
            cannot be written any more.
    """
    try:
        population = Population.open(storage, settings)
    except StudyMismatchError as error:
        raise OtherRunError(
            f"'{_shown(storage)}' holds another search: {error} Name another `output_dir`."
        ) from None
    except (ValueError, DamagedJournalError) as error:
        raise InputError(str(error)) from None
    except StorageError as error:
        raise OutputError(f"'{_shown(storage)}' cannot be written: {error}.") from None
    try:
        with population:
            yield population
    except DamagedJournalError as error:
        raise OutputError(str(error)) from None
    except StorageError as error:
        raise OutputError(
            f"'{_shown(storage)}' cannot be written any more: {error}. What was evaluated is kept; "
            "mend that, and the same command goes on from there."
        ) from None


def _shown(storage: str | Path) -> str:
    """Without the password that a URL may hold."""
    scheme, separator, rest = str(storage).rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else rest


class SharedPerplexities:
    """Perplexities that one of the workers measures and the others read in the study."""

    def __init__(self, work: Workspace, jobs: Jobs) -> None:
        self._work = work
        self._jobs = jobs

    def try_dense(self, part: Part) -> float | None:
        """The model's as it came; None where another worker is at it."""
        return _first(self._jobs.once(self._dense(part), lambda: [self._work.dense(part)]))

    def known(self, part: Part) -> dict[str, float]:
        """What has been measured, without measuring."""
        dense = _first(self._jobs.result(self._dense(part)))
        return {} if dense is None else {"dense": dense}

    def both(
        self, part: Part, expression: Expression, statistics: Statistics, sparsity: Sparsity
    ) -> dict[str, float]:
        """``dense`` and ``evolved``: that of the model pruned with the metric."""
        work = self._work

        def measure() -> list[float]:
            with work.pruned_for_now():
                prune_model(work.layers, statistics, expression, sparsity)
                return [work.measure(part, "evolved").value]

        dense, evolved = self.try_dense(part), None
        pause = 0.02
        while dense is None or evolved is None:
            evolved = evolved or _first(self._jobs.once(self._name(str(expression), part), measure))
            dense = dense or self.try_dense(part)
            if dense is None or evolved is None:  # another worker is at it
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
        return {"dense": dense, "evolved": evolved}

    def _dense(self, part: Part) -> str:
        return self._name("dense", part)

    def _name(self, what: str, part: Part) -> str:
        return f"perplexity of {what} on {part} {self._work.text(part).fingerprint}"


def _first(values: list[float] | None) -> float | None:
    return values[0] if values else None
