"""Which matrices of a checkpoint can be packed, and why the others cannot."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import ModelError
from prunerzero.pruning.blocks import Matrix, prunable_layers
from prunerzero.pruning.linear_maps import is_plain

EMBEDDING = "embedding"
HEAD = "output head"
EXPERTS = "experts in one tensor"
CONVOLUTION = "convolution"
OTHER_FORM = "stored in another form than the model has it"
SHARED = "shared by several layers"
OWN_PRODUCT = "does more than a product"
READ = "read by the model beside the product"
OUTSIDE = "no linear layer in a block that is pruned"
NOT_PRUNED = "smaller as it is: too few zeros"


@dataclass(frozen=True)
class Place:
    """Where a tensor of a checkpoint goes in the model.

    Attributes:
        module: the name of the linear layer whose weight it is; empty where it cannot be packed.
        transposed: whether it is stored inputs × outputs.
        why: it cannot be packed; empty where it can.
    """

    module: str = ""
    transposed: bool = False
    why: str = ""


def destinations_of(model: Any, names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor of a checkpoint.

    Args:
        model: of transformers, without weights.
        names: of the tensors in the checkpoint's files.
    """
    try:
        layers = prunable_layers(model)
    except ModelError:
        layers = {}
    plain = _Plain()
    whys = {name: _why_not(layer, plain) for name, layer in layers.items()}
    whys |= dict.fromkeys(
        _read_beside(model, {n: layers[n] for n, why in whys.items() if not why}), READ
    )
    rename = _Renamed(model, layers)
    fused = {id(layer.stored) for layer in layers.values() if layer.expert is not None}
    places = {}
    for name in names:
        parameter, converted = rename(name)
        module, _, last = parameter.rpartition(".")
        if not converted and last == "weight" and module in layers:
            why = whys[module]
            if not why and rename(f"{name.removesuffix('weight')}mask")[0] != f"{module}.mask":
                why = OTHER_FORM
            places[name] = Place(module, layers[module].transposed, why)
        else:
            places[name] = Place(why=_other(model, parameter, converted, fused))
    return places


class _Renamed:
    """The name in the model of a tensor in the files, as transformers renames it on loading."""

    def __init__(self, model: Any, layers: Iterable[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        conversions = get_model_conversion_mapping(model)
        self._converters = [one for one in conversions if isinstance(one, WeightConverter)]
        self._renamings = [one for one in conversions if not isinstance(one, WeightConverter)]
        self._prefix = model.base_model_prefix
        self._known: dict[str, Tensor] = dict(model.state_dict())
        self._known |= {f"{name}.mask": torch.empty(0) for name in layers}

    def __call__(self, name: str) -> tuple[str, bool]:
        """The name, and whether the tensor is put together with others or cut."""
        from transformers.core_model_loading import rename_source_key

        renamed, converter = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._known
        )
        return renamed, converter is not None


class _Plain:
    """Whether layers of a class only multiply and add a bias, tried once a class with values."""

    def __init__(self) -> None:
        self._known: dict[type[nn.Module], bool] = {nn.Linear: True}

    def __call__(self, module: nn.Module) -> bool:
        kind = type(module)
        if kind not in self._known:
            twin = copy.deepcopy(module).to_empty(device="cpu").float()
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.detach().normal_(generator=torch.Generator().manual_seed(0))
            self._known[kind] = is_plain(twin)
        return self._known[kind]


def _why_not(layer: Matrix, plain: _Plain) -> str:
    """Why a prunable matrix cannot be packed; empty where it can."""
    if layer.expert is not None:
        return EXPERTS
    if layer.sharing:
        return SHARED
    return "" if plain(layer.module) else OWN_PRODUCT


def _other(model: Any, parameter: str, converted: bool, fused: set[int]) -> str:
    """Why a tensor is not packed that is the weight of no layer of its own."""
    owner, _, key = parameter.rpartition(".")
    try:
        module = model.get_submodule(owner)
        tensor = getattr(module, key)
    except AttributeError:
        return OTHER_FORM if converted else OUTSIDE
    if isinstance(module, nn.Embedding):
        return EMBEDDING
    if module is model.get_output_embeddings():
        return HEAD
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return CONVOLUTION
    if id(tensor) in fused or (isinstance(tensor, Tensor) and tensor.dim() == 3):
        return EXPERTS
    return OTHER_FORM if converted else OUTSIDE


class _Watched(nn.Module):
    """Stands for a linear layer without weights, and notes that somebody else reads them."""

    def __init__(self, layer: Matrix) -> None:
        super().__init__()
        object.__setattr__(self, "_layer", layer)
        self.read = False

    @property
    def weight(self) -> Tensor:
        self.read = True
        weight: Tensor = self._layer.stored
        return weight

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_layer").module, name)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.new_empty(*inputs.shape[:-1], self._layer.weight.shape[0])


def _read_beside(model: Any, layers: dict[str, Matrix]) -> list[str]:
    """The layers whose weights are read elsewhere than in their own product.

    Found by a pass without values; where a model does not take one, nothing is known.
    """
    watched = {name: _Watched(layer) for name, layer in layers.items()}
    stand_ins = {id(layers[name].module): one for name, one in watched.items()}
    replaced = [
        (parent, key, child)
        for parent in list(model.modules())
        for key, child in parent._modules.items()
        if id(child) in stand_ins
    ]
    for parent, key, child in replaced:
        parent._modules[key] = stand_ins[id(child)]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 4, dtype=torch.long, device="meta"), use_cache=False)
    except Exception:  # whatever it raises: some models look at values, which there are none of
        pass
    finally:
        for parent, key, child in replaced:
            parent._modules[key] = child
    return [name for name, one in watched.items() if one.read]
