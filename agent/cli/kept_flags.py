"""The flags that a session keeps: a later start needs none of them, and what is given anew is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from agent.journal.journal import fold
from agent.journal.paths import journal_path, require_own_state


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 10_000


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# By their names in `run`. When to end is no matter of the session's but of each start's.
KEPT: Mapping[str, Callable[[Any], bool]] = {
    "seed": _whole,
    "training_seconds": _positive,
    "verdict": lambda value: value in ("confirm", "greedy"),
    "baseline_runs": lambda value: _whole(value) and value > 0,
    "prune": _flag,
    "max_memory_gb": _positive,
    "sandbox": lambda value: value in ("auto", "off", "strict"),
    "allow_untraced": _flag,
    "proposer": _text,
    "model": _text,
    "agent": _text,
    "agent_cmd": _text,
    "share": lambda value: _positive(value) and value <= 1,
    "fallback_after": _positive,
    "model_timeout": _positive,
    "agent_timeout": _positive,
    "max_cost": _positive,
    "max_cost_per_experiment": _positive,
}
# Who proposes is one choice: a new one takes the place of all of the old.
WHO = ("proposer", "model", "agent", "agent_cmd")


def merged(folder: Path, tag: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the flags that hold for a start of `tag`, and a sentence for each that is another than it was.

    given: those of this start, by the names of KEPT. Raises PreconditionError where the journal came with the
    repository.
    """
    path = journal_path(folder, tag)
    if not path.exists():
        return {name: value for name, value in given.items() if value != math.inf}, []
    require_own_state(folder)
    kept = {name: value for name, value in fold(path).flags.items() if name in KEPT and KEPT[name](value)}
    changed = [name for name in given if name in kept and given[name] != kept[name] and name != "training_seconds"]
    left = _but_who(kept) if not set(WHO).isdisjoint(given) else kept
    said = [f"{_flag_of(name)} is {given[name]} from now on; the session had {kept[name]}" for name in changed]
    hold = {**left, **given}
    said += [f"{_flag_of(name)} {kept[name]} of the session holds no more" for name in kept if name not in hold]
    # `--max-cost inf` takes a limit back.
    return {name: value for name, value in hold.items() if value != math.inf}, said


def given_in(values: Mapping[str, Any], by_default: Collection[str]) -> dict[str, Any]:
    """Return those of a command's values that a session keeps and that somebody gave."""
    return {name: values[name] for name in KEPT if name not in by_default and values[name] is not None}


def _but_who(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kept.items() if name not in WHO}


def _flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"
