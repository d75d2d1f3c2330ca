"""Measurements that any worker may make and that one makes once.

A second study beside the search holds them, and who is at work: each trial is a worker's claim to
one job, named in ``user_attrs["job"]``, and then its result. The storage puts claims in order, so
that the first one holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from prunerzero.evolution.interrupt import interrupts_wait
from prunerzero.evolution.presence import Presence
from prunerzero.evolution.storage import storage_errors


class Jobs:
    """The jobs of a study, as one worker sees them."""

    def __init__(self, storage: BaseStorage, study: optuna.Study, presence: Presence) -> None:
        self._storage = storage
        self._presence = presence
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def result(self, job: str) -> list[float] | None:
        """What the job gave; None where it is not done."""
        with interrupts_wait(), storage_errors():
            for trial in self._trials(job):
                if trial.state == TrialState.COMPLETE:
                    return list(trial.user_attrs["result"])
        return None

    def once(self, job: str, work: Callable[[], Sequence[float]]) -> list[float] | None:
        """The job's result: from the study, or worked out and put there.

        None where another worker is at it, or was faster to begin.
        """
        if (done := self.result(job)) is not None:
            return done
        if self._is_taken(job):
            return None
        with interrupts_wait(), storage_errors():
            claim = optuna.trial.create_trial(
                state=TrialState.RUNNING, user_attrs={"job": job, "worker": self._presence.worker}
            )
            own = self._storage.create_new_trial(self._study_id, claim)
        result: list[float] | None = None
        try:
            if not self._is_taken(job, before=own):
                result = list(work())
        finally:
            with interrupts_wait(), storage_errors():
                self._finish(own, result)
        # a claim that was in order before this one may have been done by now
        return self.result(job) if result is None else result

    def all_of(self, jobs: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, list[float]]:
        """The result of every job, each done by one of the workers; waits for the others."""
        results: dict[str, list[float]] = {}
        pause = 0.02
        while True:
            for job, work in jobs.items():
                if job not in results and (result := self.once(job, work)) is not None:
                    results[job] = result
            if len(results) == len(jobs):
                return results
            time.sleep(pause)  # other workers are at the rest
            pause = min(2 * pause, 1.0)

    def give_up_abandoned(self) -> None:
        """End the claims of dead workers, for whoever looks at the study."""
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if trial.state == TrialState.RUNNING and not self._presence.is_alive(
                trial.user_attrs["worker"]
            ):
                self._finish(trial._trial_id, None)

    def _is_taken(self, job: str, before: int | None = None) -> bool:
        """Whether a living worker has claimed it, before that trial if one is given."""
        with interrupts_wait(), storage_errors():
            self._presence.refresh()
            return any(
                trial.state == TrialState.COMPLETE
                or (
                    trial.state == TrialState.RUNNING
                    and self._presence.is_alive(trial.user_attrs["worker"])
                )
                for trial in self._trials(job)
                if before is None or trial._trial_id < before
            )

    def _trials(self, job: str) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return [t for t in trials if t.user_attrs["job"] == job]

    def _finish(self, trial_id: int, result: list[float] | None) -> None:
        try:
            if result is None:
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
                return
            self._storage.set_trial_user_attr(trial_id, "result", result)
            value = fmean(result) if result else 0.0
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # it was taken for dead meanwhile
