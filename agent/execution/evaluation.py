"""The harness's evaluator: a process outside the run's room that computes the metric from the exported model.

A harness that hands models over includes `harness/evaluator.py`, or `evaluator.py` in earlier versions. Before the run,
the loop starts that script, as of the session's first commit, in a separate room that shows the whole snapshot. It
passes the path of the socket to the run (AUTORESEARCH_EVALUATOR). The evaluator reports events as lines of JSON on its
standard output: `ready`; `clock` when it gives out the training text; `handed_over` when a model has arrived; then
`answer` with the metric, or `refused` with the reason why it voided the run.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, ExperimentError, Faulted, Violation
from agent.execution.allowance import NO_ALLOWANCE, Allowance
from agent.execution.gpu_fault import FULL_DISK, NO_EVALUATOR, described, fault_of_evaluator
from agent.execution.kill import end_all
from agent.format import figure
from agent.repository.harness import EVALUATORS, HANDED_OVER
from agent.repository.workspace import Workspace
from agent.room.places import places
from agent.room.sandbox import Layout, Sandbox, Shown
from agent.room.variables import of_evaluator
from agent.system.files import held_by, read_bounded, write_whole

VARIABLE = "AUTORESEARCH_EVALUATOR"
REFERENCE_VARIABLE, LOSSES_VARIABLE = "AUTORESEARCH_REFERENCE", "AUTORESEARCH_LOSSES"
SNAPSHOT_VARIABLE, UNTRACED_VARIABLE = "AUTORESEARCH_SNAPSHOT", "AUTORESEARCH_ALLOW_UNTRACED"
MODEL_VARIABLE, HOLDOUT_VARIABLE = "AUTORESEARCH_KEEP_MODEL", "AUTORESEARCH_HOLDOUT"
MODEL = ".model-"  # between the name of a log and the batch size, in the name of a stored model
LARGEST_MODEL, MOST_ROWS = 2**30, 10**6
LEAST_FREE = 2**30  # bytes of disk that a stored model must leave
TICK_SECONDS = 0.2
READY_SECONDS = 30.0
# What `harness/handover.py` raises in a run whose evaluator is gone, and how long that may take to end after it.
NO_ANSWER, GONE_SECONDS = "the evaluator does not answer", 5.0
# A log may round to three decimals; only the evaluator's number counts.
TOLERANCE = 6e-4
# Time for a run to write files and print after its model is handed over. It can no longer change its metric.
AFTERWARDS_SECONDS = 60.0
LARGEST_WORD, LARGEST_LOSSES = 2**20, 2**30


@dataclass(frozen=True)
class Harness:
    """A copy of the harness and the data that its evaluator uses.

    Attributes:
        folder: the copy of the harness.
        script: the evaluator, relative to `folder`.
        snapshot: the prepared data.
        record: the content of its snapshot.json.
        untraced: whether a model that cannot be traced may be evaluated by its own process.
        holdout: the folder of the snapshot's holdout; None if it has none, or if the evaluator is of a version without.
    """

    folder: Path
    script: str
    snapshot: Path
    record: dict[str, Any]
    untraced: bool = False
    holdout: Path | None = None


@dataclass
class Evaluator:
    """A running evaluator.

    Attributes:
        socket: a path on this machine.
        log: a path on this machine, in the room of the run.
        available: bytes that were free on the disk of that room when it started, or that the room held.
    """

    socket: Path
    log: Path
    _process: subprocess.Popen[bytes]
    available: int = 0
    _said: bytes = b""
    _events: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self._process.pid

    def event(self, name: str) -> dict[str, Any]:
        """Return the first event of this name from the evaluator; empty if there has been none."""
        self._listen()
        return self._events.get(name, {})

    def require_alive(self, patience: float = 0.0) -> None:
        """Raise Faulted if it has ended without a word on the model, which no run in a sandbox can have caused.

        Args:
            patience: seconds to wait for its end, of which a run may learn first.
        """
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return
        if not self.event("answer") and not self.event("refused"):
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise Faulted(f"{NO_EVALUATOR} before it answered: {how}", "machine")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while len(self._said) < LARGEST_WORD and (more := os.read(self._process.stdout.fileno(), 65536)):
                self._said += more
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                said = json.loads(line)
                if isinstance(said, dict) and isinstance(said.get("event"), str):
                    self._events.setdefault(said["event"], {"at": time.monotonic(), **said})


def find_evaluator(workspace: Workspace, commit: str, paths: list[str]) -> tuple[str, str] | None:
    """Return the folder of a harness that has an evaluator, relative to the workspace, and the script relative to it.

    Args:
        paths: the paths of immutableHarness.

    Returns:
        None if the harness has no evaluator.
    """
    for folder in (str(Path(path).parent) for path in paths):
        for script in EVALUATORS:
            if HANDED_OVER in (workspace.show(commit, str(Path(folder) / script)) or ""):
                return folder, script
    return None


@dataclass(frozen=True)
class Place:
    """Where an evaluator runs.

    Attributes:
        base: a folder of its own, or of the run's room, for its socket, its output and what it writes.
        workspace: the user's workspace, whose interpreter it uses.
    """

    sandbox: Sandbox
    base: Path
    workspace: Path


def _closed(
    harness: Harness, place: Place, arguments: Sequence[str], more: Sequence[Path], variables: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of the harness's evaluator in a room of its own, without a network.

    Args:
        arguments: of the script.
        more: files that it reads, besides the harness and the snapshot.
        variables: on top of those that it always has.
    """
    base, workspace = place.base, place.workspace
    for name in ("evaluator-root", "evaluator-root/root", "evaluator-root/scratch", "losses"):
        (base / name).mkdir()
    shown = (Shown(base / "evaluator", base / "evaluator", "rw"), Shown(base / "losses", base / "losses", "rw"))
    python = _python(workspace)
    read = [harness.folder, harness.snapshot, *more]
    if (workspace / ".venv").exists():
        read.append(workspace / ".venv")
    found = places(workspace, str(python), read)
    layout = Layout(base / "evaluator-root", shown, found.read, found.hidden)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(base / "evaluator"),
        "TMPDIR": str(base / "evaluator"),
        "AUTORESEARCH_CACHE": str(harness.snapshot.parent.parent),
        SNAPSHOT_VARIABLE: harness.snapshot.name,
        **of_evaluator(os.environ),
        **variables,
    }
    sandbox = place.sandbox
    closed = Sandbox(sandbox.way, network=False, hide=True) if sandbox.way else sandbox
    return closed.enter([str(python), harness.script, *arguments], layout, harness.folder), environment


