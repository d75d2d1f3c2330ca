"""What is recorded in CUDA graphs is the work of the plain loop, and is compared before it counts.

Without a GPU, replaying a graph stands for doing its work again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_model import tiny_gemma, tiny_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from prunerzero.errors import ModelError
from prunerzero.tasks.benching import graphs
from prunerzero.tasks.benching.in_torch import TorchModel

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    warnings.warn("no GPU here: CUDA graphs are not tested", stacklevel=1)
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture(autouse=True)
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setattr(graphs, "recorded", lambda work, device: work)


def tiny_gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def prompts(count: int, length: int) -> Tensor:
    """Token ids; the same on each device, so that what a model writes after them is, too."""
    ids = torch.randint(2, 30, (count, length), generator=torch.Generator().manual_seed(1))
    return ids.to(DEVICE)


@torch.inference_mode()
def written(model: Any, ids: Tensor, count: int) -> Tensor:
    """The tokens that follow, without a cache."""
    length = ids.shape[1]
    for _ in range(count):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[:, length:]


@pytest.mark.parametrize("make", [tiny_model, tiny_gpt2])
@pytest.mark.parametrize("count", [1, 3])
def test_steps_write_what_the_model_writes_without_a_cache(make, count):
    model, ids = make().to(DEVICE), prompts(count, 11)
    expected = written(model, ids, 9)
    with torch.inference_mode():
        steps = graphs.Steps(model, ids, 8)
        for _ in range(2):  # from the beginning again
            found = graphs.aside(lambda: steps.tokens_of(steps.step, 8), DEVICE)
            assert torch.equal(found, expected[:, 1:])
        steps.begin()
        replay = graphs.recorded(steps.step, DEVICE)
        assert torch.equal(steps.tokens_of(replay, 8), expected[:, 1:])


def test_a_sliding_window_that_is_long_enough_is_no_hindrance():
    model = tiny_gemma().to(DEVICE)
    with torch.inference_mode():
        expected = written(model, prompts(2, 3), 4)[:, 1:]
        steps = graphs.Steps(model, prompts(2, 3), 3)
        found = graphs.aside(lambda: steps.tokens_of(steps.step, 3), DEVICE)
        assert torch.equal(found, expected)
        replay = graphs.recorded(steps.step, DEVICE)
        assert torch.equal(steps.tokens_of(replay, 3), expected)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (tiny_gemma, "StaticSlidingWindowLayer"),
        (
            lambda: MambaForCausalLM(
                MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2)
            ),
            "places of tokens",
        ),
    ],
)
def test_a_model_that_cannot_be_recorded_is_refused(make, layer):
    with torch.inference_mode(), pytest.raises(ModelError, match=layer):
        graphs.Steps(make().to(DEVICE), prompts(1, 7), 4)


def forgetful(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A recording that replays nothing."""
    return lambda: None


def test_graphs_that_find_other_tokens_have_no_speed(monkeypatch):
    model, ids = TorchModel("tiny", tiny_model().to(DEVICE), ()), prompts(2, 11).cpu().numpy()
    assert model.decode_in_graphs(ids, 8) > 0 and model.prefill_in_graph(ids[0]) > 0
    monkeypatch.setattr(graphs, "recorded", forgetful)
    with pytest.raises(ModelError, match="other tokens"):
        model.decode_in_graphs(ids, 8)
    with pytest.raises(ModelError, match="other logits"):
        model.prefill_in_graph(ids[0])


def test_tensors_that_are_shared_take_their_bytes_once():
    model = tiny_model()  # its head is its embedding
    tensors = [*model.parameters(), *model.buffers()]
    assert TorchModel("tiny", model, ()).tensor_bytes() == sum(t.nbytes for t in tensors)
