"""Texts to measure on: any number of corpora and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunerzero.arguments import whole
from prunerzero.errors import InputError, TextError
from prunerzero.language.corpora import Part, Text, read_corpus, read_file
from prunerzero.tasks.own_texts import Source, limited, own_sources
from prunerzero.tasks.setup import Setup
from prunerzero.tasks.workspace import Workspace


def sources_of(
    setup: Setup,
    part: Part,
    datasets: Sequence[str] = (),
    texts: Sequence[Path] = (),
    *,
    required: bool = True,
) -> list[Source]:
    """The texts named, or else the setup's own of the part.

    Args:
        setup: names a text for the part, or a corpus.
        part: of the setup's text and of datasets.
        datasets, texts: named corpora and files, which go before the setup's text.
        required: refuse to have none.

    Raises:
        InputError: one is named twice.
        TextError: missing, empty or unreadable; or none is named and one is required.
    """
    names = [*datasets, *map(str, texts)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"text {min(twice)!r} is named twice.")
    named = [Source(f"{name} ({part})", read_corpus(name, part)) for name in datasets]
    named += [Source(str(path), read_file(path)) for path in texts]
    if named:
        return named
    if own := own_sources(setup, part):
        return own
    if required:
        raise TextError(
            f'no {part} text is named; pass `texts=FILE`, `{part}=FILE` or `dataset="wikitext2"`.'
        )
    return []


def check_stride(stride: int | None, length: int | None) -> None:
    """Raise InputError where windows of that length, if it is known, cannot slide by that."""
    if stride is not None and whole("stride", stride) < 1:
        raise InputError(f"`stride={stride}` must be at least 1.")
    if stride is not None and length is not None and stride > length:
        raise InputError(f"`stride={stride}` must be from 1 to the window's {length} tokens.")


def windows_of(
    work: Workspace, sources: Sequence[Source], part: Part, stride: int | None, *, own: bool
) -> tuple[Text, ...]:
    """The sources cut into the model's windows, at most as many as the setup allows the part.

    Args:
        work: knows the model.
        sources: as ``sources_of`` gives them.
        part: whose number of windows counts.
        stride: tokens by which windows slide; None for side by side.
        own: whether they are the setup's own texts of the part, which share that number; of
            others each may have as many.

    Raises:
        InputError: the stride does not fit the window.
        TextError: too short for one window.
    """
    length = work.window_length
    check_stride(stride, length)
    cut = [work.language_model.windows(s.documents, length, s.name, stride) for s in sources]
    count = getattr(work.setup, f"num_{part}_samples")
    return limited(cut, count) if own else tuple(text.spread(count) for text in cut)
