"""The settings of a start of `run` or `try`: its flags, and those that the session has kept.

Resuming a session needs none of the kept flags. A flag that is given again replaces the kept value, with a note.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.run_flags import EndFlags, MeasureFlags, ProposerFlags, RunFlags, SessionFlags, TellFlags
from agent.errors import UsageError
from agent.format import one_line
from agent.journal.paths import journal_path, require_own_state
from agent.system.masking import LOGIN

if TYPE_CHECKING:
    from agent.cli.fleet import StationsConfig
    from agent.cli.launch import RunConfig
    from agent.decision.limits import Limits
    from agent.journal.state import State


# What a session keeps is below this, since its journal may come from elsewhere.
LARGEST, LONGEST = 10**9, 10_000


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST


def _timeout(value: Any) -> bool:
    return value == ENDLESS or _positive(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < LONGEST


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# The timeouts that may be infinite. The journal has the word, because JSON has no such number.
TIMEOUTS = ("fallback_after", "model_timeout", "agent_timeout")
ENDLESS = "inf"
# The flags that a session keeps and what makes a value valid. Limits apply to one start and are not kept.
KEPT: Mapping[str, Callable[[Any], bool]] = {
    "seed": _whole,
    "from": _text,
    "fresh": _flag,
    "training_seconds": _positive,
    "verdict": lambda value: value in ("confirm", "greedy"),
    "baseline_runs": lambda value: _whole(value) and value > 0,
    "prune": _flag,
    "ladder": _text,
    "max_memory_gb": _positive,
    "sandbox": lambda value: value in ("auto", "off", "strict"),
    "allow_untraced": _flag,
    "holdout": _text,
    "proposer": _text,
    "model": _text,
    "agent": _text,
    "agent_cmd": _text,
    "share": lambda value: _positive(value) and value <= 1,
    "fallback_after": _timeout,
    "model_timeout": _timeout,
    "agent_timeout": _timeout,
    "stations": lambda value: _whole(value) and value > 0,
    "scheduler": _text,
    "tls": _text,
    "insecure": _flag,
    "max_cost": _positive,
    "max_cost_per_experiment": _positive,
    "ahead": _flag,
}
# Each of these sets of flags is one choice: giving one of a set replaces the whole set.
WHO = ("proposer", "model", "agent", "agent_cmd")
CAPS = ("max_cost", "max_cost_per_experiment")
WHERE = ("stations", "scheduler", "tls", "insecure")
QUERY = re.compile(r"(https?://[^\s?#]*[?#])\S+")
NO_LADDER = "leave --ladder out, or end a kept one with `--ladder off`"


def config_of(folder: Path, flags: RunFlags, defaults: Collection[str]) -> RunConfig:
    """Combine the flags of this start with those that the session has kept.

    Args:
        folder: the workspace.
        flags: the flags of this start.
        defaults: names of the flags that were not given.

    Raises:
        UsageError: the flags contradict each other.
    """
    from agent.cli.launch import ExecutionConfig, OutputConfig, RunConfig
    from agent.decision.decide import DecisionConfig
    from agent.proposers.choose import ProposerConfig
    from agent.session.at_login import installed

    values = _kept_in(flags)
    given = given_in(values, {name.rstrip("_") for name in defaults})
    _require_valid(given)
    state = _state_of(folder, flags.session.tag)
    kept, said = merged(state, given)
    _require_consulted(given, kept)
    held = {**values, **{name: None for name, value in values.items() if value == math.inf}, **kept}
    held |= {name: float(held[name]) for name in TIMEOUTS}
    if "training_seconds" not in {*given, *kept}:
        held["training_seconds"] = _measured_budget(state)
    measure, tell, end = flags.measure, flags.tell, flags.end
    return RunConfig(
        tag=flags.session.tag,
        seed=held["seed"],
        limits=_limits(end, resumes=flags.session.at_login is True and installed(folder, flags.session.tag)),
        proposer=ProposerConfig(**{each.name: held[each.name] for each in fields(ProposerConfig)}),
        execution=ExecutionConfig(
            training_seconds=held["training_seconds"],
            setup=flags.session.setup,
            sandbox=held["sandbox"],
            keep_awake=measure.keep_awake,
            prune=held["prune"],
            allow_untraced=held["allow_untraced"],
            ladder=_ladder(held),
        ),
        decision=DecisionConfig(kind=held["verdict"], max_memory_gb=held["max_memory_gb"]),
        baseline_runs=held["baseline_runs"],
        output=OutputConfig(
            json=tell.as_json,
            notify=tuple(tell.notify or ()),
            confirm=end.confirm,
            report=end.report,
            dry_run=flags.session.dry_run,
        ),
        kept=kept,
        said=said,
        at_login=flags.session.at_login,
        start=held["from"],
        fresh=held["fresh"],
        stations=_stations(held),
    )


def config_of_try(folder: Path, tag: str, values: Mapping[str, Any], by_default: Collection[str]) -> RunConfig:
    """Return the settings of a session for `try`: those that it has kept, and the flags of this start.

    Args:
        folder: the workspace.
        tag: the session.
        values: the flags of `try` by their names.
        by_default: names of the flags that were not given.
    """
    measure = MeasureFlags(training_seconds=values["training_seconds"], sandbox=values["sandbox"])
    flags = RunFlags(SessionFlags(tag, setup=values["setup"]), EndFlags(), ProposerFlags(), measure, TellFlags())
    given = {"training_seconds", "sandbox"} - {*by_default}
    return config_of(folder, flags, {*KEPT} - given)


def _stations(held: Mapping[str, Any]) -> StationsConfig | None:
    """Return where the runs are made; None for this process.

    Raises:
        UsageError: the flags contradict each other.
    """
    from agent.cli.fleet import StationsConfig

    count, scheduler, tls = held["stations"], held["scheduler"], held["tls"]
    if count is not None and scheduler is not None:
        raise UsageError("--stations and --scheduler are mutually exclusive", hint="leave one of them out")
    if scheduler is None and (tls is not None or held["insecure"]):
        raise UsageError(
            f"--{'insecure' if tls is None else 'tls'} needs --scheduler", hint="add --scheduler, or leave it out"
        )
    if count is None and scheduler is None:
        return None
    return StationsConfig(count, scheduler, None if tls is None else Path(tls), bool(held["insecure"]))


def _ladder(held: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the rungs of `--ladder`; None for none.

    Raises:
        UsageError: they are invalid, or another flag leaves nothing to screen.
    """
    from agent.pruning.ladder import rungs_of

    rungs = rungs_of(held["ladder"]) if held["ladder"] is not None else None
    if rungs and (held["stations"] is not None or held["scheduler"] is not None):
        raise UsageError("--ladder screens on one machine, so it cannot be combined with stations", hint=NO_LADDER)
    if rungs and held["verdict"] == "greedy":
        hint = f"{NO_LADDER}, or use `--verdict confirm`"
        raise UsageError(
            "--ladder forecasts the verdict of repeated runs, which `--verdict greedy` does not make", hint=hint
        )
    return rungs


