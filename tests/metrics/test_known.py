"""The known metrics have one owner, and each has a name that every command reads."""

from __future__ import annotations

import pytest

from prunerzero.metrics import CATALOG, canonical, find_metric, known_metrics
from prunerzero.metrics.catalog import power_law


def test_the_catalog_and_a_grid_of_power_laws_are_known_each_once() -> None:
    known = known_metrics()
    assert [*known][: len(CATALOG)] == [*CATALOG]
    forms = {canonical(metric.expression) for metric in known.values()}
    assert len(forms) == len(known)
    for a in (0, 0.25, 0.5, 0.75, 1):
        for b in (0, 0.25, 0.5, 0.75, 1):
            assert canonical(power_law(a, b).expression) in forms
    assert len(known) == len(CATALOG) + 25 - len(["magnitude", "wanda", "fisher", "power-law"])


@pytest.mark.parametrize("name", known_metrics())
def test_its_name_is_read_as_the_same_metric(name: str) -> None:
    assert find_metric(name).expression == known_metrics()[name].expression
    assert find_metric(name).name == name
