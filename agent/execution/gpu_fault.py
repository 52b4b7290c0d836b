"""Faults of a GPU and its driver that end a run through no fault of the candidate's: it is measured again."""

from __future__ import annotations

import re

from agent.journal.experiment import Fault

# "watchdog": the system ended work that took too long, as it does while a display is on; less work at a time, a smaller
# device batch, helps. "machine": another program's work failed and took this run's along, or the device was lost.
# How often a run is repeated, after a pause each time, before anything else is tried: only a new process recovers.
REPEATS: dict[Fault, int] = {"": 0, "watchdog": 1, "machine": 2}
PAUSE_SECONDS = 3.0
LONGEST_LOG = 2**20  # characters of its end that are looked at

# Metal's command buffers (IOGPU), CUDA's and HIP's errors, by their names and by their words.
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
_WORDS = {"watchdog": "the GPU's watchdog ended its work", "machine": "the GPU failed through no fault of the run's"}


def fault_in(returncode: int | None, log: str) -> Fault:
    """Which fault of the machine ended a run that failed; empty for none."""
    if not returncode:
        return ""
    return next((fault for fault, signs in _SIGNS if signs.search(log[-LONGEST_LOG:])), "")


def described(fault: Fault) -> str:
    return _WORDS[fault]
