import pytest
import torch
from tiny_model import tiny_model
from torch.nn.functional import kl_div

from prunerzero.language.divergence import remember
from prunerzero.language.perplexity import perplexity

WINDOWS = torch.randint(0, 32, (5, 12), generator=torch.Generator().manual_seed(1))
A, B = tiny_model(0), tiny_model(1)
ALL = 5 * 11
BYTES = 32 * 4
"""Of one token's logits."""


def predictions(model):
    with torch.no_grad():
        return model(input_ids=WINDOWS).logits[:, :-1].reshape(ALL, 32)


def test_it_is_the_mean_kl_divergence_over_all_predictions():
    found = perplexity(B, WINDOWS, 2, reference=remember(A, WINDOWS, 3)).divergence
    a, b = predictions(A).log_softmax(-1), predictions(B).log_softmax(-1)
    expected = kl_div(b, a, reduction="sum", log_target=True) / ALL
    assert found.kl == pytest.approx(float(expected), rel=1e-4)
    assert found.agreement == pytest.approx(float((a.argmax(-1) == b.argmax(-1)).float().mean()))
    assert found.tokens == ALL


def test_a_model_does_not_diverge_from_itself():
    found = perplexity(A, WINDOWS, reference=remember(A, WINDOWS)).divergence
    assert (found.kl, found.agreement) == (pytest.approx(0, abs=1e-6), 1)


@pytest.mark.parametrize("tokens", [1, 7, ALL, 2 * ALL])
def test_no_more_logits_are_kept_than_fit_the_memory(tokens):
    reference = remember(A, WINDOWS, 2, memory=tokens * BYTES)
    count = min(tokens, ALL)
    assert len(reference.positions) == count
    assert reference.logits.shape == (count, 32)
    spread = torch.arange(count) * ALL // count
    assert torch.equal(reference.positions, spread)
    torch.testing.assert_close(reference.logits, predictions(A)[spread])
    assert perplexity(B, WINDOWS, 3, reference=reference).divergence.tokens == count


def test_comparing_changes_no_perplexity():
    alone, compared = (perplexity(B, WINDOWS, 2, reference=r) for r in (None, remember(A, WINDOWS)))
    assert alone.divergence is None
    assert compared.losses == alone.losses


def test_another_vocabulary_cannot_be_compared():
    with pytest.raises(ValueError, match="vocabular"):
        perplexity(tiny_model(vocab_size=33), WINDOWS, reference=remember(A, WINDOWS))
