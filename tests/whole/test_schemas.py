"""docs/schemas is true of what sessions write and commands print: every event, file and --json output of real ones."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator

from agent.cli import app
from agent.journal import flight
from agent.journal.events import FIELDS
from agent.journal.paths import journal_path, state_folder
from agent.journal.state import OF_EXPERIMENT, OF_SESSION
from agent.proposers import hybrid
from agent.session import faults
from tests.common import schema_reference, schemas
from tests.common.agents import HOSTILE, agent
from tests.common.claims import fresh_clone
from tests.common.in_process import call
from tests.common.ladders import LADDER, TRAIN, flags_of
from tests.common.machine_faults import Plan, faulty, log_of
from tests.common.model_server import model_server, reply
from tests.common.proposals import NOTES, edit
from tests.common.tries import BETTER, WORSE
from tests.common.tries import edit as edit_by_hand
from tests.common.workspaces import ROOT, commit_all, git, made_once, make_quick, repository, set_protocol

EARLIER = ROOT / "tests" / "data" / "version-0.1.0" / "state"
RATE, PRINTS = "RATE = 0.1  # search: 0.001..10 log", 'print("---")'
CRASHES = 'if __name__ == "__main__":\n    print(1 / 0)\n' + PRINTS
OUT_OF_MEMORY = """ROWS = 64  # search: 4..64 log
DEVICE_BATCH_SIZE = 32  # search: off
import sys
if ROWS != 64 and DEVICE_BATCH_SIZE > 16:
    print("RuntimeError: [metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum")
    sys.exit(1)
print(f"val_bpb: {1 + ROWS / 100:.6f}")
"""
STARTED = re.compile(r'^{"event": "started", .*"number": 1, .*}\n', re.MULTILINE)
BOOK = {"Deeper": "DEPTH up", "Has it": "RATE 0.1"}
BENCH = "SIZE = 8\n\nif __name__ == '__main__':\n    print(f'latency_ms: {abs(SIZE - 50) / 10:.3f}')\n"


class Seen:
    """What was written and printed: pairs of a schema's name and a value that it describes."""

    def __init__(self) -> None:
        self.values: list[tuple[str, Any]] = []

    def json(self, name: str, folder: Path, *args: str) -> Any:
        """Run a command with --json and keep its output."""
        done = call(folder, *args, "--json")
        assert done.stdout, done.stderr
        return self.take(name, json.loads(done.stdout))

    def lines(self, name: str, text: str) -> None:
        for line in text.splitlines():
            self.take(name, json.loads(line))

    def take(self, name: str, value: Any) -> Any:
        self.values.append((name, value))
        return value

    def state(self, state: Path) -> None:
        """Keep every file of a state folder that has a schema."""
        for path in state.rglob("*.json*"):
            if path.name == "journal.jsonl":
                self.lines("event", path.read_text())
            elif re.fullmatch(r"proposal(-\d+|-ahead)?\.json", path.name):
                self.take("proposal", json.loads(path.read_text()))
            elif path.name == "edit.json":
                self.take("edit", json.loads(path.read_text()))
            elif path.name == "earlier.json":
                self.take("earlier", json.loads(path.read_text()))
            elif path.name == "baseline.json":
                self.take("baseline-record", json.loads(path.read_text()))


def run(folder: Path, *args: str, tag: str = "t", **env: str) -> subprocess.CompletedProcess[str]:
    flags = ("--no-keep-awake", "--sandbox", "off")
    done = call(folder, "run", "--tag", tag, *flags, *args, **env)
    assert done.returncode == 0, done.stderr
    return done


