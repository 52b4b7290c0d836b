"""The fingerprint of everything besides the code that affects a measurement. Only equal fingerprints are comparable."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from agent.errors import PreconditionError
from agent.format import one_line
from agent.journal.comparable import HARNESS, MACOS, VARIABLES
from agent.journal.paths import cache_folder
from agent.protocol.models import Protocol
from agent.system.ask import ask

MLX_BACKENDS = {"metal": "mlx-metal", "cuda": "mlx-cuda-12", "cuda 13": "mlx-cuda-13", "cpu": "mlx-cpu"}
TF32 = "MLX_ENABLE_TF32"  # 1 by default: float32 products on CUDA and on the M5 are rounded to TF32
# Folders of the cache that no run sees: metrics on the holdout, and what a station of a version before has left.
HIDDEN = ("holdouts", "stations")
# Variables that change what MLX 0.32.4 computes, not only how fast: others choose a kernel, and so the order of sums.
NUMERIC_VARIABLES = (
    "MLX_CUDA_USE_CUDNN_SDPA",
    "MLX_DISABLE_COMPILE",
    "MLX_METAL_GPU_ARCH",
    "MLX_METAL_JIT",
    "MLX_SDPA_BLOCKS",
    "MLX_SDPA_VJP_BK",
    "MLX_SDPA_VJP_BLOCK",
    "MLX_SDPA_VJP_BQ",
    "MLX_SDPA_VJP_FALLBACK",
    "NVIDIA_TF32_OVERRIDE",
)


def fingerprint(protocol: Protocol, training_seconds: float | None, harness: str) -> dict[str, Any]:
    """Return chip, memory, system, MLX, data, harness and budget, under the names that the user sees.

    Args:
        training_seconds: the training budget; None if the protocol has none.
        harness: `Workspace.harness_digest` of the commit whose harness is used.
    """
    return {
        **machine(),
        "snapshot": snapshot(protocol).get("id"),
        "protocol": protocol.digest,
        HARNESS: harness,
        "training_seconds": training_seconds,
    }


def machine() -> dict[str, Any]:
    """Return the part of the fingerprint that depends on the machine alone."""
    return {
        "chip": chip(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3),
        "os": f"{platform.system()} {platform.release()}",
        MACOS: platform.mac_ver()[0] or None,
        "mlx": installed("mlx"),
        "backend": backend(),
        VARIABLES: variables(os.environ),
    }


def variables(environment: Mapping[str, str]) -> str:
    """Return the variables that change MLX's numbers, as `NAME=VALUE`, separated by spaces.

    A variable that is set to nothing counts: MLX takes its presence for a yes, or its value for 0.
    """
    found = {TF32: "1", **{name: environment[name] for name in (TF32, *NUMERIC_VARIABLES) if name in environment}}
    return " ".join(f"{name}={one_line(value)}" for name, value in found.items())


def backend() -> str | None:
    """Return the installed backend of MLX, or None."""
    return next((name for name, package in MLX_BACKENDS.items() if installed(package)), None)


def snapshot_folder(protocol: Protocol) -> Path | None:
    """Return the folder of the prepared data for the next run; None if the protocol uses none or it is missing."""
    if protocol.meta.archetype != "ml_train":
        return None
    cache = cache_folder()
    try:
        folder = cache / "snapshots" / (cache / "current").read_bytes().decode(errors="replace").strip()
    except OSError:
        return None
    return folder if (folder / "snapshot.json").is_file() else None


def snapshot(protocol: Protocol) -> dict[str, Any]:
    """Return the content of snapshot.json; empty if there is none. Raises PreconditionError if it is damaged."""
    folder = snapshot_folder(protocol)
    if folder is None:
        return {}
    try:
        content = json.loads((folder / "snapshot.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PreconditionError(
            f"cannot read {folder / 'snapshot.json'}: {error}", hint=f"delete {folder} and run `uv run prepare.py`"
        ) from None
    return content if isinstance(content, dict) else {}


def chip() -> str:
    """Return the name of the processor, such as "Apple M4 Pro"."""
    if platform.system() == "Darwin":
        return ask("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Return the version of a package in the program's environment; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
