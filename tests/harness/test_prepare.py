"""The harness: real tokenizer training, real snapshots through the real command line, a real MLX model."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import handover
import prepare
import snapshots
import sources
from prepare import Tokenizer, evaluate_bpb, make_dataloader, pack_rows
from tests.common.data_server import Fault, serve
from tests.common.workspaces import made_once

# isort: split
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

ROOT = Path(__file__).parents[2]
T = 256


def run(cache: Path, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "prepare.py"), *args],
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(cache: Path, *args: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "prepare.py"), *args],
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), "NO_PROXY": "127.0.0.1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(cache: Path, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def current(cache: Path) -> Path:
    return cache / "snapshots" / (cache / "current").read_text()


def record(cache: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((current(cache) / "snapshot.json").read_bytes())
    return content


@pytest.fixture
def cache(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same one, as what prepare.py finds in this process."""
    monkeypatch.setattr(prepare, "CACHE_DIR", embedded)
    return embedded


@pytest.fixture
def tokenizer(cache: Path) -> Tokenizer:
    return Tokenizer.from_directory(current(cache))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the embedded text as climbmix is laid out: eight training shards and one for validation."""

    def make(folder: Path) -> None:
        validation, speeches = sources.shards("embedded", None, folder, 1, lambda *_: None)
        texts = list(islice(speeches.documents(), 1600))
        for index in range(8):
            pq.write_table(pa.table({"text": texts[index::8]}), folder / f"shard_{index:05d}.parquet")
        pq.write_table(pa.table({"text": list(islice(validation.documents(), 400))}), folder / "shard_06542.parquet")

    return made_once(tmp_path_factory, "shards", make)


@pytest.fixture(scope="session")
def shards_id(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the snapshot that an undisturbed preparation of `shards` gives."""

    def make(cache: Path) -> None:
        done = run(cache, "--source", str(shards))
        assert done.returncode == 0, done.stderr

    return str(record(made_once(tmp_path_factory, "undisturbed", make))["id"])


# Preparation


def test_the_embedded_text_prepares_and_tells_what_it_made(embedded: Path, tmp_path: Path) -> None:
    content = record(embedded)
    assert content["id"].startswith((embedded / "current").read_text())
    assert (content["MAX_SEQ_LEN"], content["VOCAB_SIZE"], content["EVAL_TOKENS"]) == (256, 1024, 65536)
    files = {path.name: path.stat().st_size for path in current(embedded).iterdir() if path.name != "snapshot.json"}
    assert files == {name: file["bytes"] for name, file in content["files"].items()}
    texts = {
        shard.split: list(shard.documents()) for shard in sources.shards("embedded", None, tmp_path, 1, lambda *_: None)
    }
    for split, documents in texts.items():
        assert content["counts"][split]["documents"] == len(documents)
        assert content["counts"][split]["bytes"] == sum(len(text.encode()) for text in documents)
    again = run(shutil.copytree(embedded, tmp_path / "cache"), "--source", "embedded")
    assert again.stdout.startswith("already prepared: embedded, profile cpu, snapshot ")
    assert again.stdout.count("\n") == 1 and again.stderr == ""


def test_tokens_on_disk_are_the_documents(cache: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = np.load(current(cache) / "val_00000.tokens.npy", mmap_mode="r")
    offsets = np.load(current(cache) / "val_00000.offsets.npy")
    assert tokens.dtype == np.uint16 and offsets.dtype == np.int64 and offsets[-1] == len(tokens)
    assert (tokens[offsets[:-1]] == tokenizer.bos_token_id).all()
    texts = sources.shards("embedded", None, tmp_path, 1, lambda *_: None)[0].documents()
    for text, start, stop in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert tokenizer.decode(tokens[start + 1 : stop].tolist()) == text


def test_equal_content_has_an_equal_id_and_other_content_another(shards: Path, shards_id: str, tmp_path: Path) -> None:
    cache, copy = tmp_path / "cache", shutil.copytree(shards, tmp_path / "copy")
    for folder in (shards, copy):
        done = run(cache, "--source", str(folder))
        assert done.returncode == 0, done.stderr
        assert record(cache)["id"] == shards_id
    assert len(list((cache / "snapshots").iterdir())) == 1
    (copy / "shard_00000.parquet").unlink()
    assert run(cache, "--source", str(copy)).returncode == 0
    assert record(cache)["id"] != shards_id
    # Going back takes no work.
    assert run(cache, "--source", str(shards)).stdout.startswith("already prepared")
    assert record(cache)["id"] == shards_id


@pytest.mark.parametrize("step", ["train tokenizer", "tokenize shard_06542.parquet", "tokenize shard_00001.parquet"])
def test_a_killed_preparation_goes_on_to_the_same_snapshot(
    shards: Path, shards_id: str, tmp_path: Path, step: str
) -> None:
    with start(tmp_path, "--source", str(shards)) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if line.startswith(step))
        process.kill()
    assert told and not (tmp_path / "current").exists()
    finished = {path.name: path.stat().st_ino for path in tmp_path.glob("building/*/*.offsets.npy")}
    assert bool(finished) == (step != "train tokenizer")
    done = run(tmp_path, "--source", str(shards))
    assert done.returncode == 0, done.stderr
    assert (step in done.stderr) == (step == "train tokenizer")
    assert {name: (current(tmp_path) / name).stat().st_ino for name in finished} == finished
    assert record(tmp_path)["id"] == shards_id


