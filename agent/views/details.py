"""The text output of `show` and `sessions`."""

from __future__ import annotations

import time
from typing import Any

from rich.text import Text

from agent.format import cost, duration, figure, one_line
from agent.report.gather import how_word
from agent.report.stations import by_station, shown_name
from agent.system.invocation import typed
from agent.views.color import diff_lines, status_text

LOST = "(the diff cannot be shown; find out why with `{doctor}`)"
RUN_KINDS = {
    "screen": "with the shorter training",
    "fresh": "repeat, beside a later experiment",
    "confirming": "held out, for `confirm`",
    "promoting": "held out, for `promote`",
    "ablating": "held out, for `ablate`",
}
RUN_FIGURES = ("peak_vram_mb", "num_steps", "mfu_percent")


def show_lines(data: dict[str, Any]) -> list[str | Text]:
    head = status_text(one_line(f"#{data['number']} {data['status']}  {data['description']}"), data["status"])
    by = f"by {data['proposer']} in session {data['tag']}" + (
        f", commit {data['commit'][:12]}" if data["commit"] else ""
    )
    lines: list[str | Text] = [head, by, ""]
    why = [data["reasoning"]] if data["reasoning"] else []
    if data["playbook"] and data["playbook"] not in data["reasoning"]:
        why.append(f"entry of the playbook: {data['playbook']}")
    if why:
        lines += [_title("why"), *_indented("\n".join(why)), ""]
    lines += [_title("effect"), *_indented("\n".join(_effect(data))), ""]
    lines += [_title("verdict"), *_indented("\n".join(_verdict(data))), ""]
    if data["runs"]:
        lines += [_title("runs"), *_indented("\n".join(_runs(data))), ""]
    if data["number"] > 0:
        lost = [LOST.format(doctor=typed("doctor"))]
        lines += [_title("diff"), *(diff_lines(data["diff"]) if data["diff"] is not None else lost), ""]
    if data["log"]:
        whose = "" if data["log_of"] == data["number"] else f" of the repeat of #{data['log_of']}"
        lines += [_title(f"log{whose}  {data['log']}"), *_indented("\n".join(data["log_tail"]) or "(empty)")]
    return lines


def session_lines(sessions: list[dict[str, Any]], now: float) -> list[str | Text]:
    """Format the sessions as a table."""
    titles = ("tag", "experiments", "baseline", "best", "gain", "last activity", "branch")
    rows = [titles, *(tuple(map(one_line, _session(each, now))) for each in sessions)]
    wide = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
    marked = [
        status_text(line, "running") if each["running"] else line
        for line, each in zip(lines[1:], sessions, strict=True)
    ]
    errors = [f"{each['tag']}: {each['error']}" for each in sessions if each["error"]]
    return [Text(lines[0], style="bold"), *marked, *errors]


def _effect(data: dict[str, Any]) -> list[str]:
    name, expected = data["metric"], data["expected"]
    lines = [f"expected  {expected:+.6g} of {name}" if expected is not None else "expected  not stated"]
    if data["value"] is None:
        came = "not measured yet" if data["reason"] is None else "no metric"
    else:
        came = f"{name} {figure(data['value'])}"
        found = data["outcome"]
        if found["runs"] > 1:
            came += f", mean of {found['runs']} runs"
        if found["gain"] is not None:
            steps = " at equal steps" if found["equal_steps"] else ""
            came += f", {figure(found['gain'], data['value'], '+')} against {figure(found['against'])} of "
            came += f"#{found['incumbent']}{steps} ({found['word']})"
    lines.append(f"result    {came}")
    if data["estimate"] is not None and data["estimate"] != data["value"]:
        lines.append(f"estimate  {figure(data['estimate'])}, {_source(data)}")
    lines += _bound(data["bound"])
    return [*lines, *([f"cost      {cost(data['cost'])}"] if data["cost"]["calls"] else [])]


def _source(data: dict[str, Any]) -> str:
    """Return what an estimate is from that is not the mean of the row."""
    if data["value"] is None:
        return "from a run that was stopped early"
    heldout = any(run["kind"] == "fresh" and run["metric"] is not None for run in data["runs"])
    return "with held-out runs" if heldout else "without disturbed runs"


