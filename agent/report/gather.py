"""The contents of the report as plain data, from the journal and git."""

from __future__ import annotations

import re
import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from agent.errors import PreconditionError, UsageError
from agent.format import block, figure, plain
from agent.journal.comparable import differences
from agent.journal.experiment import Evidence, Experiment, reservations
from agent.journal.history import by_idea
from agent.journal.journal import read_and_fold
from agent.journal.paths import find_session, journal_path, log_of
from agent.journal.state import State
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.report.gain import (
    caveat_of,
    confirmed_by_heldout_runs,
    estimate_of,
    metric_of,
    outcome,
    remeasured,
    shows_gain,
    standing,
)
from agent.report.stations import by_station, stations_of
from agent.report.summary import summarize
from agent.report.timing import time_spent
from agent.repository.workspace import Workspace
from agent.system.invocation import program, typed


def gather(workspace: Workspace, tags: Sequence[str]) -> dict[str, Any]:
    """Return everything that the page shows, ready for JSON.

    Args:
        workspace: the workspace.
        tags: the sessions, in order; empty takes the most recent one.

    Raises:
        PreconditionError: a session does not exist or has no baseline.
        UsageError: sessions have different metrics.
        AutoresearchError: a journal is damaged.
    """
    protocol = load_protocol(workspace.folder)
    names = list(dict.fromkeys(tags)) or [find_session(workspace.folder, None)]
    sessions = [_session(workspace, protocol, find_session(workspace.folder, name)) for name in names]
    first = sessions[0]
    for other in sessions[1:]:
        if (other["metric"], other["direction"]) != (first["metric"], first["direction"]):
            raise UsageError(
                f"sessions with different metrics cannot be compared: {first['tag']} is to {first['direction']} "
                f"{first['metric']}, {other['tag']} to {other['direction']} {other['metric']}",
                hint="write a report for each of them",
            )
    unlike = {s["tag"]: differences(_conditions(first), _conditions(s)) for s in sessions[1:]}
    return {
        "made_at": time.time(),
        "sessions": sessions,
        "unlike": {tag: found for tag, found in unlike.items() if found},
    }


