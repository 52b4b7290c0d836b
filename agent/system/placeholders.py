"""Placeholders in shell commands of the user, such as `{text}`: each is filled in as one word."""

from __future__ import annotations

import re

from agent.errors import UsageError


def require_unquoted(flag: str, command: str, *placeholders: str) -> None:
    """Check that no placeholder is in quotes of the user's own, which would end where those of its value begin.

    Args:
        flag: the flag that has the command, for the error.
        command: a shell command.
        placeholders: what is filled in, with its braces.

    Raises:
        UsageError: one is in quotes, or follows a backslash.
    """
    for found in re.finditer("|".join(map(re.escape, placeholders)), command):
        if _is_open(command[: found.start()]):
            raise UsageError(
                f"{found[0]} is quoted in {flag} {command!r}",
                hint=f"write {found[0]} without quotes or a backslash: its value is quoted when it is filled in",
            )


def _is_open(text: str) -> bool:
    """Return whether the beginning of a shell command ends in quotes, or in a backslash.

    In `"$(tell ` it does not: within `$(...)` quotes begin anew (POSIX.1-2017, Shell Command Language, 2.2.3).
    """
    open_, at = [""], 0
    while at < len(text):
        sign, inside = text[at], open_[-1]
        if inside == "'":
            if sign == "'":
                open_.pop()
        elif sign == "\\":
            at += 1
        elif text.startswith("$(", at):
            open_.append("(")
            at += 1
        elif sign == inside == '"' or (sign == ")" and inside == "("):
            open_.pop()
        elif sign == '"' or (sign in "'(" and inside != '"'):
            open_.append(sign)
        at += 1
    return open_[-1] in ("'", '"') or at > len(text)
