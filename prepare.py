"""The harness: data, tokenizer, loader and the metric. It is what every experiment is measured with and never edited.

Run it once to prepare the data:  uv run prepare.py [--source auto|climbmix|tinystories|embedded|DIR]
train.py imports the rest:        from prepare import MAX_SEQ_LEN, Tokenizer, make_dataloader, evaluate_bpb

Everything lies under CACHE_DIR (docs/data.md):
    shards/<source>/     downloads, kept
    building/<request>/  a preparation under way; a killed one goes on from here
    requests/<request>   which snapshot answers a request, so that asking again takes no time
    snapshots/<id>/      prepared data, named by its content and never changed
    current              the id of the snapshot in use
"""

import argparse
import base64
import functools
import hashlib
import itertools
import json
import math
import os
import queue
import shutil
import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, overload

import numpy as np
import numpy.typing as npt
import tiktoken

import blas

blas.load()  # before MLX is imported, or MLX has bound its own slow one
import mlx.core as mx  # noqa: E402

if TYPE_CHECKING:
    from rich.progress import TaskID

    from sources import Report, Shard, Split

Array = npt.NDArray[Any]
Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]
# length in tokens, shard, first token in the shard
Document = tuple[int, int, int]

# ----------------------------------------------------------------------------------------------------------------------
# Constants


@dataclass(frozen=True)
class Profile:
    """The scale of the task: tokens in a row, size of the vocabulary, tokens that the metric is taken over."""

    max_seq_len: int
    vocab_size: int
    eval_tokens: int  # whole rows


PROFILES = {"mac": Profile(2048, 8192, 3 * 2**19), "cpu": Profile(256, 1024, 2**16)}
SCHEMA = 1  # of snapshot.json; a change here or of anything that changes tokens makes every snapshot a new one

# GPT-4's, with numbers cut into at most two digits: three would fill a small vocabulary with numbers.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BOS = "<|bos|>"
SPECIAL_TOKENS = (BOS, "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>")
TOKENIZER_CHARACTERS = 1_000_000_000  # that the vocabulary is trained on
TOKENIZER_DOCUMENT_CHARACTERS = 10_000  # of one document, so that a few long ones do not decide

# Documents that packing chooses from. With more no less is cropped, and the longest wait longer for their turn.
PACKING_DOCUMENTS = 64
PREFETCHED_BATCHES = 4
EVAL_LOGITS_BYTES = 256 * 2**20  # the most that the float32 logits of one forward pass of the evaluation take


def fail(sentence: str, code: int = 3) -> NoReturn:
    """End the program with a sentence on stderr; 2 is wrong usage, 3 something missing that a person can mend."""
    print(sentence, file=sys.stderr)
    raise SystemExit(code)


