"""The server as raw messages reach it: malformed ones, and a client that goes away in the middle of a call."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from agent.report.verdict import await_verdict, result
from tests.common.tries import BETTER, slow
from tests.common.workspaces import QUICK, ROOT, commit_all

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}
# A message, the number of its error and the number of the request that it names.
MALFORMED = [
    (b"no json", -32700, None),
    (b"\xff\xfe\x00", -32700, None),
    (b"[" * 100_000, -32700, None),
    (b"[1, 2]", -32600, None),
    (b'{"jsonrpc": "2.0"}', -32600, None),
    (b'{"jsonrpc": "1.0", "id": 7, "method": "ping"}', -32600, 7),
    (b'{"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": "x"}', -32600, 8),
    (b'{"jsonrpc": "2.0", "id": "nine", "method": 5}', -32600, "nine"),
    (b'{"jsonrpc": "2.0", "id": 10, "method": "nope"}', -32601, 10),
]


class Raw:
    """A client that sends any bytes."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-P", "-m", "agent", "-C", str(folder), "mcp"]
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)

    @property
    def stdin(self) -> IO[bytes]:
        assert self.server.stdin is not None
        return self.server.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.server.stdout is not None
        return self.server.stdout

    def send(self, line: bytes) -> None:
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    def ask(self, number: int, method: str, **params: Any) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())

    def call(self, number: int, tool: str, **arguments: Any) -> None:
        self.ask(number, "tools/call", name=tool, arguments=arguments, _meta={"progressToken": number})

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.stdout.readline())
        return message


@pytest.fixture
def raw(quick: Path) -> Iterator[Callable[[], Raw]]:
    """Start a server in the workspace `quick`, and greet it."""
    started: list[Raw] = []

    def begin() -> Raw:
        client = Raw(quick)
        started.append(client)
        client.ask(0, "initialize", **HELLO)
        assert client.receive()["result"]["serverInfo"]["name"] == "autoresearch"
        client.send(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        return client

    yield begin
    for client in started:
        client.server.kill()
        for stream in (client.server.stdin, client.server.stdout, client.server.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        client.server.wait()


@pytest.mark.quick
def test_malformed_messages_get_errors(raw: Callable[[], Raw]) -> None:
    client = raw()
    for line, code, number in MALFORMED:
        client.send(line)
        answer = client.receive()
        assert (answer["error"]["code"], answer["id"]) == (code, number), line[:80]
    client.send(b"")
    client.send(b'{"jsonrpc": "2.0", "method": "notifications/nope"}')
    client.call(11, "status")
    assert "no sessions in" in client.receive()["result"]["content"][0]["text"]
    client.stdin.close()
    assert client.server.wait(30) == 0


@pytest.mark.quick
@pytest.mark.parametrize("text", ["\\ud83d", "\\ud83d\\ud83d\\ude00", "\\ude00\\ud83d \\\\ud83d"])
def test_a_text_cut_inside_of_an_emoji_is_answered_under_its_number(raw: Callable[[], Raw], text: str) -> None:
    client = raw()
    parameters = b'{"name": "show", "arguments": {"which": "x%s"}}' % text.encode()
    client.send(b'{"jsonrpc": "2.0", "id": 12, "method": "tools/call", "params": %s}' % parameters)
    answer = client.receive()
    assert answer["id"] == 12
    assert "no sessions in" in answer["result"]["content"][0]["text"]


def test_too_long_message_is_skipped(raw: Callable[[], Raw]) -> None:
    client = raw()
    for _ in range(66):
        client.stdin.write(b" " * 2**20)
    client.send(b"{}")
    assert client.receive()["error"]["code"] == -32700
    client.ask(1, "ping")
    assert client.receive() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def close_both(client: Raw) -> None:
    client.stdin.close()
    client.stdout.close()


GOING: dict[str, Callable[[Raw], None]] = {
    "closes the streams": close_both,
    "closes only its end of the output": lambda client: client.stdout.close(),
    "ends the server": lambda client: client.server.terminate(),
    "kills the server": lambda client: client.server.kill(),
}


@pytest.mark.parametrize("how", GOING)
def test_experiment_outlives_client_that_goes_away_while_waiting(quick: Path, raw: Callable[[], Raw], how: str) -> None:
    (quick / "train.py").write_text(slow(3))
    commit_all(quick, "slow")
    client = raw()
    client.call(1, "start_experiment", why="a larger rate", files={"train.py": slow(3).replace(*BETTER)})
    assert client.receive()["result"]["structuredContent"]["number"] == 1
    client.call(2, "wait_experiment")
    assert client.receive()["method"] == "notifications/progress"
    GOING[how](client)
    code = client.server.wait(30)
    assert code == {"ends the server": -15, "kills the server": -9}.get(how, 0)
    assert client.server.stderr is not None
    assert client.server.stderr.read() == b""
    assert await_verdict(quick, "try", 1, 120) == ("try", 1)
    verdict = result(quick, "try", 1)["verdict"]
    assert verdict is not None
    assert verdict["status"] == "keep"


def test_experiment_is_measured_if_client_goes_away_while_it_starts(quick: Path, raw: Callable[[], Raw]) -> None:
    client = raw()
    new, deadline = QUICK.replace(*BETTER), time.monotonic() + 60
    client.call(1, "start_experiment", why="a larger rate", files={"train.py": new})
    while (quick / "train.py").read_text() != new:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    close_both(client)
    assert client.server.wait(60) == 0
    assert await_verdict(quick, "try", 1, 120) == ("try", 1)


@pytest.mark.quick
def test_missing_extra_is_named(quick: Path) -> None:
    without = "import sys; sys.modules['mcp'] = None; from agent.cli import start; start()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", without, "-C", str(quick), "mcp"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: the extra mcp is not installed"
    assert "uv sync --extra mcp" in hint
    assert "uv tool install '.[mcp]'" in hint
