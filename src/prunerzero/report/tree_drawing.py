"""An expression tree as an inline SVG.

Leaves are spread evenly, a parent stands over the middle of its children, and every level has its
own line. The tree grows downwards unless it is wide, then it grows to the right: whichever is
narrower, because a phone has more height than width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from prunerzero.metrics.operators import OPERATORS, TERMINALS

_SIGNS = {"-": "−", "*": "×", "/": "÷", "**": "^"}
"""Signs as they are printed, for those of the notation."""

_SYMBOLS = {
    o.name: _SIGNS.get(o.infix, o.infix) for o in OPERATORS.values() if o.infix and o.arity == 2
}
_LONGEST_LABEL = 12
_NODE_HEIGHT = 30.0
_LEVEL_GAP = 22.0
_LEAF_GAP = 10.0
_MARGIN = 6.0
# Up to here a tree that grows downwards stays readable when a phone shrinks it.
_COMFORTABLE_WIDTH = 480.0


@dataclass(frozen=True)
class _Node:
    name: str
    label: str
    children: tuple["_Node", ...]
    place: float
    """Across the tree, in units of leaves."""
    level: int

    @property
    def width(self) -> float:
        return max(32.0, 7.8 * len(self.label) + 16.0)

    def walk(self) -> Iterator["_Node"]:
        yield self
        for child in self.children:
            yield from child.walk()


def draw_tree(tree: dict[str, Any], description: str) -> str:
    """SVG of a tree in the published JSON notation; ``description`` is read to the blind."""
    root, leaves = _placed(tree, level=0, leaves_before=0)
    nodes = list(root.walk())
    level_widths: dict[int, float] = {}
    for node in nodes:
        level_widths[node.level] = max(node.width, level_widths.get(node.level, 0.0))
    starts = [0.0]
    for level in range(len(level_widths)):
        starts.append(starts[-1] + level_widths[level] + _LEVEL_GAP)

    downwards_width = leaves * (max(level_widths.values()) + _LEAF_GAP)
    sideways_width = starts[-1] - _LEVEL_GAP
    downwards = downwards_width <= max(_COMFORTABLE_WIDTH, sideways_width)
    if downwards:
        across, along = downwards_width / leaves, _NODE_HEIGHT + _LEVEL_GAP
        width, height = downwards_width, len(level_widths) * along - _LEVEL_GAP
    else:
        across = _NODE_HEIGHT + _LEAF_GAP
        width, height = sideways_width, leaves * across

    def position(node: _Node) -> tuple[float, float]:
        place = (node.place + 0.5) * across
        if downwards:
            return place, node.level * along + _NODE_HEIGHT / 2
        return starts[node.level] + level_widths[node.level] / 2, place

    edges = [
        _edge(position(node), position(child), downwards)
        for node in nodes
        for child in node.children
    ]
    boxes = [_box(node, *position(node)) for node in nodes]
    return (
        f'<svg class="tree" role="img" aria-label="{escape(description)}"'
        f' viewBox="{-_MARGIN:g} {-_MARGIN:g} {width + 2 * _MARGIN:.1f} {height + 2 * _MARGIN:.1f}"'
        f' style="max-width: {width + 2 * _MARGIN:.0f}px">{"".join(edges)}{"".join(boxes)}</svg>'
    )


def _placed(tree: dict[str, Any], level: int, leaves_before: int) -> tuple[_Node, int]:
    """The node with its place, and how many leaves it has."""
    children: list[_Node] = []
    leaves = 0
    for side in ("left", "right"):
        if tree.get(side) is not None:
            child, more = _placed(tree[side], level + 1, leaves_before + leaves)
            children.append(child)
            leaves += more
    if children:
        place = (children[0].place + children[-1].place) / 2
    else:
        place = float(leaves_before)
    name = _name(tree.get("data"))
    return _Node(name, _label(name), tuple(children), place, level), max(leaves, 1)


def _name(data: object) -> str:
    return f"{data:.4g}" if isinstance(data, float) else str(data)


def _label(name: str) -> str:
    label = _SYMBOLS.get(name, name)
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _edge(parent: tuple[float, float], child: tuple[float, float], downwards: bool) -> str:
    (x, y), (to_x, to_y) = parent, child
    if downwards:
        bend = f"{x:.1f} {(y + to_y) / 2:.1f} {to_x:.1f} {(y + to_y) / 2:.1f}"
    else:
        bend = f"{(x + to_x) / 2:.1f} {y:.1f} {(x + to_x) / 2:.1f} {to_y:.1f}"
    return f'<path class="edge" d="M{x:.1f} {y:.1f}C{bend} {to_x:.1f} {to_y:.1f}"/>'


def _box(node: _Node, x: float, y: float) -> str:
    if node.name in TERMINALS:
        kind = f"leaf {node.name.lower()}"
    else:
        kind = "operator" if node.children else "leaf constant"
    size = "symbol" if node.name in _SYMBOLS else "word"
    return (
        f'<g class="node {kind}"><title>{escape(node.name)}</title>'
        f'<rect x="{x - node.width / 2:.1f}" y="{y - _NODE_HEIGHT / 2:.1f}"'
        f' width="{node.width:.1f}" height="{_NODE_HEIGHT:g}" rx="{_NODE_HEIGHT / 2:g}"/>'
        f'<text class="{size}" x="{x:.1f}" y="{y:.1f}">{escape(node.label)}</text></g>'
    )
