"""Where prepared data lies, and the scales of the task."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Profile:
    """The scale of the task: tokens in a row, size of the vocabulary, tokens that the metric is taken over."""

    max_seq_len: int
    vocab_size: int
    eval_tokens: int  # whole rows


PROFILES = {"mac": Profile(2048, 8192, 3 * 2**19), "cpu": Profile(256, 1024, 2**16)}
SCHEMA = 1  # of snapshot.json; a change here or of anything that changes tokens makes every snapshot a new one


def fail(sentence: str, code: int = 3) -> NoReturn:
    """End the program with a sentence on stderr; 2 is wrong usage, 3 something missing that a person can mend."""
    print(sentence, file=sys.stderr)
    raise SystemExit(code)


def _cache_folder() -> Path:
    try:
        return Path(os.environ.get("AUTORESEARCH_CACHE") or "~/.cache/autoresearch").expanduser()
    except RuntimeError:
        fail("This user has no home folder: name a folder for the data with AUTORESEARCH_CACHE.")


CACHE_DIR = _cache_folder()
