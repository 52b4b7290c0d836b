"""The JSON Schemas of docs/schemas/, by name: `event` is docs/schemas/event.schema.json."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

from tests.common.workspaces import ROOT

FOLDER = ROOT / "docs" / "schemas"
ENDING = ".schema.json"


def names() -> list[str]:
    """Return the names of all schemas; `common` holds what others share."""
    return sorted(path.name.removesuffix(ENDING) for path in FOLDER.iterdir())


@cache
def schema(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}{ENDING}").read_bytes())
    return content


@cache
def kinds(name: str) -> dict[str, dict[str, Any]]:
    """Return the schema of each kind of event, by its name in the field `event`."""
    found = schema(name)["$defs"]
    return {kind: each for kind, each in found.items() if "event" in each.get("properties", {})}


def fault(name: str, value: Any) -> str | None:
    """Return what a value has that its schema does not allow; None if it is valid.

    Args:
        name: The schema. `event` and `run` choose the kind by the value's own field, so that the fault is precise.
    """
    where = f"{name}{ENDING}"
    if name in ("event", "run") and isinstance(value, dict):
        of = next((each for each in ("event", name) if value.get("event") in kinds(each)), None)
        if of is None or (name == "event" and of != "event"):
            return f"an event of the unknown kind {value.get('event')!r}"
        where = f"{of}{ENDING}#/$defs/{value['event']}"
    found = best_match(_validator(where).iter_errors(value))
    return None if found is None else f"{found.json_path}: {found.message}"


@cache
def _validator(where: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": where}, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    found = {f"{name}{ENDING}": Resource.from_contents(schema(name)) for name in names()}
    registry: Registry[Any] = Registry().with_resources(found.items())
    return registry
