"""Explain a metric: what it means, and which known metrics it ranks like."""

from __future__ import annotations

from dataclasses import dataclass

from prunerzero.metrics import CATALOG, Expression, Metric, Sparsity, simplify
from prunerzero.metrics.explain import draw_tree, in_words
from prunerzero.scoring.ranking import agreement, ranking_key, synthetic_probe


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` tells of a metric.

    Attributes:
        formula: as given.
        words: what a weight's score is.
        source: where it comes from.
        simplified: the shortest form found that prunes the same weights; ``formula`` itself where
            none is shorter.
        tree: the formula drawn with indentation.
        same_as: catalog metrics that rank every weight of the probe alike.
        agreement: for each catalog metric, the share of weights pruned at 50 % per row that both
            prune, on synthetic weights.
    """

    formula: str
    words: str
    source: str
    simplified: str
    tree: str
    same_as: tuple[str, ...]
    agreement: dict[str, float]


def explain(metric: Metric | Expression) -> Explanation:
    """Explain a metric: in words, simplified, as a tree, and by what it ranks like.

    Raises:
        ScoreError: the metric is constant or not finite, so that it ranks nothing.
    """
    if isinstance(metric, Expression):
        metric = Metric(str(metric), metric, "given as an expression")
    e = metric.expression
    shortest = simplify(e)
    probe, half = synthetic_probe(), Sparsity(ratio=0.5)
    key = ranking_key(e, [probe], half)
    return Explanation(
        formula=str(e),
        words=f"A weight is kept when this is large: {in_words(e)}.",
        source=metric.source,
        simplified=str(shortest if shortest.size < e.size else e),
        tree=draw_tree(e),
        same_as=tuple(
            name
            for name, known in CATALOG.items()
            if ranking_key(known.expression, [probe], half) == key
        ),
        agreement={
            name: agreement(e, known.expression, probe, half) for name, known in CATALOG.items()
        },
    )
