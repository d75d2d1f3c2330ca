"""Kinds of models: which can be pruned, and which class of transformers loads each."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch

from prunerzero.errors import ModelError
from prunerzero.packed.files import is_packed

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names that configs have for the longest window; a model without a limit has none of them."""


def check_config(name: str, config: Any, from_gguf: bool) -> None:
    """Raise ModelError for a kind of model that cannot be pruned."""
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name!r} is an encoder-decoder ({config.model_type}); only decoders that predict "
            "the next token can be pruned."
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised and not from_gguf and not is_packed(config):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ModelError(
            f"the weights of {name!r} are quantised ({method or 'in some way'}); pass the "
            "checkpoint that they were made from, or a .gguf file."
        )


def check_inputs(name: str, model: Any) -> None:
    """Raise ModelError where the model needs more than text to run."""
    for parameter in signature(model.forward).parameters.values():
        required = parameter.default is parameter.empty and "VAR" not in parameter.kind.name
        if required and parameter.name != "input_ids":
            raise ModelError(
                f"{name!r} cannot be run on text alone: it also needs {parameter.name}."
            )


def context_length(config: Any) -> int:
    """The longest window that a model of this config can read, in tokens."""
    text = config.get_text_config()
    limits = (getattr(text, word, None) for word in _LIMITS)
    return int(next((limit for limit in limits if limit and limit > 0), 2048))


def auto_class(config: Any) -> Any:
    """The auto class of transformers that loads the whole model of this config.

    A config with a text config inside is that of a model that also reads images or sound;
    ``AutoModelForCausalLM`` would load its text part only. Some vision-language models have a
    config without such a part.
    """
    import transformers

    families = ["AutoModelForImageTextToText", "AutoModelForMultimodalLM"]
    text_first = config.get_text_config() is config
    families.insert(0 if text_first else len(families), "AutoModelForCausalLM")
    for family in families:
        auto = getattr(transformers, family, None)
        if auto is not None and type(config) in auto._model_mapping:
            return auto
    return transformers.AutoModelForCausalLM


def empty_model(config: Any, trust_remote_code: bool) -> Any:
    """The model of this config on the meta device: modules and shapes, without weights."""
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
