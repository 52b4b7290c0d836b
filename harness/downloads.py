"""Download parquet files over HTTP, resuming interrupted downloads, and verify them."""

import email.utils
import hashlib
import os
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import requests
import urllib3

from harness.settings import RESUME, DataError, fail

# report(step, done, total): progress of one step in any unit. total is None until known; done == total ends the step.
Report = Callable[[str, int, int | None], None]

MIRROR = "AUTORESEARCH_DATA_URL"
ATTEMPTS = 6  # consecutive failures that end a download
BACKOFF = 1.0  # seconds before the second attempt, doubled after every failure
LONGEST_WAIT = 120.0  # seconds; caps what a server asks for
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
CHUNK = 1 << 16  # bytes that are written at most at a time
SLOWEST, SLOW_SECONDS = 1000, 60.0  # bytes per second, over these seconds: a slower connection counts as dropped
LONGEST_PHRASE = 80  # characters of what a server says

# After these no further attempt would help.
FINAL = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
)


class _Retry(Exception):
    """Raised if an attempt failed and another may succeed. `delay`: seconds that the server asked to wait."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class _Slow(_Retry):
    """Raised if the server is so slow that what came counts as no progress."""


def fetch_all(base: str, names: list[str], folder: Path, workers: int, report: Report) -> None:
    """Download base/name to folder/name for every name, `workers` at a time.

    Raises:
        DataError: a download failed; the first failure is reported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(fetch, f"{base}/{name}", folder / name, report, stop) for name in names]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After a failure or Ctrl-C, the others stop at their next chunk; partial files stay for the next call.
            unfinished = [future for future in futures if not future.done()]
            stop.set()
            pool.shutdown(cancel_futures=True)
    for future in futures:
        if future not in unfinished:
            future.result()


def fetch(
    url: str,
    path: Path,
    report: Report,
    stop: threading.Event,
    attempts: int = ATTEMPTS,
    backoff: float = BACKOFF,
) -> None:
    """Download the parquet file at `url` to `path` and verify it. An incomplete file is named `path`.part.

    Resumes an earlier download. An attempt that got further than any before it resets the count of failures, so a
    connection that drops every few megabytes still succeeds, and one that makes no progress fails.

    Args:
        url: address of the file.
        path: where the complete file is stored.
        report: called with the progress in bytes.
        stop: ends the download early when set.
        attempts: consecutive failures after which the download fails.
        backoff: seconds before the second attempt, doubled after every failure.

    Raises:
        DataError: the file is unavailable or not a parquet file.
    """
    if path.exists():
        try:
            open_parquet(path)
            return
        except DataError:
            path.unlink()
    part = path.with_name(path.name + ".part")
    failures, furthest = 0, _size(part)
    while not stop.is_set():
        try:
            _attempt(url, part, path.name, report, stop)
            if stop.is_set():
                return
            part.replace(path)
            _etag_file(part).unlink(missing_ok=True)
            report(path.name, _size(path), _size(path))
            return
        except FINAL as error:
            raise DataError(f"cannot download {shown(url)}: {_reason(error)}", hint=_hint()) from None
        except (_Retry, requests.RequestException) as error:
            further = _size(part) > furthest and not isinstance(error, _Slow)
            failures = 1 if further else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= attempts:
                raise DataError(
                    f"cannot download {shown(url)}: {failures} attempts failed, most recently because {_reason(error)}",
                    hint=f"to resume, {RESUME}",
                ) from None
            asked = error.delay if isinstance(error, _Retry) else None
            # Jitter, so that parallel downloads do not retry at the same moment.
            delay = backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.0) if asked is None else asked
            stop.wait(min(delay, LONGEST_WAIT))


def _attempt(url: str, part: Path, name: str, report: Report, stop: threading.Event) -> None:
    """Request the missing bytes, then verify the file.

    Raises:
        _Retry, RequestException: another attempt may succeed.
        DataError: no attempt will.
    """
    headers = {"Accept-Encoding": "identity"}
    if had := _size(part):
        headers["Range"] = f"bytes={had}-"
        if _etag_file(part).exists():
            headers["If-Range"] = _etag_file(part).read_text()
    with _get(url, headers) as response:
        total = _check_answer(response, url, part)
        if response.status_code != 416:
            _receive(response, part, name, total, report, stop)
        digest = _promised_sha256(response)
    if stop.is_set():
        return
    came = _size(part)
    if total is not None and came != total:
        if came > total:
            _discard(part)
        raise _Retry(f"the server sent {came} bytes, expected {total}")
    if digest is not None and _sha256(part) != digest:
        _discard(part)
        raise _Retry("the content does not match the sha256 that the server announced")
    try:
        pyarrow.parquet.ParquetFile(part).close()
    except (pyarrow.ArrowException, OSError):
        _discard(part)
        raise _Retry("the content is not a parquet file") from None
    open_parquet(part)


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    """Request a file, with redirects.

    Raises:
        RequestException: it failed; one of FINAL if another attempt will fail, too.
    """
    try:
        return requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except requests.RequestException:
        raise
    except ValueError as error:  # of urllib, which cannot parse where a redirect leads
        raise requests.exceptions.InvalidURL(str(error)) from None


