"""Start what measures in processes of their own, which outlive the server, and wait for it in small steps."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError, StillRunning, UsageError, in_one_line
from agent.format import block, one_line
from agent.journal import lock
from agent.journal.journal import fold, read
from agent.journal.paths import find_session, journal_path, require_own_state, state_folder
from agent.mcp.edits import written
from agent.protocol.load import load_protocol
from agent.report.verdict import await_verdict
from agent.repository.excludes import exclude
from agent.repository.workspace import Workspace
from agent.system.background import log_of
from agent.system.files import locked, read_end
from agent.views.verdict import experiment_result

# Together they stay below the time limit of a client.
START_SECONDS = 30.0
SOON_SECONDS = 5.0  # a refused comparison has ended by then
ENDING_SECONDS = 10.0  # from a verdict to the end of the process that measured it
POLL_SECONDS = 0.1
LARGEST_ANSWER = 2**22
STARTING = "starting.lock"  # in the state folder


def start_experiment(folder: Path, why: str, tag: str | None, files: Mapping[str, str], blocks: str) -> dict[str, Any]:
    """Measure the edit of the working tree, or these edits, in the background.

    Args:
        folder: the workspace.
        why: the description of the edit.
        tag: the session; None takes the one that `try` takes.
        files: path -> complete new text.
        blocks: search and replace blocks.

    Returns:
        The state `running` with the data of `try --detach --json`. Or the state `starting` after START_SECONDS, as on a
        busy machine: then the files stay as they were written, because the experiment may be reading them.

    Raises:
        AutoresearchError: the edit cannot be measured now. The working tree is as it was.
    """
    with _starting(folder):
        return _start_experiment(folder, why, tag, files, blocks)


def _start_experiment(folder: Path, why: str, tag: str | None, files: Mapping[str, str], blocks: str) -> dict[str, Any]:
    _require_free(folder)
    if tag and block(tag) != tag:
        raise UsageError(f"tag {one_line(tag)!r} has characters that no name may have", hint="choose another")
    # No argument of a process can hold a NUL or half a surrogate pair.
    arguments = ["try", "--detach", "--json", f"--message={block(why)}", *([f"--tag={tag}"] if tag else [])]
    with written(folder, tag, files, blocks) if files or blocks.strip() else contextlib.nullcontext():
        found = _called(folder, arguments)
    if found is None:
        return {"state": "starting", "tag": tag, "number": None, "verdict": None}
    return {"state": "running", **found}


def start_confirmation(folder: Path, tag: str | None, runs: int | None) -> dict[str, Any]:
    """Confirm the best against the baseline in the background. Return its result if it ends within a few seconds."""
    with _starting(folder):
        return _start_confirmation(folder, find_session(folder, tag), runs)


def _start_confirmation(folder: Path, tag: str, runs: int | None) -> dict[str, Any]:
    _require_free(folder)
    answer = _answer_of(folder, tag)
    arguments = ["confirm", "--json", f"--tag={tag}", *([f"--runs={runs}"] if runs else [])]
    answer.unlink(missing_ok=True)  # not truncated: it may be a link
    with answer.open("xb") as output, log_of(answer.parent).open("ab") as log:
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


def confirmation_error(folder: Path, tag: str) -> str | None:
    """Return why the latest confirmation of a session failed in the background; None if it did not.

    One that succeeded later, such as by a command of the user's, makes up for it, and a later keep makes it one of
    another best.
    """
    if lock.holder(state_folder(folder)) is not None:
        return None
    answer = _answer_of(folder, tag)
    try:
        _data(read_end(answer, LARGEST_ANSWER))
    except OSError:  # there was none
        return None
    except AutoresearchError as error:
        failed_at = answer.lstat().st_mtime
        path = journal_path(folder, tag)
        best, later = fold(path).incumbent, [each for each in read(path) if each.at > failed_at]
        kept = any(each.kind == "judged" and each.data["status"] == "keep" for each in later)
        confirmed = best is not None and best.commit in (e.data.get("b") for e in later if e.kind == "confirmed")
        return None if kept or confirmed else in_one_line(error)
    return None


def verdict_within(folder: Path, tag: str | None, number: int | None, seconds: float) -> dict[str, Any] | None:
    """Return the data of `wait --json`, or None if the experiment has no verdict after these seconds."""
    try:
        return experiment_result(folder, *await_verdict(folder, tag, number, seconds))
    except StillRunning:
        return None


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """Refuse a call while another one, of any client, starts something: each would measure the files of the other.

    Raises:
        PreconditionError: another call is not done.
    """
    require_own_state(folder)
    state_folder(folder).mkdir(parents=True, exist_ok=True)
    exclude(Workspace(folder, load_protocol(folder)), [".autoresearch/"])
    with locked(state_folder(folder) / STARTING) as free:
        if not free:
            raise PreconditionError(
                "another call is starting a measurement here, and only one process measures at a time",
                hint="call start_experiment again after its verdict",
            )
        yield


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
            # A comparison has no verdict that wait_experiment could wait for.
            wait = "wait for it with wait_experiment" if pending else "call status until nothing runs"
            stop = "stop" if holder.stops else f"`kill -INT {holder.pid}`"
            raise PreconditionError(
                f"process {holder.pid} is measuring {what}, and only one process measures at a time",
                hint=f"{wait}, or end it with {stop}",
            )
        time.sleep(POLL_SECONDS)


def _called(folder: Path, arguments: Sequence[str]) -> dict[str, Any] | None:
    """Call a command of this program, and return its data, or None if it goes on after START_SECONDS.

    Raises:
        AutoresearchError: its error.
    """
    process = subprocess.Popen(
        _program(arguments),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answer, _ = process.communicate(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        threading.Thread(target=process.communicate, daemon=True).start()
        return None
    return _data(answer, process.returncode)


def _program(arguments: Sequence[str]) -> list[str]:
    # -P: a folder `agent` in the workspace is not imported in place of the program.
    return [sys.executable, "-P", "-m", "agent", *arguments]


def _answer_of(folder: Path, tag: str) -> Path:
    """Return the file with the output of the latest `confirm --json` that this server has started."""
    return journal_path(folder, tag).with_name("confirm.json")


def _data(answer: bytes, code: int | None = None) -> dict[str, Any]:
    """Return the data in the output of a command.

    Args:
        answer: the output.
        code: the exit code of the command; None if it is unknown.

    Raises:
        AutoresearchError: the error in it.
    """
    try:
        envelope = json.loads(answer)
        data, errors, hints = envelope["data"], envelope["errors"], envelope["hints"]
    except (ValueError, KeyError, TypeError):
        ended = f" with exit code {code} and" if code is not None else ""
        raise AutoresearchError(
            f"the command ended{ended} without a result", hint="check with `autoresearch doctor`"
        ) from None
    if errors or not isinstance(data, dict):
        raise AutoresearchError("; ".join(errors) or "no result", hint="; ".join(hints))
    return data
