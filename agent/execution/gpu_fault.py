"""Tell a failure of the GPU or its driver from one of the candidate, by the error that ended the run."""

from __future__ import annotations

import re
from pathlib import Path

from agent.journal.experiment import Fault

LONGEST_LOG = 2**16  # characters at its end that are searched: the patterns take quadratic time at worst

# What a process that fails says last: the exception of a traceback, an exception that nothing caught in C++, or the
# message of a program without exceptions. A progress bar may have left the line open.
_END = re.compile(
    r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(?P<raised>\S.*)"
    r"|^(?P<shown>(?:\w+\.)*\w*(?:Error|Exception)\b.*)"
    r"|libc\+\+abi: terminating|terminate called"
    r"|^(?:[ \t]+what\(\):|(?:fatal )?error: |(?:CUDA|HIP|ROCm) error\b|Failed to initialize NVML"
    r"|Unable to determine the device handle)",
    re.MULTILINE,
)
# The exceptions that MLX, PyTorch, JAX, TensorFlow, CuPy and Numba raise for what happens on a GPU, at an import too.
_OF_LIBRARIES = re.compile(
    r"(?:\w+\.)*(?:\w*Runtime|Accelerator|Internal|Import|System|OS|CUDA\w*|Cuda\w*)Error\b|(?:\w+\.)*NVMLError",
    re.ASCII,
)

_METAL = r"kIO(?:GPU|Accel)CommandBufferCallbackError"
# By the names and messages of Metal's command buffers (IOGPU), CUDA and HIP. MLX writes those of CUDA as
# `cudaStreamSynchronize(stream) failed: MESSAGE`, and those of cuBLAS as `cublasLtMatmul(...) failed with code: 13.`
_TEXTS: tuple[tuple[Fault, str], ...] = (
    (
        "watchdog",
        rf"{_METAL}(?:Timeout|ImpactingInteractivity|Hang)|Impacting Interactivity"
        r"|Caused GPU (?:Timeout|Hang) Error|MTLCommandBufferErrorTimeout"
        r"|(?:cuda|hip)ErrorLaunchTimeOut|CUDA_ERROR_LAUNCH_TIMEOUT|the launch timed out and was terminated",
    ),
    (
        "kernel",
        rf"{_METAL}(?:PageFault|InvalidResource)|Caused GPU Address Fault Error|MTLCommandBufferErrorPageFault"
        r"|an illegal (?:memory access|instruction) was encountered|misaligned address|unspecified launch failure"
        r"|invalid program counter|operation not supported on global/shared address space|hardware stack error"
        r"|(?:cuda|hip)Error(?:IllegalAddress|IllegalInstruction|MisalignedAddress|LaunchFailure|HardwareStackError)"
        r"|CUDA_ERROR_(?:ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|LAUNCH_FAILED|HARDWARE_STACK_ERROR)"
        # 1, 13 and 14: the library could not be initialized, failed to execute, or had an internal error.
        r"|\bcublas\w{0,40}\(.{0,300}\) failed with code: (?:1|13|14)\."
        r"|CU(?:BLAS|DNN)_STATUS_(?:NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR(?!_\w*ALLOC))",
    ),
    ("leak", r"\[metal::malloc\] Resource limit"),
    (
        "machine",
        rf"{_METAL}(?:InnocentVictim|SubmissionsIgnored|Stopped|DeviceRemoved|AccessRevoked)"
        r"|victim of GPU error/recovery|prior/excessive GPU errors"
        r"|MTLCommandBufferError(?:AccessRevoked|DeviceRemoved)"
        r"|No Metal device available|Failed to make new command queue|Failed to create Metal shared event"
        r"|MTLCompilerService|XPC_ERROR_CONNECTION_(?:INTERRUPTED|INVALID)"
        r"|uncorrectable (?:NVLink |ECC )error|ECCUncorrectable|ECC_UNCORRECTABLE|fallen off the bus|GPU is lost"
        r"|device(?: is|s are|\(s\) is/are) busy or unavailable|DevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE"
        r"|no CUDA-capable device is detected|CUDA_ERROR_SYSTEM_NOT_READY|system not yet initialized"
        r"|driver/library version mismatch|CUDA driver version is insufficient"
        r"|unsupported display driver / cuda driver combination"
        r"|(?:failed|(?:CUDA|HIP) error): (?:unknown|initialization) error|cudaErrorUnknown|CUDA_ERROR_UNKNOWN"
        r"|Graphics (?:device|driver) (?:was )?(?:lost|removed|reset)",
    ),
)
_SIGNS = tuple((kind, re.compile(text, re.IGNORECASE)) for kind, text in _TEXTS)
_WORDS = {
    "watchdog": "the GPU's watchdog stopped it",
    "kernel": "a kernel failed on the GPU",
    "leak": "it ran out of GPU buffers",
    "machine": "the GPU or its driver failed",
}
_HELP = {
    "watchdog": "turn the display off (on a Mac with `pmset displaysleepnow`), halve DEVICE_BATCH_SIZE, or on chips "
    "before the M5 Max set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1",
    "kernel": "update MLX and the driver, and restart the machine; check an NVIDIA card with `nvidia-smi -q -d ECC`",
    "leak": "update MLX, evaluate the arrays of each step (`mx.eval`), and restart the machine",
    "machine": "restart the machine; check an NVIDIA card with `nvidia-smi`",
}

