"""The persistent study: one Optuna study is the population, the log and the queue.

``trials`` tells what a trial holds. Of two workers that propose the same metric, or the same draw,
at the same moment the one with the lower trial number has it.
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

from prunerzero.evolution.draws import Draws
from prunerzero.evolution.interrupt import interrupts_wait
from prunerzero.evolution.jobs import Jobs
from prunerzero.evolution.presence import Presence
from prunerzero.evolution.records import Candidate, Individual, State
from prunerzero.evolution.storage import (
    StorageError,
    close_storage,
    damaged_trial,
    is_database,
    open_storage,
    repair_journal,
    storage_errors,
    trials_from,
)
from prunerzero.evolution.trials import (
    draw_of,
    finish,
    individual_of,
    keys_of,
    new_trial,
    worker_of,
)
from prunerzero.identity import difference
from prunerzero.metrics import MetricError

STUDY_NAME = "search"

SPREAD = 8
"""Among how many draws, for each worker, several workers choose: the more, the less often two
choose the same while they propose."""

LOOK_EVERY = 10.0
"""Seconds between two looks for evaluations of workers that have died."""


class StudyMismatchError(ValueError):
    """The study was made with other settings, so that its losses cannot be compared."""


class Population:
    """What a study holds, kept in memory and brought up to date by ``refresh``.

    Any number of workers may share a study; each has its own ``Population``, through which it has
    at most one trial in flight. Use it in a ``with`` block, or ``close`` it: then the others know
    at once that this worker has left.

    Attributes:
        study: the Optuna study.
        individuals: every finished evaluation; in trial order with one worker.
        living: those of them that can be parents: not failed.
        workers: how many are at work, this one included, as of the last look.
        lost: evaluations in flight that were given up because their worker had died.
        arrival: what this worker found, in words; None where the study is new.
        jobs: what is to be measured once by whichever worker.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, presence: Presence, jobs: Jobs
    ) -> None:
        self.study = study
        self.individuals: list[Individual] = []
        self.living: list[Individual] = []
        self.workers = 1
        self.lost = 0
        self.arrival: str | None = None
        self.jobs = jobs
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._presence = presence
        self._settled: set[int] = set()
        self._first_unsettled = 0
        self._seen: set[str] = set()
        self._draws = Draws()
        self._in_flight: dict[int, optuna.trial.FrozenTrial] = {}
        self._in_flight_keys: set[str] = set()
        self._own: int | None = None
        self._own_trial: optuna.trial.FrozenTrial | None = None
        self._looked = time.monotonic()
        self._spread = Random(presence.worker)
        self._opened = ExitStack()  # what is to be closed with it

    @classmethod
    def open(
        cls,
        storage: str | Path | BaseStorage,
        settings: Mapping[str, Any] | None = None,
        *,
        name: str = STUDY_NAME,
    ) -> Population:
        """Open the study, or begin it. Evaluations that dead workers left in flight are given up.

        Args:
            storage: path of a journal file, the URL of a database, or an Optuna storage.
            settings: what losses depend on (model, text, sparsity …), as JSON takes it.
            name: of the study in the storage.

        Raises:
            StudyMismatchError: the study was begun with other settings.
            ValueError: the path is of some other file, the database cannot be used, or another
                worker uses the same SQLite file, which does not survive that.
            StorageError: the storage cannot be written.
        """
        is_journal = not isinstance(storage, BaseStorage) and not is_database(storage)
        if is_journal:  # its lock lies beside the file itself, by whatever link it is named
            storage = Path(os.path.realpath(str(storage)))
        with ExitStack() as stack, interrupts_wait(), storage_errors():
            torn = repair_journal(Path(str(storage))) if is_journal else 0
            opened = open_storage(storage)
            if opened is not storage:
                stack.callback(close_storage, opened)
            study = _study(opened, name)
            beside = _study(opened, f"{name} jobs")
            folder = Path(f"{storage}.workers") if is_journal else None
            presence = Presence(beside, folder)
            population = cls(study, opened, presence, Jobs(opened, beside, presence))
            if settings is not None:
                population.require("settings", settings)
            presence.refresh()
            if str(storage).startswith("sqlite") and presence.others:
                raise ValueError("SQLite does not bear several workers; use a journal.")
            presence.enter()
            population._opened = stack.pop_all()
        population.refresh(look=True)
        population.arrival = population._describe_arrival(torn)
        return population

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
        """Leave: nothing of this worker is in flight."""
        with interrupts_wait(), suppress(StorageError), storage_errors():
            self._presence.leave()  # what cannot be written, the lock tells
        self._opened.close()

    def require(self, key: str, settings: Mapping[str, Any]) -> None:
        """Keep ``settings`` with the study, or check that they are those it was begun with.

        Raises:
            StudyMismatchError: they are not; names what differs.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        if self.study.user_attrs.get(key) is None:
            self.study.set_user_attr(key, wanted)
        if different := difference(self.study.user_attrs[key], wanted):
            raise StudyMismatchError(f"the study was begun with {different}.")

    @property
    def in_flight(self) -> frozenset[int]:
        """The trials that other workers are at."""
        return frozenset(self._in_flight)

    def refresh(self, look: bool = False) -> None:
        """Take in what has finished since the last time, by whichever worker.

        Args:
            look: for dead workers too, as is done every ten seconds without being asked.
        """
        with interrupts_wait(), storage_errors():
            self._read()
            if look or time.monotonic() - self._looked >= LOOK_EVERY:
                self._looked = time.monotonic()
                self._presence.refresh()
                if self._give_up_abandoned():
                    self._read()
                self.workers = 1 + len(self._presence.others)

    def _read(self) -> None:
        self._in_flight = {}
        for trial in trials_from(self._storage, self._study_id, self._first_unsettled):
            if trial.number in self._settled:
                continue
            if trial.state.is_finished():
                self._settle(trial)
            elif trial._trial_id != self._own:
                self._in_flight[trial.number] = trial
        self._in_flight_keys = {key for t in self._in_flight.values() for key in keys_of(t)}
        while self._first_unsettled in self._settled:
            self._settled.remove(self._first_unsettled)
            self._first_unsettled += 1

    def _settle(self, trial: optuna.trial.FrozenTrial) -> None:
        self._settled.add(trial.number)
        if "measured" not in trial.user_attrs:
            return
        try:
            individual = individual_of(trial)
        except (LookupError, TypeError, ValueError, AttributeError, MetricError):
            raise damaged_trial(self._storage, trial) from None
        self.individuals.append(individual)
        if individual.state != "failed":
            self.living.append(individual)
        self._seen.update(keys_of(trial))
        self._draws.add(draw_of(trial))

    def _give_up_abandoned(self) -> bool:
        """Finish the trials of dead workers; whether there were any."""
        abandoned = [
            trial
            for trial in self._in_flight.values()
            if not self._presence.is_alive(worker_of(trial))
        ]
        for trial in abandoned:
            measured = trial.user_attrs.get("measured")
            if measured:  # killed after the measurement was written: nothing is lost
                finish(self._storage, trial._trial_id, measured)
            elif finish(self._storage, trial._trial_id):
                self.lost += 1
        self.jobs.give_up_abandoned()
        self._presence.bury()
        return bool(abandoned)

    def knows(self, text_or_ranking: str) -> bool:
        """Whether a metric of that canonical text or ranking key was or is being measured."""
        own = keys_of(self._own_trial) if self._own_trial else ()
        return any(text_or_ranking in keys for keys in (self._seen, self._in_flight_keys, own))

    def knows_any(self, candidate: Candidate) -> bool:
        """Whether its canonical text or ranking key is known."""
        return self.knows(str(candidate.expression)) or self.knows(candidate.ranking)

    def next_draw(self, limit: int | None) -> int | None:
        """A draw that nobody has, unless ``limit`` draws are taken: then None, for now.

        The draw seeds the candidate's randomness, so that a search that was cut short goes on as if
        it had not been. It is the lowest one; several workers spread over the lowest few.
        """
        begun = [*self._in_flight.values(), *filter(None, [self._own_trial])]
        workers = max(self.workers, 1 + len(self._in_flight))
        most = 1 if workers == 1 else SPREAD * workers
        free = self._draws.free(map(draw_of, begun), most, limit)
        return self._spread.choice(free) if free else None

    def begin(self, candidate: Candidate, draw: int) -> bool:
        """Write down what is about to be measured; False where another worker was faster.

        Then nothing is in flight, and what the other one does is known.
        """
        trial = new_trial(candidate, draw, self._presence.worker)
        with interrupts_wait(), storage_errors():
            self._own = self._storage.create_new_trial(self._study_id, trial)
            number = self._storage.get_trial_number_from_id(self._own)
        self.refresh()
        keys = set(keys_of(trial))
        earlier = [t for n, t in self._in_flight.items() if n < number]
        is_measured = draw in self._draws or keys & self._seen
        if is_measured or any(draw_of(t) == draw or keys.intersection(keys_of(t)) for t in earlier):
            self.drop()
            return False
        self._own_trial = trial
        return True

    def record(
        self,
        state: State,
        losses: Sequence[float],
        seconds: float,
        *,
        took: float = 0.0,
        error: str | None = None,
    ) -> None:
        """Write down what was measured, and take it in.

        If other workers took this one for dead in the meantime, they have given the trial up, and
        what was measured is lost.

        Args:
            state: "complete" (it finished the race), "raced_out" or "failed".
            losses: finite, in nats per token, of each chunk read.
            seconds: since the search began.
            took: seconds that measuring took.
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
            self._own = self._own_trial = None
        self.refresh()

    def drop(self) -> None:
        """Give up the trial in flight, if there is one; it counts for nothing."""
        with interrupts_wait(), storage_errors():
            if self._own is not None:
                finish(self._storage, self._own)
                self._own = self._own_trial = None
        self.refresh()

    def _describe_arrival(self, torn: int) -> str | None:
        others = self.workers - 1
        if not (self.individuals or self.lost or torn or others):
            return None
        count = len(self.individuals)
        found = [f"{count} evaluation{'s' * (count != 1)}"]
        if self.lost:
            found.append(f"{self.lost} in flight lost")
        if self._in_flight:
            found.append(f"{len(self._in_flight)} in flight with other workers")
        if torn:
            found.append("a torn last line cut off")
        what = f"joined {others} worker{'s' * (others > 1)}" if others else "resumed"
        return f"{what}: {', '.join(found)}"


def _study(storage: BaseStorage, name: str) -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study that it makes
    common: dict[str, Any] = {
        "storage": storage,
        "sampler": optuna.samplers.RandomSampler(seed=0),  # never asked: there are no params
        "pruner": optuna.pruners.NopPruner(),
        "study_name": name,
    }
    try:
        with suppress(KeyError):  # creating writes even where the study is there already
            return optuna.load_study(**common)
        return optuna.create_study(**common, direction="minimize", load_if_exists=True)
    finally:
        optuna.logging.set_verbosity(before)
