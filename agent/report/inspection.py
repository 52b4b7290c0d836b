"""The data behind `show`, `diff`, `log` and `sessions`."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.decision.estimate import estimate
from agent.errors import AutoresearchError, PreconditionError, UsageError
from agent.journal import lock
from agent.journal.experiment import Experiment, Run
from agent.journal.journal import begun, fold
from agent.journal.paths import find_session, is_overwritten, journal_path, own_log, state_folder
from agent.journal.pending import Pending
from agent.journal.state import State, experiment_named
from agent.protocol.load import load_protocol
from agent.report.gain import estimate_of, outcome, standing
from agent.report.statement import bound_of
from agent.repository.workspace import Workspace
from agent.system.files import Unusable, last_lines, open_plain
from agent.system.invocation import typed

SHORTEST_HASH = 4
TAIL_LINES = 12
POLL_SECONDS = 0.3
BLOCK = 2**20


def show(folder: Path, tag: str | None, which: str) -> dict[str, Any]:
    """Return everything known about one experiment, even if it is still running.

    Raises:
        PreconditionError: the session or the experiment does not exist.
        UsageError: `which` is ambiguous or is not an experiment's name.
    """
    tag, state = load(folder, tag)
    found = find(state, tag, which)
    assert state.session is not None
    runs = _runs(state, found)
    made = [run for _, run in runs]
    # The end of the last run before the verdict, which says most about what was tried.
    before = [(run.log, found.number) for kind, run in runs if kind in ("screen", "measured")]
    last, of = next(iter(_current(folder, state, found) or before[-1:]), (None, None))
    return {
        "tag": tag,
        "number": found.number,
        "status": _status(folder, tag, found),
        "reason": found.verdict.reason if found.verdict else None,
        "evidence": asdict(found.verdict.evidence) if found.verdict and found.verdict.evidence else None,
        "description": found.description,
        "proposer": found.proposer,
        "reasoning": found.reasoning,
        "playbook": found.playbook,
        "parts": list(found.parts),
        "commit": found.commit,
        "files": list(found.files),
        "metric": state.session["metric"],
        "direction": state.session["direction"],
        **_effect(state, found),
        "bound": bound_of(state, found) if isinstance(found, Experiment) else None,
        "expected": found.expected,
        "runs": [{"kind": kind, **asdict(run)} for kind, run in runs],
        "cost": asdict(state.cost_of(found)),
        "diff": _change(folder, found),
        "log": _own(folder, last),
        "log_of": of,
        "log_tail": _tail(folder, last) if last and not _is_lost(folder, made, last) else [],
    }


def diff(folder: Path, tag: str | None, which: str | None, other: str | None) -> dict[str, Any]:
    """Return the diff from `other` to `which`.

    Args:
        folder: the workspace.
        tag: the session; None takes the most recent one.
        which: an experiment; None takes the best.
        other: an experiment; None takes the parent of `which`, or the baseline if `which` is None, too.

    Raises:
        PreconditionError: the session or an experiment does not exist, or has no commit yet.
        UsageError: a name is ambiguous or is not an experiment's name.
    """
    tag, state = load(folder, tag)
    new = find(state, tag, which or "best")
    old = find(state, tag, other or "baseline") if other or which is None else None
    for each in (new, old):
        if each is not None and each.commit is None:
            raise PreconditionError(
                f"experiment #{each.number} of session {tag} has no commit yet",
                hint="wait a moment, then run the same command again",
            )
    workspace = Workspace(folder, load_protocol(folder))
    assert new.commit is not None
    if old is None:
        text = _change_in(workspace, new)
    else:
        assert old.commit is not None
        text = workspace.diff(old.commit, new.commit)
    return {
        "tag": tag,
        "from": {"number": old.number if old else None, "commit": old.commit if old else f"{new.commit}^"},
        "to": {"number": new.number, "commit": new.commit},
        "diff": text,
    }


@dataclass(frozen=True)
class RunLog:
    """The log of a run.

    Attributes:
        number: the experiment that the run is for.
        of: the experiment that it runs: `number`, or the incumbent, which is repeated for the comparison.
    """

    path: Path
    number: int
    of: int


def _current(folder: Path, state: State, found: Experiment | Pending) -> list[tuple[str, int]]:
    """Return the log of the run in progress, and the number of the experiment that it runs: itself or its incumbent."""
    comparison = state.comparison
    if comparison and comparison.started and comparison.commits.get(comparison.started["label"]) == found.commit:
        # One that was killed stays there until it goes on.
        goes_on = state.pending is None and lock.holder(state_folder(folder)) is not None
        return [(comparison.started["log"], found.number)] if goes_on else []
    if not isinstance(found, Pending) or not found.started:
        return []
    of = found.started.get("of")
    return [(found.started["log"], found.number if of is None else of)]


def log(folder: Path, tag: str | None, which: str | None, run: int | None) -> RunLog:
    """Return the log of a run.

    Args:
        folder: the workspace.
        tag: the session; None takes the most recent one.
        which: an experiment; None takes the latest.
        run: number of the run, from 1; None takes the last.

    Raises:
        PreconditionError: the run does not exist, or its log cannot be read.
        UsageError: `which` is ambiguous or is not an experiment's name.
    """
    tag, state = load(folder, tag)
    found = _latest(folder, state) if which is None else find(state, tag, which)
    runs = [run for _, run in _runs(state, found)] if found is not None else []
    logs = [(each.log, found.number) for each in runs] + _current(folder, state, found) if found is not None else []
    if found is None or not logs:
        what = f"experiment #{found.number} of session {tag}" if found else f"session {tag}"
        raise PreconditionError(
            f"{what} has no runs yet", hint=f"see its progress with `{typed(f'status --tag {tag}')}`"
        )
    if run is not None and not 1 <= run <= len(logs):
        has = f"only runs 1 to {len(logs)}" if len(logs) > 1 else "only run 1"
        raise PreconditionError(f"experiment #{found.number} of session {tag} has no run {run}, {has}")
    name, of = logs[(run or len(logs)) - 1]
    if _is_lost(folder, runs, name):
        raise PreconditionError(
            f"log {name} of experiment #{found.number} of session {tag} now holds the baseline of a later session"
        )
    try:
        path = own_log(folder, name, _artifact(folder))
        open_plain(path).close()
    except FileNotFoundError:
        raise PreconditionError(
            f"log {path} of experiment #{found.number} not found: it was deleted or moved"
        ) from None
    except Unusable as fault:
        raise PreconditionError(f"cannot read log {name} of experiment #{found.number}: it {fault}") from None
    return RunLog(path, found.number, of)


def follow(folder: Path, path: Path, go_on: bool, errors: str = "replace") -> Iterator[str]:
    """Yield the text of a log.

    Args:
        folder: the workspace.
        path: the log.
        go_on: wait for more until its run ends.
        errors: how to decode bytes that are not UTF-8, as in `bytes.decode`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors=errors)
    with open_plain(path) as file:
        while True:
            last = not go_on or not _is_written(folder, path)
            some = False
            while block := file.read(BLOCK):
                some = True
                yield decoder.decode(block)
            if last:
                yield decoder.decode(b"", final=True)
                return
            if not some:
                time.sleep(POLL_SECONDS)


