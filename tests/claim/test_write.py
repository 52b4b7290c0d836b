"""`claim`: what the folder holds, what it does not, and when none is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.claim.check import FalseClaim, changes_of, require_consistent
from agent.claim.folder import read_claim
from agent.journal.journal import fold
from agent.journal.paths import LONGEST_TAG, journal_path
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common import claims, schemas
from tests.common.sessions import confirmed
from tests.common.sessions import journal as events_of
from tests.common.workspaces import Cli, commit_all, git


def test_claim_holds_runs_commits_and_figures_of_confirmation(published: Path, tmp_path: Path) -> None:
    folder, author = published / "claim", published / "author"
    content = json.loads((folder / "claim.json").read_bytes())
    assert schemas.fault("claim", content) is None
    assert json.loads((folder / "claim.schema.json").read_bytes()) == schemas.schema("claim")
    state = fold(journal_path(author, "t"))
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


def test_interval_of_repeated_confirmations_holds_at_each(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    found = confirmed(author, cli)
    done = cli(author, "claim", "--out", str(tmp_path / "claim"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "claim" / "claim.json").read_bytes())
    assert content["looks"] == 1
    names = ("gain", "low", "high")
    assert {name: content["confirmation"][name] for name in names} == {name: found[name] for name in names}
    require_consistent(read_claim(tmp_path / "claim"))
    claims.edit(tmp_path / "claim", lambda forged: forged.update(looks=0))
    with pytest.raises(FalseClaim, match="its interval does not follow from its runs"):
        require_consistent(read_claim(tmp_path / "claim"))


def test_claim_names_no_path_of_its_author(published: Path) -> None:
    text = (published / "claim" / "claim.json").read_text()
    assert str(published) not in text
    assert os.environ["HOME"] not in text


def test_claim_is_written_again_over_itself_alone(published: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    claims.edit(claim, lambda content: content.update(program="0.0.0"))
    (claim / "notes.md").write_text("mine\n")
    done = cli(author, "claim", "--out", str(claim))
    assert done.returncode == 0, done.stderr
    assert json.loads((claim / "claim.json").read_bytes())["program"] != "0.0.0"
    assert (claim / "notes.md").read_text() == "mine\n"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.md").write_text("mine\n")
    refused = cli(author, "claim", "--out", str(other))
    assert refused.returncode == 2
    assert "is not empty and is not a claim" in refused.stderr
    assert [path.name for path in other.iterdir()] == ["notes.md"]


def test_folder_with_another_kind_of_claim_is_not_touched(published: Path, cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "logs").mkdir(parents=True)
    for name in ("claim.json", "protocol.json", "logs/mine.log"):
        (other / name).write_text("{}")
    refused = cli(published / "author", "claim", "--out", str(other))
    assert refused.returncode == 2
    assert "is not empty and is not a claim" in refused.stderr
    assert (other / "logs" / "mine.log").read_text() == (other / "protocol.json").read_text() == "{}"


def test_attestations_stay_with_their_claim(published: Path, claim: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    (claim / "attestations").mkdir()
    (claim / "attestations" / "a.json").write_text("{}")
    claims.edit(claim, lambda content: content.update(created="2020-01-01T00:00:00+00:00"))
    before = (claim / "claim.json").read_bytes()
    shutil.rmtree(claim / "logs")
    done = cli(author, "claim", "--out", str(claim))
    assert done.returncode == 0, done.stderr
    assert (claim / "attestations" / "a.json").exists()
    assert (claim / "claim.json").read_bytes() == before
    assert (claim / "logs" / "a-1.log").exists()
    claims.edit(claim, lambda content: content.update(program="0.0.0"))
    refused = cli(author, "claim", "--out", str(claim))
    assert refused.returncode == 2
    assert "is another claim, which has attestations" in refused.stderr
    assert (claim / "attestations" / "a.json").exists()


def test_changed_fields_of_the_protocol_are_named(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    text = (author / "protocol.json").read_text()
    (author / "protocol.json").write_text(text.replace('"hardTimeoutSeconds": 60', '"hardTimeoutSeconds": 61'))
    done = cli(author, "claim", "--out", str(tmp_path / "claim"))
    assert done.returncode == 3
    assert "error: protocol.json has changed since session t: " in done.stderr
    assert ": execution.hardTimeoutSeconds: 60.0 -> 61.0\n" in done.stderr


def test_long_text_is_cut(quick: Path) -> None:
    text = (quick / "train.py").read_text()
    found = []
    for letter in "ab":
        (quick / "train.py").write_text(f"{text}PROMPT = '{'x' * 2000}{letter}'\n")
        commit_all(quick, letter)
        found.append(git(quick, "rev-parse", "HEAD"))
    changes = changes_of(Workspace(quick, load_protocol(quick)), found[0], found[1], {})
    assert [each.name for each in changes.constants] == ["PROMPT"]
    before, after = changes.constants[0].before, changes.constants[0].after
    assert isinstance(before, str)
    assert "x... (2,001 characters, SHA-256 " in before
    assert before != after


def test_claim_with_too_many_changes_is_refused(quick: Path, cli: Cli) -> None:
    names = "".join(f"V{number} = 1\n" for number in range(1001))
    (quick / "train.py").write_text(f"{names}{(quick / 'train.py').read_text()}")
    commit_all(quick, "constants")
    edit = "sed -i -E 's/^(V[0-9]+) = 1/\\1 = 2/; s/^RATE = 0.1 /RATE = 0.3 /' train.py"
    agent = ("--proposer", "command", "--agent-cmd", edit)
    done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    confirmed = cli(quick, "confirm")
    assert confirmed.returncode == 0, confirmed.stderr
    done = cli(quick, "claim")
    assert done.returncode == 3, done.stderr
    assert "session t does not fit into a claim: constants: " in done.stderr
    assert not (quick / "claim-t").exists()


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


def test_confirmation_of_one_seed_is_no_claim_where_others_can_be_set(
    published: Path, cli: Cli, tmp_path: Path
) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    path = journal_path(author, "t")
    comparison = ("comparing", "running", "compared", "confirmed")
    path.write_text("".join(f"{json.dumps(each)}\n" for each in events_of(author) if each["event"] not in comparison))
    found = confirmed(author, cli, "--seeds", "1")
    assert (found["verdict"], found["seeds"]) == ("confirmed", [])
    done = cli(author, "claim", "--out", str(tmp_path / "claim"))
    assert done.returncode == 3, done.stdout
    assert "the latest confirmation of session t is for one seed alone, and its recipe takes others" in done.stderr
    assert "confirm --tag t`" in done.stderr
    assert not (tmp_path / "claim").exists()
    # One with new seeds is claimed whatever follows it.
    confirmed(author, cli)
    confirmed(author, cli, "--seeds", "1")
    done = cli(author, "claim", "--out", str(tmp_path / "first"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "first" / "claim.json").read_bytes())["looks"] == 0
    confirmed(author, cli)
    done = cli(author, "claim", "--out", str(tmp_path / "claim"))
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "claim" / "claim.json").read_bytes())["runs"]["b"]
    assert len(runs) == len({run["seed"] for run in runs}) == 6


def test_claim_of_the_longest_tag_has_a_folder(quick: Path, cli: Cli) -> None:
    tag = "a" * LONGEST_TAG
    assert cli(quick, "run", "--tag", tag, "--max-experiments", "4", "--confirm").returncode == 0
    done = cli(quick, "claim")
    assert done.returncode == 0, done.stderr
    assert len([*quick.glob("claim-a*/claim.json")]) == 1


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


def test_claim_of_a_workspace_that_was_moved(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = shutil.copytree(published / "author", tmp_path / "before")
    journal = journal_path(author, "t")
    journal.write_text(journal.read_text().replace(str(published / "author"), str(author)))
    moved = author.rename(tmp_path / "after")
    done = cli(moved, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr


def copied(published: Path, folder: Path) -> tuple[Path, Path]:
    """Return a copy of the author's workspace that a test may change, and the log of a run that its claim has."""
    author = shutil.copytree(published / "author", folder / "author")
    journal = journal_path(author, "t")
    journal.write_text(journal.read_text().replace(str(published), str(folder)))
    return author, next((journal.parent / "confirm").rglob("a-1.log"))


