"""Downloads from a real HTTP server that misbehaves."""

import hashlib
import random
import socket
import threading
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from harness import dataset, downloads
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


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://[::1/x", "redirects to an invalid address"),
        ("file:///etc/passwd", "redirects to an invalid address"),
        (f"/{NAME}", "redirects without end"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_final(server: DataServer, tmp_path: Path, location: str, reason: str) -> None:
    server.faults[NAME] = [Fault(status=302, headers=(("Location", location),))] * 100
    with pytest.raises(DataError, match=f"cannot download {server.url}/{NAME}: the server {reason}") as caught:
        fetch(server, tmp_path, backoff=10_000)
    assert caught.value.hint == "check AUTORESEARCH_DATA_URL"


@pytest.mark.parametrize("wish", ["\u00b2", "Mon, 01 Jan 0001 00:00:00 -0000", "soon"])
def test_a_wish_to_wait_that_is_no_number_is_ignored(server: DataServer, tmp_path: Path, wish: str) -> None:
    server.faults[NAME] = [Fault(status=429, headers=(("Retry-After", wish),))]
    assert fetch(server, tmp_path) == server.files[NAME]


def test_what_a_server_says_is_no_command_for_the_terminal(server: DataServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault(status=500, phrase="Bad\x1b[31m")]
    with pytest.raises(DataError, match=r"answered 500 Bad\?\[31m$"):
        fetch(server, tmp_path, attempts=1)


def test_a_password_is_never_shown(server: DataServer, tmp_path: Path) -> None:
    del server.files[NAME]
    url = server.url.replace("//", "//user:secret@")
    with pytest.raises(DataError) as caught:
        downloads.fetch(f"{url}/{NAME}", tmp_path / NAME, ignore, threading.Event())
    assert str(caught.value) == f"the server answered 404 Not Found for {server.url}/{NAME}"


@pytest.mark.parametrize(
    "address", ["foo/bar", "file:///data", "ftp://x/y", "http://host:99999/x", "http://[::1/x", "http://", "//host/x"]
)
def test_an_address_of_no_web_server_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTORESEARCH_DATA_URL", address)
    with pytest.raises(SystemExit) as caught:
        downloads.base_of("https://example.com")
    assert caught.value.code == 2
    said = f"error: AUTORESEARCH_DATA_URL must be an http or https address, got '{address}'\nhint: "
    assert capsys.readouterr().err.startswith(said)


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_DATA_URL", "")
    assert downloads.base_of("https://example.com") == "https://example.com"


def test_a_server_that_sends_a_few_bytes_a_second_counts_as_gone(
    server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SLOW_SECONDS", 0.3)
    server.faults[NAME] = [Fault(trickle=True)]
    assert fetch(server, tmp_path) == server.files[NAME]
    assert [answer.status for answer in server.gets(NAME)] == [200, 206]
    server.faults["other"] = [Fault(trickle=True)] * 2
    server.files["other"] = server.files[NAME]
    with pytest.raises(DataError, match=r"2 attempts failed, most recently because the server sent \d bytes in 0 s"):
        downloads.fetch(f"{server.url}/other", tmp_path / "other", ignore, threading.Event(), 2, 0.001)
    assert (tmp_path / "other.part").stat().st_size > 5
    server.released.set()


def test_a_probe_ends_in_time_though_its_answer_does_not(server: DataServer) -> None:
    ended = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not ended.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=trickle, args=(listener,))
        answering.start()
        begun = time.monotonic()
        assert not downloads.answers(f"http://127.0.0.1:{listener.getsockname()[1]}/x", 0.3)
        assert time.monotonic() - begun < 5
        ended.set()
        answering.join()
    assert downloads.answers(f"{server.url}/{NAME}", 30)
    assert not downloads.answers(f"{server.url}/missing", 30)


@pytest.mark.parametrize("kind", [pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.string_view()])
def test_texts_of_every_type_of_strings_are_read(tmp_path: Path, kind: pyarrow.DataType) -> None:
    texts = pyarrow.array(["one", None, "two", "one"], pyarrow.string()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    assert list(dataset.read_documents(tmp_path / "a.parquet")) == ["one", "two", "one"]


def test_two_columns_of_texts_are_refused(tmp_path: Path) -> None:
    column = pyarrow.array(["a"])
    pyarrow.parquet.write_table(pyarrow.table([column, column], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has 2 columns `text`"):
        downloads.open_parquet(tmp_path / "a.parquet")
