"""Faults of a GPU or its driver that end a run but are not caused by the candidate, so that the run is repeated."""

from __future__ import annotations

import re

from agent.journal.experiment import Fault

# "watchdog": the system killed work that took too long, as it does while a display is on. A smaller device batch helps,
# because it means less work at a time. "machine": another program's failure ended this run too, or the device was lost.
# The numbers are how often a run is repeated, after a pause each time, before anything else is tried. Each repeat is a
# new process, because only a new process recovers.
REPEATS: dict[Fault, int] = {"": 0, "watchdog": 1, "machine": 2}
PAUSE_SECONDS = 3.0
LONGEST_LOG = 2**20  # characters at its end that are searched

# Errors of Metal's command buffers (IOGPU), CUDA and HIP, by their names and messages.
_SIGNS: tuple[tuple[Fault, re.Pattern[str]], ...] = (
    (
        "watchdog",
        re.compile(
            r"kIOGPUCommandBufferCallbackError(?:Timeout|ImpactingInteractivity|Hang)|Impacting Interactivity"
            r"|Caused GPU (?:Timeout|Hang) Error|MTLCommandBufferErrorTimeout"
            r"|(?:cuda|hip)ErrorLaunchTimeOut|CUDA_ERROR_LAUNCH_TIMEOUT|the launch timed out and was terminated",
            re.IGNORECASE,
        ),
    ),
    (
        "machine",
        re.compile(
            r"kIOGPUCommandBufferCallbackError(?:InnocentVictim|SubmissionsIgnored|Stopped|DeviceRemoved|AccessRevoked)"
            r"|victim of GPU error/recovery|prior/excessive GPU errors"
            r"|MTLCommandBufferError(?:AccessRevoked|DeviceRemoved)"
            r"|uncorrectable (?:NVLink |ECC )error|ECCUncorrectable|fallen off the bus|GPU is lost"
            r"|device(?: is|s are|\(s\) is/are) busy or unavailable|DevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE"
            r"|CUDA_ERROR_SYSTEM_NOT_READY|system not yet initialized|driver/library version mismatch"
            r"|CUDA_ERROR_HARDWARE_STACK_ERROR|Graphics (?:device|driver) (?:was )?(?:lost|removed|reset)",
            re.IGNORECASE,
        ),
    ),
)
_WORDS = {"watchdog": "the GPU's watchdog stopped it", "machine": "the GPU failed, which the run did not cause"}


def fault_in(returncode: int | None, log: str) -> Fault:
    """Return the fault of the machine that ended a failed run; empty if there was none."""
    if not returncode:
        return ""
    return next((fault for fault, signs in _SIGNS if signs.search(log[-LONGEST_LOG:])), "")


def described(fault: Fault) -> str:
    return _WORDS[fault]
