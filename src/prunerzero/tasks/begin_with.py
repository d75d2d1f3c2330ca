"""The metrics that a search is given to begin with."""

from __future__ import annotations

from prunerzero.errors import InputError
from prunerzero.evolution.variation import Limits, PrimitiveSet
from prunerzero.metrics import canonical
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.metric_sources import read_metric
from prunerzero.tasks.options import SearchOptions


def formulas(options: SearchOptions, group: Group, limits: Limits = Limits()) -> tuple[str, ...]:
    """The formulas of the metrics that ``options`` name, each once.

    Raises:
        InputError: the search could not propose one of them.
        MetricError: one is no metric.
    """
    if options.begin_with and options.strategy == "powerlaw":
        raise InputError(
            "`begin_with` is for a search that varies what it begins with; power laws begin with "
            "a grid, so leave one of the two out."
        )
    primitives = PrimitiveSet.of(options.operators)
    found: dict[str, None] = {}
    for text in options.begin_with:
        tree = canonical(read_metric(text).expression, group)
        if not primitives.can_write(tree):
            more = "" if options.operators == "extended" else "; pass `operators` 'extended'"
            raise InputError(
                f"`begin_with` names '{text}', which the {options.operators} operators cannot "
                f"write{more}."
            )
        if not tree.terminals:
            raise InputError(f"`begin_with` names '{text}', which is the same for every weight.")
        if not limits.allow(tree):
            raise InputError(
                f"`begin_with` names '{text}', which has {tree.size} nodes in {tree.depth + 1} "
                f"levels; a search takes at most {limits.size} in {limits.depth + 1}."
            )
        found[str(tree)] = None
    return tuple(found)
