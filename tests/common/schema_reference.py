"""The tables of docs/files.md, written from docs/schemas/, which tests hold true.

    uv run python -m tests.common.schema_reference docs/files.md      writes what stands between the page's marks

A mark is `<!-- schema: NAME -->`; its table ends at `<!-- end -->`. The rest of the page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.common import schemas

COMMAND = "uv run python -m tests.common.schema_reference docs/files.md"
MARKED = re.compile(r"(<!-- schema: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = ("| Field | Type | Meaning |", "|---|---|---|")
ROW_HEAD = ("| Column | Content | Meaning |", "|---|---|---|")
# Definitions that need no section of their own.
INLINE = {
    "commit": "commit hash",
    "digest": "SHA-256",
    "value": "number, boolean or string",
    "parameters": "object: constant to value",
    "reservations": "list of `unconfined`, `unattested`, `repeated after faults`",
}
WIDTH = 100  # columns of prose
SAME = ("event", "at")  # every event has them


def page(text: str) -> str:
    """Return the page with its tables written again."""
    return MARKED.sub(lambda found: f"{found[1]}\n{content(found[2])}\n\n{found[3]}", text)


def marks(text: str) -> list[str]:
    """Return the names of the schemas whose tables a page has."""
    return [found[2] for found in MARKED.finditer(text)]


def content(name: str) -> str:
    """Return what the page says about a schema."""
    schema = schemas.schema(name)
    if name in ("event", "run"):
        kinds = schemas.kinds(name)
        return "\n\n".join([_kinds(kinds), *(_kind(kind, each) for kind, each in kinds.items())])
    if name == "common":
        sections = {each: found for each, found in schema["$defs"].items() if each not in INLINE}
        return "\n\n".join(
            f"### {each}\n\n{_prose(_says(found))}\n\n{_table(found)}" for each, found in sections.items()
        )
    if name == "results":
        return _table(schema, ROW_HEAD)
    if "oneOf" in schema:  # the envelope of a command, which all share
        data = schema["oneOf"][0]["properties"]["data"]
        return f"`data` has the fields of {_type(data)}." if "$ref" in data else _table(data)
    return _table(schema)


def _kinds(kinds: dict[str, dict[str, Any]]) -> str:
    rows = [f"| [`{kind}`](#{kind}) | {_says(each)} |" for kind, each in kinds.items()]
    return "\n".join(["| Kind | Meaning |", "|---|---|", *rows])


def _kind(kind: str, schema: dict[str, Any]) -> str:
    own = {name: each for name, each in schema["properties"].items() if name not in SAME or kind == "summary"}
    if kind == "summary":
        rest = [f"`{name}`: {each['description'].rstrip('.')}" for name, each in own.items() if name == "report"]
        says = f"{_says(schema)} It has the fields of [`status`](#status) up to `ended`, and {rest[0]}."
        return f"### {kind}\n\n{_prose(says)}"
    return f"### {kind}\n\n{_prose(_says(schema))}\n\n{_table({**schema, 'properties': own})}"


def _says(schema: dict[str, Any]) -> str:
    says: str = schema["description"]
    return says


def _prose(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(schema: dict[str, Any], head: tuple[str, str] = HEAD) -> str:
    return "\n".join([*head, *_rows(schema, "")])


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, each in schema.get("properties", {}).items():
        optional = "" if name in schema.get("required", ()) or schema.get("required") == [] else ", optional"
        kind, says = f"{_type(each)}{optional}", each.get("description", "")
        yield f"| `{prefix}{name}` | {_cell(kind)} | {_cell(says)} |"
        for inner, ending in _inside(each):
            yield from _rows(inner, f"{prefix}{name}{ending}.")
    more = schema.get("additionalProperties")
    if isinstance(more, dict) and not prefix and "properties" in schema:
        yield f"| any other | {_type(more)} | {_cell(more['description'])} |"


def _inside(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects within a field that have fields of their own, and how their names go on."""
    if "properties" in schema:
        yield schema, ""
    items = schema.get("items", {})
    for each in items.get("anyOf", [items])[:1]:
        if "properties" in each:
            yield each, "[]"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return INLINE.get(name) or f"[{name}](#{name})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join("null" if value is None else f"`{json.dumps(value)}`" for value in values)
    kinds = schema.get("type", "any")
    return " or ".join(_plain(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _plain(kind: str, schema: dict[str, Any]) -> str:
    if kind == "array":
        items = schema.get("items", {})
        if "properties" in items or "anyOf" in items:
            return "list of objects"
        named = _type(items)
        return f"list of {named}{'s' if named in ('string', 'number', 'integer') else ''}"
    more = schema.get("additionalProperties")
    return f"object: name to {_type(more)}" if kind == "object" and isinstance(more, dict) else kind


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text()))
