"""A metric in steps has the values of the plain evaluation, in few matrices."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_tree, statistics

from prunerzero.metrics import Expression
from prunerzero.metrics.expression import evaluate
from prunerzero.scoring.steps import GRADIENTS, WEIGHTS, steps_of


def in_steps(e: Expression, values: dict, memory: list) -> torch.Tensor:
    steps = steps_of(e)
    given = {part: evaluate(part, values) for part in steps.fixed}
    given |= {WEIGHTS: values["W"], GRADIENTS: values["G"]}
    return steps.run(given, {}, memory).expand(values["W"].shape)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_steps_give_the_same_bits_whatever_was_in_memory(seed):
    e = random_tree(random.Random(seed), 5)
    values = {name: v.float() for name, v in statistics(seed % 7).items()}
    before = {name: v.clone() for name, v in values.items()}
    memory = [torch.full((12, 16), torch.nan) for _ in range(steps_of(e).matrices)]
    expected = evaluate(e, values).expand(12, 16)
    for _ in range(2):
        found = in_steps(e, values, memory)
        assert torch.equal(found.nan_to_num(7e7), expected.nan_to_num(7e7))
    assert all(torch.equal(values[name], before[name]) for name in values)


@pytest.mark.parametrize(
    ("formula", "matrices"),
    [
        ("X * 2", 0),
        ("G", 0),
        ("W", 1),
        ("sqrt(W * sqrt(X)) + G", 1),
        ("W * G + sqr(W)", 2),
        ("(W + G) * (W - G) / max(W, G)", 3),
    ],
)
def test_memory_is_used_again(formula, matrices):
    assert steps_of(Expression.parse(formula)).matrices == matrices


def test_what_stands_twice_is_computed_once():
    steps = steps_of(Expression.parse("log(W * G) + sqrt(W * G)"))
    assert [step.e.name for step in steps._steps].count("mul") == 1
