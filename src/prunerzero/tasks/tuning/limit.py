"""The loss that the user accepts, as asked for and as a figure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunerzero.arguments import kind, text
from prunerzero.errors import InputError
from prunerzero.exponential import exp
from prunerzero.language.corpora import the_text
from prunerzero.tasks.tune_result import Limit, LimitKind
from prunerzero.tasks.tuning.workbench import Workbench

DEFAULT = "5%"


@dataclass(frozen=True)
class Wish:
    """A limit before the dense model is measured.

    Attributes:
        kind: see ``Limit``.
        value: the share, the perplexity or the drop.
        task, task_metric: of a task.
    """

    kind: LimitKind
    value: float
    task: str | None = None
    task_metric: str | None = None

    @classmethod
    def of(
        cls,
        max_degradation: str | float | None,
        max_perplexity: float | None,
        task_metric: str | None,
    ) -> Wish:
        """Read the one limit given; 5 % where none is. Raises InputError."""
        given = [w for w in (max_degradation, max_perplexity, task_metric) if w is not None]
        if len(given) > 1:
            raise InputError(
                "only one of `max_degradation`, `max_perplexity` and `task_metric` can be the "
                "limit."
            )
        if max_perplexity is not None:
            if not isinstance(max_perplexity, int | float) or isinstance(max_perplexity, bool):
                raise InputError(f"`max_perplexity` must be a number, not {kind(max_perplexity)}.")
            if not 1 <= max_perplexity < float("inf"):
                raise InputError(
                    f"`max_perplexity` must be a number from 1 upwards, not {max_perplexity:g}."
                )
            return cls("perplexity", float(max_perplexity))
        if task_metric is not None:
            return _read_task(text("task_metric", task_metric))
        return cls(
            "degradation", _read_share(DEFAULT if max_degradation is None else max_degradation)
        )


def _read_share(text: str | float) -> float:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise InputError(f"`max_degradation` must be a share such as 5% or 0.05, not {kind(text)}.")
    told = str(text).strip()
    try:
        share = float(told[:-1]) / 100 if told.endswith("%") else float(told)
    except ValueError:
        share = float("nan")
    if not (share > 0 and (share < 1 or told.endswith("%")) and share < float("inf")):
        meant = f"; did you mean {share:g}%?" if 1 <= share < 1000 else "."
        raise InputError(
            f"`max_degradation={told!r}` must be a share above 0 such as 5% or 0.05, from 1 on "
            f"with a percent sign{meant}"
        )
    return share


def _read_task(asked: str) -> Wish:
    task, metric, drop = ([*asked.rsplit(":", 2), "", ""])[:3]
    try:
        value = float(drop)
    except ValueError:
        value = -1.0
    if not (task and metric and 0 <= value < 1):
        raise InputError(
            f"`task_metric={asked!r}` must be TASK:METRIC:DROP, such as arc_easy:acc:0.02."
        )
    return Wish("task", value, task, metric)


def limit_on(bench: Workbench, wish: Wish) -> Limit:
    """The limit as a figure. Raises InputError where the unpruned model does not keep it."""
    if wish.kind == "degradation":
        dense = exp(bench.dense("validation").loss)
        return Limit("degradation", wish.value, dense * (1 + wish.value))
    if wish.kind == "perplexity":
        for place in bench.work.texts.places("validation"):
            dense = exp(bench.dense(place).loss)
            if dense > wish.value:
                raise InputError(
                    f"the unpruned model's perplexity on the {the_text(place)} is {dense:.4g}, "
                    f"above `max_perplexity={wish.value:g}` already; allow more."
                )
        return Limit("perplexity", wish.value, wish.value)
    task = Limit("task", wish.value, None, wish.task, wish.task_metric)
    return replace(task, min_score=bench.score(None, None, task).value - wish.value)


def allowed_on(limit: Limit, dense: float) -> float | None:
    """The perplexity allowed where the dense model has ``dense``; None with a task."""
    return dense * (1 + limit.value) if limit.kind == "degradation" else limit.max_perplexity
