"""Which layers are pruned is the user's to say: ``--target`` and ``--ignore``."""

import json


def test_targets_and_ignored_layers_are_named_by_patterns(in_workplace, workplace):
    done = in_workplace(
        "prune",
        *("--model", "model", "--metric", "magnitude", "--output-dir", "patterned"),
        *("--target", "*.mlp.*", "--target", "*.o_proj", "--ignore", "*.up_proj"),
    )
    assert done.exit_code == 0, done.stderr
    figures = json.loads((workplace / "patterned" / "figures.json").read_text())
    kinds = {layer["name"].rpartition(".")[2] for layer in figures["layers"]}
    assert kinds == {"gate_proj", "down_proj", "o_proj"}


def test_a_target_that_no_layer_has_is_told(in_workplace):
    done = in_workplace(
        *("prune", "--model", "model", "--metric", "magnitude"),
        *("--output-dir", "none", "--target", "*.qproj"),
    )
    assert done.exit_code == 2
    assert "no linear layer of the model is left to prune by --target and --ignore" in done.stderr
