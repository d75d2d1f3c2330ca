"""Making transformers know packed models, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_QUANTIZERS = "transformers.quantizers.auto"
"""The module with the tables of quantisation methods."""


def register_when_imported() -> None:
    """Add the packed format to the tables now, or when transformers makes them."""
    if _QUANTIZERS in sys.modules:
        _register(sys.modules[_QUANTIZERS])
    else:
        sys.meta_path.insert(0, _WhenImported())


def _register(tables: ModuleType) -> None:
    from prunerzero.packed.files import METHOD
    from prunerzero.packed.quantizer import PackedConfig, PackedQuantizer

    if METHOD not in tables.AUTO_QUANTIZER_MAPPING:
        tables.register_quantization_config(METHOD)(PackedConfig)
        tables.register_quantizer(METHOD)(PackedQuantizer)


class _WhenImported(MetaPathFinder):
    """Finds nothing itself; sees to it that ``_register`` runs behind that one module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _QUANTIZERS:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)
