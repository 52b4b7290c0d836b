"""The command that takes data out of the program: `export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from agent.cli import completion
from agent.cli.command import answer, command
from agent.cli.program import LOOK, Options
from agent.errors import UsageError


@dataclass(frozen=True)
class Wanted:
    """What to export, and where to."""

    tag: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Session; repeat the flag for several. By default the most recent one.",
            autocompletion=completion.tags,
        ),
    ] = None
    form: Annotated[
        Literal["csv", "parquet", "jsonl"] | None,
        typer.Option("--format", help="Format; by default that of the ending of --out, or csv."),
    ] = None
    runs: Annotated[bool, typer.Option("--runs", help="Write one row for each run.")] = False
    curves: Annotated[bool, typer.Option("--curves", help="Write one row for each point of the learning curves.")] = (
        False
    )
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write to this file; for TensorBoard, below this folder."),
    ] = None
    to: Annotated[
        Literal["trackio", "wandb", "tensorboard"] | None,
        typer.Option(
            help="Send each session to this tracker as one run, with a step for each experiment; with --runs, each "
            "experiment as one run with its learning curve. Uses the package that you installed."
        ),
    ] = None


@command(LOOK, reads=True)
def export(wanted: Wanted) -> int:
    """Export sessions as a table, or to an experiment tracker.

    By default a table with one row for each experiment, and one column for each constant. It goes to stdout unless
    --out names a file. docs/export.md lists the columns.

    \b
    Examples:
      autoresearch export > mar5.csv
      autoresearch export --tag mar5 --tag mar6 --out nights.parquet
      autoresearch export --curves --format jsonl
      autoresearch export --to wandb --runs

    Exits with code 3 if the session does not exist, or the package of the tracker is not installed.
    """
    from agent.export.export import content, format_of, require_writable, send, write

    form, out, to, tags = wanted.form, wanted.out, wanted.to, wanted.tag or []
    if wanted.runs and wanted.curves:
        raise UsageError("--runs and --curves are mutually exclusive", hint="drop one of them")
    of: Literal["experiments", "runs", "curves"] = "experiments"
    if wanted.runs or wanted.curves:
        of = "runs" if wanted.runs else "curves"
    folder = Options.folder.resolve()
    if to is not None:
        if form is not None or (out is not None and to != "tensorboard"):
            raise UsageError(f"--to {to} writes no table", hint=f"drop {'--format' if form is not None else '--out'}")
        answer(False, "export", {}, send(to, folder, tags, of, out))
        return 0
    if out is not None:
        require_writable(folder, out)
    parts = content(folder, tags, of, format_of(out, form))
    if out is not None:
        write(out, parts)
        print(f"wrote {out}", file=sys.stderr)
        return 0
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.flush()
    return 0
