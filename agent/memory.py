"""Out of memory in all its forms, and what a smaller device batch does about it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.edits import constants, refuses, replace
from agent.experiment import Value

# The words of MLX (its allocators, Metal's command buffers and buffer limit, CUDA), of PyTorch, Python, C++ and libc.
SIGNS = re.compile(
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory"
    r"|Insufficient Memory"
    r"|greater than the maximum allowed buffer size"
    r"|\[(?:metal::)?malloc(?:_or_wait)?\] (?:Unable to allocate|Attempting to allocate|Resource limit)"
    r"|CUDA(?: error:)? out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|cudaMalloc\w*(?:\(.*\))? failed: out of memory"
    r"|^MemoryError\b|OutOfMemoryError|std::bad_alloc|Cannot allocate memory",
    re.MULTILINE,
)
KILLED = (-9, 137)
BATCH = re.compile(r"(DEVICE|MICRO|PER_DEVICE).*BATCH")


def ran_out(returncode: int | None, log: str) -> bool:
    """Whether a failed run looks like one that ran out of memory.

    A SIGKILL that the loop did not send is the kernel's: nobody else kills a training run at night.
    """
    return returncode in KILLED or (returncode != 0 and SIGNS.search(log) is not None)


def smaller_batch(files: Mapping[str, str], known: Mapping[str, Value]) -> tuple[dict[str, str], str] | None:
    """The files with the device batch halved and all else, the total batch too, as it was; and what changed.

    None where there is no such constant, it is 1, or the file's own asserts refuse the half.
    """
    for path, text in files.items():
        found = constants(text, known) if path.endswith(".py") else {}
        for name, constant in found.items():
            value = constant.value
            if BATCH.search(name) and isinstance(value, int) and value > 1:
                half = {name: value // 2}
                if refuses(text, known, half) is None:
                    return {path: replace(text, found, half)}, f"{name} {value} -> {value // 2}"
    return None
