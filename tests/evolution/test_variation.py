from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution.variation import (
    Limits,
    PrimitiveSet,
    crossover,
    insert,
    mutate_node,
    mutate_subtree,
    random_tree,
    shrink,
)
from prunerzero.metrics import Expression
from prunerzero.metrics.operators import OPERATORS

TREES_OF_SEED_5 = [
    "zsn(X) * (div(G + W, X) + (G + (W + W)))",
    "exp(X) - W - sqr(-mms(G))",
    "div(G, W) - sqrt(G) + div(W + X, X) - W",
]

PUBLISHED, EXTENDED = PrimitiveSet.of("published"), PrimitiveSet.of("extended")

rngs = st.integers(0, 2**32).map(Random)
primitive_sets = st.sampled_from([PUBLISHED, EXTENDED])
limits = st.builds(Limits, depth=st.integers(0, 8), size=st.integers(1, 30))


def names(tree: Expression) -> set[str]:
    return {node.name for _, node in tree.subtrees()}


@given(rngs, primitive_sets, limits)
def test_a_random_tree_keeps_the_limits_and_reads_back(
    rng: Random, primitives: PrimitiveSet, limits: Limits
) -> None:
    tree = random_tree(rng, primitives, limits=limits)
    assert limits.allow(tree)
    assert Expression.parse(str(tree)) == tree


def test_d_is_drawn_by_extended_searches_alone() -> None:
    assert PUBLISHED.terminals == ("W", "X", "G")
    drawn = {name for seed in range(50) for name in names(random_tree(Random(seed), EXTENDED))}
    assert {"W", "X", "G", "D"} <= drawn


def test_a_seed_gives_the_trees_that_it_always_gave() -> None:
    rng = Random(5)
    assert [str(random_tree(rng, PUBLISHED)) for _ in range(3)] == TREES_OF_SEED_5


@given(rngs, primitive_sets)
def test_a_random_tree_has_the_depths_of_the_paper(rng: Random, primitives: PrimitiveSet) -> None:
    assert 2 <= random_tree(rng, primitives).depth <= 4


@given(rngs, primitive_sets, limits)
def test_every_variation_of_a_tree_within_the_limits_keeps_them(
    rng: Random, primitives: PrimitiveSet, limits: Limits
) -> None:
    a, b = (random_tree(rng, primitives, max_depth=6, limits=limits) for _ in range(2))
    for tree in (
        crossover(rng, a, b, limits),
        mutate_node(rng, a, primitives),
        mutate_subtree(rng, a, primitives, limits),
        insert(rng, a, primitives, limits),
        shrink(rng, a),
    ):
        assert limits.allow(tree)
        assert Expression.parse(str(tree)) == tree


@given(rngs, primitive_sets)
def test_crossover_exchanges_one_subtree_for_one_of_the_other_parent(
    rng: Random, primitives: PrimitiveSet
) -> None:
    a, b = random_tree(rng, primitives), random_tree(rng, primitives)
    child = crossover(rng, a, b, Limits())
    donors = [donor for _, donor in b.subtrees()]
    assert any(child == a.replace(path, donor) for path, _ in a.subtrees() for donor in donors)


@given(rngs, primitive_sets)
def test_node_mutation_changes_exactly_one_node(rng: Random, primitives: PrimitiveSet) -> None:
    before = random_tree(rng, primitives)
    after = mutate_node(rng, before, primitives)
    pairs = list(zip(before.subtrees(), after.subtrees(), strict=True))
    assert [path for (path, _), _ in pairs] == [path for _, (path, _) in pairs]
    changed = [(a, b) for (_, a), (_, b) in pairs if (a.name, a.value) != (b.name, b.value)]
    assert len(changed) <= 1
    if not changed:  # only a constant may be drawn as it was
        assert any(node.value is not None for _, node in before.subtrees())


@given(rngs, primitive_sets)
def test_subtree_mutation_changes_one_subtree(rng: Random, primitives: PrimitiveSet) -> None:
    before = random_tree(rng, primitives)
    after = mutate_subtree(rng, before, primitives, Limits())
    there = dict(after.subtrees())
    assert any(
        path in there and before.replace(path, there[path]) == after
        for path, _ in before.subtrees()
    )


@given(rngs, primitive_sets)
def test_insertion_keeps_the_tree_and_shrinking_only_takes_away(
    rng: Random, primitives: PrimitiveSet
) -> None:
    tree = random_tree(rng, primitives)
    grown = insert(rng, tree, primitives, Limits())
    assert grown == tree or any(
        grown.replace(path, argument) == tree
        for path, node in grown.subtrees()
        for argument in node.arguments
    )
    assert shrink(rng, tree).size < tree.size


@given(rngs)
def test_a_leaf_cannot_be_shrunk(rng: Random) -> None:
    assert shrink(rng, Expression("W")) == Expression("W")


@given(rngs)
def test_published_trees_hold_published_operators_only(rng: Random) -> None:
    found = names(random_tree(rng, PUBLISHED))
    assert all(name not in OPERATORS or OPERATORS[name].published for name in found)
    assert not found & {"pow", "skp", "constant"}


def test_every_other_operator_of_the_table_is_proposed_in_the_extended_set() -> None:
    assert {*EXTENDED.unary, *EXTENDED.binary} == {*OPERATORS} - {"pow", "skp"}
    assert EXTENDED.constants


def test_an_unknown_operator_set_is_refused() -> None:
    with pytest.raises(ValueError, match="'published' or 'extended', not 'all'"):
        PrimitiveSet.of("all")  # type: ignore[arg-type]
