"""Real tokenizer training, and real snapshots through the real command line."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import filterfalse, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import dataset
from prepare import Tokenizer
from tests.common.caches import current, python, record, run, start
from tests.common.data_server import Fault, serve
from tests.common.workspaces import ROOT, made_once


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of the embedded text in the layout of climbmix: eight training shards and one for validation.

    As a directory it has the same splits, because no text is one that a directory would hold out.
    """

    def make(folder: Path) -> None:
        validation, speeches = dataset.shards("embedded", None, folder, 1, lambda *_: None)
        texts = list(islice(filterfalse(dataset.is_held_out, speeches.documents()), 1600))
        for index in range(8):
            pq.write_table(pa.table({"text": texts[index::8]}), folder / f"shard_{index:05d}.parquet")
        texts = list(islice(filterfalse(dataset.is_held_out, validation.documents()), 400))
        pq.write_table(pa.table({"text": texts}), folder / "shard_06542.parquet")

    return made_once(tmp_path_factory, "shards", make)


@pytest.fixture(scope="session")
def shards_id(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the snapshot that an uninterrupted preparation of `shards` produces."""

    def make(cache: Path) -> None:
        done = run(cache, "--source", str(shards))
        assert done.returncode == 0, done.stderr

    return str(record(made_once(tmp_path_factory, "undisturbed", make))["id"])


def test_the_embedded_text_prepares_and_tells_what_it_made(embedded: Path, tmp_path: Path) -> None:
    content = record(embedded)
    assert content["id"].startswith((embedded / "current").read_text())
    assert (content["MAX_SEQ_LEN"], content["VOCAB_SIZE"], content["EVAL_TOKENS"]) == (256, 1024, 65536)
    files = {path.name: path.stat().st_size for path in current(embedded).iterdir() if path.name != "snapshot.json"}
    assert files == {name: file["bytes"] for name, file in content["files"].items()}
    texts = {
        shard.split: list(shard.documents()) for shard in dataset.shards("embedded", None, tmp_path, 1, lambda *_: None)
    }
    for split, documents in texts.items():
        assert content["counts"][split]["documents"] == len(documents)
        assert content["counts"][split]["bytes"] == sum(len(text.encode()) for text in documents)
    again = run(shutil.copytree(embedded, tmp_path / "cache"), "--source", "embedded")
    assert again.stdout.startswith("already prepared: embedded, profile cpu, snapshot ")
    assert again.stdout.count("\n") == 1
    assert again.stderr == ""


def test_tokens_on_disk_are_the_documents(cache: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = np.load(current(cache) / "val_00000.tokens.npy", mmap_mode="r")
    offsets = np.load(current(cache) / "val_00000.offsets.npy")
    assert tokens.dtype == np.uint16
    assert offsets.dtype == np.int64
    assert offsets[-1] == len(tokens)
    assert (tokens[offsets[:-1]] == tokenizer.bos_token_id).all()
    texts = dataset.shards("embedded", None, tmp_path, 1, lambda *_: None)[0].documents()
    for text, begin, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert tokenizer.decode(tokens[begin + 1 : end].tolist()) == text


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
    # `run` prepares without flags: that keeps the source that the user chose.
    assert run(cache).stdout.startswith("already prepared")
    assert record(cache)["id"] == shards_id


@pytest.mark.parametrize("step", ["train tokenizer", "tokenize shard_06542.parquet", "tokenize shard_00001.parquet"])
def test_a_killed_preparation_goes_on_to_the_same_snapshot(
    shards: Path, shards_id: str, tmp_path: Path, step: str
) -> None:
    with start(tmp_path, "--source", str(shards)) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if line.startswith(step))
        process.kill()
    assert told
    assert not (tmp_path / "current").exists()
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
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.01)
            process.kill()
        server.released.set()
        had = part.stat().st_size
        done = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert server.gets(name)[-1].range == f"bytes={had}-"
    assert server.gets(name)[-1].sent == len(server.files[name]) - had
    assert record(tmp_path)["id"] == shards_id


def test_preparation_of_an_earlier_version_is_not_continued(shards: Path, shards_id: str, tmp_path: Path) -> None:
    """It split the source in another way, so that its files may hold documents of the holdout."""
    assert run(tmp_path, "--source", str(shards)).returncode == 0
    keys = [path.name for path in (tmp_path / "requests").iterdir()]
    shutil.rmtree(tmp_path / "snapshots")
    for key in keys:
        (tmp_path / "building" / key).mkdir(parents=True)
        for name in ("train_06541.tokens.npy", "train_06541.offsets.npy"):
            (tmp_path / "building" / key / name).write_bytes(b"stale")
    assert run(tmp_path, "--source", str(shards)).returncode == 0
    assert record(tmp_path)["id"] == shards_id


def test_a_damaged_snapshot_is_prepared_again(shards: Path, shards_id: str, tmp_path: Path) -> None:
    run(tmp_path, "--source", str(shards))
    (current(tmp_path) / "train_00000.tokens.npy").write_bytes(b"")
    done = run(tmp_path, "--source", str(shards))
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith("already"), done.stderr
    assert record(tmp_path)["id"] == shards_id
    assert (current(tmp_path) / "train_00000.tokens.npy").stat().st_size > 0


@pytest.mark.parametrize("content", [b"[]", b'{"files": []}', b"[" * 200_000, b'{"files": {}}', b"\xff"])
def test_a_damaged_record_is_prepared_again(embedded: Path, tmp_path: Path, content: bytes) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    wanted = record(cache)["id"]
    (current(cache) / "snapshot.json").write_bytes(content)
    done = run(cache, "--source", "embedded")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith("already"), done.stderr
    assert record(cache)["id"] == wanted


def test_names_that_are_no_text_are_replaced(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    for path in (cache / "current", *(cache / "requests").iterdir()):
        path.write_bytes(b"\xff\xfe")
    done = run(cache, "--source", "embedded")
    assert done.returncode == 0, done.stderr
    assert record(cache)["id"] == record(embedded)["id"]


def test_what_is_no_file_is_no_shard(shards: Path, shards_id: str, tmp_path: Path) -> None:
    folder = shutil.copytree(shards, tmp_path / "data")
    os.mkfifo(folder / "a.parquet")
    done = run(tmp_path / "cache", "--source", str(folder))
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "cache")["id"] == shards_id


def test_a_second_preparation_waits_for_the_first(shards: Path, tmp_path: Path) -> None:
    import filelock

    with filelock.FileLock(tmp_path / "prepare.lock"):
        process = start(tmp_path, "--source", str(shards))
        assert process.stderr is not None
        assert "waiting for another prepare.py" in process.stderr.readline()
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
        assert first.stderr.startswith("shard_0")
        assert not any(server.faults.values())
        kept = run(tmp_path, *arguments)
        assert (kept.stdout.startswith("already prepared: climbmix"), kept.stderr) == (True, "")
        (tmp_path / "current").unlink()
        auto = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
        assert auto.stderr == "source climbmix: AUTORESEARCH_DATA_URL names a mirror\n"
    assert record(tmp_path)["source"] == "climbmix"
    # The same documents in a directory are the same snapshot.
    assert record(tmp_path)["id"] == shards_id


OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "AUTORESEARCH_DATA_URL": ""}  # a proxy that refuses


def test_auto_falls_back_to_the_embedded_text_and_stays_with_it(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache", ignore=shutil.ignore_patterns("current"))
    done = run(cache, **OFFLINE)
    assert (done.returncode, done.stderr) == (0, "source embedded: the host of climbmix is unreachable\n")
    assert run(cache, **OFFLINE).stdout.startswith("already prepared: embedded")


def test_auto_does_not_fall_back_where_a_mirror_was_named(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache", ignore=shutil.ignore_patterns("current"))
    done = run(cache, AUTORESEARCH_DATA_URL="https://user:secret@host:99999/x")
    assert done.returncode == 2
    said = "error: AUTORESEARCH_DATA_URL must be an http or https address, got 'https://host:99999/x'\nhint: "
    assert done.stderr.startswith(said)


def test_a_current_snapshot_of_another_schema_is_not_kept(embedded: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    (current(cache) / "snapshot.json").write_text(json.dumps({**record(cache), "schema": 0}))
    done = run(cache, AUTORESEARCH_DATA_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "source embedded: it was prepared last")
    assert not done.stdout.startswith("already")


def damage(name: str) -> Callable[[Path], None]:
    """Return a function that damages the current snapshot of a cache."""

    def change(cache: Path) -> None:
        if name == "deleted":
            shutil.rmtree(current(cache))
        elif name == "incomplete":
            (current(cache) / "train_00000.tokens.npy").write_bytes(b"")
        elif name == "no record":
            (current(cache) / "snapshot.json").write_bytes(b"[]")
        elif name == "another schema":
            (current(cache) / "snapshot.json").write_text(json.dumps({**record(cache), "schema": 0}))

    return change


@pytest.fixture(scope="session")
def chosen(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a directory prepared and three of its shards: only to be read."""

    def make(cache: Path) -> None:
        assert run(cache, "--source", "embedded").returncode == 0
        done = run(cache, "--source", str(shards), "--num-shards", "3", "--profile", "cpu")
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "chosen", make)


