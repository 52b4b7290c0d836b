"""The markers of the chart, with their colors and legend.

Colors are attributes, so that the file looks right anywhere; the style sheet of the page overrides them by class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape
from typing import Any

from agent.format import figure

PAPER, INK, FAINT, LINE = "#ffffff", "#1f2328", "#6b7280", "#e5e7eb"
GREY, GREEN, RED, BLUE = "#9ca3af", "#15803d", "#b91c1c", "#1d4ed8"
WORDS = {
    "baseline": "baseline",
    "kept": "kept, repeated",
    "provisional": "kept, provisional",
    "discard": "discarded",
    "pruned": "pruned or screened out, estimate",
    "crash": "crashed",
    "unmeasured": "discarded, no metric",
    "best": "running best",
    "band": "noise of one run",
    "again": "held-out runs, with interval",
}


def value_of(row: Mapping[str, Any]) -> float | None:
    """Return the value to draw: the metric, or the estimate of a pruned run; None for a crash or without either."""
    value = row["metric"] if row["metric"] is not None else row["estimate"]
    return None if value is None or row["status"] == "crash" else float(value)


def kind_of(row: Mapping[str, Any]) -> str:
    if row["status"] == "crash":
        return "crash"
    if value_of(row) is None:
        return "unmeasured"
    if row["status"] == "keep":
        return "baseline" if row["number"] == 0 else "kept" if row["confirmed"] else "provisional"
    return "pruned" if row["metric"] is None else "discard"


def lane_of(kinds: Collection[str]) -> str:
    """Return the words beside the lane of the experiments without a value; empty for no lane."""
    return "no metric" if "unmeasured" in kinds else WORDS["crash"] if "crash" in kinds else ""


def said(row: Mapping[str, Any]) -> str:
    value = "" if row["metric"] is None else f" {figure(row['metric'])}"
    return escape(f"#{row['number']} {row['status']}{value}: {row['description']}")


def sign(kind: str, x: float, y: float) -> str:
    match kind:
        case "baseline":
            return f'<path d="M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9z" fill="{GREEN}" stroke="{PAPER}"/>'
        case "kept":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.8" fill="{GREEN}" stroke="{PAPER}"/>'
        case "provisional":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{PAPER}" stroke="{GREEN}" stroke-width="2"/>'
        case "discard":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{GREY}"/>'
        case "pruned":
            return f'<path d="M{x - 3:.1f} {y:.1f}h6" fill="none" stroke="{GREY}" stroke-width="2"/>'
        case "crash":
            path = f"M{x - 2.5:.1f} {y - 2.5:.1f}l5 5m0 -5l-5 5"
            return f'<path d="{path}" fill="none" stroke="{RED}" stroke-width="1.3"/>'
        case "unmeasured":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{PAPER}" stroke="{GREY}"/>'
        case "far":
            return f'<path class="far" d="M{x:.1f} {y - 4:.1f}l4.5 8h-9z" fill="{GREY}"/>'
        case "best":
            return f'<path class="steps" d="M{x - 9:.1f} {y:.1f}h18" stroke="{GREEN}" stroke-width="2"/>'
        case "band":
            return f'<path class="band" d="M{x - 9:.1f} {y - 5:.1f}h18v10h-18z" fill="{GREEN}" fill-opacity="0.12"/>'
        case _:
            path = f"M{x:.1f} {y - 7:.1f}v14m-3 -14h6m-6 14h6"
            return (
                f'<g class="again"><path d="{path}" stroke="{BLUE}" fill="none"/>'
                f'<path class="diamond" d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z" fill="{BLUE}"/></g>'
            )


def letters(at: tuple[float, float], text: str, size: float, colour: str, name: str, anchor: str = "start") -> str:
    """Draw a text.

    Args:
        at: position (x, y).
        text: escaped text.
        size: font size.
        colour: fill color.
        name: class in the page's style sheet.
        anchor: SVG text-anchor.
    """
    end = f' text-anchor="{anchor}"' if anchor != "start" else ""
    more = {
        "label": f' stroke="{PAPER}" stroke-width="3" paint-order="stroke" stroke-linejoin="round"',
        "title": ' font-weight="600"',
    }.get(name, "")
    where = f'class="{name}" x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size:g}" fill="{colour}"'
    return f"<text {where}{end}{more}>{text}</text>"
