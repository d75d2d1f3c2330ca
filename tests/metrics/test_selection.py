"""The fast path from metric to mask gives the masks of the plain one."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_tree, statistics

from prunerzero import score_mask
from prunerzero.metrics import (
    Expression,
    ScoreError,
    Sparsity,
    prune_mask,
    selection,
)

SPARSITIES = [
    Sparsity(0.5), Sparsity(0.3), Sparsity(0.0), Sparsity(0.5, group="layer"),
    *map(Sparsity.parse, ("2:4", "4:8", "1:16")),
]  # fmt: skip


def reference(e: Expression, sparsity: Sparsity, values: dict) -> torch.Tensor | str:
    try:
        return prune_mask(e.score(**values), sparsity)
    except ScoreError as error:
        return str(error)


def found(e: Expression, sparsity: Sparsity, values: dict) -> torch.Tensor | str:
    try:
        return score_mask(e, sparsity, **values)
    except ScoreError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPARSITIES), st.sampled_from([16, 48, 400]))
def test_blocks_of_rows_give_the_same_masks_to_the_bit(seed, sparsity, block):
    e = random_tree(random.Random(seed), 4)
    values = {name: v.float() for name, v in statistics(seed % 7, (23, 16)).items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_BLOCK", block)
        ours, theirs = found(e, sparsity, values), reference(e, sparsity, values)
    assert ours == theirs if isinstance(theirs, str) else torch.equal(ours, theirs)
