"""Checks of the machine's memory: is it enough for the recipe, and is some of it swapped out?"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

import psutil

from agent.doctor.check import GB, Check
from agent.errors import AutoresearchError
from agent.execution import fingerprint
from agent.execution.conditions import clock
from agent.journal.journal import fold
from agent.journal.paths import state_folder
from agent.repository.workspace import Workspace
from agent.system.ask import ask
from agent.system.files import read_bounded
from agent.system.invocation import typed

MB = 2**20
# The smallest Macs have 8 GB. A virtual machine of that size reports a little less.
LITTLE = 7.5 * GB
# Pages that no program needs may stay in swap for days.
MUCH_SWAP = GB
LOOK = "ps aux -m | head" if sys.platform == "darwin" else "ps aux --sort=-rss | head"


def checks(workspace: Workspace) -> Iterator[Check]:
    yield _memory(workspace)
    counted = clock().swap
    if counted is not None:
        yield swap(counted[0])


def swap(used: int) -> Check:
    """Check the swap in use, in bytes."""
    if used < MUCH_SWAP:
        return Check("swap", "ok", f"{used / GB:.1f} GB in use")
    message = f"{used / GB:.1f} GB in use: memory is scarce, and a run that makes it grow is repeated"
    return Check("swap", "warning", f"{message}; close other programs", LOOK)


def _memory(workspace: Workspace) -> Check:
    """Check the memory of the card if MLX uses one, otherwise of the machine, which Metal shares."""
    need, has = _peak(workspace), psutil.virtual_memory()
    free, total, of = float(has.available), float(has.total), ""
    card = ask("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")
    if str(fingerprint.backend()).startswith("cuda") and card:
        with contextlib.suppress(ValueError):  # "[N/A]", where GPU and machine share their memory
            free, total = (float(each) * MB for each in card.splitlines()[0].split(","))
            of = " of GPU memory"
    room = f"{free / GB:.1f} of {total / GB:.1f} GB{of} free"
    if need is None:
        message = f"{room}; the recipe's need is known after its first run"
        if total < LITTLE:
            return Check("memory", "warning", f"{message}, and may be more than this", typed("doctor --smoke"))
        return Check("memory", "ok", message)
    message = f"{room}, the recipe needed {need / GB:.1f} GB"
    if need > total:
        return Check("memory", "broken", f"{message}: halve DEVICE_BATCH_SIZE in train.py", LOOK)
    if need > free:
        return Check("memory", "warning", f"{message}: close other programs", LOOK)
    return Check("memory", "ok", message)


def _peak(workspace: Workspace) -> float | None:
    """Return the peak memory in bytes of the latest run that reported it, or of the stored baseline, if known."""
    folder = state_folder(workspace.folder)
    paths = sorted(folder.glob("sessions/*/journal.jsonl"), key=lambda path: path.lstat().st_mtime, reverse=True)
    for path in paths:
        try:
            experiments = fold(path).experiments
        except (AutoresearchError, OSError):
            continue
        for run in (run for each in reversed(experiments) for run in reversed(each.runs)):
            if "peak_vram_mb" in run.secondary:
                return run.secondary["peak_vram_mb"] * MB
    try:
        kept = json.loads(read_bounded(folder / "create" / "baseline.json", 2**24))
        told = [run["secondary"]["peak_vram_mb"] for run in kept["runs"] if "peak_vram_mb" in run["secondary"]]
        return float(told[-1]) * MB if told else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # a damaged file: the need is unknown
