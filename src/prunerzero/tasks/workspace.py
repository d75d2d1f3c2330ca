"""A model, the texts that matter to the user, and what is measured of the one on the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

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
from prunerzero.pruning.gram import (
    DAMPING,
    Grams,
    collect_grams,
    collect_inverse_diagonals,
    passes,
)
from prunerzero.pruning.statistics import (
    GradientOf,
    LayerStatistics,
    Statistics,
    cached_statistics,
    collect_statistics,
)
from prunerzero.pruning.turns import Turns, Visitor
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.texts import Texts

DEFAULT_WINDOW_LENGTH = 2048
_BATCH_TOKENS = 2048
_MOST_WINDOWS = 1 << 30
"""At once; torch takes no number of any size."""
_SLOW_TO_HASH = 1 << 29
"""Bytes of weights from which hashing them takes long enough to be shown."""


_Kind = Literal["X", "G", "D"]
"""Statistics of X alone, of X and G, or of D alone."""


class Workspace:
    """The loaded model with its layers, texts and statistics, each made when first asked for.

    Texts are checked before the model is loaded, so that a wrong path costs no time.

    Args:
        setup: which model, which texts, which layers.
        observer: receives progress and notes.
        load: opens the model; None for ``load_model``, which puts all of it on its device.
        turns: of several models, where they are on the device one at a time. What reads or measures
            the model, and ``statistics``, has it come; what was given out is good until another
            model comes, and again when this one is back.
    """

    def __init__(
        self,
        setup: Setup,
        observer: Observer | None = None,
        load: Callable[[ModelSource], LanguageModel] | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.gradient: GradientOf = setup.gradient or "full"
        """What G is the gradient of."""
        self.setup = replace(setup, gradient=self.gradient)
        self.observer = observer or Observer()
        self._load = load
        self.visitor = None if turns is None else Visitor(turns, self._on_device)
        """Has the model come where it takes turns with others."""
        self.texts = Texts(self.setup, self.observer, self._cut)
        self._dense: dict[str, Perplexity] = {}
        self._statistics: dict[str, Statistics] = {}
        self.grams_on_host = turns is not None
        """Whether Gram matrices are kept in host memory, as they have no room on the device."""

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model and tokenizer. Raises ModelError."""
        self.observer.stage(f"loading {self.setup.model}")
        self._come()  # the others leave
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

    def _come(self) -> None:
        if self.visitor is not None:
            self.visitor.come()

    def _on_device(self) -> Iterator[Tensor]:
        """All that the model has there, without Gram matrices."""
        if "language_model" in vars(self):
            yield from self.language_model.model.parameters()
            yield from self.language_model.model.buffers()
        for statistics in self._statistics.values():
            for layer in statistics.values():
                yield from (t for t in (layer.X, layer.G, layer.D) if t is not None)

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
            self._come()
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

    def statistics(self, terminals: Collection[str]) -> Statistics:
        """What metrics with these terminals read of every layer, on the dense model.

        It comes from the cache if it is there. G is as large as the pruned layers, so that every
        caller gets the same tensors. X is there whenever G is.
        """
        return self._assembled(terminals, self._known)

    def statistics_now(self, terminals: Collection[str]) -> Statistics:
        """The same, measured on the model as it is now."""
        return self._assembled(terminals, self._measured)

    def _assembled(
        self, terminals: Collection[str], read: Callable[[_Kind], Statistics]
    ) -> Statistics:
        found = dict.fromkeys(self.layers, LayerStatistics(X=None, G=None))
        self._come()
        if "X" in terminals or "G" in terminals:
            found = read("G" if "G" in terminals else "X")
        if "D" in terminals:
            D = read("D")
            found = {name: replace(layer, D=D[name].D) for name, layer in found.items()}
        return found

    def _known(self, of: _Kind) -> Statistics:
        if of == "X" and "G" in self._statistics:
            of = "G"  # X is there too
        if of not in self._statistics:
            self.texts.of("calibration")  # counts as read where the cache has what it gives
            key = {
                **self.identity("calibration"),
                "gradient": self.gradient if of == "G" else None,
                "device": self.language_model.device.type,
                "torch": str(torch.__version__),
                **({"inverse diagonal, damping": DAMPING} if of == "D" else {}),
            }
            self._statistics[of] = cached_statistics(key, self.layers, partial(self._measured, of))
        return self._statistics[of]

    def _measured(self, of: _Kind) -> Statistics:
        """Of the model as it is now."""
        return self._measure_D() if of == "D" else self._measure_X(of == "G")

    def _measure_X(self, gradients: bool) -> Statistics:
        windows = self.texts.of("calibration").windows
        with self.observer.count("statistics", len(windows)) as advance:
            return collect_statistics(
                self.language_model.model,
                self.layers,
                windows,
                gradients=gradients,
                of=self.gradient,
                on_window=advance,
            )

    def _measure_D(self) -> Statistics:
        windows = self.texts.of("calibration").windows
        with self.observer.count("statistics D", len(windows) * passes(self.layers)) as advance:
            found = collect_inverse_diagonals(
                self.language_model.model, self.layers, windows, advance
            )
        return {name: LayerStatistics(None, None, D) for name, D in found.items()}

    @cached_property
    def grams(self) -> Grams:
        """The Gram matrices of every layer's inputs on the dense model."""
        return self.grams_now()

    def grams_now(self) -> Grams:
        """The same on the model as it is now."""
        windows, on_host = self.texts.of("calibration").windows, self.grams_on_host
        times = passes(self.layers) if on_host else 1
        self._come()
        with self.observer.count("Gram matrices", len(windows) * times) as advance:
            return collect_grams(
                self.language_model.model, self.layers, windows, advance, on_host=on_host
            )

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
        self._come()
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
        self._come()
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
        for name in ("language_model", "layers", "grams", "stored_dtypes"):
            vars(self).pop(name, None)
        self._statistics.clear()

    @contextmanager
    def pruned_for_now(self) -> Iterator[None]:
        """Whatever is pruned inside is restored after."""
        layers = self.layers
        self._come()
        dense = {name: layer.weight.clone() for name, layer in layers.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight.copy_(dense[name])
