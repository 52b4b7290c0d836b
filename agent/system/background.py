"""Start this program in the background, in a session of its own, and learn whether it has started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, explain
from agent.system.files import last_lines
from agent.system.invocation import here

READY = "AUTORESEARCH_READY"  # the number of the descriptor through which the started program answers
LARGEST_ANSWER = 2**20


def log_of(session: Path) -> Path:
    """Return the log of what runs in the background, in the folder of its session."""
    return session / "background.log"


def start(arguments: Sequence[str], log: Path) -> tuple[int, dict[str, Any]]:
    """Start this program with these arguments, and return its process ID and its answer.

    It gets no terminal, so that closing this one does not end it, and writes its output to `log`.

    Raises:
        AutoresearchError: the error with which it ended instead of answering.
    """
    fresh = not log.parent.exists()
    log.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                # -P: a folder `agent` in the current folder is not imported in place of the program.
                [sys.executable, "-P", "-m", "agent", *arguments],
                env={**os.environ, READY: str(writing)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(writing,),
            )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        text = answers.read(LARGEST_ANSWER)
    answer: dict[str, Any] = json.loads(text) if text else {}
    if text and "error" not in answer:
        return process.pid, answer
    code = process.wait()
    if not text:
        answer = {"error": f"it ended at once: {' '.join(last_lines(log)) or f'exit code {code}'}", "hint": ""}
    if fresh:  # a session that was refused leaves nothing behind
        with contextlib.suppress(OSError):
            log.unlink()
            log.parent.rmdir()
    see = f"see its log {here(log)}" if log.exists() else ""
    error = AutoresearchError(answer["error"], hint=answer["hint"] or see)
    error.exit_code = int(answer.get("code", 1))
    raise error


@contextlib.contextmanager
def answering() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that answers the program that has started this one in the background.

    Only the first call does anything, and none without such a program. An error that ends the block first is the
    answer.
    """
    # Taken out at once: what this program starts, now or at the next login, has another file at that number, or none.
    number = os.environ.pop(READY, "")
    open_still = [int(number)] if number.isdecimal() else []

    def tell(answer: dict[str, Any]) -> None:
        while open_still:
            with contextlib.suppress(OSError), os.fdopen(open_still.pop(), "w") as pipe:
                pipe.write(json.dumps(answer))

    try:
        yield tell
    except (AutoresearchError, OSError) as error:
        known = explain(error) if isinstance(error, OSError) else error
        tell({"error": str(known), "hint": known.hint, "code": known.exit_code})
        raise
