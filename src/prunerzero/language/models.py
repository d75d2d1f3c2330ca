"""Language models: a hub id, a folder, a GGUF file, or the word ``bundled``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from prunerzero.errors import ModelError
from prunerzero.language.hub import ask_hub

BUNDLED = "bundled"
"""The model that ships inside the package; see ``bundled/model/README.md``."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        name: as the user gave it.
        model: the transformers model, in evaluation mode, on its device.
        tokenizer: the transformers tokenizer.
        stored_dtype: dtype of the checkpoint, which a pruned checkpoint keeps.
    """

    name: str
    model: Any
    tokenizer: Any
    stored_dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def context_length(self) -> int:
        """The longest window the model can read, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 2048))


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model.

    Args:
        name: hub id ``ORG/NAME``, folder, GGUF file (dequantised), or ``"bundled"``.
        revision: branch, tag or commit on the hub.
        dtype: ``"auto"`` computes in the checkpoint's dtype on a GPU and in float32 on a CPU;
            otherwise ``float32``, ``bfloat16`` or ``float16``.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
        trust_remote_code: run Python code that the hub's repository carries.

    Raises:
        ModelError: not found, damaged, unreachable, or not a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = _device(device)
    source, options = _locate(name, revision)
    logging.disable_progress_bar()  # ours say more
    logging.set_verbosity_error()
    try:
        options["trust_remote_code"] = trust_remote_code
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        config = AutoConfig.from_pretrained(source, **options)
        stored = config.get_text_config().dtype or torch.float32
        model, loading = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=_compute_dtype(dtype, stored, where),
            use_safetensors=None if "gguf_file" in options else True,
            output_loading_info=True,
            **options,
        )
    except ImportError as error:
        raise ModelError(f"loading {name!r} needs another package: {_sentence(error)}") from error
    except SafetensorError as error:
        raise ModelError(f"a weights file of {name!r} is damaged: {_sentence(error)}") from error
    except ModelError:
        raise
    except Exception as error:  # a broken model makes transformers raise almost anything
        raise ModelError(
            f"{name!r} could not be loaded as a causal language model: {_sentence(error)}"
        ) from error
    if missing := sorted(loading["missing_keys"]):  # transformers fills them with random numbers
        raise ModelError(
            f"the weights of {name!r} lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more tensors." if len(missing) > 1 else ".")
        )
    _forget_quantisation(model)
    model.to(where).eval().requires_grad_(False)
    return LanguageModel(name, model, tokenizer, stored)


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of names, shapes and a sample of every parameter: equal models, equal hash."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 4096)].float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:32]


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {_sentence(error)}") from error
    return where


def _compute_dtype(dtype: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else stored
    found = getattr(torch, dtype, None)
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError(f"dtype {dtype!r} must be auto, float32, bfloat16 or float16.")
    return found  # type: ignore[no-any-return]


def _locate(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers; refuses what cannot be or hold a model."""
    if name == BUNDLED:
        return str(files("prunerzero.bundled") / "model"), {}
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"model file {name!r} is not a .gguf file; pass a folder instead.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        _check_folder(path)
        return str(path), {}
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no model folder or file {name!r}.")
    return name, {"revision": revision, "local_files_only": _only_cached(name, revision)}


def _only_cached(name: str, revision: str | None) -> bool:
    """Whether the hub's model is to be read from the cache, the hub being out of reach."""
    answer = ask_hub(name, "model", revision)
    if answer == "there":
        return False
    from huggingface_hub import try_to_load_from_cache

    if answer == "unreachable" and isinstance(
        try_to_load_from_cache(name, "config.json", revision=revision), str
    ):
        return True
    problem = (
        "and the hub cannot be reached"
        if answer == "unreachable"
        else "and the hub has none either"
    )
    raise ModelError(
        f"there is no model folder {name!r}, {problem}; pass a model folder, a .gguf file, or "
        "'bundled'."
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"folder '{folder}' holds no config.json, so it is no model.")
    try:
        described = isinstance(json.loads((folder / "config.json").read_text()), dict)
    except ValueError:
        described = False
    if not described:
        raise ModelError(f"'{folder / 'config.json'}' is no valid JSON object.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(folder.glob("*.bin"))
        raise ModelError(
            f"folder '{folder}' holds no safetensors weights"
            + (", only pickled ones; convert them to safetensors first." if pickled else ".")
        )
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"weights file '{file}' is truncated or damaged ({_sentence(error)[:-1]})."
            ) from None


def _sentence(error: Exception) -> str:
    """The first line of a library's message, as the end of one of our sentences."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.rstrip(".:") + "."


def _forget_quantisation(model: Any) -> None:
    """Weights read from GGUF are ordinary ones, but transformers marks them and will not save."""
    if hasattr(model, "hf_quantizer"):
        del model.hf_quantizer
    model.is_quantized = False
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
