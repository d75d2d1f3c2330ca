"""The study of a search as its workers share it: opened, refused in words, measured once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from prunerzero.errors import InputError, OtherRunError, OutputError
from prunerzero.evolution import SearchStudy, StudyMismatchError
from prunerzero.evolution.errors import DamagedJournalError, StorageError
from prunerzero.evolution.jobs import Jobs
from prunerzero.exponential import exp
from prunerzero.metrics import Expression, Sparsity
from prunerzero.pruning.pruner import each_mask
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.prune_loaded import prune_loaded
from prunerzero.tasks.workspace import Workspace


@contextmanager
def open_study(
    storage: str | Path, settings: Mapping[str, Any] | None = None
) -> Iterator[SearchStudy]:
    """The study, for as long as this worker is at it.

    Raises:
        InputError: it was begun with other settings, cannot be used, or, in the midst of the work,
            cannot be written any more.
    """
    try:
        study = SearchStudy.open(storage, settings)
    except StudyMismatchError as error:
        raise OtherRunError(
            f"'{_shown(storage)}' holds another search: {error} Name another `output_dir`."
        ) from None
    except (ValueError, DamagedJournalError) as error:
        raise InputError(str(error)) from None
    except StorageError as error:
        raise OutputError(f"'{_shown(storage)}' cannot be written: {error}.") from None
    try:
        with study:
            yield study
    except DamagedJournalError as error:
        raise OutputError(str(error)) from None
    except StorageError as error:
        raise OutputError(
            f"'{_shown(storage)}' cannot be written any more: {error}. What was evaluated is kept; "
            "mend that, and the same command goes on from there."
        ) from None


def _shown(storage: str | Path) -> str:
    """Without the password that a URL may hold."""
    scheme, separator, rest = str(storage).rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else rest


class SharedPerplexities:
    """Perplexities on whole parts and their texts, which one of the workers measures and the others
    read in the study.

    Args:
        work: the model and its texts.
        jobs: of the study.
        sparsity: what the model is pruned to.
        refit: what is done with masks.
        model: what the study calls the model where it has several cases; empty where it has one.
    """

    def __init__(
        self,
        work: Workspace,
        jobs: Jobs,
        sparsity: Sparsity,
        refit: RefitOptions,
        model: str = "",
    ) -> None:
        self._work = work
        self._jobs = jobs
        self._sparsity = sparsity
        self._refit = refit
        self._model = model

    def try_dense(self, place: str) -> None:
        """Measure the model as it came, unless another worker is at it."""
        self._jobs.once(self._name("dense", place), partial(self._dense, place))

    def measured(self, place: str, what: str | Expression) -> float | None:
        """What has been measured so far of a metric or of "dense", without measuring."""
        result = self._jobs.result(self._name(str(what), place))
        return result[0] if result else None

    def dense(self, place: str) -> float:
        """The model as it came."""
        [[value]] = self._jobs.all_of(
            {self._name("dense", place): partial(self._dense, place)}
        ).values()
        return value

    def pruned(self, place: str, metrics: Mapping[str, Expression]) -> dict[str, float]:
        """The model pruned with each of several metrics, by the name that they are shown under."""
        jobs = {
            self._name(str(expression), place): partial(self._pruned, place, name, expression)
            for name, expression in metrics.items()
        }
        done = self._jobs.all_of(jobs)
        return {name: done[self._name(str(e), place)][0] for name, e in metrics.items()}

    def prune_alike(self, one: Expression, other: Expression) -> bool:
        """Whether two metrics prune the same weights, every one of them."""
        pair = " and ".join(sorted([str(one), str(other)]))
        job = f"weights that {self._in_case(pair)} prune differently"
        found = self._jobs.all_of({job: lambda: [float(self._differing(one, other))]})
        return found[job] == [0.0]

    def _differing(self, one: Expression, other: Expression) -> int:
        """How many weights one of the metrics prunes and the other does not."""
        layers = self._work.layers
        known = self._work.calibration.statistics(one.terminals | other.terminals)
        pruned = {n: mask.cpu() for n, mask in each_mask(layers, known, one, self._sparsity)}
        others = each_mask(layers, known, other, self._sparsity)
        return sum(int((pruned[name] != mask.cpu()).sum()) for name, mask in others)

    def _dense(self, place: str) -> list[float]:
        return [self._work.dense(place)]

    def _pruned(self, place: str, name: str, expression: Expression) -> list[float]:
        with self._work.pruned_for_now():
            prune_loaded(self._work, expression, self._sparsity, self._refit)
            shown = name
            if self._model:
                shown = f"{name}, {self._work.setup.model} at {self._sparsity}"
            return [self._work.measure(place, shown).value]

    def _name(self, what: str, place: str) -> str:
        what = self._in_case(what, pruned=what != "dense")
        return f"perplexity of {what} on {place} {self._work.texts.of(place).fingerprint}"

    def _in_case(self, what: str, pruned: bool = True) -> str:
        """The same with the case, where there are several."""
        at = f" at {self._sparsity}" if pruned else ""
        return f"{what} in {self._model}{at}" if self._model else what


class SharedRatios:
    """How often the dense perplexity a metric has, in the geometric mean of several cases."""

    def __init__(self, cases: Sequence[SharedPerplexities]) -> None:
        self._cases = cases

    def measured(self, place: str, what: str | Expression) -> float | None:
        """What has been measured so far of a metric; None where it is not that of every case."""
        found = [(c.measured(place, what), c.measured(place, "dense")) for c in self._cases]
        ratios = [pruned / dense for pruned, dense in found if pruned and dense]
        return geometric_mean(ratios) if len(ratios) == len(self._cases) else None

    def pruned(self, place: str, metrics: Mapping[str, Expression]) -> dict[str, float]:
        """The models pruned with each of several metrics, by the name that they are shown under."""
        ratios: dict[str, list[float]] = {name: [] for name in metrics}
        for case in self._cases:
            dense = case.dense(place)
            for name, pruned in case.pruned(place, metrics).items():
                ratios[name].append(pruned / dense)
        return {name: geometric_mean(of_cases) for name, of_cases in ratios.items()}

    def prune_alike(self, one: Expression, other: Expression) -> bool:
        """Whether two metrics prune the same weights in every case."""
        return all(case.prune_alike(one, other) for case in self._cases)


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean in which doubling one and halving another cancel out."""
    return exp(fmean(map(log, ratios)))
