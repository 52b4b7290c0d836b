"""Commands that measure outside the loop: `confirm`, `ablate` and `baseline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Holdout, Json, SandboxMode, SessionSandbox, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options
from agent.errors import UsageError


@dataclass(frozen=True)
class PairFlags:
    """Flags of the runs of `confirm`."""

    runs: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Held-out runs of each side. Default: --seeds, or 3.")
    ] = None
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Seeds among these runs; 1 keeps the recipe's own. Default: one for each pair."
        ),
    ] = None
    holdout: Holdout = None


@command(RESEARCH, "confirm", measures=True)
def confirm_(
    pairs: PairFlags,
    a: Annotated[str | None, typer.Argument(metavar="A", help="Number, hash, branch, `best` or `baseline`.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="The same; B's gain over A is printed.")] = None,
    tag: Tag = None,
    sandbox: SessionSandbox = None,
    as_json: Json = False,
) -> int:
    """Re-measure the best experiment against the baseline.

    Runs the baseline and the best alternately, so that slowdowns of the machine affect both equally, and prints the
    gain with its 95 % interval: confirmed, not confirmed, or refuted. These are held-out runs: none of them was used to
    choose the best. Use it before you rely on a provisional gain.

    Both runs of a pair have the same seed, set as SEED in their copies, and each pair another one, so that the gain is
    that of the recipe and not of one seed. Where the data has a holdout, which no run and no verdict has seen, the gain
    must show there as well.

    With A alone, prints A's gain over the baseline. With A and B, prints B's gain over A. The runs are recorded: after
    Ctrl-C, the same command resumes.

    \b
    Examples:
      autoresearch confirm
      autoresearch confirm 12 best --seeds 5
      autoresearch confirm 1a2b3c4 HEAD
    """
    from agent.cli.afterwards import compared
    from agent.session.confirm import RUNS, Pairs, confirm, confirm_lines, sides

    count, seeds = pairs.runs or max(2, pairs.seeds or RUNS), pairs.seeds
    if seeds is not None and seeds > count:
        raise UsageError(f"--seeds must be at most --runs, got {seeds} and {count}", hint="raise --runs")
    wanted = Pairs(count, seeds, pairs.holdout)
    data = compared(
        Options.folder,
        tag,
        sandbox,
        lambda bench: confirm(bench, sides(bench.runner, bench.journal.state, a, b), wanted),
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
    sandbox: SessionSandbox = None,
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
