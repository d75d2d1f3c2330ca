"""All commands: importing a command's module adds it to the application, in the order of --help."""

from prunerzero.cli.app import app  # isort: skip
from prunerzero.cli import demo, tune, search, report, prune, pack  # isort: skip
from prunerzero.cli import evaluate, bench, metrics  # isort: skip

__all__ = [
    "app",
    "bench",
    "demo",
    "evaluate",
    "metrics",
    "pack",
    "prune",
    "report",
    "search",
    "tune",
]
