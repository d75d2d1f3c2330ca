"""The model of a tuning on its workbench: pruned, measured, restored, nothing measured twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prunerzero.errors import InputError, OtherRunError, OutputError
from prunerzero.files import make_folder, read_own_json, write_json
from prunerzero.identity import Identity, difference
from prunerzero.language.corpora import PARTS, Part, part_of
from prunerzero.language.zero_shot import score_tasks
from prunerzero.memory import Memory
from prunerzero.metrics import Metric, Sparsity
from prunerzero.metrics.operators import TERMINALS
from prunerzero.pruning.pruner import LayerSparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.prune_loaded import prune_loaded
from prunerzero.tasks.tune_result import Limit
from prunerzero.tasks.workspace import Workspace

RUN = "run"
"""What was measured, in the folder of a tuning."""

TEXTS = "texts"
"""The parts that were set aside from the validation text, beside it."""

LEDGER = "measured.jsonl"
IDENTITY = "identity.json"


@dataclass(frozen=True)
class Measured:
    """The loss of each window, in nats per token, and how long it took."""

    losses: tuple[float, ...]
    seconds: float

    @property
    def loss(self) -> float:
        """Mean over the windows."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Score:
    """A task's score and its standard error, over so many examples."""

    value: float
    error: float | None
    examples: int


def is_tuning(folder: Path) -> bool:
    """Whether a tuning was begun in ``folder``.

    ``run/`` is made first of all, so that a tuning that stopped before its question was written is
    known by it: then there is nothing beside it but ``texts/``, and nothing finished in it.
    """
    if (folder / RUN / IDENTITY).is_file():
        return True
    found = {entry.name for entry in folder.iterdir()} if (folder / RUN).is_dir() else set()
    return RUN in found <= {RUN, TEXTS} and all(
        entry.name.endswith(".partial") for entry in (folder / RUN).iterdir()
    )


def open_ledger(folder: Path, question: Identity) -> Memory:
    """Everything measured in a tuning, so that an interruption loses nothing.

    Raises:
        OutputError: it holds what was measured for another ``question``, or is damaged.
    """
    path = folder / IDENTITY
    remedy = "restore it, or name another `output_dir`"
    if path.is_file():
        found = read_own_json(path, remedy)
        if not isinstance(found, dict):
            raise OutputError(f"'{path}' does not hold what a tuning leaves; {remedy}.")
        if different := difference(found, question):
            raise OtherRunError(
                f"folder '{folder.parent}' belongs to another question, with {different}; "
                "name another `output_dir`."
            )
    else:
        make_folder(folder)
        write_json(path, question)
    return Memory(folder / LEDGER, "delete that line, and what it holds is measured again")


@dataclass(frozen=True)
class _Refitted:
    """What a refit made: the weights in host memory, and how sparse the layers are."""

    name: str
    weights: Mapping[str, Tensor]
    layers: tuple[LayerSparsity, ...]


