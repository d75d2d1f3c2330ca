"""The options of single commands, each declared once; those of every command are in ``setup``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prunerzero import arguments
from prunerzero.evolution.settings import SeedMetrics, Strategy
from prunerzero.language.corpora import corpora_in_words
from prunerzero.language.source import NAMED, ModelSource
from prunerzero.metrics import Sparsity
from prunerzero.options import (
    AS_GIVEN,
    NUMBER,
    PATH,
    STRING,
    STRINGS,
    Kind,
    Options,
    one_of,
    option,
    same_option,
    whole_number,
)
from prunerzero.pruning.refit import Refinement, Refit, Update
from prunerzero.report.phrases import Language
from prunerzero.tasks.benching.rivals import RIVALS
from prunerzero.tasks.setup import TextOptions

Values = Literal["auto", "bfloat16", "float16", "int8", "int4"]

GroupChoice = Literal["auto", "row", "layer", "model"]

OperatorChoice = Literal["auto", "published", "extended"]

_LIMIT, _REFIT = "Limit (one of them)", "Weights that stay"

PUSH_TO_HUB = (
    "Push the finished folder to the Hugging Face hub, in one commit. The repository must be new "
    "or empty; a new one is private until you publish it there. Needs 'hf auth login' or HF_TOKEN."
)


def _steps() -> Any:
    return option(
        1,
        "Prune in so many steps, each with statistics of the model that the one before left.",
        whole_number(1),
        panel=_REFIT,
    )


@dataclass(frozen=True)
class SearchOptions(Options):
    """How a search searches, and where."""

    evaluations: int | None = option(
        None,
        "At most this many evaluations, by all workers together and before a resume; 500 if "
        "`time` is not given either.",
        whole_number(1),
    )
    time: str | float | None = option(
        None,
        "Evaluate at most this long: 90s, 15m, 2h, 1h30m. Judging the result comes after it, and "
        "is long where known metrics are refitted in full.",
        AS_GIVEN,
        metavar="DURATION",
    )
    seed: int = option(0, "Another seed, another search.", whole_number())
    strategy: Strategy = option(
        "evolution",
        "evolution; or random, powerlaw: baselines at equal budget.",
        one_of(Strategy),
    )
    operators: OperatorChoice = option(
        "auto",
        "Operators to build metrics from: published (the paper's), or extended, with which metrics "
        "may read D; auto: extended where there is an `update`, else published.",
        one_of(OperatorChoice),
    )
    seed_metrics: SeedMetrics = option(
        "none",
        "Begin from scratch (none), or with the known metrics (catalog; where `strategy` is "
        "evolution).",
        one_of(SeedMetrics),
    )
    begin_with: Sequence[str] = option(
        (),
        "Begin with this metric too, where `strategy` is evolution: a formula, or the folder of "
        "another search; may be repeated. The result is better than all it began with, or one of "
        "them.",
        STRINGS,
        metavar="METRIC",
    )
    workers: int | str = option(
        "1",
        "Processes on this host, one for each GPU; auto: as many as GPUs are visible, or fewer "
        "with several each where models do not fit on one together. A Python program that asks "
        "for several must guard its main module.",
        AS_GIVEN,
        metavar="auto|K",
    )
    storage: str | Path | None = option(
        None,
        "Path of the study's journal, by default OUTPUT_DIR/journal.log, or the URL of a "
        "PostgreSQL database. The same command on another host joins in.",
        AS_GIVEN,
    )


@dataclass(frozen=True)
class RefitOptions(Options):
    """What is done with a metric's masks, so that the weights that stay make good what went."""

    update: Update = option(
        "none",
        "Refit the weights that stay, so that each layer's outputs change least (least-squares): "
        "closed form, no training. It fits the calibration text: give one of each kind of text "
        "that matters.",
        one_of(Update),
        panel=_REFIT,
    )
    refine: Refinement = option(
        "none",
        "Choose again which weights stay, as many of each row as the metric keeps, with the "
        "update in mind (admm).",
        one_of(Refinement),
        panel=_REFIT,
    )
    steps: int = _steps()
    reconstruct: int = option(
        0,
        "Train the weights that stay for so many steps of Adam a block, towards the outputs of the "
        "dense model; 0 for no training. It needs the whole model on its device.",
        whole_number(0),
        panel=_REFIT,
        metavar="STEPS",
    )

    @property
    def changes_weights(self) -> bool:
        """Whether the weights that stay change."""
        return self.update != "none" or self.reconstruct > 0

    @property
    def refit(self) -> Refit:
        """What a single step does with masks."""
        return Refit(self.update, self.refine)

    @property
    def in_words(self) -> str:
        """As it is named in tables and notes; empty where masks are all."""
        steps = [f"{self.steps} steps"] if self.steps > 1 else []
        trained = [f"trained, {self.reconstruct} steps a block"] if self.reconstruct else []
        words = (word for word in (self.refine, self.update) if word != "none")
        return ", ".join([*words, *steps, *trained])


@dataclass(frozen=True)
class SearchRefitOptions(Options):
    """What a search does with masks before a metric is judged: a single step, without training."""

    update: Update = same_option(RefitOptions, "update")
    refine: Refinement = same_option(RefitOptions, "refine")

    @property
    def whole(self) -> RefitOptions:
        """The same as what ``prune`` takes."""
        return RefitOptions(self.update, self.refine)


