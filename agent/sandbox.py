"""Where training may write, whether it has a network, and which of the person's variables it sees."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import confine
from agent.errors import PreconditionError
from agent.fingerprint import cache_folder
from agent.protocol import Constraints

Mode = Literal["auto", "off", "strict"]
Way = Literal["bubblewrap", "Landlock and namespaces", "Landlock", "Seatbelt"]

# Names that programs give to what must not leak. Words of their own: TOKENIZERS_PARALLELISM is no token, PWD no
# password. What a URL holds (UV_INDEX_URL, HTTPS_PROXY) passes: uv may need it.
SECRET = re.compile(
    r"API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)(ACCESS_?KEY|PRIVATE_?KEY|TOKEN|AUTH)(_|$)|(^|_)(KEY|PAT)$"
    r"|_(PASS|PWD)$|^AWS_",
    re.IGNORECASE,
)
KEEP_VARIABLE = "AUTORESEARCH_KEEP_ENV"
# Writable everywhere: devices, shared memory and, on a Mac, where Metal keeps its compiled shaders.
DEVICES = {"linux": ("/dev",), "darwin": ("/dev", "/private/var/folders")}


@dataclass(frozen=True)
class Sandbox:
    """way: what confines writes, None for nothing; network: whether it is left open; says: what a person is told;
    missing: what `auto` could not have here."""

    way: Way | None = None
    network: bool = True
    hide: bool = False
    says: str = "sandbox: off"
    missing: tuple[str, ...] = ()

    def command(self, command: str, workspace: Path, temporary: Path, guarded: Sequence[Path] = ()) -> list[str]:
        """The arguments that run `command` in a shell, confined.

        guarded: what stays read-only in the workspace and the cache, where the way can tell it apart.
        """
        shell = ["/bin/sh", "-c", command]
        if self.way is None:
            return shell
        uv = _uv_cache()
        if shutil.which("uv"):
            uv.mkdir(parents=True, exist_ok=True)
        writable = [workspace, temporary, cache_folder(), uv, *map(Path, DEVICES[sys.platform])]
        # uv links the files of .venv, those of other projects too, to what it has unpacked here.
        unpacked = [*uv.glob("archive-v*"), *uv.glob("wheels-v*")]
        folders = [str(folder.resolve()) for folder in writable if folder.exists()]
        kept = [str(place.resolve()) for place in (*guarded, *unpacked) if place.exists()]
        return [*_prefix(self.way, folders, kept, self.network), *shell]

    def agents(self, command: str, writable: Sequence[Path]) -> list[str]:
        """The arguments that run a coding agent's `command` in a shell: it may write to `writable` and use the network.

        Landlock's rules are made for folders here: a file among `writable` stays read-only under it.
        """
        shell = ["/bin/sh", "-c", command]
        if self.way is None:
            return shell
        places = [place for place in (*writable, *map(Path, DEVICES[sys.platform])) if place.exists()]
        if self.way.startswith("Landlock"):
            places = [place for place in places if place.is_dir()]
        return [*_prefix(self.way, [str(place.resolve()) for place in places], [], network=True), *shell]

    def environment(self, environment: Mapping[str, str], temporary: Path) -> dict[str, str]:
        """What training sees: secrets left out, temporary files in a folder of the run's own."""
        kept = environment.get(KEEP_VARIABLE, "").replace(",", " ").split()
        seen = {name: value for name, value in environment.items() if name in kept or not self._hides(name)}
        return {**seen, "TMPDIR": str(temporary)} if self.way else seen

    def _hides(self, name: str) -> bool:
        return self.hide and SECRET.search(name) is not None


UNCONFINED = Sandbox()


def choose(mode: Mode, constraints: Constraints, platform: str = sys.platform) -> Sandbox:
    """What can be enforced here. Raises PreconditionError where `strict` wants more."""
    if mode == "off":
        return UNCONFINED
    hosts = constraints.network_allowlist
    closed = constraints.network_policy != "full" and not hosts
    way = available(not closed, platform) or available(True, platform)
    closed = closed and way is not None and works(way, network=False)
    missing = shortfalls(way, confine.version(), closed)
    if hosts:
        missing.append("networkAllowlist cannot be enforced by host, the network is open")
    elif constraints.network_policy != "full" and not closed:
        missing.append(f"the network is open, although networkPolicy is {constraints.network_policy}")
    if missing and mode == "strict":
        raise PreconditionError(f"--sandbox strict cannot be kept here: {'; '.join(missing)}. Use --sandbox auto")
    enforced = [f"writes confined by {way} to the workspace, the cache and temporary space"] if way else []
    enforced += ["no network"] if closed else [f"network open (networkPolicy {constraints.network_policy})"]
    enforced += ["secrets hidden"]
    says = f"sandbox: {', '.join(enforced)}" + "".join(f"; {m}" for m in missing)
    return Sandbox(way, not closed, True, says, tuple(missing))


