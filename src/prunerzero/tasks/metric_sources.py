"""A metric as users name one: catalog name, formula, JSON file, or the folder of a result."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from prunerzero.arguments import is_number, kind
from prunerzero.documents import path_of, read_users_json
from prunerzero.errors import InputError
from prunerzero.metrics import (
    CATALOG,
    Expression,
    Metric,
    MetricError,
    NotationError,
    ScoreError,
    Sparsity,
    find_metric,
)
from prunerzero.metrics.sparsity import Group
from prunerzero.options import options_of
from prunerzero.pruning.statistics import GradientOf
from prunerzero.scoring.ranking import check_ranks
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.setup import Setup

BEST = "best.json"
"""What a search leaves in its folder: the metric found, under ``tree``."""

HISTORY = "history.json"
"""Beside it, every evaluation in the order of its trial."""

_RESULTS = (BEST, "tune.json", "metric.json")
"""The files that hold a metric, in the folder of a search, a tuning, and a pruned model."""


_REFIT = tuple(field.name for field in options_of(RefitOptions))


@dataclass(frozen=True)
class Origin:
    """What a metric was evolved or chosen for; None where its file does not say so.

    Attributes:
        name: as the user named the metric.
        sparsities: how much was pruned, and among which weights; of some searches several.
        gradient: what G was the gradient of.
        refit: how the weights that stay were refitted, in words; empty where they were not.
    """

    name: str
    sparsities: tuple[Sparsity, ...] = ()
    gradient: GradientOf | None = None
    refit: str = ""

    @property
    def in_words(self) -> str:
        """The sparsities, with "and" between."""
        return " and ".join(sparsity.in_words for sparsity in self.sparsities)


def read_metric(named: str | os.PathLike[str] | Metric | Expression) -> Metric:
    """The metric that ``named`` names; its ``name`` is that text, unless it is the catalog's.

    See ``read_metric_and_origin``, whose first result this is.
    """
    return read_metric_and_origin(named)[0]


def split_metrics(text: str) -> list[str]:
    """Split at the commas that stand outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def read_metric_and_origin(
    named: str | os.PathLike[str] | Metric | Expression,
) -> tuple[Metric, Origin]:
    """The metric that ``named`` names, and what it was evolved for.

    A catalog name goes before a formula, and a formula before a file or folder of that name; a name
    with a path separator, or one that ends in ``.json``, is a path wherever that path exists. A
    JSON file holds the published tree itself, or an object with the tree under ``tree``.

    Raises:
        InputError: a file or folder that is no metric, or something else than a name.
        NotationError: neither a known name nor a formula.
    """
    if isinstance(named, Expression):
        return Metric(str(named), named, "given as an expression"), Origin(str(named))
    if isinstance(named, Metric):
        return named, Origin(named.name)
    if not isinstance(named, str | os.PathLike):
        raise InputError(
            "a metric must be a name, a formula, a path, a Metric or an Expression, not "
            f"{kind(named)}."
        )
    text = os.fspath(named)
    if not isinstance(text, str):
        raise InputError("a metric must be named by text, not by bytes.")
    path = _path(text) if text.strip() else None
    if path is not None and (isinstance(named, os.PathLike) or not _goes_before(text, path)):
        return _read_path(path, text)
    try:
        return find_metric(text), Origin(text)
    except NotationError as error:
        if re.fullmatch(r"[^\s()*+,]*[/\\][^\s()*+,]*", text):
            raise NotationError(f"there is no file or folder '{text}', and {error}") from None
        raise


def settle(
    setup: Setup,
    sparsity: str | float | Sparsity | None,
    group: Group | None,
    metrics: Sequence[tuple[Metric, Origin]],
    observer: Observer,
    refit: RefitOptions = RefitOptions(),
) -> tuple[Setup, Sparsity]:
    """How much is pruned and what G is the gradient of: as asked, or else as the metrics' runs had.

    What comes from a run, and where what was asked differs from it, is told.

    Args:
        setup: its gradient may be None.
        sparsity, group: as asked; None for the runs', and else half of each row.
        metrics: the metrics with their origins.
        observer: told.
        refit: as asked; where a run had another, that is told, and it is not taken over.

    Raises:
        InputError: two runs differ in what was not asked for, or one was for several sparsities.
        MetricError: a sparsity that cannot be read, or a metric that ranks nothing.
    """
    runs = [origin for _, origin in metrics if origin.sparsities]
    theirs = {sparsity for origin in runs for sparsity in origin.sparsities}
    if sparsity is None:
        _refuse_several(runs)
        _agree(runs, "sparsity", [origin.in_words for origin in runs])
        base = next(iter(theirs), Sparsity(ratio=0.5))
        settled = base if group in (None, base.group) else replace(base, group=group)
    else:
        settled = sparsity_of("sparsity", sparsity, group)
        if group is None and settled.of is None and not isinstance(sparsity, Sparsity):
            _agree(runs, "group", [origin.sparsities[0].group for origin in runs])
            settled = replace(settled, group=next((s.group for s in theirs), settled.group))
    for origin in runs:
        if settled not in origin.sparsities:
            observer.note(
                f"the metric of '{origin.name}' was searched for at sparsity {origin.in_words}; it "
                f"is used for {settled.in_words}, as you asked."
            )
        elif sparsity is None:
            observer.note(f"sparsity {settled.in_words}, for which '{origin.name}' was made")
    read = [o for m, o in metrics if o.gradient is not None and "G" in m.expression.terminals]
    if setup.gradient is None and read:
        _agree(read, "gradient", [str(origin.gradient) for origin in read])
        setup = replace(setup, gradient=read[0].gradient)
        if setup.gradient != "full":
            observer.note(f"G is of each block's output, for which '{read[0].name}' was made")
    for origin in read:
        if origin.gradient != setup.gradient:
            observer.note(
                f"the metric of '{origin.name}' was made with `gradient={origin.gradient!r}`; as "
                f"asked, G is that of `gradient={setup.gradient!r}`"
            )
    for _, origin in metrics:
        if origin.sparsities and origin.refit != refit.in_words:
            observer.note(
                f"the metric of '{origin.name}' was judged with {origin.refit or 'masks alone'}, "
                f"and is used here with {refit.in_words or 'masks alone'}; name the same `update`, "
                "`refine` and `steps` to have what was judged"
            )
    for metric, origin in metrics:
        try:
            check_ranks(metric.expression, settled)
        except ScoreError as error:
            raise ScoreError(f"{origin.name!r} prunes nothing by merit: {error}") from None
    return setup, settled


