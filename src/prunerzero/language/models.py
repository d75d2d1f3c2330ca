"""Language models: a hub id, a folder, a GGUF file, or the word ``bundled``."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from prunerzero import identity
from prunerzero.documents import path_of
from prunerzero.errors import ModelError, TextError
from prunerzero.language.checkpoint_files import CheckpointFiles, check_folder, restore_dtypes
from prunerzero.language.corpora import Text, cut_windows
from prunerzero.language.hub import ask_hub, cache_refusal
from prunerzero.language.kinds import auto_class, check_config, check_inputs, context_length
from prunerzero.language.quiet import quiet_transformers
from prunerzero.language.source import BUNDLED


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        name: as the user gave it.
        model: the transformers model, in evaluation mode, on its device.
        tokenizer: the transformers tokenizer.
        stored_dtype: dtype of the checkpoint, which a pruned checkpoint keeps.
        dtypes: that of each parameter and buffer, for checkpoints that keep some apart.
        files: the checkpoint's files.
        config_digest: ``identity.of_config`` of the checkpoint's config.
        unused: tensors of the checkpoint that the model has no place for.
    """

    name: str
    model: Any
    tokenizer: Any
    stored_dtype: torch.dtype
    dtypes: dict[str, torch.dtype]
    files: CheckpointFiles = field(default_factory=CheckpointFiles)
    config_digest: str = ""
    unused: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def context_length(self) -> int:
        """The longest window the model can read, in tokens."""
        return context_length(self.model.config)

    @property
    def begin(self) -> int | None:
        """The token to begin every window with: Gemma models predict poorly without theirs.

        Others read text from its middle, as the tables of the pruning literature are made.
        """
        family: str = self.model.config.get_text_config().model_type
        begin: int | None = self.tokenizer.bos_token_id if "gemma" in family else None
        return begin

    @property
    def embeddings(self) -> int | None:
        """How many tokens the model has an embedding for; None where that cannot be told."""
        try:
            weight = self.model.get_input_embeddings().weight
        except (AttributeError, NotImplementedError):
            return None
        return int(weight.shape[0])

    def identity(self, on_bytes: Callable[[int], None] = lambda done: None) -> dict[str, str]:
        """What the model is: digests of its weights, config and tokenizer.

        Every byte of the weights files is read, unless that was done before. Weights whose files
        are not known are taken from memory.

        Args:
            on_bytes: told how many bytes of the files are done.
        """
        if self.files.weights:
            weights = identity.of_weights(self.files.weights, on_bytes)
        else:
            tensors = identity.of_tensors(sorted(self.model.state_dict().items()))
            weights = identity.digest(*tensors, *tensors.values())
        return {
            "weights": weights,
            "config": self.config_digest,
            "tokenizer": identity.of_tokenizer(self.tokenizer),
        }

    def windows(
        self, documents: list[str], length: int, name: str, stride: int | None = None
    ) -> Text:
        """The documents as windows of tokens that the model can read; see ``cut_windows``.

        Raises:
            TextError: too short for one window, or with tokens that the model has no embedding for.
        """
        text = cut_windows(documents, self.tokenizer, length, name, stride, self.begin)
        highest = int(text.windows.max())
        if (known := self.embeddings) is not None and highest >= known:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise TextError(
                f"{name} holds the token {token!r} (number {highest}), but the model {self.name!r} "
                f"has embeddings for {known} tokens alone: its tokenizer, of {len(self.tokenizer)} "
                "tokens, belongs to another model; pass the model with its own tokenizer."
            )
        return text

    @quiet_transformers()
    def save(self, folder: Path) -> None:
        """Write a checkpoint like the one that was read; the model is in its dtype afterwards."""
        for name, tensor in _tensors(self.model).items():
            tensor.data = tensor.data.to(self.dtypes[name])
        self.model.config.transformers_weights = None  # the files get their usual names
        self.model.save_pretrained(folder)
        restore_dtypes(folder, self.files.tensors())
        self.save_companions(folder)

    def save_companions(self, folder: Path) -> None:
        """Write what a checkpoint holds beside the model itself."""
        self.tokenizer.save_pretrained(folder)
        for file in self.files.companions:
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

    read = read_model(name, revision, trust_remote_code, choose, allow_pickle)
    model, stored = read.model, read.stored_dtype
    dtypes = {key: tensor.dtype for key, tensor in _tensors(model).items()}
    if wanted == torch.float32:
        stored = model.dtype
        model.float()
    else:
        dtypes = {key: stored if found == wanted else found for key, found in dtypes.items()}
    if not hasattr(model, "hf_device_map"):
        model.to(where)
    return replace(read, stored_dtype=stored, dtypes=dtypes)


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
) -> LanguageModel:
    """The model as transformers reads it, ``dtypes`` not yet known.

    ``choose`` is given the config and the dtype of the checkpoint, and returns further options of
    ``from_pretrained``. Raises ModelError, as ``load_model`` does.
    """
    from transformers import AutoConfig, AutoTokenizer

    source, options = locate(name, revision, allow_pickle)
    try:
        options["trust_remote_code"] = trust_remote_code
        config = AutoConfig.from_pretrained(source, **options)
        check_config(name, config, from_gguf="gguf_file" in options)
        before = copy.deepcopy(config)  # loading changes it
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            tokenizer("a", add_special_tokens=False, verbose=False)  # its settings are read now
        except ImportError:
            raise
        except Exception as error:  # a damaged file makes it raise almost anything
            if "trust_remote_code" in str(error):
                raise
            raise ModelError(
                f"{name!r} has no tokenizer that transformers can read; put the tokenizer's files, "
                "such as tokenizer.json and tokenizer_config.json, beside the weights."
            ) from error
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
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name!r} brings Python code of its own; read it, and pass "
                "`trust_remote_code=True` to run it."
            ) from error
        raise _unloadable(name, error) from error
    except Exception as error:  # a broken model makes transformers raise almost anything
        raise _unloadable(name, error) from error
    if missing := sorted(loading["missing_keys"]):  # transformers fills them with random numbers
        raise ModelError(
            f"the weights of {name!r} lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more tensors." if len(missing) > 1 else ".")
        )
    check_inputs(name, model)
    files = CheckpointFiles.of(options.get("gguf_file", source), revision, allow_pickle)
    _forget_quantisation(model)
    return LanguageModel(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        stored_dtype=stored,
        dtypes={},
        files=files,
        config_digest=identity.of_config(before, files.code if trust_remote_code else ()),
        unused=tuple(sorted(loading.get("unexpected_keys") or ())),
    )


