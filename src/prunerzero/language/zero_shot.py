"""Zero-shot tasks, by lm-evaluation-harness, which ``pip install prunerzero[eval]`` brings."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError, first_line
from prunerzero.language.hub import ask_hub, caches_alone
from prunerzero.language.models import LanguageModel
from prunerzero.language.quiet import quiet_datasets, quiet_logger

_ANY_DATA = "allenai/ai2_arc"
"""A repository to ask the hub for, where only the connection is in question."""


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        task, metric: such as ``arc_easy`` and ``acc``.
        value: the score.
        error: its standard error; None where the task has none.
        examples: how many were answered.
        shots: solved examples in the prompt.
        version: of the task in the harness.
    """

    task: str
    metric: str
    value: float
    error: float | None
    examples: int
    shots: int
    version: str


@quiet_logger("lm_eval")
@quiet_datasets()
def load_tasks(names: Iterable[str]) -> Any:
    """The harness's tasks of these names, with their data.

    Args:
        names: task, group or tag of the harness, a task's .yaml file, or a folder of such files.

    Raises:
        InputError: lm-eval is not installed, there is no such task, or its data are out of reach.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError(
            "tasks need lm-evaluation-harness: pip install 'prunerzero[eval]'."
        ) from None
    wanted: list[str] = []
    paths: list[str] = []
    own: set[str] = set()
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = TaskManager(include_path=str(path), include_defaults=False).all_subtasks
            if not found:
                raise InputError(f"task folder '{name}' holds no task's .yaml file.")
            paths.append(str(path))
            wanted.extend(found)
            own.update(found)
        else:
            if path.suffix == ".yaml" and not path.is_file():
                raise InputError(f"there is no task file '{name}'.")
            wanted.append(name)
    if not wanted:
        raise InputError('no task is named; pass for example `tasks=["arc_easy", "hellaswag"]`.')
    # reading the harness's own thousands takes seconds
    by_path = all(name in own or Path(name).is_file() for name in wanted)
    manager = TaskManager(include_path=paths or None, include_defaults=not by_path)
    for name in wanted:
        if name not in manager.all_tasks and not Path(name).is_file():
            raise InputError(f"lm-evaluation-harness has no task {name!r}.")
    # what is named by a file is mostly data of one's own, for which nobody need be asked
    reachable = by_path or ask_hub(_ANY_DATA, "dataset") != "unreachable"
    try:
        with nullcontext() if reachable else caches_alone():
            return manager.load(wanted)
    except Exception as error:  # the libraries below raise almost anything without a connection
        if not reachable:
            raise InputError(
                f"the data of {', '.join(wanted)} could not be loaded: the hub cannot be reached, "
                "and they were not downloaded before; connect, or pass a task's .yaml file with "
                "data of your own."
            ) from error
        raise InputError(
            f"the data of {', '.join(wanted)} could not be loaded from the hub or from disk: "
            f"{first_line(error)}."
        ) from error


@quiet_logger("lm_eval")
def score_tasks(
    loaded: LanguageModel, tasks: Any, batch_size: int, examples: int | None = None
) -> list[TaskScore]:
    """Answer the tasks that ``load_tasks`` gave.

    Args:
        loaded: the model as it is now.
        tasks: as loaded.
        batch_size: requests read at once.
        examples: at most so many of each task, the first ones; None for all.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        batch_size=batch_size,
        max_length=loaded.context_length,
    )
    found = evaluate(harness, tasks, limit=examples, log_samples=False)
    scores = []
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or isinstance(value, str):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            scores.append(
                TaskScore(
                    task=task,
                    metric=metric,
                    value=float(value),
                    error=float(error) if isinstance(error, int | float) else None,
                    examples=int(found["n-samples"].get(task, {}).get("effective", 0)),
                    shots=int(found["n-shot"].get(task, 0)),
                    version=str(found["versions"].get(task, "")),
                )
            )
    return scores
