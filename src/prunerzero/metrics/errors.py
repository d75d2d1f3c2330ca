"""What can be wrong with a metric or a sparsity, each told in one sentence."""


class MetricError(ValueError):
    """Base of every refusal by the metric language.

    MetricError
    ├── NotationError   a text or a JSON tree that is no expression
    ├── SparsityError   a sparsity that cannot be read, or does not fit a matrix
    ├── ScoreError      statistics missing or misshapen, or a score with NaN in it
    └── OperatorError   an operator that cannot be registered, or a plug-in that cannot be loaded
    """


class NotationError(MetricError):
    """A text or JSON tree that is no expression.

    ``position`` is the offset into the text at which reading stopped, or None for a JSON tree.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class SparsityError(MetricError):
    """A sparsity that cannot be read, or does not fit the matrix it is meant for."""


class ScoreError(MetricError):
    """Statistics that are missing or of the wrong shape, or a score that cannot be ranked."""


class OperatorError(MetricError):
    """An operator that cannot be registered, or a plug-in that cannot be loaded."""
