"""Test proposals that are made while a run is in progress: whole sessions with agents and models as real processes.

The training command knows how often the agent was started, and waits for the start that belongs to it. A session that
works one step at a time would wait for ever, so no test depends on how fast anything is.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.journal.events import Event
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.report.timing import time_spent
from tests.common.agents import agent
from tests.common.forked import Forked
from tests.common.journals import as_named
from tests.common.model_server import model_server, reply, silent
from tests.common.processes import gone
from tests.common.proposals import NOTES, edit
from tests.common.sessions import assert_consistent, events, journal, rows
from tests.common.workspaces import QUICK, Cli, commit_all, git

FLAGS = ("--no-keep-awake", "--sandbox", "off", "--verdict", "greedy", "--baseline-runs", "1", "--no-confirm")
LONGEST = 60  # seconds until a test gives up
# The training command counts its runs and waits in those that {waits} names, until {until} holds.
TRAIN = """
import pathlib, time
if __name__ == "__main__":
    place = pathlib.Path({place!r})
    with (place / "runs").open("a") as file:
        file.write("x")
    run = len((place / "runs").read_text()) - 1  # the baseline is 0
    count = lambda name: len((place / name).read_text()) if (place / name).exists() else 0
    ends = time.monotonic() + {longest}
    while run in {waits!r} and not ({until}):
        assert time.monotonic() < ends, "nothing is made ahead"
        time.sleep(0.02)
"""
ASKED = "count('asked') > run"
# The agent counts its starts, and makes the change of that number.
AGENT = """
place = pathlib.Path({place!r})
with (place / "asked").open("a") as file:
    file.write("x")
