"""A model and the texts that matter to the user, and how well the one predicts the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunerzero import identity
from prunerzero.errors import ModelError
from prunerzero.language.corpora import (
    Part,
    Text,
    the_text,
)
from prunerzero.language.divergence import MEMORY, Reference, remember
from prunerzero.language.kinds import context_length
from prunerzero.language.loading import empty_model_of, load_model
from prunerzero.language.models import LanguageModel
from prunerzero.language.perplexity import Perplexity, perplexity
from prunerzero.language.source import ModelSource
from prunerzero.metrics import Sparsity
from prunerzero.pruning.blocks import Matrix, check_widths, prunable_layers
from prunerzero.pruning.statistics import GradientOf
from prunerzero.pruning.turns import Turns, Visitor
from prunerzero.tasks.calibration import Calibration
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.texts import Texts

DEFAULT_WINDOW_LENGTH = 2048
_BATCH_TOKENS = 2048
_MOST_WINDOWS = 1 << 30
"""At once; torch takes no number of any size."""
_SLOW_TO_HASH = 1 << 29
"""Bytes of weights from which hashing them takes long enough to be shown."""


class Workspace:
    """The loaded model with its layers, texts and calibration, each made when first asked for.

    Texts are checked before the model is loaded, so that a wrong path costs no time.

    Args:
        setup: which model, which texts, which layers.
        observer: receives progress and notes.
        load: opens the model; None for ``load_model``, which puts all of it on its device.
        turns: of several models, where they are on the device one at a time. What reads or measures
            the model, ``calibration`` too, has it come; what was given out is good until another
            model comes, and again when this one is back.
    """

    def __init__(
        self,
        setup: Setup,
        observer: Observer | None = None,
        load: Callable[[ModelSource], LanguageModel] | None = None,
        turns: Turns | None = None,
    ) -> None:
        gradient: GradientOf = setup.gradient or "full"
        self.setup = replace(setup, gradient=gradient)
        self.observer = observer or Observer()
        self._load = load
        self.visitor = None if turns is None else Visitor(turns, self._on_device)
        """Has the model come where it takes turns with others."""
        self.texts = Texts(self.setup, self.observer, self._cut)
        self._dense: dict[str, Perplexity] = {}
        self.calibration = Calibration(
            self, self.texts, self.observer, gradient, grams_on_host=turns is not None
        )

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model and tokenizer. Raises ModelError."""
        self.observer.stage(f"loading {self.setup.model}")
        self.come()  # the others leave
        if self.setup.max_seq_length and self._empty_model is not None:
            self._check_length(context_length(self._empty_model.config))
        loaded = (self._load or load_model)(self.setup)
        self._check_length(loaded.context_length)
        if loaded.unused:
            self.observer.note(
                f"{len(loaded.unused)} tensors of the checkpoint have no place in the model and "
                f"are left out, such as {loaded.unused[0]}."
            )
        known = loaded.embeddings
        if known is not None and len(loaded.tokenizer) > known:
            self.observer.note(
                f"the tokenizer has {len(loaded.tokenizer)} tokens, but the model embeddings for "
                f"{known} alone: a text that holds one of the others is refused."
            )
        return loaded

    def come(self) -> None:
        """Have the model on the device, where it takes turns with others."""
        if self.visitor is not None:
            self.visitor.come()

    def _on_device(self) -> Iterator[Tensor]:
        """All that the model has there, without Gram matrices."""
        if "language_model" in vars(self):
            yield from self.language_model.model.parameters()
            yield from self.language_model.model.buffers()
        yield from self.calibration.tensors()

    @cached_property
    def _empty_model(self) -> Any | None:
        """What the config tells of the model, before its weights are read."""
        return empty_model_of(self.setup)

    def _check_length(self, limit: int) -> None:
        if self.setup.max_seq_length and self.setup.max_seq_length > limit:
            raise ModelError(
                f"`max_seq_length={self.setup.max_seq_length}` is more than the model's limit of "
                f"{limit} tokens."
            )

    def check_widths(self, sparsity: Sparsity) -> None:
        """Raise SparsityError if a layer's inputs do not fit the pattern.

        Before the weights are read, where the model's config tells.
        """
        if sparsity.of and "language_model" not in vars(self):
            with suppress(ModelError):  # loading will say it
                if self._empty_model is not None:
                    check_widths(prunable_layers(self._empty_model, *self.patterns), sparsity)
        check_widths(self.layers, sparsity)

    @cached_property
    def model_identity(self) -> dict[str, str]:
        """What the model is, whatever its path: digests of its weights, config and tokenizer."""
        loaded = self.language_model
        size = sum(file.stat().st_size for file in loaded.files.weights)
        if not loaded.files.weights:  # those in memory are read
            self.come()
        if size < _SLOW_TO_HASH:
            return loaded.identity()
        with self.observer.count("recognising the model", size >> 20, "MiB") as advance:
            return loaded.identity(lambda done: advance(done >> 20))

    def identity(self, *parts: Part) -> dict[str, Any]:
        """What every figure depends on that is measured here with these parts of the text."""
        return {
            "model": self.model_identity,
            "dtype": str(self.language_model.model.dtype).removeprefix("torch."),
            "gradient": self.setup.gradient,
            "layers to prune": identity.of_names(self.layers),
            **{f"{part} text": self.texts.fingerprint(part) for part in parts},
        }

    @cached_property
    def layers(self) -> dict[str, Matrix]:
        """The prunable matrices by name. Raises ModelError."""
        return prunable_layers(self.language_model.model, *self.patterns)

    @property
    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of layer names: those to leave alone, and those to keep to."""
        return tuple(self.setup.ignore), tuple(self.setup.target)

    @property
    def window_length(self) -> int:
        """Tokens in a window."""
        limit = min(DEFAULT_WINDOW_LENGTH, self.language_model.context_length)
        return self.setup.max_seq_length or limit

    def _cut(self, documents: list[str], name: str) -> Text:
        return self.language_model.windows(documents, self.window_length, name)

    @property
    def batch_size(self) -> int:
        """Windows read at once."""
        wanted = self.setup.batch_size or max(1, _BATCH_TOKENS // self.window_length)
        return min(wanted, _MOST_WINDOWS)

    @cached_property
    def stored_dtypes(self) -> dict[str, torch.dtype]:
        """The checkpoint's dtype of each layer."""
        loaded = self.language_model
        of_parameter = {id(p): loaded.dtypes[n] for n, p in loaded.model.named_parameters()}
        return {name: of_parameter[id(layer.stored)] for name, layer in self.layers.items()}

    def measure(self, place: str, label: str) -> Perplexity:
        """Perplexity of the model, as it is now, on a part, or on one of its ``places``."""
        return self.compare(place, label, None)

    def compare(self, place: str, label: str, reference: Reference | None) -> Perplexity:
        """The same, and how far the model is from what ``remember`` gave."""
        shown = f"{label}, {the_text(place)}"
        return self.losses_of(self.texts.of(place), shown, reference=reference)

    def remember(self, place: str, memory: int = MEMORY) -> Reference:
        """Logits of the model, as it is now, to compare it with later."""
        return self.logits_of(self.texts.of(place), f"logits, {the_text(place)}", memory)

    def losses_of(
        self,
        text: Text,
        shown: str | None,
        *,
        stride: int | None = None,
        reference: Reference | None = None,
    ) -> Perplexity:
        """The model, as it is now, on any text; ``shown`` is what the progress is called."""
        self.come()
        with self._counted(shown, text) as advance:
            return perplexity(
                self.language_model.model,
                text.windows,
                self.batch_size,
                advance,
                stride=stride,
                reference=reference,
            )

    def logits_of(self, text: Text, shown: str, memory: int) -> Reference:
        """Logits of the model, as it is now, on any text, to compare it with later."""
        model = self.language_model.model
        self.come()
        with self._counted(shown, text) as advance:
            return remember(model, text.windows, self.batch_size, memory=memory, on_window=advance)

    def _counted(
        self, shown: str | None, text: Text
    ) -> AbstractContextManager[Callable[[int], None]]:
        if shown is None:
            return nullcontext(lambda done: None)
        return self.observer.count(shown, len(text.windows))

    def dense(self, place: str) -> float:
        """Perplexity of the model as it came; measured once, before anything is pruned."""
        return self.dense_figures(place).value

    def dense_figures(self, place: str) -> Perplexity:
        """The same with the loss of each window."""
        if place not in self._dense:
            self._dense[place] = self.measure(place, "dense")
        return self._dense[place]

    def forget_model(self) -> None:
        """Free the memory of the model and of what is as large; asked for, it is loaded again."""
        for name in ("language_model", "layers", "stored_dtypes"):
            vars(self).pop(name, None)
        self.calibration.forget()

    @contextmanager
    def pruned_for_now(self) -> Iterator[None]:
        """Whatever is pruned inside is restored after."""
        layers = self.layers
        self.come()
        dense = {name: layer.weight.clone() for name, layer in layers.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight.copy_(dense[name])
