"""What a trial of the study holds, beside its state and its value (mean loss in nats per token).

- ``user_attrs["expression"]``: the canonical text, which is what is measured;
- ``user_attrs["proposal"]``: ``draw`` (which seeds it), ``origin``, ``parents``, ``size``,
  ``ranking`` (key), ``duplicates_skipped`` and the ``worker`` that evaluates it;
- ``user_attrs["measured"]``: ``state``, ``losses`` of each chunk, ``chunks_read``, ``seconds``
  (since the search began), ``took`` (seconds of measuring) and ``error`` if there was one; written
  once, afterwards.

The first two are written with the trial itself, in one step that the storage puts in order.
``params`` is empty. A finished trial without ``measured`` was given up: it counts neither as an
evaluation nor as known, and its draw is drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from prunerzero.evolution.records import Begun, Candidate, Individual, State, read_state
from prunerzero.metrics.expression import Expression

_OPTUNA_STATE: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "raced_out": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def new_trial(candidate: Candidate, draw: int, worker: str) -> FrozenTrial:
    """A running trial of that worker, to be put into a study."""
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        user_attrs={
            "expression": str(candidate.expression),
            "proposal": {
                "draw": draw,
                "origin": candidate.origin,
                "parents": list(candidate.parents),
                "size": candidate.expression.size,
                "ranking": candidate.ranking,
                "duplicates_skipped": candidate.duplicates_skipped,
                "worker": worker,
            },
        },
    )


def finish(storage: BaseStorage, trial_id: int, measured: Mapping[str, Any] | None = None) -> bool:
    """End a trial; without a measurement it is given up. False if another worker has ended it."""
    state = _OPTUNA_STATE[read_state(measured["state"])] if measured else TrialState.FAIL
    values = None
    if measured and measured["losses"] and state != TrialState.FAIL:
        values = [fmean(measured["losses"])]
    try:
        # study.tell does the same, but reads the trial first
        storage.set_trial_state_values(trial_id, state, values)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    return True


def begun_of(trial: FrozenTrial) -> Begun:
    """The evaluation that a trial has begun."""
    proposal = trial.user_attrs["proposal"]
    return Begun(
        number=trial.number,
        trial_id=trial._trial_id,
        text=trial.user_attrs["expression"],
        ranking=proposal["ranking"],
        draw=proposal["draw"],
        worker=proposal["worker"],
    )


def individual_of(trial: FrozenTrial) -> Individual:
    """The individual of a trial that holds ``measured``."""
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
        state=read_state(measured["state"]),
        losses=tuple(map(float, measured["losses"])),
        seconds=measured["seconds"],
        draw=proposal["draw"],
    )
