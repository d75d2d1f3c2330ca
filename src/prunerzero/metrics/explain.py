"""What a formula means, in words."""

from __future__ import annotations

from dataclasses import dataclass

from prunerzero.metrics.catalog import CATALOG, Metric
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.mask import Sparsity
from prunerzero.metrics.operators import OPERATORS, TERMINALS
from prunerzero.metrics.ranking import agreement, ranking_key, synthetic_probe


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` tells of a metric.

    Attributes:
        formula: as given.
        words: what a weight's score is.
        simplified: the shortest form found that prunes the same weights.
        tree: the formula drawn with indentation.
        same_as: catalog metrics that rank every weight of the probe alike.
        agreement: for each catalog metric, the share of weights pruned at 50 % per row that both
            prune, on synthetic weights.
    """

    formula: str
    words: str
    simplified: str
    tree: str
    same_as: tuple[str, ...]
    agreement: dict[str, float]


def explain(metric: Metric | Expression) -> Explanation:
    """Explain a metric: in words, simplified, as a tree, and by what it ranks like.

    Raises:
        ScoreError: the metric is constant or not finite, so that it ranks nothing.
    """
    e = metric.expression if isinstance(metric, Metric) else metric
    probe, half = synthetic_probe(), Sparsity(ratio=0.5)
    key = ranking_key(e, [probe], half)
    return Explanation(
        formula=str(e),
        words=f"A weight is kept when this is large: {in_words(e)}.",
        simplified=str(e.simplify()),
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


def in_words(e: Expression) -> str:
    """The formula as an English phrase."""
    if e.value is not None:
        return f"{e.value:g}"
    if e.name in TERMINALS:
        return TERMINALS[e.name]
    words = [f"({in_words(a)})" if len(a.arguments) == 2 else in_words(a) for a in e.arguments]
    return OPERATORS[e.name].meaning.format(*words)


def draw_tree(e: Expression) -> str:
    """The tree, one node a line, children indented under their parent."""
    return "\n".join(_draw(e))


def _draw(e: Expression) -> list[str]:
    lines = [e.name if e.value is None else f"{e.value:g}"]
    for index, argument in enumerate(e.arguments):
        last = index == len(e.arguments) - 1
        first, *rest = _draw(argument)
        lines.append(("└─ " if last else "├─ ") + first)
        lines.extend(("   " if last else "│  ") + line for line in rest)
    return lines
