"""Loading a language model, and what to say when it cannot be loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from prunerzero import identity
from prunerzero.errors import ModelError, first_line
from prunerzero.language.checkpoint_files import CheckpointFiles
from prunerzero.language.devices import compute_dtype, find_devices
from prunerzero.language.gguf_once import gguf_once
from prunerzero.language.hub import cache_refusal
from prunerzero.language.kinds import auto_class, check_config, check_inputs, empty_model
from prunerzero.language.locate import locate
from prunerzero.language.models import LanguageModel, floating_tensors
from prunerzero.language.quiet import quiet_transformers
from prunerzero.language.source import ModelSource
from prunerzero.packed.files import is_packed

_NO_EXPLANATION = (AttributeError, TypeError, LookupError, ArithmeticError, AssertionError)
"""What transformers raises where it did not check a config: its message helps no user."""


def load_model(source: ModelSource, keep_packed: bool = False) -> LanguageModel:
    """Load a causal language model, or a vision-language model to be used on text.

    On several GPUs the blocks are spread evenly. A GGUF file is dequantised. Of pickled weights,
    nothing but tensors is accepted.

    Args:
        source: which model.
        keep_packed: run a packed model as it is, without a dense copy; else its weights are
            expanded, for those who change or read them.

    Raises:
        ModelError: not found, damaged, unreachable, or not a causal language model.
    """
    devices = find_devices(source.device)

    def dtype_and_places(_config: Any, stored: torch.dtype) -> dict[str, Any]:
        wanted = compute_dtype(source.dtype, stored, devices[0])
        # float32 holds every value of a narrower dtype: read as stored, and widen afterwards
        return {"dtype": "auto" if wanted == torch.float32 else wanted} | _spread(devices)

    read = read_model(source, dtype_and_places, keep_packed)
    model, stored = read.model, read.stored_dtype
    wanted = compute_dtype(source.dtype, stored, devices[0])
    dtypes = {name: tensor.dtype for name, tensor in floating_tensors(model).items()}
    if wanted == torch.float32:
        stored = model.dtype
        nn.Module.float(model)  # transformers refuses it for packed models, which it does not hurt
    else:
        dtypes = {name: stored if dtype == wanted else dtype for name, dtype in dtypes.items()}
    if not hasattr(model, "hf_device_map"):
        model.to(devices[0])
    return replace(read, stored_dtype=stored, dtypes=dtypes)


def _spread(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Options of ``from_pretrained`` by which accelerate places the blocks on several GPUs."""
    if len(devices) == 1 or any(device.type != "cuda" for device in devices):
        return {}
    free = {device.index or 0: torch.cuda.mem_get_info(device)[0] for device in devices}
    return {"device_map": "balanced", "max_memory": free}


@quiet_transformers()
def read_model(
    source: ModelSource,
    more_options: Callable[[Any, torch.dtype], dict[str, Any]],
    keep_packed: bool = False,
) -> LanguageModel:
    """The model as transformers reads it; the caller fills in ``dtypes``.

    Args:
        source: ``dtype`` and ``device`` are for the caller, who passes what follows from them.
        more_options: config and dtype of the checkpoint → further options of ``from_pretrained``.
        keep_packed: as for ``load_model``.

    Raises:
        ModelError: as ``load_model``.
    """
    from transformers import AutoConfig

    name = source.model
    where, options = locate(source)
    is_gguf = "gguf_file" in options
    try:
        with gguf_once(options):
            config = AutoConfig.from_pretrained(where, **options)
            check_config(name, config, from_gguf=is_gguf)
            before = copy.deepcopy(config)  # loading changes it
            tokenizer = _read_tokenizer(name, where, options)
            stored = config.get_text_config().dtype or config.dtype or torch.float32
            model, report = auto_class(config).from_pretrained(
                where,
                use_safetensors=None if is_gguf or source.allow_pickle else True,
                output_loading_info=True,
                **more_options(config, stored),
                **options,
            )
    except ModelError:
        raise
    except Exception as error:  # a broken model makes transformers raise almost anything
        raise refusal_of(name, error) from error
    if missing := sorted(report["missing_keys"]):  # transformers fills them with random numbers
        raise ModelError(
            f"the weights of {name!r} lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more tensors." if len(missing) > 1 else ".")
        )
    check_inputs(name, model)
    files = CheckpointFiles.of(
        options.get("gguf_file", where), source.revision, source.allow_pickle
    )
    if is_packed(config):
        model = model if keep_packed else model.dequantize()
    else:
        _forget_quantisation(model)
    return LanguageModel(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        stored_dtype=stored,
        dtypes={},
        files=files,
        config_digest=identity.of_config(before, files.code if source.trust_remote_code else ()),
        unused=tuple(sorted(report.get("unexpected_keys") or ())),
    )


@quiet_transformers()
def empty_model_of(source: ModelSource) -> Any | None:
    """The model without weights, from its config alone; None where only loading it can tell.

    Raises:
        ModelError: there is no such model.
    """
    from transformers import AutoConfig

    where, options = locate(source)
    if "gguf_file" in options:  # transformers reads all of it for its config
        return None
    try:
        config = AutoConfig.from_pretrained(where, **options)
        return empty_model(config, source.trust_remote_code)
    except Exception:  # loading will say what is wrong
        return None


@quiet_transformers()
def outline_of(source: ModelSource) -> LanguageModel:
    """The model without its weights, on the meta device, with its tokenizer: it reads texts.

    Raises:
        ModelError: as ``load_model``, where that shows without the weights.
    """
    from transformers import AutoConfig

    where, options = locate(source)
    try:
        with gguf_once(options):
            config = AutoConfig.from_pretrained(where, **options)
            check_config(source.model, config, from_gguf="gguf_file" in options)
            tokenizer = _read_tokenizer(source.model, where, options)
        model = empty_model(config, source.trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # a broken config makes transformers raise almost anything
        raise refusal_of(source.model, error) from error
    return LanguageModel(source.model, model, tokenizer, model.dtype, {})


def _read_tokenizer(name: str, where: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        tokenizer("a", add_special_tokens=False, verbose=False)  # its settings are read now
    except Exception as error:  # a damaged file makes it raise almost anything
        if isinstance(error, ImportError) or "trust_remote_code" in str(error):
            raise
        raise ModelError(
            f"{name!r} has no tokenizer that transformers can read; put the tokenizer's files, "
            "such as tokenizer.json and tokenizer_config.json, beside the weights."
        ) from error
    return tokenizer


def refusal_of(name: str, error: Exception) -> ModelError:
    """Why a model could not be loaded, and what to do, in a sentence."""
    if isinstance(error, ImportError):
        return ModelError(f"loading {name!r} needs another package: {first_line(error)}.")
    if isinstance(error, SafetensorError):
        return ModelError(f"a weights file of {name!r} is damaged: {first_line(error)}.")
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return ModelError(
            f"{name!r} brings Python code of its own; read it, and pass "
            "`trust_remote_code=True` to run it."
        )
    if isinstance(error, _NO_EXPLANATION):
        return ModelError(
            f"{name!r} could not be loaded as a causal language model: something in its "
            "config.json is not what transformers expects; compare it with the original."
        )
    if reason := cache_refusal(error, is_local=Path(name).expanduser().exists()):
        return ModelError(f"{name!r} could not be loaded: {reason}")
    return ModelError(
        f"{name!r} could not be loaded as a causal language model: {first_line(error)}."
    )


def _forget_quantisation(model: Any) -> None:
    """Weights read from GGUF are ordinary ones, but transformers marks them and will not save."""
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    model.is_quantized = False
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
