"""Evolve a metric for a model, a text and a sparsity."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from prunerzero import evolution
from prunerzero.arguments import path
from prunerzero.errors import InputError
from prunerzero.exponential import exp
from prunerzero.files import make_folder, write_json
from prunerzero.language.corpora import Part
from prunerzero.metrics import Sparsity
from prunerzero.metrics.operators import PUBLISHED_TERMINALS
from prunerzero.metrics.sparsity import Group
from prunerzero.options import takes
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.statistics import probes_of
from prunerzero.tasks.best_of_all import choose, choose_now
from prunerzero.tasks.doubts import dense_doubt, one_text_doubt, told
from prunerzero.tasks.duration import parse_duration
from prunerzero.tasks.known_metrics import KnownMetrics
from prunerzero.tasks.metric_sources import BEST, HISTORY, sparsity_of
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions, SearchOptions
from prunerzero.tasks.order import Order
from prunerzero.tasks.output import check_run, check_study
from prunerzero.tasks.search_result import Found
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.shared_study import SharedPerplexities, open_study
from prunerzero.tasks.workers import devices_for, run_workers
from prunerzero.tasks.workspace import Workspace

JOURNAL = "journal.log"
"""The study, in the folder of a run: population, log and queue."""

_CHUNK_TOKENS = 1024
_RACE_CHUNKS = 16
_DEFAULT_EVALUATIONS = 500


@takes(SearchOptions)
@takes(RefitOptions, "refit")
def search(
    setup: Setup | str,
    sparsity: str | float | Sparsity,
    output_dir: Path | str,
    options: SearchOptions = SearchOptions(),
    refit: RefitOptions = RefitOptions(),
    *,
    group: Group | None = None,
    observer: Observer | None = None,
) -> Found:
    """Evolve a metric and write ``best.json`` to the run's folder; the same call again resumes.

    The result is the best of all that is known by then on the whole validation text: where no
    evolved metric beats the named ones of the catalog, the best of those.

    Args:
        setup: model and texts; calibration and validation are needed, test is optional. Or the
            model alone where it brings its text.
        sparsity: ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"`` …
        output_dir: absent, empty, or the folder of the run to resume.
        options: how to search; each field of ``SearchOptions`` is a keyword too.
        refit: what is done with masks before a metric is judged; each field of ``RefitOptions`` is
            a keyword too. A candidate then takes several times as long.
        group: scores compete within a ``"row"``, a whole ``"layer"`` or the whole ``"model"``; None
            for that of ``sparsity``, which is ``"row"`` unless it says otherwise.
        observer: told of progress.

    Raises:
        InputError, MetricError: nothing was written, or what was evaluated is kept.
        KeyboardInterrupt: before anything was measured.
    """
    setup, sparsity = Setup.of(setup), sparsity_of("sparsity", sparsity, group)
    folder = path("output_dir", output_dir)
    storage = options.storage
    if storage is not None and "://" not in str(storage):
        storage = path("storage", storage)
    check_run(folder, setup, _is_run)
    if refit.steps > 1:
        raise InputError("a search judges metrics by a single step; leave out `steps`.")
    if refit.reconstruct:
        raise InputError(
            "a search judges metrics without training; leave out `reconstruct`, and train when the "
            "metric is found and the model pruned with it."
        )
    seconds = None if options.time is None else parse_duration(options.time)
    evaluations = options.evaluations
    if evaluations is None and seconds is None:
        evaluations = _DEFAULT_EVALUATIONS
    devices = devices_for(options.workers, setup.device)
    storage = storage or folder / JOURNAL
    check_study(storage, len(devices))
    try:
        settings = evolution.SearchSettings(
            seed=options.seed,
            evaluations=evaluations,
            seconds=seconds,
            strategy=options.strategy,
            operators=options.operators,
            seed_metrics=options.seed_metrics,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    observer = observer or Observer()
    order = Order(replace(setup, device=devices[0]), sparsity, folder, settings, storage, refit)
    if len(devices) == 1:
        if setup.device == "auto" and (gpus := torch.cuda.device_count()) > 1:
            observer.note(f'1 of {gpus} GPUs is used; `workers="auto"` uses all.')
        found, result = run_order(order, observer)
    else:
        with open_study(storage) as study:  # refused here, it is refused once
            if study.arrival:
                observer.note(study.arrival)
        found, result = run_workers(run_order, order, devices, observer)
    _write(folder, found, result)
    return found


def run_order(order: Order, observer: Observer) -> tuple[Found, evolution.SearchResult]:
    """Read the model and the texts in a new process, then search: a worker's part."""
    work = Workspace(order.setup, observer)
    work.texts.read("calibration", "validation", *_optional(work))
    return _search(work, order.sparsity, order.folder, order.settings, order.storage, order.refit)


def _is_run(folder: Path) -> bool:
    """Whether a search was begun there; on a shared folder, perhaps a moment ago."""
    return folder.is_dir() and any(
        file.name == BEST or file.name.startswith(JOURNAL) for file in folder.iterdir()
    )


def _optional(work: Workspace) -> list[Part]:
    return ["test"] if work.texts.has("test") else []


def search_in(
    work: Workspace,
    sparsity: Sparsity,
    folder: Path,
    settings: evolution.SearchSettings,
    *,
    test: bool = True,
) -> tuple[Found, evolution.SearchResult]:
    """``search`` for a workspace that is open already; also gives the course of the search.

    Without ``test`` the test text is left unread.
    """
    found, result = _search(work, sparsity, folder, settings, folder / JOURNAL, test=test)
    _write(folder, found, result)
    return found, result


