"""Downloads from a real HTTP server that misbehaves."""

import hashlib
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from harness import downloads
from harness.settings import DataError
from tests.common.data_server import DataServer, Fault
from tests.common.parquet import parquet, stories

NAME = "shard_00000.parquet"


def ignore(step: str, done: int, total: int | None) -> None:
    """Discard progress reports."""


def fetch(server: DataServer, folder: Path, attempts: int = 4, backoff: float = 0.001) -> bytes:
    downloads.fetch(f"{server.url}/{NAME}", folder / NAME, ignore, threading.Event(), attempts, backoff)
    return (folder / NAME).read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
