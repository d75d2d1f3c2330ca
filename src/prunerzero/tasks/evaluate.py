"""How well a model predicts texts and answers tasks, alone or beside the one it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunerzero.arguments import choice, paths, text, whole
from prunerzero.arguments import texts as several
from prunerzero.errors import InputError, ModelError
from prunerzero.language.corpora import PARTS, Part, Text
from prunerzero.language.divergence import MEMORY, Divergence, Reference
from prunerzero.language.loading import load_model
from prunerzero.language.models import LanguageModel
from prunerzero.language.samples import continuations, prompts_of
from prunerzero.language.zero_shot import TaskScore, load_tasks, score_tasks
from prunerzero.tasks.doubts import model_doubt, told
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.own_texts import Source, beside_doubt, unread_doubt
from prunerzero.tasks.protocol import protocol_of
from prunerzero.tasks.settings import describe
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.sources import check_stride, sources_of, windows_of
from prunerzero.tasks.tune_result import Sample
from prunerzero.tasks.workspace import Workspace


@dataclass(frozen=True)
class TextFigures:
    """What was measured of one model on one text.

    Attributes:
        text: as shown to the user.
        perplexity: exp of the loss.
        loss: mean negative log-likelihood, nats per token.
        windows: how many were read.
        tokens: how many were predicted.
        reference: perplexity of the reference on the same tokens; None without one.
        divergence: from the reference; None without one.
    """

    text: str
    perplexity: float
    loss: float
    windows: int
    tokens: int
    reference: float | None = None
    divergence: Divergence | None = None


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model, and the protocol they were measured by.

    Attributes:
        model: as the user named it.
        text, perplexity, loss, windows: of the first text; None where only tasks were asked for.
        window_length: in tokens.
        texts: every text.
        tasks: every metric of every task, of the model.
        reference: the model compared with; None without one.
        reference_tasks: the same scores of the reference.
        samples: continuations of the first text by reference ("dense") and model ("pruned").
        protocol: window length, stride, tokenizer, dtype … in words and figures.
        settings: all that the figures depend on.
        warnings: sentences on figures that cannot be right.
    """

    model: str
    text: str | None
    perplexity: float | None
    loss: float | None
    windows: int
    window_length: int
    texts: tuple[TextFigures, ...]
    tasks: tuple[TaskScore, ...]
    reference: str | None
    reference_tasks: tuple[TaskScore, ...]
    samples: tuple[Sample, ...]
    protocol: dict[str, Any]
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()


def evaluate(
    setup: Setup | str,
    part: Part = "test",
    observer: Observer | None = None,
    *,
    datasets: str | Sequence[str] = (),
    texts: str | Path | Sequence[str | Path] = (),
    stride: int | None = None,
    reference: str | Path | None = None,
    samples: int = 0,
    tasks: str | Sequence[str] = (),
    examples: int | None = None,
) -> Evaluation:
    """Measure a model on texts and tasks, beside a reference if one is named.

    Only one of the two models is in memory at a time.

    Args:
        setup: the model, and the text where no other is named.
        part: of the setup's text and of datasets.
        observer: told of progress.
        datasets, texts: named corpora and text files to measure on, each on as many windows as the
            part may have.
        stride: windows slide by this many tokens, and count only those that are new; None for
            windows side by side.
        reference: a model with the same tokenizer, such as the dense one: how far the model has
            moved from it is measured too.
        samples: how many continuations to show side by side; needs a reference.
        tasks: of lm-evaluation-harness: names, .yaml files, or folders of such.
        examples: at most this many of each task.

    Raises:
        InputError: a text, a task or a model that cannot be had, or two that do not fit.
    """
    setup = Setup.of(setup)
    choice("part", part, PARTS)
    datasets, tasks = several("datasets", datasets), several("tasks", tasks)
    texts = paths("texts", texts)
    check_stride(stride, setup.max_seq_length)
    samples = whole("samples", samples, 0)
    examples = None if examples is None else whole("examples", examples, 1)
    if reference is not None:
        reference = text("reference", reference)
    if samples and reference is None:
        raise InputError("samples are shown side by side; name the other model: `reference=MODEL`.")
    sources = sources_of(setup, part, datasets, texts, required=not tasks)
    own = not datasets and not texts
    unread = unread_doubt(setup, part, sources) if own else beside_doubt(setup, (part,))
    if unread is not None and observer is not None:
        observer.note(unread)
    loaded_tasks = load_tasks(tasks) if tasks else None
    before = None
    if reference is not None:
        other = _Bench(replace(setup, model=reference, revision=None), observer, stride, part, own)
        before = other.measured(sources, None, samples, loaded_tasks, examples, keep=True)
    bench = _Bench(setup, observer, stride, part, own)
    after = bench.measured(sources, before, samples, loaded_tasks, examples)
    first = after.texts[0] if after.texts else None
    return Evaluation(
        model=setup.model,
        text=first.text if first else None,
        perplexity=first.perplexity if first else None,
        loss=first.loss if first else None,
        windows=first.windows if first else 0,
        window_length=bench.work.window_length,
        texts=tuple(after.texts),
        tasks=tuple(after.tasks),
        reference=reference,
        reference_tasks=tuple(before.tasks) if before else (),
        samples=tuple(
            Sample(prompt, dense, pruned)
            for prompt, dense, pruned in zip(
                after.prompts, before.continued if before else [], after.continued, strict=False
            )
        ),
        protocol=protocol_of(bench.work, stride),
        settings={**describe(bench.work), "part": part, "stride": stride},
        warnings=told([unread, *(before.doubts if before else []), *after.doubts]),
    )


