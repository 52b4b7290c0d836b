"""Commands that inspect sessions. They only read, except for `sessions --delete`, which refuses while a loop runs."""

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
from agent.format import block, one_line
from agent.system.files import read_end

LARGEST_LOG = 2**27  # bytes, counted from the end


@command(LOOK, reads=True)
def status(
    tag: Tag = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Update until the session stops.")] = False,
    rows: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=0,
            metavar="N",
            help="Show the last N experiments; by default 20, on a terminal at most those that fit.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show the status of a session, running or ended.

    Works from any terminal or over ssh, because it only reads the journal. On a terminal, --follow shows the live
    screen of `run`.

    \b
    Examples:
      autoresearch status --follow
      autoresearch status --tag mar5 -n 5 --json
    """
    from agent.report.status import await_beginning, wait_for_change
    from agent.views.status import session_status, watch

    folder = Options.folder.resolve()
    if follow:
        await_beginning(folder, tag)
    if follow and not as_json:
        watch(folder, tag)
    while True:
        data, lines = session_status(folder, tag, rows)
        answer(as_json, "status", data, lines)
        if not follow or data["running_pid"] is None:
            return 0
        wait_for_change(folder, data["tag"])


@command(LOOK, reads=True)
def show(
    which: Annotated[
        str,
        typer.Argument(
            metavar="N|HASH",
            help="Number, commit hash (4 or more characters), `best` or `baseline`.",
            autocompletion=completion.experiments,
        ),
    ],
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Show one experiment: proposal, verdict, runs and diff.

    Prints the proposal with its reasoning, the verdict with its evidence, each run, the diff and the end of the log. It
    also works for the experiment that is running.

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
            help="Experiment; without it, the best against the baseline.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER",
            help="Show what N has and this one lacks; by default the parent of N.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Show the diff of an experiment, or between two.

    Without arguments it compares the best with the baseline. The output is a patch for `git apply`; results.tsv is left
    out.

    \b
    Examples:
      autoresearch diff > best.patch
      autoresearch diff 12 7          changes from 7 to 12
    """
    from agent.report import inspection
    from agent.views.color import colored, diff_lines

    data = inspection.diff(Options.folder.resolve(), tag, which, other)
    if not data["diff"] and not as_json:
        print("no difference", file=sys.stderr)
        return 0
    answer(as_json, "diff", data, colored(diff_lines(data["diff"]), on_pipe=data["diff"]))
    return 0


@command(LOOK, reads=True)
def log(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="N|HASH", help="Experiment; by default the latest.", autocompletion=completion.experiments
        ),
    ] = None,
    run: Annotated[
        int | None, typer.Option("--run", min=1, metavar="K", help="Number of the run; by default the last.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the run ends.")] = False,
    tag: Tag = None,
    as_json: Json = False,
) -> int:
    """Print the log of a run.

    An experiment that was repeated, retried or confirmed has several runs; select one with --run.

    \b
    Examples:
      autoresearch log --follow
      autoresearch log 12 --run 2
    """
    from agent.report import inspection

    if follow and as_json:
        raise UsageError("--follow and --json are mutually exclusive", hint="drop one of them")
    found = inspection.log(Options.folder.resolve(), tag, which, run)
    path = found.path
    if as_json:
        text = read_end(path, LARGEST_LOG).decode(errors="replace")
        answer(True, "log", {"path": str(path), "of": found.of, "text": text}, [])
        return 0
    if found.of != found.number:
        print(f"this run repeats #{found.of}, with which #{found.number} is compared", file=sys.stderr, flush=True)
    # A pipe gets the log unchanged; on a terminal its escape sequences are stripped.
    drawn = sys.stdout.isatty()
    for text in inspection.follow(Options.folder.resolve(), path, follow, "replace" if drawn else "surrogateescape"):
        print(block(text) if drawn else text, end="", flush=True)
    return 0


@command(LOOK, reads=True)
def sessions(
    delete: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Delete this session after a question.", autocompletion=completion.tags),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
    as_json: Json = False,
) -> int:
    """List the sessions of this workspace, latest first.

    Shows for each session the number of experiments, baseline, best, gain (confirmed or provisional), last activity and
    branch.

    --delete removes a session: its refs, its branch and its folder. It names them first, and refuses while a loop runs,
    while the branch is checked out, and if the branch has commits of yours.

    \b
    Examples:
      autoresearch sessions
      autoresearch sessions --json
      autoresearch sessions --delete demo

    Exits with code 1 if you answer no, 2 without a terminal or --yes, 3 if it refuses.
    """
    from agent.report import inspection
    from agent.views.color import colored
    from agent.views.details import session_lines

    folder = Options.folder.resolve()
    if delete is not None:
        return _delete(folder, delete, yes=yes, as_json=as_json)
    if yes:
        raise UsageError("--yes needs --delete", hint="drop it")
    found = inspection.sessions(folder)
    answer(as_json, "sessions", {"sessions": found}, colored(session_lines(found, time.time())))
    return 0


def _delete(folder: Path, tag: str, *, yes: bool, as_json: bool) -> int:
    from agent.adopt.delete import delete, remains, remains_lines, workspace_of

    workspace = workspace_of(folder)
    for line in remains_lines(remains(workspace, tag)):
        print(one_line(line), file=sys.stderr, flush=True)
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("--delete asks for confirmation on a terminal only", hint="add --yes")
        if not typer.confirm("Delete it?", err=True):
            print("nothing was deleted", file=sys.stderr)
            return 1
    data = delete(workspace, tag)
    answer(as_json, "sessions", {"deleted": data}, [f"deleted session {tag}"])
    return 0


@command(LOOK, reads=True)
def report(
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Session; repeat the flag to compare several. By default the most recent one.",
            autocompletion=completion.tags,
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder; by default .autoresearch/sessions/TAG/report.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the data of the page as one JSON object, and write no files.")
    ] = False,
) -> int:
    """Write the report of a session as one HTML page.

    index.html works offline and contains the progress chart, what helped and what did not, time and cost, and the diff;
    progress.svg and progress.png are the chart. Prints the paths. `run` writes the same report when it ends.

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
        print(f"warning: cannot start a browser; open {paths[0]} in one", file=sys.stderr)
    return 0
