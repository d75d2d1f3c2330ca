"""The README of a pruned model."""

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from prunerzero.report import model_card, packed_card, tell_speed


@pytest.fixture
def recipe() -> dict[str, Any]:
    return {
        "model": "HuggingFaceTB/SmolLM2-135M",
        "metric": "W * sqrt(X) * sqrt(G)",
        "sparsity": "0.5",
        "calibration": None,
        "dtype": "float32",
        "texts": {"calibration": "python-docs (calibration)", "test": "mine.txt"},
        "windows": {"calibration": 64, "test": 97},
        "max_seq_length": 512,
        "num_calibration_samples": 128,
        "seed": 0,
        "damping": 1e-05,
        "ignore": ["lm_head"],
        "revision": None,
        "trust_remote_code": False,
    }


@pytest.fixture
def figures(layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "perplexity": {
            "validation": {"dense": 18.43, "pruned": 30.87},
            "test": {"dense": 18.91, "pruned": 31.24},
        },
        "window_length": 512,
        "windows": {"validation": 96, "test": 97},
        "sparsity": 0.5,
        "layers": layers,
        "parameters": 3049920,
        "zeros": 1327104,
    }


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(recipe, figures):
    assert ModelCard(model_card(recipe, figures)).data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "HuggingFaceTB/SmolLM2-135M",
        "tags": ["pruning", "sparsity", "pruner-zero"],
    }


@pytest.mark.parametrize("model", ["bundled", "/models/mine", "./mine", "a/b/c"])
def test_a_model_that_is_not_on_the_hub_is_no_base_model(recipe, figures, model):
    assert "base_model" not in front_matter(model_card({**recipe, "model": model}, figures))


def test_a_folder_that_looks_like_a_hub_id_is_no_base_model(recipe, figures, tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = model_card({**recipe, "model": "models/mine"}, figures)
    assert "base_model" not in front_matter(card)


def test_the_recipe_can_be_read_back_from_the_card(recipe, figures):
    recipe["metric"] = 'W * "```" # : ünïcode'
    block = re.search(r"^(````+)yaml\n(.*?)\n\1$", model_card(recipe, figures), re.M | re.S)
    assert block is not None
    assert yaml.safe_load(block[2]) == recipe


def test_figures_before_and_after_stand_with_their_windows(recipe, figures):
    card = model_card(recipe, figures)
    assert "| test | `mine.txt` | 97 | 18.91 | 31.24 | +65.20 % |" in card
    assert "| validation | `—` | 96 | 18.43 | 30.87 | +67.50 % |" in card
    assert "Windows of 512 tokens, computed in float32" in card
    assert "`python-docs (calibration)`, 64 windows of 512 tokens" in card


def test_a_warning_stands_as_words_without_the_marks_of_code(recipe, figures):
    card = model_card(recipe, {**figures, "warnings": ["give `calibration` several times."]})
    assert "**give calibration several times.**" in card


@pytest.mark.parametrize(
    "metric, told",
    [
        (
            "W * sqrt(X)",
            "where `W` is the magnitude of a weight and `X` the squared norm of its in",
        ),
        (
            "W * D",
            "`W` is the magnitude of a weight and `D` the part of its input that the layer's",
        ),
        (
            "exp(G) / X",
            "where `X` is the squared norm of its input and `G` the magnitude of the gr",
        ),
        ("W", "where `W` is the magnitude of a weight; this one does not read the calib"),
    ],
)
def test_what_the_metric_reads_is_explained_and_nothing_else(recipe, figures, metric, told):
    card = model_card({**recipe, "metric": metric}, figures)
    assert told in card
    for letter in {*"XDG"} - {*metric}:
        assert f"`{letter}`" not in card


def test_a_metric_of_the_weights_alone_needs_no_calibration_text(recipe, figures):
    del recipe["texts"]["calibration"]
    card = model_card({**recipe, "metric": "W"}, figures)
    assert "no calibration text was needed" in card and "None" not in card.split("## Recipe")[0]


def test_sparsity_is_told_overall_and_layer_by_layer(recipe, figures):
    card = model_card(recipe, figures)
    assert "Achieved in the pruned layers: 50 %." in card
    assert "3,049,920 parameters of the model 1,327,104 are zero (43.51 %)" in card
    collapsed = card[card.index("<details>") : card.index("</details>")]
    assert "| `model.layers.0.self_attn.k_proj` | 64 × 192 | 50 % |" in collapsed
    assert collapsed.count("| `model.layers.") == 6


def test_layers_that_no_token_reached_are_told(recipe, figures):
    assert "reached" not in model_card(recipe, figures)
    figures["layers"][2]["unreached"] = True
    assert "reached 1 of the 6 layers" in model_card(recipe, figures)


def test_the_class_to_load_with_is_the_models(recipe, figures):
    assert "AutoModelForCausalLM.from_pretrained(" in model_card(recipe, figures)
    card = model_card(recipe, figures | {"auto_class": "AutoModelForImageTextToText"})
    assert "import AutoModelForImageTextToText, AutoTokenizer" in card


def test_neither_size_nor_speed_is_promised(recipe, figures):
    for sparsity in ("0.5", "2:4"):
        card = model_card({**recipe, "sparsity": sparsity}, figures)
        assert "neither smaller nor faster" in card
        assert "stored in dense tensors" in card
        assert "No speed was measured" in card


def test_packing_is_told_in_a_line_and_its_figures_where_they_are_known(recipe, figures):
    card = model_card(recipe, figures)
    assert "`prunerzero pack` does: it writes a smaller folder" in card
    told = tell_speed(card, "31 tokens a second instead of 24 | on *this* CPU.")
    assert "31 tokens a second instead of 24 \\| on \\*this\\* CPU." in told
    assert "No speed was measured" not in told
    assert tell_speed(told, "other words") == told


PACKED = {
    "model": "tuned/model",
    "values": "bfloat16",
    "matrices": 42,
    "sparsity": 0.355,
    "bytes": 6_105_864,
    "packed_bytes": 4_564_178,
    "error": None,
}


def test_the_card_of_a_packed_model_says_what_it_is_and_how_to_load_it(recipe, figures):
    unpacked = model_card(recipe, figures, inherited={"license": "mit"})
    card = packed_card(PACKED, "AutoModelForCausalLM", {"license": "mit"}, unpacked)
    assert "# SmolLM2-135M, pruned to 50 %, packed\n" in card
    assert "In 42 matrices" in card and "as bfloat16: 35.5 % of these weights are not." in card
    assert "Every weight is what it was" in card
    assert "| dense | 6.11 MB |\n| packed | 4.56 MB |" in card
    assert "import prunerzero  # makes transformers know the format\nfrom transformers" in card
    assert "[README.unpacked.md](README.unpacked.md)" in card
    data = ModelCard(card).data
    assert data.license == "mit" and "prunerzero-packed" in data.tags
    assert "No speed was measured here." in card


def test_the_card_of_a_packed_model_tells_rounding_and_needs_no_other_card():
    facts = {**PACKED, "model": "mine/of|mine", "values": "int8", "error": 0.0123}
    card = packed_card(facts, "AutoModelForImageTextToText", {}, None)
    assert "# of\\|mine, packed\n" in card
    assert "differ by 1.23 % of their norm" in card and "bit for bit" not in card
    assert "README.unpacked.md" not in card
    assert "AutoModelForImageTextToText.from_pretrained(" in card


def test_the_licence_of_the_original_is_handed_on(recipe, figures):
    inherited = {"license": "other", "license_name": "llama3", "language": ["en", "ja"]}
    card = model_card(recipe, figures, inherited=inherited)
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.language) == ("other", "llama3", ["en", "ja"])
    assert "That of the original model: llama3." in card


