"""Measure one run of the protocol's command: (commit, snapshot, seconds) -> (log, metric or reason of failure)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.errors import (
    Ambiguous,
    AutoresearchError,
    Crashed,
    ExperimentError,
    Faulted,
    NoMetric,
    OutOfMemory,
    Pruned,
    Suspended,
    TimedOut,
    Violation,
)
from agent.execution import evaluation, fingerprint, integrity, process
from agent.execution.allowance import NO_ALLOWANCE, NO_REFERENCES, TOO_LATE, Allowance, References
from agent.execution.conditions import Clock, clock, conditions
from agent.execution.evaluation import Evaluator, Harness, losses_of
from agent.execution.gpu_fault import GONE_FOLDER, GONE_LOG, described, fault_in
from agent.execution.kill import Process
from agent.execution.oom import ran_out
from agent.execution.process import (
    SHORTEST_SLEEP,
    UNOBSERVED,
    Command,
    Ended,
    Observer,
    run_command,
    seconds_of,
    share_of,
)
from agent.journal.experiment import KNEW, Run
from agent.journal.paths import cache_folder, cache_places
from agent.protocol.extract import Stamp, extract, stamp, told_training
from agent.protocol.models import Metric, Protocol
from agent.repository.ready import require_submodules
from agent.repository.workspace import Workspace
from agent.room import room
from agent.room.own_text import own_text
from agent.room.room import NO_FILES, Furniture, Room, UntrackedFiles
from agent.room.sandbox import UNCONFINED, Sandbox
from agent.system import temporary
from agent.system.invocation import here
from agent.system.masking import without_secrets

LOG_NAME = "run.log"
LEAST_ROOM = 32 * 2**20
LARGEST_TEXT = 2 * process.LARGEST_LOG
REDIRECTION = re.compile(r"\s*(&>|>)\s*run\.log(\s+2>&1)?\s*$")
NO_ROOM = "the room could not be set up: "
OPENING_SECONDS = 60.0
LAST_LINES = 5  # of a log, among which is the exception that ended a run


@dataclass(frozen=True)
class Runner:
    """The settings that all runs of a session share.

    Attributes:
        training_seconds: the training budget; None if the protocol sets none.
        patient: whether a run continues to its end after it has trained for too long to count.
        linked: whether `run.log` in the workspace links to the log of the current run.
        untracked: the untracked files that runs see.
        harness: None if the harness has no evaluator.
        say: shows a message to the user.
        imports: by the commit of an incumbent, why importing it in a room fails; None if it does not.
        keeps_models: store the model of each run, to be scored on the holdout (`agent.execution.holdout`).
        holdout_command: prints the metric on the holdout after a run, in the same room; None for none.
        read: returns the conditions since a clock.
    """

    protocol: Protocol
    workspace: Workspace
    training_seconds: float | None
    sandbox: Sandbox = UNCONFINED
    patient: bool = False
    linked: bool = True
    untracked: UntrackedFiles = NO_FILES
    harness: Harness | None = None
    say: Callable[[str], None] = lambda _: None
    imports: dict[str, str | None] = field(default_factory=dict)
    keeps_models: bool = False
    holdout_command: str | None = None
    read: Callable[[Clock, float], dict[str, float]] = conditions

    @property
    def limit(self) -> float:
        return self.protocol.execution.hard_timeout_seconds


@dataclass(frozen=True)
class Edited:
    """A commit with changes on top of it.

    Attributes:
        files: path relative to the workspace -> new text.
    """

    commit: str
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """A single execution of the command.

    Attributes:
        allowance: the time that it may take beyond its training budget.
        evaluator: the evaluator of the run; None if the harness has none.
        began: what the system had counted when it began; None if the conditions do not matter.
        handed_over: receives the conditions until the handover of the model. Later, a run that knows its metric could
            make the machine look busy, to be measured again.
        before: stamps of the files of metrics before it began.
        sealed: what the files of the harness were then (`integrity.seals`).
    """

    room: Room
    log: Path
    allowance: Allowance = NO_ALLOWANCE
    evaluator: Evaluator | None = None
    began: Clock | None = None
    handed_over: dict[str, float] = field(default_factory=dict)
    before: Mapping[str, Stamp] = field(default_factory=dict)
    sealed: Mapping[str, integrity.Stamp] = field(default_factory=dict)


def measure(
    runner: Runner,
    commit: str | Edited,
    log: Path,
    observer: Observer = UNOBSERVED,
    references: References = NO_REFERENCES,
) -> Run:
    """Run the command once on `commit` in a new room.

    Args:
        observer: may raise an ExperimentError, such as Pruned, to end the run.
        references: earlier runs to compare with.

    Returns:
        A run with a metric, or with an error if it failed. If it has a `fault`, the GPU failed, and the run says
        nothing about the commit: repeat it as `agent.session.faults` does.

    Raises:
        Suspended: the machine slept during the run, which says nothing about the candidate.
    """
    allowance = Allowance.of(runner.training_seconds, references)
    try:
        recipe = commit if isinstance(commit, Edited) else Edited(commit)
        found = _measure(runner, recipe, log, observer, allowance, references.other)
        if found.metric is None and found.pruned is None:
            require_disk_space(log.parent)  # without what the run wrote, which went with its room
        return replace(found, error=without_secrets(found.error)) if found.error else found
    except (AutoresearchError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # unexpected output of one run must not end the session
        why = without_secrets(f"crashed: {type(error).__name__} while reading its result: {error}")
        return Run(None, 0.0, error=why[:300], log=str(log))


def _measure(
    runner: Runner,
    recipe: Edited,
    log: Path,
    observer: Observer,
    allowance: Allowance,
    other: tuple[Run, ...],
) -> Run:
    log.parent.mkdir(parents=True, exist_ok=True)
    require_disk_space(log.parent)
    _link(runner, log)
    require_submodules(runner.workspace, recipe.commit, runner.untracked.source or runner.workspace.top)
    snapshot = fingerprint.snapshot_folder(runner.protocol)
    integrity.require_prepared(snapshot, fingerprint.snapshot(runner.protocol))
    since, began = time.time(), clock()
    ended: Ended | None = None
    given_up: ExperimentError | None = None
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(room_of(runner, recipe.commit, snapshot, recipe.files))
        evaluator = stack.enter_context(_evaluator(runner, place, log, other))
        before, sealed = stamps(place, runner.protocol), _sealed(runner, recipe, place)
        attempt = Attempt(place, log, allowance, evaluator, began, before=before, sealed=sealed)
        try:
            ended = execute(runner, attempt, observer)
        except ExperimentError as error:
            given_up = error
        except FileNotFoundError:
            if (lost := _lost(attempt)) is None:
                raise
            given_up = lost
        slept = ended.asleep if ended else time.time() - since - (clock().wall - began.wall)
        if slept >= SHORTEST_SLEEP:  # also if the run was given up: a loss of NaN may be that of a card that woke up
            raise Suspended(f"the machine slept for {slept:.0f} s during the run")
        around: dict[str, Any] = {
            "conditions": attempt.handed_over or runner.read(began, seconds_of(evaluator.pid) if evaluator else 0.0),
            "log": str(log),
            "seconds": ended.seconds if ended else clock().wall - began.wall,
            "unconfined": runner.sandbox.way is None,
        }
        text = _text(log) if log.exists() else ""
        try:
            if given_up is not None:
                raise given_up
            assert ended is not None
            if ended.returncode == 126 and text.startswith(NO_ROOM) and not _opens(runner, recipe, snapshot, log):
                hint = "start with `--sandbox off`, or see docs/reliability.md"
                raise AutoresearchError(text.strip()[:300], hint=hint)
            around |= _result(runner, attempt, ended, text)
            if runner.holdout_command:
                around["holdout"] = _on_holdout(runner, attempt, observer.tick)
        except Pruned as error:
            return Run(metric=None, error=str(error), pruned=error.fraction, estimate=error.estimate, **around)
        except ExperimentError as error:
            knew = _knew(attempt) or (bool(other) and _gave_metric(runner, attempt, text))
            return _failed(error, attempt, around, knew=knew)
        return Run(secondary=_secondary(runner, attempt, text), trained=told_training(text), **around)


@contextlib.contextmanager
def _evaluator(runner: Runner, place: Room, log: Path, other: tuple[Run, ...]) -> Iterator[Evaluator | None]:
    """Run the evaluator of a run in `place` during the block, if the harness has one."""
    if runner.harness is None:
        yield None
        return
    kept = [losses_of(Path(run.log)) for run in reversed(other) if run.log]
    reference = next((losses for losses in kept if losses.exists()), None)
    args = runner.harness, evaluation.Place(runner.sandbox, place.layout.folder, runner.workspace.folder)
    with evaluation.evaluator(*args, reference, log, runner.keeps_models) as found:
        yield found


def _failed(error: ExperimentError, attempt: Attempt, around: Mapping[str, Any], *, knew: bool) -> Run:
    """Return a run without a metric.

    One that knew its metric is not to be repeated: it could look like a failure of the GPU whenever that was a bad one.
    """
    computed = attempt.evaluator is not None and bool(attempt.evaluator.event("untraced"))
    late = computed and str(error).startswith(TOO_LATE)  # it could wait until its metric is a good one
    error = _lost(attempt) or error
    if late or (knew and not isinstance(error, Violation | TimedOut)):  # else these repeat nothing
        return Run(metric=None, error=f"{KNEW}{error}", **around)
    if isinstance(error, Faulted) and attempt.evaluator is not None and evaluation.lacked_room(attempt.evaluator):
        error = Crashed("the model does not fit the disk of temporary files (TMPDIR)")
    fault = error.fault if isinstance(error, Faulted) else ""
    return Run(metric=None, error=str(error), fault=fault, out_of_memory=isinstance(error, OutOfMemory), **around)


def _lost(attempt: Attempt) -> Faulted | None:
    """Return the error of a run whose room or log was deleted; None if they are there.

    A run in a sandbox cannot do that. An evaluator's metric stands without them.
    """
    if is_lost(attempt.room):
        return Faulted(f"{GONE_FOLDER} during the run", "machine")
    return None if attempt.log.exists() else Faulted(f"{GONE_LOG} during the run", "machine")


def is_lost(place: Room) -> bool:
    """Return whether the room of a run was deleted, with the folder that holds it."""
    return not place.layout.folder.is_dir()


def _knew(attempt: Attempt) -> bool:
    """Return whether the evaluator told a run its metric."""
    return attempt.evaluator is not None and bool(attempt.evaluator.event("answer"))


def _gave_metric(runner: Runner, attempt: Attempt, text: str) -> bool:
    """Return whether the log or the file of a run without an evaluator has its metric, or several different ones.

    That may be the metric of an early epoch: one that is bad could be discarded as well. The baseline is the user's
    own, and no draw of it is discarded.
    """
    evaluator = attempt.evaluator
    if evaluator is not None and not evaluator.event("untraced"):
        return False
    try:
        read(attempt.room, runner.protocol, runner.protocol.metric, text, attempt.before)
    except NoMetric as error:
        return isinstance(error, Ambiguous)
    return True


def _sealed(runner: Runner, recipe: Edited, place: Room) -> dict[str, integrity.Stamp]:
    """Return what the files of the harness are before a run that may not change them.

    Without those of metrics, which it writes, and of compiled modules, which Python writes anew.
    """
    metrics = (runner.protocol.metric, *runner.protocol.measurement.secondary_metrics)
    written = {path for each in metrics if (path := _path(runner.protocol, each)) is not None}
    fixed = runner.workspace.harness(recipe.commit) - {*recipe.files} - written
    return integrity.seals(place.workspace, [path for path in fixed if not path.endswith(".pyc")])


def _result(
    runner: Runner,
    attempt: Attempt,
    ended: Ended,
    text: str,
) -> dict[str, Any]:
    """Return the metric, its source, and the time beyond the budget, as fields of `Run`.

    Raises ExperimentError if the run has no metric.
    """
    place, evaluator = attempt.room, attempt.evaluator
    if evaluator is not None and evaluator.event("refused"):
        raise evaluation.refusal(evaluator, attempt.allowance, ended.began)
    untraced = evaluator is not None and bool(evaluator.event("untraced"))
    own = ended.returncode and ran_out(ended.returncode, text)  # the system that lacks memory kills both
    if evaluator is not None and ended.stopped is None and (ended.returncode or not untraced) and not own:
        told = "".join(text.splitlines()[-LAST_LINES:])
        evaluator.require_alive(evaluation.GONE_SECONDS if evaluation.NO_ANSWER in told else 0.0)
    require_success(ended, text)
    metric = runner.protocol.metric
    if evaluator is None or runner.harness is None or untraced:
        integrity.require_sealed(place.workspace, attempt.sealed)
        found = read(place, runner.protocol, metric, text, attempt.before)
        return {"metric": found, "source": "untraced" if untraced else "from the log"}
    in_log = None
    # If a progress bar has garbled the line in the log, the evaluator's number is still valid.
    with contextlib.suppress(NoMetric):
        in_log = read(place, runner.protocol, metric, text, attempt.before)
    word = evaluation.attested(evaluator, runner.harness, metric.name, in_log, attempt.allowance, ended.began)
    if not word.by_evaluator:
        integrity.require_sealed(place.workspace, attempt.sealed)
    source = "attested" if word.by_evaluator else "from the log"
    timed = {"untimed": word.untimed, "overrun": word.overrun, "evaluated": word.evaluated}
    return {"metric": word.metric, "source": source, **timed}


def _opens(runner: Runner, recipe: Edited, snapshot: Path | None, log: Path) -> bool:
    """Return whether a room can be set up: a candidate may print what a broken one does.

    It is another one, since the candidate may have changed its own.
    """
    own, key = log.with_suffix(".room.log"), runner.workspace.folder / "another room"
    with room_of(runner, recipe.commit, snapshot, recipe.files, key) as place:
        try:
            command = Command(
                lambda report: place.arguments("true", report=report),
                place.layout.folder,
                place.environment,
                own,
                OPENING_SECONDS,
            )
            return run_command(command).returncode == 0
        finally:
            own.unlink(missing_ok=True)


def _on_holdout(runner: Runner, attempt: Attempt, tick: Callable[[float], None]) -> float:
    """Run the user's command for the holdout in the room of a run, and return the metric that it prints.

    Raises:
        AutoresearchError: the command failed or printed no metric.
    """
    log, before = attempt.log.with_suffix(".holdout.log"), stamps(attempt.room, runner.protocol)
    try:
        ended = execute(runner, replace(attempt, log=log), Observer(tick=tick), command=runner.holdout_command)
        text = _text(log)
        require_success(ended, text)
        return read(attempt.room, runner.protocol, runner.protocol.metric, text, before)
    except ExperimentError as error:
        raise AutoresearchError(f"the command of --holdout failed: {error}", hint=f"see the log {here(log)}") from None


@contextlib.contextmanager
def room_of(
    runner: Runner,
    commit: str,
    snapshot: Path | None,
    files: Mapping[str, str] | None = None,
    key: Path | None = None,
) -> Iterator[Room]:
    """Open the room of a run on `commit`. `files` and `key` are those of `room.opened`."""
    cache = () if runner.harness else (cache_folder(),)
    protocol = runner.protocol
    metrics = (protocol.metric, *protocol.measurement.secondary_metrics)
    results = tuple(path for metric in metrics if (path := _path(protocol, metric)) is not None)
    command = protocol.execution.command
    furniture = Furniture(command=command, untracked=runner.untracked, read=cache, results=results)
    if runner.harness is not None and snapshot is not None:
        own = own_text(runner.harness.snapshot, runner.workspace.top, runner.workspace.folder)
        hidden = (*own, *cache_places())
        furniture = replace(furniture, evaluated=True, cache=_without_texts(snapshot), hidden=hidden)
    elif not runner.harness:
        folder = cache_folder()
        apart = tuple(place / name for place in cache_places() for name in fingerprint.HIDDEN)
        furniture = replace(furniture, variables={"AUTORESEARCH_CACHE": str(folder)}, hidden=apart)
    with room.opened(runner.sandbox, runner.workspace, commit, furniture, files=files, key=key) as place:
        yield place


def _without_texts(snapshot: Path) -> dict[str, Path | bytes]:
    """Return the prepared data that a run sees from the start, which excludes the text."""
    names = ("snapshot.json", "tokenizer.json")
    cache: dict[str, Path | bytes] = {
        f"snapshots/{snapshot.name}/{name}": (snapshot / name).read_bytes()
        for name in names
        if (snapshot / name).exists()
    }
    return {**cache, "current": snapshot.name.encode()}


def execute(
    runner: Runner,
    attempt: Attempt,
    observer: Observer = UNOBSERVED,
    *,
    command: str | None = None,
    limit: float | None = None,
) -> Ended:
    """Run a command in the room of `attempt`.

    Args:
        command: None means the protocol's command.
        limit: seconds; None means the protocol's hard limit.
    """
    place, evaluator, protocol = attempt.room, attempt.evaluator, runner.protocol
    env = dict(place.environment)
    if runner.training_seconds is not None:
        env["AUTORESEARCH_TRAINING_SECONDS"] = f"{runner.training_seconds:g}"
    if evaluator is not None:
        env[evaluation.VARIABLE] = str(place.seen(evaluator.socket))
        if runner.harness and runner.harness.untraced:
            env[evaluation.UNTRACED_VARIABLE] = "1"

    pids: list[int] = [] if evaluator is None else [evaluator.pid]

    def started(process: Process) -> None:
        pids.append(process.pid)
        observer.started(process)

    def watched(seconds: float) -> None:
        if attempt.began is not None and evaluator and evaluator.event("handed_over") and not attempt.handed_over:
            attempt.handed_over.update(runner.read(attempt.began, sum(map(seconds_of, pids))))
        observer.tick(seconds)
        if evaluator is not None and not runner.patient:
            evaluation.require_in_time(evaluator, attempt.allowance, seconds)

    return run_command(
        Command(
            lambda report: place.arguments(command or command_of(protocol), protocol.execution.cwd, report),
            cwd=place.layout.folder,
            env=env,
            log=attempt.log,
            limit=limit or runner.limit,
            writes=(place.layout.folder, *place.layout.scratch),
        ),
        Observer(started, watched),
    )


def command_of(protocol: Protocol) -> str:
    """Return the protocol's command without its redirection to the log, which the loop writes itself."""
    return REDIRECTION.sub("", protocol.execution.command)


