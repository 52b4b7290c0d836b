"""Confirmations as text: both sides, the gain with its interval, and the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.format import counted, figure
from agent.report.gain import verdict_of
from agent.report.holdout import holdout_lines


def confirm_lines(data: Mapping[str, Any]) -> list[str]:
    names = data["names"]
    wide = max(map(len, names.values()))
    shown = [
        f"{names[label]:{wide}}  {data[label][:12]}  {figure(data['means'][label])} {data['metric']}, "
        f"mean of {data['runs'][label]}: " + " ".join(figure(value) for value in data["values"][label])
        for label in ("a", "b")
    ]
    by, low, high = (figure(data[name], data["means"]["a"]) for name in ("gain", "low", "high"))
    interval = f"95 % interval {low} to {high}, noise of one run {data['noise']:.2g}"
    words = "".join(f", {word}" for word in data.get("reservations", ()))
    about = [_about_seeds(data)]
    if whole := data.get("unfinished"):
        about.append(f"{counted(whole, 'pair')} of an unfinished confirmation counted as well")
    return [*shown, f"gain {by} {verdict_of(data)}{words}: {interval}", *about, *holdout_lines(data)]


def _about_seeds(data: Mapping[str, Any]) -> str:
    if not data["seeds"]:
        return f"seed not varied: {data['one_seed']}"
    known = dict.fromkeys(map(str, data["seeds"]))
    parts = data["spread"]
    new = "new pairs with " if max(data["runs"].values()) > len(data["seeds"]) else ""
    line = f"{new}seeds {', '.join(known)}: a run varies by {parts['run']:.2g}"
    if parts["machine"] is None:
        return line
    if not parts["seed"]:
        return f"{line}, no more than with one seed ({parts['machine']:.2g})"
    return f"{line}, of which the machine is {parts['machine']:.2g} and the seed {parts['seed']:.2g}"
