"""Windows of one text that stand in another."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunerzero.language.overlap import windows_in


def tokens(count: int, seed: int = 0) -> Tensor:
    """So many tokens of a vocabulary so large that none of their runs is there twice."""
    return torch.randint(50_000, (count,), generator=torch.Generator().manual_seed(seed))


def cut(ids: Tensor, length: int) -> Tensor:
    return ids[: len(ids) // length * length].view(-1, length)


@given(
    length=st.integers(16, 200),
    here=st.lists(st.integers(0, 11), min_size=1, max_size=8),
    there=st.lists(st.integers(0, 11), min_size=1, max_size=8),
)
def test_equal_windows_are_counted_whatever_their_order(length, here, there):
    windows = cut(tokens(12 * length), length)
    assert windows_in(windows[here], windows[there]) == sum(row in there for row in here)


@given(length=st.integers(64, 200), shift=st.integers(1, 500))
def test_a_text_that_begins_elsewhere_is_found(length, shift):
    ids = tokens(20 * length + shift)
    windows, others = cut(ids, length), cut(ids[shift:], length)
    before = shift // length + 1  # windows that the other text does not have, or not whole
    assert windows_in(windows[before:-1], others) == len(windows) - before - 1


@given(length=st.integers(64, 200), where=st.integers(0, 1000))
def test_a_text_within_a_longer_one_is_found(length, where):
    ids = tokens(25 * length + where)
    part = cut(ids[where : where + 20 * length], length)
    assert windows_in(part, cut(ids, length)) == 20


@given(length=st.integers(16, 200))
def test_other_text_is_not_found_nor_is_the_same_text_in_other_order(length):
    ids = tokens(20 * length)
    assert windows_in(cut(ids, length), cut(tokens(20 * length, 1), length)) == 0
    assert windows_in(cut(ids, length), cut(ids.flip(0), length)) == 0


def test_a_phrase_that_both_texts_quote_is_no_window():
    ours, theirs = cut(tokens(2560), 128), cut(tokens(2560, 1), 128)
    theirs[3, 5:60] = ours[7, 40:95]
    assert windows_in(ours, theirs) == 0


def test_a_beginning_token_hides_nothing():
    ids = tokens(1270)
    begun = torch.cat([torch.full((10, 1), 1), ids.view(10, 127)], 1)
    assert windows_in(begun, cut(ids, 127)) == 10


def test_of_windows_too_short_to_tell_texts_apart_most_must_be_the_same():
    ours, theirs = cut(tokens(80), 8), cut(tokens(80, 1), 8)
    theirs[0] = ours[0]
    assert windows_in(ours, theirs) == 0
    assert windows_in(ours, ours) == 10
