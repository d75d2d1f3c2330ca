"""An operator from outside is checked when it is registered, and known everywhere after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from installed_command import Installed
from plug_in import PLUGIN
from torch import Tensor

from prunerzero import Expression, Sparsity, register_operator, score_mask
from prunerzero.evolution.variation import PrimitiveSet
from prunerzero.metrics import canonical, simplify
from prunerzero.metrics.errors import OperatorError
from prunerzero.metrics.explain import in_words
from prunerzero.metrics.operators import OPERATORS
from prunerzero.scoring import prune_mask
from prunerzero.scoring.program import compiled


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """The table of operators is as it was, afterwards."""
    before = dict(OPERATORS)
    yield
    OPERATORS.clear()
    OPERATORS.update(before)


def soft_row(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=-1)


def share_of_column(x: Tensor) -> Tensor:
    return x.clone() if x.dim() < 2 else x / (1 + x.abs().sum(dim=0, keepdim=True))


def register(name: str = "op", function: Any = torch.sigmoid, **fields: Any) -> None:
    register_operator(name, function, **{"meaning": "the op of {0}", **fields})


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "W": torch.randn(700, 512, generator=generator),
        "X": torch.rand(512, generator=generator),
        "G": torch.rand(700, 512, generator=generator),
    }


def test_it_is_read_written_and_explained() -> None:
    register("softrow", soft_row, reads="row", meaning="the softmax of {0}", meaning_ja="{0}の値")
    e = Expression.parse("W * softrow(G + X)")
    assert str(e) == "W * softrow(G + X)"
    assert Expression.from_json(json.loads(json.dumps(e.to_json()))) == e
    assert "the softmax of (the magnitude" in in_words(e)
    assert "の値" in in_words(e, "ja")


@pytest.mark.parametrize(
    ("function", "reads"),
    [(torch.sigmoid, None), (soft_row, "row"), (share_of_column, "column")],
    ids=["each weight", "row", "column"],
)
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_it_is_scored_in_blocks_as_in_one_piece(tensors, function, reads, sparsity) -> None:
    name = f"op_{reads or 'weight'}".lower()  # expressions are remembered by their names
    register(name, function, reads=reads)
    e = Expression.parse(f"W * {name}(W * G) + {name}(X) * W")
    amount = Sparsity.parse(sparsity)
    whole = prune_mask(e.score(**tensors), amount)
    assert torch.equal(score_mask(e, amount, **tensors), whole)


def test_no_kernel_is_asked_for_it() -> None:
    register()
    assert compiled(Expression.parse("W * op(G)")) is None
    assert compiled(Expression.parse("W * op(X)")) is not None  # a row is computed before


def test_evolution_proposes_it_among_the_extended_operators() -> None:
    register()
    assert "op" in PrimitiveSet.of("extended").unary
    assert "op" not in PrimitiveSet.of("published").unary


def test_simplification_uses_what_is_declared_and_leaves_alone_what_is_not() -> None:
    register("rising", torch.sigmoid, order="increasing")
    register("mirrored", torch.cos, parity="even")
    register("turned", torch.sin, parity="odd")
    register("any", lambda x: torch.sin(x + 1))
    assert str(simplify(Expression.parse("rising(W * G)"))) == "W * G"
    assert str(simplify(Expression.parse("W + mirrored(-G)"))) == "W + mirrored(G)"
    assert str(canonical(Expression.parse("W - turned(-G)"))) == "W + turned(G)"
    for text in ("W + any(-G)", "any(W)"):
        assert str(simplify(Expression.parse(text))) == text


REFUSED = {
    "a taken name": ({"name": "sqrt"}, "there is an operator 'sqrt' already"),
    "a terminal": ({"name": "W"}, "small letters"),
    "a name that cannot be written": ({"name": "my op"}, "small letters"),
    "three arguments": ({"arity": 3}, "1 or 2 arguments"),
    "a meaning without its argument": ({"meaning": "an op"}, "a phrase with {0}"),
    "an order that is none": ({"order": "up"}, "order of operator 'op' must be one of"),
    "no function": ({"function": 3}, "needs a function"),
    "another arity than is said": ({"function": torch.add}, "fails on a sample"),
    "no tensor": ({"function": lambda x: 1.0}, "gives a float, not a tensor"),
    "another shape": ({"function": lambda x: x.sum()}, "common shape"),
    "another dtype": ({"function": lambda x: x.to(torch.float64)}, "keep the dtype"),
    "work in place": ({"function": lambda x: x.abs_()}, "changes its arguments"),
    "chance": ({"function": lambda x: x + torch.rand(()).to(x.dtype)}, "at random"),
    "an error": ({"function": lambda x: 1 // 0}, "fails on a sample: .*division"),
    "a row unsaid": ({"function": soft_row}, "computes a weight from others"),
    "a matrix said to be a row": (
        {"function": lambda x: x / (1 + x.abs().sum()), "reads": "row"},
        "others outside its row",
    ),
    "a sign that is not kept": ({"function": torch.sin, "sign": "non-negative"}, "non-negative"),
    "an order that is not kept": ({"function": torch.cos, "order": "increasing"}, "falls"),
    "a parity that is not kept": ({"parity": "odd"}, "declared odd"),
    "an exchange that counts": (
        {"function": torch.sub, "arity": 2, "meaning": "{0} and {1}", "commutative": True},
        "declared commutative",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused_in_one_sentence(case) -> None:
    fields, words = REFUSED[case]
    before = dict(OPERATORS)
    with pytest.raises(OperatorError, match=words):
        register(**fields)
    assert before == OPERATORS


def test_the_same_function_may_be_registered_again() -> None:
    register()
    register()
    with pytest.raises(OperatorError, match="already"):
        register(function=torch.tanh)


# Commands


@pytest.fixture
def command(tmp_path: Path) -> Installed:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    installed = Installed(tmp_path)
    installed.environment["PRUNERZERO_PLUGINS"] = "plugin.py"
    return installed


def test_a_plug_in_is_known_to_commands(command: Installed) -> None:
    """And to the workers of a search: ``tests/tasks/test_workers.py``."""
    done = command.run("explain", "W * softrow(X * W)")
    assert done.returncode == 0, done.stderr
    assert "the softmax of" in done.stdout


def test_a_plug_in_that_fails_is_told_in_one_sentence(command: Installed, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("import no_such_module\n")
    done = command.run("explain", "wanda")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: plug-in") and "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_is_computed_by_torch(tensors) -> None:
    register("softrow", soft_row, reads="row")
    there = {name: tensor.cuda() for name, tensor in tensors.items()}
    for text in ("W * softrow(G)", "W * softrow(X)", "mms(softrow(W)) * G"):
        e = Expression.parse(text)
        expected = prune_mask(e.score(**there), Sparsity(ratio=0.5))
        assert torch.equal(score_mask(e, Sparsity(ratio=0.5), **there), expected)
