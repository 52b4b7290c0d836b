"""The places of the user's own text, which no run and no coding agent sees: the data may be prepared from folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.journal.paths import cache_folder, home_folder
from agent.system.files import read_bounded

LARGEST_RECORD = 2**22
SOURCES = "sources.json"


def own_text(snapshot: Path, top: Path) -> tuple[Path, ...]:
    """Return the places of the text that a snapshot was ever prepared from: folders, and files where those are shown.

    They are the folders that prepare.py recorded, and those of the files that links in them lead to now.

    Args:
        snapshot: its folder in the cache.
        top: the top of the repository.
    """
    record = _content(snapshot / "snapshot.json")
    known = _content(snapshot.parent.parent / "sources" / snapshot.name / SOURCES)
    listed = known.get("folders")
    named = [record.get("source"), *(listed if isinstance(listed, list) else ())]
    folders = [Path(each) for each in named if isinstance(each, str) and each.startswith("/")]
    real = [file.resolve().parent for folder in folders for file in _texts(folder)]
    return tuple(dict.fromkeys(_hidden((*folders, *real), top)))


def own_text_now(top: Path) -> tuple[Path, ...]:
    """Return `own_text` of the current snapshot."""
    try:
        name = (cache_folder() / "current").read_bytes().decode(errors="replace").strip()
    except OSError:
        return ()
    return own_text(cache_folder() / "snapshots" / name, top)


def _hidden(folders: Iterable[Path], top: Path) -> Iterator[Path]:
    """Yield the folders; of one that contains the workspace or the interpreter, which runs need, only its texts."""
    needed = (top, home_folder(), Path(sys.prefix), Path(sys.base_prefix))
    for folder in folders:
        if any(each.is_relative_to(folder) for each in needed):
            yield from (place for file in _texts(folder) for place in (file, file.resolve()))
        else:
            yield folder


def _texts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bounded(path, LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
