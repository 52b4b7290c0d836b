"""The data loader: packs token shards into full rows, and rows into batches that a thread prepares ahead."""

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
# (length in tokens, shard, index of its first token in the shard)
Document = tuple[int, int, int]
Shards = list[tuple[Array, npt.NDArray[np.int64]]]

# Documents that packing chooses from. More would crop no less, and keep the longest ones waiting.
PACKING_DOCUMENTS = 64
PREFETCHED_BATCHES = 4


def make_dataloader(
    tokenizer: Tokenizer, batch_size: int, seq_len: int, split: "Split", seed: int = 0
) -> Generator[Batch, None, None]:
    """Return an endless iterator over (inputs, targets, epoch).

    Every row is full and begins with BOS. A background thread prepares batches until the iterator is closed. The arrays
    are numpy arrays because MLX's streams belong to one thread.

    Args:
        tokenizer: the tokenizer of the current snapshot.
        batch_size: rows per batch; it does not affect the order of rows.
        seq_len: tokens per row.
        split: "train" or "val".
        seed: shuffles the documents of "train" in each epoch; the order of "val" is fixed.

    Returns:
        int32 inputs and targets (batch_size, seq_len), targets shifted by one token, and the epoch, from 1.

    Raises:
        ValueError: an argument is invalid, or a run under an evaluator asks for the validation split.
    """
    snapshot = current_snapshot()
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"batch_size and seq_len must be at least 1, got {batch_size} and {seq_len}")
    if tokenizer.vocab_size != snapshot.vocab_size:
        raise ValueError(f"the tokenizer does not belong to the snapshot in {snapshot.directory}")
    address = handover.at_work()
    if address and split == "val":
        raise ValueError("the validation split is for the evaluator alone: call evaluate_bpb to measure the model")

    def rows() -> Iterator[tuple[Array, int]]:
        # Deferred until the first batch is requested, because receiving the training text starts the training clock.
        shards = received(address) if address else shards_of(snapshot.directory, split)
        yield from _pack(shards, seed if split == "train" else None, seq_len + 1)

    return _work_ahead(_batches(rows(), batch_size))


def pack_rows(directory: Path, split: "Split", row_length: int, seed: int = 0) -> Iterator[tuple[Array, int]]:
    """Yield (row, epoch) endlessly: int32 (row_length,), and the pass over the documents, from 1.

    Packing is best fit: a row takes the longest waiting document that fits whole into its remaining space. If none
    fits, the shortest is cropped and its remainder dropped, so that rows need no padding.
    """
    return _pack(shards_of(directory, split), seed if split == "train" else None, row_length)


def shards_of(directory: Path, split: "Split") -> Shards:
    """Return the tokens of each shard of a snapshot, with the offsets of its documents."""
    paths = sorted(directory.glob(f"{split}_*.tokens.npy"))
    handover.allow_open_files(len(paths))
    return [(np.asarray(np.load(path, mmap_mode="r")), np.load(offsets_path(path))) for path in paths]


def training_tokens(directory: Path, number: int) -> Array:
    """Return about `number` tokens of the training text, an equal part from each shard."""
    shards = shards_of(directory, "train")
    return np.concatenate([tokens[: max(1, number // len(shards))] for tokens, _ in shards])


def received(address: Path) -> Shards:
    """Return the training text that the evaluator at `address` gives out, which starts the training clock."""
    return [shard for files in handover.training_files(address) for shard in opened(files)]


def opened(files: Mapping[str, int]) -> Shards:
    """Return the shards of open files, by name and descriptor, like `shards_of`. Closes the descriptors."""
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
    for parts, epoch in _chosen([offsets for _, offsets in shards], seed, row_length):
        row = np.empty(row_length, dtype=np.int32)
        filled = 0
        for taken, shard, start in parts:
            row[filled : filled + taken] = tokens[shard][start : start + taken]
            filled += taken
        yield row, epoch


def _chosen(
    offsets: list[npt.NDArray[np.int64]], seed: int | None, row_length: int
) -> Iterator[tuple[list[Document], int]]:
    """Yield the documents of each row, with the length that the row takes of each, and the epoch."""
    documents = documents_of(offsets, seed)
    waiting: list[Document] = []  # sorted, shortest first
    epoch = 1
    while True:
        parts, space = list[Document](), row_length
        while space:
            while len(waiting) < PACKING_DOCUMENTS:
                document, epoch = next(documents)
                insort(waiting, document)
            fits = bisect_left(waiting, (space + 1, 0, 0))
            length, shard, start = waiting.pop(max(fits - 1, 0))
            parts.append((min(length, space), shard, start))
            space -= min(length, space)
        yield parts, epoch


def documents_in_rows(shards: Shards, row_length: int, count: int) -> set[tuple[int, int]]:
    """Return the documents, by shard and first token, of which the first `count` unshuffled rows hold a part."""
    rows = itertools.islice(_chosen([offsets for _, offsets in shards], None, row_length), count)
    return {(shard, start) for parts, _ in rows for _, shard, start in parts}


def whole_rows(shards: Shards, max_seq_len: int, most: int) -> int:
    """Return how many rows the documents fill without repeating one, at most `most`."""
    if not any(len(offsets) > 1 for _, offsets in shards):
        return 0
    rows = itertools.islice(_chosen([offsets for _, offsets in shards], None, max_seq_len + 1), most)
    return sum(1 for _ in itertools.takewhile(lambda row: row[1] == 1, rows))


def offsets_path(tokens_path: Path) -> Path:
    return tokens_path.with_name(tokens_path.name.replace(".tokens.", ".offsets."))


def documents_of(offsets: list[npt.NDArray[np.int64]], seed: int | None) -> Iterator[tuple[Document, int]]:
    """Yield the documents of all shards with the epoch, endlessly. In order if seed is None. 16 bytes per document."""
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
    """Yield the same batches, prepared in a thread. Re-raises its exceptions, and ends it when closed."""
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
        # The thread may be blocked on a full queue: make room, so that it puts one batch and then checks `closed`.
        with suppress(queue.Empty):
            while True:
                ready.get_nowait()


class TooFewTokens(ValueError):
    """Raised if the validation split is too small for the metric."""


def validation_rows(directory: Path, max_seq_len: int, eval_tokens: int) -> Array:
    """Return the rows that the metric is computed on, int32 (eval_tokens // max_seq_len, max_seq_len + 1).

    Raises:
        TooFewTokens: the validation documents do not fill that many rows without repeating one.
    """
    return rows_of(shards_of(directory, "val"), max_seq_len, eval_tokens)


def rows_of(shards: Shards, max_seq_len: int, eval_tokens: int) -> Array:
    count = eval_tokens // max_seq_len
    packed = list(itertools.islice(_pack(shards, None, max_seq_len + 1), count))
    # The epoch advances as soon as a repeated document joins the waiting ones.
    if packed[-1][1] > 1:
        whole = sum(epoch == 1 for _, epoch in packed)
        raise TooFewTokens(
            f"the validation documents fill {whole} rows of {max_seq_len} tokens, the metric needs {count}"
        )
    return np.stack([row for row, _ in packed])
