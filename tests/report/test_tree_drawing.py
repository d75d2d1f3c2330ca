"""Any tree in the published notation can be drawn, and read."""

import random
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from prunerzero.report.tree_drawing import draw_tree


def random_tree(size: int, generator: random.Random) -> dict[str, Any]:
    if size == 1:
        return {"data": generator.choice(["W", "X", "G", 0.25])}
    if size == 2 or generator.random() < 0.3:
        unary = generator.choice(["sqrt", "mms", "rownorm"])
        return {"data": unary, "left": random_tree(size - 1, generator)}
    left = generator.randint(1, size - 2)
    return {
        "data": generator.choice(["mul", "add", "div"]),
        "left": random_tree(left, generator),
        "right": random_tree(size - 1 - left, generator),
    }


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    found = re.findall(r'<rect x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', svg)
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h in found]


@pytest.mark.parametrize("size", range(1, 61))
def test_every_node_is_drawn_inside_the_picture_and_none_covers_another(size):
    svg = draw_tree(random_tree(size, random.Random(size)), "a tree")
    ElementTree.fromstring(svg)
    placed = boxes(svg)
    assert len(placed) == size
    assert svg.count('class="edge"') == size - 1
    view_box = re.search(r'viewBox="(.+?) (.+?) (.+?) (.+?)"', svg)
    assert view_box is not None
    left, top, width, height = map(float, view_box.groups())
    for x, y, w, h in placed:
        assert left <= x and x + w <= left + width
        assert top <= y and y + h <= top + height
    for place, (x, y, w, h) in enumerate(placed):
        for other_x, other_y, other_w, other_h in placed[place + 1 :]:
            apart = x + w <= other_x or other_x + other_w <= x
            assert apart or y + h <= other_y or other_y + other_h <= y


def test_a_chain_of_unary_operators_grows_downwards():
    tree: dict[str, Any] = {"data": "W"}
    for _ in range(40):
        tree = {"data": "sqrt", "left": tree}
    assert len({x for x, *_ in boxes(draw_tree(tree, "a chain"))}) <= 2


def test_operators_read_as_signs_and_leaves_have_their_colour():
    svg = draw_tree({"data": "mul", "left": {"data": "W"}, "right": {"data": 0.25}}, "W * 0.25")
    assert ">×</text>" in svg and "<title>mul</title>" in svg
    assert 'class="node leaf w"' in svg and 'class="node leaf constant"' in svg
    assert ">0.25</text>" in svg


def test_hostile_names_stay_text():
    svg = draw_tree({"data": '<script>"&'}, '"><script>')
    assert "<script" not in svg
    ElementTree.fromstring(svg)
