"""Random metrics, and what they mean: an evaluator in numpy, after the tables of the method.

A tree is a terminal ("W", "X", "G"), a number, or a tuple (operator, argument …).
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

Tree = Any

UNARY = ("sqr", "pow", "neg", "abs", "log", "exp", "sqrt", "tanh", "skp", "mms", "zsn")
BINARY = ("add", "sub", "mul", "div")
EXTENDED_UNARY = ("rownorm", "colnorm")
EXTENDED_BINARY = ("ediv", "epow", "max", "min")
INFIX = {"add": "+", "sub": "-", "mul": "*", "ediv": "/", "epow": "**"}


def random_tree(random: Random, depth: int) -> Tree:
    """Of at most that depth; it need not make sense."""
    if depth == 0 or random.random() < 0.2:
        return random.choice(["W", "W", "X", "G", _number(random)])
    if random.random() < 0.45:
        return (random.choice(UNARY + EXTENDED_UNARY), random_tree(random, depth - 1))
    name = random.choice(BINARY + EXTENDED_BINARY)
    return (name, random_tree(random, depth - 1), random_tree(random, depth - 1))


def _number(random: Random) -> float:
    return random.choice([0.25, 0.5, 2.0, 3.0, -1.5, 0.001, 100.0, 0.0])


def sensible_tree(random: Random) -> Tree:
    """A metric that tells weights apart: it grows with W."""
    tree: Tree = random.choice(["W", ("sqr", "W"), ("sqrt", "W"), ("mms", "W"), ("log", "W")])
    for _ in range(random.randrange(3)):
        factor = random.choice(["X", "G", ("sqrt", "X"), ("mms", "G"), ("epow", "G", 0.25), "W"])
        ways = ["mul", "add"] if factor == "W" else ["mul", "mul", "add", "ediv"]  # W / W is 1
        tree = (random.choice(ways), tree, factor)
    if random.random() < 0.3:
        tree = (random.choice(["exp", "tanh", "zsn", "mms", "rownorm"]), tree)
    return tree


def text_of(tree: Tree, random: Random | None = None) -> str:
    """With every parenthesis, and spaces here and there."""
    space = " " * (random.randrange(3) if random else 1)
    if isinstance(tree, str):
        return tree
    if isinstance(tree, float):
        return f"({tree!r})" if tree < 0 else repr(tree)
    name, *arguments = tree
    written = [text_of(argument, random) for argument in arguments]
    if name in INFIX:
        return f"({written[0]}{space}{INFIX[name]}{space}{written[1]})"
    return f"{name}({space}{f',{space}'.join(written)}{space})"


def json_of(tree: Tree) -> dict[str, Any]:
    """The published notation."""
    if isinstance(tree, str | float):
        return {"data": tree}
    name, *arguments = tree
    sides = ("left", "right")
    return {"data": name, **{s: json_of(a) for s, a in zip(sides, arguments, strict=False)}}


def terminals(tree: Tree) -> set[str]:
    if isinstance(tree, str):
        return {tree}
    return set() if isinstance(tree, float) else set().union(*map(terminals, tree[1:]))


def evaluate(tree: Tree, values: dict[str, Any], dtype: Any = np.float64) -> Any:
    """Scores [out, in]: W and G [out, in], X [1, in]."""
    given = {name: np.asarray(value, dtype) for name, value in values.items()}
    with np.errstate(all="ignore"):
        scores = np.asarray(_value(tree, given, dtype), dtype)
    return np.broadcast_to(scores, given["W"].shape)


def _value(tree: Tree, given: dict[str, Any], dtype: Any) -> Any:
    if isinstance(tree, str):
        return given[tree]
    if isinstance(tree, float):
        return dtype(tree)
    name, *arguments = tree
    x, *more = (_value(argument, given, dtype) for argument in arguments)
    y = more[0] if more else None
    match name:
        case "sqr" | "pow":
            return x * x
        case "neg":
            return -x
        case "abs":
            return np.abs(x)
        case "log":
            return np.log(np.abs(x) + dtype(0.001))
        case "exp":
            return np.exp(np.minimum(x, dtype(100)))
        case "sqrt":
            return np.sqrt(np.abs(x))
        case "tanh":
            return np.tanh(x)
        case "skp":
            return x
        case "mms":
            return (x - np.min(x)) / (np.max(x) - np.min(x))
        case "zsn":
            return (x - np.mean(x)) / np.std(x, ddof=1) if np.size(x) > 1 else x * dtype(np.nan)
        case "add":
            return x + y
        case "sub":
            return x - y
        case "mul":
            return x * y
        case "div":
            x, y = np.broadcast_arrays(x, y)
            return x / np.sqrt(np.sum(np.square(y)))
        case "ediv":
            least = np.where(y < 0, dtype(-1e-12), dtype(1e-12))
            return x / np.where(np.abs(y) < 1e-12, least, y)
        case "epow":
            return np.power(np.abs(x), y)
        case "max":
            return np.maximum(x, y)
        case "min":
            return np.minimum(x, y)
        case "rownorm" | "colnorm":
            axis = -1 if name == "rownorm" else -2
            total = np.abs(x) if np.ndim(x) == 0 else np.abs(x).sum(axis, keepdims=True)
            return x / np.where(total == 0, dtype(1), total)
    raise AssertionError(name)


def scrambled(text: str, random: Random) -> str:
    """The text with some characters lost, doubled, swapped, or others in between."""
    characters = list(text)
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(characters) + 1)
        match random.randrange(4):
            case 0:
                del characters[place : place + random.randrange(1, 4)]
            case 1:
                characters[place:place] = characters[place : place + 3]
            case 2:
                characters[place:place] = random.choice(
                    [
                        "(",
                        ")",
                        ",",
                        "*",
                        "**",
                        "-",
                        "1e999",
                        "½",
                        "√",
                        "\0",
                        "\n",
                        "Y",
                        "'",
                        "[/]",
                        "1_0",
                    ]
                )
            case _:
                random.shuffle(characters[place : place + 5])
    return "".join(characters)
