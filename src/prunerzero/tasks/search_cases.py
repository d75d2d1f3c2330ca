"""A search on models and texts that are at hand: measure, evolve, judge, tell what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from prunerzero import evolution
from prunerzero.errors import InputError
from prunerzero.exponential import exp
from prunerzero.files import make_folder, write_json
from prunerzero.metrics import Expression, Sparsity
from prunerzero.tasks.best_of_all import Choice, Known, choose, choose_now
from prunerzero.tasks.case_figures import dense_doubts, figures_of, told_cases
from prunerzero.tasks.cases import (
    Cases,
    refit_of_candidates,
)
from prunerzero.tasks.doubts import one_text_doubt, told
from prunerzero.tasks.known_metrics import KnownMetrics
from prunerzero.tasks.metric_sources import BEST, HISTORY
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.search_result import Found, mean_ratios, measured_as
from prunerzero.tasks.shared_study import SharedRatios, open_study
from prunerzero.tasks.twins import Twins
from prunerzero.tasks.unseen import check_windows_unseen, judged_doubts
from prunerzero.tasks.workspace import Workspace

JOURNAL = "journal.log"
"""The study, in the folder of a run: population, log and queue."""

_Figures = dict[str, dict[str, float]]
"""Perplexities of metrics, by text and name."""


def search_in(
    work: Workspace,
    sparsity: Sparsity,
    folder: Path,
    settings: evolution.SearchSettings,
    refit: RefitOptions = RefitOptions(),
    *,
    test: bool = True,
) -> tuple[Found, evolution.SearchResult]:
    """``search`` for a workspace that is open already; also gives the course of the search.

    Without ``test`` the test text is left unread.
    """
    cases = Cases((work,), (sparsity,))
    found, result = search_cases(cases, folder, settings, folder / JOURNAL, refit, test=test)
    write_run(folder, found, result)
    return found, result


def write_run(folder: Path, found: Found, result: evolution.SearchResult) -> None:
    """What was found, and each evaluation, into the folder of the run."""
    history = [measured_as(asdict(one), found.cases) for one in result.evaluations]
    write_json(folder / HISTORY, history)
    write_json(folder / BEST, asdict(found))


def search_cases(
    cases: Cases,
    folder: Path,
    settings: evolution.SearchSettings,
    storage: str | Path,
    refit: RefitOptions = RefitOptions(),
    *,
    test: bool = True,
    given: Mapping[str, str] = {},
) -> tuple[Found, evolution.SearchResult]:
    """Measure the known metrics, evolve others, and judge which is the best; writes no result.

    Args:
        cases: each model at each sparsity.
        folder: of the run, made where it is missing.
        settings: of the evolution.
        storage: of the study, which is made or gone on with.
        refit: what is done with masks before a metric is judged.
        test: whether the test text is read, where there is one.
        given: names of the metrics that the search begins with.

    Raises:
        InputError: what was evaluated is kept.
        KeyboardInterrupt: before anything was measured.
    """
    observer = cases.works[0].observer
    cases.check()
    for work in cases.works:
        if test and work.texts.has("test"):
            check_windows_unseen(work.texts)
    shared_text = told(doubt for work in cases.works for doubt in judged_doubts(work.texts))
    called = _called(cases)
    identity = cases.identity(settings, refit)
    if Path(storage).exists():
        with open_study(storage, identity):
            pass  # another search is refused before statistics take their time
    (probes, sparsity), *also = cases.samples(settings.terminals)
    fitness = cases.fitness(settings.terminals, refit)
    make_folder(folder)
    with open_study(storage, identity) as study:
        if study.arrival:
            observer.arrival(study.arrival)
        lost_before = study.lost
        measuring = figures_of(cases, study, refit, test)
        for one in measuring:
            one.try_dense()
        for doubt in (*shared_text, *dense_doubts(measuring)):
            observer.note(doubt)
        of_candidates = refit_of_candidates(refit)
        after = "" if of_candidates == refit.in_words else of_candidates
        if after:
            observer.note(
                f"Candidates are judged after {after}; the result is measured after "
                f"{refit.in_words} in full."
            )
        known = KnownMetrics(fitness, study.jobs, settings.terminals, given)
        known.measure()
        result = evolution.search(
            fitness,
            study=study,
            settings=settings,
            probes=probes,
            sparsity=sparsity,
            also=also,
            on_progress=lambda now: observer.search(
                replace(now, is_rise=cases.count > 1, after=after)
            ),
            ahead=any(work.language_model.device.type != "cpu" for work in cases.works),
        )
        if lost := study.lost - lost_before:
            observer.note(f"in flight with workers that died, and lost: {lost}")
        each = [one.shared for one in measuring]
        shared = each[0] if len(each) == 1 else SharedRatios(each)
        twins = Twins(known.named, [(probes, sparsity), *also])
        named = Known(known, twins, after)

        def judged(result: evolution.SearchResult) -> tuple[Choice, list[_Figures]]:
            decide = choose_now if result.interrupted else choose
            best = decide(result, study.population, named, shared, called, cases.count)
            if best is None:
                if result.interrupted:
                    raise KeyboardInterrupt
                raise InputError(
                    f"none of {len(result.evaluations)} metrics could be measured; "
                    "allow more evaluations."
                )
            return best, [
                one.perplexities(best, known.named, result.interrupted) for one in measuring
            ]

        try:
            best, perplexities = judged(result)
        except KeyboardInterrupt:
            if result.interrupted:
                raise
            # every candidate is measured and kept: answer from that, without measuring more
            result = replace(result, interrupted=True)
            best, perplexities = judged(result)
        calibrated = [t.name for work in cases.works for t in work.texts.each("calibration")]
        later = told(
            [
                *(
                    d
                    for one, found in zip(measuring, perplexities, strict=True)
                    if not result.interrupted
                    for d in one.gain_doubts(best, found)
                ),
                one_text_doubt([*dict.fromkeys(calibrated)]) if refit.update != "none" else None,
            ]
        )
        for doubt in later:
            observer.note(doubt)
        warnings = told([*shared_text, *dense_doubts(measuring), *later])
    several = told_cases(measuring, perplexities, best) if cases.count > 1 else ()
    return Found(
        output_dir=str(folder),
        answer=best.answer,
        metric=str(best.expression),
        tree=best.expression.to_json(),
        origin=best.origin,
        name=best.name,
        sparsity=", ".join(map(str, cases.sparsities)),
        group=sparsity.group,
        seed=settings.seed,
        evaluations=len(result.evaluations),
        raced_out=result.raced_out,
        failed=result.failed,
        duplicates_skipped=result.duplicates_skipped,
        seconds=result.seconds,
        interrupted=result.interrupted,
        perplexity={} if several else perplexities[0],
        finalists=tuple(
            measured_as(
                {
                    "metric": f.expression,
                    "size": f.size,
                    "perplexity": exp(f.loss),
                    "same_as": twins.of(Expression.parse(f.expression)),
                },
                several,
            )
            for f in result.finalists
        ),
        pareto=tuple(
            measured_as(
                {"metric": e.expression, "size": e.size, "perplexity": e.perplexity}, several
            )
            for e in evolution.pareto_front(result.evaluations)
        ),
        known=known.perplexities,
        known_on_validation=best.known,
        refit=refit.in_words if best.judged_on == "whole" else of_candidates,
        refit_of_candidates=of_candidates,
        settings=cases.describe(settings, refit),
        warnings=warnings,
        cases=several,
        ratio=mean_ratios(several),
        given=dict(given),
        best_known=best.best_known,
        judged=best.judged,
        judged_on=best.judged_on,
    ), result


def _called(cases: Cases) -> str:
    """What the validation part is called in the answer."""
    mixed = any(work.texts.of("validation").texts for work in cases.works)
    return "mixture of the validation texts" if mixed else "validation text"
