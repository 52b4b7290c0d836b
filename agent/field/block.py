"""Render the figures of `field` as one block of text for an issue or `docs/hardware.md`."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.field.runs import middle
from agent.format import brief, counted, duration, fenced, figure, one_line

WIDTH, LABEL = 100, 10
# Unit of each condition of a run, see `agent.execution.conditions`.
UNITS = {
    "others": "cores used by others",
    "swapped_gb": "GB swapped out",
    "load": "load",
    "celsius": "degrees Celsius",
    "speed_limit": "% of speed",
}
COLUMNS = (("ms/step", "step_ms"), ("tokens/s", "tokens_per_second"), ("MFU %", "mfu_percent"), ("peak MB", "peak_mb"))


def block(data: Mapping[str, Any]) -> str:
    """Return the fenced block: at most 60 lines of at most 100 columns."""
    parts = [*_head(data), *_machine(data), *_recipe(data), *_sizes(data), *_session(data), *_left_out(data)]
    return fenced("\n".join(line for label, text in parts for line in _wrapped(label, text)), "text")


def _wrapped(label: str, text: str) -> list[str]:
    """Return the lines of an entry. A line of a table keeps its spaces; other text is wrapped."""
    first, rest = f"{label:<{LABEL}}", " " * LABEL
    if text.startswith(" "):
        return [(first + text)[:WIDTH].rstrip()]
    return textwrap.wrap(one_line(text), WIDTH, initial_indent=first, subsequent_indent=rest) or [first.rstrip()]


def _head(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    took = f"{data['minutes']:g} min asked, {duration(data['seconds'])} taken"
    stopped = f", {data['stopped']}" if data["stopped"] else ""
    return [("field", f"autoresearch {data['program']}, format {data['version']}, {took}{stopped}")]


def _machine(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(name, text) for name, text in data["machine"].items()]
    measured = [run["conditions"] for run in (*data["runs"], *([data["first"]] if data["first"] else []))]
    names = dict.fromkeys(name for each in measured for name in each)
    typical = {name: statistics.median(each[name] for each in measured if name in each) for name in names}
    shown = ", ".join(f"{brief(value)} {UNITS.get(name, name.replace('_', ' '))}" for name, value in typical.items())
    return [*facts, *([("meanwhile", shown)] if shown else []), ("sandbox", data["sandbox"]["says"])]


def _recipe(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    runs, first, found = data["runs"], data["first"], []
    if first and first["error"]:
        found.append(("first run", first["error"]))
    good = [run for run in runs if run["metric"] is not None]
    if runs:
        text = f"{counted(len(good), 'run')} of {data['training_seconds']:g} s of training, same seed"
        found.append(("recipe", text))
    elif first and first["metric"] is not None:
        found.append(("recipe", f"first run only: {data['metric']} {figure(first['metric'])}"))
        good = [first]
    noise = data["noise"] or {}
    for name, label in (("metric", data["metric"]), ("steps", "steps")):
        if noise.get(name):
            found.append(("", f"  {label:<10}{_noise(noise[name], figure if name == 'metric' else brief)}"))
    speed = [f"{brief(value)} {label}" for label, name in COLUMNS if (value := middle(good, name)) is not None]
    found += [("speed", ", ".join(speed))] if speed else []
    lost = data["lost"] or (first or {}).get("lost")
    if lost:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in lost.items() if name != "total")
        found.append(("lost", f"{lost['total']:.1f} s of a run are not training: {parts}"))
    return [*found, *_failures(runs)]


def _noise(values: Mapping[str, Any], shown: Callable[[float], str]) -> str:
    mean, low, high = (shown(values[name]) for name in ("mean", "low", "high"))
    percent = f" ({100 * values['sd'] / abs(values['mean']):.2g} %)" if values["mean"] else ""
    return f"mean {mean}, sd {values['sd']:.2g}{percent}, range {low} to {high}"


def _failures(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    counts: dict[str, int] = {}
    for run in runs:
        if run["error"]:
            counts[run["error"]] = counts.get(run["error"], 0) + 1
    return [("failed", f"{counted(count, 'run')}: {error}") for error, count in counts.items()]


def _sizes(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not data["sizes"]:
        return []
    names = [label for label, _ in COLUMNS]
    rows = [("sizes", "  " + "".join(f"{name:>10}" for name in (data["constant"], *names, "steps", data["metric"])))]
    for size in data["sizes"]:
        run, cells = size["run"], [str(size["value"])]
        if run["error"]:
            rows.append(("", f"  {cells[0]:>10}    {one_line(run['error'])}"))
            continue
        cells += [_cell(run[name]) for _, name in COLUMNS]
        rows.append(("", "  " + "".join(f"{cell:>10}" for cell in (*cells, _cell(run["steps"]), _cell(run["metric"])))))
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None else brief(value)


def _session(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = data["session"]
    if not found:
        return []
    counts = ", ".join(f"{found[name]} {name}" for name in ("kept", "discarded", "crashed"))
    done = f"{counted(found['experiments'], 'experiment')} in {duration(found['seconds'])}: {counts}"
    faults = f"{counted(found['faults'], 'fault')} of the machine"
    gain = ""
    if found["gain"] is not None and found["baseline"] is not None:
        word = " (provisional)" if found["provisional"] else ""
        gain = f"; gain {figure(found['gain'], found['baseline'])}{word}, noise {brief(found['noise'] or 0.0, 2)}"
    return [("session", f"{done}; {faults}{gain}")]


def _left_out(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("left out", each) for each in data["left_out"]]
