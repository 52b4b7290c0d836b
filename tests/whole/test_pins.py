"""Every package is pinned in pyproject.toml, so that uv.lock (which is not committed) is the same everywhere."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_constraints_name_every_package_of_the_lock_with_its_version() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {f"{p['name']}=={p['version']}" for p in lock["package"] if p["name"] != PROJECT["project"]["name"]}
    assert set(PROJECT["tool"]["uv"]["constraint-dependencies"]) == locked


def test_the_build_back_end_is_pinned() -> None:
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", name) for name in PROJECT["build-system"]["requires"])


def test_the_lock_is_not_committed() -> None:
    ignored = subprocess.run(["git", "check-ignore", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.strip() == "uv.lock"
    tracked = subprocess.run(["git", "ls-files", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tracked.stdout == ""


def test_no_tracked_file_names_a_registry() -> None:
    """Addresses of registries differ between places, and must not be committed."""
    pattern = r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|npmjs\.com"
    found = subprocess.run(["git", "grep", "-nIE", pattern], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == ""
