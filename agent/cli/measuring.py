"""Commands that measure outside the loop: `confirm`, `ablate` and `baseline`."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json, SandboxMode, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options


@command(RESEARCH, "confirm", measures=True)
def confirm_(
    a: Annotated[str | None, typer.Argument(metavar="A", help="Number or commit; by default the baseline.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="Number or commit; by default the best.")] = None,
    runs: Annotated[int, typer.Option(min=2, metavar="RUNS", help="Held-out runs of each.")] = 3,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Confirm the gain of the best over the baseline.

    Runs baseline and best alternately, so that changes of the machine affect both alike, and prints the gain with its
    interval. These held-out runs did not help to choose the best, so the gain is unbiased. With A alone it compares A
    with the baseline, with A and B it compares these two. Runs are journalled: after Ctrl-C, the same command resumes.

    Use it before you rely on a gain that is still provisional.

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
            help="Held-out runs of the best, and of the best without each change.",
        ),
    ] = 2,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Find kept changes that no longer help.

    Runs the best, and the best without each of its kept changes, RUNS times each, and makes a commit of the recipe
    without the changes that no longer help. The branch does not change.

    Use it at the end of a long session, before you take the result home.

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
    """Measure the current recipe on this machine and data.

    Writes .autoresearch/create/baseline_run.log, and next to it the metric with the conditions that it is valid for.
    `run` measures a baseline itself unless a valid one is stored; this command always measures a new one.

    \b
    Examples:
      autoresearch baseline
      autoresearch baseline --training-seconds 30 --json

    Exits with code 1 if the command fails or prints no metric, 3 if there are uncommitted changes.
    """
    from agent.cli.launch import baseline as launch

    data = launch(Options.folder, training_seconds, setup, sandbox)
    answer(as_json, "baseline", data, [f"{data['metric']}  {data['value']:.6f}", f"log  {data['log']}"])
    return 0
