"""Build snapshots: a tokenizer and token shards, named by the hash of their content.

Only `prepare.py` as a program uses this module; experiments never import it. A preparation that was killed resumes.
"""

import base64
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import rustbpe

from harness import dataset, holdout, sources
from harness.dataset import Shard
from harness.downloads import Report, named_mirror
from harness.loader import Array, TooFewTokens, offsets_path, validation_rows
from harness.prepared import current_folder
from harness.settings import CACHE_DIR, PROFILES, SCHEMA, DataError, Profile
from harness.sources import Request
from harness.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

if TYPE_CHECKING:
    from rich.progress import TaskID

SPLITS = 3  # version of how sources are split, so that no preparation continues one of another version
TOKENIZER_CHARACTERS = 1_000_000_000  # of text that the vocabulary is trained on
LEAST_USABLE = 0.5  # fraction of the tokens in rows below which documents are called long
TOKENIZER_DOCUMENT_CHARACTERS = 10_000  # per document, so that a few long ones do not dominate

# Scripts, combining marks, joined emoji, line ends, runs of spaces and digits, bytes that training text lacks.
ROUND_TRIP = (
    "",
    "Plain text, don't worry: 1234567890 and 3.14.",
    "line\r\nline\n\n\ttab   spaces  ",
    "Ελληνικά, русский, العربية, עברית, हिन्दी, 中文, 日本語, 한국어, ไทย",
    "e\u0301 a\u0308 n\u0303o\u0302\u0323",
    "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f1ea\U0001f1fa \u2764\ufe0f",
    "<|bos|> is text here\x00\x7f\u200b\ufeff\U0010ffff",
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Train a vocabulary and return the content of tokenizer.json.

    Raises:
        DataError: the text is too small, or does not survive encoding and decoding.
    """
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    tokens = [token for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])]
    if len(tokens) + len(SPECIAL_TOKENS) < vocab_size:
        raise DataError(
            f"the text is too small for a vocabulary of {vocab_size} tokens: it yields {len(tokens)}",
            hint="pass more text, or another --source; of a document, only the first "
            f"{TOKENIZER_DOCUMENT_CHARACTERS:,} characters are read here: split long ones",
        )
    content = {
        "pattern": SPLIT_PATTERN,
        "special_tokens": {name: len(tokens) + index for index, name in enumerate(SPECIAL_TOKENS)},
        "mergeable_ranks": [base64.b64encode(token).decode() for token in tokens],
    }
    tokenizer = Tokenizer(content)
    for text in ROUND_TRIP:
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise DataError(
                f"the trained tokenizer does not decode {text!r} to itself",
                hint="report this bug with your data source",
            )
    return content


def _training_texts(shards: list[Shard], report: Report) -> Iterator[str]:
    characters = 0
    for index, text in enumerate(itertools.chain.from_iterable(shard.documents() for shard in shards)):
        yield text[:TOKENIZER_DOCUMENT_CHARACTERS]
        characters += min(len(text), TOKENIZER_DOCUMENT_CHARACTERS)
        if characters >= TOKENIZER_CHARACTERS:
            break
        if index % 1024 == 0:
            report("train tokenizer", characters, None)
    report("train tokenizer", characters, characters)


def write_tokens(shard: Shard, tokenizer: Tokenizer, path: Path, report: Report) -> None:
    """Write the shard's tokens to `path` and then the offsets of its documents to `offsets_path(path)`.

    Raises:
        DataError: the shard has no documents.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    documents = shard.documents()
    lengths: list[int] = []
    with _replacing(path) as file:
        _write_header(file, dtype, 0)
        while texts := list(itertools.islice(documents, 1024)):
            encoded = tokenizer.encode(texts)
            lengths.extend(len(ids) + 1 for ids in encoded)
            flat = itertools.chain.from_iterable(part for ids in encoded for part in ((tokenizer.bos_token_id,), ids))
            file.write(np.fromiter(flat, dtype).data)
            report(f"tokenize {shard.name}", len(lengths), None)
        if not lengths:
            raise DataError(f"{shard.name} contains no text", hint="remove it, or pass another --source")
        _write_header(file, dtype, sum(lengths))
    with _replacing(offsets_path(path)) as file:
        np.save(file, np.cumsum([0, *lengths], dtype=np.int64))
    report(f"tokenize {shard.name}", len(lengths), len(lengths))


def _write_header(file: BinaryIO, dtype: np.dtype[Any], length: int) -> None:
    """Write the .npy header at the start of the file. numpy pads it, so its size does not depend on the length."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": (length,)})


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that is renamed to `path` once it is complete and on disk."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def request_key(source: str, num_shards: int | None, profile: str) -> str:
    """Return the key of a request. Equal keys mean equal snapshots, as far as known without reading the documents."""
    constants = {name: asdict(scale) for name, scale in PROFILES.items()}
    request = [SCHEMA, source, dataset.identity(source), num_shards, profile, constants]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]


def prepared(key: str) -> dict[str, Any] | None:
    """Return the record of the snapshot for a request, None if it is missing or incomplete."""
    try:
        directory = CACHE_DIR / "snapshots" / (CACHE_DIR / "requests" / key).read_text()
    except (FileNotFoundError, UnicodeDecodeError):  # damaged: prepared anew
        return None
    return _whole_record(directory)


def _whole_record(directory: Path) -> dict[str, Any] | None:
    """Return the content of snapshot.json if it is one of this schema and every file that it lists has its size."""
    record = _read(directory)
    try:
        whole = all((directory / name).stat().st_size == file["bytes"] for name, file in record["files"].items())
        whole = whole and all(isinstance(record[name], str) for name in ("id", "source", "profile"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole and record.get("schema") == SCHEMA else None


def _read(directory: Path) -> Any:
    """Return the content of snapshot.json; None if it is missing or damaged."""
    try:
        return json.loads((directory / "snapshot.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def build(source: str, num_shards: int | None, profile: str, workers: int, report: Report) -> dict[str, Any]:
    """Prepare a resolved source, reusing the finished parts of an earlier call that was killed.

    Returns:
        The snapshot's record.

    Raises:
        DataError: the source is unavailable, unreadable or too small.
    """
    key = request_key(source, num_shards, profile)
    scale = PROFILES[profile]
    building = CACHE_DIR / "building" / f"{key}-{SPLITS}"
    building.mkdir(parents=True, exist_ok=True)
    shards = dataset.shards(source, num_shards, CACHE_DIR / "shards", workers, report)
    by_split = {split: [shard for shard in shards if shard.split == split] for split in ("val", "train")}
    if not (building / "tokenizer.json").exists():
        content = train_tokenizer(_training_texts(by_split["train"], report), scale.vocab_size)
        with _replacing(building / "tokenizer.json") as file:
            file.write(json.dumps(content, indent=0).encode())
    tokenizer = Tokenizer.from_directory(building)
    for split in ("val", "train"):
        for index, shard in enumerate(by_split[split]):
            path = building / f"{split}_{index:05d}.tokens.npy"
            if not offsets_path(path).exists():
                write_tokens(shard, tokenizer, path, report)
        if split == "val":
            try:
                validation_rows(building, scale.max_seq_len, scale.eval_tokens)
            except TooFewTokens as error:
                raise DataError(
                    f"{source} is too small for the profile {profile}: {error}",
                    hint=_more_text(building, scale) + ("" if profile == "cpu" else ", or `--profile cpu`"),
                ) from None
    request = {"source": source, "num_shards": num_shards, "profile": profile}
    return finish(building, tokenizer, request, sum(shard.copies() for shard in by_split["train"]))


def _more_text(building: Path, scale: Profile) -> str:
    share = _usable(building, "val", scale.max_seq_len)
    if share >= LEAST_USABLE:
        return "pass more text"
    return f"split long documents, of which only the first {scale.max_seq_len} tokens are used, or pass more text"


def _usable(directory: Path, split: dataset.Split, max_seq_len: int) -> float:
    """Return the fraction of a split's tokens that rows can hold: of a document, a row takes the start alone."""
    lengths = np.concatenate([np.diff(np.load(path)) for path in sorted(directory.glob(f"{split}_*.offsets.npy"))])
    return float(np.minimum(lengths, max_seq_len + 1).sum() / lengths.sum())


def finish(building: Path, tokenizer: Tokenizer, request: dict[str, Any], copies: int) -> dict[str, Any]:
    """Write snapshot.json and move the finished snapshot to its place.

    Args:
        copies: documents that were left out of training, because validation has the same text.

    Returns:
        The record.
    """
    scale = PROFILES[request["profile"]]
    files: dict[str, dict[str, Any]] = {}
    for path in sorted([*building.glob("*.npy"), building / "tokenizer.json"]):
        with path.open("rb") as file:
            files[path.name] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in ("train", "val")}
    for path in building.glob("*.tokens.npy"):
        tokens = np.load(path, mmap_mode="r")
        count = counts[path.name.split("_")[0]]
        count["documents"] += len(np.load(offsets_path(path), mmap_mode="r")) - 1
        count["tokens"] += len(tokens)
        count["bytes"] += sum(
            int(tokenizer.token_bytes[tokens[begin : begin + 2**24]].sum()) for begin in range(0, len(tokens), 2**24)
        )
    counts["train"]["copies"] = copies
    usable = _usable(building, "train", scale.max_seq_len)
    content = {
        "schema": SCHEMA,
        "profile": request["profile"],
        "MAX_SEQ_LEN": scale.max_seq_len,
        "VOCAB_SIZE": scale.vocab_size,
        "EVAL_TOKENS": scale.eval_tokens,
        "files": files,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    record = {
        "id": digest,
        **content,
        "source": request["source"],
        "request": request,
        "counts": counts,
        "usable": usable,  # fraction of the training tokens that rows can hold
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        # Documents of the source's holdout are in no split. Earlier versions did not leave them out.
        "reserves_holdout": True,
    }
    with _replacing(building / "snapshot.json") as file:
        file.write(json.dumps(record, indent=2).encode())
    target = CACHE_DIR / "snapshots" / digest[:12]
    target.parent.mkdir(exist_ok=True)
    # Before the move: if killed in between, the next call finds everything here and only has to move it.
    _remember(building.name.partition("-")[0], digest)
    if _whole_record(target):  # another request produced the same content
        shutil.rmtree(building)
    else:
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    return record


def make_holdout(record: dict[str, Any], report: Report) -> dict[str, Any] | None:
    """Make the holdout of a snapshot, or return the one that it has: the content of holdout.json; None if it has none.

    It is made of documents that the source reserves, or else of validation documents that the metric does not use.
    """
    if found := holdout.made(record["id"]):
        return found
    try:
        reserved = _reserved(record, report) if record.get("reserves_holdout") else None
        if reserved is not None and (found := holdout.make(record, *reserved)):
            return found
    except DataError as error:
        say(f"holdout: {error}; using {holdout.REST}")
    return holdout.make(record, holdout.REST, holdout.rest(record["id"]))


def _reserved(record: dict[str, Any], report: Report) -> tuple[str, Iterator[Array]] | None:
    """Return how a source's own holdout is chosen, and the tokens of its documents; None if it has none."""
    request = record["request"]
    found = dataset.holdout(request["source"], request["num_shards"], CACHE_DIR / "shards", report)
    if found is None:
        return None
    rule, shards = found
    tokenizer = Tokenizer.from_directory(CACHE_DIR / "snapshots" / record["id"][:12])
    texts = itertools.chain.from_iterable(shard.documents() for shard in shards)
    batches = iter(lambda: list(itertools.islice(texts, 256)), [])
    encoded = itertools.chain.from_iterable(map(tokenizer.encode, batches))
    return rule, (np.array([tokenizer.bos_token_id, *ids]) for ids in encoded)


def _remember(key: str, digest: str) -> None:
    (CACHE_DIR / "requests").mkdir(exist_ok=True)
    with _replacing(CACHE_DIR / "requests" / key) as file:
        file.write(digest[:12].encode())


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def display() -> Iterator[Report]:
    """Show progress on stderr: bars on a terminal, otherwise one line for each finished step."""
    if not sys.stderr.isatty():
        yield lambda step, done, total: say(f"{step}: {done:,}") if done == total else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int | None) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total)
            progress.update(bars[step], completed=done, total=total)
            if done == total:
                progress.remove_task(bars.pop(step))
                progress.console.print(f"{step}: {done:,}")

        yield report


