"""Commands that measure outside the loop: `confirm`, `ablate`, `promote` and `baseline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command import answer, command
from agent.cli.options import Holdout, Json, SandboxMode, SessionSandbox, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options
from agent.errors import UsageError
from agent.format import figure

if TYPE_CHECKING:
    from agent.comparison.pairs import Pairs


MOST_RUNS = 1000  # of a side: the journal has the seeds of all of them in one line


@dataclass(frozen=True)
class PairFlags:
    """Flags of the runs of `confirm` and `promote`."""

    runs: Annotated[
        int | None,
        typer.Option(min=2, max=MOST_RUNS, metavar="N", help="Held-out runs of each side. Default: --seeds, or 3."),
    ] = None
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_RUNS,
            metavar="N",
            help="Seeds among these runs; 1 keeps the recipe's own. Default: one for each pair.",
        ),
    ] = None
    holdout: Holdout = None


def pairs_of(flags: PairFlags) -> Pairs:
    """Return the pairs of runs that flags ask for.

    Raises:
        UsageError: there are more seeds than runs.
    """
    from agent.comparison.pairs import Pairs
    from agent.decision.schedule import RUNS

    count, seeds = flags.runs or max(2, flags.seeds or RUNS), flags.seeds
    if seeds is not None and seeds > count:
        raise UsageError(f"--seeds must be at most --runs, got {seeds} and {count}", hint="raise --runs")
    return Pairs(count, seeds, flags.holdout)


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
    that of the recipe and not of one seed. If the data has a holdout, which no run and no verdict has seen, the gain
    must show there as well.

    With A alone, prints A's gain over the baseline. With A and B, prints B's gain over A. The runs are recorded: after
    Ctrl-C, the same command resumes.

    \b
    Examples:
      autoresearch confirm
      autoresearch confirm 12 best --seeds 5
      autoresearch confirm 1a2b3c4 HEAD

    Exits with code 2 if a commit is unknown, 3 if nothing was kept, 4 if the GPU keeps failing.
    """
    from agent.cli.afterwards import compared
    from agent.comparison.confirm import confirm, sides
    from agent.report.confirmation import confirm_lines

    wanted = pairs_of(pairs)
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
            max=MOST_RUNS,
            metavar="N",
            help="Held-out runs of the best, and of the best without each change.",
        ),
    ] = 2,
    tag: Tag = None,
    sandbox: SessionSandbox = None,
    as_json: Json = False,
) -> int:
    """Find kept changes that no longer help.

    Runs the best, and the best without each of its kept changes, alternately, --runs times each. Then measures the best
    without all changes that no longer help, and prints the commit of this smaller recipe if it is not shown to be
    worse. The branch does not change. Use it at the end of a long session, before you adopt the changes.

    \b
    Examples:
      autoresearch ablate
      autoresearch ablate --runs 3 --tag mar5

    Exits with code 3 if the session kept nothing, 4 if the GPU keeps failing.
    """
    from agent.cli.afterwards import compared
    from agent.comparison.ablate import ablate, ablate_lines

    data = compared(
        Options.folder,
        tag,
        sandbox,
        lambda bench: ablate(bench, runs),
        quiet=as_json,
    )
    answer(as_json, "ablate", data, ablate_lines(data))
    return 0


@dataclass(frozen=True)
class RungFlags:
    """Flags that say where `promote` judges."""

    training_seconds: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Training time of a run; by default that of the session."),
    ] = None
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set a constant of the recipe on both sides; repeat it for several."
        ),
    ] = None


@command(RESEARCH, measures=True)
def promote(
    rung: RungFlags,
    pairs: PairFlags,
    each: Annotated[
        bool | None,
        typer.Option(
            "--each/--no-each",
            help="Judge each kept change. Default: only if the changes as a whole are not shown to transfer.",
            show_default=False,
        ),
    ] = None,
    tag: Tag = None,
    sandbox: SessionSandbox = None,
    as_json: Json = False,
) -> int:
    """Judge the kept changes with longer training, or elsewhere.

    A rung is a training time, a size or a machine at which a change was judged. Runs baseline and best alternately at
    another one, as `confirm` does: with more training (--training-seconds, and the hard limit grows with it), with
    constants of the recipe set on both sides (--set), or a session from another machine on this one. Prints whether
    the gain transfers, with its 95 % interval.

    If it is not shown to transfer, also runs the best without each kept change, prints a verdict for each, and measures
    the best without those that do not transfer. If that transfers, `adopt --promoted` takes it.

    Prints first how long it takes at most. The runs are recorded: after Ctrl-C, the same command resumes. Branch,
    checkout and results.tsv do not change.

    \b
    Examples:
      autoresearch promote --training-seconds 1800
      autoresearch promote --training-seconds 900 --set DEPTH=8 --each
      autoresearch promote --tag mar5 --runs 5

    Exits with code 2 if a constant is unknown, has another type or breaks an assert, 3 if the session kept nothing.
    """
    from agent.cli.afterwards import Elsewhere, compared
    from agent.promote.promote import Wish, promote
    from agent.report.promotion import promotion_lines

    wish = Wish(rung.values or (), pairs_of(pairs), each)
    data = compared(
        Options.folder,
        tag,
        sandbox,
        lambda bench: promote(bench, wish),
        quiet=as_json,
        elsewhere=Elsewhere(rung.training_seconds),
    )
    answer(as_json, "promote", data, promotion_lines(data))
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
    answer(as_json, "baseline", data, [f"{data['metric']}  {figure(data['value'])}", f"log  {data['log']}"])
    return 0