def test_long_logs_are_cut_at_their_beginning(published: Path, cli: Cli, tmp_path: Path) -> None:
    author, log = copied(published, tmp_path)
    log.write_bytes(b"x" * 3 * 2**20 + b"\n" + log.read_bytes())
    assert cli(author, "claim", "--out", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "logs" / "a-1.log").stat().st_size == 2**20


def test_logs_of_a_claim_hold_no_secret(
    published: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, log = copied(published, tmp_path)
    log.write_bytes(b"with hf_abcdefghijklmnopqrstu\n" + log.read_bytes())
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstu")
    assert cli(author, "claim", "--out", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "logs" / "a-1.log").read_bytes().startswith(b"with (HF_TOKEN)\n")
    require_consistent(read_claim(tmp_path / "out"))


def test_words_that_show_the_metric_stay_in_the_logs_of_a_claim(
    published: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, log = copied(published, tmp_path)
    log.write_bytes(b"with hf_abcdefghijklmnopqrstu\n" + log.read_bytes())
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstu")
    monkeypatch.setenv("METRIC_KEY", "---\nval_bpb:")
    done = cli(author, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "out" / "logs" / "a-1.log").read_bytes()
    assert kept.startswith(b"with (HF_TOKEN)\n")
    assert b"val_bpb:" in kept
    require_consistent(read_claim(tmp_path / "out"))


@pytest.mark.parametrize("before", [b"", b"x" * 2**21 + b"\n"])
def test_part_of_a_long_log_shows_its_metric(published: Path, cli: Cli, tmp_path: Path, before: bytes) -> None:
    author, log = copied(published, tmp_path)
    shown = log.read_bytes()
    log.write_bytes(before + shown + b"a sample after the training\n" * 2**17)
    done = cli(author, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "out" / "logs" / "a-1.log").read_bytes()
    assert len(kept) <= 2**20
    assert b"val_bpb:" in kept
    require_consistent(read_claim(tmp_path / "out"))


def test_log_that_shows_its_metric_in_no_part_is_refused(published: Path, cli: Cli, tmp_path: Path) -> None:
    author, log = copied(published, tmp_path)
    log.write_bytes(b"nothing\n" * 2**18)
    done = cli(author, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode == 3, done.stdout
    assert "show its metric, and a claim holds no more of a log" in done.stderr
    assert not (tmp_path / "out").exists()


def test_claim_of_shallow_clone_is_refused(published: Path, cli: Cli, tmp_path: Path) -> None:
    author = published / "author"
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", author.as_uri(), str(shallow)], check=True)
    shutil.copytree(author / ".autoresearch", shallow / ".autoresearch")
    git(shallow, "fetch", "--quiet", "--depth", "1", author.as_uri(), "refs/autoresearch/*:refs/autoresearch/*")
    done = cli(shallow, "claim", "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (".git/claim", ".git/claim is in a folder that belongs to git"),
        (".autoresearch/claim", ".autoresearch/claim is in a folder that belongs to the program"),
        ("x" * 300, "File name too long"),
    ],
)
def test_folder_that_a_claim_must_not_have(published: Path, cli: Cli, tmp_path: Path, out: str, words: str) -> None:
    author = shutil.copytree(published / "author", tmp_path / "author")
    done = cli(author, "claim", "--out", str(author / out))
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert not any(place.name == out[-5:] for place in (author / out).parent.iterdir())


def test_schemas_follow_from_models() -> None:
    for name, content in claims.documented().items():
        assert schemas.schema(name) == content, f"run `{claims.COMMAND}`"