def answer(source: str, num_shards: int | None, profile: str) -> str | None:
    """Return the summary of a request whose snapshot is current and complete, so that nothing is to be written.

    Returns:
        None if there may be something to do. Whether there is, `make_current` finds out, under a lock.
    """
    try:
        request, record = _wanted(source, num_shards, profile)
        current = current_folder(CACHE_DIR).name
    except (DataError, OSError):
        return None
    if record is None or record["id"][:12] != current or not (apart := holdout.made(record["id"])):
        return None
    first = sources.request_in(record)
    request, record = _resolved(request, record)
    # A cache of an earlier version, which cannot be completed, is read as it is.
    as_ever = first == request and sources.latest(current) is None and not os.access(CACHE_DIR, os.W_OK)
    if not (as_ever or sources.is_recorded(current, request)):
        return None
    return _summary(record, apart, found=True, fresh=False)


def make_current(source: str, num_shards: int | None, profile: str, workers: int) -> str:
    """Make the requested snapshot current, preparing it if needed. What is not chosen stays as it was prepared last.

    Returns:
        A summary for the user.

    Raises:
        DataError: the source is unavailable, unreadable or too small.
    """
    request, record = _wanted(source, num_shards, profile)
    found = record is not None
    if record is None:
        if source == "auto" and request.source != "auto":
            say(f"source {request.source}: it was prepared last")
        request, record = _prepare(request, workers)
    request, record = _resolved(request, record)
    name = record["id"][:12]
    sources.add(name, request)
    with _replacing(CACHE_DIR / "current") as file:
        file.write(name.encode())
    fresh = holdout.made(record["id"]) is None
    with display() as report:
        apart = make_holdout(record, report)
    return _summary(record, apart, found=found, fresh=fresh)


