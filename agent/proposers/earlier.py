"""Read what the workspace's other sessions teach a new one: their experiments, copied once into the session's folder.

The copy makes a resumed session propose the same, whatever the other sessions do meanwhile. It is knowledge for
proposers: no verdict uses it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from agent.decision.estimate import estimate
from agent.errors import AutoresearchError
from agent.format import counted, named, one_line
from agent.journal.comparable import comparable, of_one_task, same_stations
from agent.journal.experiment import Experiment, Value
from agent.journal.history import change_of, incumbent_before, worked_on
from agent.journal.journal import fold
from agent.journal.proposals import save
from agent.journal.state import State
from agent.playbook.tried import Trial, is_named
from agent.system.files import read_bounded

# At most this many experiments are used. This many sessions are read, of those in this many folders.
MOST, MOST_SESSIONS, MOST_FOLDERS = 200, 20, 1000
LARGEST_JOURNAL, LARGEST_COPY = 2**25, 2**24  # bytes
MOST_PARAMETERS, LONGEST_VALUE, LONGEST_DESCRIPTION = 200, 200, 200
MOST_NOTES = 3
MOST_DESCRIBED = 3
FILE = "earlier.json"


@dataclass(frozen=True)
class Earlier:
    """An experiment of another session, with the same data, harness and metric.

    Attributes:
        metric: None if it failed; see `is_forecast`.
        change: its metric minus that of its incumbent at the time; None if unknown.
        digest: of all mutable files, as in `Experiment`.
        alike: whether it was measured under the same fingerprint. Otherwise on another machine, or with another budget.
        playbook: the title of the entry of the playbook that it tried; empty for none.
        commit: its full hash; empty in copies of an earlier version.
        same_code: whether the incumbent that it changed is the program that this session began with, apart from the
            values of constants. True in copies of an earlier version, and unknown unless `alike`.
        reduced: its constants without what `ablate` or `promote` has taken out of it; empty if nothing of it was shown
            to transfer, None if nothing was taken out.
    """

    tag: str
    number: int
    status: str
    metric: float | None
    change: float | None
    parameters: Mapping[str, Value]
    digest: str
    description: str
    alike: bool
    playbook: str = ""
    commit: str = ""
    same_code: bool = True
    reduced: Mapping[str, Value] | None = None

    @property
    def is_forecast(self) -> bool:
        """Whether its metric is a forecast: it was pruned or screened out, and was not measured."""
        return self.number > 0 and self.metric is not None and self.change is None


@dataclass(frozen=True)
class Knowledge:
    """The experiments to learn from, and a sentence for each session that was skipped because it is damaged."""

    experiments: tuple[Earlier, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Return the number of experiments of each session, as the `session` event records it."""
        groups = itertools.groupby(self.experiments, key=lambda each: (each.tag, each.alike))
        return [{"tag": tag, "experiments": len([*those]), "alike": alike} for (tag, alike), those in groups]


def gather(
    journal: Path,
    session: Mapping[str, Any],
    first: str | None,
    is_same_code: Callable[[str], bool] = lambda _: True,
    is_alike: Callable[[str], bool] = lambda _: True,
) -> Knowledge:
    """Return what a new session can learn from the other sessions of its workspace.

    Args:
        journal: the journal of the new session.
        session: its fingerprint, metric, direction and flags, as in the `session` event.
        first: the session that it starts from, which is read first; None if there is none.
        is_same_code: whether a commit has the program that the new session begins with, apart from the values of
            constants.
        is_alike: whether the files that no candidate changes are those of the commit that a session began with.
    """
    asked = functools.cache(is_same_code)
    found: list[Earlier] = []
    skipped: list[str] = []
    for path in _latest(journal, first)[:MOST_SESSIONS]:
        if len(found) >= MOST:
            break
        try:
            if path.stat().st_size > LARGEST_JOURNAL:
                raise AutoresearchError("its journal is too large")
            found += _of_session(path, session, (asked, is_alike), MOST - len(found))
        except (AutoresearchError, OSError) as error:
            skipped.append(one_line(f"learned nothing from session {path.parent.name}: {error}"))
    return Knowledge(tuple(found), tuple(skipped[:MOST_NOTES]))


def write(journal: Path, experiments: Sequence[Earlier]) -> None:
    """Keep the experiments with the session.

    Raises:
        AutoresearchError: they cannot be written.
    """
    rows = [asdict(each) for each in experiments]
    for row, name in itertools.product(rows, ("playbook", "commit")):
        if not row[name]:
            del row[name]  # unknown to earlier versions
    for row in rows:
        if row["same_code"]:
            del row["same_code"]
        if row["reduced"] is None:
            del row["reduced"]
    save(journal.with_name(FILE), {"experiments": rows})


def read(journal: Path) -> tuple[Earlier, ...]:
    """Return the experiments kept with a session that has learned something.

    Raises:
        AutoresearchError: the file is damaged or missing.
    """
    path = journal.with_name(FILE)
    try:
        rows = json.loads(read_bounded(path, LARGEST_COPY))["experiments"]
        names = [each.name for each in fields(Earlier)]
        found = tuple(Earlier(**{name: row[name] for name in names if name in row}) for row in rows[:MOST])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path) from None
    if not all(map(_is_sound, found)):
        raise _damaged(path)
    return found


def trials_elsewhere(experiments: Sequence[Earlier]) -> list[Trial]:
    """Return what other sessions have tried under the same conditions: elsewhere it may come out otherwise.

    So may a crash, once the code has changed.
    """
    found: list[Trial] = []
    best: dict[str, Mapping[str, Value]] = {}
    for each in sorted(experiments, key=lambda each: (each.tag, each.number)):
        if each.alike and each.number > 0 and (each.same_code or each.status != "crash"):
            before = best.get(each.tag, {})
            about = (each.tag, each.number, each.status, each.change, each.playbook)
            found.append(Trial(*about, before, each.parameters, each.commit))
        if each.status == "keep":
            best[each.tag] = each.parameters
    return found


