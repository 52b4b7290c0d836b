"""A room for one run: a new copy of a commit, with access to the workspace's untracked files, deleted afterwards.

In a room with its own root, the command finds the copy at the path of the workspace; on systems that do not support
that, at another path. Everything that it writes is deleted with the room, and no other run sees it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from agent.errors import AutoresearchError
from agent.format import one_line
from agent.journal.paths import home_folder, stations_folder
from agent.repository.workspace import Workspace
from agent.room import variables
from agent.room.keys import (
    KEPT_BACK,
    KEY_PLACES,
    can_be_split,
    is_key,
    is_private,
    keys_in,
    lead_of,
    leading_out,
    own_folders,
)
from agent.room.places import places, texts
from agent.room.sandbox import Kind, Layout, Sandbox, Shown, program, temporary_folder
from agent.source.encoding import encoded
from agent.system.files import own_outputs, read_bounded
from agent.system.shielded import run_shielded

PARTS = ("tree", "home", "tmp", "cache", "evaluator", "root", "scratch")
ENVIRONMENT = ".venv"
# Without copy-on-write layers, a folder up to this size is copied, and a larger one is read-only.
LARGEST_COPY, MOST_COPIED = 64 * 2**20, 5000
LARGEST_COPIES = 2**30  # of all copies of a room together, bytes
# Claims and keys are looked for in untracked folders, so many levels down. A folder with one is shown without it, part
# by part, or not at all if it has more than MOST_PARTS.
DEEPEST, MOST_PARTS = 2, 2000
MOST_STAMPED = 20_000
LARGEST_CLAIM = 4 * 2**20
# The errors of cp for parts of a folder that runs cannot have: no user could read them, or they are gone.
NO_FAULTS = ("Permission denied", "No such file or directory")


@dataclass(frozen=True)
class Room:
    """An isolated copy of the workspace and the environment of the command that runs in it.

    Attributes:
        workspace: path of the copy on this machine, where the loop reads the files that the run wrote.
        inside: path of the copy as the command sees it.
        environment: all variables that the command sees.
    """

    layout: Layout
    workspace: Path
    inside: Path
    environment: Mapping[str, str]
    sandbox: Sandbox

    def arguments(self, command: str | Sequence[str], cwd: str = ".", report: int | None = None) -> list[str]:
        """Return the arguments that run a command in the room.

        Args:
            command: a line for the shell, or a program and its arguments.
            cwd: relative to the workspace.
            report: as for `Sandbox.enter`.
        """
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        return self.sandbox.enter(argv, self.layout, self.inside / cwd, report)

    def seen(self, path: Path) -> Path:
        """Return the path at which the command sees a file of the room that is at `path` on this machine."""
        if not self.sandbox.has_root:
            return path
        for each in self.layout.shown:
            if path.is_relative_to(each.source):
                return each.target / path.relative_to(each.source)
        return path

    def holds(self, place: Path) -> bool:
        """Return whether a path on this machine is the room's own, with the layers that its folder cannot hold."""
        own = (self.layout.folder, *self.layout.scratch)
        return any(place.resolve().is_relative_to(each.resolve()) for each in own)

    def written(self, path: str) -> Path:
        """Return the path on this machine of a file that the run wrote.

        Writes to a folder that is mounted copy-on-write are found in its layer.

        Args:
            path: relative to the workspace.
        """
        inside = Path(os.path.normpath(self.inside / path))
        for each in self.layout.shown:
            layers = (place / each.layer / "upper" for place in self.layout.scratch)
            layer = next((layer for layer in layers if layer.is_dir()), None)
            if each.kind == "cow" and inside.is_relative_to(each.target) and layer:
                return layer / inside.relative_to(each.target)
        return self.workspace / path


@dataclass(frozen=True)
class UntrackedFiles:
    """Untracked files, folders and submodules of a repository that a run may need, relative to its top.

    Attributes:
        names: those that a run is shown.
        kept_back: those that it is not shown, because they may hold keys.
        inner: folders of git and of this program in `names`, which are not shown either.
        links: tracked links to what may hold keys. A sandbox lets them lead nowhere.
        source: the folder that contains them, if it is not the repository: a clone has only the tracked files.
    """

    names: tuple[str, ...] = ()
    kept_back: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    source: Path | None = None


NO_FILES = UntrackedFiles()


