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
import secrets
import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
import numpy.typing as npt
import tiktoken

import blas

blas.load()  # before MLX is imported, or MLX has bound its own slow one
import mlx.core as mx  # noqa: E402

import witness  # noqa: E402

if TYPE_CHECKING:
    from sources import Split

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

# Documents that packing chooses from. With more no less is cropped, and the longest wait longer for their turn.
PACKING_DOCUMENTS = 64
PREFETCHED_BATCHES = 4
PROBED_ROWS = 8  # on which it is tested that a model is not fooling the metric
SURPRISE = 3.0  # nats by which the loss may rise where a row goes on as another one does; 0.1 to 0.4 is usual
MOST_LEARNT = 0.02  # nats by which the loss on the same rows may fall during the evaluation
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
    batches = _work_ahead(_batches(pack_rows(snapshot.directory, split, seq_len + 1, seed), batch_size))
    return witness.timed(batches) if split == "train" else batches


def pack_rows(directory: Path, split: "Split", row_length: int, seed: int = 0) -> Iterator[tuple[Array, int]]:
    """Endless (row, epoch): int32 (row_length,), and how often the documents have been gone through, from 1.

    Best fit: a row takes the longest of the waiting documents that fits whole into what is left of it. Where none
    fits, the shortest is cropped and its rest dropped, so that there is no padding.
    """
    shards = [
        (np.asarray(np.load(path, mmap_mode="r")), np.load(offsets_path(path)))
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
    section 3.1). `model` maps int32 (rows, MAX_SEQ_LEN) to logits (rows, MAX_SEQ_LEN, VOCAB_SIZE) and never sees the
    targets. Raises ValueError where the logits have another shape, depend on later tokens, which are the targets, or
    change from one evaluation to the next; under the loop the latter two end the run as void (witness.py).
    """
    if batch_size < 1:
        raise ValueError(f"A batch needs at least one row, not {batch_size}.")
    snapshot = _current_snapshot(CACHE_DIR)
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"The tokenizer is not the one of the snapshot in {snapshot.directory}.")
    with witness.evaluation():
        with witness.reading_validation():
            rows = validation_rows(snapshot.directory, snapshot.max_seq_len, snapshot.eval_tokens)
            lengths = Tokenizer.from_directory(snapshot.directory).token_bytes[rows[:, 1:]]
        row_bytes = snapshot.max_seq_len * snapshot.vocab_size * 4
        step = max(1, min(batch_size, EVAL_LOGITS_BYTES // row_bytes))
        begins = range(0, len(rows), step)
        # Which rows are probed, and when, cannot be told from outside, or a model could behave for those.
        start, probe_at = secrets.randbelow(len(rows)), secrets.choice(begins)
        count = min(step, PROBED_ROWS)
        probe, others = np.split(np.roll(rows, -start, axis=0)[: 2 * count], 2)
        losses = np.empty(lengths.shape)
        for begin in begins:
            if begin == probe_at:
                _require_causal(model, probe, others, snapshot.vocab_size)
            block = rows[begin : begin + step]
            losses[begin : begin + step] = _losses(_logits(model, block, snapshot.vocab_size), block)
        again = _losses(_logits(model, rows[:count], snapshot.vocab_size), rows[:count])
        learnt = losses[:count].mean() - again.mean()
        if learnt > MOST_LEARNT:
            witness.refuse(
                f"the model learns while it is evaluated: on the same text it got better by {learnt:.3f} nats"
            )
        bits = float(losses[lengths > 0].sum()) / (math.log(2) * int(lengths.sum()))
    witness.attest("val_bpb", bits, losses.size, snapshot.directory, snapshot.id)
    return bits


def _logits(model: Callable[[mx.array], mx.array], block: Array, vocab_size: int) -> mx.array:
    """float32 (rows, MAX_SEQ_LEN, VOCAB_SIZE). Raises ValueError where the model gives something else."""
    logits = model(mx.array(block[:, :-1]))
    expected = (len(block), block.shape[1] - 1, vocab_size)
    if type(logits) is not mx.array or logits.shape != expected:
        raise ValueError(f"The model gives {getattr(logits, 'shape', type(logits))}, not logits {expected}.")
    return logits.astype(mx.float32)


def _losses(logits: mx.array, block: Array) -> Array:
    """The cross-entropy of each target in nats, float64 (rows, MAX_SEQ_LEN)."""
    if mx.default_device() != mx.cpu:
        of_targets = mx.take_along_axis(logits, mx.array(block[:, 1:])[..., None], axis=-1)[..., 0]
        return np.asarray(mx.logsumexp(logits, axis=-1) - of_targets, dtype=np.float64)
    # numpy's exp takes a fifth of the time of MLX's on a CPU.
    scores = np.asarray(logits)
    largest = scores.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinite scores give a metric that is no number, which the caller refuses
        totals = np.log(np.exp(scores - largest).sum(axis=-1, keepdims=True)) + largest
    chosen = np.take_along_axis(scores, block[:, 1:, None], axis=-1)
    losses: Array = (totals - chosen)[..., 0].astype(np.float64)
    return losses


def _require_causal(model: Callable[[mx.array], mx.array], rows: Array, others: Array, vocab_size: int) -> None:
    """Refuse a model whose logits depend on later tokens, or that knows how the validation text goes on.

    From some place on, each row goes on as one of the others does: before it nothing may change, and after it the loss
    must be about that of any text.
    """
    seam = rows.shape[1] // 4 + secrets.randbelow(rows.shape[1] // 2)
    spliced = np.concatenate([rows[:, :seam], others[:, seam:]], axis=1)
    real, changed = _logits(model, rows, vocab_size), _logits(model, spliced, vocab_size)
    # Rounding to bfloat16 moves a logit by a 256th of itself; float32 on a CPU repeats itself almost exactly.
    relative, absolute = (1e-3, 1e-2) if mx.default_device() == mx.cpu else (0.02, 0.1)
    if not mx.allclose(real[:, :seam], changed[:, :seam], relative, absolute, equal_nan=True).item():
        witness.refuse(
            "the model's logits depend on later tokens, which are what it should predict (or they are random): they "
            "differ between two texts that are equal up to there"
        )
    usual, surprised = float(_losses(real, rows).mean()), float(_losses(changed, spliced)[:, seam:].mean())
    if surprised - usual > SURPRISE:
        witness.refuse(
            f"the model knows the validation text: its loss is {usual:.2f} nats, and {surprised:.2f} where that text "
            "goes on in another way"
        )


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


if _attested := os.environ.get("AUTORESEARCH_ATTEST"):  # a loop wants the harness's own word: agent/attest.py
    witness.watch(
        _attested,
        sys.modules[__name__],
        _current_snapshot(CACHE_DIR).directory.glob("val_*"),
        float(os.environ.get("AUTORESEARCH_LONGEST_TRAINING") or math.inf),
    )

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
