"""Train for two seconds in a room, or run once without a budget, to check that runs can succeed on this machine."""

from __future__ import annotations

import sys
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
    """Measure the committed files with a short budget, or as they are if the protocol has none.

    Leaves no trace in branches, results and journals.
    """
    command, limit, budget = protocol.execution.command, protocol.execution.hard_timeout_seconds, None
    what, manual = "one run", command
    if protocol.training_seconds is not None:
        # Code that does not read the variable trains for as long as ever.
        limit, budget = min(limit, LONGEST_SECONDS + protocol.training_seconds), TRAINING_SECONDS
        what, manual = "two seconds of training", f"AUTORESEARCH_TRAINING_SECONDS={TRAINING_SECONDS} {command}"
    else:
        print(f"smoke: one whole run without a training budget, for up to {duration(limit)}", file=sys.stderr)
    sandbox = choose_sandbox("auto", protocol.environment.constraints)
    runner = Runner(protocol.with_limit(limit), workspace, budget, sandbox, patient=True, linked=False)
    with temporary.folder("autoresearch-smoke-") as name, prepared(runner, setup=False) as ready:
        log = Path(name) / "run.log"
        try:
            run = measure(ready, workspace.head, log)
        except AutoresearchError as error:
            return Check("smoke", "broken", f"{what} failed: {in_one_line(error)}", manual)
        if run.metric is None:
            last = " | ".join(last_lines(log, 2))
            return Check("smoke", "broken", f"{what} failed: {run.error}: {last}", manual)
        took = duration(run.seconds)
        return Check("smoke", "ok", f"{protocol.metric.name} {run.metric:.4f} after {what}, {took} in total")
