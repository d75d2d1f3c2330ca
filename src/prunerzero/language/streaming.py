"""A model whose blocks stay in their files and are read tensor by tensor when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.language.kinds import empty_model
from prunerzero.language.loading import read_model
from prunerzero.language.models import LanguageModel
from prunerzero.language.quiet import quiet_logger
from prunerzero.language.source import ModelSource
from prunerzero.packed.files import is_packed


@dataclass(frozen=True)
class StreamedModel:
    """A language model with parts of it on the meta device.

    Attributes:
        language_model: everything outside these parts is in CPU memory, in the checkpoint's dtype.
        files: the parameters of these parts by their full names, each read from its file on
            access; in the checkpoint's dtype.
    """

    language_model: LanguageModel
    files: Mapping[str, Tensor]


def open_streamed(
    source: ModelSource, choose: Callable[[nn.Module], list[str]], scratch: Path
) -> StreamedModel:
    """Open a model without reading the weights of some of its parts.

    Args:
        source: which model; its ``dtype`` and ``device`` are for those who read the weights.
        choose: the model without weights → names of the modules that stay in their files.
        scratch: folder for weights that the checkpoint stores in another form than the model
            has them (GGUF, experts one by one); they are read from there.

    Raises:
        ModelError: as ``load_model``.
    """
    left: list[str] = []

    def places(config: Any, _stored: torch.dtype) -> dict[str, Any]:
        if is_packed(config):
            raise ModelError(
                f"{source.model!r} is packed, and cannot be read block by block; give its ordinary "
                "checkpoint back with 'prunerzero unpack', and pass that."
            )
        empty = empty_model(config, source.trust_remote_code)
        left.extend(choose(empty))
        return {
            "dtype": "auto",
            "device_map": {**_outside(empty, "", left), **dict.fromkeys(left, "disk")},
            "offload_folder": str(scratch),
        }

    with quiet_logger("accelerate"):  # it warns of the meta device
        read = read_model(source, places)
    model = read.model
    files = _files(model, left)
    del model.hf_device_map  # with it transformers would load and save as it sees fit
    dtypes = {key: parameter.dtype for key, parameter in model.named_parameters()}
    return StreamedModel(replace(read, stored_dtype=model.dtype, dtypes=dtypes), files)


def _outside(module: nn.Module, name: str, left: list[str]) -> dict[str, str]:
    """Places everything except the modules in ``left`` on the CPU, in as few pieces as possible."""
    prefix = f"{name}." if name else ""
    children = tuple(f"{key}." for key, _ in module.named_children())
    own = (key for key in module.state_dict() if not key.startswith(children))
    places = {f"{prefix}{key}": "cpu" for key in own}
    for key, child in module.named_children():
        full = f"{prefix}{key}"
        if full in left:
            continue
        if any(part.startswith(f"{full}.") for part in left):
            places |= _outside(child, full, left)
        else:
            places[full] = "cpu"
    return places


def _files(model: Any, left: list[str]) -> Mapping[str, Tensor]:
    """Take accelerate's map of weights on disk, and its hooks off the model."""
    from accelerate.hooks import remove_hook_from_submodules

    modules = (module for part in left for module in model.get_submodule(part).modules())
    hooks = (getattr(module, "_hf_hook", None) for module in modules)
    maps = (getattr(hook, "weights_map", None) for hook in hooks)
    files: Mapping[str, Tensor] = next(one.dataset for one in maps if one is not None)
    remove_hook_from_submodules(model)
    return files
