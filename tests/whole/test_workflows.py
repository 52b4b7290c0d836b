"""What the repository's host reads: workflows, the action, issue forms, and the versions of hooks before a commit."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(each.split("==") for each in PROJECT["tool"]["uv"]["constraint-dependencies"])


def check(schema: str, *paths: Path) -> None:
    """Validate files against a schema that the package check-jsonschema comes with."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_match_their_schema() -> None:
    check("github-workflows", *WORKFLOWS)
    check("github-actions", ACTION)


def test_issue_forms_match_their_schema() -> None:
    check("github-issue-forms", *FORMS)
    check("github-issue-config", ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")


def test_bug_report_asks_for_doctor() -> None:
    fields = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())["body"]
    (doctor,) = [each for each in fields if each["id"] == "doctor"]
    assert "autoresearch doctor --json" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def test_workflows_are_safe() -> None:
    command = ["zizmor", "--offline", "--no-progress", *map(str, [*WORKFLOWS, ACTION])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


def test_gate_runs_on_linux_and_macos() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    gates = [job["runs-on"] for job in jobs.values() if {"run": ".ci/run"} in job["steps"]]
    assert [name.partition("-")[0] for name in gates] == ["ubuntu", "macos"]


def test_release_builds_with_pinned_uv() -> None:
    (version,) = re.findall(r'UV_VERSION: "([\d.]+)"', (ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert PROJECT["build-system"]["requires"] == [f"uv_build=={version}"]
    assert re.findall(r'UV_VERSION: "([\d.]+)"', ACTION.read_text()) == [version]


def test_hooks_have_versions_of_pyproject() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    found = {Path(each["repo"]).name.removesuffix("-pre-commit"): each["rev"] for each in hooks}
    assert found == {name: f"v{PINS[name]}" for name in ("ruff", "typos")}
