"""A recipe repeats a pruning to the byte, and says so only where it is true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_model import some_text, tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def place(workplace: Path, in_workplace: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of its own with the model, its texts and a pruning of it in ``pruned/``."""
    shutil.copytree(workplace / "model", tmp_path / "model")
    for part in ("calibration", "test"):
        shutil.copy(workplace / f"{part}.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--calibration", "calibration.txt", "--test", "test.txt"]
    options += ["--metric", "gblm", "--sparsity", "2:4", "--num-calibration-samples", "7"]
    options += ["--ignore", "*.1.mlp.down_proj", "--output-dir", "pruned"]
    done = in_workplace("prune", "--model", "model", *options)
    assert done.exit_code == 0, done.output
    return tmp_path


@pytest.fixture
def repeat(place: Path, in_workplace: Any) -> Any:
    def again(*more: str) -> Any:
        command = ["prune", "--recipe", "pruned/recipe.yaml", "--output-dir", "again", *more]
        return in_workplace(*command)

    return again


def test_a_recipe_repeats_a_pruning_to_the_byte(place, repeat):
    done = repeat()
    assert done.exit_code == 0, done.output
    assert "The weights are those of pruned/recipe.yaml, byte for byte." in done.stdout
    assert (place / "again" / WEIGHTS).read_bytes() == (place / "pruned" / WEIGHTS).read_bytes()
    first, second = (
        yaml.safe_load((place / folder / "recipe.yaml").read_text())
        for folder in ("pruned", "again")
    )
    assert first == second


def test_a_recipe_holds_all_that_decides(place):
    recipe = yaml.safe_load((place / "pruned" / "recipe.yaml").read_text())
    assert recipe["metric"] == "W * sqrt(X) + W * G"
    assert (recipe["model"], recipe["sparsity"], recipe["dtype"]) == ("model", "2:4", "float32")
    assert recipe["ignore"] == ["*.1.mlp.down_proj"]
    assert recipe["windows"] == {"calibration": 7, "test": 31}
    assert set(recipe["fingerprints"]) == {"model", "calibration", "test", "weights"}
    assert {"prunerzero", "torch", "transformers", "python"} == set(recipe["versions"])


def test_options_on_the_command_line_go_before_the_recipe(place, repeat):
    done = repeat("--sparsity", "0.25", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["sparsity"] == 0.25
    assert result["metric"] == "W * sqrt(X) + W * G"
    assert result["repeated"] is False


def test_without_a_recipe_nothing_is_said_of_repetition(place, in_workplace):
    done = in_workplace("prune", "--config", "pruned/recipe.yaml", "--output-dir", "new", "--json")
    assert json.loads(done.stdout)["repeated"] is None


@pytest.mark.parametrize("part", ["calibration", "test"])
def test_a_text_that_has_changed_is_refused(place, repeat, part):
    (place / f"{part}.txt").write_text(some_text(9))
    done = repeat()
    assert done.exit_code == 2
    assert f"the {part} text '{part}.txt' has changed" in done.stderr
    assert not (place / "again").exists()


def test_a_text_that_was_moved_is_taken_from_where_the_user_says(place, repeat):
    (place / "calibration.txt").rename(place / "moved.txt")
    assert "cannot be read" in repeat().stderr
    done = repeat("--calibration", "moved.txt", "--json")
    assert json.loads(done.stdout)["repeated"] is True


def test_another_text_that_is_named_is_allowed_and_shows(place, repeat):
    (place / "other.txt").write_text(some_text(9))
    done = repeat("--calibration", "other.txt")
    assert done.exit_code == 0
    assert "The weights differ from those of pruned/recipe.yaml" in done.stdout
    assert "calibration calibration.txt, here other.txt" in done.stdout


def test_another_sparsity_that_is_asked_for_shows(place, repeat):
    done = repeat("--sparsity", "0.25")
    assert done.exit_code == 0
    assert "(sparsity 2:4, here 0.25)" in " ".join(done.stdout.split())


def test_a_model_that_has_changed_is_refused(place, repeat):
    model = tiny_model(seed=5).to(torch.float32)
    model.save_pretrained(place / "model")
    done = repeat()
    assert done.exit_code == 2
    assert "the model 'model' has changed since the recipe was written" in done.stderr
    assert "other model weights" in done.stderr


def test_a_file_that_is_no_recipe_is_refused(place, in_workplace):
    (place / "options.yaml").write_text("sparsity: 0.5\n")
    done = in_workplace("prune", "--recipe", "options.yaml", "--output-dir", "again")
    assert done.exit_code == 2
    assert "--config" in done.stderr
