"""Texts, and their calibration, validation and test parts.

A named corpus has all three; files are given part by part. Statistics come from the calibration
part, a search judges metrics by the validation part, and no search reads the test part: it gives
the figures that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prunerzero import identity
from prunerzero.documents import path_of, read_text
from prunerzero.errors import TextError
from prunerzero.language.hub import ask_hub, cache_refusal
from prunerzero.language.quiet import quiet_datasets

Part = Literal["calibration", "validation", "test"]
PARTS: tuple[Part, ...] = ("calibration", "validation", "test")


@dataclass(frozen=True)
class Text:
    """One part of a text, cut into windows of tokens.

    Attributes:
        name: the corpus and part, or the file, as shown to the user.
        windows: token ids [count, length], in the text's order.
        texts: the texts of a mixture, whose windows take turns; empty where it is none.
    """

    name: str
    windows: Tensor
    texts: tuple[Text, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The digest of the windows: equal windows, equal digest."""
        return identity.of_windows(self.windows)

    def spread(self, count: int | None) -> Text:
        """At most ``count`` windows, evenly spaced over the text; of a mixture, see ``mixed``."""
        if count is None:
            return self
        if self.texts:
            return mixed(self.texts, count)
        return Text(self.name, self.windows[evenly_spaced(count, len(self.windows))])


def mixed(texts: Sequence[Text], count: int | None = None) -> Text:
    """A mixture of texts in equal numbers of windows, of each text evenly spaced over it.

    The texts take turns, so that the first windows are a mixture too. Where ``count`` is no
    multiple of the number of texts, the first ones give one window more; where a text is too short
    for its share, each gives as many as the shortest has.

    Args:
        texts: two or more, whose windows are of one length.
        count: windows at most in all, but one of each text at least; None for as many as the
            shortest text allows.
    """
    shares = shares_of([len(text.windows) for text in texts], count)
    parts = [text.spread(share) for text, share in zip(texts, shares, strict=True)]
    turns = [
        part.windows[turn]
        for turn in range(max(shares))
        for part in parts
        if turn < len(part.windows)
    ]
    return Text(", ".join(text.name for text in texts), torch.stack(turns), tuple(parts))


def shares_of(lengths: Sequence[int], count: int | None) -> list[int]:
    """How many windows each of several texts gives to a mixture of ``count``; see ``mixed``.

    >>> shares_of([100, 100, 100], 128)
    [43, 43, 42]
    >>> shares_of([100, 100, 20], 128)
    [20, 20, 20]
    """
    shortest = min(lengths)
    if count is None:
        return [shortest] * len(lengths)
    each, more = divmod(max(count, len(lengths)), len(lengths))
    shares = [each + (place < more) for place in range(len(lengths))]
    if any(share > length for share, length in zip(shares, lengths, strict=True)):
        return [shortest] * len(lengths)
    return shares


def places_of(part: Part, texts: Sequence[Text]) -> tuple[str, ...]:
    """What figures of these texts of a part are called: the part, or ``"test: mine.txt"`` …

    >>> places_of("test", [Text("a.txt", torch.zeros(1, 2))])
    ('test',)
    """
    if len(texts) == 1:
        return (part,)
    return tuple(f"{part}: {text.name.removesuffix(f' ({part})')}" for text in texts)


def evenly_spaced(count: int, length: int) -> Tensor:
    """At most ``count`` indices below ``length``, ascending, evenly spaced.

    >>> evenly_spaced(3, 9)
    tensor([0, 3, 6])
    """
    count = min(count, length)
    return torch.arange(count) * length // max(1, count)


def part_of(place: str) -> Part:
    """The part that one of its ``places_of`` belongs to; a place may also be the part itself."""
    return next(part for part in PARTS if place == part or place.startswith(f"{part}: "))


def the_text(place: str) -> str:
    """A place in the midst of a sentence.

    >>> the_text("test"), the_text("test: a.txt"), the_text("a.txt")
    ('test text', 'test text a.txt', 'a.txt text')
    """
    part, separator, name = place.partition(": ")
    return f"{part} text {name}" if separator and part in PARTS else f"{place} text"


def _python_docs(part: Part) -> list[str]:
    from prunerzero.language.python_docs import python_documents

    return list(python_documents(part))


