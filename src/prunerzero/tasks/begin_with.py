"""The metrics that a search is given to begin with."""

from __future__ import annotations

from prunerzero.errors import InputError
from prunerzero.evolution.variation import Limits, OperatorSet, PrimitiveSet
from prunerzero.metrics import canonical
from prunerzero.metrics.sparsity import Group
from prunerzero.tasks.metric_sources import read_metric
from prunerzero.tasks.options import SearchOptions


def formulas(
    options: SearchOptions, operators: OperatorSet, group: Group, limits: Limits = Limits()
) -> tuple[str, ...]:
    """The formulas of the metrics that ``options`` name, each once.

    Raises:
        InputError: the search could not propose one of them, or varies nothing.
        MetricError: one is no metric.
    """
    _refuse_where_nothing_is_varied(options)
    primitives = PrimitiveSet.of(operators)
    found: dict[str, None] = {}
    for text in options.begin_with:
        tree = canonical(read_metric(text).expression, group)
        if not primitives.can_write(tree):
            more = "" if operators == "extended" else "; pass `operators` 'extended'"
            raise InputError(
                f"`begin_with` names '{text}', which the {operators} operators cannot write{more}."
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


def _refuse_where_nothing_is_varied(options: SearchOptions) -> None:
    """The baselines breed nothing: what they begin with would be measured, and lead nowhere."""
    if options.strategy == "evolution":
        return
    given = {"begin_with": bool(options.begin_with), "seed_metrics": options.seed_metrics != "none"}
    for name, is_given in given.items():
        if is_given:
            raise InputError(
                f"`{name}` is for a search that varies what it begins with, and `strategy` "
                f"'{options.strategy}' varies nothing; leave one of the two out."
            )
