"""The published semantics: random trees with the scores and masks they must give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunerzero.metrics import Expression, Sparsity, canonical, simplify
from prunerzero.scoring import prune_mask

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden" / "reference_trees.json"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_file(), reason=f"reference scores and masks are absent: {GOLDEN} is no file"
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def tensors(golden: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in golden["tensors"].items()}


def mask_from_hex(digits: str, shape: torch.Size) -> Tensor:
    """Row-major, most significant bit first."""
    bits = bin(int(digits, 16))[2:].zfill(shape.numel())
    return torch.tensor([bit == "1" for bit in bits]).reshape(shape)


def masks_of(case: dict[str, Any], shape: torch.Size) -> dict[str, Tensor]:
    prefix = "pruned_"
    return {
        key.removeprefix(prefix): mask_from_hex(digits, shape)
        for key, digits in case.items()
        if key.startswith(prefix)
    }


def test_scores_agree_with_the_reference(golden, tensors):
    for case in golden["cases"]:
        scores = Expression.from_json(case["tree"]).score(**tensors)[:2]
        torch.testing.assert_close(
            scores,
            torch.tensor(case["score"]),
            rtol=1e-4,
            atol=0,
            msg=lambda m, c=case: f"{c}\n{m}",
        )


def test_masks_agree_with_the_reference_exactly(golden, tensors):
    compared = 0
    for case in golden["cases"]:
        scores = Expression.from_json(case["tree"]).score(**tensors)
        for sparsity, expected in masks_of(case, scores.shape).items():
            assert torch.equal(prune_mask(scores, Sparsity.parse(sparsity)), expected), case["tree"]
            compared += 1
    assert compared > 900


@pytest.mark.parametrize("form", [simplify, canonical])
def test_simplified_trees_give_the_reference_masks(golden, tensors, form):
    for case in golden["cases"]:
        simplified = form(Expression.from_json(case["tree"]))
        scores = simplified.score(**tensors)
        for sparsity, expected in masks_of(case, scores.shape).items():
            mask = prune_mask(scores, Sparsity.parse(sparsity))
            assert torch.equal(mask, expected), f"{case['tree']} became {simplified}"


def test_trees_survive_json_and_text(golden):
    for case in golden["cases"]:
        expression = Expression.from_json(case["tree"])
        assert expression.to_json() == case["tree"]
        assert Expression.parse(str(expression)) == expression
