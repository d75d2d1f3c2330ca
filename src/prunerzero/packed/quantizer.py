"""Packed models in transformers: ``from_pretrained``, ``dequantize`` and ``save_pretrained``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from prunerzero.errors import ModelError
from prunerzero.packed import kernels
from prunerzero.packed.files import FORMAT, METHOD, Facts, check_stored, facts_of
from prunerzero.packed.linear import (
    PackedLinear,
    check_layers,
    packed_layers,
    replace_layers,
)
from prunerzero.tensor_file import Form, read_header


class PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What ``quantization_config`` in ``config.json`` holds; ``docs/format.md`` has every field."""

    def __init__(self, format: int = FORMAT, matrices: Any = None, **_others: Any) -> None:
        self.quant_method = METHOD
        self.format = format
        self.matrices = matrices


class PackedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers in the place of dense ones, and back."""

    requires_calibration = True
    """A dense model is packed by ``prunerzero pack``, not on loading."""

    def __init__(self, quantization_config: PackedConfig, **others: Any) -> None:
        super().__init__(quantization_config, **others)
        self._facts = facts_of(quantization_config.to_dict())
        self._layers: tuple[PackedLinear, ...] = ()

    def update_attn_implementation(self, config: Any) -> Any:
        """Is handed the config before the weights are looked for: forget the name of no file."""
        config.transformers_weights = None
        return config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_others: Any
    ) -> None:
        """Replace layers while the model is on the meta device."""
        kernels.path()  # which refuses a wrong PRUNERZERO_KERNEL before the work
        found = _by_module(model, self._facts)
        stored: dict[str, Form] = {}
        for file in checkpoint_files or ():
            stored |= read_header(Path(file)).forms
        check_stored(_by_file(model, self._facts, stored), stored)
        wanted = {id(model.get_submodule(name)): name for name in found}

        def packed(module: nn.Module) -> nn.Module | None:
            name = wanted.get(id(module))
            return None if name is None else _packed(name, module, found[name])

        replace_layers(model, packed)

    def _process_model_after_weight_loading(self, model: Any, **_others: Any) -> Any:
        for name, layer in packed_layers(model).items():
            for (
                key,
                buffer,
            ) in layer.named_buffers():  # on meta: it stays on the disk until it is used
                if not buffer.is_meta and not getattr(buffer, "_is_hf_initialized", False):
                    raise ModelError(
                        f"transformers found no place in the model for {name}.{key} of the packed "
                        "checkpoint; unpack it with `prunerzero unpack`, and load that."
                    )
        check_layers(model)
        self._layers = tuple(packed_layers(model).values())
        for layer in self._layers:
            layer.arrange()
        return model

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """The ordinary model, in place, one layer after another."""
        self._layers = ()  # so that each goes when its dense layer has come
        replace_layers(
            model, lambda layer: layer.to_dense(dtype) if isinstance(layer, PackedLinear) else None
        )
        self.remove_quantization_config(model)
        for module in model.modules():
            if getattr(getattr(module, "config", None), "_is_quantized", False):
                del module.config._is_quantized
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether ``generate`` may compile a step, which it does with a static cache on a GPU.

        It asks torch for CUDA graphs too.
        """
        return all(layer.recordable for layer in self._layers)


def _by_module(model: Any, facts: dict[str, Facts]) -> dict[str, Facts]:
    """The facts by the names that modules have in this model: with a head, or without one.

    Raises:
        ModelError: the model has no such layer.
    """
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    found = {}
    for name, one in facts.items():
        here = next((other for other in _names(model, name) if other in modules), None)
        if here is None:
            raise ModelError(
                f"config.json says that {name} is packed, but {type(model).__name__} has no such "
                "layer: load the model with the class that it was made for."
            )
        found[here] = one
    return found


def _by_file(model: Any, facts: dict[str, Facts], stored: dict[str, Form]) -> dict[str, Facts]:
    """The facts by the names that their tensors have in the files."""
    found = {}
    for name, one in facts.items():
        begin = one.stored_as or name
        names = (other for other in _names(model, begin) if f"{other}.mask" in stored)
        found[next(names, begin)] = one
    return found


def _names(model: Any, name: str) -> tuple[str, ...]:
    """What a module is called in a model with a head, and in one without."""
    prefix = f"{model.base_model_prefix}."
    return name, name.removeprefix(prefix), prefix + name


def _packed(name: str, module: nn.Module, facts: Facts) -> PackedLinear:
    weight = module._parameters.get("weight")
    form = isinstance(module, Conv1D), None if weight is None else tuple(weight.shape)
    if weight is None or form != (facts.transposed, facts.dense.shape):
        shape = "none" if weight is None else " × ".join(map(str, weight.shape))
        raise ModelError(
            f"config.json says that the weight of {name} is "
            f"{' × '.join(map(str, facts.dense.shape))}, but the model makes it {shape}: one of "
            "the two was changed."
        )
    bias = module._parameters.get("bias")
    layer = PackedLinear(facts, bias, weight.dtype, weight.device, module)
    return layer.train(module.training)
