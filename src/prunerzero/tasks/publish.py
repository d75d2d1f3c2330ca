"""Pushing a finished checkpoint to the Hugging Face hub: all of it in one commit, or nothing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from prunerzero.errors import OutputError
from prunerzero.language.hub import ANSWER_SECONDS
from prunerzero.tasks.observer import Observer


def check_repository(repository: str) -> None:
    """Ask before the work begins whether a model can be pushed there.

    Raises:
        OutputError: no token, no such name, a hub that cannot be reached or refuses, or a
            repository that holds files already: nothing is overwritten.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if repository.count("/") != 1:
        raise OutputError(f"{repository!r} is no hub repository; write ORG/NAME.")
    if get_token() is None:
        raise OutputError(
            "pushing to the hub needs a token: run 'hf auth login', or set HF_TOKEN in the "
            "environment."
        )
    try:
        there = HfApi().model_info(repository, timeout=ANSWER_SECONDS)
    except HFValidationError as error:
        raise OutputError(f"{repository!r} is no hub repository: {_sentence(error)}") from None
    except RepositoryNotFoundError:
        return
    except Exception as error:  # which one says "no connection" changes with the HTTP client
        raise OutputError(
            f"the hub was asked for {repository} and does not answer as it should: "
            f"{_sentence(error)}"
        ) from None
    if [f for f in there.siblings or () if f.rfilename != ".gitattributes"]:
        raise OutputError(f"hub repository {repository} exists and is not empty; name a new one.")


def push_folder(folder: Path, repository: str, observer: Observer) -> str:
    """Push all files of a folder in one commit; a repository that is made is private.

    Returns:
        Where it is now.

    Raises:
        OutputError: nothing is to be seen on the hub; tells how to push again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    observer.stage(f"pushing {folder} to {repository}")
    try:
        with observer.other_progress():
            where = api.create_repo(repository, private=True, exist_ok=True)
            # one commit: upload_folder would cut a large folder into several
            api.create_commit(
                repository,
                [
                    CommitOperationAdd(str(path.relative_to(folder)), path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                ],
                commit_message="Prune with prunerzero",
            )
    except Exception as error:  # the libraries below raise almost anything
        again = f"hf upload {repository} {shlex.quote(str(folder))} . --private"
        raise OutputError(
            f"the model is complete in '{folder}', but could not be pushed to {repository} "
            f'({_sentence(error)[:-1]}); push it again with "{again}".'
        ) from None
    return str(where)


def _sentence(error: BaseException) -> str:
    """What the hub says of an error, or else the library, on one line."""
    answers = [getattr(e, "server_message", None) for e in (error, error.__cause__)]
    message = next(filter(None, answers), None) or str(error).strip() or type(error).__name__
    line = next(line for line in message.splitlines() if line.strip())
    return re.sub(r"\s*\(Request ID: .*?\)|\s*for url '.*'", "", line).strip().rstrip(".:") + "."
