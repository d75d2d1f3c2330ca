"""A pruning metric as a value: an immutable tree over weights W and statistics X, G, D."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from prunerzero.metrics import notation
from prunerzero.metrics.errors import NotationError, ScoreError
from prunerzero.metrics.notation import MAX_DEPTH
from prunerzero.metrics.operators import OPERATORS, TERMINALS, arity_of


@dataclass(frozen=True, eq=False)
class Expression:
    """A metric S(W, X, G, D): the weights with the lowest scores are pruned.

    >>> wanda = Expression.parse("W * sqrt(X)")
    >>> str(wanda), wanda.size, wanda.depth
    ('W * sqrt(X)', 4, 2)

    Attributes:
        name: an operator or terminal of the tables in ``operators``, or ``"constant"``.
        arguments: the operator's arguments, in order.
        value: the number, for a constant.

    Raises:
        NotationError: unknown name, wrong number of arguments, constant that is not finite,
            or a tree deeper than ``notation.MAX_DEPTH``.
    """

    name: str
    arguments: tuple[Expression, ...] = ()
    value: float | None = None
    size: int = field(init=False, compare=False, repr=False)
    """Number of nodes."""
    depth: int = field(init=False, compare=False, repr=False)
    """Number of edges from the root to the deepest leaf; a leaf alone has 0."""
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        value = self.value
        if self.name == "constant":
            if value is None or not math.isfinite(value) or self.arguments:
                raise NotationError(f"a constant must be one finite number, not {value}.")
            value = float(value) + 0.0  # the sum turns -0.0 into 0.0
            object.__setattr__(self, "value", value)
        elif self.name not in OPERATORS and self.name not in TERMINALS:
            raise NotationError(f"there is no operator or terminal named {self.name!r}.")
        elif len(self.arguments) != (arity := arity_of(self.name)):
            raise NotationError(
                f"{self.name!r} takes {arity} argument{'s' * (arity != 1)}, "
                f"not {len(self.arguments)}."
            )
        elif value is not None:
            raise NotationError(f"only a constant has a value, not {self.name!r}.")
        depth, size = 0, 1
        for argument in self.arguments:
            depth, size = max(depth, argument.depth + 1), size + argument.size
        if depth > MAX_DEPTH:
            raise NotationError(f"the expression is nested deeper than {MAX_DEPTH} levels.")
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "size", size)
        # the arguments keep their hashes, so that this takes no walk over the tree
        object.__setattr__(self, "_hash", hash((self.name, self.arguments, value)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expression):
            return NotImplemented
        return self._hash == other._hash and (self.name, self.value, self.arguments) == (
            other.name,
            other.value,
            other.arguments,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # the stored hash must not travel: another process hashes text differently
        return Expression, (self.name, self.arguments, self.value)

    @classmethod
    def constant(cls, value: float) -> Expression:
        """The constant ``value``."""
        return cls("constant", value=float(value))

    # Notation

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read a formula such as ``"abs(W * W) * mms(G)"``.

        ``a + b``, ``a - b``, ``a * b``, ``-a`` are ``add``, ``sub``, ``mul``, ``neg``; ``a / b`` is
        element-wise protected division (``ediv``), ``a ** b`` is ``|a|^b`` (``epow``), computed as
        exp(b·log|a|); everything else is written as a function. The published ``div(a, b)`` divides
        by the norm of ``b``.

        Raises:
            NotationError: with the position in the text.
        """
        return notation.parse(text, cls)

    def __str__(self) -> str:
        """The formula; ``Expression.parse`` reads it back to an equal expression."""
        text: str | None = self.__dict__.get("_text")
        if text is None:
            text = notation.to_text(self)
            object.__setattr__(self, "_text", text)
        return text

    @classmethod
    def from_json(cls, tree: Any) -> Expression:
        """Read the published JSON, already decoded: ``{"data": "mul", "left": …, "right": …}``.

        Raises:
            NotationError: where the tree is no tree of known operators, or is too deep.
        """
        return notation.from_json(tree, cls)

    def to_json(self) -> dict[str, Any]:
        """The published JSON; constants have their number as ``data``."""
        return notation.to_json(self)

    # Structure

    def subtrees(self) -> Iterator[tuple[tuple[int, ...], Expression]]:
        """Every node with its path (argument indices from the root), the root first."""
        yield (), self
        for index, argument in enumerate(self.arguments):
            for path, node in argument.subtrees():
                yield (index, *path), node

    def replace(self, path: tuple[int, ...], new: Expression) -> Expression:
        """This tree with the node at ``path`` exchanged for ``new``."""
        if not path:
            return new
        arguments = list(self.arguments)
        arguments[path[0]] = arguments[path[0]].replace(path[1:], new)
        return Expression(self.name, tuple(arguments))

    @cached_property
    def terminals(self) -> frozenset[str]:
        """Which of W, X, G, D the metric reads: what need not be computed can be left out."""
        if self.name in TERMINALS:
            return frozenset((self.name,))
        return frozenset().union(*(a.terminals for a in self.arguments))

    # Meaning

    def score(
        self,
        *,
        W: Tensor,
        X: Tensor | None = None,
        G: Tensor | None = None,
        D: Tensor | None = None,
    ) -> Tensor:
        """Score every weight of one layer.

        Args:
            W: weights [out, in], signed or absolute, of any float dtype and on any device.
            X: [in] or [1, in], mean over calibration sequences of the squared L2 norm of each
                input feature. Needed only if the metric reads it.
            G: [out, in], magnitude of the gradient of each weight. Needed only if read.
            D: [in] or [1, in], what the other inputs of the layer cannot replace of each; see
                ``pruning.gram.inverse_diagonal``. Needed only if read.

        Returns:
            fp32 scores [out, in]. Non-finite scores are left as they are.

        Raises:
            ScoreError: a statistic the metric reads is missing, or shapes do not fit.
        """
        values = statistics_read(self, W, X, G, D)
        values["W"] = magnitudes(W)
        scores = evaluate(self, values)
        if scores.shape != W.shape or any(scores is value for value in values.values()):
            return scores.expand(W.shape).clone()  # the caller's own, whatever it does to it
        return scores


