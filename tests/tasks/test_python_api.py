"""The Python API takes what a caller naturally writes, and refuses what is of the wrong kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunerzero import (
    Expression,
    InputError,
    Metric,
    MetricError,
    Setup,
    Sparsity,
    compare,
    evaluate,
    prune,
    search,
    tune,
)

AMOUNTS = {"num_calibration_samples": 2, "num_validation_samples": 2, "max_seq_length": 32}


@pytest.fixture(autouse=True)
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(workplace / "cache"))


@pytest.fixture
def given(workplace: Path) -> dict[str, Any]:
    """The arguments of a setup, with its paths as text."""
    texts = {part: str(workplace / f"{part}.txt") for part in ("calibration", "validation")}
    return {"model": str(workplace / "model"), **texts, **AMOUNTS}


def zeros(folder: Path) -> dict[str, int]:
    from safetensors.torch import load_file

    return {k: int((v == 0).sum()) for k, v in load_file(folder / "model.safetensors").items()}


def test_texts_and_models_are_named_by_text_or_by_path(given):
    by_path = {k: Path(v) if isinstance(v, str) else v for k, v in given.items()}
    assert Setup(**given) == Setup(**by_path)
    assert Setup(**given).calibration == Path(given["calibration"])


def test_a_leading_tilde_is_the_home_folder(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Setup(calibration="~/my.txt").calibration == tmp_path / "my.txt"
    prune(Setup(**given), "wanda", 0.5, "~/pruned")
    assert (tmp_path / "pruned" / "config.json").is_file()
    assert not Path("~").exists()


@pytest.mark.parametrize("amount", [0.5, "0.5", "50%", np.float32(0.5), Sparsity(ratio=0.5), None])
def test_a_sparsity_is_a_number_a_text_or_a_sparsity(given, amount):
    assert prune(Setup(**given), "wanda", amount, "pruned").sparsity == 0.5


@pytest.mark.parametrize(
    "metric", ["wanda", Path("m.json"), Expression.parse("W * sqrt(X)"),
               Metric("mine", Expression.parse("W * sqrt(X)"), "here")]
)  # fmt: skip
def test_a_metric_is_a_name_a_path_or_the_metric_itself(given, metric):
    Path("m.json").write_text(
        '{"data": "mul", "left": {"data": "W"}, "right": {"data": "sqrt", "left": {"data": "X"}}}'
    )
    assert prune(Setup(**given), metric, 0.5, "pruned").metric == "W * sqrt(X)"


@pytest.mark.parametrize("patterns", ["*.mlp.*", ["*.mlp.*"], ("*.mlp.*",), {"*.mlp.*"}])
def test_one_pattern_or_several_say_what_to_prune(given, patterns):
    result = prune(Setup(**given, target=patterns), "magnitude", 0.5, "pruned")
    assert {".mlp." in layer.name for layer in result.layers} == {True}
    assert len(result.layers) == 6
    ignored = prune(Setup(**given, ignore=iter(patterns)) if patterns != "*.mlp.*" else
                    Setup(**given, ignore=patterns), "magnitude", 0.5, "others")  # fmt: skip
    assert {".mlp." in layer.name for layer in ignored.layers} == {False}
    assert len(ignored.layers) == 8


def test_a_group_beside_a_sparsity_is_taken(given):
    found = search(Setup(**given), Sparsity.parse("0.5"), "run", evaluations=3, group="layer")
    assert found.group == "layer"
    assert compare(Setup(**given), "wanda", Sparsity.parse("0.5"), group="model").group == "model"
    prune(Setup(**given), "magnitude", Sparsity.parse("0.5"), "pruned", group="model")
    shares = {name: count / 384 for name, count in zeros(Path("pruned")).items() if "mlp" in name}
    assert len(set(shares.values())) > 1  # within rows, all would be the same


@pytest.mark.parametrize("group", ["row", "model"])
def test_a_group_that_contradicts_the_sparsity_is_refused(given, group):
    layer = Sparsity(ratio=0.5, group="layer")
    for call in (
        lambda: search(Setup(**given), layer, "run", evaluations=3, group=group),
        lambda: prune(Setup(**given), "wanda", layer, "run", group=group),
        lambda: compare(Setup(**given), ["wanda"], layer, group=group),
        lambda: tune(Setup(**given), "run", pattern=layer, group=group),
    ):
        with pytest.raises(InputError, match="`group` .* contradicts"):
            call()
    with pytest.raises(MetricError, match="runs of a row"):
        prune(Setup(**given), "wanda", "2:4", "run", group="layer")
    assert not Path("run").exists()


WRONG = {
    "model": [3, ["m"], None],
    "calibration": [3, ["a.txt", 3], [["a.txt"]], b"a.txt", "", [""]],
    "test": [{"a": 1}, 1.5],
    "dtype": [16, None],
    "device": [0, ["cpu"]],
    "dataset": [1, ["c4", 1], [["c4"]], {"c4": 1}],
    "revision": [1],
    "trust_remote_code": ["yes", 1, None],
    "allow_pickle": ["no", 0],
    "max_seq_length": ["64", 64.0, True, 1, -1, [64]],
    "batch_size": [0, "1", 1.5],
    "num_validation_samples": [0, -1, "4", math.inf],
    "gradient": ["none", True, ["full"]],
    "ignore": [3, [3], b"x", {"a": "b"}],
    "target": [True, [None], 1.5],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_setting_of_the_wrong_kind_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^`{name}` must be") as refusal:
        Setup(**{name: value})
    assert "--" not in str(refusal.value)


REFUSED = {
    "a setup": (lambda s: prune({"model": "m"}, "wanda", 0.5, "new"), "`setup` must be"),
    "sparsity": (lambda s: prune(s, "wanda", [0.5], "new"), "`sparsity` must be .* not a list"),
    "sparsity bool": (lambda s: prune(s, "wanda", True, "new"), "`sparsity` must be .* not a bool"),
    "sparsity bytes": (lambda s: search(s, b"0.5", "new"), "`sparsity` must be"),
    "metric": (lambda s: prune(s, ["wanda"], 0.5, "new"), "a metric must be .* not a list"),
    "no metric": (lambda s: prune(s, None, 0.5, "new"), "a metric must be .* not None"),
    "output_dir": (lambda s: prune(s, "wanda", 0.5, None), "`output_dir` must be .* not None"),
    "metrics": (lambda s: compare(s, 3), "`metrics` must be .* not an int"),
    "parts": (lambda s: compare(s, "wanda", parts="tset"), "`parts` must be .* not 'tset'"),
    "part": (lambda s: evaluate(s, "tset"), "`part` must be"),
    "samples": (lambda s: evaluate(s, "validation", samples=-1), "`samples` must be at least 0"),
    "more samples": (lambda s: compare(s, "wanda", samples="3"), "`samples` must be a whole"),
    "examples": (lambda s: evaluate(s, "validation", examples=0), "`examples` must be at least 1"),
    "stride": (lambda s: evaluate(s, "validation", stride=0), "`stride=0` must be"),
    "a stride too long": (lambda s: evaluate(s, "validation", stride=999), "stride=999` must be"),
    "evaluations": (lambda s: search(s, 0.5, "new", evaluations="9"), "`evaluations` must be"),
    "seed": (lambda s: search(s, 0.5, "new", seed=0.5), "`seed` must be a whole number"),
    "strategy": (lambda s: search(s, 0.5, "new", strategy="luck"), "`strategy` must be"),
    "operators": (lambda s: search(s, 0.5, "new", operators=None), "`operators` must be"),
    "workers": (lambda s: search(s, 0.5, "new", workers=0), "`workers` must be"),
    "time": (lambda s: search(s, 0.5, "new", time="soon"), "length of time"),
    "max_perplexity": (lambda s: tune(s, "new", max_perplexity=math.nan), "`max_perplexity`"),
    "its kind": (lambda s: tune(s, "new", max_perplexity="20"), "`max_perplexity` must be a n"),
    "max_degradation": (lambda s: tune(s, "new", max_degradation=math.inf), "`max_degradation"),
    "max_degradation of a kind": (
        lambda s: tune(s, "new", max_degradation=[0.05]),
        "`max_degradation` must be a share such as 5% or 0.05, not a list",
    ),
    "task_metric": (lambda s: tune(s, "new", task_metric=5), "`task_metric` must be text"),
    "tune's group": (lambda s: tune(s, "new", group="rows"), "`group` must be"),
    "tune's samples": (lambda s: tune(s, "new", samples=-1), "`samples` must be at least 0"),
    "language": (lambda s: tune(s, "new", language="de"), "`language` must be"),
    "a constant": (lambda s: prune(s, "5", 0.5, "new"), "constant"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_argument_is_refused_by_name_before_a_model_is_loaded(case, given, monkeypatch):
    monkeypatch.setattr("prunerzero.tasks.workspace.load_model", lambda *_, **__: pytest.fail())
    call, words = REFUSED[case]
    with pytest.raises((InputError, MetricError), match=words) as refusal:
        call(Setup(**given))
    assert "--" not in str(refusal.value)
    assert not Path("new").exists()


def test_dtypes_and_devices_of_torch_name_themselves():
    setup = Setup(dtype=torch.bfloat16, device=torch.device("cpu"))
    assert (setup.dtype, setup.device) == ("bfloat16", "cpu")


def test_errors_of_the_library_name_parameters(given):
    with pytest.raises(InputError, match='pass `calibration=FILE` or `dataset="wikitext2"`'):
        prune(Setup(model=given["model"], validation=given["validation"]), "wanda", 0.5, "new")
    with pytest.raises(InputError, match="`max_seq_length=128` is more than the model's limit"):
        evaluate(Setup(**given | {"max_seq_length": 128}), "validation")
