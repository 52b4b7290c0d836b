"""Compare protocols: that of an earlier commit, and which of its fields have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from agent.format import one_line
from agent.protocol.models import Protocol
from agent.system.names import PROTOCOL

MOST_NAMED, LONGEST_VALUE = 4, 60


def protocol_of(text: str | None) -> Protocol | None:
    """Return the protocol in a text of protocol.json; None if it is missing or invalid."""
    if text is None:
        return None
    try:
        return Protocol.model_validate_json(text.removeprefix("\ufeff"))
    except ValidationError:
        return None


def changes(before: Protocol, now: Protocol) -> list[str]:
    """Return a phrase for each field that differs, such as `execution.command: make -> make fast`."""
    old, new = (dict(_fields(each.model_dump(mode="json", by_alias=True))) for each in (before, now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = [f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}" for name in names[:MOST_NAMED]]
    more = [f"and {len(names) - MOST_NAMED} more fields of {PROTOCOL}"] if len(names) > MOST_NAMED else []
    return [*shown, *more]


def clause_of(before: Protocol | None, now: Protocol | None) -> str:
    """Return what follows "protocol.json has changed": ": " and the fields that differ; empty if that is unknown."""
    found = changes(before, now) if before is not None and now is not None else []
    return f": {'; '.join(found)}" if found else ""


def _fields(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: object) -> str:
    text = one_line(str(value)) if value is not None else "none"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
