"""How products are cut on a GPU: what holds for every card, matrix and number of inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.packed import gpu
from prunerzero.packed.cuts import MOST, TABLE, Tuning, Work, launch_of, tunings
from prunerzero.packed.device_order import JOB_INPUTS, JOB_ROWS, TILE, UNIT
from prunerzero.packed.nvrtc import Card

CARDS = [
    Card(0, (9, 0), 232448, 132),  # H100
    Card(0, (12, 0), 101376, 170),  # GeForce RTX 5090
    Card(0, (8, 9), 101376, 128),  # GeForce RTX 4090
    Card(0, (8, 6), 101376, 28),  # GeForce RTX 3060
    Card(0, (8, 0), 166912, 108),  # A100
]
"""With bytes of shared memory of a block, and processors, from NVIDIA's programming guide."""


@st.composite
def works(draw: st.DrawFn) -> Work:
    return Work(
        rows=draw(st.integers(1, 40000)),
        columns=draw(st.integers(1, 600) | st.integers(1, 40000)),
        integers=draw(st.booleans()),
        longest=draw(st.sampled_from([0, 1, 34, 64])),
        batch=draw(st.integers(1, MOST)),
        kind=draw(st.sampled_from(sorted(gpu._INPUTS.values()))),
    )


TUNINGS = st.none() | st.builds(
    Tuning,
    tall=st.sampled_from([1, 2, 4]),
    warps=st.integers(1, 32),
    ahead=st.sampled_from([1, 2]),
    cluster=st.integers(1, 8),
)
"""The rule's, or any other."""


def template(kernel: str) -> list[str]:
    return kernel[kernel.index("<") + 1 : -1].split(",")


@given(card=st.sampled_from(CARDS), work=works(), cut=TUNINGS)
def test_blocks_cover_the_rows_and_are_no_more_than_a_card_takes(card, work, cut):
    how, _ = launch_of(card, work, cut)
    high = JOB_ROWS if work.longest else TILE * int(template(how.kernel)[2])
    assert how.shared <= card.shared
    assert 32 <= how.threads <= 1024 and 1 <= how.cluster <= (8 if card.overlaps else 1)
    assert how.blocks == -(-work.rows // high) * how.cluster


@given(card=st.sampled_from(CARDS), work=works(), cut=TUNINGS)
def test_two_four_has_room_for_its_inputs_and_then_for_the_sums(card, work, cut):
    work = work._replace(longest=0)
    how, segment = launch_of(card, work, cut)
    _, _, tall, _, warps, ahead = template(how.kernel)
    used = how.threads // 32
    assert used <= int(warps)
    assert segment > 0 and segment % (used * int(ahead)) == 0, "whole turns of the warps"
    assert how.shared <= card.shared
    assert how.shared >= work.batch * (segment * UNIT * 2 + 16), "a line of each vector"
    assert how.shared >= used * work.batch * int(tall) * TILE * 4, "a sum of each row"


@given(card=st.sampled_from(CARDS), work=works(), cut=TUNINGS)
def test_streams_has_room_for_a_job_of_each_warp_its_inputs_and_then_for_the_sums(card, work, cut):
    work = work._replace(longest=work.longest or 20)
    how, room = launch_of(card, work, cut)
    used = how.threads // 32
    assert used <= int(template(how.kernel)[3])
    line = JOB_INPUTS * 2 + 16
    assert how.shared == TABLE + used * (room + work.batch * line)
    mask, places = JOB_ROWS * JOB_INPUTS // 8, 32 * (4 if work.integers else 2)
    assert room >= mask + places + work.longest * 128 + 256, "and what is read beyond the words"
    assert room % 16 == 0, "copied by 16 bytes"
    assert room + work.batch * line >= work.batch * JOB_ROWS * 4


@given(card=st.sampled_from(CARDS), work=works())
def test_whatever_multiplies_was_compared_before(card, work):
    rows, columns = gpu._SMALL

    def what(work: Work, cut: object) -> tuple[str, int]:
        how, _ = launch_of(card, work, cut)
        return how.kernel, how.cluster

    compared = {
        what(counted, tuning)
        for count in gpu._COUNTS
        for counted in [work._replace(batch=count, rows=rows, columns=columns)]
        for tuning in tunings(card, counted)
    }
    assert what(work._replace(columns=columns), None) in compared