def _check_answer(response: requests.Response, url: str, part: Path) -> int | None:
    """Return the size of the whole file in bytes, None if the server does not announce it.

    Raises:
        _Retry: another attempt may succeed.
        DataError: the server refused the request.
    """
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _Retry(f"the server answered {status} {_phrase(response)}", _retry_after(response))
    if status not in (200, 206, 416):
        raise DataError(f"the server answered {status} {_phrase(response)} for {shown(url)}", hint=_hint())
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    start, size = found.groups() if found else (None, None)
    total = int(size) if size and size.isdecimal() else None
    had = _size(part)
    # 416: no bytes follow ours. This is correct if we have the whole file; otherwise the file on the server changed.
    if (status == 416 and total != had) or (status == 206 and start != str(had)):
        _discard(part)
        raise _Retry(f"the server could not resume after byte {had}")
    return total


def _receive(
    response: requests.Response, part: Path, name: str, total: int | None, report: Report, stop: threading.Event
) -> None:
    """Append the body to `part`, or overwrite it if the server sends the whole file."""
    etag = response.headers.get("ETag", "")
    if response.status_code == 200:
        _discard(part)
        if etag.startswith('"'):  # a weak ETag does not identify bytes
            _etag_file(part).write_text(etag)
    done = _size(part)
    since, before = time.monotonic(), done
    with part.open("ab") as file:
        for chunk in _chunks(response):
            file.write(chunk)
            done += len(chunk)
            if (seconds := time.monotonic() - since) >= SLOW_SECONDS:
                if done - before < SLOWEST * seconds:
                    raise _Slow(f"the server sent {done - before} bytes in {seconds:.0f} s")
                since, before = time.monotonic(), done
            if total is None or done < total:  # completion is reported after verification
                report(name, done, total)
            if stop.is_set():
                return
        file.flush()
        os.fsync(file.fileno())


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it comes in. requests itself would wait for whole chunks, however slow the server is."""
    try:
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            yield chunk
    except urllib3.exceptions.HTTPError:
        raise _Retry("the connection dropped") from None


def _promised_sha256(response: requests.Response) -> str | None:
    """Return the file's SHA-256 if a header announces it.

    Hugging Face sends it in X-Linked-Etag of the redirect to its storage, whose own ETag may be another hash.
    """
    given = [answer.headers.get("X-Linked-Etag", "") for answer in (*response.history, response)]
    if not response.history:
        given.append(response.headers.get("ETag", ""))
    hashes = [value.strip('"') for value in given]
    return next((value for value in hashes if re.fullmatch(r"[0-9a-f]{64}", value)), None)


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that the server asks to wait. Retry-After is a number or a date."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _reason(error: Exception) -> str:
    """Return a readable phrase: the messages of requests nest the text of three libraries."""
    if isinstance(error, _Retry):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "the server timed out"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS connection failed"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection dropped"
    if isinstance(error, requests.TooManyRedirects):
        return "the server redirects without end"
    if isinstance(error, FINAL):
        return "the server redirects to an invalid address"
    return "the server is unreachable"


def _phrase(response: requests.Response) -> str:
    """Return the server's own words for its status, without what would reach the terminal as a command."""
    return _printable(response.reason or "")[:LONGEST_PHRASE].strip()


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _hint() -> str:
    return f"check {MIRROR}" if named_mirror() else "try `--source embedded`"


def shown(url: str) -> str:
    """Return an address without its user and password."""
    before, colons, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    return _printable(f"{before}{colons}{authority.rpartition('@')[2]}{slash}{path}")


def named_mirror() -> str:
    """Return the address in AUTORESEARCH_DATA_URL; empty if there is none.

    Exits with an error if it is no address of a web server.
    """
    given = os.environ.get(MIRROR, "").strip()
    if not given:
        return ""
    try:
        parts = urllib.parse.urlsplit(given)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address
        valid = False
    if not valid:
        hint = "set it to the folder with the parquet files, such as https://HOST/FOLDER"
        fail(f"{MIRROR} must be an http or https address, got {shown(given)!r}", hint=hint, code=2)
    return given.rstrip("/")


def base_of(url: str) -> str:
    """Return the folder that is downloaded from: AUTORESEARCH_DATA_URL, by default `url`."""
    return named_mirror() or url


def answers(url: str, seconds: float) -> bool:
    """Return whether a server has the file at `url` and says so within `seconds`, all redirects together."""
    found: list[bool] = []

    def ask() -> None:
        with suppress(requests.RequestException, ValueError):
            found.append(requests.head(url, timeout=seconds, allow_redirects=True).ok)

    # A thread: neither the resolution of a name nor an answer that comes in byte by byte has a time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return any(found)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a parquet file and read its footer.

    Raises:
        DataError: it is not a parquet file, or has no column `text` of strings.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from None
    names = file.schema_arrow.names
    if names.count("text") > 1:
        raise DataError(f"{path} has {names.count('text')} columns `text`", hint="rename all but one of them")
    if "text" not in names:
        message = f"{path} has no column `text`, its columns are: {', '.join(names) or 'none'}"
        raise DataError(message, hint="rename the column of texts to `text`")
    kind = file.schema_arrow.field("text").type
    values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind  # a dictionary is pandas' categorical
    are_strings = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(are(values) for are in are_strings):
        raise DataError(f"expected strings in the column `text` of {path}, got {kind}")
    return file
