"""What ``import prunerzero`` offers."""

from __future__ import annotations

import pytest

import prunerzero


def test_the_public_names_are_sorted_and_each_is_there() -> None:
    assert prunerzero.__all__ == sorted(prunerzero._HOMES)
    for name in prunerzero.__all__:
        assert getattr(prunerzero, name).__name__ == name
        assert name in dir(prunerzero)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        prunerzero.prunes  # noqa: B018
