"""A ``recipe.yaml``: all that decides a pruning, and how to tell whether it was repeated.

Besides the options it holds ``fingerprints``: of the dense model, of each text, and of the weights
files that came out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prunerzero.errors import InputError, ModelError, TextError
from prunerzero.language.corpora import PARTS
from prunerzero.tasks.workspace import Workspace

RESULTS = frozenset({"texts", "windows", "versions", "fingerprints"})
"""What a recipe tells besides options."""


def read_recipe(path: Path) -> dict[str, Any]:
    """What ``prune`` wrote. Raises InputError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise InputError(f"recipe '{path}' cannot be read: {reason}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(f"recipe '{path}' is no valid YAML.") from None
    if not isinstance(content, dict) or not isinstance(content.get("fingerprints"), dict):
        raise InputError(
            f"'{path}' holds no fingerprints, so it is no recipe.yaml of prune; read it with "
            "--config instead."
        )
    return content


def check_texts(work: Workspace, recipe: Mapping[str, Any]) -> None:
    """Raise TextError where a text that the recipe names is no longer what it was."""
    for part in PARTS:
        options = (part,) if recipe.get(part) else (part, "dataset")
        if _changed(part, work, recipe) and _as_told(work, recipe, *options):
            name = recipe.get(part) or work.setup.corpus()
            raise TextError(
                f"the {part} text '{name}' has changed since the recipe was written; restore it, "
                f"or pass --{part} FILE to prune with another."
            )


def check_model(work: Workspace, recipe: Mapping[str, Any]) -> None:
    """Load the model, and raise ModelError where it is no longer what it was."""
    _ = work.language_model
    if _changed("model", work, recipe) and _as_told(work, recipe, "model", "revision", "dtype"):
        raise ModelError(
            f"the model {recipe['model']!r} has changed since the recipe was written; restore it, "
            "or pass --model to prune another."
        )


def differences(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What may explain that the weights are others: ``torch 2.13.0, here 2.11.0``."""
    pairs = {
        **{o: (recipe.get(o), now) for o, now in settings.items() if o not in RESULTS},
        **{n: (then, settings["versions"].get(n)) for n, then in recipe["versions"].items()},
    }
    return [
        f"{name} {_text(then) or 'unset'}, here {_text(now) or 'unset'}"
        for name, (then, now) in pairs.items()
        if _text(then) != _text(now)
    ]


def digest(folder: Path) -> str:
    """A hash of all weights files in a checkpoint: equal to the byte, equal hash."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def _changed(name: str, work: Workspace, recipe: Mapping[str, Any]) -> bool:
    now, then = work.fingerprints.get(name), recipe["fingerprints"].get(name)
    return None not in (now, then) and now != then


def _as_told(work: Workspace, recipe: Mapping[str, Any], *options: str) -> bool:
    """Whether these options are the recipe's own, not the user's."""
    return all(_text(getattr(work.setup, o)) == _text(recipe.get(o)) for o in options)


def _text(value: object) -> str:
    return "" if value is None else str(list(value) if isinstance(value, tuple) else value)
