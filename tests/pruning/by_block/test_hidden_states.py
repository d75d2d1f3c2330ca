import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.pruning.by_block.hidden_states import HiddenStates, MemoryBudget

CPU = torch.device("cpu")
SHAPE = torch.Size((1, 3, 4))
PLACE = 2 * 3 * 4 * 2
"""Bytes of two windows of that shape in bfloat16."""


def states(folder, budget, kept=2):
    return HiddenStates(
        2, SHAPE, torch.bfloat16, kept=kept, budget=budget, folder=folder, name="states"
    )


@given(room=st.integers(0, 4 * PLACE), seed=st.integers(0, 99))
def test_what_was_put_comes_back_wherever_it_was_kept(tmp_path_factory, room, seed):
    folder = tmp_path_factory.mktemp("states")
    torch.manual_seed(seed)
    kept = states(folder, MemoryBudget(room))
    values = torch.randn(5, 2, *SHAPE).bfloat16()
    for place in range(5):
        for window in range(2):
            kept.put(place, window, values[place, window])
        for window in range(2):
            assert torch.equal(kept.get(place, window, CPU), values[place, window])
            if place:
                assert torch.equal(kept.get(place - 1, window, CPU), values[place - 1, window])
    kept.close()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("room", "files"), [(0, 3), (PLACE, 2), (2 * PLACE + 1, 1), (99999, 0)])
def test_only_what_exceeds_the_budget_goes_to_files(tmp_path, room, files):
    kept = states(tmp_path, MemoryBudget(room), kept=3)
    for place in range(3):
        kept.put(place, 0, torch.zeros(SHAPE))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) == files * PLACE


def test_memory_that_is_freed_can_be_taken_again(tmp_path):
    budget = MemoryBudget(PLACE)
    first = states(tmp_path, budget, kept=1)
    first.put(0, 0, torch.zeros(SHAPE))
    assert not budget.take(1)
    first.close()
    assert budget.take(PLACE)


def test_changing_a_copy_leaves_the_kept_states_unchanged(tmp_path):
    kept = states(tmp_path, MemoryBudget(0))
    kept.put(0, 0, torch.ones(SHAPE))
    kept.get(0, 0, CPU).zero_()
    assert torch.equal(kept.get(0, 0, CPU), torch.ones(SHAPE, dtype=torch.bfloat16))