def _refuse_several(runs: Sequence[Origin]) -> None:
    for origin in runs:
        if len(origin.sparsities) > 1:
            raise InputError(
                f"'{origin.name}' was made for several sparsities, {origin.in_words}; pass "
                "`sparsity`."
            )


def _agree(runs: Sequence[Origin], what: str, values: Sequence[str]) -> None:
    for origin, value in zip(runs, values, strict=True):
        if value != values[0]:
            raise InputError(
                f"'{runs[0].name}' was made for {what} {values[0]}, but '{origin.name}' for "
                f"{value}; pass `{what}`."
            )


def _path(text: str) -> Path | None:
    """The file or folder of that name, where there is one or the name ends as one of ours."""
    try:
        path = path_of(text)
        if path.suffix == ".json" or path.exists():
            return path
    except (OSError, InputError):  # longer than a name may be, as formulas are
        pass
    return None


def _goes_before(text: str, path: Path) -> bool:
    """Whether ``text`` is the catalog's or a formula, so that a file of its name does not count."""
    if text.strip().lower() in CATALOG:
        return True
    if path.suffix == ".json" or os.sep in text or (os.altsep and os.altsep in text):
        return False
    try:
        find_metric(text)
    except MetricError:
        return False
    return True


def _read_path(path: Path, name: str) -> tuple[Metric, Origin]:
    if path.is_dir():
        for file in _RESULTS:
            if (path / file).is_file():
                return _read_file(path / file, name)
        raise InputError(
            f"folder '{name}' holds no {BEST}, so no search has finished there, and no metric of a "
            "tuning or a pruned model either."
        )
    if path.suffix != ".json":
        raise InputError(f"metric file '{name}' must be a .json file.")
    return _read_file(path, name)


def _read_file(path: Path, name: str) -> tuple[Metric, Origin]:
    content = read_users_json(path, f"metric file '{path}'")
    result = content if isinstance(content, dict) else {}
    if isinstance(chosen := result.get("metric"), dict):  # of a tuning
        tree = chosen.get("tree")
    else:
        tree = result.get("tree", content)
    try:
        expression = Expression.from_json(tree)
    except NotationError as error:
        raise InputError(f"metric file '{path}' holds no metric: {error}") from None
    return Metric(name, expression, f"read from {path}"), _origin(result, name)


def _origin(result: Mapping[str, Any], name: str) -> Origin:
    """What the result of a search or a tuning says; of another file, nothing."""
    settings = result.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    gradient = settings.get("gradient")
    written = result.get("pattern", result.get("sparsity"))
    sparsities: tuple[Sparsity, ...] = ()
    if isinstance(written, str):
        group = result.get("group", "row")
        with suppress(MetricError):
            sparsities = tuple(Sparsity.parse(one, group) for one in written.split(", "))
    known = gradient if gradient in get_args(GradientOf) else None
    return Origin(name, sparsities, known, _refit_of(settings))


def _refit_of(settings: Mapping[str, Any]) -> str:
    """How weights were refitted in the run that has these settings, in words."""
    options = {name: settings[name] for name in _REFIT if settings.get(name) is not None}
    try:
        return RefitOptions(**options).in_words
    except InputError:
        return ""


def sparsity_of(name: str, value: Any, group: Group | None = None) -> Sparsity:
    """The sparsity given as a number, as text, or as a ``Sparsity``.

    Args:
        name: of the argument.
        value: ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"``, or a ``Sparsity``.
        group: within what scores compete, where that was given beside it.

    Raises:
        InputError: of the wrong kind, or ``group`` contradicts the ``Sparsity``.
        SparsityError: it cannot be read.
    """
    if isinstance(value, Sparsity):
        if group is None or group == value.group:
            return value
        if value.group != "row":
            raise InputError(
                f"`group` {group!r} contradicts the `{name}` given, which is {value.in_words}; "
                "leave one of them out."
            )
        return replace(value, group=group)
    if isinstance(value, bool | bytes) or not (isinstance(value, str) or is_number(value)):
        raise InputError(
            f"`{name}` must be a number such as 0.5, text such as '2:4', or a Sparsity, not "
            f"{kind(value)}."
        )
    return Sparsity.parse(value if isinstance(value, str) else float(value), group or "row")
