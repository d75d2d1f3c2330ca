"""The texts of each part: read when first asked for, cut into windows, and mixed where several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prunerzero import identity
from prunerzero.errors import TextError
from prunerzero.language.corpora import Part, Text, mixed, part_of, places_of, shares_of
from prunerzero.language.source import BUNDLED
from prunerzero.tasks.observer import Observer
from prunerzero.tasks.own_texts import Source, limited, own_sources
from prunerzero.tasks.setup import Setup


class Cut(Protocol):
    """Cuts documents into windows of tokens, under the name of their text."""

    def __call__(self, documents: list[str], name: str) -> Text: ...


class Texts:
    """The user's texts, in the windows that one model reads.

    Args:
        setup: which texts, and how many windows of each part.
        observer: told where a short text decides how much of all is mixed.
        cut: cuts documents into windows; it may load the model's tokenizer, so that a text which
            cannot be read is told before.
    """

    def __init__(self, setup: Setup, observer: Observer, cut: Cut) -> None:
        self._setup = setup
        self._observer = observer
        self._cut = cut
        self._sources: dict[Part, list[Source]] = {}
        self._each: dict[Part, tuple[Text, ...]] = {}
        self._mixed: dict[Part, Text] = {}

    def read(self, *parts: Part) -> None:
        """Read these parts now. Raises TextError where one is not named or not readable."""
        for part in parts:
            if part in self._sources:
                continue
            self._sources[part] = own_sources(self._setup, part)
            if not self._sources[part]:
                model = self._setup.model
                corpus = "python-docs" if model == BUNDLED else "wikitext2"
                raise TextError(
                    f"no {part} text is named for {model!r}; pass `{part}=FILE` or "
                    f'`dataset="{corpus}"`.'
                )

    def sources(self, part: Part) -> tuple[Source, ...]:
        """What was read of a part, before it is cut into windows; empty where nothing was."""
        return tuple(self._sources.get(part, ()))

    def has(self, part: Part) -> bool:
        """Whether the user named a text for this part."""
        return bool(self._setup.files(part) or self._setup.corpora)

    def each(self, part: Part) -> tuple[Text, ...]:
        """The texts of a part, one by one, which share the number of windows that it may have.

        Raises:
            TextError: one cannot be read, or is too short for one window.
        """
        if part not in self._each:
            self.read(part)
            whole = [self._cut(source.documents, source.name) for source in self._sources[part]]
            count = self._count(part)
            self._each[part] = limited(whole, count)
            if count is not None and len(whole) > 1:
                self._tell_if_short(part, whole, count)
        return self._each[part]

    def places(self, part: Part) -> tuple[str, ...]:
        """What figures of the texts of a part are called, one by one: the part itself where it has
        one text, else ``"test: mine.txt"`` and so on."""
        return places_of(part, self.each(part))

    def of(self, place: str) -> Text:
        """The windows of a part, mixed where it has several texts; or those of one of its
        ``places``. Raises TextError."""
        part = part_of(place)
        if place != part:
            return self.each(part)[self.places(part).index(place)]
        if part not in self._mixed:
            texts, count = self.each(part), self._count(part)
            self._mixed[part] = texts[0] if len(texts) == 1 else mixed(texts, count)
            if len(texts) > 1 and count is None:
                self._tell_if_short(part, texts, None)
        return self._mixed[part]

    def fingerprint(self, part: Part) -> str:
        """The digest of the texts of a part: equal windows of each, equal digest."""
        texts = self.each(part)
        if len(texts) == 1:
            return texts[0].fingerprint
        return identity.digest("mixed by turns", *(text.fingerprint for text in texts))

    def used(self) -> dict[str, Text]:
        """What was asked for so far, by the place that it is called."""
        found: dict[str, Text] = {}
        for part, each in self._each.items():
            if len(each) == 1 or part in self._mixed:
                found[part] = self.of(part)
            found |= zip(self.places(part), each, strict=True)
        return found

    def fingerprints(self) -> dict[str, str]:
        """The digest of each part of which something was asked for."""
        return {part: self.fingerprint(part) for part in self._each}

    def _count(self, part: Part) -> int | None:
        count: int | None = getattr(self._setup, f"num_{part}_samples")
        return count

    def _tell_if_short(self, part: Part, texts: Sequence[Text], count: int | None) -> None:
        """Say so where the shortest of several texts decides how much of all is mixed."""
        lengths = [len(text.windows) for text in texts]
        shares = shares_of(lengths, count)
        if sum(shares) < sum(lengths) and (count is None or sum(shares) < count):
            shortest = texts[lengths.index(min(lengths))]
            self._observer.note(
                f"{shortest.name} has only {min(lengths)} windows of {shortest.windows.shape[1]} "
                f"tokens, so each of the {len(texts)} {part} texts gives as many; pass a longer "
                "text, or a smaller `max_seq_length`, for more."
            )
