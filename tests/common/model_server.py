"""A scripted model server on loopback, in both wire formats."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-0123456789"
Body = dict[str, Any]


@dataclass
class Script:
    """The script of a server.

    Attributes:
        answer: Maps the body of a request to the text to reply, or to a function that handles the request.
        requests: Path, headers and body of every request.
    """

    answer: Callable[[Body], Any]
    stream: bool = True
    requests: list[tuple[str, dict[str, str], Body]] = field(default_factory=list)
    url: str = ""


@contextmanager
def model_server(answer: Callable[[Body], Any], *, stream: bool = True) -> Iterator[Script]:
    script = Script(answer, stream)
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        ends = stopped

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.requests.append((self.path, dict(self.headers), body))
            said = script.answer(body)
            if callable(said):
                said(self)
            else:
                say(self, said, body, script.stream)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, text: str, body: Body, stream: bool) -> None:
    """Send a whole response. It counts words as tokens."""
    tokens_in, tokens_out = len(json.dumps(body).split()), len(text.split())
    anthropic = handler.path.endswith("/messages")
    if not stream:
        reply(handler, 200, (_anthropic if anthropic else _openai)(text, tokens_in, tokens_out))
        return
    events = (_anthropic_events if anthropic else _openai_events)(text, tokens_in, tokens_out)
    streamed(*events)(handler)


def reply(handler: BaseHTTPRequestHandler, status: int, content: Any, **headers: str) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def send(handler: BaseHTTPRequestHandler, event: Any) -> None:
    text = event if isinstance(event, str) else json.dumps(event)
    kind = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
    data = f"{kind}data: {text}\n\n".encode()
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    handler.wfile.flush()


def end_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"0\r\n\r\n")


def streamed(*events: Any) -> Callable[[Any], None]:
    """Return an answer that sends these events."""

    def stream(handler: Any) -> None:
        begin_stream(handler)
        for event in events:
            send(handler, event)
        end_stream(handler)

    return stream


def _openai(text: str, tokens_in: int, tokens_out: int) -> Body:
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


def _openai_events(text: str, tokens_in: int, tokens_out: int) -> Iterator[Any]:
    for part in re.findall(r".{1,40}", text, re.DOTALL):
        yield {"choices": [{"delta": {"content": part}, "finish_reason": None}]}
    yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}}
    yield "[DONE]"


def _anthropic(text: str, tokens_in: int, tokens_out: int) -> Body:
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
    return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": usage}


def _anthropic_events(text: str, tokens_in: int, tokens_out: int) -> Iterator[Any]:
    yield {"type": "message_start", "message": {"usage": {"input_tokens": tokens_in, "output_tokens": 1}}}
    yield {"type": "ping"}
    for part in re.findall(r".{1,40}", text, re.DOTALL):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens_out}}
    yield {"type": "message_stop"}


def half(handler: Any) -> None:
    begin_stream(handler)
    send(handler, {"choices": [{"delta": {"content": "RATE = "}, "finish_reason": None}]})
    end_stream(handler)


def silent(handler: Any) -> None:
    handler.ends.wait()
