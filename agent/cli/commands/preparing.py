"""Commands to use before a session: `init`, `doctor` and `field`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.options import Agent, Json, Model, SandboxMode, Setup, finite
from agent.cli.program import PREPARE, Options
from agent.format import block


@dataclass(frozen=True)
class InitFlags:
    """Flags that override what `init` detects."""

    command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Command to run; by default it is detected.")
    ] = None
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the metric in its output; by default it is detected.")
    ] = None
    direction: Annotated[
        Literal["minimize", "maximize"] | None,
        typer.Option(help="Which direction is better; by default guessed from the name."),
    ] = None
    mutable: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Files that may change; repeat the flag for several patterns."),
    ] = None
    training_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="AUTORESEARCH_TRAINING_SECONDS",
            min=0.1,
            callback=finite,
            metavar="SECONDS",
            help="Training time of a run, to write into protocol.json; by default it is detected.",
        ),
    ] = None
    sandbox: SandboxMode = "auto"
    no_run: Annotated[bool, typer.Option("--no-run", help="Run nothing and write a draft for you to finish.")] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing protocol.json.")] = False


@command(PREPARE)
def init(flags: InitFlags, as_json: Json = False) -> int:
    """Write protocol.json for any kind of repository.

    Detects the command (training, a benchmark, tests), runs it in a copy of the last commit, and writes the metric, the
    files that may change and those that must not, each with the reason. Flags override what it detects. Never prompts.
    Writes only protocol.json, and only if it is complete, except with --no-run.

    \b
    Examples:
      autoresearch init
      autoresearch init --command 'python bench.py --json' --metric ops_per_second

    Exits with code 1 if the command fails, prints no number, or the direction is unclear; 3 if the repository has no
    commit, no command, no file that may change, or already has a protocol.json.
    """
    from agent.init.init import InitConfig, init_lines, write_protocol

    config = InitConfig(
        command=flags.command,
        metric=flags.metric,
        direction=flags.direction,
        mutable=tuple(flags.mutable or ()),
        training_seconds=flags.training_seconds,
        run=not flags.no_run,
        force=flags.force,
        sandbox=flags.sandbox,
    )
    data = write_protocol(Options.here, config, lambda line: print(block(line), file=sys.stderr, flush=True))
    answer(as_json, "init", data, init_lines(data))
    return 0


@command(PREPARE)
def doctor(
    tag: Annotated[
        str | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Session to check or repair; by default all are checked, and the most recent one is repaired.",
            autocompletion=completion.tags,
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Finish or undo what a crash interrupted, as every start of `run` does.")
    ] = False,
    model: Model = None,
    agent: Agent = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke/--no-smoke",
            help="Train for two seconds, sandboxed like a run. No other check executes code from the workspace.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Check machine and workspace, and print fixes.

    Checks the machine, the workspace, its sessions, and the model or agent that you name. Changes nothing without
    --repair, and costs nothing: it asks a model server only for its list of models. Run it before a long session, or
    when a session fails to start.

    \b
    Examples:
      autoresearch doctor
      autoresearch doctor --model ollama:qwen3-coder --smoke
      autoresearch doctor --repair --tag mar5

    Exits with code 1 if a check finds something broken; warnings do not count.
    """
    from agent.doctor.doctor import doctor_lines, examine, repair_sessions
    from agent.proposers.choose import ProposerConfig

    folder = Options.folder.resolve()
    done = repair_sessions(folder, tag) if repair else []
    checks = examine(folder, tag, ProposerConfig(model=model, agent=agent), smoke)
    shown = [f"did      {line}" for line in done] if done or not repair else ["did      nothing: no repair needed"]
    data = {"repaired": done, "checks": [asdict(check) for check in checks]}
    answer(as_json, "doctor", data, [*shown, *doctor_lines(checks)])
    return 1 if any(check.status == "broken" for check in checks) else 0


@command(PREPARE, measures=True)
def field(
    minutes: Annotated[
        float, typer.Option(min=2, max=600, metavar="N", help="Time for all measurements, in minutes.")
    ] = 20,
    setup: Setup = True,
    sandbox: SandboxMode = "auto",
    as_json: Json = False,
) -> int:
    """Measure this machine and print a block to publish.

    Trains the committed recipe with the same runner, sandbox and evaluator as a night: repeated runs for speed, memory
    and noise, several sizes of the model, and a short session of the built-in search. Prints one block of text to paste
    into an issue. The block has no host name, user name or path.

    Works in a temporary clone of HEAD: your checkout, branches and sessions do not change. Parts that do not fit into
    the time or fail are named in the block. Ctrl-C stops and prints the block of what was measured.

    \b
    Examples:
      autoresearch field
      autoresearch field --minutes 5 --json > field.json

    \b
    Exit codes:
      0    measured; parts may be left out
      1    no run succeeded
      3    another session is running, or protocol.json sets no training
           time
      130  Ctrl-C
      143  SIGTERM
    """
    from agent.field.block import block as rendered
    from agent.field.field import measure_machine

    data, code = measure_machine(Options.folder, minutes, sandbox, setup)
    answer(as_json, "field", data, [rendered(data)])
    return code
