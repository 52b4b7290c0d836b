"""Open the workspace exclusively, and prepare what its runs need."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.decision.limits import Limits, noted
from agent.execution import evaluation, fingerprint, holdout
from agent.execution.measure import Runner
from agent.execution.setup import set_up
from agent.format import one_line
from agent.journal import lock
from agent.journal.paths import require_own_state, state_folder
from agent.protocol.load import load_protocol, require_runnable
from agent.repository.checkout import Checkout
from agent.repository.workspace import Workspace
from agent.room import room
from agent.room.sandbox import Mode, choose_sandbox, temporary_folder


@contextlib.contextmanager
def open_runner(
    folder: Path, tag: str, training_seconds: float | None, sandbox: Mode, limits: Limits | None = None
) -> Iterator[Runner]:
    """Lock the workspace and yield a runner.

    Args:
        training_seconds: the training budget; None for the protocol's.
        limits: the limits of the session about to start or resume; None without a session.
    """
    protocol = load_protocol(folder)
    require_runnable(protocol)
    workspace = Workspace(folder, protocol)
    workspace.git.require_recent()
    workspace.git.require_writable()
    require_own_state(workspace.folder)
    ends = None if limits is None else noted(limits.within(protocol), time.time())
    confined = choose_sandbox(sandbox, protocol.environment.constraints)
    with lock.hold(state_folder(workspace.folder), tag, ends):
        Checkout(workspace).exclude([".autoresearch/", "run.log"])
        yield Runner(protocol, workspace, training_seconds or protocol.training_seconds, confined)


@contextlib.contextmanager
def prepared(
    runner: Runner,
    *,
    setup: bool,
    commit: str | None = None,
    untraced: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Runner]:
    """Run the setup commands if necessary, and yield a runner with the files its runs may read and an evaluator.

    Args:
        setup: run the setup commands if they are due.
        commit: the commit that provides the harness; None for HEAD.
        untraced: accept runs whose model cannot be traced.
        tick: called several times a second during the setup commands. If it raises, they are ended.
    """
    folder, protocol = runner.workspace.folder, runner.protocol
    if setup:
        set_up(runner, state_folder(folder), lambda line: print(one_line(line), file=sys.stderr, flush=True), tick)
    commit = commit or runner.workspace.head
    untracked = room.untracked_files(runner.workspace)
    for name in untracked.kept_back:
        runner.say(f"{name} may contain keys or lead to some, so it is hidden from runs")
    for name in untracked.links:
        what = (
            "runs can follow it, because the sandbox is off" if runner.sandbox.way is None else "runs cannot follow it"
        )
        runner.say(f"{name} may lead to keys: {what}")
    with contextlib.ExitStack() as stack:
        harness = None
        snapshot, paths = fingerprint.snapshot_folder(protocol), protocol.immutable_harness.paths
        where = evaluation.find_evaluator(runner.workspace, commit, paths) if snapshot else None
        if snapshot is not None and where is not None:
            copy = stack.enter_context(temporary_folder(state_folder(folder) / "harness"))
            inside = runner.workspace.export(copy, commit)
            harness_folder, script = where
            able = holdout.can_score(runner.workspace, commit, str(Path(harness_folder) / script))
            apart = holdout.holdout_folder(snapshot) if able else None
            record = fingerprint.snapshot(protocol)
            harness = evaluation.Harness(inside / harness_folder, script, snapshot, record, untraced, apart)
        yield dataclasses.replace(runner, untracked=untracked, harness=harness)
