"""Runs outside the loop: a baseline, the best against it afresh, the best without each of its changes."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json, SandboxMode, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options


@command(RESEARCH, "confirm", measures=True)
def confirm_(
    a: Annotated[str | None, typer.Argument(metavar="A", help="A number or a commit; without it the baseline.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="A number or a commit; without it the best.")] = None,
    runs: Annotated[int, typer.Option(min=2, metavar="RUNS", help="Fresh runs of each.")] = 3,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Compare baseline and best by fresh runs: how large, how sure.

    Runs both in turn, so that the machine's moods fall on both, and says the gain with its interval. These runs chose
    nothing, so the gain is not optimistic. Given one commit it is compared with the baseline, given two with each
    other. What was run is journalled: Ctrl-C ends it, and the same command goes on.

    \b
    Examples:
      autoresearch confirm
      autoresearch confirm 12 best --runs 5
      autoresearch confirm 1a2b3c4 HEAD
    """
    from agent.cli.afterwards import compared
    from agent.session.confirm import confirm, confirm_lines, sides

    data = compared(
        Options.folder,
        tag,
        sandbox,
        lambda bench: confirm(bench, sides(bench.runner, bench.journal.state, a, b), runs),
        quiet=as_json,
    )
    answer(as_json, "confirm", data, confirm_lines(data))
    return 0


@command(RESEARCH, measures=True)
def ablate(
    runs: Annotated[
        int,
        typer.Option(
            min=2,
            metavar="RUNS",
            help="Fresh runs of the best, and of it without each change.",
        ),
    ] = 2,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Say which kept changes still pay for themselves.

    Runs the best, and the best without each of its kept changes, RUNS times each, and offers the recipe without those
    that no longer help, as a commit. The branch is left as it is.

    \b
    Examples:
      autoresearch ablate
      autoresearch ablate --runs 3 --tag mar5
    """
    from agent.cli.afterwards import compared
    from agent.session.ablate import ablate, ablate_lines

    data = compared(
        Options.folder,
        tag,
        sandbox,
        lambda bench: ablate(bench, runs),
        quiet=as_json,
    )
    answer(as_json, "ablate", data, ablate_lines(data))
    return 0


@command(RESEARCH, measures=True)
def baseline(
    training_seconds: TrainingSeconds = None, setup: Setup = True, sandbox: SandboxMode = "auto", as_json: Json = False
) -> int:
    """Measure the recipe as it is, on this machine and this data.

    `run` does this by itself where no valid baseline is kept; this makes a fresh one. Writes
    .autoresearch/create/baseline_run.log, and beside it the value and the conditions it holds for.

    \b
    Examples:
      autoresearch baseline
      autoresearch baseline --training-seconds 30 --json

    Exit code 1 where the command fails or prints no metric, 3 where the tree has uncommitted changes.
    """
    from agent.cli.launch import baseline as launch

    data = launch(Options.folder, training_seconds, setup, sandbox)
    answer(as_json, "baseline", data, [f"{data['metric']}  {data['value']:.6f}", f"log  {data['log']}"])
    return 0