def _wanted(source: str, num_shards: int | None, profile: str) -> tuple[Request, dict[str, Any] | None]:
    """Return the request of the flags, and the record of its snapshot if it is prepared.

    Raises:
        DataError: the source is missing, or nothing tells what was prepared last.
    """
    if source not in ("auto", *sources.NAMED):
        source = os.path.realpath(os.path.expanduser(source))  # noqa: PTH111
    last = _last() if source == "auto" else None
    if last is None:
        return Request(source, num_shards, profile), prepared(request_key(source, num_shards, profile))
    before, record = last
    request = replace(
        before,
        num_shards=before.num_shards if num_shards is None else num_shards,
        profile=before.profile if profile == "auto" else profile,
    )
    if record and request == before:
        return request, record
    sources.require(request.source)
    return request, prepared(request_key(**asdict(request)))


def _last() -> tuple[Request, dict[str, Any] | None] | None:
    """Return the request of the current snapshot, and its record if it is whole; None if none was prepared.

    Raises:
        DataError: the snapshot is damaged, and nothing tells its source.
    """
    try:
        folder = current_folder(CACHE_DIR)
    except FileNotFoundError:
        return None
    request = sources.latest(folder.name) or sources.request_in(_read(folder)) or _guessed(folder.name)
    if request is None:
        raise DataError(
            f"the current snapshot {folder.name} is missing or damaged, and its source is not recorded",
            hint="choose it again with `uv run prepare.py --source SOURCE`",
        )
    return request, _whole_record(folder)


