"""Measurements that one worker makes for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_worker import die

from prunerzero.evolution import SearchStudy


def test_a_job_is_done_once_and_its_result_is_kept(journal: Path) -> None:
    first, second = SearchStudy.open(journal), SearchStudy.open(journal)
    asked: list[str] = []

    def work() -> list[float]:
        asked.append("first")
        assert second.jobs.once("judge 7", lambda: [0.0]) is None, "the first is at it"
        return [1.0, 2.0]

    assert first.jobs.result("judge 7") is None
    assert first.jobs.once("judge 7", work) == [1.0, 2.0]
    assert second.jobs.once("judge 7", work) == [1.0, 2.0]
    assert SearchStudy.open(journal).jobs.result("judge 7") == [1.0, 2.0]
    assert asked == ["first"]


def test_a_job_that_failed_or_whose_worker_died_is_free_again(journal: Path) -> None:
    def interrupted() -> list[float]:
        raise KeyboardInterrupt

    first = SearchStudy.open(journal)
    with pytest.raises(KeyboardInterrupt):
        first.jobs.once("judge 7", interrupted)
    assert first.jobs.once("judge 7", lambda: []) == []

    def dying() -> list[float]:
        die(first)
        other = SearchStudy.open(journal)
        assert other.jobs.once("judge 8", lambda: [2.0]) == [2.0]
        return [1.0]

    first.jobs.once("judge 8", dying)
    assert SearchStudy.open(journal).jobs.result("judge 8") == [2.0]
