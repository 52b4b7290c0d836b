"""Checks outside of the workspace: tools, disk, MLX, data, the system, sleep and the sandbox."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator

from agent.doctor import memory, power
from agent.doctor.check import GB, Check
from agent.errors import AutoresearchError, in_one_line
from agent.execution import awake, fingerprint
from agent.execution.measure import LEAST_ROOM
from agent.journal.paths import home_folder, layers_folder
from agent.protocol.models import Protocol
from agent.repository.git import FALLBACK_IDENTITY
from agent.repository.workspace import Workspace
from agent.room.sandbox import choose_sandbox, layers_kept
from agent.system import temporary
from agent.system.ask import ask

# A night writes little, but a full disk ends it: uv, data and logs share the disk.
COMFORTABLE_ROOM = 2 * 2**30
# From docs.astral.sh/uv. Not pip, which refuses to install if the system manages Python, as Debian and Homebrew do.
UV_INSTALLER = "curl -LsSf https://astral.sh/uv/install.sh | sh"
# The oldest macOS that MLX has wheels for. From the other one on, MLX uses the matrix units that GPUs have since the M5
# (backend/metal/device.cpp in MLX). Its wheel for macOS 26 is built for that version and does not
# check it: ml-explore/mlx issue 4525.
OLDEST_MACOS, NEURAL_MACOS = (14, 0), (26, 2)


def checks(workspace: Workspace, protocol: Protocol) -> Iterator[Check]:
    yield from _uv(protocol)
    yield _identity(workspace)
    if protocol.meta.archetype == "ml_train":
        yield _backend()
        yield _data(protocol)
        yield from _macos()
        yield from power.display()
    yield _disk(workspace)
    yield from memory.checks(workspace)
    yield from power.saving()
    yield _awake()
    yield _sandbox(protocol)


def without_home() -> Check | None:
    """Return a check if the user has no home folder: then rooms and caches have no place, and other checks fail."""
    try:
        home_folder()
    except AutoresearchError as error:
        return Check("home", "broken", in_one_line(error))
    return None


def _uv(protocol: Protocol) -> Iterator[Check]:
    commands = [protocol.execution.command, *(str(each) for each in protocol.environment.setup_commands)]
    if not any(command.startswith("uv ") for command in commands):
        return
    said = ask("uv", "--version")
    if said is None:
        yield Check("uv", "broken", "uv is not installed, but the protocol's commands need it", UV_INSTALLER)
    else:
        yield Check("uv", "ok", said)


def _identity(workspace: Workspace) -> Check:
    try:
        workspace.git.require_identity()
    except AutoresearchError as error:
        return Check("identity", "broken", in_one_line(error))
    if workspace.author is not None:
        return Check("identity", "ok", f"commits are authored by {workspace.author}")
    values = {"name": "'Your Name'", "email": "you@example.org"}
    missing = [key for key in values if key not in workspace.git.user]
    setup = " && ".join(f"git config --global user.{key} {values[key]}" for key in missing)
    own = {**FALLBACK_IDENTITY, **workspace.git.user}
    names = " and ".join(f"user.{key}" for key in missing)
    verb = "is" if len(missing) == 1 else "are"
    message = f"{names} {verb} not set in git: commits are authored by {own['name']} <{own['email']}>"
    return Check("identity", "warning", message, setup)


def _backend() -> Check:
    found = fingerprint.backend()
    if found is None:
        return Check("mlx", "broken", "no MLX backend is installed", "uv sync")
    if found == "cpu" and shutil.which("nvidia-smi") and ask("nvidia-smi", "-L"):
        message = "MLX uses the CPU, but this machine has an NVIDIA card"
        return Check("mlx", "warning", message, "uv sync --no-group cpu --extra cuda")
    return Check("mlx", "ok", f"backend {found}")


def _data(protocol: Protocol) -> Check:
    try:
        found = fingerprint.snapshot(protocol)
    except AutoresearchError as error:
        return Check("data", "broken", in_one_line(error))
    if not found:
        return Check("data", "warning", "not prepared yet (the first `run` prepares it)", "uv run prepare.py")
    return Check("data", "ok", f"snapshot {str(found.get('id'))[:12]} in {fingerprint.snapshot_folder(protocol)}")


def _macos() -> Iterator[Check]:
    said = ask("sw_vers")
    found = macos(said, fingerprint.chip()) if said else None
    if found is not None:
        yield found


def macos(said: str, chip: str) -> Check | None:
    """Check that the version of macOS is new enough for MLX and for the GPU's matrix units.

    Args:
        said: the output of `sw_vers`.
        chip: the name of the chip, such as "Apple M5 Pro".
    """
    told = re.search(r"^ProductVersion:\s*(\d+)(?:\.(\d+))?[.\d]*", said, re.MULTILINE)
    if told is None:
        return None
    version, name = (int(told[1]), int(told[2] or 0)), f"macOS {told[0].split()[-1]}"
    if version < OLDEST_MACOS:
        return Check("system", "broken", f"{name} is too old: MLX needs macOS 14 or newer", "softwareupdate --list")
    generation = re.match(r"Apple M(\d+)", chip)
    if generation and int(generation[1]) >= 5 and version < NEURAL_MACOS:
        message = f"{name} is too old for the neural accelerators of the {chip}: MLX needs macOS 26.2 for them"
        return Check("system", "warning", message, "softwareupdate --list")
    return Check("system", "ok", name)


def _disk(workspace: Workspace) -> Check:
    free = shutil.disk_usage(workspace.folder).free
    message = f"{free / GB:.1f} GB free in {workspace.folder}"
    if free < LEAST_ROOM:
        return Check("disk", "broken", f"{message}: too little for a run", "uv cache prune")
    if free < COMFORTABLE_ROOM:
        return Check("disk", "warning", message, "uv cache prune")
    return Check("disk", "ok", message)


def _awake() -> Check:
    wanted = awake.command(sys.platform, os.getpid())
    again = "a run interrupted by sleep is repeated"
    if wanted is None:
        tool, remedy = {
            "darwin": ("caffeinate", "ls -l /usr/bin/caffeinate"),
            "linux": ("systemd-inhibit", "sudo apt-get install systemd"),
        }.get(sys.platform, ("a tool for this system", ""))
        return Check("awake", "warning", f"{tool} is missing, so the machine may fall asleep; {again}", remedy or None)
    if wanted[0] == "systemd-inhibit" and ask("systemd-inhibit", "--what=sleep:idle", "true") is None:
        message = f"systemd-inhibit is not permitted here, so the machine may fall asleep; {again}"
        return Check("awake", "warning", message, "sudo systemctl start systemd-logind")
    return Check("awake", "ok", f"{wanted[0]} keeps the machine awake during a session")


def _sandbox(protocol: Protocol) -> Check:
    found = choose_sandbox("auto", protocol.environment.constraints)
    says = found.says.removeprefix("sandbox: ") + (_layers() if found.layers else "")
    if not found.missing:
        return Check("sandbox", "ok", says)
    installable = sys.platform == "linux" and any("install bubblewrap" in each for each in found.missing)
    remedy = "sudo apt-get install bubblewrap" if installable and not shutil.which("bwrap") else None
    return Check("sandbox", "warning", says, remedy)


def _layers() -> str:
    """Return where the writes of runs to untracked folders are, if it is not the folder for temporary files."""
    usual, spare = temporary.place().resolve(), layers_folder()
    match layers_kept():
        case "nowhere":
            return "; untracked folders are read-only"
        case "memory":
            return f"; writes to untracked folders are kept in memory: neither {usual} nor {spare} supports overlayfs"
        case folder if folder != usual:
            return f"; writes to untracked folders are kept in {folder}: {usual} does not support overlayfs"
    return ""