def test_a_licence_that_is_not_known_is_not_made_up(recipe, figures):
    card = model_card(recipe, figures)
    assert ModelCard(card).data.license is None
    assert "add it before you pass the model on" in card


def test_a_card_without_figures_says_that_nothing_was_measured(recipe, figures):
    figures["perplexity"] = {}
    assert "Not measured" in model_card(recipe, figures)


def test_it_says_how_to_repeat_it(recipe, figures):
    assert "prunerzero prune --recipe recipe.yaml" in model_card(recipe, figures)


def test_it_says_how_to_load_and_whom_to_cite(recipe, figures):
    card = model_card(recipe, figures)
    assert 'AutoModelForCausalLM.from_pretrained("path/to/this/folder")' in card
    there = model_card(recipe, figures, repository="me/mine")
    assert 'AutoModelForCausalLM.from_pretrained("me/mine")' in there
    assert "@inproceedings{" in card and "arXiv:2406.02924" in card


def test_figures_that_are_missing_are_dashes(recipe, figures):
    figures["perplexity"] = {"test": {"dense": 18.91, "pruned": None}}
    figures["windows"] = {}
    assert "| test | `mine.txt` | — | 18.91 | — | — |" in model_card(recipe, figures)
    assert "# SmolLM2-135M, pruned to 50 %" in model_card(recipe, {})


def test_hostile_names_stay_text(recipe, figures):
    recipe["model"] = recipe["texts"]["calibration"] = "`|<script>\n---\n# [x](y)"
    figures["layers"][0]["name"] = "a|b`c\nd"
    card = model_card(recipe, figures)
    assert front_matter(card)["library_name"] == "transformers"
    prose = re.sub(r"^(```+).*?^\1$|`[^`\n]*`", "", card, flags=re.M | re.S)
    assert "<script>" not in prose
    assert "| `a\\|b'c d` | 192 × 192 | 50 % |" in card


def test_it_tells_what_the_gradient_is_of(recipe, figures):
    assert "magnitude of the gradient of the loss" in model_card(recipe, figures)
    locally = model_card({**recipe, "gradient": "block"}, figures)
    assert "magnitude of the gradient of the block's output norm" in locally
