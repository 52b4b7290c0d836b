"""`try` measures an edit made by hand, `wait` waits for its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from agent.cli import completion
from agent.cli.command import again, answer, command, defaults
from agent.cli.options import Detach, Json, SandboxMode, Setup, Tag, TrainingSeconds
from agent.cli.program import RESEARCH, Options
from agent.system.background import answering, log_of, start

TryTag = Annotated[
    str | None,
    typer.Option(
        "--tag",
        envvar="AUTORESEARCH_TAG",
        metavar="TAG",
        help="Session of the experiment; by default the most recent one under the same conditions, or else a new one "
        "named try.",
        autocompletion=completion.tags,
    ),
]


@dataclass(frozen=True)
class TryFlags:
    """Flags of the runs of `try`. A session keeps those that it was started with."""

    training_seconds: TrainingSeconds = None
    sandbox: SandboxMode = "auto"
    setup: Setup = True


@command(RESEARCH, "try", measures=True)
def try_(
    context: typer.Context,
    *,
    why: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="WHY", help="Describe the edit; by default by what it changes."),
    ] = None,
    tag: TryTag = None,
    measure: TryFlags,
    detach: Detach = False,
    as_json: Json = False,
) -> int:
    """Measure your edit of train.py as one experiment.

    Takes whatever mutable files differ in the working tree from the best of the session, commits them as a candidate,
    measures and judges it like those of `run`, and adds its row. A kept edit stays. Otherwise the files are put back to
    the best, and the output says how to get the edit back. A new session measures the baseline first.

    It works on any branch and never switches yours. Other changed files are named and left alone. A person, an agent
    and `run` can take turns on one tag. If you committed on the session's branch, the commits are measured as one edit.

    The edit is safe in git before anything slow begins. After a kill, the same command continues.

    \b
    Examples:
      autoresearch try
      autoresearch try -m "a deeper model" --json
      autoresearch try --tag mar5 --detach

    \b
    Exit codes:
      0    the edit has its verdict: keep, discard or crash
      1    the session failed
      2    invalid flags, protocol.json or search comments
      3    no edit, a session running, missing data, or other conditions
      4    the GPU keeps failing; the same command continues
      129  the terminal was closed
      130  Ctrl-C
      143  SIGTERM
    """
    from agent.cli.attempt import attempt, choose_tag
    from agent.cli.launch import require_tag
    from agent.cli.run_config import config_of_try
    from agent.journal.paths import journal_path
    from agent.views.color import colored
    from agent.views.verdict import result_lines

    folder = Options.folder.resolve()
    tag = tag or choose_tag(Options.folder, measure.training_seconds)
    require_tag(tag)
    if detach:
        log = log_of(journal_path(folder, tag).parent)
        _, told = start([*again(context, "detach", "as_json", "tag"), f"--tag={tag}"], log)
        data, code = told["data"], 0
    else:
        with answering() as tell:
            config = config_of_try(folder, tag, vars(measure), defaults(context))
            data, code = attempt(Options.folder, config, why, lambda data: tell({"data": data}))
    answer(as_json, "try", data, colored(result_lines(data)))
    return code


@command(RESEARCH)
def wait(
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", min=0, help="Experiment; by default the one in progress, or else the last."),
    ] = None,
    tag: Tag = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up after this time; by default never."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Wait for the verdict of an experiment.

    Prints the same as `try`, once the experiment has its verdict. With --timeout it exits with code 5 if that takes
    longer; the experiment goes on.

    \b
    Examples:
      autoresearch wait
      autoresearch wait 12 --tag mar5 --timeout 50 --json

    Exits with code 3 if no process measures the experiment, and 5 after the timeout.
    """
    from agent.report.verdict import await_verdict
    from agent.views.color import colored
    from agent.views.verdict import experiment_result, result_lines

    folder = Options.folder.resolve()
    data = experiment_result(folder, *await_verdict(folder, tag, number, timeout))
    answer(as_json, "wait", data, colored(result_lines(data)))
    return 0
