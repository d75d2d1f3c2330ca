"""What a metric is judged on in one search: each of some models at each of some sparsities."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prunerzero import evolution, identity
from prunerzero.errors import InputError, ModelError
from prunerzero.language.corpora import Part
from prunerzero.metrics import Sparsity
from prunerzero.metrics.operators import PUBLISHED_TERMINALS
from prunerzero.metrics.sparsity import Group
from prunerzero.pruning.fitness import PrunedLoss
from prunerzero.pruning.statistics import probes_of
from prunerzero.scoring.ranking import Probe
from prunerzero.tasks.fits import place_grams
from prunerzero.tasks.metric_sources import sparsity_of
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace

_CHUNK_TOKENS = 1024
_RACE_CHUNKS = 16

RANKING_STEPS = 8
"""Steps of conjugate gradients after which candidates are judged under least squares: they rank as
after the exact solution, in a third of its time on a CPU and a hundredth on a GPU
(``benchmarks/conjugate_steps.py``). The result of a search is refitted in full, as any model is."""


def setups_of(given: Any) -> tuple[Setup, ...]:
    """One setup or several, each of which may be a model that is named alone.

    Raises:
        InputError: none, one of the wrong kind, a model twice, or several devices.
    """
    setups = tuple(Setup.of(one) for one in _each(given))
    if not setups:
        raise InputError("`setup` names no model.")
    _refuse_twice("model", [setup.model for setup in setups])
    devices = {setup.device for setup in setups}
    if len(devices) > 1:
        raise InputError(
            "the models of a search share one `device`, not "
            f"{' and '.join(map(repr, sorted(devices)))}."
        )
    return setups


def sparsities_of(given: Any, group: Group | None) -> tuple[Sparsity, ...]:
    """One sparsity or several, as ``sparsity_of`` reads each.

    Raises:
        InputError: none, one of the wrong kind, one twice, or scores that compete in other groups.
        SparsityError: one cannot be read.
    """
    sparsities = tuple(sparsity_of("sparsity", one, group) for one in _each(given))
    if not sparsities:
        raise InputError("`sparsity` names none.")
    _refuse_twice("sparsity", [str(sparsity) for sparsity in sparsities])
    if not all(sparsity.fraction for sparsity in sparsities):
        raise InputError("`sparsity` is 0, at which all metrics are one; name a larger one.")
    groups = {sparsity.group for sparsity in sparsities}
    if len(groups) > 1:
        raise InputError(
            "a metric is evolved for one `group` in which scores compete, not for "
            f"{' and '.join(sorted(groups))}."
        )
    return sparsities


def _each(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else [given]


def _refuse_twice(name: str, values: Sequence[str]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"`{name}` names '{value}' twice; leave one of them out.")


@dataclass(frozen=True)
class Cases:
    """Models and sparsities that a metric is judged on together: each model at each sparsity.

    Attributes:
        works: the models, each with its texts.
        sparsities: with one group for all.
    """

    works: tuple[Workspace, ...]
    sparsities: tuple[Sparsity, ...]

    @property
    def count(self) -> int:
        """How many cases there are."""
        return len(self.works) * len(self.sparsities)

    def check(self) -> None:
        """Raise ModelError where two are the same model, SparsityError where a layer does not
        fit a pattern."""
        for work in self.works:
            for sparsity in self.sparsities:
                work.check_widths(sparsity)
        known: dict[tuple[str, ...], str] = {}
        for work in self.works if len(self.works) > 1 else ():
            same = known.setdefault(tuple(work.model_identity.values()), work.setup.model)
            if same != work.setup.model:
                raise ModelError(
                    f"'{same}' and '{work.setup.model}' are the same model; leave one of them out."
                )

    def identity(self, settings: evolution.SearchSettings, refit: RefitOptions) -> dict[str, Any]:
        """What a study's figures depend on: with another of these it is another study."""
        first, *others = (work.identity("calibration", "validation") for work in self.works)
        return {
            **first,
            **{
                f"model {number} with its texts": identity.digest(json.dumps(of, sort_keys=True))
                for number, of in enumerate(others, start=2)
            },
            "sparsity": ", ".join(map(str, self.sparsities)),
            "group": self.sparsities[0].group,
            "seed": settings.seed,
            "strategy": settings.strategy,
            "operators": settings.operators,
            "seed metrics": settings.seed_metrics,
            **({"given metrics": ", ".join(settings.begin_with)} if settings.begin_with else {}),
            **({"refit": refit.in_words} if refit.refit else {}),
            **({"steps of the refit": RANKING_STEPS} if refit.refit.counts_solver_steps else {}),
        }

    def fitness(self, terminals: Collection[str], refit: RefitOptions) -> evolution.Fitness:
        """What measures a metric with these terminals: of one case the loss, of several the mean
        of how far it rises above that of the unpruned model.

        Raises:
            ModelError: an unpruned model has no finite loss on its validation text, or Gram
                matrices have no room anywhere.
        """
        by_turns = any(work.visitor is not None for work in self.works)
        if refit.refit and not by_turns:
            for work in self.works:  # whatever else is large comes first
                work.calibration.statistics(terminals)
            for device in self._devices:
                there = [work for work in self.works if work.setup.device == device]
                place_grams(there, len(self.sparsities), refit.refit)
        if self.count == 1:
            return fitness_of(self.works[0], self.sparsities[0], terminals, refit)
        cases: list[evolution.Placed] = []
        chunks = min(_chunks(work) for work in self.works)
        for work in self.works:
            losses = work.dense_figures("validation").losses
            if not all(map(math.isfinite, losses)):
                raise ModelError(
                    f"the unpruned model '{work.setup.model}' has no finite loss on its "
                    "validation text, so nothing can be compared with it; leave it out."
                )
            first = fitness_of(work, self.sparsities[0], terminals, refit, chunks)
            dense = first.in_chunks(losses)
            each = [first, *(first.at(other) for other in self.sparsities[1:])]
            cases += [evolution.Placed(one, dense, work.setup.device) for one in each]
        if by_turns:
            return evolution.ByTurns(cases)
        return evolution.AtOnce(cases) if len(self._devices) > 1 else evolution.Several(cases)

    @property
    def _devices(self) -> list[str]:
        """Those of the models: one for all, or several where each stays on its own."""
        return list(dict.fromkeys(work.setup.device for work in self.works))

    def samples(self, terminals: Collection[str]) -> list[tuple[list[Probe], Sparsity]]:
        """Samples of each model's layers, which show which metrics rank alike, per sparsity."""
        return [
            (probes, sparsity)
            for work in self.works
            for probes in [probes_of(work.layers, work.calibration.statistics(terminals))]
            for sparsity in self.sparsities
        ]

    def describe(self, settings: evolution.SearchSettings, refit: RefitOptions) -> dict[str, Any]:
        """All settings as they came out, for results; of several models those of each."""
        told = [describe(work) for work in self.works]
        shared: dict[str, Any] = told[0]
        if len(told) > 1:
            names = tuple(work.setup.model for work in self.works)
            shared = {"model": names, "models": tuple(told)}
            for same in ("gradient", "device", "versions"):
                if all(one[same] == told[0][same] for one in told):
                    shared[same] = told[0][same]
        return {**shared, **asdict(refit), "search": asdict(settings)}