@pytest.mark.parametrize("name", ["deleted", "incomplete", "no record", "another schema"])
def test_damaged_snapshot_is_prepared_again_from_the_source_that_was_chosen(
    chosen: Path, shards: Path, tmp_path: Path, name: str
) -> None:
    cache = shutil.copytree(chosen, tmp_path / "cache")
    wanted = record(cache)
    damage(name)(cache)
    done = run(cache, **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"source {shards}: it was prepared last\n")
    assert (record(cache)["id"], record(cache)["request"]) == (wanted["id"], wanted["request"])
    assert run(cache, **OFFLINE).stdout.startswith(f"already prepared: {shards}, ")


@pytest.mark.parametrize("name", ["deleted", "incomplete", "no record", "another schema"])
def test_source_that_is_gone_is_replaced_by_no_other(shards: Path, tmp_path: Path, name: str) -> None:
    folder, cache = shutil.copytree(shards, tmp_path / "data"), tmp_path / "cache"
    assert run(cache, "--source", str(folder)).returncode == 0
    shutil.rmtree(folder)
    assert run(cache, **OFFLINE).stdout.startswith("already prepared")  # it is not needed
    damage(name)(cache)
    before = (cache / "current").read_text()
    done = run(cache, **OFFLINE)
    assert (done.returncode, done.stdout) == (3, "")
    first, second = done.stderr.splitlines()
    assert first == f"error: cannot prepare the data again: its source {folder} is not found"
    assert second.startswith("hint: restore it")
    assert (cache / "current").read_text() == before
    # Another choice is still possible.
    assert run(cache, "--source", str(shards)).returncode == 0


