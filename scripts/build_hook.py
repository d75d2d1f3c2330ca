"""Puts the compiled kernels into a wheel: hatch runs this where ``make wheel`` asks for it.

Such a wheel needs no compiler where it is installed. Its library uses torch's stable ABI and no
Python, so one wheel serves every Python and every torch that the package takes, on one platform.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface[Any]):  # type: ignore[misc]  # a library of builds alone
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, str(Path(self.root) / "src"))
        from prunerzero.packed.build import PREBUILT, compile_library, find_compiler

        self.scratch = TemporaryDirectory()
        library = compile_library(find_compiler(), Path(self.scratch.name))
        place = PREBUILT.relative_to(Path(self.root) / "src")
        build_data["force_include"][str(library)] = str(place)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.scratch.cleanup()