number = len((place / "asked").read_text())
{acts}
"""


def prepare(folder: Path, place: Path, waits: tuple[int, ...], until: str = ASKED) -> None:
    """Make the training command wait in these runs."""
    waiting = TRAIN.format(place=str(place), waits=waits, until=until, longest=LONGEST)
    (folder / "train.py").write_text(QUICK.replace("import sys\n", f"import sys\n{waiting}"))
    commit_all(folder, "wait")


def command(place: Path, *acts: str) -> tuple[str, ...]:
    """Return the flags for an agent that does one of `acts` each time it is started."""
    chosen = "\n".join(f"if number == {number}:\n    {act}" for number, act in enumerate(acts, start=1))
    script = AGENT.format(place=str(place), acts=chosen)
    return ("run", "--tag", "t", *FLAGS, "--proposer", "command", "--agent-cmd", agent(place, script).command)


def put(name: str, old: object, new: object) -> str:
    return f"put('{name} = {old}', '{name} = {new}')"


def kinds(folder: Path) -> list[tuple[str, int]]:
    """Return the events of experiments, without repetitions of what other tests cover."""
    wanted = ("preparing", "prepared", "outdated", "proposed", "started", "measured", "recorded")
    return [(each["event"], each["number"]) for each in journal(folder) if each["event"] in wanted]


def killed_with_a_proposal(quick: Path, tmp_path: Path, experiments: int) -> tuple[str, ...]:
    """Kill a loop once its next proposal is ready, and return its command, without the number of experiments."""
    prepare(quick, tmp_path, (1,), until="(place / 'go').exists()")
    run = command(tmp_path, put("WIDTH", 64, 32), put("WIDTH", 64, 16))
    loop = Forked(quick, [*run, "--max-experiments", str(experiments)], os.environ)
    until_event(quick, loop, "prepared")
    loop.kill()
    loop.wait()
    (tmp_path / "go").touch()
    return run


def test_next_proposal_is_made_during_run(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, (1, 2))
    acts = (put("WIDTH", 64, 32), put("WIDTH", 64, 16), put("WIDTH", 64, 48))
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep", "discard", "discard", "discard"]
    assert (tmp_path / "asked").read_text() == "xxx", "none was made for an experiment after the last"
    assert len(events(quick, "prepared")) == 2
    seen = kinds(quick)
    for number in (2, 3):
        first = seen.index(("preparing", number))
        assert seen.index(("proposed", number - 1)) < first < seen.index(("measured", number - 1))
        assert first < seen.index(("prepared", number)) < seen.index(("proposed", number))
    assert "next proposal being made by command" in done.stderr
    assert "next proposal ready, by command: WIDTH 64 -> 16" in done.stderr
    proposed = events(quick, "proposed")
    assert [each["proposer"] for each in proposed] == ["baseline", "command", "command", "command"]
    assert proposed[2]["description"] == "WIDTH 64 -> 16"
    assert proposed[2]["parameters"]["WIDTH"] == 16
    assert_consistent(quick)


def test_without_ahead_each_proposal_knows_all_results(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, ())
    acts = (put("WIDTH", 64, 32), put("WIDTH", 64, 16))
    done = program(quick, *command(tmp_path, *acts), "--no-ahead", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert not events(quick, "preparing")
    told = [(quick / f".autoresearch/sessions/t/experiments/000{n}/agent-prompt.md").read_text() for n in (1, 2)]
    assert ["WIDTH 64 -> 32" in text for text in told] == [False, True]
    assert events(quick, "session")[0]["flags"]["ahead"] is False
    done = program(quick, "run", "--tag", "t", "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert not events(quick, "preparing"), "the session keeps the flag"


def test_change_is_merged_onto_new_incumbent(quick: Path, program: Cli, tmp_path: Path) -> None:
    """One by value, one as text: the first is kept while the others are made on the baseline."""
    prepare(quick, tmp_path, (1, 2))
    acts = (
        put("DEPTH", 4, 6) + "; put('print(\"---\")', 'note = 1\\nprint(\"---\")')",
        put("RATE", 0.1, 0.3),
        "put('sys.exit(0)', 'sys.exit(0 * 2)')",
    )
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)][:3] == ["keep", "keep", "keep"]
    assert (tmp_path / "asked").read_text() == "xxx"
    proposed = events(quick, "proposed")
    assert "(made on #0, merged onto #1)" in proposed[2]["reasoning"]
    assert proposed[2]["parameters"] == {"RATE": 0.3, "DEPTH": 6, "WIDTH": 64}
    last = git(quick, "show", "refs/autoresearch/t/3:train.py")
    assert all(part in last for part in ("DEPTH = 6", "note = 1", "RATE = 0.3", "sys.exit(0 * 2)"))
    assert "(made on #1, merged onto #2)" in proposed[3]["reasoning"]
    assert_consistent(quick)


def test_conflicting_change_is_thrown_away(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, (1,))
    acts = (put("RATE", 0.1, 0.2), put("RATE", 0.1, 0.3), put("RATE", 0.2, 0.25))
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert [each["reason"] for each in events(quick, "outdated")] == [
        "its change of train.py conflicts with that of #1"
    ]
    assert "next proposal thrown away: its change of train.py conflicts with that of #1" in done.stderr
    assert [each["description"] for each in events(quick, "proposed")][1:] == ["RATE 0.1 -> 0.2", "RATE 0.2 -> 0.25"]
    assert_consistent(quick)


def test_same_change_as_that_in_flight_goes_back(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, (1,))
    acts = (put("WIDTH", 64, 32), put("WIDTH", 64, 32), put("WIDTH", 32, 16))
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    told = (quick / ".autoresearch/sessions/t/experiments/0002/agent-2-prompt.md").read_text()
    assert "a candidate that is being measured now (WIDTH 64 -> 32)" in told
    assert [each["parameters"]["WIDTH"] for each in events(quick, "proposed")] == [64, 32, 16]


def test_change_that_cannot_be_imported_is_fixed_when_it_is_used(quick: Path, program: Cli, tmp_path: Path) -> None:
    """Importing takes the machine, so nothing is imported beside a run."""
    prepare(quick, tmp_path, (1,))
    broken = "put('import sys', 'import sys, no_such_module')"
    fix = "put('import sys, no_such_module', 'import sys'); " + put("WIDTH", 64, 16)
    done = program(quick, *command(tmp_path, put("WIDTH", 64, 32), broken, fix), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep", "discard", "discard"]
    assert (
        "No module named 'no_such_module'"
        in (quick / ".autoresearch/sessions/t/experiments/0002/agent-mend-0-prompt.md").read_text()
    )
    assert events(quick, "proposed")[2]["parameters"]["WIDTH"] == 16
    assert_consistent(quick)


def test_change_that_was_fixed_before_its_run_says_so(quick: Path, program: Cli, tmp_path: Path) -> None:
    """Its row has the words of its author about the first version, which was not measured."""
    prepare(quick, tmp_path, (1,))
    text = (quick / "train.py").read_text()
    refused = "if WIDTH == 16:\n    import no_such_module\n"
    (quick / "train.py").write_text(text.replace("\nloss", f"\n{refused}loss"))
    commit_all(quick, "no width of 16")
    acts = (put("WIDTH", 64, 32), put("WIDTH", 64, 16), put("WIDTH", 16, 8))
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    last = events(quick, "proposed")[2]
    assert (last["parameters"]["WIDTH"], last["description"]) == (8, "WIDTH 64 -> 16 (repaired)")
    assert rows(quick)[2]["description"].startswith("WIDTH 64 -> 16 (repaired)")


def until_event(folder: Path, loop: Forked, kind: str) -> None:
    """Wait until the journal has an event of a kind."""
    path, ends = journal_path(folder, "t"), time.monotonic() + LONGEST
    while not path.exists() or f'"event": "{kind}"' not in path.read_text():
        assert loop.poll() is None, loop.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_killed_loop_uses_what_was_made(quick: Path, program: Cli, tmp_path: Path) -> None:
    """The run ends only once the test says so, after the kill."""
    prepare(quick, tmp_path, (1,), until="(place / 'go').exists()")
    run = command(tmp_path, put("WIDTH", 64, 32), put("WIDTH", 64, 16))
    loop = Forked(quick, [*run, "--max-experiments", "2"], os.environ)
    until_event(quick, loop, "prepared")
    shown = json.loads(program(quick, "status", "--json").stdout)["data"]
    assert shown["now"]["number"] == 1
    assert shown["next"] == {"number": 2, "proposer": "command", "ready": True, "description": "WIDTH 64 -> 16"}
    assert "next proposal ready, by command: WIDTH 64 -> 16" in program(quick, "status").stdout
    loop.kill()
    loop.wait()
    (tmp_path / "go").touch()
    done = program(quick, *run, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "xx", "the agent was not asked again"
    assert [each["description"] for each in events(quick, "proposed")][1:] == ["WIDTH 64 -> 32", "WIDTH 64 -> 16"]
    assert_consistent(quick)
    assert json.loads(program(quick, "status", "--json").stdout)["data"]["next"] is None


def test_search_leaves_what_was_made_to_its_author(quick: Path, program: Cli, tmp_path: Path) -> None:
    killed_with_a_proposal(quick, tmp_path, 2)
    done = program(quick, "run", "--tag", "t", "--proposer", "search", "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert [each["proposer"] for each in events(quick, "proposed")] == ["baseline", "command", "search"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_end_of_session_ends_agent(quick: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """At once, or after the experiment in progress: then the agent that works ahead is not waited for."""
    prepare(quick, tmp_path, (1,), until="(place / 'go').exists()")
    hangs = (
        "away = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        "(place / 'pids').write_text(f'{os.getpid()} {away.pid}'); (place / 'hangs').touch(); time.sleep(600)"
    )
    run = command(tmp_path, put("WIDTH", 64, 32), hangs)
    loop = Forked(quick, [*run, "--max-experiments", "3"], os.environ)
    ends = time.monotonic() + LONGEST
    while not (tmp_path / "hangs").exists():
        assert loop.poll() is None, loop.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)
    loop.send_signal(number)
    if number == signal.SIGINT:
        (tmp_path / "go").touch()
    assert loop.wait(LONGEST) == code
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    assert journal(quick)[-1]["event"] == "ended"
    state = fold(journal_path(quick, "t"))
    assert state.preparing is None
    assert len(state.experiments) == (2 if number == signal.SIGINT else 1)
    assert len(events(quick, "preparing")) == 1


def asks(server: Any, *more: str) -> tuple[str, ...]:
    return ("run", "--tag", "t", *FLAGS, "--proposer", "llm", "--model", f"{server.url} scripted", *more)


def widths(place: Path, *values: int) -> Callable[[Any], str]:
    """Return a model that proposes these widths, and counts its questions as the agent does."""
    left = iter(values)

    def answer(_: Any) -> str:
        with (place / "asked").open("a") as file:
            file.write("x")
        width = next(left)
        return NOTES.format(f"width {width}") + edit("WIDTH = 64  # search: 8..512", f"WIDTH = {width}")

    return answer


def test_model_of_this_machine_works_ahead_only_if_asked(quick: Path, program: Cli, tmp_path: Path) -> None:
    """It would slow down the run in progress."""
    prepare(quick, tmp_path, ())
    with model_server(widths(tmp_path, 32, 16, 48, 24)) as server:
        assert program(quick, *asks(server), "--max-experiments", "2").returncode == 0
        assert not events(quick, "preparing")
        assert program(quick, *asks(server, "--ahead"), "--max-experiments", "4").returncode == 0
    assert len(events(quick, "prepared")) == 1
    assert [each["parameters"]["WIDTH"] for each in events(quick, "proposed")] == [64, 32, 16, 48, 24]


def test_cost_of_proposal_ahead_counts_for_its_experiment(quick: Path, program: Cli, tmp_path: Path) -> None:
    """The second is asked for while the first is measured; a cap for one experiment stops neither."""
    prepare(quick, tmp_path, (1,))
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch" / "prices.toml").write_text('["http:scripted"]\ninput = 1.0\noutput = 1.0\n')
    with model_server(widths(tmp_path, 32, 16, 48)) as server:
        capped = asks(server, "--ahead", "--max-cost-per-experiment", "0.08", "--max-cost", "100")
        done = program(quick, *capped, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    state = fold(journal_path(quick, "t"))
    assert [state.spent[number].calls for number in (1, 2)] == [1, 1]
    assert state.reserved.calls == 0
    order = [(each["event"], each["number"]) for each in journal(quick) if each["event"] in ("calling", "measured")]
    assert order == [("measured", 0), ("calling", 1), ("calling", 2), ("measured", 1), ("measured", 2)]


def test_answer_of_killed_loop_is_not_paid_for_twice(quick: Path, program: Cli, tmp_path: Path) -> None:
    """Killed after the answer of the server and before its correction: the first is on disk."""
    prepare(quick, tmp_path, (1,), until="(place / 'go').exists()")
    good, bad = widths(tmp_path, 32, 16), "I would raise RATE."
    answers: Iterator[Any] = iter([good, lambda _: bad, lambda _: silent, good])
    with model_server(lambda body: next(answers)(body)) as server:
        run = [*asks(server, "--ahead"), "--max-experiments", "2"]
        loop = Forked(quick, run, os.environ)
        ends = time.monotonic() + LONGEST
        while len(server.requests) < 3:
            assert time.monotonic() < ends
            time.sleep(0.02)
        loop.kill()
        loop.wait()
        (tmp_path / "go").touch()
        done = program(quick, *run)
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 4
        assert "no edit block" in server.requests[3][2]["messages"][-1]["content"]
    assert [each["parameters"]["WIDTH"] for each in events(quick, "proposed")] == [64, 32, 16]


def test_no_usable_proposal_ahead_leaves_it_to_search(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, (1,))
    answer = widths(tmp_path, 32)

    def model(body: Any) -> str:
        return answer(body) if not (tmp_path / "asked").exists() else answer_nothing(tmp_path)

    with model_server(model) as server:
        done = program(quick, *asks(server, "--ahead"), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert [each["proposer"] for each in events(quick, "proposed")] == ["baseline", "llm", "search"]
    assert len(server.requests) == 4, "three answers for the second experiment, and no more at its turn"
    assert len(events(quick, "nothing")) == 1
    assert not events(quick, "prepared")


def answer_nothing(place: Path) -> str:
    with (place / "asked").open("a") as file:
        file.write("x")
    return "Nothing comes to mind."


def test_unavailable_model_does_not_end_run(quick: Path, program: Cli, tmp_path: Path) -> None:
    prepare(quick, tmp_path, (1,))
    answer = widths(tmp_path, 32)

    def model(body: Any) -> Any:
        if not (tmp_path / "asked").exists():
            return answer(body)
        answer_nothing(tmp_path)
        return lambda handler: reply(handler, 401, {"error": "no such key"})

    with model_server(model) as server:
        done = program(quick, *asks(server, "--ahead"), "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert [each["proposer"] for each in events(quick, "proposed")] == ["baseline", "llm", "search", "search"]
    away = events(quick, "away")
    assert len(away) == 1
    assert "llm unavailable" in done.stderr


def test_search_proposes_exactly_as_without(quick: Path, program: Cli, tmp_path: Path) -> None:
    """A hybrid whose model is never asked, one that may work ahead, and the search alone propose the same."""
    prepare(quick, tmp_path, ())
    found = {}
    for tag, flags in {
        "alone": ("--proposer", "search"),
        "hybrid": (*command(tmp_path)[len(FLAGS) + 5 :], "--share", "0", "--ahead"),
    }.items():
        done = program(quick, "run", "--tag", tag, "--fresh", *FLAGS, *flags, "--max-experiments", "8")
        assert done.returncode == 0, done.stderr
        lines = journal_path(quick, tag).read_text().splitlines()
        read = [json.loads(line) for line in lines]
        found[tag] = [each["parameters"] for each in read if each["event"] == "proposed"]
        git(quick, "checkout", "--quiet", "main")
    assert len(found["alone"]) == 9
    assert found["alone"] == found["hybrid"]


def test_searchs_turn_knows_all_results(quick: Path, program: Cli, tmp_path: Path) -> None:
    """In a hybrid, only the model's turns begin early."""
    prepare(quick, tmp_path, ())
    acts = [f"put('WIDTH = ', 'WIDTH = {number} + ')" for number in range(1, 9)]
    agents = [*command(tmp_path, *acts)]
    agents[agents.index("command")] = "hybrid"
    done = program(quick, *agents, "--share", "0.5", "--seed", "1", "--max-experiments", "8")
    assert done.returncode == 0, done.stderr
    seen = kinds(quick)
    by = {each["number"]: each["proposer"] for each in events(quick, "proposed")}
    early = {number for kind, number in seen if kind == "preparing"}
    assert early
    assert early <= {number for number, proposer in by.items() if proposer == "command"}
    for number, proposer in by.items():
        if proposer == "search":
            assert seen.index(("proposed", number)) > seen.index(("recorded", number - 1))


