"""On a GPU: replaying a forward pass gives the bits of calling it."""

import math
import warnings

import pytest
import torch
from tiny_model import tiny_model

from prunerzero.language.replayed import Replayed
from prunerzero.language.window_loss import WindowLoss

if not torch.cuda.is_available():
    warnings.warn("no GPU here: CUDA graphs are not tested", stacklevel=1)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def windows(seed, count=4):
    return torch.randint(0, 32, (count, 256), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_losses_are_replayed_to_the_bit_and_follow_the_weights(dtype):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 256}
    model = tiny_model(**sizes).to(dtype).cuda()
    usual, replayed = WindowLoss(model), WindowLoss(model)
    usual._read = usual._losses
    replayed._read = Replayed(replayed._losses, worth=math.inf)
    for call in range(40):
        given = windows(call, count=2 + call % 2)
        assert torch.equal(replayed(given), usual(given))
        model.get_parameter("model.layers.0.mlp.up_proj.weight")[call % 8] = 0
    # in float32, kernels may be others while they are recorded: then nothing is replayed
    assert not replayed._read._refused


def test_many_small_kernels_are_replayed():
    def many(ids):
        x = ids.float()
        for _ in range(50):
            x = x * 0.5 + 1
        return x

    function = Replayed(many, worth=math.inf)
    for call in range(20):
        ids = windows(call, count=2 + call % 2).cuda()
        assert torch.equal(function(ids), many(ids))
    assert len(function._replays) == 2


def test_what_looks_at_values_is_called_as_ever():
    def looks(ids):
        return ids.float() * 2 if ids.max().item() > 3 else ids.float()

    function = Replayed(looks)
    for call in range(12):
        ids = windows(call).cuda() % (3 + call)
        assert torch.equal(function(ids), looks(ids))
    assert function._refused and not function._replays
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.randn(3, device="cuda").isfinite().all()
