"""One request to a server, whose answer is bounded in bytes and time whatever it sends: headers, chunks, trailers too.

Nothing is unpacked: an answer of 1 MiB may be one of 2 GiB behind gzip. No redirect is followed, nor is its body read.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 2**20  # bytes of a body
AROUND = 2**18  # bytes of what stands around it
BLOCK = 2**16


class Endless(OSError):
    """An answer that has more bytes, or takes longer, than any honest one."""


@contextmanager
def exchange(
    method: str, address: str, *, headers: Mapping[str, str], json: Any = None, silence: float, seconds: float
) -> Iterator[requests.Response]:
    """Send a request and hand out its answer, the body unread.

    Args:
        silence: seconds without a byte after which the server is taken to be gone.
        seconds: how long all of it may take.

    Raises:
        requests.RequestException: there is no answer, or it breaks off, or is endless.
    """

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set here, nothing in a .netrc takes its place.
        request.headers.update({**headers, "Accept-Encoding": "identity"})
        return request

    with _Session(time.monotonic() + seconds) as session:
        answer = session.request(
            method, address, json=json, auth=authorize, stream=True, allow_redirects=False,
            timeout=(CONNECT_SECONDS, silence),
        )  # fmt: skip
        with answer:
            yield answer


def is_packed(answer: requests.Response) -> bool:
    """Whether the body is compressed though that was not asked for."""
    return answer.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def body(answer: requests.Response) -> Iterator[bytes]:
    """What arrives. Raises Endless where it is more than an answer, ValueError where it is compressed."""
    if is_packed(answer):
        raise ValueError("it is compressed, which was not asked for")
    size = 0
    for chunk in answer.iter_content(chunk_size=BLOCK):
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise Endless("it goes on without end")
        yield chunk


class _Session(requests.Session):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(deadline))

    def get_redirect_target(self, _resp: requests.Response) -> None:
        """None: where there is a target, `requests` reads the whole body, even where it does not go there."""


class _Adapter(HTTPAdapter):
    def __init__(self, deadline: float) -> None:
        self._pools = _pools(deadline)
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
        manager = super().proxy_manager_for(*args, **more)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(deadline: float) -> dict[str, Any]:
    """Connection pools whose answers are metered."""

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.fp = io.BufferedReader(_Meter(self.fp.detach(), deadline))

    class Plain(HTTPConnection):
        response_class = Response

    class Secure(HTTPSConnection):
        response_class = Response

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Meter(io.RawIOBase):
    """What comes from a socket, counted and timed before anybody looks at it."""

    def __init__(self, raw: io.RawIOBase, deadline: float) -> None:
        self._raw, self._deadline, self._left = raw, deadline, LARGEST_ANSWER + AROUND

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0 or time.monotonic() > self._deadline:
            raise Endless("it goes on without end")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
