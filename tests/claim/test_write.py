"""`claim`: what the folder holds, what it does not, and when none is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from agent.journal.journal import read
from agent.journal.paths import journal_path
from agent.journal.state import replay
from tests.common import claims, schemas
from tests.common.workspaces import Cli, git


def test_claim_holds_runs_commits_and_figures_of_confirmation(published: Path, tmp_path: Path) -> None:
    folder, author = published / "claim", published / "author"
    content = json.loads((folder / "claim.json").read_bytes())
    assert schemas.fault("claim", content) is None
    assert json.loads((folder / "claim.schema.json").read_bytes()) == schemas.schema("claim")
    state = replay(read(journal_path(author, "t")))
    assert state.baseline
    assert state.incumbent
    assert content["commits"] == {"baseline": state.baseline.commit, "best": state.incumbent.commit}
    confirmation = state.confirmation
    assert confirmation
    assert [run["metric"] for run in content["runs"]["b"]] == confirmation["values"]["b"]
    assert content["confirmation"]["gain"] == confirmation["gain"]
    assert len({run["seed"] for run in content["runs"]["a"]}) == 3
    assert content["changes"]["files"] == ["train.py"]
    assert content["changes"]["constants"]
    empty = tmp_path / "empty"
    git(tmp_path, "init", "--quiet", str(empty))
    git(empty, "fetch", "--quiet", str(folder / "commits.bundle"), "refs/claim/*:refs/claim/*")
    assert git(empty, "rev-parse", "refs/claim/best") == state.incumbent.commit


def test_claim_names_no_path_of_its_author(published: Path) -> None:
    text = (published / "claim" / "claim.json").read_text()
    assert str(published) not in text
    assert os.environ["HOME"] not in text


def test_claim_is_written_again_over_itself_alone(published: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    (claim / "attestations").mkdir()
    (claim / "attestations" / "old.json").write_text("{}")
    (claim / "notes.md").write_text("mine\n")
    done = cli(author, "claim", "--out", str(claim))
    assert done.returncode == 0, done.stderr
    assert not (claim / "attestations").exists()
    assert (claim / "notes.md").read_text() == "mine\n"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.md").write_text("mine\n")
    refused = cli(author, "claim", "--out", str(other))
    assert refused.returncode == 2
    assert "is not empty and is not a claim" in refused.stderr
    assert [path.name for path in other.iterdir()] == ["notes.md"]


def test_claim_needs_confirmed_gain(quick: Path, cli: Cli) -> None:
    assert cli(quick, "claim").returncode == 3
    cli(quick, "run", "--tag", "t", "--max-experiments", "0")
    nothing = cli(quick, "claim")
    assert nothing.returncode == 3
    assert "kept nothing better than the baseline" in nothing.stderr
    cli(quick, "run", "--tag", "t", "--max-experiments", "4")
    done = cli(quick, "claim")
    assert done.returncode == 3
    assert "is not confirmed by held-out runs yet" in done.stderr
    assert "hint: run `autoresearch confirm --tag t` first" in done.stderr
    assert not (quick / "claim-t").exists()
    cli(quick, "confirm")
    journal = journal_path(quick, "t")
    text = journal.read_text()
    journal.write_text(text.replace('"verdict": "confirmed"', '"verdict": "not confirmed"'))
    refused = cli(quick, "claim")
    assert refused.returncode == 3
    assert "is not confirmed, so it cannot be claimed" in refused.stderr
    journal.write_text(text)
    assert cli(quick, "claim").returncode == 0
    assert (quick / "claim-t" / "claim.json").is_file()


def test_claim_without_a_log_is_refused(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    journal = journal_path(author, "t")
    journal.write_text(journal.read_text().replace(str(published), str(tmp_path)))
    next((journal.parent / "confirm").rglob("b-2.log")).unlink()
    done = cli(author, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "the log of a held-out run is missing" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob(".claim-*")]


def test_long_logs_are_cut_at_their_beginning(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    journal = journal_path(author, "t")
    journal.write_text(journal.read_text().replace(str(published), str(tmp_path)))
    log = next((journal.parent / "confirm").rglob("a-1.log"))
    log.write_bytes(b"x" * 3 * 2**20 + b"\n" + log.read_bytes())
    assert cli(author, "claim", "--out", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "logs" / "a-1.log").stat().st_size == 2**20


def test_claim_of_shallow_clone_is_refused(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = published / "author"
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", author.as_uri(), str(shallow)], check=True)
    shutil.copytree(author / ".autoresearch", shallow / ".autoresearch")
    git(shallow, "fetch", "--quiet", "--depth", "1", author.as_uri(), "refs/autoresearch/*:refs/autoresearch/*")
    done = cli(shallow, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_schemas_follow_from_models() -> None:
    for name, content in claims.documented().items():
        assert schemas.schema(name) == content, f"run `{claims.COMMAND}`"