@dataclass(frozen=True)
class FilesOptions(Options):
    """What is said of a checkpoint whose files are read, beside its name."""

    revision: str | None = same_option(ModelSource, "revision")
    trust_remote_code: bool = same_option(ModelSource, "trust_remote_code")

    def source(self, model: str | Path) -> ModelSource:
        """The checkpoint of that name."""
        return ModelSource(
            str(model), revision=self.revision, trust_remote_code=self.trust_remote_code
        )


@dataclass(frozen=True)
class PackOptions(FilesOptions):
    """How a pruned checkpoint is packed."""

    values: Values = option(
        "auto",
        "Store the kept values as bfloat16, float16, int8 (a scale each row, a little error) or "
        "int4 (a scale each 32 inputs of a row, more error); auto: as they "
        "are, float32 rounded to bfloat16.",
        one_of(Values),
    )
    max_seq_length: int | None = same_option(TextOptions, "max_seq_length")


@dataclass(frozen=True)
class TuneOptions(Options):
    """Which loss is acceptable, and how a tuning looks for the most sparsity within it."""

    max_degradation: str | float | None = option(
        None,
        "Rise of perplexity that is acceptable, 5% or 0.05; 5% if no limit is given.",
        AS_GIVEN,
        panel=_LIMIT,
    )
    max_perplexity: float | None = option(
        None, "Perplexity that is acceptable.", NUMBER, panel=_LIMIT
    )
    task_metric: str | None = option(
        None,
        "Drop of a task's score that is acceptable, TASK:METRIC:DROP, such as arc_easy:acc:0.02; "
        "needs prunerzero[eval].",
        STRING,
        panel=_LIMIT,
    )
    pattern: str | float | Sparsity | None = option(
        None,
        "Ask about this sparsity alone, N:M such as 2:4 or a share such as 0.5: is it within the "
        "limit?",
        AS_GIVEN,
    )
    group: GroupChoice = option(
        "auto",
        "Scores compete within a row, a whole layer, or the whole model; auto: whichever keeps "
        "most.",
        one_of(GroupChoice),
    )
    evaluations: int | None = option(
        None,
        "Metrics to evolve at most; 0 for known metrics only; 200 if `time` is not given either "
        "(the bundled model: two minutes).",
        whole_number(0),
    )
    time: str | float | None = option(
        None, "Time of evolution at most: 90s, 15m, 1h30m.", AS_GIVEN, metavar="DURATION"
    )
    update: Update | Literal["auto"] = option(
        "auto",
        "Refit the weights that stay (least-squares), or not (none); auto: where every validation "
        "text is kept better by it.",
        one_of(Literal["auto", "none", "least-squares"]),
        panel=_REFIT,
    )
    refine: Refinement | Literal["auto"] = option(
        "auto",
        "Choose again which weights stay, with the update in mind (admm), or not (none); auto: "
        "where every validation text is kept better by it.",
        one_of(Literal["auto", "none", "admm"]),
        panel=_REFIT,
    )
    steps: int = _steps()
    seed: int = option(0, "Another seed, another evolution.", whole_number())
    samples: int = option(4, "Continuations to show, dense against pruned.", whole_number(0))
    language: Language = option(
        "en", "Language of the report: English or Japanese.", one_of(Language)
    )
    push_to_hub: str | None = option(None, PUSH_TO_HUB, STRING, metavar="ORG/NAME")

    @property
    def ways(self) -> tuple[RefitOptions, ...]:
        """The ways to use masks that are to be tried, the plainest first."""
        updates: tuple[Update, ...] = ("none", "least-squares")
        refinements: tuple[Refinement, ...] = ("none", "admm")
        return tuple(
            RefitOptions(update, refinement, self.steps)
            for update in (updates if self.update == "auto" else (self.update,))
            for refinement in (refinements if self.refine == "auto" else (self.refine,))
            if self.refine != "auto" or refinement == "none" or update != "none"
        )


def _rivals(name: str, value: Any) -> tuple[str, ...]:
    """Rivals in a list, or as text with commas between."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    named = (arguments.choice(name, rival, RIVALS) for rival in arguments.texts(name, value))
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class BenchOptions(Options):
    """What models are compared with, on which text, and how often they are measured."""

    rivals: str | Sequence[str] = option(
        "",
        "Make these of the first model and measure them too, with commas between: dense (in "
        "bfloat16), int8 and int4 (torch's own products, weights only), llama.cpp (Q8_0 and "
        "Q4_K_M; needs prunerzero[bench]).",
        Kind(_rivals, str),
    )
    device: str = option(
        "cpu",
        "Where all models run: cpu, cuda, cuda:1, or auto (a GPU if there is one). On a GPU only "
        "transformers runs them, and speeds are measured in CUDA graphs and without.",
        NAMED,
    )
    text: Path | str | None = option(
        None, "Text file to measure perplexity on; this or a dataset is needed.", PATH
    )
    dataset: str | None = option(
        None,
        f"Named text to measure perplexity on, its test part: {corpora_in_words()}.",
        STRING,
    )
    windows: int = option(
        16, "Windows of the text at most, evenly spaced over it.", whole_number(1)
    )
    max_seq_length: int | None = same_option(TextOptions, "max_seq_length")
    repeats: int = option(
        5, "Measure each speed so often; medians and quartiles are told.", whole_number(1)
    )
    time: str | float | None = option(
        None,
        "Measure speeds for at most this long, but each once: 90s, 15m, 1h30m.",
        AS_GIVEN,
        metavar="DURATION",
    )
    language: Language = same_option(TuneOptions, "language")
    trust_remote_code: bool = same_option(ModelSource, "trust_remote_code")
    allow_pickle: bool = same_option(ModelSource, "allow_pickle")
