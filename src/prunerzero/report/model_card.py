"""The README of a pruned model: what was done to it, measured with what, and how to do it again."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from .wording import (
    MISSING,
    change_text,
    finite,
    percent_text,
    perplexity_text,
    sparsity_text,
)

_CITATION = """\
@inproceedings{dong2024prunerzero,
  title     = {Pruner-Zero: Evolving Symbolic Pruning Metric from Scratch for
               Large Language Models},
  author    = {Dong, Peijie and Li, Lujun and Tang, Zhenheng and Liu, Xiang and Pan, Xinglin and
               Wang, Qiang and Chu, Xiaowen},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2406.02924}
}"""

_LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""


def model_card(recipe: dict[str, Any], figures: dict[str, Any]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    ``recipe`` holds the settings as they go to ``recipe.yaml``, ``figures`` what was measured.
    """
    model = str(recipe.get("model", MISSING))
    sparsity = sparsity_text(recipe.get("sparsity", figures.get("sparsity", MISSING)))
    sections = [
        _front_matter(model),
        f"# {_inline(Path(model).name or model)}, pruned to {_inline(sparsity)}",
        _what_was_done(recipe, model, sparsity),
        "## Perplexity\n\n" + _perplexity(recipe, figures),
        "## Sparsity\n\n" + _sparsity(figures),
        "## Size and speed\n\n" + _size_and_speed(str(recipe.get("sparsity", ""))),
        "## Loading it\n\n" + _fenced(_LOADING, "python"),
        "## Recipe\n\n" + _fenced(_yaml(recipe), "yaml"),
        "## Citation\n\n" + _fenced(_CITATION, "bibtex"),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(model: str) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    # "models/mine" may be a folder as well as a hub id: only the disk knows.
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) and not Path(model).exists():
        fields["base_model"] = model
    fields["tags"] = ["pruning", "sparsity", "pruner-zero"]
    return f"---\n{_yaml(fields)}\n---"


def _what_was_done(recipe: dict[str, Any], model: str, sparsity: str) -> str:
    samples = recipe.get("num_calibration_samples")
    length = recipe.get("max_seq_length")
    amount = f", {samples} windows of {length} tokens" if samples and length else ""
    return (
        f"The linear layers of {_code(model)} were pruned once, without retraining, to"
        f" {_inline(sparsity)} sparsity. The weights set to zero are those that score lowest under"
        f" the metric\n\n{_fenced(str(recipe.get('metric', MISSING)), '')}\n\n"
        "where `W` is the magnitude of a weight, `X` the squared norm of its input and `G` the"
        " magnitude of its loss gradient over the calibration text"
        f" ({_code(recipe.get('calibration', MISSING))}{_inline(amount)})."
    )


def _perplexity(recipe: dict[str, Any], figures: dict[str, Any]) -> str:
    lines = ["| text | windows | before | after | change |", "|---|--:|--:|--:|--:|"]
    windows = figures.get("windows") or {}
    for part, values in (figures.get("perplexity") or {}).items():
        dense, pruned = finite(values.get("dense")), finite(values.get("pruned"))
        change = change_text(pruned / dense) if dense and pruned else MISSING
        lines.append(
            f"| {_inline(part)} | {_inline(windows.get(part, MISSING))} | {perplexity_text(dense)}"
            f" | {perplexity_text(pruned)} | {change} |"
        )
    length = figures.get("window_length", recipe.get("max_seq_length", MISSING))
    return (
        "\n".join(lines) + f"\n\nLower is better. Windows of {_inline(length)} tokens;"
        " before and after are measured on the same windows."
    )


def _sparsity(figures: dict[str, Any]) -> str:
    text = f"Achieved in the pruned layers: {percent_text(figures.get('sparsity'))}."
    zeros, parameters = finite(figures.get("zeros")), finite(figures.get("parameters"))
    if zeros is not None and parameters:
        text += (
            f" Of all {parameters:,.0f} parameters of the model {zeros:,.0f} are zero"
            f" ({percent_text(round(zeros / parameters, 4))}); embeddings, norms and the output"
            " layer count as parameters too."
        )
    layers = figures.get("layers") or []
    if not layers:
        return text
    lines = [
        f"| {_code(layer['name'])} | {' × '.join(str(side) for side in layer['shape'])}"
        f" | {percent_text(layer.get('sparsity'))} |"
        for layer in layers
    ]
    table = "\n".join(["| layer | shape | zeros |", "|---|--:|--:|", *lines])
    return (
        f"{text}\n\n<details>\n<summary>{len(layers)} layers, one by one</summary>\n\n"
        f"{table}\n\n</details>"
    )


def _size_and_speed(sparsity: str) -> str:
    text = (
        "The zeros are stored in dense tensors, so the size of the files and the speed do not"
        " change by themselves: this model is neither smaller nor faster than the one it was made"
        " from until something makes use of the zeros. No speed was measured here."
    )
    if ":" in sparsity:
        text += (
            f" Sparse kernels for the {_inline(sparsity)} pattern, where a device has them, need"
            " the weights converted to their own format first."
        )
    return text


def _yaml(fields: dict[str, Any]) -> str:
    """A line for each key. The values are JSON, which YAML reads, but for floats like 1e-05."""
    lines = []
    for key, value in fields.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, float):
            text = re.sub(r"^(-?\d+)e", r"\1.0e", text)
        lines.append(f"{key}: {text}")
    return "\n".join(lines)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _inline(value: object) -> str:
    """Text that stays text in Markdown, in a table too."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(" ".join(str(value).split()), quote=False))


def _code(value: object) -> str:
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"
