"""The loop itself: begin a session or go on with it, and ask it to end."""

from __future__ import annotations

import typer

from agent.cli.command import command
from agent.cli.program import RESEARCH, Options
from agent.cli.run_flags import EndFlags, MeasureFlags, ProposerFlags, RunFlags, SessionFlags, TellFlags, config_of
from agent.format import one_line


@command(RESEARCH, measures=True, envelope=False)
def run(
    context: typer.Context,
    session: SessionFlags,
    end: EndFlags,
    who: ProposerFlags,
    measure: MeasureFlags,
    tell: TellFlags,
) -> int:
    """Start a session, or go on with it.

    Takes the branch autoresearch/TAG and repeats until a limit is reached or Ctrl-C: a proposer edits the files that
    may change, the protocol's command runs, its metric is read, the change is kept or reverted, and results.tsv gets
    a row. Asks nothing, and refuses to start on a tree with uncommitted changes.

    A session keeps its flags, but for when to end: to go on, its tag is enough, and what you give anew holds from then
    on. A limit is taken back with inf, as in --max-cost inf.

    The first Ctrl-C finishes the experiment under way, a second one stops at once. After either, after a crash and
    after a reboot the same command goes on where it was.

    \b
    Examples:
      autoresearch run --tag mar5 --until 07:00
      autoresearch run --tag try --training-seconds 30 --max-experiments 5
      autoresearch run --tag mar6 --model anthropic:claude-sonnet-4-5 --max-cost 5
      autoresearch run --tag mar7 --agent claude --share 0.5

    \b
    Writes:
      results.tsv                    a row for each experiment, on the branch
      .autoresearch/sessions/TAG/    journal, proposals, logs, report
      refs/autoresearch/TAG/N        the commit of each experiment

    \b
    Exit codes:
      0    a limit is reached, or `autoresearch stop`
      1    something failed that concerns the whole session
      2    wrong flags, or protocol.json is not valid
      3    a changed tree, another loop, missing data, other conditions
      129, 130, 143   a closed terminal, Ctrl-C, SIGTERM
    """
    from agent.cli.launch import run as launch

    flags = RunFlags(session, end, who, measure, tell)
    return launch(Options.folder, config_of(Options.folder.resolve(), flags, _defaults(context)))


@command(RESEARCH)
def stop() -> int:
    """Ask the running loop to finish its experiment and end.

    As Ctrl-C in its terminal, from any other. Returns at once.

    \b
    Examples:
      autoresearch stop
      autoresearch -C ../recipe stop

    Exit code 3 where no loop runs.
    """
    from agent.report.status import request_stop

    print(one_line(request_stop(Options.folder.resolve())))
    return 0


def _defaults(context: typer.Context) -> set[str]:
    """The names of the options that nobody gave, on the command line or in a variable."""
    found = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in found.items() if source is not None and source.name.startswith("DEFAULT")}
