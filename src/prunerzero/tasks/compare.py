"""How well a model predicts texts when it is pruned with each of several metrics or methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from prunerzero.arguments import choice, kind, paths, whole
from prunerzero.arguments import texts as several
from prunerzero.errors import InputError
from prunerzero.language.corpora import PARTS, Part, Text, places_of
from prunerzero.language.divergence import MEMORY, Divergence, Reference
from prunerzero.language.samples import continuations, prompts_of
from prunerzero.metrics import Expression, Metric, ScoreError, Sparsity
from prunerzero.metrics.sparsity import Group
from prunerzero.options import takes
from prunerzero.pruning.methods import Method
from prunerzero.pruning.pruner import check_differs
from prunerzero.pruning.statistics import Statistics
from prunerzero.tasks.by_block import parts_read
from prunerzero.tasks.doubts import dense_doubt, one_text_doubt, pruned_doubt, told
from prunerzero.tasks.keywords import RefitKeywords
from prunerzero.tasks.methods import prune_by, read_methods
from prunerzero.tasks.metric_sources import read_metric_and_origin, settle, split_metrics
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.options import RefitOptions
from prunerzero.tasks.own_texts import beside_doubt
from prunerzero.tasks.protocol import protocol_of
from prunerzero.tasks.prune_loaded import check_blocks, prune_loaded
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.sources import check_stride, sources_of, windows_of
from prunerzero.tasks.unseen import fitted_doubts
from prunerzero.tasks.workspace import Workspace


@dataclass(frozen=True)
class Continued:
    """A prompt, and how the dense and each pruned model continue it, by name."""

    prompt: str
    continuations: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """One model pruned with each of several metrics and methods, on the same windows.

    Attributes:
        sparsity: as text.
        group: within which scores compete.
        perplexity: text → name → perplexity; ``dense`` is the model unpruned. A text is called by
            its part where it is the setup's, such as ``test``, or ``test: mine.txt`` where the part
            has several; else by its name.
        divergence: text → name → how far the metric moves the model from the dense one.
        formulas: each metric's formula by its name.
        methods: where each method was published, by its name; methods change the weights that stay.
        samples: prompts of the first text, with their continuations by name.
        protocol: window length, stride, tokenizer, dtype … in words and figures.
        settings: all that the figures depend on.
        warnings: sentences on figures that cannot be right.
    """

    sparsity: str
    group: Group
    perplexity: dict[str, dict[str, float]]
    divergence: dict[str, dict[str, Divergence]]
    formulas: dict[str, str]
    samples: tuple[Continued, ...]
    protocol: dict[str, Any]
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()
    methods: dict[str, str] = field(default_factory=dict)


@takes(RefitOptions, "refit")
def compare(
    setup: Setup | str,
    metrics: str | Sequence[str | Path | Metric | Expression] = (),
    sparsity: str | float | Sparsity | None = None,
    parts: Part | Sequence[Part] | None = None,
    observer: Observer | None = None,
    refit: RefitOptions = RefitOptions(),
    *,
    group: Group | None = None,
    datasets: str | Sequence[str] = (),
    texts: str | Path | Sequence[str | Path] = (),
    stride: int | None = None,
    samples: int = 0,
    methods: str | Sequence[str] = (),
    **keywords: Unpack[RefitKeywords],
) -> Comparison:
    """Prune with each metric and each method in turn, measure, and restore.

    Args:
        setup: model and texts, or the model alone where it brings its text.
        metrics: catalog names, formulas, JSON files or folders of searches; or metrics themselves;
            or names and formulas in one text, with commas between.
        sparsity: ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"`` …; None for what the metrics of runs were
            evolved for, and else 0.5.
        parts: which texts to measure; by default validation and test, those that are named.
        observer: told of progress.
        refit: what is done with each metric's masks; each field of ``RefitOptions`` is a keyword
            too.
        group: scores compete within a ``"row"``, a ``"layer"`` or the ``"model"``; None for that of
            ``sparsity`` or of the metrics' runs.
        datasets, texts: named corpora, of which the test part is read, and files, to measure on
            instead of the setup's parts.
        stride: windows slide by this many tokens, and count only those that are new; None for
            windows side by side.
        samples: how many continuations to show side by side.
        methods: published methods, ``"sparsegpt"`` and ``"alps"``, that change the weights that
            stay too, in one text with commas or in a list; each prunes every layer by the same
            share, whatever the group.

    A metric that gives NaN on some layer, as ``zsn`` does where all weights are equal, is left out,
    which ``warnings`` tell, as long as something else can be compared.

    Raises:
        InputError, MetricError: nothing was written.
    """
    named = split_metrics(metrics) if isinstance(metrics, str) else metrics
    named = [named] if isinstance(named, Path | Metric | Expression) else named
    if not isinstance(named, Sequence):
        raise InputError(f"`metrics` must be a list of metrics, not {kind(named)}.")
    beside = read_methods(split_metrics(methods) if isinstance(methods, str) else methods)
    if not named and not beside:
        raise InputError(
            'no metric and no method is named; pass for example `metrics=["magnitude", "wanda"]` '
            'or `methods="sparsegpt"`.'
        )
    setup = Setup.of(setup)
    check_stride(stride, setup.max_seq_length)
    samples = whole("samples", samples, 0)
    read = [read_metric_and_origin(name) for name in named]
    observer = observer or Observer()
    setup, sparsity = settle(setup, sparsity, group, read, observer, refit)
    found = {origin.name: metric for metric, origin in read}
    for method in beside:
        if method.name in found:
            raise InputError(
                f"a metric and a method are both called {method.name!r}; leave one out."
            )
    datasets, texts = several("datasets", datasets), paths("texts", texts)
    work = Workspace(setup, observer)
    if datasets or texts:
        sources = sources_of(setup, "test", datasets, texts)
        if unread := beside_doubt(setup, ("validation", "test")):
            work.observer.note(unread)
        work.texts.read("calibration")
        work.check_widths(sparsity)
        named_texts = windows_of(work, sources, "test", stride, own=False)
        cut = {text.name: text for text in named_texts}
    else:
        if isinstance(parts, str):
            parts = (parts,)
        for part in parts or ():
            choice("parts", part, PARTS)
        if parts is None:
            both: tuple[Part, ...] = ("validation", "test")
            parts = tuple(part for part in both if work.texts.has(part)) or ("validation",)
        work.texts.read("calibration", *parts)
        work.check_widths(sparsity)
        cut = {}
        for part in parts:
            own = windows_of(work, sources_of(setup, part), part, stride, own=True)
            cut |= zip(places_of(part, own), own, strict=True)
    return compare_on(
        work, found, sparsity, cut, refit, stride=stride, samples=samples, methods=beside
    )


def compare_in(
    work: Workspace,
    metrics: Mapping[str, Metric],
    sparsity: Sparsity,
    parts: tuple[Part, ...],
    refit: RefitOptions = RefitOptions(),
) -> dict[str, dict[str, float]]:
    """Part → name → perplexity, for a workspace that is open already."""
    work.check_widths(sparsity)
    for part in parts:
        work.texts.of(part)
    _statistics(work, metrics)  # at once, before anything else takes long
    found = {str(part): {"dense": work.dense(part)} for part in parts}
    for name, metric in metrics.items():
        with work.pruned_for_now():
            prune_loaded(work, metric.expression, sparsity, refit)
            for part in parts:
                found[part][name] = work.measure(part, name).value
    return found


def _statistics(work: Workspace, metrics: Mapping[str, Metric]) -> Statistics:
    terminals = {"X"}.union(*(m.expression.terminals for m in metrics.values()))
    return work.calibration.statistics(terminals)


def compare_on(
    work: Workspace,
    metrics: Mapping[str, Metric],
    sparsity: Sparsity,
    texts: Mapping[str, Text],
    refit: RefitOptions = RefitOptions(),
    *,
    stride: int | None = None,
    samples: int = 0,
    methods: Sequence[Method] = (),
) -> Comparison:
    """``compare`` on texts that are cut already."""
    loaded = work.language_model
    if methods:
        check_blocks(work, "methods")
    if refit.reconstruct:
        check_blocks(work, "reconstruct")
    statistics = _statistics(work, metrics) if metrics else {}  # before anything else takes long
    for label, metric in metrics.items():
        try:
            check_differs(work.layers, statistics, metric.expression, sparsity)
        except ScoreError as error:
            raise ScoreError(f"{label!r}, with this model: {error}") from None
    perplexities: dict[str, dict[str, float]] = {name: {} for name in texts}
    divergence: dict[str, dict[str, Divergence]] = {name: {} for name in texts}
    references: dict[str, Reference] = {}
    prompts = prompts_of(next(iter(texts.values())).windows, samples)
    continued: list[dict[str, str]] = [{} for _ in prompts]
    dense: dict[str, Sequence[float]] = {}
    doubts: list[str | None] = []
    if methods or any(parts_read(metric, refit) for metric in metrics.values()):
        doubts += fitted_doubts(texts, work.texts.each("calibration"))

    def measure(label: str) -> None:
        for name, text in texts.items():
            shown = f"{label}, {name} text" if name in PARTS else f"{label}, {name}"
            found = work.losses_of(text, shown, stride=stride, reference=references.get(name))
            perplexities[name][label] = found.value
            if name not in dense:
                dense[name] = found.losses
                doubts.append(dense_doubt(name, found.value, text.windows))
            else:
                doubts.append(pruned_doubt(name, dense[name], found.losses, label))
            if found.divergence is not None:
                divergence[name][label] = found.divergence
        written = continuations(loaded.model, loaded.tokenizer, prompts)
        for by_name, text_written in zip(continued, written, strict=True):
            by_name[label] = text_written

    measure("dense")
    for name, text in texts.items():
        references[name] = work.logits_of(text, f"dense logits, {name}", MEMORY // len(texts))
    without_rank: dict[str, ScoreError] = {}
    for label, metric in metrics.items():
        with work.pruned_for_now():
            try:
                prune_loaded(work, metric.expression, sparsity, refit)
            except ScoreError as error:
                without_rank[label] = error
                doubts.append(f"{label!r} is left out, as it cannot rank all weights: {error}")
                continue
            measure(label)
    if without_rank and len(without_rank) == len(metrics) and not methods:
        raise next(iter(without_rank.values()))
    for method in methods:
        with work.pruned_for_now():
            prune_by(work, method, sparsity)
            measure(method.name)
    if refit.changes_weights or methods:
        doubts.append(one_text_doubt([text.name for text in work.texts.each("calibration")]))
    warnings = told(doubts)
    for doubt in warnings:
        work.observer.note(doubt)
    settings = describe(work)
    settings["texts"] = settings["texts"] | {name: text.name for name, text in texts.items()}
    settings["windows"] = settings["windows"] | {n: len(t.windows) for n, t in texts.items()}
    return Comparison(
        sparsity=str(sparsity),
        group=sparsity.group,
        perplexity=perplexities,
        divergence=divergence,
        formulas={n: str(m.expression) for n, m in metrics.items() if n not in without_rank},
        samples=tuple(
            Continued(loaded.tokenizer.decode(ids, skip_special_tokens=True), by_name)
            for ids, by_name in zip(prompts, continued, strict=True)
        ),
        protocol=protocol_of(work, stride),
        settings={**settings, **asdict(refit), "stride": stride},
        warnings=warnings,
        methods={method.name: method.source for method in methods},
    )
