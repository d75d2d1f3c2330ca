"""The result of a search: the best of all that it knows, evolved or known before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prunerzero.evolution import Population, SearchResult
from prunerzero.exponential import exp
from prunerzero.metrics import CATALOG, Expression
from prunerzero.tasks.known_metrics import KnownMetrics
from prunerzero.tasks.shared_study import SharedPerplexities, SharedRatios

Origin = Literal["evolved", "known"]

EVOLVED = "evolved"
"""The name of a metric that was evolved here."""

_LEFT_OUT = 0.02
"""Windows that fill no chunk may move a perplexity by this share; judging leaves them out."""


@dataclass(frozen=True)
class Choice:
    """The metric that is the result, and what it was chosen by.

    Attributes:
        origin: where it comes from.
        name: of the catalog, or "evolved".
        expression: the metric.
        evolved: the best metric that was evolved, also where a known one is better; None of none.
        known: perplexity on the whole validation text of the named metrics that could still win
            once the race's chunks were read, as far as measured; of several cases how often the
            dense perplexity, in the geometric mean.
        answer: the choice in a sentence.
    """

    origin: Origin
    name: str
    expression: Expression
    evolved: Expression | None
    known: dict[str, float]
    answer: str


def choose(
    result: SearchResult,
    population: Population,
    known: KnownMetrics,
    shared: SharedPerplexities | SharedRatios,
    text: str = "validation text",
    cases: int = 1,
) -> Choice | None:
    """The best on the whole validation text, measured where it is not; None where there is none.

    The smallest of the evolved metrics that are as good as the best within the noise goes first, as
    long as it beats all known ones; then the other finalists, the best first. Where a known metric
    is as good as an evolved one, the known one is the result.

    Args:
        result, population, known, shared: of the search.
        text: what the validation part is called in the answer.
        cases: how many models and sparsities ``shared`` is the mean of.
    """
    known.wait()
    races = [i.losses for i in population.individuals if i.state == "complete"]
    names = known.contenders([min(races, key=sum)] if races else [])
    on_whole = shared.pruned("validation", {name: CATALOG[name].expression for name in names})
    best = min(on_whole.values(), default=math.inf)
    wanted = [] if result.expression is None else [result.expression]
    for finalist in result.finalists:
        if exp(finalist.loss) <= best * (1 + _LEFT_OUT):
            wanted.append(finalist.expression)
    evolved: dict[str, float] = {}
    for formula in dict.fromkeys(wanted):
        measured = shared.pruned("validation", {EVOLVED: Expression.parse(formula)})
        evolved[formula] = measured[EVOLVED]
        if evolved[formula] < best:
            break
    return _better(evolved, on_whole, _Where(_WHOLE.format(text=text), cases), on_whole)


def choose_now(
    result: SearchResult,
    population: Population,
    known: KnownMetrics,
    shared: SharedPerplexities | SharedRatios,
    text: str = "validation text",
    cases: int = 1,
) -> Choice | None:
    """The best by what an interrupted search has measured so far; None where that is nothing.

    An evolved metric is the result where it beats every known one, each compared on the whole text
    where both were read to its end, and on the chunks that a race reads where not.

    Args:
        result, population, known, shared: of the search.
        text: what the validation part is called in the answer.
        cases: how many models and sparsities ``shared`` is the mean of.
    """
    on_race = known.perplexities
    on_whole = {
        name: value
        for name in on_race
        if (value := shared.measured("validation", CATALOG[name].expression)) is not None
    }
    if result.expression is None:
        return _better({}, on_race, _Where(_RACE.format(text=text), cases), on_whole)
    formula = result.expression
    race = min(
        e.perplexity
        for e in result.evaluations
        if e.expression == formula and e.state == "complete" and e.perplexity is not None
    )
    whole = shared.measured("validation", Expression.parse(formula))
    if whole is None:
        whole = {f.expression: exp(f.loss) for f in result.finalists}.get(formula)
    if whole is not None:
        if min(on_whole.values(), default=math.inf) <= whole:
            return _better(
                {formula: whole}, on_whole, _Where(_WHOLE.format(text=text), cases), on_whole
            )
        on_race = {name: value for name, value in on_race.items() if name not in on_whole}
    return _better({formula: race}, on_race, _Where(_RACE.format(text=text), cases), on_whole)


_WHOLE = "the whole {text}"
_RACE = "the {text} that a race reads"


@dataclass(frozen=True)
class _Where:
    """What metrics were compared on, in words.

    Attributes:
        text: the text.
        cases: of how many models and sparsities, whose mean is taken.
    """

    text: str
    cases: int

    def full(self, value: float) -> str:
        """``"perplexity 27.40 on the whole validation text"``, or the same of several cases."""
        if self.cases == 1:
            return f"perplexity {self.bare(value)} on {self.text}"
        mean = f"in the geometric mean of {self.cases} cases"
        return f"{self.bare(value)} times the dense perplexity on {self.text}, {mean}"

    def bare(self, value: float) -> str:
        """The number alone; ratios are closer together than perplexities."""
        return f"{value:.{3 if self.cases > 1 else 2}f}" if value < 1000 else f"{value:.4g}"


def _better(
    evolved: Mapping[str, float],
    known: Mapping[str, float],
    where: _Where,
    on_whole: dict[str, float],
) -> Choice | None:
    """Choose the lowest perplexity; of equals the known one.

    Args:
        evolved: perplexity of each evolved metric, by its text, or its mean ratio to the dense one.
        known: of each named one, on the same text.
        where: which text that is.
        on_whole: of the named ones on the whole validation text, as far as measured.
    """
    best = min(evolved, key=evolved.__getitem__, default=None)
    name = min(known, key=known.__getitem__, default=None)
    expression = None if best is None else Expression.parse(best)
    if best is not None and expression is not None:
        if name is None or evolved[best] < known[name]:
            answer = f"The evolved metric has {where.full(evolved[best])}"
            if name is not None:
                answer += f", where {name}, the best known one, has {where.bare(known[name])}"
            return Choice("evolved", EVOLVED, expression, expression, on_whole, f"{answer}.")
        rest = f"; the best evolved one has {where.bare(evolved[best])}"
    elif name is None:
        return None
    else:
        rest = "; no evolved one could be measured"
    answer = (
        f"No evolved metric beats the known ones, so the result is {name}, the best of those: "
        f"{where.full(known[name])}{rest}."
    )
    return Choice("known", name, CATALOG[name].expression, expression, on_whole, answer)
