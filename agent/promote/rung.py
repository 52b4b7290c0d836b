"""The rung of a promotion: the training budget, the constants that the user sets, and the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.errors import UsageError
from agent.execution.fingerprint import fingerprint
from agent.format import named, one_line
from agent.journal.comparable import differences
from agent.journal.comparison import Rung
from agent.journal.experiment import Run, Value, succeeded
from agent.proposers.search.space import takes_fractions
from agent.protocol.models import Protocol
from agent.session.context import known_constants
from agent.session.workbench import Workbench
from agent.source.constants import NAME, constants, refuses
from agent.source.seed import NAMES as SEEDS
from agent.source.training_budget import limits_of, timed_names, why_budget
from agent.source.values import with_values, without_effect
from agent.system.invocation import typed

LONGEST_VALUE = 200
LONGEST = 1e8  # seconds
LARGEST = 1e300  # of a whole number that becomes a float
# A run that uses its training budget takes this fraction of it, or at least this fraction of what a rung adds to it.
WHOLE, PART = 0.9, 0.25
KINDS: Mapping[type, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def climb(bench: Workbench, given: Sequence[str]) -> Workbench:
    """Return the workbench for comparisons at the rung that the user asked for.

    The hard limit of a run grows in proportion to its training budget.

    Args:
        bench: whose runner has the training budget of the rung.
        given: constants to set, as `NAME=VALUE`.

    Raises:
        UsageError: a constant cannot be set, or the rung is not above the session's own conditions.
    """
    runner, state = bench.runner, bench.journal.state
    session, baseline, best = state.session, state.baseline, state.incumbent
    assert session is not None and baseline is not None and best is not None
    harness = runner.workspace.harness_digest(session["base"])
    here = fingerprint(runner.protocol, runner.training_seconds, harness)
    trees = {
        name: runner.workspace.files(each.commit) for name, each in (("the baseline", baseline), ("the best", best))
    }
    known = known_constants(runner.protocol)
    values = values_for(given, trees, known)
    first, last = (set_in(files, known, values) for files in trees.values())
    if values and first == last:
        raise UsageError(
            f"--set sets all that session {session['tag']} changed, so nothing is left to judge",
            hint="drop one of them",
        )
    before = session["fingerprint"]
    own, seconds = before.get("training_seconds"), runner.training_seconds
    if seconds is not None and not seconds < LONGEST:
        raise UsageError(f"--training-seconds must be below {LONGEST:g}, got {seconds:g}", hint="give a smaller number")
    if own is not None and seconds is not None and seconds < own:
        raise UsageError(
            f"--training-seconds must be at least {own:g}, with which session {session['tag']} was measured, "
            f"got {seconds:g}",
            hint="give a larger number",
        )
    if not differences(before, here) and not any(with_values(files, known, values) for files in trees.values()):
        confirm = typed(f"confirm --tag {session['tag']}")
        raise UsageError(
            f"this is the rung at which session {session['tag']} was measured",
            hint=f"add --training-seconds or --set, or repeat its runs with `{confirm}`",
        )
    limit = hard_limit(runner.protocol, seconds, own) * growth(trees, values, known)
    execution = runner.protocol.execution.model_copy(update={"hard_timeout_seconds": limit})
    protocol = runner.protocol.model_copy(update={"execution": execution})
    return replace(bench, runner=replace(runner, protocol=protocol), rung=Rung(seconds, values, here))


def hard_limit(protocol: Protocol, seconds: float | None, own: float | None) -> float:
    """Return the hard limit of a run in seconds.

    Args:
        protocol: whose limit is for its own training budget.
        seconds: the training budget of the rung.
        own: that of the session.
    """
    limit, usual = protocol.execution.hard_timeout_seconds, protocol.training_seconds or own
    if seconds is None:
        return limit
    return limit * max(1.0, seconds / usual) if usual else limit + seconds


def why_no_longer(own: float | None, seconds: float | None, before: Sequence[Run], now: Sequence[Run]) -> str | None:
    """Return how runs show that a recipe ignores the training budget it is given; None if they do not show it.

    A recipe that ends before its budget in the session shows nothing.

    Args:
        own: the training budget of the session.
        seconds: that of the rung.
        before: runs of the session.
        now: runs at the rung.
    """
    if own is None or seconds is None or seconds <= own:
        return None
    every = (succeeded(before), succeeded(now))
    told = all(run.trained is not None for runs in every for run in runs)
    old, new = ([(run.trained if told else None) or run.seconds for run in runs] for runs in every)
    if not old or not new or min(old) < WHOLE * own:
        return None
    if max(new) >= WHOLE * seconds or max(new) - min(old) >= PART * (seconds - own):
        return None
    return f"{max(new):.4g} s with a budget of {seconds:g} s, {min(old):.4g} s with {own:g} s in the session"


def growth(trees: Mapping[str, Mapping[str, str]], values: Mapping[str, Value], known: Mapping[str, Value]) -> float:
    """Return by which factor these constants prolong training, if the recipe has its training budget in one of them."""
    found = [1.0]
    for files in trees.values():
        timed = {name for path, text in files.items() if path.endswith(".py") for name in timed_names(text)}
        for path, text in files.items():
            own = constants(text, known) if path.endswith(".py") else {}
            for name in values.keys() & own.keys():
                old, new = own[name].value, values[name]
                if why_budget(name, old, limits_of(known), timed) and not isinstance(old, str) and old > 0:
                    found.append(float(new) / old)
    return max(found)


def values_for(
    given: Sequence[str], trees: Mapping[str, Mapping[str, str]], known: Mapping[str, Value]
) -> dict[str, Value]:
    """Return the constants to set, by name.

    Args:
        given: as `NAME=VALUE`.
        trees: the mutable files of each recipe that they are set in, by its name.
        known: values of the names that the harness defines.

    Raises:
        UsageError: a constant is unknown, has another type, or an assert refuses it.
    """
    found: dict[str, Value] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--set needs NAME=VALUE, got {_shown(text)}", hint="name a constant: --set DEPTH=8")
        if name in found:
            raise UsageError(f"--set {name} is given twice", hint="drop one of them")
        if name in SEEDS:
            raise UsageError(f"--set {name} is not possible: each pair of runs gets a seed of its own", hint="drop it")
        found[name] = _value(name, value.strip(), *_like(name, trees, known))
    for recipe, files in trees.items():
        if why := refused(files, known, found):
            shown = ", ".join(f"{name}={value}" for name, value in found.items())
            raise UsageError(
                f"--set {_shown(shown)} breaks an assert of {recipe}: {_shown(why)}",
                hint="choose a value that it accepts",
            )
        if idle := without_effect(set_in(files, known, found), known, found):
            shown = ", ".join(f"{name}={value}" for name, value in found.items())
            raise UsageError(f"--set {idle[0]} has no effect in {recipe} with {_shown(shown)}", hint="drop one of them")
    return found


def set_in(files: Mapping[str, str], known: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, str]:
    """Return the files as they run at a rung that sets these constants."""
    return {**files, **with_values(files, known, values)}


def refused(files: Mapping[str, str], known: Mapping[str, Value], values: Mapping[str, Value]) -> str | None:
    """Return the first assert that these files would fail with these constants, or None."""
    texts = (text for path, text in set_in(files, known, values).items() if path.endswith(".py"))
    return next((why for text in texts if (why := refuses(text, known, {})) is not None), None)


def _like(name: str, trees: Mapping[str, Mapping[str, str]], known: Mapping[str, Value]) -> tuple[Value, bool]:
    """Return the present value of a constant, a float if it is one in any recipe, and whether it may get a fraction.

    Every recipe must have the constant.
    """
    values: list[Value] = []
    fractions = False
    for recipe, files in trees.items():
        every = {path: constants(text, known) for path, text in files.items() if path.endswith(".py")}
        places = {path: found[name].value for path, found in every.items() if name in found}
        mine = [*places.values()]
        if any(type(value) is not type(mine[0]) or value != mine[0] for value in mine):
            raise UsageError(
                f"--set {_shown(name)}: {named(sorted(places), 3)} have different constants of this name",
                hint="rename one of them, and run the session again",
            )
        if not mine:
            names = sorted({each for found in every.values() for each in found})
            raise UsageError(
                f"--set {_shown(name)}: {recipe} has no such constant",
                hint=f"choose from {named(names, 8)}" if names else "name values in capitals in a Python file",
            )
        values += mine
        fractions = fractions or any(takes_fractions(found[name]) for found in every.values() if name in found)
    return next((value for value in values if type(value) is float), values[0]), fractions


def _value(name: str, text: str, like: Value, fractions: bool) -> Value:
    """Return a value that the user typed, with the type of the present one, or that a search comment asks for."""
    # Read as the search reads the recipe: only a literal counts, and nothing is executed.
    read = constants(f"{name} = {text}\n", {}).get(name) if len(text) <= LONGEST_VALUE and "\n" not in text else None
    value = read.value if read is not None and read.literal == text else None
    if isinstance(like, str) and value is None and len(text) <= LONGEST_VALUE and text.isprintable():
        value = text
    if type(like) is float and type(value) is int:
        value = float(value) if abs(value) < LARGEST else None
    if fractions and type(like) is int and type(value) is float:
        like = float(like)
    if value is None or type(value) is not type(like) or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(
            f"--set {name} must be {KINDS[type(like)]}, got {_shown(text)}", hint=f"it is {_shown(str(like))} now"
        )
    return value


def _shown(text: str) -> str:
    return repr(one_line(text)[:60])
