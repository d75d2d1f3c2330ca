"""The result of a search: the best of all that it knows, evolved or known before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prunerzero.evolution import Population, SearchResult
from prunerzero.exponential import exp
from prunerzero.metrics import Expression
from prunerzero.tasks.known_metrics import KnownMetrics
from prunerzero.tasks.shared_study import SharedPerplexities, SharedRatios
from prunerzero.tasks.twins import Twins

Origin = Literal["evolved", "known"]

JudgedOn = Literal["whole", "race"]
"""The whole validation text, or the chunks of it that a race reads."""

EVOLVED = "evolved"
"""The name of a metric that was evolved here."""

_LEFT_OUT = 0.02
"""Windows that fill no chunk may move a perplexity by this share; judging leaves them out."""

_SAME_WEIGHTS = 1e-3
"""Models with the same weights have perplexities that differ by no more than this share."""


@dataclass(frozen=True)
class Choice:
    """The metric that is the result, and what it was chosen by.

    Attributes:
        origin: where it comes from.
        name: that it is known by, or "evolved".
        expression: the metric.
        evolved: the best metric that was evolved, also where a known one is better; None of none.
        known: perplexity on the whole validation text of the named metrics that could still win
            once the race's chunks were read, as far as measured; of several cases how often the
            dense perplexity, in the geometric mean.
        answer: the choice in a sentence.
        best_known: the best of the named metrics, by what the choice was made by; empty of none.
        judged: what the choice was made by: the figure of ``best_known``, and under "evolved" that
            of the best evolved metric; perplexity, or the mean ratio to the dense one.
        judged_on: the text of these figures; of a race's, candidates' refit stands behind them.
    """

    origin: Origin
    name: str
    expression: Expression
    evolved: Expression | None
    known: dict[str, float]
    answer: str
    best_known: str
    judged: dict[str, float]
    judged_on: JudgedOn


@dataclass(frozen=True)
class Known:
    """What the named metrics are to a search.

    Attributes:
        measured: they themselves.
        twins: tells an evolved metric that is one of them in another form.
        after: how masks are used before a candidate is judged, where that is not as the result is
            measured; empty where figures of both compare.
    """

    measured: KnownMetrics
    twins: Twins
    after: str = ""


def choose(
    result: SearchResult,
    population: Population,
    known: Known,
    shared: SharedPerplexities | SharedRatios,
    text: str = "validation text",
    cases: int = 1,
) -> Choice | None:
    """The best on the whole validation text, measured where it is not; None where there is none.

    The smallest of the evolved metrics that are as good as the best within the noise goes first, as
    long as it beats all known ones; then the other finalists, the best first. Where a known metric
    is as good as an evolved one, or prunes the same weights, the known one is the result. A known
    power law is measured where a finalist turns out to be one.

    Args:
        result, population, known, shared: of the search.
        text: what the validation part is called in the answer.
        cases: how many models and sparsities ``shared`` is the mean of.
    """
    known.measured.wait()
    named = known.measured.named
    races = [i.losses for i in population.individuals if i.state == "complete"]
    names = known.measured.contenders([min(races, key=sum)] if races else [])
    on_whole = shared.pruned("validation", {name: named[name] for name in names})
    best = min(on_whole.values(), default=math.inf)
    wanted = {} if result.expression is None else {result.expression: exp(result.loss or 0.0)}
    wanted |= {finalist.expression: exp(finalist.loss) for finalist in result.finalists}
    evolved: dict[str, float] = {}
    twins: dict[str, str] = {}
    scale: float | None = None
    for formula, in_search in wanted.items():
        # what the search read is scaled by what the first one has: a search may leave windows
        # out, and refit its candidates in fewer steps
        if scale is not None and in_search * scale > best * (1 + _LEFT_OUT):
            continue
        expression = Expression.parse(formula)
        twin = known.twins.of(expression)
        if twin is not None:
            twins[formula] = twin
            if twin in on_whole or twin in known.measured.measured:
                continue
            expression = named[twin]  # a law, which no search measures beforehand
        value = shared.pruned("validation", {twin or EVOLVED: expression})[twin or EVOLVED]
        if scale is None and math.isfinite(value):
            scale = value / in_search
        if twin is not None:
            on_whole[twin] = value
        elif value < best and (twin := _twin(expression, value, on_whole, named, shared)):
            twins[formula] = twin
            continue
        else:
            evolved[formula] = value
        if value < best:
            break
    where = _Where("whole", text, cases)
    none = none_evolved(population)
    return _better(evolved, on_whole, where, on_whole, twins, named, none)


def _twin(
    expression: Expression,
    value: float,
    known: Mapping[str, float],
    named: Mapping[str, Expression],
    shared: SharedPerplexities | SharedRatios,
) -> str | None:
    """The known metric that prunes the same weights, which has the same perplexity then."""
    close = (n for n, v in known.items() if math.isclose(v, value, rel_tol=_SAME_WEIGHTS))
    return next((n for n in close if shared.prune_alike(expression, named[n])), None)


def choose_now(
    result: SearchResult,
    population: Population,
    known: Known,
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
    named = known.measured.named
    on_race = dict(known.measured.perplexities)
    on_whole = {
        name: value
        for name in on_race
        if (value := shared.measured("validation", named[name])) is not None
    }
    in_race = _Where("race", text, cases, known.after)
    none = none_evolved(population)
    races: dict[str, float] = {}
    for individual in sorted(population.living, key=lambda i: i.mean):
        if individual.state == "complete" and individual.is_evolved:
            races.setdefault(str(individual.candidate.expression), exp(individual.mean))
    wanted = ([] if result.expression is None else [result.expression]) + [*races]
    twins: dict[str, str] = {}
    for formula in dict.fromkeys(wanted):
        if (twin := known.twins.of(Expression.parse(formula))) is None:
            break
        twins[formula] = twin
        if twin not in known.measured.measured:  # a law, which the search alone has read
            on_race[twin] = races[formula]
            if (value := shared.measured("validation", named[twin])) is not None:
                on_whole[twin] = value
    else:
        return _better({}, on_race, in_race, on_whole, twins, named, none)
    whole = shared.measured("validation", Expression.parse(formula))
    if whole is None and not known.after:
        whole = {f.expression: exp(f.loss) for f in result.finalists}.get(formula)
    if whole is not None:
        if min(on_whole.values(), default=math.inf) <= whole:
            where = _Where("whole", text, cases)
            return _better({formula: whole}, on_whole, where, on_whole, twins, named, none)
        on_race = {name: value for name, value in on_race.items() if name not in on_whole}
    return _better({formula: races[formula]}, on_race, in_race, on_whole, twins, named, none)


@dataclass(frozen=True)
class _Where:
    """What metrics were compared on, in words.

    Attributes:
        on: how much of the text.
        text: what it is called.
        cases: of how many models and sparsities, whose mean is taken.
        after: how masks were used before, where that has to be said.
    """

    on: JudgedOn
    text: str
    cases: int
    after: str = ""

    @property
    def in_words(self) -> str:
        words = f"the whole {self.text}"
        if self.on == "race":
            words = f"the {self.text} that a race reads"
        return f"{words}, after {self.after}" if self.after else words

    def full(self, value: float) -> str:
        """``"perplexity 27.40 on the whole validation text"``, or the same of several cases."""
        if self.cases == 1:
            return f"perplexity {self.bare(value)} on {self.in_words}"
        mean = f"in the geometric mean of {self.cases} cases"
        return f"{self.bare(value)} times the dense perplexity on {self.in_words}, {mean}"

    def bare(self, value: float) -> str:
        """The number alone; ratios are closer together than perplexities."""
        return f"{value:.{3 if self.cases > 1 else 2}f}" if value < 1000 else f"{value:.4g}"


def _better(
    evolved: Mapping[str, float],
    known: Mapping[str, float],
    where: _Where,
    on_whole: dict[str, float],
    twins: Mapping[str, str],
    named: Mapping[str, Expression],
    none: str,
) -> Choice | None:
    """Choose the lowest perplexity; of equals the known one.

    Args:
        evolved: perplexity of each evolved metric, by its text, or its mean ratio to the dense one.
        known: of each named one, on the same text.
        where: which text that is.
        on_whole: of the named ones on the whole validation text, as far as measured.
        twins: evolved metrics that prune as a named one does, with its name, the best first; they
            are called by that name.
        named: the metrics behind the names.
        none: why there is no evolved one, where there is none.
    """
    best = min(evolved, key=evolved.__getitem__, default=None)
    name = min(known, key=known.__getitem__, default=None)
    expression = None if best is None else Expression.parse(best)
    judged = {} if name is None else {name: known[name]}
    if where.after:  # what is told of the whole text is after the refit in full
        on_whole = {}
    if best is not None and expression is not None:
        judged[EVOLVED] = evolved[best]
        if name is None or evolved[best] < known[name]:
            answer = f"The evolved metric has {where.full(evolved[best])}"
            if name is not None:
                answer += f", where {name}, the best known one, has {where.bare(known[name])}"
            return Choice(
                "evolved",
                EVOLVED,
                expression,
                expression,
                on_whole,
                f"{answer}.",
                name or "",
                judged,
                where.on,
            )
        rest = f"; the best evolved one has {where.bare(evolved[best])}"
    elif name is None:
        return None
    else:
        rest = ""
    beginning = "No evolved metric beats the known ones"
    if best is None and not twins:
        beginning = none
    same = [f for f, twin in twins.items() if twin == name and f != str(named[name])]
    if same:
        rest = f"; {same[0]}, which was evolved, prunes as it does{rest}"
    answer = (
        f"{beginning}, so the result is {name}, the best of those: {where.full(known[name])}{rest}."
    )
    return Choice("known", name, named[name], expression, on_whole, answer, name, judged, where.on)


def none_evolved(population: Population) -> str:
    """Why no evolved metric can be the result, to go before "so the result is …"."""
    tried = Counter(i.state for i in population.individuals if i.is_evolved)
    if tried:
        told = f"raced out: {tried['raced_out']}, failed: {tried['failed']}"
        return (
            "No evolved metric was read to the end of the race, as the known ones were (tried: "
            f"{tried.total()}, {told})"
        )
    count = len(population.individuals)
    if not count:
        return "No metric was evolved yet, and the known ones are measured"
    return (
        f"No metric was evolved, as all evaluations ({count}) went to known metrics (allow more "
        "of them)"
    )