def _time_budget() -> float:
    given = os.environ.get("AUTORESEARCH_TRAINING_SECONDS", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        fail(f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, not {given!r}.", code=2)
    return seconds


CACHE_DIR = Path(os.environ.get("AUTORESEARCH_CACHE") or "~/.cache/autoresearch").expanduser()
TIME_BUDGET = _time_budget()  # seconds of training, without startup and evaluation

# Those of the current snapshot; __getattr__ looks them up when first used, as this file also runs before there is one.
SNAPSHOT: "Snapshot"
PROFILE: str
MAX_SEQ_LEN: int
VOCAB_SIZE: int
EVAL_TOKENS: int


def __getattr__(name: str) -> Any:
    if name == "SNAPSHOT":
        return _current_snapshot(CACHE_DIR)
    if name in ("PROFILE", "MAX_SEQ_LEN", "VOCAB_SIZE", "EVAL_TOKENS"):
        return getattr(_current_snapshot(CACHE_DIR), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ----------------------------------------------------------------------------------------------------------------------
# Snapshot


@dataclass(frozen=True)
class Snapshot:
    """Prepared data: the files that `directory`/snapshot.json lists, and the constants that go with them."""

    directory: Path
    id: str  # sha256, in hexadecimal; its first 12 digits name the directory
    profile: str
    max_seq_len: int
    vocab_size: int
    eval_tokens: int

    @classmethod
    def load(cls, directory: Path) -> "Snapshot":
        """Raises OSError, ValueError or KeyError where snapshot.json is missing or damaged."""
        record = json.loads((directory / "snapshot.json").read_bytes())
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']}, not {SCHEMA}")
        constants = (record["MAX_SEQ_LEN"], record["VOCAB_SIZE"], record["EVAL_TOKENS"])
        return cls(directory, record["id"], record["profile"], *constants)


@functools.cache  # one process keeps to one snapshot, even if another prepares a new one meanwhile
def _current_snapshot(cache: Path) -> Snapshot:
    try:
        directory = cache / "snapshots" / (cache / "current").read_text().strip()
        return Snapshot.load(directory)
    except FileNotFoundError:
        fail(f"There is no prepared data in {cache}: run `uv run prepare.py`.")
    except (OSError, ValueError, KeyError) as error:
        fail(f"The prepared data in {cache} cannot be used ({error!r}): run `uv run prepare.py`.")


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer


class Tokenizer:
    """Byte-pair encoding as tokenizer.json describes it; every document begins with the token `bos_token_id`.

    token_bytes: int32 (vocab_size,), the bytes of text that each token stands for, 0 for special tokens.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        tokens = [base64.b64decode(token) for token in content["mergeable_ranks"]]
        self._encoding = tiktoken.Encoding(
            "autoresearch",
            pat_str=content["pattern"],
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens=content["special_tokens"],
        )
        self.bos_token_id: int = content["special_tokens"][BOS]
        self.vocab_size = self._encoding.n_vocab
        # A token may be a part of a character. Its own bytes count: as text it would be the three of "\ufffd".
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int32)
        self.token_bytes[: len(tokens)] = [len(token) for token in tokens]

    @classmethod
    def from_directory(cls, path: Path | None = None) -> "Tokenizer":
        """The tokenizer in `path`, by default that of the current snapshot."""
        directory = _current_snapshot(CACHE_DIR).directory if path is None else path
        return cls(json.loads((directory / "tokenizer.json").read_bytes()))

    def get_vocab_size(self) -> int:
        return self.vocab_size

    @overload
    def encode(self, text: str) -> list[int]: ...
    @overload
    def encode(self, text: list[str]) -> list[list[int]]: ...
    def encode(self, text: str | list[str]) -> list[int] | list[list[int]]:
        """Token ids, without BOS; what looks like the name of a special token is ordinary text."""
        if isinstance(text, str):
            return self._encoding.encode_ordinary(text)
        return self._encoding.encode_ordinary_batch(text, num_threads=os.cpu_count() or 1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(ids)


# ----------------------------------------------------------------------------------------------------------------------
# Loader


def make_dataloader(
    tokenizer: Tokenizer, batch_size: int, seq_len: int, split: "Split", seed: int = 0
) -> Generator[Batch, None, None]:
    """Endless (inputs, targets, epoch): int32 arrays (batch_size, seq_len), targets one token later; epochs from 1.

    Every row is full and begins with BOS. The order is fixed: for "train" by the seed, which shuffles the documents
    anew each epoch, for "val" altogether, whatever the batch size. A background thread works ahead until the iterator
    is closed. The arrays are numpy's because MLX's streams belong to a thread.
    """
    snapshot = _current_snapshot(CACHE_DIR)
    if split not in ("train", "val"):
        raise ValueError(f"The split is train or val, not {split!r}.")
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"A batch needs at least one row and one token, not {batch_size} x {seq_len}.")
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"The tokenizer is not the one of the snapshot in {snapshot.directory}.")
    return _work_ahead(_batches(pack_rows(snapshot.directory, split, seq_len + 1, seed), batch_size))


def pack_rows(directory: Path, split: "Split", row_length: int, seed: int = 0) -> Iterator[tuple[Array, int]]:
    """Endless (row, epoch): int32 (row_length,), and how often the documents have been gone through, from 1.

    Best fit: a row takes the longest of the waiting documents that fits whole into what is left of it. Where none
    fits, the shortest is cropped and its rest dropped, so that there is no padding.
    """
    shards = [
        (np.asarray(np.load(path, mmap_mode="r")), np.load(_offsets_path(path)))
        for path in sorted(directory.glob(f"{split}_*.tokens.npy"))
    ]
    tokens = [content for content, _ in shards]
    documents = _documents([offsets for _, offsets in shards], seed if split == "train" else None)
    waiting: list[Document] = []  # sorted, shortest first
    epoch = 1
    while True:
        row = np.empty(row_length, dtype=np.int32)
        filled = 0
        while filled < row_length:
            while len(waiting) < PACKING_DOCUMENTS:
                document, epoch = next(documents)
                insort(waiting, document)
            space = row_length - filled
            fits = bisect_left(waiting, (space + 1, 0, 0))
            length, shard, start = waiting.pop(max(fits - 1, 0))
            taken = min(length, space)
            row[filled : filled + taken] = tokens[shard][start : start + taken]
            filled += taken
        yield row, epoch


def _documents(offsets: list[npt.NDArray[np.int64]], seed: int | None) -> Iterator[tuple[Document, int]]:
    """All documents of all shards for ever, with the epoch; in order where there is no seed. 16 bytes a document."""
    starts = np.concatenate([shard[:-1] for shard in offsets])
    lengths = np.concatenate([np.diff(shard) for shard in offsets])
    first = np.cumsum([0] + [len(shard) - 1 for shard in offsets])
    for epoch in itertools.count(1):
        order = (
            np.arange(len(starts)) if seed is None else np.random.default_rng((seed, epoch)).permutation(len(starts))
        )
        for begin in range(0, len(order), 4096):
            chosen = order[begin : begin + 4096]
            shard = np.searchsorted(first, chosen, side="right") - 1
            documents = zip(lengths[chosen].tolist(), shard.tolist(), starts[chosen].tolist(), strict=True)
            yield from zip(documents, itertools.repeat(epoch))


def _batches(rows: Iterator[tuple[Array, int]], batch_size: int) -> Iterator[Batch]:
    while True:
        taken = list(itertools.islice(rows, batch_size))
        block = np.stack([row for row, _ in taken])
        yield np.ascontiguousarray(block[:, :-1]), np.ascontiguousarray(block[:, 1:]), taken[-1][1]


def _work_ahead(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """The same batches, made in a thread; an exception there is raised here. The thread ends when this is closed."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCHED_BATCHES)
    closed = threading.Event()

    def produce() -> None:
        try:
            for batch in batches:
                ready.put(batch)
                if closed.is_set():
                    return
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=produce, name="loader", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        # The thread may be waiting for room; it finds some now, and looks at `closed` after the one batch it puts.
        with suppress(queue.Empty):
            while True:
                ready.get_nowait()


# ----------------------------------------------------------------------------------------------------------------------
# Metric


def evaluate_bpb(model: Callable[[mx.array], mx.array], tokenizer: Tokenizer, batch_size: int) -> float:
    """Bits per byte on exactly EVAL_TOKENS tokens of the validation split, the same ones whatever the batch size.

    The cross-entropy of every target in nats, over the bytes of text that the targets stand for, over ln 2; special
    tokens stand for none and are left out of both. It is comparable between vocabularies (Gao et al. 2020, The Pile,
    section 3.1). `model` maps int32 (rows, MAX_SEQ_LEN) to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE) and never sees the
    targets. Raises ValueError where the logits have another shape, or depend on later tokens: those are the targets.
    """
    if batch_size < 1:
        raise ValueError(f"A batch needs at least one row, not {batch_size}.")
    snapshot = _current_snapshot(CACHE_DIR)
    rows = validation_rows(snapshot.directory, snapshot.max_seq_len, snapshot.eval_tokens)
    row_bytes = snapshot.max_seq_len * snapshot.vocab_size * 4
    step = max(1, min(batch_size, EVAL_LOGITS_BYTES // row_bytes))
    _check_causal(model, rows[:1, :-1], tokenizer.bos_token_id)
    nats, text_bytes = 0.0, 0
    for begin in range(0, len(rows), step):
        block = rows[begin : begin + step]
        inputs, targets = mx.array(block[:, :-1]), mx.array(block[:, 1:])
        logits = model(inputs).astype(mx.float32)
        if logits.shape != (*inputs.shape, snapshot.vocab_size):
            raise ValueError(f"The model gives logits {logits.shape}, not {(*inputs.shape, snapshot.vocab_size)}.")
        chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = np.asarray(mx.logsumexp(logits, axis=-1) - chosen, dtype=np.float64)
        lengths = tokenizer.token_bytes[block[:, 1:]]
        nats += float(losses[lengths > 0].sum())
        text_bytes += int(lengths.sum())
    return nats / (math.log(2) * text_bytes)


def _check_causal(model: Callable[[mx.array], mx.array], row: Array, other_token: int) -> None:
    """Raises ValueError where the logits of the first half of a row change with the tokens of the second half."""
    half = row.shape[1] // 2
    changed = row.copy()
    changed[:, half:] = other_token
    logits, again = (model(mx.array(tokens))[:, :half].astype(mx.float32) for tokens in (row, changed))
    # Rounding to bfloat16 moves a logit by a 256th of itself; seeing the targets moves many by more than 1.
    if not mx.allclose(logits, again, rtol=0.02, atol=0.1, equal_nan=True).item():
        raise ValueError("The model's logits depend on later tokens, which are what it should predict.")


class TooFewTokens(ValueError):
    """The validation split is too small for the metric."""


def validation_rows(directory: Path, max_seq_len: int, eval_tokens: int) -> Array:
    """The rows of the metric, int32 (eval_tokens // max_seq_len, max_seq_len + 1).

    Raises TooFewTokens where the validation documents do not give as many without repeating one.
    """
    count = eval_tokens // max_seq_len
    packed = list(itertools.islice(pack_rows(directory, "val", max_seq_len + 1), count))
    # The epoch advances when the next document to wait for its turn is a repeated one.
    if packed[-1][1] > 1:
        whole = sum(epoch == 1 for _, epoch in packed)
        raise TooFewTokens(
            f"the validation documents give {whole} rows of {max_seq_len} tokens, the metric needs {count}"
        )
    return np.stack([row for row, _ in packed])


# ----------------------------------------------------------------------------------------------------------------------
# Preparation

# Scripts, combining marks, joined emoji, line ends, runs of spaces and digits, bytes that no training text has.
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
    """The content of a tokenizer.json. Raises DataError where the text is too small or a round trip fails."""
    import rustbpe

    from sources import DataError

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    tokens = [token for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])]
    if len(tokens) + len(SPECIAL_TOKENS) < vocab_size:
        raise DataError(
            f"The text is too small for a vocabulary of {vocab_size}: it gives {len(tokens)} tokens. Give more text."
        )
    content = {
        "pattern": SPLIT_PATTERN,
        "special_tokens": {name: len(tokens) + index for index, name in enumerate(SPECIAL_TOKENS)},
        "mergeable_ranks": [base64.b64encode(token).decode() for token in tokens],
    }
    tokenizer = Tokenizer(content)
    for text in ROUND_TRIP:
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise DataError(f"The trained tokenizer does not give {text!r} back: report this with your data source.")
    return content


def _training_texts(shards: list["Shard"], report: "Report") -> Iterator[str]:
    characters = 0
    for index, text in enumerate(itertools.chain.from_iterable(shard.documents() for shard in shards)):
        yield text[:TOKENIZER_DOCUMENT_CHARACTERS]
        characters += min(len(text), TOKENIZER_DOCUMENT_CHARACTERS)
        if characters >= TOKENIZER_CHARACTERS:
            break
        if index % 1024 == 0:
            report("train tokenizer", characters, None)
    report("train tokenizer", characters, characters)


def write_tokens(shard: "Shard", tokenizer: Tokenizer, path: Path, report: "Report") -> None:
    """Write the shard's tokens to `path` and, last, the documents' bounds beside it; a few documents are in memory.

    Raises DataError where there are no documents.
    """
    from sources import DataError

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
            raise DataError(f"{shard.name} holds no text: remove it, or give another --source.")
        _write_header(file, dtype, sum(lengths))
    with _replacing(_offsets_path(path)) as file:
        np.save(file, np.cumsum([0, *lengths], dtype=np.int64))
    report(f"tokenize {shard.name}", len(lengths), len(lengths))


def _write_header(file: BinaryIO, dtype: np.dtype[Any], length: int) -> None:
    """The .npy header at the start of the file. numpy pads it so that one for another length has the same size."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": (length,)})


def _offsets_path(tokens_path: Path) -> Path:
    return tokens_path.with_name(tokens_path.name.replace(".tokens.", ".offsets."))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when it is complete and on disk; before that there is none of that name."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def request_key(source: str, num_shards: int | None, profile: str) -> str:
    """Names a request: equal keys would give equal snapshots, as far as can be told without reading the documents."""
    import sources

    constants = {name: asdict(scale) for name, scale in PROFILES.items()}
    request = [SCHEMA, source, sources.identity(source), num_shards, profile, constants]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]


def prepared(key: str) -> dict[str, Any] | None:
    """The record of the snapshot that answers a request, None where there is none that is whole."""
    try:
        directory = CACHE_DIR / "snapshots" / (CACHE_DIR / "requests" / key).read_text()
    except FileNotFoundError:
        return None
    return _whole_record(directory)


def _whole_record(directory: Path) -> dict[str, Any] | None:
    """The content of snapshot.json if every file that it lists is there with its size."""
    try:
        record: dict[str, Any] = json.loads((directory / "snapshot.json").read_bytes())
        whole = all((directory / name).stat().st_size == file["bytes"] for name, file in record["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return record if whole else None


def build(source: str, num_shards: int | None, profile: str, workers: int, report: "Report") -> dict[str, Any]:
    """Prepare a resolved source; what an earlier, killed call finished is used. Returns the snapshot's record.

    Raises DataError.
    """
    import sources

    key = request_key(source, num_shards, profile)
    scale = PROFILES[profile]
    building = CACHE_DIR / "building" / key
    building.mkdir(parents=True, exist_ok=True)
    shards = sources.shards(source, num_shards, CACHE_DIR / "shards", workers, report)
    by_split = {split: [shard for shard in shards if shard.split == split] for split in ("val", "train")}
    if not (building / "tokenizer.json").exists():
        content = train_tokenizer(_training_texts(by_split["train"], report), scale.vocab_size)
        with _replacing(building / "tokenizer.json") as file:
            file.write(json.dumps(content, indent=0).encode())
    tokenizer = Tokenizer.from_directory(building)
    for split in ("val", "train"):
        for index, shard in enumerate(by_split[split]):
            path = building / f"{split}_{index:05d}.tokens.npy"
            if not _offsets_path(path).exists():
                write_tokens(shard, tokenizer, path, report)
        if split == "val":
            try:
                validation_rows(building, scale.max_seq_len, scale.eval_tokens)
            except TooFewTokens as error:
                raise sources.DataError(
                    f"{source} is too small for the profile {profile}: {error}. Give more text, or --profile cpu."
                ) from None
    request = {"source": source, "num_shards": num_shards, "profile": profile}
    return finish(building, tokenizer, request, scale)


def finish(building: Path, tokenizer: Tokenizer, request: dict[str, Any], scale: Profile) -> dict[str, Any]:
    """Describe what was built in snapshot.json and move it among the snapshots. Returns the record."""
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
        count["documents"] += len(np.load(_offsets_path(path), mmap_mode="r")) - 1
        count["tokens"] += len(tokens)
        count["bytes"] += sum(
            int(tokenizer.token_bytes[tokens[begin : begin + 2**24]].sum()) for begin in range(0, len(tokens), 2**24)
        )
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
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with _replacing(building / "snapshot.json") as file:
        file.write(json.dumps(record, indent=2).encode())
    target = CACHE_DIR / "snapshots" / digest[:12]
    target.parent.mkdir(exist_ok=True)
    # Before the move: killed in between, the next call finds everything here and only has to move it.
    _remember(building.name, digest)
    if _whole_record(target):  # another request gave the same content
        shutil.rmtree(building)
    else:
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    return record


def _remember(key: str, digest: str) -> None:
    (CACHE_DIR / "requests").mkdir(exist_ok=True)
    with _replacing(CACHE_DIR / "requests" / key) as file:
        file.write(digest[:12].encode())


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def display() -> Iterator["Report"]:
    """Shows progress on stderr: bars where it is a terminal, otherwise one line for every step that is done."""
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


def run(source: str, num_shards: int | None, profile: str, workers: int) -> str:
    """Make the requested snapshot current, preparing it where needed. Returns what to tell. Raises DataError."""
    import sources

    if source not in ("auto", "climbmix", "tinystories", "embedded"):
        source = str(Path(source).expanduser().resolve())
    asked = request_key(source, num_shards, profile)
    record = prepared(asked)
    found = record is not None
    if record is None:
        resolved = sources.resolve(source)
        if source == "auto":
            reason = "its host answers" if resolved == "climbmix" else "the host of climbmix does not answer"
            say(f"Source {resolved}: {reason}.")
        if profile == "auto":
            # The embedded text is too short for the metric of the larger profile.
            large = resolved != "embedded" and (mx.metal.is_available() or mx.cuda.is_available())
            profile = "mac" if large else "cpu"
        record = prepared(request_key(resolved, num_shards, profile))
        if record is None:
            with display() as report:
                record = build(resolved, num_shards, profile, workers, report)
        _remember(asked, record["id"])
    name = record["id"][:12]
    with _replacing(CACHE_DIR / "current") as file:
        file.write(name.encode())
    where = f"{name} in {CACHE_DIR / 'snapshots' / name}"
    if found:
        return f"already prepared: {record['source']}, profile {record['profile']}, snapshot {where}"
    train, val = record["counts"]["train"], record["counts"]["val"]
    return "\n".join(
        [
            f"source:      {record['source']}",
            f"profile:     {record['profile']}",
            f"documents:   {train['documents']:,} for training, {val['documents']:,} for validation",
            f"tokens:      {train['tokens']:,} for training, {val['tokens']:,} for validation",
            f"bytes/token: {train['bytes'] / train['tokens']:.2f}",
            f"snapshot:    {where}",
        ]
    )


def main() -> None:
    import filelock

    from sources import DataError

    parser = argparse.ArgumentParser(description="Prepare the data and the tokenizer that experiments are measured on.")
    parser.add_argument(
        "--source", default="auto", help="auto, climbmix, tinystories, embedded or a directory of parquet files"
    )
    parser.add_argument(
        "--num-shards", type=int, help="training shards, -1 for all (default: 10 to download, all in a directory)"
    )
    parser.add_argument("--profile", default="auto", choices=("auto", *PROFILES), help="the scale of the task")
    parser.add_argument("--download-workers", type=int, default=8, help="downloads at a time")
    options = parser.parse_args()
    if options.num_shards is not None and options.num_shards != -1 and options.num_shards < 1:
        parser.error("--num-shards must be at least 1, or -1 for all")
    if options.download_workers < 1:
        parser.error("--download-workers must be at least 1")
    try:
        CACHE_DIR.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(CACHE_DIR / "prepare.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"Another prepare.py is at work in {CACHE_DIR}: waiting for it.")
            lock.acquire()
        with lock:
            print(run(options.source, options.num_shards, options.profile, options.download_workers))
    except DataError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or CACHE_DIR}. What was done is kept: run it again to go on.")
    except KeyboardInterrupt:
        fail("Interrupted. What was done is kept: run it again to go on.", code=130)


if __name__ == "__main__":
    main()
