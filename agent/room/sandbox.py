"""Confine a room on this system: find the mechanism that is available, and build the arguments that run a command."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.errors import PreconditionError
from agent.journal.paths import layers_folder
from agent.protocol.models import Constraints
from agent.room import confine
from agent.room.places import OF_ROOM, TEXT_PACKAGES, devices, split
from agent.system import temporary
from agent.system.files import remove_tree
from agent.system.shielded import run_shielded

Mode = Literal["auto", "off", "strict"]
Way = Literal["namespaces", "bubblewrap", "Landlock", "Seatbelt"]
Kind = Literal["ro", "rw", "cow"]

# These give a room its own root, so that its files can have the paths of the workspace's.
WITH_ROOT: tuple[Way, ...] = ("namespaces", "bubblewrap")
ENTRANCE = Path(confine.__file__)
LONGEST_SPEC = 100_000  # characters in an argument, of which Linux takes 128 KiB


@dataclass(frozen=True)
class Shown:
    """A file or folder that a room shows.

    Attributes:
        source: path on this machine.
        target: path in a room with its own root. Other rooms see it at `source`.
        kind: "rw", "ro", or "cow" for copy-on-write: writable, but the writes are discarded. If copy-on-write is
            unavailable, it is read-only.
    """

    source: Path
    target: Path
    kind: Kind

    @property
    def layer(self) -> str:
        """The folder in one of the room's `scratch` that holds the writes to a "cow" folder."""
        return hashlib.sha256(os.fsencode(self.target)).hexdigest()[:12]


@dataclass(frozen=True)
class Layout:
    """All paths that a room shows.

    Attributes:
        folder: the room's own folder, which contains the empty folders `root` and `scratch`.
        read: paths of the machine, shown read-only at the same path.
        hidden: paths within all others that are not shown.
        listed: folders with something hidden whose other contents can be listed also under Landlock.
        installing: whether the command may set owners and attributes of files also under Landlock, as `tar` does.
        results: files, as the command sees them, that are read after it, also if it wrote them to memory.
    """

    folder: Path
    shown: tuple[Shown, ...]
    read: tuple[Path, ...]
    hidden: tuple[Path, ...]
    listed: tuple[Path, ...] = ()
    installing: bool = False
    results: tuple[Path, ...] = ()

    @property
    def scratch(self) -> list[Path]:
        """The folders for the writes to "cow" folders. A later one is used if no earlier one can hold them."""
        spare = layers_folder()
        return [self.folder / "scratch", *([spare / self.folder.name] if spare else [])]


@dataclass(frozen=True)
class Sandbox:
    """How rooms are confined.

    Attributes:
        way: the mechanism; None for none.
        network: whether the network is open.
        hide: whether environment variables that are not known to be harmless are removed.
        says: the summary that is shown to the user.
        missing: the restrictions that `auto` could not enforce here.
    """

    way: Way | None = None
    network: bool = True
    hide: bool = False
    says: str = "sandbox: off"
    missing: tuple[str, ...] = ()

    @property
    def has_root(self) -> bool:
        return self.way in WITH_ROOT

    @property
    def layers(self) -> bool:
        """Whether folders can be mounted copy-on-write."""
        return self.way == "namespaces"

    def enter(self, command: Sequence[str], layout: Layout, cwd: Path, report: int | None = None) -> list[str]:
        """Return the arguments that run `command` in the room.

        Args:
            cwd: as the command sees it.
            report: an inherited file descriptor that receives the names of leftover processes, one per line.
        """
        spec: dict[str, Any] = {"cwd": str(cwd), "report": report, "confined": self.way is not None}
        match self.way:
            case None:
                return supervised(spec, command, layout.folder)
            case "namespaces":
                spec |= _with_root(layout) | {"no_network": not self.network}
                return supervised(spec, command, layout.folder)
            case "bubblewrap":
                inner = supervised({**spec, "inner": True}, command, layout.folder)
                return [*_bubblewrap(layout, self.network), *inner]
            case "Landlock":
                spec |= _rules(layout) | {"no_network": not self.network}
                return supervised(spec, command, layout.folder)
            case "Seatbelt":
                return ["sandbox-exec", "-p", seatbelt(layout, self.network), *_in_folder(cwd, command)]


UNCONFINED = Sandbox()


