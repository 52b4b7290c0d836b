"""Render the report as one self-contained HTML page that is readable without network and scripts."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from agent.format import brief, cost, duration, figure
from agent.report.holdout import scored_words
from agent.report.promotion import change_words, judged_words
from agent.views.page import chart, sidebyside
from agent.views.page.embedded import in_html
from agent.views.text import background

PARTS = {
    "training": "training",
    "evaluation": "evaluation",
    "starting": "starting and saving",
    "repeats": "repeated and held-out runs",
    "screens": "screens with a shorter training",
    "proposing": "proposing",
    "crashes": "lost to crashes",
    "interruptions": "lost to interruptions",
    "faults": "lost to faults of the machine",
    "other": "git, checks, waiting",
}
CONDITIONS = {
    "chip": "chip",
    "cores": "cores",
    "memory_gb": "memory, GB",
    "os": "system",
    "mlx": "MLX",
    "backend": "backend",
    "snapshot": "data snapshot",
    "training_seconds": "training budget, s",
    "protocol": "protocol",
    "harness": "harness",
}
# The script, as one text: its parts share their functions, and the last one starts it.
SCRIPTS = ("elements.js", "chart.js", "panel.js", "table.js", "constants.js", "curves.js", "report.js")
MOST_KEPT = 20  # kept changes shown at first, those with the largest gains
MOST_CONSTANTS = 12  # constants shown at first, the most important ones
OPEN_UP_TO = 60  # a table with more rows is collapsed at first


def render(data: Mapping[str, Any], embedded: Sequence[Mapping[str, Any]]) -> str:
    """Render the report as a page. The template escapes all text of experiments.

    Args:
        data: as `report.gather` returns it.
        embedded: what the script shows of each session, as `embedded.embedded` returns it.
    """
    css, js = _asset("report.css"), "\n".join(map(_asset, SCRIPTS))
    return _template().render(
        data=data,
        sessions=data["sessions"],
        embedded=embedded,
        json=[Markup(in_html(each)) for each in embedded],
        css=Markup(css),
        js=Markup(js),
        policy=f"default-src 'none'; style-src '{_sha(css)}'; script-src '{_sha(js)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'",
        parts=PARTS,
        conditions=CONDITIONS,
        open_up_to=OPEN_UP_TO,
        most_constants=MOST_CONSTANTS,
    )


def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(_asset)
    page = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page.trim_blocks = page.lstrip_blocks = True
    page.filters |= {
        "background": background,
        "judged": judged_words,
        "change_words": change_words,
        "duration": duration,
        "cost": cost,
        "date": lambda at: time.strftime("%Y-%m-%d %H:%M", time.localtime(at)),
        "clock": lambda at: time.strftime("%H:%M", time.localtime(at)) if at else "",
        "value": lambda value: "-" if value is None else figure(value),
        "signed": lambda value, like=None: "-" if value is None else figure(value, like, "+").replace("-", "\u2212"),
        "brief": lambda value, digits=4: brief(value, digits).replace(" ", "\u00a0").replace("-", "\u2212"),
        "breakable": lambda name: escape(name).replace("_", Markup("_<wbr>")),
        "percent": lambda part: f"{100 * part:,.{0 if part >= 10 else 1}f} %",
        "scored": lambda found: scored_words(found).replace("-", "\u2212"),
        "span": _span,
        "setting": lambda value: "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value),
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
    """Format a span of time: `2026-03-05 22:10 to 07:02`, with the second date only if it differs."""
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (began, latest))
    return f"{first} to {last.removeprefix(first[:10]).strip()}"


def _foremost(kept: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with the largest gains, in order of their numbers."""
    by_effect = sorted(kept, key=lambda row: row["effect"] or 0.0, reverse=True)
    return sorted(by_effect[:MOST_KEPT], key=lambda row: row["number"])


def _far(session: Mapping[str, Any]) -> str:
    """Return a sentence about points out of range and the farthest of them; empty if there are none."""
    values = chart.beyond(session)
    if not values:
        return ""
    farthest = (max if session["direction"] == "minimize" else min)(values)
    if len(values) == 1:
        return f" A triangle at the edge marks one value out of range, {brief(farthest)}."
    return f" Triangles at the edge mark {len(values)} values out of range, the farthest at {brief(farthest)}."


def _asset(name: str) -> str:
    return (chart.ASSETS / name).read_text(encoding="utf-8")


def _sha(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
