"""The hub out of reach."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from prunerzero.errors import ModelError
from prunerzero.language import locate
from prunerzero.language.hub import ask_hub, cache_refusal, caches_alone
from prunerzero.language.loading import load_model
from prunerzero.language.source import ModelSource


def test_nothing_is_asked_twice_where_the_caches_are_read_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries would retry, and say so in their logs."""
    from datasets import load_dataset
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    before = constants.HF_HUB_OFFLINE
    assert ask_hub("of-nobody/none", "dataset") == "unreachable"
    with caches_alone(), pytest.raises(ConnectionError):
        load_dataset("of-nobody/none")
    assert "Retrying" not in caplog.text
    assert constants.HF_HUB_OFFLINE == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_is_named_with_the_variable(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers tells it as an OSError of its own, with the system's behind it."""
    from transformers import AutoConfig

    def refuse(*_: object, **__: object) -> None:
        try:
            raise OSError(number, "refused")
        except OSError as error:
            raise OSError("Check cache directory permissions.") from error

    monkeypatch.setattr(locate, "ask_hub", lambda *_: "there")
    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ModelError, match="of-somebody/model.* cannot be kept in .* HF_HOME"):
        load_model(ModelSource("of-somebody/model"))


def test_a_local_file_that_cannot_be_read_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    from huggingface_hub import constants

    of_model = PermissionError(errno.EACCES, "refused", str(tmp_path / "config.json"))
    of_code = PermissionError(errno.EROFS, "refused", f"{constants.HF_HOME}/modules/x")
    assert cache_refusal(of_model, is_local=True) is None
    assert "HF_HOME" in str(cache_refusal(of_code, is_local=True))
    assert cache_refusal(ValueError("no")) is None
