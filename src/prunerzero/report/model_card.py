"""The README of a pruned model: what was done to it, measured with what, and how to do it again."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import yaml

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

_COMMAND = "prunerzero prune --recipe recipe.yaml --output-dir again"

_LOADING = """\
from transformers import {1}, AutoTokenizer

model = {1}.from_pretrained({0})
tokenizer = AutoTokenizer.from_pretrained({0})"""


def model_card(
    recipe: dict[str, Any],
    figures: dict[str, Any],
    *,
    repository: str | None = None,
    inherited: dict[str, Any] | None = None,
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        recipe: the settings, as in ``recipe.yaml``.
        figures: what was measured.
        repository: the hub repository that the model is pushed to; None for a local folder.
        inherited: licence and languages, as in the front matter of the original model's card.
    """
    model = str(recipe.get("model", MISSING))
    sparsity = sparsity_text(recipe.get("sparsity", figures.get("sparsity", MISSING)))
    recipe_yaml = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).strip()
    place = json.dumps(repository or "path/to/this/folder")
    loading = _LOADING.format(place, figures.get("auto_class", "AutoModelForCausalLM"))
    sections = [
        _front_matter(model, inherited or {}),
        f"# {_inline(Path(model).name or model)}, pruned to {_inline(sparsity)}",
        _what_was_done(recipe, model, sparsity),
        "## Perplexity\n\n" + _perplexity(recipe, figures),
        "## Sparsity\n\n" + _sparsity(figures),
        "## Loading it\n\n" + _fenced(loading, "python"),
        "## Limits\n\n" + _limits(str(recipe.get("sparsity", ""))),
        "## Licence\n\n" + _licence(inherited or {}),
        "## Recipe\n\n" + _repeating() + "\n\n" + _fenced(recipe_yaml, "yaml"),
        "## Citation\n\n" + _fenced(_CITATION, "bibtex"),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(model: str, inherited: dict[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    fields |= inherited
    # "models/mine" may be a folder as well as a hub id: only the disk knows.
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) and not Path(model).exists():
        fields["base_model"] = model
    fields["tags"] = ["pruning", "sparsity", "pruner-zero"]
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---"


def _what_was_done(recipe: dict[str, Any], model: str, sparsity: str) -> str:
    revision = recipe.get("revision")
    at = f" (revision {_code(revision)})" if revision else ""
    of = "loss" if recipe.get("gradient", "full") == "full" else "block's output norm"
    return (
        f"The linear layers of {_code(model)}{at} were pruned"
        f"{'' if recipe.get('reconstruct') else ' once, without retraining,'} to"
        f" {_inline(sparsity)} sparsity. The weights set to zero are those that score lowest under"
        f" the metric\n\n{_fenced(str(recipe.get('metric', MISSING)), '')}\n\n"
        "where `W` is the magnitude of a weight, `X` the squared norm of its input and `G` the"
        f" magnitude of the gradient of the {of} by it{_calibration(recipe)}.{_what_stays(recipe)}"
    )


def _what_stays(recipe: dict[str, Any]) -> str:
    """What became of the weights that are not zero."""
    told = ""
    if recipe.get("refine") == "admm":
        told += (
            "\n\nWhich weights stay, as many as the metric keeps, was chosen again by the"
            " alternating direction method of multipliers."
        )
    if recipe.get("update") == "least-squares":
        told += (
            "\n\nThe weights that stay were refitted to the calibration text by least squares, in"
            " closed form."
        )
    if steps := recipe.get("reconstruct"):
        told += (
            f"\n\nThe weights that stay were **trained** on the calibration text: {_inline(steps)}"
            " steps of Adam a block, towards the outputs of the dense model."
        )
    return told


def _calibration(recipe: dict[str, Any]) -> str:
    texts = recipe.get("texts") or {}
    text = texts.get("calibration")
    if text is None:
        return "; this one reads the weights alone, so no calibration text was needed"
    count = (recipe.get("windows") or {}).get("calibration", MISSING)
    length = recipe.get("max_seq_length", MISSING)
    amount = f"{_inline(count)} windows of {_inline(length)} tokens"
    if several := [name for place, name in texts.items() if place.startswith("calibration: ")]:
        names = ", ".join(map(_code, several))
        return f" over {len(several)} calibration texts: {names}, {amount} in equal shares"
    return f" over the calibration text: {_code(text)}, {amount}"


def _perplexity(recipe: dict[str, Any], figures: dict[str, Any]) -> str:
    doubts = "".join(f"\n\n**{_inline(doubt)}**" for doubt in figures.get("warnings") or ())
    return _perplexity_table(recipe, figures) + doubts


def _perplexity_table(recipe: dict[str, Any], figures: dict[str, Any]) -> str:
    if not figures.get("perplexity"):
        return "Not measured: no test or validation text was given."
    lines = ["| part | text | windows | before | after | change |", "|---|---|--:|--:|--:|--:|"]
    windows, texts = figures.get("windows") or {}, recipe.get("texts") or {}
    for part, values in figures["perplexity"].items():
        dense, pruned = finite(values.get("dense")), finite(values.get("pruned"))
        change = change_text(pruned / dense) if dense and pruned else MISSING
        lines.append(
            f"| {_inline(part.partition(': ')[0])} | {_code(texts.get(part, MISSING))}"
            f" | {_inline(windows.get(part, MISSING))} | {perplexity_text(dense)}"
            f" | {perplexity_text(pruned)} | {change} |"
        )
    length = figures.get("window_length", recipe.get("max_seq_length", MISSING))
    return (
        "\n".join(lines) + f"\n\nLower is better. Windows of {_inline(length)} tokens, computed in"
        f" {_inline(recipe.get('dtype', MISSING))}; before and after are measured on the same"
        " windows."
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
    if unreached := sum(bool(layer.get("unreached")) for layer in layers):
        text += (
            f" No token of the calibration text reached {unreached} of the {len(layers)} layers"
            " (experts that nothing was routed to): these were pruned by magnitude."
        )
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


def _limits(sparsity: str) -> str:
    zeros = (
        "The zeros are stored in dense tensors, so the size of the files and the speed do not"
        " change by themselves: this model is neither smaller nor faster than the one it was made"
        " from until something makes use of the zeros. No speed was measured here."
    )
    if ":" in sparsity:
        zeros += (
            f" Sparse kernels for the {_inline(sparsity)} pattern, where a device has them, need"
            " the weights converted to their own format first."
        )
    return (
        f"- {zeros}\n"
        "- Quality was measured on the text above and on no other: on other subjects, languages"
        " and tasks the loss may be larger. Measure it on yours before relying on it.\n"
        "- What the original model gets wrong, this one does too."
    )


def _licence(inherited: dict[str, Any]) -> str:
    if "license" not in inherited:
        return (
            "The licence of the original model applies. It was not known when this card was"
            " written; add it before you pass the model on."
        )
    name = inherited.get("license_name") or inherited["license"]
    return f"That of the original model: {_inline(name)}."


def _repeating() -> str:
    return (
        "With this folder's `recipe.yaml`, the same model, the same text and the same versions, "
        f"the weights come out the same to the byte:\n\n{_fenced(_COMMAND, 'sh')}"
    )


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
