"""The phrases of reports, from one catalogue for each language.

``languages/LANGUAGE.yaml`` holds the phrases by the same keys and with the same places in every
language; how a sentence is built from them is the same too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

Language = Literal["en", "ja"]

Say = Callable[..., str]
"""A phrase of the catalogue by its key, with what stands in its places."""


@cache
def strings_of(language: Language, page: str = "") -> dict[str, str]:
    """The phrases of a language by their keys, for the page of tune or, as ``bench_``, another."""
    source = files(__package__) / "languages" / f"{page}{language}.yaml"
    strings: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return strings


def say_in(language: Language, page: str = "") -> Say:
    """What renders a phrase in this language."""
    strings = strings_of(language, page)
    return lambda key, **values: strings[key].format(**values)
