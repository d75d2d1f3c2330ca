"""The texts that a setup names for a part, before they are cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunerzero.language.corpora import Part, Text, mixed, read_corpus, read_file
from prunerzero.tasks.setup import Setup


@dataclass(frozen=True)
class Source:
    """A text before it is cut into windows: its name as shown to the user, and its documents."""

    name: str
    documents: list[str]


def own_sources(setup: Setup, part: Part) -> list[Source]:
    """The files named for the part, or else that part of the corpora; empty where none is named.

    Raises:
        TextError: one is missing, empty or unreadable.
    """
    if files := setup.files(part):
        return [Source(str(path), read_file(path)) for path in files]
    return [Source(f"{name} ({part})", read_corpus(name, part)) for name in setup.corpora]


def unread_doubt(setup: Setup, part: Part, measured: Sequence[Source]) -> str | None:
    """That files are named for another part, where the bundled model's own text is measured.

    Args:
        setup: names the files.
        part: that is measured.
        measured: the setup's own texts of it.
    """
    others: tuple[Part, ...] = ("validation", "test")
    named = [other for other in others if other != part and setup.files(other)]
    if not named or setup.files(part) or setup.dataset:
        return None
    files = " and ".join(map(str, setup.files(named[0])))
    own = " and ".join(source.name for source in measured)
    return (
        f"what is measured is {own}, and not {files}, which `{named[0]}` names; pass "
        f'`part="{named[0]}"` to measure that.'
    )


def beside_doubt(setup: Setup, parts: Sequence[Part]) -> str | None:
    """That files are named for a part, where the texts to measure are named apart from these.

    Args:
        setup: names the files.
        parts: that would be measured otherwise.
    """
    named = [part for part in parts if setup.files(part)]
    if not named:
        return None
    files = " and ".join(str(file) for part in named for file in setup.files(part))
    options = " and ".join(f"`{part}`" for part in named)
    return (
        f"what is measured is what `texts` and `datasets` name, and not {files}; leave those out "
        f"to measure what {options} name{'s' * (len(named) == 1)}."
    )


def limited(texts: list[Text], count: int | None) -> tuple[Text, ...]:
    """Texts of a part, each by itself: at most so many windows in all, shared as in a mixture.

    Without a limit each is read whole.
    """
    if len(texts) > 1 and count is not None:
        return mixed(texts, count).texts
    return tuple(text.spread(count) for text in texts)
