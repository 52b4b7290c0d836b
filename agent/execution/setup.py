"""Run the protocol's setupCommands: once per workspace, and again if they change or the data is missing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.errors import AutoresearchError
from agent.execution.fingerprint import snapshot_folder
from agent.execution.kill import MARK, end_all, watchdog
from agent.execution.measure import Runner
from agent.execution.process import POLL_SECONDS
from agent.journal.paths import cache_folder, home_folder
from agent.protocol.models import Protocol, SetupCommand
from agent.repository.checkout import Checkout
from agent.room.own_text import own_text_now
from agent.room.places import environment_of_uv
from agent.room.room import Furniture, Room, furnish, make_parts
from agent.room.sandbox import Sandbox, temporary_folder

# Caches of package managers, relative to the home folder. Setup commands may write to them.
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
# A first `uv sync`, or the download of data, may take long. A station, which nobody watches, ends a command after this.
STATION_SECONDS = 1800.0
# Settings of package managers, such as indexes and mirrors.
SETTINGS = [".config/uv", ".config/pip", ".pip", ".config/yarn", ".cargo/config.toml", ".config/go"]


def set_up(
    runner: Runner, state_folder: Path, say: Callable[[str], None], tick: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Run the setup commands if they are due, with their output on stderr.

    They run in the user's workspace itself, in a room that shows what any run sees of the machine, the caches of
    package managers, the cache of the data, and the folders that it was prepared from.

    Args:
        tick: called several times a second. If it raises, the command is ended.

    Returns:
        The tracked files that they have changed, relative to the top of the repository -> the command.

    Raises:
        AutoresearchError: a command failed.
    """
    protocol, folder = runner.protocol, runner.workspace.folder
    if not is_due(protocol, state_folder):
        return {}
    commands, stamp = lines(protocol), _stamp(state_folder)
    checkout = Checkout(runner.workspace)
    before, changed = {*checkout.changes()}, dict[str, str]()
    with _workshop(runner.sandbox, runner.workspace.top, folder) as place:
        for command in commands:
            say(f"setting up: {command}")
            run(place, command, tick)
            changed |= dict.fromkeys({*checkout.changes()} - before - {*changed}, command)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(_mark(commands))
    return changed


def is_due(protocol: Protocol, state_folder: Path) -> bool:
    """Return whether the setup commands have not run here, have changed, or the data is missing."""
    commands, stamp = lines(protocol), _stamp(state_folder)
    prepared = protocol.meta.archetype != "ml_train" or snapshot_folder(protocol) is not None
    return bool(commands) and not (prepared and stamp.exists() and stamp.read_text() == _mark(commands))


def most_seconds(protocol: Protocol) -> float:
    """Return how long the setup commands may take on a station."""
    return STATION_SECONDS * len(lines(protocol))


def drop_stamp(state_folder: Path) -> None:
    """Make the setup commands due again."""
    _stamp(state_folder).unlink(missing_ok=True)


def _stamp(state_folder: Path) -> Path:
    return state_folder / "create" / "setup"


def _mark(commands: list[str]) -> str:
    return hashlib.sha256("\n".join([*commands, str(cache_folder())]).encode()).hexdigest()


def run(place: Room, command: str, tick: Callable[[], None] = lambda: None) -> None:
    """Run one command in `place`. It ends with this process.

    Raises:
        AutoresearchError: it failed.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        place.arguments(command),
        cwd=place.layout.folder,
        env={**place.environment, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # only `tick` decides whether a Ctrl-C ends it
    )
    try:
        with watchdog(process.pid, mark):
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                tick()
    except BaseException:
        end_all(process.pid, mark)
        process.wait()
        raise
    if process.returncode != 0:
        raise AutoresearchError(
            f"the setup command `{command}` failed with exit code {process.returncode}",
            hint="fix the error shown above, or run the command yourself and start with `--no-setup`",
        )


def lines(protocol: Protocol) -> list[str]:
    """Return the setup commands as lines for the shell."""
    return [_line(command) for command in protocol.environment.setup_commands]


def furniture(hidden: tuple[Path, ...] = ()) -> Furniture:
    """Return the contents of the room of setup commands: what they see and may write besides the workspace."""
    home = home_folder()
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    write = [cache, *(home / name for name in CACHES if (home / name).is_dir())]
    more = {"AUTORESEARCH_CACHE": str(cache), "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(_uv_cache())}
    Path(more["UV_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    write += [Path(more["UV_CACHE_DIR"]), *_environment()]
    read = tuple(home / name for name in SETTINGS if (home / name).exists())
    return Furniture("setup", read=read, write=tuple(dict.fromkeys(write)), hidden=hidden, variables=more)


@contextmanager
def _workshop(sandbox: Sandbox, top: Path, folder: Path) -> Iterator[Room]:
    """Open a room on the user's own workspace, without the .git and .autoresearch folders."""
    hidden = tuple(place for place in (top / ".git", folder / ".autoresearch") if place.exists())
    with temporary_folder(folder / ".autoresearch" / "setup") as base:
        make_parts(base)
        contents = furniture(hidden)
        # `prepare.py` reads the text again if the snapshot is damaged.
        contents = replace(contents, read=(*contents.read, *own_text_now(top, folder)))
        yield furnish(replace(sandbox, network=True), base, top, top, folder, contents)


def _environment() -> list[Path]:
    """Return the project's environment outside of the workspace, if it is one or still empty."""
    place = environment_of_uv()
    with contextlib.suppress(OSError):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            return [place] if (place / "pyvenv.cfg").is_file() or not any(place.iterdir()) else []
    return []


def _uv_cache() -> Path:
    """Return uv's cache folder (docs.astral.sh/uv, Caching)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home_folder() / ".cache") / "uv"


def _line(command: str | SetupCommand) -> str:
    if isinstance(command, str):
        return command
    prefix = {"pip": ["pip"], "bash": ["bash", "-c"], "sh": ["sh", "-c"]}.get(command.kind, [command.kind])
    return shlex.join([*prefix, *command.args])
