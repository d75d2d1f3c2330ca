"""Sums in the same order wherever torch can be held to it."""

import pytest
import torch

from prunerzero.pruning.deterministic import deterministically


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def test_what_has_no_order_is_refused_at_first_and_allowed_in_a_second_try():
    tries = []

    def work():
        tries.append(state())
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return "done"

    before = state()
    assert deterministically(work) == "done"
    assert tries == [(True, False), (True, True)]
    assert state() == before


def test_one_try_is_enough_where_nothing_is_refused_and_other_errors_pass():
    tries = []
    assert deterministically(lambda: tries.append(state())) is None
    assert tries == [(True, False)]
    with pytest.raises(RuntimeError, match="out of"):
        deterministically(lambda: (_ for _ in ()).throw(RuntimeError("out of memory")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gradient_of_attention_is_the_same_each_time():
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v, out = (
        torch.randn(2, 8, 2048, 64, device="cuda", generator=generator).bfloat16() for _ in range(4)
    )

    def gradients():
        parts = [t.clone().requires_grad_(True) for t in (q, k, v)]
        attention = torch.nn.functional.scaled_dot_product_attention
        attention(*parts, is_causal=True).backward(out)
        return [t.grad for t in parts]

    first = deterministically(gradients)
    for _ in range(5):
        assert all(map(torch.equal, first, deterministically(gradients)))
