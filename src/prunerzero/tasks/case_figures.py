"""Perplexities of each case of a search, on whole texts, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunerzero import evolution
from prunerzero.language.corpora import Part
from prunerzero.metrics import Expression, Sparsity
from prunerzero.tasks.best_of_all import Choice
from prunerzero.tasks.cases import Cases, optional_parts
from prunerzero.tasks.doubts import dense_doubt, gain_doubt, told
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.shared_study import SharedPerplexities
from prunerzero.tasks.workspace import Workspace


@dataclass(frozen=True)
class CaseFigures:
    """Perplexities on whole texts of one case, which the workers share.

    Attributes:
        work, sparsity: the case.
        shared: measures.
        places: what is measured, in the order in which it is told.
        model: what sentences call the model where there are several; empty where there is one.
    """

    work: Workspace
    sparsity: Sparsity
    shared: SharedPerplexities
    places: tuple[str, ...]
    model: str

    def try_dense(self) -> None:
        """Measure the unpruned model wherever no other worker is at it."""
        for place in self.places:
            self.shared.try_dense(place)

    def perplexities(self, best: Choice, interrupted: bool) -> dict[str, dict[str, float]]:
        """Of the unpruned model and of the result; where interrupted, what is known already."""
        found: dict[str, dict[str, float]] = {}
        for place in self.places:
            if not interrupted:
                pruned = self.shared.pruned(place, {best.name: best.expression})[best.name]
                found[place] = {"dense": self.shared.dense(place), best.origin: pruned}
            elif (dense := self.shared.measured(place, "dense")) is not None:
                found[place] = {"dense": dense}
            else:
                found[place] = {}
        return found

    def gain_doubts(self, best: Choice, named: Mapping[str, Expression]) -> list[str | None]:
        """Whether an evolved metric is ahead of the known ones on the test texts too.

        The known one that was best on the validation text is measured there for it; ``named`` has
        what its name stands for.
        """
        if best.origin != "evolved" or not best.known:
            return []
        name = min(best.known, key=best.known.__getitem__)
        metrics = {best.name: best.expression, name: named[name]}
        doubts = []
        for place in self.places:
            if place.split(":")[0] == "test":
                found = self.shared.pruned(place, metrics)
                doubt = gain_doubt(place, str(self.sparsity), name, found[name], found[best.name])
                doubts.append(doubt and (f"{self.model}: {doubt}" if self.model else doubt))
        return doubts


def figures_of(
    cases: Cases, study: evolution.SearchStudy, refit: RefitOptions, test: bool
) -> list[CaseFigures]:
    """The cases of a search, one by one; without ``test`` the test text is left unread."""
    found = []
    for number, work in enumerate(cases.works, start=1):
        judged: list[Part] = ["validation", *(optional_parts(work) if test else [])]
        places = [place for part in judged for place in work.texts.places(part)]
        if work.texts.of("validation").texts:  # mixed, as it is searched on, and each by itself
            places.insert(0, "validation")
        model = f"model {number}" if cases.count > 1 else ""
        for sparsity in cases.sparsities:
            shared = SharedPerplexities(work, study.jobs, sparsity, refit, model)
            called = work.setup.model if len(cases.works) > 1 else ""
            found.append(CaseFigures(work, sparsity, shared, tuple(places), called))
    return found


def told_cases(
    measuring: Sequence[CaseFigures],
    perplexities: Sequence[Mapping[str, Mapping[str, float]]],
    best: Choice,
) -> tuple[dict[str, Any], ...]:
    """The figures of each case, as ``best.json`` has them."""
    return tuple(
        {
            "model": one.work.setup.model,
            "sparsity": str(one.sparsity),
            "perplexity": found,
            "ratio": {
                place: figures[best.origin] / figures["dense"]
                for place, figures in found.items()
                if best.origin in figures
            },
        }
        for one, found in zip(measuring, perplexities, strict=True)
    )


def dense_doubts(measuring: Sequence[CaseFigures]) -> tuple[str, ...]:
    """What cannot be right about the unpruned models, a sentence each."""
    doubts = []
    for one in measuring:
        for place in one.places:
            dense = one.shared.measured(place, "dense")
            text = one.work.texts.of(place)
            doubt = None if dense is None else dense_doubt(place, dense, text.windows)
            doubts.append(doubt and (f"{one.model}: {doubt}" if one.model else doubt))
    return told(doubts)
