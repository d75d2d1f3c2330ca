"""What the commands of this folder share: refusals in one sentence, with exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from prunerzero.errors import InputError, ModelError
from prunerzero.language.devices import find_devices
from prunerzero.metrics import MetricError, Sparsity


def refuse(sentence: str) -> NoReturn:
    """End with this sentence and exit code 2."""
    print(f"Error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Within it, or within a function that it decorates, what the user can mend is no traceback."""
    try:
        yield
    except (InputError, MetricError) as error:
        refuse(str(error))


def require(names: str) -> None:
    """Refuse devices that this machine does not have, before anything is measured."""
    try:
        find_devices(names)
    except ModelError as error:
        refuse(str(error))


def no_command(instead: str) -> NoReturn:
    """Of a module that others import, run by itself: say what to run instead."""
    refuse(f"this module is a part of other benchmarks: run `{instead}`.")


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a number that is no less."""

    def number(text: str) -> int:
        if (found := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return found

    return number


def new_file(text: str) -> Path:
    """An argument's type: a file to write, whose folder is there."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def folder(text: str) -> Path:
    """An argument's type: a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def sparsity_text(text: str) -> str:
    """An argument's type: refuse what is no sparsity, before anything is measured."""
    try:
        Sparsity.parse(text)
    except MetricError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


if __name__ == "__main__":
    no_command("python -m benchmarks --help")
