"""Two seconds of training in a copy of what is committed: whether a run can work at all on this machine."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from pathlib import Path

from agent import fingerprint, runner
from agent.check import Check
from agent.drycheck import SCRIPT, program
from agent.errors import ExperimentError
from agent.measure import last_lines
from agent.metrics import extract
from agent.protocol import Protocol
from agent.sandbox import choose
from agent.views.text import duration
from agent.workspace import Workspace

TRAINING_SECONDS = 2
# Compilation and evaluation come on top of the training, and take as long as in a real run.
LONGEST_SECONDS = 300.0


def worthwhile(rules: Protocol) -> bool:
    """Whether the command is a recipe on MLX that keeps to a budget, with data prepared for it."""
    script = SCRIPT.fullmatch(rules.execution.command)
    recipe = script is not None and Path(script["script"]).name == "train.py"
    return recipe and rules.training_seconds is not None and bool(fingerprint.snapshot_folder(rules))


def check(workspace: Workspace, rules: Protocol) -> Check:
    """Run it in the sandbox, in a copy that is thrown away: no branch, no results and no journal know of it."""
    command, started = rules.execution.command, program(rules, workspace.folder)
    by_hand = f"AUTORESEARCH_TRAINING_SECONDS={TRAINING_SECONDS} {command}"
    if started is not None:
        start, script = started
        command = shlex.join([*start, script])
    sandbox = choose("auto", rules.environment.constraints)
    with tempfile.TemporaryDirectory(prefix="autoresearch-smoke-", ignore_cleanup_errors=True) as name:
        folder, temporary, log = workspace.export(Path(name) / "copy"), Path(name) / "temporary", Path(name) / "log"
        temporary.mkdir()
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "AUTORESEARCH_TRAINING_SECONDS": str(TRAINING_SECONDS)}
        since = time.time()
        ended = runner.run(
            sandbox.command(command, folder, temporary, [workspace.folder]),
            cwd=folder / rules.execution.cwd,
            log=log,
            limit=min(LONGEST_SECONDS, rules.execution.hard_timeout_seconds),
            env=sandbox.environment(env, temporary),
            started=lambda _: None,
            tick=lambda _: None,
        )
        last = " | ".join(last_lines(log, 2))
        if ended.stopped is not None or ended.returncode != 0:
            how = ended.stopped or f"ended with exit code {ended.returncode}"
            return Check("smoke", "broken", f"two seconds of training {how}: {last}", by_hand)
        try:
            text = log.read_text(errors="replace")
            value = extract(rules.metric, text, folder / rules.execution.cwd, since)
        except ExperimentError as error:
            return Check("smoke", "broken", f"two seconds of training gave no metric: {error}", by_hand)
        took = duration(ended.seconds)
        return Check("smoke", "ok", f"{rules.metric.name} {value:.4f} after two seconds of training, {took} in all")
