"""Type checkers are told of every option of a function, by its name and with its type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Unpack, get_args, get_type_hints

import pytest

import prunerzero
from prunerzero import bench, compare, pack, prune, search, tune, unpack
from prunerzero.options import Options, options_of
from prunerzero.tasks.options import (
    BenchOptions,
    FilesOptions,
    PackOptions,
    RefitOptions,
    SearchOptions,
    SearchRefitOptions,
    TuneOptions,
)

TAKES: dict[Callable[..., Any], tuple[type[Options], ...]] = {
    bench: (BenchOptions,),
    compare: (RefitOptions,),
    pack: (PackOptions,),
    prune: (RefitOptions,),
    search: (SearchOptions, SearchRefitOptions),
    tune: (TuneOptions,),
    unpack: (FilesOptions,),
}


def told(function: Callable[..., Any]) -> dict[str, Any]:
    """The keywords that a type checker reads in the signature, and their types."""
    unpacked = get_type_hints(function)["keywords"]
    assert unpacked.__origin__ is Unpack
    (keywords,) = get_args(unpacked)
    assert not keywords.__required_keys__
    return get_type_hints(keywords)


@pytest.mark.parametrize("function", TAKES, ids=lambda function: function.__name__)
def test_a_checker_is_told_of_each_option_as_it_is_declared(function):
    declared = {
        one.name: get_type_hints(cls)[one.name]
        for cls in TAKES[function]
        for one in options_of(cls)
    }
    assert told(function) == declared


@pytest.mark.parametrize("function", TAKES, ids=lambda function: function.__name__)
def test_a_call_takes_the_keywords_that_a_checker_is_told_of(function):
    own = inspect.signature(inspect.unwrap(function)).parameters
    assert {*inspect.signature(function).parameters} - {*own} == {*told(function)}


def test_every_public_function_with_options_is_held_to_them():
    public = [getattr(prunerzero, name) for name in prunerzero.__all__]
    functions = [one for one in public if inspect.isfunction(one)]
    assert {one for one in functions if hasattr(one, "__wrapped__")} == {*TAKES}
