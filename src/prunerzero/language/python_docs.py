"""The corpus "python-docs": the documentation text that the running Python carries.

- A document is all docstrings of one public module of the standard library, in source order, or one
  topic of `pydoc_data.topics` (what `help("assert")` shows).
- Docstrings are gathered from the source by `ast`: nothing is imported, nothing is executed.
- The part a document belongs to depends on its name alone, so that it is the same on every machine
  and Python version, and only the files of the part asked for are parsed.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

__all__ = ["Part", "docstrings", "part_of", "python_documents"]

Part = Literal["training", "calibration", "validation", "test"]

# Cumulative upper bounds of the share of names that falls to each part.
_BOUNDS: tuple[tuple[Part, float], ...] = (
    ("training", 0.55),
    ("calibration", 0.65),
    ("validation", 0.85),
    ("test", 1.0),
)

# Tests, whole applications, and packages that not every supported Python has.
_SKIPPED_FOLDERS = frozenset(
    {
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
# Over a hundred generated modules whose docstrings differ in one word.
_SKIPPED_PACKAGES = frozenset({"encodings"})


@functools.cache
def python_documents(part: Part) -> tuple[str, ...]:
    """The documents of one part, sorted by name: first the modules, then the topics.

    Parsing the library takes half a second, so each part is read once in a process.

    >>> documents = python_documents("validation")
    """
    if part not in (name for name, _ in _BOUNDS):
        raise ValueError(f"no part {part!r} of the Python documentation")
    modules = sorted(item for item in _modules() if part_of(item[0]) == part)
    documents = ["\n\n".join(docstrings(path.read_bytes())) for _, path in modules]
    documents += [text for name, text in _topics() if part_of(name) == part]
    return tuple(document for document in documents if document)


def part_of(name: str) -> Part:
    """The part to which the module or topic of this name belongs.

    >>> part_of("argparse") in ("training", "calibration", "validation", "test")
    True
    """
    digest = hashlib.sha256(name.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return next(part for part, bound in _BOUNDS if position < bound)


def docstrings(source: bytes) -> list[str]:
    """The docstrings of the module, its classes and functions, in source order.

    >>> docstrings(b'def f():\\n    "Do it."')
    ['Do it.']
    """
    return [inspect.cleandoc(text) for text in _raw_docstrings(ast.parse(source))]


def _raw_docstrings(node: ast.AST) -> Iterator[str]:
    # Statements only: walking every expression too would cost several times as much.
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text and text.strip():
            yield text
    for field in ("body", "handlers", "orelse", "finalbody"):
        children = getattr(node, field, None)
        if isinstance(children, list):
            for child in children:
                yield from _raw_docstrings(child)


def _modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and source file of each public module of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if _is_kept_folder(name)]
        for file in files:
            stem, suffix = os.path.splitext(file)
            # Where a module is written in C, its documentation is that of its Python
            # implementation: `_pydecimal` for `decimal`.
            name = stem.removeprefix("_py")
            if suffix != ".py" or (name.startswith("_") and name != "__init__"):
                continue
            path = Path(folder, file)
            packages = path.relative_to(root).parts[:-1]
            dotted = ".".join(packages if name == "__init__" else (*packages, name))
            yield dotted, path


def _is_kept_folder(name: str) -> bool:
    # Packages alone: not `config-3.12-x86_64-linux-gnu`, `__pycache__` or `_vendor`.
    return (
        name.isidentifier()
        and not name.startswith("_")
        and name not in _SKIPPED_FOLDERS
        and name not in _SKIPPED_PACKAGES
    )


def _topics() -> Iterator[tuple[str, str]]:
    """Name and text of each topic that the interactive help explains."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions leave it out
        return
    # Topics quote one another at length: a paragraph stays only in the first that has it, or the
    # parts would share text.
    seen: set[str] = set()
    for name in sorted(topics):
        paragraphs = inspect.cleandoc(topics[name]).split("\n\n")
        yield name, "\n\n".join(text for text in paragraphs if text not in seen)
        seen.update(paragraphs)