def test_a_killed_download_goes_on_where_it_was(shards: Path, shards_id: str, tmp_path: Path) -> None:
    name = "shard_06542.parquet"
    with serve() as server:
        server.files = {path.name: path.read_bytes() for path in shards.iterdir()}
        server.faults[name] = [Fault(keep=150_000, headers=(("Content-Length", "999999"),), hold=True)]
        arguments = ("--source", "climbmix", "--num-shards", "8")
        part = tmp_path / "shards" / "climbmix" / f"{name}.part"
        with start(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url) as process:
            while not (part.exists() and part.stat().st_size):
                assert process.poll() is None, "It ended before it could be killed."
                time.sleep(0.01)
            process.kill()
        server.released.set()
        had = part.stat().st_size
        done = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert server.gets(name)[-1].range == f"bytes={had}-"
    assert server.gets(name)[-1].sent == len(server.files[name]) - had
    assert record(tmp_path)["id"] == shards_id


def test_a_damaged_snapshot_is_prepared_again(shards: Path, shards_id: str, tmp_path: Path) -> None:
    run(tmp_path, "--source", str(shards))
    (current(tmp_path) / "train_00000.tokens.npy").write_bytes(b"")
    done = run(tmp_path, "--source", str(shards))
    assert done.returncode == 0 and not done.stdout.startswith("already"), done.stderr
    assert record(tmp_path)["id"] == shards_id
    assert (current(tmp_path) / "train_00000.tokens.npy").stat().st_size > 0


def test_a_second_preparation_waits_for_the_first(shards: Path, tmp_path: Path) -> None:
    import filelock

    with filelock.FileLock(tmp_path / "prepare.lock"):
        process = start(tmp_path, "--source", str(shards))
        assert process.stderr is not None
        assert "waiting for it" in process.stderr.readline()
        assert not (tmp_path / "building").exists()
    process.communicate()
    assert process.returncode == 0
    assert current(tmp_path).is_dir()


def test_climbmix_through_the_command_line_despite_faults(shards: Path, shards_id: str, tmp_path: Path) -> None:
    with serve() as server:
        server.files = {path.name: path.read_bytes() for path in shards.iterdir()}
        server.faults["shard_00000.parquet"] = [Fault(status=503), Fault(cut_after=100_000)]
        server.faults["shard_06542.parquet"] = [Fault(keep=50_000, announced=False)]
        arguments = ("--num-shards", "8", "--profile", "cpu")
        first = run(tmp_path, "--source", "climbmix", *arguments, AUTORESEARCH_DATA_URL=server.url)
        assert first.returncode == 0, first.stderr
        assert first.stderr.startswith("shard_0") and not any(server.faults.values())
        auto = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
        assert auto.stderr == "Source climbmix: its host answers.\n"
    assert record(tmp_path)["source"] == "climbmix"
    # The same documents in a directory are the same snapshot.
    assert record(tmp_path)["id"] == shards_id


