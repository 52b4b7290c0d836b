"""Generate the reference of protocol.json in docs/protocol.md from the models of `agent.protocol.models`.

    python -m agent.protocol.reference docs/protocol.md      regenerates the text between the page's markers

The rest of the page is written manually. A test checks that the page is up to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.protocol.models import Protocol
from agent.system.names import PROTOCOL

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"
HEAD = ("| field | type | effect | example |", "|---|---|---|---|")
BOUNDS = {"gt": "above {}", "ge": "at least {}", "le": "at most {:,.0f}", "min_length": "not empty"}
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
WIDEST = 60  # characters of an example


def page(text: str, example: dict[str, Any]) -> str:
    """Return the page `text` with a regenerated reference.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must contain the markers {BEGIN} and {END}")
    whole = json.dumps(example, indent=2, ensure_ascii=False)
    return f"{before}{BEGIN}\n\n{reference(example)}\n\n## A complete example\n\n```json\n{whole}\n```\n\n{END}{after}"


def reference(example: dict[str, Any]) -> str:
    """Return one Markdown table per section of the protocol, with the values of `example` as examples."""
    plain = [(name, field) for name, field in Protocol.model_fields.items() if not _models(field)]
    top = [_row(field.alias or name, field, example.get(field.alias or name)) for name, field in plain]
    parts = ["\n".join(["### Top level", "", *HEAD, *top])]
    for name, field in Protocol.model_fields.items():
        title = field.alias or name
        for model in _models(field):
            says = f"{(field.description or '').capitalize()}. {_need(field).capitalize()}."
            rows = _rows(model, "", example.get(title))
            parts.append("\n".join([f"### {title}", "", says, "", *HEAD, *rows]))
    return "\n\n".join(parts)


def _rows(model: type[BaseModel], prefix: str, example: Any) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        value = example.get(field.alias or name) if isinstance(example, dict) else None
        yield _row(path, field, value)
        # Secondary metrics have the same fields as the primary one.
        for inner in _models(field) if path != "secondaryMetrics" else ():
            yield from _rows(inner, f"{path}[]." if _list(field) else f"{path}.", value)


def _row(path: str, field: FieldInfo, value: Any) -> str:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    effect = (field.description or "").replace("<", "&lt;")
    how = "**enforced**" if extra.get("enforced", True) else "information"
    shown = "" if value is None or _models(field) else _code(_short(value))
    return f"| {_code(path)} | {_holds(field)}; {_need(field)} | {how}: {_cell(effect)} | {shown} |"


def _holds(field: FieldInfo) -> str:
    return ", ".join([_kind(field.annotation), *_bounds(field.metadata)])


def _bounds(rules: Iterable[Any]) -> list[str]:
    return [
        words.format(getattr(rule, name))
        for rule in rules
        for name, words in BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]


def _kind(annotation: Any) -> str:
    """Describe a type in words, without the None of an optional field."""
    if get_origin(annotation) is Annotated:
        kind, *rules = get_args(annotation)
        within = [each for rule in rules if isinstance(rule, FieldInfo) for each in rule.metadata]
        return ", ".join([_kind(kind), *_bounds(within)])
    if get_origin(annotation) is Literal:
        return " or ".join(_code(each) for each in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    if get_origin(annotation) is dict:
        return "object of objects"
    parts = [part for part in get_args(annotation) if part is not NoneType]
    return " or ".join(map(_kind, parts)) if parts else NAMES[annotation]


def _need(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    if default is None or isinstance(default, BaseModel):
        return "optional"
    return f"default {_code(json.dumps(default))}"


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the models of a field, including those in a union or a list."""
    found, left = [], [field.annotation]
    while left:
        each = left.pop(0)
        if isinstance(each, type) and issubclass(each, BaseModel):
            found.append(each)
        elif get_origin(each) is not Literal:
            left += get_args(each)
    return found


def _list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text(), json.loads(Path(PROTOCOL).read_bytes())))
