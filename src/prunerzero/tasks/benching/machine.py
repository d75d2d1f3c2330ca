"""The machine that figures are measured on: a speed without it says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

import prunerzero

_CPUINFO = Path("/proc/cpuinfo")

_SETS = {
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vbmi2"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
}
"""Instruction sets that decide how fast a model runs, as Linux calls them."""

_PACKAGES = ("torch", "transformers", "llama-cpp-python")


def machine(device: str) -> dict[str, Any]:
    """Processor, instruction sets, cores and memory of this machine, and its GPU if it is meant."""
    known = _cpuinfo()
    flags = (known.get("flags") or known.get("Features") or "").split()
    gpu = {} if device == "cpu" else {"gpu": _gpu(device)}
    return gpu | {
        "cpu": known.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": sorted(_SETS & set(flags)),
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "platform": platform.platform(),
    }


def _gpu(device: str) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(device)
    return {
        "name": about.name,
        "memory_bytes": about.total_memory,
        "compute_capability": f"{about.major}.{about.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def _driver() -> str | None:
    """The version of NVIDIA's driver, the same for all cards; None where nothing tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.stdout.split()), None)


def versions() -> dict[str, str]:
    """Of what runs models, as far as it is installed."""
    found = {"prunerzero": prunerzero.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    """The lines of the first processor; empty where the system has no such file."""
    if not _CPUINFO.exists():
        return {}
    pairs = (line.partition(":") for line in _CPUINFO.read_text().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
