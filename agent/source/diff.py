"""Determine what an edit changes, and whether the learning curves before and after it may cross."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from agent.journal.experiment import Value
from agent.source.constants import Constant, constants, is_literal, parse, target_of

CODE = "code"  # something other than the value of a constant

# After such an edit the curve may stay above the previous one for a long time and still end below it.
CROSSING = {
    "batch": re.compile(r"BATCH|ACCUM|MICRO"),
    "schedule": re.compile(r"WARM|FINAL_LR|DECAY|SCHEDULE|COOLDOWN|ANNEAL"),
    "size": re.compile(r"DEPTH|WIDTH|DIM|RATIO|LAYER|HEAD|HIDDEN|EMBD|WINDOW|CHANNELS"),
}
# HEAD_LR and BIGRAM_LR_RATIO are rates, whatever else their names say.
RATE = re.compile(r"(^|_)(LR|LEARNING_RATE|BETA\d?|MOMENTUM)(_|$)")
# Editing only these leaves the work of a step unchanged. Narrow, because a wrong guess makes a slower step look better.
SAME_WORK = re.compile(
    r"(^|_)(LR|LEARNING_RATE|BETA\d?|MOMENTUM|DECAY|WARMUP|WARMDOWN|EPS|SEED)(_|$)|^RATE$|(^|_)BASE$"
)


def changed(before: Mapping[str, str], after: Mapping[str, str], known: Mapping[str, Value]) -> frozenset[str]:
    """Return the names of the constants that differ between two versions of the files, and CODE if anything else does.

    Args:
        before, after: path -> text.
        known: values of the names that the harness defines, as for `constants`.
    """
    names: set[str] = set()
    for path in {*before, *after}:
        old, new = before.get(path, ""), after.get(path, "")
        if old == new:
            continue
        olds, news = constants(old, known), constants(new, known)
        names |= {name for name in olds.keys() & news.keys() if olds[name].value != news[name].value}
        if _masked(old, olds) != _masked(new, news):
            names.add(CODE)
    return frozenset(names)


def kinds(changed: Collection[str]) -> frozenset[str]:
    """Return the kinds of edit in `changed` after which learning curves may cross: keys of CROSSING, or CODE."""
    found = {CODE} & {*changed}
    for name in map(str.upper, changed):
        found |= {kind for kind, names in CROSSING.items() if names.search(name) and not _is_rate(name, kind)}
    return frozenset(found)


def _is_rate(name: str, kind: str) -> bool:
    return kind != "schedule" and RATE.search(name) is not None


def same_work(changed: Collection[str]) -> bool:
    """Return whether a step takes as long after an edit of these as before, judging by their names."""
    return CODE not in changed and all(SAME_WORK.search(name.upper()) for name in changed)


def _masked(source: str, found: Mapping[str, Constant]) -> bytes:
    """Return the source without the literals of its constants."""
    data = source.encode()
    for constant in sorted(found.values(), key=lambda constant: constant.begin, reverse=True):
        data = data[: constant.begin] + data[constant.end :]
    return data


def edits_code(diff: str, names: Collection[str]) -> bool:
    """Return whether a unified diff changes more than the values of these constants, and comments and empty lines.

    It reads only the changed lines, so it is fast enough for a thousand diffs. A value that spans lines counts as code.
    """
    changes: dict[str, list[str]] = {"-": [], "+": []}
    python, inside = True, False
    for line in diff.split("\n"):
        if line.startswith("diff --git "):
            python, inside = line.rstrip('"').endswith(".py"), False
        elif line.startswith("Binary files "):
            return True
        elif line.startswith("@@"):
            inside = True
        elif inside and line[:1] in changes:
            if not python:
                return True
            changes[line[0]].append(_assigned(line[1:], names))
    before, after = (sorted(filter(None, each)) for each in changes.values())
    return CODE in before or before != after


def _assigned(line: str, names: Collection[str]) -> str:
    """Return the constant that a line assigns a literal to, CODE for another statement, "" for a comment."""
    tree = parse(line.strip())
    if tree is None or len(tree.body) > 1:
        return CODE
    if not tree.body:
        return ""
    target = target_of(tree.body[0])
    return target[0] if target is not None and target[0] in names and is_literal(target[1]) else CODE
