"""The protocol between a run and its evaluator: over a socket, the run gets its training text and hands over its model.

A request is one line of JSON, followed by the number of bytes that it announces. An answer is one line of JSON, sent
with open file descriptors if the request asked for files. This module does not import MLX.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "AUTORESEARCH_EVALUATOR"
UNTRACED_VARIABLE = "AUTORESEARCH_ALLOW_UNTRACED"
LONGEST_LINE = 2**16
FILES_AT_ONCE = 100
LONGEST_ADDRESS = 100  # bytes; the system allows 104 to 108

_moving = threading.Lock()


class Refused(ValueError):
    """Raised if the evaluator refused a request or did not answer. The message says why."""


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
    try:
        with socket.socket(socket.AF_UNIX) as line:
            with reachable(address) as name:
                line.connect(name)
            size = content.stat().st_size if content else 0
            line.sendall(json.dumps({**request, "bytes": size}).encode() + b"\n")
            if content is not None:
                with content.open("rb") as file:
                    line.sendfile(file)
            said, files = b"", []
            while not said.endswith(b"\n") and len(said) < LONGEST_LINE:
                more, came, _, _ = socket.recv_fds(line, LONGEST_LINE, FILES_AT_ONCE)
                files += came
                if not more:
                    break
                said += more
            answer = json.loads(said)
    except (OSError, ValueError) as error:
        raise Refused(f"the evaluator does not answer: {error}") from None
    if "refused" in answer:
        raise Refused(str(answer["refused"]))
    return answer, files


def training_files(address: Path) -> dict[str, int]:
    """Return open descriptors of the training text's files, by file name. This call starts the training clock."""
    found: dict[str, int] = {}
    while True:
        answer, files = ask(address, {"ask": "train", "from": len(found)})
        found.update(zip(answer["names"], files, strict=True))
        if len(found) >= answer["of"]:
            return found