def test_proposing_during_a_run_takes_no_time_of_the_session() -> None:
    at = [("started", 10.0), ("calling", 12.0), ("called", 60.0), ("prepared", 60.0), ("measured", 110.0)]
    data = {"measured": {"number": 1, "run": 1, "seconds": 100.0, "error": None}}
    spent = time_spent([Event(kind, when, data.get(kind, {"number": 2})) for kind, when in at], as_named)
    assert (spent.training, spent.proposing, spent.other) == (100.0, 0.0, 10.0)


@pytest.mark.parametrize(
    "limit",
    [("--patience", "1"), ("--max-hours", "0.003"), ("--target", "5")],
    ids=["patience", "time", "target"],
)
def test_nothing_is_begun_that_no_experiment_would_use(
    quick: Path, program: Cli, tmp_path: Path, limit: tuple[str, str]
) -> None:
    """A run takes 12 s or, by the limits, is the last."""
    prepare(quick, tmp_path, (), until="True")
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("    run = len", "    time.sleep(6)\n    run = len"))
    commit_all(quick, "slow")
    done = program(quick, *command(tmp_path, put("WIDTH", 64, 32)), *limit)
    assert done.returncode == 0, done.stderr
    assert not events(quick, "preparing")


def test_edit_by_hand_comes_before_the_prepared_proposal(quick: Path, program: Cli, tmp_path: Path) -> None:
    """It takes the number that the proposal was made for; nothing is lost, and the agent is not asked again."""
    run = killed_with_a_proposal(quick, tmp_path, 3)
    assert program(quick, *run, "--max-experiments", "1").returncode == 0
    train = quick / "train.py"
    train.write_text(train.read_text().replace("DEPTH = 4", "DEPTH = 5"))
    tried = program(quick, "try", "--tag", "t", "--sandbox", "off")
    assert tried.returncode == 0, tried.stderr
    done = program(quick, *run, "--max-experiments", "3")
    assert done.returncode == 0, done.stderr
    assert [each["proposer"] for each in events(quick, "proposed")] == ["baseline", "command", "edit", "command"]
    last = events(quick, "proposed")[3]["parameters"]
    assert (last["DEPTH"], last["WIDTH"]) == (5, 16)
    assert (tmp_path / "asked").read_text() == "xx"
    assert_consistent(quick)


