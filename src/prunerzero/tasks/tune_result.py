"""What ``tune`` answers: plain values, which ``dataclasses.asdict`` turns into ``tune.json``.

Units: a loss is a mean negative log-likelihood in nats per token, a perplexity its exp, a sparsity
or a rise a share (0.05 is 5 %), an interval a pair (low, high).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prunerzero.metrics.sparsity import Group

LimitKind = Literal["degradation", "perplexity", "task"]


@dataclass(frozen=True)
class Limit:
    """The loss that the user accepts.

    Attributes:
        kind: perplexity relative to dense, an absolute perplexity, or the drop of a task's score.
        value: 0.05 for 5 %; the perplexity; the drop of the score, such as 0.02.
        max_perplexity: what that allows on the validation part; None with a task.
        task, task_metric: such as ``arc_easy`` and ``acc``; None without a task.
        min_score: the lowest score allowed; None without a task.
    """

    kind: LimitKind
    value: float
    max_perplexity: float | None
    task: str | None = None
    task_metric: str | None = None
    min_score: float | None = None


@dataclass(frozen=True)
class ChosenMetric:
    """The metric that the model was pruned with.

    Attributes:
        name: of the catalog, or ``evolved``.
        formula: such as ``W * sqrt(X)``.
        tree: the same in the published JSON.
        words: what a weight's score is, in English.
    """

    name: str
    formula: str
    tree: dict[str, Any]
    words: str


@dataclass(frozen=True)
class CurvePoint:
    """The model pruned once and measured on the validation part.

    Attributes:
        sparsity: share of weights pruned.
        pattern: the same as it is written: ``0.38`` or ``2:4``.
        group: within what scores competed.
        metric: name, as in ``ChosenMetric``.
        formula: of that metric.
        perplexity: on ``windows`` windows of the validation part.
        rise: perplexity / dense perplexity of the same windows − 1; of several texts the highest of
            theirs.
        within: whether the limit holds there, on each text; None where the limit is a task that was
            not answered.
        windows: how many were read; all of the part, except where metrics were only told apart.
        score: of the task; None without one.
        step: why it was measured: ``choice`` of a metric, ``bracket`` of the sparsity with a known
            metric, ``way`` to use masks, ``evolved`` for the bracket with the evolved one,
            ``outline`` for the curve.
        perplexities, rises: on each text of the validation part, by its name, where it has several;
            ``perplexity`` is then that of their mixture.
        refit: how the weights that stay were refitted, in words; empty where they were not.
    """

    sparsity: float
    pattern: str
    group: Group
    metric: str
    formula: str
    perplexity: float
    rise: float
    within: bool | None
    windows: int
    score: float | None
    step: Literal["choice", "bracket", "way", "evolved", "outline"]
    perplexities: dict[str, float] = field(default_factory=dict)
    rises: dict[str, float] = field(default_factory=dict)
    refit: str = ""


@dataclass(frozen=True)
class PartFigures:
    """Dense against pruned on one part of the text, on the same windows.

    Attributes:
        text: what was read, as shown to the user.
        windows, window_length: how much of it.
        dense, pruned: perplexity.
        dense_interval, pruned_interval: 95 % by bootstrap over windows; None where the windows are
            too few for one.
        rise, rise_interval: pruned / dense − 1, by paired bootstrap over windows; the interval
            is None where the windows are too few.
        allowed: the perplexity that the limit allows here; None with a task, and of several texts.
        within: whether ``pruned`` is at most that, on each text; None with a task.
        confidence: share of bootstrap resamples in which it is, the lowest of several texts; None
            with a task or without an interval.
        divergence: mean Kullback-Leibler divergence from dense to pruned, nats per token.
        agreement: share of tokens for which both find the same token the likeliest.
        compared_tokens: over how many tokens, evenly spaced, those two were taken.
        texts: the same of each text, where the part has several; the other figures are then those
            of their mixture in equal numbers of windows.
    """

    text: str
    windows: int
    window_length: int
    dense: float
    dense_interval: tuple[float, float] | None
    pruned: float
    pruned_interval: tuple[float, float] | None
    rise: float
    rise_interval: tuple[float, float] | None
    allowed: float | None
    within: bool | None
    confidence: float | None
    divergence: float
    agreement: float
    compared_tokens: int
    texts: tuple[PartFigures, ...] = ()


@dataclass(frozen=True)
class TestDecision:
    """What the test part was used for.

    Attributes:
        held: whether what was found on the validation part keeps the limit on the test part, on
            each of its texts.
        stepped_back: whether a lower one was taken because it did not.
        tried: (sparsity, perplexity on the test part) of each that was measured, in that order.
        tried_texts: of each of them, the perplexity on each text by its name, where the part has
            several; empty where it has one.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    held: bool
    stepped_back: bool
    tried: tuple[tuple[float, float], ...]
    tried_texts: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class LayerFigures:
    """One prunable layer.

    Attributes:
        name: its full name in the model.
        block: index of the block that it is in.
        shape: [out, in].
        sparsity: its share of zeros.
        sensitivity: rise of the validation loss when this alone is pruned, nats per token.
    """

    name: str
    block: int
    shape: tuple[int, ...]
    sparsity: float
    sensitivity: float


