import pytest
import torch
from tiny_model import tiny_gemma, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, OpenAIGPTConfig

from prunerzero.errors import ModelError
from prunerzero.pruning.blocks import find_blocks
from prunerzero.pruning.by_block.block_calls import BlockCalls

WINDOWS = torch.randint(0, 32, (3, 1, 20), generator=torch.Generator().manual_seed(1))


def tiny_openai() -> nn.Module:
    """Its blocks return lists."""
    torch.manual_seed(0)
    config = OpenAIGPTConfig(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("make", [tiny_model, tiny_gemma, tiny_openai])
@torch.no_grad()
def test_blocks_run_one_by_one_give_the_logits_of_the_model(make):
    model = make()
    blocks = find_blocks(model)[1]
    calls = BlockCalls(model, blocks)
    for number, ids in enumerate(WINDOWS):
        hidden = calls.capture(ids)
        for index in range(len(blocks)):
            hidden = calls.run(index, number, hidden)
        with calls.resume(hidden):
            logits = model(input_ids=ids, use_cache=False).logits
        assert torch.equal(logits, model(input_ids=ids, use_cache=False).logits)


def test_local_and_global_blocks_get_their_own_arguments():
    model = tiny_gemma()
    calls = BlockCalls(model, find_blocks(model)[1])
    calls.capture(WINDOWS[0])
    local, everywhere, again, _ = (calls[0].kwargs for calls in calls._calls)
    assert not torch.equal(local["position_embeddings"][0], everywhere["position_embeddings"][0])
    assert local["position_embeddings"][0] is again["position_embeddings"][0]


def test_arguments_that_are_the_same_in_all_windows_are_kept_once():
    model = tiny_model()
    calls = BlockCalls(model, find_blocks(model)[1])
    for ids in WINDOWS:
        calls.capture(ids)
    kept = {id(call.kwargs["position_embeddings"][0]) for calls in calls._calls for call in calls}
    assert len(kept) == 1


def test_the_model_is_left_as_it_was():
    model = tiny_model()
    blocks = find_blocks(model)[1]
    calls = BlockCalls(model, blocks)
    hidden = calls.capture(WINDOWS[0])
    with calls.resume(hidden):
        pass
    assert not any("forward" in block.__dict__ for block in blocks)
    assert not any(block._forward_hooks for block in blocks)


class Between(nn.Module):
    """Halves the hidden states between its blocks, or calls each block twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.embed, self.twice = nn.Embedding(32, 4), twice
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))

    def forward(self, input_ids, use_cache):
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
            hidden = block(hidden) if self.twice else hidden / 2
        return hidden


@pytest.mark.parametrize("twice", [False, True])
def test_a_model_that_cannot_be_taken_apart_is_refused(twice):
    model = Between(twice)
    with pytest.raises(ModelError, match="block"):
        calls = BlockCalls(model, model.blocks)
        calls.capture(WINDOWS[0])
        calls.run(0, 0, torch.zeros(1, 20, 4))


def test_blocks_that_leave_something_for_later_ones_are_refused():
    class Leaving(nn.Linear):
        def forward(self, hidden, left):
            return super().forward(hidden + left.setdefault("first", hidden))

    class Model(Between):
        def forward(self, input_ids, use_cache):
            hidden, left = self.embed(input_ids), {}
            for block in self.blocks:
                hidden = block(hidden, left)
            return hidden

    model = Model(twice=False)
    model.blocks = nn.ModuleList([Leaving(4, 4), Leaving(4, 4)])
    calls = BlockCalls(model, model.blocks)
    hidden = calls.capture(WINDOWS[0])
    with pytest.raises(ModelError, match="hand on more than hidden states"):
        calls.run(0, 0, hidden)


def test_blocks_that_hand_on_more_than_hidden_states_are_refused():
    class Handing(nn.Linear):
        def forward(self, hidden, before=None):
            return super().forward(hidden if before is None else hidden + before), hidden

    class Model(Between):
        def forward(self, input_ids, use_cache):
            hidden, before = self.embed(input_ids), None
            for block in self.blocks:
                hidden, before = block(hidden, before)
            return hidden

    model = Model(twice=False)
    model.blocks = nn.ModuleList([Handing(4, 4), Handing(4, 4)])
    calls = BlockCalls(model, model.blocks)
    hidden = calls.run(0, 0, calls.capture(WINDOWS[0]))
    with pytest.raises(ModelError, match="hand on more than hidden states"):
        calls.run(1, 0, hidden)