def test_request_of_an_earlier_version_is_found_in_its_snapshot_or_told_missing(
    chosen: Path, embedded: Path, shards: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(chosen, tmp_path / "cache")
    shutil.rmtree(cache / "sources")
    wanted = record(cache)["id"]
    damage("incomplete")(cache)
    assert run(cache, **OFFLINE).stderr.startswith(f"source {shards}: it was prepared last\n")
    assert record(cache)["id"] == wanted
    shutil.rmtree(cache / "sources")
    damage("deleted")(cache)
    done = run(cache, **OFFLINE)
    assert done.returncode == 3
    reason = f"the current snapshot {wanted[:12]} is missing or damaged, and its source is not recorded"
    assert done.stderr.splitlines()[0] == f"error: {reason}"
    # A named source is known from its request.
    other = shutil.copytree(embedded, tmp_path / "other")
    shutil.rmtree(other / "sources")
    damage("deleted")(other)
    done = run(other, AUTORESEARCH_DATA_URL="http://127.0.0.1:9/x")
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "source embedded: it was prepared last")
    assert record(other)["id"] == record(embedded)["id"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"requests": 1, "files": []}', b"\xff", b"[" * 200_000])
def test_damaged_list_of_sources_is_made_again(embedded: Path, tmp_path: Path, content: bytes) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    path = cache / "sources" / current(cache).name / "sources.json"
    before = path.read_bytes()
    path.write_bytes(content)
    assert run(cache, **OFFLINE).stdout.startswith("already prepared: embedded")
    assert path.read_bytes() == before


