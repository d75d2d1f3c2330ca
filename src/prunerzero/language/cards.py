"""What a model's own card tells that a model made from it has to tell again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from prunerzero.language.source import BUNDLED

_INHERITED = ("license", "license_name", "license_link", "language")
_PATIENCE = 10.0
"""Seconds."""


def inherited_fields(name: str, revision: str | None = None) -> dict[str, Any]:
    """Licence and languages of a model as its card's front matter has them; empty if unknown."""
    if name == BUNDLED:
        return {"license": "apache-2.0", "language": "en"}
    path = Path(name).expanduser()
    if path.exists():
        folder = path if path.is_dir() else path.parent
        return _chosen(_front_matter(folder / "README.md"))
    from huggingface_hub import HfApi

    try:
        card = HfApi().model_info(name, revision=revision, timeout=_PATIENCE).card_data
    except Exception:  # gone, private, or no connection: the licence is then not known
        return {}
    return _chosen({key: getattr(card, key, None) for key in _INHERITED})


def _chosen(fields: Any) -> dict[str, Any]:
    found = fields if isinstance(fields, dict) else {}
    return {key: found[key] for key in _INHERITED if found.get(key)}


def _front_matter(card: Path) -> Any:
    try:
        opening, matter, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        return None if opening.strip() else yaml.safe_load(matter)
    except (OSError, ValueError, yaml.YAMLError):  # no card, no front matter, or a broken one
        return None
