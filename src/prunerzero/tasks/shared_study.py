"""The study of a search as its workers share it: opened, refused in words, measured once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError, OtherRunError, OutputError
from prunerzero.evolution import SearchStudy, StudyMismatchError
from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.jobs import Jobs
from prunerzero.metrics import Expression, Sparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.prune_loaded import prune_loaded
from prunerzero.tasks.workspace import Workspace


@contextmanager
def open_study(
    storage: str | Path, settings: Mapping[str, Any] | None = None
) -> Iterator[SearchStudy]:
    """The study, for as long as this worker is at it.

    Raises:
        InputError: it was begun with other settings, cannot be used, or, in the midst of the work,
            cannot be written any more.
    """
    try:
        study = SearchStudy.open(storage, settings)
    except StudyMismatchError as error:
        raise OtherRunError(
            f"'{_shown(storage)}' holds another search: {error} Name another `output_dir`."
        ) from None
    except (ValueError, DamagedJournalError) as error:
        raise InputError(str(error)) from None
    except StorageError as error:
        raise OutputError(f"'{_shown(storage)}' cannot be written: {error}.") from None
    try:
        with study:
            yield study
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
    """Perplexities on whole parts and their texts, which one of the workers measures and the others
    read in the study."""

    def __init__(
        self, work: Workspace, jobs: Jobs, sparsity: Sparsity, refit: RefitOptions
    ) -> None:
        self._work = work
        self._jobs = jobs
        self._sparsity = sparsity
        self._refit = refit

    def try_dense(self, place: str) -> None:
        """Measure the model as it came, unless another worker is at it."""
        self._jobs.once(self._name("dense", place), partial(self._dense, place))

    def measured(self, place: str, what: str | Expression) -> float | None:
        """What has been measured so far of a metric or of "dense", without measuring."""
        result = self._jobs.result(self._name(str(what), place))
        return result[0] if result else None

    def dense(self, place: str) -> float:
        """The model as it came."""
        [[value]] = self._jobs.all_of(
            {self._name("dense", place): partial(self._dense, place)}
        ).values()
        return value

    def pruned(self, place: str, metrics: Mapping[str, Expression]) -> dict[str, float]:
        """The model pruned with each of several metrics, by the name that they are shown under."""
        jobs = {
            self._name(str(expression), place): partial(self._pruned, place, name, expression)
            for name, expression in metrics.items()
        }
        done = self._jobs.all_of(jobs)
        return {name: done[self._name(str(e), place)][0] for name, e in metrics.items()}

    def _dense(self, place: str) -> list[float]:
        return [self._work.dense(place)]

    def _pruned(self, place: str, name: str, expression: Expression) -> list[float]:
        with self._work.pruned_for_now():
            prune_loaded(self._work, expression, self._sparsity, self._refit)
            return [self._work.measure(place, name).value]

    def _name(self, what: str, place: str) -> str:
        return f"perplexity of {what} on {place} {self._work.texts.of(place).fingerprint}"
