"""What the card of a pruned model repeats from the card of the original: licence and languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from prunerzero.language.hub import ANSWER_SECONDS
from prunerzero.language.quiet import quiet_logger
from prunerzero.language.source import BUNDLED

_INHERITED = ("license", "license_name", "license_link", "language")


def inherited_fields(name: str, revision: str | None = None) -> dict[str, Any]:
    """Licence and languages in the front matter of a model's card; empty where unknown."""
    if name == BUNDLED:
        return {"license": "apache-2.0", "language": "en"}
    path = Path(name).expanduser()
    if path.exists():
        card = _read_card((path if path.is_dir() else path.parent) / "README.md")
    else:
        card = _ask_for_card(name, revision)
    return {key: value for key in _INHERITED if (value := getattr(card, key, None))}


def _ask_for_card(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision, timeout=ANSWER_SECONDS).card_data
    except Exception:  # gone, private, or no connection: the licence is then not known
        return None


@quiet_logger("huggingface_hub")
def _read_card(path: Path) -> Any:
    from huggingface_hub import ModelCard

    try:
        return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # no card, or a broken front matter
        return None
