"""Sources against a real HTTP server, real parquet files and the real embedded text."""

import hashlib
import io
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import dataset
from harness.dataset import DataError
from tests.common.data_server import DataServer, Fault, serve

NAME = "shard_00000.parquet"


def parquet(texts: Sequence[str | None], column: str = "text", row_group: int = 1000) -> bytes:
    buffer = io.BytesIO()
    # Uncompressed and plain, so that the file is about as large as its text.
    table = pa.table({column: pa.array(texts, pa.string())})
    pq.write_table(table, buffer, row_group_size=row_group, compression="none", use_dictionary=False)
    return buffer.getvalue()


def stories(shard: int, count: int = 400) -> list[str]:
    return [f"Document {index} of shard {shard}. " + "lorem ipsum " * 100 for index in range(count)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataServer]:
    """A mirror of climbmix with two training shards of half a megabyte and the validation shard."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as data:
        monkeypatch.setenv("AUTORESEARCH_DATA_URL", data.url)
        for index in (0, 1, dataset.CLIMBMIX_VALIDATION):
            data.files[f"shard_{index:05d}.parquet"] = parquet(stories(index))
        yield data


def ignore(step: str, done: int, total: int | None) -> None:
    """Discard progress reports."""


def fetch(server: DataServer, folder: Path, attempts: int = 4, backoff: float = 0.001) -> bytes:
    dataset.fetch(f"{server.url}/{NAME}", folder / NAME, ignore, threading.Event(), attempts, backoff)
    return (folder / NAME).read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_climbmix_is_fetched_once_and_read_in_order(server: DataServer, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int | None]] = []
    for _ in range(2):
        shards = dataset.shards("climbmix", 2, tmp_path, 3, lambda *report: reports.append(report))
    assert [(shard.name, shard.split) for shard in shards] == [
        ("shard_06542.parquet", "val"),
        ("shard_00000.parquet", "train"),
        ("shard_00001.parquet", "train"),
    ]
    assert [list(shard.documents()) for shard in shards] == [stories(index) for index in (6542, 0, 1)]
    assert len(server.answers) == 3
    finished = [(step, done) for step, done, total in reports if done == total]
    assert sorted(finished) == sorted((name, len(content)) for name, content in server.files.items())


def test_a_half_file_is_resumed_and_only_the_rest_is_sent(server: DataServer, tmp_path: Path) -> None:
    content = server.files[NAME]
    (tmp_path / f"{NAME}.part").write_bytes(content[:300_000])
    assert fetch(server, tmp_path) == content
    (answer,) = server.gets(NAME)
    assert (answer.range, answer.status, answer.sent) == ("bytes=300000-", 206, len(content) - 300_000)
    assert left(tmp_path) == [NAME]


def test_cut_connections_are_resumed_with_the_same_version(server: DataServer, tmp_path: Path) -> None:
    content = server.files[NAME]
    server.faults[NAME] = [Fault(cut_after=150_000, reset=False)] * 3
    # Every attempt gets further, so two failures in a row never happen.
    assert fetch(server, tmp_path, attempts=2) == content
    first, *rest = server.gets(NAME)
    assert first.range is None
    assert all(answer.status == 206 and answer.range and answer.if_range for answer in rest)
    assert rest[-1].sent < len(content) // 2


def test_a_file_that_changed_meanwhile_starts_over(server: DataServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault(cut_after=400_000)]
    with pytest.raises(DataError):
        fetch(server, tmp_path, attempts=1)
    server.files[NAME] = parquet(stories(9))
    assert fetch(server, tmp_path) == server.files[NAME]
    assert [answer.status for answer in server.gets(NAME)] == [200, 200]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault(cut_after=200_000), Fault(ignore_range=True)], id="range-ignored"),
        pytest.param([Fault(status=503)] * 2, id="unavailable"),
        pytest.param([Fault(cut_after=0)] * 3, id="reset"),
        pytest.param([Fault(keep=200_000)], id="truncated"),
        pytest.param([Fault(keep=200_000, announced=False)], id="truncated-without-length"),
        pytest.param([Fault(headers=(("ETag", f'"{"0" * 64}"'),))], id="wrong-hash-once"),
        pytest.param([Fault(headers=(("Content-Range", "bytes 7-9/10"),), status=206)], id="another-range"),
        pytest.param([Fault(headers=(("Content-Length", "600000"),))], id="less-than-announced"),
    ],
)
def test_the_right_bytes_in_the_end(server: DataServer, tmp_path: Path, faults: list[Fault]) -> None:
    server.faults[NAME] = list(faults)
    assert fetch(server, tmp_path) == server.files[NAME]
    assert left(tmp_path) == [NAME]
    assert not server.faults[NAME]


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_faults_ends_in_the_right_bytes_or_a_sentence(
    server: DataServer, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    kinds = [
        Fault(cut_after=chance.randrange(500_000)),
        Fault(cut_after=chance.randrange(500_000), ignore_range=True, reset=False),
        Fault(keep=chance.randrange(500_000), announced=chance.random() < 0.5),
        Fault(status=chance.choice((408, 416, 429, 500, 503)), headers=(("Retry-After", "0"),)),
        Fault(headers=(("ETag", f'"{"0" * 64}"'),)),
    ]
    server.faults[NAME] = chance.choices(kinds, k=chance.randrange(1, 12))
    (tmp_path / f"{NAME}.part").write_bytes(server.files[NAME][: chance.randrange(500_000)])
    try:
        assert fetch(server, tmp_path) == server.files[NAME]
    except DataError as error:
        assert "4 attempts failed" in str(error)
        assert NAME not in left(tmp_path)


@pytest.mark.parametrize("linked", [False, True], ids=["direct", "redirected"])
def test_content_that_never_has_the_promised_hash_is_refused(server: DataServer, tmp_path: Path, linked: bool) -> None:
    server.linked = linked
    if linked:
        # The stored file is another, complete shard: only the hash of the redirect reveals it.
        other = parquet(stories(5))
        server.files["other"] = other
        server.faults[NAME] = [Fault(status=302, headers=(("Location", "/stored/other"),))] * 9
    else:
        server.faults[NAME] = [Fault(headers=(("ETag", f'"{"0" * 64}"'),))] * 9
    with pytest.raises(DataError, match="sha256"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_the_hash_on_a_redirect_is_the_one_that_counts(server: DataServer, tmp_path: Path) -> None:
    server.linked = True
    # The storage behind the redirect sends another kind of hash in its ETag.
    server.faults[NAME] = [Fault(headers=(("ETag", f'"{"0" * 64}"'),))]
    content = fetch(server, tmp_path)
    assert hashlib.sha256(content).digest() == hashlib.sha256(server.files[NAME]).digest()
    assert len(server.gets(NAME)) == 1


def test_what_is_no_parquet_is_refused_after_a_few_attempts(server: DataServer, tmp_path: Path) -> None:
    server.files[NAME] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match="not a parquet file"):
        fetch(server, tmp_path, attempts=3)
    assert len(server.gets(NAME)) == 3
    assert left(tmp_path) == []


def test_a_complete_part_needs_no_more_bytes(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(server.files[NAME])
    assert fetch(server, tmp_path) == server.files[NAME]
    assert [(answer.status, answer.sent) for answer in server.gets(NAME)] == [(416, 0)]


def test_a_part_longer_than_the_file_is_dropped(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(server.files[NAME] + b"more")
    assert fetch(server, tmp_path) == server.files[NAME]
    assert [answer.status for answer in server.gets(NAME)] == [416, 200]


def test_a_damaged_finished_shard_is_fetched_again(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(server.files[NAME][:1000])
    assert fetch(server, tmp_path) == server.files[NAME]


def test_a_missing_file_is_final_and_named(server: DataServer, tmp_path: Path) -> None:
    del server.files[NAME]
    with pytest.raises(DataError, match=rf"answered 404 Not Found for {server.url}/{NAME}"):
        fetch(server, tmp_path)
    assert len(server.gets(NAME)) == 1


def test_the_servers_wish_to_wait_is_heeded(server: DataServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault(status=429, headers=(("Retry-After", "1"),))]
    begun = time.monotonic()
    # The default backoff would take far longer than the suite may.
    assert fetch(server, tmp_path, backoff=10_000) == server.files[NAME]
    assert 1 <= time.monotonic() - begun < 10


def test_an_unreachable_server_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = DataServer(f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(DataError, match="server is unreachable") as caught:
            fetch(server, tmp_path)
    assert "run the same command again" in caught.value.hint
    assert "Max retries" not in str(caught.value)


def test_after_a_failure_the_next_call_fetches_only_what_is_missing(server: DataServer, tmp_path: Path) -> None:
    missing = server.files.pop("shard_00001.parquet")
    with pytest.raises(DataError, match="404"):
        dataset.shards("climbmix", 2, tmp_path, 1, ignore)
    server.files["shard_00001.parquet"] = missing
    server.answers.clear()
    dataset.shards("climbmix", 2, tmp_path, 1, ignore)
    assert [answer.name for answer in server.answers] == ["shard_00001.parquet"]


def test_more_shards_than_there_are(server: DataServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most 6541 for climbmix"):
        dataset.shards("climbmix", 6542, tmp_path, 1, ignore)
    assert not server.answers


def test_auto_takes_climbmix_where_its_host_answers(server: DataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset.resolve("auto") == "climbmix"
    server.files.clear()
    assert dataset.resolve("auto") == "embedded"
    monkeypatch.setenv("AUTORESEARCH_DATA_URL", "http://127.0.0.1:9")
    assert dataset.resolve("auto") == "embedded"
    assert dataset.resolve("climbmix") == "climbmix"


def test_tinystories_is_split_as_its_authors_suggest(server: DataServer, tmp_path: Path) -> None:
    texts = [f"Story {index}." for index in range(20_500)]
    server.files["tinystories_gpt4_clean.parquet"] = parquet(texts, row_group=700)
    for num_shards in (1, -1):
        validation, training = dataset.shards("tinystories", num_shards, tmp_path, 1, ignore)
        assert (validation.split, list(validation.documents())) == ("val", texts[10_000:20_000])
        assert (training.split, list(training.documents())) == ("train", texts[20_000:])
    with pytest.raises(DataError, match="at most 1 for tinystories"):
        dataset.shards("tinystories", 2, tmp_path, 1, ignore)


@pytest.mark.parametrize("span", [(0, None), (0, 1), (3, 7), (6, 7), (9, 20), (10, 12), (0, 10)])
def test_rows_of_a_file_are_those_asked_for(tmp_path: Path, span: tuple[int, int | None]) -> None:
    texts = [f"row {index}" for index in range(10)]
    (tmp_path / NAME).write_bytes(parquet(texts, row_group=3))
    assert list(dataset.read_documents(tmp_path / NAME, *span)) == texts[slice(*span)]


def test_empty_and_missing_texts_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(parquet(["a", "", None, "b"]))
    assert list(dataset.read_documents(tmp_path / NAME)) == ["a", "b"]


def test_a_directory_keeps_its_last_shard_for_validation(tmp_path: Path) -> None:
    for letter in "cab":
        (tmp_path / f"{letter}.parquet").write_bytes(parquet([letter]))
    (tmp_path / "notes.txt").write_text("not a shard")
    shards = dataset.shards(str(tmp_path), None, tmp_path, 1, ignore)
    assert [(shard.split, list(shard.documents())) for shard in shards] == [
        ("val", ["c"]),
        ("train", ["a"]),
        ("train", ["b"]),
    ]
    assert len(dataset.shards(str(tmp_path), 1, tmp_path, 1, ignore)) == 2
    before = dataset.identity(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(parquet(["another"]))
    assert dataset.identity(str(tmp_path)) != before


def test_a_directory_with_one_shard_is_split_by_document(tmp_path: Path) -> None:
    texts = [f"row {index}" for index in range(45)]
    (tmp_path / NAME).write_bytes(parquet(texts))
    validation, training = dataset.shards(str(tmp_path), None, tmp_path, 1, ignore)
    found = dataset.holdout(str(tmp_path), None, tmp_path, ignore)
    assert found is not None
    held_out = [text for shard in found[1] for text in shard.documents()]
    assert list(validation.documents()) == [text for text in ("row 0", "row 20", "row 40") if text not in held_out]
    assert sorted([*validation.documents(), *training.documents(), *held_out]) == sorted(texts)


def test_the_embedded_text_is_split_by_speech(tmp_path: Path) -> None:
    validation, training = dataset.shards("embedded", None, tmp_path, 1, ignore)
    held_out, rest = list(validation.documents()), list(training.documents())
    assert not set(held_out) & set(rest)
    assert 0.05 < len(held_out) / len(rest) < 0.12
    groups = held_out + rest
    # A speech shorter than a group is a separate document.
    assert sum(len(group) < dataset.EMBEDDED_GROUP for group in groups) <= 2
    assert sorted(map(len, groups))[len(groups) // 2] < 2 * dataset.EMBEDDED_GROUP
    assert sum(map(len, groups)) > 12_000_000
    assert list(training.documents()) == rest
