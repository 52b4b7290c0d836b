"""Send a request and read a response of limited size and duration, including headers, chunks and trailers.

Nothing is decompressed: 1 MiB of gzip may expand to 2 GiB. No redirect is followed, and its body is not read.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import LocationValueError

from agent.system.hosts import is_loopback

CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 2**20  # bytes of a body, and of the text in a stream of events
# A stream has an event for each token, of 300 bytes and more, and 16,000 tokens of thinking are usual.
LARGEST_STREAM = 2**25
AROUND = 2**18  # bytes of everything else: status, headers, chunk sizes, trailers
BLOCK = 2**16


class Unsent(requests.RequestException):
    """A request that could not be made, such as through a proxy whose address is invalid."""


class Endless(OSError):
    """A response that is larger, or takes longer, than any legitimate one."""


@contextmanager
def exchange(
    method: str, address: str, *, headers: Mapping[str, str], json: Any = None, silence: float, seconds: float
) -> Iterator[requests.Response]:
    """Send a request and yield its response with the body unread.

    Args:
        silence: idle timeout in seconds.
        seconds: timeout of the whole exchange.

    Raises:
        Unsent: nothing was sent.
        requests.RequestException: the server does not respond, or the response is cut off or endless.
    """

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set here so that requests does not replace it with credentials from .netrc.
        request.headers.update({**headers, "Accept-Encoding": "identity"})
        return request

    # A proxy could not reach a server on this machine, and would read what is for that alone.
    direct = {"http": "", "https": ""} if is_loopback(urlsplit(address).hostname or "") else None
    with _Session(time.monotonic() + seconds) as session:
        try:
            answer = session.request(
                method, address, json=json, auth=authorize, stream=True, allow_redirects=False, proxies=direct,
                timeout=(CONNECT_SECONDS, min(silence, seconds)),
            )  # fmt: skip
        except (requests.RequestException, LocationValueError):
            raise
        except (OSError, ValueError, TypeError) as error:  # of files and addresses that the environment names
            raise Unsent(str(error)) from error
        with answer:
            yield answer


def is_packed(answer: requests.Response) -> bool:
    """Return whether the body is compressed, which no request allows."""
    return answer.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def body(answer: requests.Response, most: int = LARGEST_ANSWER) -> Iterator[bytes]:
    """Yield the chunks of the body.

    Args:
        most: bytes.

    Raises:
        Endless: the body is larger.
        ValueError: the body is compressed.
    """
    if is_packed(answer):
        raise ValueError("it is compressed although the request forbids it")
    size = 0
    for chunk in answer.iter_content(chunk_size=BLOCK):
        size += len(chunk)
        if size > most:
            raise Endless("it is endless")
        yield chunk


class _Session(requests.Session):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(deadline))

    def get_redirect_target(self, _resp: requests.Response) -> None:
        """Return None: for any other target, `requests` reads the whole body, even if it does not follow it."""


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
    """Return connection pools, by scheme, whose responses are metered."""

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
    """The stream of a socket, limited in bytes and time before it is parsed."""

    def __init__(self, raw: io.RawIOBase, deadline: float) -> None:
        self._raw, self._deadline, self._left = raw, deadline, LARGEST_STREAM + AROUND

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0 or time.monotonic() > self._deadline:
            raise Endless("it is endless")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