@dataclass(frozen=True)
class Furniture:
    """The contents of a room besides the copy of the commit.

    Attributes:
        kind: the purpose of the room. "setup" prepares the workspace itself; "agent" edits a copy and needs the
            credentials of its provider.
        command: the command that will run in it, which decides which programs are shown.
        untracked: the untracked files of the workspace that are shown.
        cache: contents of the run's own cache folder by name: the bytes of a file, or a path to show without copying.
        read: further paths of the machine to show read-only.
        write: further paths of the machine to show writable.
        hidden: paths that are not shown.
        evaluated: whether a separate evaluator computes the metric, so that the room must hide the text on which the
            metric is evaluated.
        variables: further environment variables.
        results: files that are read after the command, relative to the workspace. Those that git does not track are of
            an earlier run, and are left out.
    """

    kind: Literal["run", "setup", "agent"] = "run"
    command: str = ""
    untracked: UntrackedFiles = NO_FILES
    cache: Mapping[str, Path | bytes] = field(default_factory=dict)
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    evaluated: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    results: tuple[str, ...] = ()


def untracked_files(workspace: Workspace, of_candidates: Collection[str] = ()) -> UntrackedFiles:
    """Return the untracked files, folders and submodules that a run may need, as they are in the checkout now.

    Args:
        workspace: where.
        of_candidates: files relative to the workspace that candidates bring themselves, so that no other run sees them.
    """
    names, kept_back, inner = [], [], []
    # A log of the session itself would tell runs what others measured, and change with each of them.
    out = [workspace.top / workspace.in_repository(path) for path in of_candidates] + own_outputs()
    every = (*workspace.untracked(), *workspace.submodules())
    shown = (part for each in every for part in _but(workspace.top, each, out, whole=False))
    for name, is_whole in (part for each in shown for part in _parts(workspace.top, each)):
        parts, place = PurePosixPath(name).parts, workspace.top / name
        if KEPT_BACK & {*parts} or name == workspace.in_repository("results.tsv"):
            continue
        lead = lead_of(place)
        private = lead is not None and is_private(lead, workspace.top)
        if private or not is_whole or is_key(place, nested=len(parts) > 1) or _has_state(place):
            kept_back.append(name)
        else:
            names.append(name)
            found = own_folders(place, DEEPEST - 1) if not is_installed(place) else ()
            inner += [each.relative_to(workspace.top).as_posix() for each in found]
    links = [name for name, lead in leading_out(workspace.top) if is_private(lead, workspace.top)]
    links = [name for name in dict.fromkeys(links) if name not in kept_back]
    return UntrackedFiles(tuple(names), tuple(kept_back), tuple(inner), tuple(links))


