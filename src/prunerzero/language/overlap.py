"""Which windows of one text stand in another, whatever place in it they have there."""

from __future__ import annotations

import torch
from torch import Tensor

_RUN_TOKENS, _LEAST_RUN_TOKENS, _RUNS = 32, 8, 4
"""A window is cut into four runs or more, of 8 to 32 tokens. Shorter ones would be equal by chance;
of longer ones a window that is cut elsewhere would have few that are whole in one other window."""

_LEAST_TOKENS = 32
"""Of which runs are found in a window that stands there; of a shorter window all are."""

_TOO_SHORT = 16
"""Some windows of fewer tokens stand in any other text (of the Python documentation, 8 in 15,044 of
8 tokens, none of 16 to 512), so they count where most do."""

_BASE = 0x5851F42D4C957F2D
"""Of a polynomial hash modulo 2^64; odd, so that no token is lost. Source: the multiplier of Knuth,
MMIX (1999)."""


def windows_in(windows: Tensor, others: Tensor) -> int:
    """How many windows stand in other windows, whole or by half.

    A window is cut into runs of tokens, and stands there if half of its runs do, each in one of the
    other windows, at any place of it. So a text is found that begins some words later, or that is a
    part of a longer one, where windows have 64 tokens or more; of shorter ones all runs must stand
    there, and a window cut elsewhere may not be found. A phrase that both texts quote is no window.

    Args:
        windows, others: token ids [count, length], each.

    >>> text = torch.arange(640)
    >>> windows_in(text.view(10, 64), text[80:336].view(4, 64))
    4
    """
    shortest = min(windows.shape[1], others.shape[1])
    longest = min(shortest, _RUN_TOKENS, max(_LEAST_RUN_TOKENS, shortest // _RUNS))
    size = 1 << (longest.bit_length() - 1)
    runs = _hashes(windows, size).flip(1)[:, ::size]  # from the end: a beginning token is in none
    found = torch.isin(runs, _hashes(others, size).unique())
    enough = max(-(-found.shape[1] // 2), min(found.shape[1], _LEAST_TOKENS // size))
    count = int((found.sum(1) >= enough).sum())
    return 0 if shortest < _TOO_SHORT and 2 * count < len(windows) else count


def _hashes(windows: Tensor, size: int) -> Tensor:
    """Of each run of ``size`` tokens, a power of two, at each place of each window."""
    found, length, factor = windows.long() + 1, 1, _BASE
    while length < size:
        found = found[:, :-length] * factor + found[:, length:]
        length, factor = 2 * length, _signed(factor * factor)
    return found


def _signed(number: int) -> int:
    """A number modulo 2^64, as torch has it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
