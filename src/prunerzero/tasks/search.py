"""Evolve a metric for models, texts and sparsities: check what is asked, share out the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch

from prunerzero import evolution
from prunerzero.arguments import path
from prunerzero.errors import InputError
from prunerzero.metrics import Sparsity
from prunerzero.metrics.sparsity import Group
from prunerzero.options import takes
from prunerzero.pruning.turns import Turns
from prunerzero.tasks.begin_with import formulas
from prunerzero.tasks.cases import (
    Cases,
    optional_parts,
    setups_of,
    sparsities_of,
)
from prunerzero.tasks.duration import parse_duration
from prunerzero.tasks.fits import needs_of
from prunerzero.tasks.keywords import SearchKeywords
from prunerzero.tasks.metric_sources import BEST
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.operators import operators_told, operators_under
from prunerzero.tasks.options import SearchOptions, SearchRefitOptions
from prunerzero.tasks.order import Order
from prunerzero.tasks.output import check_run, check_study
from prunerzero.tasks.places import places_of
from prunerzero.tasks.search_cases import JOURNAL, search_cases, write_run
from prunerzero.tasks.search_result import Found
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.shared_study import open_study
from prunerzero.tasks.unseen import check_sources_unseen
from prunerzero.tasks.workers import devices_for, gpus_of, run_workers
from prunerzero.tasks.workspace import Workspace

_DEFAULT_EVALUATIONS = 500


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
                observer.arrival(study.arrival)
        found, result = run_workers(run_order, order, places.workers, observer)
    write_run(folder, found, result)
    return found


def run_order(order: Order, observer: Observer) -> tuple[Found, evolution.SearchResult]:
    """Read the models and the texts in a new process, then search: a worker's part."""
    turns = Turns() if order.by_turns else None
    works = tuple(Workspace(setup, observer, turns=turns) for setup in order.setups)
    for work in works:
        work.texts.read("calibration", "validation", *optional_parts(work))
    check_sources_unseen([work.texts for work in works])
    cases = Cases(works, order.sparsities)
    return search_cases(
        cases, order.folder, order.settings, order.storage, order.refit, given=order.given
    )


def _is_run(folder: Path) -> bool:
    """Whether a search was begun there; on a shared folder, perhaps a moment ago."""
    return folder.is_dir() and any(
        file.name == BEST or file.name.startswith(JOURNAL) for file in folder.iterdir()
    )
