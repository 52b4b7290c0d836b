"""action.yml: what it runs, run here with a real claim and a stand-in for `gh` that records what is posted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.common.claims import edit, fresh_clone, make_claimed
from tests.common.workspaces import ROOT, made_once

SCRIPT = ROOT / "action" / "verify.sh"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
# Answers a question for comments with those of EARLIER, and keeps every other call and the text that it posts.
GH = """#!{python}
import json, os, pathlib, sys
args = sys.argv[1:]
if os.environ.get("FAILS") == ("GET" if "--paginate" in args else "POST"):
    sys.exit("HTTP 403: Resource not accessible by integration")
if "--paginate" in args:
    print(os.environ.get("EARLIER", ""))
else:
    (field,) = [each for each in args if each.startswith("body=@")]
    body = pathlib.Path(field.removeprefix("body=@")).read_text()
    log = pathlib.Path(os.environ["POSTED"])
    log.write_text(json.dumps({{"args": args, "body": body, "token": os.environ.get("GH_TOKEN")}}))
"""
REPLICATED: dict[str, Any] = {
    "verdict": "replicated",
    "why": "",
    "says": "replicated",
    "machine": {"chip": "x", "os": "y", "mlx": None},
    "training_seconds": None,
    "pairs": [],
    "claim": "0" * 64,
}
# `uv run autoresearch`; `uv tool install` into the folder that `uv tool dir --bin` prints.
UV = """#!/bin/sh
bin=$(dirname "$0")
case "$1 $2 $3" in
"tool install --quiet")
    echo "$5" > "$bin/../installed"
    printf '#!/bin/sh\\nenv > "$SEEN"\\nexec {python} -m agent "$@"\\n' > "$bin/autoresearch"
    chmod +x "$bin/autoresearch"
    exit;;
"tool dir --bin") echo "$bin"; exit;;
esac
shift 2
env > "$SEEN"
exec {python} -m agent "$@"
"""


class Job:
    """A job of the host: its variables, its files, and the programs that it finds."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder, self.checkout = folder, checkout
        for name in ("bin", "temp"):
            (folder / name).mkdir(parents=True)
        for name, text in (("gh", GH), ("uv", UV)):
            (folder / "bin" / name).write_text(text.format(python=sys.executable))
            (folder / "bin" / name).chmod(0o755)

    def step(self, name: str, **env: str) -> subprocess.CompletedProcess[str]:
        around = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_REPOSITORY": "owner/name",
            "POSTED": str(self.folder / "posted.json"),
            "SEEN": str(self.folder / "seen.env"),
        }
        return subprocess.run(
            ["bash", str(SCRIPT), name],
            cwd=self.checkout,
            env={**os.environ, **around, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def posted(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "posted.json").read_text())
        return found


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    published = made_once(tmp_path_factory, "claimed", make_claimed)
    checkout = fresh_clone(published / "author", tmp_path / "checkout")
    shutil.copytree(published / "claim", checkout / "claim")
    return Job(tmp_path / "job", checkout)


def test_replicated_claim_is_commented(job: Job) -> None:
    done = job.step("verify", CLAIM="claim", SEEDS="4")
    assert done.returncode == 0, done.stderr
    assert "GH_TOKEN" not in (job.folder / "seen.env").read_text()
    done = job.step("comment", GH_TOKEN="secret", PULL_REQUEST="7")
    assert done.returncode == 0, done.stderr
    posted = job.posted()
    assert posted["args"][:4] == ["api", "--method", "POST", "repos/owner/name/issues/7/comments"]
    mark, first, *rest = posted["body"].splitlines()
    assert mark == "<!-- autoresearch verify -->"
    assert first.startswith("**replicated: ")
    assert " % better, 95 % interval " in first
    assert "pairs of runs of 300 s, on `" in rest[1]
    assert (job.folder / "summary.md").read_text() == posted["body"]


def test_a_repository_of_its_own_takes_the_program_of_the_action(job: Job) -> None:
    done = job.step("verify", CLAIM="claim", SEEDS="4")
    assert done.returncode == 0, done.stderr
    assert Path((job.folder / "installed").read_text().strip()).resolve() == ROOT


def test_a_clone_of_autoresearch_takes_its_own_program(job: Job) -> None:
    (job.checkout / "pyproject.toml").write_text('[project]\nname = "autoresearch"\n')
    job.step("verify", CLAIM="claim", SEEDS="4")
    assert not (job.folder / "installed").exists()
    assert "RUNNER_TEMP" in (job.folder / "seen.env").read_text()


def test_earlier_comment_is_replaced(job: Job) -> None:
    job.step("verify", CLAIM="claim", SEEDS="4")
    done = job.step("comment", GH_TOKEN="secret", PULL_REQUEST="7", EARLIER="11\n12")
    assert done.returncode == 0, done.stderr
    assert job.posted()["args"][:4] == ["api", "--method", "PATCH", "repos/owner/name/issues/comments/12"]


def test_false_claim_fails_the_job_and_is_commented(job: Job) -> None:
    edit(job.checkout / "claim", lambda content: content["confirmation"].update(gain=0.9))
    assert job.step("verify", CLAIM="claim", SEEDS="4").returncode == 1
    assert job.step("comment", GH_TOKEN="secret", PULL_REQUEST="7").returncode == 0
    assert "its gain of 0.900000 does not follow from its runs" in job.posted()["body"]


def test_texts_of_strangers_stay_quoted(job: Job) -> None:
    data = {**REPLICATED, "verdict": "not replicated", "why": "its run failed: ```\n@everyone <img src=x>"}
    result = job.folder / "temp" / "autoresearch-verify.json"
    result.write_text(json.dumps({"status": "ok", "data": data}))
    assert job.step("comment", PULL_REQUEST="7").returncode == 0
    assert "```\nits run failed: ''' @everyone <img src=x>\n```" in job.posted()["body"]


def test_job_without_pull_request_or_result_comments_nowhere(job: Job) -> None:
    assert job.step("comment", PULL_REQUEST="").returncode == 0
    assert "could not be verified" in (job.folder / "summary.md").read_text()
    assert not (job.folder / "posted.json").exists()


def test_claim_that_looks_like_a_flag_is_a_path(job: Job) -> None:
    done = job.step("verify", CLAIM="--help", SEEDS="4")
    assert done.returncode == 2
    assert "--help is not a claim" in done.stderr


@pytest.mark.parametrize("fails", ["GET", "POST"])
def test_comment_that_is_refused_fails_no_job(job: Job, fails: str) -> None:
    """The token of a pull request from a fork may not comment."""
    result = job.folder / "temp" / "autoresearch-verify.json"
    result.write_text(json.dumps({"status": "ok", "data": REPLICATED}))
    done = job.step("comment", PULL_REQUEST="7", FAILS=fails)
    assert done.returncode == 0, done.stderr
    assert ("::warning::cannot comment on pull request 7" in done.stdout) == (fails == "POST")
    summary = (job.folder / "summary.md").read_text()
    assert "on `x, y`. Claim" in summary
    assert (job.folder / "posted.json").exists() == (fails == "GET")


@pytest.mark.quick
def test_shell_of_action_has_no_expressions() -> None:
    runs = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert runs
    assert not [run for run in runs if "${{" in run]
    assert "${{" not in SCRIPT.read_text()
