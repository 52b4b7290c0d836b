"""Notifications by real commands: stand-ins for the system's tools on PATH, and commands of the user."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AutoresearchError, UsageError
from agent.journal.events import Event
from agent.journal.journal import read
from agent.journal.paths import journal_path
from agent.journal.state import State, step
from agent.views.notify import Notifier
from tests.common.processes import start
from tests.common.stations import until
from tests.common.terminals import in_terminal
from tests.common.workspaces import Cli, git


def teller(folder: Path, name: str) -> Path:
    """Make a program that appends its arguments to a file as one line of JSON, in one write."""
    program = folder / name
    code = f"import json, sys; open({str(folder / 'told')!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    return program


def told(folder: Path) -> list[list[str]]:
    path = folder / "told"
    return sorted(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else []


def test_session_end_is_notified(quick: Path, cli: Cli, tmp_path: Path) -> None:
    program = teller(tmp_path, "tell")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "5", "--notify", f"{program} {{title}} {{text}}")
    assert done.returncode == 0, done.stderr
    said = told(tmp_path)
    kept = [line for line in done.stderr.splitlines() if re.match(r"#[1-9] keep", line)]
    assert len(kept) >= 1
    assert [title for title, _ in said].count("autoresearch t: new best") == len(kept)
    (end,) = (text for title, text in said if title == "autoresearch t: done")
    assert end.startswith("5 experiments are done. val_bpb ")
    assert len(said) == len(kept) + 1


def test_end_is_notified_once_with_what_held_out_runs_say(quick: Path, cli: Cli, tmp_path: Path) -> None:
    program = teller(tmp_path, "tell")
    notify = ("--notify", f"{program} {{title}} {{text}}")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "2", "--confirm", *notify)
    assert "confirming the gain with held-out runs" in done.stderr
    (end,) = (text for title, text in told(tmp_path) if title == "autoresearch t: done")
    assert re.search(r"^2 experiments are done\. .* apparent, [\d.]+ confirmed", end)


@pytest.mark.parametrize("how", ["fails", "interrupted"])
def test_end_is_notified_once_if_the_confirmation_does_not_end(quick: Path, tmp_path: Path, how: str) -> None:
    program = teller(tmp_path, "tell")
    text = (quick / "train.py").read_text().replace("RATE = 0.1", "SEED = 42\nRATE = 0.1", 1)
    act = "raise SystemExit(3)" if how == "fails" else "__import__('time').sleep(60)"
    # Held-out runs alone set a seed of their own.
    (quick / "train.py").write_text(text.replace('print("---")', f'if SEED != 42:\n    {act}\nprint("---")', 1))
    git(quick, "commit", "--quiet", "-am", "a seed")
    notify = ("--notify", f"{program} {{title}} {{text}}")
    loop = start(quick, "--max-experiments", "2", "--confirm", *notify)
    if how == "interrupted":
        path = journal_path(quick, "t")
        until(lambda: path.exists() and any(e.kind == "running" for e in read(path)), "a held-out run")
        loop.send_signal(signal.SIGTERM)
    _, errors = loop.communicate(timeout=60)
    assert loop.returncode == (0 if how == "fails" else 143)
    assert ("gain not confirmed: " in errors) == (how == "fails")
    (end,) = (text for title, text in told(tmp_path) if title == "autoresearch t: done")
    assert end.startswith("2 experiments are done. val_bpb ")
    why = "baseline failed: crashed: exit code 3" if how == "fails" else "interrupted"
    assert re.search(f"; not confirmed: .*{why}", end)


def test_gpu_that_fails_in_the_confirmation_is_trouble(tmp_path: Path) -> None:
    session = {"tag": "t", "branch": "b", "base": "a" * 40, "metric": "m", "direction": "minimize"}
    state = step(State(), Event("session", 1.0, session))
    with Notifier([f"{teller(tmp_path, 'tell')} {{title}} {{text}}"]) as notifier:
        notifier(Event("note", 2.0, {"text": "", "unconfirmed": "the GPU keeps failing", "fault": True}), state)
    assert told(tmp_path) == [["autoresearch t: trouble", "gain not confirmed: the GPU keeps failing"]]


def test_an_error_that_ends_the_session_is_trouble(quick: Path, cli: Cli, tmp_path: Path) -> None:
    program = teller(tmp_path, "tell")
    (quick / "train.py").write_text("RATE = 0.1\nraise SystemExit('no luck')\n")
    git(quick, "commit", "--quiet", "-am", "broken")
    done = cli(quick, "run", "--tag", "t", "--notify", f"{program} {{title}} {{text}}")
    assert done.returncode == 1
    ((title, text),) = told(tmp_path)
    assert title == "autoresearch t: trouble"
    assert text.startswith("session failed: the baseline failed")


@pytest.fixture
def started(quick: Path, cli: Cli) -> State:
    cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    state = State()
    for event in read(journal_path(quick, "t")):
        state = step(state, event)
    return state


def after(notifier: Notifier, state: State, *kinds: str) -> State:
    """Return the state after experiments with these statuses and other events, all passed to the notifier."""
    for kind in kinds:
        number = len(state.experiments)
        what: dict[str, Any] = {"number": number, "proposer": "m", "description": "{text} $(touch x)"}
        events: list[tuple[str, dict[str, Any]]] = [(kind, {"proposer": "m", "reason": "gone\n", "until": None})]
        if kind in ("crash", "discard"):
            events = [
                ("proposed", {**what, "reasoning": "", "parameters": {}, "digest": "d", "files": []}),
                ("committed", {"number": number, "commit": "c"}),
                ("measured", {"number": number, "run": 1, "metric": None, "seconds": 1.0, "error": "e"}),
                ("judged", {"number": number, "status": kind, "reason": "bad {title}\nluck"}),
                ("recorded", {"number": number, "head": "h"}),
            ]
        for name, data in events:
            event = Event(name, time.time(), data)
            state = step(state, event)
            notifier(event, state)
    return state


@pytest.mark.quick
def test_trouble_is_said_once(started: State, tmp_path: Path) -> None:
    program = teller(tmp_path, "tell")
    with Notifier([f"{program} {{title}} {{text}}"]) as notifier:
        after(notifier, started, *["crash"] * 5, "discard", *["crash"] * 2, "away", "away", "back", "away")
    assert told(tmp_path) == [
        ["autoresearch t: trouble", "3 crashes in a row, the last one: bad {title} luck"],
        ["autoresearch t: trouble", "m is unavailable: gone"],
        ["autoresearch t: trouble", "m is unavailable: gone"],
    ]


@pytest.mark.quick
@pytest.mark.parametrize(("platform", "tool"), [("linux", "notify-send"), ("darwin", "osascript")])
def test_desktop_notification_uses_system_tool(
    started: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, tool: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if platform == "linux":
        with pytest.raises(AutoresearchError, match="needs notify-send") as found:
            Notifier(["desktop"], platform)
        assert "libnotify-bin" in found.value.hint
    teller(tmp_path, tool)
    with Notifier(["desktop"], platform) as notifier:
        after(notifier, started, "away")
    ((*_, title, text),) = told(tmp_path)
    assert (title, text) == ("autoresearch t: trouble", "m is unavailable: gone")


def test_a_command_that_hangs_or_fails_disturbs_nothing(
    started: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 4.0
    monkeypatch.setattr("agent.views.notify.LONGEST_SECONDS", longest)
    pid = tmp_path / "pid"
    hanging = f"echo $$ > {pid}; exec sleep 600 {{text}}"
    with Notifier([hanging, "false {title}", f"{teller(tmp_path, 'tell')} {{title}}"]) as notifier:
        begun = time.monotonic()
        after(notifier, started, "away")
        assert time.monotonic() - begun < longest
    assert told(tmp_path) == [["autoresearch t: trouble"]]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.quick
@pytest.mark.parametrize("text", ["{text}", "`echo {text}`", '$(echo "a" {text})'])
def test_text_of_a_model_is_never_run_as_code(started: State, tmp_path: Path, text: str) -> None:
    made = tmp_path / "made"
    with Notifier([f"{teller(tmp_path, 'tell')} {text}"]) as notifier:
        for evil in (f"$(touch {made})", f"`touch {made}`", f"'; touch {made}; '"):
            notifier(Event("away", time.time(), {"proposer": "m", "reason": evil, "until": None}), started)
            notifier(Event("back", time.time(), {"proposer": "m"}), started)
    assert len(told(tmp_path)) == 3
    assert not made.exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    "way",
    ['echo "{text}"', "echo '{title} {text}'", "echo \\{text}", 'echo "it\'s {title}"', 'echo "$(echo "{text}")"'],
)
def test_quoted_placeholder_is_refused(way: str) -> None:
    with pytest.raises(UsageError, match="is quoted in --notify") as found:
        Notifier([way])
    assert "without quotes" in found.value.hint
    Notifier(["echo \"it's\" {text} 'and' {title}", 'curl -d "$(printf %s {text} | (cat))" "x" {title}'])


@pytest.mark.parametrize("way", ["bel", "'open", ""])
def test_a_way_that_cannot_work_is_said_at_once(quick: Path, cli: Cli, way: str) -> None:
    done = cli(quick, "run", "--tag", "t", "--notify", way)
    assert done.returncode == 2
    assert "--notify" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (quick / ".autoresearch").exists()


def test_the_bell_rings_on_a_terminal_alone(quick: Path, cli: Cli) -> None:
    assert "\a" in in_terminal(quick, "run", "--tag", "t", "--max-experiments", "1", "--notify", "bell")[1]
    assert "\a" not in cli(quick, "run", "--tag", "t", "--max-experiments", "2", "--notify", "bell").stderr