def _conditions(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint of a session with its stations, whose numbers are not those of this machine."""
    names = ", ".join(sorted(each["name"] for each in session["stations"]))
    return {**session["fingerprint"], "stations": names or "none"}


def _session(workspace: Workspace, protocol: Protocol, tag: str) -> dict[str, Any]:
    events, state = read_and_fold(journal_path(workspace.folder, tag))
    about = state.session
    if about is None or not state.experiments:
        raise PreconditionError(
            f"session {tag} has no baseline yet, so there is nothing to report",
            hint=f"resume it with `{typed(f'run --tag {tag}')}`",
        )
    state = replace(state, experiments=tuple(map(_clean, state.experiments)))
    recorded = {event.data["number"]: event.at for event in events if event.kind == "recorded"}
    rows = [_row(state, experiment, recorded.get(experiment.number)) for experiment in state.experiments]
    artifact = protocol.provenance.baseline_artifact_path
    return {
        **summarize(state),
        "promotion": _cleaned(state.promotions[-1]) if state.promotions else None,
        "began": events[0].at,
        "latest": state.latest_at,
        "seconds": state.seconds,
        "proposer": about.get("proposer"),
        "fingerprint": dict(about["fingerprint"]),
        "rows": rows,
        "noise": _noise(state),
        "confirmation": _confirmation(state),
        "stations": _stations(state),
        "ideas": _ideas(state),
        "crashes": _crashes(state.experiments),
        "time": asdict(time_spent(events, partial(log_of, workspace.folder, artifact))),
        "diff": _diff(workspace, state),
        "commands": _commands(protocol, workspace, state),
    }


def _clean(experiment: Experiment) -> Experiment:
    """Strip the characters that models and runs may write but a page cannot show."""
    description, reasoning = _text(experiment.description), _text(experiment.reasoning)
    verdict = replace(experiment.verdict, reason=_text(experiment.verdict.reason))
    return replace(experiment, description=description, reasoning=reasoning, verdict=verdict)


def _text(text: str) -> str:
    return re.sub(r"[\ud800-\udfff\ufffe\uffff]", "\ufffd", plain(text))


def _cleaned(value: Any) -> Any:
    """Strip the same characters from all texts of a value of JSON."""
    if isinstance(value, Mapping):
        return {name: _cleaned(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    return _text(value) if isinstance(value, str) else value


def readable(text: str) -> str:
    """Strip the same characters from a text of several lines, and keep its outer white space."""
    return re.sub(r"[\ud800-\udfff\ufffe\uffff]", "\ufffd", block(text))


def _shown(text: str | None) -> str | None:
    return None if text is None else readable(text)


def _row(state: State, experiment: Experiment, at: float | None) -> dict[str, Any]:
    assert state.session is not None
    evidence, came = experiment.verdict.evidence, outcome(state, experiment)
    runs = (*experiment.runs, *experiment.heldout_runs, *state.flight.kept.get(experiment.number, ()))
    return {
        "number": experiment.number,
        "status": experiment.verdict.status,
        "reason": experiment.verdict.reason,
        "metric": metric_of(state, experiment),
        "estimate": estimate_of(state, experiment),
        "pruned": next((run.pruned for run in reversed(experiment.runs) if run.pruned is not None), None),
        "rung": experiment.rung,
        "change": came.value - came.against if came.value is not None and came.against is not None else None,
        "effect": came.gain,
        "word": came.word,
        "evidence": asdict(evidence) if evidence else None,
        "confirmed": came.sure,
        "words": ", ".join([_words(state, experiment), *reservations(experiment.runs)]),
        "runs": len(runs),
        "seconds": experiment.seconds,
        "at": at,
        "commit": experiment.commit,
        "proposer": experiment.proposer,
        "description": experiment.description,
        "reasoning": experiment.reasoning,
        "expected": experiment.expected,
    }


def _words(state: State, experiment: Experiment) -> str:
    evidence = experiment.verdict.evidence
    words, against = evidence_words(experiment.number, evidence), remeasured(state, experiment)
    if evidence is not None and evidence.stations:
        words += f", {_text(by_station(evidence.stations, evidence.incumbent_mean))}"
    words += f", re-measured at {figure(against)}" if against is not None else ""
    if evidence is not None and confirmed_by_heldout_runs(state, experiment):
        return f"confirmed by held-out runs; when it was kept {words}"
    return words


def evidence_words(number: int, evidence: Evidence | None) -> str:
    """Describe the evidence of a verdict, starting with repeated or provisional."""
    if number == 0:
        return "the baseline"
    if evidence is None:
        return "provisional: one run each"
    runs = f"{evidence.runs} {'run' if evidence.runs == 1 else 'runs'} against {evidence.incumbent_runs}"
    if evidence.noise == 0.0:
        runs += ", runs are deterministic"
    elif evidence.sigmas is not None:
        runs += f", {evidence.sigmas:.1f} sigma"
    if evidence.equal_steps:
        runs += ", at equal steps"
    match evidence.how:
        case "confirmed":
            return f"{how_word(evidence.how, evidence.runs)}: {runs}"
        case "simplification":
            return f"repeated, a simplification without loss: {runs}"
        case "repeat":
            return "repeat of a program that was measured before"
        case "greedy":
            return f"provisional, kept for any gain: {runs}"
    return f"provisional: {runs}"


def how_word(how: str, runs: int) -> str:
    """Name what a verdict rests on. Its repeated runs confirm nothing: that word belongs to held-out runs."""
    return how if how != "confirmed" else "repeated" if runs > 1 else "exact"


def _noise(state: State) -> float | None:
    """Return the standard deviation of one run, by repeats or else by held-out runs.

    0 if runs are deterministic; None if it is unknown: a verdict may have used a guess.
    """
    known = standing(state).noise
    noise = known if known is not None else (state.confirmation or {}).get("noise")
    return float(noise) if noise is not None else None


def _confirmation(state: State) -> dict[str, Any] | None:
    """Return the held-out comparison of the baseline with the best, or else with the latest earlier best.

    `interval` is in values of the metric, `gain_interval` in gains. None without such a comparison.
    """
    best = state.incumbent
    kept = [e for e in state.experiments if e.kept]
    pairs = (f"{state.experiments[0].commit} {e.commit}" for e in reversed(kept))
    found = next((state.confirmations[pair] for pair in pairs if pair in state.confirmations), None)
    means = (found or {}).get("means") or {}
    if not found or means.get("a") is None or means.get("b") is None or state.session is None or best is None:
        return None
    sign = -1 if state.session["direction"] == "minimize" else 1
    low, high = found.get("low"), found.get("high")
    ends = [means["a"] + sign * end for end in (low, high)] if low is not None and high is not None else None
    number = next((e.number for e in reversed(state.experiments) if e.commit == found.get("b")), None)
    return {
        "number": number,
        "current": number == best.number,
        "baseline": means["a"],
        "value": means["b"],
        "interval": sorted(ends) if ends else None,
        "gain": found.get("gain"),
        "gain_interval": [low, high] if ends else None,
        "runs": {side: _count((found.get("runs") or {}).get(side)) for side in ("a", "b")},
        "verdict": str(found.get("verdict") or ""),
        "why": str(found.get("reason") or found.get("why") or caveat_of(found)),
    }


def _stations(state: State) -> list[dict[str, Any]]:
    """Return the results by station; empty in a session of one machine."""
    found = stations_of(state, state.latest_at, running=False)
    return [{**asdict(each), "name": _text(each.name), "machine": _text(each.machine)} for each in found]


def _count(runs: object) -> int | None:
    return len(runs) if isinstance(runs, list) else runs if isinstance(runs, int) else None


def _ideas(state: State) -> list[dict[str, Any]]:
    """Return what was changed, how often, and with what result. Changes that never helped come first."""
    assert state.session is not None
    found = []
    for idea, members in by_idea(state.experiments).items():
        gains = [gained for e in members if (gained := outcome(state, e).gain) is not None]
        found.append(
            {
                "idea": idea,
                "tried": len(members),
                "kept": sum(e.kept for e in members),
                "crashed": sum(e.verdict.status == "crash" for e in members),
                "best": max(gains, default=None),
                "median": statistics.median(gains) if gains else None,
                "numbers": [e.number for e in members],
            }
        )
    return sorted(found, key=lambda each: (each["kept"] > 0, -each["tried"]))


def _crashes(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for experiment in experiments:
        if experiment.verdict.status == "crash":
            groups[experiment.verdict.reason].append(experiment.number)
    found = [{"reason": reason, "numbers": numbers} for reason, numbers in groups.items()]
    return sorted(found, key=lambda each: -len(each["numbers"]))


def _diff(workspace: Workspace, state: State) -> list[dict[str, str | None]]:
    """Return the whole files that differ between baseline and best.

    A side is None if its commit lacks the file, both are None for each changed file if a commit is missing.
    """
    baseline, best = state.baseline, state.incumbent
    assert baseline is not None and best is not None
    changed = sorted({path for e in state.experiments if e.kept for path in e.files})
    if None in map(workspace.resolve, (baseline.commit, best.commit)):
        return [{"path": _text(path), "before": None, "after": None} for path in changed]
    texts = [
        {
            "path": _text(path),
            "before": _shown(workspace.show(baseline.commit, path)),
            "after": _shown(workspace.show(best.commit, path)),
        }
        for path in changed
    ]
    return [each for each in texts if each["before"] != each["after"]]


def _commands(protocol: Protocol, workspace: Workspace, state: State) -> list[dict[str, str]]:
    """Return commands to paste into a shell in the workspace, each with its purpose."""
    assert state.session is not None and state.incumbent is not None
    tag, best, prefix = state.session["tag"], state.incumbent.commit, workspace.prefix
    paths = sorted({path for e in state.keeps for path in e.files})
    # Next to the repository, whose root may be above the workspace.
    folder = "../" * (1 + len(PurePosixPath(prefix).parts)) + f"best-{tag}"
    enter = f"cd {shlex.quote(str(PurePosixPath(folder, prefix, protocol.execution.cwd)))}"
    seconds = state.session["fingerprint"].get("training_seconds")
    budget = f"AUTORESEARCH_TRAINING_SECONDS={seconds:g} " if seconds else ""
    found = [
        (f"Show the best {path}", f"git show {best}:{shlex.quote(str(PurePosixPath(prefix, path)))}") for path in paths
    ]
    found.append(("Run the best in a folder of its own", f"git worktree add {folder} {best}"))
    found.append(("", f"{enter} && {budget}{protocol.execution.command}"))
    if state.keeps and shows_gain(state.confirmation or {}):
        adopt = f"{program(workspace.folder)} adopt --tag {tag}"
        found.append(("Take the kept changes to your branch, as one commit", adopt))
    elif state.keeps and (state.confirmation or {}).get("verdict") != "refuted":
        # `adopt` takes only what held-out runs have confirmed.
        found.append(("Confirm the gain by held-out runs", f"{program(workspace.folder)} confirm --tag {tag}"))
    found.append(("Resume the session", f"{program(workspace.folder)} run --tag {tag}"))
    return [{"says": _text(says), "command": _text(command)} for says, command in found]