_UNTOLD = (AttributeError, TypeError, LookupError, ArithmeticError, AssertionError)
"""What transformers stumbles into where it did not look for a fault: its words help nobody."""


def _unloadable(name: str, error: Exception) -> ModelError:
    if isinstance(error, _UNTOLD):
        return ModelError(
            f"{name!r} could not be loaded as a causal language model: something in its "
            "config.json is not what transformers expects; compare it with the original."
        )
    if reason := cache_refusal(error, is_local=Path(name).expanduser().exists()):
        return ModelError(f"{name!r} could not be loaded: {reason}")
    return ModelError(
        f"{name!r} could not be loaded as a causal language model: {_sentence(error)}"
    )


def find_device(device: str) -> torch.device:
    """The device of that name, or with ``"auto"`` a GPU if there is one. Raises ModelError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        if where.type == "meta":
            raise ModelError("device 'meta' holds no numbers; pass `device=\"cpu\"` or a GPU.")
        torch.empty(0, device=where)
    except NotImplementedError:
        raise ModelError(
            f"device {device!r} cannot be used here: this torch has no such."
        ) from None
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


def locate(
    name: str, revision: str | None, allow_pickle: bool = False
) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers, and options. Raises ModelError for what is no model."""
    if name == BUNDLED:
        return str(files("prunerzero.bundled") / "model"), {}
    path = path_of(name)
    if os.path.isfile(path):  # which also knows that a name too long for a file is none
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"model file {name!r} is not a .gguf file; pass a folder instead.")
        # the whole path: transformers would take a file of that name in the working folder first
        return str(path.parent), {"gguf_file": str(path.resolve())}
    if os.path.isdir(path):
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
