import threading

import pytest
import torch

from prunerzero.pruning.by_block.pipeline import run_blocks

CPU = torch.device("cpu")


@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_each_window_comes_after_the_block_before_has_finished_it(devices):
    read: list[tuple[int, int]] = []
    lock = threading.Lock()

    def work(block, _device, windows):
        for window in windows:
            with lock:
                read.append((block, window))

    run_blocks(range(4), [CPU] * devices, 6, work)
    assert sorted(read) == [(block, window) for block in range(4) for window in range(6)]
    when = {step: number for number, step in enumerate(read)}
    for block in range(4):
        for window in range(6):
            if block:
                assert when[block - 1, window] < when[block, window]
            if window:
                assert when[block, window - 1] < when[block, window]


def test_blocks_are_worked_on_at_the_same_time():
    together = threading.Barrier(3, timeout=20)

    def work(block, _device, windows):
        for window in windows:
            if window == 2 - block:  # a diagonal of the table of blocks and windows
                together.wait()

    run_blocks(range(3), [CPU] * 3, 3, work)


def test_a_block_that_takes_no_windows_holds_up_no_other():
    done = []
    run_blocks([5, 1, 3], [CPU] * 2, 4, lambda block, _device, _windows: done.append(block))
    assert sorted(done) == [1, 3, 5]


@pytest.mark.parametrize("devices", [1, 3])
def test_progress_is_reported_once_for_each_block(devices):
    reports = []
    run_blocks(range(4), [CPU] * devices, 2, lambda *_: None, lambda: reports.append(1))
    assert len(reports) == 4


def test_an_error_on_one_device_stops_the_others():
    def work(block, _device, windows):
        for window in windows:
            if (block, window) == (1, 2):
                raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_blocks(range(8), [CPU] * 3, 5, work)