def test_links_that_lead_nowhere_are_no_files(chosen: Path, shards: Path, tmp_path: Path) -> None:
    cache, source = shutil.copytree(chosen, tmp_path / "cache"), tmp_path / "source"
    source.mkdir()
    for path in shards.glob("*.parquet"):
        (source / path.name).symlink_to(path)
    (source / "z.parquet").symlink_to("z.parquet")
    done = run(cache, "--source", str(source), "--profile", "cpu")
    assert done.returncode == 0, done.stderr
    known = json.loads((cache / "sources" / current(cache).name / "sources.json").read_bytes())
    assert {str(path.resolve()) for path in shards.glob("*.parquet")} <= {*known["files"]}
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    done = run(cache, "--source", str(loop))
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 2), done.stderr


def test_what_is_not_chosen_stays_as_it_was_prepared_last(chosen: Path, shards: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(chosen, tmp_path / "cache")
    wanted = record(cache)
    assert run(cache, "--profile", "cpu", **OFFLINE).stdout.startswith(f"already prepared: {shards}, ")
    assert run(cache, "--num-shards", "3", **OFFLINE).stdout.startswith(f"already prepared: {shards}, ")
    assert record(cache) == wanted
    done = run(cache, "--num-shards", "2", **OFFLINE)
    assert done.returncode == 0, done.stderr
    request = {"source": str(shards), "num_shards": 2, "profile": "cpu"}
    assert record(cache)["request"] == request
    large = run(cache, "--profile", "mac", **OFFLINE)
    assert large.returncode == 3
    assert f"error: {shards} is too small for the profile mac" in large.stderr
    assert record(cache)["request"] == request
    # Naming a source starts from its defaults.
    assert run(cache, "--source", str(shards)).returncode == 0
    assert record(cache)["request"]["num_shards"] is None


def spoil(name: str) -> Callable[[Path], None]:
    """Return a function that damages a directory of shards."""

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
        elif name == "same text":
            for path in folder.iterdir():
                path.write_bytes((folder / "shard_06542.parquet").read_bytes())
        elif name == "small text":
            for path in folder.iterdir():
                pq.write_table(pa.table({"text": [f"short {path.stem}"]}), path)

    return change


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "contains no *.parquet files"),
        ("missing", "--source takes auto, climbmix, tinystories, embedded or a directory"),
        ("no text", "shard_00000.parquet has no column `text`, its columns are: body"),
        ("numbers", "expected strings in the column `text`"),
        ("garbage", "shard_00000.parquet is not a readable parquet file"),
        ("damaged", "shard_00000.parquet: "),
        ("no documents", "shard_00001.parquet contains no text"),
        ("small validation", "the metric needs 256"),
        ("small text", "too small for a vocabulary of 1024"),
        ("same text", "every text for training in"),
    ],
)
def test_what_is_wrong_with_a_directory_is_one_sentence(shards: Path, tmp_path: Path, name: str, words: str) -> None:
    folder = shutil.copytree(shards, tmp_path / "data")
    spoil(name)(folder)
    done = run(tmp_path / "cache", "--source", str(folder))
    assert done.returncode == 3
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert words in "\n".join(lines)
    assert done.stderr.splitlines()[-len(lines) :] == lines
    assert [line.partition(":")[0] for line in lines] in (["error"], ["error", "hint"])
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "cache" / "current").exists()


