"""What each command does with a packed model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_model import same_bits, tensors_of, zero_smallest
from tiny_model import save_tiny_model

from prunerzero import ModelError, Setup, compare, evaluate, pack, prune, search, tune
from prunerzero.tasks.by_block import Way


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model ``dense``, with zeros in it, and packed in two ways."""
    import torch

    folder = tmp_path_factory.mktemp("packed")
    save_tiny_model(folder / "dense", torch.bfloat16)
    zero_smallest(save_tiny_model(folder / "sparse", torch.bfloat16))
    pack(folder / "sparse", folder / "packed")
    pack(folder / "sparse", folder / "int8", values="int8")
    return folder


@pytest.fixture
def setup(workplace: Path, models: Path) -> Callable[[str], Setup]:
    texts = {part: workplace / f"{part}.txt" for part in ("calibration", "validation", "test")}
    return lambda name: Setup(model=str(models / name), device="cpu", **texts)


def test_eval_reads_it_as_it_is(setup: Callable[[str], Setup], models: Path) -> None:
    found = evaluate(setup("packed"), reference=models / "sparse", samples=2)
    figures = found.texts[0]
    assert figures.perplexity == pytest.approx(figures.reference, rel=1e-5)
    assert figures.divergence is not None and figures.divergence.kl < 1e-6
    assert all(sample.dense == sample.pruned for sample in found.samples)
    rounded = evaluate(setup("int8"), reference=models / "packed").texts[0]
    assert rounded.perplexity != rounded.reference


@pytest.mark.parametrize("name", ["packed", "int8"])
def test_prune_expands_it_and_leaves_an_ordinary_checkpoint(
    name: str, setup: Callable[[str], Setup], tmp_path: Path
) -> None:
    result = prune(setup(name), "wanda", "0.75", tmp_path / "pruned")
    assert result.sparsity == pytest.approx(0.75, abs=0.01)
    tensors = tensors_of(tmp_path / "pruned")
    assert tensors["model.layers.0.mlp.up_proj.weight"].shape == (24, 16)
    assert not any(key.endswith(("mask", "values")) for key in tensors)
    again = evaluate(Setup(**{**vars(setup(name)), "model": str(tmp_path / "pruned")}))
    assert again.perplexity == result.perplexity["test"]["pruned"]


def test_pruned_again_it_is_what_the_unpacked_one_becomes(
    setup: Callable[[str], Setup], tmp_path: Path
) -> None:
    for name in ("packed", "sparse"):
        prune(setup(name), "wanda", "0.75", tmp_path / name)
    one, other = tensors_of(tmp_path / "packed"), tensors_of(tmp_path / "sparse")
    assert one.keys() == other.keys()
    assert all(same_bits(one[name], other[name]) for name in one)


def test_compare_search_and_tune_expand_it(setup: Callable[[str], Setup], tmp_path: Path) -> None:
    figures = [
        compare(setup(name), ["magnitude", "wanda"], "0.75").perplexity
        for name in ("packed", "sparse")
    ]
    assert figures[0] == figures[1]
    found = [
        search(setup(name), "0.75", tmp_path / name, evaluations=3).perplexity
        for name in ("packed", "sparse")
    ]
    assert found[0] == found[1]
    answer = tune(
        setup("packed"), tmp_path / "tuned", evaluations=0, max_degradation="50%", samples=0
    )
    assert (tmp_path / "tuned").is_dir() and answer is not None


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"update": "least-squares", "refine": "admm"},
        {"way": Way(block_by_block=True)},
        {"group": "model"},
    ],
    ids=lambda how: ", ".join(how) or "masks alone",
)
def test_what_is_pruned_is_a_positive_zero(
    how: dict[str, Any], setup: Callable[[str], Setup], tmp_path: Path
) -> None:
    """Packing keeps -0.0, so that every bit comes back: a pruner must not write it."""
    prune(setup("dense"), "wanda", "0.5", tmp_path / "pruned", **how)
    result = pack(tmp_path / "pruned", tmp_path / "packed")
    assert result.negative_zeros == 0
    assert result.sparsity > 0.45


def test_lm_eval_takes_the_loaded_model(models: Path) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    for name in ("sparse", "packed"):
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        with torch.no_grad():
            asked = [Instance("loglikelihood", {}, ("some ", text), 0) for text in ("word", "more")]
            answers = harness.HFLM(pretrained=model, tokenizer=tokenizer).loglikelihood(asked)
        found.append([answer[0] for answer in answers])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_block_by_block_it_is_refused_in_a_sentence(
    setup: Callable[[str], Setup], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is packed, and cannot be read block by block"):
        prune(setup("packed"), "wanda", "0.75", tmp_path / "out", way=Way(block_by_block=True))
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_reads_it(
    models: Path, in_workplace: Callable[..., Any], tmp_path: Path
) -> None:
    told = in_workplace("eval", "--model", str(models / "packed"), "--text", "test.txt")
    assert told.exit_code == 0 and "Perplexity of" in told.stdout
    broken = tmp_path / "broken"
    shutil.copytree(models / "packed", broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    told = in_workplace("eval", "--model", str(broken), "--text", "test.txt")
    assert told.exit_code == 2 and "truncated or damaged" in told.stderr
