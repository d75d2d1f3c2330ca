"""Which text tune calibrates on, judges by and is tested on: disjoint parts of what was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunerzero.errors import TextError
from prunerzero.files import write_text
from prunerzero.language.corpora import PARTS, Part, read_file
from prunerzero.tasks.setup import Setup

BLOCKS = 16
ENOUGH_WINDOWS = 12
LEAST_LENGTH = 128

_MOST_LETTERS = 60
"""Of a text's name in the name of a file that was cut from it."""

_LINE_END, _SPACE = re.compile(r"\n+"), re.compile(r"\s")

_TURNS: dict[frozenset[Part], tuple[Part, ...]] = {
    frozenset({"calibration", "test"}): ("calibration", "validation", "test", "validation"),
    frozenset({"test"}): ("validation", "validation", "test"),
    frozenset({"calibration"}): ("validation", "validation", "calibration"),
}
"""Missing parts → which part takes which block, in turns."""


Cut = dict[str, str]
"""A text by its file's name without the ending, such as ``calibration``."""


def cut_parts(setup: Setup, folder: Path) -> tuple[dict[Part, Cut], dict[str, Any]]:
    """Cut the parts that are missing out of the validation text, or out of each of several.

    With a validation file, the test part is the test file or else set aside from that text; the
    calibration part is the calibration file, or that of a dataset named, or else set aside too.
    Without one, all three parts are the dataset's, unless files are named for them.

    Args:
        setup: as the user gave it.
        folder: where the parts are going to be.

    Returns:
        the texts of each part that was cut, and how the parts came about: ``TuneResult.split``.

    Raises:
        TextError: a text is missing, empty, unreadable or too short.
    """
    files = setup.files("validation")
    if not files:
        if not setup.corpora:
            raise TextError('no text is named; pass `validation=FILE` or `dataset="wikitext2"`.')
        return {}, {"kind": "dataset", "dataset": _one_or_list(setup.corpora)}
    missing: set[Part] = set()
    if setup.test is None:
        missing.add("test")
    if setup.calibration is None and setup.dataset is None:
        missing.add("calibration")
    if not missing:
        return {}, {"kind": "own"}
    turns = _TURNS[frozenset(missing)]
    cut: dict[Part, Cut] = {part: {} for part in turns}
    for number, file in enumerate(files, start=1):
        [text] = read_file(file)
        shares: dict[Part, list[str]] = {part: [] for part in turns}
        for index, block in enumerate(cut_blocks(text, BLOCKS)):
            shares[turns[index % len(turns)]].append(block)
        for part, found in shares.items():
            name = part if len(files) == 1 else f"{part}-{number}-{file.stem[:_MOST_LETTERS]}"
            cut[part][name] = "\n\n".join(found)
    facts = {
        "kind": "cut",
        "text": _one_or_list([str(file) for file in files]),
        "blocks": BLOCKS,
        "turns": list(turns),
        "folder": str(folder),
    }
    return cut, facts


def _one_or_list(names: Sequence[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def write_parts(setup: Setup, texts: dict[Part, Cut], folder: Path) -> Setup:
    """Write the parts that were cut as files; gives the setup that names them."""
    if not texts:
        return setup
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Any] = {}
    for part, cut in texts.items():
        paths[part] = [folder / f"{name}.txt" for name in cut]
        for path, text in zip(paths[part], cut.values(), strict=True):
            write_text(path, text)
    return replace(setup, **paths)


def fitting_length(setup: Setup, tokenizer: Any, length: int) -> int:
    """``length``, halved until each file of a part makes enough windows to judge by."""
    for part in PARTS:
        for path in setup.files(part):
            encoded = tokenizer(read_file(path)[0], add_special_tokens=False, verbose=False)
            tokens = len(encoded["input_ids"])
            while tokens // length < ENOUGH_WINDOWS and length // 2 >= LEAST_LENGTH:
                length //= 2
    return length


def cut_blocks(text: str, count: int) -> list[str]:
    """Cut a text into ``count`` consecutive, nearly equal blocks, at line ends where there are any.

    Raises:
        TextError: the text is too short for that.
    """
    ends = []
    for index in range(1, count):
        target = index * len(text) // count
        latest = target + len(text) // (2 * count)
        found_end = _LINE_END.search(text, target, latest) or _SPACE.search(text, target, latest)
        ends.append(found_end.end() if found_end else target)
    found = [text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    if not all(found):
        raise TextError("the validation text is too short to set parts aside; pass a longer one.")
    return found