@dataclass(frozen=True)
class _Measured:
    """Of one of the two models; the first leaves what the second is compared with."""

    texts: list[TextFigures]
    tasks: list[TaskScore]
    prompts: list[str]
    continued: list[str]
    kept: Mapping[str, Reference]
    vocabulary: dict[str, int]
    outputs: int
    doubts: list[str | None]


class _Bench:
    def __init__(
        self,
        setup: Setup,
        observer: Observer | None,
        stride: int | None,
        part: Part,
        own: bool,
    ) -> None:
        self.work = Workspace(setup, observer, partial(load_model, keep_packed=True))
        self.stride = stride
        self.part = part
        self.own = own

    @property
    def loaded(self) -> LanguageModel:
        return self.work.language_model

    def measured(
        self,
        sources: Sequence[Source],
        before: _Measured | None,
        samples: int,
        tasks: Any,
        examples: int | None,
        *,
        keep: bool = False,
    ) -> _Measured:
        vocabulary = self.loaded.tokenizer.get_vocab()
        if before is not None and before.vocabulary != vocabulary:
            raise ModelError(
                f"{self.work.setup.model!r} and its reference have different tokenizers, so that "
                "they cannot be compared token by token."
            )
        outputs: int = self.loaded.model.config.get_text_config().vocab_size
        if before is not None and before.outputs != outputs:
            raise ModelError(
                f"{self.work.setup.model!r} predicts {outputs} tokens and its reference "
                f"{before.outputs}, so that they cannot be compared token by token."
            )
        texts = windows_of(self.work, sources, self.part, self.stride, own=self.own)
        figures = [self._figures(text, before) for text in texts]
        kept = {
            text.name: self.work.logits_of(
                text, f"reference logits, {text.name}", MEMORY // len(texts)
            )
            for text in (texts if keep else ())
        }
        prompts: list[str] = []
        continued: list[str] = []
        if samples and texts:
            ids = prompts_of(texts[0].windows, samples)
            prompts = [self.loaded.tokenizer.decode(i, skip_special_tokens=True) for i in ids]
            continued = continuations(self.loaded.model, self.loaded.tokenizer, ids)
        scores: list[TaskScore] = []
        if tasks is not None:
            self.work.observer.stage(f"answering tasks, {self.work.setup.model}")
            with self.work.observer.other_progress():
                scores = score_tasks(self.loaded, tasks, self.work.setup.batch_size or 8, examples)
        name = f"Model {self.work.setup.model!r}"
        doubts = [
            model_doubt(name, text.name, found.perplexity, text.windows)
            for text, found in zip(texts, figures, strict=True)
        ]
        for doubt in told(doubts):
            self.work.observer.note(doubt)
        return _Measured(figures, scores, prompts, continued, kept, vocabulary, outputs, doubts)

    def _figures(self, text: Text, before: _Measured | None) -> TextFigures:
        found = self.work.losses_of(
            text,
            f"{self.work.setup.model}, {text.name}",
            stride=self.stride,
            reference=before.kept[text.name] if before else None,
        )
        same = [f for f in before.texts if f.text == text.name] if before else []
        return TextFigures(
            text=text.name,
            perplexity=found.value,
            loss=found.loss,
            windows=found.windows,
            tokens=sum(found.tokens),
            reference=same[0].perplexity if same else None,
            divergence=found.divergence,
        )