def _own(folder: Path, log: str | None) -> str | None:
    """Return the path of a log in this workspace, which may have been moved; as it was if it does not belong to it."""
    try:
        return str(own_log(folder, log, _artifact(folder))) if log else log
    except Unusable:
        return log


def _tail(folder: Path, log: str) -> list[str]:
    """Return the last lines of a log; none if it does not belong to the workspace."""
    try:
        return last_lines(own_log(folder, log, _artifact(folder)), TAIL_LINES)
    except Unusable:
        return []


def _is_lost(folder: Path, runs: Sequence[Run], log: str) -> bool:
    """Return whether the log of one of these runs now holds another run."""
    return any(run.log == log and is_overwritten(folder, _artifact(folder), run) for run in runs)


def _artifact(folder: Path) -> str | None:
    """Return the path of the baseline's log, or None if the protocol cannot be read."""
    try:
        return load_protocol(folder).provenance.baseline_artifact_path
    except AutoresearchError:
        return None


def sessions(folder: Path) -> list[dict[str, Any]]:
    """Return one entry per session, the most recent first. A damaged journal gives an entry with its error."""
    paths = sorted(
        (state_folder(folder) / "sessions").glob("*/journal.jsonl"),
        key=lambda path: path.lstat().st_mtime,
        reverse=True,
    )
    find_session(folder, None)
    holder = lock.holder(state_folder(folder))
    return [_session(path, holder is not None and holder.tag == path.parent.name) for path in paths]


def load(folder: Path, tag: str | None) -> tuple[str, State]:
    """Return a session's tag and state.

    Raises:
        PreconditionError: the session does not exist, or ended before its first event.
    """
    tag = find_session(folder, tag)
    return tag, begun(folder, tag)


def find(state: State, tag: str, which: str) -> Experiment | Pending:
    """Find an experiment by number (`12`, `#12`), by the beginning of its hash, or as `best` or `baseline`.

    Raises:
        PreconditionError: the session has no such experiment.
        UsageError: a hash is ambiguous, or the name has none of these forms.
    """
    everything: list[Experiment | Pending] = [*state.experiments, *([state.pending] if state.pending else [])]
    has = f"the session has {_numbers(everything)}"
    if (found := experiment_named(state, which)) is not None:
        return found
    if which in ("best", "baseline"):
        raise PreconditionError(f"session {tag} has no {which} yet")
    if is_number(which):
        raise PreconditionError(f"experiment #{which.removeprefix('#')[:20]} not found in session {tag}", hint=has)
    if len(which) < SHORTEST_HASH or not set(which.lower()) <= set("0123456789abcdef"):
        raise UsageError(
            f"unknown experiment {which[:80]!r}",
            hint=f"give its number, {SHORTEST_HASH} or more digits of its hash, `best` or `baseline`",
        )
    fitting = [each for each in everything if (each.commit or "").startswith(which.lower())]
    # A repeated proposal may share its commit with an earlier experiment; the first was measured.
    if len({each.commit for each in fitting}) > 1:
        numbers = ", ".join(f"#{each.number}" for each in fitting)
        raise UsageError(f"hash {which} is ambiguous: it matches {numbers}", hint="give more digits, or the number")
    if not fitting:
        raise PreconditionError(
            f"no experiment with hash {which[:80]} in session {tag}",
            hint=f"{has}; choose another session with `--tag`",
        )
    return fitting[0]


