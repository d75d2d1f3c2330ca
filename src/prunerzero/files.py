"""Output that is never half written, and never written over what was there unasked."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunerzero.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"'{path}' cannot be written: {(error.strerror or '').lower()}."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write as JSON, non-finite numbers as null."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Indented JSON; a number that is not finite becomes null, which every reader accepts."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def check_new(folder: Path) -> None:
    """Raise OutputError unless ``folder`` can be made: it is absent or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"output folder '{folder}' exists and is not empty; name a new one.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name ``folder`` only when all of it is written."""
    check_new(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        raise OutputError(
            f"'{folder}' cannot be written: {(error.strerror or '').lower()}."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
