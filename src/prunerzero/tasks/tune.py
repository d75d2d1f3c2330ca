"""The highest sparsity within a limit that the user accepts, and what it costs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from prunerzero import evolution
from prunerzero.arguments import path
from prunerzero.errors import InputError
from prunerzero.files import make_folder, write_json, write_text, writing
from prunerzero.language.corpora import PARTS
from prunerzero.language.source import BUNDLED
from prunerzero.language.zero_shot import load_tasks
from prunerzero.metrics import Sparsity
from prunerzero.metrics.explain import in_words
from prunerzero.options import takes
from prunerzero.report import tell_speed, tune_words, write_tune_report
from prunerzero.report.phrases import Language
from prunerzero.tasks.duration import in_minutes, parse_duration
from prunerzero.tasks.keywords import TuneKeywords
from prunerzero.tasks.metric_sources import sparsity_of
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import TuneOptions
from prunerzero.tasks.output import check_run
from prunerzero.tasks.prune import prune_in
from prunerzero.tasks.publish import check_repository, push_folder
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.tune_file import read_result
from prunerzero.tasks.tune_result import ChosenMetric, TuneResult
from prunerzero.tasks.tuning import figures
from prunerzero.tasks.tuning.course import GROUPS, Course
from prunerzero.tasks.tuning.estimate import about_seconds
from prunerzero.tasks.tuning.limit import Wish, limit_on
from prunerzero.tasks.tuning.packing import pack_and_measure
from prunerzero.tasks.tuning.repeat import commands
from prunerzero.tasks.tuning.texts import cut_parts, fitting_length, write_parts
from prunerzero.tasks.tuning.workbench import (
    IDENTITY,
    RUN,
    TEXTS,
    Workbench,
    is_tuning,
    open_ledger,
    question_of,
)
from prunerzero.tasks.unseen import check_sources_unseen, check_windows_unseen
from prunerzero.tasks.workspace import Workspace

RESULT = "tune.json"
"""What the folder of a finished tuning holds, beside ``model/``, ``packed/``, ``run/`` and
``texts/``."""

REPORT, CARD = "report.html", "README.md"

MODEL, PACKED = "model", "packed"

DEFAULT_WINDOWS = 64
DEFAULT_EVALUATIONS = 200

_GOES_ON = "what was measured is kept; make room, and the same command goes on"

BUNDLED_TIME = "2m"
"""Of evolution, so that trying it out takes less than five minutes on two cores."""


@takes(TuneOptions)
def tune(
    setup: Setup | str,
    output_dir: Path | str,
    options: TuneOptions = TuneOptions(),
    *,
    observer: Observer | None = None,
    **keywords: Unpack[TuneKeywords],
) -> TuneResult:
    """Find the highest sparsity that keeps a limit, with a metric chosen or evolved for it.

    The folder gets ``tune.json``, ``report.html``, what was measured under ``run/``, and, where the
    limit can be kept, the pruned model under ``model/`` and, where that is smaller, the packed one
    under ``packed/``, which is measured beside the dense model on this machine's CPU. The same call
    again goes on after an interruption; of an answer that is there it writes the report, and pushes
    the model, again.

    Args:
        setup: model and texts, or the model alone where it brings its text. With a validation file
            alone, calibration and test parts are set aside from it, as files under ``texts/``. At
            most 64 windows of the validation and the test part are read unless it says otherwise.
        output_dir: absent, empty, or the folder of the tuning to continue.
        options: the limit, and how to look; each field of ``TuneOptions`` is a keyword too.
        observer: told of progress.

    Raises:
        InputError, MetricError: what was asked cannot be done.
        KeyboardInterrupt: nothing measured is lost.
    """
    setup = Setup.of(setup)
    wish = Wish.of(options.max_degradation, options.max_perplexity, options.task_metric)
    group, pattern, samples = options.group, options.pattern, options.samples
    language, push_to_hub, seed = options.language, options.push_to_hub, options.seed
    if isinstance(pattern, Sparsity) and group == "auto" and pattern.group != "row":
        group = pattern.group  # it says so itself
    groups = GROUPS if group == "auto" else (group,)
    patterns: tuple[Sparsity, ...] = ()
    if pattern is not None:
        wanted = sparsity_of("pattern", pattern, None if group == "auto" else group)
        if not wanted.fraction:
            raise InputError("`pattern` is 0, which prunes nothing; name a larger share, or 2:4.")
        patterns = (wanted,) if wanted.of else tuple(replace(wanted, group=one) for one in groups)
        pattern = pattern if isinstance(pattern, str) else str(wanted)
    evaluations, time = options.evaluations, options.time
    if evaluations is None and time is None:
        evaluations = DEFAULT_EVALUATIONS
        time = BUNDLED_TIME if setup.model == BUNDLED else None
    seconds = None if time is None else parse_duration(time)
    folder = path("output_dir", output_dir)
    check_run(folder, setup, is_tuning)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    answered = (folder / RESULT).is_file()
    tasks = load_tasks([wish.task]) if wish.task is not None and not answered else None
    with writing(folder, _GOES_ON):
        work, split = _open(setup, folder, patterns, observer)
        budget = {"evaluations": evaluations, "time": time, "seed": seed}
        asked = {"pattern": pattern, "group": group, "samples": samples, **budget}
        how = {"update": options.update, "refine": options.refine, "steps": options.steps}
        ledger = open_ledger(folder / RUN, question_of(work, limit=asdict(wish), **asked, **how))
        if answered:
            result = _packed(read_result(folder / RESULT), folder, setup, work)
            return _delivered(result, folder, language, push_to_hub, work)
        bench = Workbench(work, ledger, tasks)
        limit = limit_on(bench, wish)
        search = None
        if evaluations != 0 and seconds != 0:
            search = evolution.SearchSettings(
                seed=seed, evaluations=evaluations, seconds=seconds, seed_metrics="catalog"
            )
        course = Course(bench, limit, options.ways)
        seconds = about_seconds(bench, options.ways, patterns, groups, search)
        work.observer.note(f"about {in_minutes(seconds)} in all, less what was measured before")
        found = course.run(patterns, groups, search, folder / RUN)
        metric, sparsity, bench = found.metric, found.sparsity, course.curve.bench
        if not patterns:
            course.outline(metric, sparsity)
        parts = {
            "validation": figures.part_figures(bench, metric, sparsity, "validation", limit),
            "test": figures.part_figures(bench, metric, sparsity, "test", limit),
        }
        layers, sensitivity_of, sensitivity_windows = figures.layer_figures(bench, metric, sparsity)
        shown = figures.samples(bench, metric, sparsity, samples)
        doubts = figures.part_doubts(bench, metric, sparsity)
        for doubt in doubts:
            work.observer.note(doubt)
        task = figures.task_figures(bench, metric, sparsity, limit)
        settings = {**describe(work), **budget, **asdict(bench.refit)}
        if found.reached:
            for left in (MODEL, PACKED):  # of a run that ended just after it, or lost its answer
                shutil.rmtree(folder / left, ignore_errors=True)
            prune_in(work, metric, sparsity, folder / MODEL, ["test"], push_to_hub, bench.refit)
        result = TuneResult(
            answer="",
            reached=found.reached,
            model=setup.model,
            output_dir=str(folder),
            limit=limit,
            pattern_asked=pattern,
            sparsity=sparsity.fraction,
            pattern=str(sparsity),
            group=sparsity.group,
            metric=ChosenMetric(
                name=metric.name,
                formula=str(metric.expression),
                tree=metric.expression.to_json(),
                words=in_words(metric.expression),
            ),
            dense=parts["validation"].dense,
            curve=tuple(course.curve.points),
            parts=parts,
            decision=found.decision,
            layers=layers,
            sensitivity_of=sensitivity_of,
            sensitivity_windows=sensitivity_windows,
            samples=shown,
            task=task,
            evaluations=course.evaluations,
            settings=settings,
            split=split,
            commands=commands(setup, settings, folder, wish, asked | how, reached=found.reached),
            seconds=ledger.seconds,
            warnings=doubts,
            refit=bench.refit.in_words,
        )
        result = replace(result, answer=tune_words.answer(asdict(result)))
        write_json(folder / RESULT, asdict(result))
        result = _packed(result, folder, setup, work)
        return _delivered(result, folder, language, push_to_hub, work)


def _packed(result: TuneResult, folder: Path, setup: Setup, work: Workspace) -> TuneResult:
    """The result with the packed model and what it saves, unless it has them."""
    known = result.packing is not None and not result.packing.failed
    if known or not result.reached or not (folder / MODEL).is_dir():
        return result
    packing = pack_and_measure(setup, work, folder / MODEL, folder / PACKED)
    result = replace(result, packing=packing)
    result = replace(result, answer=tune_words.answer(asdict(result)))
    if not packing.failed:
        saved = tune_words.packed(asdict(packing))
        for card in (folder / MODEL / CARD, folder / PACKED / CARD):
            if card.is_file():
                write_text(card, tell_speed(card.read_text(encoding="utf-8"), saved))
    write_json(folder / RESULT, asdict(result))
    return result


def _delivered(
    result: TuneResult,
    folder: Path,
    language: Language,
    repository: str | None,
    work: Workspace,
) -> TuneResult:
    """Written as a report, and pushed where that is wanted and there is a model."""
    with writing(folder / REPORT, _GOES_ON):
        write_tune_report(asdict(result), folder / REPORT, language)
    if repository is not None and result.reached:
        push_folder(folder / MODEL, repository, work.observer)
    return result


def _open(
    setup: Setup, folder: Path, patterns: Sequence[Sparsity], observer: Observer | None
) -> tuple[Workspace, dict[str, Any]]:
    """The workspace with its three parts, and how they came about."""
    setup = replace(
        setup,
        num_validation_samples=setup.num_validation_samples or DEFAULT_WINDOWS,
        num_test_samples=setup.num_test_samples or DEFAULT_WINDOWS,
    )
    texts, split = cut_parts(setup, folder / TEXTS)
    work = Workspace(setup, observer)
    work.texts.read(*(part for part in PARTS if part not in texts))
    check_sources_unseen([work.texts])
    for pattern in patterns:
        work.check_widths(pattern)
    loaded = work.language_model
    try:
        make_folder(folder / RUN)  # by which this folder is known from now on
        setup = write_parts(setup, texts, folder / TEXTS)
        if setup.max_seq_length is None:
            setup = replace(
                setup, max_seq_length=fitting_length(setup, loaded.tokenizer, work.window_length)
            )
        work = Workspace(setup, observer)
        work.language_model = loaded
        for part in PARTS:
            work.texts.of(part)
        check_windows_unseen(work.texts)
    except BaseException:
        if not (folder / RUN / IDENTITY).is_file():  # leave nothing behind
            shutil.rmtree(folder / TEXTS, ignore_errors=True)
            with suppress(OSError):
                (folder / RUN).rmdir()
                folder.rmdir()
        raise
    return work, split
