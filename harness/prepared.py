"""The snapshot in use: what experiments read of the prepared data."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness import settings


@dataclass(frozen=True)
class Snapshot:
    """Prepared data: the files that `directory`/snapshot.json lists, and the constants that go with them."""

    directory: Path
    id: str  # sha256, in hexadecimal; its first 12 digits name the directory
    profile: str
    max_seq_len: int
    vocab_size: int
    eval_tokens: int

    @classmethod
    def load(cls, directory: Path) -> "Snapshot":
        """Raises OSError, ValueError or KeyError where snapshot.json is missing or damaged."""
        record = json.loads((directory / "snapshot.json").read_bytes())
        if record["schema"] != settings.SCHEMA:
            raise ValueError(f"schema {record['schema']}, not {settings.SCHEMA}")
        constants = (record["MAX_SEQ_LEN"], record["VOCAB_SIZE"], record["EVAL_TOKENS"])
        return cls(directory, record["id"], record["profile"], *constants)


def current_snapshot() -> Snapshot:
    """Return the snapshot in use. Ends the program with a sentence where there is none."""
    return _current(settings.CACHE_DIR)


@functools.cache  # one process keeps to one snapshot, even if another prepares a new one meanwhile
def _current(cache: Path) -> Snapshot:
    try:
        directory = cache / "snapshots" / (cache / "current").read_text().strip()
        return Snapshot.load(directory)
    except FileNotFoundError:
        settings.fail(f"There is no prepared data in {cache}: run `uv run prepare.py`.")
    except (OSError, ValueError, KeyError) as error:
        settings.fail(f"The prepared data in {cache} cannot be used ({error!r}): run `uv run prepare.py`.")


def evaluated_folder() -> Path:
    """Return the folder of the snapshot that an evaluator reads: the one that it is told, or the one in use."""
    name = os.environ.get("AUTORESEARCH_SNAPSHOT") or (settings.CACHE_DIR / "current").read_text().strip()
    return settings.CACHE_DIR / "snapshots" / name
