"""The metrics that a search is given to begin with."""

from __future__ import annotations

from prunerzero.errors import InputError
from prunerzero.evolution.variation import Limits, OperatorSet, PrimitiveSet
from prunerzero.metrics import Expression, Metric, NotationError, Sparsity, canonical, known_metrics
from prunerzero.metrics.sparsity import Group
from prunerzero.scoring.ranking import mixed_probes
from prunerzero.tasks.best_of_all import EVOLVED
from prunerzero.tasks.metric_sources import read_metric
from prunerzero.tasks.options import SearchOptions
from prunerzero.tasks.twins import Twins

_TAKEN = (EVOLVED, "known", "dense")
"""What tables call something else."""


def formulas(
    options: SearchOptions, operators: OperatorSet, group: Group, limits: Limits = Limits()
) -> dict[str, str]:
    """The formulas of the metrics that ``options`` name, each once, by what they are called.

    A known metric goes by its own name in whatever form it is given, and the folder of a result by
    that of the folder; a formula is its own name.

    Raises:
        InputError: the search could not propose one of them, or varies nothing.
        MetricError: one is no metric.
    """
    _refuse_where_nothing_is_varied(options)
    primitives = PrimitiveSet.of(operators)
    by_name = {name: metric.expression for name, metric in known_metrics().items()}
    half = Sparsity(ratio=0.5, group=group)
    known = Twins(by_name, [([probe], half) for probe in mixed_probes()])
    found: dict[str, str] = {}
    for text in options.begin_with:
        metric = read_metric(text)
        tree = canonical(metric.expression, group)
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
        if str(tree) not in found.values():
            name = known.of(tree) or _own_name(metric) or str(tree)
            found[str(tree) if name in found else name] = str(tree)
    return found


def _own_name(metric: Metric) -> str | None:
    """The name that the user knows it by; None of a formula, and where another thing has it."""
    if metric.name in _TAKEN:
        return None
    try:
        Expression.parse(metric.name)
    except NotationError:
        return metric.name
    return None


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