def refit_of_candidates(refit: RefitOptions) -> str:
    """How masks are used before a candidate is judged, in words; empty where masks are all."""
    if refit.refit.counts_solver_steps:
        return f"{refit.in_words} in {RANKING_STEPS} steps"
    return refit.in_words


def optional_parts(work: Workspace) -> list[Part]:
    """The parts that a search measures where they are named."""
    return ["test"] if work.texts.has("test") else []


def fitness_of(
    work: Workspace,
    sparsity: Sparsity,
    terminals: Collection[str] = PUBLISHED_TERMINALS,
    refit: RefitOptions = RefitOptions(),
    chunks: int | None = None,
) -> PrunedLoss:
    """What measures a metric with these terminals on the validation text; of several texts on
    their mixture.

    Cut in so many ``chunks`` instead of the usual, a text is read to its end all the same: where
    another model has less text, this one has longer chunks.
    """
    text = work.texts.of("validation")
    per_chunk = _windows_per_chunk(work)
    if chunks is not None:
        turns = max(1, len(text.texts))
        per_chunk = max(per_chunk, len(text.windows) // chunks // turns * turns)
    return PrunedLoss(
        work.language_model.model,
        work.layers,
        work.calibration.statistics(terminals),
        sparsity,
        text.windows,
        windows_per_chunk=per_chunk,
        race_chunks=_RACE_CHUNKS,
        turns=max(1, len(text.texts)),
        refit=replace(refit.refit, solver_steps=RANKING_STEPS),
        grams=work.calibration.grams if refit.refit else None,
        visitor=work.visitor,
    )


def _windows_per_chunk(work: Workspace) -> int:
    text = work.texts.of("validation")
    count, turns = len(text.windows), max(1, len(text.texts))
    per_chunk = max(1, min(_CHUNK_TOKENS // work.window_length, count // _RACE_CHUNKS))
    if turns > 1 and count // _RACE_CHUNKS >= turns:  # a window of each text, or more, in a chunk
        per_chunk = max(turns, per_chunk // turns * turns)
    return per_chunk


def _chunks(work: Workspace) -> int:
    return max(1, len(work.texts.of("validation").windows) // _windows_per_chunk(work))
