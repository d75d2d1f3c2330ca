"""What a search found, as ``best.json`` holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.best_of_all import JudgedOn, Origin
from prunerzero.tasks.shared_study import geometric_mean


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        output_dir: the run's folder; as ``--metric`` it names the metric found.
        answer: which metric is the result, and why, in a sentence.
        metric: the formula of the best metric of all that were measured, evolved or known before.
        tree: the same in the published JSON.
        origin: where it comes from: "evolved" here, or "known" before.
        name: "evolved", or the name that it is known by.
        sparsity, group, seed: as asked; several sparsities with commas between.
        evaluations: metrics measured, ``raced_out`` and ``failed`` ones included.
        duplicates_skipped: proposals that were known already, by text or by ranking.
        seconds: of search, in all its sessions together.
        interrupted: whether Ctrl-C ended it before its budget did.
        perplexity: part → ``dense``, the metric's under its ``origin``, and beside an evolved one
            that of ``best_known`` under its name, on all windows of the part; what was not measured
            is absent. Of several texts each has an entry such as ``test: mine.txt``, and
            ``validation`` is their mixture. Of several cases ``cases`` has them.
        finalists: the best evolved metrics, judged on the whole validation part, the best first;
            ``same_as`` names the known metric that ranks weights as it does, if one does.
        pareto: the metrics that none is both smaller and better than, the smallest first; with
            ``known``, the named metrics, judged by perplexity on the chunks that a race reads.
        known_on_validation: the same on the whole validation text, of those that could still win,
            as far as measured.
        refit: how masks are used, in words, behind ``perplexity``, ``known_on_validation``,
            ``cases``, ``ratio`` and ``answer``; empty where masks are all. Of an interrupted search
            that was not measured in full it is ``refit_of_candidates``.
        refit_of_candidates: the same behind ``finalists``, ``pareto``, ``known`` and
            ``history.json``; fewer steps of an update tell candidates apart.
        settings: all that the result depends on.
        warnings: what cannot be right about these figures, a sentence each.
        cases: where there are several, each model at each sparsity: ``model``, ``sparsity``,
            ``perplexity`` as above, and by place the ``ratio`` of pruned to dense. Then
            ``finalists``, ``pareto`` and ``history.json`` have a ``ratio`` in place of a
            perplexity, and ``known`` and ``known_on_validation`` hold ratios: geometric means over
            the cases.
        ratio: the geometric mean over the cases of their ratios, by place; empty for one case.
        given: formulas of the metrics that the search was given to begin with, by their names.
        best_known: the name of the best known metric, by ``judged``; empty where none was measured.
        judged: what the result was chosen by: the perplexity, or the mean ratio, of ``best_known``
            and under "evolved" of the best evolved metric.
        judged_on: the text behind ``judged``: the "whole" validation text, or where the search was
            interrupted before it was read, the chunks of a "race".
    """

    output_dir: str
    answer: str
    metric: str
    tree: dict[str, Any]
    origin: Origin
    name: str
    sparsity: str
    group: Group
    seed: int
    evaluations: int
    raced_out: int
    failed: int
    duplicates_skipped: int
    seconds: float
    interrupted: bool
    perplexity: dict[str, dict[str, float]]
    finalists: tuple[dict[str, Any], ...]
    pareto: tuple[dict[str, Any], ...]
    known: dict[str, float]
    known_on_validation: dict[str, float]
    refit: str
    refit_of_candidates: str
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
    cases: tuple[dict[str, Any], ...] = ()
    ratio: dict[str, float] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    best_known: str = ""
    judged: dict[str, float] = field(default_factory=dict)
    judged_on: JudgedOn = "whole"


def measured_as(figures: dict[str, Any], cases: Collection[Any]) -> dict[str, Any]:
    """Figures with ``ratio`` in place of ``perplexity`` where they are of several cases."""
    if not cases:
        return figures
    return {("ratio" if name == "perplexity" else name): v for name, v in figures.items()}


def mean_ratios(cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The geometric mean of the cases' ratios, of each place that all of them have."""
    return {
        place: geometric_mean([case["ratio"][place] for case in cases])
        for place in (cases[0]["ratio"] if cases else ())
        if all(place in case["ratio"] for case in cases)
    }
