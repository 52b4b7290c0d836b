"""The folder of a claim: where its parts are, and how they are read without trusting it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agent.claim.models import Claim
from agent.errors import UsageError
from agent.format import one_line
from agent.protocol.load import fault_of
from agent.protocol.models import Protocol
from agent.system.files import Unusable, read_bounded, reason
from agent.system.names import PROTOCOL, linked_part

CLAIM, BUNDLE = "claim.json", "commits.bundle"
ATTESTATIONS = "attestations"
LARGEST_CLAIM, LARGEST_BUNDLE, LARGEST_PROTOCOL, LARGEST_LOG = 4 * 2**20, 256 * 2**20, 2**20, 2**20
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Evidence:
    """The content of a claim's folder, read once: what is checked is what is used.

    Attributes:
        digest: SHA-256 of claim.json.
        logs: name -> content.
        bundle: path of the bundle, whose size is checked.
    """

    folder: Path
    claim: Claim
    digest: str
    protocol: Protocol
    logs: dict[str, bytes]
    bundle: Path


def read_claim(folder: Path) -> Evidence:
    """Read the folder of a claim.

    Raises:
        UsageError: it is not a claim: a file is missing, too large, a link, or not of the format.
    """
    claim, text = parsed_claim(folder)
    names = [run.log for run in (*claim.runs.a, *claim.runs.b)]
    if len({*names}) < len(names):
        raise UsageError(f"{folder / CLAIM} names a log twice")
    protocol = _parsed(Protocol, _read(folder, PROTOCOL, LARGEST_PROTOCOL), folder / PROTOCOL)
    logs = {name: _read(folder, name, LARGEST_LOG) for name in names}
    _require_plain(folder, BUNDLE)
    try:
        size = (folder / BUNDLE).stat().st_size
    except OSError as error:
        raise UsageError(f"cannot read {folder / BUNDLE}: {reason(error)}") from None
    if size > LARGEST_BUNDLE:
        raise UsageError(f"cannot read {folder / BUNDLE}: it is larger than {LARGEST_BUNDLE // 2**20} MiB")
    return Evidence(folder, claim, hashlib.sha256(text).hexdigest(), protocol, logs, folder / BUNDLE)


def parsed_claim(folder: Path) -> tuple[Claim, bytes]:
    """Return the content of claim.json, parsed and as it is. Raises as `read_claim` does."""
    text = _read(folder, CLAIM, LARGEST_CLAIM)
    return _parsed(Claim, text, folder / CLAIM), text


def require_no_link(folder: Path, name: str) -> None:
    """Raise UsageError if a part of the claim's folder is a link, which could lead anywhere."""
    link = linked_part(folder, name)
    if link is not None:
        raise UsageError(f"cannot use {folder / link}: it is a link")


def _require_plain(folder: Path, name: str) -> None:
    try:
        require_no_link(folder, name)
        found = (folder / name).is_file()
    except OSError as error:  # a name that is too long
        raise UsageError(f"cannot read {folder / name}: {reason(error)}") from None
    if not found:
        hint = "give the folder that `autoresearch claim` wrote"
        raise UsageError(f"{folder} is not a claim: {name} not found", hint=hint)


def _read(folder: Path, name: str, most: int) -> bytes:
    _require_plain(folder, name)
    try:
        return read_bounded(folder / name, most)
    except (OSError, Unusable) as error:
        raise UsageError(f"cannot read {folder / name}: {reason(error)}") from None


def _parsed(model: type[Model], text: bytes, path: Path) -> Model:
    """Validate the content of a file.

    Raises:
        UsageError: it is not JSON, too deeply nested, or not what the model allows.
    """
    try:
        decoded = text.decode("utf-8-sig")
        json.loads(decoded, object_pairs_hook=_without_doubles)
        return model.model_validate_json(decoded)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not valid: the file is not UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{path} is not valid: the JSON is nested too deeply") from None
    except ValidationError as error:
        raise UsageError(f"{path} is not valid: {fault_of(error)}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid: {one_line(str(error))[:200]}") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field occurs twice")
    return found
