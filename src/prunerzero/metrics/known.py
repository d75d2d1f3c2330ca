"""Which metrics count as known: the catalog, and the power laws W · X^a · G^b of a coarse grid.

Every command takes them from here, so that what one calls known no other calls evolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from prunerzero.metrics.catalog import CATALOG, Metric, power_law
from prunerzero.metrics.expression import Expression
from prunerzero.metrics.simplify import simplify

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@cache
def known_metrics() -> Mapping[str, Metric]:
    """All of them by name, the catalog first; a law that is in the catalog goes by its name there.

    >>> str(known_metrics()["power-law(0,0.75)"].expression)
    'W * G ** 0.75'
    """
    grid = (power_law(a, b) for a in _EXPONENTS for b in _EXPONENTS)
    distinct: dict[Expression, Metric] = {}
    for metric in (*CATALOG.values(), *grid):
        distinct.setdefault(simplify(metric.expression, "model"), metric)
    return MappingProxyType({metric.name: metric for metric in distinct.values()})
