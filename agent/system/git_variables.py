"""The environment variables of git that lead to the user's own configuration, and to no other repository."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Git's variables that control how it works. The others select a repository, such as that of a calling hook or alias.
KEPT = re.compile(r"GIT_((AUTHOR|COMMITTER)_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|EXEC_PATH|CEILING_DIRECTORIES)")
# Settings by variables could do the same (core.worktree), or start programs, except for these: who the user is, and
# which folders git trusts.
SETTINGS = re.compile(r"(user|author|committer)\.(name|email)|safe\.directory", re.IGNORECASE)
COUNT = "GIT_CONFIG_COUNT"


def without_others(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without git's variables that select another repository or set anything else."""
    kept = {name: value for name, value in environment.items() if not name.startswith("GIT_") or KEPT.fullmatch(name)}
    return kept | _settings(environment)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those of the numbered settings (git-config(1), GIT_CONFIG_COUNT) that are kept, numbered anew."""
    count = environment.get(COUNT, "")
    found = list[tuple[str, str]]()
    for i in range(int(count) if count.isdecimal() and len(count) < 10 else 0):
        key, value = (environment.get(f"GIT_CONFIG_{part}_{i}") for part in ("KEY", "VALUE"))
        if key is None or value is None:  # git refuses to work with such variables
            return {}
        if SETTINGS.fullmatch(key):
            found.append((key, value))
    numbered = {f"GIT_CONFIG_KEY_{i}": key for i, (key, _) in enumerate(found)}
    numbered |= {f"GIT_CONFIG_VALUE_{i}": value for i, (_, value) in enumerate(found)}
    return {COUNT: str(len(found)), **numbered} if found else {}
