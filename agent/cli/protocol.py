"""`autoresearch protocol`: what protocol.json says, and what it may say."""

from __future__ import annotations

import json

import typer

from agent.cli.command import answer, command
from agent.cli.options import Json
from agent.cli.program import PREPARE, Options, app
from agent.cli.usage import Commands

protocol_app = typer.Typer(
    name="protocol",
    cls=Commands,
    help="Look at protocol.json: what may change, how to run.\n\n"
    "\b\nExamples:\n  autoresearch protocol check\n  autoresearch protocol schema > protocol.schema.json",
)
app.add_typer(protocol_app, rich_help_panel=PREPARE)


@command(None, "check", on=protocol_app)
def protocol_check(as_json: Json = False) -> int:
    """Check protocol.json, and say what is done with each field.

    Prints a line a field: its value, where that comes from (protocol.json, default, or a variable), and what the
    program does about it.

    \b
    Examples:
      autoresearch protocol check
      autoresearch protocol check --json

    Exit code 2 where protocol.json is missing or not valid, with every faulty field, and where `run` would refuse it:
    it is not eligible, or nothing that is committed may change.
    """
    from agent.protocol.check import check, check_lines
    from agent.protocol.load import load_protocol
    from agent.session.recovery import imported_by_harness, require_usable

    protocol = load_protocol(Options.folder)
    fields = check(protocol, imported_by_harness(protocol, Options.folder))
    if not as_json:
        answer(False, "protocol check", {}, check_lines(fields))
    require_usable(protocol, Options.folder)
    if as_json:
        answer(True, "protocol check", {"fields": fields}, [])
    return 0


@command(None, "schema", on=protocol_app)
def protocol_schema() -> None:
    """Print the JSON Schema of protocol.json, for editors.

    \b
    Examples:
      autoresearch protocol schema > protocol.schema.json
      autoresearch protocol schema | jq '."$defs".Extract'
    """
    from agent.protocol.models import Protocol

    print(json.dumps(Protocol.model_json_schema(by_alias=True), indent=2))
