"""A ``recipe.yaml``: all that decides a pruning, and how to tell whether it was repeated.

Besides the options it holds ``fingerprints``: of the dense model, of each text, and of the weights
files that came out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunerzero.documents import path_of, read_yaml
from prunerzero.errors import InputError, ModelError, TextError
from prunerzero.identity import difference
from prunerzero.language.checkpoint_files import weight_files
from prunerzero.language.corpora import Part
from prunerzero.tasks.workspace import Workspace

RESULTS = frozenset({"texts", "windows", "versions", "fingerprints"})
"""What a recipe tells besides options."""


def read_recipe(path: Path) -> dict[str, Any]:
    """What ``prune`` wrote. Raises InputError."""
    content = read_yaml(path_of(path), f"recipe '{path}'")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), dict) for name in ("fingerprints", "versions")
    ):
        raise InputError(
            f"'{path}' holds no fingerprints and versions, so it is no recipe.yaml of prune; read "
            "it with `config` instead."
        )
    return content


def check_same(work: Workspace, recipe: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Refuse a model or a text that is no longer what it was when the recipe was written.

    What the user asks for in another way than the recipe does may differ.

    Args:
        work: names the model and the texts.
        recipe: as read.
        parts: the parts of the text that are going to be read.

    Raises:
        ModelError, TextError: it has changed; says what differs.
    """
    then = recipe["fingerprints"]
    if _as_told(work, recipe, "model", "revision"):
        different = difference({"model": then.get("model")}, {"model": work.model_identity})
        if then.get("model") is not None and different:
            raise ModelError(
                f"the model {recipe['model']!r} has changed since the recipe was written, with "
                f"{different}; restore it, or pass `model` to prune another."
            )
    for part in parts:
        options = [part, f"num_{part}_samples", "max_seq_length"]
        options += [] if recipe.get(part) else ["dataset"]
        changed = then.get(part) not in (None, work.texts.fingerprint(part))
        if changed and _as_told(work, recipe, "model", *options):
            name = ", ".join(text.name for text in work.texts.each(part))
            raise TextError(
                f"the {part} text '{name}' has changed since the recipe was written; restore it, "
                f"or pass `{part}=FILE` to prune with another."
            )


def differences(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What may explain that the weights are others: ``torch 2.13.0, here 2.11.0``.

    Args:
        recipe: of the earlier pruning.
        settings: the recipe of this one.
    """
    pairs = {
        **{o: (recipe.get(o), now) for o, now in settings.items() if o not in RESULTS},
        **{n: (then, settings["versions"].get(n)) for n, then in recipe["versions"].items()},
    }
    return [
        f"{name} {_text(then) or 'absent'}, here {_text(now) or 'absent'}"
        for name, (then, now) in pairs.items()
        if _text(then) != _text(now)
    ]


def digest(folder: Path) -> str:
    """A hash of all weights files in a checkpoint: equal to the byte, equal hash."""
    whole = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def _as_told(work: Workspace, recipe: Mapping[str, Any], *options: str) -> bool:
    """Whether these options are the recipe's own, not the user's."""
    return all(_text(getattr(work.setup, o)) == _text(recipe.get(o)) for o in options)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return str([str(item) for item in value])
    return "" if value is None else str(value)
