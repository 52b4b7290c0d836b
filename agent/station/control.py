"""What a decider asks of a station besides orders. Each answers at once, on the thread that also keeps the connection.

`dask_worker` is filled in by Dask, which calls these functions on each worker.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from agent.errors import AutoresearchError
from agent.execution import fingerprint
from agent.station import records
from agent.station.orders import Answer, name
from agent.station.state import Stage, Station, station
from agent.system.invocation import version
from agent.system.shielded import run_shielded

MOST_CANCELLED = 1000
GPU_SECONDS = 10


def facts(dask_worker: Any = None) -> dict[str, Any]:
    """Return who the station is: its name, machine, program and process."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    card = accelerator()
    return {
        "name": _here(dask_worker).name,
        "host": platform.node(),
        "pid": os.getpid(),
        "version": version(),
        "python": platform.python_version(),
        "cores": cores,
        "machine": machine(),
        **({"accelerator": card} if card is not None else {}),
    }


def collect(session: str, leases: Sequence[str], dask_worker: Any = None) -> dict[str, Any]:
    """Return which of these runs of a session have an answer that is kept here, and which run is active."""
    here = _here(dask_worker)
    # Looked at first: a run that ends now counts as active, instead of neither active nor finished, which is lost.
    active = here.active
    answers: list[Answer] = []
    with contextlib.suppress(AutoresearchError):  # the next order says it
        records.begin()
    for folder in records.kept(here.name, name(session)):
        # The decider has the others, and their logs would take long on a slow network.
        if folder.name in leases and (answer := records.read_kept(folder)) is not None:
            answers.append(answer)
    running = [active.lease] if active is not None and active.session == session else []
    return {"finished": {each.lease: each.to_dict() for each in answers}, "running": running}


def stage(session: str, lease: str, dask_worker: Any = None) -> Stage:
    """Return how far this station is with a run."""
    here = _here(dask_worker)
    active, measuring = here.active, here.measuring
    if active is not None and active.session != session and measuring:
        return "queued"  # that has its own limits, unlike what this session ended and is still there
    if active is not None and (active.session, active.lease) == (session, lease) and measuring:
        return "measuring"
    kept = any(each.name == lease for each in records.kept(here.name, name(session)))
    return "measuring" if kept else "preparing"  # its answer is on its way


def cancel(session: str, lease: str, dask_worker: Any = None) -> None:
    """End a run, or the wait of its order. Its process tree is killed within seconds."""
    here = _here(dask_worker)
    here.cancelled.pop((session, lease), None)
    here.cancelled[session, lease] = None
    # Orders that never came leave theirs behind.
    for oldest in [*here.cancelled][:-MOST_CANCELLED]:
        here.cancelled.pop(oldest, None)


@functools.cache
def machine() -> dict[str, Any]:
    return fingerprint.machine()


def accelerator() -> str | None:
    """Return the name of the station's accelerator: its NVIDIA card, the Mac's chip, or the processor.

    Returns:
        None if the card cannot be asked now: another name would make its earlier runs incomparable.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if not visible or shutil.which("nvidia-smi") is None:
        return fingerprint.chip()
    try:
        return _card(visible)
    except (subprocess.CalledProcessError, LookupError):
        return fingerprint.chip()
    except (OSError, subprocess.TimeoutExpired):
        return None


@functools.cache
def _card(visible: str) -> str:
    """Return the name of an NVIDIA card. Failures are not remembered."""
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", visible]
    done = run_shielded(ask, timeout=GPU_SECONDS)
    done.check_returncode()
    return done.stdout.decode(errors="replace").strip().splitlines()[0].strip()[:200]


def _here(dask_worker: Any) -> Station:
    return station(str(getattr(dask_worker, "name", dask_worker)))
