"""Checks of untrusted file and branch names: whether they stay inside the workspace, and whether git accepts them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes
LONGEST_BRANCH = 200
STATE, PROTOCOL, PLAYBOOK, PROGRAM = ".autoresearch", "protocol.json", "playbook.md", "program.md"

# Characters that HFS+ ignores when it compares names (git's utf8.c, next_hfs_char).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# NTFS also finds a file by its short name, and ignores trailing spaces, dots and a stream name.
_SHORT_NAME = re.compile(r"git~\d+")
_MODULES = re.compile(r"\.gitmodules|gitmod~[1-4]|gi7eba~\d+")
_NOT_IN_A_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.$|/$|^/|^-|(^|/)\.|\.lock(/|$)")


def fault_of_path(path: str) -> str | None:
    """Return why a path or glob of a protocol is invalid, or None if it stays inside the workspace.

    The text follows the path: "is absolute".
    """
    parts = path.split("/")
    if not path.strip():
        return "is empty"
    if not _is_text(path):
        return "has a control character, or is not valid UTF-8"
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "is too long"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute: make it relative to the workspace"
    if "\\" in path:
        return "has a backslash: use forward slashes"
    if path == "~" or (path.startswith("~") and "/" in path):  # `~x.py` is an ordinary file name
        return "starts with ~: make it relative to the workspace"
    if ".." in parts:
        return "is outside the workspace: .. is not allowed"
    return None


def fault_of_own(path: str) -> str | None:
    """Return why nothing may be written or run at a path: the reasons of `fault_of_path`, or that it belongs to git."""
    return fault_of_path(path) or ("belongs to git" if any(map(is_gits, path.split("/"))) else None)


def is_gits(name: str) -> bool:
    """Return whether a file system may treat `name` as .git, because it ignores case or some characters."""
    name = _folded(name)
    return name == ".git" or _SHORT_NAME.fullmatch(name) is not None


def may_be_committed(path: str) -> bool:
    """Return whether a file of this name may be committed: inside the workspace, printable, and not git's own."""
    parts = path.split("/")
    if fault_of_path(path) is not None or not all(parts) or "." in parts or parts[0] == STATE:
        return False
    return not any(is_gits(part) or _MODULES.fullmatch(_folded(part)) for part in parts)


def fault_of_branch(name: str) -> str | None:
    """Return why git rejects a branch of this name, or None if it accepts it (git check-ref-format)."""
    if len(name.encode(errors="replace")) > LONGEST_BRANCH:
        return f"is longer than {LONGEST_BRANCH} bytes"
    if not name or name in ("@", "HEAD") or _NOT_IN_A_REF.search(name) or not _is_text(name):
        return "is not a valid branch name"
    return None


def linked_part(folder: Path, path: str) -> str | None:
    """Return the path up to the first symbolic link in `path` below `folder`, or None.

    The state folder itself may be a link: users may keep it on another disk.
    """
    place = folder
    for number, part in enumerate(PurePosixPath(path).parts):
        place = place / part
        if place.is_symlink() and not (number == 0 and part == STATE):
            return place.relative_to(folder).as_posix()
    return None


def _folded(name: str) -> str:
    """Return a name as the most lenient file system compares it."""
    name = unicodedata.normalize("NFKC", _IGNORED.sub("", name)).casefold()
    return name.split(":")[0].rstrip(" .")


def _is_text(text: str) -> bool:
    """Return whether a text is free of control characters, line separators and surrogates."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)
