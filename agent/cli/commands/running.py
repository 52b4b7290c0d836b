"""`run` starts or resumes a session, `stop` ends it."""

from __future__ import annotations

from pathlib import Path

import typer

from agent.cli.command import again, command, defaults
from agent.cli.program import RESEARCH, Options
from agent.cli.run_config import config_of
from agent.cli.run_flags import EndFlags, MeasureFlags, ProposerFlags, RunFlags, SessionFlags, TellFlags
from agent.format import one_line
from agent.system.background import answering, log_of, start
from agent.system.invocation import here, typed


@command(RESEARCH, measures=True, envelope=False)
def run(
    context: typer.Context,
    session: SessionFlags,
    end: EndFlags,
    who: ProposerFlags,
    measure: MeasureFlags,
    output: TellFlags,
) -> int:
    """Start or resume a session.

    Switches your checkout to the branch autoresearch/TAG and repeats until a limit or Ctrl-C: a proposer edits the
    mutable files, the edit is committed as a candidate, the command of protocol.json runs in a copy of that commit, its
    metric is read, and results.tsv gets a row. The branch records every row, but only the candidates that are kept.
    Never prompts, and refuses to start if there are uncommitted changes.

    The first Ctrl-C finishes the current experiment, the second stops at once. After Ctrl-C, a crash or a reboot, the
    same command resumes the session where it stopped; an interrupted run is repeated. With --at-login this happens by
    itself at your next login after a reboot. With --detach it leaves the terminal and goes on when that is closed.

    A resumed session remembers --seed, --fresh, --at-login and the flags under "Proposer", "Runs and verdict" and
    "Stations", except `--no-keep-awake`. Pass a flag again to change it, or `inf` to lift a cap, as in `--max-cost
    inf`. The flags under "End of the session" are not remembered: pass them at every start.

    A new session learns from other sessions of the workspace with the same data and harness, unless --fresh is given.
    With --from it starts at the best of one. With --stations or --scheduler, candidates run on several stations.

    \b
    Examples:
      autoresearch run --tag mar5 --until 07:00
      autoresearch run --tag quick --training-seconds 30 --max-experiments 5
      autoresearch run --tag mar6 --model anthropic:claude-sonnet-4-5 --max-cost 5
      autoresearch run --tag mar7 --agent claude --share 0.5
      autoresearch run --tag mar8 --from mar7 --stations 4

    \b
    Writes:
      results.tsv                    one row per experiment, on the branch
      .autoresearch/sessions/TAG/    journal, proposals, logs, report
      refs/autoresearch/TAG/N        the commit of each experiment

    \b
    Exit codes:
      0    a limit is reached, `autoresearch stop` was called, or nothing is
           left to propose
      1    the session failed
      2    invalid flags or protocol.json
      3    uncommitted changes, another session running, missing data, or
           machine, data or protocol differ from the start of the session
      4    the GPU keeps failing; the same command continues
      129  the terminal was closed
      130  Ctrl-C
      143  SIGTERM
    """
    from agent.cli.launch import run as launch

    flags, folder = RunFlags(session, end, who, measure, output), Options.folder.resolve()
    if session.detach and not session.dry_run:
        return _detached(context, folder, flags)
    with answering() as tell:
        return launch(Options.folder, config_of(folder, flags, defaults(context)), lambda: tell({}))


def _detached(context: typer.Context, folder: Path, flags: RunFlags) -> int:
    """Start the session in the background, and print how to follow and to end it."""
    from agent.cli.launch import require_tag
    from agent.journal.paths import journal_path

    tag = flags.session.tag
    require_tag(tag)
    config_of(folder, flags, defaults(context))  # invalid flags are refused before a log is made
    log = log_of(journal_path(folder, tag).parent)
    pid, _ = start(again(context, "detach"), log)
    print(f"session   {one_line(tag)} runs in the background as process {pid}")
    print(f"log       {one_line(here(log))}")
    print(f"follow    {typed('status --follow')}")
    print(f"stop      {typed('stop')}")
    return 0


@command(RESEARCH)
def stop() -> int:
    """Stop the running session after its current experiment.

    Does the same as one Ctrl-C in the terminal of `run`, except that `run` exits with 0. Returns at once. A workspace
    has at most one running session.

    \b
    Examples:
      autoresearch stop
      autoresearch -C ../recipe stop

    Exits with code 3 if no loop is running, while its setup commands run, and during `baseline`, `field`, `verify` and
    `doctor --repair`, which do not end after a run.
    """
    from agent.report.status import request_stop

    print(one_line(request_stop(Options.folder.resolve())))
    return 0
