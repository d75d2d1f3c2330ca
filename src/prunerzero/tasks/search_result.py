"""What a search found, as ``best.json`` holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.best_of_all import Origin


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        output_dir: the run's folder; as ``--metric`` it names the metric found.
        answer: which metric is the result, and why, in a sentence.
        metric: the formula of the best metric of all that were measured, evolved or known before.
        tree: the same in the published JSON.
        origin: where it comes from: "evolved" here, or "known" before.
        name: "evolved", or its name in the catalog.
        sparsity, group, seed: as asked.
        evaluations: metrics measured, ``raced_out`` and ``failed`` ones included.
        duplicates_skipped: proposals that were known already, by text or by ranking.
        seconds: of search, pauses left out.
        interrupted: whether Ctrl-C ended it before its budget did.
        perplexity: part → ``dense``, and the metric's under its ``origin``, on all windows of the
            part; what an interrupted search has not measured is absent. Of several texts each has
            an entry such as ``test: mine.txt``, and ``validation`` is their mixture.
        finalists: the best evolved metrics, judged on the whole validation part, the best first.
        pareto: the metrics that none is both smaller and better than, the smallest first; with
            ``known``, the named metrics, judged by perplexity on the chunks that a race reads.
        known_on_validation: the same on the whole validation text, of those that could still win,
            as far as measured.
        settings: all that the result depends on.
        warnings: what cannot be right about these figures, a sentence each.
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
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
