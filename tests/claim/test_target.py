"""Where a verification writes its attestation: refused before the runs, or printed after them, and never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.claim.models import Attestation
from agent.claim.target import save, target
from agent.errors import AutoresearchError, UsageError
from tests.common import schemas
from tests.common.workspaces import Cli


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("", "--out needs a file, and . is a folder"),
        ("claim", "claim is a folder"),
        (f"{'x' * 260}.json", "File name too long"),
        ("notes.md", "notes.md exists and is not an attestation"),
        ("link", "link: it is a link"),
        ("/dev/null", "/dev/null: it is not a regular file"),
        ("claim/claim.json", "claim.json exists and is not an attestation"),
        ("claim/commits.bundle", "commits.bundle"),
        ("claim/logs/new.json", "claim/logs/new.json is in the folder of the claim"),
        ("claim/new.json", "claim/new.json is in the folder of the claim"),
        ("claim/logs/../new.json", "claim/logs/../new.json is in the folder of the claim"),
    ],
)
def test_what_is_no_attestation_is_refused_before_any_run(
    reader: Path, claim: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, out: str, words: str
) -> None:
    monkeypatch.chdir(claim.parent)
    Path("notes.md").write_text("mine\n")
    Path("link").symlink_to("notes.md")
    before = {path: path.read_bytes() for path in claim.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        target(claim, Path(out))
    assert words in str(caught.value)
    done = cli(reader, "verify", str(claim), "--out", out and str(Path(out).absolute()))
    assert done.returncode == 2, done.stderr
    assert not [*reader.glob(".autoresearch/claims/*")]
    assert {path: path.read_bytes() for path in claim.rglob("*") if path.is_file()} == before
    assert Path("notes.md").read_text() == "mine\n"


def test_attestation_replaces_its_predecessor_outside_of_the_claim(
    reader: Path, claim: Path, cli: Cli, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "mine.json", claim / "attestations" / "theirs.json"
    for place in (mine, theirs, mine):
        assert cli(reader, "verify", str(claim), "--out", str(place)).returncode == 0
    before = theirs.read_bytes()
    refused = cli(reader, "verify", str(claim), "--out", str(theirs))
    assert refused.returncode == 2
    assert "is in the folder of the claim" in refused.stderr
    assert theirs.read_bytes() == before


def test_result_is_told_if_it_cannot_be_written(
    reader: Path, claim: Path, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(reader, "verify", str(claim), "--out", str(tmp_path / "a.json")).returncode == 0
    about = Attestation.model_validate_json((tmp_path / "a.json").read_bytes())
    with pytest.raises(AutoresearchError, match=r"^replicated: as claimed; the attestation is not saved: cannot write"):
        save(tmp_path / "a.json" / "b.json", about, "replicated: as claimed")
    printed = json.loads(capsys.readouterr().err)
    assert printed == json.loads((tmp_path / "a.json").read_bytes())
    assert schemas.fault("attestation", printed) is None
