"""Whether the Hugging Face hub can give a repository: asked once, before anything retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_PATIENCE = 10.0
"""Seconds."""


def ask_hub(
    repository: str, kind: Literal["model", "dataset"], revision: str | None = None
) -> Literal["there", "not there", "unreachable"]:
    """Ask for the repository's description.

    The libraries that download retry for half a minute a file before they say that there is no
    connection; one question tells it at once.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=_PATIENCE)
    except GatedRepoError:
        return "there"
    except (HfHubHTTPError, HFValidationError):
        return "not there"
    except Exception:  # which one says "no connection" changes with the library's HTTP client
        return "unreachable"
    return "there"


@contextmanager
def caches_alone() -> Iterator[None]:
    """Let the libraries read what they have downloaded before, and ask the hub for nothing.

    For when it is known to be out of reach. They keep this for the whole process.
    """
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
