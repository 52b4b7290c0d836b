"""The protocol's setupCommands: once per workspace, and again when they change or the data is gone."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent.errors import AutoresearchError
from agent.fingerprint import cache_folder, snapshot_folder
from agent.protocol import Protocol, SetupCommand


def set_up(protocol: Protocol, folder: Path, state_folder: Path, say: Callable[[str], None]) -> None:
    """Run the commands that are due, their output on stderr. Raises AutoresearchError naming the one that failed."""
    commands = [_line(command) for command in protocol.environment.setup_commands]
    stamp = state_folder / "create" / "setup"
    mark = hashlib.sha256("\n".join([*commands, str(cache_folder())]).encode()).hexdigest()
    prepared = protocol.meta.archetype != "ml_train" or snapshot_folder(protocol) is not None
    if not commands or (prepared and stamp.exists() and stamp.read_text() == mark):
        return
    for command in commands:
        say(f"setting up: {command}")
        done = subprocess.run(command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise AutoresearchError(
                f"the set-up command `{command}` ended with exit code {done.returncode}: mend what it says above, "
                "or run it by hand and start with --no-setup"
            )
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(mark)


def _line(command: str | SetupCommand) -> str:
    if isinstance(command, str):
        return command
    prefix = {"pip": ["pip"], "bash": ["bash", "-c"], "sh": ["sh", "-c"]}.get(command.kind, [command.kind])
    return shlex.join([*prefix, *command.args])