@dataclass(frozen=True)
class Sample:
    """How the dense and the pruned model continue the same text, each taking its likeliest token.

    Attributes:
        prompt: the beginning of a test window.
        dense, pruned: the continuations.
    """

    prompt: str
    dense: str
    pruned: str


@dataclass(frozen=True)
class TaskFigures:
    """A zero-shot task of the limit, dense against pruned.

    Attributes:
        task, metric: such as ``arc_easy`` and ``acc``.
        examples: how many the task has.
        dense, pruned: the score.
        dense_error, pruned_error: standard errors, where the task has them.
    """

    task: str
    metric: str
    examples: int
    dense: float
    dense_error: float | None
    pruned: float
    pruned_error: float | None


@dataclass(frozen=True)
class RunningCost:
    """What a model costs on the CPU of one machine.

    Attributes:
        memory_bytes: memory in use once it is loaded, beyond what the libraries take.
        tokens_per_second: of continuing one text; the median.
        quartiles: of that speed; None where it was measured once.
    """

    memory_bytes: int
    tokens_per_second: float
    quartiles: tuple[float, float] | None


@dataclass(frozen=True)
class Packing:
    """The packed model, beside what it was before pruning.

    Attributes:
        folder: of the packed model; None where there is none.
        why_not: why the model is not packed, a sentence; empty where it is.
        failed: what went wrong, a sentence: the same command tries again; empty otherwise.
        values: how the kept values are stored, such as ``bfloat16``.
        rounded: what was rounded for it: nothing; ``packed``, weights of the packed model that were
            wider than ``values``; or ``both``, this model and the dense one beside it.
        original_bytes: of the files of weights of the model that was tuned, as they came; None
            where that was not found out.
        dense_bytes, packed_bytes: of the weights of the packed model, dense and as it is; None
            where nothing is packed.
        dense, packed: measured by turns, on equally many threads; None where they were not.
        kernel: what multiplied the packed weights; ``torch`` where no compiled kernel did.
        no_kernel: why none did, without a full stop; empty where one did.
        cpu, threads: that both were measured on.
    """

    folder: str | None = None
    why_not: str = ""
    failed: str = ""
    values: str = ""
    rounded: Literal["nothing", "packed", "both"] = "nothing"
    original_bytes: int | None = None
    dense_bytes: int | None = None
    packed_bytes: int | None = None
    dense: RunningCost | None = None
    packed: RunningCost | None = None
    kernel: str | None = None
    no_kernel: str = ""
    cpu: str = ""
    threads: int | None = None


@dataclass(frozen=True)
class TuneResult:
    """The answer of ``tune``, and all that it rests on.

    Attributes:
        answer: one paragraph in plain English.
        reached: whether the limit can be kept: at some sparsity above 0, or in the pattern asked.
        model: as the user named it.
        output_dir: the folder of the result.
        limit: the loss accepted.
        pattern_asked: ``2:4``, or a share, where that alone was asked about, else None.
        sparsity: the chosen share of weights, or the pattern's; where the limit cannot be kept, the
            lowest that was tried.
        pattern: the same as it is written.
        group: within what scores compete.
        metric: what the model was pruned with.
        dense: perplexity of the unpruned model on the validation part.
        curve: every measurement on the validation part, in the order in which they were made.
        parts: ``validation`` and ``test``.
        decision: what the test part was used for; None with a task, or where the limit cannot be
            kept on the validation part.
        layers: every prunable layer, at the chosen sparsity.
        sensitivity_of: whether layers were pruned one by one for their sensitivity, or block by
            block, the layers of a block then sharing one figure.
        sensitivity_windows: validation windows that the sensitivity was measured on.
        samples: continuations side by side.
        task: of a task limit.
        evaluations: metrics measured by the evolution.
        settings: all that the result depends on.
        split: how the parts of the text came about. ``kind`` is "own" (a text each), "dataset" (the
            parts of ``dataset``), or "cut": ``text`` was cut into ``blocks`` blocks, which the
            parts in ``turns`` take in turns, and the parts are in ``folder``. Of several texts,
            ``dataset`` or ``text`` is a list, and each was cut so.
        commands: to repeat it: ``tune``, and where a model was written its ``prune`` and ``eval``.
        seconds: of work, pauses left out.
        warnings: what cannot be right about these figures, a sentence each.
        refit: how the weights that stay were refitted, in words; empty where they were not.
        packing: the packed model and what it saves; None where there is no pruned model, and until
            it is packed.
    """

    answer: str
    reached: bool
    model: str
    output_dir: str
    limit: Limit
    pattern_asked: str | None
    sparsity: float
    pattern: str
    group: Group
    metric: ChosenMetric
    dense: float
    curve: tuple[CurvePoint, ...]
    parts: dict[str, PartFigures]
    decision: TestDecision | None
    layers: tuple[LayerFigures, ...]
    sensitivity_of: Literal["layer", "block"]
    sensitivity_windows: int
    samples: tuple[Sample, ...]
    task: TaskFigures | None
    evaluations: int
    settings: dict[str, Any]
    split: dict[str, Any]
    commands: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    refit: str = ""
    packing: Packing | None = None
