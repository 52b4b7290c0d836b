"""The MCP server, started as a client starts it: the client of the SDK speaks to it over its standard streams."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from filelock import FileLock
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import TextContent, TextResourceContents

from agent.errors import AutoresearchError, PreconditionError
from agent.journal import lock
from agent.journal.paths import journal_path, state_folder
from agent.mcp import measuring, server
from agent.mcp.edits import written
from agent.mcp.progress import under_way
from agent.report.status import request_stop, status
from agent.report.verdict import await_verdict, result
from tests.common import schemas
from tests.common.journals import JournalBuilder
from tests.common.processes import start, wait_for
from tests.common.tries import BETTER, edit, slow
from tests.common.workspaces import QUICK, Cli, commit_all, git, quick_protocol, set_protocol

WORSE_BLOCK = """\
train.py
<<<<<<< SEARCH
DEPTH = 4  # search: 1..16
=======
DEPTH = 1  # search: 1..16
>>>>>>> REPLACE
"""


class Agent:
    """A connected client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def text(self, tool: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        assert isinstance(answer.content[0], TextContent)
        return answer.content[0].text

    async def data(self, tool: str, **arguments: Any) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(await self.text(tool, **arguments))
        return data

    async def error(self, tool: str, **arguments: Any) -> str:
        answer = await self.client.call_tool(tool, arguments)
        assert answer.is_error, answer.content
        assert isinstance(answer.content[0], TextContent)
        assert "Traceback" not in answer.content[0].text
        return answer.content[0].text

    async def resource(self, name: str) -> str:
        content = (await self.client.read_resource(f"autoresearch://{name}")).contents[0]
        assert isinstance(content, TextResourceContents)
        return content.text


def talk(folder: Path, talking: Callable[[Agent], Awaitable[None]]) -> None:
    """Start the server of a workspace, and talk to it."""
    parameters = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "agent", "-C", str(folder), "mcp"], env=dict(os.environ)
    )

    async def session() -> None:
        with anyio.fail_after(120):
            async with Client(parameters) as client:
                await talking(Agent(client))

    anyio.run(session)


@pytest.mark.quick
def test_agent_researches_in_cycles(quick: Path) -> None:
    async def talking(agent: Agent) -> None:
        names = {tool.name for tool in (await agent.client.list_tools()).tools}
        assert names == {
            *("briefing", "start_experiment", "wait_experiment", "status", "show", "diff", "confirm", "stop")
        }
        assert "no experiment yet" in await agent.text("briefing")
        started = await agent.data("start_experiment", why="a larger rate", files={"train.py": QUICK.replace(*BETTER)})
        assert (started["number"], started["tag"], started["verdict"]) == (1, "try", None)
        done = await agent.data("wait_experiment", number=1)
        assert (done["state"], done["verdict"]["status"], done["description"]) == ("done", "keep", "a larger rate")
        started = await agent.data("start_experiment", why="shal\0low", blocks=WORSE_BLOCK)
        done = await agent.data("wait_experiment", number=started["number"])
        assert done["verdict"]["status"] == "discard"
        assert "DEPTH = 4" in (quick / "train.py").read_text()
        edit(quick, "loss = ", "raise ValueError('no')\nloss = ")
        await agent.data("start_experiment", why="broken")
        assert (await agent.data("wait_experiment"))["verdict"]["status"] == "crash"
        shown = await agent.data("show", which="3")
        assert "ValueError" in "".join(shown["log_tail"])
        assert "+RATE = 0.3" in (await agent.data("diff"))["diff"]
        status = await agent.data("status", rows=2)
        assert (status["experiments"], status["kept"], len(status["rows"])) == (3, 1, 2)
        briefing = await agent.text("briefing")
        assert "RATE" in briefing
        assert "shallow" in briefing

    talk(quick, talking)


