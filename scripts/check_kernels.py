"""Run the packed format's kernels, free of torch, on random matrices under sanitizers.

    python scripts/check_kernels.py [CASES]

Twice: with this machine's compiler, under the address and undefined-behaviour sanitizers; and
cross-compiled for 64-bit Arm, in an emulator, where ``aarch64-linux-gnu-g++`` and ``qemu-aarch64``
are installed (Debian: ``g++-aarch64-linux-gnu qemu-user``).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from prunerzero.packed.build import COMMON_FLAGS, SOURCES, find_compiler, flags_of

DRIVER = Path(__file__).parents[1] / "tests/packed/native/check_kernels.cpp"
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def check(compiler: list[str], machine: str, run: list[str], cases: str, *flags: str) -> None:
    """Build the driver for ``machine`` and run it; raises CalledProcessError where it fails."""
    with TemporaryDirectory() as folder:
        named = flags_of(machine)
        has = [f"-DHAS_{Path(name).stem.upper()}" for name in named]
        rest = dict.fromkeys(("portable.cpp", "prepare.cpp", "paths.cpp"), tuple(has))
        objects = []
        for source, own in {**named, **rest, str(DRIVER): ()}.items():
            objects.append(str(Path(folder) / f"{Path(source).stem}.o"))
            include = ["-I", str(SOURCES), "-c", str(SOURCES / source), "-o", objects[-1]]
            subprocess.run([*compiler, *COMMON_FLAGS, *own, *flags, *include], check=True)
        program = str(Path(folder) / "check_kernels")
        subprocess.run([*compiler, *flags, *objects, "-o", program], check=True)
        subprocess.run([*run, program, cases], check=True)


if __name__ == "__main__":
    cases = sys.argv[1] if len(sys.argv) > 1 else "300"
    check(find_compiler(), platform.machine(), [], cases, *SANITIZERS)
    if shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64"):
        check(["aarch64-linux-gnu-g++"], "aarch64", ["qemu-aarch64"], cases, "-static")
    else:
        print("NOT CHECKED for 64-bit Arm: g++-aarch64-linux-gnu and qemu-user are not installed")
