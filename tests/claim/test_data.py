"""The snapshot of a claim is found or made, and the user's current one stays what it is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from agent.claim.data import provide, reading
from agent.claim.models import Data
from agent.errors import AutoresearchError, Interrupted, PreconditionError
from agent.execution.fingerprint import snapshot, snapshot_folder
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common.workspaces import commit_all, quick_protocol

# Stands for the real one, which takes seconds: its snapshot depends on its source alone.
PREPARE = """import argparse, hashlib, json, os, pathlib
parser = argparse.ArgumentParser()
for name in ("--source", "--profile", "--num-shards"):
    parser.add_argument(name)
source = parser.parse_args().source
digest = hashlib.sha256(source.encode()).hexdigest()
cache = pathlib.Path(os.environ["AUTORESEARCH_CACHE"])
place = cache / "snapshots" / digest[:12]
place.mkdir(parents=True, exist_ok=True)
(place / "val.npy").write_text(source)
(place / "snapshot.json").write_text(json.dumps({"id": digest, "profile": "cpu", "files": {}}))
(cache / "current").write_text(digest[:12])
"""


def wanted(source: str, digest: str | None = None) -> Data:
    found = digest or hashlib.sha256(source.encode()).hexdigest()
    return Data.model_validate({"id": found, "source": source, "num_shards": None, "profile": "cpu"})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def workspace(quick: Path) -> Workspace:
    protocol = quick_protocol()
    protocol["meta"]["archetype"] = "ml_train"
    (quick / "protocol.json").write_text(json.dumps(protocol))
    (quick / "prepare.py").write_text(PREPARE)
    commit_all(quick, "prepares")
    return Workspace(quick, load_protocol(quick))


def silent(_: str) -> None:
    pass


def test_missing_snapshot_is_made_and_becomes_current_if_there_was_none(cache: Path, workspace: Workspace) -> None:
    said: list[str] = []
    provide(wanted("embedded"), workspace, said.append)
    assert said == [f"preparing snapshot {wanted('embedded').id[:12]} from embedded"]
    assert (cache / "current").read_text() == wanted("embedded").id[:12]
    with reading(wanted("embedded")):
        assert snapshot_folder(workspace.protocol) == cache / "snapshots" / wanted("embedded").id[:12]


def test_current_snapshot_stays_current(cache: Path, workspace: Workspace) -> None:
    provide(wanted("tinystories"), workspace, silent)
    own = (cache / "current").read_text()
    provide(wanted("embedded"), workspace, silent)
    assert (cache / "current").read_text() == own
    (cache / "holdouts" / wanted("embedded").id[:12]).mkdir(parents=True)
    (cache / "holdouts" / wanted("embedded").id[:12] / "holdout.json").write_text("{}")
    with reading(wanted("embedded")):
        assert snapshot(workspace.protocol)["id"] == wanted("embedded").id
        place = snapshot_folder(workspace.protocol)
        assert place is not None
        assert (place / "val.npy").read_text() == "embedded"
        assert (place.parents[1] / "holdouts" / place.name / "holdout.json").exists()
        assert (cache / "current").read_text() == own
    assert snapshot(workspace.protocol)["id"] == wanted("tinystories").id
    assert not [*cache.glob("claim-*")]


def test_kill_during_the_preparation_leaves_the_current_snapshot(
    cache: Path, quick: Path, workspace: Workspace
) -> None:
    provide(wanted("tinystories"), workspace, silent)
    own = (cache / "current").read_text()
    # As if the machine lost power: nothing after the preparation is done.
    (quick / "prepare.py").write_text(f"{PREPARE}import signal; os.kill(os.getppid(), signal.SIGKILL)\n")
    commit_all(quick, "kills")
    process = multiprocessing.get_context("fork").Process(target=provide, args=(wanted("embedded"), workspace, silent))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (cache / "snapshots" / wanted("embedded").id[:12] / "val.npy").exists()
    assert (cache / "current").read_text() == own
    (quick / "prepare.py").write_text(PREPARE)
    commit_all(quick, "prepares again")
    shutil.rmtree(cache / "snapshots" / wanted("embedded").id[:12])
    provide(wanted("embedded"), workspace, silent)
    assert (cache / "snapshots" / wanted("embedded").id[:12] / "val.npy").exists()


def test_another_preparation_is_waited_for_until_ctrl_c(cache: Path, workspace: Workspace) -> None:
    said: list[str] = []

    def stop() -> None:
        raise Interrupted("stopped", 130)

    with FileLock(cache / "prepare.lock"), pytest.raises(Interrupted):
        provide(wanted("embedded"), workspace, said.append, stop)
    assert said[-1] == f"waiting for another prepare.py in {cache}"
    assert not (cache / "snapshots").exists()
    provide(wanted("embedded"), workspace, silent)
    with FileLock(cache / "prepare.lock", timeout=0):
        assert (cache / "current").read_text() == wanted("embedded").id[:12]


def test_snapshot_that_cannot_be_made_again_is_refused(cache: Path, workspace: Workspace) -> None:
    provide(wanted("tinystories"), workspace, silent)
    own = (cache / "current").read_text()
    with pytest.raises(AutoresearchError) as caught:
        provide(wanted("embedded", "0" * 64), workspace, silent)
    made = wanted("embedded").id[:12]
    expected = f"the data prepared here has another id, {made}: the claim's snapshot was changed, or its source"
    assert str(caught.value) == expected
    assert (cache / "current").read_text() == own


def test_folder_of_the_author_cannot_be_made(cache: Path, workspace: Workspace) -> None:
    with pytest.raises(PreconditionError) as caught:
        provide(wanted("folder"), workspace, silent)
    assert "made from a folder of its author's" in str(caught.value)
    assert not (cache / "current").exists()


@pytest.mark.parametrize(("shards", "words"), [(-1, "all"), (6541, "6,541")])
def test_many_shards_are_not_fetched_for_a_claim_and_some_are_counted(
    cache: Path, workspace: Workspace, shards: int, words: str
) -> None:
    said: list[str] = []
    every = wanted("climbmix").model_copy(update={"num_shards": shards})
    with pytest.raises(PreconditionError, match=f"made from {words} shards of climbmix of about 100 MB each") as caught:
        provide(every, workspace, said.append)
    assert f"--source climbmix --num-shards {shards} --profile cpu`" in str(caught.value.hint)
    assert not said
    assert not (cache / "current").exists()
    provide(every.model_copy(update={"num_shards": 12}), workspace, said.append)
    assert said == [f"preparing snapshot {every.id[:12]} from climbmix, 12 training shards"]
    provide(every, workspace, said.append)  # it is there


def test_failing_preparation_is_a_precondition(cache: Path, quick: Path, workspace: Workspace) -> None:
    (quick / "prepare.py").write_text("raise SystemExit(7)\n")
    commit_all(quick, "fails")
    with pytest.raises(PreconditionError) as caught:
        provide(wanted("embedded"), workspace, silent)
    assert "prepare.py failed with exit code 7" in str(caught.value)
    assert not (cache / "current").exists()


def test_nothing_is_made_where_no_data_is_needed(cache: Path, workspace: Workspace) -> None:
    provide(None, workspace, silent)
    with reading(None):
        assert snapshot_folder(workspace.protocol) is None
    assert not [*cache.iterdir()]
