"""The hub out of reach."""

from __future__ import annotations

import pytest

from prunerzero.language.hub import ask_hub, caches_alone


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
