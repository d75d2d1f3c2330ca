"""What the calibration text tells of a model's layers: X, G and D, and Gram matrices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from prunerzero.language.corpora import Part
from prunerzero.language.models import LanguageModel
from prunerzero.pruning.blocks import Matrix
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
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.texts import Texts

_Kind = Literal["X", "G", "D"]
"""Statistics of X alone, of X and G, or of D alone."""


class Calibrated(Protocol):
    """The model that is measured: a ``Workspace``, which loads it when it is first asked for."""

    @property
    def language_model(self) -> LanguageModel:
        """The model and tokenizer."""

    @property
    def layers(self) -> Mapping[str, Matrix]:
        """The prunable matrices by name."""

    def identity(self, *parts: Part) -> dict[str, Any]:
        """What every figure depends on that is measured of it with these parts of the text."""

    def come(self) -> None:
        """Have the model on the device, where it takes turns with others."""


class Calibration:
    """Statistics and Gram matrices of one model, each measured when first asked for.

    Those of the dense model are kept in memory, its statistics on disk too.

    Args:
        model: whose layers are measured.
        texts: of which the calibration text is read.
        observer: receives progress.
        gradient: what G is the gradient of.
        grams_on_host: whether Gram matrices are kept in host memory, as they have no room on the
            device; may be set before they are measured.
    """

    def __init__(
        self,
        model: Calibrated,
        texts: Texts,
        observer: Observer,
        gradient: GradientOf,
        *,
        grams_on_host: bool,
    ) -> None:
        self._model, self._texts, self._observer = model, texts, observer
        self.gradient: GradientOf = gradient
        self.grams_on_host = grams_on_host
        self._statistics: dict[_Kind, Statistics] = {}

    def statistics(self, terminals: Collection[str]) -> Statistics:
        """What metrics with these terminals read of every layer, on the dense model.

        It comes from the cache if it is there. G is as large as the pruned layers, so that every
        caller gets the same tensors. X is there whenever G is.
        """
        return self._assembled(terminals, self._known)

    def statistics_now(self, terminals: Collection[str]) -> Statistics:
        """The same, measured on the model as it is now."""
        return self._assembled(terminals, self._measured)

    @cached_property
    def grams(self) -> Grams:
        """The Gram matrices of every layer's inputs on the dense model."""
        return self.grams_now()

    def grams_now(self) -> Grams:
        """The same on the model as it is now."""
        windows, on_host = self._windows, self.grams_on_host
        times = passes(self._model.layers) if on_host else 1
        self._model.come()
        with self._observer.count("Gram matrices", len(windows) * times) as advance:
            model, layers = self._model.language_model.model, self._model.layers
            return collect_grams(model, layers, windows, advance, on_host=on_host)

    def tensors(self) -> Iterator[Tensor]:
        """The statistics that have been asked for, which are where the model is."""
        for statistics in self._statistics.values():
            for layer in statistics.values():
                yield from (t for t in (layer.X, layer.G, layer.D) if t is not None)

    def forget(self) -> None:
        """Free the memory of all of it; asked for, it is there again."""
        vars(self).pop("grams", None)
        self._statistics.clear()

    @property
    def _windows(self) -> Tensor:
        return self._texts.of("calibration").windows

    def _assembled(
        self, terminals: Collection[str], read: Callable[[_Kind], Statistics]
    ) -> Statistics:
        found = dict.fromkeys(self._model.layers, LayerStatistics(X=None, G=None))
        self._model.come()
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
            self._texts.of("calibration")  # counts as read where the cache has what it gives
            model = self._model
            key = {
                **model.identity("calibration"),
                "gradient": self.gradient if of == "G" else None,
                "device": model.language_model.device.type,
                "torch": str(torch.__version__),
                **({"inverse diagonal, damping": DAMPING} if of == "D" else {}),
            }
            self._statistics[of] = cached_statistics(key, model.layers, partial(self._measured, of))
        return self._statistics[of]

    def _measured(self, of: _Kind) -> Statistics:
        """Of the model as it is now."""
        return self._measure_D() if of == "D" else self._measure_X(of == "G")

    def _measure_X(self, gradients: bool) -> Statistics:
        windows = self._windows
        with self._observer.count("statistics", len(windows)) as advance:
            return collect_statistics(
                self._model.language_model.model,
                self._model.layers,
                windows,
                gradients=gradients,
                of=self.gradient,
                on_window=advance,
            )

    def _measure_D(self) -> Statistics:
        windows, layers = self._windows, self._model.layers
        with self._observer.count("statistics D", len(windows) * passes(layers)) as advance:
            model = self._model.language_model.model
            found = collect_inverse_diagonals(model, layers, windows, advance)
        return {name: LayerStatistics(None, None, D) for name, D in found.items()}
