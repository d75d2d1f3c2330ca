"""Zero-shot tasks, by lm-evaluation-harness, which ``pip install prunerzero[eval]`` installs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from prunerzero.documents import path_of
from prunerzero.errors import InputError, first_line
from prunerzero.language.hub import ask_hub, caches_alone
from prunerzero.language.models import LanguageModel
from prunerzero.language.quiet import quiet_datasets, quiet_logger

_ANY_DATA = "allenai/ai2_arc"
"""A repository to ask the hub for, to find out whether there is a connection."""


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        task, metric: such as ``arc_easy`` and ``acc``.
        value: the score.
        error: its standard error; None where the task has none.
        examples: number of examples answered.
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
    folders: list[str] = []
    from_files: set[str] = set()
    for name in names:
        path = path_of(name)
        if path.is_dir():
            tasks = TaskManager(include_path=str(path), include_defaults=False).all_subtasks
            if not tasks:
                raise InputError(f"task folder '{name}' holds no task's .yaml file.")
            folders.append(str(path))
        elif path.is_file():
            tasks = [str(path)]
        elif path.suffix == ".yaml":
            raise InputError(f"there is no task file '{name}'.")
        else:
            wanted.append(name)
            continue
        wanted.extend(tasks)
        from_files.update(tasks)
    if not wanted:
        raise InputError('no task is named; pass for example `tasks=["arc_easy", "hellaswag"]`.')
    only_files = from_files.issuperset(wanted)  # reading the harness's own thousands takes seconds
    manager = TaskManager(include_path=folders or None, include_defaults=not only_files)
    for name in wanted:
        if name not in from_files and name not in manager.all_tasks:
            raise InputError(f"lm-evaluation-harness has no task {name!r}.")
    # a user's own task mostly has data of its own, so the hub is not asked
    reachable = only_files or ask_hub(_ANY_DATA, "dataset") != "unreachable"
    try:
        with nullcontext() if reachable else caches_alone():
            return manager.load(wanted)
    except Exception as error:  # the libraries below raise almost anything without a connection
        tasks_data = f"the data of {', '.join(wanted)} could not be loaded"
        if not reachable:
            raise InputError(
                f"{tasks_data}: the hub cannot be reached, and they were not downloaded before; "
                "connect, or pass a task's .yaml file with data of your own."
            ) from error
        raise InputError(f"{tasks_data} from the hub or from disk: {first_line(error)}.") from error


@quiet_logger("lm_eval")
def score_tasks(
    loaded: LanguageModel, tasks: Any, batch_size: int, examples: int | None = None
) -> list[TaskScore]:
    """Let the model, as it is now, answer tasks.

    Args:
        loaded: the model with its tokenizer.
        tasks: from ``load_tasks``.
        batch_size: requests read at once.
        examples: answer only the first ones of each task, this many; None for all.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        batch_size=batch_size,
        max_length=loaded.context_length,
    )
    results = evaluate(harness, tasks, limit=examples, log_samples=False)
    scores = []
    for task, values in results["results"].items():
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
                    examples=int(results["n-samples"].get(task, {}).get("effective", 0)),
                    shots=int(results["n-shot"].get(task, 0)),
                    version=str(results["versions"].get(task, "")),
                )
            )
    return scores
