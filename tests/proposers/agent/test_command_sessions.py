"""Test whole sessions with coding agents as real processes: what the user sees, and what an agent cannot harm."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from agent.execution.process import POLL_SECONDS
from tests.common.agents import BETTER, HONEST, HOSTILE, NEEDS_ONE, WITH_NOTES, agent, counting
from tests.common.forked import Forked
from tests.common.processes import gone
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import QUICK, Cli, git


def test_answered_agent_is_not_asked_again_after_kill(quick: Path, program: Cli, tmp_path: Path) -> None:
    """The loop is killed in the dry check: after the agent has finished, and before anything is journaled."""
    counter, checked = tmp_path / "count", tmp_path / "checked"
    hangs = (
        f"import os, sys, time\nif __name__ == 'dry_check' and not os.path.exists({str(checked)!r}):"
        f"\n    open({str(checked)!r}, 'w').close()\n    time.sleep(600)"
    )
    script = counting(counter) + HONEST + f"put('import sys', {hangs!r})\n" + WITH_NOTES
    flags = ["--proposer", "command", "--agent-cmd", agent(tmp_path, script).command, "--max-experiments", "1"]
    command = ["run", "--tag", "t", "--no-keep-awake", "--sandbox", "off", *flags]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    loop = Forked(quick, command, {**os.environ, "TMPDIR": str(temporary)})
    while not checked.exists():
        assert loop.poll() is None
        time.sleep(0.02)
    loop.kill()
    loop.wait()
    assert list(temporary.glob("autoresearch-*"))
    done = program(quick, *command, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert counter.read_text() == "x"
    assert not list(temporary.glob("autoresearch-*")), "the copy that the killed loop has left"
    assert [row["description"] for row in rows(quick)] == ["baseline [unconfined]", "a larger rate [unconfined]"]


def test_agent_session_keeps_invariants(quick: Path, program: Cli, tmp_path: Path) -> None:
    """In the third experiment the agent only does harm, so the search proposes that one."""
    script = f"""
counter = pathlib.Path({str(tmp_path / "count")!r})
count = len(counter.read_text()) if counter.exists() else 0
counter.write_text("x" * (count + 1))
if count == 2:
    pathlib.Path("prepare.py").unlink()
else:
    put(f"RATE = 0.{{count + 1}}", f"RATE = 0.{{count + 2}}")
    note(f"DESCRIPTION: step {{count}}\\nEXPECTED: -0.01")
"""
    command = agent(tmp_path, script).command
    flags = ("--no-keep-awake", "--sandbox", "off", "--max-experiments", "3", "--no-ahead")
    done = program(quick, "run", "--tag", "t", "--proposer", "command", "--agent-cmd", command, *flags)
    assert done.returncode == 0, done.stderr
    lines = (quick / ".autoresearch/sessions/t/journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    proposed = [event for event in events if event["event"] == "proposed"][1:]
    assert [event["proposer"] for event in proposed] == ["command", "command", "search"]
    assert [event["description"] for event in proposed[:2]] == ["step 0", "step 1"]
    nothing = [event["reason"] for event in events if event["event"] == "nothing"]
    assert nothing == ["the agent changed nothing; dropped: it deleted prepare.py, which is not a mutable file"]
    assert "deleted prepare.py, which is not a mutable file" in done.stderr
    assert git(quick, "symbolic-ref", "--short", "HEAD") == "autoresearch/t"
    assert not git(quick, "status", "--porcelain")
    assert (quick / ".autoresearch/sessions/t/experiments/0001/agent.log").exists()


# One experiment each: what the agent does besides an honest change, and the line that the user sees.
ACTS = (
    (HOSTILE["edits prepare.py"][0], "ignored: it changed prepare.py, which is not a mutable file"),
    (HOSTILE["deletes .git"][0], "ignored: it deleted .git"),
    ("outside()", ""),  # denied by the sandbox, as the note at the start says
    (HOSTILE["leaves a daemon"][0], "ignored: it left `sleep` running, which was killed"),
    (HOSTILE["commits"][0], "ignored: it committed"),
    (HOSTILE["switches the branch"][0], "ignored: it switched the branch"),
    (HOSTILE["prints ten megabytes"][0], "ignored: it printed 10 MiB, of which the last 1 MiB is"),
    ("time.sleep(600)", "ignored: it ran until it was stopped (timed out: killed after the hard"),
)


@NEEDS_ONE
def test_hostile_agent_session_keeps_invariants(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """All acts in one session: the agent proposes every experiment, nothing is harmed, and a line reports each act."""
    before = {path.name: path.read_bytes() for path in quick.iterdir() if path.is_file()}
    places = [str(quick / "new.txt"), str(quick / "prepare.py"), str(quick / ".git" / "HEAD"), str(tmp_path / "x")]
    script = f"""
import re
def outside():
    for place in {places!r}:
        try:
            open(place, "w").write("harm")
        except OSError as error:
            print(error)
