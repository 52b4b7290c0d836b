"""Where snapshots came from: the requests that led to each, and the folders that held its text.

It lies beside the snapshots, in CACHE_DIR/sources/<first 12 digits of the id>/sources.json, so that it survives the
deletion of a damaged snapshot:
    requests  source, number of shards and profile of each request, the latest last
    files     the files that links in the user's own folders among the sources led to

Only `prepare.py` as a program writes it. The loop reads it, to show none of these folders and files to a run.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.settings import CACHE_DIR, PROFILES, DataError

NAMED = ("climbmix", "tinystories", "embedded")
NAME = "sources.json"


@dataclass(frozen=True)
class Request:
    """What to prepare. `num_shards` is as in `dataset.shards`; `auto` as source or profile is yet to be resolved."""

    source: str
    num_shards: int | None
    profile: str


def latest(snapshot: str) -> Request | None:
    """Return the latest request that led to a snapshot, by the first 12 digits of its id; None if none is recorded."""
    requests = _read(snapshot)["requests"]
    return requests[-1] if requests else None


def is_recorded(snapshot: str, request: Request) -> bool:
    """Return whether a request is the latest that led to a snapshot, and all files that links lead to are recorded."""
    return latest(snapshot) == request and {*_linked(request.source)} <= {*_read(snapshot)["files"]}


def add(snapshot: str, request: Request) -> None:
    """Record that a request led to a snapshot, and where its text is now."""
    known = _read(snapshot)
    content = {
        "requests": [asdict(each) for each in (*(each for each in known["requests"] if each != request), request)],
        "files": list(dict.fromkeys([*known["files"], *_linked(request.source)])),
    }
    path = _path(snapshot)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{NAME}.part")
    with part.open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def request_in(record: Any) -> Request | None:
    """Return the request in the content of a snapshot.json, as far as it is readable; None if it is not."""
    if not isinstance(record, dict):
        return None
    # Versions before `request` recorded the source alone.
    plain = {"source": record.get("source"), "num_shards": None, "profile": record.get("profile")}
    return _request(record.get("request", plain))


def _read(snapshot: str) -> dict[str, Any]:
    try:
        content = json.loads(_path(snapshot).read_bytes())
        requests = [_request(each) for each in content["requests"]]
        files = [each for each in content["files"] if isinstance(each, str)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {"requests": [], "files": []}
    return {"requests": [each for each in requests if each], "files": files}


def _request(content: Any) -> Request | None:
    try:
        source, num_shards, profile = (content[name] for name in ("source", "num_shards", "profile"))
    except (KeyError, TypeError):
        return None
    known = source in NAMED or (isinstance(source, str) and source.startswith("/"))
    if not (known and isinstance(num_shards, int | None) and isinstance(profile, str) and profile in PROFILES):
        return None
    return Request(source, num_shards, profile)


def _linked(source: str) -> list[str]:
    """Return the files that links in a folder lead to."""
    if source in NAMED:
        return []
    with suppress(OSError, ValueError):
        files = sorted(str(path) for path in Path(source).iterdir() if path.name.endswith(".parquet"))
        return [real for path in files if (real := os.path.realpath(path)) != path]
    return []


def _path(snapshot: str) -> Path:
    return CACHE_DIR / "sources" / snapshot / NAME


def require(source: str) -> None:
    """Raise DataError if a source that was prepared before is gone."""
    if source not in NAMED and not Path(source).is_dir():
        raise DataError(
            f"cannot prepare the data again: its source {source} is not found",
            hint="restore it, then run `uv run prepare.py`; or choose another one with --source",
        )
