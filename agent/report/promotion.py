"""Promotions as text: the rung, the verdict about the whole, and one for each kept change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.format import counted, figure, named, one_line
from agent.journal.comparable import HARNESS, differences
from agent.journal.comparison import Rung
from agent.journal.state import State
from agent.report.holdout import holdout_lines
from agent.system.invocation import typed

NOT_MACHINE = ("training_seconds", "snapshot", "protocol", HARNESS)
WIDE = 10


def rung_words(rung: Rung, state: State) -> str:
    """Describe by what a rung differs from the session's own: `900 s of training, DEPTH = 8, on Apple M4 Max`."""
    assert state.session is not None
    before = state.session["fingerprint"]
    said = []
    if rung.training_seconds is not None and rung.training_seconds != before.get("training_seconds"):
        said.append(f"{rung.training_seconds:g} s of training")
    said += [f"{name} = {value!r}" for name, value in rung.values.items()]
    old, new = ({key: each[key] for key in each if key not in NOT_MACHINE} for each in (before, rung.machine))
    if differences(old, new):
        chips = before.get("chip"), rung.machine.get("chip")
        said.append(f"on {chips[1]}" if chips[0] != chips[1] else "under other conditions of the machine")
    return one_line(", ".join(said))


def promotion_lines(data: Mapping[str, Any]) -> list[str]:
    """Return what `promote` prints."""
    whole = data["whole"]
    own = f"; {_in_session(data['session'])} in the session" if data["session"] is not None else ""
    shown = [_line("rung", data["conditions"]), _line("whole", f"{judged_words(whole)}{own}")]
    if whole["one_seed"] and not whole["seeds"]:
        shown.append(_line("", f"seed not varied: {whole['one_seed']}"))
    shown += [_line("", line) for line in holdout_lines(whole)]
    for entry in data["changes"] or ():
        keeps = " ".join(f"#{number}" for number in entry["numbers"])
        shown.append(_line(keeps, f"{change_words(entry)}: {entry['description']}"))
    rest, kind = data["rest"], data["whole"]["verdict"]
    if rest is not None:
        shown.append(_line("rest", f"without {'; '.join(rest['descriptions'])}: {judged_words(rest['judged'])}"))
    elif kind != "transfers" and any(each["verdict"] == "does not transfer" for each in data["changes"] or ()):
        shown.append(_line("rest", "nothing remains that could be measured without the changes that do not transfer"))
    if kind == "transfers" or (rest is not None and rest["offered"]):
        takes = "" if rest is None or kind != "transfers" else f" takes {_taken(rest)}"
        shown.append(_line("adopt", f"`{typed('adopt --promoted')}`{takes}"))
    return [one_line(line) for line in shown]


def _taken(rest: Mapping[str, Any]) -> str:
    """Say which of two that transfer is adopted."""
    return "what remains, which has the better mean" if rest["offered"] else "the best: what remains is no better"


def promotion_line(data: Mapping[str, Any], best: str | None) -> str:
    """Describe a promotion on one line: `at 900 s of training: transfers: 3.1 % better, ...; 2 of 3 changes transfer`.

    Args:
        data: of the promotion.
        best: the commit of the present best.
    """
    changes, rest = data["changes"], data["rest"]
    each = ""
    if changes:
        count = sum(entry["verdict"] == "transfers" for entry in changes)
        each = f"; {count} of {counted(len(changes), 'change')} transfer{'s' if count == 1 else ''}"
    without = f"; without {named(rest['descriptions'], 3)}: {rest['judged']['verdict']}" if rest else ""
    of = "" if data["best"] == best else "an earlier best "
    return one_line(f"{of}at {data['conditions']}: {judged_words(data['whole'])}{each}{without}")


def judged_words(found: Mapping[str, Any]) -> str:
    """Describe a verdict: `transfers: 3.1 % better, 95 % interval 2.4 % to 3.8 %, 3 pairs`."""
    why = f" ({found['why']})" if found["why"] else ""
    if found.get("gain") is None:
        return f"{found['verdict']}{why}"
    pairs = min(found["runs"].values(), default=0)
    after = f" after {counted(pairs, 'pair')}" if found["verdict"] == "undecided" else ""
    end = "" if after else f", {counted(pairs, 'pair')}"
    by = "better" if found["gain"] > 0 else "worse"
    gained = "no difference" if found["gain"] == 0 else f"{_share(found, abs(found['gain']))} {by}"
    words = "".join(f", {word}" for word in found.get("reservations", ()))
    return f"{found['verdict']}{after}{why}: {gained}, 95 % interval {interval_words(found)}{end}{words}"


def change_words(entry: Mapping[str, Any]) -> str:
    """Describe the verdict about one change, and which constants of it the user has set."""
    why, found = f" ({entry['why']})" if entry["why"] else "", entry["judged"]
    mine = f", {', '.join(entry['set'])} set by you" if entry["set"] and entry["verdict"] != "set by you" else ""
    known = found is not None and found["gain"] is not None
    worth = f" {_share(found, found['gain'], '+')} ({interval_words(found)})" if known else ""
    return f"{entry['verdict']}{worth}{why}{mine}"


def interval_words(found: Mapping[str, Any]) -> str:
    return f"{_share(found, found['low'])} to {_share(found, found['high'])}"


def _share(found: Mapping[str, Any], value: float, sign: str = "") -> str:
    """Format a gain as a percentage of the mean that it is over.

    A gain of more than that mean, such as one over 0, is given in the units of the metric, and its interval likewise.
    """
    before = found["means"].get("a")
    if not before or abs(found["gain"]) > abs(before):
        return figure(value, sign=sign)
    return _percent(value / abs(before), sign)


def _in_session(fraction: float) -> str:
    """Format a gain as a percentage of the baseline, or as a multiple of it where that says more."""
    return _percent(fraction) if abs(fraction) <= 1 else f"{figure(fraction)} times the baseline"


def _percent(fraction: float, sign: str = "") -> str:
    return f"{100 * fraction:{sign}.{2 if abs(fraction) < 0.1 else 1}f} %"


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDE}}  {text}"