def stamps(place: Room, protocol: Protocol) -> dict[str, Stamp]:
    """Return the stamps of the files of metrics that are in a room, by path relative to the workspace.

    Times alone do not show which files a run wrote: the system's clock may be set back meanwhile.
    """
    found = {}
    for metric in (protocol.metric, *protocol.measurement.secondary_metrics):
        if (path := _path(protocol, metric)) is None:
            continue
        inside = Path(os.path.normpath(place.inside / path))
        shown = (each for each in reversed(place.layout.shown) if inside.is_relative_to(each.target))
        sources = [place.written(path), *(each.source / inside.relative_to(each.target) for each in shown)]
        known = next((each for each in map(stamp, sources) if each is not None), None)
        if known is not None:
            found[path] = known
    return found


def _path(protocol: Protocol, metric: Metric) -> str | None:
    """Return the file of a metric relative to the workspace; None if it is in the log."""
    name = metric.extract.path
    return None if name is None else os.path.normpath(os.path.join(protocol.execution.cwd, name))  # noqa: PTH118


def read(place: Room, protocol: Protocol, metric: Metric, text: str, before: Mapping[str, Stamp]) -> float:
    """Return a metric from the text of the log, or from the file in the room that the protocol names.

    Args:
        before: stamps of files before the run; a file that still has its stamp does not count.

    Raises:
        NoMetric: it is missing, ambiguous or not a finite number.
    """
    path = _path(protocol, metric)
    if path is None:
        return extract(metric, text, place.workspace)
    found = place.written(path)
    if not place.holds(found.parent):
        raise NoMetric(f"{found.name} is outside of the room")
    if _is_missing(found):
        raise NoMetric(f"{found.name} was not written by this run")
    only = metric.model_copy(update={"extract": metric.extract.model_copy(update={"path": found.name})})
    return extract(only, text, found.parent, before.get(path))


