"""Detect runs that ran out of memory, and halve their device batch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.journal.experiment import Value
from agent.source.constants import constants, refuses, replace

# Messages of programs that ran out of memory: names of errors, and phrases that have no other meaning.
SIGNS = re.compile(
    # MLX: its allocators, Metal's command buffers and buffer limit.
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory"
    r"|greater than the maximum allowed buffer size"
    r"|\[(?:metal::)?malloc(?:_or_wait)?\] (?:Unable to allocate|Attempting to allocate)"
    # CUDA, HIP and XPU, their libraries, Triton.
    r"|(?:CUDA|HIP|XPU|MPS)(?: \w{1,20}){0,3}:? out of memory|(?:cuda|hip)Error(?:MemoryAllocation|OutOfMemory)"
    r"|(?:CUDA|HIP|ZE|UR|CL|VK|PI)_(?:RESULT_)?ERROR_OUT_OF_(?:DEVICE_|HOST_)?MEMORY"
    r"|(?:cu|hip)\w{1,60}(?:\(.{0,300}\))? failed: out of memory|cublas\w{1,60}\(.{0,300}\) failed with code: 3\."
    r"|(?:CU|HIP|ROC|MIO)[A-Z]{1,9}_(?:STATUS_)?(?:ALLOC_FAILED|MEMORY_ERROR)"
    r"|CUDNN_STATUS_\w{0,30}ALLOCATION_FAILED|Triton Error \[\w{1,9}\]: out of memory"
    # PyTorch on MPS and CPU, NumPy, JAX and TensorFlow.
    r"|Invalid buffer size: [\d.]{1,20} [KMGT]i?B|DefaultCPUAllocator: |_ArrayMemoryError"
    r"|Unable to allocate [\d.]{1,20} \w{1,5} for an array"
    r"|RESOURCE_EXHAUSTED: .{0,200}(?:memory|alloc|OOM)|ResourceExhaustedError|OOM when allocating"
    # Python, C++, Rust, Java and JavaScript, libc, and child processes that the kernel killed.
    r"|^MemoryError\b|OutOfMemoryError|std::bad_alloc|[Cc](?:annot|an't|ould not) allocate memory"
    r"|memory allocation of \d{1,20} bytes failed|heap out of memory"
    r"|DataLoader worker \(pid.{0,40} killed by signal: Killed|exitcode\s{0,9}: -9\b"
    # Any other error that mentions it.
    r"|^(?:\S*(?:Error|Exception|Exhausted)\b|fatal error:|\s*what\(\):|libc\+\+abi: terminating)"
    r".{0,500}(?:(?:[Oo]ut of|[Nn]ot enough|[Ii]nsufficient|[Rr]an out of) (?:\w+ )?memory"
    r"|(?:[Uu]nable|[Ff]ailed) to allocate)",
    re.MULTILINE,
)
KILLED = (-9, 137)
LONGEST_LOG = 2**22  # characters at its end that are searched
BATCH = re.compile(r"(DEVICE|MICRO|PER_DEVICE).*BATCH")


def ran_out(returncode: int | None, log: str) -> bool:
    """Return whether a failed run looks like one that ran out of memory.

    A SIGKILL that the loop did not send is taken for one by the kernel's out-of-memory killer.
    """
    return returncode in KILLED or (returncode != 0 and SIGNS.search(log[-LONGEST_LOG:]) is not None)


def smaller_batch(files: Mapping[str, str], known: Mapping[str, Value]) -> tuple[dict[str, str], str] | None:
    """Return the files with the device batch halved, and a description of the change.

    The total batch and everything else stay the same.

    Returns:
        None if no constant for the device batch is found, it is 1, or the file's own asserts reject the half.
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
