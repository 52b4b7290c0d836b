"""Start what measures in processes of their own, which outlive the server, and wait for it in small steps."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError, StillRunning
from agent.format import one_line
from agent.journal import lock
from agent.journal.journal import fold
from agent.journal.paths import find_session, journal_path, own_log, state_folder
from agent.mcp.edits import written
from agent.report.status import status
from agent.report.verdict import await_verdict
from agent.system.files import Unusable, last_lines, read_end
from agent.views.verdict import experiment_result

START_SECONDS = 120.0
SOON_SECONDS = 5.0  # a refused comparison has ended by then
ENDING_SECONDS = 10.0  # from a verdict to the end of the process that measured it
POLL_SECONDS = 0.1
LARGEST_ANSWER = 2**22
LONGEST_LINE = 300


def start_experiment(folder: Path, why: str, tag: str | None, files: Mapping[str, str], blocks: str) -> dict[str, Any]:
    """Measure the edit of the working tree, or these edits, in the background.

    Args:
        folder: the workspace.
        why: the description of the edit.
        tag: the session; None takes the one that `try` takes.
        files: path -> complete new text.
        blocks: search and replace blocks.

    Returns:
        The data of `try --detach --json`.

    Raises:
        AutoresearchError: the edit cannot be measured now. The working tree is as it was.
    """
    _require_free(folder)
    arguments = ["try", "--detach", "--json", f"--message={why}", *([f"--tag={tag}"] if tag else [])]
    if not files and not blocks.strip():
        return _called(folder, arguments)
    with written(folder, tag, files, blocks):
        return _called(folder, arguments)


def start_confirmation(folder: Path, tag: str | None, runs: int | None) -> dict[str, Any]:
    """Confirm the best against the baseline in the background. Return its result if it ends within a few seconds."""
    tag = find_session(folder, tag)
    _require_free(folder)
    answer = journal_path(folder, tag).with_name("confirm.json")
    arguments = ["confirm", "--json", f"--tag={tag}", *([f"--runs={runs}"] if runs else [])]
    with answer.open("wb") as output, answer.with_name("background.log").open("ab") as log:
        process = subprocess.Popen(
            _program(arguments), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True
        )
    # A thread waits for it, so that it leaves no zombie while the server lives.
    ended = threading.Thread(target=process.wait, daemon=True)
    ended.start()
    ended.join(SOON_SECONDS)
    if ended.is_alive():
        return {"state": "running", "tag": tag, "pid": process.pid, "result": None}
    data = _data(read_end(answer, LARGEST_ANSWER), process.returncode or 0)
    return {"state": "done", "tag": tag, "pid": None, "result": data}


def verdict_within(folder: Path, tag: str | None, number: int | None, seconds: float) -> dict[str, Any] | None:
    """Return the data of `wait --json`, or None if the experiment has no verdict after these seconds."""
    try:
        return experiment_result(folder, *await_verdict(folder, tag, number, seconds))
    except StillRunning:
        return None


def under_way(folder: Path, tag: str | None) -> dict[str, Any]:
    """Return what is being measured now: phase, seconds, the expected end, and the last line of its log."""
    nothing = {"phase": "setup", "number": None, "seconds": None, "done_at": None, "last_line": ""}
    holder = lock.holder(state_folder(folder))
    try:
        data, _ = status(folder, tag or (holder.tag if holder else None), 0)
    except PreconditionError:
        return nothing
    now = data["now"]
    if now is None:
        return {**nothing, "phase": "preparing" if data["running_pid"] else "not running"}
    phase = "preparing" if now["log"] is None else "baseline" if now["number"] == 0 else "running"
    known = {key: now[key] for key in ("number", "seconds", "done_at")}
    return {"phase": phase, **known, "last_line": _last_line(folder, now["log"])}


def _last_line(folder: Path, log: str | None) -> str:
    if log is None:
        return ""
    with contextlib.suppress(OSError, Unusable, IndexError):
        return one_line(last_lines(own_log(folder, log))[-1].rpartition("\r")[2])[:LONGEST_LINE]
    return ""


def _require_free(folder: Path) -> None:
    """Wait until the process of the last verdict has ended, and refuse if another one measures.

    Raises:
        PreconditionError: a process measures in this workspace.
    """
    end = time.monotonic() + ENDING_SECONDS
    while (holder := lock.holder(state_folder(folder))) is not None:
        pending = fold(journal_path(folder, holder.tag)).pending
        if pending is not None or time.monotonic() > end:
            what = f"experiment #{pending.number} of session {holder.tag}" if pending else f"session {holder.tag}"
            raise PreconditionError(
                f"process {holder.pid} is measuring {what}, and only one process measures at a time",
                hint="wait for it with wait_experiment, or end it with stop",
            )
        time.sleep(POLL_SECONDS)


def _called(folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Call a command of this program, and return its data.

    Raises:
        AutoresearchError: its error.
    """
    try:
        done = subprocess.run(
            _program(arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AutoresearchError(
            f"the experiment has not started after {START_SECONDS:g} s", hint="see `autoresearch doctor`"
        ) from None
    return _data(done.stdout, done.returncode)


def _program(arguments: Sequence[str]) -> list[str]:
    # -P: a folder `agent` in the workspace is not imported in place of the program.
    return [sys.executable, "-P", "-m", "agent", *arguments]


def _data(answer: bytes, code: int) -> dict[str, Any]:
    try:
        envelope = json.loads(answer)
        data, errors, hints = envelope["data"], envelope["errors"], envelope["hints"]
    except (ValueError, KeyError, TypeError):
        raise AutoresearchError(
            f"the command ended with exit code {code} and without a result", hint="check with `autoresearch doctor`"
        ) from None
    if errors or not isinstance(data, dict):
        raise AutoresearchError("; ".join(errors) or "no result", hint="; ".join(hints))
    return data
