"""What pruning costs on each text of a tuning, and whether that is within the limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from prunerzero.exponential import exp
from prunerzero.language.corpora import Part
from prunerzero.metrics import Metric, Sparsity
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.tune_result import CurvePoint, Limit
from prunerzero.tasks.tuning.limit import allowed_on
from prunerzero.tasks.tuning.workbench import Workbench

Step = Literal["choice", "bracket", "way", "evolved", "outline"]


@dataclass(frozen=True)
class OnText:
    """One text: the perplexities of the dense and the pruned model, and the second's rise."""

    dense: float
    pruned: float
    rise: float


class Curve:
    """The loss against the sparsity, measured point by point.

    Attributes:
        bench: prunes in the way to use masks that is taken.
        masks_alone: prunes with masks alone.
        limit: the loss accepted.
        points: what was measured on the validation part, each once.
        allowed: the rise allowed there, on each text, or the drop of the task's score.
    """

    def __init__(self, bench: Workbench, limit: Limit) -> None:
        self.bench = self.masks_alone = bench
        self.limit = limit
        self.points: list[CurvePoint] = []
        self.allowed = limit.value
        if limit.max_perplexity is not None:
            self.allowed = self.allowed_rise("validation")

    def take(self, way: RefitOptions) -> None:
        """Use masks in this way from now on."""
        self.bench = self.masks_alone.refitted(way)

    def measure(
        self,
        metric: Metric,
        sparsity: Sparsity,
        step: Step,
        windows: int | None = None,
        bench: Workbench | None = None,
    ) -> CurvePoint:
        """The point of the curve, measured unless it is there already, in the way that is taken or
        by another ``bench``."""
        shown = step != "choice"  # which counts metrics
        bench = bench or self.bench
        pruned = bench.pruned(metric, sparsity, "validation", windows, shown=shown)
        texts = self.on_texts("validation", metric, sparsity, windows, bench)
        within: bool | None = self.decisive(texts) <= self.allowed
        score: float | None = None
        if self.limit.min_score is not None:  # too dear to answer for what decides nothing
            if step in ("bracket", "evolved"):
                score = self.bench.score(metric, sparsity, self.limit).value
            within = None if score is None else score >= self.limit.min_score
        point = CurvePoint(
            sparsity=sparsity.fraction,
            pattern=str(sparsity),
            group=sparsity.group,
            metric=metric.name,
            formula=str(metric.expression),
            perplexity=exp(pruned.loss),
            rise=max(text.rise for text in texts.values()),
            within=within,
            windows=len(pruned.losses),
            score=score,
            step=step,
            perplexities={name: text.pruned for name, text in texts.items() if len(texts) > 1},
            rises={name: text.rise for name, text in texts.items() if len(texts) > 1},
            refit=bench.refit.in_words,
        )
        if all(replace(known, step=step) != point for known in self.points):
            self.points.append(point)
        return point

    def on_test(self, metric: Metric, sparsity: Sparsity) -> tuple[float, bool]:
        """Perplexity on the test part, and whether the limit is kept on each of its texts."""
        perplexity = exp(self.bench.pruned(metric, sparsity, "test").loss)
        kept = [
            (allowed := allowed_on(self.limit, text.dense)) is not None and text.pruned <= allowed
            for text in self.on_texts("test", metric, sparsity).values()
        ]
        return perplexity, all(kept)

    def on_texts(
        self,
        part: Part,
        metric: Metric,
        sparsity: Sparsity,
        windows: int | None = None,
        bench: Workbench | None = None,
    ) -> dict[str, OnText]:
        """Dense against pruned on each text of a part, by the text's name."""
        bench = bench or self.bench
        texts, places = self.bench.work.texts.each(part), self.bench.work.texts.places(part)
        found = {}
        for text, place in zip(texts, places, strict=True):
            dense = bench.dense(place, windows).loss
            pruned = bench.pruned(metric, sparsity, place, windows, shown=False).loss
            found[text.name] = OnText(exp(dense), exp(pruned), exp(pruned - dense) - 1)
        return found

    def allowed_rise(self, part: Part) -> float:
        """The rise that the limit allows on a part, to compare with what ``decisive`` gives."""
        dense = max(
            exp(self.bench.dense(place).loss) for place in self.bench.work.texts.places(part)
        )
        return (allowed_on(self.limit, dense) or 0.0) / dense - 1

    def decisive(self, texts: Mapping[str, OnText]) -> float:
        """The rise that is within ``allowed_rise`` where each text keeps the limit.

        The highest of theirs; where the limit is a perplexity, the rise from the highest dense
        perplexity to the highest pruned one.
        """
        if self.limit.kind == "perplexity" and len(texts) > 1:
            highest = max(text.dense for text in texts.values())
            return max(text.pruned for text in texts.values()) / highest - 1
        return max(text.rise for text in texts.values())