def _wikitext2(part: Part) -> list[str]:
    split = {"calibration": "train", "validation": "validation", "test": "test"}[part]
    lines = _hub_dataset("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    return ["\n\n".join(lines["text"])]


def _c4(part: Part) -> list[str]:
    shard = "train.00000-of-01024" if part == "calibration" else "validation.00000-of-00008"
    rows = _hub_dataset(
        "c4", "allenai/c4", data_files={"part": f"en/c4-{shard}.json.gz"}, split="part"
    )
    # validation and test share a shard, but no document
    documents = {"calibration": range(2000), "validation": range(1100), "test": range(1100, 2200)}
    return [" ".join(rows[list(documents[part])]["text"])]


@dataclass(frozen=True)
class Corpus:
    """A named text.

    Attributes:
        read: part → documents.
        origin: where its text comes from, in words.
    """

    read: Callable[[Part], list[str]]
    origin: str


CORPORA = {
    "wikitext2": Corpus(_wikitext2, "from the hub"),
    "c4": Corpus(_c4, "from the hub"),
    "python-docs": Corpus(_python_docs, "from this Python; the bundled model's own"),
}
"""Named corpora. The help of options that take one is made from this table."""


def corpora_in_words() -> str:
    """The names of all corpora, with their origins.

    >>> corpora_in_words()
    "wikitext2, c4 (from the hub), python-docs (from this Python; the bundled model's own)"
    """
    told = groupby(CORPORA, key=lambda name: CORPORA[name].origin)
    return ", ".join(f"{', '.join(names)} ({origin})" for origin, names in told)


def read_corpus(name: str, part: Part) -> list[str]:
    """The documents of one part of a named corpus.

    Raises:
        TextError: no such corpus, or this machine cannot get its text.
    """
    if name not in CORPORA:
        raise TextError(f"there is no corpus {name!r}; known are {', '.join(CORPORA)}.")
    documents = CORPORA[name].read(part)
    if not any(documents):
        raise TextError(f"corpus {name!r} has no {part} text on this machine; pass a file instead.")
    return documents


def read_file(path: Path | str) -> list[str]:
    """A UTF-8 text file as one document. Raises TextError where it cannot be read or is empty."""
    text = read_text(path_of(path), f"text file '{path}'", TextError)
    if not text.strip():
        raise TextError(f"text file '{path}' is empty.")
    return [text]


def cut_windows(
    documents: list[str],
    tokenizer: Any,
    length: int,
    name: str,
    stride: int | None = None,
    begin: int | None = None,
) -> Text:
    """Tokenise, and cut into windows of ``length`` tokens; tokens left at the end are dropped.

    Documents are joined by the tokenizer's end-of-text token.

    Args:
        documents, tokenizer: what to tokenise, and with what.
        length: tokens in a window.
        name: of the text, for errors.
        stride: tokens from the beginning of a window to that of the next; None for ``length``.
        begin: token id to put before each window's text; it counts among the ``length`` tokens.

    Raises:
        TextError: too short for one window.
    """
    ids: list[int] = []
    for document in documents:
        encoded = tokenizer(document, add_special_tokens=False, verbose=False)
        ids.extend(encoded["input_ids"])
        if len(documents) > 1 and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
    room = length if begin is None else length - 1
    if len(ids) < room:
        raise TextError(
            f"{name} is too short for one window: it has {len(ids)} tokens, {room} are needed; "
            "pass a longer text or a smaller `max_seq_length`."
        )
    windows = torch.tensor(ids).unfold(0, room, min(stride or room, room))
    if begin is not None:
        windows = torch.cat([torch.full((len(windows), 1), begin), windows], 1)
    return Text(name, windows.contiguous())


@quiet_datasets()
def _hub_dataset(name: str, repository: str, *args: str, **options: Any) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise TextError(
            f"corpus {name!r} needs the datasets library: pip install 'prunerzero[hub]'."
        ) from None
    unreachable = TextError(
        f"corpus {name!r} could not be fetched from the hub; pass files instead: "
        "`calibration=FILE`, `validation=FILE` and `test=FILE`."
    )
    if ask_hub(repository, "dataset") != "there" and not _is_cached(repository):
        raise unreachable
    try:
        return load_dataset(repository, *args, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if reason := cache_refusal(error):
            raise TextError(f"corpus {name!r}: {reason}") from error
        raise unreachable from error


def _is_cached(repository: str) -> bool:
    from datasets import config

    return (Path(config.HF_DATASETS_CACHE) / repository.replace("/", "___")).is_dir()
