"""The protocol between a run and its evaluator: over a socket, the run gets its training text and hands over its model.

A request is one line of JSON, followed by the number of bytes that it announces. An answer is one line of JSON, sent
with open file descriptors if the request asked for files. This module does not import MLX.
"""

import json
import math
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.settings import RESUME, DataError

VARIABLE = "AUTORESEARCH_EVALUATOR"
UNTRACED_VARIABLE = "AUTORESEARCH_ALLOW_UNTRACED"
LONGEST_LINE = 2**16
# Even: a shard has two files, which follow each other by name, and each answer has both. One message takes 253 at most.
FILES_AT_ONCE = 100
OTHER_FILES = 50  # that a run may open later
LONGEST_ADDRESS = 100  # bytes; the system allows 104 to 108

_moving = threading.Lock()


class Refused(ValueError):
    """Raised if the evaluator refused a request or did not answer. The message says why."""


class TooFewOpenFiles(DataError, ValueError):
    """Raised if the system allows a process too few open files."""


def at_work() -> Path | None:
    """Return the socket of the evaluator that the loop started for this run, None if the run was started manually."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else None


@contextmanager
def reachable(address: Path) -> Iterator[str]:
    """Yield a name of `address` that is short enough for a socket."""
    if len(os.fsencode(address)) <= LONGEST_ADDRESS:
        yield str(address)
        return
    with _moving:  # the working directory is shared by all threads
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(address.parent)
            yield address.name
        finally:
            os.fchdir(before)
            os.close(before)


def ask(address: Path, request: dict[str, Any], content: Path | None = None) -> tuple[dict[str, Any], list[int]]:
    """Send a request, followed by the bytes of `content`.

    Returns:
        The answer, and the descriptors of the files sent with it.

    Raises:
        Refused: the evaluator refused the request, with its reason, or did not answer.
    """
    files: list[int] = []
    try:
        with socket.socket(socket.AF_UNIX) as line:
            with reachable(address) as name:
                line.connect(name)
            size = content.stat().st_size if content else 0
            line.sendall(json.dumps({**request, "bytes": size}).encode() + b"\n")
            if content is not None:
                with content.open("rb") as file:
                    line.sendfile(file)
            said = b""
            while not said.endswith(b"\n") and len(said) < LONGEST_LINE:
                more, came, flags, _ = socket.recv_fds(line, LONGEST_LINE, FILES_AT_ONCE)
                files += came
                if flags & socket.MSG_CTRUNC:  # the system drops what it cannot open
                    raise OSError(f"this process cannot have more than {_open_files()[0]} files open")
                if not more:
                    break
                said += more
            if not said:
                raise OSError("it closed the connection")
            answer = json.loads(said)
    except (OSError, ValueError) as error:
        for descriptor in files:
            os.close(descriptor)
        raise Refused(f"the evaluator does not answer: {error}") from None
    if "refused" in answer:
        raise Refused(str(answer["refused"]))
    return answer, files


def training_files(address: Path) -> Iterator[dict[str, int]]:
    """Yield open descriptors of the training text's files by name, both files of some shards at a time.

    The first of them starts the training clock.
    """
    allow_open_files(0)
    found = 0
    while True:
        answer, files = ask(address, {"ask": "train", "from": found})
        yield dict(zip(answer["names"], files, strict=True))
        found += len(files)
        if found >= answer["of"]:
            return
        allow_open_files((answer["of"] - found) // 2)


def allow_open_files(mapped: int) -> None:
    """Raise this process's limit of open files, if it is too low: Python keeps one for each file that it maps.

    Args:
        mapped: files that will stay mapped.

    Raises:
        TooFewOpenFiles: the system allows too few.
    """
    least = sum(1 for _ in Path("/dev/fd").iterdir()) + mapped
    soft, hard = _open_files()
    if least > hard:
        reason = f"{mapped} shards need {least} open files, but the limit (`ulimit -Hn`) is {hard}"
        raise TooFewOpenFiles(reason, hint=f"raise that limit, or use fewer shards, then {RESUME}")
    needed = min(least + FILES_AT_ONCE + OTHER_FILES, hard)
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(needed), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _open_files() -> tuple[float, float]:
    """Return the soft and the hard limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (math.inf if soft == resource.RLIM_INFINITY else soft, math.inf if hard == resource.RLIM_INFINITY else hard)
