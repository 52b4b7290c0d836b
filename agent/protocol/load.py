"""Reading protocol.json: one sentence for whatever is wrong with the file, its fields or its examples."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from agent.errors import NoMetric, UsageError
from agent.format import plain
from agent.protocol.extract import extract
from agent.protocol.models import FILENAME, Protocol
from agent.system.files import read_bounded, reason
from agent.system.names import STATE, linked_part
from agent.system.patterns import short

LARGEST_FILE = 2**20
EXAMPLE_SECONDS = 2.0  # an example is short, and a person waits for it
MOST_FAULTS, LONGEST_WHERE = 10, 200


def load_protocol(workspace: Path) -> Protocol:
    """Read and check `protocol.json`. Raises UsageError with one sentence that names every faulty field."""
    path = workspace / FILENAME
    try:
        text = read_bounded(path, LARGEST_FILE).decode("utf-8-sig")
        json.loads(text, object_pairs_hook=_without_doubles)
        protocol = Protocol.model_validate_json(text)
        protocol.digest  # noqa: B018 - what cannot be written down again cannot be recorded
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no {FILENAME} in {workspace}: change to a workspace, or name it with -C") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a valid protocol: it is not UTF-8 text") from None
    except ValidationError as error:
        raise UsageError(f"{path} is not a valid protocol: {_sentence(error)}") from None
    except RecursionError:
        raise UsageError(f"{path} is not a valid protocol: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a valid protocol: {' '.join(str(error).split())}") from None
    _require_inside(protocol, workspace, path)
    _try_examples(protocol, path)
    return protocol


def require_runnable(protocol: Protocol) -> None:
    """Raises UsageError where the protocol itself says that it is not ready to run."""
    if protocol.schema_kind != "protocol":
        raise UsageError(f'{FILENAME} is a {protocol.schema_kind}: finish it, then set "schemaKind": "protocol"')
    if protocol.meta.eligibility != "eligible":
        raise UsageError(f"{FILENAME} says meta.eligibility {protocol.meta.eligibility}: only eligible ones are run")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two fields of one name counts."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {short(next(name for name in names if names.count(name) > 1))} is there twice")
    return fields


def _require_inside(protocol: Protocol, workspace: Path, path: Path) -> None:
    """Raises UsageError where a path of the protocol leads out of the workspace, or onto a file that is not its own."""
    for field, place in protocol.written:
        link = linked_part(workspace, place)
        if link is not None:
            raise UsageError(f"{path}: {field}: {short(link)} is a link: remove it, or name another path")
        if (workspace / place).exists() and not (workspace / place).is_file():
            raise UsageError(f"{path}: {field}: {short(place)} is no plain file: remove it, or name another path")
    artifact = protocol.provenance.baseline_artifact_path
    if PurePosixPath(artifact).parts[0] != STATE and _is_foreign(workspace / artifact):
        raise UsageError(
            f"{path}: provenance.baselineArtifactPath: {short(artifact)} is there already and is no baseline's log: "
            "name another path"
        )
    try:
        inside = (workspace / protocol.execution.cwd).resolve().is_relative_to(workspace.resolve())
    except (OSError, RuntimeError):  # links that lead to themselves
        inside = False
    if not inside:
        raise UsageError(f"{path}: execution.cwd: {short(protocol.execution.cwd)} leads out of the workspace")


def _is_foreign(log: Path) -> bool:
    """Whether something is there that no baseline has written: those leave their record beside the log."""
    return log.exists() and not log.with_name("baseline.json").is_file()


def _sentence(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:MOST_FAULTS]:
        where = ".".join(str(part) for part in fault["loc"])[:LONGEST_WHERE]
        what = (
            "the field is unknown" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        )
        faults.append(f"{where}: {what}" if where else what)
    more = error.error_count() - len(faults)
    return plain("; ".join(faults) + (f"; and {more} more" if more else ""))


def _try_examples(protocol: Protocol, path: Path) -> None:
    for metric in (protocol.metric, *protocol.measurement.secondary_metrics):
        example = metric.extract.example_stdout
        if example is not None and metric.extract.path is None:
            try:
                extract(metric, example, seconds=EXAMPLE_SECONDS)
            except NoMetric as error:
                raise UsageError(f"{path}: {metric.name} is not found in its own exampleStdout: {error}") from None