def _is_missing(path: Path) -> bool:
    """Return whether a file is missing: of a deleted one, a layer keeps a device."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == 0


def require_success(ended: Ended, text: str) -> None:
    """Raise TimedOut, OutOfMemory, Faulted or Crashed, with the last line of the log, if the command failed."""
    if ended.stopped is not None:
        raise TimedOut(ended.stopped)
    if ended.returncode:
        code = ended.returncode
        # For a child killed by a signal, a shell reports 128 + the signal's number, and Popen the negative number.
        number = -code if code < 0 else code - 128
        names = {s.value: s.name for s in signal.Signals}
        what = f"killed by {names[number]}" if number in names else f"exit code {code}"
        # prepare.py ends with `error: ...` and `hint: ...`: the error is the reason.
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("hint: ")]
        # Masked before it is cut: half a secret is not known as one.
        last = f": {without_secrets(lines[-1].strip().removeprefix('error: '))[:120]}" if lines else ""
        if ran_out(code, text):
            raise OutOfMemory(f"out of memory: {what}{last}")
        if fault := fault_in(code, text):
            raise Faulted(f"{described(fault)}: {what}{last}", fault)
        raise Crashed(f"crashed: {what}{last}")


def _text(log: Path) -> str:
    with log.open("rb") as file:
        return file.read(LARGEST_TEXT).replace(b"\0", b"").decode(errors="replace")  # a sparse file has many


def require_disk_space(logs: Path) -> None:
    """Raise AutoresearchError, which ends the session, if a disk is full: a run would fail whatever the candidate.

    Args:
        logs: the folder of the log. The other one is that of rooms, which may be a small disk in memory.
    """
    for folder in (logs, temporary.place()):
        if not folder.exists():
            continue
        about = shutil.disk_usage(folder)
        if about.free < (LEAST_ROOM if folder == logs else share_of(about.total, LEAST_ROOM)):
            raise AutoresearchError(
                f"only {about.free // 2**20} MiB are free in {folder}",
                hint="free some disk space, then run the same command again; the session continues from here",
            )


def _secondary(runner: Runner, attempt: Attempt, text: str) -> dict[str, float]:
    found = {}
    for metric in runner.protocol.measurement.secondary_metrics:
        with contextlib.suppress(NoMetric):
            found[metric.name] = read(attempt.room, runner.protocol, metric, text, attempt.before)
    return found


def _link(runner: Runner, log: Path) -> None:
    """Link `run.log` in the workspace to the log of the current run, so that `tail -F run.log` follows it.

    A file of that name that git tracks, or that the user has created, is left alone.
    """
    link = runner.workspace.folder / LOG_NAME
    if not runner.linked:
        return
    if os.path.lexists(link) and not link.is_symlink():
        return
    if runner.workspace.is_tracked(LOG_NAME):
        return
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(log)
    except OSError as error:
        raise AutoresearchError(
            f"cannot write {link}: {error.strerror}", hint="fix that, then run the same command again"
        ) from None
