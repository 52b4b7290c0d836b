"""The loader: token shards packed into full rows, and rows into batches that a thread makes ahead."""

import itertools
import os
import queue
import threading
from bisect import bisect_left, insort
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness import handover
from harness.prepared import current_snapshot
from harness.tokenizer import Tokenizer

if TYPE_CHECKING:
    from harness.dataset import Split

Array = npt.NDArray[Any]
Batch = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]
# length in tokens, shard, first token in the shard
Document = tuple[int, int, int]
Shards = list[tuple[Array, npt.NDArray[np.int64]]]

# Documents that packing chooses from. With more no less is cropped, and the longest wait longer for their turn.
PACKING_DOCUMENTS = 64
PREFETCHED_BATCHES = 4


def make_dataloader(
    tokenizer: Tokenizer, batch_size: int, seq_len: int, split: "Split", seed: int = 0
) -> Generator[Batch, None, None]:
    """Endless (inputs, targets, epoch): int32 arrays (batch_size, seq_len), targets one token later; epochs from 1.

    Every row is full and begins with BOS. The order is fixed: for "train" by the seed, which shuffles the documents
    anew each epoch, for "val" altogether, whatever the batch size. A background thread works ahead until the iterator
    is closed. The arrays are numpy's because MLX's streams belong to a thread.
    """
    snapshot = current_snapshot()
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
        shards = opened(handover.training_files(address)) if address else shards_of(snapshot.directory, split)
        yield from _pack(shards, seed if split == "train" else None, seq_len + 1)

    return _work_ahead(_batches(rows(), batch_size))


def pack_rows(directory: Path, split: "Split", row_length: int, seed: int = 0) -> Iterator[tuple[Array, int]]:
    """Endless (row, epoch): int32 (row_length,), and how often the documents have been gone through, from 1.

    Best fit: a row takes the longest of the waiting documents that fits whole into what is left of it. Where none
    fits, the shortest is cropped and its rest dropped, so that there is no padding.
    """
    return _pack(shards_of(directory, split), seed if split == "train" else None, row_length)


def shards_of(directory: Path, split: "Split") -> Shards:
    """Tokens and the offsets of the documents in them, of each shard of a snapshot."""
    paths = sorted(directory.glob(f"{split}_*.tokens.npy"))
    return [(np.asarray(np.load(path, mmap_mode="r")), np.load(offsets_path(path))) for path in paths]


def training_tokens(directory: Path, number: int) -> Array:
    """About `number` tokens of the training text, a part of each shard."""
    shards = shards_of(directory, "train")
    return np.concatenate([tokens[: max(1, number // len(shards))] for tokens, _ in shards])


def opened(files: Mapping[str, int]) -> Shards:
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
    documents = documents_of([offsets for _, offsets in shards], seed)
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


def documents_of(offsets: list[npt.NDArray[np.int64]], seed: int | None) -> Iterator[tuple[Document, int]]:
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


class TooFewTokens(ValueError):
    """The validation split is too small for the metric."""


def validation_rows(directory: Path, max_seq_len: int, eval_tokens: int) -> Array:
    """The rows of the metric, int32 (eval_tokens // max_seq_len, max_seq_len + 1).

    Raises TooFewTokens where the validation documents do not give as many without repeating one.
    """
    return rows_of(shards_of(directory, "val"), max_seq_len, eval_tokens)


def rows_of(shards: Shards, max_seq_len: int, eval_tokens: int) -> Array:
    count = eval_tokens // max_seq_len
    packed = list(itertools.islice(_pack(shards, None, max_seq_len + 1), count))
    # The epoch advances when the next document to wait for its turn is a repeated one.
    if packed[-1][1] > 1:
        whole = sum(epoch == 1 for _, epoch in packed)
        raise TooFewTokens(
            f"the validation documents give {whole} rows of {max_seq_len} tokens, the metric needs {count}"
        )
    return np.stack([row for row, _ in packed])