def _guessed(name: str) -> Request | None:
    """Return the request without a folder or a number of shards that led to a snapshot; None if there was none.

    Earlier versions recorded requests in the snapshot only, which may be deleted.
    """
    for source, profile in itertools.product(sources.NAMED, PROFILES):
        with suppress(OSError, DataError):
            if (CACHE_DIR / "requests" / request_key(source, None, profile)).read_bytes() == name.encode():
                return Request(source, None, profile)
    return None


def _prepare(request: Request, workers: int) -> tuple[Request, dict[str, Any]]:
    """Prepare a request after resolving it. Returns the resolved one, and the snapshot's record."""
    source, profile = dataset.resolve(request.source), request.profile
    if request.source == "auto":
        reached = "AUTORESEARCH_DATA_URL names a mirror" if named_mirror() else "its host is reachable"
        reason = reached if source == "climbmix" else "the host of climbmix is unreachable"
        say(f"source {source}: {reason}")
    if profile == "auto":
        import mlx.core as mx

        # The embedded text is too short for the metric of the larger profile.
        large = source != "embedded" and (mx.metal.is_available() or mx.cuda.is_available())
        profile = "mac" if large else "cpu"
    record = prepared(request_key(source, request.num_shards, profile))
    if record is None:
        with display() as report:
            record = build(source, request.num_shards, profile, workers, report)
    _remember(request_key(**asdict(request)), record["id"])
    return replace(request, source=source, profile=profile), record


def _resolved(request: Request, record: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """Return a request and the record of its snapshot, which may name another source that had the same content."""
    source = record["source"] if request.source == "auto" else request.source
    request = replace(request, source=source, profile=record["profile"])
    return request, {**record, "source": source, "request": asdict(request)}


def _summary(record: dict[str, Any], apart: dict[str, Any] | None, *, found: bool, fresh: bool) -> str:
    """Return what to tell the user.

    Args:
        apart: the holdout; None if there is none.
        found: whether the snapshot was prepared before.
        fresh: whether the holdout was not.
    """
    name = record["id"][:12]
    where = f"{name} in {CACHE_DIR / 'snapshots' / name}"
    said = f"{apart['EVAL_TOKENS']:,} tokens, {apart['rule']}" if apart else "none: the source is too small for one"
    if found:
        line = f"already prepared: {record['source']}, profile {record['profile']}, snapshot {where}"
        return f"{line}\nholdout: {said}" if fresh else line
    train, val = record["counts"]["train"], record["counts"]["val"]
    left_out = train.get("copies", 0)
    cut = f"of a document, only the first {record['MAX_SEQ_LEN']:,} tokens are used: split long ones"
    usable = record.get("usable", 1.0)
    copies = [f"copies:      {left_out:,} left out of training, because validation has the same text"] * (left_out > 0)
    return "\n".join(
        [
            f"source:      {record['source']}",
            f"profile:     {record['profile']}",
            f"documents:   {train['documents']:,} for training, {val['documents']:,} for validation",
            *copies,
            f"tokens:      {train['tokens']:,} for training, {val['tokens']:,} for validation",
            *([f"usable:      {usable:.0%} of the training tokens, {cut}"] * (usable < LEAST_USABLE)),
            f"bytes/token: {train['bytes'] / train['tokens']:.2f}",
            f"holdout:     {said}",
            f"snapshot:    {where}",
        ]
    )
