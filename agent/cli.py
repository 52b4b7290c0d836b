"""Commands and flags only. Everything else is imported when a command needs it: `--help` is instant."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agent.errors import AutoresearchError, UsageError, explain
from agent.usage import Commands

app = typer.Typer(
    name="autoresearch",
    cls=Commands,
    help="The autonomous ML research loop that people trust overnight.\n\n"
    "Edits train.py, trains it for a fixed time, keeps what is better and reverts what is not, and writes a row for "
    "each experiment to results.tsv: all night, without asking anything.",
    epilog="Start with: autoresearch run --tag mar5",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help: drawing it with rich takes longer than everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
protocol_app = typer.Typer(
    help="Look at protocol.json: what may change, how to run, what to measure.", no_args_is_help=True
)
app.add_typer(protocol_app, name="protocol")

Tag = Annotated[str | None, typer.Option("--tag", help="The session; without it the one last worked on.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
TrainingSeconds = Annotated[
    float | None,
    typer.Option(
        envvar="AUTORESEARCH_TRAINING_SECONDS", min=0.1, help="Training budget of a run; else what the protocol says."
    ),
]
SandboxMode = Annotated[
    Literal["auto", "off", "strict"],
    typer.Option(
        "--sandbox",
        envvar="AUTORESEARCH_SANDBOX",
        help="Confine what training writes, hide secrets, keep networkPolicy. strict: or do not start. "
        "AUTORESEARCH_KEEP_ENV=NAME,... lets variables through.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="AUTORESEARCH_MODEL",
        metavar="MODEL",
        help="openai:NAME, anthropic:NAME, ollama:NAME, lmstudio:NAME, mlx:NAME or 'http://host:port/v1 NAME'.",
    ),
]
Agent = Annotated[
    str | None,
    typer.Option(envvar="AUTORESEARCH_AGENT", help="A coding agent: claude, codex, gemini, opencode, aider or mini."),
]
Setup = Annotated[bool, typer.Option("--setup/--no-setup", help="Run the protocol's set-up commands if they are due.")]


class Options:
    """What stands before the command."""

    folder = Path()
    debug = False


@app.callback()
def main(
    folder: Annotated[Path, typer.Option("-C", metavar="DIR", help="The workspace: where protocol.json is.")] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    Options.folder, Options.debug = folder, debug


@app.command()
def run(
    tag: Annotated[str, typer.Option("--tag", envvar="AUTORESEARCH_TAG", help="Names the session and its branch.")],
    proposer: Annotated[
        str | None,
        typer.Option(
            envvar="AUTORESEARCH_PROPOSER",
            help="Who edits train.py: search, llm, command or hybrid. Without it hybrid where a model or agent is "
            "named, else search.",
        ),
    ] = None,
    model: Model = None,
    agent: Agent = None,
    agent_cmd: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Any other agent, as in 'my-agent --task {prompt_file}'.")
    ] = None,
    agent_timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For one call of the agent.")] = 900,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the experiments of a hybrid that the model or agent proposes.")
    ] = 0.3,
    fallback_after: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="With no model for this long the search takes over.")
    ] = 300,
    model_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="A model silent for this long is taken to be gone.")
    ] = 120,
    max_cost: Annotated[float | None, typer.Option(min=0, metavar="DOLLARS", help="Of the whole session.")] = None,
    max_cost_per_experiment: Annotated[float | None, typer.Option(min=0, metavar="DOLLARS")] = None,
    training_seconds: TrainingSeconds = None,
    max_experiments: Annotated[
        int | None, typer.Option(min=0, help="End after this many, in the whole session.")
    ] = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="End after this long.")] = None,
    until: Annotated[str | None, typer.Option(metavar="HH:MM", help="End at this time of day.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="End after this many in a row without a keep.")] = None,
    target: Annotated[float | None, typer.Option(help="End when the metric is this good.")] = None,
    verdict: Annotated[
        Literal["confirm", "greedy"],
        typer.Option(
            help="confirm: borderline candidates and the incumbent are run again until the difference is above the "
            "noise. greedy: whatever looks better once is kept."
        ),
    ] = "confirm",
    baseline_runs: Annotated[
        int | None, typer.Option(min=1, help="Of the untouched recipe: 2 with confirm, 1 with greedy.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End runs early that have no chance left, once that can be told.")
    ] = True,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm/--no-confirm",
            envvar="AUTORESEARCH_CONFIRM",
            help="At the end run baseline and best afresh, three times each.",
        ),
    ] = True,
    report: Annotated[
        bool, typer.Option("--report/--no-report", envvar="AUTORESEARCH_REPORT", help="At the end write the report.")
    ] = True,
    max_memory_gb: Annotated[
        float | None, typer.Option(min=0, metavar="GB", help="A candidate that needs more is never kept.")
    ] = None,
    seed: Annotated[int, typer.Option(envvar="AUTORESEARCH_SEED", help="Makes the proposals repeatable.")] = 0,
    setup: Setup = True,
    keep_awake: Annotated[
        bool, typer.Option("--keep-awake/--no-keep-awake", help="Keep the machine from sleeping meanwhile.")
    ] = True,
    sandbox: SandboxMode = "auto",
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="bell|desktop|COMMAND",
            help="Tell of a new best, of trouble and of the end; COMMAND as in 'my-notifier {title} {text}'. "
            "More than once for several.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would happen, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as they happen, one JSON object a line.")
    ] = False,
) -> None:
    """Start a session, or go on with it, until a limit is reached or Ctrl-C.

    The first Ctrl-C finishes the experiment under way, a second stops at once; either way the same command goes on
    from there.

    Examples:

        autoresearch run --tag mar5 --until 07:00

        autoresearch run --tag try --training-seconds 30 --max-experiments 5

        autoresearch run --tag mar6 --model anthropic:claude-sonnet-4-5 --max-cost 5
    """

    def work() -> int:
        from agent.launch import Wanted
        from agent.launch import run as launch
        from agent.limits import Limits
        from agent.proposers.choose import Consult

        limits = Limits(
            experiments=max_experiments,
            seconds=None if max_hours is None else 3600 * max_hours,
            until=None if until is None else _next(until),
            patience=patience,
            target=target,
        )
        wanted = Wanted(
            tag=tag,
            consult=Consult(
                proposer=proposer,
                model=model,
                agent=agent,
                agent_command=agent_cmd,
                share=share,
                fallback_after=fallback_after,
                silence=model_timeout,
                agent_seconds=agent_timeout,
                max_cost=max_cost,
                max_cost_per_experiment=max_cost_per_experiment,
            ),
            seed=seed,
            training_seconds=training_seconds,
            setup=setup,
            keep_awake=keep_awake,
            sandbox=sandbox,
            dry_run=dry_run,
            json=as_json,
            limits=limits,
            verdict=verdict,
            baseline_runs=baseline_runs,
            prune=prune,
            max_memory_gb=max_memory_gb,
            confirm=confirm,
            report=report,
            notify=tuple(notify or ()),
        )
        return launch(Options.folder, wanted)

    _exit(work, "run", False)


@app.command()
def init(
    command: Annotated[str | None, typer.Option(metavar="COMMAND", help="What to run, else it is found.")] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Which number of its output counts.")] = None,
    direction: Annotated[
        Literal["minimize", "maximize"] | None, typer.Option(help="Which way is better, else its name says so.")
    ] = None,
    mutable: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Files that may change; give it several times.")
    ] = None,
    training_seconds: TrainingSeconds = None,
    sandbox: SandboxMode = "auto",
    no_run: Annotated[bool, typer.Option("--no-run", help="Try nothing: write a draft to be finished.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing protocol.json.")] = False,
    as_json: Json = False,
) -> None:
    """Write a protocol.json for the repository here, whatever it is: training, a benchmark, tests.

    Finds the command, runs it in a copy of what is committed, and writes down which number counts, what may change
    and what must not, each with its reason. Asks nothing.

    Examples:

        autoresearch init

        autoresearch init --command 'python bench.py --json' --metric ops_per_second --mutable 'src/**/*.py'
    """

    def work() -> int:
        from agent import init as view

        wanted = view.Wanted(
            command, metric, direction, tuple(mutable or ()), training_seconds, not no_run, force, sandbox
        )
        data = view.init(Options.folder, wanted, lambda line: print(line, file=sys.stderr, flush=True))
        _print(as_json, "init", data, view.lines(data))
        return 0

    _exit(work, "init", as_json)


@app.command()
def baseline(
    training_seconds: TrainingSeconds = None, setup: Setup = True, sandbox: SandboxMode = "auto", as_json: Json = False
) -> None:
    """Measure the recipe as it is, on this machine and this data.

    `run` does this by itself where no valid one is kept.
    """

    def work() -> int:
        from agent.launch import baseline as launch

        data = launch(Options.folder, training_seconds, setup, sandbox)
        _print(as_json, "baseline", data, [f"{data['metric']}  {data['value']:.6f}", f"log  {data['log']}"])
        return 0

    _exit(work, "baseline", as_json)


@app.command("confirm")
def confirm_(
    a: Annotated[str | None, typer.Argument(help="A commit; without it the baseline.")] = None,
    b: Annotated[str | None, typer.Argument(help="A commit; without it the best.")] = None,
    runs: Annotated[int, typer.Option(min=2, help="Fresh runs of each.")] = 3,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> None:
    """Run baseline and best, or any two commits, afresh and in turn, and say how large the gain is and how sure.

    With one commit it is compared with the baseline. Ctrl-C ends it; the same command goes on.
    """

    def work() -> int:
        from agent.afterwards import compared
        from agent.confirm import confirm, lines, sides

        data = compared(
            Options.folder,
            tag,
            sandbox,
            lambda bench, journal, interrupts: confirm(
                bench, journal, interrupts, sides(bench, journal.state, a, b), runs
            ),
            quiet=as_json,
        )
        _print(as_json, "confirm", data, lines(data))
        return 0

    _exit(work, "confirm", as_json)


@app.command()
def ablate(
    runs: Annotated[int, typer.Option(min=2, help="Fresh runs of the best, and of the best without each change.")] = 2,
    tag: Tag = None,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> None:
    """Say which of the kept changes still pay for themselves, and offer the recipe without the others.

    Takes a run of the best and one for each kept change, so many times.
    """

    def work() -> int:
        from agent.ablate import ablate, lines
        from agent.afterwards import compared

        data = compared(
            Options.folder,
            tag,
            sandbox,
            lambda bench, journal, interrupts: ablate(bench, journal, interrupts, runs),
            quiet=as_json,
        )
        _print(as_json, "ablate", data, lines(data))
        return 0

    _exit(work, "ablate", as_json)


@app.command()
def status(
    tag: Tag = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the loop ends.")] = False,
    rows: Annotated[int, typer.Option("-n", min=0, help="How many of the last experiments to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show how a session is doing: from any terminal, while the loop runs or after."""

    def work() -> int:
        from agent import status as view

        if follow and not as_json:
            view.watch(Options.folder.resolve(), tag)
        while True:
            data = view.status(Options.folder.resolve(), tag, rows)
            _print(as_json, "status", data, view.lines(data))
            if not follow or data["running_pid"] is None:
                return 0
            view.wait_for_change(Options.folder.resolve(), data["tag"])

    _exit(work, "status", as_json)


