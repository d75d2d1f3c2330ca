"""A model, the texts that matter to the user, and what is measured of the one on the others."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import prunerzero
from prunerzero import identity
from prunerzero.errors import ModelError, TextError
from prunerzero.language.corpora import (
    Part,
    Text,
    read_corpus,
    read_file,
)
from prunerzero.language.divergence import Reference, remember
from prunerzero.language.loading import load_model
from prunerzero.language.models import LanguageModel
from prunerzero.language.perplexity import Perplexity, perplexity
from prunerzero.language.source import ModelSource
from prunerzero.pruning.blocks import Matrix, prunable_layers
from prunerzero.pruning.statistics import (
    GradientOf,
    Statistics,
    cached_statistics,
    collect_statistics,
)
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.setup import Setup

DEFAULT_WINDOW_LENGTH = 2048
_BATCH_TOKENS = 2048
_MOST_WINDOWS = 1 << 30
"""At once; torch takes no number of any size."""
_SLOW_TO_HASH = 1 << 29
"""Bytes of weights from which hashing them takes long enough to be shown."""


class Workspace:
    """The loaded model with its layers, texts and statistics, each made when first asked for.

    Texts are checked before the model is loaded, so that a wrong path costs no time.

    Args:
        setup: which model, which texts, which layers.
        observer: receives progress and notes.
        load: opens the model; None for ``load_model``, which puts all of it on its device.
    """

    def __init__(
        self,
        setup: Setup,
        observer: Observer | None = None,
        load: Callable[[ModelSource], LanguageModel] | None = None,
    ) -> None:
        self.gradient: GradientOf = setup.gradient or "full"
        """What G is the gradient of."""
        self.setup = replace(setup, gradient=self.gradient)
        self.observer = observer or Observer()
        self._load = load
        self._documents: dict[Part, tuple[str, list[str]]] = {}
        self._texts: dict[Part, Text] = {}
        self._dense: dict[Part, Perplexity] = {}
        self._statistics: dict[bool, Statistics] = {}

    def read(self, *parts: Part) -> None:
        """Read these parts now. Raises TextError where one is not named or not readable."""
        for part in parts:
            if part in self._documents:
                continue
            path: Path | None = getattr(self.setup, part)
            if path is not None:
                self._documents[part] = str(path), read_file(path)
            elif (corpus := self.setup.corpus()) is not None:
                self._documents[part] = f"{corpus} ({part})", read_corpus(corpus, part)
            else:
                raise TextError(
                    f'no {part} text is named; pass `{part}=FILE` or `dataset="wikitext2"`.'
                )

    def has(self, part: Part) -> bool:
        """Whether the user named a text for this part."""
        return getattr(self.setup, part) is not None or self.setup.corpus() is not None

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model and tokenizer. Raises ModelError."""
        self.observer.stage(f"loading {self.setup.model}")
        loaded = (self._load or load_model)(self.setup)
        if self.setup.max_seq_length and self.setup.max_seq_length > loaded.context_length:
            raise ModelError(
                f"`max_seq_length={self.setup.max_seq_length}` is more than the model's limit of "
                f"{loaded.context_length} tokens."
            )
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

    @cached_property
    def model_identity(self) -> dict[str, str]:
        """What the model is, whatever its path: digests of its weights, config and tokenizer."""
        loaded = self.language_model
        size = sum(file.stat().st_size for file in loaded.files.weights)
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
            **{f"{part} text": self.text(part).fingerprint for part in parts},
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

    @property
    def batch_size(self) -> int:
        """Windows read at once."""
        wanted = self.setup.batch_size or max(1, _BATCH_TOKENS // self.window_length)
        return min(wanted, _MOST_WINDOWS)

    def text(self, part: Part) -> Text:
        """The windows of a part. Raises TextError."""
        if part not in self._texts:
            self.read(part)
            name, documents = self._documents[part]
            loaded = self.language_model
            text = loaded.windows(documents, self.window_length, name)
            self._texts[part] = text.spread(getattr(self.setup, f"num_{part}_samples"))
        return self._texts[part]

    def statistics(self, gradients: bool) -> Statistics:
        """X, and G where wanted, of every layer on the dense model; from the cache if there.

        G is as large as the pruned layers, so that every caller gets the same tensors.
        """
        if gradients not in self._statistics:
            self._statistics[gradients] = self._read_statistics(gradients)
        return self._statistics[gradients]

    def _read_statistics(self, gradients: bool) -> Statistics:
        windows = self.text("calibration").windows
        model = self.language_model.model
        key = {
            **self.identity("calibration"),
            "gradient": self.gradient if gradients else None,
            "device": self.language_model.device.type,
            "torch": str(torch.__version__),
        }

        def collect() -> Statistics:
            with self.observer.count("statistics", len(windows)) as advance:
                return collect_statistics(
                    model,
                    self.layers,
                    windows,
                    gradients=gradients,
                    of=self.gradient,
                    on_window=advance,
                )

        return cached_statistics(key, self.layers, collect)

    def measure(self, part: Part, label: str) -> Perplexity:
        """Perplexity of the model, as it is now, on a part."""
        return self.compare(part, label, None)

    def compare(self, part: Part, label: str, reference: Reference | None) -> Perplexity:
        """The same, and how far the model is from what ``remember`` gave."""
        windows = self.text(part).windows
        model = self.language_model.model
        with self.observer.count(f"{label}, {part} text", len(windows)) as advance:
            return perplexity(model, windows, self.batch_size, advance, reference=reference)

    def remember(self, part: Part) -> Reference:
        """Logits of the model, as it is now, to compare it with later."""
        windows = self.text(part).windows
        model = self.language_model.model
        with self.observer.count(f"logits, {part} text", len(windows)) as advance:
            return remember(model, windows, self.batch_size, on_window=advance)

    def dense(self, part: Part) -> float:
        """Perplexity of the model as it came; measured once, before anything is pruned."""
        return self.dense_figures(part).value

    def dense_figures(self, part: Part) -> Perplexity:
        """The same with the loss of each window."""
        if part not in self._dense:
            self._dense[part] = self.measure(part, "dense")
        return self._dense[part]

    @contextmanager
    def pruned_for_now(self) -> Iterator[None]:
        """Whatever is pruned inside is restored after."""
        dense = {name: layer.weight.clone() for name, layer in self.layers.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, layer in self.layers.items():
                    layer.weight.copy_(dense[name])

    def describe(self) -> dict[str, Any]:
        """All settings as they came out, for results: text names, window length and counts."""
        given = {f.name: getattr(self.setup, f.name) for f in fields(self.setup)}
        return {
            **{k: str(v) if isinstance(v, Path) else v for k, v in given.items()},
            "revision": getattr(self.language_model.model.config, "_commit_hash", None)
            or self.setup.revision,
            "max_seq_length": self.window_length,
            "dtype": str(self.language_model.model.dtype).removeprefix("torch."),
            "device": str(self.language_model.device),
            "texts": {part: text.name for part, text in self._texts.items()},
            "windows": {part: len(text.windows) for part, text in self._texts.items()},
            "fingerprints": {
                "model": self.model_identity,
                **{part: text.fingerprint for part, text in self._texts.items()},
            },
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import transformers

    return {
        "prunerzero": prunerzero.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
