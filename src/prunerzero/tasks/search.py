"""Evolve a metric for a model, a text and a sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

import torch

from prunerzero import evolution
from prunerzero.arguments import path
from prunerzero.errors import InputError
from prunerzero.exponential import exp
from prunerzero.files import make_folder, write_json
from prunerzero.metrics import Expression, Sparsity
from prunerzero.metrics.sparsity import Group
from prunerzero.options import takes
from prunerzero.pruning.turns import Turns
from prunerzero.tasks.begin_with import formulas
from prunerzero.tasks.best_of_all import Choice, Known, choose, choose_now
from prunerzero.tasks.case_figures import dense_doubts, figures_of, told_cases
from prunerzero.tasks.cases import (
    Cases,
    optional_parts,
    refit_of_candidates,
    setups_of,
    sparsities_of,
)
from prunerzero.tasks.doubts import one_text_doubt, told
from prunerzero.tasks.duration import parse_duration
from prunerzero.tasks.fits import needs_of
from prunerzero.tasks.keywords import SearchKeywords
from prunerzero.tasks.known_metrics import KnownMetrics
from prunerzero.tasks.metric_sources import BEST, HISTORY
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.operators import operators_told, operators_under
from prunerzero.tasks.options import RefitOptions, SearchOptions, SearchRefitOptions
from prunerzero.tasks.order import Order
from prunerzero.tasks.output import check_run, check_study
from prunerzero.tasks.places import places_of
from prunerzero.tasks.search_result import Found, mean_ratios, measured_as
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.shared_study import SharedRatios, open_study
from prunerzero.tasks.twins import Twins
from prunerzero.tasks.unseen import check_sources_unseen, check_windows_unseen, judged_doubts
from prunerzero.tasks.workers import devices_for, gpus_of, run_workers
from prunerzero.tasks.workspace import Workspace

JOURNAL = "journal.log"
"""The study, in the folder of a run: population, log and queue."""

_DEFAULT_EVALUATIONS = 500

_Figures = dict[str, dict[str, float]]
"""Perplexities of metrics, by text and name."""


@takes(SearchOptions)
@takes(SearchRefitOptions, "refit")
def search(
    setup: Setup | str | Sequence[Setup | str],
    sparsity: str | float | Sparsity | Sequence[str | float | Sparsity],
    output_dir: Path | str,
    options: SearchOptions = SearchOptions(),
    refit: SearchRefitOptions = SearchRefitOptions(),
    *,
    group: Group | None = None,
    observer: Observer | None = None,
    **keywords: Unpack[SearchKeywords],
) -> Found:
    """Evolve a metric and write ``best.json`` to the run's folder; the same call again resumes.

    The result is the best of all that is known by then on the whole validation text: where no
    evolved metric beats the named ones of the catalog, the best of those.

    Of several models or sparsities each model at each sparsity is a case, and a metric is judged by
    the mean over the cases of ln(perplexity / dense perplexity).

    Args:
        setup: model and texts; calibration and validation are needed, test is optional. Or the
            model alone where it brings its text. Or several of these in a list.
        sparsity: ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"`` …; or several in a list.
        output_dir: absent, empty, or the folder of the run to resume.
        options: how to search; each field of ``SearchOptions`` is a keyword too.
        refit: what is done with masks before a metric is judged; each field of
            ``SearchRefitOptions`` is a keyword too. A candidate then takes several times as long.
        group: scores compete within a ``"row"``, a whole ``"layer"`` or the whole ``"model"``; None
            for that of ``sparsity``, which is ``"row"`` unless it says otherwise.
        observer: told of progress.

    Raises:
        InputError, MetricError: nothing was written, or what was evaluated is kept.
        KeyboardInterrupt: before anything was measured.
    """
    setups, sparsities = setups_of(setup), sparsities_of(sparsity, group)
    folder = path("output_dir", output_dir)
    storage = options.storage
    if storage is not None and "://" not in str(storage):
        storage = path("storage", storage)
    for one in setups:
        check_run(folder, one, _is_run)
    seconds = None if options.time is None else parse_duration(options.time)
    evaluations = options.evaluations
    if evaluations is None and seconds is None:
        evaluations = _DEFAULT_EVALUATIONS
    device = setups[0].device
    devices = devices_for(options.workers, device)
    storage = storage or folder / JOURNAL
    check_study(storage, len(devices))
    operators = operators_under(refit.update, options.operators)
    given = formulas(options, operators, sparsities[0].group)
    try:
        settings = evolution.SearchSettings(
            seed=options.seed,
            evaluations=evaluations,
            seconds=seconds,
            strategy=options.strategy,
            operators=operators,
            seed_metrics=options.seed_metrics,
            begin_with=tuple(given.values()),
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    needs = needs_of(setups, len(sparsities), settings.terminals, refit.whole)
    wanted = None if options.workers == "auto" else len(devices)
    places = places_of(needs, devices, gpus_of(device), wanted)
    observer = observer or Observer()
    if told_of_operators := operators_told(refit.update, options.operators):
        observer.note(told_of_operators)
    if places.told:
        observer.note(places.told)
    order = Order(
        setups, sparsities, folder, settings, storage, refit.whole, places.by_turns, given
    ).on(places.workers[0])
    if len(places.workers) == 1:
        if devices == ["auto"] and (gpus := torch.cuda.device_count()) > 1:
            observer.note(f'1 of {gpus} GPUs is used; `workers="auto"` uses all.')
        found, result = run_order(order, observer)
    else:
        with open_study(storage) as study:  # refused here, it is refused once
            if study.arrival:
                observer.note(study.arrival)
        found, result = run_workers(run_part, order, places.workers, observer)
    _write(folder, found, result)
    return found


def run_part(order: Order, observer: Observer) -> tuple[Found, evolution.SearchResult]:
    """What one of several workers does; what the study held before has been told."""
    return run_order(order, observer, tell_arrival=False)


def run_order(
    order: Order, observer: Observer, *, tell_arrival: bool = True
) -> tuple[Found, evolution.SearchResult]:
    """Read the models and the texts, then search."""
    turns = Turns() if order.by_turns else None
    works = tuple(Workspace(setup, observer, turns=turns) for setup in order.setups)
    for work in works:
        work.texts.read("calibration", "validation", *optional_parts(work))
    check_sources_unseen([work.texts for work in works])
    cases = Cases(works, order.sparsities)
    return _search(
        cases,
        order.folder,
        order.settings,
        order.storage,
        order.refit,
        given=order.given,
        tell_arrival=tell_arrival,
    )


def _is_run(folder: Path) -> bool:
    """Whether a search was begun there; on a shared folder, perhaps a moment ago."""
    return folder.is_dir() and any(
        file.name == BEST or file.name.startswith(JOURNAL) for file in folder.iterdir()
    )


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
    found, result = _search(cases, folder, settings, folder / JOURNAL, refit, test=test)
    _write(folder, found, result)
    return found, result


def _write(folder: Path, found: Found, result: evolution.SearchResult) -> None:
    history = [measured_as(asdict(one), found.cases) for one in result.evaluations]
    write_json(folder / HISTORY, history)
    write_json(folder / BEST, asdict(found))


def _search(
    cases: Cases,
    folder: Path,
    settings: evolution.SearchSettings,
    storage: str | Path,
    refit: RefitOptions = RefitOptions(),
    *,
    test: bool = True,
    given: Mapping[str, str] = {},
    tell_arrival: bool = True,
) -> tuple[Found, evolution.SearchResult]:
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
        if tell_arrival and study.arrival:
            observer.note(study.arrival)
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
