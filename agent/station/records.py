"""What a station keeps on disk: a clone for each repository, and the answers and logs of its latest runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from agent.errors import AutoresearchError
from agent.execution.evaluation import losses_of
from agent.journal.paths import cache_folder, stations_folder
from agent.station.orders import LARGEST_LOG, Answer, Invalid
from agent.system.files import read_bounded, read_end, remove_tree, write_whole
from agent.system.masking import LONGEST_SECRET, without_secrets

MOST_KEPT = 200  # runs of a station
LARGEST_ANSWER = 2**20
LONGEST_NAME = 60
RECORDS = "records"
LOG, ANSWER = "run.log", "answer.json"


def folder_name(station: str) -> str:
    """Return a station's name as the name of a folder, different for different names."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", station).strip(".-")[:LONGEST_NAME]
    return plain if plain == station else f"{plain or 'station'}-{hashlib.sha256(station.encode()).hexdigest()[:8]}"


def clone_folder(station: str, repository: str) -> Path:
    return stations_folder() / "clones" / folder_name(station) / repository


def records_folder(station: str) -> Path:
    """Return the folder of a station's answers and logs, which no run sees."""
    return stations_folder() / RECORDS / folder_name(station)


def begin() -> None:
    """Make the folder of this machine's stations, and take over the answers that a version before kept in the cache.

    If they cannot be moved, such as to another disk, they stay, and their runs are measured again.

    Raises:
        AutoresearchError: the folder cannot be made.
    """
    folder = stations_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set AUTORESEARCH_CACHE to a folder whose parent is writable, such as one in its volume"
        raise AutoresearchError(f"cannot make {folder}: {error.strerror}", hint=hint) from None
    earlier = cache_folder() / "stations" / RECORDS
    with contextlib.suppress(OSError):  # none, moved before, or on another disk
        if not (folder / RECORDS).exists():
            earlier.rename(folder / RECORDS)


def drop_earlier_clones() -> None:
    """Delete the clones of a version before, which runs could read and set-up commands could change."""
    earlier = cache_folder() / "stations"
    remove_tree(earlier / "clones")
    with contextlib.suppress(OSError):  # not empty, or none
        earlier.rmdir()


def run_folder(station: str, repository: str, session: str, lease: str) -> Path:
    return records_folder(station) / repository / session / lease


def keep(folder: Path, answer: Answer) -> None:
    """Write an answer to disk before it is sent, for a decider that has gone and comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    data = replace(answer, log=b"").to_dict()
    del data["log"]
    write_whole(folder / ANSWER, json.dumps(data, allow_nan=False))


def read_kept(folder: Path) -> Answer | None:
    """Return the answer in the folder of a run, with its log; None if there is none or it is damaged."""
    try:
        data = json.loads(read_bounded(folder / ANSWER, LARGEST_ANSWER))
        return Answer.from_dict({**data, "log": log_end(folder / LOG)})
    except (OSError, ValueError, TypeError, RecursionError, Invalid):
        return None


def log_end(log: Path) -> bytes:
    """Return the end of a log, which leaves this machine, without secrets; empty if it does not exist."""
    try:
        return without_secrets(read_end(log, LARGEST_LOG + LONGEST_SECRET))[-LARGEST_LOG:]
    except OSError:
        return b""


def kept(station: str, session: str) -> Iterator[Path]:
    """Yield the folders of a session's runs that have an answer."""
    for path in sorted(records_folder(station).glob(f"*/{session}/*/{ANSWER}")):
        yield path.parent


def settle(session: Path, leases: Iterable[str]) -> None:
    """Drop answers that the decider has, and their logs.

    The losses of a run stay: later runs of the session are compared with them.
    """
    for lease in leases:
        folder = session / lease
        for path in (folder / ANSWER, folder / LOG, *folder.glob("*.holdout.log")):
            path.unlink(missing_ok=True)
        if not losses_of(folder / LOG).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def prune(station: str, last: Path, *, most: int = MOST_KEPT) -> None:
    """Delete all but the latest runs of a station.

    Args:
        last: the folder of its last run. Those that seem to be later are older: the clock was set back since.
    """
    found, now = [], last.stat().st_mtime
    for folder in records_folder(station).glob("*/*/*"):
        with contextlib.suppress(OSError):
            changed = folder.stat().st_mtime
            found.append((changed <= now, changed, folder))
    for *_, folder in sorted(found, reverse=True)[most:]:
        remove_tree(folder)
        for parent in (folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()
