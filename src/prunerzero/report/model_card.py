"""The README of a pruned model: what was done to it, measured with what, and how to do it again.

That of a packed model says what it is, how to load it, and its size. ``templates/*.md.j2`` hold the
words; here is what stands in their places.
"""

import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader

from .wording import (
    MISSING,
    bytes_text,
    change_text,
    finite,
    percent_text,
    perplexity_text,
    sparsity_text,
)

PACKED_TAG = "prunerzero-packed"
"""In the front matter of the card of a packed model."""

UNPACKED_CARD = "README.unpacked.md"
"""What a packed folder calls the card of the model that was packed."""

_NOT_MEASURED = "No speed was measured here."


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
    pattern = str(recipe.get("sparsity", ""))
    layers = figures.get("layers") or []
    return _render(
        "model_card.md.j2",
        not_measured=_NOT_MEASURED,
        recipe=recipe,
        figures=figures,
        inherited=inherited or {},
        missing=MISSING,
        front_matter=_front_matter(model, inherited or {}),
        model=model,
        name=Path(model).name or model,
        pattern=pattern,
        sparsity=sparsity_text(recipe.get("sparsity", figures.get("sparsity", MISSING))),
        where=_where(recipe),
        calibration=_calibration(recipe),
        parts=_parts(recipe, figures),
        length=figures.get("window_length", recipe.get("max_seq_length", MISSING)),
        zeros=_zeros(figures),
        layers=layers,
        unreached=sum(bool(layer.get("unreached")) for layer in layers),
        auto_class=figures.get("auto_class", "AutoModelForCausalLM"),
        place=json.dumps(repository or "path/to/this/folder"),
        recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).strip(),
    )


def packed_card(
    packed: dict[str, Any],
    auto_class: str,
    inherited: dict[str, Any],
    unpacked: str | None,
) -> str:
    """The card of a packed model.

    Args:
        packed: what ``PackResult`` holds.
        auto_class: of transformers, that loads the model.
        inherited: licence and languages, as in the front matter of the card of what was packed.
        unpacked: that card, which is in the folder under ``UNPACKED_CARD``; None where there is
            none.
    """
    model = str(packed["model"])
    title = re.search("^# (.+)$", unpacked or "", re.M)
    return _render(
        "packed_card.md.j2",
        packed=packed,
        auto_class=auto_class,
        front_matter=_front_matter(model, inherited, PACKED_TAG),
        model=model,
        title=title[1] if title else _inline(Path(model).name or model),
        unpacked_card=None if unpacked is None else UNPACKED_CARD,
        not_measured=_NOT_MEASURED,
    )


def tell_speed(card: str, sentences: str) -> str:
    """A card with what was measured in the place of the sentence that nothing was."""
    return card.replace(_NOT_MEASURED, _inline(sentences))


def _render(template: str, **places: Any) -> str:
    return _environment().get_template(template).render(**places)


@cache  # for it keeps compiled templates
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=False,  # the filters make text safe in Markdown
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inline": _inline,
        "code": _code,
        "fenced": _fenced,
        "percent": percent_text,
        "perplexity": perplexity_text,
        "bytes": bytes_text,
    }
    return environment


def _front_matter(model: str, inherited: dict[str, Any], *tags: str) -> str:
    from huggingface_hub import ModelCardData

    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    fields |= inherited
    # "models/mine" may be a folder as well as a hub id: only the disk knows.
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model, re.ASCII) and not Path(model).exists():
        fields["base_model"] = model
    fields["tags"] = ["pruning", "sparsity", "pruner-zero", *tags]
    return f"---\n{ModelCardData(**fields).to_yaml()}\n---"


def _where(recipe: dict[str, Any]) -> str:
    """What the letters of the metric's formula stand for, of those that it reads."""
    of = "loss" if recipe.get("gradient", "full") == "full" else "block's output norm"
    meanings = {
        "W": "the magnitude of a weight",
        "X": "the squared norm of its input",
        "D": "the part of its input that the layer's other inputs cannot replace",
        "G": f"the magnitude of the gradient of the {of} by the weight",
    }
    letters = _letters(recipe)
    read = [letter for letter in meanings if letter in letters] or [*meanings]
    first, *others = (f"`{letter}` {meanings[letter]}" for letter in read)
    phrases = [first.replace("` ", "` is ", 1), *others]
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _letters(recipe: dict[str, Any]) -> set[str]:
    """What the metric's formula reads, of W, X, D and G."""
    return {*re.findall(r"\b[WXDG]\b", str(recipe.get("metric", "")))}


def _calibration(recipe: dict[str, Any]) -> str:
    texts = recipe.get("texts") or {}
    text = texts.get("calibration")
    if text is None:
        return "; this one reads the weights alone, so no calibration text was needed"
    count = (recipe.get("windows") or {}).get("calibration", MISSING)
    length = recipe.get("max_seq_length", MISSING)
    amount = f"{_inline(count)} windows of {_inline(length)} tokens"
    over = "; this one does not read" if _letters(recipe) == {"W"} else " over"
    if several := [name for place, name in texts.items() if place.startswith("calibration: ")]:
        names = ", ".join(map(_code, several))
        return f"{over} {len(several)} calibration texts: {names}, {amount} in equal shares"
    return f"{over} the calibration text: {_code(text)}, {amount}"


def _parts(recipe: dict[str, Any], figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the table of perplexities."""
    windows, texts = figures.get("windows") or {}, recipe.get("texts") or {}
    parts = []
    for part, values in (figures.get("perplexity") or {}).items():
        dense, pruned = finite(values.get("dense")), finite(values.get("pruned"))
        parts.append(
            {
                "name": part.partition(": ")[0],
                "text": texts.get(part, MISSING),
                "windows": windows.get(part, MISSING),
                "dense": dense,
                "pruned": pruned,
                "change": change_text(pruned / dense) if dense and pruned else MISSING,
            }
        )
    return parts


def _zeros(figures: dict[str, Any]) -> str:
    """How many zeros of all parameters those are; empty where that was not counted."""
    zeros, parameters = finite(figures.get("zeros")), finite(figures.get("parameters"))
    if zeros is None or not parameters:
        return ""
    return (
        f"Of all {parameters:,.0f} parameters of the model {zeros:,.0f} are zero"
        f" ({percent_text(round(zeros / parameters, 4))}); embeddings, norms and the output"
        " layer count as parameters too."
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