def test_auto_falls_back_to_the_embedded_text_and_stays_with_it(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    done = run(cache, AUTORESEARCH_DATA_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (0, "Source embedded: the host of climbmix does not answer.\n")
    assert run(cache, AUTORESEARCH_DATA_URL="http://127.0.0.1:9").stdout.startswith("already prepared: embedded")


def spoil(name: str) -> Callable[[Path], None]:
    """Something wrong with a directory of shards, by name."""

    def change(folder: Path) -> None:
        if name == "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        elif name == "missing":
            shutil.rmtree(folder)
        elif name == "no text":
            pq.write_table(pa.table({"body": ["a"]}), folder / "shard_00000.parquet")
        elif name == "numbers":
            pq.write_table(pa.table({"text": [1]}), folder / "shard_00000.parquet")
        elif name == "garbage":
            (folder / "shard_00000.parquet").write_bytes(b"not parquet")
        elif name == "damaged":
            content = bytearray((folder / "shard_00000.parquet").read_bytes())
            content[100:5000] = bytes(4900)
            (folder / "shard_00000.parquet").write_bytes(content)
        elif name == "no documents":
            pq.write_table(pa.table({"text": pa.array([""], pa.string())}), folder / "shard_00001.parquet")
        elif name == "small validation":
            pq.write_table(pa.table({"text": ["short", "texts"] * 50}), folder / "shard_06542.parquet")
        elif name == "small text":
            for path in folder.iterdir():
                pq.write_table(pa.table({"text": ["short"]}), path)

    return change


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "holds no *.parquet files"),
        ("missing", "--source takes auto, climbmix, tinystories, embedded or a directory"),
        ("no text", "shard_00000.parquet has no column `text`, only body"),
        ("numbers", "holds int64, not strings"),
        ("garbage", "shard_00000.parquet is not a readable parquet file"),
        ("damaged", "shard_00000.parquet cannot be read"),
        ("no documents", "shard_00001.parquet holds no text"),
        ("small validation", "the metric needs 256"),
        ("small text", "too small for a vocabulary of 1024"),
    ],
)
def test_what_is_wrong_with_a_directory_is_one_sentence(shards: Path, tmp_path: Path, name: str, words: str) -> None:
    folder = shutil.copytree(shards, tmp_path / "data")
    spoil(name)(folder)
    done = run(tmp_path / "cache", "--source", str(folder))
    assert done.returncode == 3
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "cache" / "current").exists()


def test_what_is_wrong_with_a_request_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    with serve() as server:
        arguments = ("--source", "climbmix", "--download-workers", "1")
        done = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert f"404 Not Found for {server.url}/shard_06542.parquet" in done.stderr
    large = run(tmp_path, "--source", str(shards), "--profile", "mac")
    assert large.returncode == 3 and "too small for the profile mac" in large.stderr.splitlines()[-1]
    for wrong in (("--num-shards", "0"), ("--download-workers", "0"), ("--profile", "huge")):
        assert run(tmp_path, *wrong).returncode == 2
    (tmp_path / "file").write_text("")
    blocked = run(tmp_path / "file" / "cache", "--source", "embedded")
    assert blocked.returncode == 3 and blocked.stderr.startswith("Not a directory")


# What train.py imports


def test_without_data_the_constants_are_a_sentence(tmp_path: Path) -> None:
    done = python(tmp_path, "from prepare import MAX_SEQ_LEN")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"There is no prepared data in {tmp_path}: run `uv run prepare.py`.\n"


def test_the_constants_are_those_of_the_snapshot(embedded: Path) -> None:
    code = (
        "import sys, prepare; from prepare import *\n"
        "from prepare import EVAL_TOKENS, MAX_SEQ_LEN, PROFILE, SNAPSHOT, TIME_BUDGET, VOCAB_SIZE\n"
        "print(PROFILE, MAX_SEQ_LEN, VOCAB_SIZE, EVAL_TOKENS, TIME_BUDGET, SNAPSHOT.directory.name)\n"
        "print({'agent', 'pyarrow', 'requests', 'rich', 'rustbpe', 'sources'} & set(sys.modules))"
    )
    done = python(embedded, code, AUTORESEARCH_TRAINING_SECONDS="2.5")
    assert done.stdout == f"cpu 256 1024 65536 2.5 {current(embedded).name}\nset()\n", done.stderr


@pytest.mark.parametrize("value", ["", "soon", "0", "-3", "nan", "inf"])
def test_a_bad_time_budget_is_a_sentence(tmp_path: Path, value: str) -> None:
    done = python(tmp_path, "import prepare", AUTORESEARCH_TRAINING_SECONDS=value)
    assert done.returncode == 2
    assert done.stderr == f"AUTORESEARCH_TRAINING_SECONDS must be a positive number of seconds, not {value!r}.\n"