def test_damaged_proposal_is_not_paid_for_again(quick: Path, program: Cli, tmp_path: Path) -> None:
    """What the agent has left is on disk too."""
    run = killed_with_a_proposal(quick, tmp_path, 2)
    (quick / ".autoresearch/sessions/t/experiments/0002/proposal-ahead.json").write_text("{")
    done = program(quick, *run, "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert "cannot read the proposal" in events(quick, "outdated")[0]["reason"]
    assert [each["parameters"]["WIDTH"] for each in events(quick, "proposed")] == [64, 32, 16]
    assert (tmp_path / "asked").read_text() == "xx"


def test_crashed_candidate_is_repaired_after_the_proposal_ahead(quick: Path, program: Cli, tmp_path: Path) -> None:
    """The agent does one thing at a time; both of its changes are measured."""
    prepare(quick, tmp_path, ())
    crash = "    raise ValueError('too wide')\n"
    acts = (
        f"put('    run = len', {crash!r} + '    run = len')",
        put("WIDTH", 64, 16),
        f"put({crash!r}, '')\n    " + put("WIDTH", 64, 32),
    )
    done = program(quick, *command(tmp_path, *acts), "--max-experiments", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "xxx"
    assert len(events(quick, "repaired")) == 1
    assert [each["parameters"]["WIDTH"] for each in events(quick, "repaired")] == [32]
    assert [each["parameters"]["WIDTH"] for each in events(quick, "proposed")] == [64, 64, 16]
    assert_consistent(quick)
