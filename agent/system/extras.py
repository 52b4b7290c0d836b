"""The program's extras: libraries that only some commands need."""

from __future__ import annotations

from importlib.util import find_spec

from agent.errors import PreconditionError


def require_extra(extra: str, package: str) -> None:
    """Raise PreconditionError, which says how to install it, if an extra's package is missing."""
    if find_spec(package) is None:
        raise PreconditionError(
            f"the extra {extra} is not installed",
            hint=f"run `uv sync --extra {extra}` in a checkout, or `uv tool install '.[{extra}]'` there for an "
            "installed tool",
        )
