"""`protocol check`: list every field with its value, the value's origin, and what the program does with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from agent.protocol.models import Protocol

HARNESS, MOST_SHOWN = "immutableHarness.paths", 20
VARIABLES = {"execution.stopCondition.trainingSecondsBudget": "AUTORESEARCH_TRAINING_SECONDS"}


def check(protocol: Protocol, imported: Sequence[str] = (), remarks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return one entry per field: {field, value, origin, enforced, effect}.

    The origin is protocol.json, default or the name of an environment variable.

    Args:
        protocol: the protocol to describe.
        imported: modules of the workspace that the harness imports; they are listed with the harness.
        remarks: sentences about the paths of the harness.
    """
    fields = _fields(protocol, "")
    harness = next(field for field in fields if field["field"] == HARNESS)
    harness["effect"] += "".join(f"; {text}" for text in remarks)
    if imported:
        more = f" and {len(imported) - MOST_SHOWN} more" if len(imported) > MOST_SHOWN else ""
        harness["effect"] += f"; they import {', '.join(imported[:MOST_SHOWN])}{more}"
    return fields


def check_lines(fields: list[dict[str, Any]]) -> list[str]:
    wide = max(len(field["field"]) for field in fields)
    return [
        f"{field['field']:<{wide}}  {_short(field['value'])}  ({field['origin']})  "
        f"{'enforced' if field['enforced'] else 'information'}: {field['effect']}"
        for field in fields
    ]


def _fields(model: BaseModel, prefix: str) -> list[dict[str, Any]]:
    found = []
    for name, field in type(model).model_fields.items():
        value, path = getattr(model, name), f"{prefix}{field.alias or name}"
        if isinstance(value, BaseModel):
            found += _fields(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(item, BaseModel) for item in value):
            for index, item in enumerate(value):
                found += _fields(item, f"{path}.{index}.")
        else:
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            variable = VARIABLES.get(path, "")
            origin = "protocol.json" if name in model.model_fields_set else "default"
            if variable in os.environ:
                value, origin = os.environ[variable], variable
            found.append(
                {
                    "field": path,
                    "value": value,
                    "origin": origin,
                    "enforced": bool(extra.get("enforced", True)),
                    "effect": field.description or "part of the field above",
                }
            )
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