class Workbench:
    """Measures the model dense and pruned, by way of the ledger."""

    def __init__(
        self,
        work: Workspace,
        ledger: Memory,
        tasks: Any = None,
        refit: RefitOptions = RefitOptions(),
    ) -> None:
        """``tasks`` is what ``load_tasks`` gives for the limit's task, where that is the limit."""
        self.work = work
        self.ledger = ledger
        self.tasks = tasks
        self.refit = refit
        self._last: _Refitted | None = None

    def refitted(self, refit: RefitOptions) -> Workbench:
        """The same bench where masks are used in another way."""
        return Workbench(self.work, self.ledger, self.tasks, refit)

    def prune(self, metric: Metric, sparsity: Sparsity) -> tuple[LayerSparsity, ...]:
        """Prune the dense model in place.

        Refitted weights are kept in host memory until others are asked for: a refit takes far
        longer than a copy, and one model is measured on several texts.
        """
        name, layers = self.name(metric, sparsity), self.work.layers
        if self._last is not None and self._last.name == name:
            for layer, weight in self._last.weights.items():
                layers[layer].weight.copy_(weight)
            return self._last.layers
        self._last = None
        self.work.calibration.statistics(TERMINALS)  # at once what any metric may read
        found = prune_loaded(self.work, metric.expression, sparsity, self.refit)
        if self.refit.changes_weights:
            kept = {layer: own.weight.to("cpu", copy=True) for layer, own in layers.items()}
            self._last = _Refitted(name, kept, found)
        return found

    def name(self, metric: Metric, sparsity: Sparsity) -> str:
        """What measurements of the model pruned so are remembered by."""
        way = f", {self.refit.in_words}" if self.refit.in_words else ""
        return f"{metric.expression} at {sparsity.in_words}{way}"

    def dense(self, place: str, windows: int | None = None) -> Measured:
        """The model as it came, on a part or on so many evenly spaced windows of it.

        The place may be one of the texts of a part, whose windows are among those of the part.
        """
        return self._measure("dense", place, windows, "dense", lambda: None)

    def pruned(
        self,
        metric: Metric,
        sparsity: Sparsity,
        place: str,
        windows: int | None = None,
        *,
        shown: bool = True,
    ) -> Measured:
        """The model pruned with ``metric``; it is dense again afterwards."""
        way = f", {self.refit.in_words}" if self.refit.in_words else ""
        return self._measure(
            self.name(metric, sparsity),
            place,
            windows,
            f"{metric.name} at {sparsity.in_words}{way}" if shown else None,
            lambda: self.prune(metric, sparsity),
        )

    def score(self, metric: Metric | None, sparsity: Sparsity | None, limit: Limit) -> Score:
        """The limit's task, answered by the pruned model, or by the dense one without a metric."""
        assert limit.task is not None
        what = "dense"
        if metric is not None and sparsity is not None:
            what = self.name(metric, sparsity)

        def answer() -> dict[str, Any]:
            self.work.observer.stage(f"{limit.task}, {what}")
            with self.work.pruned_for_now(), self.work.observer.other_progress():
                if metric is not None and sparsity is not None:
                    self.prune(metric, sparsity)
                scores = score_tasks(self.work.language_model, self.tasks, 8)
            asked = [score for score in scores if score.metric == limit.task_metric]
            # of a group of tasks, the group's own score
            found = [score for score in asked if score.task == limit.task] or asked
            if len(found) != 1:
                raise InputError(
                    f"task {limit.task!r} gives {', '.join(f'{s.task} {s.metric}' for s in scores)}"
                    f", so {limit.task_metric!r} is not one score of it."
                )
            return asdict(Score(found[0].value, found[0].error, found[0].examples))

        return Score(**self.ledger.recall(f"{what}, {limit.task} {limit.task_metric}", answer))

    def with_weights(
        self, weights: Mapping[str, Tensor], metric: Metric, sparsity: Sparsity, windows: int
    ) -> float:
        """The validation loss, on so many windows, where only some layers are pruned.

        Args:
            weights: of these layers [out, in], as they are where all are pruned.
            metric, sparsity: those, which the loss is remembered by.
            windows: how many are read.
        """

        def loss() -> float:
            with self.work.pruned_for_now():
                for name, weight in weights.items():
                    self.work.layers[name].weight.copy_(weight)
                return self._read("validation", windows, None).loss

        which = f"{next(iter(weights))} and {len(weights) - 1}"
        key = f"{self.name(metric, sparsity)}, {which}, {windows}"
        return float(self.ledger.recall(key, loss))

    def _measure(
        self,
        what: str,
        place: str,
        windows: int | None,
        label: str | None,
        prune: Callable[[], Any],
    ) -> Measured:
        part = part_of(place)

        def losses() -> dict[str, Any]:
            with self.work.pruned_for_now():
                prune()
                measured = self._read(part, windows, label)
            return {"losses": measured.losses, "seconds": measured.seconds}

        count = windows or len(self.work.texts.of(part).windows)
        found = self.ledger.recall(f"{what}, {part}, {count} windows", losses)
        measured = Measured(tuple(found["losses"]), found["seconds"])
        if place == part:
            return measured
        places = self.work.texts.places(part)  # whose windows take turns
        own = measured.losses[places.index(place) :: len(places)]
        return Measured(own, measured.seconds * len(own) / len(measured.losses))

    def _read(self, part: Part, windows: int | None, label: str | None) -> Measured:
        begun = time.monotonic()
        chosen = self.work.texts.of(part).spread(windows)
        result = self.work.losses_of(chosen, label and f"{label}, {part} text")
        return Measured(result.losses, time.monotonic() - begun)


def question_of(work: Workspace, **question: Any) -> Identity:
    """All that an answer depends on: with another of these it is the answer to another question."""
    return {**work.identity(*PARTS), **question}
