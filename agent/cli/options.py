"""Flags and arguments that several commands share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from agent.cli import completion

# The sections of the help page of `run`, the only one with too many options for a plain list.
SESSION, END, PROPOSE = "Session", "End of the session", "Proposer"
MEASURE, STATIONS, TELL = "Runs and verdict", "Stations", "Output"


def finite(value: float | None) -> float | None:
    """Return the value of an option. Raises typer.BadParameter if it is not finite: such a number limits nothing."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value:g}")
    return value


Tag = Annotated[
    str | None,
    typer.Option(
        "--tag",
        metavar="TAG",
        help="Session; by default the most recent one.",
        autocompletion=completion.tags,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TrainingSeconds = Annotated[
    float | None,
    typer.Option(
        envvar="AUTORESEARCH_TRAINING_SECONDS",
        min=0.1,
        callback=finite,
        metavar="SECONDS",
        help="Training time of a run; by default that of protocol.json.",
        rich_help_panel=MEASURE,
    ),
]
SandboxMode = Annotated[
    Literal["auto", "off", "strict"],
    typer.Option(
        "--sandbox",
        envvar="AUTORESEARCH_SANDBOX",
        help="Confine runs: where they write, which files and variables they see, and the network as protocol.json "
        "sets it. auto: as far as the system allows; strict: refuse to start unless fully confined; off: no sandbox. "
        "AUTORESEARCH_KEEP_ENV=NAME,... lets variables through.",
        rich_help_panel=MEASURE,
    ),
]
SessionSandbox = Annotated[
    Literal["auto", "off", "strict"] | None,
    typer.Option(
        "--sandbox",
        envvar="AUTORESEARCH_SANDBOX",
        help="Confine runs, as in `run`; by default as the session does.",
        rich_help_panel=MEASURE,
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option(
        "--holdout",
        metavar="COMMAND",
        help="Command that prints the metric on data that neither runs nor candidates see. It runs after each run of "
        "`confirm`, in the same copy. Not needed if prepare.py makes a holdout.",
        rich_help_panel=MEASURE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="AUTORESEARCH_MODEL",
        metavar="MODEL",
        help="Language model: openai:NAME, anthropic:NAME, ollama:NAME, lmstudio:NAME, mlx:NAME or "
        "'http://host:port/v1 NAME'.",
        rich_help_panel=PROPOSE,
    ),
]
Agent = Annotated[
    str | None,
    typer.Option(
        envvar="AUTORESEARCH_AGENT",
        metavar="NAME",
        help="Coding agent: claude, codex, gemini, opencode, aider or mini.",
        autocompletion=completion.agents,
        rich_help_panel=PROPOSE,
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Go on in the background, without this terminal.",
        rich_help_panel=SESSION,
    ),
]
Setup = Annotated[
    bool,
    typer.Option(
        "--setup/--no-setup",
        help="Run the setup commands of protocol.json unless they have run here.",
        rich_help_panel=SESSION,
    ),
]


@dataclass(frozen=True)
class ConnectionFlags:
    """Flags of a connection to a scheduler."""

    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            envvar="AUTORESEARCH_TLS",
            metavar="DIR",
            help="Folder of the certificates.",
            rich_help_panel=SESSION,
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Allow a connection without certificates, on a network that you trust, to candidates with network "
            "access as well.",
            rich_help_panel=SESSION,
        ),
    ] = False
