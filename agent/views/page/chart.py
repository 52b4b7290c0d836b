"""The progress chart as SVG: a point for each experiment, a step line for the running best.

The page, progress.svg and progress.png use the same drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent.format import brief, counted, figure
from agent.views.page.markers import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    LINE,
    PAPER,
    WORDS,
    kind_of,
    lane_of,
    letters,
    said,
    sign,
    value_of,
)
from agent.views.page.scale import Axis, Box, Crowd, interesting, place, shortened, ticks, width, written

ASSETS = Path(__file__).parent / "assets"
Session = Mapping[str, Any]
# Color and dashes of each session in a comparison.
LINES = (
    ("#15803d", ""),
    ("#1d4ed8", "7 4"),
    ("#b45309", "2 4"),
    ("#7e22ce", "10 3 2 3"),
    ("#be185d", "5 3"),
    (FAINT, "1 3"),
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LANE = 20  # height of the lane for experiments without a value, below the plot


@dataclass(frozen=True)
class Frame:
    """The size of a drawing.

    Attributes:
        width: in pixels.
        height: in pixels.
        size: font size in pixels.
        labels: most labels of kept experiments.
        longest: most characters of a label.
        titled: whether to draw a title and a background.
    """

    width: float
    height: float
    size: float
    labels: int
    longest: int
    titled: bool = False

    @property
    def left(self) -> float:
        return 5.4 * self.size


WIDE = Frame(1040, 500, 12, 24, 44)
NARROW = Frame(380, 400, 11, 8, 20)


def alone(sessions: Sequence[Session]) -> str:
    """Draw the chart for a file of its own, with a title and a background."""
    frame = replace(WIDE, titled=True)
    return progress(sessions[0], frame) if len(sessions) == 1 else compare(sessions, frame)


def png(svg: str, system_fonts: bool = True) -> bytes:
    """Render an SVG as PNG at twice its size, for high-density screens.

    Args:
        svg: the drawing.
        system_fonts: also use fonts of the system, for scripts that the bundled font does not cover.
    """
    import resvg_py

    letters = [str(ASSETS / "DejaVuSans.ttf")]
    return resvg_py.svg_to_bytes(svg_string=svg, zoom=2, skip_system_fonts=not system_fonts, font_files=letters)


def progress(session: Session, frame: Frame = WIDE) -> str:
    """Draw one session: its experiments, the running best with its noise, and the confirmed value."""
    rows = session["rows"]
    best = [row for row in rows if row["status"] == "keep" and row["metric"] is not None]
    again = session["confirmation"]
    noise = session["noise"] or 0.0
    low, high = _range(session)
    kinds = [kind for kind in WORDS if kind in {kind_of(row) for row in rows}]
    far = beyond(session)
    legend = {kind: WORDS[kind] for kind in [*kinds, "best"]}
    legend |= {"far": f"{len(far)} out of range"} if far else {}
    legend |= {"band": WORDS["band"]} if noise else {}
    legend |= {"again": WORDS["again"]} if again else {}
    head, top = _head(chart_title(session), legend, frame)
    bottom = frame.height - 3.4 * frame.size - LANE
    right = frame.width - (44 if again else 16)
    y = Axis(low, high, bottom, top)
    x = Axis(0, max(1, rows[-1]["number"]), frame.left + 10, right - 8)
    plot = Box(frame.left, top, right, bottom)
    dots = [_point(row, x, y, bottom) for row in rows if row["status"] != "keep"]
    kept = [_point(row, x, y, bottom) for row in rows if row["status"] == "keep"]
    parts = [_axes(x, y, plot, frame, lane_of(kinds))]
    parts += [_band(best, x, y, plot, noise) if noise else "", *dots, _steps(best, x, y, plot, (GREEN, ""))]
    parts += [_labels(session, best, x, y, plot, frame), *kept, _again(again, y, right + 18) if again else ""]
    # The script of the page draws a part of the session in the same box.
    box = " ".join(f"{each:.1f}" for each in (plot.left, plot.top, plot.right, plot.bottom))
    part = f'<g class="plot" data-box="{box}" data-size="{frame.size:g}" data-lane="{LANE * bool(lane_of(kinds))}">'
    return _svg([head, part, *parts, "</g>"], frame, chart_title(session), _described(session, len(far)))


def compare(sessions: Sequence[Session], frame: Frame = WIDE) -> str:
    """Draw the running best of several sessions."""
    down = sessions[0]["direction"] == "minimize"
    bests = [[r for r in s["rows"] if r["status"] == "keep" and r["metric"] is not None] for s in sessions]
    every = [row["metric"] for best in bests for row in best]
    low, high = interesting(sorted(every, reverse=down), every, 0.0, down)
    title = f"{sessions[0]['metric']}: {', '.join(s['tag'] for s in sessions)}"
    head, top = _head(title, {}, frame)
    long = max(width(shortened(s["tag"], frame.longest), frame.size) for s in sessions)
    right, bottom = frame.width - min(long, 0.3 * frame.width) - 14, frame.height - 3.4 * frame.size
    y = Axis(low, high, bottom, top)
    x = Axis(0, max(1, *(s["rows"][-1]["number"] for s in sessions)), frame.left + 10, right - 8)
    plot = Box(frame.left, top, right, bottom)
    parts = [head, _axes(x, y, plot, frame, "")]
    named: list[tuple[float, float]] = []
    for index, (session, best) in enumerate(zip(sessions, bests, strict=True)):
        stroke, name = LINES[index % len(LINES)], f"line-{index % len(LINES)}"
        end = x(session["rows"][-1]["number"])
        parts.append(_steps(best, x, y, replace(plot, right=end), stroke, name))
        for row in best:
            parts.append(
                f'<circle class="{name}" cx="{x(row["number"]):.1f}" cy="{y(row["metric"]):.1f}" '
                f'r="3.5" fill="{stroke[0]}"><title>{escape(session["tag"])} {said(row)}</title></circle>'
            )
        height = y(best[-1]["metric"]) if best else bottom
        while any(abs(end - x_other) < long and abs(height - other) < frame.size + 2 for x_other, other in named):
            height -= 2
        named.append((end, height))
        tag = escape(shortened(session["tag"], frame.longest))
        parts.append(letters((end + 8, height + 0.35 * frame.size), tag, frame.size, stroke[0], name))
    standing = "; ".join(
        f"{s['tag']}: baseline {brief(s['baseline'], 6)}, best {brief(s['best'], 6)}" for s in sessions
    )
    return _svg(parts, frame, title, standing)


def beyond(session: Session) -> list[float]:
    """Return the values outside the drawn range, which are drawn at the edge."""
    low, high = _range(session)
    return [value for row in session["rows"] if (value := value_of(row)) is not None and not low <= value <= high]


def _range(session: Session) -> tuple[float, float]:
    again, rows = session["confirmation"], session["rows"]
    best = [row["metric"] for row in rows if row["status"] == "keep" and row["metric"] is not None]
    best += [*(again["interval"] or []), again["value"]] if again else []
    values = [value for row in rows if (value := value_of(row)) is not None]
    return interesting(best or [0.0], values or [0.0], session["noise"] or 0.0, session["direction"] == "minimize")


def _point(row: Mapping[str, Any], x: Axis, y: Axis, bottom: float) -> str:
    value, kind, at = value_of(row), kind_of(row), x(row["number"])
    attributes = f'class="pt {kind}" data-n="{row["number"]}"'
    title = f"<title>{said(row)}</title>"
    if value is None:
        return f"<g {attributes}>{sign(kind, at, bottom + LANE / 2)}{title}</g>"
    if y.holds(value):
        return f"<g {attributes}>{sign(kind, at, y(value))}{title}</g>"
    edge = y(value)
    inwards = 1 if edge < (y.first + y.last) / 2 else -1
    colour = GREEN if row["status"] == "keep" else GREY
    path = f"M{at:.1f} {edge + inwards:.1f}l4.5 {inwards * 8}h-9z"
    return f'<g {attributes}><path class="far" d="{path}" fill="{colour}"/>{title}</g>'


def _steps(
    best: Sequence[Mapping[str, Any]], x: Axis, y: Axis, plot: Box, stroke: tuple[str, str], name: str = "steps"
) -> str:
    """Draw the running best.

    Args:
        best: rows of the kept experiments, in order.
        x: axis of the numbers.
        y: axis of the metric.
        plot: where to draw.
        stroke: color and dashes.
        name: class of the line in the page's style sheet.
    """
    if not best:
        return ""
    path = f"M{x(best[0]['number']):.1f} {y(best[0]['metric']):.1f}"
    path += "".join(f"H{x(row['number']):.1f}V{y(row['metric']):.1f}" for row in best[1:]) + f"H{plot.right:.1f}"
    colour, dash = stroke
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="{name}" d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'


def _band(best: Sequence[Mapping[str, Any]], x: Axis, y: Axis, plot: Box, noise: float) -> str:
    ends = [*(x(row["number"]) for row in best[1:]), plot.right]
    path = ""
    for row, end in zip(best, ends, strict=False):
        top, bottom = sorted((y(row["metric"] - noise), y(row["metric"] + noise)))
        path += f"M{x(row['number']):.1f} {top:.1f}H{end:.1f}V{bottom:.1f}H{x(row['number']):.1f}z"
    return f'<path class="band" d="{path}" fill="{GREEN}" fill-opacity="0.12"/>'


def _again(again: Mapping[str, Any], y: Axis, x: float) -> str:
    middle = y(again["value"])
    low, high = (y(end) for end in again["interval"] or (again["value"],) * 2)
    whisker = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10"
    says = f"held-out runs: {figure(again['value'])}"
    if again["interval"]:
        says += f", {figure(again['interval'][0])} to {figure(again['interval'][1])}"
    return (
        f'<g class="again"><path d="{whisker}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>'
        f'<path class="diamond" d="M{x:.1f} {middle - 6:.1f}l6 6l-6 6l-6 -6z" fill="{BLUE}"/><title>{says}</title></g>'
    )


def _wanted(best: Sequence[Mapping[str, Any]], down: bool, frame: Frame) -> list[tuple[Mapping[str, Any], str]]:
    """Return the kept rows to label, with their labels: the latest and the largest gains first, the baseline last."""
    gains = {row["number"]: (before["metric"] - row["metric"]) * (1 if down else -1) for before, row in pairwise(best)}
    by_gain = sorted(best[1:], key=lambda row: -gains[row["number"]])
    named = [*best[-1:], *(row for row in by_gain if row is not best[-1])][: frame.labels] if len(best) > 1 else []
    return [(row, shortened(f"#{row['number']} {row['description']}", frame.longest)) for row in (*named, *best[:1])]


def _labels(session: Session, best: Sequence[Mapping[str, Any]], x: Axis, y: Axis, plot: Box, frame: Frame) -> str:
    """Draw the labels of kept experiments where they cover least, with a thin line to those that are moved away."""
    points = [(x(row["number"]), y(value)) for row in session["rows"] if (value := value_of(row)) is not None]
    steps = [x(row["number"]) for row in best] + [plot.right]
    for row, (start, end) in zip(best, pairwise(steps), strict=True):
        points += [(start + 5 * i, y(row["metric"])) for i in range(int((end - start) / 5) + 1)]
    for before, row in pairwise(best):
        top, bottom = sorted((y(before["metric"]), y(row["metric"])))
        points += [(x(row["number"]), top + 5 * i) for i in range(int((bottom - top) / 5) + 1)]
    crowd, size, found = Crowd(points), frame.size - 1, []
    for row, text in _wanted(best, session["direction"] == "minimize", frame):
        at, level = x(row["number"]), y(row["metric"])
        label = place(at, level, text, size, plot, crowd)
        if label is None:
            continue
        crowd.take(label)
        if label.lead:
            edge = label.lead.bottom if label.y > level else label.lead.top
            path = f"M{at:.1f} {level:.1f}L{label.x:.1f} {edge:.1f}"
            found.append(f'<path class="lead" d="{path}" stroke="{FAINT}" stroke-width="0.7" fill="none"/>')
        found.append(letters((label.x, label.y), escape(text), size, INK, "label", label.anchor))
    return "".join(found)


def _axes(x: Axis, y: Axis, plot: Box, frame: Frame, lane: str) -> str:
    size, parts = frame.size - 1, []
    values = ticks(y.low, y.high, 6)
    for value, text in zip(values, written(values), strict=True):
        at = y(value)
        parts.append(f'<path class="grid" d="M{plot.left:.1f} {at:.1f}H{plot.right:.1f}" stroke="{LINE}"/>')
        parts.append(letters((plot.left - 8, at + 0.35 * size), text, size, FAINT, "tick", "end"))
    floor = plot.bottom + (LANE if lane else 0)
    if lane:
        parts.append(letters((plot.left - 8, plot.bottom + LANE / 2 + 0.35 * size), lane, size, FAINT, "tick", "end"))
    parts.append(f'<path class="axis" d="M{plot.left:.1f} {floor:.1f}H{plot.right:.1f}" stroke="{FAINT}"/>')
    steps = [value for value in ticks(0, x.high, 10 if frame.width > 600 else 5) if value == int(value)]
    parts += [letters((x(value), floor + size + 5), f"{value:.0f}", size, FAINT, "tick", "middle") for value in steps]
    middle = (plot.left + plot.right) / 2
    parts.append(letters((middle, floor + 2.6 * size), "experiment", size, FAINT, "tick", "middle"))
    return "".join(parts)


def _head(title: str, legend: Mapping[str, str], frame: Frame) -> tuple[str, float]:
    """Draw title and legend, and return them with the top of the plot."""
    parts, line = [], frame.size + 8
    top = 6.0
    if frame.titled:
        parts.append(letters((16, top + 18), escape(shortened(title, 110)), frame.size + 4, INK, "title"))
        top += 34
    x = frame.left
    for kind, words in legend.items():
        long = 26 + width(words, frame.size - 1)
        if x + long > frame.width - 8 and x > frame.left:
            x, top = frame.left, top + line
        parts.append(f'<g class="{kind}">{sign(kind, x + 9, top + line / 2)}</g>')
        parts.append(letters((x + 23, top + line / 2 + 0.33 * frame.size), words, frame.size - 1, FAINT, "tick"))
        x += long + 12
    return "".join(parts), top + (line + 10 if legend else 12)


def chart_title(session: Session) -> str:
    """Return a title with the best, the gain and its certainty."""
    again = session["confirmation"]
    sure = again if again and again["current"] and again["gain"] is not None else None
    apparent = "provisional" if session["gain_is_provisional"] else "by repeated runs"
    gained, word = (sure["gain"], sure["verdict"]) if sure else (session["gain"] or 0.0, apparent)
    ending = f", {word}" if word else ""
    ending += f" {sure['why']}" if word == "confirmed" and sure and sure["why"] else ""
    came = f"{brief(gained)} better than the baseline{ending}" if gained > 0 else "no better than the baseline"
    reached = f"{session['metric']} {brief(session['best'], 6)}"
    return f"{session['tag']}: {reached}, {came}, {counted(session['experiments'], 'experiment')}"


def _described(session: Session, outside: int) -> str:
    far = f" {outside} are out of range." if outside else ""
    return (
        f"A chart of {counted(session['experiments'], 'experiment')}: {session['kept']} kept, "
        f"{session['discarded']} discarded, {session['crashed']} crashed. "
        f"{session['metric']} went from {brief(session['baseline'], 6)} to {brief(session['best'], 6)}.{far} "
        "The table below lists every experiment."
    )


def _svg(parts: Sequence[str], frame: Frame, title: str, described: str) -> str:
    ground = f'<rect width="100%" height="100%" fill="{PAPER}"/>' if frame.titled else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width:g} {frame.height:g}" '
        f'role="img" aria-label="{escape(title)}. {escape(described)}" font-family="{FONT}">'
        f"{ground}{''.join(parts)}</svg>\n"
    )