def evaluate(expression: Expression, values: Mapping[str, Tensor]) -> Tensor:
    """The value of the expression, [out, in] or what broadcasts to it.

    ``values`` holds W [out, in] and the other terminals the expression reads, all of one dtype and
    device. A subtree that stands twice is computed once; the value of any other is let go as soon
    as it is used.
    """
    return _value(expression, values, _repeated(expression), {})


def _value(
    node: Expression,
    values: Mapping[str, Tensor],
    repeated: frozenset[Expression],
    known: dict[Expression, Tensor],
) -> Tensor:
    # no closure: one that calls itself keeps what it holds until the garbage collector comes by
    if node.value is not None:
        return values["W"].new_tensor(node.value)
    if not node.arguments:
        return values[node.name]
    if node in known:
        return known[node]
    arguments = [_value(a, values, repeated, known) for a in node.arguments]
    value = OPERATORS[node.name].function(*arguments)
    if node in repeated:
        known[node] = value
    return value


@lru_cache(maxsize=8)  # one expression is evaluated on layer after layer
def _repeated(expression: Expression) -> frozenset[Expression]:
    """The subtrees that stand in it more than once."""
    counts = Counter(node for _, node in expression.subtrees() if node.arguments)
    return frozenset(node for node, count in counts.items() if count > 1)


def magnitudes(W: Tensor) -> Tensor:
    """What the terminal W stands for: absolute weights in fp32."""
    return W.detach().to(torch.float32).abs()


def statistics_read(
    expression: Expression,
    W: Tensor,
    X: Tensor | None,
    G: Tensor | None,
    D: Tensor | None = None,
) -> dict[str, Tensor]:
    """X and D [1, in] and G [out, in] where the metric reads them, in fp32 on W's device.

    Raises:
        ScoreError: one it reads is missing, or shapes do not fit.
    """
    for name, tensor in (("W", W), ("X", X), ("G", G), ("D", D)):
        if not isinstance(tensor, Tensor) and (name == "W" or tensor is not None):
            raise ScoreError(f"{name} must be a torch tensor.")
    if W.dim() != 2:
        raise ScoreError(f"W must be a matrix [out, in], not of shape {list(W.shape)}.")
    values = {}
    for name, row, meaning in (
        ("X", X, "the activation norms X"),
        ("D", D, "what other inputs cannot replace, D"),
    ):
        if name not in expression.terminals:
            continue
        if row is None:
            raise ScoreError(f"the metric reads {meaning}, but none were given.")
        if tuple(row.shape) not in ((W.shape[1],), (1, W.shape[1])):
            raise ScoreError(
                f"{name} must have one entry for each of {W.shape[1]} inputs, "
                f"not {list(row.shape)}."
            )
        values[name] = row.detach().to(W.device, torch.float32).reshape(1, -1)
    if "G" in expression.terminals:
        if G is None:
            raise ScoreError("the metric reads the gradients G, but none were given.")
        if G.shape != W.shape:
            raise ScoreError(f"G must have the shape of W, {list(W.shape)}, not {list(G.shape)}.")
        values["G"] = G.detach().to(W.device, torch.float32)
    return values
