"""Rows are worked on block by block, by threads of which each computes alone."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero.scoring import threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 12), st.integers(1, 100))
def test_each_row_is_worked_on_once_in_blocks_of_bounded_size(rows, width, size):
    done = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "BLOCK", size)
        threads.in_blocks(done.extend, rows, width)
    assert sorted(row for block in done for row in range(rows)[block]) == list(range(rows))
    heights = [len(range(rows)[block]) for block in done]
    assert all((height - 1) * width < 4 * size for height in heights)


def test_what_goes_wrong_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(threads, "BLOCK", 1)

    def work(blocks):
        for block in blocks:
            if block.start == 5:
                raise KeyError("row 5")

    with pytest.raises(KeyError, match="row 5"):
        threads.in_blocks(work, 8, 1)


def test_threads_compute_alone_and_leave_others_their_settings(monkeypatch):
    monkeypatch.undo()
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as other, threads._pool.__wrapped__(3) as pool:
        assert other.submit(torch.get_num_threads).result() == before
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == before
        assert other.submit(torch.get_num_threads).result() == before


def test_what_is_computed_alone_is_computed_by_one_thread_which_leaves_others_their_settings(
    monkeypatch,
):
    monkeypatch.undo()
    before = torch.get_num_threads()
    assert threads.alone(torch.get_num_threads) == 1
    assert torch.get_num_threads() == before


def test_a_process_that_is_forked_computes_with_threads_of_its_own(monkeypatch):
    assert threads.alone(lambda: 1) == 1
    context = multiprocessing.get_context("fork")
    outbox, inbox = context.Pipe()

    def work():
        inbox.send(threads.alone(lambda: 2))

    child = context.Process(target=work, daemon=True)
    child.start()
    try:
        assert outbox.poll(60) and outbox.recv() == 2
    finally:
        child.kill()