def _started(
    harness: Harness, place: Place, command: Sequence[str], environment: Mapping[str, str], stdin: int
) -> subprocess.Popen[bytes]:
    with (place.base / "evaluator.log").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=harness.folder,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def evaluator(
    harness: Harness, place: Place, reference: Path | None, log: Path, keeps_model: bool
) -> Iterator[Evaluator]:
    """Run an evaluator during the block.

    Raises AutoresearchError if it does not start.

    Args:
        reference: the losses of an earlier run, to compare with; None if there are none.
        log: the log of the run, beside which its losses are stored, and its model.
        keeps_model: whether to store its model, to be scored on the holdout.
    """
    base = place.base
    socket, losses, model = base / "evaluator" / "socket", base / "losses" / "losses.npy", base / "losses" / "model"
    known = [reference] if reference and reference.exists() else []
    variables = {
        LOSSES_VARIABLE: str(losses),
        **({REFERENCE_VARIABLE: str(reference)} if known else {}),
        **({UNTRACED_VARIABLE: "1"} if harness.untraced else {}),
        **({MODEL_VARIABLE: str(model)} if keeps_model and harness.holdout else {}),
    }
    command, environment = _closed(harness, place, [str(socket)], known, variables)
    process = _started(harness, place, command, environment, subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    os.set_blocking(process.stdout.fileno(), False)
    evaluator = Evaluator(socket, base / "evaluator.log", process, shutil.disk_usage(base).free + held_by(base))
    try:
        _require_ready(evaluator, process, base / "evaluator.log")
        yield evaluator
        _keep_losses(losses, losses_of(log))
        _keep_model(model, log, evaluator.event("answer").get("rows"))
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        end_all(process.pid, "")
        process.wait()
        process.stdout.close()


def _require_ready(evaluator: Evaluator, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not evaluator.event("ready"):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = [line for line in lines if not line.startswith("hint: ")][-1:]
            raise AutoresearchError(f"cannot start the harness's evaluator: {''.join(last)[:200] or 'no answer'}")
        time.sleep(0.002)


def _keep_losses(written: Path, losses: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        write_whole(losses, read_bounded(written, LARGEST_LOSSES))


def _keep_model(written: Path, log: Path, rows: Any) -> None:
    """Store a model beside the log of its run, if it is not too large, with its batch size in the file's name."""
    drop_models(log)
    if not isinstance(rows, int) or not 0 < rows < MOST_ROWS:
        return
    part = log.with_name(f"{log.stem}.model.part")
    try:
        size = written.stat().st_size
        if size <= LARGEST_MODEL and size + LEAST_FREE < shutil.disk_usage(log.parent).free:
            shutil.copyfile(written, part)
            part.replace(log.with_name(f"{log.stem}{MODEL}{rows}"))
    except OSError:
        part.unlink(missing_ok=True)


def model_of(log: Path) -> tuple[Path, int] | None:
    """Return the stored model of a run and its batch size; None if there is none."""
    for path in log.parent.glob(f"{glob.escape(log.stem)}{MODEL}*"):
        rows = path.name.removeprefix(f"{log.stem}{MODEL}")
        if rows.isdecimal() and path.is_file() and not path.is_symlink():
            return path, int(rows)
    return None


def drop_models(log: Path) -> None:
    """Delete the stored model of a run."""
    while found := model_of(log):
        found[0].unlink()


def losses_of(log: Path) -> Path:
    """Return where the losses of a run are stored."""
    return log.with_suffix(".losses.npy")


def score(
    harness: Harness, place: Place, log: Path, seconds: float, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Score the stored model of a run on the holdout.

    Args:
        log: the log of the run.
        seconds: time limit.
        tick: called several times a second; may raise to stop it.

    Returns:
        What the evaluator reported: the event `holdout` or `refused`; empty if it failed.
    """
    found = model_of(log)
    if found is None or harness.holdout is None:
        return {}
    model, rows = found
    (place.base / "evaluator").mkdir()
    command, environment = _closed(
        harness,
        place,
        ["--holdout", str(model), str(rows)],
        [model, harness.holdout],
        {HOLDOUT_VARIABLE: str(harness.holdout)},
    )
    process = _started(harness, place, command, environment, subprocess.DEVNULL)
    said, deadline = None, time.monotonic() + seconds
    try:
        while said is None and time.monotonic() < deadline:
            tick()
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=TICK_SECONDS)
    finally:
        end_all(process.pid, "")
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        event = json.loads((said or b"")[:LARGEST_WORD].splitlines()[-1])
        return event if isinstance(event, dict) else {}
    return {}


def _python(workspace: Path) -> Path:
    """Return the workspace's own interpreter, if it has one: the metric is computed with its version of MLX."""
    own = workspace / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def require_in_time(evaluator: Evaluator, allowance: Allowance, seconds: float) -> None:
    """Raise Violation if the current run can no longer count.

    Args:
        seconds: since its start.
    """
    if evaluator.event("refused"):
        raise refusal(evaluator, allowance, time.monotonic() - seconds)
    if not evaluator.event("untraced"):
        evaluator.require_alive()
    over = evaluator.event("handed_over")
    if not over:
        allowance.require(seconds)
    elif not (answer := evaluator.event("answer")):
        allowance.require_evaluated(time.monotonic() - _at(over))
    elif time.monotonic() - _at(answer) > AFTERWARDS_SECONDS:
        raise Violation(f"voided: it kept running for more than {AFTERWARDS_SECONDS:.0f} s after its metric was known")


@dataclass(frozen=True)
class Attested:
    """The metric of a run.

    Attributes:
        by_evaluator: whether the evaluator computed it.
        untimed: as in `Run`.
        overrun: as in `Run`.
        evaluated: as in `Run`.
    """

    metric: float
    by_evaluator: bool
    untimed: float
    overrun: float | None
    evaluated: float | None


def attested(
    evaluator: Evaluator, harness: Harness, name: str, in_log: float | None, allowance: Allowance, began: float
) -> Attested:
    """Return the metric `name` as the evaluator computed it.

    Args:
        in_log: the metric in the log; None if the log has no unambiguous value, as the evaluator's is used then.
        began: when the command was started, by the monotonic clock.

    Raises:
        Violation: the evaluator has no metric, the log has a different one, or the run took too long.
    """
    if evaluator.event("refused"):
        raise refusal(evaluator, allowance, began)
    word = evaluator.event("answer")
    if not word:
        raise Violation("voided: it handed no model to the evaluator, so its metric is only its own claim")
    value, tokens = word.get("metric"), word.get("eval_tokens")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Violation(f"voided: the evaluator's metric, {str(value)[:40]}, is not a finite number")
    if word.get("snapshot") != harness.record.get("id") or tokens != harness.record.get("EVAL_TOKENS"):
        raise Violation(
            f"voided: it was evaluated on different data: {tokens} tokens of {str(word.get('snapshot'))[:12]}"
        )
    handed_over, budget = _at(evaluator.event("handed_over")), allowance.budget or 0.0
    allowance.require(handed_over - began)
    overrun = None
    if clock := evaluator.event("clock"):
        allowance.require_trained(handed_over - _at(clock))
        overrun = handed_over - _at(clock) - budget
    elif allowance.overrun is not None:
        raise Violation(f"voided: it asked for no text to train on, unlike {allowance.side}")
    seconds = word.get("seconds")  # earlier evaluators may say nothing of it
    evaluated = float(seconds) if isinstance(seconds, int | float) else None
    allowance.require_evaluated(evaluated or 0.0)
    by_evaluator = word.get("name") == name
    if not by_evaluator and in_log is None:
        raise Violation(f"voided: the evaluator computes {str(word.get('name'))[:40]}, but the log has no {name}")
    if by_evaluator and in_log is not None and abs(value - in_log) > TOLERANCE:
        raise Violation(f"voided: the log says {figure(in_log)}, but the evaluator computed {figure(value)}")
    metric = value if by_evaluator or in_log is None else in_log
    return Attested(float(metric), by_evaluator, handed_over - began - budget, overrun, evaluated)


def _at(event: dict[str, Any]) -> float:
    at = event.get("at")
    return float(at) if isinstance(at, int | float) else math.inf


def refusal(evaluator: Evaluator, allowance: Allowance = NO_ALLOWANCE, began: float = 0.0) -> ExperimentError:
    """Return the error of a run whose model the evaluator refused, or could not evaluate because the machine failed.

    Args:
        began: when the command was started, by the monotonic clock. One that came too late is repeated for no fault.
    """
    word = evaluator.event("refused")
    at = _at(evaluator.event("handed_over") or word)
    try:
        allowance.require(at - began)
        if clock := evaluator.event("clock"):
            allowance.require_trained(at - _at(clock))
    except Violation as late:
        return late
    reason = " ".join(str(word.get("reason", "it was refused")).split())[:300]
    if word.get("fault") == "disk":
        return Faulted(f"{FULL_DISK} in the evaluation: {reason}", "machine")
    fault = fault_of_evaluator(reason, evaluator.log)
    if fault:
        return Faulted(f"{described(fault)} in the evaluation: {reason}", fault)
    return Violation(f"voided: {reason}")


def lacked_room(evaluator: Evaluator) -> bool:
    """Return whether a run's model did not fit the disk, although nobody else has filled it during the run.

    It must have ended: what a process writes to a file without a name is in no folder.
    """
    word, base = evaluator.event("refused"), evaluator.log.parent
    size = word.get("bytes")
    if word.get("fault") != "disk" or not isinstance(size, int):
        return False
    free = shutil.disk_usage(base).free
    of_others = evaluator.available - free - held_by(base)
    return not free < size <= free + of_others
