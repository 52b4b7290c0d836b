"""`autoresearch protocol`: check protocol.json and print its schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json
from agent.cli.program import PREPARE, Options, app
from agent.cli.usage import Commands

if TYPE_CHECKING:
    from agent.protocol.models import Protocol

protocol_app = typer.Typer(
    name="protocol",
    cls=Commands,
    help="Check protocol.json, or print its schema.\n\n"
    "\b\nExamples:\n  autoresearch protocol check\n  autoresearch protocol schema > protocol.schema.json",
)
app.add_typer(protocol_app, rich_help_panel=PREPARE)


@command(None, "check", on=protocol_app)
def protocol_check(as_json: Json = False) -> int:
    """Check protocol.json and explain what each field does.

    Prints one line per field: its value, where the value comes from (protocol.json, a default or a variable), and what
    the program does with it. Run it after you write or change protocol.json.

    \b
    Examples:
      autoresearch protocol check
      autoresearch protocol check --json

    Exits with code 2 if protocol.json is missing or invalid, and lists every invalid field. Also exits with 2 if
    `run` would refuse it: its `eligibility` field is not "eligible", or no committed file may change.
    """
    from agent.protocol.check import check, check_lines
    from agent.protocol.load import load_protocol

    protocol = load_protocol(Options.folder)
    imported, remarks = _harness(protocol)
    fields = check(protocol, imported, remarks)
    if not as_json:
        answer(False, "protocol check", {}, [*check_lines(fields), *(f"note: {text}" for text in remarks)])
    _require_usable(protocol)
    if as_json:
        answer(True, "protocol check", {"fields": fields}, [])
    return 0


@command(None, "schema", on=protocol_app)
def protocol_schema() -> None:
    """Print the JSON Schema of protocol.json.

    Use it for completion and checks in an editor, or to look up a field.

    \b
    Examples:
      autoresearch protocol schema > protocol.schema.json
      autoresearch protocol schema | jq '."$defs".Extract'
    """
    from agent.protocol.models import Protocol

    print(json.dumps(Protocol.model_json_schema(by_alias=True), indent=2))


def _require_usable(protocol: Protocol) -> None:
    """Check the protocol as `run` does, without requiring a git repository.

    Raises:
        UsageError: `run` would refuse the protocol.
    """
    from agent.errors import PreconditionError, UsageError
    from agent.protocol.load import require_runnable
    from agent.repository.workspace import NOTHING_MAY_CHANGE_HINT, Workspace, nothing_may_change

    require_runnable(protocol)
    try:
        workspace = Workspace(Options.folder, protocol)
        empty = not workspace.files(workspace.head)
    except PreconditionError:
        return
    if empty:
        raise UsageError(nothing_may_change(protocol), hint=NOTHING_MAY_CHANGE_HINT)


def _harness(protocol: Protocol) -> tuple[list[str], list[str]]:
    """Return the modules that the harness imports, and remarks on its paths; both empty without a commit."""
    from agent.errors import AutoresearchError
    from agent.repository.workspace import Workspace
    from agent.system.patterns import matches

    try:
        workspace = Workspace(Options.folder, protocol)
        files = workspace.harness(workspace.head)
    except AutoresearchError:
        return [], []
    globs = protocol.immutable_harness.paths
    imported = sorted(path for path in files if not any(matches(path, glob) for glob in globs))
    return imported, workspace.remarks_on_harness(workspace.head)