def choose_sandbox(mode: Mode, constraints: Constraints, platform: str = sys.platform) -> Sandbox:
    """Return the strongest sandbox that is available here.

    Raises:
        PreconditionError: `strict` requires a restriction that is unavailable here.
    """
    if mode == "off":
        return UNCONFINED
    hosts = constraints.network_allowlist
    closed = constraints.network_policy != "full" and not hosts
    way = available(not closed, platform) or available(True, platform)
    closed = closed and way is not None and works(way, network=False)
    missing = shortfalls(way, confine.version(), closed)
    if hosts:
        missing.append("networkAllowlist cannot be enforced per host, so the network is open")
    elif constraints.network_policy != "full" and not closed:
        missing.append(f"the network is open, although networkPolicy is {constraints.network_policy}")
    if missing and mode == "strict":
        raise PreconditionError(
            f"--sandbox strict cannot be enforced here: {'; '.join(missing)}", hint="use `--sandbox auto`"
        )
    enforced = [f"each run in its own room, writes confined by {way}"] if way else ["unconfined"]
    enforced += ["no network"] if closed else [f"network open (networkPolicy {constraints.network_policy})"]
    enforced += ["secrets hidden"]
    says = f"sandbox: {', '.join(enforced)}" + "".join(f"; {m}" for m in missing)
    return Sandbox(way, not closed, True, says, tuple(missing))


def shortfalls(way: Way | None, landlock: int, closed: bool) -> list[str]:
    """Return the restrictions that `way` does not enforce.

    Args:
        landlock: the kernel's version of Landlock.
        closed: whether the network is closed.
    """
    if way is None:
        return [f"runs can read and write files outside of their room ({_advice()})"]
    found = []
    if way == "Landlock":
        found.append(
            "runs see the names of other processes, have no shared memory, can connect to programs that listen on "
            "Unix sockets, and can change modes and times of the user's files (install bubblewrap)"
        )
    if way == "Landlock" and closed:
        found.append("UDP stays open (install bubblewrap)")
    if way == "Landlock" and landlock < 3:
        found.append(f"runs can truncate files outside of their room (Landlock {landlock}; install bubblewrap)")
    if way == "Landlock" and landlock < 6:
        found.append(f"runs can signal the user's processes (Landlock {landlock}; install bubblewrap)")
    if way in WITH_ROOT and landlock < 6 and not closed:
        # Of these sockets, a network namespace has its own.
        found.append(
            f"runs can connect to abstract Unix sockets of the user's programs (Landlock {landlock}; Linux 6.12 or "
            "networkPolicy offline would prevent it)"
        )
    return found


def available(network: bool, platform: str = sys.platform) -> Way | None:
    """Return the best mechanism that works here, or None.

    Landlock alone comes last, because it cannot show the room's files at the paths of the workspace.

    Args:
        network: whether the network may stay open.
    """
    ways: dict[str, tuple[Way, ...]] = {
        "darwin": ("Seatbelt",),
        "linux": ("namespaces", "bubblewrap", "Landlock"),
    }
    return next((way for way in ways.get(platform, ()) if works(way, network)), None)


@functools.cache
def works(way: Way, network: bool) -> bool:
    """Return whether a mechanism works here, by running a command with it. The result is cached."""
    with temporary_folder(Path("/no workspace") / str(os.getpid())) as folder:
        return _succeeds(Sandbox(way, network), ["true"], folder) is not None


def layers_kept() -> Path | Literal["memory", "nowhere"]:
    """Return where namespaces keep the writes of a run to untracked folders, by running a command that writes there."""
    with temporary_folder(Path("/no workspace") / str(os.getpid())) as folder:
        layout = _succeeds(Sandbox("namespaces"), ["touch", "data/probe"], folder)
        if layout is None:
            return "nowhere"
        names = [each.layer for each in layout.shown if each.kind == "cow"]
        places = zip((folder.parent, layers_folder() or folder.parent), layout.scratch, strict=False)
        used = (kept for kept, place in places for name in names if (place / name / "upper" / "probe").exists())
        return next(used, None) or "memory"