def is_number(which: str) -> bool:
    """Return whether a name can only be the number of an experiment: longer digits may begin a hash."""
    digits = which.removeprefix("#")
    return digits.isdecimal() and (which.startswith("#") or len(digits) < SHORTEST_HASH)


def _numbers(everything: Sequence[Experiment | Pending]) -> str:
    return f"#0 to #{len(everything) - 1}" if len(everything) > 1 else "only #0" if everything else "none yet"


def _effect(state: State, found: Experiment | Pending) -> dict[str, Any]:
    """Return the measured effect of an experiment.

    `value` is the mean that the verdict used, `gain` the gain over the incumbent of its time (`compared_with`), and
    `estimate` the best estimate of the metric, see `decision.estimate`.
    """
    if isinstance(found, Pending):
        if found.commit is None or found.verdict is None:
            best = state.incumbent
            before = {"number": best.number, "value": estimate(best)} if best else None
            return {"value": None, "estimate": None, "compared_with": before, "gain": None, "outcome": None}
        found = found.experiment
    came = outcome(state, found)
    return {
        "value": came.value,
        "estimate": estimate_of(state, found),
        "compared_with": {"number": came.incumbent, "value": came.against} if came.incumbent is not None else None,
        "gain": came.gain,
        "outcome": asdict(came),
    }


def _latest(folder: Path, state: State) -> Experiment | Pending | None:
    """Return the experiment that runs, or the latest one."""
    compared = (each for each in state.experiments if state.comparison and _current(folder, state, each))
    return next(compared, state.pending or (state.experiments[-1] if state.experiments else None))


def _runs(state: State, found: Experiment | Pending) -> list[tuple[str, Run]]:
    """Return the runs of an experiment, each with its kind.

    That is `screen` with a shorter training, `measured` before the verdict, and `fresh` after it: a repeat for the
    verdict on a later experiment, beside which it ran. Those of its commit in a comparison have what that is for.
    """
    fresh = (*found.heldout_runs, *state.flight.kept.get(found.number, ())) if isinstance(found, Experiment) else ()
    return [
        *(("screen", each.run) for each in found.screens),
        *(("measured", run) for run in found.runs),
        *(("fresh", run) for run in fresh),
        *((comparison.doing, run) for comparison, run in state.runs_in_comparisons(found.commit)),
    ]


def _change(folder: Path, found: Experiment | Pending) -> str | None:
    """Return the diff of an experiment, or None if git or protocol.json cannot be read: the rest is still shown."""
    if found.commit is None:
        return None
    try:
        workspace = Workspace(folder, load_protocol(folder))
        return _change_in(workspace, found)
    except AutoresearchError:
        return None


def _change_in(workspace: Workspace, found: Experiment | Pending) -> str:
    """Return the diff to the parent commit, which a candidate was made from; empty for the baseline."""
    assert found.commit is not None
    return workspace.diff(f"{found.commit}^", found.commit) if found.number > 0 else ""


def _is_written(folder: Path, path: Path) -> bool:
    """Return whether a running loop is writing this log."""
    holder = lock.holder(state_folder(folder))
    if holder is None:
        return False
    state = fold(journal_path(folder, holder.tag))
    started = [each.started for each in (state.pending, state.comparison) if each and each.started]
    return any(each["log"] == str(path) for each in started)


def _status(folder: Path, tag: str, found: Experiment | Pending) -> str:
    """Return the verdict in a word, or whether a process is measuring the experiment."""
    if found.verdict is not None:
        return found.verdict.status
    holder = lock.holder(state_folder(folder))
    return "under way" if holder is not None and holder.tag == tag else "interrupted"


def _session(path: Path, running: bool) -> dict[str, Any]:
    tag = path.parent.name
    try:
        state = fold(path)
    except AutoresearchError as error:
        return {"tag": tag, "error": str(error), "running": running, "last_activity": path.lstat().st_mtime}
    session, best, stands = state.session, state.incumbent, standing(state)
    return {
        "tag": tag,
        "error": None if session else "it ended before its first event",
        "branch": session["branch"] if session else None,
        "metric": session["metric"] if session else None,
        "experiments": max(0, len(state.experiments) - 1),
        "baseline": stands.baseline,
        "best": stands.best,
        "best_number": best.number if best else None,
        "best_commit": best.commit if best else None,
        "gain": stands.apparent,
        "confirmed_gain": stands.confirmed,
        "heldout_gain": stands.heldout,
        "gain_is": stands.word,
        "verdict": stands.verdict,
        # A copy of the workspace or a restored backup changes the time of the file.
        "last_activity": state.latest_at or path.lstat().st_mtime,
        "running": running,
        "ended": state.ended,
    }
