"""What may hold keys: files and folders that no run sees, whichever folder or link leads to them."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.journal.paths import home_folder, stations_folder
from agent.room.places import READ_VARIABLE, TOOLS
from agent.system import temporary
from agent.system.files import read_bounded

KEY_PLACES = {".netrc", ".npmrc", ".pypirc", ".ssh", ".aws", ".gnupg"}
# Folders that lead to what is none of a run's: histories with passwords in their addresses, and journals.
OWN_FOLDERS = {".git", ".autoresearch"}
# Never shown to a run: the loop's own files, files that an earlier run could have planted, and keys.
KEPT_BACK = {"__pycache__", "run.log"} | OWN_FOLDERS | KEY_PLACES
KEY_FILES = (".env", ".pem", ".key", ".p12", ".pfx", ".keystore", ".jks")
LARGEST_PEM = 2**20
MOST_ENTRIES = 5000  # of a folder that a link leads to, in which keys are looked for
# A link to one of these, or to anything in the second ones, leads to sockets, processes and other people's files.
HOMES = ("/home", "/Users")
BROAD = (*HOMES, "/root", "/var", "/tmp", "/var/tmp", "/private", "/private/var", "/private/tmp")
OF_THE_SYSTEM = ("/proc", "/dev", "/run", "/private/var/run")
MOUNTED = ("/run/media", "/dev/shm")  # disks, and data in memory
# What a link may lead to of the settings that programs keep in a home folder, where keys are as well.
DATA_IN_HOME = (
    ".cache",
    ".fastai",
    ".keras",
    ".lmstudio/models",
    ".local/share/hatch",
    ".local/share/mamba",
    ".local/share/pdm",
    ".local/share/virtualenvs",
    ".ollama/models",
    ".torch",
    ".venvs",
    ".virtualenvs",
    "Library/Caches",
    "Library/CloudStorage",
    "Library/Mobile Documents",
    *TOOLS,
)


def is_key(path: Path, *, nested: bool) -> bool:
    """Return whether a file may hold keys. A certificate in a folder, as libraries bring them, is none."""
    if path.name.startswith(".env"):
        return True
    if not path.name.endswith(KEY_FILES):
        return False
    if not nested or path.suffix != ".pem":
        return True
    try:
        return b"PRIVATE KEY" in read_bounded(path, LARGEST_PEM)
    except OSError:
        return True


def is_private(place: Path, top: Path) -> bool:
    """Return whether no run may follow a link to a place: it may hold keys, or is more than data.

    What the user names in AUTORESEARCH_READ is not private.

    Args:
        place: without links in its path.
        top: of the user's repository.
    """
    top, home = top.resolve(), home_folder().resolve()
    if place != top and place.is_relative_to(top):
        return bool(KEPT_BACK & {*place.relative_to(top).parts}) or is_key(place, nested=True)
    named = [Path(each).expanduser() for each in os.environ.get(READ_VARIABLE, "").split(os.pathsep) if each]
    if any(place.is_relative_to(each.resolve()) for each in named):
        return False
    if place.is_relative_to(stations_folder()):
        return True  # other repositories, and answers of their runs
    if not _is_data(place):
        return True  # a socket, through which another program could be told what to do
    if (
        str(place) in (*BROAD, os.path.realpath(temporary.place()))
        or home.is_relative_to(place)
        or top.is_relative_to(place)
    ):
        return True
    if any(place.is_relative_to(each) for each in OF_THE_SYSTEM) and not {*map(Path, MOUNTED)} & {*place.parents}:
        return True
    if {part.casefold() for part in place.parts} & (KEY_PLACES | OWN_FOLDERS) or is_key(place, nested=True):
        return True
    of_others = (each for each in place.parents if str(each.parent) in HOMES)
    homes = (each for each in (home, Path("/root"), *of_others) if each in place.parents)
    return any(_is_setting(place.relative_to(each)) for each in homes)


def keys_in(folder: Path) -> Iterator[Path]:
    """Yield what may hold keys directly in a folder that a link leads to."""
    try:
        entries = [*itertools.islice(folder.iterdir(), MOST_ENTRIES)] if folder.is_dir() else []
    except OSError:
        return
    own = {*own_folders(folder)}
    yield from (each for each in entries if each.name in KEY_PLACES or each in own or is_key(each, nested=True))


def own_folders(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the folders of git and of this program in a folder, and so many levels further down.

    The data of git-annex are in its .git, which is none.
    """
    try:
        entries = os.scandir(folder) if not folder.is_symlink() else ()
        inner = [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for each in inner:
        if each.name in OWN_FOLDERS and not (each / "annex").exists():
            yield each
        elif depth:
            yield from own_folders(each, depth - 1)


def can_be_split(folder: Path) -> bool:
    """Return whether a folder that a link leads to has few enough entries to allow each of them alone."""
    try:
        return len([*itertools.islice(os.scandir(folder), MOST_ENTRIES + 1)]) <= MOST_ENTRIES
    except OSError:
        return False


def lead_of(path: Path) -> Path | None:
    """Return where a link leads; None if the path is no link, or leads to nothing."""
    try:
        lead = path.resolve() if path.is_symlink() else None
        return lead if lead is not None and lead.exists() else None
    except (OSError, RuntimeError):
        return None


def leading_out(tree: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names of links at the top level of a tree that lead out of it, and where."""
    for path in sorted(tree.iterdir()):
        lead = lead_of(path)
        if lead is not None and not lead.is_relative_to(tree):
            yield path.name, lead


def _is_data(place: Path) -> bool:
    try:
        mode = place.stat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _is_setting(place: Path) -> bool:
    """Return whether a place, relative to a home folder, is where programs keep settings, and some of them keys."""
    if not (place.parts[0].startswith(".") or place.parts[0] == "Library"):
        return False
    return not any(place.is_relative_to(each) for each in DATA_IN_HOME)
