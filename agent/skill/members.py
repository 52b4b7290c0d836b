"""Add a member to a JSON text, or remove one, and keep every other character as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
INDENT = "  "


class Unfit(Exception):
    """A file that cannot take a part. The text follows its name: "is not valid JSON"."""


@dataclass(frozen=True)
class Place:
    """Where a member is in the text: its key, its value, and the end of the value."""

    key: str
    at: int
    value: int
    end: int


def put(text: str, keys: Sequence[str], value: Any) -> str:
    """Return a JSON text with a value under a path of keys, in the place of the one there. Missing objects are made.

    Raises:
        Unfit: the text is no object, it has comments, or the path leads through something else than objects.
    """
    start = _checked(text)
    for depth, key in enumerate(keys):
        found, close = _members(text, start)
        place = next((each for each in found if each.key == key), None)
        if place is None:
            for inner in reversed(keys[depth + 1 :]):
                value = {inner: value}
            return _inserted(text, start, found, close, json.dumps(key), value, depth + 1)
        if depth == len(keys) - 1:
            if json.loads(text[place.value : place.end]) == value:
                return text
            return text[: place.value] + _laid_out(text, start, found, value, depth + 1) + text[place.end :]
        start = _object(text, place, keys[: depth + 1])
    return text


def at(text: str, keys: Sequence[str]) -> Any:
    """Return the value under a path of keys, or None. Raises as `put` does."""
    start, value = _checked(text), None
    for depth, key in enumerate(keys):
        place = next((each for each in _members(text, start)[0] if each.key == key), None)
        if place is None:
            return None
        if depth == len(keys) - 1:
            value = json.loads(text[place.value : place.end])
        else:
            start = _object(text, place, keys[: depth + 1])
    return value


def take(text: str, keys: Sequence[str]) -> str:
    """Return a JSON text without the value under a path of keys, and without objects that are empty then.

    Raises:
        Unfit: the text is no object, it has comments, or the path leads through something else than objects.
    """
    start = _checked(text)
    way: list[tuple[int, list[Place], int, int]] = []
    for depth, key in enumerate(keys):
        found, close = _members(text, start)
        index = next((i for i, each in enumerate(found) if each.key == key), None)
        if index is None:
            return text
        way.append((start, found, close, index))
        if depth < len(keys) - 1:
            start = _object(text, found[index], keys[: depth + 1])
    while len(way) > 1 and len(way[-1][1]) == 1:
        way.pop()
    start, found, close, index = way[-1]
    if len(found) == 1:
        return text[:start] + "{}" + text[close + 1 :]
    if index == len(found) - 1:
        return text[: found[index - 1].end] + text[found[index].end :]
    return text[: found[index].at] + text[found[index + 1].at :]


def _checked(text: str) -> int:
    """Check that a text is one JSON object without repeated keys, and return where it begins."""
    try:
        found = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        what = "has comments" if re.search(r"^\s*(//|/\*)", text, re.MULTILINE) else "is not valid JSON"
        raise Unfit(f"{what}: {error.msg} in line {error.lineno}") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise Unfit("has a number that is too long") from None
    except RecursionError:
        raise Unfit("is nested too deeply") from None
    if not isinstance(found, dict):
        raise Unfit("is not a JSON object")
    return _after_space(text, 0)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unfit("has a key twice in one object")
    return found


def _object(text: str, place: Place, keys: Sequence[str]) -> int:
    if text[place.value] != "{":
        raise Unfit(f"has something else than an object under {'.'.join(keys)}")
    return place.value


def _members(text: str, start: int) -> tuple[list[Place], int]:
    """Return the members of the object that begins at `start`, and where its closing brace is."""
    found, here = [], _after_space(text, start + 1)
    while text[here] != "}":
        key, end = _DECODER.raw_decode(text, here)
        value = _after_space(text, _after_space(text, end) + 1)
        _, end = _DECODER.raw_decode(text, value)
        found.append(Place(key, here, value, end))
        here = _after_space(text, end)
        if text[here] == ",":
            here = _after_space(text, here + 1)
    return found, here


def _inserted(text: str, start: int, found: list[Place], close: int, key: str, value: Any, depth: int) -> str:
    """Return the text with a member at the end of an object, laid out like the object's others.

    Many parameters because the object was read by the caller already.
    """
    line = line_end(text)
    if not found:
        member = f"{line}{INDENT * depth}{key}: {_dumped(value, text, depth)}{line}{INDENT * (depth - 1)}"
        return text[: start + 1] + member + text[close:]
    dumped, indent = _laid_out(text, start, found, value, depth), _indent(text, start, found)
    between = " " if indent is None else f"{line}{indent}"
    return f"{text[: found[-1].end]},{between}{key}: {dumped}{text[found[-1].end :]}"


def _laid_out(text: str, start: int, found: list[Place], value: Any, depth: int) -> str:
    """Return a value as a member of the object that begins at `start`, laid out like the object's members."""
    indent = _indent(text, start, found)
    if indent is None:
        return json.dumps(value)
    own = indent if depth == 1 else indent[: len(indent) // depth]
    return json.dumps(value, indent=own or INDENT).replace("\n", f"{line_end(text)}{indent}")


def _indent(text: str, start: int, found: list[Place]) -> str | None:
    """Return what the members of an object are indented by; None if they are on the line of its brace."""
    before = text[start + 1 : found[0].at]
    return before.rpartition("\n")[2] if "\n" in before else None


def _dumped(value: Any, text: str, depth: int) -> str:
    return json.dumps(value, indent=INDENT).replace("\n", f"{line_end(text)}{INDENT * depth}")


def line_end(text: str) -> str:
    """Return the line end that a text has."""
    return "\r\n" if "\r\n" in text else "\n"


def _after_space(text: str, here: int) -> int:
    found = _SPACE.match(text, here)
    return found.end() if found else here
