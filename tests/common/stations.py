"""Orders for a workspace, and the processes of stations: real ones on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from agent.execution.kill import MARK
from agent.protocol.load import load_protocol
from agent.repository.bundle import write_order_bundle
from agent.repository.workspace import Workspace
from agent.station.orders import Order
from agent.system.invocation import version
from tests.common.workspaces import QUICK, ROOT, commit_all, git

WAIT_SECONDS = 60.0
# Runs until it is killed.
SLOW = QUICK.replace("loss =", "import time\nprint('going', flush=True)\ntime.sleep(600)\nloss =")


def gated(gate: Path) -> str:
    """Return a train.py that ends once the file `gate` exists."""
    wait = f"import pathlib, time\nprint('going', flush=True)\nwhile not pathlib.Path({str(gate)!r}).exists():"
    return QUICK.replace("loss =", f"{wait}\n    time.sleep(0.05)\nloss =")


def order(folder: Path, lease: str = "r1", **changes: Any) -> Order:
    """Return an order for HEAD of a workspace, with its whole history."""
    workspace = Workspace(folder, load_protocol(folder))
    head = workspace.head
    known = {"commit": head, "base": head, "bundle": write_order_bundle(workspace, head), "sandbox": "off"}
    return Order(**{"version": version(), "session": "s1", "lease": lease, "repository": "toy", **known, **changes})


def set_train(folder: Path, text: str) -> str:
    """Commit a train.py, and return the hash."""
    (folder / "train.py").write_text(text)
    commit_all(folder, "train")
    return git(folder, "rev-parse", "HEAD")


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until `holds` returns something true, and return it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {WAIT_SECONDS:g} s")


def going(workspace: Path, station: str) -> bool:
    """Return whether a run of a station, whose cache lies beside the workspace, has printed its first line."""
    logs = workspace.parent.glob(f"cache-stations/records/{station}/*/*/*/run.log")
    return any("going" in log.read_text() and not log.with_name("answer.json").exists() for log in logs)


def marked(pid: int) -> list[psutil.Process]:
    """Return the processes of the run below a station."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if MARK in process.environ():
                found.append(process)
    return found


@contextlib.contextmanager
def started(*args: str, ready: str, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python ARGS` during the block, from when it has printed `ready`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *args],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        until(lambda: ready in log.read_text() or process.poll() is not None, f"{args} is not ready: {log.read_text()}")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
