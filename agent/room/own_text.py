"""The places of the user's own text, which no run and no coding agent sees: the data may be prepared from folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.journal.paths import cache_folder, home_folder
from agent.room.places import wanted
from agent.system.files import read_bounded

LARGEST_RECORD = 2**22
SOURCES = "sources.json"


def own_text(snapshot: Path, top: Path, workspace: Path) -> tuple[Path, ...]:
    """Return the places of the text that a snapshot was ever prepared from: folders, and files where those are shown.

    They are the folders that prepare.py was given, and the files that links in them lead to now or led to then. What
    lies beside such a file is no text: it may be the code of a run.

    Args:
        snapshot: its folder in the cache.
        top: the top of the repository.
        workspace: the workspace in it.
    """
    known = _content(snapshot.parent.parent / "sources" / snapshot.name / SOURCES)
    records = [_content(snapshot / "snapshot.json"), *_list(known, "requests")]
    named = dict.fromkeys(each.get("source") for each in records if isinstance(each, dict))
    folders = [folder for folder in _paths(named) if os.path.isdir(folder)]  # noqa: PTH112
    needed = _needed(top, workspace)
    whole = [folder for folder in folders if not any(each.is_relative_to(folder) for each in needed)]
    files = [*(file for folder in folders for file in _texts(folder)), *_paths(_list(known, "files"))]
    real = [path for file in files for path in (file, Path(os.path.realpath(file)))]
    found = dict.fromkeys((*whole, *(path for path in real if os.path.isfile(path))))  # noqa: PTH113
    return tuple(path for path in found if not any(path != each and path.is_relative_to(each) for each in whole))


def own_text_now(top: Path, workspace: Path) -> tuple[Path, ...]:
    """Return `own_text` of the current snapshot."""
    try:
        name = (cache_folder() / "current").read_bytes().decode(errors="replace").strip()
    except OSError:
        return ()
    return own_text(cache_folder() / "snapshots" / name, top, workspace)


def _needed(top: Path, workspace: Path) -> list[Path]:
    """Return what a run needs. A folder that contains such a place is shown, without its texts."""
    found = dict.fromkeys((top, home_folder(), *wanted(workspace, "")))
    return [*dict.fromkeys(path for each in found for path in (each, Path(os.path.realpath(each))))]


def _texts(folder: Path) -> list[Path]:
    with suppress(OSError, ValueError):
        return sorted(path for path in folder.iterdir() if path.name.endswith(".parquet"))
    return []


def _paths(names: Iterable[Any]) -> Iterator[Path]:
    """Yield the absolute paths in the content of a record that the system can read."""
    for name in names:
        if isinstance(name, str) and name.startswith("/"):
            with suppress(OSError, ValueError):
                yield Path(os.path.realpath(name))


def _list(record: dict[str, Any], name: str) -> list[Any]:
    found = record.get(name)
    return found if isinstance(found, list) else []


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bounded(path, LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
