"""The loop itself: begin a session or go on with it, and ask it to end."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Annotated, Any, Literal

import typer

from agent.cli import completion
from agent.cli.options import END, MEASURE, PROPOSE, SESSION, TELL, Agent, Model, SandboxMode, Setup, TrainingSeconds
from agent.cli.program import RESEARCH, Options, command, finish
from agent.errors import UsageError
from agent.format import one_line


@command(RESEARCH)
def run(
    context: typer.Context,
    tag: Annotated[
        str,
        typer.Option(
            "--tag",
            envvar="AUTORESEARCH_TAG",
            metavar="TAG",
            help="Names the session and its branch.",
            autocompletion=completion.tags,
            rich_help_panel=SESSION,
        ),
    ],
    seed: Annotated[
        int,
        typer.Option(
            envvar="AUTORESEARCH_SEED", metavar="N", help="Makes the proposals repeatable.", rich_help_panel=SESSION
        ),
    ] = 0,
    setup: Setup = True,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, say what would happen, and end.", rich_help_panel=SESSION),
    ] = False,
    max_experiments: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="After this many, in the whole session.", rich_help_panel=END),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0, metavar="HOURS", help="After this long.", rich_help_panel=END)
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="At a time of day (07:00, 7am) or after a duration (8h, 1h30m).", rich_help_panel=END
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="After this many in a row without a keep.", rich_help_panel=END),
    ] = None,
    target: Annotated[
        float | None, typer.Option(metavar="VALUE", help="When the metric is this good.", rich_help_panel=END)
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm/--no-confirm",
            envvar="AUTORESEARCH_CONFIRM",
            help="At the end run baseline and best afresh, three times each.",
            rich_help_panel=END,
        ),
    ] = True,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            envvar="AUTORESEARCH_REPORT",
            help="At the end write the report.",
            rich_help_panel=END,
        ),
    ] = True,
    proposer: Annotated[
        str | None,
        typer.Option(
            envvar="AUTORESEARCH_PROPOSER",
            metavar="NAME",
            help="search (built in), llm, command (an agent) or hybrid. Without it hybrid where a model or agent is "
            "named, else search.",
            autocompletion=completion.proposers,
            rich_help_panel=PROPOSE,
        ),
    ] = None,
    model: Model = None,
    agent: Agent = None,
    agent_cmd: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Any other agent, as in 'my-agent --task {prompt_file}'.",
            rich_help_panel=PROPOSE,
        ),
    ] = None,
    agent_timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="For one call of the agent.", rich_help_panel=PROPOSE)
    ] = 900,
    share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Of a hybrid's experiments, how many the model or agent proposes.",
            rich_help_panel=PROPOSE,
        ),
    ] = 0.3,
    fallback_after: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="With no model for this long the search takes over.",
            rich_help_panel=PROPOSE,
        ),
    ] = 300,
    model_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="A model silent for this long is taken to be gone.",
            rich_help_panel=PROPOSE,
        ),
    ] = 120,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, metavar="DOLLARS", help="Cap on the whole session.", rich_help_panel=PROPOSE),
    ] = None,
    max_cost_per_experiment: Annotated[
        float | None, typer.Option(min=0, metavar="DOLLARS", help="Cap on each.", rich_help_panel=PROPOSE)
    ] = None,
    training_seconds: TrainingSeconds = None,
    sandbox: SandboxMode = "auto",
    allow_untraced: Annotated[
        bool,
        typer.Option(
            "--allow-untraced",
            help="Let a model that cannot be traced compute its own metric; such results count as unattested.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    keep_awake: Annotated[
        bool,
        typer.Option(
            "--keep-awake/--no-keep-awake",
            help="Keep the machine from sleeping meanwhile.",
            rich_help_panel=MEASURE,
        ),
    ] = True,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune/--no-prune",
            help="End runs early that have no chance left, and those over their budget.",
            rich_help_panel=MEASURE,
        ),
    ] = True,
    baseline_runs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Of the untouched recipe: 2 with confirm, 1 with greedy.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    verdict: Annotated[
        Literal["confirm", "greedy"],
        typer.Option(
            help="confirm: borderline candidates and the incumbent are run again until the difference is above the "
            "noise. greedy: whatever looks better once is kept.",
            rich_help_panel=MEASURE,
        ),
    ] = "confirm",
    max_memory_gb: Annotated[
        float | None,
        typer.Option(min=0, metavar="GB", help="A candidate that needs more is never kept.", rich_help_panel=MEASURE),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WAY",
            help="Tell of a new best, of trouble and of the end: bell, desktop, or a command such as "
            "'my-notifier {title} {text}'. More than once for several.",
            rich_help_panel=TELL,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print events as they happen, one JSON object a line.", rich_help_panel=TELL),
    ] = False,
) -> None:
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

    def work() -> int:
        from agent.cli.kept_flags import given_in, merged
        from agent.cli.launch import RunConfig
        from agent.cli.launch import run as launch
        from agent.cli.until import moment
        from agent.decision.limits import Limits
        from agent.proposers.choose import ProposerConfig

        limits = Limits(
            experiments=max_experiments,
            seconds=None if max_hours is None else 3600 * max_hours,
            until=None if until is None else moment(until, time.time()),
            patience=patience,
            target=target,
        )
        values: dict[str, Any] = {
            "seed": seed,
            "training_seconds": training_seconds,
            "verdict": verdict,
            "baseline_runs": baseline_runs,
            "prune": prune,
            "max_memory_gb": max_memory_gb,
            "sandbox": sandbox,
            "allow_untraced": allow_untraced,
            "proposer": proposer,
            "model": model,
            "agent": agent,
            "agent_cmd": agent_cmd,
            "share": share,
            "fallback_after": fallback_after,
            "model_timeout": model_timeout,
            "agent_timeout": agent_timeout,
            "max_cost": max_cost,
            "max_cost_per_experiment": max_cost_per_experiment,
        }
        by_default = {name for name in values if _is_default(context, name)}
        given = given_in(values, by_default)
        kept, said = merged(Options.folder.resolve(), tag, given)
        _require_consulted(given, kept)
        flags = {**values, **{name: None for name, value in values.items() if value == math.inf}, **kept}
        wanted = RunConfig(
            tag=tag,
            consult=ProposerConfig(
                proposer=flags["proposer"],
                model=flags["model"],
                agent=flags["agent"],
                agent_command=flags["agent_cmd"],
                share=flags["share"],
                fallback_after=flags["fallback_after"],
                silence=flags["model_timeout"],
                agent_seconds=flags["agent_timeout"],
                max_cost=flags["max_cost"],
                max_cost_per_experiment=flags["max_cost_per_experiment"],
            ),
            seed=flags["seed"],
            training_seconds=flags["training_seconds"],
            setup=setup,
            keep_awake=keep_awake,
            allow_untraced=flags["allow_untraced"],
            sandbox=flags["sandbox"],
            dry_run=dry_run,
            json=as_json,
            limits=limits,
            verdict=flags["verdict"],
            baseline_runs=flags["baseline_runs"],
            prune=flags["prune"],
            max_memory_gb=flags["max_memory_gb"],
            confirm=confirm,
            report=report,
            notify=tuple(notify or ()),
            kept=kept,
            said=said,
        )
        return launch(Options.folder, wanted)

    finish(work, "run", False, measures=True)


@command(RESEARCH)
def stop() -> None:
    """Ask the running loop to finish its experiment and end.

    As Ctrl-C in its terminal, from any other. Returns at once.

    \b
    Examples:
      autoresearch stop
      autoresearch -C ../recipe stop

    Exit code 3 where no loop runs.
    """

    def work() -> int:
        from agent.report.status import request_stop

        print(one_line(request_stop(Options.folder.resolve())))
        return 0

    finish(work, "stop", False)


def _require_consulted(given: Collection[str], kept: Collection[str]) -> None:
    """Raises UsageError for a flag about a model or an agent where none is asked: it would do nothing."""
    idle = [name for name in ("share", "fallback_after", "model_timeout", "agent_timeout") if name in given]
    if idle and not {"model", "agent", "agent_cmd"} & {*kept}:
        raise UsageError(f"--{idle[0].replace('_', '-')} is for a model or an agent: name one with --model or --agent")


def _is_default(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name.startswith("DEFAULT")
