"""Language models: a hub id, a folder, a GGUF file, or the word ``bundled``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from prunerzero.errors import ModelError
from prunerzero.language.checkpoint_files import (
    check_folder,
    companion_files,
    restore_dtypes,
    tensor_files,
)
from prunerzero.language.hub import ask_hub
from prunerzero.language.kinds import auto_class, check_config, check_inputs
from prunerzero.language.quiet import quiet_transformers

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What configs call the longest window; a model without a limit has none of these."""

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
        dtypes: that of each parameter and buffer, for checkpoints that keep some apart.
        companions: further files of the checkpoint, such as those of an image processor.
        files: where each tensor of the checkpoint lies.
    """

    name: str
    model: Any
    tokenizer: Any
    stored_dtype: torch.dtype
    dtypes: dict[str, torch.dtype]
    companions: tuple[Path, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def context_length(self) -> int:
        """The longest window the model can read, in tokens."""
        config = self.model.config.get_text_config()
        limits = (getattr(config, word, None) for word in _LIMITS)
        return int(next((limit for limit in limits if limit and limit > 0), 2048))

    @property
    def begin(self) -> int | None:
        """The token to begin every window with: Gemma models predict poorly without theirs.

        Others read text from its middle, as the tables of the pruning literature are made.
        """
        family: str = self.model.config.get_text_config().model_type
        begin: int | None = self.tokenizer.bos_token_id if "gemma" in family else None
        return begin

    @quiet_transformers()
    def save(self, folder: Path) -> None:
        """Write a checkpoint like the one that was read; the model is in its dtype afterwards."""
        for name, tensor in _tensors(self.model).items():
            tensor.data = tensor.data.to(self.dtypes[name])
        self.model.save_pretrained(folder)
        restore_dtypes(folder, self.files)
        self.save_companions(folder)

    def save_companions(self, folder: Path) -> None:
        """Write what a checkpoint holds beside the model itself."""
        self.tokenizer.save_pretrained(folder)
        for file in self.companions:
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> LanguageModel:
    """Load a causal language model, or a vision-language model to be used on text.

    Args:
        name: hub id ``ORG/NAME``, folder, GGUF file (dequantised), or ``"bundled"``.
        revision: branch, tag or commit on the hub.
        dtype: ``"auto"`` computes in the checkpoint's dtype on a GPU and in float32 on a CPU;
            otherwise ``float32``, ``bfloat16`` or ``float16``.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; over
            several GPUs, ``"cuda:0,cuda:1"``, the blocks are spread evenly.
        trust_remote_code: run Python code that the hub's repository carries.
        allow_pickle: read pickled weights where there are no others; of what a pickle may hold,
            tensors alone are accepted.

    Raises:
        ModelError: not found, damaged, unreachable, or not a causal language model.
    """
    where, *more = find_devices(device)
    wanted: torch.dtype | None = None

    def choose(_config: Any, stored: torch.dtype) -> dict[str, Any]:
        nonlocal wanted
        wanted = compute_dtype(dtype, stored, where)
        # float32 holds all that a narrower dtype does, so it is read as it is and widened after
        spread = _spread((where, *more)) if more else {}
        return {"dtype": "auto" if wanted == torch.float32 else wanted} | spread

    tokenizer, model, stored = read_model(name, revision, trust_remote_code, choose, allow_pickle)
    dtypes = {key: tensor.dtype for key, tensor in _tensors(model).items()}
    if wanted == torch.float32:
        stored = model.dtype
        model.float()
    else:
        dtypes = {key: stored if found == wanted else found for key, found in dtypes.items()}
    if not hasattr(model, "hf_device_map"):
        model.to(where)
    files = tensor_files(name, revision)
    companions = companion_files(name, revision)
    return LanguageModel(name, model, tokenizer, stored, dtypes, companions, files)


def _spread(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Options of ``from_pretrained`` that place the blocks on several GPUs, by accelerate."""
    if any(device.type != "cuda" for device in devices):
        return {}
    room = {device.index or 0: torch.cuda.mem_get_info(device)[0] for device in devices}
    return {"device_map": "balanced", "max_memory": room}


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and floating-point buffers by name."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


@quiet_transformers()
def read_model(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    choose: Callable[[Any, torch.dtype], dict[str, Any]],
    allow_pickle: bool = False,
) -> tuple[Any, Any, torch.dtype]:
    """Tokenizer, model and the dtype of its checkpoint.

    ``choose`` is given the config and that dtype, and returns further options of
    ``from_pretrained``. Raises ModelError, as ``load_model`` does.
    """
    from transformers import AutoConfig, AutoTokenizer

    source, options = _locate(name, revision, allow_pickle)
    try:
        options["trust_remote_code"] = trust_remote_code
        config = AutoConfig.from_pretrained(source, **options)
        check_config(name, config, from_gguf="gguf_file" in options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        stored = config.get_text_config().dtype or config.dtype or torch.float32
        model, loading = auto_class(config).from_pretrained(
            source,
            use_safetensors=None if "gguf_file" in options or allow_pickle else True,
            output_loading_info=True,
            **choose(config, stored),
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
    check_inputs(name, model)
    _forget_quantisation(model)
    return tokenizer, model.eval().requires_grad_(False), stored


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of names, shapes and a sample of every parameter: equal models, equal hash."""
    return parameters_fingerprint(sorted(model.named_parameters()))


def parameters_fingerprint(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The same of parameters that are given one by one, sorted by name."""
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 4096)].float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:32]


def find_device(device: str) -> torch.device:
    """The device of that name, or with ``"auto"`` a GPU if there is one. Raises ModelError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {_sentence(error)}") from error
    return where


def find_devices(devices: str) -> tuple[torch.device, ...]:
    """The devices of these names, separated by commas. Raises ModelError."""
    return tuple(find_device(name.strip()) for name in devices.split(","))


def compute_dtype(dtype: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What to compute in, as ``load_model`` explains. Raises ModelError."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else stored
    found = getattr(torch, dtype, None)
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError(f"dtype {dtype!r} must be auto, float32, bfloat16 or float16.")
    return found  # type: ignore[no-any-return]


def _locate(
    name: str, revision: str | None, allow_pickle: bool = False
) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers; refuses what cannot be or hold a model."""
    if name == BUNDLED:
        return str(files("prunerzero.bundled") / "model"), {}
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"model file {name!r} is not a .gguf file; pass a folder instead.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        check_folder(path, allow_pickle)
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
