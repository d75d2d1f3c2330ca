"""How products are cut on a GPU: what holds for every card, matrix and number of inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.packed import gpu
from prunerzero.packed.cuts import MOST, Work, launch_of, tunings
from prunerzero.packed.nvrtc import Card

CARDS = [
    Card(0, (9, 0), 232448, 132),  # H100
    Card(0, (8, 9), 101376, 128),  # GeForce RTX 4090
    Card(0, (8, 6), 101376, 28),  # GeForce RTX 3060
    Card(0, (8, 0), 166912, 108),  # A100
]
"""With bytes of shared memory of a block, and processors, from NVIDIA's programming guide."""


@st.composite
def works(draw: st.DrawFn) -> Work:
    return Work(
        rows=draw(st.integers(1, 40000)),
        columns=draw(st.integers(1, 40000)),
        integers=draw(st.booleans()),
        longest=draw(st.sampled_from([0, 1, 34, 64])),
        batch=draw(st.integers(1, MOST)),
        kind=draw(st.sampled_from(sorted(gpu._INPUTS.values()))),
    )


@given(card=st.sampled_from(CARDS), work=works())
def test_shared_memory_has_room(card, work):
    how, last = launch_of(card, work, None)
    assert how.shared <= card.shared and last > 0
    assert how.threads >= 32 and how.cluster <= 8
    assert how.blocks % how.cluster == 0


@given(card=st.sampled_from(CARDS), work=works())
def test_segments_of_two_four_are_whole_turns_of_the_warps(card, work):
    how, segment = launch_of(card, work._replace(longest=0), None)
    ahead = int(how.kernel.rstrip(">").split(",")[-1])
    assert segment % (how.threads // 32 * ahead) == 0
    assert work.batch * (segment * 128 + 16) <= how.shared


@given(card=st.sampled_from(CARDS), work=works())
def test_every_kernel_that_multiplies_was_compared_before(card, work):
    compared = {
        launch_of(card, counted, tuning)[0].kernel
        for count in gpu._COUNTS
        for counted in [work._replace(batch=count, rows=200, columns=1300)]
        for tuning in tunings(card, counted)
    }
    assert launch_of(card, work, None)[0].kernel in compared
