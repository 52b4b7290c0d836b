"""The flags of `run`, in the groups of its help page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from agent.cli import completion
from agent.cli.options import (
    END,
    MEASURE,
    PROPOSE,
    SESSION,
    STATIONS,
    TELL,
    Agent,
    Detach,
    Holdout,
    Model,
    SandboxMode,
    Setup,
    TrainingSeconds,
    finite,
)


@dataclass(frozen=True)
class SessionFlags:
    """Flags that name and start the session."""

    tag: Annotated[
        str,
        typer.Option(
            "--tag",
            envvar="AUTORESEARCH_TAG",
            metavar="TAG",
            help="Name of the session and its branch.",
            autocompletion=completion.tags,
            rich_help_panel=SESSION,
        ),
    ]
    seed: Annotated[
        int,
        typer.Option(
            envvar="AUTORESEARCH_SEED", metavar="N", help="Random seed for the proposals.", rich_help_panel=SESSION
        ),
    ] = 0
    # `from` is a keyword.
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TAG",
            help="Start a new session at the best of session TAG, instead of at HEAD.",
            autocompletion=completion.tags,
            rich_help_panel=SESSION,
        ),
    ] = None
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Learn nothing from the workspace's other sessions.", rich_help_panel=SESSION),
    ] = False
    setup: Setup = True
    at_login: Annotated[
        bool | None,
        typer.Option(
            "--at-login/--no-at-login",
            help="After a reboot, continue the session at your next login (launchd, systemd).",
            rich_help_panel=SESSION,
        ),
    ] = None
    detach: Detach = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, print the plan, and exit.", rich_help_panel=SESSION),
    ] = False


@dataclass(frozen=True)
class EndFlags:
    """Flags for the limits, and for what follows the last experiment."""

    max_experiments: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Stop when the session has N experiments in total.", rich_help_panel=END),
    ] = None
    max_hours: Annotated[
        float | None,
        typer.Option(min=0, metavar="HOURS", help="Stop this many hours after this start.", rich_help_panel=END),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop at a time of day (07:00, 7am), at a date and time (2026-03-05T07:00), or after a duration (8h, "
            "1h30m).",
            rich_help_panel=END,
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop after N rejected experiments in a row.", rich_help_panel=END),
    ] = None
    target: Annotated[
        float | None,
        typer.Option(callback=finite, metavar="VALUE", help="Stop when the metric reaches VALUE.", rich_help_panel=END),
    ] = None
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm/--no-confirm",
            envvar="AUTORESEARCH_CONFIRM",
            help="Compare baseline and best at the end, with three held-out runs each.",
            rich_help_panel=END,
        ),
    ] = True
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            envvar="AUTORESEARCH_REPORT",
            help="Write the report at the end.",
            rich_help_panel=END,
        ),
    ] = True


@dataclass(frozen=True)
class ProposerFlags:
    """Flags of the proposer."""

    proposer: Annotated[
        str | None,
        typer.Option(
            envvar="AUTORESEARCH_PROPOSER",
            metavar="NAME",
            help="Proposer: search (built in), llm, command (an agent) or hybrid. By default hybrid with --model or "
            "--agent, otherwise search.",
            autocompletion=completion.proposers,
            rich_help_panel=PROPOSE,
        ),
    ] = None
    model: Model = None
    agent: Agent = None
    agent_cmd: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Command for any other agent, as in 'my-agent --task {prompt_file}'.",
            rich_help_panel=PROPOSE,
        ),
    ] = None
    agent_timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Timeout of one agent call.", rich_help_panel=PROPOSE)
    ] = 900
    share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="FRACTION",
            help="Fraction of experiments that the model or agent proposes; the search proposes the rest.",
            rich_help_panel=PROPOSE,
        ),
    ] = 0.3
    fallback_after: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Switch to the search when the model or agent has been unavailable for this long.",
            rich_help_panel=PROPOSE,
        ),
    ] = 300
    model_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Idle timeout of a model's response.",
            rich_help_panel=PROPOSE,
        ),
    ] = 120
    max_cost: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DOLLARS", help="Cap on the cost of the session; by default none.", rich_help_panel=PROPOSE
        ),
    ] = None
    max_cost_per_experiment: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="DOLLARS",
            help="Cap on the cost of one experiment; by default none.",
            rich_help_panel=PROPOSE,
        ),
    ] = None
    ahead: Annotated[
        bool | None,
        typer.Option(
            "--ahead/--no-ahead",
            help="Let the model or agent make the next proposal while a run is in progress; by default it does unless "
            "this machine serves the model, and always with --scheduler.",
            rich_help_panel=PROPOSE,
        ),
    ] = None


@dataclass(frozen=True)
class MeasureFlags:
    """Flags of the runs, the verdict, and the stations that make the runs."""

    training_seconds: TrainingSeconds = None
    sandbox: SandboxMode = "auto"
    allow_untraced: Annotated[
        bool,
        typer.Option(
            "--allow-untraced",
            help="Accept a trained network that cannot be exported for independent scoring. It then computes its own "
            "metric, and its results are marked unattested.",
            rich_help_panel=MEASURE,
        ),
    ] = False
    holdout: Holdout = None
    keep_awake: Annotated[
        bool,
        typer.Option(
            "--keep-awake/--no-keep-awake",
            help="Keep the machine awake during the session.",
            rich_help_panel=MEASURE,
        ),
    ] = True
    prune: Annotated[
        bool,
        typer.Option(
            "--prune/--no-prune",
            help="Stop a run early if it exceeds its budget or is predicted to lose.",
            rich_help_panel=MEASURE,
        ),
    ] = True
    ladder: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS,SECONDS",
            help="Screen candidates with the first training budget, and judge with the second, the full one, as in "
            "60,300. Which edits are screened is learned; off ends it.",
            rich_help_panel=MEASURE,
        ),
    ] = None
    baseline_runs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Runs of the baseline; by default 2, or 1 with `--verdict greedy`.",
            rich_help_panel=MEASURE,
        ),
    ] = None
    verdict: Annotated[
        Literal["confirm", "greedy"],
        typer.Option(
            help="Rule for keeping a candidate. confirm: repeat candidate and incumbent (the current best) until a "
            "sequential test decides, at most 8 runs; greedy: keep every candidate that is better in one run.",
            rich_help_panel=MEASURE,
        ),
    ] = "confirm"
    max_memory_gb: Annotated[
        float | None,
        typer.Option(min=0, metavar="GB", help="Discard candidates that need more memory.", rich_help_panel=MEASURE),
    ] = None
    stations: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Run candidates on N stations of this machine at the same time: one for each GPU, or for a set of "
            "cores. Needs the extra `fleet`.",
            rich_help_panel=STATIONS,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run candidates on the stations that have joined this Dask scheduler, such as tcp://studio.local:8786 "
            "(see `autoresearch station`).",
            rich_help_panel=STATIONS,
        ),
    ] = None
    tls: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Certificates for the scheduler, made by `autoresearch station --make-certificates DIR`.",
            rich_help_panel=STATIONS,
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Connect to a scheduler on another machine without TLS: whoever reaches it can run code as you, "
            "also candidates with network access.",
            rich_help_panel=STATIONS,
        ),
    ] = False


@dataclass(frozen=True)
class TellFlags:
    """Flags of the output."""

    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WAY",
            help="Notify on a new best, a problem and the end of the session: bell, desktop, or a command such as "
            "'my-notifier {title} {text}'. Repeat the flag for several.",
            rich_help_panel=TELL,
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print events as they happen, one JSON object per line.", rich_help_panel=TELL),
    ] = False


@dataclass(frozen=True)
class RunFlags:
    """All flags of `run`, with the values that were given."""

    session: SessionFlags
    end: EndFlags
    who: ProposerFlags
    measure: MeasureFlags
    tell: TellFlags
