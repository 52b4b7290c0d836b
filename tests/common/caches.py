"""Start the harness like a user, on separate caches, and inspect what it leaves there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.common.workspaces import ROOT

T = 256  # tokens in a row of the profile cpu


def run(cache: Path, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "prepare.py"), *args],
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(cache: Path, *args: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "prepare.py"), *args],
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), "NO_PROXY": "127.0.0.1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(cache: Path, code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "AUTORESEARCH_CACHE": str(cache), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def current(cache: Path) -> Path:
    return cache / "snapshots" / (cache / "current").read_text()


def record(cache: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((current(cache) / "snapshot.json").read_bytes())
    return content
