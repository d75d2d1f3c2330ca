"""What a user says once for every command: which model, which texts, which layers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunerzero.arguments import kind
from prunerzero.errors import InputError
from prunerzero.language.corpora import Part, corpora_in_words
from prunerzero.language.source import BUNDLED, ModelSource
from prunerzero.options import (
    PATH_OR_PATHS,
    STRING_OR_STRINGS,
    STRINGS,
    Options,
    one_of,
    option,
    whole_number,
)
from prunerzero.pruning.statistics import GradientOf

_TEXT, _AMOUNTS, _LAYERS = "Text", "Amounts", "Layers"


@dataclass(frozen=True)
class TextOptions(Options):
    """Which texts are read, and how much of them."""

    dataset: str | Iterable[str] | None = option(
        None,
        f"Named text with all three parts: {corpora_in_words()}; may be repeated.",
        STRING_OR_STRINGS,
        panel=_TEXT,
    )
    calibration: Path | str | Iterable[Path | str] | None = option(
        None,
        "Text file for activations and gradients; may be repeated, and each gives equally many "
        "windows.",
        PATH_OR_PATHS,
        panel=_TEXT,
    )
    validation: Path | str | Iterable[Path | str] | None = option(
        None,
        "Text file that metrics are judged by; may be repeated, and each gives equally many "
        "windows.",
        PATH_OR_PATHS,
        panel=_TEXT,
    )
    test: Path | str | Iterable[Path | str] | None = option(
        None,
        "Text file that no search reads; may be repeated, and each has figures of its own.",
        PATH_OR_PATHS,
        panel=_TEXT,
    )
    max_seq_length: int | None = option(
        None,
        "Window length in tokens; by default 2048, or the model's limit if smaller.",
        whole_number(2),
        panel=_AMOUNTS,
    )
    num_calibration_samples: int | None = option(
        128,
        "Calibration windows at most, of all texts together, evenly spaced.",
        whole_number(1),
        panel=_AMOUNTS,
    )
    num_validation_samples: int | None = option(
        None,
        "Validation windows at most, of all texts together, evenly spaced; all by default.",
        whole_number(1),
        panel=_AMOUNTS,
    )
    num_test_samples: int | None = option(
        None,
        "Test windows at most, of all texts together, evenly spaced; all by default.",
        whole_number(1),
        panel=_AMOUNTS,
    )
    batch_size: int | None = option(
        None,
        "Windows read at once; by default as many as make 2048 tokens.",
        whole_number(1),
        panel=_AMOUNTS,
    )


@dataclass(frozen=True)
class Scope(Options):
    """Which layers are pruned, and what G is the gradient of."""

    gradient: GradientOf | None = option(
        None,
        "G is the gradient of the model's loss (full), or of the norm of each block's output "
        "(block), which takes no more memory than one block; by default as the metric's run had "
        "it, else full.",
        one_of(GradientOf),
        panel=_LAYERS,
    )
    ignore: str | Iterable[str] = option(
        (),
        "Leave layers of this name alone, e.g. '*.down_proj'; may be repeated.",
        STRINGS,
        panel=_LAYERS,
    )
    target: str | Iterable[str] = option(
        (),
        "Prune only layers of this name, e.g. '*.mlp.*'; may be repeated.",
        STRINGS,
        panel=_LAYERS,
    )


@dataclass(frozen=True)
class Setup(Scope, TextOptions, ModelSource):
    """Which model, which texts, which layers: the same words as on the command line.

    Raises:
        InputError: a value of the wrong kind, or out of its range.
    """

    @classmethod
    def of(cls, given: Setup | str | os.PathLike[str]) -> Setup:
        """The setup itself, or that of a model which is named alone."""
        if isinstance(given, Setup):
            return given
        if not isinstance(given, str | os.PathLike):
            raise InputError(f"`setup` must be a Setup or a model, not {kind(given)}.")
        return cls(model=os.fspath(given))

    @property
    def corpora(self) -> tuple[str, ...]:
        """The named corpora; the bundled model brings its own."""
        return _each(self.dataset) or (("python-docs",) if self.model == BUNDLED else ())

    def files(self, part: Part) -> tuple[Path, ...]:
        """The files named for a part, which go before the corpora."""
        return _each(getattr(self, part))


def _each(value: Any) -> tuple[Any, ...]:
    """What an option of one or several values holds, one by one."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
