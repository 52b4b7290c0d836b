"""Load protocol.json and validate the file, its fields and its examples."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.errors import NoMetric, UsageError
from agent.format import plain
from agent.protocol.extract import extract
from agent.protocol.models import Protocol
from agent.system.files import open_plain, read_bounded, reason
from agent.system.invocation import typed
from agent.system.names import PROTOCOL, STATE, linked_part
from agent.system.patterns import short

LARGEST_FILE, LARGEST_RECORD = 2**20, 2**22  # bytes; the second as in `agent.journal.paths`
EXAMPLE_SECONDS = 2.0  # time limit for matching an example, which is short
MOST_FAULTS, LONGEST_WHERE = 10, 200
ANOTHER_PATH = "remove it, or name another path"


def load_protocol(workspace: Path) -> Protocol:
    """Load and validate `protocol.json`.

    Raises:
        UsageError: the file is missing, unreadable or invalid. The message names the invalid fields.
    """
    path = workspace / PROTOCOL
    try:
        text = read_bounded(path, LARGEST_FILE).decode("utf-8-sig")
        json.loads(text, object_pairs_hook=_without_doubles)
        protocol = Protocol.model_validate_json(text)
        protocol.digest  # noqa: B018 - fails for content that cannot be serialized, and so not recorded
    except (FileNotFoundError, NotADirectoryError):
        hint = f"change to a workspace or name one with -C; `{typed('init')}` writes {PROTOCOL}"
        raise UsageError(f"{PROTOCOL} not found in {workspace}", hint=hint) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a valid protocol: the file is not UTF-8 text") from None
    except ValidationError as error:
        raise UsageError(f"{path} is not a valid protocol: {fault_of(error)}") from None
    except RecursionError:
        raise UsageError(f"{path} is not a valid protocol: the JSON is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a valid protocol: {' '.join(str(error).split())}") from None
    _require_inside(protocol, workspace, path)
    _try_examples(protocol, path)
    return protocol


def require_runnable(protocol: Protocol) -> None:
    """Check that the protocol is marked as ready to run.

    Raises:
        UsageError: it is a draft or not eligible.
    """
    if protocol.schema_kind != "protocol":
        raise UsageError(
            f"{PROTOCOL} is a {protocol.schema_kind}, not a protocol",
            hint=f'run `{typed("init --force")}`, or complete the file and set "schemaKind": "protocol"',
        )
    if protocol.meta.eligibility != "eligible":
        raise UsageError(
            f'meta.eligibility in {PROTOCOL} must be "eligible", got "{protocol.meta.eligibility}"',
            hint='resolve what makes it ineligible, then set "eligibility": "eligible"',
        )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields; reject duplicate names, as JSON readers differ in which one counts."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate field {short(next(name for name in names if names.count(name) > 1))}")
    return fields


def _require_inside(protocol: Protocol, workspace: Path, path: Path) -> None:
    """Check that the protocol's paths stay in the workspace and overwrite no foreign file.

    Raises:
        UsageError: one does not; the message names its field.
    """
    for field, place in protocol.written:
        link = linked_part(workspace, place)
        if link is not None:
            raise UsageError(f"{path}: {field}: {short(link)} is a symbolic link", hint=ANOTHER_PATH)
        if (workspace / place).exists() and not (workspace / place).is_file():
            raise UsageError(f"{path}: {field}: {short(place)} is not a regular file", hint=ANOTHER_PATH)
    artifact = protocol.provenance.baseline_artifact_path
    foreign = None if PurePosixPath(artifact).parts[0] == STATE else _foreign(workspace, artifact)
    if foreign:
        raise UsageError(f"{path}: provenance.baselineArtifactPath: {foreign}", hint=ANOTHER_PATH)
    try:
        inside = (workspace / protocol.execution.cwd).resolve().is_relative_to(workspace.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise UsageError(f"{path}: execution.cwd: {short(protocol.execution.cwd)} is outside of the workspace")


def _foreign(workspace: Path, artifact: str) -> str | None:
    """Return which file a baseline would overwrite that no baseline wrote; None if there is none.

    A baseline leaves a record next to its log. One of an earlier version left none if it was killed or failed.
    """
    log = workspace / artifact
    record = log.with_name("baseline.json")
    if record.exists():
        name = PurePosixPath(artifact).with_name(record.name).as_posix()
        return None if _is_record(record) else f"{short(name)} next to the log exists and is not a baseline's record"
    if not log.exists():
        return None
    if _is_left_over(workspace, str(workspace.resolve() / artifact)):
        return None
    return f"{short(artifact)} exists and is not a baseline's log"


def _is_record(path: Path) -> bool:
    try:
        return isinstance(json.loads(read_bounded(path, LARGEST_RECORD))["runs"], list)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_left_over(workspace: Path, log: str) -> bool:
    """Return whether the last that the journals say of a log is that a session of an earlier version began it.

    Such a session has no ID. After any other baseline, a log without a record is not the one that it wrote.
    """
    last = 0.0, False
    for journal in (workspace / STATE).glob("sessions/*/journal.jsonl"):
        events = _start_of(journal)
        earlier = bool(events) and events[0].get("event") == "session" and "id" not in events[0]
        for event in events:
            if event.get("log") == log and isinstance(event.get("at"), int | float):
                last = max(last, (event["at"], earlier and event.get("event") == "started"))
    return last[1]


def _start_of(journal: Path) -> list[dict[str, Any]]:
    """Return the events of the baseline, with some more; none if they cannot be read."""
    found = []
    try:
        with open_plain(journal) as file:
            lines = file.read(LARGEST_FILE).splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):  # the last line, which a kill or the limit cut
            continue
    return [event for event in found if isinstance(event, dict)]


def fault_of(error: ValidationError, most: int = MOST_FAULTS) -> str:
    """Return what is wrong with a file as one clause, without the terms of pydantic."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:most]:
        where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("function-", "[key]")))[
            :LONGEST_WHERE
        ]
        what = _words(fault)
        faults.append(f"{where}: {what}" if where else what)
    more = error.error_count() - len(faults)
    return plain("; ".join(faults) + (f"; and {more} more" if more else ""))


def _words(fault: ErrorDetails) -> str:
    """Return why a field is invalid."""
    limits = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "unknown field"
        case "missing":
            return "required field is missing"
        case "literal_error":
            return f"must be {limits['expected']}"
        case "greater_than":
            return f"must be above {limits['gt']:,.10g}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:,.10g}"
        case "less_than_equal":
            return f"must be at most {limits['le']:,.10g}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "list_type":
            return "must be a list"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
    # As in "Input should be a valid number, unable to parse string as a number".
    text = re.sub(r"^Input should be (an? )(?:valid )?([^,]*)(?:, .*)?$", r"must be \1\2", fault["msg"])
    return text.removeprefix("Value error, ")


def _try_examples(protocol: Protocol, path: Path) -> None:
    for metric in (protocol.metric, *protocol.measurement.secondary_metrics):
        example = metric.extract.example_stdout
        if example is not None and metric.extract.path is None:
            try:
                extract(metric, example, seconds=EXAMPLE_SECONDS)
            except NoMetric as error:
                message = f"{path}: {metric.name} is not found in its own exampleStdout: {error}"
                raise UsageError(message, hint="correct the rule in extract, or its exampleStdout") from None
