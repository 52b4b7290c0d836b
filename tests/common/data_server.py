"""A real HTTP server on loopback that serves files with ranges and misbehaves on request."""

import hashlib
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """How one response differs from a correct one.

    Attributes:
        status: Respond with this status and no body.
        headers: Headers to add or replace.
        cut_after: Close the connection after this many bytes of the body.
        reset: Close it with a reset, which also discards bytes that were received but not read.
        keep: Send only this many bytes of the file, as if it ended there.
        announced: Send a Content-Length.
        ignore_range: Send the whole file despite a Range header.
        phrase: Say this instead of the usual words for the status.
        trickle: Send a byte at a time, one every 50 ms, until `released` is set.
        hold: Keep the connection open after the body until `released` is set.
    """

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    reset: bool = True
    keep: int | None = None
    announced: bool = True
    ignore_range: bool = False
    phrase: str | None = None
    trickle: bool = False
    hold: bool = False


@dataclass(frozen=True)
class Answer:
    method: str
    name: str
    range: str | None
    if_range: str | None
    status: int
    sent: int  # bytes of the body


@dataclass
class DataServer:
    """A server of `files`. Each GET of a name uses up one of its `faults`; after that, responses are correct."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    linked: bool = False  # redirect first and give the sha256 there, as Hugging Face does with large files
    answers: list[Answer] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def gets(self, name: str) -> list[Answer]:
        """Return the responses to GETs of a file's content, without redirects."""
        return [answer for answer in self.answers if answer.method == "GET" and answer.name == name]


@contextmanager
def serve() -> Iterator[DataServer]:
    data = DataServer()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(Fault())

        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[-1]
            redirected = data.linked and not self.path.startswith("/stored/")
            faults = data.faults[name]
            self._answer(faults.pop(0) if faults and not redirected else Fault())

        def _answer(self, fault: Fault) -> None:
            name = self.path.rsplit("/", 1)[-1]
            content = data.files.get(name)
            headers = dict(fault.headers)
            body = b""
            if fault.status is not None:
                status = fault.status
            elif content is None:
                status = 404
            elif data.linked and not self.path.startswith("/stored/"):
                status = 302
                headers["Location"] = f"/stored/{name}"
                headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            else:
                headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', **headers}
                status, body = self._select(content[: fault.keep], headers, fault.ignore_range)
            if fault.announced:
                headers.setdefault("Content-Length", str(len(body)))
            sent = body if self.command == "GET" else b""
            if fault.cut_after is not None:
                sent = sent[: fault.cut_after]
            # Record before sending, so that a client with the response finds the record.
            if status != 302:
                asked = (self.headers.get("Range"), self.headers.get("If-Range"))
                data.answers.append(Answer(self.command, name, *asked, status, len(sent)))
            self.send_response(status, fault.phrase)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            while fault.trickle and sent and not data.released.wait(0.05):
                self.wfile.write(sent[:1])
                sent = sent[1:]
            self.wfile.write(sent)
            if fault.hold:
                data.released.wait(30)
            if fault.cut_after is not None and fault.reset:
                self.wfile.flush()
                # Closing with linger 0 sends a reset, like a middlebox, instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def _select(self, content: bytes, headers: dict[str, str], ignore_range: bool) -> tuple[int, bytes]:
            """Return status and body by RFC 9110, section 14, for the only form of Range in use: bytes=N-."""
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            condition = self.headers.get("If-Range")
            if not found or ignore_range or condition not in (None, headers["ETag"]):
                return 200, content
            start = int(found[1])
            if start >= len(content):
                headers["Content-Range"] = f"bytes */{len(content)}"
                return 416, b""
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return 206, content[start:]

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing, as responses are recorded."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore broken connections, as they are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    data.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield data
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