def test_best_is_confirmed_in_the_background(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try", "--tag", "t").returncode == 0

    async def talking(agent: Agent) -> None:
        found = await agent.data("confirm", runs=2)
        while found["state"] == "running" and lock.holder(state_folder(quick)):
            await anyio.sleep(0.2)
        status = await agent.data("status")
        assert (status["confirmed"]["gain"], status["confirmation_error"]) == (pytest.approx(0.08), None)
        written = json.loads((state_folder(quick) / "sessions/t/confirm.json").read_text())
        assert (written["status"], schemas.fault("confirm", written)) == ("ok", None)

    talk(quick, talking)


def test_status_says_why_a_confirmation_failed(quick: Path, tmp_path: Path, cli: Cli) -> None:
    broken = tmp_path / "broken"
    edit(
        quick,
        "loss = ",
        f"import os, time\nif os.path.exists({str(broken)!r}):\n    time.sleep(7)\n    sys.exit(3)\nloss = ",
    )
    commit_all(quick, "breaks later")
    edit(quick, *BETTER)
    assert cli(quick, "try", "--tag", "t", "--sandbox", "off").returncode == 0
    broken.touch()

    async def talking(agent: Agent) -> None:
        assert (await agent.data("confirm", runs=2))["state"] == "running"
        status = await agent.data("status")
        assert status["progress"]["phase"] == "comparing"
        assert (status["progress"]["run"], status["progress"]["of"]) == (1, 4)
        while lock.holder(state_folder(quick)):
            await anyio.sleep(0.2)
        assert "exit code 3" in (await agent.data("status"))["confirmation_error"]

    talk(quick, talking)


def keep_and_fail_to_confirm(folder: Path, cli: Cli) -> None:
    edit(folder, *BETTER)
    assert cli(folder, "try", "--tag", "t").returncode == 0
    envelope = {"data": None, "errors": ["no luck"], "hints": []}
    (state_folder(folder) / "sessions/t/confirm.json").write_text(json.dumps(envelope))


@pytest.mark.quick
def test_confirmation_makes_up_for_one_that_failed_before(quick: Path, cli: Cli) -> None:
    keep_and_fail_to_confirm(quick, cli)
    assert measuring.confirmation_error(quick, "t") == "no luck"
    assert cli(quick, "confirm", "--runs", "2").returncode == 0
    assert measuring.confirmation_error(quick, "t") is None


@pytest.mark.quick
def test_later_keep_makes_a_failed_confirmation_one_of_another_best(quick: Path, cli: Cli) -> None:
    keep_and_fail_to_confirm(quick, cli)
    edit(quick, "DEPTH = 4", "DEPTH = 3")
    assert cli(quick, "try", "--tag", "t").returncode == 0
    assert measuring.confirmation_error(quick, "t") == "no luck"  # after a discard
    edit(quick, "DEPTH = 4", "DEPTH = 5")
    assert cli(quick, "try", "--tag", "t").returncode == 0
    assert measuring.confirmation_error(quick, "t") is None


@pytest.mark.quick
def test_what_waits_for_a_comparison_is_named(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ENDING_SECONDS", 0.0)
    builder = JournalBuilder("t").baseline().keep()
    builder.write.at = time.time()  # by the process that holds the lock below
    builder.write("comparing", commits={"a": builder.base, "b": builder.best}, files=[], count=2)
    builder.write("running", label="a", run=1, pid=1, born=0.0, log="", expected=300.0)
    builder.write.save(journal_path(quick, "t"))
    with lock.hold(state_folder(quick), "t"):
        with pytest.raises(PreconditionError, match="is measuring session t, and only one") as refused:
            measuring.start_experiment(quick, "no", None, {"train.py": "X = 1\n"}, "")
        assert refused.value.hint == "call status until nothing runs, or end it with stop"
        assert request_stop(quick).endswith(" stops after its current run")


@pytest.mark.quick
def test_replaced_run_of_a_comparison_counts_as_one_more(quick: Path) -> None:
    builder = JournalBuilder("t").baseline().keep()
    run: dict[str, Any] = {"run": 1, "pid": 1, "born": 0.0, "log": "", "expected": 300.0}
    builder.write.at = time.time()  # by the process that holds the lock below
    builder.write("comparing", commits={"a": builder.base, "b": builder.best}, files=[], count=2)
    for label in "abbab":  # the last one is replaced
        builder.write("running", label=label, **run)
        builder.write("compared", label=label, run=1, metric=1.0, seconds=300.0)
    builder.write("running", label="b", **run)
    builder.write.save(journal_path(quick, "t"))
    with lock.hold(state_folder(quick), "t"):
        now = under_way(quick, "t")
    assert (now["phase"], now["run"], now["of"]) == ("comparing", 6, 6)


@pytest.mark.quick
def test_comparison_that_was_cut_off_is_over_once_the_session_goes_on(quick: Path) -> None:
    builder = JournalBuilder("t").baseline().keep()
    builder.write("comparing", commits={"a": builder.base, "b": builder.best}, files=[], count=2)
    builder.write("running", label="a", run=1, pid=1, born=0.0, log="", expected=300.0)
    builder.write.save(journal_path(quick, "t"))
    with lock.hold(state_folder(quick), "t"):  # by another process, which has not written anything yet
        assert status(quick, "t", 0)[0]["comparison"] is None
        assert under_way(quick, "t")["phase"] == "preparing"
        assert request_stop(quick).endswith(" stops after its current experiment")
        builder.write.at = time.time()
        builder.write("resumed", pid=1)
        builder.write.save(journal_path(quick, "t"))
        assert under_way(quick, "t")["phase"] == "preparing"


@pytest.mark.quick
def test_errors_are_sentences_and_change_nothing(quick: Path) -> None:
    async def talking(agent: Agent) -> None:
        assert "no sessions in" in await agent.error("status")
        assert "no edit to measure" in await agent.error("start_experiment", why="nothing")
        assert "no loop is running" in await agent.error("stop")
        for path in ("prepare.py", "../x.py", "/tmp/x.py", ".git/config", "protocol.json", "a\0b"):
            assert await agent.error("start_experiment", why="no", files={path: "x = 1\n"})
        large = {"train.py": "#" * 2**21}
        assert "is not text of at most 1 MiB" in await agent.error("start_experiment", why="no", files=large)
        wrong = WORSE_BLOCK.replace("DEPTH = 4", "DEPTH = 44")
        assert "cannot be applied" in await agent.error("start_experiment", why="no", blocks=wrong)
        assert await agent.error("start_experiment", why="bad tag", tag="../x", files={"train.py": "X = 1\n"})
        assert await agent.error("start_experiment", why="bad tag", tag="a\0b", files={"train.py": "X = 1\n"})
        assert (quick / "train.py").read_text() == QUICK
        edit(quick, *BETTER)
        mine = (quick / "train.py").read_text()
        refused = await agent.error("start_experiment", why="no", files={"train.py": "X = 1\n"})
        assert "has changes that no experiment has" in refused
        assert (quick / "train.py").read_text() == mine

    talk(quick, talking)


@pytest.mark.quick
def test_arguments_are_checked(quick: Path) -> None:
    async def talking(agent: Agent) -> None:
        assert "argument tag: Input should be a valid string" in await agent.error("show", which=5, tag=5)
        assert "argument which" in await agent.error("show", which=[5])
        unknown = await agent.error("start_experiment", message="a typo of why")
        assert unknown == "unknown argument 'message'; start_experiment takes why, tag, files, blocks"
        assert "argument why: Field required" in await agent.error("start_experiment")
        assert not (quick / ".autoresearch").exists()

    talk(quick, talking)


@pytest.mark.quick
def test_one_of_several_calls_at_once_starts(quick: Path) -> None:
    async def talking(agent: Agent) -> None:
        said: dict[str, str] = {}

        async def call(rate: str) -> None:
            files = {"train.py": QUICK.replace("RATE = 0.1", f"RATE = {rate}")}
            answer = await agent.client.call_tool("start_experiment", {"why": rate, "files": files})
            assert isinstance(answer.content[0], TextContent)
            said[rate] = answer.content[0].text if answer.is_error else ""

        async with anyio.create_task_group() as calls:
            for rate in ("0.2", "0.3", "0.35"):
                calls.start_soon(call, rate)
        started = [rate for rate, error in said.items() if not error]
        assert len(started) == 1, said
        assert all("only one process measures at a time" in error for error in said.values() if error)
        found = await agent.data("wait_experiment", number=1)
        assert (found["description"], found["verdict"]["status"]) == (started[0], "keep")
        assert f"+RATE = {started[0]}" in (await agent.data("diff"))["diff"]

    talk(quick, talking)


@pytest.mark.quick
def test_calls_of_two_clients_do_not_mix_their_edits(quick: Path) -> None:
    state_folder(quick).mkdir()
    with FileLock(state_folder(quick) / measuring.STARTING), pytest.raises(PreconditionError, match="another call"):
        measuring.start_experiment(quick, "a rate", None, {"train.py": QUICK.replace("RATE = 0.1", "RATE = 0.3")}, "")
    assert (quick / "train.py").read_text() == QUICK


def allow(folder: Path, *globs: str) -> None:
    surface = quick_protocol()["mutableSurface"]
    set_protocol(folder, mutableSurface={**surface, "allowedGlobs": ["train.py", *globs]})


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"models/a.py/b.py": ""}, r"^models/a\.py/b\.py cannot be created: models/a\.py is a file$"),
        ({"models/c.py": "", "models/c.py/d.py": ""}, r"cannot be created: models/c\.py is a file$"),
        ({"models": ""}, "^models is a folder$"),
        ({f"models/{'x' * 256}.py": ""}, "x' is too long$|x\\.py' is too long$"),
        ({"models/\ud800.py": ""}, "is not valid UTF-8$"),
        ({"models/b\\c.py": ""}, "has a backslash"),
        ({"models/../b.py": ""}, "is outside the workspace"),
        ({"models//b.py": ""}, "is not the shortest form of a path$"),
        ({"/b.py": ""}, "is absolute"),
    ],
)
def test_path_that_cannot_be_written_is_named(quick: Path, files: dict[str, str], fault: str) -> None:
    (quick / "models").mkdir()
    (quick / "models" / "a.py").write_text("A = 1\n")
    commit_all(quick, "models", "models")
    allow(quick, "models/**", "models")
    with pytest.raises(AutoresearchError, match=fault) as caught, written(quick, None, files, ""):
        pass
    assert "change only files" not in str(caught.value.hint)
    assert git(quick, "status", "--porcelain") == ""


