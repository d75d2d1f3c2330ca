"""One worker's access to the study of a search, which is its population, its log and its queue.

All workers are equal and keep no state of their own: a worker may die or join at any time, and to
resume is to run the same search again. ``trials`` says what a trial holds. If two workers begin the
same metric or the same draw at the same moment, the one with the lower trial number keeps it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.storages import BaseStorage

from prunerzero.evolution.errors import StorageError, StudyMismatchError
from prunerzero.evolution.interrupt import interrupts_wait
from prunerzero.evolution.jobs import Jobs
from prunerzero.evolution.journal import repair_journal
from prunerzero.evolution.population import Population
from prunerzero.evolution.presence import Presence
from prunerzero.evolution.records import Begun, Candidate, State
from prunerzero.evolution.storage import (
    check_shareable,
    close_storage,
    damaged_trial,
    is_database,
    open_storage,
    storage_errors,
    trials_from,
)
from prunerzero.evolution.trials import begun_of, finish, individual_of, new_trial
from prunerzero.identity import difference
from prunerzero.metrics import MetricError

STUDY_NAME = "search"

SPREAD = 8
"""Several workers choose their draws among this number of free ones for each worker. The more
there are, the less often two workers choose the same while they propose."""

LOOK_EVERY = 10.0
"""Seconds between two looks for evaluations of dead workers."""

_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, MetricError)
"""The errors of reading a trial that does not hold what a search writes."""


class SearchStudy:
    """The study of a search, shared by any number of workers; each opens it for itself.

    A worker has at most one trial in flight. Use the study in a ``with`` block, or ``close`` it:
    then the others know at once that this worker has left.

    Attributes:
        optuna_study: the same study for Optuna's tools.
        population: its evaluations, up to date since the last ``refresh``.
        jobs: measurements that one worker makes for all.
        workers: how many are alive, this one included, as of the last look.
        lost: evaluations in flight that were given up because their worker had died.
        arrival: what the study held when this worker came, in words; None for a new study.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, presence: Presence, jobs: Jobs
    ) -> None:
        self.optuna_study = study
        self.population = Population()
        self.jobs = jobs
        self.workers = 1
        self.lost = 0
        self.arrival: str | None = None
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._presence = presence
        self._own: int | None = None
        self._settled: set[int] = set()
        self._first_unsettled = 0
        self._looked = time.monotonic()
        self._spread = Random(presence.worker)
        self._to_close = ExitStack()

    @classmethod
    def open(
        cls,
        storage: str | Path | BaseStorage,
        settings: Mapping[str, Any] | None = None,
        *,
        name: str = STUDY_NAME,
    ) -> SearchStudy:
        """Open the study, or begin it. Evaluations that dead workers left in flight are given up.

        Args:
            storage: path of a journal file, the URL of a database, or an Optuna storage.
            settings: what losses depend on (model, text, sparsity …), as JSON takes it.
            name: of the study in the storage.

        Raises:
            StudyMismatchError: the study was begun with other settings.
            ValueError: the file is no journal, the database cannot be used, or another worker uses
                the same SQLite file, which several workers would damage.
            StorageError: the storage cannot be read or written.
        """
        is_journal = not isinstance(storage, BaseStorage) and not is_database(storage)
        if is_journal:  # all links to the file share the lock beside the file itself
            storage = Path(os.path.realpath(str(storage)))
        with ExitStack() as stack, interrupts_wait(), storage_errors():
            torn = repair_journal(Path(str(storage))) if is_journal else 0
            opened = open_storage(storage)
            if opened is not storage:
                stack.callback(close_storage, opened)
            optuna_study = _optuna_study(opened, name)
            beside = _optuna_study(opened, f"{name} jobs")
            folder = Path(f"{storage}.workers") if is_journal else None
            presence = Presence(beside, folder)
            study = cls(optuna_study, opened, presence, Jobs(opened, beside, presence))
            if settings is not None:
                study.require("settings", settings)
            presence.refresh()
            if presence.others:
                check_shareable(storage)
            presence.enter()
            study._to_close = stack.pop_all()
        study.refresh(look=True)
        study.arrival = _arrival(study, torn)
        return study

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the study; nothing of this worker may be in flight."""
        with interrupts_wait(), suppress(StorageError), storage_errors():
            self._presence.leave()  # if this cannot be written, the free lock shows it
        self._to_close.close()

    def require(self, key: str, settings: Mapping[str, Any]) -> None:
        """Store ``settings`` in the study, or compare them with those it was begun with.

        Raises:
            StudyMismatchError: they differ; names the difference.
            StorageError: they cannot be written.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        with interrupts_wait(), storage_errors():
            if self.optuna_study.user_attrs.get(key) is None:
                self.optuna_study.set_user_attr(key, wanted)
            stored = self.optuna_study.user_attrs[key]
        if different := difference(stored, wanted):
            raise StudyMismatchError(f"the study was begun with {different}.")

    @property
    def seconds(self) -> float:
        """What ``keep_seconds`` has kept; 0 of a new study."""
        with interrupts_wait(), storage_errors():
            return float(self.optuna_study.user_attrs.get("seconds", 0.0))

    def keep_seconds(self, seconds: float) -> None:
        """Keep how long the search has taken by now, where no worker has kept more."""
        with interrupts_wait(), storage_errors():
            if seconds > self.seconds:
                self.optuna_study.set_user_attr("seconds", round(seconds, 3))

    @property
    def in_flight(self) -> frozenset[int]:
        """The numbers of the trials that other workers evaluate."""
        own = self._presence.worker
        return frozenset(n for n, b in self.population.begun.items() if b.worker != own)

    def refresh(self, look: bool = False) -> None:
        """Take in the evaluations that have finished since the last time, by whichever worker.

        Args:
            look: look for dead workers now; otherwise this happens every ten seconds.
        """
        with interrupts_wait(), storage_errors():
            self._read()
            if look or time.monotonic() - self._looked >= LOOK_EVERY:
                self._looked = time.monotonic()
                self._presence.refresh()
                if self._give_up_abandoned():
                    self._read()
                self.workers = 1 + len(self._presence.others)

    def next_draw(self, limit: int | None) -> int | None:
        """A free draw, or None while all ``limit`` draws are taken.

        A draw seeds the randomness of a candidate, so an interrupted search goes on as if it had
        not stopped. One worker takes the lowest free draw; several choose among the lowest ones.
        """
        workers = max(self.workers, 1 + len(self.in_flight))
        most = 1 if workers == 1 else SPREAD * workers
        free = self.population.free_draws(most, limit)
        return self._spread.choice(free) if free else None

    def begin(self, candidate: Candidate, draw: int) -> bool:
        """Begin an evaluation; False where another worker has the metric or the draw already.

        In that case nothing of this worker is in flight, and the population knows the other's.
        """
        trial = new_trial(candidate, draw, self._presence.worker)
        with interrupts_wait(), storage_errors():
            self._own = self._storage.create_new_trial(self._study_id, trial)
            number = self._storage.get_trial_number_from_id(self._own)
        self.refresh()
        if self.population.is_first(number):
            return True
        self.drop()
        return False

    def record(
        self,
        state: State,
        losses: Sequence[float],
        seconds: float,
        *,
        took: float = 0.0,
        error: str | None = None,
    ) -> None:
        """Finish the evaluation in flight, and take it in.

        If other workers have taken this one for dead and given the trial up, the measurement is
        lost.

        Args:
            state: "complete" (it finished the race), "raced_out" or "failed".
            losses: finite, in nats per token, of each chunk read.
            seconds: since the search began.
            took: seconds that the measurement took.
            error: why it failed.
        """
        assert self._own is not None
        measured: dict[str, Any] = {
            "state": state,
            "losses": list(losses),
            "chunks_read": len(losses),
            "seconds": round(seconds, 3),
            "took": round(took, 4),
        }
        if error:
            measured["error"] = error
        with interrupts_wait(), storage_errors():
            try:
                self._storage.set_trial_user_attr(self._own, "measured", measured)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.lost += 1
            else:
                finish(self._storage, self._own, measured)
            self._own = None
        self.refresh()

    def drop(self) -> None:
        """Give up the evaluation in flight, if there is one: it does not count."""
        with interrupts_wait(), storage_errors():
            if self._own is not None:
                finish(self._storage, self._own)
                self._own = None
        self.refresh()

    def _read(self) -> None:
        begun: dict[int, Begun] = {}
        for trial in trials_from(self._storage, self._study_id, self._first_unsettled):
            if trial.number in self._settled:
                continue
            try:
                if trial.state.is_finished():
                    self._settled.add(trial.number)
                    if "measured" in trial.user_attrs:
                        self.population.add(individual_of(trial))
                else:
                    begun[trial.number] = begun_of(trial)
            except _DAMAGE:
                raise damaged_trial(self._storage, trial) from None
        self.population.begun = begun
        while self._first_unsettled in self._settled:
            self._settled.remove(self._first_unsettled)
            self._first_unsettled += 1

    def _give_up_abandoned(self) -> bool:
        """Finish the trials of dead workers; False where there are none."""
        begun = self.population.begun.values()
        abandoned = [b.trial_id for b in begun if not self._presence.is_alive(b.worker)]
        for trial_id in abandoned:
            # a measurement is there if the worker was killed after writing it
            measured = self._storage.get_trial(trial_id).user_attrs.get("measured")
            if finish(self._storage, trial_id, measured) and not measured:
                self.lost += 1
        self.jobs.give_up_abandoned()
        self._presence.forget_dead()
        return bool(abandoned)


def _arrival(study: SearchStudy, torn: int) -> str | None:
    """What the study held when this worker came, in words; ``torn`` bytes were cut off."""
    others, count = study.workers - 1, len(study.population.individuals)
    if not (count or study.lost or torn or others):
        return None
    facts = [f"{count} evaluation{'s' * (count != 1)}"]
    if study.lost:
        facts.append(f"{study.lost} in flight lost")
    if study.in_flight:
        facts.append(f"{len(study.in_flight)} in flight with other workers")
    if torn:
        facts.append("a torn last line cut off")
    how = f"joined {others} worker{'s' * (others > 1)}" if others else "resumed"
    return f"{how}: {', '.join(facts)}"


def _optuna_study(storage: BaseStorage, name: str) -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna reports each new study
    common: dict[str, Any] = {
        "storage": storage,
        "sampler": optuna.samplers.RandomSampler(seed=0),  # never used: there are no params
        "pruner": optuna.pruners.NopPruner(),
        "study_name": name,
    }
    try:
        with suppress(KeyError):  # create_study writes even where the study exists
            return optuna.load_study(**common)
        return optuna.create_study(**common, direction="minimize", load_if_exists=True)
    finally:
        optuna.logging.set_verbosity(before)