def _succeeds(box: Sandbox, command: Sequence[str], folder: Path) -> Layout | None:
    """Run a command in a small room, and return what the room shows if the command succeeds."""
    for name in ("root", "scratch", "tree", "data"):
        (folder / name).mkdir()
    shown = (Shown(folder / "tree", folder / "tree", "rw"), Shown(folder / "data", folder / "tree" / "data", "cow"))
    base = [Path(each) for each in ("/usr", "/bin", "/lib", "/lib64", "/etc", "/System", "/Library", "/nix", "/gnu")]
    # This interpreter is started in the room, so its environment must be visible there.
    own = [Path(sys.prefix), Path(sys.base_prefix)]
    programs = dict.fromkeys([*own, *(each.resolve() for each in own), *base])
    layout = Layout(folder, shown, tuple(each for each in programs if each.exists()), ())
    try:
        done = run_shielded(box.enter(command, layout, folder / "tree"), timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return layout if done.returncode == 0 else None


@contextmanager
def temporary_folder(workspace: Path) -> Iterator[Path]:
    """Create a temporary folder for a run of `workspace`, and remove it with its contents after the block.

    Leftover folders of a killed loop are removed first, which is safe as there is only one loop per workspace. Another
    machine, such as a container, may have one at the same path, and share a folder with this one.
    """
    place = os.fsencode(workspace) + b"\0" + os.uname().nodename.encode(errors="replace")
    prefix = f"autoresearch-{hashlib.sha256(place).hexdigest()[:12]}-"
    spare = layers_folder()
    for above in (temporary.place(), *([spare] if spare else [])):
        with contextlib.suppress(OSError):  # it may be writable but not readable, or not exist
            for left in [entry.path for entry in os.scandir(above) if entry.name.startswith(prefix)]:
                remove_tree(Path(left))
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=temporary.place())).resolve()
    try:
        yield folder
    finally:
        remove_tree(folder)
        if spare:
            remove_tree(spare / folder.name)


def program(name: str) -> str:
    """Return the path of one of the system's own programs, regardless of PATH."""
    return shutil.which(name, path=os.pathsep.join(("/bin", "/usr/bin"))) or name


