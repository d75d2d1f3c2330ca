"""Errors speak of parameters in Python and of flags on the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import prunerzero
from prunerzero.cli.commands import app
from prunerzero.cli.flags import in_flags

FLAGS = {
    flag
    for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    for parameter in command.params
    for flag in parameter.opts
}
LIBRARY = [
    path
    for path in Path(prunerzero.__file__).parent.rglob("*.py")
    if "cli" not in path.parts and "report" not in path.parts
]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("`max_seq_length` must be at least 2.", "--max-seq-length must be at least 2."),
        ("pass `test=FILE`.", "pass --test FILE."),
        ("pass `texts=FILE`.", "pass --text FILE."),
        ('pass `dataset="wikitext2"`.', "pass --dataset wikitext2."),
        ("pass `allow_pickle=True`.", "pass --allow-pickle."),
        ("pass `ignore='*.gate'`.", "pass --ignore '*.gate'."),
        ('pass `metrics=["magnitude", "wanda"]`.', "pass --metrics magnitude,wanda."),
        ("a file `A.txt` is no parameter.", "a file `A.txt` is no parameter."),
    ],
)
def test_a_parameter_is_written_as_its_flag(message, told):
    assert in_flags(message) == told


def strings(path: Path) -> list[str]:
    """All that a module may say: its strings, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
    ]


def test_every_parameter_that_the_library_names_has_a_flag():
    python_alone = {"setup", "metric", "metrics", "parts", "name", "options"}
    for path in LIBRARY:
        for text in strings(path):
            for name in re.findall(r"`([a-z][a-z_]*)[=`]", text):
                flag = in_flags(f"`{name}`")
                assert flag in FLAGS or name in python_alone, (path, text)


def test_no_message_of_the_library_names_a_flag():
    """Commands that are printed or run whole are the exception."""
    commands = ("build.py", "demo.py", "repeat.py", "commands.py", "publish.py", "machine.py")
    for path in LIBRARY:
        for text in strings(path) if path.name not in commands else ():
            assert not re.search(r"(?<![\w-])--[a-z]", text), (path, text)
