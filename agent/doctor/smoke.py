"""Train for two seconds in a room, to check that runs can succeed on this machine."""

from __future__ import annotations

from pathlib import Path

from agent.doctor.check import Check
from agent.errors import AutoresearchError, in_one_line
from agent.execution.measure import Runner, measure
from agent.format import duration
from agent.protocol.models import Protocol
from agent.repository.workspace import Workspace
from agent.room.sandbox import choose_sandbox
from agent.session.opening import prepared
from agent.system import temporary
from agent.system.files import last_lines

TRAINING_SECONDS = 2
# Compilation and evaluation are not part of the training time, and take as long as in a real run.
LONGEST_SECONDS = 300.0


def check(workspace: Workspace, protocol: Protocol) -> Check:
    """Measure the committed files with a short budget. Leaves no trace in branches, results and journals."""
    command = protocol.execution.command
    manual = f"AUTORESEARCH_TRAINING_SECONDS={TRAINING_SECONDS} {command}"
    runner = Runner(
        protocol.with_limit(min(LONGEST_SECONDS, protocol.execution.hard_timeout_seconds)),
        workspace,
        TRAINING_SECONDS,
        choose_sandbox("auto", protocol.environment.constraints),
        patient=True,
        linked=False,
    )
    with temporary.folder("autoresearch-smoke-") as name, prepared(runner, setup=False) as ready:
        log = Path(name) / "run.log"
        try:
            run = measure(ready, workspace.head, log)
        except AutoresearchError as error:
            return Check("smoke", "broken", f"two seconds of training failed: {in_one_line(error)}", manual)
        if run.metric is None:
            last = " | ".join(last_lines(log, 2))
            return Check("smoke", "broken", f"two seconds of training failed: {run.error}: {last}", manual)
        took = duration(run.seconds)
        return Check(
            "smoke", "ok", f"{protocol.metric.name} {run.metric:.4f} after two seconds of training, {took} in total"
        )
