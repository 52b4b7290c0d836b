"""Names of files and branches that somebody else chose: which stay inside the workspace, and which git takes."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes
LONGEST_BRANCH = 200
STATE, PROTOCOL = ".autoresearch", "protocol.json"

# What HFS+ leaves out when it compares names (git's utf8.c, next_hfs_char).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# NTFS knows a file by its short name too, and takes spaces, dots and a stream behind a name as nothing.
_SHORT_NAME = re.compile(r"git~\d+")
_MODULES = re.compile(r"\.gitmodules|gitmod~[1-4]|gi7eba~\d+")
_NOT_IN_A_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.$|/$|^/|^-|(^|/)\.|\.lock(/|$)")


def fault_of_path(path: str) -> str | None:
    """Say why a path or glob of a protocol cannot be used, None where it stays inside the workspace.

    The text goes on after the path: "is absolute".
    """
    parts = path.split("/")
    if not path.strip():
        return "is empty"
    if not _is_text(path):
        return "has a control character, or is no UTF-8"
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "is too long"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute: give it relative to the workspace"
    if "\\" in path:
        return "has a backslash: write forward slashes"
    if path == "~" or (path.startswith("~") and "/" in path):  # `~x.py` alone is a name as any other
        return "begins with ~: give it relative to the workspace"
    if ".." in parts:
        return "leads out of the workspace: .. is not allowed"
    return None


def fault_of_own(path: str) -> str | None:
    """As `fault_of_path`, and why nothing may be written or run there: it is git's."""
    return fault_of_path(path) or ("is git's own" if any(map(is_gits, path.split("/"))) else None)


def is_gits(name: str) -> bool:
    """Whether a file system may take `name` for .git: in another case, or with signs that do not count."""
    name = _folded(name)
    return name == ".git" or _SHORT_NAME.fullmatch(name) is not None


def may_be_committed(path: str) -> bool:
    """Whether git takes a file of this name, and the program hands it one: inside, as text, and nothing of git's."""
    parts = path.split("/")
    if fault_of_path(path) is not None or not all(parts) or "." in parts or parts[0] == STATE:
        return False
    return not any(is_gits(part) or _MODULES.fullmatch(_folded(part)) for part in parts)


def fault_of_branch(name: str) -> str | None:
    """Say why git takes no branch of this name, None where it does (git check-ref-format)."""
    if len(name.encode(errors="replace")) > LONGEST_BRANCH:
        return f"is longer than {LONGEST_BRANCH} bytes"
    if not name or name in ("@", "HEAD") or _NOT_IN_A_REF.search(name) or not _is_text(name):
        return "is no name that git takes for a branch"
    return None


def linked_part(folder: Path, path: str) -> str | None:
    """The first component of `path` below `folder` that is a symbolic link; None where none is.

    The state folder itself may be one: a person may keep it on another disk.
    """
    place = folder
    for number, part in enumerate(PurePosixPath(path).parts):
        place = place / part
        if place.is_symlink() and not (number == 0 and part == STATE):
            return place.relative_to(folder).as_posix()
    return None


def _folded(name: str) -> str:
    """As the least particular file system compares it."""
    name = unicodedata.normalize("NFKC", _IGNORED.sub("", name)).casefold()
    return name.split(":")[0].rstrip(" .")


def _is_text(text: str) -> bool:
    """Without control characters, line ends of any kind, and halves of characters."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)