def _write(folder: Path, found: Found, result: evolution.SearchResult) -> None:
    write_json(folder / HISTORY, [asdict(evaluation) for evaluation in result.evaluations])
    write_json(folder / BEST, asdict(found))


def _search(
    work: Workspace,
    sparsity: Sparsity,
    folder: Path,
    settings: evolution.SearchSettings,
    storage: str | Path,
    refit: RefitOptions = RefitOptions(),
    *,
    test: bool = True,
) -> tuple[Found, evolution.SearchResult]:
    work.check_widths(sparsity)
    judged: list[Part] = ["validation", *(_optional(work) if test else [])]
    work.texts.of("calibration")
    places = [place for part in judged for place in work.texts.places(part)]
    called = "validation text"
    if work.texts.of("validation").texts:  # mixed, as it is searched on, and each by itself
        places.insert(0, "validation")
        called = "mixture of the validation texts"
    identity = _identity(work, sparsity, settings, refit)
    if Path(storage).exists():
        with open_study(storage, identity):
            pass  # another search is refused before statistics take their time
    statistics = work.statistics(settings.terminals)
    fitness = fitness_of(work, sparsity, settings.terminals, refit)
    make_folder(folder)
    with open_study(storage, identity) as study:
        if study.arrival:
            work.observer.note(study.arrival)
        lost_before = study.lost
        shared = SharedPerplexities(work, study.jobs, sparsity, refit)
        for place in places:
            shared.try_dense(place)
            if (doubt := _dense_doubt(work, shared, place)) is not None:
                work.observer.note(doubt)
        known = KnownMetrics(fitness, study.jobs, settings.terminals)
        known.measure()
        result = evolution.search(
            fitness,
            study=study,
            settings=settings,
            probes=probes_of(work.layers, statistics),
            sparsity=sparsity,
            on_progress=work.observer.search,
            ahead=work.language_model.device.type != "cpu",
        )
        if lost := study.lost - lost_before:
            work.observer.note(f"in flight with workers that died, and lost: {lost}")
        decide = choose_now if result.interrupted else choose
        best = decide(result, study.population, known, shared, called)
        if best is None:
            if result.interrupted:
                raise KeyboardInterrupt
            raise InputError(
                f"none of {len(result.evaluations)} metrics could be measured; "
                "allow more evaluations."
            )
        perplexity: dict[str, dict[str, float]] = {}
        for place in places:
            if not result.interrupted:
                measured = shared.pruned(place, {best.name: best.expression})[best.name]
                perplexity[place] = {"dense": shared.dense(place), best.origin: measured}
            elif (dense := shared.measured(place, "dense")) is not None:
                perplexity[place] = {"dense": dense}
            else:
                perplexity[place] = {}
        warnings = told(
            [
                *(_dense_doubt(work, shared, place) for place in places),
                one_text_doubt([t.name for t in work.texts.each("calibration")])
                if refit.update != "none"
                else None,
            ]
        )
    found = Found(
        output_dir=str(folder),
        answer=best.answer,
        metric=str(best.expression),
        tree=best.expression.to_json(),
        origin=best.origin,
        name=best.name,
        sparsity=str(sparsity),
        group=sparsity.group,
        seed=settings.seed,
        evaluations=len(result.evaluations),
        raced_out=result.raced_out,
        failed=result.failed,
        duplicates_skipped=result.duplicates_skipped,
        seconds=result.seconds,
        interrupted=result.interrupted,
        perplexity=perplexity,
        finalists=tuple(
            {"metric": f.expression, "size": f.size, "perplexity": exp(f.loss)}
            for f in result.finalists
        ),
        pareto=tuple(
            {"metric": e.expression, "size": e.size, "perplexity": e.perplexity}
            for e in evolution.pareto_front(result.evaluations)
        ),
        known=known.perplexities,
        known_on_validation=best.known,
        settings={**work.describe(), **asdict(refit), "search": asdict(settings)},
        warnings=warnings,
    )
    return found, result


def _dense_doubt(work: Workspace, shared: SharedPerplexities, place: str) -> str | None:
    dense = shared.measured(place, "dense")
    return None if dense is None else dense_doubt(place, dense, work.texts.of(place).windows)


def fitness_of(
    work: Workspace,
    sparsity: Sparsity,
    terminals: Collection[str] = PUBLISHED_TERMINALS,
    refit: RefitOptions = RefitOptions(),
) -> PrunedLoss:
    """What measures a metric with these terminals on the validation text; of several texts on
    their mixture."""
    text = work.texts.of("validation")
    count, turns = len(text.windows), max(1, len(text.texts))
    per_chunk = max(1, min(_CHUNK_TOKENS // work.window_length, count // _RACE_CHUNKS))
    if turns > 1 and count // _RACE_CHUNKS >= turns:  # a window of each text, or more, in a chunk
        per_chunk = max(turns, per_chunk // turns * turns)
    return PrunedLoss(
        work.language_model.model,
        work.layers,
        work.statistics(terminals),
        sparsity,
        text.windows,
        windows_per_chunk=per_chunk,
        race_chunks=_RACE_CHUNKS,
        turns=turns,
        refit=refit.refit,
        grams=work.grams if refit.refit else None,
    )


def _identity(
    work: Workspace,
    sparsity: Sparsity,
    settings: evolution.SearchSettings,
    refit: RefitOptions,
) -> dict[str, Any]:
    """What a study's figures depend on: with another of these it is another study."""
    return {
        **work.identity("calibration", "validation"),
        "sparsity": str(sparsity),
        "group": sparsity.group,
        "seed": settings.seed,
        "strategy": settings.strategy,
        "operators": settings.operators,
        "seed metrics": settings.seed_metrics,
        **({"refit": refit.in_words} if refit.refit else {}),
    }
