"""Sources against a real HTTP server, real parquet files and the real embedded text."""

from pathlib import Path

import pytest

from harness import dataset
from harness.settings import DataError
from tests.common.data_server import DataServer
from tests.common.parquet import parquet, stories

NAME = "shard_00000.parquet"


def ignore(step: str, done: int, total: int | None) -> None:
    """Discard progress reports."""


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
    monkeypatch.delenv("AUTORESEARCH_DATA_URL")
    monkeypatch.setattr(dataset, "CLIMBMIX", server.url)
    assert dataset.resolve("auto") == "climbmix"
    server.files.clear()
    assert dataset.resolve("auto") == "embedded"
    monkeypatch.setattr(dataset, "CLIMBMIX", "http://127.0.0.1:9")
    assert dataset.resolve("auto") == "embedded"
    assert dataset.resolve("climbmix") == "climbmix"


def test_auto_takes_a_mirror_that_was_named_though_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_DATA_URL", "http://127.0.0.1:9")
    assert dataset.resolve("auto") == "climbmix"
    assert dataset.resolve("embedded") == "embedded"


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


def test_copies_in_a_single_file_are_in_one_split(tmp_path: Path) -> None:
    texts = [f"row {index}" for index in range(1000) if not dataset.is_held_out(f"row {index}")][:800]
    (tmp_path / NAME).write_bytes(parquet([*texts, *texts[::20]]))  # of the 40 at the end, two are for validation
    validation, training = dataset.shards(str(tmp_path), None, tmp_path, 1, ignore)
    assert not {*validation.documents()} & {*training.documents()}
    assert {*validation.documents(), *training.documents()} == {*texts}
    assert (training.copies(), validation.copies()) == (38, 0)


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
