"""Looking at sessions: all of these read the journal, and none disturbs a loop that runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.options import Json, Tag
from agent.cli.program import LOOK, Options
from agent.errors import UsageError
from agent.format import block
from agent.system.files import read_end

LARGEST_LOG = 2**27  # bytes, from its end


@command(LOOK, reads=True)
def status(
    tag: Tag = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the loop ends.")] = False,
    rows: Annotated[int, typer.Option("-n", min=0, metavar="N", help="How many of the last experiments to show.")] = 20,
    as_json: Json = False,
) -> int:
    """Show how a session is doing, while it runs or after.

    Reads the journal, from any terminal or over ssh. With --follow on a terminal it is the live screen of `run`.

    \b
    Examples:
      autoresearch status --follow
      autoresearch status --tag mar5 -n 5 --json
    """
    from agent.report.status import await_beginning, wait_for_change
    from agent.views.status import session_status, status_lines, watch

    folder = Options.folder.resolve()
    if follow:
        await_beginning(folder, tag)
    if follow and not as_json:
        watch(folder, tag)
    while True:
        data = session_status(folder, tag, rows)
        answer(as_json, "status", data, status_lines(data))
        if not follow or data["running_pid"] is None:
            return 0
        wait_for_change(folder, data["tag"])


@command(LOOK, reads=True)
def show(
    which: Annotated[
        str,
        typer.Argument(
            metavar="N|HASH",
            help="Its number, 4 digits or more of its hash, best or baseline.",
            autocompletion=completion.experiments,
        ),
    ],
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Show one experiment: what was tried, why, and what came of it.

    Prints the proposal with its reasons, the verdict with its evidence, each run, the diff, and the log's end. The one
    under way can be shown, too.

    \b
    Examples:
      autoresearch show 12
      autoresearch show best --tag mar5
    """
    from agent.report import inspection
    from agent.views.color import colored
    from agent.views.details import show_lines

    data = inspection.show(Options.folder.resolve(), tag, which)
    answer(as_json, "show", data, colored(show_lines(data)))
    return 0


@command(LOOK, reads=True)
def diff(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="N|HASH",
            help="Without it the best.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER",
            help="What to compare with; without it what N was made from.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Show what an experiment changed, or how two differ.

    Without numbers it is the best against the baseline, as a patch that `git apply` takes. results.tsv is left out.

    \b
    Examples:
      autoresearch diff > best.patch
      autoresearch diff 12 7          what 12 has that 7 has not
    """
    from agent.report import inspection
    from agent.views.color import colored, diff_lines

    data = inspection.diff(Options.folder.resolve(), tag, which, other)
    if not data["diff"] and not as_json:
        print("no difference", file=sys.stderr)
        return 0
    answer(as_json, "diff", data, colored(diff_lines(data["diff"]), raw=True))
    return 0


@command(LOOK, reads=True)
def log(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="N|HASH", help="Without it the latest experiment.", autocompletion=completion.experiments
        ),
    ] = None,
    run: Annotated[
        int | None, typer.Option("--run", min=1, metavar="K", help="Which of its runs, else the last.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the run writes to it.")] = False,
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Print the log of an experiment's run.

    An experiment has more than one run where it was repeated, retried or confirmed; --run picks one.

    \b
    Examples:
      autoresearch log --follow
      autoresearch log 12 --run 2
    """
    from agent.report import inspection

    if follow and as_json:
        raise UsageError("--follow and --json exclude each other: JSON is printed once")
    path = inspection.log(Options.folder.resolve(), tag, which, run)
    if as_json:
        text = read_end(path, LARGEST_LOG).decode(errors="replace")
        answer(True, "log", {"path": str(path), "text": text}, [])
        return 0
    for text in inspection.follow(Options.folder.resolve(), path, go_on=follow):
        # On a pipe the log is as it is; a terminal is not steered by it.
        print(block(text) if sys.stdout.isatty() else text, end="", flush=True)
    return 0


@command(LOOK, reads=True)
def sessions(as_json: Json = False) -> int:
    """List the sessions of this workspace, the latest first.

    Of each: best, gain, whether that is confirmed or provisional, and when it was last at work.

    \b
    Examples:
      autoresearch sessions
      autoresearch sessions --json
    """
    from agent.report import inspection
    from agent.views.color import colored
    from agent.views.details import session_lines

    found = inspection.sessions(Options.folder.resolve())
    answer(as_json, "sessions", {"sessions": found}, colored(session_lines(found, time.time())))
    return 0


@command(LOOK, reads=True)
def report(
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="The session; several times to compare. Without it the last one.",
            autocompletion=completion.tags,
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; else .autoresearch/sessions/TAG/report.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the page shows as one JSON object, and write nothing.")
    ] = False,
) -> int:
    """Write the morning report: one page that needs no network.

    index.html has the progress chart, what was learnt, where time and money went, and the diff; progress.svg and
    progress.png are its chart. Prints the paths. `run` writes it at the end, too.

    \b
    Examples:
      autoresearch report --open
      autoresearch report --tag mar5 --tag mar6 --out compared
    """
    from agent.protocol.load import load_protocol
    from agent.report.gather import gather
    from agent.repository.workspace import Workspace
    from agent.views.page.write import write_report

    workspace = Workspace(Options.folder, load_protocol(Options.folder))
    if as_json:
        answer(True, "report", gather(workspace, tag or []), [])
        return 0
    paths = write_report(workspace, tag or [], out)
    print("\n".join(map(str, paths)))
    if open_it and typer.launch(paths[0].resolve().as_uri()) != 0:
        print(f"no browser could be started: open {paths[0]} yourself", file=sys.stderr)
    return 0
