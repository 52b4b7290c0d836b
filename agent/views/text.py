"""Words and figures that all views share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.format import brief, cost, counted, duration, figure, one_line
from agent.journal.experiment import Experiment
from agent.journal.state import State
from agent.proposers.earlier import described
from agent.report.gain import outcome, remeasured, shows_gain, verdict_of
from agent.report.holdout import holdout_line
from agent.report.stations import StationStatus, stations_line
from agent.system.invocation import typed

MOST_KEPT = 5
DETERMINISTIC = "none, runs are deterministic"
COLOURS = {"keep": "green", "discard": "default", "crash": "red"}


def row(state: State, index: int) -> str:
    """Format an experiment: `#12 keep 1.294512 +0.012300 (3.1 sigma) 6m41s MATRIX_LR 0.04 -> 0.05`.

    The gain is over the incumbent of its time.
    """
    experiment = state.experiments[index]
    verdict, came = experiment.verdict, outcome(state, experiment)
    value = figure(came.value) if came.value is not None else "-"
    seconds = duration(experiment.seconds)
    why = verdict.reason if verdict.status == "crash" else experiment.overtaken
    what = one_line(experiment.description + (f" [{why}]" if why else ""))
    return f"#{experiment.number} {status_of(experiment)} {value} {_gained_by(state, experiment)} {seconds} {what}"


def status_of(experiment: Experiment) -> str:
    """Return the status: `keep`, `discard`, `crash`, `discard (pruned at 41 %)`, `discard (screened out at 60 s)`."""
    if experiment.rung is not None:
        return f"{experiment.verdict.status} (screened out at {experiment.rung:g} s)"
    fraction = experiment.runs[-1].pruned if experiment.runs else None
    return experiment.verdict.status + (f" (pruned at {100 * fraction:.0f} %)" if fraction is not None else "")


def _gained_by(state: State, experiment: Experiment) -> str:
    """Format the gain of an experiment and its certainty."""
    came = outcome(state, experiment)
    if came.gain is None:
        return "-"
    said = ["within noise"] if came.word == "within noise" else []
    said += [f"{abs(came.sigmas):.1f} sigma"] if came.sigmas is not None and not said else []
    said += ["at equal steps"] if came.equal_steps else []
    said += [f"mean of {came.runs} runs"] if came.runs > 1 else []
    said += against(state, experiment)
    said += ["provisional"] if experiment.kept and not came.sure else []
    return figure(came.gain, came.value, "+") + (f" ({', '.join(said)})" if said else "")


def against(state: State, experiment: Experiment) -> list[str]:
    """Return `against 1.979285` if the incumbent was re-measured, so that its row shows another value."""
    value = remeasured(state, experiment)
    return [f"against {figure(value)}"] if value is not None else []


def faults(summary: Mapping[str, Any]) -> str:
    """Format what faults of the GPU cost a session: `3 runs after faults of the GPU, 4m10s lost`."""
    found = summary["faults"]
    return f"{counted(found['runs'], 'run')} after faults of the GPU, {duration(found['seconds'])} lost"


def station_line(station: StationStatus) -> str:
    """Format a station: `cpu0 runs candidate 5 for 12s, done at about 12:03:10: DEPTH 4 -> 5; 31 runs, noise 0.0012`.

    Its level is what it adds to the metric, compared with the reference station.
    """
    now, said = station.running, []
    if now is not None:
        until = time.strftime("%H:%M:%S", time.localtime(now.done_at))
        doing = f"runs {now.name} for {duration(now.seconds)}, done at about {until}"
        doing += f": {now.description}" if now.description else ""
    elif station.gone is not None:
        doing = f"is gone: {station.gone}"
    else:
        doing = "is idle" if station.here else ""
    said.append(counted(station.runs, "run") + (f" ({station.lost:,} lost)" if station.lost else ""))
    said += [f"noise {brief(station.noise, 2)}"] if station.noise is not None else []
    if station.reference:
        said.append("the reference")
    elif station.level is not None:
        said.append(f"level {figure(station.level, sign='+')}")
    said += [f"busy {100 * station.used:.0f} % of the time"] if station.used is not None else []
    return f"{station.name} {doing}; {', '.join(said)}" if doing else f"{station.name}: {', '.join(said)}"


def headline(summary: Mapping[str, Any]) -> str:
    """Format a session on one line: `val_bpb 1.6401 (#3), baseline 1.6812, gain 0.0411 provisional`."""
    if summary["baseline"] is None:
        return f"{summary['metric']}: measuring the baseline"
    best, baseline = brief(summary["best"], 6), brief(summary["baseline"], 6)
    line = f"{summary['metric']} {best} (#{summary['best_number']}{_mean(summary['best_runs'])}), baseline {baseline}"
    return line + (f", gain {gain(summary)}" if summary["gain"] else ", no gain yet")


def _mean(runs: int) -> str:
    return f", mean of {runs} runs" if runs > 1 else ""


def gain(summary: Mapping[str, Any]) -> str:
    """Format the gain of a session: `0.0411 apparent, 0.0380 confirmed (0.0310 to 0.0450)`."""
    return ", ".join([_gained(summary), *summary.get("reservations", ())])


def _gained(summary: Mapping[str, Any]) -> str:
    confirmed, apparent = summary["confirmed"], brief(summary["gain"])
    if confirmed is None and summary["gain"] <= 0:
        # A kept simplification may measure slightly worse than the baseline.
        return f"none yet ({apparent})" if summary["gain"] else "none yet"
    if confirmed is None:
        return f"{apparent} {'provisional' if summary['gain_is_provisional'] else 'by repeated runs'}"
    interval = f"{brief(confirmed['low'])} to {brief(confirmed['high'])}"
    return f"{brief(summary['gain'])} apparent, {brief(confirmed['gain'])} {verdict_of(confirmed)} ({interval})"


def background(summary: Mapping[str, Any], *, in_short: bool = False) -> str:
    """Describe what a session builds on: `started from mar5's best, learned from mar5: 100 experiments`.

    Empty for a session of its own.

    Args:
        summary: the summary of the session.
        in_short: only count the experiments, without naming their sessions.
    """
    said = [f"started from {one_line(summary['from'])}'s best"] if summary["from"] else []
    if learned := summary["learned"]:
        every = counted(sum(each["experiments"] for each in learned), "experiment")
        said.append(f"learned from {every if in_short else described(learned)}")
    return ", ".join(said)


def run_words(number: int, runs: int) -> str:
    """Name a run of a comparison. Those that do not count are replaced, so that there can be more than planned."""
    return f"run {number} of {runs}" if number <= runs else f"run {number}, replacing a disturbed one"


def instead(state: State) -> str:
    """Return what the loop does while the model or agent is unavailable."""
    best = state.incumbent
    helpless = best is not None and bool(best.commit) and not best.parameters
    return "waiting, as the search has nothing to change" if helpless else "using the search"


def upcoming(prepared: Mapping[str, Any] | None, preparing: Mapping[str, Any] | None) -> str:
    """Describe the next proposal: `ready, by llm: RATE up`, or `being made by llm`; empty if there is none."""
    if prepared is not None:
        return f"ready, by {prepared['proposer']}: {one_line(prepared['description'])}"
    return f"being made by {preparing['proposer']}" if preparing is not None else ""


@dataclass(frozen=True)
class Places:
    """Where the closing page sends its reader.

    Attributes:
        commit: short hash of the best.
        logs: folder of the session.
        page: path of the report; None if it was not written.
        next_tag: a tag for the session after this one.
        limits: flags of `run` with which the session goes on as before, each with a space before it.
    """

    commit: str
    logs: str
    page: str | None
    next_tag: str
    limits: str = ""


def closing(state: State, summary: Mapping[str, Any], places: Places) -> list[str]:
    """Return the closing page of `run`: what happened, the result, what was kept, and at last the commands to use next.

    Empty lines separate these parts.

    Args:
        state: the session.
        summary: its summary, see `report.summary`.
        places: where the page sends its reader.
    """
    tag = summary["tag"]
    if summary["baseline"] is None:
        return [f"session {tag}: no baseline yet", f"logs  {places.logs}"]
    percent = 100 * summary["gain"] / abs(summary["baseline"]) if summary["baseline"] else 0.0
    happened = [
        f"session   {tag} on {summary['branch']}: {summary['ended'] or 'not ended'}",
        f"tried     {summary['experiments']}: {summary['kept']} kept, {summary['discarded']} discarded, "
        f"{summary['crashed']} crashed, in {duration(3600 * summary['hours'])}",
        *([f"ladder    {summary['ladder']['line']}"] if summary["ladder"] else []),
        *([f"repeated  {faults(summary)}"] if summary["faults"]["runs"] else []),
        *([f"stations  {stations_line(state)}"] if state.flight.stations else []),
        *([f"cost      {cost(summary['cost'])}"] if summary["cost"]["calls"] else []),
        *([f"report    {places.page}"] if places.page else []),
    ]
    result = [
        f"baseline  {figure(summary['baseline'])} {summary['metric']}{_mean(summary['baseline_runs'])}",
        f"best      {figure(summary['best'])} in experiment #{summary['best_number']} ({places.commit})"
        f"{_mean(summary['best_runs'])}",
        f"gain      {gain(summary)}" + (f", {percent:.2f} %" if percent and not summary["confirmed"] else ""),
        *([f"holdout   {holdout_line(summary['holdout'])}"] if summary["holdout"] else []),
        *([f"noise     {_noise(summary['noise'])}"] if summary["noise"] is not None else []),
        *([f"bound     {summary['statement']['line']}"] if summary["statement"] else []),
    ]
    kept = _kept(state)
    parts = [happened, result, *([kept] if kept else []), _next_commands(summary, places)]
    return [one_line(line) for part in parts for line in (*part, "")][:-1]


def _noise(noise: float) -> str:
    return f"{noise:.2g}, standard deviation of one run" if noise else DETERMINISTIC


def _next_commands(summary: Mapping[str, Any], places: Places) -> list[str]:
    """Return what a user does next: look, then take a confirmed gain home, or else confirm it, and go on."""
    tag, found = summary["tag"], summary["confirmed"]
    view = f"view      {typed(f'report --tag {tag} --open')}"
    resume = f"resume    {typed(f'run --tag {tag}{places.limits}')}"
    if not summary["best_number"]:
        return [view, resume]
    if found is None or not shows_gain(found):
        return [view, f"confirm   {typed(f'confirm --tag {tag}')}", resume]
    further = f"go on     {typed(f'run --tag {places.next_tag} --from {tag}')}" if summary["ended"] else resume
    return [view, f"adopt     {typed(f'adopt --tag {tag}')}", further]


def _kept(state: State) -> list[str]:
    """List the kept changes with the largest gains, in the order of their numbers."""
    kept = [(e, outcome(state, e).gain or 0.0) for e in state.keeps]
    most = sorted(kept, key=lambda each: -each[1])[:MOST_KEPT]
    shown = sorted(most, key=lambda each: each[0].number)
    numbers, gains = [f"#{e.number}" for e, _ in shown], [figure(by, e.metric, "+") for e, by in shown]
    wide, high = max(map(len, numbers), default=0), max(map(len, gains), default=0)
    lines = [
        f"kept      {number:<{wide}} {by:>{high}}  {e.description}"
        for (e, _), number, by in zip(shown, numbers, gains, strict=True)
    ]
    return (
        [*lines, f"kept      and {len(kept) - len(shown)} more with smaller gains"] if len(kept) > len(shown) else lines
    )
