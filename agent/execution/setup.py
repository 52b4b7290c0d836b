"""The protocol's setupCommands: once per workspace, and again when they change or the data is gone."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.errors import AutoresearchError
from agent.execution.fingerprint import cache_folder, snapshot_folder
from agent.execution.measure import Runner
from agent.journal.paths import home_folder
from agent.protocol.models import Protocol, SetupCommand
from agent.room.room import Furniture, Room, furnish, make_parts
from agent.room.sandbox import Sandbox, temporary_folder

# Where package managers keep what they have downloaded, below the home folder. Set-up commands write there.
CACHES = [
    ".cache/uv",
    ".cache/pip",
    ".local/share/uv",
    ".npm",
    ".cache/yarn",
    ".local/share/pnpm",
    ".cargo/registry",
    ".cargo/git",
    ".rustup",
    ".cache/huggingface",
    ".cache/torch",
    ".cache/go-build",
    "go/pkg",
    "Library/Caches/uv",
    "Library/Caches/pip",
]
# Their settings: which index, which mirror.
SETTINGS = [".config/uv", ".config/pip", ".pip", ".config/yarn", ".cargo/config.toml", ".config/go"]


def set_up(runner: Runner, state_folder: Path, say: Callable[[str], None]) -> None:
    """Run the commands that are due, their output on stderr. Raises AutoresearchError naming the one that failed.

    They work in the workspace itself, in a room that shows of the machine what any run sees, the caches of package
    managers, and the data's cache.
    """
    protocol, folder = runner.protocol, runner.workspace.folder
    commands = lines(protocol)
    stamp = state_folder / "create" / "setup"
    mark = hashlib.sha256("\n".join([*commands, str(cache_folder())]).encode()).hexdigest()
    prepared = protocol.meta.archetype != "ml_train" or snapshot_folder(protocol) is not None
    if not commands or (prepared and stamp.exists() and stamp.read_text() == mark):
        return
    with _workshop(runner.sandbox, runner.workspace.top, folder) as place:
        for command in commands:
            say(f"setting up: {command}")
            run(place, command)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(mark)


def run(place: Room, command: str) -> None:
    """Run one command in `place`. Raises AutoresearchError where it fails."""
    done = subprocess.run(
        place.arguments(command),
        cwd=place.layout.folder,
        env=dict(place.environment),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        raise AutoresearchError(
            f"the set-up command `{command}` ended with exit code {done.returncode}: mend what it says above, "
            "or run it by hand and start with --no-setup"
        )


def lines(protocol: Protocol) -> list[str]:
    """The set-up commands as lines for the shell."""
    return [_line(command) for command in protocol.environment.setup_commands]


def furniture(hidden: tuple[Path, ...] = ()) -> Furniture:
    """Return what set-up commands see and may write besides a workspace."""
    home = home_folder()
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    write = [cache, *(home / name for name in CACHES if (home / name).is_dir())]
    more = {"AUTORESEARCH_CACHE": str(cache), "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(_uv_cache())}
    Path(more["UV_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    write.append(Path(more["UV_CACHE_DIR"]))
    read = tuple(home / name for name in SETTINGS if (home / name).exists())
    return Furniture("setup", read=read, write=tuple(dict.fromkeys(write)), hidden=hidden, variables=more)


@contextmanager
def _workshop(sandbox: Sandbox, top: Path, folder: Path) -> Iterator[Room]:
    """A room whose workspace is the person's own, without git's folder and the loop's."""
    hidden = tuple(place for place in (top / ".git", folder / ".autoresearch") if place.exists())
    with temporary_folder(folder / ".autoresearch" / "setup") as base:
        make_parts(base)
        yield furnish(replace(sandbox, network=True), base, top, top, folder, furniture(hidden))


def _uv_cache() -> Path:
    """Where uv keeps what it has downloaded: docs.astral.sh/uv, Caching."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home_folder() / ".cache") / "uv"


def _line(command: str | SetupCommand) -> str:
    if isinstance(command, str):
        return command
    prefix = {"pip": ["pip"], "bash": ["bash", "-c"], "sh": ["sh", "-c"]}.get(command.kind, [command.kind])
    return shlex.join([*prefix, *command.args])
