"""Test sessions in which a model proposes, over a real HTTP connection to a scripted server."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.journal.paths import journal_path
from tests.common.forked import Forked
from tests.common.in_process import call
from tests.common.model_server import KEY, Script, half, model_server, reply, silent, streamed
from tests.common.proposals import NOTES, edit, walk
from tests.common.sessions import cells, events, rows
from tests.common.workspaces import QUICK, ROOT, Cli, git


def run(
    program: Cli, folder: Path, server: Script, *args: str, experiments: int = 2, wire: str = "http", key: str = KEY
) -> Any:
    model = f"{server.url} scripted" if wire == "http" else f"{wire}:scripted"
    env = {"AUTORESEARCH_MODEL_KEY": key}
    for name in ("ANTHROPIC", "OPENAI"):
        env |= {f"{name}_API_KEY": key, f"{name}_BASE_URL": server.url}
    flags = ("--no-keep-awake", "--sandbox", "off", "--max-experiments", str(experiments))
    return program(folder, "run", "--tag", "t", "--proposer", "llm", "--model", model, *flags, *args, **env)


@pytest.mark.parametrize(
    ("wire", "stream", "count"),
    [("http", True, 10), ("http", False, 3), ("anthropic", True, 3), ("anthropic", False, 3)],
)
def test_model_session_keeps_invariants(quick: Path, program: Cli, wire: str, stream: bool, count: int) -> None:
    (quick / "program.md").write_text("Try the rate first.\n")
    with model_server(walk(), stream=stream) as server:
        done = run(program, quick, server, experiments=count, wire=wire)
    assert done.returncode == 0, done.stderr
    assert [row[3] for row in cells(quick)] == ["keep"] * (1 + count)
    proposed = events(quick, "proposed")[1:]
    assert {event["proposer"] for event in proposed} == {"llm"}
    assert proposed[0]["expected"] == -0.01
    assert proposed[0]["reasoning"] == "it is nearer"
    assert len(events(quick, "called")) == len(server.requests) == count
    assert f"{count} model calls" in done.stdout
    shown = json.loads(program(quick, "status", "--json").stdout)["data"]
    assert [row["cost"]["calls"] for row in shown["rows"]] == [0] + [1] * count
    assert shown["cost"]["calls"] == count
    prompt = json.dumps(server.requests[-1][2])
    for known in (
        "Try the rate first.",
        "minimize val_bpb",
        f"{count - 1} of {count - 1} had the right sign",
        "RATE up",
    ):
        assert known in prompt
    everything = [path.read_bytes() for path in quick.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in everything), "a key on the disk"
    assert KEY not in done.stdout + done.stderr + prompt


@pytest.mark.parametrize(("lines", "told"), [(6000, 1), (600, 0)])
def test_files_beyond_the_limit_of_a_prompt_are_named_once(quick: Path, cli: Cli, lines: int, told: int) -> None:
    (quick / "train.py").write_text(QUICK + "# as it was before\n" * lines)
    git(quick, "commit", "--quiet", "--all", "-m", "long")
    with model_server(walk()) as server:
        done = run(cli, quick, server, experiments=2)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("so prompts are longer than 32,000 tokens") == told
    assert all("minimize val_bpb" in json.dumps(body) for _, _, body in server.requests)


@pytest.mark.parametrize("place", ["beyond the limit", "behind a link"])
def test_instructions_that_a_model_does_not_get_are_named(quick: Path, program: Cli, place: str) -> None:
    if place == "behind a link":
        (quick / "goal.txt").write_text("Only the rate.\n")
        (quick / "program.md").symlink_to("goal.txt")
    else:
        (quick / "program.md").write_text("Try widths. " * 2000 + "\nSTEER: only the rate.\n")
    with model_server(walk()) as server:
        done = run(program, quick, server, experiments=1)
    assert done.returncode == 0, done.stderr
    prompt = json.dumps(server.requests[-1][2])
    if place == "behind a link":
        assert "program.md is not used: " in done.stdout + done.stderr
    else:
        assert "program.md is longer than 20,000 characters: its middle is not read" in done.stdout + done.stderr
        assert "STEER: only the rate." in prompt
        assert "characters are left out here" in prompt


@pytest.mark.parametrize("wire", ["http", "openai", "anthropic"])
def test_key_from_a_file_with_windows_line_ends_works(quick: Path, cli: Cli, wire: str) -> None:
    with model_server(walk()) as server:
        done = run(cli, quick, server, experiments=1, wire=wire, key=f"{KEY}\r")
    assert done.returncode == 0, done.stderr
    assert [event["proposer"] for event in events(quick, "proposed")] == ["baseline", "llm"]
    assert any(value in (KEY, f"Bearer {KEY}") for value in server.requests[0][1].values())
    assert KEY not in done.stderr + journal_path(quick, "t").read_text()


@pytest.mark.parametrize(
    ("wire", "variable"),
    [("http", "AUTORESEARCH_MODEL_KEY"), ("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")],
)
def test_key_in_curly_quotes_is_refused(quick: Path, cli: Cli, wire: str, variable: str) -> None:
    with model_server(walk()) as server:
        done = run(cli, quick, server, wire=wire, key=f"\u201c{KEY}\u201d")
    assert done.returncode == 3
    hint = "copy the key again, without quotes around it"
    assert done.stderr == f"error: {variable} holds characters that no API key has\nhint: {hint}\n"
    assert not server.requests


def test_bad_answer_goes_back_with_reason(quick: Path, cli: Cli) -> None:
    answers = iter(
        [
            "I would raise RATE.",
            NOTES.format("broken") + edit("RATE = 0.1  # search: 0.001..10 log", "RATE = = 2"),
            NOTES.format("import fails") + edit("import sys", "import sys, no_such_module"),
            # the next experiment
            NOTES.format("the same") + edit("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.1  # another comment"),
            NOTES.format("good") + edit("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.3"),
        ]
    )
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server, experiments=2)
    assert done.returncode == 0, done.stderr
    told = [body["messages"][-1]["content"] for _, _, body in server.requests]
    assert "no edit block" in told[1]
    assert "does not compile" in told[2]
    assert "same program as the incumbent" in told[4]
    nothing = events(quick, "nothing")
    assert len(nothing) == 1
    assert "no_such_module" in nothing[0]["reason"]
    assert [event["proposer"] for event in events(quick, "proposed")] == ["baseline", "search", "llm"]


@pytest.mark.parametrize(
    ("line", "said"),
    [("import ignored", 0), ("if __name__ != '__main__':\n    raise SystemExit('no module')", 1)],
    ids=["it wants what git ignores", "it cannot be imported"],
)
def test_a_recipe_is_imported_with_what_a_run_has(quick: Path, cli: Cli, line: str, said: int) -> None:
    (quick / "train.py").write_text(f"{line}\n{QUICK}")
    (quick / ".gitignore").write_text("ignored.py\n")
    (quick / "ignored.py").touch()
    git(quick, "add", ".gitignore", "train.py")
    git(quick, "commit", "--quiet", "-m", "with an ignored module")
    with model_server(walk()) as server:
        done = run(cli, quick, server)
    assert done.returncode == 0, done.stderr
    assert [event["proposer"] for event in events(quick, "proposed")] == ["baseline", "llm", "llm"]
    assert done.stderr.count("candidates are not imported before they run") == said


def test_loop_survives_odd_answers(quick: Path, cli: Cli) -> None:
    """Answers with invalid Python, search comments or UTF-8 go back to the model, or are cleaned."""
    line = "RATE = 0.1  # search: 0.001..10 log"
    answers = iter(
        [
            NOTES.format("comment") + edit(line, "RATE = 0.3  # search: whatever I like"),
            NOTES.format("deep") + edit(line, f"RATE = {'-' * 100_000}1"),
            NOTES.format("half \ud83d a character") + edit(line, "RATE = 0.3  # \ud83d"),
            NOTES.format("branches") + edit("import sys", "import sys\nif 0: pass\n" + "elif 0: pass\n" * 2000),
            NOTES.format("long") + edit("RATE = 0.3", f"RATE = 0x{'f' * 20_000} and 0.35"),
            NOTES.format("longer") + edit("import sys", f"import sys\nBIG = 0x{'f' * 20_000}"),
        ]
    )
    with model_server(lambda _: next(answers, "")) as server:
        done = run(cli, quick, server, experiments=3)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    told = [body["messages"][-1]["content"] for _, _, body in server.requests]
    assert "search comment" in told[1]
    assert "does not compile" in told[2]
    assert len(cells(quick)) == 4
    assert cells(quick)[1][4] == "half ? a character [unconfined]"


def test_a_range_without_end_goes_back(quick: Path, cli: Cli) -> None:
    depth, rate = "DEPTH = 4  # search: 1..16", "RATE = 0.1  # search: 0.001..10 log"
    answers = iter(
        [
            NOTES.format("endless") + edit(depth, "DEPTH = 5  # search: 1..inf"),
            NOTES.format("unhashable") + edit(rate, "RATE = 0.3  # search: {[]} | 1"),
            NOTES.format("good") + edit(rate, "RATE = 0.3"),
        ]
    )
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server, experiments=1)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    told = [body["messages"][-1]["content"] for _, _, body in server.requests]
    assert "search comment of DEPTH is malformed" in told[1]
    assert "search comment of RATE is malformed" in told[2]
    assert cells(quick)[1][3:] == ["keep", "good [unconfined]"]


def test_loop_survives_hostile_server_errors(quick: Path, cli: Cli) -> None:
    refuse = lambda handler: reply(handler, 500, b'{"error": {"message": "half \\ud83d a character"}}')  # noqa: E731
    with model_server(lambda _: refuse) as server:
        done = run(cli, quick, server, "--fallback-after", "0", experiments=1)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert len(cells(quick)) == 2


def test_a_repeated_candidate_is_refused(quick: Path, cli: Cli) -> None:
    worse = NOTES.format("worse") + edit("RATE = 0.1", "RATE = 3.0")
    again = NOTES.format("again") + edit("RATE = 0.1", "RATE    =  3.0")
    better = NOTES.format("better") + edit("RATE = 0.1", "RATE = 0.3")
    answers = iter([worse, again, better])
    text = QUICK.replace("RATE = 0.1  # search: 0.001..10 log", "RATE = 0.1")
    (quick / "train.py").write_text(text)
    git(quick, "commit", "-qam", "plain")
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server)
    assert done.returncode == 0, done.stderr
    assert "same program as experiment #1 (discard: worse)" in server.requests[2][2]["messages"][-1]["content"]
    assert [row[3] for row in cells(quick)] == ["keep", "discard", "keep"]


def test_crash_is_repaired_within_experiment(quick: Path, cli: Cli) -> None:
    line = 'print("---")'
    answers = iter(
        [
            NOTES.format("crashes") + edit(line, 'if __name__ == "__main__":\n    print(1 / 0)\nprint("---")'),
            NOTES.format("mended") + edit("    print(1 / 0)", "    print(1 / 0.0)"),
            NOTES.format("mended") + edit("    print(1 / 0.0)", "    print(1 / 1)"),
        ]
    )
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server, experiments=1)
    assert done.returncode == 0, done.stderr
    assert [row[3:] for row in cells(quick)][1] == ["discard", "crashes (repaired) [unconfined]"]
    assert len(events(quick, "repaired")) == 2
    assert len(events(quick, "measured")) == 6
    assert "ZeroDivisionError" in server.requests[1][2]["messages"][-1]["content"]
    commit = cells(quick)[1][0]
    assert "print(1 / 1)" in git(quick, "show", f"{commit}:train.py")


def test_unrepairable_candidate_is_dropped(quick: Path, cli: Cli) -> None:
    line = 'print("---")'
    answers = itertools.chain(
        [NOTES.format("crashes") + edit(line, 'if __name__ == "__main__":\n    print(1 / 0)\nprint("---")')],
        (NOTES.format("no") + edit("    print(1 / 0", f"    print(1 / 0  # {n}") for n in itertools.count()),
    )
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server, experiments=1)
    assert done.returncode == 0, done.stderr
    assert cells(quick)[1][3] == "crash"
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""


def test_search_candidate_is_not_repaired_by_model(quick: Path, cli: Cli) -> None:
    crashing = QUICK.replace('print("---")', "if RATE != 0.1 or DEPTH != 4 or WIDTH != 64:\n    raise ValueError(RATE)")
    (quick / "train.py").write_text(crashing + 'print("val_bpb: 1.0")\n')
    git(quick, "commit", "-qam", "every change crashes")
    with model_server(walk()) as server:
        run(cli, quick, server, "--proposer", "hybrid", "--share", "0", experiments=2)
    assert [row[3] for row in cells(quick)] == ["keep", "crash", "crash"]
    assert not server.requests


@pytest.mark.parametrize(
    "outage",
    [
        lambda handler: reply(handler, 429, {"error": {"message": "slow down"}}, Retry_After="3600"),
        lambda handler: reply(handler, 500, {"error": {"message": "oops"}}),
        lambda handler: reply(handler, 401, {"error": {"message": "bad key"}}),
        lambda handler: reply(handler, 429, {"error": {"code": "insufficient_quota", "message": "no money"}}),
        half,
        silent,
        lambda handler: reply(handler, 200, b"<html>"),
    ],
)
def test_search_replaces_model_during_outage(quick: Path, cli: Cli, outage: Any) -> None:
    with model_server(lambda _: outage) as server:
        done = run(cli, quick, server, "--fallback-after", "0", "--model-timeout", "0.5", experiments=2)
    assert done.returncode == 0, done.stderr
    assert len(cells(quick)) == 3
    assert len(events(quick, "away")) >= 1
    assert {event["proposer"] for event in events(quick, "proposed")[1:]} == {"search"}
    assert "using the search" in done.stderr
    shown = json.loads(cli(quick, "status", "--json").stdout)["data"]
    assert shown["away"]["reason"]
    assert "Traceback" not in done.stderr


def test_model_resumes_after_outage(quick: Path, cli: Cli) -> None:
    answer, failures = walk(), iter([True, True])

    def first_busy(body: dict[str, Any]) -> Any:
        return (lambda handler: reply(handler, 503, {})) if next(failures, False) else answer(body)

    with model_server(first_busy) as server:
        done = run(cli, quick, server, "--fallback-after", "60", experiments=1)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 3
    assert events(quick, "proposed")[1]["proposer"] == "llm"


def test_infinite_timeouts_hold_in_every_start(quick: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.proposers.hybrid.FIRST_WAIT", 0.01)
    answer, failures = walk(), iter([True, False, True])

    def busy(body: dict[str, Any]) -> Any:
        return (lambda handler: reply(handler, 503, {})) if next(failures, False) else answer(body)

    endless = ("--fallback-after", "inf", "--model-timeout", "inf", "--agent-timeout", "inf")
    with model_server(busy) as server:
        first = run(cli, quick, server, *endless, experiments=1)
        again = cli(quick, "run", "--tag", "t", "--max-experiments", "2", AUTORESEARCH_MODEL_KEY=KEY)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert [event["proposer"] for event in events(quick, "proposed")[1:]] == ["llm", "llm"]
    kept = events(quick, "session")[0]["flags"]
    assert {kept[name] for name in ("fallback_after", "model_timeout", "agent_timeout")} == {"inf"}


def test_cost_never_exceeds_cap(quick: Path, cli: Cli) -> None:
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text('["http:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    with model_server(walk()) as server:
        done = run(cli, quick, server, "--max-cost", "16.05", experiments=6)
    assert done.returncode == 0, done.stderr
    called = events(quick, "called")
    spent = sum(event["dollars"] for event in called)
    assert len(called) >= 1
    assert 0 < spent <= 16.05
    assert "of --max-cost 16.05 is spent" in done.stderr
    assert len(cells(quick)) == 7
    # Resuming the session does not reset the cost.
    with model_server(walk()) as server:
        run(cli, quick, server, "--max-cost", "16", experiments=7)
        assert not server.requests


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_tokens_that_are_reported_as_zero_count_against_the_cap(quick: Path, cli: Cli, wire: str) -> None:
    def zeros(handler: Any) -> None:
        if wire == "openai":
            choice = {"delta": {"content": "no edit"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 0, "completion_tokens": 0}
            streamed({"choices": [choice], "usage": usage}, "[DONE]")(handler)
            return
        usage = {"input_tokens": 0, "output_tokens": 0}
        said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "no edit"}}
        ends = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        streamed({"type": "message_start", "message": {"usage": usage}}, said, ends, {"type": "message_stop"})(handler)

    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text(f'["{wire}:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    with model_server(lambda _: zeros) as server:
        done = run(cli, quick, server, "--max-cost", "35", experiments=2, wire=wire)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 2
    assert [event["dollars"] for event in events(quick, "called")] == [16.0, 16.0]
    assert "$32.00 of --max-cost 35 is spent" in done.stderr


def test_cap_requires_price(quick: Path, cli: Cli) -> None:
    with model_server(walk()) as server:
        done = run(cli, quick, server, "--max-cost", "1")
    assert done.returncode == 2
    assert "prices.toml" in done.stderr
    assert not server.requests


def test_a_cap_below_one_call_leaves_the_night_to_the_search(quick: Path, cli: Cli) -> None:
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text('["http:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    with model_server(walk()) as server:
        done = run(cli, quick, server, "--max-cost-per-experiment", "1", experiments=4)
    assert done.returncode == 0, done.stderr
    assert not server.requests, done.stderr
    assert "unavailable until the session ends" in done.stderr
    assert "--max-cost-per-experiment 1 is spent" in done.stderr
    assert len(events(quick, "away")) == 1
    assert not events(quick, "nothing")
    assert len(cells(quick)) == 5


@pytest.mark.parametrize(("cap", "calls"), [("1", 0), ("20", 1)])
def test_a_cap_and_nothing_to_search_end_the_session(quick: Path, cli: Cli, cap: str, calls: int) -> None:
    """Waiting is pointless: with the second cap, an answer that was cut off has used up the experiment's budget."""
    text = QUICK.replace("RATE", "rate").replace("DEPTH", "depth").replace("WIDTH", "width")
    (quick / "train.py").write_text(text)
    git(quick, "commit", "-qam", "no constants")
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text('["http:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    with model_server(lambda _: half) as server:
        done = run(cli, quick, server, "--max-cost-per-experiment", cap)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == calls, done.stderr
    assert f"--max-cost-per-experiment {cap} is spent" in done.stderr
    assert "ended: nothing to search" in done.stderr
    assert len(cells(quick)) == 1


def test_a_file_of_the_person_is_never_overwritten(quick: Path, cli: Cli) -> None:
    protocol = json.loads((quick / "protocol.json").read_text())
    protocol["mutableSurface"]["allowedGlobs"] = ["*.py"]
    (quick / "protocol.json").write_text(json.dumps(protocol))
    git(quick, "commit", "-qam", "all Python may change")
    (quick / "mine.py").write_text("MINE = 1\n")
    line = re.findall(r"(?m)^RATE = .*", QUICK)[0]
    better = edit(line, "RATE = 0.3")
    answers = iter(
        NOTES.format("new file") + f"WHOLE FILE {path}\n```\nX = 1\n```\n\n{better}"
        for path in ("mine.py", "train.py/x.py", "new.py")
    )
    with model_server(lambda _: next(answers)) as server:
        done = run(cli, quick, server, experiments=1)
    assert done.returncode == 0, done.stderr
    told = [body["messages"][-1]["content"] for _, _, body in server.requests]
    assert "mine.py, which is not a mutable file" in told[1]
    assert "x.py, which is not a mutable file" in told[2]
    assert (quick / "mine.py").read_text() == "MINE = 1\n"
    assert cells(quick)[1][3] == "keep"
    assert git(quick, "show", "HEAD:new.py") == "X = 1"


def test_wrong_flags_are_sentences(quick: Path) -> None:
    for flags, code, words in (
        (("--proposer", "llm"), 2, "needs --model"),
        (("--proposer", "command"), 2, "needs --agent"),
        (("--proposer", "hybrid"), 2, "needs --model"),
        (("--proposer", "oracle"), 2, "unknown proposer"),
        (("--model", "gpt-5"), 2, "--model must be openai:NAME"),
        (("--model", "openai:gpt-5"), 3, "OPENAI_API_KEY"),
        (("--model", "ollama:x", "--agent", "claude"), 2, "are mutually exclusive"),
        (("--model", ""), 2, "--model is empty"),
        (("--agent", ""), 2, "--agent is empty"),
        (("--agent-cmd", ""), 2, "--agent-cmd is empty"),
    ):
        done = call(quick, "run", "--tag", "t", *flags)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_does_not_wait_for_a_model(quick: Path) -> None:
    with model_server(lambda _: silent) as server:
        command = [sys.executable, "-m", "agent", "run", "--tag", "t", "--model", f"{server.url} m"]
        flags = ["--proposer", "llm", "--no-keep-awake", "--sandbox", "off"]
        process = subprocess.Popen([*command, *flags], cwd=quick, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
        while not server.requests:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in shown
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""


def test_a_call_that_the_loop_did_not_survive_counts_at_its_worst(quick: Path, cli: Cli) -> None:
    """The cap survives a kill, because the server may charge for the interrupted call."""
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text('["http:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    with model_server(lambda _: silent) as server:
        flags = ["--proposer", "llm", "--model", f"{server.url} scripted", "--max-cost", "20"]
        command = ["run", "--tag", "t", *flags, "--no-keep-awake", "--sandbox", "off", "--max-experiments", "1"]
        loop = Forked(quick, command, os.environ)
        while not server.requests:
            assert loop.poll() is None
            time.sleep(0.02)
        loop.kill()
        loop.wait()
    with model_server(walk()) as server:
        done = run(cli, quick, server, "--max-cost", "20", experiments=1)
        assert done.returncode == 0
        assert not server.requests
    assert "$16.00 of --max-cost 20 is spent" in done.stderr


def test_a_call_that_is_refused_costs_nothing(quick: Path, cli: Cli) -> None:
    (quick / ".autoresearch").mkdir()
    (quick / ".autoresearch/prices.toml").write_text('["http:scripted"]\ninput = 0.0\noutput = 1000.0\n')
    busy = lambda handler: reply(handler, 503, {})  # noqa: E731
    with model_server(lambda _: busy) as server:
        done = run(cli, quick, server, "--max-cost", "20", "--fallback-after", "0", experiments=2)
    assert done.returncode == 0
    assert len(events(quick, "refused")) == len(server.requests) >= 1
    shown = json.loads(cli(quick, "status", "--json").stdout)["data"]
    assert shown["cost"] == {"calls": 0, "input_tokens": 0, "output_tokens": 0, "dollars": 0.0}


def test_metric_is_read_although_a_variable_looks_like_its_name(quick: Path, program: Cli) -> None:
    flags = ("run", "--tag", "t", "--max-experiments", "1", "--no-confirm", "--no-report")
    done = program(quick, *flags, METRIC_KEY="---\nval_bpb:")
    assert done.returncode == 0, done.stderr
    assert rows(quick)[0]["status"] == "keep"


def test_secret_that_runs_may_see_leaves_them_only_in_their_logs(quick: Path, program: Cli) -> None:
    """Some fail on import, others in a run, whose reason is cut in the middle of the secret."""
    token, line = "hf_" + "abcdefgh" * 4, "RATE = 0.1  # search: 0.001..10 log"
    fails = f"assert RATE != {{}}, {'x' * 80!r} + os.environ['HF_TOKEN']\n"
    both = f"import os\n{fails.format(0.2)}if __name__ == '__main__':\n    {fails.format(0.3)}"
    (quick / "train.py").write_text(QUICK.replace("loss = 1.0", f"{both}loss = 1.0"))
    git(quick, "commit", "--quiet", "--all", "-m", "fails")
    rates = itertools.cycle(("0.2", "0.3"))
    with model_server(lambda _: NOTES.format("another rate") + edit(line, f"RATE = {next(rates)}")) as server:
        env = {"HF_TOKEN": token, "AUTORESEARCH_KEEP_ENV": "HF_TOKEN"}
        done = run(lambda *args, **more: program(*args, **more, **env), quick, server, experiments=3)
        sent = json.dumps([body for _, _, body in server.requests])
        shown = program(quick, "show", "1", **env)
        agents = program(quick, "show", "1", "--json", **env)
    assert done.returncode == 0, done.stderr
    assert "(HF_TOKEN)" in sent
    assert "it fails on import" in sent
    texts = {"prompts": sent, "screen": done.stdout + done.stderr, "show": shown.stdout, "json": agents.stdout}
    texts |= {str(path): path.read_text(errors="replace") for path in quick.rglob("*") if path.is_file()}
    assert [name for name, text in texts.items() if token[:11] in text and Path(name).suffix != ".log"] == []