def stamp_of(untracked: UntrackedFiles, top: Path) -> str:
    """Return a SHA-256 over names, sizes and times of untracked files that runs are shown, which may be their data.

    Installed packages and links do not count, nor what follows the first MOST_STAMPED files.

    Args:
        untracked: as runs are shown them.
        top: of the repository.
    """
    checkout, digest = untracked.source or top, hashlib.sha256()
    found = (each for name in sorted(untracked.names) for each in _files_of(checkout / name))
    for path in itertools.islice(found, MOST_STAMPED):
        with contextlib.suppress(OSError):
            about = path.lstat()
            said = f"{path.relative_to(checkout)}\0{about.st_size}\0{about.st_mtime_ns}\n"
            digest.update(said.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files_of(place: Path) -> Iterator[Path]:
    """Yield the files at a place and below, in order, without those that no run sees and installed packages."""
    if place.name in KEPT_BACK or place.is_symlink():
        return
    if not place.is_dir():
        yield place
    elif not is_installed(place):
        with contextlib.suppress(OSError):
            for entry in sorted(place.iterdir()):
                yield from _files_of(entry)


def _parts(top: Path, name: str) -> Iterator[tuple[str, bool]]:
    """Yield an untracked path, or if it holds claims or keys in a folder of it, all parts of it but the claims.

    A claim has metrics on the holdout, which no run and no proposer may see.

    Yields:
        The path, and False if it has more parts than can be shown each alone.
    """
    path, folder = PurePosixPath(name), top / name
    if any(_is_claim(top / each) for each in (path, *path.parents[:-1])):
        return
    if not _must_be_split(folder):
        yield name, True
        return
    entries = sorted(itertools.islice(folder.iterdir(), MOST_PARTS + 1))
    if len(entries) > MOST_PARTS:
        yield name, False
        return
    for entry in entries:
        yield from _parts(top, f"{name}/{entry.name}")


def _must_be_split(folder: Path, depth: int = DEEPEST) -> bool:
    """Return whether something in a folder may not be shown to a run."""
    if folder.is_symlink() or not folder.is_dir() or is_installed(folder):
        return False
    try:
        entries = [(Path(each.path), each.is_dir(follow_symlinks=False)) for each in os.scandir(folder)]
    except OSError:
        return False
    if any(is_key(path, nested=True) or path.name in KEY_PLACES for path, _ in entries):
        return True
    inner = [path for path, is_folder in entries if is_folder]
    return any(_is_claim(each) or (depth > 1 and _must_be_split(each, depth - 1)) for each in inner)


def _has_state(folder: Path) -> bool:
    return os.access(folder / ".autoresearch", os.F_OK)


def is_installed(folder: Path) -> bool:
    """Return whether a folder holds installed packages. They bring samples of key files, and runs need all of them."""
    return folder.name in (ENVIRONMENT, "node_modules") or os.access(folder / "pyvenv.cfg", os.F_OK)


def _is_claim(folder: Path) -> bool:
    """Return whether a folder is one that `autoresearch claim` wrote."""
    try:
        content = json.loads(read_bounded(folder / "claim.json", LARGEST_CLAIM))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "version" in content and content.get("$schema") == "claim.schema.json"


@contextlib.contextmanager
def opened(
    sandbox: Sandbox,
    workspace: Workspace,
    commit: str,
    furniture: Furniture | None = None,
    *,
    files: Mapping[str, str] | None = None,
    key: Path | None = None,
) -> Iterator[Room]:
    """Open a room with a copy of `commit`, and delete it after the block.

    Args:
        files: path relative to the workspace -> text, written on top of the commit.
        key: identifies the room, as for `temporary_folder`. Only one room per key can be open at a time. None means
            the key of the workspace's runs.
    """
    with temporary_folder(key or workspace.folder) as base:
        make_parts(base)
        inside = workspace.export(base / "tree", commit)
        for path, text in (files or {}).items():
            (inside / path).parent.mkdir(parents=True, exist_ok=True)
            (inside / path).write_bytes(encoded(path, text))
        yield furnish(sandbox, base, base / "tree", workspace.top, workspace.folder, furniture or Furniture())


def make_parts(base: Path) -> None:
    """Create the folders of a room in an empty folder."""
    for part in PARTS:
        (base / part).mkdir(exist_ok=True)


def furnish(sandbox: Sandbox, base: Path, tree: Path, top: Path, workspace: Path, furniture: Furniture) -> Room:
    """Set up the contents of a room and return it.

    Args:
        base: the room's own folder, with the folders of `make_parts`.
        tree: the copy of the repository.
        top: the top of the user's repository, at whose path a room with its own root shows the copy.
        workspace: the user's workspace, in `top`.
    """
    home = home_folder()
    shown = [
        Shown(base / "home", home, "rw"),
        Shown(base / "tmp", Path("/tmp"), "rw"),
        Shown(base / "cache", Path("/cache"), "rw"),
        Shown(tree, top, "rw"),
    ]
    written = [tree / workspace.relative_to(top) / path for path in furniture.results]
    untracked = [path for path in written if not os.path.lexists(path)]
    so_far = SoFar()
    checkout, names = furniture.untracked.source or top, furniture.untracked.names
    closed = furniture.evaluated or furniture.kind == "agent"
    inner = texts(checkout / name for name in names) if closed else []
    inner += [checkout / name for name in furniture.untracked.inner]
    for name in itertools.chain.from_iterable(
        _but(checkout, each, [*furniture.hidden, *inner], whole=sandbox.has_root) for each in names
    ):
        shown += _share(sandbox, checkout, name, tree / name, top / name, so_far)
    _leave_out(base, untracked)
    for name, content in furniture.cache.items():
        target = base / "cache" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shown.append(_show(sandbox, content, target, Path("/cache") / name, "ro"))
    leads = [*so_far.leads, *(lead for _, lead in leading_out(tree))]
    leads = [lead for lead in leads if not (is_private(lead, top) or _is_in(lead, furniture.hidden))]
    # Landlock can only allow, so that every other entry of a folder with keys needs a rule.
    keys = {lead: [*keys_in(lead)] for lead in leads if sandbox.way != "Landlock" or can_be_split(lead)}
    more, others = [*furniture.read, *leads], [*furniture.hidden, *_of_stations(top)]
    secret = [*others, *itertools.chain.from_iterable(keys.values())]
    listed = tuple(lead for lead, found in keys.items() if found and not _is_in(lead, others))
    found = places(workspace, furniture.command, more, secret, installing=furniture.kind == "setup")
    apart = (place for place in furniture.hidden if place.is_relative_to(tree) or place.is_relative_to(top))
    hidden = [*found.hidden, *(place for place in apart if place.exists())]
    if furniture.evaluated:
        shown.append(Shown(base / "evaluator", Path("/evaluator"), "ro"))
    hidden += [top / place.relative_to(checkout) for place in inner] if sandbox.has_root else inner
    hidden += texts(found.read) if closed else []
    shown += [Shown(place, place, "rw") for place in furniture.write]
    # Nothing of the machine may cover the copy.
    read = tuple(place for place in found.read if not (sandbox.has_root and place.is_relative_to(top)))
    if not sandbox.has_root:
        _link_tools(base / "home", home, (*read, *furniture.write))
    inside = workspace if sandbox.has_root else tree / workspace.relative_to(top)
    results = tuple(Path(os.path.normpath(inside / path)) for path in furniture.results)
    layout = Layout(base, tuple(shown), read, tuple(dict.fromkeys(hidden)), listed, furniture.kind != "run", results)
    room = Room(layout, tree / workspace.relative_to(top), inside, {}, sandbox)
    return replace(room, environment=_environment(room, furniture))


def _but(checkout: Path, name: str, hidden: Collection[Path], *, whole: bool) -> Iterator[str]:
    """Yield an untracked path, or if something in it is hidden, such as a cache, all parts of it but that.

    Args:
        whole: whether something in a folder can be hidden, so that the folder is yielded as it is.
    """
    folder = checkout / name
    if _is_in(folder, hidden):
        return
    if whole or folder.is_symlink() or folder.name == ENVIRONMENT or not _holds(folder, hidden):
        yield name
        return
    for entry in sorted(folder.iterdir()):
        yield from _but(checkout, f"{name}/{entry.name}", hidden, whole=whole)


def _holds(folder: Path, places: Collection[Path]) -> bool:
    return any(place.is_relative_to(folder) for place in places)


def _is_in(path: Path, places: Collection[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _of_stations(top: Path) -> list[Path]:
    """Return what the stations of this machine keep, without the clone at `top` and the folders that lead to it."""
    found, place = list[Path](), stations_folder()
    while place != top and top.is_relative_to(place):
        step = place / top.relative_to(place).parts[0]
        with contextlib.suppress(OSError):
            found += [each for each in place.iterdir() if each != step]
        place = step
    return found if place == top else [place]


def _environment(room: Room, furniture: Furniture) -> dict[str, str]:
    base, kind = room.layout.folder, furniture.kind
    choose = {"run": variables.harmless, "setup": variables.of_setup, "agent": variables.of_agents}[kind]
    seen = choose(os.environ) if room.sandbox.hide else dict(os.environ)
    if kind != "setup":  # git in a copy must not work on the user's repository
        seen = {name: value for name, value in seen.items() if not name.startswith("GIT_")}
    temporary, cache = (str(room.seen(base / part)) for part in ("tmp", "cache"))
    own = {"TMPDIR": temporary, "TMP": temporary, "TEMP": temporary}
    if room.sandbox.hide:
        # An agent finds its credentials in the user's home folder, of which it sees nothing else.
        own["HOME"] = str(home_folder() if kind == "agent" else room.seen(base / "home"))
        if kind == "agent" and not room.sandbox.has_root:
            own["GIT_CONFIG_GLOBAL"] = os.devnull  # git fails if it may not read the user's configuration
    if kind == "run":
        # The virtual environment is read-only, so uv must not try to sync it.
        own |= {"UV_NO_SYNC": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_CACHE_DIR": f"{cache}/uv"}
        own |= {"PYTHONUNBUFFERED": "1", "AUTORESEARCH_CACHE": cache}
    return {**seen, **own, **furniture.variables}


@dataclass
class SoFar:
    """What untracked files have added to a room so far.

    Attributes:
        leads: the targets of those that are links.
        copies: the number of files that were copied.
        size: their size together, bytes.
    """

    leads: list[Path] = field(default_factory=list)
    copies: int = 0
    size: int = 0

    def takes(self, path: Path) -> bool:
        """Return whether a file or folder is small enough to be copied, and count it if it is."""
        size = copies = 0
        for folder, _, names in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
            for name in names:
                with contextlib.suppress(OSError):
                    size += (Path(folder) / name).lstat().st_size
                copies += 1
                whole = self.size + size > LARGEST_COPIES or self.copies + copies > MOST_COPIED
                if size > LARGEST_COPY or whole:
                    return False
        self.size, self.copies = self.size + size, self.copies + copies
        return True


def _share(sandbox: Sandbox, checkout: Path, name: str, target: Path, inside: Path, so_far: SoFar) -> list[Shown]:
    """Add one untracked file or folder to the copy.

    Args:
        checkout: of the user.
        name: of the file, relative to `checkout`.
        target: in the copy on this machine.
        inside: as the command sees it.
        so_far: what others have added; receives what this one adds.

    Returns:
        The mounts that it needs; none if it was copied or linked.
    """
    source = checkout / name
    with contextlib.suppress(OSError):
        target.rmdir()  # a submodule is an empty folder in the copy
    if _is_real_folder(target) and _is_real_folder(source):
        # The commit has files in it, too. Without the user's, its run would measure something else.
        entries = sorted(each.name for each in source.iterdir()) if os.access(source, os.R_OK | os.X_OK) else []
        parts = [(f"{name}/{entry}", target / entry, inside / entry) for entry in entries]
        return [each for part in parts for each in _share(sandbox, checkout, *part, so_far)]
    if os.path.lexists(target) or not os.path.lexists(source):
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        link = source.readlink()
        # The copy may be elsewhere, from where a relative link out of the checkout would lead to another place.
        within = Path(os.path.normpath(source.parent / link)).is_relative_to(checkout)
        target.symlink_to(link if within else source.resolve())
        so_far.leads.append(source.resolve())
        return []
    if not (source.is_dir() or source.is_file()):
        return []  # a socket, pipe or device is not data
    if source.name == ENVIRONMENT:
        return [_show(sandbox, source, target, inside, "ro")]
    if source.is_dir() and sandbox.layers:
        return [Shown(source, inside, "cow")]
    if so_far.takes(source):
        _copy(source, target)
        return []
    return [_show(sandbox, source, target, inside, "ro")]


def _leave_out(base: Path, results: Iterable[Path]) -> None:
    """Remove results of an earlier run from a room: a run that only touched them would count with their numbers.

    What the room shows without copying it are the user's own files, and stays. Layers leave results out themselves.
    """
    for path in results:
        place = Path(os.path.normpath(path))
        with contextlib.suppress(OSError, RuntimeError):  # a folder, nothing, or behind a loop of links
            if place.parent.resolve().is_relative_to(base.resolve()):
                place.unlink()


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _show(sandbox: Sandbox, source: Path, target: Path, inside: Path, kind: Kind) -> Shown:
    """Show `source` in the room. Without its own root, a link in the copy leads there."""
    if not sandbox.has_root:
        target.symlink_to(source)
    return Shown(source, inside, kind)


def _copy(source: Path, target: Path) -> None:
    """Copy with times and permissions, sharing blocks with the original if the file system supports it.

    Raises:
        AutoresearchError: the copy is incomplete, besides parts that the user may not read or has deleted meanwhile.
    """
    how = ["-cRp"] if sys.platform == "darwin" else ["-a", "--reflink=auto"]
    env = {**os.environ, "LC_ALL": "C"}  # its messages are matched below
    done = run_shielded([program("cp"), *how, "--", str(source), str(target)], env=env)
    words = done.stderr.decode(errors="replace").splitlines()
    # Owners and times of a file may not be kept, such as in a container or on a network disk; its data are whole.
    faults = [
        line
        for line in words
        if not line.endswith(NO_FAULTS) and "failed to preserve " not in line and "preserving " not in line
    ]
    # With a part of its data, a run would measure something else.
    if done.returncode != 0 and (faults or not words or not target.exists()):
        why = one_line((faults or words or [f"cp ended with exit code {done.returncode}"])[0])
        raise AutoresearchError(f"cannot copy {source} for a run: {why[:200]}")


def _link_tools(room_home: Path, home: Path, read: Iterable[Path]) -> None:
    """Link the shown folders of the user's home into the room's home, where programs look for them."""
    for place in read:
        if place.is_relative_to(home) and place != home:
            target = room_home / place.relative_to(home)
            if not os.path.lexists(target) and not any(parent.is_symlink() for parent in target.parents):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(place)
