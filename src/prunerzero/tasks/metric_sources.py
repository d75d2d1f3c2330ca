"""A metric as users name one: catalog name, formula, JSON file, or the folder of a search."""

from __future__ import annotations

import json
from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.metrics import Expression, Metric, NotationError, find_metric

BEST = "best.json"
"""What a search leaves in its folder: the metric found, under ``tree``."""

HISTORY = "history.json"
"""Beside it, every evaluation in the order of its trial."""


def read_metric(text: str, gradient: str | None = None) -> Metric:
    """The metric that ``text`` names; its ``name`` is ``text`` itself, unless it is the catalog's.

    A JSON file holds the published tree itself, or an object with the tree under ``tree`` as
    ``best.json`` and ``metric.json`` do.

    Args:
        text: what the user wrote.
        gradient: what G will be the gradient of, "full" or "block".

    Raises:
        InputError: a file or folder that is no metric, or whose metric was evolved for another
            gradient.
        NotationError: neither a known name nor a formula.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / BEST).is_file():
            raise InputError(f"folder '{text}' holds no {BEST}, so no search has finished there.")
        return _read_file(path / BEST, text, gradient)
    if path.suffix == ".json":
        return _read_file(path, text, gradient)
    if path.is_file():
        raise InputError(f"metric file '{text}' must be a .json file.")
    return find_metric(text)


def _read_file(path: Path, name: str, gradient: str | None) -> Metric:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise InputError(f"metric file '{path}' cannot be read: {reason}.") from None
    except RecursionError:
        raise InputError(f"metric file '{path}' is nested too deep to be a metric.") from None
    except ValueError:
        raise InputError(f"metric file '{path}' is no valid JSON.") from None
    tree = content["tree"] if isinstance(content, dict) and "tree" in content else content
    try:
        metric = Metric(name, Expression.from_json(tree), f"read from {path}")
    except NotationError as error:
        raise InputError(f"metric file '{path}' holds no metric: {error}") from None
    settings = content.get("settings") if isinstance(content, dict) else None
    evolved = settings.get("gradient") if isinstance(settings, dict) else None
    if gradient and evolved and evolved != gradient and "G" in metric.expression.terminals:
        raise InputError(
            f"the metric of '{name}' was evolved with --gradient {evolved}; pass that too."
        )
    return metric
