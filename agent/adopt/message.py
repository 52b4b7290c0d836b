"""Write the message of an adopting commit: what changed, the gain and its evidence, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.adopt.choice import Choice
from agent.decision.estimate import estimate
from agent.format import brief, counted, figure, one_line
from agent.journal.comparable import machine_in_words
from agent.journal.state import State
from agent.report.gain import outcome, verdict_of
from agent.report.holdout import holdout_lines
from agent.report.stations import machine_of, shown_name

LONGEST_LINE = 200
MOST_LINES = 200
MOST_STATIONS = 16
# Mark the commit, so that `sessions --delete` finds out whether kept work is in another branch, or was left out.
TRAILER, LEFT_OUT = "Autoresearch-Commit", "Autoresearch-Left-Out"


def message_of(state: State, choice: Choice, merged: Sequence[str] = ()) -> str:
    """Return subject and body.

    Args:
        merged: where the branch then differs from what the session measured.
    """
    session = state.session
    assert session is not None
    changes = counted(len(choice.keeps), "change")
    gained = _gained(state, choice)
    mark = (", before merging" if merged else "") if choice.confirmed else ", provisional"
    subject = f"Adopt {changes} of session {session['tag']}: {session['metric']} {gained}{mark}"
    kept = [_line(state, choice, index) for index in range(min(len(choice.keeps), MOST_LINES))]
    if len(choice.keeps) > MOST_LINES:
        kept.append(f"- and {len(choice.keeps) - MOST_LINES} more")
    kept += _left_out(choice)
    trailers = [f"{TRAILER}: {choice.commit}"] if choice.commit else []
    trailers += [f"{TRAILER}: {each.commit}" for each in choice.keeps if each.commit != choice.commit]
    trailers += [f"{LEFT_OUT}: {each.commit}" for each in state.experiments if each.number in choice.without]
    evidence = [*_evidence(choice), *_conditions(state, choice.rung)]
    if merged:
        evidence.append(f"Merged: {', '.join(merged)} is not as in the session, so this was never measured as a whole")
    blocks = [[subject], kept, evidence, trailers]
    return "\n\n".join("\n".join(one_line(line)[:LONGEST_LINE] for line in block) for block in blocks if block) + "\n"


def _left_out(choice: Choice) -> list[str]:
    what, verb = ("promote", "transfer") if choice.rung else ("ablate", "still help")
    reasons = {
        f"`{what}` did not show that they {verb}": [n for n in choice.without if n not in choice.never_judged],
        f"`{what}` set their constants, which cannot show that they {verb}": sorted(choice.never_judged),
    }
    return [
        f"Left out, because {reason}: {', '.join(f'#{number}' for number in numbers)}"
        for reason, numbers in reasons.items()
        if numbers
    ]


def _line(state: State, choice: Choice, index: int) -> str:
    keep = choice.keeps[index]
    found = outcome(state, keep)
    said = [f"{brief(found.gain)} {found.word}"] if found.gain is not None else []
    if names := choice.partly.get(keep.number):
        said.append(f"adopted without its {' and '.join(names)}")
    by = f" ({'; '.join(said)})" if said else ""
    return f"- #{keep.number} {keep.description}{by}"


def _gained(state: State, choice: Choice) -> str:
    """Return `1.31 -> 1.25`, by held-out runs if there are any."""
    if choice.commit is None and choice.confirmation is None:
        return "not measured"
    found, baseline, best = choice.confirmation, state.baseline, state.incumbent
    if found is not None:
        means = found.get("means", {})
        before, after = means.get("a"), means.get("b")
    else:
        after = estimate(best) if best is not None and best.commit == choice.commit else None
        before = estimate(baseline) if baseline else None
    if before is None or after is None:
        return "not measured"
    return f"{brief(before)} -> {brief(after)}"


def _evidence(choice: Choice) -> list[str]:
    found = choice.confirmation
    if found is None:
        return ["Gain: provisional, not confirmed by held-out runs"]
    word = verdict_of(found) if choice.confirmed else f"provisional, {verdict_of(found)}"
    runs = found.get("runs", {})
    by = f"; {runs.get('a')} held-out runs of the baseline, {runs.get('b')} of these changes" if runs else ""
    caveats = "".join(f", {word}" for word in found.get("reservations", ()))
    if any(found.get(name) is None for name in ("gain", "low", "high")):
        return [f"Gain: {word}{caveats}"]
    interval = f"95 % interval {figure(found['low'])} to {figure(found['high'])}"
    lines = [f"Gain: {figure(found['gain'])} {word}{caveats}, {interval}{by}"]
    if found.get("seeds"):
        lines.append(f"Seeds: {', '.join(dict.fromkeys(map(str, found['seeds'])))}")
    return [*lines, *(line[0].upper() + line[1:] for line in holdout_lines(found))]


def _conditions(state: State, rung: Mapping[str, Any] | None) -> list[str]:
    session, stations = state.session, state.flight.stations if rung is None else {}
    assert session is not None
    about = rung["machine"] if rung else session.get("fingerprint")
    about = about if isinstance(about, dict) else {}
    machine = machine_in_words(about)
    lines = [f"Machine: {machine}"] if machine and not stations else []
    for name in [*stations][:MOST_STATIONS]:
        # Without the name of its host, which is nobody's business on a published branch.
        about_it = machine_of({**stations[name].facts, "host": None})
        lines.append(f"Station {shown_name(name)}: {about_it}, {counted(stations[name].runs, 'run')}")
    lines += [f"Stations: {len(stations) - MOST_STATIONS} more"] if len(stations) > MOST_STATIONS else []
    if about.get("snapshot"):
        lines.append(f"Data: snapshot {about['snapshot']}")
    if about.get("training_seconds"):
        lines.append(f"Training: {about['training_seconds']:g} s a run")
    if rung and rung["values"]:
        values = ", ".join(f"{name} = {value!r}" for name, value in rung["values"].items())
        lines.append(f"Judged with: {values} on both sides; here as on the baseline")
    return [*lines, f"Base: {session['base']}"]
