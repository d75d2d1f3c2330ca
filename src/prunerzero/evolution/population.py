"""The persistent study: one Optuna study is the population, the log and the queue.

What a trial holds, beside its state and its value (mean loss in nats per token):

- ``user_attrs["expression"]``: the canonical text, which is what was measured;
- ``user_attrs["proposal"]``: ``origin``, ``parents``, ``size``, ``ranking`` (key) and
  ``duplicates_skipped``, written with the expression before it is measured;
- ``user_attrs["measured"]``: ``state``, ``losses`` of each chunk, ``chunks_read``, ``seconds``,
  written once, afterwards.

``params`` is empty. A failed trial without ``measured`` was dropped in flight: it counts neither
as an evaluation nor as seen.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from prunerzero.evolution.interrupt import interrupts_wait
from prunerzero.evolution.records import Candidate, Individual, State
from prunerzero.evolution.storage import open_storage
from prunerzero.metrics.expression import Expression

STUDY_NAME = "search"

_OPTUNA_STATE = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class StudyMismatchError(ValueError):
    """The study was made with other settings, so that its losses cannot be compared."""


class Population:
    """What a study holds, kept in memory and brought up to date by ``refresh``.

    Any number of workers may share a study; each has its own ``Population``, through which it has
    at most one trial in flight.

    Attributes:
        study: the Optuna study.
        individuals: every finished evaluation; in trial order with one worker.
        living: those of them that can be parents: not failed.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.individuals: list[Individual] = []
        self.living: list[Individual] = []
        self._settled: set[int] = set()
        self._first_unsettled = 0
        self._dropped: list[int] = []
        self._seen: set[str] = set()
        self._in_flight: set[str] = set()
        self._trial: optuna.Trial | None = None

    @classmethod
    def open(
        cls,
        storage: str | Path | BaseStorage,
        settings: Mapping[str, Any] | None = None,
        *,
        alone: bool = True,
        name: str = STUDY_NAME,
    ) -> Population:
        """Open the study, or begin it.

        Args:
            storage: path of a journal file, the URL of a database, or an Optuna storage.
            settings: what losses depend on (model, text, sparsity …), as JSON takes it.
            alone: no other worker is at work on this study, so that running trials are those of
                dead workers: they are dropped, and a journal's torn last line is cut off.
            name: of the study in the storage.

        Raises:
            StudyMismatchError: the study was begun with other settings.
            ValueError: the path is of some other file, or SQLite with several workers, which it
                does not survive.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with interrupts_wait():
            study = optuna.create_study(
                storage=open_storage(storage, alone),
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: there are no params
                pruner=optuna.pruners.NopPruner(),
                study_name=name,
                direction="minimize",
                load_if_exists=True,
            )
            population = cls(study)
            if settings is not None:
                population.require("settings", settings)
            if alone:
                population._finish_abandoned()
        population.refresh()
        return population

    def require(self, key: str, settings: Mapping[str, Any]) -> None:
        """Keep ``settings`` with the study, or check that they are those it was begun with.

        Raises:
            StudyMismatchError: they are not; names what differs.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        found = self.study.user_attrs.get(key)
        if found is None:
            self.study.set_user_attr(key, wanted)
            return
        different = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
        if different:
            parts = (f"{k} {_shown(found.get(k))}, not {_shown(wanted.get(k))}" for k in different)
            raise StudyMismatchError(f"the study was begun with {'; '.join(parts)}.")

    def refresh(self) -> None:
        """Take in what has finished since the last time, by whichever worker."""
        with interrupts_wait():
            trials = self.study.get_trials(deepcopy=False)
        self._in_flight.clear()
        for trial in trials[self._first_unsettled :]:
            if trial.number in self._settled:
                continue
            if trial.state.is_finished():
                self._settle(trial)
            elif "proposal" in trial.user_attrs:
                self._in_flight.update(_keys(trial))
        while self._first_unsettled in self._settled:
            self._settled.remove(self._first_unsettled)
            self._first_unsettled += 1

    def _settle(self, trial: optuna.trial.FrozenTrial) -> None:
        self._settled.add(trial.number)
        if "measured" not in trial.user_attrs:
            self._dropped.insert(bisect_left(self._dropped, trial.number), trial.number)
            return
        individual = _individual(trial)
        self.individuals.append(individual)
        if individual.state != "failed":
            self.living.append(individual)
        self._seen.update(_keys(trial))

    def knows(self, text_or_ranking: str) -> bool:
        """Whether a metric of that canonical text or ranking key was or is being measured."""
        return text_or_ranking in self._seen or text_or_ranking in self._in_flight

    def ask(self) -> int:
        """Begin a trial; returns its draw: its number, dropped trials left out.

        The draw seeds the candidate's randomness, so that a search that was cut short goes on as if
        it had not been.
        """
        with interrupts_wait():
            self._trial = self.study.ask()
            number: int = self._trial.number
        return number - bisect_left(self._dropped, number)

    def announce(self, candidate: Candidate) -> None:
        """Write down what is about to be measured, for other workers to leave alone."""
        assert self._trial is not None
        with interrupts_wait():
            self._trial.set_user_attr("expression", str(candidate.expression))
            self._trial.set_user_attr(
                "proposal",
                {
                    "origin": candidate.origin,
                    "parents": list(candidate.parents),
                    "size": candidate.expression.size,
                    "ranking": candidate.ranking,
                    "duplicates_skipped": candidate.duplicates_skipped,
                },
            )

    def record(self, state: State, losses: Sequence[float], seconds: float) -> None:
        """Write down what was measured, and take it in.

        Args:
            state: finished the race ("complete"), raced out ("pruned") or failed.
            losses: finite, in nats per token, of each chunk read.
            seconds: since the search began.
        """
        assert self._trial is not None
        measured = {
            "state": state,
            "losses": list(losses),
            "chunks_read": len(losses),
            "seconds": round(seconds, 3),
        }
        with interrupts_wait():
            self._trial.set_user_attr("measured", measured)
            if losses:  # what the dashboard shows of a trial that was raced out
                self._trial.report(fmean(losses), len(losses))
            self._tell(self._trial.number, measured)
            self._trial = None
        self.refresh()

    def drop(self) -> None:
        """Give up the trial in flight, if there is one; it counts for nothing."""
        with interrupts_wait():
            if self._trial is not None:
                self.study.tell(self._trial.number, state=TrialState.FAIL)
                self._trial = None
        self.refresh()

    def judged(self, number: int) -> list[float]:
        """The losses of a finalist's chunks beyond the race, as far as they were written down."""
        return list(self.study.user_attrs.get(f"judged {number}", []))

    def write_judged(self, number: int, losses: Sequence[float]) -> None:
        """Keep them, so that a resumed search need not read those chunks again."""
        with interrupts_wait():
            self.study.set_user_attr(f"judged {number}", list(losses))

    def _finish_abandoned(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            measured = trial.user_attrs.get("measured")
            if measured:  # killed after the measurement was written: nothing is lost
                self._tell(trial.number, measured)
            else:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _tell(self, number: int, measured: Mapping[str, Any]) -> None:
        state = _OPTUNA_STATE[measured["state"]]
        value = fmean(measured["losses"]) if state == TrialState.COMPLETE else None
        self.study.tell(number, value, state=state)


def _keys(trial: optuna.trial.FrozenTrial) -> tuple[str, str]:
    return trial.user_attrs["expression"], trial.user_attrs["proposal"]["ranking"]


def _individual(trial: optuna.trial.FrozenTrial) -> Individual:
    proposal, measured = trial.user_attrs["proposal"], trial.user_attrs["measured"]
    candidate = Candidate(
        expression=Expression.parse(trial.user_attrs["expression"]),
        ranking=proposal["ranking"],
        origin=proposal["origin"],
        parents=tuple(proposal["parents"]),
        duplicates_skipped=proposal["duplicates_skipped"],
    )
    return Individual(
        number=trial.number,
        candidate=candidate,
        state=measured["state"],
        losses=tuple(measured["losses"]),
        seconds=measured["seconds"],
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
