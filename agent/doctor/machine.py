"""What the doctor looks at outside the workspace: tools, room, memory, what serves MLX, sleep and the sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import psutil

from agent.doctor.check import Check
from agent.errors import AutoresearchError, in_one_line
from agent.execution import awake, fingerprint
from agent.execution.measure import LEAST_ROOM
from agent.journal.journal import fold
from agent.journal.paths import home_folder, state_folder
from agent.protocol.models import Protocol
from agent.repository.git import FALLBACK_IDENTITY
from agent.repository.workspace import Workspace
from agent.room.sandbox import choose_sandbox
from agent.system.files import read_bounded

# A night writes little, but a full disk ends it: uv, data and logs share the room.
COMFORTABLE_ROOM = 2 * 2**30
MB, GB = 2**20, 2**30
ASK_SECONDS = 10
# docs.astral.sh/uv: pip refuses where the system manages its Python, as on Debian and with Homebrew.
UV_INSTALLER = "curl -LsSf https://astral.sh/uv/install.sh | sh"


def checks(workspace: Workspace, protocol: Protocol) -> Iterator[Check]:
    yield from _uv(protocol)
    yield _identity(workspace)
    if protocol.meta.archetype == "ml_train":
        yield _backend()
        yield _data(protocol)
    yield _disk(workspace)
    yield _memory(workspace)
    yield _awake()
    yield _sandbox(protocol)


def without_home() -> Check | None:
    """A user without a home folder: rooms and caches have no place, and nothing else can be looked at."""
    try:
        home_folder()
    except AutoresearchError as error:
        return Check("home", "broken", str(error))
    return None


def _uv(protocol: Protocol) -> Iterator[Check]:
    commands = [protocol.execution.command, *(str(each) for each in protocol.environment.setup_commands)]
    if not any(command.startswith("uv ") for command in commands):
        return
    said = _ask("uv", "--version")
    if said is None:
        yield Check("uv", "broken", "uv cannot be run, and the protocol's commands need it", UV_INSTALLER)
    else:
        yield Check("uv", "ok", said)


def _identity(workspace: Workspace) -> Check:
    if workspace.author is not None:
        return Check("identity", "ok", f"commits are by {workspace.author}")
    fallback = f"{FALLBACK_IDENTITY['name']} <{FALLBACK_IDENTITY['email']}>"
    mend = "git config --global user.name 'Your Name' && git config --global user.email you@example.org"
    return Check("identity", "warning", f"git knows no name of yours, commits are by {fallback}", mend)


def _backend() -> Check:
    found = fingerprint.backend()
    if found is None:
        return Check("mlx", "broken", "no back end of MLX is installed", "uv sync")
    if found == "cpu" and shutil.which("nvidia-smi") and _ask("nvidia-smi", "-L"):
        message = "MLX computes on the CPU, and there is an NVIDIA card"
        return Check("mlx", "warning", message, "uv sync --no-group cpu --extra cuda")
    return Check("mlx", "ok", f"back end {found}")


def _data(protocol: Protocol) -> Check:
    try:
        found = fingerprint.snapshot(protocol)
    except AutoresearchError as error:
        return Check("data", "broken", in_one_line(error))
    if not found:
        return Check("data", "warning", "none is prepared yet; `run` does it where it is due", "uv run prepare.py")
    return Check("data", "ok", f"snapshot {str(found.get('id'))[:12]} in {fingerprint.snapshot_folder(protocol)}")


def _disk(workspace: Workspace) -> Check:
    free = shutil.disk_usage(workspace.folder).free
    message = f"{free / GB:.1f} GB are free in {workspace.folder}"
    if free < LEAST_ROOM:
        return Check("disk", "broken", f"{message}: no run begins", "uv cache prune")
    if free < COMFORTABLE_ROOM:
        return Check("disk", "warning", message, "uv cache prune")
    return Check("disk", "ok", message)


def _memory(workspace: Workspace) -> Check:
    """The card's where MLX computes on one, else the machine's: Metal shares it."""
    need, has = _peak(workspace), psutil.virtual_memory()
    free, total, of = float(has.available), float(has.total), ""
    card = _ask("nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits")
    if str(fingerprint.backend()).startswith("cuda") and card:
        free, total = (float(each) * MB for each in card.splitlines()[0].split(","))
        of = " of the card's memory"
    room = f"{free / GB:.1f} of {total / GB:.1f} GB{of} are free"
    if need is None:
        return Check("memory", "ok", f"{room}; what the recipe needs is known after its first run")
    message = f"{room}, the recipe has needed {need / GB:.1f} GB"
    look = "ps aux -m | head" if sys.platform == "darwin" else "ps aux --sort=-rss | head"
    if need > total:
        return Check("memory", "broken", f"{message}: halve DEVICE_BATCH_SIZE in train.py", look)
    if need > free:
        return Check("memory", "warning", f"{message}: close what takes it", look)
    return Check("memory", "ok", message)


def _peak(workspace: Workspace) -> float | None:
    """Bytes at the peak of the last run that told: of the session worked on last, or of the kept baseline."""
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
        return None  # a file that was damaged: what the recipe needs is not known


def _awake() -> Check:
    wanted = awake.command(sys.platform, os.getpid())
    again = "a run across a sleep is measured again"
    if wanted is None:
        tool, mend = {
            "darwin": ("caffeinate", "ls -l /usr/bin/caffeinate"),
            "linux": ("systemd-inhibit", "sudo apt-get install systemd"),
        }.get(sys.platform, ("a tool for this system", ""))
        return Check("awake", "warning", f"{tool} is missing, so the machine may fall asleep; {again}", mend or None)
    if wanted[0] == "systemd-inhibit" and _ask("systemd-inhibit", "--what=sleep:idle", "true") is None:
        message = f"systemd-inhibit is refused here, so the machine may fall asleep; {again}"
        return Check("awake", "warning", message, "sudo systemctl start systemd-logind")
    return Check("awake", "ok", f"{wanted[0]} keeps the machine awake during a session")


def _sandbox(protocol: Protocol) -> Check:
    found = choose_sandbox("auto", protocol.environment.constraints)
    if not found.missing:
        return Check("sandbox", "ok", found.says.removeprefix("sandbox: "))
    installable = sys.platform == "linux" and any("install bubblewrap" in each for each in found.missing)
    mend = "sudo apt-get install bubblewrap" if installable and not shutil.which("bwrap") else None
    return Check("sandbox", "warning", found.says.removeprefix("sandbox: "), mend)


def _ask(*command: str) -> str | None:
    """What a tool prints; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
