"""Variation: random trees, subtree crossover and mutations. Pure functions of a random generator.

Every result keeps the limits on depth and size by construction: no tree is drawn and rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from prunerzero.metrics.expression import Expression
from prunerzero.metrics.operators import OPERATORS, PUBLISHED_TERMINALS, TERMINALS, arity_of

OperatorSet = Literal["published", "extended"]

CONSTANTS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The constants of random trees; mutation changes them to other values."""


@dataclass(frozen=True)
class Limits:
    """How large a proposed tree may be.

    Attributes:
        depth: edges from the root to the deepest leaf.
        size: nodes.
    """

    depth: int = 8
    size: int = 30

    def __post_init__(self) -> None:
        if self.depth < 0 or self.size < 1:
            raise ValueError(f"no tree fits a depth of {self.depth} and a size of {self.size}.")

    def allow(self, tree: Expression) -> bool:
        """Whether the tree keeps the limits."""
        return tree.depth <= self.depth and tree.size <= self.size


@dataclass(frozen=True)
class PrimitiveSet:
    """What trees are built from (Koza's function set and terminal set)."""

    terminals: tuple[str, ...]
    unary: tuple[str, ...]
    binary: tuple[str, ...]
    constants: tuple[float, ...] = ()

    @classmethod
    def of(cls, operators: OperatorSet) -> PrimitiveSet:
        """The published search space, or the extended one: all operators, all terminals, constants.

        Raises:
            ValueError: ``operators`` is neither "published" nor "extended".
        """
        if operators not in ("published", "extended"):
            raise ValueError(f"operators must be 'published' or 'extended', not {operators!r}.")
        usable = [
            o for o in OPERATORS.values() if (o.published or operators == "extended") and o.proposed
        ]
        return cls(
            terminals=tuple(TERMINALS) if operators == "extended" else PUBLISHED_TERMINALS,
            unary=tuple(o.name for o in usable if o.arity == 1),
            binary=tuple(o.name for o in usable if o.arity == 2),
            constants=CONSTANTS if operators == "extended" else (),
        )

    def can_write(self, tree: Expression) -> bool:
        """Whether a tree holds nothing else; constants may have any value."""
        known = {*self.terminals, *self.unary, *self.binary, "constant"}
        return {node.name for _, node in tree.subtrees()} <= known

    def of_arity(self, arity: int) -> tuple[str, ...]:
        """The names that take ``arity`` arguments."""
        return (self.terminals, self.unary, self.binary)[arity]


CONSTANT_STEPS = (0.5, 0.2, 0.1)
"""Deviations, in powers of two, of the factors by which constants are refined."""

BINARY_SHARE = 0.65
"""Share of binary operators among the functions of a random tree.

Drawing uniformly from the table would give two unary operators for each binary one, most of which
change no ranking. On 30 synthetic problems 0.5, 0.65 and 0.8 differed by less than the noise.
"""

CONSTANT_SHARE = 0.2
"""Share of constants among the leaves, where constants are allowed."""

EARLY_LEAF_SHARE = 0.3
"""Probability that a branch of a random tree ends before the greatest depth."""


def random_tree(
    rng: Random,
    primitives: PrimitiveSet,
    *,
    min_depth: int = 2,
    max_depth: int = 4,
    limits: Limits | None = None,
) -> Expression:
    """A tree by Koza's *grow* method, of a depth from ``min_depth`` to ``max_depth``.

    The paper's first trees have depths of 2 to 4 (Dong et al., ICML 2024). Where ``limits`` leave
    less room, the tree is as deep as they allow.
    """
    limits = limits or Limits()
    deepest = min(max_depth, limits.depth)
    return _grow(rng, primitives, min(min_depth, deepest), deepest, limits.size)


def _grow(rng: Random, p: PrimitiveSet, min_depth: int, max_depth: int, room: int) -> Expression:
    must_end = max_depth == 0 or room < 2
    if must_end or (min_depth <= 0 and rng.random() < EARLY_LEAF_SHARE):
        return _leaf(rng, p)
    if room >= 3 and rng.random() < BINARY_SHARE:
        name = rng.choice(p.binary)
        left = _grow(rng, p, min_depth - 1, max_depth - 1, room - 2)
        if OPERATORS[name].takes_constant:
            return Expression(name, (left, _constant(rng, p)))
        # only one argument has to reach the least depth; chance decides which
        right = _grow(rng, p, 0, max_depth - 1, room - 1 - left.size)
        return Expression(name, (left, right) if rng.random() < 0.5 else (right, left))
    return Expression(rng.choice(p.unary), (_grow(rng, p, min_depth - 1, max_depth - 1, room - 1),))


