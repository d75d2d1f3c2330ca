"""How much the demo reads on a machine of some speed, and that it searches long enough there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.metrics import CATALOG
from prunerzero.tasks import demo, demo_plan
from prunerzero.tasks.demo_plan import AMOUNTS, MOST_SECONDS, SECONDS, plan_for
from prunerzero.tasks.setup import Setup


@given(st.floats(1e-4, 1.0), st.floats(0, 20))
def test_the_whole_fits_unless_the_least_amounts_do_not(window_seconds, spent):
    plan = plan_for(window_seconds, spent)
    amounts = (plan.validation, plan.test, plan.calibration)
    assert plan.seconds <= (MOST_SECONDS if plan.is_reduced else SECONDS) or amounts == AMOUNTS[-1]
    assert plan.search_seconds >= demo_plan.LEAST_SEARCH_SECONDS


@given(st.floats(1e-4, 1.0), st.floats(1, 10))
def test_a_slower_machine_never_reads_more(window_seconds, slower):
    fast, slow = plan_for(window_seconds), plan_for(window_seconds * slower)
    assert slow.validation <= fast.validation and slow.calibration <= fast.calibration


def test_two_idle_cores_read_all_within_three_minutes():
    plan = plan_for(0.025)
    assert not plan.is_reduced and plan.seconds < 180


def test_on_a_slow_machine_a_demo_reads_less_and_still_makes_its_evaluations(
    in_workplace, workplace, monkeypatch
):
    """The clock says that a window takes a tenth of a second; the search is out of time at once."""
    small = Setup(
        model=str(workplace / "model"),
        **{part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")},
        num_calibration_samples=16,
        num_validation_samples=16,
        num_test_samples=16,
    )
    monkeypatch.setattr(demo, "DEMO_SETUP", small)
    monkeypatch.setattr(demo_plan, "AMOUNTS", ((16, 16, 16), (4, 4, 4)))
    monkeypatch.setattr(demo_plan, "LEAST_SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(demo, "time_a_window", lambda work: 0.1)
    monkeypatch.setattr(demo, "plan_for", lambda window, spent: replace(
        plan_for(100 * window, spent), search_seconds=0.0
    ))  # fmt: skip
    monkeypatch.setattr(demo, "LEAST_EVALUATIONS", 15)
    done = in_workplace("demo", "--output-dir", "slow", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads((workplace / "slow" / "summary.json").read_text())
    assert "this demo takes about" in done.stderr and "it is slow" in done.stderr
    assert summary["windows"] == {"calibration": 4, "validation": 4, "test": 4}
    assert summary["evaluations"] >= 15
    measured = summary["perplexity"]["validation"]
    assert set(measured) == {"dense", "evolved", *CATALOG}
    known = {name: measured[name] for name in CATALOG}
    if summary["origin"] == "known":
        assert summary["name"] == min(known, key=known.get)
        assert summary["metric"] == summary["catalog"][summary["name"]]
    else:
        assert measured["evolved"] < min(known.values())


@pytest.mark.parametrize("evaluations", [80])
def test_the_least_is_eighty(evaluations):
    assert demo.LEAST_EVALUATIONS == demo_plan.LEAST_EVALUATIONS == evaluations
