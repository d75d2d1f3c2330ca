"""The house keeps its shape: arrows of import point one way, and none goes round in a circle.

An import counts wherever it stands, in a function or for a type checker too: a circle that is
hidden is a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import prunerzero

HOUSE = Path(prunerzero.__file__).parent

_LEAVES = {
    "arguments",
    "documents",
    "errors",
    "exponential",
    "files",
    "identity",
    "memory",
    "options",
    "tensor_file",
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "exponential": set(),
    "documents": {"errors", "files"},
    "files": {"errors"},
    "memory": {"errors", "files"},
    "identity": {"errors", "files", "memory"},
    "arguments": {"documents", "errors"},
    "tensor_file": {"errors"},
    "options": {"arguments", "errors"},
    "metrics": {"errors"},
    "scoring": {"metrics"},
    "evolution": {"errors", "exponential", "files", "identity", "metrics", "scoring"},
    "packed": _LEAVES,
    "language": {"packed", *_LEAVES},
    "pruning": {"metrics", "scoring", "language", *_LEAVES},
    "report": {"documents", "errors", "files", "metrics"},
    "bundled": set(),
    "tasks": {
        *{"metrics", "scoring", "evolution", "packed", "language", "pruning", "report"},
        *_LEAVES,
    },
    "cli": {"metrics", "evolution", "packed", "language", "report", "tasks", *_LEAVES},
    "__main__": {"cli"},
    "__init__": {"errors", "metrics", "packed", "pruning", "scoring", "tasks"},
}
"""What each room of the package may import of the others."""

KNOW_NO_MODEL = ("metrics", "scoring", "evolution")
MODEL_LIBRARIES = {"transformers", "accelerate", "datasets", "huggingface_hub", "tokenizers"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a folder's face has the folder's."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = (HOUSE.name, *path.relative_to(HOUSE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, and of what it takes from them."""
    folders = [HOUSE.name, *path.relative_to(HOUSE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def test_no_circle_of_imports() -> None:
    known = modules()
    graph = {}
    for name, path in known.items():
        names = {n if n in known else n.rpartition(".")[0] for n in imported(path)}
        # a folder's face hands names on: an import from it is no tie to the face itself
        graph[name] = {n for n in names if n in known and known[n].name != "__init__.py"} - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " → ".join(reversed(error.args[1])))


def test_each_room_imports_only_those_below_it() -> None:
    for path in modules().values():
        assert room(path) in MAY_IMPORT, f"say in MAY_IMPORT what {room(path)} may import"
        for name in imported(path):
            first, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if first == HOUSE.name and other in MAY_IMPORT:
                assert other in MAY_IMPORT[room(path)] | {room(path)}, f"{path} imports {name}"


@pytest.mark.parametrize("name", KNOW_NO_MODEL)
def test_what_makes_and_scores_metrics_knows_no_model(name: str) -> None:
    for path in (HOUSE / name).rglob("*.py"):
        libraries = {imported_name.partition(".")[0] for imported_name in imported(path)}
        assert not libraries & MODEL_LIBRARIES, path


def test_the_order_of_rooms_has_no_circle_either() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()