def _leaf(rng: Random, p: PrimitiveSet) -> Expression:
    if p.constants and rng.random() < CONSTANT_SHARE:
        return _constant(rng, p)
    return Expression(rng.choice(p.terminals))


def _constant(rng: Random, p: PrimitiveSet) -> Expression:
    return Expression.constant(rng.choice(p.constants))


def crossover(rng: Random, a: Expression, b: Expression, limits: Limits) -> Expression:
    """Subtree crossover: replace a subtree of ``a`` by one of ``b`` that fits the limits."""
    path, node = _random_node(rng, a)
    donors = [donor for _, donor in b.subtrees() if _fits(a, path, node, donor, limits)]
    return a.replace(path, rng.choice(donors)) if donors else a


def mutate_node(rng: Random, tree: Expression, primitives: PrimitiveSet) -> Expression:
    """Replace one node by another of the same arity; a constant is mostly multiplied instead."""
    path, node = _random_node(rng, tree)
    if node.value is not None and rng.random() < 0.75:
        return tree.replace(path, _moved(rng, node.value, 1.0))
    names = [n for n in primitives.of_arity(arity_of(node.name)) if n != node.name]
    if not names:
        return tree
    return tree.replace(path, Expression(rng.choice(names), node.arguments))


def mutate_constants(rng: Random, tree: Expression) -> Expression:
    """Multiply each constant by a random factor near 1, all by steps of one random size."""
    step = rng.choice(CONSTANT_STEPS)
    for path, node in tree.subtrees():
        if node.value is not None:
            tree = tree.replace(path, _moved(rng, node.value, step))
    return tree


def _moved(rng: Random, value: float, step: float) -> Expression:
    # three significant digits keep formulas readable
    return Expression.constant(float(f"{value * 2 ** rng.gauss(0, step):.3g}"))


def mutate_subtree(
    rng: Random, tree: Expression, primitives: PrimitiveSet, limits: Limits, max_depth: int = 2
) -> Expression:
    """Replace one subtree by a new random one, at most ``max_depth`` deep."""
    path, node = _random_node(rng, tree)
    room = Limits(max(0, limits.depth - len(path)), max(1, limits.size - tree.size + node.size))
    new = random_tree(rng, primitives, min_depth=0, max_depth=max_depth, limits=room)
    return tree.replace(path, new)


def insert(rng: Random, tree: Expression, primitives: PrimitiveSet, limits: Limits) -> Expression:
    """Put one operator above a node; the second argument of a binary one is a small new tree."""
    path, node = _random_node(rng, tree)
    room = limits.size - tree.size - 1
    if len(path) + node.depth + 1 > limits.depth or room < 0:
        return tree
    if room == 0 or rng.random() >= BINARY_SHARE:
        return tree.replace(path, Expression(rng.choice(primitives.unary), (node,)))
    name = rng.choice(primitives.binary)
    if OPERATORS[name].takes_constant:
        return tree.replace(path, Expression(name, (node, _constant(rng, primitives))))
    partner = _grow(rng, primitives, 0, min(1, limits.depth - len(path) - 1), room)
    pair = (node, partner) if rng.random() < 0.5 else (partner, node)
    return tree.replace(path, Expression(name, pair))


def shrink(rng: Random, tree: Expression) -> Expression:
    """Remove one operator: put one of its arguments in its place."""
    inner = [(path, node) for path, node in tree.subtrees() if node.arguments]
    if not inner:
        return tree
    path, node = rng.choice(inner)
    return tree.replace(path, rng.choice(node.arguments))


def _random_node(rng: Random, tree: Expression) -> tuple[tuple[int, ...], Expression]:
    return rng.choice(list(tree.subtrees()))


def _fits(
    tree: Expression, path: tuple[int, ...], old: Expression, new: Expression, limits: Limits
) -> bool:
    return len(path) + new.depth <= limits.depth and tree.size - old.size + new.size <= limits.size