def supervised(spec: dict[str, Any], command: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments that run `command` under `spec`, whose keys are documented in `agent.room.confine`.

    Args:
        folder: receives a spec that is too long for an argument, as with a thousand untracked folders.
    """
    if sys.platform != "linux":
        return _in_folder(Path(spec["cwd"]), command)
    # Use the interpreter itself: the room may not show its virtual environment.
    python = str(Path(sys.executable).resolve())
    written = ascii(spec)
    if len(written) > LONGEST_SPEC:
        file = folder / f"spec-{hashlib.sha256(written.encode()).hexdigest()[:12]}"
        file.write_text(written)
        written = f"eval(open({str(file)!a}).read())"
    enter = confine.ENTER.format(folder=str(ENTRANCE.parent), spec=written)
    return [python, "-I", "-S", "-c", enter, *command]


def _in_folder(cwd: Path, command: Sequence[str]) -> list[str]:
    return ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(cwd), *command]


def _with_root(layout: Layout) -> dict[str, Any]:
    binds, links = _binds(layout)
    return {
        "binds": [[str(each.source), str(each.target), each.kind, each.layer] for each in binds],
        "links": links,
        "hidden": [str(place) for place in layout.hidden],
        "root": str(layout.folder / "root"),
        "scratch": [str(place) for place in layout.scratch],
        "kept": [
            [each.layer, str(result.relative_to(each.target))]
            for each in binds
            for result in layout.results
            if each.kind == "cow" and result.is_relative_to(each.target)
        ],
    }


def _binds(layout: Layout) -> tuple[list[Shown], list[list[str]]]:
    """Return the mounts of a room with its own root, parents first, and its symbolic links as [target, path]."""
    links = [[str(place.readlink()), str(place)] for place in layout.read if place.is_symlink()]
    links += [["/proc/self/fd", "/dev/fd"], *([f"/proc/self/fd/{n}", f"/dev/{name}"] for n, name in enumerate(STREAMS))]
    read = [Shown(place, place, "ro") for place in layout.read if place not in OF_ROOM and not place.is_symlink()]
    nodes = [Shown(node, node, "rw") for node in devices()]
    return sorted([*read, *nodes, *layout.shown], key=lambda each: len(each.target.parts)), links


STREAMS = ("stdin", "stdout", "stderr")


def _bubblewrap(layout: Layout, network: bool) -> list[str]:
    """Return the arguments of bwrap(1): only the named paths, no other processes, no shared memory of others."""
    binds, links = _binds(layout)
    argv = ["bwrap", "--unshare-pid", "--unshare-ipc", "--die-with-parent", *([] if network else ["--unshare-net"])]
    argv += ["--proc", "/proc", "--tmpfs", "/dev", "--tmpfs", "/dev/shm"]
    for each in binds:
        how = "--dev-bind" if each.target.is_relative_to("/dev") else "--bind" if each.kind == "rw" else "--ro-bind"
        argv += [how, str(each.source), str(each.target)]
    for target, path in links:
        argv += ["--symlink", target, path]
    for place in layout.hidden:
        argv += ["--tmpfs", str(place)] if place.is_dir() else ["--ro-bind", "/dev/null", str(place)]
    # The module that enters the room must be visible at its own path.
    return [*argv, "--ro-bind", str(ENTRANCE), str(ENTRANCE), "--"]


def _rules(layout: Layout) -> dict[str, Any]:
    """Return the rules for Landlock, which can only allow paths, so that hidden ones must be split out.

    Python lists the folder of installed packages to import from it, also where a package in it is hidden.
    """
    read = [*layout.read, *(each.source for each in layout.shown if each.kind != "rw"), Path("/proc")]
    write = [each.source for each in layout.shown if each.kind == "rw"]
    packages = (place.parent for place in layout.hidden if place.name in TEXT_PACKAGES)
    return {
        "read": [str(place) for place in split(read, layout.hidden)],
        "write": [str(place) for place in (*write, *devices())],
        "listed": [*dict.fromkeys(map(str, (*packages, *layout.listed)))],
        "attributes": layout.installing,
    }


# Services of macOS through which a program could bypass its sandbox: they give out keys, start programs, or keep data.
_OUTSIDE = (
    "com.apple.SecurityServer",
    "com.apple.securityd.xpc",
    "com.apple.secd",
    "com.apple.coreservices.launchservicesd",
    "com.apple.coreservices.quarantine-resolver",
    "com.apple.pboard",
)


def seatbelt(layout: Layout, network: bool) -> str:
    """Return the profile for sandbox-exec(1), in which the last matching rule wins.

    /System/Library/Sandbox/Profiles has examples. Of the user's files only the named ones are readable; all of the
    system's files are, because no program starts without them. Metal caches compiled shaders in a folder that it finds
    by confstr, regardless of TMPDIR. Signals are denied first and then allowed within the sandbox, as "(deny signal
    (target others))" is reported to have no effect on macOS 26. kern.procargs reveals the variables of other processes;
    LaunchServices and Apple events start programs outside of the sandbox; SecurityServer and secd give out keys; POSIX
    shared memory outlives its creator.
    """
    write = [each.source for each in layout.shown if each.kind == "rw"]
    read = [*layout.read, *(each.source for each in layout.shown if each.kind != "rw"), *write]
    profile = ["(version 1)", "(allow default)", "(deny file-write*)"]
    for operation in ("signal", "process-info*"):
        profile += [f"(deny {operation})", f"(allow {operation} (target same-sandbox))"]
    profile += ['(deny sysctl-read (sysctl-name-prefix "kern.procargs"))', "(deny appleevent-send)"]
    profile += ["(deny mach-priv-task-port)", "(deny ipc-posix-shm-write-create)", "(deny ipc-sysv*)"]
    profile += [f"(deny mach-lookup (global-name {_quoted(service)}))" for service in _OUTSIDE]
    private = ("/Users", "/Volumes", "/private/tmp", "/private/var", "/Library/Keychains", "/Network", "/home")
    profile += [f"(deny file-read-data file-read-xattr (subpath {_quoted(place)}))" for place in private]
    profile += [
        f"(allow file-read* (subpath {_quoted(place)}))" for place in ("/private/var/db", "/private/var/select")
    ]
    profile += [f"(allow file-read* (subpath {_quoted(place)}))" for place in read]
    profile += [f"(allow file-write* (subpath {_quoted(place)}))" for place in write]
    profile += [
        f"(allow file-write* (literal {_quoted(node)}))" for node in ("/dev/null", "/dev/zero", "/dev/dtracehelper")
    ]
    metal = r'#"^/private/var/folders/[^/]+/[^/]+/C/.*com\.apple\.metal"'
    profile += [f"(allow file-read* file-write* (regex {metal}))"]
    profile += [f"(deny file-read* file-write* (subpath {_quoted(place)}))" for place in layout.hidden]
    if not network:
        profile += ["(deny network*)", *(f"(allow network* (subpath {_quoted(place)}))" for place in write)]
    return "\n".join(profile)


def _quoted(place: Path | str) -> str:
    return '"' + str(place).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _advice() -> str:
    return "install bubblewrap" if shutil.which("apt") or sys.platform == "linux" else "no sandbox supports this system"
