"""What is ours in a file: all of it, a marked section, or one key. The rest of the file never changes."""

from __future__ import annotations

import json
import re
import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.skill import members
from agent.skill.members import Unfit
from agent.system.invocation import NAME

# As `system.invocation.program` starts this program, with the folder that an agent fills in, or that the user has given
# as docs/mcp.md says.
_OURS = re.compile(rf"(([^\0]*/)?{NAME}|uv\0run\0{NAME}|[^\0]+\0-m\0agent)(\0-C\0[^\0]+)?\0mcp", re.DOTALL)

State = Literal["installed", "outdated", "missing"]


@dataclass(frozen=True)
class Part(ABC):
    """What an agent reads in one file.

    Attributes:
        path: the file, relative to the workspace.
        holds: the guide, or the entry of the MCP server.
    """

    path: str
    holds: Literal["guide", "mcp"]

    @abstractmethod
    def put(self, text: str | None) -> str:
        """Return the file's text with this part.

        Args:
            text: its present text; None if it does not exist.

        Raises:
            Unfit: the part cannot be written without a change of the rest.
        """

    @abstractmethod
    def take(self, text: str) -> str | None:
        """Return the file's text without this part; None if nothing is left. Raises as `put` does."""

    def shown(self) -> str:
        """Return the part as it would be in a file of its own."""
        return self.put(None)

    def state(self, text: str | None) -> State:
        """Return whether a file has this part. Raises as `put` does."""
        if text is None or self.take(text) == text:
            return "missing"
        return "installed" if self.put(text) == text else "outdated"


@dataclass(frozen=True)
class Whole(Part):
    """A file of its own. A file without the mark was written by somebody else."""

    text: str
    mark: str

    def put(self, text: str | None) -> str:
        if text and self.mark not in text:
            raise Unfit("was not written by this program")
        return self.text.replace("\n", members.line_end(text or ""))

    def take(self, text: str) -> str | None:
        return None if self.mark in text else text


@dataclass(frozen=True)
class Section(Part):
    """The lines between two markers, at the end of a text unless it has them elsewhere."""

    text: str
    begin: str
    end: str

    def put(self, text: str | None) -> str:
        line = members.line_end(text or "")
        section = line.join([self.begin, *self.text.rstrip("\n").splitlines(), self.end])
        if not text:
            return section + line
        found = self._span(text)
        if found is not None:
            return text[: found[0]] + section + text[found[1] :]
        # Without a line end at the end of the file, none follows the section: so `take` restores the same bytes.
        return text + line + section + line if text.endswith("\n") else text + line * 2 + section

    def take(self, text: str) -> str | None:
        found = self._span(text)
        if found is None:
            return text
        before, after = text[: found[0]], text[found[1] :]
        if re.fullmatch(r"\r?\n", after):
            before, after = re.sub(r"\r?\n\Z", "", before), ""
        elif not after:
            before = re.sub(r"\r?\n\r?\n\Z", "", before)
        else:
            after = re.sub(r"\A\r?\n", "", after)
        rest = before + after
        return rest if rest.strip() else None

    def _span(self, text: str) -> tuple[int, int] | None:
        """Return where the section begins and ends, without the line end after it."""
        begins, ends = (
            [found.span() for found in re.finditer(rf"^{re.escape(mark)}(?=\r?$)", text, re.MULTILINE)]
            for mark in (self.begin, self.end)
        )
        if not begins and not ends:
            return None
        if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
            raise Unfit(f"needs one line `{self.begin}` and after it one line `{self.end}`")
        return begins[0][0], ends[0][1]


@dataclass(frozen=True)
class Table(Section):
    """A section of a TOML file that holds one table."""

    keys: tuple[str, ...] = field(kw_only=True)

    def put(self, text: str | None) -> str:
        rest: Any = _parsed_toml(self.take(text or "") or "")
        for key in self.keys:
            rest = rest.get(key) if isinstance(rest, dict) else None
        if rest is not None:
            raise Unfit(f"has a table {'.'.join(self.keys)} of its own")
        new = super().put(text)
        _parsed_toml(new, f"cannot have the table {'.'.join(self.keys)}")
        return new


@dataclass(frozen=True)
class Member(Part):
    """An MCP server under one key of a JSON file, in an object that is made if it is missing.

    What the user adds to the entry stays. An entry that starts something else is the user's own.

    Attributes:
        keys: the keys that lead to the value.
        alone: keys that a file of this kind has in any case: a file with no others holds nothing.
    """

    keys: tuple[str, ...]
    value: dict[str, Any]
    alone: dict[str, Any] = field(default_factory=dict)

    def put(self, text: str | None) -> str:
        if text is None or not text.strip():
            text = json.dumps(self.alone, indent=2) + "\n" if self.alone else "{}\n"
        present = members.at(text, self.keys)
        if present is None:
            return members.put(text, self.keys, self.value)
        if not _starts_us(present):
            raise Unfit(f"has an entry {'.'.join(self.keys)} of its own")
        for key, value in self.value.items():
            text = members.put(text, (*self.keys, key), value)
        return text

    def take(self, text: str) -> str | None:
        if not text.strip() or not _starts_us(members.at(text, self.keys)):
            return text
        left = members.take(text, self.keys)
        return left if {*json.loads(left)} - {*self.alone} else None


def _starts_us(entry: Any) -> bool:
    """Return whether an entry starts the server in a way that this program writes, of whatever version and place."""
    command, args = (entry.get("command"), entry.get("args", [])) if isinstance(entry, dict) else (None, None)
    words = command if isinstance(command, list) else [command, *(args if isinstance(args, list) else [])]
    if not all(isinstance(word, str) for word in words):
        return False
    return _OURS.fullmatch("\0".join(words)) is not None


def _parsed_toml(text: str, fault: str = "is not valid TOML") -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also for a number that is too long
        raise Unfit(f"{fault}: {error}") from None