def test_a_damaged_record_is_a_sentence(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    (current(cache) / "snapshot.json").write_text('{"id": ')
    done = python(cache, "from prepare import VOCAB_SIZE")
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "uv run prepare.py" in done.stderr


# Tokenizer

TEXTS = [
    *snapshots.ROUND_TRIP,
    "Ünïcödé ﷽ \U00010348 क्षि ༄ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    " \r\n \r \n\n\n\t",
    "".join(map(chr, range(0x250))),
    "x" * 5000,
]


def test_every_text_comes_back(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(TEXTS)] == TEXTS
    assert [tokenizer.encode(text) for text in TEXTS] == tokenizer.encode(TEXTS)
    assert tokenizer.bos_token_id not in tokenizer.encode("<|bos|>")


def test_a_token_has_the_bytes_that_it_stands_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes.shape == (tokenizer.get_vocab_size(),) == (1024,)
    assert tokenizer.token_bytes.dtype == np.int32
    for text in TEXTS:
        assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == len(text.encode())
    # All 256 single bytes are tokens, the half that is no text of its own too.
    assert (tokenizer.token_bytes[:256] == 1).all()
    assert (tokenizer.token_bytes[tokenizer.bos_token_id :] == 0).all()
    assert (tokenizer.token_bytes[: tokenizer.bos_token_id] > 0).all()


def test_the_tokenizer_file_is_readable_text(cache: Path) -> None:
    content = json.loads((current(cache) / "tokenizer.json").read_text())
    assert sorted(content) == ["mergeable_ranks", "pattern", "special_tokens"]
    assert not [path for path in current(cache).iterdir() if path.suffix in (".pkl", ".pickle", ".pt")]


# Loader


def taken(tokenizer: Tokenizer, split: Any, rows: int, batch_size: int, seed: int = 0) -> Any:
    """The first rows, int32 (rows, T + 1)."""
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
    """The documents, or their beginnings, that rows consist of."""
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
    waiting = sorted(lengths[: prepare.PACKING_DOCUMENTS])
    following = iter(lengths[prepare.PACKING_DOCUMENTS :])
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
    ordered = list(islice(prepare._documents(offsets, None), 12_000))
    assert ordered == [(document, 1) for document in every] + [(document, 2) for document in every]
    shuffled = list(islice(prepare._documents(offsets, 5), 12_000))
    epochs = [[document for document, epoch in shuffled if epoch == number] for number in (1, 2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(every)
    assert epochs[0] != epochs[1] and epochs[0] != every


def test_an_error_in_the_thread_reaches_the_consumer(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    monkeypatch.setattr(prepare, "CACHE_DIR", cache)
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


@pytest.mark.parametrize("arguments", [(0, T, "train"), (8, 0, "train"), (8, T, "test")])
def test_arguments_are_checked_at_once(tokenizer: Tokenizer, arguments: Any) -> None:
    with pytest.raises(ValueError):
        make_dataloader(tokenizer, *arguments)


# Metric


class Bigram(nn.Module):
    """Logits from the token and from the mean of all before it, so that positions and their order matter."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1024, width)
        self.head = nn.Linear(width, 1024)
        self.rows: list[int] = []

    def __call__(self, tokens: mx.array) -> mx.array:
        self.rows.append(tokens.shape[0])  # of what it is traced for
        embedded = 8 * self.embedding(tokens)
        count = mx.arange(1, tokens.shape[1] + 1)[:, None]
        logits: mx.array = self.head(embedded + mx.cumsum(embedded, axis=1) / count)
        return logits


@pytest.fixture
def model() -> Iterator[Bigram]:
    mx.random.seed(0)
    yield Bigram()


def independent_bpb(model: Bigram, tokenizer: Tokenizer) -> float:
    """The definition in float64, token by token of the validation loader."""
    table = np.array(model.embedding.weight, dtype=np.float64)
    weight, bias = np.array(model.head.weight, dtype=np.float64), np.array(model.head.bias, dtype=np.float64)
    nats, text = 0.0, 0
    batches = make_dataloader(tokenizer, 4, T, "val")
    for inputs, targets, _ in islice(batches, 65536 // T // 4):
        embedded = 8 * table[inputs]
        hidden = embedded + np.cumsum(embedded, axis=1) / np.arange(1, T + 1)[:, None]
        logits = hidden @ weight.T + bias
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
        ordinary = targets < tokenizer.bos_token_id
        nats += losses[ordinary].sum()
        raw = [tokenizer._encoding.decode_single_token_bytes(token) for token in targets[ordinary].tolist()]
        text += sum(map(len, raw))
    batches.close()
    return float(nats / text / np.log(2))


def test_bits_per_byte_are_those_of_the_definition(model: Bigram, tokenizer: Tokenizer) -> None:
    expected = independent_bpb(model, tokenizer)
    measured = [evaluate_bpb(model, tokenizer, batch_size) for batch_size in (3, 16, 256)]
    assert measured == pytest.approx([expected] * 3, abs=1e-4)
    assert max(measured) - min(measured) < 1e-6
    assert model.rows == [3, 16, 256]


def test_the_logits_alive_are_bounded(model: Bigram, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "EVAL_LOGITS_BYTES", 11 * T * 1024 * 4)
    evaluate_bpb(model, tokenizer, 256)
    assert max(model.rows) == 11


def test_a_uniform_model_needs_the_same_bits_for_every_token(tokenizer: Tokenizer) -> None:
    rows = prepare.validation_rows(prepare.SNAPSHOT.directory, T, 65536)
    targets = rows[:, 1:]
    ordinary = targets != tokenizer.bos_token_id
    expected = 10 * ordinary.sum() / tokenizer.token_bytes[targets].sum()
    assert evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1024)), tokenizer, 16) == pytest.approx(expected)


def test_logits_of_another_shape_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="1025"):
        evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1025)), tokenizer, 16)


# The evaluator


@pytest.fixture
def beside(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Beside"]:
    """An evaluator as the loop starts it: this process is the run that it serves."""
    address = tmp_path / "socket"
    env = {**os.environ, "AUTORESEARCH_CACHE": str(cache), "AUTORESEARCH_LOSSES": str(tmp_path / "losses.npy")}
    command = [sys.executable, str(ROOT / "evaluator.py"), str(address)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        found = Beside(address, process)
        assert found.event()["event"] == "ready"
        monkeypatch.setenv("AUTORESEARCH_EVALUATOR", str(address))
        yield found
        process.stdin.close()
        process.wait(20)


@dataclass
class Beside:
    address: Path
    process: "subprocess.Popen[str]"

    def event(self) -> dict[str, Any]:
        """The next one."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def send(self, content: bytes) -> bytes:
        """What comes back."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            with handover.reachable(self.address) as name:
                line.connect(name)
            with suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(content)
                line.shutdown(socket.SHUT_WR)
                return line.recv(2**16)
            return b""


def test_a_run_has_one_evaluation(model: Bigram, tokenizer: Tokenizer, beside: Beside, tmp_path: Path) -> None:
    value = evaluate_bpb(model, tokenizer, 16)
    assert beside.event()["event"] == "handed_over"
    answer = beside.event()
    assert (answer["event"], answer["metric"], answer["eval_tokens"]) == ("answer", value, 65536)
    losses = np.load(tmp_path / "losses.npy")
    rows = prepare.validation_rows(current(prepare.CACHE_DIR), T, 65536)
    lengths = tokenizer.token_bytes[rows[:, 1:]]
    assert losses.shape == lengths.shape
    assert losses[lengths > 0].sum() / lengths.sum() / np.log(2) == pytest.approx(value, abs=1e-5)
    with pytest.raises(ValueError, match="there is one evaluation in a run"):
        evaluate_bpb(Bigram(), tokenizer, 16)


def test_a_run_has_the_training_text_when_it_asks_for_it(tokenizer: Tokenizer, beside: Beside) -> None:
    expected = list(islice(pack_rows(current(prepare.CACHE_DIR), "train", T + 1, seed=3), 8))
    batches = make_dataloader(tokenizer, 8, T, "train", 3)
    inputs, targets, _ = next(batches)
    batches.close()
    assert beside.event()["event"] == "clock"
    for row, (whole, _) in enumerate(expected):
        assert (np.append(inputs[row], targets[row, -1]) == whole).all()


def test_a_run_does_not_see_the_validation_text(tokenizer: Tokenizer, beside: Beside) -> None:
    with pytest.raises(ValueError, match="for the evaluator alone"):
        make_dataloader(tokenizer, 8, T, "val")
    with pytest.raises(handover.Refused, match="for the evaluator alone"):
        handover.ask(beside.address, {"ask": "rows"})


GARBAGE = [
    b"",
    b"\n",
    b"\x00" * 100,
    b"x" * 200_000,
    b"[" * 60_000 + b"\n",
    b"null\n",
    b"[1, 2]\n",
    b'{"ask": {}}\n',
    b'{"ask": "nothing"}\n',
    b'{"ask": "model", "bytes": "many"}\n',
    b'{"ask": "model", "bytes": -1}\n',
    b'{"ask": "model", "bytes": 1e400}\n',
    b'{"ask": "model", "bytes": 1' + b"0" * 400 + b"}\n",
    b'{"ask": "model", "bytes": 100000, "rows": 16}\nthe beginning of a model',
    b'{"ask": "train", "from": "the start"}\n',
    b'{"ask": "train", "from": -1}\n',
]


def test_no_request_keeps_the_evaluator_from_its_work(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    for content in GARBAGE:
        answer = beside.send(content)
        assert b"metric" not in answer and len(answer) < 1000
    silent = []
    for _ in range(20):
        line = socket.socket(socket.AF_UNIX)
        with handover.reachable(beside.address) as name:
            line.connect(name)
        silent.append(line)
    assert 2 < evaluate_bpb(model, tokenizer, 16) < 12
    for line in silent:
        line.close()


def test_a_run_that_dies_while_it_hands_over_has_no_metric(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    dies = (
        "import json, os, pathlib, signal, socket, sys\n"
        "line = socket.socket(socket.AF_UNIX)\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "line.connect('socket')\n"
        "line.sendall(json.dumps({'ask': 'model', 'rows': 16, 'bytes': 1000000}).encode() + b'\\n' + bytes(5000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", dies, str(beside.address)], check=False)
    assert done.returncode == -9
    # Nothing was handed over, so that the one evaluation is still there.
    assert 2 < evaluate_bpb(model, tokenizer, 16) < 12
    assert [beside.event()["event"] for _ in range(2)] == ["handed_over", "answer"]


@pytest.mark.parametrize(
    ("request_", "content", "words"),
    [
        ({"rows": 16}, b"no graph at all", "no graph that can be read"),
        ({"rows": 16}, b"", "no graph that can be read"),
        ({"rows": 0}, b"x", "a batch of 0 rows"),
        ({"rows": 10**9}, b"x", "a batch of 1000000000 rows"),
        ({"rows": "all"}, b"x", "cannot be evaluated"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(
    beside: Beside, tmp_path: Path, request_: dict[str, Any], content: bytes, words: str
) -> None:
    (tmp_path / "graph").write_bytes(content)
    with pytest.raises(handover.Refused, match=words):
        handover.ask(beside.address, {"ask": "model", **request_}, tmp_path / "graph")
    assert beside.event()["event"] == "handed_over"
    refused = beside.event()
    assert refused["event"] == "refused" and words in refused["reason"]


def test_an_evaluator_that_is_gone_is_a_sentence(model: Bigram, tokenizer: Tokenizer, beside: Beside) -> None:
    beside.process.kill()
    beside.process.wait()
    with pytest.raises(ValueError, match="The evaluator does not answer"):
        evaluate_bpb(model, tokenizer, 16)


# Honest models


def tied(_: Bigram) -> Callable[[mx.array], mx.array]:
    """The head is the embedding's table; the head of its own is left in, unused."""

    class Tied(Bigram):
        def __call__(self, tokens: mx.array) -> mx.array:
            embedded = self.embedding(tokens)
            count = mx.arange(1, tokens.shape[1] + 1)[:, None]
            logits: mx.array = self.embedding.as_linear(embedded + mx.cumsum(embedded, axis=1) / count)
            return logits

    return Tied()


def averaged(model: Bigram) -> Callable[[mx.array], mx.array]:
    """An average of weights that nobody has evaluated."""
    other = Bigram()
    both = zip(tree_flatten(model.parameters()), tree_flatten(other.parameters()), strict=True)
    model.update(tree_unflatten([(name, 0.5 * a + 0.5 * b) for (name, a), (_, b) in both]))
    return model


def compiled(model: Bigram) -> Callable[[mx.array], mx.array]:
    return mx.compile(model.__call__)


def shifted(model: Bigram) -> Callable[[mx.array], mx.array]:
    return lambda tokens: model(tokens) + 40.0


@pytest.mark.slow
@pytest.mark.parametrize("make", [tied, averaged, compiled, shifted])
def test_unusual_models_have_a_metric(make: Any, model: Bigram, tokenizer: Tokenizer) -> None:
    expected = independent_bpb(Bigram(), tokenizer)
    assert evaluate_bpb(make(model), tokenizer, 16) == pytest.approx(expected, rel=0.6)


def test_a_model_is_put_into_the_mode_for_evaluation(tokenizer: Tokenizer) -> None:
    class Dropping(Bigram):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def __call__(self, tokens: mx.array) -> mx.array:
            dropped: mx.array = self.dropout(super().__call__(tokens))
            return dropped

    mx.random.seed(0)
    plain = Bigram()
    mx.random.seed(0)
    assert evaluate_bpb(Dropping(), tokenizer, 16) == pytest.approx(evaluate_bpb(plain, tokenizer, 16), abs=1e-9)


# Models that want another metric than theirs


def peeking(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        following = mx.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
        return model(tokens) + 20 * (following[..., None] == mx.arange(1024))

    return cheat


def prefix_language_model(model: Bigram) -> Callable[[mx.array], mx.array]:
    """Each position sees the whole row: a mean over it instead of one over what was before."""

    def cheat(tokens: mx.array) -> mx.array:
        counts = (tokens[:, :, None] == mx.arange(1024)).astype(mx.float32).sum(axis=1, keepdims=True)
        return model(tokens) + mx.log(1 + counts)

    return cheat


def peeking_at_other_rows(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        counts = (tokens[:, :, None] == mx.arange(1024)).astype(mx.float32).sum(axis=(0, 1))
        return model(tokens) + mx.log(1 + counts)

    return cheat


def random_logits(model: Bigram) -> Callable[[mx.array], mx.array]:
    def cheat(tokens: mx.array) -> mx.array:
        seed = tokens.sum()
        noise = mx.random.normal((*tokens.shape, 1024), key=mx.random.key(0) + seed.astype(mx.uint32))
        return model(tokens) + noise

    return cheat


@pytest.mark.parametrize("make", [peeking, prefix_language_model, peeking_at_other_rows, random_logits])
def test_a_model_that_sees_what_it_should_predict_is_refused(make: Any, model: Bigram, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="depend on later tokens"):
        evaluate_bpb(make(model), tokenizer, 16)


def test_adding_to_all_logits_gains_nothing(model: Bigram, tokenizer: Tokenizer) -> None:
    """At 1e8, float32 has no room for differences: all tokens are as likely, which is what it then costs."""
    uniform = evaluate_bpb(lambda tokens: mx.zeros((*tokens.shape, 1024)), tokenizer, 16)
    assert evaluate_bpb(lambda tokens: model(tokens) + 1e8, tokenizer, 16) > 0.8 * uniform


def test_logits_that_are_no_numbers_are_no_metric(model: Bigram, tokenizer: Tokenizer) -> None:
    assert not np.isfinite(evaluate_bpb(lambda tokens: model(tokens) * mx.array(np.nan), tokenizer, 16))


def test_a_model_that_reads_a_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    mx.save(str(tmp_path / "table.npy"), mx.zeros((1024,)))

    def reading(tokens: mx.array) -> Any:
        table: Any = mx.load(str(tmp_path / "table.npy"))
        return mx.zeros((*tokens.shape, 1024)) + table

    with pytest.raises(ValueError, match=r"cannot be traced.*Load"):
        evaluate_bpb(reading, tokenizer, 16)


# Models that cannot be traced


def untraceable(model: Bigram) -> Callable[[mx.array], mx.array]:
    def forward(tokens: mx.array) -> mx.array:
        logits = model(tokens)
        return mx.array(np.asarray(logits))  # the line

    return forward


def test_a_model_that_cannot_be_traced_is_told_its_line(model: Bigram, tokenizer: Tokenizer) -> None:
    (number,) = [n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# the line")]
    with pytest.raises(prepare.Untraceable, match=rf"cannot be traced \(line {number} of test_prepare.py\)"):
        evaluate_bpb(untraceable(model), tokenizer, 16)


def test_a_model_that_cannot_be_traced_may_be_evaluated_by_itself(
    model: Bigram, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_bpb(model, tokenizer, 16)
    monkeypatch.setenv("AUTORESEARCH_ALLOW_UNTRACED", "1")
    assert evaluate_bpb(untraceable(model), tokenizer, 16) == pytest.approx(expected, abs=1e-5)