def test_what_is_wrong_with_a_request_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    with serve() as server:
        arguments = ("--source", "climbmix", "--download-workers", "1")
        done = run(tmp_path, *arguments, AUTORESEARCH_DATA_URL=server.url)
    assert done.returncode == 3
    failure, hint = done.stderr.splitlines()
    assert failure == f"error: the server answered 404 Not Found for {server.url}/shard_06542.parquet"
    assert hint == "hint: check AUTORESEARCH_DATA_URL"
    large = run(tmp_path, "--source", str(shards), "--profile", "mac")
    assert large.returncode == 3
    assert "too small for the profile mac" in large.stderr.splitlines()[-2]
    assert "--profile cpu" in large.stderr.splitlines()[-1]
    for wrong in (("--num-shards", "0"), ("--download-workers", "0"), ("--profile", "huge")):
        refused = run(tmp_path, *wrong)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert wrong[0] in refused.stderr.splitlines()[0]
    (tmp_path / "file").write_text("")
    blocked = run(tmp_path / "file" / "cache", "--source", "embedded")
    assert blocked.returncode == 3
    assert blocked.stderr.startswith("error: ")
    assert "Not a directory" in blocked.stderr.splitlines()[0]


@pytest.mark.parametrize("source", ["embedded", "one file"])
def test_more_shards_than_one_are_refused_where_there_is_one(tmp_path: Path, source: str) -> None:
    if source == "one file":
        source = str(tmp_path / "data")
        Path(source).mkdir()
        pq.write_table(pa.table({"text": [f"row {index}" for index in range(100)]}), Path(source, "a.parquet"))
    done = run(tmp_path / "cache", "--source", source, "--num-shards", "2")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"error: --num-shards must be at most 1 for {source}, got 2\n"


@pytest.mark.parametrize("content", ["[]", "null", "1", '{"schema": 1, "id": []}', '{"schema": []}', "[" * 200_000])
def test_record_of_another_form_is_a_sentence(embedded: Path, tmp_path: Path, content: str) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    (current(cache) / "snapshot.json").write_text(content)
    done = python(cache, "from prepare import VOCAB_SIZE")
    assert done.returncode == 3
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: cannot read the prepared data in {cache}: ")
    assert second == "hint: run `uv run prepare.py`"


def test_closed_standard_error_is_no_failure(shards: Path, shards_id: str, tmp_path: Path) -> None:
    command = f"{sys.executable} prepare.py --source {shards} 2>&-"
    env = {**os.environ, "AUTORESEARCH_CACHE": str(tmp_path)}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"source:      {shards}\n")
    assert record(tmp_path)["id"] == shards_id


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder read-only on itself, which only root can."""
    for arguments in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("only root on Linux may mount a folder read-only: run this test as root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("version", ["this", "an earlier one"])
def test_prepared_cache_can_be_read_only(embedded: Path, tmp_path: Path, version: str) -> None:
    cache = shutil.copytree(embedded, tmp_path / "cache")
    if version != "this":
        shutil.rmtree(cache / "sources")
    (cache / "prepare.lock").unlink()
    before = sorted(path.relative_to(cache) for path in cache.rglob("*"))
    with read_only(cache):
        for flags in ((), ("--source", "embedded"), ("--profile", "cpu")):
            done = run(cache, *flags)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("already prepared: embedded, profile cpu, snapshot ")
        other = run(cache, "--source", "tinystories")
        assert other.returncode == 3
        assert other.stderr.startswith(f"error: {cache}/prepare.lock: Read-only file system\n")
    assert sorted(path.relative_to(cache) for path in cache.rglob("*")) == before


def test_prepared_cache_is_answered_from_while_another_is_prepared(embedded: Path, tmp_path: Path) -> None:
    import filelock

    cache = shutil.copytree(embedded, tmp_path / "cache")
    with filelock.FileLock(cache / "prepare.lock"):
        done = run(cache)
    assert (done.stdout.startswith("already prepared: embedded"), done.stderr) == (True, "")


def test_preparation_loads_prepare_once(embedded: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['prepare.py', '--source', 'embedded']\n"
        "runpy.run_path('prepare.py', run_name='__main__'); print('prepare' in sys.modules)"
    )
    done = python(embedded, code)
    assert done.stdout.endswith("\nFalse\n"), done.stderr
