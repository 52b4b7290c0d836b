"""One run of the protocol's command, from the files as they lie there to a metric or the reason why there is none."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import attest, fingerprint, integrity, runner
from agent.conditions import clock, conditions
from agent.errors import (
    AutoresearchError,
    Crashed,
    ExperimentError,
    Hopeless,
    NoMetric,
    OutOfMemory,
    Suspended,
    TimedOut,
    Violation,
)
from agent.experiment import Run, digest
from agent.memory import ran_out
from agent.metrics import extract
from agent.protocol import Protocol
from agent.sandbox import UNCONFINED, Sandbox, temporary_folder
from agent.workspace import Workspace

LOG_NAME = "run.log"
LEAST_ROOM = 32 * 2**20


@dataclass(frozen=True)
class Bench:
    """What every run of a session has in common. training_seconds is None where the protocol sets no budget.

    patient: whether a run goes on to its end although it has trained for too long to count.
    say: shows a person a sentence. imports: of incumbents, by commit, why they fail while they are imported in a copy;
    None where they do not.
    """

    protocol: Protocol
    workspace: Workspace
    training_seconds: float | None
    sandbox: Sandbox = UNCONFINED
    patient: bool = False
    say: Callable[[str], None] = lambda _: None
    imports: dict[str, str | None] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        return self.protocol.execution.hard_timeout_seconds


def measure(bench: Bench, log: Path, started: Callable[[runner.Process], None], tick: Callable[[float], None]) -> Run:
    """Run the command once on the working tree as it is. A failure is a Run with an error.

    `tick` may raise an ExperimentError, such as Hopeless, to end the run. Raises Suspended where the machine slept
    meanwhile: then nothing is known about the candidate.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _require_room(log.parent)
    _link(bench.workspace.folder / LOG_NAME, log)
    folder = bench.workspace.folder / bench.protocol.execution.cwd
    candidate = bench.workspace.mutable_files()
    snapshot, data = fingerprint.snapshot_folder(bench.protocol), fingerprint.snapshot(bench.protocol)
    protected = bench.workspace.protected_files()
    integrity.drop_bytecode(bench.workspace.sources())
    before = integrity.manifest(protected, folder, snapshot, data)
    attesting = snapshot is not None and attest.attests(protected)
    word = log.with_suffix(".attest.json")
    word.unlink(missing_ok=True)
    since, began = time.time(), clock()
    ended: runner.Ended | None = None
    given_up: ExperimentError | None = None
    try:
        ended = execute(bench, log, word if attesting else None, started, tick)
    except ExperimentError as error:
        given_up = error
    finally:
        touched = _undo(bench, before, candidate, log.with_suffix(".undone"))
        integrity.put_aside(before, log.with_suffix(".saved"))
    if ended and ended.asleep and not touched:
        raise Suspended(f"the machine slept for {ended.asleep:.0f} s during the run")
    text = log.read_text(errors="replace")
    seconds = ended.seconds if ended else clock().wall - began.wall
    around: dict[str, Any] = {"conditions": conditions(began), "log": str(log), "seconds": seconds}
    try:
        if touched:
            raise touched
        if ended is None:
            assert given_up is not None
            raise given_up
        attest.require_not_void(word)
        require_success(ended, text)
        metric = extract(bench.protocol.metric, text, folder, since)
        if attesting:
            name, budget = bench.protocol.metric.name, bench.training_seconds
            metric = attest.attested(
                word, name, metric, seconds=ended.seconds, budget=budget, folder=snapshot, data=data
            )
    except Hopeless as error:
        return Run(metric=None, error=str(error), pruned=error.fraction, estimate=error.estimate, **around)
    except ExperimentError as error:
        _require_room(log.parent)
        return Run(metric=None, error=str(error), out_of_memory=isinstance(error, OutOfMemory), **around)
    return Run(metric=metric, secondary=_secondary(bench, text, folder, since), **around)


