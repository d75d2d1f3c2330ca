"""The Hugging Face hub: whether it has a repository and can be reached, and why downloads fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

ANSWER_SECONDS = 10.0
"""How long to wait for the hub's answer to a question."""

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def ask_hub(
    repository: str, kind: Literal["model", "dataset"], revision: str | None = None
) -> Literal["there", "not there", "unreachable"]:
    """Whether the hub has a repository, asked once and before any download.

    Without a connection, the libraries that download retry each file for half a minute; one
    question of our own finds out at once.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=ANSWER_SECONDS)
    except GatedRepoError:
        return "there"
    except (HfHubHTTPError, HFValidationError):
        return "not there"
    except Exception:  # which one says "no connection" changes with the library's HTTP client
        return "unreachable"
    return "there"


def cache_refusal(error: BaseException | None, *, is_local: bool = False) -> str | None:
    """Why downloads cannot be kept, as a sentence that names the variable to set; else None.

    Args:
        error: what a library raised; the errors that led to it are looked at too.
        is_local: the model is on this disk: then only an error about a file inside the libraries'
            own folder is about downloads.
    """
    from huggingface_hub import constants

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        is_about = isinstance(error, OSError) and error.errno in _UNWRITABLE
        if is_about and is_local:
            is_about = str(getattr(error, "filename", "")).startswith(constants.HF_HOME)
        if is_about and isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno).lower()
            return (
                f"what is downloaded cannot be kept in '{constants.HF_HUB_CACHE}': {reason}; set "
                "the environment variable HF_HOME to a folder that can be written."
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def caches_alone() -> Iterator[None]:
    """Inside, the libraries read what they have downloaded before and do not ask the hub.

    For a hub that is known to be out of reach. The setting is one of the whole process.
    """
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
