"""Which metric a pattern is answered with."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import SimpleNamespace

import pytest

from prunerzero import Sparsity
from prunerzero.evolution import SearchSettings
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.tune_result import Limit
from prunerzero.tasks.tuning import course
from prunerzero.tasks.tuning.bench import Measured

PATTERN = Sparsity.parse("2:4")


class Bench:
    """The dense model has perplexity 10, every known metric 40, an evolved one what it is given."""

    def __init__(self, evolved: float) -> None:
        self.evolved = evolved
        self.work = SimpleNamespace(
            observer=Observer(),
            texts=lambda part: [SimpleNamespace(name="mine.txt")],
            places=lambda part: [part],
        )

    def dense(self, part: str, windows: int | None = None) -> Measured:
        return Measured((log(10),), 0.0)

    def pruned(self, metric, sparsity, part: str, windows: int | None = None, **_) -> Measured:
        return Measured((log(self.evolved if metric.name == course.EVOLVED else 40),), 0.0)


@pytest.mark.parametrize("limit", [0.5, 2.5, 5.0])
@pytest.mark.parametrize("evolved", [12.0, 30.0, 39.0, 41.0])
def test_the_better_metric_answers_within_the_limit_or_beyond_it(limit, evolved, monkeypatch):
    found = SimpleNamespace(metric="W * exp(X * G)", interrupted=False, evaluations=3)
    monkeypatch.setattr(course, "search_in", lambda *args, **options: (found, None))
    asked = course.Course(Bench(evolved), Limit("degradation", limit, 10 * (1 + limit)))
    answer = asked.run(PATTERN, ["row"], SearchSettings(evaluations=3), Path("unused"))
    assert (answer.metric.name == course.EVOLVED) == (evolved < 40)
    assert answer.reached == (min(evolved, 40) / 10 - 1 <= limit)
