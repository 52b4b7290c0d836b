"""The current snapshot: the prepared data that experiments read."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness import settings

PREPARE = "run `uv run prepare.py`"


@dataclass(frozen=True)
class Snapshot:
    """Prepared data: the files listed in `directory`/snapshot.json, and their constants.

    Attributes:
        directory: folder of the files, named by the first 12 digits of `id`.
        id: SHA-256 of the content, in hexadecimal.
    """

    directory: Path
    id: str
    profile: str
    max_seq_len: int
    vocab_size: int
    eval_tokens: int

    @classmethod
    def load(cls, directory: Path) -> "Snapshot":
        """Read snapshot.json in `directory`.

        Raises:
            OSError, ValueError, KeyError, TypeError, RecursionError: the file is missing or damaged.
        """
        record = json.loads((directory / "snapshot.json").read_bytes())
        if record["schema"] != settings.SCHEMA:
            raise ValueError(f"expected schema {settings.SCHEMA}, got {record['schema']}")
        constants = (record["MAX_SEQ_LEN"], record["VOCAB_SIZE"], record["EVAL_TOKENS"])
        return cls(directory, record["id"], record["profile"], *constants)


def current_snapshot() -> Snapshot:
    """Return the current snapshot. Exit with an error if none is prepared."""
    return _current(settings.CACHE_DIR)


@functools.cache  # a process keeps its snapshot even if another one is prepared in the meantime
def _current(cache: Path) -> Snapshot:
    try:
        return Snapshot.load(current_folder(cache))
    except FileNotFoundError:
        settings.fail(f"no prepared data found in {cache}", hint=PREPARE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        settings.fail(f"cannot read the prepared data in {cache}: {error!r}", hint=PREPARE)


def current_folder(cache: Path) -> Path:
    """Return the folder of the current snapshot. Raises FileNotFoundError if none was prepared."""
    return cache / "snapshots" / (cache / "current").read_bytes().decode(errors="replace").strip()


def evaluated_folder() -> Path:
    """Return the folder of the snapshot that an evaluator reads: AUTORESEARCH_SNAPSHOT, by default the current one."""
    name = os.environ.get("AUTORESEARCH_SNAPSHOT")
    return settings.CACHE_DIR / "snapshots" / name if name else current_folder(settings.CACHE_DIR)