# A run says nothing about the candidate either if the evaluator could not write, if its room or its log was
# deleted, or if the evaluator was killed, as the system does that lacks memory. These begin its error.
FULL_DISK = "a disk is full or failed"
GONE_FOLDER = "the folder for temporary files was deleted"
GONE_LOG = "the log of the run was deleted"
NO_EVALUATOR = "the evaluator was killed or crashed"
_HELP_BEYOND = {
    GONE_FOLDER: "set TMPDIR to a folder that nothing deletes",
    GONE_LOG: "find out what deletes files in `.autoresearch`, such as `git clean -x`",
    FULL_DISK: "free some disk space, also in TMPDIR",
    NO_EVALUATOR: "find out what ends processes here, such as a lack of memory (`dmesg`)",
}


def fault_in(returncode: int | None, log: str) -> Fault:
    """Return the fault that ended a failed run; empty if the run does not say so in its last error."""
    if not returncode:
        return ""
    log = log[-LONGEST_LOG:]
    ends = list(_END.finditer(log))
    if not ends:
        return ""
    last = ends[-1]
    raised = last["raised"] or last["shown"]
    if raised and not _OF_LIBRARIES.match(raised):
        return ""
    text = log[last.start("raised") if last["raised"] else last.start() :]
    return next((fault for fault, signs in _SIGNS if signs.search(text)), "")


def fault_of_evaluator(reason: str, log: Path) -> Fault:
    """Return the fault that ended the evaluation of a model; empty if the model itself was refused.

    Args:
        reason: why the evaluator refused the model.
        log: the evaluator's own log, in which a worker that the GPU's driver aborted leaves its error.
    """
    *_, told = reason.rpartition("cannot be evaluated: ")
    crashed = "crashed the process that evaluated it" in reason
    return fault_in(1, told) or (fault_in(1, log.read_text(errors="replace")) if crashed and log.exists() else "")


def described(fault: Fault) -> str:
    return _WORDS[fault]


def beyond_gpu(error: str) -> str:
    """Return how the error of a faulted run begins if another part of the machine than the GPU failed; else empty."""
    return next((begin for begin in _HELP_BEYOND if error.startswith(begin)), "")


def remedy(fault: Fault, error: str = "") -> str:
    """Return what helps against a fault that comes again and again.

    Args:
        error: of the run that it ended.
    """
    helps = _HELP_BEYOND.get(beyond_gpu(error)) or _HELP[fault]
    return f"{helps}; then run the same command again, which continues from here"
