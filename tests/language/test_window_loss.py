import pytest
import torch
from tiny_model import tiny_model
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    masking_utils,
)

from prunerzero.language import window_loss
from prunerzero.language.perplexity import window_losses
from prunerzero.language.window_loss import WindowLoss, one_sequence_a_window, plain_head
from prunerzero.pruning.blocks import prunable_layers
from prunerzero.pruning.statistics import collect_statistics

WINDOWS = torch.randint(0, 32, (5, 20), generator=torch.Generator().manual_seed(1))

SIZES = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=0,
)


def gemma():
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5))


def granite():
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0))


def cohere():
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25))


@pytest.fixture
def few_tokens(monkeypatch):
    """So few logits at a time that every batch is read in parts."""
    monkeypatch.setattr(window_loss, "LEAST_TOKENS", 7)
    monkeypatch.setitem(window_loss._LOGITS, "cpu", 7 * 32)


@pytest.mark.parametrize("build", [tiny_model, gemma, granite, cohere])
def test_losses_are_those_of_the_models_own_logits(build, few_tokens):
    torch.manual_seed(0)
    model = build().eval()
    torch.testing.assert_close(
        WindowLoss(model)(WINDOWS), window_losses(model, WINDOWS), rtol=1e-6, atol=0
    )


def test_logits_are_made_in_parts_only_where_nothing_is_done_to_them():
    assert plain_head(tiny_model(), WINDOWS[:1]) is not None
    for build in (gemma, granite, cohere):
        torch.manual_seed(0)
        model = build().eval()
        for parameter in model.parameters():
            parameter.data.mul_(8)
        assert plain_head(model, WINDOWS[:1]) is None


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_logits_that_are_small_beside_their_cap_are_capped_all_the_same(share):
    torch.manual_seed(0)
    model = gemma().eval()
    with torch.no_grad():
        largest = model(input_ids=WINDOWS[:1]).logits.abs().max()
    model.config.final_logit_softcapping = float(largest / share)
    assert plain_head(model, WINDOWS[:1]) is None


def test_a_head_that_does_not_read_the_last_hidden_states_makes_no_parts():
    model = tiny_model()
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 32))
    model.set_output_embeddings = model.get_output_embeddings = lambda: model.lm_head[1]
    assert plain_head(model, WINDOWS[:1]) is None


def test_a_pass_over_windows_looks_at_no_values_to_tell_sequences_apart(monkeypatch):
    model = tiny_model()
    expected = WindowLoss(model)(WINDOWS)
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", pytest.fail)
    with one_sequence_a_window():
        model(input_ids=WINDOWS)
    assert masking_utils.find_packed_sequence_indices is pytest.fail
    monkeypatch.setattr(window_loss, "plain_head", lambda *_: None)
    assert torch.equal(WindowLoss(model)(WINDOWS), expected)


def test_a_large_vocabulary_is_not_read_for_a_few_tokens():
    model = tiny_model(vocab_size=1 << 17)  # logits of two tokens would fill the cache
    layers = prunable_layers(model)
    read: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[:-1].numel()))
    WindowLoss(model)(WINDOWS)
    collect_statistics(model, layers, WINDOWS[:2])
    first_loss, first_statistics = [8, 8], [8, 8]  # as plain_head looks
    assert read == [*first_loss, 64, 5 * 19 - 64, *first_statistics, 19, 19]


class Small(torch.nn.Module):
    """A model on a device on which no more than ``fits`` windows fit."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.model, self.fits, self.reads = tiny_model(), fits, []

    def forward(self, input_ids, use_cache):
        self.reads.append(len(input_ids))
        if len(input_ids) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        return self.model(input_ids=input_ids, use_cache=use_cache)


def test_a_batch_that_does_not_fit_is_read_in_halves():
    model = Small(fits=2)
    losses = WindowLoss(model)(WINDOWS)
    torch.testing.assert_close(losses, window_losses(model.model, WINDOWS), rtol=1e-6, atol=0)
    assert model.reads == [5, 3, 2, 1, 2]


def test_a_window_that_does_not_fit_is_told():
    with pytest.raises(torch.OutOfMemoryError):
        WindowLoss(Small(fits=0))(WINDOWS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_a_model_spread_over_gpus_gives_the_same_losses():
    from accelerate import dispatch_model

    model = tiny_model()
    expected = WindowLoss(model)(WINDOWS)
    places = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1}
    places |= {"model.rotary_emb": 0, "model.norm": 1, "lm_head": 0}
    spread = dispatch_model(model, places)
    torch.testing.assert_close(WindowLoss(spread)(WINDOWS), expected, rtol=1e-5, atol=1e-5)