def ordinary(folder: Path, seen: Seen) -> None:
    """A session of the search, and all that looks at one."""
    make_quick(folder)
    seen.json("baseline", folder, "baseline", "--sandbox", "off")
    seen.lines("run", run(folder, "--max-experiments", "4", "--max-hours", "1", "--json", "--dry-run").stdout)
    seen.lines("run", run(folder, "--max-experiments", "4", "--json", "--report").stdout)
    seen.lines("run", run(folder, "--max-experiments", "9", "--json", "--dry-run").stdout)
    for command in ("status", "sessions", "report", "diff", "log", "doctor", "skill"):
        seen.json(command, folder, command)
    for flags in (["--mcp"], ["--install", "--yes"], ["--remove", "--yes"]):
        seen.json("skill", folder, "skill", "claude", *flags)
    for which in ("baseline", "best", "3"):
        seen.json("show", folder, "show", which)
    seen.json("diff", folder, "diff", "2")
    seen.json("protocol-check", folder, "protocol", "check")
    seen.json("confirm", folder, "confirm", "--runs", "2", "--sandbox", "off")
    seen.json("ablate", folder, "ablate", "--sandbox", "off")
    seen.json("promote", folder, "promote", "--training-seconds", "600", "--each", "--runs", "2", "--sandbox", "off")
    values = ("--set", "RATE=0.4", "--set", "DEPTH=7", "--set", "WIDTH=256")  # the optimum: nothing is left to gain
    seen.json("promote", folder, "promote", *values, "--runs", "2", "--sandbox", "off")
    for command in ("status", "sessions", "report"):
        seen.json(command, folder, command)
    for _ in range(2):
        seen.json("adopt", folder, "adopt", "--provisional")
    seen.json("show", folder, "show", "best")
    seen.json("field", folder, "field", "--minutes", "2", "--sandbox", "off")
    claimed(folder, seen)
    seen.lines("run", run(folder, "--from", "t", "--max-experiments", "1", "--json", "--no-report", tag="u").stdout)
    for command in ("status", "report"):
        seen.json(command, folder, command)
    with (folder / "results.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            seen.take("results", row)


def claimed(folder: Path, seen: Seen) -> None:
    """A claim of the session, and its replication at the commit that it began with."""
    claim = folder.parent / "claim"
    assert call(folder, "claim", "--out", str(claim)).returncode == 0
    seen.take("claim", json.loads((claim / "claim.json").read_text()))
    reader = fresh_clone(folder, folder.parent / "reader")
    data = seen.json("verify", reader, "verify", str(claim), "--seeds", "2", "--sandbox", "off")["data"]
    seen.take("attestation", json.loads(Path(data["path"]).read_text()))


def failing(folder: Path, seen: Seen) -> None:
    """Every command where it fails, and a session whose baseline does."""
    make_quick(folder)
    commands = (
        "status",
        "show 3",
        "diff",
        "log",
        "sessions",
        "report",
        "confirm",
        "ablate",
        "promote",
        "try",
        "wait",
        "adopt",
    )
    for command in commands:
        seen.json(command.split()[0], folder, *command.split())
    (folder / "AGENTS.md").write_text("<!-- autoresearch end -->")
    seen.json("skill", folder, "skill", "codex")
    seen.json("skill", folder, "skill", "codex", "--install", "--yes")
    (folder / "train.py").write_text(f"{RATE}\nraise ValueError('no')\n")
    commit_all(folder, "broken")
    seen.json("baseline", folder, "baseline", "--sandbox", "off")
    seen.lines("run", call(folder, "run", "--tag", "t", "--sandbox", "off", "--json").stdout)
    (folder / "protocol.json").write_text("{}")
    seen.json("protocol-check", folder, "protocol", "check")
    seen.json("init", folder, "init")
    seen.json("doctor", folder, "doctor")
    seen.json("field", folder, "field")
    seen.json("verify", folder, "verify", "claim")
    journal = journal_path(folder, "t")
    text = journal.read_text()
    journal.write_text("no\n")
    seen.json("sessions", folder, "sessions")
    journal.write_text(text)


def consulted(folder: Path, seen: Seen) -> None:
    """A model that is busy, says nothing usable, crashes, repairs, cannot repair, and goes for a while."""
    make_quick(folder)
    busy = lambda handler: reply(handler, 503, {})  # noqa: E731
    count = itertools.count()
    answers = itertools.chain(
        [busy, "nothing", "nothing", "nothing"],
        [NOTES.format("crashes") + edit(PRINTS, CRASHES), NOTES.format("fixed") + edit("1 / 0", "1 / 1")],
        [NOTES.format("crashes") + edit(PRINTS, CRASHES.replace("0", "00")), "no", "no", "no"],
        (NOTES.format("new") + edit("import sys", f"import sys\n\nN = {next(count)}") for _ in itertools.repeat(0)),
    )
    with model_server(lambda _: next(answers)) as server:
        model = ("--proposer", "llm", "--model", f"{server.url} scripted")
        run(folder, *model, "--max-experiments", "3")
        answers = itertools.chain([busy], answers)
        run(folder, *model, "--max-experiments", "5", "--fallback-after", "0")
    seen.json("status", folder, "status")
    seen.json("show", folder, "show", "3")
    seen.json("report", folder, "report")


def ahead(folder: Path, seen: Seen) -> None:
    """A proposal that is made while the experiment before it is measured, and does not apply to its change."""
    make_quick(folder)
    answers = iter([edit(RATE, "RATE = 0.2"), edit(RATE, "RATE = 0.3"), edit("RATE = 0.2", "RATE = 0.25")])
    with model_server(lambda _: NOTES.format("rate") + next(answers)) as server:
        model = ("--proposer", "llm", "--model", f"{server.url} scripted", "--ahead")
        run(folder, *model, "--max-experiments", "2")
    seen.json("status", folder, "status")


def agents(folder: Path, seen: Seen) -> None:
    """An agent that does what it may not, and a candidate that needs too much memory."""
    make_quick(folder)
    script = 'put("RATE = 0.1", "RATE = 0.3")\n' + HOSTILE["edits prepare.py"][0]
    command = agent(folder.parent, script).command
    run(folder, "--proposer", "command", "--agent-cmd", command, "--max-experiments", "1")
    (folder / "train.py").write_text(OUT_OF_MEMORY)
    set_protocol(folder, safety={"oomPolicy": "reduce_batch", "crashStatus": "discard"})
    run(folder, "--max-experiments", "1", "--seed", "1", tag="memory")
    seen.json("show", folder, "show", "1")
    seen.json("sessions", folder, "sessions")
    seen.json("sessions", folder, "sessions", "--delete", "t", "--yes")


def faulted(folder: Path, seen: Seen) -> None:
    """A candidate that provokes faults of the GPU, and a confirmation that meets one."""
    make_quick(folder)
    plan = Plan(folder.parent / "plan")
    (folder / "train.py").write_text(faulty(plan))
    commit_all(folder, "fails as planned")
    run(folder, "--max-experiments", "0")
    plan.fail(when="(RATE, DEPTH, WIDTH) != (0.1, 4, 64)", always=log_of("kernel/cuda_misaligned"))
    run(folder, "--max-experiments", "1")
    plan.fail(log_of("machine/cuda_ecc"))
    call(folder, "confirm", "1", "--runs", "2", "--sandbox", "off")
    for command in ("status", "report", "sessions"):
        seen.json(command, folder, command)
    seen.json("show", folder, "show", "1")


def stopped(folder: Path, seen: Seen) -> None:
    """A loop that is looked at while it runs, and then ended by SIGTERM."""
    make_quick(folder)
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(text.replace("loss = ", "if RATE != 0.1 or DEPTH != 4:\n    sleep(60)\nloss = "))
    (folder / "train.py").write_text("from time import sleep\n" + (folder / "train.py").read_text())
    commit_all(folder, "slow")
    command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--patience", "9", "--max-hours", "1", "--json"]
    env, path = {**os.environ, "PYTHONPATH": str(ROOT)}, journal_path(folder, "t")
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as loop:
        deadline = time.monotonic() + 60
        while not (path.exists() and STARTED.search(path.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for looks in ("status", "sessions", "doctor"):
            seen.json(looks, folder, looks)
        seen.json("show", folder, "show", "1")
        seen.take("loop", json.loads((state_folder(folder) / "loop.json").read_text()))
        loop.send_signal(signal.SIGTERM)
        text, _ = loop.communicate(timeout=60)
    seen.lines("run", text)
    call(folder, "run", "--tag", "t", "--max-experiments", "0", "--sandbox", "off")


def edited(folder: Path, seen: Seen) -> None:
    """Edits made by hand: one that is kept, and one in the background that is put back."""
    make_quick(folder)
    edit_by_hand(folder, *BETTER)
    seen.json("try", folder, "try", "--sandbox", "off", "-m", "a larger rate")
    edit_by_hand(folder, *WORSE)
    seen.json("try", folder, "try", "--detach")
    for which in ([], ["0"], ["2"]):
        seen.json("wait", folder, "wait", *which)
    seen.json("status", folder, "status")
    seen.json("show", folder, "show", "2")


def guided(folder: Path, seen: Seen) -> None:
    """A session with a playbook, which the next one learns from."""
    make_quick(folder)
    entries = "".join(f"## {name}\n- what: x\n- turns: {turns}\n" for name, turns in BOOK.items())
    (folder / "playbook.md").write_text(f"# Playbook\n\n{entries}## Odd\n- turns: up\n")
    commit_all(folder, "playbook", "playbook.md")
    seen.json("playbook", folder, "playbook")
    run(folder, "--max-experiments", "2", "--confirm")
    for flags in ([], ["--add", "t"], ["--add", "missing"]):
        seen.json("playbook", folder, "playbook", *flags)
    git(folder, "checkout", "--quiet", "main")
    run(folder, "--max-experiments", "1", tag="u")
    seen.json("playbook", folder, "playbook")


def screened(folder: Path, seen: Seen) -> None:
    """Candidates that a shorter training discards, and one that goes on as a control."""
    make_quick(folder)
    (folder / "train.py").write_text(TRAIN)
    commit_all(folder, "two rungs")
    edits = ("RATE=40", "RATE=50", "BATCH_SIZE=9", "RATE=3.0")
    seen.lines("run", run(folder, *flags_of(folder, edits), *LADDER, "--json").stdout)
    for command in ("status", "report"):
        seen.json(command, folder, command)
    seen.json("show", folder, "show", "2")


def drafted(folder: Path, seen: Seen) -> None:
    repository(folder, {"bench.py": BENCH, "README.md": "# Bench\n\n    python bench.py\n"})
    flags = ("--command", f"{sys.executable} bench.py", "--metric", "latency_ms", "--direction", "minimize")
    data = seen.json("init", folder, "init", *flags, "--sandbox", "off", "--mutable", "bench.py")
    assert data["status"] == "ok", data


SESSIONS: list[Callable[[Path, Seen], None]] = [
    *(ordinary, failing, consulted, ahead, agents, faulted, stopped, edited, guided, screened, drafted),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    """Everything that the sessions wrote and printed, and the journals of version 0.1.0."""

    def make(folder: Path) -> None:
        found = Seen()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AUTORESEARCH_CONFIRM", "0")
            patch.setenv("AUTORESEARCH_REPORT", "0")
            patch.setattr(hybrid, "FIRST_WAIT", 0.01)
            patch.setattr(faults, "FIRST_PAUSE", 0.01)
            patch.setattr(faults, "LONGEST_PAUSE", 0.05)
            for make_session in SESSIONS:
                place = folder / make_session.__name__ / "workspace"
                place.parent.mkdir()
                place.mkdir()
                make_session(place, found)
                found.state(state_folder(place))
        found.state(EARLIER)
        (folder / "seen.json").write_text(json.dumps(found.values))

    folder = made_once(tmp_path_factory, "documented", make)
    return [(name, value) for name, value in json.loads((folder / "seen.json").read_text())]


@pytest.mark.parametrize("name", schemas.names())
def test_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(schemas.schema(name))


def test_everything_written_matches_schemas(seen: list[tuple[str, Any]]) -> None:
    faults = {f"{name}: {fault}" for name, value in seen if (fault := schemas.fault(name, value)) is not None}
    assert faults == set()


def test_unknown_field_is_a_fault(seen: list[tuple[str, Any]]) -> None:
    """Names that the protocol chooses are the exception: those of metrics."""
    for name, value in seen:
        if name != "results":
            assert schemas.fault(name, {**value, "more": 1}) is not None, name


def test_every_schema_is_used(seen: list[tuple[str, Any]]) -> None:
    failed = {"error" for name, value in seen if value.get("status") == "error" and "hints" in value}
    assert {name for name, _ in seen} | {"common"} | failed == set(schemas.names())


def test_every_command_succeeds_and_fails_once(seen: list[tuple[str, Any]]) -> None:
    known = {(name, value["status"]) for name, value in seen if "hints" in value}
    assert known == {(name, status) for name in json_commands() for status in ("ok", "error")} - {("doctor", "error")}


def test_every_kind_of_event_is_used(seen: list[tuple[str, Any]]) -> None:
    used = {value["event"] for name, value in seen if name in ("event", "run")}
    # Only a harness with an evaluator leads to `scored`: tests/session/test_scored.py. Stations: tests/fleet.
    elsewhere = {"scored", *flight.EVENTS} - {"compared"}
    assert used == (set(schemas.kinds("event")) | set(schemas.kinds("run"))) - elsewhere


def test_page_matches_schemas() -> None:
    text = (ROOT / "docs" / "files.md").read_text()
    assert sorted(schema_reference.marks(text)) == [name for name in schemas.names() if name != "error"]
    assert schema_reference.page(text) == text, f"run `{schema_reference.COMMAND}`"


def test_every_shared_object_is_used() -> None:
    used = {name for path in schemas.FOLDER.iterdir() for name in re.findall(r"#/\$defs/(\w+)", path.read_text())}
    assert set(schemas.schema("common")["$defs"]) <= used


def test_every_kind_of_event_has_a_schema() -> None:
    sources = [path.read_text() for path in (ROOT / "agent").rglob("*.py")]
    calls = r"(?:journal\.append|journal\.show|_announce|_record|_journal|_replace)\(\s*\"(\w+)\""
    named = {kind for text in sources for kind in re.findall(calls, text)}
    journalled = {*FIELDS, *OF_SESSION, *OF_EXPERIMENT}
    assert journalled <= set(schemas.kinds("event"))
    assert named <= set(schemas.kinds("event")) | set(schemas.kinds("run"))


def json_commands() -> set[str]:
    """Return the schemas that the commands with --json need, but for `run`, which streams."""
    return {name for name, flags in commands(typer.main.get_command(app), "") if "--json" in flags} - {"run"}


def commands(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    yield name, {flag for option in command.params for flag in option.opts}
    for inner, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{name}-{inner}".removeprefix("-"))


def test_every_command_with_json_has_a_schema() -> None:
    assert json_commands() | {"run"} <= set(schemas.names())
