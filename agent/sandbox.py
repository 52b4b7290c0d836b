"""Where training may write, whether it has a network, and which of the person's variables it sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import confine
from agent.errors import PreconditionError
from agent.fingerprint import cache_folder
from agent.protocol import Constraints

Mode = Literal["auto", "off", "strict"]
Way = Literal["bubblewrap", "Landlock", "Seatbelt"]

# Names that programs give to what must not leak. A word of its own: TOKENIZERS_PARALLELISM is no token.
SECRET = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)|^AWS_|^SSH_AUTH_SOCK$",
    re.IGNORECASE,
)
KEEP_VARIABLE = "AUTORESEARCH_KEEP_ENV"
# Writable everywhere: devices, shared memory and, on a Mac, where Metal keeps its compiled shaders.
DEVICES = {"linux": ("/dev",), "darwin": ("/dev", "/private/var/folders")}


@dataclass(frozen=True)
class Sandbox:
    """way: what confines writes, None for nothing; network: whether it is left open; says: what a person is told."""

    way: Way | None = None
    network: bool = True
    hide: bool = False
    says: str = "sandbox: off"

    def command(self, command: str, workspace: Path, temporary: Path, guarded: Sequence[Path] = ()) -> list[str]:
        """The arguments that run `command` in a shell, confined.

        guarded: folders in the workspace or the cache that stay read-only, where the way can tell them apart.
        """
        shell = ["/bin/sh", "-c", command]
        if self.way is None:
            return shell
        writable = [workspace, temporary, cache_folder(), _uv_cache(), *map(Path, DEVICES[sys.platform])]
        folders = [str(folder.resolve()) for folder in writable if folder.exists()]
        kept = [str(folder.resolve()) for folder in guarded if folder.exists()]
        wrap = {"bubblewrap": _bubblewrap, "Landlock": _landlock, "Seatbelt": _seatbelt}[self.way]
        return [*wrap(folders, kept, self.network), *shell]

    def environment(self, environment: Mapping[str, str], temporary: Path) -> dict[str, str]:
        """What training sees: secrets left out, temporary files in a folder of the run's own."""
        kept = environment.get(KEEP_VARIABLE, "").split(",")
        seen = {name: value for name, value in environment.items() if name in kept or not self._hides(name)}
        return {**seen, "TMPDIR": str(temporary)} if self.way else seen

    def _hides(self, name: str) -> bool:
        return self.hide and SECRET.search(name) is not None


UNCONFINED = Sandbox()


def choose(mode: Mode, constraints: Constraints) -> Sandbox:
    """What can be enforced here. Raises PreconditionError where `strict` wants more."""
    if mode == "off":
        return UNCONFINED
    way = available()
    hosts = constraints.network_allowlist
    closed = constraints.network_policy != "full" and not hosts
    missing = []
    if way is None:
        missing.append(f"writes are not confined ({_advice()})")
    if hosts:
        missing.append("networkAllowlist cannot be enforced by host, the network is open")
    elif closed and not (way and _can_close_network(way)):
        missing.append(f"the network is open, although networkPolicy is {constraints.network_policy}")
        closed = False
    if missing and mode == "strict":
        raise PreconditionError(f"--sandbox strict cannot be kept here: {'; '.join(missing)}. Use --sandbox auto")
    enforced = [f"writes confined by {way}"] if way else []
    enforced += ["no network"] if closed else [f"network open (networkPolicy {constraints.network_policy})"]
    enforced += ["secrets hidden"]
    return Sandbox(way, not closed, True, f"sandbox: {', '.join(enforced)}" + "".join(f"; {m}" for m in missing))


def available(platform: str = sys.platform) -> Way | None:
    """The way that works here. bubblewrap before Landlock, which cannot guard a folder inside a writable one."""
    if platform == "darwin" and shutil.which("sandbox-exec"):
        return "Seatbelt"
    if platform == "linux" and shutil.which("bwrap") and _runs(_bubblewrap([], [], network=True)):
        return "bubblewrap"
    if platform == "linux" and confine.version() > 0:
        return "Landlock"
    return None


def _bubblewrap(folders: Sequence[str], guarded: Sequence[str], network: bool) -> list[str]:
    """man bwrap: the file system as it is but read-only, and on top of it what may be written, and what may not."""
    writable = [part for folder in folders for part in ("--bind", folder, folder) if folder != "/dev"]
    read_only = [part for folder in guarded for part in ("--ro-bind", folder, folder)]
    alone = [] if network else ["--unshare-net"]
    return ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", *writable, *read_only, *alone, "--"]


def _landlock(folders: Sequence[str], _: Sequence[str], network: bool) -> list[str]:
    alone = [] if network else ["--no-network"]
    return [sys.executable, "-I", "-S", confine.__file__, *alone, *folders, "--"]


def _seatbelt(folders: Sequence[str], guarded: Sequence[str], network: bool) -> list[str]:
    """man sandbox-exec, and the profiles in /System/Library/Sandbox/Profiles: the last rule that matches decides."""
    profile = ["(version 1)", "(allow default)", "(deny file-write*)"]
    profile += [f"(allow file-write* (subpath {_quoted(folder)}))" for folder in folders]
    profile += [f"(deny file-write* (subpath {_quoted(folder)}))" for folder in guarded]
    profile += [] if network else ["(deny network*)"]
    return ["sandbox-exec", "-p", "\n".join(profile)]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _can_close_network(way: Way) -> bool:
    if way == "bubblewrap":
        return _runs(_bubblewrap([], [], network=False))
    return way == "Seatbelt" or _runs(_landlock([], [], network=False))


def _runs(prefix: Sequence[str]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _advice() -> str:
    return "install bubblewrap" if sys.platform == "linux" else "no sandbox is known for this system"


def _uv_cache() -> Path:
    """Where uv keeps what it has downloaded: docs.astral.sh/uv, Caching. `uv run` takes a lock there."""
    given = os.environ.get("UV_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "uv"
