"""Ends a run whose loop has died, however it died: started beside each run, it waits for a pipe to close.

    python -m agent.execution.watchdog PID MARK

The loop holds the other end of standard input. A byte says that the run ended and all is well; the end of the file
without one says that the loop is gone, and its command must not go on burning the machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def attached(pid: int, mark: str) -> Iterator[None]:
    """While this is open the run `pid`, known by `mark`, lives no longer than this process."""
    # A session of its own: what ends the loop's terminal must not end this first.
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "agent.execution.watchdog", str(pid), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate(b".")


def main() -> None:
    pid, mark = int(sys.argv[1]), sys.argv[2]
    if not sys.stdin.buffer.read(1):
        # It waits beside a training: what takes memory is loaded where it is needed.
        from agent.execution.process_tree import end_all

        end_all(pid, mark)


if __name__ == "__main__":
    main()