def _limits(end: EndFlags, *, resumes: bool) -> Limits:
    """Return the limits of this start.

    Args:
        resumes: the session continues at login, perhaps after the time at which it was to end.

    Raises:
        UsageError: one is longer than a session can last, or a time that is none or is over.
    """
    from agent.decision.limits import Limits
    from agent.system.until import LONGEST_HOURS, moment

    hours = None if end.max_hours == math.inf else end.max_hours
    if hours is not None and not hours <= LONGEST_HOURS:
        raise UsageError(
            f"--max-hours must be at most {LONGEST_HOURS}, got {hours:g}", hint="leave it out for no limit"
        )
    now = time.time()
    until = None if end.until is None else moment(end.until, now)
    if until is not None and until <= now and not resumes:
        raise UsageError(f"--until {end.until} is in the past", hint="give a later time, or a duration such as 8h")
    return Limits(
        experiments=end.max_experiments,
        seconds=None if hours is None else 3600 * hours,
        until=until,
        patience=end.patience,
        target=end.target,
    )


def _require_valid(given: Mapping[str, Any]) -> None:
    """Reject flags that the next start of the session would ignore.

    Raises:
        UsageError: a number is too large or none, or a text is too long.
    """
    for name, value in given.items():
        if value == math.inf or KEPT[name](value):
            continue
        if isinstance(value, str):
            raise UsageError(f"{_flag_of(name)} must have fewer than {LONGEST} characters, got {len(value)}")
        raise UsageError(f"{_flag_of(name)} must be a number below {LARGEST}, got {value:g}")


