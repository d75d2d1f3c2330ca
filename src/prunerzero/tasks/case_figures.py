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

    def perplexities(
        self, best: Choice, named: Mapping[str, Expression], interrupted: bool
    ) -> dict[str, dict[str, float]]:
        """Of the unpruned model, the result and, where it was evolved, the best known metric.

        Each is measured on every text by itself, as a mixture can hide on which of its texts a
        metric is ahead. Where interrupted, nothing is measured, and what is not told after the
        refit that the choice was made after is left out.

        Args:
            best: the result.
            named: what the names of known metrics stand for.
            interrupted: whether the search was.
        """
        wanted = {best.name: best.expression}
        shown: dict[str, str | Expression] = {best.origin: best.expression}
        if best.origin == "evolved" and best.best_known:
            wanted[best.best_known] = shown[best.best_known] = named[best.best_known]
        found: dict[str, dict[str, float]] = {}
        for place in self.places:
            if not interrupted:
                self.shared.dense(place)
                self.shared.pruned(place, wanted)
            told: dict[str, str | Expression] = {"dense": "dense"}
            if not interrupted or best.judged_on == "whole":
                told |= shown
            measured = {name: self.shared.measured(place, what) for name, what in told.items()}
            found[place] = {name: value for name, value in measured.items() if value is not None}
        return found

    def gain_doubts(
        self, best: Choice, perplexities: Mapping[str, Mapping[str, float]]
    ) -> list[str | None]:
        """Whether an evolved metric is ahead of the best known one on the test texts too."""
        name = best.best_known
        if best.origin != "evolved" or not name:
            return []
        doubts = []
        for place in filter(_is_test, self.places):
            found = perplexities[place]
            doubt = gain_doubt(place, str(self.sparsity), name, found[name], found[best.origin])
            doubts.append(doubt and (f"{self.model}: {doubt}" if self.model else doubt))
        return doubts


def _is_test(place: str) -> bool:
    return place.split(":")[0] == "test"


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
