"""The view for a terminal: rows scroll by, and under them the experiment that runs now."""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.events import Event
from agent.state import State
from agent.summary import summarize
from agent.views.plain import lines
from agent.views.text import COLOURS, duration, headline


class LiveView:
    """A context manager: the screen is put back when it ends, however it ends."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event, state: State) -> None:
        if event.kind == "progress":
            self._live.update(_running(event, state))
            return
        for line in lines(event, state) if event.kind != "started" else ():
            text = Text(line)
            if event.kind == "recorded":
                status = state.experiments[-1].verdict.status
                text.highlight_regex(rf"^#\d+ {status}", f"bold {COLOURS[status]}")
            self._console.print(text, soft_wrap=False)
        if event.kind in ("measured", "ended", "interrupted"):
            self._live.update(Text(""))


def _running(event: Event, state: State) -> Group:
    pending, data = state.pending, event.data
    seconds, expected = data["seconds"], max(data["expected"], 1e-9)
    left = f"{duration(seconds)} of about {duration(expected)}"
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(f"#{pending.number}" if pending else "", ProgressBar(total=expected, completed=seconds), left)
    what = Text(pending.description if pending else "", overflow="ellipsis", no_wrap=True)
    latest = Text(data["line"], style="dim", overflow="ellipsis", no_wrap=True)
    return Group(Text(headline(summarize(state)), overflow="ellipsis", no_wrap=True), what, bar, latest)
