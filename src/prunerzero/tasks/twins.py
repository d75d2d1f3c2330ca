"""Which evolved metric is a known one in another form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunerzero.metrics import Expression, ScoreError, Sparsity
from prunerzero.scoring.ranking import Probe, rank_on


class Twins:
    """Tells metrics that rank weights as a known one does.

    Args:
        known: the known metrics by name.
        samples: of real layers, and what they are pruned to.
    """

    def __init__(
        self,
        known: Mapping[str, Expression],
        samples: Sequence[tuple[Sequence[Probe], Sparsity]],
    ) -> None:
        self._samples = samples
        self._names: dict[str, str] = {}
        for name, expression in known.items():
            if (key := self._key(expression)) is not None:
                self._names.setdefault(key, name)

    def of(self, expression: Expression) -> str | None:
        """The known metric that ranks the weights of all samples as this one does."""
        key = self._key(expression)
        return None if key is None else self._names.get(key)

    def _key(self, expression: Expression) -> str | None:
        try:
            return rank_on(expression, self._samples).key
        except ScoreError:
            return None
