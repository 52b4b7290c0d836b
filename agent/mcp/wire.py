"""The messages of the protocol: what cannot be read gets an error, and no message ends the server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import anyio
from anyio import from_thread
from anyio.lowlevel import current_token
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from agent.format import one_line

LONGEST_MESSAGE = 2**26  # bytes: 20 files of 1 MiB, escaped
LONGEST_ID = 200
MOST_FAULTS = 5
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
Item = SessionMessage | Exception


class Server(MCPServer):
    """A server that answers malformed messages, and whose errors are sentences.

    Attributes:
        files: URI -> the file of a resource, which is listed only if it exists.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.files: dict[str, Path] = {}

    async def list_resources(self) -> Any:
        found = await super().list_resources()
        return [each for each in found if (file := self.files.get(str(each.uri))) is None or file.exists()]

    async def run_stdio_async(self) -> None:
        """Serve on standard input and output until the client closes them."""
        server = self._lowlevel_server
        async with stdio_server(cast(Any, _lines(_take_stdin()))) as (incoming, outgoing):
            sending, receiving = anyio.create_memory_object_stream[Item](0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_relay, incoming, sending, outgoing)
                await server.run(receiving, outgoing, server.create_initialization_options())
                tasks.cancel_scope.cancel()

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        tool = self._tool_manager.get_tool(name)
        known = list(tool.parameters["properties"]) if tool else []
        unknown = [one_line(each)[:LONGEST_ID] for each in arguments if tool and each not in known]
        if unknown:
            raise ToolError(f"unknown argument {unknown[0]!r}; {name} takes {', '.join(known) or 'none'}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(_sentence(error.__cause__)) from None
            raise ToolError(str(error).removeprefix(f"Error executing tool {name}: ")) from None


def refusal(fault: Exception) -> JSONRPCError | None:
    """Return the answer to a message that could not be read; None for a blank line."""
    found: list[Any] = fault.errors(include_url=False) if isinstance(fault, ValidationError) else []
    if found and found[0]["type"] == "json_invalid":
        text = found[0]["input"]
        if isinstance(text, str) and not text.strip():
            return None
        return JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=PARSE_ERROR, message="not a line of JSON"))
    # The faults of each kind of message, whose missing fields come with the whole of it.
    whole = next((each["input"] for each in found if len(each["loc"]) == 2 and isinstance(each["input"], dict)), {})
    number = whole.get("id")
    fits = (isinstance(number, int) and not isinstance(number, bool)) or isinstance(number, str)
    error = ErrorData(code=INVALID_REQUEST, message="not a message of the protocol")
    return JSONRPCError(jsonrpc="2.0", id=number if fits and len(str(number)) <= LONGEST_ID else None, error=error)


async def _relay(incoming: Any, sending: MemoryObjectSendStream[Item], outgoing: Any) -> None:
    """Pass messages on, and answer those that could not be read."""
    async with sending:
        async for item in incoming:
            if not isinstance(item, Exception):
                await sending.send(item)
            elif (answer := refusal(item)) is not None:
                await outgoing.send(SessionMessage(answer))


def _lines(stream: BinaryIO) -> MemoryObjectReceiveStream[str]:
    """Return the lines of a stream, with an unreadable one in place of each that exceeds LONGEST_MESSAGE.

    Another thread reads them, because a read cannot be canceled, and the server must end while one is waiting.
    """
    sending, receiving = anyio.create_memory_object_stream[str](0)
    token = current_token()

    def read() -> None:
        # The loop has ended, or has closed the other end of the stream.
        with contextlib.suppress(RuntimeError, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while line := _bounded_line(stream):
                from_thread.run(sending.send, _paired(line.decode(errors="replace")), token=token)
            from_thread.run(sending.aclose, token=token)

    threading.Thread(target=read, daemon=True).start()
    return receiving


def _bounded_line(stream: BinaryIO) -> bytes:
    line = stream.readline(LONGEST_MESSAGE)
    if len(line) < LONGEST_MESSAGE or line.endswith(b"\n"):
        return line
    while (rest := stream.readline(LONGEST_MESSAGE)) and not rest.endswith(b"\n"):
        pass
    return b"too long\n"


def _paired(line: str) -> str:
    """Replace unpaired surrogates: a client that cuts a text inside of an emoji sends one, and UTF-8 has none."""
    if not SURROGATE.search(line):
        return line
    try:
        content = json.dumps(json.loads(line), ensure_ascii=False)
    except (ValueError, RecursionError):
        return line
    sound = content.encode(errors="replace").decode()
    return line if sound == content else sound


def _sentence(fault: ValidationError) -> str:
    found = fault.errors(include_url=False)[:MOST_FAULTS]
    return "; ".join(f"argument {'.'.join(map(str, each['loc']))}: {one_line(each['msg'])}" for each in found)


def _take_stdin() -> BinaryIO:
    """Return standard input, and leave an empty one to the processes that the server starts."""
    stream, empty = os.fdopen(os.dup(0), "rb"), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return stream
