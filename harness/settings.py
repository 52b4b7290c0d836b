"""The folder of prepared data, the task profiles, and how the harness reports an error."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Profile:
    """The scale of the task.

    Attributes:
        max_seq_len: tokens per row.
        vocab_size: tokens in the vocabulary, special tokens included.
        eval_tokens: tokens that the metric is computed on; a multiple of max_seq_len.
    """

    max_seq_len: int
    vocab_size: int
    eval_tokens: int


PROFILES = {"mac": Profile(2048, 8192, 3 * 2**19), "cpu": Profile(256, 1024, 2**16)}
SCHEMA = 1  # version of snapshot.json; increase it with any change that affects tokens, so that snapshots are rebuilt
RESUME = "run the same command again; finished downloads and shards are kept"


class DataError(Exception):
    """Raised if data is unavailable or unreadable.

    Args:
        message: what failed and why, without a full stop.
        hint: what fixes it; empty if nothing does.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def fail(message: str, *, hint: str = "", code: int = 3) -> NoReturn:
    """Exit with `error: MESSAGE` and, if there is a hint, `hint: HINT` on stderr.

    Args:
        message: what failed and why, without a full stop.
        hint: what fixes it.
        code: exit code; 2 for wrong usage, 3 for a missing precondition.
    """
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    raise SystemExit(code)


def _cache_folder() -> Path:
    given = os.environ.get("AUTORESEARCH_CACHE")
    try:
        return Path(given or "~/.cache/autoresearch").expanduser().absolute()
    except RuntimeError:
        what = "the current user has no home folder"
        if given:
            what = f"AUTORESEARCH_CACHE={given}: the home folder of {given.partition('/')[0]} is unknown"
        fail(what, hint="set AUTORESEARCH_CACHE to a folder for the data")


CACHE_DIR = _cache_folder()
