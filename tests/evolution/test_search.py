from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace

import optuna
import pytest
from toy_fitness import HALF, ToyFitness, run_search, settings

from prunerzero.evolution import (
    Progress,
    SearchResult,
    SearchSettings,
    SearchStudy,
    StudyMismatchError,
    search,
)
from prunerzero.evolution.breeding import Breeder
from prunerzero.evolution.pareto import is_as_good
from prunerzero.evolution.records import Candidate
from prunerzero.evolution.settings import VARIATIONS
from prunerzero.metrics import Expression, canonical
from prunerzero.scoring.ranking import ranking_key

loop = sys.modules[search.__module__]


both_ways = pytest.mark.parametrize("ahead", [False, True], ids=["at once", "ahead"])


def course(result: SearchResult) -> list[tuple[object, ...]]:
    """What must repeat: everything but clock times."""
    return [
        (e.expression, e.state, e.loss, e.chunks_read, e.origin, e.duplicates_skipped)
        for e in result.evaluations
    ]


def test_a_search_finds_a_planted_metric_and_beats_random_search() -> None:
    planted = ToyFitness().mean("W * sqrt(X) * G")
    evolved = median(run_search(ToyFitness(), 120, seed=seed).loss or 9 for seed in range(3))
    random = median(
        run_search(ToyFitness(), 120, seed=seed, strategy="random").loss or 9 for seed in range(3)
    )
    assert evolved <= planted + 0.002
    assert evolved < random


def test_the_extended_operators_are_searched_too() -> None:
    result = run_search(ToyFitness("rownorm(W) * X ** 0.3"), 120, operators="extended")
    used = {
        n.name for e in result.evaluations for _, n in Expression.parse(e.expression).subtrees()
    }
    assert used & {"ediv", "epow", "rownorm", "colnorm", "max", "min"}
    assert "constant" in used


@both_ways
def test_duplicates_are_never_evaluated_neither_by_text_nor_by_ranking(
    toy: ToyFitness, ahead: bool
) -> None:
    result = run_search(toy, 120, ahead=ahead)
    assert len(toy.asked) == 120
    assert len({str(e) for e in toy.asked}) == 120
    assert len({ranking_key(e, toy.probes, HALF) for e in toy.asked}) == 120
    assert result.duplicates_skipped == sum(e.duplicates_skipped for e in result.evaluations) > 0


def test_what_is_stored_is_what_was_measured_and_is_canonical(toy: ToyFitness) -> None:
    result = run_search(toy, 40)
    assert [e.expression for e in result.evaluations] == list(map(str, toy.asked))
    assert all(e == canonical(e, "row") for e in toy.asked)


@both_ways
def test_a_seed_repeats_and_another_differs(ahead: bool) -> None:
    first, again, other = (run_search(ToyFitness(), 60, seed=s, ahead=ahead) for s in (1, 1, 2))
    assert course(first) == course(again)
    assert first.finalists == again.finalists
    assert course(first) != course(other)


@both_ways
def test_a_resumed_search_is_the_same_as_an_uninterrupted_one(journal: Path, ahead: bool) -> None:
    whole = run_search(ToyFitness(), 70, ahead=ahead)
    part = run_search(ToyFitness(), 45, journal, ahead=ahead)
    toy = ToyFitness()
    rest = run_search(toy, 70, journal, ahead=ahead)
    assert (part.resumed_from, rest.resumed_from) == (0, 45)
    assert len(toy.asked) == 25
    assert course(rest) == course(whole)
    assert rest.finalists == whole.finalists
    assert rest.duplicates_skipped == whole.duplicates_skipped


