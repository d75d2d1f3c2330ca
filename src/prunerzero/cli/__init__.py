"""The command line: one short function a command, which calls a task and prints its result."""

# importing a command's module adds it to the application; the order is that of --help
from prunerzero.cli.app import app  # isort: skip
from prunerzero.cli import demo, tune, search, report, prune, evaluate, metrics  # isort: skip

__all__ = ["app", "demo", "evaluate", "main", "metrics", "prune", "report", "search", "tune"]


def main() -> None:
    """Entry point of the ``prunerzero`` command."""
    app()