def _require_consulted(given: Collection[str], kept: Collection[str]) -> None:
    """Reject flags that have no effect without a model or an agent.

    Raises:
        UsageError: one is given without them.
    """
    idle = [name for name in ("share", "fallback_after", "model_timeout", "agent_timeout", "ahead") if name in given]
    if idle and not {"model", "agent", "agent_cmd"} & {*kept}:
        raise UsageError(f"{_flag_of(idle[0])} needs --model or --agent", hint="add one of them, or drop the flag")


def _state_of(folder: Path, tag: str) -> State | None:
    """Return the state of the session that a start resumes; None for a new one.

    Raises:
        PreconditionError: the journal came with the repository.
    """
    path = journal_path(folder, tag)
    if not path.exists():
        return None
    from agent.journal.journal import fold  # imported here to keep --help fast

    require_own_state(folder)
    return fold(path)


def _measured_budget(state: State | None) -> float | None:
    """Return the training budget that a session was measured with, whether or not its flags say so; None if new."""
    known = state.session.get("fingerprint") if state and state.session else None
    found = known.get("training_seconds") if isinstance(known, Mapping) else None
    return found if found is not None and _positive(found) and found > 0 else None


def merged(state: State | None, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the flags that apply to a start, and a note for each that has changed.

    Args:
        state: of the session that it resumes; None for a new one.
        given: the flags of this start, by their names in KEPT.

    Raises:
        UsageError: `--from` is given for a session that has started elsewhere.
    """
    if state is None:
        return {name: value for name, value in given.items() if value != math.inf}, []
    kept = {name: value for name, value in state.flags.items() if name in KEPT and KEPT[name](value)}
    if state.session is not None and given.get("from") != kept.get("from") and "from" in given:
        raise UsageError(
            f"session {state.session['tag']} has already started, so --from {one_line(given['from'])} cannot apply "
            "to it",
            hint="leave it out, or start a new session with another --tag",
        )
    changed = [name for name in given if name in kept and given[name] != kept[name] and name != "training_seconds"]
    left = _without(kept, WHO) if not set(WHO).isdisjoint(given) else kept
    left = _without(left, WHERE) if not set(WHERE).isdisjoint(given) else left
    # An earlier version kept a model's address with its login or query.
    before = {name: QUERY.sub(r"\1***", LOGIN.sub("://***@", str(value))) for name, value in kept.items()}
    said = [f"{_flag_of(name)} is now {given[name]}; it was {before[name]}" for name in changed]
    if "model" not in {**left, **given}:  # nothing else has a cost that could be capped
        left = _without(left, CAPS)
    hold = {**left, **given}
    said += [f"{_flag_of(name)} {before[name]} no longer applies" for name in kept if name not in hold]
    # `inf` removes a limit, as in `--max-cost inf`.
    return {name: value for name, value in hold.items() if value != math.inf}, said


def _kept_in(flags: RunFlags) -> dict[str, Any]:
    """Return the flags that a session keeps, by their names in `run`, given or not."""
    groups = (flags.session, flags.end, flags.who, flags.measure, flags.tell)
    found = {name.rstrip("_"): value for group in groups for name, value in vars(group).items()}
    if found["tls"] is not None:  # a later start may be made elsewhere, as one at login is
        found["tls"] = str(Path(found["tls"]).absolute())
    found |= {name: ENDLESS for name in TIMEOUTS if found[name] == math.inf}
    return {name: found[name] for name in found if name in KEPT}


def given_in(values: Mapping[str, Any], by_default: Collection[str]) -> dict[str, Any]:
    """Return the flags that the user gave and that a session keeps."""
    return {name: values[name] for name in KEPT if name not in by_default and values[name] is not None}


def _without(kept: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in kept.items() if name not in names}


def _flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"
