"""A room for one run: a fresh copy of a commit, with what git does not track lent to it, that is thrown away.

The command finds the copy where the workspace lies, in a root of its own, or elsewhere where the system has no such
thing. Everything that it writes goes with the room, and nothing of it is seen by another run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from agent.errors import AutoresearchError
from agent.journal.paths import home_folder
from agent.repository.workspace import Workspace
from agent.room import variables
from agent.room.places import places, texts
from agent.room.sandbox import Kind, Layout, Sandbox, Shown, program, temporary_folder
from agent.source.encoding import encoded

PARTS = ("tree", "home", "tmp", "cache", "evaluator", "root", "scratch")
ENVIRONMENT = ".venv"
# Never lent: the loop's own, what a run could have planted, and what holds keys.
KEPT_BACK = {".autoresearch", ".git", "__pycache__", "run.log", ".netrc", ".npmrc", ".pypirc", ".ssh", ".aws", ".gnupg"}
KEY_FILES = (".env", ".pem", ".key", ".p12", ".pfx", ".keystore", ".jks")
# Without layers, what is smaller is copied, and what is larger is read-only.
LARGEST_COPY, MOST_COPIED = 64 * 2**20, 5000


@dataclass(frozen=True)
class Room:
    """workspace: its copy on this machine, where the loop reads what the run wrote; inside: as the command sees it."""

    layout: Layout
    workspace: Path
    inside: Path
    environment: Mapping[str, str]
    sandbox: Sandbox

    def arguments(self, command: str | Sequence[str], cwd: str = ".", report: int | None = None) -> list[str]:
        """Return what runs a command in the room: a line for the shell, or a program and its arguments."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        return self.sandbox.enter(argv, self.layout, self.inside / cwd, report)

    def seen(self, path: Path) -> Path:
        """Return where the command finds a file of the room that lies at `path` on this machine."""
        if not self.sandbox.has_root:
            return path
        for each in self.layout.shown:
            if path.is_relative_to(each.source):
                return each.target / path.relative_to(each.source)
        return path

    def written(self, path: str) -> Path:
        """Return the folder, on this machine, below which `path`, relative to the workspace, lies if the run wrote it.

        What is written to a folder that is shown in layers lies in its layer, by its name there.
        """
        inside = Path(os.path.normpath(self.inside / path))
        for each in self.layout.shown:
            layer = self.layout.folder / "scratch" / each.layer / "upper"
            if each.kind == "cow" and inside.is_relative_to(each.target) and layer.is_dir():
                return layer / inside.relative_to(each.target)
        return self.workspace / path


@dataclass(frozen=True)
class Lent:
    """Names, relative to the top of the repository, of what git does not track and a run may need.

    kept_back: those that it is not shown, as they may hold keys.
    """

    names: tuple[str, ...] = ()
    kept_back: tuple[str, ...] = ()


NOTHING = Lent()


@dataclass(frozen=True)
class Furniture:
    """What a room holds besides the copy. lent: what of the workspace's untracked files it is shown.

    kind: for whom it is; "setup" prepares the workspace itself, and "agent" edits a copy and signs in somewhere.
    cache: what stands in the run's own cache, by its name there; a folder is shown and not copied. read, write: more
    of the machine; hidden: what of it all is not shown. evaluated: an evaluator beside the run
    computes the metric, so that nothing here shows the text that it is taken over.
    """

    kind: Literal["run", "setup", "agent"] = "run"
    command: str = ""
    lent: Lent = NOTHING
    cache: Mapping[str, Path | bytes] = field(default_factory=dict)
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    evaluated: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


def lendable(workspace: Workspace) -> Lent:
    """Return what a run may need of what this repository's git does not keep, submodules too, as it lies there now."""
    names, kept_back = [], []
    for name in (*workspace.untracked(), *workspace.submodules()):
        parts = PurePosixPath(name).parts
        if KEPT_BACK & {*parts} or name == workspace.in_repository("results.tsv"):
            continue
        if (
            parts[-1].startswith(".env")
            or parts[-1].endswith(KEY_FILES)
            or (workspace.top / name / ".autoresearch").exists()
        ):
            kept_back.append(name)
        else:
            names.append(name)
    return Lent(tuple(names), tuple(kept_back))


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
    """Open a room with `commit` and, on top of it, `files` of the workspace.

    key: names the rooms of which there is one at a time, by default the workspace's runs.
    """
    with temporary_folder(key or workspace.folder) as base:
        make_parts(base)
        inside = workspace.export(base / "tree", commit)
        for path, text in (files or {}).items():
            (inside / path).parent.mkdir(parents=True, exist_ok=True)
            (inside / path).write_bytes(encoded(path, text))
        yield furnish(sandbox, base, base / "tree", workspace.top, workspace.folder, furniture or Furniture())


def make_parts(base: Path) -> None:
    """Make the folders of a room in an empty one."""
    for part in PARTS:
        (base / part).mkdir(exist_ok=True)


