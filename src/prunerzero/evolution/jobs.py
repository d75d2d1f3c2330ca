"""Measurements that are made once, by whichever worker of a study.

They are in a second Optuna study beside the search, together with the entries of ``presence``. Each
trial is a worker's claim to a job, named in ``user_attrs["job"]``, and later the job's result. The
storage numbers the trials in order, so the first claim of a living worker holds.

Optuna's own queue (``enqueue_trial``) does not replace this: workers that arrive together would
each put the same job into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        """The job's result; None where it is not done."""
        with interrupts_wait(), storage_errors():
            for trial in self._claims(job):
                if trial.state == TrialState.COMPLETE:
                    return list(trial.user_attrs["result"])
        return None

    def once(self, job: str, work: Callable[[], Sequence[float]]) -> list[float] | None:
        """The job's result, from the study or by doing the work; None while another worker does it.

        Args:
            job: the name of the job.
            work: does it.
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
        # the worker with the earlier claim may have finished by now
        return self.result(job) if result is None else result

    def each(
        self, jobs: Mapping[str, Callable[[], Sequence[float]]]
    ) -> Iterator[tuple[str, list[float]]]:
        """The name and result of each job, as they are done.

        This worker does the jobs that no other worker does, and waits for the rest.

        Args:
            jobs: the work of each job, by its name.
        """
        left = dict(jobs)
        pause = 0.02
        while True:
            for job, work in list(left.items()):
                if (result := self.once(job, work)) is not None:
                    del left[job]
                    yield job, result
            if not left:
                return
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def all_of(self, jobs: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, list[float]]:
        """The result of each job, by its name, when all are done; see ``each``."""
        return dict(self.each(jobs))

    def give_up_abandoned(self) -> None:
        """End the claims of dead workers."""
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if trial.state == TrialState.RUNNING and not self._is_held(trial):
                self._finish(trial._trial_id, None)

    def _is_taken(self, job: str, before: int | None = None) -> bool:
        """Whether the job is done or a living worker does it.

        Args:
            job: the name of the job.
            before: regard only the claims with a lower trial ID.
        """
        with interrupts_wait(), storage_errors():
            self._presence.refresh()
            claims = [c for c in self._claims(job) if before is None or c._trial_id < before]
            return any(c.state == TrialState.COMPLETE or self._is_held(c) for c in claims)

    def _is_held(self, claim: FrozenTrial) -> bool:
        worker = claim.user_attrs["worker"]
        return claim.state == TrialState.RUNNING and self._presence.is_alive(worker)

    def _claims(self, job: str) -> list[FrozenTrial]:
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
            pass  # other workers took this one for dead in the meantime
