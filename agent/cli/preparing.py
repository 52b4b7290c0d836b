"""Before a session: a protocol for this repository, and whether machine and workspace are ready."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from agent.cli.command import answer, command
from agent.cli.options import Agent, Json, Model, SandboxMode, Tag, TrainingSeconds
from agent.cli.program import PREPARE, Options
from agent.format import block


@dataclass(frozen=True)
class InitFlags:
    """What a person knows better than what would be found."""

    command: Annotated[str | None, typer.Option(metavar="COMMAND", help="What to run, else it is found.")] = None
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Which number of its output counts.")] = None
    direction: Annotated[
        Literal["minimize", "maximize"] | None, typer.Option(help="Which way is better, else its name says so.")
    ] = None
    mutable: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Files that may change; give it several times.")
    ] = None
    training_seconds: TrainingSeconds = None
    sandbox: SandboxMode = "auto"
    no_run: Annotated[bool, typer.Option("--no-run", help="Try nothing: write a draft to be finished.")] = False
    force: Annotated[bool, typer.Option("--force", help="Write over an existing protocol.json.")] = False


@command(PREPARE)
def init(flags: InitFlags, as_json: Json = False) -> int:
    """Write a protocol.json for the repository here, of any kind.

    Finds the command (training, a benchmark, tests), runs it in a copy of what is committed, and writes down which
    number counts, what may change and what must not, each with its reason. Asks nothing; a flag wins over what it
    finds. Only protocol.json is written, and nothing where something is missing.

    \b
    Examples:
      autoresearch init
      autoresearch init --command 'python bench.py --json' --metric ops_per_second

    Exit code 1 where the command fails or has no number, 3 where there is no commit or a protocol.json already.
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
    tag: Tag = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Finish or undo what a crash left half done, as every start does.")
    ] = False,
    model: Model = None,
    agent: Agent = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke/--no-smoke",
            help="Train for two seconds in a room, as a run has it. Nothing else runs code of the workspace.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Say what is well here and what is not, and what mends it.

    Looks at the machine, the workspace, its sessions, and the model or agent that is named. Nothing is changed without
    --repair, and nothing is spent: a model's server is only asked which models it has.

    \b
    Examples:
      autoresearch doctor
      autoresearch doctor --model ollama:qwen3-coder --smoke
      autoresearch doctor --repair --tag mar5

    Exit code 1 where something is broken; warnings do not count.
    """
    from agent.doctor.doctor import doctor_lines, examine, repair_sessions
    from agent.proposers.choose import ProposerConfig

    folder = Options.folder.resolve()
    done = repair_sessions(folder, tag) if repair else []
    checks = examine(folder, tag, ProposerConfig(model=model, agent=agent), smoke)
    shown = [f"did      {line}" for line in done] if done or not repair else ["did      nothing: all was in order"]
    data = {"repaired": done, "checks": [asdict(check) for check in checks]}
    answer(as_json, "doctor", data, [*shown, *doctor_lines(checks)])
    return 1 if any(check.status == "broken" for check in checks) else 0