def test_edit_that_is_put_back_leaves_no_folder(quick: Path) -> None:
    allow(quick, "models/**")
    with pytest.raises(ZeroDivisionError), written(quick, None, {"models/new/deep/a.py": "", "models/b.py": ""}, ""):
        (quick / "models" / "new" / "mine.txt").touch()
        raise ZeroDivisionError
    assert sorted(each.name for each in (quick / "models").rglob("*")) == ["mine.txt", "new"]


def test_file_that_the_disk_refuses_is_named(quick: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(PreconditionError, match=r"^cannot write train\.py: File too large$"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
            with written(quick, None, {"train.py": QUICK + "# long\n" * 50_000}, ""):
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (quick / "train.py").read_text() == QUICK


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_blocks_edit_the_text_that_comes_with_them(quick: Path, ends: str) -> None:
    """The text gets the byte order mark and the line ends of the file."""
    (quick / "train.py").write_bytes(b"\xef\xbb\xbf" + QUICK.replace("\n", "\r\n").encode())
    commit_all(quick, "from Windows")
    text = QUICK.replace("RATE = 0.1", "RATE = 0.3").replace("\n", ends)
    with written(quick, None, {"train.py": text}, WORSE_BLOCK):
        found = (quick / "train.py").read_bytes()
    edited = QUICK.replace("RATE = 0.1", "RATE = 0.3").replace("DEPTH = 4", "DEPTH = 1")
    assert found == b"\xef\xbb\xbf" + edited.replace("\n", "\r\n").encode()


def test_answers_are_bounded(quick: Path) -> None:
    async def talking(agent: Agent) -> None:
        large = QUICK + "".join(f"# {number:060d}\n" for number in range(12_000))
        started = await agent.data("start_experiment", why="w" * 2000, files={"train.py": large.replace(*BETTER)})
        assert (await agent.data("wait_experiment", number=started["number"]))["verdict"]["status"] == "keep"
        assert len((await agent.data("show", which="1"))["diff"]) < 17_000
        (quick / "program.md").write_text("Try widths. " * 10**4)
        answers = [await agent.text("briefing"), await agent.resource("program"), await agent.resource("report")]
        for tool, arguments in (("show", {"which": "1"}), ("diff", {}), ("status", {"rows": 100})):
            answers.append(json.dumps(await agent.data(tool, **arguments)))
        assert all(len(each) < 65_000 for each in answers), [len(each) for each in answers]
        assert "[cut: " in answers[1]

    talk(quick, talking)


def test_briefing_leaves_out_files_that_are_too_long(quick: Path, cli: Cli) -> None:
    (quick / "program.md").write_text("Never touch BETA.\n")
    (quick / "train.py").write_text(QUICK + "# as it was before\n" * 3000)
    commit_all(quick, "long")

    async def talking(agent: Agent) -> None:
        before = await agent.text("briefing")
        assert cli(quick, "try", "--tag", "t", "--why", "as it is").returncode in (0, 1, 2)
        for text in (before, await agent.text("briefing")):
            assert "minimize val_bpb" in text
            assert "Never touch BETA." in text
            assert "train.py: 57," in text
            assert "as it was before" not in text

    talk(quick, talking)


@pytest.mark.quick
@pytest.mark.parametrize("tag", ["", ".", ".."])
def test_waiting_for_a_session_that_cannot_exist_says_so(quick: Path, cli: Cli, tag: str) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try").returncode == 0

    async def talking(agent: Agent) -> None:
        assert f"unknown session '{tag}'" in await agent.error("wait_experiment", tag=tag)

    talk(quick, talking)


@pytest.mark.quick
def test_resources(quick: Path, cli: Cli) -> None:
    edit(quick, *BETTER)
    assert cli(quick, "try").returncode == 0
    (quick / "program.md").write_text("Try \x1b[31mwidths.\n")

    async def talking(agent: Agent) -> None:
        assert "val_bpb" in json.dumps(json.loads(await agent.resource("protocol")))
        assert await agent.resource("program") == "Try widths.\n"
        assert json.loads(await agent.resource("report"))
        assert "program" in {each.name for each in (await agent.client.list_resources()).resources}
        (quick / "program.md").unlink()
        assert {each.name for each in (await agent.client.list_resources()).resources} == {"protocol", "report"}
        with pytest.raises(MCPError, match=r"program\.md") as missing:
            await agent.resource("program")
        assert missing.value.error.code == -32602
        for which in (1, "1", "#1"):
            assert (await agent.data("show", which=which))["number"] == 1
        assert (await agent.data("diff", which=1, other=0))["to"]["number"] == 1

    talk(quick, talking)


def test_a_running_loop_is_not_disturbed(quick: Path) -> None:
    (quick / "train.py").write_text(slow(3))
    commit_all(quick, "slow")
    loop = start(quick, "--max-experiments", "1")
    wait_for(quick, "started", 1)

    async def talking(agent: Agent) -> None:
        refused = await agent.error("start_experiment", why="no", files={"train.py": "X = 1\n"})
        assert "only one process measures at a time" in refused
        assert (await agent.data("status"))["running_pid"] == loop.pid
        assert "stops after its current experiment" in await agent.text("stop")
        assert (await agent.data("wait_experiment", number=1))["state"] == "done"

    talk(quick, talking)
    assert loop.wait(60) == 0


def test_progress_is_reported_and_training_outlives_the_client(quick: Path) -> None:
    (quick / "train.py").write_text(slow(3))
    commit_all(quick, "slow")
    edit(quick, *BETTER)
    reported: list[str | None] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        assert total is None or progress <= total
        reported.append(message)

    async def talking(agent: Agent) -> None:
        await agent.data("start_experiment", why="a larger rate")
        answer = await agent.client.call_tool("wait_experiment", {"number": 1, "seconds": 2}, progress_callback=heard)
        assert isinstance(answer.content[0], TextContent)
        found = json.loads(answer.content[0].text)
        assert (found["state"], found["number"]) == ("running", 1)
        assert "only one process measures at a time" in await agent.error("start_experiment", why="no")

    talk(quick, talking)
    assert any(
        re.search(r"#0 baseline for \d+ s: \d+ %, step \d+, loss 4\.\d+, 14,000 tokens/s", each or "")
        for each in reported
    )
    assert result(quick, "try", 1)["verdict"] is None
    assert await_verdict(quick, "try", 1, 60) == ("try", 1)
    verdict = result(quick, "try", 1)["verdict"]
    assert verdict is not None
    assert verdict["status"] == "keep"


def test_wait_stays_with_the_experiment_that_it_began_with(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two of its steps, a loop may have gone on to the next one."""
    signals = tmp_path / "signals"
    signals.mkdir()
    monkeypatch.setenv("AUTORESEARCH_READ", str(signals))
    wait = f"while RATE != 0.1 and not os.path.exists({str(signals / 'go')!r}):\n    time.sleep(0.02)\nloss = "
    only = QUICK.replace("# search: 1..16", "# search: off").replace("8..512", "off")
    (quick / "train.py").write_text(only.replace("import sys\n", "import os, sys, time\n").replace("loss = ", wait))
    commit_all(quick, "waits")
    loop = start(quick, "--max-experiments", "2")
    wait_for(quick, "started", 1)

    async def report(*_: object) -> None:
        (signals / "go").touch()
        await anyio.to_thread.run_sync(wait_for, quick, "started", 2)

    async def waiting() -> dict[str, Any]:
        return await server.wait(quick, None, None, server.LONGEST_WAIT, report)

    found = anyio.run(waiting)
    assert (found["state"], found["number"]) == ("done", 1)
    assert loop.wait(60) == 0


def test_late_start_keeps_files_and_is_measured(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "START_SECONDS", 0.0)
    new = QUICK.replace(*BETTER)
    found = measuring.start_experiment(quick, "a larger rate", None, {"train.py": new}, "")
    assert (found["state"], found["number"]) == ("starting", None)
    assert (quick / "train.py").read_text() == new
    wait_for(quick, "recorded", 1, tag="try")
    verdict = result(quick, "try", 1)["verdict"]
    assert verdict is not None
    assert verdict["status"] == "keep"


@pytest.mark.slow
def test_wait_returns_within_the_shortest_time_limit(quick: Path) -> None:
    (quick / "train.py").write_text(slow(58))
    commit_all(quick, "slow")
    edit(quick, *BETTER)

    async def talking(agent: Agent) -> None:
        await agent.data("start_experiment", why="a larger rate")
        answer = await agent.client.call_tool("wait_experiment", {}, read_timeout_seconds=55)
        assert isinstance(answer.content[0], TextContent)
        assert json.loads(answer.content[0].text)["state"] == "running"

    talk(quick, talking)
    assert await_verdict(quick, "try", 1, 300) == ("try", 1)


def test_calls_return_within_the_shortest_time_limit() -> None:
    start = measuring.ENDING_SECONDS + max(measuring.START_SECONDS, measuring.SOON_SECONDS)
    assert max(start, server.LONGEST_WAIT) <= 60 - 15
