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
import itertools
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
import numpy.typing as npt
import tiktoken

import blas
import handover

blas.load()  # before MLX is imported, or MLX has bound its own slow one
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

if TYPE_CHECKING:
    from sources import Split

Array = npt.NDArray[Any]
Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]
# length in tokens, shard, first token in the shard
Document = tuple[int, int, int]
Shards = list[tuple[Array, npt.NDArray[np.int64]]]

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

# Documents that packing chooses from. With more no less is cropped, and the longest wait longer for their turn.
PACKING_DOCUMENTS = 64
PREFETCHED_BATCHES = 4
EVAL_LOGITS_BYTES = 256 * 2**20  # the most that the float32 logits of one forward pass of the evaluation take


def fail(sentence: str, code: int = 3) -> NoReturn:
    """End the program with a sentence on stderr; 2 is wrong usage, 3 something missing that a person can mend."""
    print(sentence, file=sys.stderr)
    raise SystemExit(code)


def _cache_folder() -> Path:
    try:
        return Path(os.environ.get("AUTORESEARCH_CACHE") or "~/.cache/autoresearch").expanduser()
    except RuntimeError:
        fail("This user has no home folder: name a folder for the data with AUTORESEARCH_CACHE.")


def _time_budget() -> float:
    given = os.environ.get("AUTORESEARCH_TRAINING_SECONDS", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        fail(f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, not {given!r}.", code=2)
    return seconds


CACHE_DIR = _cache_folder()
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
    address = handover.at_work()
    if address and split == "val":
        raise ValueError("The validation text is for the evaluator alone: a run trains, and hands its model over.")

    def rows() -> Iterator[tuple[Array, int]]:
        # Not before the first batch is asked for: the training text comes when its clock begins.
        shards = _opened(handover.training_files(address)) if address else _shards(snapshot.directory, split)
        yield from _pack(shards, seed if split == "train" else None, seq_len + 1)

    return _work_ahead(_batches(rows(), batch_size))


def pack_rows(directory: Path, split: "Split", row_length: int, seed: int = 0) -> Iterator[tuple[Array, int]]:
    """Endless (row, epoch): int32 (row_length,), and how often the documents have been gone through, from 1.

    Best fit: a row takes the longest of the waiting documents that fits whole into what is left of it. Where none
    fits, the shortest is cropped and its rest dropped, so that there is no padding.
    """
    return _pack(_shards(directory, split), seed if split == "train" else None, row_length)


def _shards(directory: Path, split: "Split") -> Shards:
    """Tokens and the offsets of the documents in them, of each shard of a snapshot."""
    paths = sorted(directory.glob(f"{split}_*.tokens.npy"))
    return [(np.asarray(np.load(path, mmap_mode="r")), np.load(offsets_path(path))) for path in paths]


def training_tokens(directory: Path, number: int) -> Array:
    """About `number` tokens of the training text, a part of each shard."""
    shards = _shards(directory, "train")
    return np.concatenate([tokens[: max(1, number // len(shards))] for tokens, _ in shards])


def _opened(files: Mapping[str, int]) -> Shards:
    """The same of files that are open under these descriptors, which this closes."""
    found = {}
    for name, descriptor in files.items():
        with os.fdopen(descriptor, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            found[name] = np.memmap(file, dtype=kind, mode="r", offset=file.tell(), shape=shape)
    paths = [name for name in sorted(found) if ".tokens." in name]
    return [(np.asarray(found[name]), np.array(found[offsets_path(Path(name)).name])) for name in paths]


def _pack(shards: Shards, seed: int | None, row_length: int) -> Iterator[tuple[Array, int]]:
    tokens = [content for content, _ in shards]
    documents = _documents([offsets for _, offsets in shards], seed)
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


def offsets_path(tokens_path: Path) -> Path:
    return tokens_path.with_name(tokens_path.name.replace(".tokens.", ".offsets."))


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
    section 3.1). `model` maps int32 (rows, MAX_SEQ_LEN) to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE). It is traced, and
    the graph computed in another process, evaluator.py, which a loop has started, or else this function: that process
    runs none of the model's Python. A model with an `eval` method is put into that mode before.

    Raises ValueError where the logits have another shape, where the model cannot be traced, with the line at which that
    fails, where its predictions depend on later tokens, and where a run has had its one evaluation.
    """
    if batch_size < 1:
        raise ValueError(f"A batch needs at least one row, not {batch_size}.")
    snapshot = _current_snapshot(CACHE_DIR)
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"The tokenizer is not the one of the snapshot in {snapshot.directory}.")
    row_bytes = snapshot.max_seq_len * snapshot.vocab_size * 4
    rows = max(1, min(batch_size, EVAL_LOGITS_BYTES // row_bytes, snapshot.eval_tokens // snapshot.max_seq_len))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.mlxfn"
        try:
            _trace(model, (rows, snapshot.max_seq_len), snapshot.vocab_size, graph)
        except Untraceable:
            if os.environ.get(handover.UNTRACED_VARIABLE) != "1":
                raise
            return _evaluate_here(model, rows)
        with _evaluator() as address:
            answer, _ = handover.ask(address, {"ask": "model", "rows": rows}, graph)
    return float(answer["metric"])


class Untraceable(ValueError):
    """The model's forward pass is more than a graph of MLX."""


def _trace(model: Callable[[mx.array], mx.array], shape: tuple[int, int], vocab_size: int, graph: Path) -> None:
    """Write the forward pass for tokens of this shape to `graph`. Raises Untraceable, and WrongShape."""
    if isinstance(model, nn.Module):
        model.eval()
        mx.eval(model.parameters())  # or the graph would hold how they came about

    def logits(tokens: mx.array) -> mx.array:
        given = model(tokens)
        expected = (*shape, vocab_size)
        if type(given) is not mx.array or given.shape != expected:
            raise WrongShape(f"The model gives {getattr(given, 'shape', type(given))}, not logits {expected}.")
        return given.astype(mx.float32)

    try:
        mx.export_function(str(graph), logits, mx.zeros(shape, mx.int32))
    except WrongShape:
        raise
    except Exception as error:
        raise Untraceable(
            f"The model cannot be traced{_line_of(error)}: {' '.join(str(error).split())[:200]}. Its forward pass has "
            "to be MLX alone, without numpy, mx.eval and mx.checkpoint."
        ) from None


class WrongShape(ValueError):
    """The model gives something else than logits."""


def _line_of(error: BaseException) -> str:
    """Where in the person's code an exception came from."""
    here = Path(__file__).resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() != here]
    own = [frame for frame in frames if not {"site-packages", "dist-packages"} & {*Path(frame.filename).parts}]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""


@contextmanager
def _evaluator() -> Iterator[Path]:
    """The socket of the evaluator: the loop's, or that of one which is started for the time of the block."""
    if given := handover.at_work():
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "socket"
        command = [sys.executable, str(Path(__file__).with_name("evaluator.py")), str(address)]
        snapshot = _current_snapshot(CACHE_DIR).directory.name
        env = {**os.environ, "AUTORESEARCH_CACHE": str(CACHE_DIR), "AUTORESEARCH_SNAPSHOT": snapshot}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdout.readline()  # that it is ready
                yield address
            finally:
                process.stdin.close()


def _evaluate_here(model: Callable[[mx.array], mx.array], rows: int) -> float:
    """The metric of a model that cannot be traced, computed by its own process: nothing vouches for it."""
    import scoring

    if address := handover.at_work():
        answer, files = handover.ask(address, {"ask": "rows"})
        shards = _opened(dict(zip(answer["names"], files, strict=True)))
    else:
        shards = _shards(_current_snapshot(CACHE_DIR).directory, "val")
    snapshot = _current_snapshot(CACHE_DIR)
    text = _rows_of(shards, snapshot.max_seq_len, snapshot.eval_tokens)
    lengths = Tokenizer.from_directory().token_bytes[text[:, 1:]]
    total = 0.0
    for begin in range(0, len(text), rows):
        block = text[begin : begin + rows]
        logits = np.asarray(model(mx.array(block[:, :-1])).astype(mx.float32))
        total += float(scoring.losses_of(logits, block[:, 1:])[lengths[begin : begin + rows] > 0].sum())
    return total / (math.log(2) * int(lengths.sum()))


class TooFewTokens(ValueError):
    """The validation split is too small for the metric."""


def validation_rows(directory: Path, max_seq_len: int, eval_tokens: int) -> Array:
    """The rows of the metric, int32 (eval_tokens // max_seq_len, max_seq_len + 1).

    Raises TooFewTokens where the validation documents do not give as many without repeating one.
    """
    return _rows_of(_shards(directory, "val"), max_seq_len, eval_tokens)


def _rows_of(shards: Shards, max_seq_len: int, eval_tokens: int) -> Array:
    count = eval_tokens // max_seq_len
    packed = list(itertools.islice(_pack(shards, None, max_seq_len + 1), count))
    # The epoch advances when the next document to wait for its turn is a repeated one.
    if packed[-1][1] > 1:
        whole = sum(epoch == 1 for _, epoch in packed)
        raise TooFewTokens(
            f"the validation documents give {whole} rows of {max_seq_len} tokens, the metric needs {count}"
        )
    return np.stack([row for row, _ in packed])


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def main() -> None:
    import filelock

    import snapshots
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
            snapshots.say(f"Another prepare.py is at work in {CACHE_DIR}: waiting for it.")
            lock.acquire()
        with lock:
            print(snapshots.make_current(options.source, options.num_shards, options.profile, options.download_workers))
    except DataError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or CACHE_DIR}. What was done is kept: run it again to go on.")
    except KeyboardInterrupt:
        fail("Interrupted. What was done is kept: run it again to go on.", code=130)


if __name__ == "__main__":
    main()