def execute(
    bench: Bench,
    log: Path,
    word: Path | None,
    started: Callable[[runner.Process], None],
    tick: Callable[[float], None],
) -> runner.Ended:
    """The command in its sandbox, with a temporary folder that lasts as long; the harness attests to `word`."""
    workspace = bench.workspace.folder
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if bench.training_seconds is not None:
        env["AUTORESEARCH_TRAINING_SECONDS"] = f"{bench.training_seconds:g}"
    cache = fingerprint.cache_folder()
    guarded = [workspace / ".git", workspace / ".autoresearch", workspace / ".venv"]
    guarded += [cache / "snapshots", cache / "current"]
    with temporary_folder(workspace) as name:
        temporary = Path(name)
        attested = temporary / "attest.json"
        if word is not None:
            env[attest.VARIABLE] = str(attested)
            if bench.training_seconds is not None and not bench.patient:
                env[attest.LONGEST_VARIABLE] = f"{attest.longest_training(bench.training_seconds):g}"
        ended = runner.run(
            bench.sandbox.command(bench.protocol.execution.command, workspace, temporary, guarded),
            cwd=workspace / bench.protocol.execution.cwd,
            log=log,
            limit=bench.limit,
            env=bench.sandbox.environment(env, temporary),
            started=started,
            tick=tick,
        )
        if word is not None and attested.is_file():
            shutil.copyfile(attested, word)
    return ended


def last_lines(log: Path, count: int = 1) -> list[str]:
    """The last non-empty lines of a log, however long it is; carriage returns count as line ends."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()][-count:]


def _undo(bench: Bench, before: integrity.Manifest, candidate: dict[str, str], rescued: Path) -> Violation | None:
    """Put back whatever the run changed in the workspace, and say what it was; the changed files stay in `rescued`."""
    try:
        integrity.verify(before, rescued)
    except Violation as violation:
        return violation
    unexpected = bench.workspace.restore_unexpected(candidate, rescued)
    if digest(bench.workspace.mutable_files()) != digest(candidate):
        bench.workspace.place(candidate)
        unexpected += ["the candidate itself"]
    return Violation(f"the run changed {', '.join(unexpected)}: it is void") if unexpected else None


def require_success(ended: runner.Ended, text: str) -> None:
    """Raises TimedOut, OutOfMemory or Crashed with what the log's last line says."""
    if ended.stopped is not None:
        raise TimedOut(ended.stopped)
    if ended.returncode:
        code = ended.returncode
        # A shell reports a child that a signal ended as 128 + its number, Popen one of its own as the negative.
        number = -code if code < 0 else code - 128
        names = {s.value: s.name for s in signal.Signals}
        what = f"killed by {names[number]}" if number in names else f"exit code {code}"
        lines = [line for line in text.splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:120]}" if lines else ""
        if ran_out(code, text):
            raise OutOfMemory(f"out of memory: {what}{last}")
        raise Crashed(f"crashed: {what}{last}")


def _require_room(folder: Path) -> None:
    """A run on a full disk fails whatever the candidate is worth. Raises AutoresearchError: it ends the session."""
    free = shutil.disk_usage(folder).free
    if free < LEAST_ROOM:
        raise AutoresearchError(
            f"only {free // 2**20} MiB are free in {folder}: make room, then run again; the session goes on from here"
        )


def _secondary(bench: Bench, text: str, folder: Path, since: float) -> dict[str, float]:
    found = {}
    for metric in bench.protocol.measurement.secondary_metrics:
        try:
            found[metric.name] = extract(metric, text, folder, since)
        except NoMetric:
            continue
    return found


def _link(link: Path, log: Path) -> None:
    """`run.log` in the workspace is always the log of the run under way, so that `tail -F run.log` follows it."""
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(log)
    except OSError as error:
        raise AutoresearchError(f"{link} cannot be written: {error.strerror}") from None
