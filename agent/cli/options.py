"""The flags and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from agent.cli import completion

# The sections of the help page of `run`: it alone has more options than a page without them can hold.
SESSION, END, PROPOSE = "The session", "When it ends", "Who proposes"
MEASURE, TELL = "Runs and verdict", "What it tells"

Tag = Annotated[
    str | None,
    typer.Option(
        "--tag",
        metavar="TAG",
        help="The session; without it the one last worked on.",
        autocompletion=completion.tags,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
TrainingSeconds = Annotated[
    float | None,
    typer.Option(
        envvar="AUTORESEARCH_TRAINING_SECONDS",
        min=0.1,
        metavar="SECONDS",
        help="Training budget of a run; else what the protocol says.",
        rich_help_panel=MEASURE,
    ),
]
SandboxMode = Annotated[
    Literal["auto", "off", "strict"],
    typer.Option(
        "--sandbox",
        envvar="AUTORESEARCH_SANDBOX",
        help="auto: confine what training writes, hide secrets and keep networkPolicy, as far as this system can. "
        "strict: or do not start. AUTORESEARCH_KEEP_ENV=NAME,... lets variables through.",
        rich_help_panel=MEASURE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        envvar="AUTORESEARCH_MODEL",
        metavar="MODEL",
        help="A language model: openai:NAME, anthropic:NAME, ollama:NAME, lmstudio:NAME, mlx:NAME or "
        "'http://host:port/v1 NAME'.",
        rich_help_panel=PROPOSE,
    ),
]
Agent = Annotated[
    str | None,
    typer.Option(
        envvar="AUTORESEARCH_AGENT",
        metavar="NAME",
        help="A coding agent: claude, codex, gemini, opencode, aider or mini.",
        autocompletion=completion.agents,
        rich_help_panel=PROPOSE,
    ),
]
Setup = Annotated[
    bool,
    typer.Option(
        "--setup/--no-setup",
        help="Run the protocol's set-up commands if they are due.",
        rich_help_panel=SESSION,
    ),
]