def furnish(sandbox: Sandbox, base: Path, tree: Path, top: Path, workspace: Path, furniture: Furniture) -> Room:
    """Return the room in `base` around the repository that lies at `tree` and, as the workspace, is found at `top`."""
    home = home_folder()
    shown = [
        Shown(base / "home", home, "rw"),
        Shown(base / "tmp", Path("/tmp"), "rw"),
        Shown(base / "cache", Path("/cache"), "rw"),
        Shown(tree, top, "rw"),
    ]
    leads: list[Path] = []
    for name in furniture.lent.names:
        shown += _lend(sandbox, top / name, tree / name, top / name, leads)
    for name, content in furniture.cache.items():
        target = base / "cache" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shown.append(_show(sandbox, content, target, Path("/cache") / name, "ro"))
    more = [*furniture.read, *leads, *_leading_out(tree)]
    found = places(workspace, furniture.command, more, furniture.hidden, installing=furniture.kind == "setup")
    hidden = [*found.hidden, *(place for place in furniture.hidden if place.is_relative_to(tree))]
    if furniture.evaluated:
        shown.append(Shown(base / "evaluator", Path("/evaluator"), "ro"))
        own = [each.target if sandbox.has_root else each.source for each in shown if each.source.name == ENVIRONMENT]
        hidden += texts([*found.read, *own])
    shown += [Shown(place, place, "rw") for place in furniture.write]
    # What stands at the place of the copy is the copy's.
    read = tuple(place for place in found.read if not (sandbox.has_root and place.is_relative_to(top)))
    if not sandbox.has_root:
        _link_tools(base / "home", home, (*read, *furniture.write))
    inside = workspace if sandbox.has_root else tree / workspace.relative_to(top)
    layout = Layout(base, tuple(shown), read, tuple(dict.fromkeys(hidden)))
    room = Room(layout, tree / workspace.relative_to(top), inside, {}, sandbox)
    return replace(room, environment=_environment(room, furniture))


def _environment(room: Room, furniture: Furniture) -> dict[str, str]:
    base, kind = room.layout.folder, furniture.kind
    choose = {"run": variables.harmless, "setup": variables.of_setup, "agent": variables.of_agents}[kind]
    seen = choose(os.environ) if room.sandbox.hide else dict(os.environ)
    if kind != "setup":  # git in a copy must not be led to the person's repository
        seen = {name: value for name, value in seen.items() if not name.startswith("GIT_")}
    temporary, cache = (str(room.seen(base / part)) for part in ("tmp", "cache"))
    own = {"TMPDIR": temporary, "TMP": temporary, "TEMP": temporary}
    if room.sandbox.hide:
        # An agent finds its sign-in where the person's home folder is; the rest of that it does not see.
        own["HOME"] = str(home_folder() if kind == "agent" else room.seen(base / "home"))
        if kind == "agent" and not room.sandbox.has_root:
            own["GIT_CONFIG_GLOBAL"] = os.devnull  # git gives up over a person's that it may not read
    if kind == "run":
        # The environment is read-only, so that uv cannot bring it up to date within a run.
        own |= {"UV_NO_SYNC": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_CACHE_DIR": f"{cache}/uv"}
        own |= {"PYTHONUNBUFFERED": "1", "AUTORESEARCH_CACHE": cache}
    return {**seen, **own, **furniture.variables}


def _lend(sandbox: Sandbox, source: Path, target: Path, inside: Path, leads: list[Path]) -> list[Shown]:
    """Give the copy one file or folder that git does not track. Adds to `leads` where links in it lead."""
    with contextlib.suppress(OSError):
        target.rmdir()  # an empty folder stands for a submodule
    if os.path.lexists(target) or not os.path.lexists(source):
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        leads.append(source.resolve())
        return []
    if not (source.is_dir() or source.is_file()):
        return []  # a socket or a pipe is somebody's, and no data
    if source.name == ENVIRONMENT:
        return [_show(sandbox, source, target, inside, "ro")]
    if source.is_dir() and sandbox.layers:
        return [Shown(source, inside, "cow")]
    if _is_small(source):
        _copy(source, target)
        return []
    return [_show(sandbox, source, target, inside, "ro")]


def _show(sandbox: Sandbox, source: Path, target: Path, inside: Path, kind: Kind) -> Shown:
    """Without a root of its own, a link in the copy leads to what is shown."""
    if not sandbox.has_root:
        target.symlink_to(source)
    return Shown(source, inside, kind)


def _copy(source: Path, target: Path) -> None:
    """With times and rights; blocks are shared with the original where the file system can."""
    how = ["-cRp"] if sys.platform == "darwin" else ["-a", "--reflink=auto"]
    done = subprocess.run(
        [program("cp"), *how, "--", str(source), str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and not target.exists():
        raise AutoresearchError(f"{source} cannot be copied for a run: {done.stderr.strip()[:200]}")


def _is_small(path: Path) -> bool:
    total = count = 0
    for folder, _, names in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
            count += 1
            if total > LARGEST_COPY or count > MOST_COPIED:
                return False
    return True


def _leading_out(tree: Path) -> Iterable[Path]:
    """Where links at the top of the copy lead: data that lies elsewhere."""
    for path in tree.iterdir():
        if path.is_symlink():
            with contextlib.suppress(OSError, RuntimeError):
                lead = path.resolve()
                if (
                    lead.exists()
                    and not lead.is_relative_to(tree)
                    and lead not in (home_folder(), Path("/"), *home_folder().parents)
                ):
                    yield lead


def _link_tools(room_home: Path, home: Path, read: Iterable[Path]) -> None:
    """Programs look for their own folders in the home folder."""
    for place in read:
        if place.is_relative_to(home) and place != home:
            target = room_home / place.relative_to(home)
            if not os.path.lexists(target) and not any(parent.is_symlink() for parent in target.parents):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(place)
