"""Commands that measure outside the loop: `confirm`, `ablate` and `baseline`."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json, SandboxMode, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options


@command(RESEARCH, "confirm", measures=True)
def confirm_(
    a: Annotated[str | None, typer.Argument(metavar="A", help="Number, hash, branch, `best` or `baseline`.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="The same; B's gain over A is printed.")] = None,
    runs: Annotated[int, typer.Option(min=2, metavar="N", help="Held-out runs of each side.")] = 3,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Re-measure the best experiment against the baseline.

    Runs the baseline and the best alternately, so that slowdowns of the machine affect both equally, and prints the
    gain with its 95 % interval: confirmed, not confirmed, or refuted. These are held-out runs: none of them was used to
    choose the best. Use it before you rely on a provisional gain.

    With A alone, prints A's gain over the baseline. With A and B, prints B's gain over A. The runs are recorded: after
    Ctrl-C, the same command resumes.

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
            metavar="N",
            help="Held-out runs of the best, and of the best without each change.",
        ),
    ] = 2,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Find kept changes that no longer help.

    Runs the best, and the best without each of its kept changes, N times each. Then measures the best without all
    changes that no longer help, and prints the commit of this smaller recipe if it is not shown to be worse. The branch
    does not change. Use it at the end of a long session, before you apply the result to your branch.

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

    Writes .autoresearch/create/baseline_run.log, and next to it the metric and the conditions under which it is valid.
    `run` measures a baseline itself unless a valid one is stored; this command always measures a new one.

    \b
    Examples:
      autoresearch baseline
      autoresearch baseline --training-seconds 30 --json

    Exits with code 1 if the command fails or prints no metric, 3 if there are uncommitted changes, 4 if the GPU fails
    again and again.
    """
    from agent.cli.launch import baseline as launch

    data = launch(Options.folder, training_seconds, setup, sandbox)
    answer(as_json, "baseline", data, [f"{data['metric']}  {data['value']:.6f}", f"log  {data['log']}"])
    return 0