class Timed(ToyFitness):
    """Each chunk takes a second, and nothing else takes any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        clock = SimpleNamespace(monotonic=lambda: float(self.read), sleep=time.sleep)
        monkeypatch.setattr(loop, "time", clock)


def test_the_time_of_a_search_is_that_of_all_its_sessions_together(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Timed(monkeypatch)
    assert run_search(first, 30, journal).seconds == first.read
    again = Timed(monkeypatch)
    assert run_search(again, 30, journal).seconds == first.read and again.read == 0
    more = Timed(monkeypatch)
    later = run_search(more, 40, journal)
    assert later.seconds == first.read + more.read
    ends = [e.seconds for e in later.evaluations]
    assert ends == sorted(ends) and ends[29] < first.read < ends[30]


def test_the_time_of_judging_that_was_cut_short_is_kept(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "judging":
            raise KeyboardInterrupt

    first = Timed(monkeypatch)
    assert run_search(first, 30, journal, on_progress=interrupt).seconds == first.read
    rest = Timed(monkeypatch)
    assert run_search(rest, 30, journal).seconds == first.read + rest.read


def test_a_finished_search_of_a_given_time_has_none_left_when_run_again(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_search(Timed(monkeypatch), None, journal, seconds=150)  # type: ignore[arg-type]
    again = Timed(monkeypatch)
    after = run_search(again, None, journal, seconds=150)  # type: ignore[arg-type]
    assert again.read == 0 and course(after) == course(before)


def test_a_finished_search_measures_nothing_when_run_again(journal: Path) -> None:
    before = run_search(ToyFitness(), 30, journal)
    toy = ToyFitness()
    after = run_search(toy, 30, journal)
    assert toy.read == 0
    assert (after.expression, after.finalists) == (before.expression, before.finalists)


class Patient(ToyFitness):
    """Waits in all evaluations but the last until another candidate has been proposed."""

    def __init__(self, evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.evaluations = evaluations
        self.proposed = 0
        self.changed = threading.Condition()
        propose = Breeder.propose

        def watched(breeder: Breeder, draw: int) -> Candidate | None:
            found = propose(breeder, draw)
            with self.changed:
                self.proposed += 1
                self.changed.notify()
            return found

        monkeypatch.setattr(Breeder, "propose", watched)

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        wanted = len(self.asked) + 2
        if start == 0 and wanted <= self.evaluations:
            with self.changed:
                assert self.changed.wait_for(lambda: self.proposed >= wanted, timeout=30)
        yield from super().losses(expression, start, stop)


def test_the_next_is_proposed_while_one_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_search(Patient(20, monkeypatch), 20, ahead=True)
    assert len(result.evaluations) == 20


class Interrupting(ToyFitness):
    """Ctrl-C in the third chunk of the n-th evaluation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.closed = False

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        try:
            for loss in super().losses(expression, start, stop):
                if start == 0 and len(self.asked) == self.at:
                    raise KeyboardInterrupt
                yield loss
        finally:
            self.closed = True


@both_ways
def test_ctrl_c_drops_the_evaluation_in_flight_and_keeps_the_rest(
    journal: Path, ahead: bool
) -> None:
    toy = Interrupting(at=31)
    result = run_search(toy, 60, journal, ahead=ahead)
    assert result.interrupted
    assert len(result.evaluations) == 30
    assert result.expression is not None and result.chunks == toy.chunks
    resumed = run_search(ToyFitness(), 60, journal, ahead=ahead)
    assert not resumed.interrupted
    assert course(resumed) == course(run_search(ToyFitness(), 60, ahead=ahead))


def test_ctrl_c_while_finalists_are_judged_still_gives_a_result(toy: ToyFitness) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "judging":
            raise KeyboardInterrupt

    result = run_search(toy, 30, on_progress=interrupt)
    assert result.interrupted
    assert len(result.finalists) == 1


def test_a_search_stops_when_it_is_told_to(toy: ToyFitness) -> None:
    result = run_search(toy, 60, should_stop=lambda: len(toy.asked) == 20)
    assert result.interrupted
    assert len(result.evaluations) == 20


class Troubled(ToyFitness):
    """NaN, infinity, overflow, too little memory or an error for most metrics."""

    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        trouble = expression.size % 6
        for loss in super().losses(expression, start, stop):
            if trouble == 0:
                raise OverflowError
            if trouble == 1:
                raise ValueError("the metric gives NaN")
            if trouble == 4:
                raise MemoryError
            yield {2: math.nan, 3: math.inf}.get(trouble, loss)


