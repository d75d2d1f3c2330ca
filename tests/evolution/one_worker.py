"""A worker without a search: it begins evaluations, finishes them, or dies."""

from __future__ import annotations

from prunerzero.evolution import SearchStudy
from prunerzero.evolution.records import Candidate
from prunerzero.metrics import Expression


def candidate(formula: str) -> Candidate:
    return Candidate(Expression.parse(formula), f"ranking of {formula}", "random")


def begin(study: SearchStudy, formula: str) -> int:
    study.refresh()
    draw = study.next_draw(None)
    assert draw is not None
    assert study.begin(candidate(formula), draw)
    return draw


def die(study: SearchStudy) -> None:
    """What the death of its process does to a worker: its heart stops and its lock is free."""
    study._presence._leaving.set()
    study._presence._lock.release()


def measure(study: SearchStudy, formula: str, *losses: float) -> None:
    begin(study, formula)
    study.record("complete" if losses else "failed", losses, 1.5)