def shortfalls(way: Way | None, landlock: int, closed: bool) -> list[str]:
    """What `way` leaves open of what it should close. landlock: the kernel's version of it."""
    if way is None:
        return [f"writes are not confined ({_advice()})"]
    found = []
    if way == "Landlock":
        found.append("git's and the loop's own folders in the workspace stay writable (install bubblewrap)")
    if way == "Landlock" and closed:
        found.append("UDP stays open (install bubblewrap)")
    if way.startswith("Landlock") and landlock < 3:
        found.append(f"files elsewhere can be emptied (Landlock {landlock}; install bubblewrap)")
    return found


def temporary_folder(workspace: Path) -> tempfile.TemporaryDirectory[str]:
    """A new one for a run there. Removes what a loop that was killed has left of its own: one loop a workspace."""
    prefix = f"autoresearch-{hashlib.sha256(os.fsencode(workspace)).hexdigest()[:12]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def available(network: bool, platform: str = sys.platform) -> Way | None:
    """The first way that works here; network: whether it may stay open.

    Landlock by itself comes last: it cannot guard a folder inside a writable one.
    """
    ways: dict[str, tuple[Way, ...]] = {
        "darwin": ("Seatbelt",),
        "linux": ("bubblewrap", "Landlock and namespaces", "Landlock"),
    }
    return next((way for way in ways.get(platform, ()) if works(way, network)), None)


def works(way: Way, network: bool) -> bool:
    """Whether a command can be confined so, found out by doing it."""
    folder = str(Path(tempfile.gettempdir()).resolve())
    try:
        command = [*_prefix(way, [folder], [folder], network), "true"]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _prefix(way: Way, folders: Sequence[str], guarded: Sequence[str], network: bool) -> list[str]:
    match way:
        case "bubblewrap":
            return _bubblewrap(folders, guarded, network)
        case "Seatbelt":
            return _seatbelt(folders, guarded, network)
        case "Landlock and namespaces":
            return _landlock(["--namespaces", *(f"--guard={place}" for place in guarded)], folders, network)
        case "Landlock":
            return _landlock([], folders, network)


def _bubblewrap(folders: Sequence[str], guarded: Sequence[str], network: bool) -> list[str]:
    """man bwrap: the file system as it is but read-only, and on top of it what may be written, and what may not.

    It sees no other processes: those of the same person tell their environment, with its secrets, in /proc.
    """
    writable = [part for folder in folders for part in ("--bind", folder, folder) if folder != "/dev"]
    read_only = [part for folder in guarded for part in ("--ro-bind", folder, folder)]
    alone = [] if network else ["--unshare-net"]
    whole = ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--unshare-pid", "--proc", "/proc"]
    return ["bwrap", *whole, *writable, *read_only, *alone, "--"]


def _landlock(namespaces: Sequence[str], folders: Sequence[str], network: bool) -> list[str]:
    alone = [] if network else ["--no-network"]
    return [sys.executable, "-I", "-S", confine.__file__, *namespaces, *alone, *folders, "--"]


def _seatbelt(folders: Sequence[str], guarded: Sequence[str], network: bool) -> list[str]:
    """man sandbox-exec, and the profiles in /System/Library/Sandbox/Profiles: the last rule that matches decides."""
    profile = ["(version 1)", "(allow default)", "(deny file-write*)"]
    profile += [f"(allow file-write* (subpath {_quoted(folder)}))" for folder in folders]
    profile += [f"(deny file-write* (subpath {_quoted(folder)}))" for folder in guarded]
    profile += [] if network else ["(deny network*)"]
    return ["sandbox-exec", "-p", "\n".join(profile)]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _advice() -> str:
    return "install bubblewrap" if sys.platform == "linux" else "no sandbox is known for this system"


def _uv_cache() -> Path:
    """Where uv keeps what it has downloaded: docs.astral.sh/uv, Caching. `uv run` takes a lock there."""
    given = os.environ.get("UV_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "uv"