@app.command()
def report(
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="The session; several times to compare. Without it the one last worked on."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; else .autoresearch/sessions/TAG/report.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the page shows as one JSON object, and write nothing.")
    ] = False,
) -> None:
    """Write the morning report: index.html, one page that needs no network, and its chart as SVG and PNG.

    Examples:

        autoresearch report --open

        autoresearch report --tag mar5 --tag mar6 --out compared
    """

    def work() -> int:
        from agent import protocol
        from agent import report as view
        from agent.workspace import Workspace

        workspace = Workspace(Options.folder, protocol.load(Options.folder))
        try:
            if as_json:
                _print(True, "report", view.gather(workspace, tag or []), [])
                return 0
            paths = view.write_report(workspace, tag or [], out)
        finally:
            workspace.close()
        print("\n".join(map(str, paths)))
        if open_it and typer.launch(paths[0].resolve().as_uri()) != 0:
            print(f"no browser could be started: open {paths[0]} yourself", file=sys.stderr)
        return 0

    _exit(work, "report", as_json)


@app.command()
def show(
    which: Annotated[str, typer.Argument(metavar="N|HASH", help="Its number, the beginning of its hash, or `best`.")],
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """Show one experiment: what was tried and why, the diff, its runs, the verdict and its evidence, the log's end.

    Examples:

        autoresearch show 12

        autoresearch show best --tag mar5
    """

    def work() -> int:
        from agent import inspection
        from agent.views.closer import show_lines
        from agent.views.paint import painted

        data = inspection.show(Options.folder.resolve(), tag, which)
        _print(as_json, "show", data, painted(show_lines(data)))
        return 0

    _exit(work, "show", as_json)


@app.command()
def diff(
    which: Annotated[str | None, typer.Argument(metavar="[N|HASH]", help="Without it the best.")] = None,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="What to compare with; without it what N was made from.")
    ] = None,
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """Show what an experiment changed, or how two differ; without numbers the best against the baseline.

    Examples:

        autoresearch diff > best.patch

        autoresearch diff 12 7
    """

    def work() -> int:
        from agent import inspection
        from agent.views.paint import diff_lines, painted

        data = inspection.diff(Options.folder.resolve(), tag, which, other)
        if not data["diff"] and not as_json:
            print("no difference", file=sys.stderr)
            return 0
        _print(as_json, "diff", data, painted(diff_lines(data["diff"])))
        return 0

    _exit(work, "diff", as_json)


