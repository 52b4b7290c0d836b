"""The report as one HTML page that needs nothing else: no network, no other file, no script to be read."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from agent.format import brief, cost, duration, figure
from agent.views.page import chart, sidebyside

PARTS = {
    "training": "training",
    "evaluation": "evaluation",
    "starting": "starting runs and saving",
    "repeats": "measuring again",
    "proposing": "proposing",
    "crashes": "lost to crashes",
    "interruptions": "lost to interruptions",
    "other": "git, checks, waiting",
}
CONDITIONS = {
    "chip": "chip",
    "cores": "cores",
    "memory_gb": "memory, GB",
    "os": "system",
    "mlx": "MLX",
    "backend": "back end",
    "snapshot": "data snapshot",
    "training_seconds": "training, s a run",
    "protocol": "protocol",
    "harness": "harness",
}
MOST_KEPT = 20  # that are shown at once, those that gained most
OPEN_UP_TO = 60  # a table of more rows is folded at first


def render(data: Mapping[str, Any]) -> str:
    """The page for what `report.gather` has gathered. All text of experiments is escaped by the template."""
    css, js = (_asset(name) for name in ("report.css", "report.js"))
    return _template().render(
        data=data,
        sessions=data["sessions"],
        css=Markup(css),
        js=Markup(js),
        policy=f"default-src 'none'; style-src '{_sha(css)}'; script-src '{_sha(js)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'",
        parts=PARTS,
        conditions=CONDITIONS,
        open_up_to=OPEN_UP_TO,
    )


def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(_asset)
    page = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page.trim_blocks = page.lstrip_blocks = True
    page.filters |= {
        "duration": duration,
        "cost": cost,
        "date": lambda at: time.strftime("%Y-%m-%d %H:%M", time.localtime(at)),
        "clock": lambda at: time.strftime("%H:%M", time.localtime(at)) if at else "",
        "value": lambda value: "-" if value is None else figure(value),
        "signed": lambda value, like=None: "-" if value is None else figure(value, like, "+").replace("-", "\u2212"),
        "brief": lambda value, digits=4: brief(value, digits).replace(" ", "\u00a0").replace("-", "\u2212"),
        "breakable": lambda name: escape(name).replace("_", Markup("_<wbr>")),
        "percent": lambda part: f"{100 * part:,.{0 if part >= 10 else 1}f} %",
        "span": _span,
    }
    page.globals |= {
        "progress": lambda session, frame: Markup(chart.progress(session, frame)),
        "compare": lambda sessions, frame: Markup(chart.compare(sessions, frame)),
        "far": _far,
        "foremost": _foremost,
        "wide": chart.WIDE,
        "narrow": chart.NARROW,
        "diff_rows": lambda each: list(sidebyside.rows(each["before"] or "", each["after"] or "")),
    }
    return page.get_template("report.html")


def _span(began: float, latest: float) -> str:
    """`2026-03-05 22:10 to 07:02`; the day again where it is another."""
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (began, latest))
    return f"{first} to {last.removeprefix(first[:10]).strip()}"


def _foremost(kept: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that gained most, in the order in which they came."""
    by_effect = sorted(kept, key=lambda row: row["effect"] or 0.0, reverse=True)
    return sorted(by_effect[:MOST_KEPT], key=lambda row: row["number"])


def _far(session: Mapping[str, Any]) -> str:
    """How many points are at the edge, and how far the farthest is; empty where all are in sight."""
    values = chart.beyond(session)
    if not values:
        return ""
    farthest = (max if session["direction"] == "minimize" else min)(values)
    if len(values) == 1:
        return f" One value, {brief(farthest)}, lies beyond the edge and has a triangle there."
    return f" {len(values)} values lie beyond the edge, the farthest at {brief(farthest)}, and have a triangle there."


def _asset(name: str) -> str:
    return (chart.ASSETS / name).read_text(encoding="utf-8")


def _sha(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
