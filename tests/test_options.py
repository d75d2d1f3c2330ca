"""An option is declared once: command line, YAML, Python and help say the same of it."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

import prunerzero
from prunerzero import InputError, bench, search, tune
from prunerzero.cli.commands import app
from prunerzero.language.corpora import CORPORA, Part
from prunerzero.language.source import ModelSource
from prunerzero.options import Options, option, options_of, takes, whole_number
from prunerzero.tasks.by_block import Way
from prunerzero.tasks.options import BenchOptions, SearchOptions, SearchRefitOptions, TuneOptions
from prunerzero.tasks.setup import Scope, Setup, TextOptions

COMMANDS = {
    "search": [Setup, SearchOptions, SearchRefitOptions],
    "tune": [Setup, TuneOptions],
    "prune": [Setup, Way],
    "bench": [BenchOptions],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_has_each_option_with_its_default(name):
    flags = {p.name: p for p in get_command(app).commands[name].params}  # type: ignore[attr-defined]
    for cls in COMMANDS[name]:
        for one in options_of(cls):
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            if one.name == "model":  # may be repeated, so that all but search can refuse it
                default = [default]
            assert flags[one.name].default == default
            assert flags[one.name].help


def test_every_command_prints_json_where_that_is_asked():
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert "json" in {p.name for p in command.params}, name


def test_each_option_that_takes_a_named_text_names_all_of_them():
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    helps = [p.help for command in commands for p in command.params if p.name == "dataset"]
    assert len(helps) >= 7
    for name in CORPORA:
        assert all(name in told for told in helps)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (search, SearchOptions),
        (search, SearchRefitOptions),
        (tune, TuneOptions),
        (bench, BenchOptions),
    ],
    ids=["search", "refit", "tune", "bench"],
)
def test_a_python_function_has_each_option_as_a_keyword(function, options):
    parameters = inspect.signature(function).parameters
    for one in options_of(options):
        assert parameters[one.name].default == one.default


def test_a_setup_is_where_a_model_comes_from_which_texts_and_which_layers():
    parts = [*fields(ModelSource), *fields(TextOptions), *fields(Scope)]
    assert [one.name for one in fields(Setup)] == [one.name for one in parts]
    assert Setup("m").model == "m"


def test_every_field_of_a_class_of_options_is_an_option():
    for cls in (Setup, SearchOptions, TuneOptions, Way, BenchOptions):
        assert options_of(cls) == list(fields(cls))


READERS = {
    SearchOptions: ("options",),
    TuneOptions: ("options",),
    BenchOptions: ("options",),
    Way: ("way", "self.way"),
    Setup: ("setup", "self.setup", "work.setup", "source"),
}
"""What the package calls an instance of each class of options where it works with one."""


def read_of(cls: type[Options]) -> set[str]:
    """The attributes of an instance that are read anywhere but in ``cli``, which hands them on.

    What is named by a part of the text, ``getattr(setup, f"num_{part}_samples")``, is read for all.
    """
    found: set[str] = set()
    package = Path(prunerzero.__file__).parent
    for path in set(package.rglob("*.py")) - set((package / "cli").rglob("*.py")):
        own = ("self",) if path.name == f"{cls.__name__.lower()}.py" else ()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value, name) if ast.unparse(value) in READERS[cls] + own:
                    found.add(name)
                case ast.Call(ast.Name("getattr"), [value, named, *_]):
                    pattern = ast.unparse(named).strip("f'").replace("{part}", "part")
                    if ast.unparse(value) in READERS[cls] + own:
                        found |= {
                            re.sub(r"\bpart\b|(?<=_)part(?=_)", p, pattern) for p in get_args(Part)
                        }
    return found


@pytest.mark.parametrize("cls", READERS, ids=lambda cls: cls.__name__)
def test_every_option_is_read_by_what_works_with_it(cls):
    assert {one.name for one in options_of(cls)} <= read_of(cls)


@dataclass(frozen=True)
class Budget(Options):
    evaluations: int = option(5, "At most this many.", whole_number(1))
    seed: int | None = option(None, "A seed.", whole_number())


@takes(Budget)
def run(model: str, options: Budget = Budget(), *, note: str = "") -> tuple[str, Budget, str]:
    return model, options, note


def test_keywords_and_an_instance_can_be_mixed():
    assert run("m") == ("m", Budget(), "")
    assert run("m", evaluations=2, note="n") == ("m", Budget(2), "n")
    assert run("m", Budget(2, 3), seed=4) == ("m", Budget(2, 4), "")


def test_what_is_not_an_option_is_refused():
    with pytest.raises(InputError, match="`evaluations` must be at least 1, not 0"):
        run("m", evaluations=0)
    with pytest.raises(InputError, match="`options` must be Budget, not an int"):
        run("m", 3, seed=1)
    with pytest.raises(TypeError, match="evaluation"):
        run("m", evaluation=2)
