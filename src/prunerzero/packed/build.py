"""The compiled kernels: found beside this file, or else built once with this machine's compiler.

A wheel for one platform brings the library. Everywhere else the C++ sources are compiled on first
use, in some ten seconds, and kept in the folder of caches: under a name that follows from the
sources, the compiler and its flags, so that a change of any of them builds anew.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from prunerzero.errors import first_line
from prunerzero.memory import cached

SOURCES = Path(__file__).with_name("native")
PREBUILT = Path(__file__).with_name("prunerzero_kernels.so")

TORCH = "0x020b000000000000"
"""The oldest torch that the library runs with, 2.11, as torch's headers want it written."""
COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-w")
"""Without contraction a sum of products is rounded in the same way by every compiler."""
_AVX512 = (
    "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi2 -mavx512vnni -mfma -mpopcnt".split()
)
_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2.cpp": ("-mavx2", "-mfma", "-mf16c", "-mpopcnt"),
        "avx512.cpp": tuple(_AVX512),
        "avx512_bf16.cpp": (*_AVX512, "-mavx512bf16"),
        "amx.cpp": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    },
    "aarch64": {"neon.cpp": ()},
}
_EVERYWHERE = ("portable.cpp", "prepare.cpp", "paths.cpp", "torch.cpp")


def flags_of(machine: str) -> dict[str, tuple[str, ...]]:
    """The paths of certain processors of ``machine``, each with the flags for them alone.

    A later path uses those before it. An old compiler does without those that it does not know.
    """
    return _FLAGS.get(machine, {})


class BuildError(Exception):
    """Why there is no library, in words that end a sentence."""


@contextmanager
def library() -> Iterator[Path]:
    """The library, to be loaded inside; raises BuildError where there is none."""
    if PREBUILT.exists():
        yield PREBUILT
        return
    if sys.platform != "linux":
        raise BuildError("they are built on Linux alone")
    compiler = find_compiler()
    with TemporaryDirectory(prefix="prunerzero-") as scratch:

        def make() -> Path:
            logging.getLogger("prunerzero").warning(
                "Building the kernels of the packed format with %s, once; this takes seconds.",
                shlex.join(compiler),
            )
            return compile_library(compiler, Path(scratch))

        key = {
            "sources": {path.name: path.read_text() for path in sorted(SOURCES.iterdir())},
            "flags": [COMMON_FLAGS, _FLAGS, TORCH],
            "compiler": [compiler, _run([*compiler, "--version"])],
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
        yield cached("kernels", key, make, _existing, _copy)


def find_compiler() -> list[str]:
    """The command of a C++ compiler: ``CXX`` where it is set."""
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("this machine has no C++ compiler (g++ or clang++)")


def compile_library(compiler: list[str], folder: Path) -> Path:
    """Compile all sources into a shared library in ``folder``."""
    root = Path(torch.__file__).parent

    def compile_source(name: str, *flags: str) -> str:
        target = str(folder / f"{name}.o")
        _run([*compiler, *COMMON_FLAGS, *flags, "-c", str(SOURCES / name), "-o", target])
        return target

    def compile_path(name: str) -> str | None:
        try:
            return compile_source(name, *named[name])
        except BuildError:
            return None

    named = flags_of(platform.machine())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [each for each in pool.map(compile_path, named) if each is not None]
        flags = [f"-DTORCH_TARGET_VERSION={TORCH}", f"-I{root / 'include'}"]
        flags += [f"-DHAS_{Path(each).name.split('.')[0].upper()}" for each in objects]
        objects += pool.map(lambda name: compile_source(name, *flags), _EVERYWHERE)
    place = folder / PREBUILT.name
    _run([*compiler, "-shared", *objects, f"-L{root / 'lib'}", "-ltorch_cpu", "-o", str(place)])
    return place


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(
            f"the compiler {command[0]!r} does not start: {first_line(error)}"
        ) from error
    if done.returncode:
        wrong = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise BuildError(f"the compiler {command[0]!r} failed: {first_line(Exception(wrong[0]))}")
    return done.stdout


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(path)
    return path


def _copy(library: Path, place: Path) -> None:
    shutil.copyfile(library, place)