def described(sources: Sequence[Mapping[str, Any]]) -> str:
    """Describe the sources: `mar5: 100 experiments, mar4: 20 experiments (other conditions)`."""
    return named([_source(each) for each in sources], MOST_DESCRIBED)


def _source(each: Mapping[str, Any]) -> str:
    other = "" if each["alike"] else " (other conditions)"
    return f"{one_line(str(each['tag']))}: {counted(each['experiments'], 'experiment')}{other}"


def _damaged(path: Path) -> AutoresearchError:
    return AutoresearchError(f"{path} is damaged or missing", hint="add --fresh to propose without it")


def _latest(journal: Path, first: str | None) -> list[Path]:
    """Return the journals of the other sessions: that of `first`, then the most recently active."""
    others = itertools.islice(journal.parent.parent.glob("*/journal.jsonl"), MOST_FOLDERS)
    return sorted(
        (path for path in others if path.parent != journal.parent),
        key=lambda path: (path.parent.name == first, worked_on(path), path.parent.name),
        reverse=True,
    )


def _of_session(
    path: Path, session: Mapping[str, Any], ask: tuple[Callable[[str], bool], Callable[[str], bool]], most: int
) -> list[Earlier]:
    """Return at most `most` experiments of a session; none if its data, harness or metric differ."""
    state = fold(path)
    if state.session is None:
        return []
    before, now = state.session.get("fingerprint", {}), session["fingerprint"]
    same_metric = all(state.session.get(name) == session[name] for name in ("metric", "direction"))
    if not same_metric or not of_one_task(before, now):
        return []
    is_same_code, is_alike = ask
    alike = comparable(before, now) and same_stations(state.flags, session["flags"]) and is_alike(state.session["base"])
    history = state.experiments
    found = (_earlier(path.parent.name, history, each, alike=alike) for each in history if not each.ended_by_fault)
    reduced = _reduced(state)
    found = (replace(each, reduced=reduced) if each.commit == _best_of(state) else each for each in found)
    chosen = _best_and_latest([each for each in found if _is_sound(each)], most)
    if not alike:
        return chosen
    # Only of those chosen: of each incumbent, git is asked for the files.
    changed = [incumbent_before(history, each.number) for each in chosen]
    commits = [before.commit if before else each.commit for before, each in zip(changed, chosen, strict=True)]
    return [replace(each, same_code=is_same_code(commit)) for each, commit in zip(chosen, commits, strict=True)]


def _best_of(state: State) -> str:
    return state.incumbent.commit if state.incumbent is not None and state.incumbent.number > 0 else ""


def _reduced(state: State) -> Mapping[str, Value] | None:
    """Return the constants of the best without what was taken out of it by its latest ablation or promotion."""
    data, best, baseline = state.reduced, state.incumbent, state.baseline
    if data is None or best is None or baseline is None or data.get("best") != best.commit:
        return None
    whole, rest = data.get("whole"), data.get("rest") if "whole" in data else data.get("smaller")
    if isinstance(rest, dict) and rest.get("offered") is True and isinstance(rest.get("constants"), list):
        then = baseline.parameters
        gone = {key for key in then if any(is_named(key, str(name)) for name in rest["constants"])}
        return {key: then[key] if key in gone else value for key, value in best.parameters.items()}
    says = whole.get("verdict") if isinstance(whole, dict) else "transfers"  # an ablation keeps what it does not offer
    return {} if says != "transfers" and (says == "does not transfer" or rest is not None) else None


def _earlier(tag: str, history: Sequence[Experiment], experiment: Experiment, *, alike: bool) -> Earlier:
    metric = estimate(experiment)
    return Earlier(
        tag=tag,
        number=experiment.number,
        status=experiment.verdict.status,
        metric=metric if metric is not None and math.isfinite(metric) else None,
        change=change_of(history, experiment),
        parameters=dict(experiment.parameters),
        digest=experiment.digest,
        description=one_line(experiment.description)[:LONGEST_DESCRIPTION],
        alike=alike,
        playbook=experiment.playbook[:LONGEST_DESCRIPTION],
        commit=experiment.commit,
    )


def _best_and_latest(those: Sequence[Earlier], most: int) -> list[Earlier]:
    """Return at most `most` experiments in their order: the kept ones first of all, then the latest."""
    ranked = sorted(those, key=lambda each: (each.status == "keep", each.number), reverse=True)
    return sorted(ranked[:most], key=lambda each: each.number)


def _is_sound(each: Earlier) -> bool:
    """Return whether every value has the type and size that the search relies on: another program may have written it.

    The fields are those of the type, whatever the file held.
    """
    texts = (each.tag, each.status, each.digest, each.description, each.playbook, each.commit)
    return (
        all(isinstance(text, str) and len(text) <= LONGEST_DESCRIPTION for text in texts)
        and isinstance(each.number, int)
        and isinstance(each.alike, bool)
        and isinstance(each.same_code, bool)
        and all(value is None or _is_number(value) for value in (each.metric, each.change))
        and isinstance(each.parameters, dict)
        and len(each.parameters) <= MOST_PARAMETERS
        and all(_is_plain(value) for value in each.parameters.values())
        and (each.reduced is None or isinstance(each.reduced, dict))
        and len(each.reduced or ()) <= MOST_PARAMETERS
        and all(_is_plain(value) for value in (each.reduced or {}).values())
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, bool) or _is_number(value) or (isinstance(value, str) and len(value) <= LONGEST_VALUE)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1e300