def _bound(bound: dict[str, Any] | None) -> list[str]:
    """Format the bound of a keep, which holds at any time of the session together with those of all keeps."""
    if bound is None:
        return []
    # Where equal programs give equal numbers all runs of the keep count, not only held-out ones.
    kind = "runs" if bound["low"] == bound["gain"] else "held-out runs"
    runs = f"{bound['runs']} {kind} against {bound['baseline_runs']} of the baseline"
    if bound["low"] is None:
        return [f"bound     none yet: {runs} are too few"]
    return [f"bound     at any time at least {figure(bound['low'], sign='+')} over the baseline, by {runs}"]


def _verdict(data: dict[str, Any]) -> list[str]:
    evidence = data["evidence"]
    if data["reason"] is None:
        return ["none yet"]
    lines = [f"{data['status']}: {data['reason']}"]
    if evidence is not None:
        like = evidence["incumbent_mean"]
        guessed = evidence["sigmas"] is None and evidence["noise"] > 0
        sigmas = f" ({evidence['sigmas']:.1f} sigma)" if evidence["sigmas"] is not None else ""
        lines.append(
            f"evidence  {how_word(evidence['how'], evidence['runs'])}: "
            f"mean {figure(evidence['mean'])} of {evidence['runs']} against "
            f"{figure(like)} of {evidence['incumbent_runs']}, gain {figure(evidence['gain'], like, '+')}"
            f"{sigmas}, noise {'not measured' if guessed else figure(evidence['noise'], like)}"
        )
        if evidence["stations"]:
            lines.append(f"stations  {by_station(evidence['stations'], like)}")
    elif data["status"] == "keep" and data["number"] > 0:
        lines.append("evidence  none, the keep is provisional")
    return lines


def _runs(data: dict[str, Any]) -> list[str]:
    lines = []
    for number, run in enumerate(data["runs"], start=1):
        value = figure(run["metric"]) if run["metric"] is not None else "-"
        parts = [f"{number}  {value}  {duration(run['seconds'])}"]
        parts += [f"on {shown_name(run['station'])}"] if run["station"] else []
        parts += [f"{name} {run['secondary'][name]:g}" for name in RUN_FIGURES if name in run["secondary"]]
        parts += [f"{name} {value:g}" for name, value in run["conditions"].items()]
        parts += [RUN_KINDS[run["kind"]]] if run["kind"] in RUN_KINDS else []
        parts += [run["source"]] if run.get("source") else []
        parts += ["unconfined"] if run.get("unconfined") else []
        if run["pruned"] is not None:
            parts.append(f"pruned at {run['pruned']:.0%}")
        parts += [run["error"]] if run["error"] else []
        lines.append("  ".join(parts))
    return lines


def _session(each: dict[str, Any], now: float) -> tuple[str, ...]:
    ago = "running" if each["running"] else f"{duration(max(0.0, now - each['last_activity']))} ago"
    at = time.strftime("%d %b %H:%M", time.localtime(each["last_activity"]))
    if each["error"]:
        return (each["tag"], "-", "-", "-", "-", f"{at}, {ago}", each.get("branch") or "-")
    best = f"{figure(each['best'])} (#{each['best_number']})" if each["best"] is not None else "-"
    if each["gain"] is None:
        gained = "-"
    elif each["heldout_gain"] is not None:
        gained = f"{figure(each['heldout_gain'], each['baseline'])} {each['verdict'] or each['gain_is']}"
        gained += f", {figure(each['gain'], each['baseline'])} apparent" if each["confirmed_gain"] is None else ""
    else:
        said = each["verdict"] or each["gain_is"]
        gained = f"{figure(each['gain'], each['baseline'])} {said}" if each["gain"] > 0 else "none yet"
    baseline = figure(each["baseline"]) if each["baseline"] is not None else "-"
    return (each["tag"], str(each["experiments"]), baseline, best, gained, f"{at}, {ago}", each["branch"])


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