number = int(re.findall(r"experiments so far: (\\d+)", prompt)[0])
train.write_text(re.sub("(?m)^RATE = .*", f"RATE = {{0.12 + 0.02 * number:.2f}}", train.read_text()))
note(f"DESCRIPTION: act {{number}}")
exec({[act for act, _ in ACTS]!r}[number])
"""
    command = agent(tmp_path, script).command
    flags = ("--no-keep-awake", "--no-ahead", "--agent-timeout", "8", "--max-experiments", str(len(ACTS)))
    done = cli(quick, "run", "--tag", "t", "--proposer", "command", "--agent-cmd", command, *flags)
    assert done.returncode == 0, done.stderr
    assert "agent: writes confined by" in done.stderr
    for number, (_, line) in enumerate(ACTS, start=1):
        assert f"#{number} command: {line}" in done.stderr or not line
    assert [row["description"] for row in rows(quick)] == ["baseline", *(f"act {n}" for n in range(len(ACTS)))]
    assert_consistent(quick)
    for name in ("prepare.py", "protocol.json", "pyproject.toml"):
        assert (quick / name).read_bytes() == before[name]
    assert not (quick / "new.txt").exists()
    assert not (tmp_path / "x").exists()
    log = quick / ".autoresearch/sessions/t/experiments/0003/agent.log"
    assert len(log.read_text().splitlines()) == len(places), "each write outside was refused, and that is in its log"


def test_one_that_does_nothing_and_one_that_hangs_are_seen(quick: Path, cli: Cli, tmp_path: Path) -> None:
    flags = ("--no-keep-awake", "--sandbox", "off", "--proposer", "command", "--fallback-after", "0")
    run = ("run", "--tag", "t", *flags, "--agent-cmd", agent(tmp_path, "").command)
    done = cli(quick, *run, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert "command had no usable proposal for #2: the agent changed nothing" in cli(quick, "status").stdout
    done = cli(quick, *run, "--max-experiments", "5")
    reason = "using the search: the agent changed nothing 3 times in a row; see its agent.log"
    assert reason in done.stderr
    assert re.search(r"see its agent\.log in \S*\.autoresearch/sessions/t/experiments/000\d\n", done.stderr)
    assert f"command is unavailable, {reason}" in cli(quick, "status").stdout
    assert len(rows(quick)) == 6
    # The time limit also kills processes that left the agent's session.
    pids = tmp_path / "pids"
    hangs = f"""
away = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{away.pid}}")
time.sleep(600)
"""
    limits = ("--agent-timeout", "2", "--max-experiments", "6")
    done = cli(quick, *run[:-1], agent(tmp_path, hangs).command, *limits)
    assert done.returncode == 0
    assert len(rows(quick)) == 7
    assert "changed nothing before it was stopped (timed out: killed after the hard limit of 2 s)" in done.stderr
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_agent_without_time_limit_proposes(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """The agent takes longer than the interval at which its time limit is checked."""
    command = agent(tmp_path, f"time.sleep({2 * POLL_SECONDS})\n{HONEST}{WITH_NOTES}").command
    flags = ("--no-keep-awake", "--sandbox", "off", "--max-experiments", "1", "--proposer", "command")
    done = cli(quick, "run", "--tag", "t", *flags, "--agent-timeout", "inf", "--agent-cmd", command)
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["description"] == "a larger rate [unconfined]"


def test_a_person_at_work_while_an_agent_is_asked(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """The user's edit is kept and not measured; the change that the agent made meanwhile is measured."""
    counter, mine = tmp_path / "count", quick / "train.py"
    text = QUICK + "# mine\n"
    script = counting(counter) + HONEST + WITH_NOTES
    script += f"pathlib.Path({str(mine)!r}).write_text({text!r})\n"
    command = agent(tmp_path, script).command
    flags = ("--no-keep-awake", "--sandbox", "off", "--max-experiments", "1", "--proposer", "command")
    done = cli(quick, "run", "--tag", "t", *flags, "--agent-cmd", command)
    assert done.returncode == 0, done.stderr
    assert "train.py has uncommitted changes" in done.stderr, done.stderr
    assert mine.read_text() == text
    assert git(quick, "show", "HEAD:train.py") == BETTER.strip()
    assert counter.read_text() == "x"
    assert rows(quick)[1]["description"] == "a larger rate [unconfined]"


def test_a_repair_that_fails_is_said_so(quick: Path, cli: Cli, tmp_path: Path) -> None:
    crash = "print(RATE / 0) if __name__ == '__main__' else None\nloss = "
    script = f"put('loss = ', {crash!r}) if 'crashed' not in prompt else pathlib.Path('new.txt').touch()\n"
    flags = ("--no-keep-awake", "--sandbox", "off", "--max-experiments", "1", "--proposer", "command")
    done = cli(quick, "run", "--tag", "t", *flags, "--agent-cmd", agent(tmp_path, script).command)
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["status"] == "crash"
    says = "the agent changed nothing; dropped: it created new.txt, which is not a mutable file"
    assert f"#1 not repaired by command: {says}" in done.stderr