def test_a_metric_that_cannot_be_measured_costs_one_evaluation_never_the_run() -> None:
    result = run_search(Troubled(), 60)
    assert len(result.evaluations) == 60
    failed = [e for e in result.evaluations if e.state == "failed"]
    assert len(failed) == result.failed > 20
    assert all(e.loss is None and e.perplexity is None for e in failed)
    assert result.expression is not None


def test_a_metric_that_takes_far_longer_than_others_is_given_up(
    toy: ToyFitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SLOWEST_SECONDS", 0.0)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(ToyFitness):
        def losses(
            self, expression: Expression, start: int = 0, stop: int | None = None
        ) -> Iterator[float]:
            for loss in super().losses(expression, start, stop):
                clock[0] += 50.0 if expression.size >= 9 else 1.0
                yield loss

    result = run_search(Slow(), 100, noise_margin=math.inf)
    slow = [e for e in result.evaluations if e.size >= 9]
    assert sum(e.state == "failed" for e in slow) >= len(slow) - 5 > 0
    assert all(e.chunks_read < toy.chunks for e in slow if e.state == "failed")
    assert all(e.state == "complete" for e in result.evaluations if e.size < 9)


class Hopeless(ToyFitness):
    def losses(
        self, expression: Expression, start: int = 0, stop: int | None = None
    ) -> Iterator[float]:
        raise ValueError("nothing can be measured")


def test_a_search_in_which_everything_fails_ends_without_a_metric() -> None:
    result = run_search(Hopeless(), 15)
    assert result.failed == 15
    assert (result.expression, result.loss, result.finalists) == (None, None, ())


def test_racing_reads_fewer_chunks_and_discards_nothing_better_than_the_best() -> None:
    toy = ToyFitness(chunks=8)
    result = run_search(toy, 150, finalists=1, screened=1, places=1)
    assert toy.read < 0.5 * 150 * toy.chunks
    discarded = [e for e in result.evaluations if e.state == "raced_out"]
    assert len(discarded) == result.raced_out > 75
    assert all(e.chunks_read in {1, 2, 4} for e in discarded)
    best = min(e.loss for e in result.evaluations if e.state == "complete" and e.loss)
    for e in discarded:
        assert fmean(toy.losses(Expression.parse(e.expression), 0, toy.chunks)) > best


def test_racing_for_ten_places_discards_nothing_of_the_best_twentieth() -> None:
    toy = ToyFitness(chunks=8)
    result = run_search(toy, 150, finalists=1, screened=1, places=10)
    assert toy.read < 0.6 * 150 * toy.chunks
    full = {
        e.number: fmean(toy.losses(Expression.parse(e.expression), 0, toy.chunks))
        for e in result.evaluations
    }
    best = sorted(full, key=lambda number: full[number])[:8]
    assert all(e.state == "complete" for e in result.evaluations if e.number in best)


def test_without_racing_every_candidate_is_read_to_the_end(toy: ToyFitness) -> None:
    result = run_search(toy, 40, finalists=1, noise_margin=math.inf)
    assert {e.state for e in result.evaluations} == {"complete"}
    assert {e.chunks_read for e in result.evaluations} == {toy.chunks}


def test_finalists_are_judged_on_all_chunks_the_best_first(toy: ToyFitness) -> None:
    result = run_search(toy, 60)
    assert result.chunks == toy.total_chunks
    assert len(result.finalists) >= 10
    assert [f.loss for f in result.finalists] == sorted(f.loss for f in result.finalists)
    for finalist in result.finalists:
        assert finalist.loss == pytest.approx(toy.mean(finalist.expression))


def test_the_winner_is_the_smallest_finalist_that_is_as_good_as_the_best(toy: ToyFitness) -> None:
    result = run_search(toy, 120)
    losses = {f.number: list(toy.losses(Expression.parse(f.expression))) for f in result.finalists}
    best = losses[result.finalists[0].number]
    equal = [f for f in result.finalists if is_as_good(losses[f.number], best)]
    assert result.expression in {f.expression for f in equal}
    assert Expression.parse(result.expression or "").size == min(f.size for f in equal)


def test_an_exhausted_search_space_ends_the_search(toy: ToyFitness) -> None:
    result = run_search(toy, 50, max_depth=0, max_size=1)
    assert {e.expression for e in result.evaluations} == {"W", "X", "G"}
    assert not result.interrupted


def test_no_expression_exceeds_the_limits(toy: ToyFitness) -> None:
    run_search(toy, 120, max_depth=3, max_size=7)
    assert all(e.depth <= 3 and e.size <= 7 for e in toy.asked)


def test_progress_tells_where_the_search_stands(toy: ToyFitness) -> None:
    told: list[Progress] = []
    result = run_search(toy, 30, on_progress=told.append)
    searching = [p for p in told if p.phase == "searching"]
    assert [p.evaluations for p in searching] == list(range(1, 31))
    assert len(told) - len(searching) == len(result.finalists)
    assert all(p.evaluations_per_second > 0 for p in told)
    losses = [p.best_loss for p in searching if p.best_loss is not None]
    assert losses == sorted(losses, reverse=True)
    last = told[-1]
    assert last.duplicates_skipped == result.duplicates_skipped
    assert last.raced_out == result.raced_out
    assert last.seconds_left == pytest.approx(0, abs=0.5)
    assert last.best_perplexity == pytest.approx(math.exp(last.best_loss or 0))


def test_finalists_whose_race_read_the_whole_text_are_not_pruned_for_again() -> None:
    class Watched(ToyFitness):
        begun: list[int] = []

        def losses(
            self, expression: Expression, start: int = 0, stop: int | None = None
        ) -> Iterator[float]:
            self.begun.append(start)
            return super().losses(expression, start, stop)

    result = run_search(Watched(chunks=6, total=6), 30)
    assert result.finalists and {*Watched.begun} == {0}


def test_a_budget_of_time_ends_the_search_and_keeps_time_to_judge(toy: ToyFitness) -> None:
    result = run_search(toy, None, seconds=0.5)  # type: ignore[arg-type]
    assert 0 < result.seconds < 2
    assert result.finalists
    assert not result.interrupted


def test_a_result_goes_to_json_as_it_is(toy: ToyFitness) -> None:
    result = run_search(toy, 30)
    read = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert read["expression"] == result.expression
    assert read["evaluations"][20]["parents"] == list(result.evaluations[20].parents)


def test_offspring_name_parents_that_were_there_before(toy: ToyFitness) -> None:
    for e in run_search(toy, 60).evaluations:
        assert len(e.parents) == {"random": 0, "crossover": 2}.get(e.origin, 1)
        assert all(parent < e.number for parent in e.parents)


def test_several_workers_on_one_journal_share_what_is_known(journal: Path) -> None:
    """Two workers, taking turns evaluation by evaluation."""
    toy = ToyFitness()
    workers = [SearchStudy.open(journal) for _ in range(2)]
    for turn in range(1, 41):
        search(
            toy,
            study=workers[turn % 2],
            settings=settings(turn, finalists=1),
            probes=toy.probes,
            sparsity=HALF,
        )
    assert len(toy.asked) == len({ranking_key(e, toy.probes, HALF) for e in toy.asked}) == 40


def test_other_chunks_than_the_studys_are_refused(journal: Path) -> None:
    run_search(ToyFitness(chunks=6), 5, journal)
    with pytest.raises(StudyMismatchError, match="chunks of the race 6, not 5"):
        run_search(ToyFitness(chunks=5), 10, journal)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"evaluations": None}, "needs a budget"),
        ({"evaluations": 0}, "evaluations must be at least 1, not 0"),
        ({"tournament": 0}, "tournament must be at least 1"),
        ({"crossover": -0.1}, "crossover must be at least 0"),
        ({"operators": "all"}, "operators must be"),
        ({"max_size": 0}, "no tree fits"),
        (
            dict.fromkeys(VARIATIONS, 0),
            "at least one of the weights",
        ),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSettings(**wrong)  # type: ignore[arg-type]


def test_the_study_opens_in_optunas_own_tools(journal: Path) -> None:
    run_search(ToyFitness(), 20, journal)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(journal))
    )
    study = optuna.load_study(study_name="search", storage=storage)
    assert len(study.trials) == 20
    assert study.best_value == min(t.value for t in study.trials if t.state.name == "COMPLETE")
