"""What a search found, as ``best.json`` holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunerzero.metrics.mask import Group


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        output_dir: the run's folder; as ``--metric`` it names the metric found.
        metric: the formula.
        tree: the same in the published JSON.
        sparsity, group, seed: as asked.
        evaluations: metrics measured, ``raced_out`` and ``failed`` ones included.
        duplicates_skipped: proposals that were known already, by text or by ranking.
        seconds: of search, pauses left out.
        interrupted: whether Ctrl-C ended it before its budget did.
        perplexity: part → ``dense`` and ``evolved``, on all windows of the part.
        finalists: the best metrics, judged on the whole validation part, the best first.
        pareto: the metrics that none is both smaller and better than, the smallest first; with
            ``known``, the named metrics, judged by perplexity on the chunks that a race reads.
        settings: all that the result depends on.
    """

    output_dir: str
    metric: str
    tree: dict[str, Any]
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
    settings: dict[str, Any]
