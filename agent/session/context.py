"""Build the context for a proposer: copies and callbacks, never the workspace itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from agent.execution.fingerprint import snapshot
from agent.execution.measure import Runner
from agent.execution.preflight import why_not
from agent.format import ends, one_line
from agent.journal.experiment import Experiment, Value
from agent.playbook.entries import read_book
from agent.proposers.base import Context, Flying, WorkspaceView
from agent.proposers.earlier import Earlier
from agent.protocol.models import Protocol
from agent.room.room import is_installed
from agent.source.training_budget import Known, TrainingLimits
from agent.system.files import read_text, reason
from agent.system.names import PROGRAM, linked_part

LONGEST_PROGRAM = 20_000
LARGEST_PROGRAM = 2**24  # bytes


def context_of(
    runner: Runner,
    *,
    files: Mapping[str, str],
    number: int,
    seed: int,
    incumbent: Experiment,
    history: tuple[Experiment, ...],
    fingerprint: Mapping[str, Any],
    folder: Path,
    tick: Callable[[], None],
    earlier: tuple[Earlier, ...] = (),
    flight: tuple[Flying, ...] = (),
) -> Context:
    """Return the context for experiment `number`. Reads program.md and playbook.md now, so that edits affect the next.

    Many parameters because it combines data of a session, a journal and a run, which no other object combines.

    Args:
        files: all mutable files to be edited.
        fingerprint: describes the machine.
        folder: for the proposer's own files.
        tick: called regularly while the proposer works; may raise to stop it.
        earlier: experiments of other sessions to learn from.
        flight: the candidates that are being measured.
    """
    workspace, protocol = runner.workspace, runner.protocol

    def texts(experiment: Experiment) -> dict[str, str]:
        return workspace.files(experiment.commit)

    return Context(
        number=number,
        seed=seed,
        files=files,
        incumbent=incumbent,
        history=history,
        direction=protocol.metric.direction,
        constants=known_constants(protocol),
        metric=protocol.metric.name,
        rules=rules_of(protocol, runner.training_seconds),
        program=program_of(workspace.folder / PROGRAM),
        machine="\n".join(f"{key}: {value}" for key, value in fingerprint.items() if value is not None),
        workspace=WorkspaceView(
            texts=texts,
            check=lambda candidate: why_not(runner, candidate, incumbent.commit, tick),
            tick=tick,
            export=lambda folder: workspace.export(folder, incumbent.commit),
            allows=lambda path: (
                path in files
                or (_may_be_made(workspace.folder, protocol, path) and not workspace.refusal(incumbent.commit, [path]))
            ),
            merge=workspace.merge,
        ),
        folder=folder,
        earlier=earlier,
        flight=flight,
        playbook=read_book(workspace.folder).entries,
    )


def known_constants(protocol: Protocol) -> Known:
    """Return the constants that the harness defines for train.py, so that the search knows which branches are live."""
    found = snapshot(protocol)
    constants: dict[str, Value] = {key: value for key, value in found.items() if key.isupper()}
    if "profile" in found:
        constants["PROFILE"] = found["profile"]
    stop = protocol.execution.stop_condition
    count = stop.max_steps or stop.epochs if stop else None
    counted = stop is not None and stop.type in ("max_steps", "epochs")
    return Known(constants, TrainingLimits(protocol.training_seconds, count, counted))


def rules_of(protocol: Protocol, training_seconds: float | None) -> str:
    surface, budget = protocol.mutable_surface, training_seconds
    guarded = sorted({*protocol.immutable_harness.paths, *surface.forbidden_globs, "protocol.json"})
    lines = [
        protocol.meta.purpose_statement or "",
        f"- Goal: {protocol.metric.direction} {protocol.metric.name}.",
        f"- The command is `{protocol.execution.command}`"
        + (f"; it trains for {budget:g} s by its own clock" if budget else "")
        + f" and is killed after {protocol.execution.hard_timeout_seconds:g} s.",
        f"- Only files that match {', '.join(surface.allowed_globs)} may change.",
        f"- Never change, bypass or trick these files: {', '.join(guarded)}. A run that does is voided.",
        "- No new dependencies." if protocol.environment.constraints.no_new_dependencies else "",
        "- The same gain with less code is better; a tiny gain with ugly code is not worth it."
        if protocol.agent_rules.simplicity_criterion
        else "",
    ]
    return "\n".join(line for line in lines if line)


def _may_be_made(folder: Path, protocol: Protocol, path: str) -> bool:
    """Return whether a candidate may create this file. It may never replace an untracked one, which is the user's."""
    if path in (where for _, where in protocol.written) or not protocol.mutable_surface.allows(path):
        return False
    parents = PurePosixPath(path).parents
    if linked_part(folder, path) is not None or any(is_installed(folder / parent) for parent in parents):
        return False
    below_a_file = any((folder / parent).is_file() for parent in parents)
    return not below_a_file and not os.path.lexists(folder / path)


def program_of(path: Path) -> str:
    """Return the user's instructions; empty if there are none that can be read."""
    try:
        # Its middle is left out if it is long: what a user adds during the night is at its end.
        return ends(read_text(path, LARGEST_PROGRAM), LONGEST_PROGRAM)
    except OSError:
        return ""


def notes_on_program(path: Path) -> list[str]:
    """Say if a proposer does not get the user's instructions, or not all of them."""
    try:
        text = read_text(path, LARGEST_PROGRAM)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [f"{PROGRAM} is not used: {one_line(reason(error))}"]
    if len(text) <= LONGEST_PROGRAM:
        return []
    return [f"{PROGRAM} is longer than {LONGEST_PROGRAM:,} characters: its middle is not read"]