@app.command()
def log(
    which: Annotated[str | None, typer.Argument(metavar="[N|HASH]", help="Without it the latest experiment.")] = None,
    run: Annotated[
        int | None, typer.Option("--run", min=1, metavar="K", help="Which of its runs, else the last.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the run writes to it.")] = False,
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """Print the log of an experiment's run.

    Examples:

        autoresearch log --follow

        autoresearch log 12 --run 2
    """

    def work() -> int:
        from agent import inspection

        if follow and as_json:
            raise UsageError("--follow and --json exclude each other: JSON is printed once")
        path = inspection.log(Options.folder.resolve(), tag, which, run)
        if as_json:
            _print(True, "log", {"path": str(path), "text": path.read_text(errors="replace")}, [])
            return 0
        for text in inspection.follow(Options.folder.resolve(), path, go_on=follow):
            print(text, end="", flush=True)
        return 0

    _exit(work, "log", as_json)


@app.command()
def sessions(as_json: Json = False) -> None:
    """List the sessions of this workspace: best, gain, whether it is confirmed, and when each was last at work."""

    def work() -> int:
        from agent import inspection
        from agent.views.closer import session_lines
        from agent.views.paint import painted

        found = inspection.sessions(Options.folder.resolve())
        _print(as_json, "sessions", {"sessions": found}, painted(session_lines(found, time.time())))
        return 0

    _exit(work, "sessions", as_json)


@app.command()
def stop() -> None:
    """Ask the running loop to finish its experiment and end."""

    def work() -> int:
        from agent import status as view

        print(view.stop(Options.folder.resolve()))
        return 0

    _exit(work, "stop", False)


@app.command()
def doctor(
    tag: Tag = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Finish or undo what a crash left half done, as every start does.")
    ] = False,
    model: Model = None,
    agent: Agent = None,
    smoke: Annotated[
        bool | None,
        typer.Option(
            "--smoke/--no-smoke",
            help="Train for two seconds in a copy. Without either: where the command is the MLX recipe and data is "
            "prepared.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is well with this machine, workspace and its sessions and what is not, with the command that mends it.

    Nothing is changed without --repair, and nothing is spent: a model's server is only asked which models it has.
    Exit code 1 where something is broken.
    """

    def work() -> int:
        from agent import doctor as view
        from agent.proposers.choose import Consult

        folder = Options.folder.resolve()
        done = view.repair(folder, tag) if repair else []
        checks = view.examine(folder, tag, Consult(model=model, agent=agent), smoke)
        shown = [f"did      {line}" for line in done] if done or not repair else ["did      nothing: all was in order"]
        data = {"repaired": done, "checks": [asdict(check) for check in checks]}
        _print(as_json, "doctor", data, [*shown, *view.lines(checks)])
        return 1 if any(check.status == "broken" for check in checks) else 0

    _exit(work, "doctor", as_json)


@protocol_app.command("check")
def protocol_check(as_json: Json = False) -> None:
    """Check protocol.json and print a line a field: its value, where that comes from, what the program does with it."""

    def work() -> int:
        from agent import protocol
        from agent.protocol_check import check, lines

        rules = protocol.load(Options.folder)
        fields = check(rules)
        _print(as_json, "protocol check", {"fields": fields}, lines(fields))
        return 0

    _exit(work, "protocol check", as_json)


@protocol_app.command("schema")
def protocol_schema() -> None:
    """Print the JSON Schema of protocol.json."""
    from agent.protocol import Protocol

    print(json.dumps(Protocol.model_json_schema(by_alias=True), indent=2))


def _next(clock: str) -> float:
    """The next moment at which the clock shows `HH:MM`, as Unix time."""
    try:
        hour, minute = time.strptime(clock, "%H:%M")[3:5]
    except ValueError:
        raise UsageError(f"--until takes a time such as 07:00, not {clock!r}") from None
    now = time.localtime()
    then = time.mktime((now.tm_year, now.tm_mon, now.tm_mday, hour, minute, 0, 0, 0, -1))
    return then if then > time.time() else then + 24 * 3600


def _print(as_json: bool, command: str, data: dict[str, Any], lines: list[str]) -> None:
    if as_json:
        print(json.dumps({"version": 1, "command": command, "status": "ok", "data": data, "errors": []}), flush=True)
    else:
        print("\n".join(lines), flush=True)


def _exit(work: Callable[[], int], command: str, as_json: bool) -> None:
    """Run a command's work; an error is its sentence on stderr and its exit code."""
    try:
        code = work()
    except AutoresearchError as error:
        if Options.debug:
            raise
        if as_json:
            envelope = {"version": 1, "command": command, "status": "error", "data": None, "errors": [str(error)]}
            print(json.dumps(envelope))
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read the output has gone, as in `autoresearch status | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if Options.debug:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        code = 1
    raise typer.Exit(code)
