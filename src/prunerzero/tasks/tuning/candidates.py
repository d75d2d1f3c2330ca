"""The known metrics that a tuning chooses from."""

from __future__ import annotations

from prunerzero.metrics import CATALOG, Expression, Metric, simplify
from prunerzero.metrics.catalog import power_law
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.best_of_all import EVOLVED

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def candidates() -> list[Metric]:
    """The metrics to choose from before any is evolved: the catalog and a grid of power laws."""
    grid = (power_law(a, b) for a in _EXPONENTS for b in _EXPONENTS)
    distinct: dict[Expression, Metric] = {}
    for metric in (*CATALOG.values(), *grid):
        distinct.setdefault(simplify(metric.expression, "model"), metric)
    return list(distinct.values())


def named(text: str, group: Group) -> Metric:
    """The result of a search, under its known name where it is a known metric."""
    expression = Expression.parse(text)
    simple = simplify(expression, group)
    same = (m for m in candidates() if simplify(m.expression, group) == simple)
    return next(same, Metric(EVOLVED, expression, "evolved for this model and text"))
