import math

import pytest
import torch
from tiny_model import tiny_model

from prunerzero.language.perplexity import exp, perplexity, window_losses

WINDOWS = torch.randint(0, 32, (5, 12), generator=torch.Generator().manual_seed(1))


def test_a_window_loss_is_the_mean_over_the_tokens_after_the_first():
    model = tiny_model()
    with torch.no_grad():
        expected = [float(model(input_ids=w[None], labels=w[None]).loss) for w in WINDOWS]
    assert window_losses(model, WINDOWS).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_perplexity_does_not_depend_on_the_batch_size(batch_size):
    result = perplexity(tiny_model(), WINDOWS, batch_size)
    alone = perplexity(tiny_model(), WINDOWS)
    assert result.value == pytest.approx(alone.value, rel=1e-5)
    assert (result.windows, result.window_length) == (5, 12)


def test_perplexity_is_the_exponential_of_the_mean_loss():
    result = perplexity(tiny_model(), WINDOWS)
    assert result.value == pytest.approx(math.exp(sum(result.losses) / 5))


def test_progress_counts_windows():
    seen = []
    perplexity(tiny_model(), WINDOWS, 2, seen.append)
    assert seen == [2, 4, 5]


def test_an_endless_loss_is_an_infinite_perplexity():
    assert exp(1e6) == math.inf


def test_sliding_windows_count_each_token_once_with_the_longest_context():
    """The usual recipe for a fixed-length model: the tokens that overlap are context only."""
    ids = torch.randint(0, 32, (26,), generator=torch.Generator().manual_seed(2))
    length, stride, model = 8, 3, tiny_model()
    total, end = 0.0, 0
    for begin in range(0, len(ids) - length + 1, stride):
        window = ids[begin : begin + length]
        labels = window.clone()
        labels[: end - begin] = -100  # what was counted before
        counted = int((labels[1:] != -100).sum())
        with torch.no_grad():
            total += counted * float(model(input_ids=window[None], labels=labels[None]).loss)
        end = begin + length
    result = perplexity(model, ids.unfold(0, length, stride), 2, stride=stride)
    assert sum(result.tokens) == end - 1
    assert result.value == pytest.approx(math.exp(total / (end - 1)), rel=1e-5)


def test_a_stride_of_the_window_length_is_no_stride():
    plain, strided = (perplexity(tiny_model(), WINDOWS, stride=s) for s in (None, 12))
    assert strided == plain
