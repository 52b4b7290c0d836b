"""Packing and batches, from the embedded text."""

import os
import re
import shutil
import subprocess
import sys
import threading
from bisect import bisect_left
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import loader, settings
from harness.loader import pack_rows
from prepare import Tokenizer, make_dataloader
from tests.common.caches import T, current
from tests.common.workspaces import ROOT


def taken(tokenizer: Tokenizer, split: Any, rows: int, batch_size: int, seed: int = 0) -> Any:
    """Return the first rows, int32 (rows, T + 1)."""
    batches = make_dataloader(tokenizer, batch_size, T, split, seed)
    blocks = []
    for inputs, targets, _ in islice(batches, -(-rows // batch_size)):
        assert inputs.shape == targets.shape == (batch_size, T)
        assert inputs.dtype == targets.dtype == np.int32
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        blocks.append(np.concatenate([inputs, targets[:, -1:]], axis=1))
    batches.close()
    return np.concatenate(blocks)[:rows]


def pieces(rows: Any, bos: int) -> list[bytes]:
    """Return the documents, or their beginnings, that make up the rows."""
    found = []
    for row in rows:
        assert row[0] == bos
        found += [piece.tobytes() for piece in np.split(row, np.flatnonzero(row == bos)[1:])]
    return found


def documents(cache: Path, split: str) -> list[Any]:
    tokens = np.load(current(cache) / f"{split}_00000.tokens.npy").astype(np.int32)
    return np.split(tokens, np.load(current(cache) / f"{split}_00000.offsets.npy")[1:-1])


def test_rows_hold_whole_documents_of_their_split_and_one_cropped(cache: Path, tokenizer: Tokenizer) -> None:
    whole = {split: sorted(document.tobytes() for document in documents(cache, split)) for split in ("train", "val")}
    assert not set(whole["train"]) & set(whole["val"])
    for split in ("train", "val"):
        for row in taken(tokenizer, split, 500, 8):
            *full, last = pieces(row[None], tokenizer.bos_token_id)
            assert set(full) <= set(whole[split])
            assert whole[split][bisect_left(whole[split], last)].startswith(last)


def test_packing_takes_the_longest_that_fits_and_crops_the_shortest(tmp_path: Path) -> None:
    lengths = [3, 4, 6, 9, 12] * 40
    tokens = np.concatenate([np.r_[999, np.full(length - 1, length)] for length in lengths]).astype(np.uint16)
    np.save(tmp_path / "val_00000.tokens.npy", tokens)
    np.save(tmp_path / "val_00000.offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
    waiting = sorted(lengths[: loader.PACKING_DOCUMENTS])
    following = iter(lengths[loader.PACKING_DOCUMENTS :])
    for row, epoch in islice(pack_rows(tmp_path, "val", 11), 20):
        assert epoch == 1
        starts = np.flatnonzero(row == 999)
        assert starts[0] == 0
        for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
            space = len(row) - start
            expected = max((length for length in waiting if length <= space), default=min(waiting))
            assert stop - start == min(expected, space)
            assert (row[start + 1 : stop] == expected).all()
            waiting.remove(expected)
            waiting.append(next(following))


def test_the_order_depends_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    first = taken(tokenizer, "train", 96, 8, seed=1)
    assert (taken(tokenizer, "train", 96, 8, seed=1) == first).all()
    assert (taken(tokenizer, "train", 96, 32, seed=1) == first).all()
    assert (taken(tokenizer, "train", 96, 8, seed=2) != first).any()
    validation = taken(tokenizer, "val", 96, 8)
    for batch_size, seed in ((1, 0), (7, 3), (96, 9)):
        assert (taken(tokenizer, "val", 96, batch_size, seed) == validation).all()


def test_an_epoch_takes_every_document_of_every_shard_once() -> None:
    offsets = [np.cumsum([0, *range(1, 4001)], dtype=np.int64), np.cumsum([0, *range(1, 2001)], dtype=np.int64)]
    every = [(length, 0, int(offsets[0][length - 1])) for length in range(1, 4001)]
    every += [(length, 1, int(offsets[1][length - 1])) for length in range(1, 2001)]
    ordered = list(islice(loader.documents_of(offsets, None), 12_000))
    assert ordered == [(document, 1) for document in every] + [(document, 2) for document in every]
    shuffled = list(islice(loader.documents_of(offsets, 5), 12_000))
    epochs = [[document for document, epoch in shuffled if epoch == number] for number in (1, 2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(every)
    assert epochs[0] != epochs[1]
    assert epochs[0] != every


def test_an_error_in_the_thread_reaches_the_consumer(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    monkeypatch.setattr(settings, "CACHE_DIR", cache)
    batches = make_dataloader(Tokenizer.from_directory(), 8, T, "train")
    (current(cache) / "train_00000.offsets.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="pickled"):
        next(batches)


def test_the_thread_ends_when_the_loader_is_closed(tokenizer: Tokenizer) -> None:
    before = set(threading.enumerate())
    batches = make_dataloader(tokenizer, 8, T, "train")
    next(batches)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    batches.close()
    thread.join(10)
    assert not thread.is_alive()


ROWS_OF_MANY_SHARDS = """
import os, resource, subprocess, sys, tempfile
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, int(sys.argv[2])), int(sys.argv[2])))
from pathlib import Path
from harness import handover, loader
from harness.prepared import current_snapshot
from itertools import islice

def first(shards):
    return [row.tolist() for row, _ in islice(loader._pack(shards, 1, 257), 20)]

with tempfile.TemporaryDirectory() as folder:
    address = Path(folder) / "socket"
    command = [sys.executable, "harness/evaluator.py", str(address)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as evaluator:
        evaluator.stdout.readline()
        try:
            shards = loader.received(address)
        finally:
            evaluator.stdin.close()
    assert first(shards) == first(loader.shards_of(current_snapshot().directory, "train"))
    print(len(shards))
"""


@pytest.fixture
def many_shards(embedded: Path, tmp_path: Path) -> Path:
    """A cache whose training text has 400 shards, of which each is the same."""
    cache = shutil.copytree(embedded, tmp_path / "cache")
    for kind in ("tokens", "offsets"):
        first = current(cache) / f"train_00000.{kind}.npy"
        for number in range(1, 400):
            (current(cache) / f"train_{number:05d}.{kind}.npy").hardlink_to(first)
    return cache


def many(cache: Path, hard: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ROWS_OF_MANY_SHARDS, str(cache), str(hard)],
        cwd=ROOT,
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_low_limit_of_open_files_does_not_limit_the_shards(many_shards: Path) -> None:
    done = many(many_shards, 4096)
    assert (done.returncode, done.stdout) == (0, "400\n"), done.stderr


def test_more_shards_than_the_system_allows_open_files_is_a_sentence(many_shards: Path) -> None:
    done = many(many_shards, 300)
    assert re.search(r"TooFewOpenFiles: \d+ shards need \d+ open files, but the limit .* is 300\n$", done.stderr)


def test_a_limit_that_the_shards_just_fit_is_enough(cache: Path) -> None:
    """A limit lower than what a run may open at most is raised as far as the system allows."""
    done = many(cache, 100)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_prepare_needs_few_open_files(tmp_path: Path) -> None:
    command = 'ulimit -n 100 && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "prepare.py", "--source", "embedded", "--profile", "cpu"],
        cwd=ROOT,
        env={**os.environ, "AUTORESEARCH_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [(0, T, "train"), (8, 0, "train"), (8, T, "test")])
def test_arguments_are_checked_at_once(tokenizer: Tokenizer, arguments: Any) -> None:
    with pytest.raises(ValueError):
        make_dataloader(tokenizer, *arguments)
